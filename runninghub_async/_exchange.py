"""One HTTP exchange: whether its request has left, and how long its answer may take.

Before the request leaves, nothing can have been created or billed: a connection, a name, a proxy
and TLS are waited for by `AiohttpTransport(connect_timeout=...)`. aiohttp calls
`ClientRequest.send` when it has a connection, and so the line between the two is drawn there.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import Final

import aiohttp
import aiohttp.connector

from ._exceptions import ConnectError

__all__ = ["Exchange", "WatchedRequest", "current"]

#: A clock that wakes up by so much too late, in seconds, has slept: the loop was blocked or the
#: machine was suspended, and the answer may lie unread in the socket.
_LATE: Final = 0.25

#: How long what has arrived meanwhile is read before the exchange is given up, in seconds. Without
#: a delay one more look at the socket is enough: uvloop runs timers before it reads.
_GRACE: Final = 1.0
_LAST_LOOK: Final = 0.02

#: Without this method nobody would say when a request leaves, and each one would have to count as
#: sent from its beginning.
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
            raise ConnectError("the connection held data that nobody had asked for")
        self.sent = True
        self.restart()

    def restart(self) -> None:
        """Something arrived, or is expected from now on."""
        self.stop()
        self._due = self._loop.time() + self._timeout
        self._handle = self._loop.call_at(self._due, self._on_due)

    def stop(self) -> None:
        """Wait for nothing."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _on_due(self) -> None:
        late = self._loop.time() - self._due > _LATE
        self._handle = self._loop.call_later(_GRACE if late else _LAST_LOOK, self._on_last_look)

    def _on_last_look(self) -> None:
        # What was read just now has woken the task, which runs before this.
        self._handle = self._loop.call_soon(self._give_up)

    def _give_up(self) -> None:
        self.timed_out = True
        self._task.cancel()

    def was_cancelled_by_clock(self) -> bool:
        """Whether the `CancelledError` that just arrived is the clock's own; it is taken back."""
        return self.timed_out and self._task.uncancel() <= self._cancelling


#: The exchange of the task that runs. aiohttp makes the request object itself.
current: Final[ContextVar[Exchange | None]] = ContextVar("runninghub_async exchange", default=None)


class WatchedRequest(aiohttp.ClientRequest):
    """A request that tells its exchange when it leaves."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """See `aiohttp.ClientRequest`."""
        exchange = current.get()
        # The CONNECT to a proxy is not the request yet.
        if exchange is not None and self.method != "CONNECT":
            exchange.leave(conn)
        return await super().send(conn)
