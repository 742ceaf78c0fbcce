"""For tests of code that uses this package: no network, no waiting.

`MockTransport` answers requests from a function. `VirtualTimeLoop` is an event loop whose clock
jumps to the next timer when there is nothing else to do, so an hour of polling takes a moment.
For tests over real HTTP there is `runninghub_async.emulator`.

    async def main() -> None:
        transport = MockTransport(lambda request: json_response({"taskId": "1", ...}))
        async with Session("any-key", transport=transport) as session: ...

    run(main)
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from ._catalogue import Catalogue
from ._models import Request, Response

__all__ = ["MockTransport", "VirtualTimeLoop", "json_response", "run"]

_T = TypeVar("_T")


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """An answer whose body is `value` as JSON. Header names are lower case."""
    return Response(
        status, json.dumps(value).encode(), {"content-type": "application/json", **(headers or {})}
    )


class MockTransport:
    """A transport that asks `handler` for each answer; `requests` keeps what was asked.

    `handler(request)` returns a `Response`, or a coroutine of one (to take its time), or raises
    a `TransportError` as a network would.
    """

    def __init__(self, handler: Callable[[Request], Response | Awaitable[Response]]) -> None:
        self._handler = handler
        self.requests: list[Request] = []
        self.closed = False

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        self.requests.append(request)
        # A network always takes a turn of the loop.
        await asyncio.sleep(0)
        answer = self._handler(request)
        return answer if isinstance(answer, Response) else await answer

    async def aclose(self) -> None:
        """Remember that it was closed."""
        self.closed = True


#: How far the clock moves in each turn of the loop, in seconds.
_CREEP = 1e-9


class _JumpingSelector(selectors.DefaultSelector):
    """Where the loop would sleep, move its clock instead."""

    jump: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            return super().select(None)
        events = super().select(0)
        # Never quite nothing: code that finds itself a rounding error too early, and asks to be
        # woken at once, would otherwise stop the clock for good.
        self.jump(_CREEP if events else timeout + _CREEP)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock starts at 0 and jumps to the next timer when all is quiet.

    Sockets and threads work, but the clock does not see them: while a thread is busy or a remote
    host is thinking, time jumps on. Two ends of a loopback connection on this one loop are fine;
    where many events fall on one instant, their order is not promised. The clock creeps a
    nanosecond with each turn of the loop, so compare times approximately.
    """

    def __init__(self) -> None:
        self._virtual_now = 0.0
        selector = _JumpingSelector()
        selector.jump = self._jump
        super().__init__(selector)

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self._virtual_now

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ARG002
        """Wait for its threads, however long: the clock would be past any `timeout` at once."""
        await super().shutdown_default_executor()

    def _jump(self, seconds: float) -> None:
        self._virtual_now += seconds


def run(main: Callable[..., Coroutine[Any, Any, _T]], *args: Any) -> _T:
    """Run `main(*args)` on a new `VirtualTimeLoop`, as `asyncio.run` would.

    The catalogue is read beforehand, so that opening a session needs no thread, which the clock
    would not see.
    """
    Catalogue.load()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main(*args))
