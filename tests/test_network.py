"""Before and after a request leaves: what was certainly not sent, and what has arrived."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import logging
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from rawserver import Asked, http, raw_server
from support import FIRST_ID, png

import runninghub_async as rh

POSTERS = [rh.SeedreamV5Lite(f"a poster of the number {n}") for n in range(8)]
QUICK = rh.ExponentialPolling(0.02, 1.2, 0.1)
SOON = rh.RetryPolicy(attempts=3, wait_initial=0.02, wait_max=0.1)
OPEN = rh.Limits(8, None, None)


def session(url: str, transport: rh.AiohttpTransport | None = None, **options: Any) -> rh.Session:
    options = {"polling": QUICK, "retry": SOON, "limits": OPEN, **options}
    return rh.Session("a-key", base_url=url, transport=transport, **options)


def service() -> Any:
    """Answers like the service: every task succeeds at once."""
    ids = itertools.count(FIRST_ID)

    async def answer(asked: Asked) -> bytes:
        if asked.target.endswith("/query"):
            task_id = asked.fields["taskId"]
            results = [{"url": f"http://{asked.headers['host']}/files/x.png", "outputType": "png"}]
            return http({"taskId": task_id, "status": "SUCCESS", "results": results})
        if asked.target.endswith("/files/x.png"):
            return http(png(), headers={"Content-Type": "image/png"})
        return http({"taskId": str(next(ids)), "status": "RUNNING"})

    return answer


async def outcomes_of(session: rh.Session, count: int = 2) -> tuple[list[rh.Outcome], Any]:
    found: list[rh.Outcome] = []
    try:
        async with session as opened:
            async for outcome in opened.stream(POSTERS[:count]):
                found.append(outcome)
    except rh.RunningHubError as error:
        return found, error
    return found, None


# -- before -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "HTTP 407"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "HTTP 503"),
        (b"nonsense\r\n\r\n", ""),
        (None, ""),
        (b"", "within 0.5 s"),
    ],
)
def test_a_proxy_that_gives_no_way_through_is_no_lost_response(
    answer: bytes | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused, unreadable, closed or silent at CONNECT: the submit never left."""

    async def main() -> None:
        never = asyncio.Event()

        async def at_connect(asked: Asked) -> bytes | None:
            assert asked.method == "CONNECT"
            if answer == b"":
                await never.wait()
            return answer

        async with raw_server(at_connect) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            transport = rh.AiohttpTransport(connect_timeout=0.5)
            found, error = await outcomes_of(session("https://www.runninghub.ai", transport))
        assert found == []
        assert isinstance(error, rh.ConnectError)
        assert words in str(error)

    asyncio.run(main())


def test_results_and_calls_go_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submits, queries and results, with the credentials in its address; NO_PROXY is honoured."""

    async def main() -> None:
        async with raw_server(service()) as proxy:
            monkeypatch.setenv("http_proxy", f"http://me:secret-word@127.0.0.1:{proxy.port}")
            async with session("http://api.example") as opened:
                task = await opened.run(POSTERS[0])
                await opened.download(task.outputs[0], tmp_path / "x.png")
            assert {asked.target for asked in proxy.asked} == {
                "http://api.example/openapi/v2/seedream-v5-lite/text-to-image",
                "http://api.example/openapi/v2/query",
                "http://api.example/files/x.png",
            }
            assert all("proxy-authorization" in asked.headers for asked in proxy.asked)
            proxy.asked.clear()
            async with raw_server(service()) as direct:
                monkeypatch.setenv("no_proxy", "127.0.0.1")
                async with session(direct.url) as opened:
                    await opened.run(POSTERS[0])
            assert proxy.asked == []

    asyncio.run(main())


def test_a_proxy_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SOCKS proxy in the environment: an error that says so, and nothing sent past it."""
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1080")
    found, error = asyncio.run(outcomes_of(session("http://127.0.0.1:9")))
    assert found == []
    assert isinstance(error, rh.ConnectError)
    assert "socks5" in str(error)
    assert "NO_PROXY" in str(error)


def test_a_proxy_that_is_no_address_is_not_passed_by(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves without it; its text, which may hold a password, is not shown."""

    async def main() -> tuple[list[rh.Outcome], Any]:
        async with raw_server(service()) as server:
            monkeypatch.setenv("http_proxy", "http://me:secret-word@[broken")
            ends = await outcomes_of(session(server.url))
            assert server.asked == []
            return ends

    found, error = asyncio.run(main())
    assert found == []
    assert isinstance(error, rh.ConnectError)
    assert "is not a URL" in str(error)
    assert "secret-word" not in str(error)


def test_a_transport_that_was_closed_sends_nothing() -> None:
    """An error that says so, of the kind of those before a request leaves."""

    async def main() -> None:
        async with raw_server(service()) as server:
            transport = rh.AiohttpTransport()
            await transport.aclose()
            with pytest.raises(rh.ConnectError, match="transport is closed"):
                await transport.send(rh.Request("GET", server.url))
            assert server.asked == []

    asyncio.run(main())


def test_a_name_that_takes_long_is_no_lost_response(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name server answers after the connect time-out: the submit never left."""
    usual = socket.getaddrinfo
    answered = threading.Event()

    def slow(host: Any, *args: Any, **options: Any) -> Any:
        if host == "slow.example":
            answered.wait(20)
            host = "127.0.0.1"
        return usual(host, *args, **options)

    async def main() -> None:
        async with raw_server(service()) as server:
            transport = rh.AiohttpTransport(connect_timeout=0.3)
            found, error = await outcomes_of(
                session(f"http://slow.example:{server.port}", transport)
            )
            answered.set()
            assert found == []
            assert isinstance(error, rh.ConnectError)
            assert server.connections == 0

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    asyncio.run(main())


_ENDS_DURING_A_LOOK_UP = """
    import asyncio, socket, sys, threading
    import runninghub_async as rh

    def hang(*_, **__):
        if FOREVER:
            threading.Event().wait()
        left.wait()
        return []

    async def main():
        transport = rh.AiohttpTransport(connect_timeout=0.2, trust_env=False)
        try:
            await transport.send(rh.Request("GET", "http://hangs.example/"))
        except rh.ConnectError as error:
            print(error)
        await transport.aclose()

    FOREVER, left = sys.argv[1] == "forever", threading.Event()
    socket.getaddrinfo = hang
    asyncio.run(main())
    left.set()
    for thread in threading.enumerate():
        if not FOREVER and thread is not threading.main_thread():
            thread.join()
"""


@pytest.mark.parametrize("ends", ["forever", "later"])
def test_a_name_server_that_hangs_does_not_hold_up_the_end_of_the_program(ends: str) -> None:
    """Nor does a look-up print anything when it ends after the loop was closed."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_ENDS_DURING_A_LOOK_UP), ends],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "no connection within 0.2 s" in done.stdout
    assert done.stderr == ""


def test_threads_of_the_application_do_not_hold_up_names(tmp_path: Path) -> None:
    """The loop's default executor is full: names are resolved and files written all the same."""
    release = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        held = [loop.run_in_executor(None, release.wait, 60) for _ in range(64)]
        try:
            async with (
                raw_server(service()) as server,
                session(f"http://localhost:{server.port}") as opened,
            ):
                async for outcome in opened.stream(POSTERS[:2], folder=tmp_path):
                    assert isinstance(outcome, rh.Succeeded)
                    assert outcome.files
        finally:
            release.set()
            await asyncio.wait(held)

    asyncio.run(main())


def test_uploads_do_not_take_the_connections_of_submits() -> None:
    """All connections for uploads are held by a host that does not answer: submits leave."""

    async def main() -> None:
        usual, never = service(), asyncio.Event()
        begun = asyncio.Semaphore(0)

        async def answer(asked: Asked) -> bytes | None:
            if "upload" in asked.target:
                begun.release()
                await never.wait()
            data: bytes = await usual(asked)
            return data

        big = b"\x89PNG\r\n\x1a\n" + bytes(2**20)
        async with raw_server(answer) as server:
            transport = rh.AiohttpTransport(connect_timeout=0.5, connections=4)
            async with session(server.url, transport) as opened:
                uploads = [
                    asyncio.ensure_future(opened.upload(big + bytes([n]), name=f"{n}.png"))
                    for n in range(4)
                ]
                for _ in uploads:
                    await begun.acquire()
                found = [outcome async for outcome in opened.stream(POSTERS[:2])]
                for upload in uploads:
                    upload.cancel()
                await asyncio.gather(*uploads, return_exceptions=True)
        assert all(outcome.ok for outcome in found)

    asyncio.run(main())


# -- after --------------------------------------------------------------------------------------


@contextmanager
def threaded_server(answer: bytes) -> Iterator[tuple[int, threading.Event]]:
    """Answers one request from a thread of its own; the event says that it has."""
    listener = socket.create_server(("127.0.0.1", 0))
    answered = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(answer)
            answered.set()
            connection.recv(65536)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1], answered
    finally:
        listener.close()
        thread.join(10)


def test_an_answer_that_came_while_the_loop_was_blocked_is_read() -> None:
    """The clock runs out while the loop does nothing; what lies in the socket is read first."""

    async def main(port: int, answered: threading.Event) -> None:
        transport = rh.AiohttpTransport()
        request = rh.Request("POST", f"http://127.0.0.1:{port}/", body=b"{}", read_timeout=0.3)
        sending = asyncio.ensure_future(transport.send(request))

        def block() -> None:
            until = time.monotonic() + 1.0
            while time.monotonic() < until or not answered.is_set():
                pass

        asyncio.get_running_loop().call_later(0.05, block)
        response = await sending
        assert response.body == b'{"taskId": "1"}'
        await transport.aclose()

    with threaded_server(http({"taskId": "1"})) as (port, answered):
        asyncio.run(main(port, answered))


def test_silence_after_the_request_left_is_a_time_out() -> None:
    """Nothing comes, or the answer's body is too slow: `ReadTimeout`, with the part that had
    arrived."""

    async def main() -> None:
        never = asyncio.Event()

        async def answer(asked: Asked) -> bytes | None:
            if asked.target == "/drips":
                await asked.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc")
                while not never.is_set():
                    await asked.write(b"d")
                    await asyncio.sleep(0.05)
            await never.wait()
            return None

        transport = rh.AiohttpTransport()
        async with raw_server(answer) as server:
            with pytest.raises(rh.ReadTimeout) as silent:
                await transport.send(rh.Request("POST", f"{server.url}/", read_timeout=0.2))
            with pytest.raises(rh.ReadTimeout) as drips:
                await transport.send(rh.Request("POST", f"{server.url}/drips", read_timeout=0.2))
        await transport.aclose()
        assert silent.value.response is None
        assert drips.value.response is not None
        assert drips.value.response.body.startswith(b"abcd")

    asyncio.run(main())


@pytest.mark.parametrize("cut", [60, 45])
def test_an_id_in_an_answer_that_breaks_off_is_accepted(cut: int) -> None:
    """The connection is closed in the middle of the answer, behind the id: the task is followed."""

    async def main() -> None:
        usual = service()

        async def answer(asked: Asked) -> bytes | None:
            data: bytes = await usual(asked)
            if "text-to-image" in asked.target:
                head, _, body = data.partition(b"\r\n\r\n")
                await asked.write(
                    head.replace(b"Length: ", b"Length: 9") + b"\r\n\r\n" + body[:cut]
                )
                return None
            return data

        async with raw_server(answer) as server, session(server.url) as opened:
            task = await opened.run(POSTERS[0])
        assert task.id == str(FIRST_ID)

    asyncio.run(main())


WRONG_FRAMES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "something behind": lambda head, body: head + body + b"\r\n<!-- served by 7 -->",
    "too short a length": lambda head, body: head.replace(
        b"Length: %d" % len(body), b"Length: %d" % (len(body) - 10)
    )
    + body,
    "two lengths": lambda head, body: head[:-2] + b"Content-Length: 9\r\n\r\n" + body,
    "a header that is none": lambda head, body: head[:-2] + b"no header\r\n\r\n" + body,
    "packed by its header only": lambda head, body: head[:-2]
    + b"Content-Encoding: gzip\r\n\r\n" + body,
}  # fmt: skip


@pytest.mark.parametrize("frame", WRONG_FRAMES)
def test_an_answer_in_a_wrong_frame_is_read_all_the_same(frame: str) -> None:
    """Submit and queries: all that is wrong is what HTTP puts around the JSON."""

    async def main() -> None:
        usual = service()

        async def answer(asked: Asked) -> bytes | None:
            head, _, body = (await usual(asked)).partition(b"\r\n\r\n")
            await asked.write(WRONG_FRAMES[frame](head + b"\r\n\r\n", body))
            return None

        async with raw_server(answer) as server, session(server.url) as opened:
            assert (await opened.run(POSTERS[0])).outputs
            created = [each for each in server.asked if "text-to-image" in each.target]
            assert len(created) == 1

    asyncio.run(main())


def test_a_query_whose_answer_is_never_ended_is_read() -> None:
    """Each answer to a query is longer by its header than it is: what came is the whole JSON."""

    async def main() -> None:
        usual = service()

        async def answer(asked: Asked) -> bytes | None:
            data: bytes = await usual(asked)
            if not asked.target.endswith("/query"):
                return data
            await asked.write(data.replace(b"Length: ", b"Length: 9"))
            return None

        async with raw_server(answer) as server, session(server.url) as opened:
            assert (await opened.run(POSTERS[0])).outputs

    asyncio.run(main())


@pytest.mark.parametrize(
    "odd",
    [
        {"taskId": "ID", "data": {"taskId": "2013508786110799999", "status": "FAILED"}, "code": 0},
        {"code": 805, "msg": "APIKEY_TASK_STATUS_ERROR"},
        {"code": 0, "data": "FAILED"},
        {"code": 0, "data": ["login", "help"]},
    ],
)
def test_what_names_another_task_or_none_does_not_end_one(odd: dict[str, Any]) -> None:
    """An answer in the older form, which has no id, is not one to the newer query."""

    async def main() -> None:
        usual, answers = service(), [odd]

        async def answer(asked: Asked) -> bytes:
            if asked.target.endswith("/query") and answers:
                told = answers.pop()
                if "taskId" in told:
                    told = {**told, "taskId": asked.fields["taskId"]}
                return http(told)
            data: bytes = await usual(asked)
            return data

        async with raw_server(answer) as server, session(server.url) as opened:
            assert (await opened.run(POSTERS[0])).outputs

    asyncio.run(main())


@pytest.mark.parametrize("status", [500, 502])
def test_an_id_is_found_beside_a_server_error(status: int) -> None:
    """JSON without a code of its own, and with the id deep within: the task is accepted."""

    async def main() -> None:
        async def answer(asked: Asked) -> bytes:
            del asked
            return http({"result": {"taskId": str(FIRST_ID)}, "error": "time-out"}, status)

        async with raw_server(answer) as server, session(server.url) as opened:
            assert (await opened.submit(POSTERS[0])).id == str(FIRST_ID)

    asyncio.run(main())


def test_an_id_that_is_cut_off_is_another_one() -> None:
    """The connection closes within the id: the submit is unknown, no wrong id is followed."""

    async def main() -> None:
        async def answer(asked: Asked) -> bytes | None:
            await asked.write(
                b'HTTP/1.1 200 OK\r\nContent-Length: 90\r\n\r\n{"taskId":"20135087861'
            )
            return None

        async with raw_server(answer) as server, session(server.url) as opened:
            with pytest.raises(rh.SubmitUnknown):
                await opened.submit(POSTERS[0])

    asyncio.run(main())


def test_an_id_that_is_quoted_from_the_request_is_not_the_answer_to_it() -> None:
    """A page of a gateway that shows what was asked: the submit is unknown."""

    async def main() -> None:
        async def answer(asked: Asked) -> bytes:
            return http(b"<html>refused: " + asked.body + b"</html>", 502)

        request = rh.ModelRequest(
            "new/text-to-image", {"prompt": "p", "taskId": "2013508786110730241"}, checked=False
        )
        async with raw_server(answer) as server, session(server.url) as opened:
            with pytest.raises(rh.SubmitUnknown, match="quotes"):
                await opened.submit(request)

    asyncio.run(main())


@pytest.mark.parametrize(
    "pause", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "soon", "-5", "nan", "1e999"]
)
def test_an_odd_pause_that_is_asked_for_ends_nothing(pause: str) -> None:
    """A `Retry-After` that is no time is passed over."""

    async def main() -> None:
        usual, first = service(), [True]

        async def answer(asked: Asked) -> bytes:
            if first:
                first.clear()
                return http(b"slow down", 429, {"Retry-After": pause, "Date": "today"})
            data: bytes = await usual(asked)
            return data

        policy = rh.RetryPolicy(wait_initial=0.02, wait_max=0.1, retry_after_max=0.1)
        async with raw_server(answer) as server, session(server.url, retry=policy) as opened:
            assert (await opened.run(POSTERS[0])).outputs

    asyncio.run(main())


BAD = {
    "cut UTF-8": b"\xe6\x8f\x90\xe7\xa4",
    "GBK": "提示".encode("gbk"),
    "GBK with a backslash": "乗".encode("gbk") + "誠".encode("gbk") + b"\x81\x5c",
    "line break": b"one\ntwo",
    "control character": b"a\x01b",
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("around", ["%s", "\ufeff%s", ")]}',\n%s", "%s\n<!-- served by 7 -->"])
def test_one_odd_byte_loses_no_answer(bad: str, around: str) -> None:
    """In a message that nobody needs, before or after the JSON: the fields that count are read."""

    async def main() -> None:
        usual = service()

        async def answer(asked: Asked) -> bytes:
            data: bytes = await usual(asked)
            body = data.partition(b"\r\n\r\n")[2]
            body = body[:-1] + b', "errorMessage": "' + BAD[bad] + b'"}'
            return http(around.encode().replace(b"%s", body))

        async with raw_server(answer) as server, session(server.url) as opened:
            task = await opened.run(POSTERS[0])
        assert task.outputs

    asyncio.run(main())


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"taskId":"2013508786110730241","errorMessage":"said "twice" "}', True),
        (b'{"data": "{\\"taskId\\": \\"2013508786110730241\\"}", "code": 0}', True),
        (b"{'taskId': '2013508786110730241'}", True),
        (b'{"taskId": 2013508786110730241, "x":', True),
        (b'{"code":0,"data":{"task":{"taskId":"2013508786110730241"}}}', True),
        (b'{"code":0,"data":[{"taskId":"2013508786110730241"}]}', True),
        (b'{"result":{"TaskID":2013508786110730241.0}}', True),
        ('{"taskId":"2013508786110730241"}'.encode("utf-16"), True),
        ('{"taskId":"2013508786110730241"}'.encode("utf-16-be"), True),
        ('{"taskId":"2013508786110730241","'.encode("utf-16-le"), True),
        (b"<pre>{&quot;taskId&quot;: &quot;2013508786110730241&quot;}</pre>", True),
        (b'{"data":[{"taskId":"2013508786110730241"},{"taskId":"2013508786110730242"}]}', False),
        (b'{"taskId": "null", "x":', False),
        (b'{"taskId": "[]"}', False),
        (b'{"taskId": "-1"}', False),
        (b'{"taskId": "N/A"}', False),
        (b'{"taskId": "(null)"}', False),
        (b"<html>2013508786110730241</html>", False),
    ],
)
def test_an_id_is_looked_for_in_an_answer_of_any_form(body: bytes, found: bool) -> None:
    """If it stands under its key; a mere number is not an id, and neither is `null`."""

    async def main() -> None:
        async def answer(asked: Asked) -> bytes:
            del asked
            return http(body)

        async with raw_server(answer) as server, session(server.url) as opened:
            if found:
                assert (await opened.submit(POSTERS[0])).id == "2013508786110730241"
            else:
                with pytest.raises(rh.SubmitUnknown):
                    await opened.submit(POSTERS[0])

    asyncio.run(main())


def test_a_stray_answer_on_a_reused_connection_is_not_taken() -> None:
    """The server sends one answer too many; the next submit does not mistake it for its own."""

    async def main() -> None:
        usual = service()

        async def answer(asked: Asked) -> bytes:
            data: bytes = await usual(asked)
            submits = "text-to-image" in asked.target
            stray = http({"taskId": "2013508786110799999", "status": "RUNNING"})
            return data + stray if submits else data

        async with raw_server(answer) as server:
            async with session(server.url, limits=rh.Limits(1, None, None)) as opened:
                found = [outcome async for outcome in opened.stream(POSTERS)]
        ids = [outcome.task.id for outcome in found if outcome.task is not None]
        assert all(outcome.ok for outcome in found)
        assert sorted(ids) == [str(FIRST_ID + n) for n in range(8)]

    asyncio.run(main())


def test_a_connection_that_is_one_answer_late_is_given_up() -> None:
    """After the first request on it, each gets the answer to the one before: one submit is unknown,
    and no job gets the task of another one."""
    created: dict[str, str] = {}

    async def main() -> list[rh.Outcome]:
        usual, last = service(), [b""]

        async def answer(asked: Asked) -> bytes:
            data: bytes = await usual(asked)
            if "text-to-image" not in asked.target:
                return data
            task_id = json.loads(data.partition(b"\r\n\r\n")[2])["taskId"]
            created[task_id] = asked.fields["prompt"]
            late, last[0] = last[0], data
            return late if asked.before else data

        async with raw_server(answer) as server:
            async with session(server.url, limits=rh.Limits(1, None, None)) as opened:
                return [outcome async for outcome in opened.stream(POSTERS)]

    for outcome in asyncio.run(main()):
        if outcome.task is not None:
            assert created[outcome.task.id] == outcome.request.prompt
        else:
            assert isinstance(outcome, rh.Unknown)
            assert "another job's" in str(outcome.error)


def test_long_headers_do_not_lose_the_answer() -> None:
    """A gateway's policy header of 20 kB is no reason to call a submit unknown."""

    async def main() -> None:
        async def answer(asked: Asked) -> bytes:
            del asked
            policy = {"Content-Security-Policy": "img-src " + "x" * 20_000}
            return http({"taskId": "2013508786110730241"}, headers=policy)

        async with raw_server(answer) as server, session(server.url) as opened:
            assert (await opened.submit(POSTERS[0])).id == "2013508786110730241"

    asyncio.run(main())


def test_an_answer_is_bounded_as_it_unpacks() -> None:
    """200 kB that unpack to 200 MB are given up after a few, and not collected."""

    async def main() -> None:
        packed = gzip.compress(bytes(200 * 2**20), 9)

        async def answer(asked: Asked) -> bytes:
            del asked
            return http(packed, headers={"Content-Encoding": "gzip"})

        transport = rh.AiohttpTransport()
        async with raw_server(answer) as server:
            with pytest.raises(rh.ReadError, match="longer than") as caught:
                await transport.send(rh.Request("GET", server.url))
            assert caught.value.response is not None
            assert len(caught.value.response.body) < 20 * 2**20
        await transport.aclose()

    asyncio.run(main())


def test_a_long_body_that_nobody_reads_is_given_up() -> None:
    """A server takes the connection and never reads: the upload ends after the read time-out."""

    async def main() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        transport = rh.AiohttpTransport()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/upload"
        with listener, pytest.raises(rh.ReadTimeout):
            body = bytes(2**24)
            await asyncio.wait_for(transport.send(rh.Request("PUT", url, {}, body, 0.3)), 20)
        await transport.aclose()

    asyncio.run(main())


def test_a_file_that_cannot_be_sent_whole_is_the_requests_fault(tmp_path: Path) -> None:
    """It is shorter than announced, gone, or cannot be read: the error names it, and says why. No
    answer is waited for, and the transport goes on."""
    (short := tmp_path / "short.bin").write_bytes(b"a" * 100)
    # A regular file whose first byte nobody can read.
    unreadable = Path("/proc/self/mem")
    faults = {
        short: "was changed while it was being uploaded",
        tmp_path / "gone.bin": "was changed while it was being uploaded",
        unreadable: "Input/output error",
    }

    async def main() -> None:
        async with raw_server(service()) as server:
            transport = rh.AiohttpTransport()
            for path, told in faults.items():
                file = rh.FileBody(str(path), 1000)
                with pytest.raises(rh.PayloadError, match=told) as caught:
                    await transport.send(rh.Request("PUT", f"{server.url}/upload", file=file))
                assert path.name in str(caught.value)
            assert server.asked == []
            whole = rh.FileBody(str(short), 100, tail=b"end")
            await transport.send(rh.Request("PUT", f"{server.url}/upload", file=whole))
            (asked,) = server.asked
            assert asked.body == b"a" * 100 + b"end"
            await transport.aclose()

    asyncio.run(main())


# -- a session that is brought along ------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"raise_for_status": True},
        {"auto_decompress": False},
        {"timeout": aiohttp.ClientTimeout(total=0.001)},
        {"base_url": "http://elsewhere.example/"},
        {"headers": {"User-Agent": "mine", "Authorization": "Bearer other"}},
        {"headers": {"Content-Length": "3", "Expect": "100-continue", "Host": "elsewhere"}},
        {"headers": {"Content-Encoding": "gzip", "ACCEPT-ENCODING": "br"}},
        {"version": aiohttp.HttpVersion10},
        {"read_bufsize": 16},
        {"skip_auto_headers": ["Content-Type", "User-Agent"]},
    ],
)
def test_no_setting_of_a_session_that_is_brought_changes_what_an_answer_means(
    options: dict[str, Any],
) -> None:
    """A pause that the service asks for, a refusal and an id beside HTTP 500 mean the same."""

    async def main() -> None:
        usual = service()
        first = [
            http({"errorCode": "1003", "errorMessage": "slow down"}, 429),
            http({"errorCode": "1501", "errorMessage": "content refused"}, 400),
            http({"taskId": "2013508786110799999", "status": "RUNNING"}, 500),
        ]

        async def answer(asked: Asked) -> bytes:
            assert asked.headers["authorization"] == "Bearer a-key"
            if "text-to-image" in asked.target and first:
                return first.pop(0)
            data: bytes = await usual(asked)
            return data

        async with raw_server(answer) as server, aiohttp.ClientSession(**options) as own:
            transport = rh.AiohttpTransport(session=own)
            found, error = await outcomes_of(
                session(server.url, transport, limits=rh.Limits(1, None, None)), 3
            )
            assert not own.closed
        assert error is None
        assert [outcome.ok for outcome in found] == [False, True, True]
        assert "content refused" in str(found[0].error)

    asyncio.run(main())


def test_no_credential_of_a_session_that_is_brought_goes_to_hosts_of_results(
    tmp_path: Path,
) -> None:
    """Its default `Authorization` may be the API key; `Range` would change what comes."""
    headers = {"Authorization": "Bearer a-key", "Cookie": "a=b", "Range": "bytes=0-1", "X-My": "1"}

    async def main() -> list[Asked]:
        async with raw_server(service()) as server, raw_server(service()) as files:
            output = rh.Output(f"{files.url}/files/x.png", "png")
            async with aiohttp.ClientSession(headers=headers) as own:
                transport = rh.AiohttpTransport(session=own)
                async with session(server.url, transport) as opened:
                    await opened.download(output, tmp_path / "x.png")
            return files.asked

    (asked,) = asyncio.run(main())
    assert not {"authorization", "cookie", "range"} & asked.headers.keys()
    assert asked.headers["x-my"] == "1"


@pytest.mark.parametrize("room", [{"limit": 1}, {"limit_per_host": 1}, {"limit": 3}])
def test_a_connection_of_ones_own_connector_is_waited_for(
    room: dict[str, Any], tmp_path: Path
) -> None:
    """Answers take longer than a connection may: a place in the connector is not a connection."""

    async def main() -> None:
        usual = service()

        async def answer(asked: Asked) -> bytes:
            data: bytes = await usual(asked)
            if not asked.target.endswith("/query"):
                await asyncio.sleep(0.2)
            return data

        async with raw_server(answer) as server:
            async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(**room)) as own:
                transport = rh.AiohttpTransport(session=own, connect_timeout=0.15)
                async with session(server.url, transport) as opened:
                    stream = opened.stream(POSTERS[:6], folder=tmp_path)
                    found = [outcome async for outcome in stream]
        assert all(outcome.ok for outcome in found)

    asyncio.run(main())
    assert len(list(tmp_path.glob("*.png"))) == 6


@pytest.mark.parametrize("fault", [ValueError("a bug"), OSError("a bug"), TimeoutError("a bug")])
@pytest.mark.parametrize("sent", [False, True])
def test_a_trace_config_that_raises_is_no_trouble_with_the_network(
    fault: Exception, *, sent: bool
) -> None:
    """The error names it. Before a request left, the run ends with it at once; after its answer has
    come, nothing is lost."""
    trace = aiohttp.TraceConfig()

    async def callback(*_: Any) -> None:
        raise fault

    (trace.on_request_end if sent else trace.on_request_start).append(callback)

    async def main() -> None:
        async with (
            raw_server(service()) as server,
            aiohttp.ClientSession(trace_configs=[trace]) as own,
        ):
            transport = rh.AiohttpTransport(session=own)
            limits = rh.Limits(1, None, None)
            found, error = await outcomes_of(session(server.url, transport, limits=limits), 8)
            asked = len(server.asked)
        if sent:
            # The answers had come, and are read all the same.
            assert error is None
            assert all(outcome.ok for outcome in found)
            assert len(found) == 8
            return
        assert (found, asked) == ([], 0)
        assert isinstance(error, rh.ConnectError)
        assert error.permanent
        assert "trace config" in str(error)
        assert "a bug" in str(error)
        assert error.__cause__ is fault

    asyncio.run(main())


def test_a_session_that_cannot_be_used_is_refused_on_entering() -> None:
    """Closed, of another loop, with middlewares, or none at all: before anything is sent."""

    async def middleware(request: Any, handler: Any) -> Any:
        return await handler(request)

    async def made() -> aiohttp.ClientSession:
        return aiohttp.ClientSession()

    async def entered(own: Any) -> str:
        with pytest.raises(rh.SessionError) as caught:
            async with session("http://127.0.0.1:9", rh.AiohttpTransport(session=own)):
                pass
        return str(caught.value)

    async def main(foreign: aiohttp.ClientSession) -> None:
        closed = aiohttp.ClientSession()
        await closed.close()
        assert "closed" in await entered(closed)
        assert "another event loop" in await entered(foreign)
        async with aiohttp.ClientSession(middlewares=[middleware]) as own:
            assert "middlewares" in await entered(own)
        assert "aiohttp.ClientSession" in await entered(object())

    other = asyncio.new_event_loop()
    foreign = other.run_until_complete(made())
    try:
        asyncio.run(main(foreign))
    finally:
        other.run_until_complete(foreign.close())
        other.close()


def test_a_session_that_is_closed_in_mid_run_ends_in_connect_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The application closes its own session: nothing is unknown, and one error says why."""

    async def main() -> None:
        async with raw_server(service()) as server:
            own = aiohttp.ClientSession()
            async with session(server.url, rh.AiohttpTransport(session=own)) as opened:
                await opened.run(POSTERS[0])
                await own.close()
                with caplog.at_level(logging.ERROR):
                    with pytest.raises(rh.ConnectError):
                        await opened.run(POSTERS[1])
                # Also with tasks that still run: nobody can ask after them here any more.
                for wait in (opened.wait("2013508786110730241"), opened.account.queue()):
                    with pytest.raises(rh.ConnectError, match="brought along is closed"):
                        await asyncio.wait_for(wait, 20)

    asyncio.run(main())


def test_a_transport_that_is_used_on_a_second_loop_says_so() -> None:
    """Its connections belong to the first one; nothing is sent."""
    transport = rh.AiohttpTransport(trust_env=False)
    request = rh.Request("GET", "http://127.0.0.1:9/")

    async def main() -> rh.ConnectError:
        with pytest.raises(rh.ConnectError) as caught:
            await transport.send(request)
        return caught.value

    with asyncio.Runner() as runner:
        first = runner.run(main())
        with asyncio.Runner() as other:
            second = other.run(main())
        runner.run(transport.aclose())
    assert not first.permanent
    assert second.permanent
    assert "another event loop" in str(second)
