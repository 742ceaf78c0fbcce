"""One HTTP exchange: whether its request has left, and how long its answer may take.

Before the request leaves, nothing can have been created or billed: a connection, a name, a proxy
and TLS are waited for by `AiohttpTransport(connect_timeout=...)`. aiohttp calls
`ClientRequest.send` when it has a connection, so that call marks the moment when the request
leaves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
import aiohttp.connector

from ._exceptions import ConnectError

__all__ = ["Clock", "Exchange", "WatchedRequest", "close_last", "current"]

#: A timer that fires this late, in seconds, means that the loop was blocked or the machine was
#: suspended, and the answer may lie unread in the socket.
_LATE: Final = 0.25

#: How long to go on reading what has arrived meanwhile before the exchange is given up, in seconds.
#: Without a delay one more look at the socket is enough: uvloop runs timers before it reads.
_GRACE: Final = 1.0
_LAST_LOOK: Final = 0.02

#: Without this method it is not known when a request leaves, and each one has to count as sent from
#: its beginning.
_WATCHED: Final = "send" in vars(aiohttp.ClientRequest)


class Clock:
    """Ends the exchanges of one event loop that wait for too long. All of them share one timer: to
    arrange and cancel one for each would cost more than everything else here."""

    __slots__ = ("_at", "_timer", "_waiting", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: set[Exchange] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf

    def watch(self, exchange: Exchange) -> None:
        """Call `exchange.on_due` at its `due`, which may be moved to a later time."""
        self._waiting.add(exchange)
        if exchange.due < self._at:
            self._set_timer(exchange.due)

    def forget(self, exchange: Exchange) -> None:
        """`exchange` waits no longer."""
        # The timer stays: the next exchange will need it.
        self._waiting.discard(exchange)

    def rest(self) -> None:
        """Leave no timer behind if no exchange is under way."""
        if self._timer is not None and not self._waiting:
            self._timer.cancel()
            self._timer, self._at = None, math.inf

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._at = self.loop.call_at(at, self._on_timer), at

    def _on_timer(self) -> None:
        self._timer, self._at = None, math.inf
        now = self.loop.time()
        for exchange in [each for each in self._waiting if each.due <= now]:
            self._waiting.remove(exchange)
            exchange.on_due(now)
        if self._waiting:
            self._set_timer(min(exchange.due for exchange in self._waiting))


class Exchange:
    """One request and its answer. `read_timeout` is in seconds: the longest silence after the
    request was written, and then the longest silence within the answer; also the longest time in
    which nothing of a long body could be written.

    The clock cancels the task that waits, so everything has to happen in one task.
    """

    __slots__ = (
        "_cancelling", "_clock", "_handle", "_parser", "_task", "_timeout", "due", "sent",
        "timed_out",
    )  # fmt: skip

    def __init__(self, clock: Clock, read_timeout: float) -> None:
        task = asyncio.current_task(clock.loop)
        assert task is not None
        self.sent = not _WATCHED
        self.timed_out = False
        self._parser: _Parser | None = None
        #: The last moment to hear something, by the loop's time.
        self.due = math.inf
        self._clock = clock
        self._task = task
        self._cancelling = task.cancelling()
        self._timeout = read_timeout
        #: What is arranged once it is due: a last look at the socket.
        self._handle: asyncio.Handle | None = None

    def leave(self, connection: aiohttp.connector.Connection) -> None:
        """The request leaves on `connection` now. Raises `ConnectError` if that connection holds
        unread data: the answer to this request would be mistaken for it, and the reverse."""
        protocol = connection.protocol
        if protocol is None or protocol.should_close:
            raise ConnectError("the connection held unread data that belongs to no request")
        parser: Any = getattr(protocol, "_parser", None)
        if parser is not None:
            self._parser = _Parser(parser)
            protocol._parser = self._parser  # type: ignore[assignment]  # noqa: SLF001
        _last.set(protocol)
        self.sent = True
        self.restart()

    @property
    def last_packet(self) -> bytes:
        """The last packet of the answer, as it arrived."""
        return self._parser.packet if self._parser is not None else b""

    def restart(self) -> None:
        """Something arrived, or is expected from now on."""
        self.due = self._clock.loop.time() + self._timeout
        if self._handle is None:
            self._clock.watch(self)

    def stop(self) -> None:
        """Wait for nothing."""
        self._clock.forget(self)
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def on_due(self, now: float) -> None:
        """Nothing has been heard. Before it is given up, what has arrived meanwhile is read."""
        late = now - self.due > _LATE
        wait = _GRACE if late else _LAST_LOOK
        self._handle = self._clock.loop.call_later(wait, self._on_last_look)

    def _on_last_look(self) -> None:
        # Data that was just read has woken the task, which runs before this.
        self._handle = self._clock.loop.call_soon(self._give_up)

    def _give_up(self) -> None:
        self._handle = None
        if self.due > self._clock.loop.time():
            # The task was woken, and something had come.
            self._clock.watch(self)
            return
        self.timed_out = True
        self._task.cancel()

    def was_cancelled_by_clock(self) -> bool:
        """Whether the `CancelledError` that just arrived is the clock's own; it is taken back."""
        return self.timed_out and self._task.uncancel() <= self._cancelling


class _Parser:
    """aiohttp's parser of the answer. Where it fails, it drops what it has read from the packet,
    even an answer that was complete: a wrong length, or what follows the answer, is enough for
    that. So the packet is kept here, for the id of a task in it."""

    __slots__ = ("_parser", "packet")

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self.packet = b""

    def feed_data(self, data: bytes) -> Any:
        self.packet = data
        return self._parser.feed_data(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


#: The connection of the last request that left in the task that runs.
_last: Final[ContextVar[Any]] = ContextVar("runninghub_async connection", default=None)


def close_last() -> None:
    """Close the connection of the last request that left in this task, if it is still open."""
    protocol = _last.get()
    if protocol is not None:
        _last.set(None)
        # Where the next request has left on it already, that one's answer is as doubtful.
        protocol.close()


#: The exchange of the task that runs. aiohttp makes the request object itself.
current: Final[ContextVar[Exchange | None]] = ContextVar("runninghub_async exchange", default=None)


class WatchedRequest(aiohttp.ClientRequest):
    """A request that notifies its exchange when it leaves."""

    # Not `Accept-Encoding`: answers are small, and one that is packed and cut off would lose all it
    # holds. To have aiohttp skip the header would cost two more sets of headers per request.
    DEFAULT_HEADERS = {aiohttp.hdrs.ACCEPT: "*/*"}  # noqa: RUF012 - as aiohttp declares it

    # Not `async def`: it returns a coroutine all the same, one frame less deep.
    def send(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, conn: aiohttp.connector.Connection
    ) -> Coroutine[Any, Any, aiohttp.ClientResponse]:
        """See `aiohttp.ClientRequest`."""
        exchange = current.get()
        # The CONNECT to a proxy is not the request yet.
        if exchange is not None and self.method != "CONNECT":
            exchange.leave(conn)
        return super().send(conn)
