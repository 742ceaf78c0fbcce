"""The progress socket: what its messages mean, and whom it trusts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from support import FIRST_ID

import runninghub_async as rh
from runninghub_async.emulator import Emulator
from runninghub_async.testing import MockTransport, json_response, run

TASK = str(FIRST_ID)
SOCKET = "wss://www.runninghub.ai:443/ws/c_instance?clientId=c&Rh-Comfy-Auth=s3cret"


class Sockets(MockTransport):
    """A network whose one socket says `messages`."""

    def __init__(self, *messages: str | bytes, address: str = SOCKET) -> None:
        self.opened: list[str] = []
        self.left = False
        self._messages = messages
        states = iter([(813, None), (804, {"netWssUrl": None}), (804, {"netWssUrl": address})])
        last = json_response({"code": 0, "data": []})
        super().__init__(
            lambda _: next(
                (json_response({"code": code, "msg": "", "data": data}) for code, data in states),
                last,
            )
        )

    @contextlib.asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator[AsyncIterator[str | bytes]]:
        self.opened.append(url)

        async def said() -> AsyncIterator[str | bytes]:
            for message in self._messages:
                yield message

        try:
            yield said()
        finally:
            self.left = True


def events_of(transport: MockTransport, task: Any = TASK) -> list[rh.ProgressEvent]:
    async def main() -> list[rh.ProgressEvent]:
        async with rh.Session("a-key", transport=transport) as session:
            return [event async for event in session.progress(task)]

    return run(main)


def message(kind: str, **data: Any) -> str:
    return json.dumps({"type": kind, "data": data})


def test_a_run_is_told_event_by_event() -> None:
    """ComfyUI's messages, as values; what is not known comes as it is."""
    png = b"\x89PNG\r\n\x1a\n"
    transport = Sockets(
        message("status", status={"exec_info": {"queue_remaining": 2}}),
        message("execution_start", prompt_id="p"),
        message("execution_cached", nodes=["4", 5]),
        message("executing", node="3", prompt_id="p"),
        message("progress", node="3", value=5, max=20).encode(),
        b"\0\0\0\1\0\0\0\2" + png,
        message("executed", node="9", output={"images": []}),
        message("executing", node=None),
        message("execution_error", node_id="3", exception_message="out of memory"),
        message("execution_success"),
        message("crystools.monitor", cpu=1),
        "not json",
        b"\xff",
    )
    assert events_of(transport) == [
        rh.QueueLength(2),
        rh.RunStarted(),
        rh.NodesCached(("4", "5")),
        rh.NodeStarted("3"),
        rh.NodeProgress("3", 5, 20),
        rh.Preview("png", png),
        rh.NodeDone("9", {"images": []}),
        rh.OtherEvent("executing", {"node": None}),
        rh.RunEnded(ok=False, node_id="3", message="out of memory"),
        rh.RunEnded(ok=True),
        rh.OtherEvent("crystools.monitor", {"cpu": 1}),
        rh.OtherEvent("", "not json"),
        rh.OtherEvent("", b"\xff"),
    ]
    assert rh.NodeProgress("3", 5, 20).fraction == 0.25
    assert transport.opened == [SOCKET]
    assert transport.left
    # Queued, running without an address, running with one.
    assert len(transport.requests) == 3


def test_a_task_that_shows_its_socket_is_not_asked_after() -> None:
    """The address may come with the answer to the submit."""
    transport = Sockets(message("execution_start"))
    task = rh.Task(TASK, progress_url=SOCKET)
    assert events_of(transport, task) == [rh.RunStarted()]
    assert transport.requests == []


def test_a_run_that_has_ended_has_no_events() -> None:
    """Nothing is opened, and the iterator is at its end."""
    transport = Sockets(address="")
    assert events_of(transport) == []
    assert transport.opened == []


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        (SOCKET, True),
        ("wss://rhtv.runninghub.cn/ws", True),
        ("ws://www.runninghub.ai/ws", False),
        ("wss://runninghub.ai.evil.example/ws", False),
        ("wss://evilrunninghub.ai/ws", False),
        ("wss://user@evil.example/www.runninghub.ai", False),
        ("wss://127.0.0.2/ws", False),
        ("https://www.runninghub.ai/ws", False),
        ("wss://[broken/ws", False),
        ("file:///etc/passwd", False),
    ],
)
def test_only_the_services_own_hosts_are_trusted(address: str, trusted: bool) -> None:
    """Encrypted, and under its domains; anything else is refused before it is opened, and the
    error does not repeat the address."""
    transport = Sockets(message("execution_start"), address=address)
    if trusted:
        assert events_of(transport)
        return
    with pytest.raises(rh.ProtocolError) as caught:
        events_of(transport)
    assert address not in str(caught.value)
    assert transport.opened == []


@pytest.mark.parametrize(("pause", "expected"), [(0.01, 1001), (1.0, 30), (100.0, 1)])
def test_events_end_soon_after_the_run(pause: float, expected: int) -> None:
    """A socket that goes on, or only stays open, is left after 1,000 events or 30 seconds."""

    class Endless(Sockets):
        @contextlib.asynccontextmanager
        async def connect(self, url: str) -> AsyncIterator[AsyncIterator[str | bytes]]:
            async def said() -> AsyncIterator[str | bytes]:
                yield message("execution_success")
                while True:
                    await asyncio.sleep(pause)
                    yield message("crystools.monitor", cpu=1)

            yield said()
            self.left = True

    transport = Endless()
    assert len(events_of(transport)) == expected
    assert transport.left


def test_a_silent_socket_is_left_when_the_task_has_ended() -> None:
    """The service is asked each minute; what it does not answer ends nothing, and an event that
    comes later is not lost."""
    states: list[Any] = [
        json_response({"code": 804, "data": {"netWssUrl": SOCKET}}),
        json_response({"code": 804, "data": {"netWssUrl": SOCKET}}),
        *[rh.ReadError("reset")] * 5,
        json_response({"code": 804, "data": {}}),
        json_response({"code": 0, "data": []}),
    ]

    class Silent(Sockets):
        @contextlib.asynccontextmanager
        async def connect(self, url: str) -> AsyncIterator[AsyncIterator[str | bytes]]:
            async def said() -> AsyncIterator[str | bytes]:
                await asyncio.sleep(90)
                yield message("execution_start")
                await asyncio.sleep(3600)

            yield said()
            self.left = True

        async def send(self, request: rh.Request) -> rh.Response:
            answer = states.pop(0)
            if isinstance(answer, Exception):
                raise answer
            assert isinstance(answer, rh.Response)
            return answer

    transport = Silent()

    async def main() -> float:
        async with rh.Session("a-key", transport=transport) as session:
            assert [event async for event in session.progress(TASK)] == [rh.RunStarted()]
            return asyncio.get_running_loop().time()

    assert 270 <= run(main) < 330
    assert transport.left
    assert states == []


def test_waiting_for_an_event_can_be_cancelled() -> None:
    """By a time-out of the user's own: the next call gets the event."""

    class Slow(Sockets):
        @contextlib.asynccontextmanager
        async def connect(self, url: str) -> AsyncIterator[AsyncIterator[str | bytes]]:
            async def said() -> AsyncIterator[str | bytes]:
                await asyncio.sleep(5)
                yield message("execution_start")

            yield said()

    async def main() -> None:
        async with (
            rh.Session("a-key", transport=Slow()) as session,
            session.progress(rh.Task(TASK, progress_url=SOCKET)) as events,
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await anext(events)
            assert [event async for event in events] == [rh.RunStarted()]

    run(main)


@pytest.mark.long
def test_events_without_an_end_are_an_error() -> None:
    """200,000, and no end of the run among them."""
    count = 0

    async def main() -> None:
        nonlocal count
        async with rh.Session("a-key", transport=Sockets(*[b""] * 200_100)) as session:
            async for _ in session.progress(TASK):
                count += 1

    with pytest.raises(rh.ProtocolError, match="no end of the run"):
        run(main)
    assert count == 200_000


@pytest.mark.parametrize("item", ["[],", "1,", '{"a":1},'])
def test_a_message_that_would_hold_the_loop_is_not_read(item: str) -> None:
    """Eight megabytes of small values are an event with their text, as text or as bytes."""
    said = '{"type":"executed","data":[' + item * (8_000_000 // len(item)) + "0]}"
    for each in (said, said.encode()):
        assert events_of(Sockets(each)) == [rh.OtherEvent("", each)]


def test_leaving_early_closes_the_socket() -> None:
    """At once, with the `async with` form."""
    transport = Sockets(*[message("execution_start")] * 5)

    async def main() -> None:
        async with rh.Session("a-key", transport=transport) as session:
            async with session.progress(TASK) as events:
                async for event in events:
                    assert event == rh.RunStarted()
                    break
            assert transport.left
            assert [event async for event in events] == []

    run(main)


def test_a_transport_without_sockets_says_so() -> None:
    """A plain `MockTransport` has none."""
    with pytest.raises(rh.SessionError, match="opens no sockets"):
        events_of(MockTransport(lambda _: json_response({"code": 813, "data": None})))


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_no_message_breaks_the_iteration(said: str | bytes) -> None:
    """Whatever a socket says is an event."""
    (event,) = events_of(Sockets(said))
    assert isinstance(event, rh.ProgressEvent)


@pytest.mark.parametrize("said", ["[]", "null", "5", '"progress"'])
def test_a_message_that_is_no_object_comes_as_it_is(said: str) -> None:
    """With what it holds."""
    assert events_of(Sockets(said)) == [rh.OtherEvent("", json.loads(said))]


@pytest.mark.parametrize("value", [True, "3", None, [3], 10**400])
def test_a_step_that_is_no_number_counts_as_none(value: Any) -> None:
    """A percentage can be made of it all the same."""
    (event,) = events_of(Sockets(message("progress", value=value, max=20, node="3")))
    assert isinstance(event, rh.NodeProgress)
    assert event.value == 0.0


def test_a_socket_that_breaks_is_an_error_after_its_events() -> None:
    """What it said before that comes first; then the iteration has ended."""

    class Breaking(Sockets):
        @contextlib.asynccontextmanager
        async def connect(self, url: str) -> AsyncIterator[AsyncIterator[str | bytes]]:
            async def said() -> AsyncIterator[str | bytes]:
                yield message("execution_start")
                raise rh.ReadError("reset")

            yield said()
            self.left = True

    transport = Breaking()

    async def main() -> None:
        async with rh.Session("a-key", transport=transport) as session:
            events = session.progress(TASK)
            assert await anext(events) == rh.RunStarted()
            with pytest.raises(rh.ReadError, match="reset"):
                await anext(events)
            assert [event async for event in events] == []

    run(main)
    assert transport.left


def test_a_session_that_closes_ends_the_watching_of_a_silent_socket() -> None:
    """With a `SessionError`, not with the end that a run has."""

    class Silent(Sockets):
        @contextlib.asynccontextmanager
        async def connect(self, url: str) -> AsyncIterator[AsyncIterator[str | bytes]]:
            async def said() -> AsyncIterator[str | bytes]:
                yield message("execution_start")
                await asyncio.sleep(3600)

            yield said()

        async def send(self, request: rh.Request) -> rh.Response:
            await asyncio.sleep(30)
            raise rh.ReadError("reset")

    async def main() -> None:
        async with rh.Session("a-key", transport=Silent()) as session:
            events = session.progress(rh.Task(TASK, progress_url=SOCKET))
            assert await anext(events) == rh.RunStarted()
            waiting = asyncio.ensure_future(anext(events))
            await asyncio.sleep(70)
        with pytest.raises(rh.SessionError):
            await asyncio.wait_for(waiting, 120)

    run(main)


def test_progress_over_a_real_socket(caplog: pytest.LogCaptureFixture) -> None:
    """The emulator's, from the start of the run to its end; its credential is in no log."""
    caplog.set_level(logging.DEBUG)

    async def main() -> list[rh.ProgressEvent]:
        async with (
            Emulator(duration=1.5) as emulator,
            rh.Session("a-key", base_url=emulator.url) as session,
        ):
            task = await session.submit(rh.WorkflowRequest("1904136902449209346"))
            events = [event async for event in session.progress(task)]
            (socket,) = [r for r in emulator.requests if r.target.startswith("/ws/")]
            assert "a-key" not in str(socket)
            token = socket.target.partition("Rh-Comfy-Auth=")[2].partition("&")[0]
            assert token
            assert token not in caplog.text
            return events

    events = asyncio.run(main())
    assert events[-1] == rh.RunEnded(ok=True)
    kinds = {type(event) for event in events}
    assert {rh.NodeStarted, rh.NodeProgress, rh.Preview} <= kinds


def test_a_socket_that_is_refused_or_redirected_is_not_followed() -> None:
    """Neither error shows the address, and the other host is never asked."""
    asked: list[str] = []

    async def answer(request: web.BaseRequest) -> web.Response:
        asked.append(request.path)
        if request.path.endswith("/outputs"):
            url = f"ws://{request.host}/{'away' if len(asked) < 2 else 'closed'}?token=s3cret"
            return web.json_response({"code": 804, "data": {"netWssUrl": url}})
        if request.path == "/away":
            return web.Response(status=302, headers={"Location": f"http://{request.host}/other"})
        return web.Response(status=403)

    async def main() -> None:
        runner = web.ServerRunner(web.Server(answer))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with rh.Session("a-key", base_url=url) as session:
                for _ in range(2):
                    with pytest.raises(rh.ConnectError) as caught:
                        await anext(session.progress(TASK))
                    assert "s3cret" not in repr(caught.value)
        finally:
            await runner.cleanup()

    asyncio.run(main())
    assert asked == ["/task/openapi/outputs", "/away", "/task/openapi/outputs", "/closed"]
