"""Results into files: whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import MockTransport, run

PNG = b"\x89PNG\r\n\x1a\n" + b"rest of the picture" * 100
POSTER = rh.SeedreamV5Lite("a poster of a paper boat", 1600, 1344)
FAST: dict[str, Any] = {
    "polling": rh.ExponentialPolling(0.01, 1, 0.01),
    "retry": rh.RetryPolicy(wait_initial=0.01, wait_max=0.02),
}


def fetch(tmp_path: Path, handle: Any, output: rh.Output | None = None, **options: Any) -> Any:
    """Download from a transport that answers by `handle`."""
    transport = MockTransport(handle)

    async def main() -> rh.Download:
        async with rh.Session("a-key", transport=transport) as session:
            return await session.download(
                output or rh.Output("https://results.example/x.png?sign=a%2Fb", "png"),
                tmp_path / "poster.png",
                **options,
            )

    return run(main), transport


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_result_is_stored_whole_with_its_hash(tmp_path: Path) -> None:
    """Size, SHA-256 and type; the signed query goes out as it came; no key goes along."""
    download, transport = fetch(tmp_path, lambda _: rh.Response(200, PNG))
    assert (tmp_path / "poster.png").read_bytes() == PNG
    assert download == rh.Download(
        tmp_path / "poster.png", len(PNG), hashlib.sha256(PNG).hexdigest(), "png"
    )
    (request,) = transport.requests
    assert request.url == "https://results.example/x.png?sign=a%2Fb"
    assert not request.headers
    assert files(tmp_path) == ["poster.png"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (rh.Response(200, b"<html>"), "not an image although announced as png"),
        (rh.Response(200, b""), "the result is empty"),
        (rh.Response(200, PNG[:500], {"content-length": "1000"}), "500 of 1000 bytes"),
        (rh.Response(200, PNG, {"content-length": "999999"}), "more than the 5000 allowed"),
        (rh.Response(200, PNG * 9), "more than 5000 bytes"),
        (rh.Response(404), "HTTP 404"),
        (rh.Response(403), "expired"),
        (rh.Response(418), "HTTP 418"),
        (rh.Response(503), "HTTP 503"),
        (rh.Response(302, b"", {"location": "/x.png"}), "more than 5 redirects"),
        (rh.Response(302, b"", {"location": "http://results.example/x"}), "lesser scheme"),
        (rh.Response(302, b"", {"location": "file:///etc/passwd"}), "lesser scheme"),
    ],
)
def test_what_is_not_whole_leaves_nothing_behind(
    tmp_path: Path, answer: rh.Response, told: str
) -> None:
    """A DownloadError that says why; an older file of the name stays as it was."""
    (tmp_path / "poster.png").write_bytes(b"older")
    with pytest.raises(rh.DownloadError, match=told):
        fetch(tmp_path, lambda _: answer, max_bytes=5000)
    assert files(tmp_path) == ["poster.png"]
    assert (tmp_path / "poster.png").read_bytes() == b"older"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "javascript:1", "https://"])
def test_only_http_is_fetched(tmp_path: Path, url: str) -> None:
    """Whatever the service names; nothing is asked for."""
    with pytest.raises(rh.DownloadError, match=r"not http"):
        fetch(tmp_path, lambda _: pytest.fail("asked"), rh.Output(url, "png"))
    with pytest.raises(rh.DownloadError, match="it is a text"):
        fetch(tmp_path, lambda _: pytest.fail("asked"), rh.Output(None, "txt", "a text"))


def test_what_falters_is_tried_again(tmp_path: Path) -> None:
    """503, a reset, half a body, then the picture."""
    answers: list[Any] = [
        rh.Response(503),
        rh.ReadError("reset"),
        rh.Response(200, PNG[:9], {"content-length": "1000"}),
        rh.Response(200, PNG),
    ]

    def handle(_: rh.Request) -> rh.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, rh.Response)
        return answer

    fetch(tmp_path, handle)
    assert answers == []
    assert files(tmp_path) == ["poster.png"]


def test_an_expired_url_is_asked_for_again_once(tmp_path: Path) -> None:
    """The task id in the output leads to a fresh URL; without one the error stands."""

    def handle(request: rh.Request) -> rh.Response:
        if request.url.endswith("/query"):
            return rh.Response(
                200,
                b'{"status": "SUCCESS", "results": [{"url": "https://fresh.example/y.png",'
                b' "outputType": "png"}]}',
            )
        return rh.Response(200, PNG) if "fresh" in request.url else rh.Response(403)

    output = rh.Output("https://old.example/x.png", "png", task_id="7")
    _, transport = fetch(tmp_path, handle, output)
    assert [r.url.split("/")[2] for r in transport.requests] == [
        "old.example",
        "www.runninghub.ai",
        "fresh.example",
    ]


# -- over real HTTP ---------------------------------------------------------------------------


@asynccontextmanager
async def server(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def test_no_key_reaches_the_results_host_not_even_by_redirect(tmp_path: Path) -> None:
    """Two hosts, one redirect: neither sees an Authorization header."""
    seen: list[str | None] = []

    async def last(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=PNG)

    async def main() -> None:
        async with server(last) as end:

            async def first(request: web.BaseRequest) -> web.StreamResponse:
                seen.append(request.headers.get("Authorization"))
                return web.Response(status=302, headers={"Location": f"{end}/moved.png"})

            async with server(first) as start, rh.Session("a-key", base_url=start) as session:
                output = rh.Output(f"{start}/x.png", "png")
                await session.download(output, tmp_path / "poster.png")

    asyncio.run(main())
    assert seen == [None, None]


def test_an_endless_body_is_cut_off(tmp_path: Path) -> None:
    """No Content-Length, no end: the bound holds and nothing is left behind."""
    sent = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(PNG * 50)
            sent += len(PNG) * 50

    async def main() -> None:
        async with server(endless) as url, rh.Session("k", base_url=url) as session:
            with pytest.raises(rh.DownloadError, match="more than 3000000 bytes"):
                output = rh.Output(f"{url}/x.png", "png")
                await session.download(output, tmp_path / "x.png", max_bytes=3_000_000)

    asyncio.run(main())
    assert files(tmp_path) == []
    assert sent < 60_000_000


def test_an_endless_answer_of_the_api_is_cut_off() -> None:
    """A submit answered without end is a submit of unknown fate, not a full memory."""

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b" " * 2**16)

    async def main() -> None:
        async with server(endless) as url, rh.Session("k", base_url=url) as session:
            with pytest.raises(rh.SubmitUnknown, match="longer than"):
                await session.submit(POSTER)

    asyncio.run(main())


def test_redirects_of_the_api_are_not_followed() -> None:
    """The key would go along; the answer is an error instead."""

    async def elsewhere(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/steal"})

    async def main() -> None:
        async with server(elsewhere) as url, rh.Session("k", base_url=url) as session:
            with pytest.raises(rh.ProtocolError, match="HTTP 307"):
                await session.query("7")

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["half", "reset", "drop", "status", "garbage"])
def test_the_emulators_faults_on_results_are_lived_through(tmp_path: Path, kind: Any) -> None:
    """Twice in trouble, then whole; garbage is told, not stored."""

    async def main() -> None:
        faults = [Fault(on="result", kind=kind, times=2)]
        async with (
            Emulator(duration=0, faults=faults) as emulator,
            rh.Session("k", base_url=emulator.url, **FAST) as session,
        ):
            (output,) = (await session.run(POSTER)).outputs
            if kind == "garbage":
                with pytest.raises(rh.DownloadError, match="not an image"):
                    await session.download(output, tmp_path / "x.png")
                return
            download = await session.download(output, tmp_path / "x.png")
            assert download.image_type == "png"
            assert emulator.stats.downloads == 3

    asyncio.run(main())
    assert files(tmp_path) == ([] if kind == "garbage" else ["x.png"])


def test_cancelling_a_download_leaves_nothing(tmp_path: Path) -> None:
    """Neither a part nor a warning."""

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "99999999"})
        await answer.prepare(request)
        await answer.write(PNG)
        started.set()
        await asyncio.sleep(60)
        return answer

    started = asyncio.Event()

    async def main() -> None:
        async with server(slow) as url, rh.Session("k", base_url=url) as session:
            output = rh.Output(f"{url}/x.png", "png")
            task = asyncio.ensure_future(session.download(output, tmp_path / "x.png"))
            await started.wait()
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())
    assert files(tmp_path) == []
