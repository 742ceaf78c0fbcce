"""One HTTP exchange: whether its request has left, and how long its answer may take.

Before the request leaves, nothing can have been created or billed: a connection, a name, a proxy
and TLS are waited for by `AiohttpTransport(connect_timeout=...)`. aiohttp calls
`ClientRequest.send` when it has a connection, so that call marks the moment when the request
leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextvars import ContextVar
from typing import Any, Final

import aiohttp
import aiohttp.connector

from ._exceptions import ConnectError

__all__ = ["Exchange", "WatchedRequest", "current"]

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


class Exchange:
    """One request and its answer. `read_timeout` is in seconds: the longest silence after the
    request was written, and then the longest silence within the answer; also the longest time in
    which nothing of a long body could be written.

    The clock cancels the task that waits, so everything has to happen in one task.
    """

    __slots__ = (
        "_cancelling", "_due", "_handle", "_loop", "_task", "_timeout", "sent",
        "timed_out",
    )  # fmt: skip

    def __init__(self, read_timeout: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.sent = not _WATCHED
        self.timed_out = False
        self._loop = asyncio.get_running_loop()
        self._task = task
        self._cancelling = task.cancelling()
        self._timeout = read_timeout
        self._handle: asyncio.Handle | None = None
        self._due = 0.0

    def leave(self, connection: aiohttp.connector.Connection) -> None:
        """The request leaves on `connection` now. Raises `ConnectError` if that connection holds
        unread data: the answer to this request would be mistaken for it, and the reverse."""
        protocol = connection.protocol
        if protocol is None or protocol.should_close:
            raise ConnectError("the connection held unread data that belongs to no request")
        self.sent = True
        self.restart()

    def restart(self) -> None:
        """Something arrived, or is expected from now on."""
        self._due = self._loop.time() + self._timeout
        if self._handle is None:
            self._handle = self._loop.call_at(self._due, self._on_due)

    def stop(self) -> None:
        """Wait for nothing."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _on_due(self) -> None:
        behind = self._loop.time() - self._due
        if behind < 0:
            # The clock was restarted meanwhile; to move the timer each time would cost more.
            self._handle = self._loop.call_at(self._due, self._on_due)
            return
        late = behind > _LATE
        self._handle = self._loop.call_later(_GRACE if late else _LAST_LOOK, self._on_last_look)

    def _on_last_look(self) -> None:
        # Data that was just read has woken the task, which runs before this.
        self._handle = self._loop.call_soon(self._give_up)

    def _give_up(self) -> None:
        if self._due > self._loop.time():
            # The task was woken, and something had come.
            self._handle = self._loop.call_at(self._due, self._on_due)
            return
        self.timed_out = True
        self._task.cancel()

    def was_cancelled_by_clock(self) -> bool:
        """Whether the `CancelledError` that just arrived is the clock's own; it is taken back."""
        return self.timed_out and self._task.uncancel() <= self._cancelling


#: The exchange of the task that runs. aiohttp makes the request object itself.
current: Final[ContextVar[Exchange | None]] = ContextVar("runninghub_async exchange", default=None)


class WatchedRequest(aiohttp.ClientRequest):
    """A request that notifies its exchange when it leaves."""

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
