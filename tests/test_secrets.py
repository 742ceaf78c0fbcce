"""The key goes to the service's own origin and nowhere else: no host, log, repr or traceback.

`conftest.py` looks through everything that is logged in every test of the suite.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from conftest import KEYS
from routes import ROUTES
from support import png, posters

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import MockTransport, json_response, run

KEY = "a-key"
LONE = {name: route for name, route in ROUTES.items() if not name.startswith("submit")}
PATIENCE = rh.RetryPolicy(attempts=1, call_attempts=1)


def shown(error: BaseException) -> str:
    """All that a program could show of an error."""
    lines = traceback.format_exception(error)
    return "".join(lines) + repr(error) + str(vars(error)) + repr(getattr(error, "response", ""))


@contextlib.asynccontextmanager
async def host(
    answer: Callable[[web.BaseRequest], web.StreamResponse], address: str = "127.0.0.1"
) -> AsyncIterator[tuple[str, list[str]]]:
    """A host that answers everything alike; its URL, and all it was sent."""
    sent: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        sent.append(f"{request.method} {request.raw_path} {dict(request.headers)} {body[:4096]!r}")
        return answer(request)

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, address, 0).start()
    try:
        yield f"http://{address}:{runner.addresses[0][1]}", sent
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def noise(answer: bytes) -> AsyncIterator[str]:
    """A host that does not even speak HTTP."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(65536)
        writer.write(answer)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def error_of(url: str, route: str) -> BaseException | None:
    async with rh.Session(KEY, base_url=url, retry=PATIENCE) as session:
        assert KEY not in repr(session) + repr(vars(session))
        try:
            await asyncio.wait_for(ROUTES[route](session), 20)
        except rh.RunningHubError as error:
            return error
    return None


@pytest.mark.parametrize("route", ROUTES)
def test_no_redirect_is_followed(route: str) -> None:
    """To another host, 127.0.0.2: it is never asked, with or without the key."""

    async def main() -> None:
        async with (
            host(lambda _: web.Response(), "127.0.0.2") as (foreign, sent),
            host(
                lambda r: web.Response(status=307, headers={"Location": foreign + r.raw_path})
            ) as (
                url,
                _,
            ),
        ):
            error = await error_of(url, route)
            assert error is not None or route == "comfyui"
            assert sent == []
            if error is not None:
                assert KEY not in shown(error)

    asyncio.run(main())


@pytest.mark.parametrize("answer", [b"", b"HTTP/9 no\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n\xff",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"])  # fmt: skip
@pytest.mark.parametrize("route", ["query", "app", "account", "comfyui", "upload", "old_upload"])
def test_no_error_shows_the_key(route: str, answer: bytes) -> None:
    """Whatever goes wrong, also for the calls that have it in their address or body."""

    async def main() -> None:
        async with noise(answer) as url:
            error = await error_of(url, route)
            assert error is None or KEY not in shown(error)

    asyncio.run(main())


def test_a_connection_that_is_never_made_does_not_show_the_key() -> None:
    """The network library names the whole address when connecting takes too long."""

    async def main() -> BaseException:
        with socket.socket() as full:
            full.bind(("127.0.0.1", 0))
            full.listen(0)
            address = full.getsockname()
            queue = [socket.socket() for _ in range(4)]
            for each in queue:
                each.setblocking(False)
                each.connect_ex(address)
            transport = rh.AiohttpTransport(connect_timeout=0.3)
            url = f"http://127.0.0.1:{address[1]}"
            async with rh.Session(
                KEY, base_url=url, transport=transport, retry=PATIENCE
            ) as session:
                with pytest.raises(rh.ConnectError) as caught:
                    await session.apps.get("5")
            for each in queue:
                each.close()
            return caught.value

    error = asyncio.run(main())
    assert KEY not in shown(error)
    assert error.__cause__ is None


def test_no_value_shows_the_key() -> None:
    """Requests, as a `MockTransport` keeps them: neither header, body nor address."""
    transport = MockTransport(lambda _: json_response({"code": 301, "msg": "PARAMS_INVALID"}))

    async def main() -> None:
        async with rh.Session(KEY, transport=transport) as session:
            for route in ROUTES.values():
                with contextlib.suppress(rh.RunningHubError):
                    await route(session)

    run(main)
    sent = "".join(f"{r.url} {r.headers} {r.body!r}" for r in transport.requests)
    assert sent.count(KEY) > len(ROUTES)
    assert KEY not in repr(transport.requests)


def test_results_uploads_and_sockets_get_no_key(tmp_path: Path) -> None:
    """Of all that the emulator was asked, only calls of the API carry it, and only as documented:
    in the header, in the body of the older calls, in the query of one and the path of the proxy."""
    lora = tmp_path / "style.safetensors"
    lora.write_bytes(b"weights")

    async def main() -> None:
        async with (
            Emulator(duration=1.0) as emulator,
            rh.Session(KEY, base_url=emulator.url) as session,
        ):
            task = await session.submit(rh.WorkflowRequest("1904136902449209346"))
            assert [event async for event in session.progress(task)]
            task = await session.wait(task.id)
            await session.download(task.outputs[0], tmp_path / "x.png")
            await session.upload_lora(lora)
            upload = await session.upload(png())
            await session.download(rh.Output(upload.url), tmp_path / "y")
            assert await session.comfyui.reachable()
            for name, route in LONE.items():
                with contextlib.suppress(rh.APIError):
                    await asyncio.wait_for(route(session), 20)
                assert emulator.requests, name
            strangers = [
                request
                for request in emulator.requests
                if not request.target.startswith(("/openapi/", "/task/", "/api/", "/uc/", "/proxy"))
            ]
            assert len(strangers) >= 4
            assert KEY not in str(strangers)
            addressed = [request for request in emulator.requests if KEY in request.target]
            assert {r.target.partition("?")[0].split("/")[1] for r in addressed} == {"api", "proxy"}

    asyncio.run(main())


def test_the_search_through_the_logs_can_fail() -> None:
    """A logged key is found, in a message, its arguments and a traceback."""
    from conftest import leaks

    for args in ((f"key {KEY}",), ("key %s", KEY), ("%r", {"Authorization": f"Bearer {KEY}"})):
        record = logging.LogRecord("x", logging.DEBUG, "", 0, args[0], args[1:], None)
        assert leaks(record)
    try:
        raise ValueError(KEY)  # noqa: TRY301
    except ValueError as error:
        info: Any = (ValueError, error, error.__traceback__)
        assert leaks(logging.LogRecord("x", logging.DEBUG, "", 0, "", (), info))
    assert not leaks(logging.LogRecord("x", logging.DEBUG, "", 0, "a %s", ("boat",), None))
    assert KEY in KEYS


def test_a_faulty_service_shows_no_key_in_the_logs() -> None:
    """A stream through refusals, resets, garbage and failed tasks, with everything logged."""
    faults = [
        Fault(on="submit", kind="refuse", code="421", share=0.2),
        Fault(on="submit", kind="reset", share=0.1),
        Fault(on="submit", kind="garbage", share=0.1),
        Fault(on="query", kind="status", share=0.2),
        Fault(on="query", kind="half", share=0.1),
        Fault(on="task", kind="fail", code="1501", share=0.2),
    ]
    polling = rh.ExponentialPolling(initial=0.02, maximum=0.02)
    retry = rh.RetryPolicy(wait_initial=0.01, query_wait_max=0.05)

    async def main() -> None:
        async with (
            Emulator(duration=0.05, faults=faults) as emulator,
            rh.Session(
                KEY, base_url=emulator.url, polling=polling, retry=retry,
                limits=rh.Limits(50, None, None),
            ) as session,
        ):  # fmt: skip
            outcomes = [outcome async for outcome in session.stream(posters(60))]
            failed = [o.error for o in outcomes if not isinstance(o, rh.Succeeded)]
            assert len(outcomes) == 60
            assert failed
            assert KEY not in repr(outcomes) + "".join(map(shown, failed))

    asyncio.run(main())
