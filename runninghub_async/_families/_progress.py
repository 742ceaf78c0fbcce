"""The progress of one run, as an async iterator."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Self

import anyio

from .._caller import Caller
from .._exceptions import ProtocolError, SessionError
from .._models import Response, Task
from .._polling import ExponentialPolling
from .._progress import ProgressEvent, RunEnded, is_trusted, read_event
from .._protocol import check_task_id, parse_query
from .._protocol_v1 import build_v1
from .._transport import SocketTransport

__all__ = ["TaskProgress"]


#: How soon to ask again for a socket that is not there yet: runs are short, and half of one is
#: gone before the usual first look.
_ASKING: Final = ExponentialPolling(initial=0.5, factor=1.3, maximum=5.0)


#: What may come after the end of a run: seconds, and events.
_AFTER_END: Final = 30.0
_LATE_EVENTS: Final = 1_000

#: A run of a day with ten events each second has fewer.
_MOST_EVENTS: Final = 1_000_000


class TaskProgress:
    """The events of a run while it runs; see `Session.progress`. Use it with `async for`, inside
    `async with` to close the socket at once on leaving early.

    It ends with the socket, or 30 seconds or 1,000 events after `RunEnded`, whichever comes first.
    Raises `ProtocolError` after a million events without one. While the socket is open and silent
    it waits: put it under `asyncio.timeout` to wait for less.
    """

    def __init__(self, caller: Caller, task: Task | str) -> None:
        self._caller = caller
        self._task_id = check_task_id(task.id if isinstance(task, Task) else task)
        self._address = task.progress_url if isinstance(task, Task) else ""
        self._stack = contextlib.AsyncExitStack()
        self._messages: AsyncIterator[str | bytes] | None = None
        self._ended = False
        self._left = _MOST_EVENTS
        self._deadline: float | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProgressEvent:
        try:
            if self._messages is None and not self._ended:
                self._messages = await self._connect()
            message = await self._next_message(self._messages or _nothing())
        except asyncio.CancelledError:
            # The next event may be asked for again.
            raise
        except BaseException:
            await self.aclose()
            raise
        event = read_event(message)
        if isinstance(event, RunEnded) and self._deadline is None:
            self._deadline = asyncio.get_running_loop().time() + _AFTER_END
            self._left = _LATE_EVENTS
        return event

    async def _next_message(self, messages: AsyncIterator[str | bytes]) -> str | bytes:
        if not self._left and self._deadline is None:
            raise ProtocolError(f"no end of the run in {_MOST_EVENTS} events", Response(200))
        if not self._left:
            raise StopAsyncIteration
        self._left -= 1
        if self._deadline is None:
            return await anext(messages)
        try:
            async with asyncio.timeout_at(self._deadline) as rest:
                return await anext(messages)
        except TimeoutError:
            if rest.expired():
                raise StopAsyncIteration from None
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the socket."""
        self._ended, self._messages = True, None
        with anyio.CancelScope(shield=True):
            await self._stack.aclose()

    async def _connect(self) -> AsyncIterator[str | bytes] | None:
        transport = self._caller.transport
        if not isinstance(transport, SocketTransport):
            raise SessionError("the session's transport opens no sockets")
        address = self._address or await self._ask()
        if not address:
            return None
        if not is_trusted(address, self._caller.site.base_url):
            raise ProtocolError("the progress socket is not at the service's", Response(200))
        return await self._stack.enter_async_context(transport.connect(address))

    async def _ask(self) -> str:
        """Where the socket is, once the run has begun; empty if it ends before."""
        request = build_v1(self._caller.site, "/task/openapi/outputs", {"taskId": self._task_id})
        for look in itertools.count():
            task = await self._caller.call(
                request, lambda answer: parse_query(answer, self._task_id)
            )
            if task.progress_url or task.done:
                return task.progress_url
            await self._caller.pause(_ASKING.delay(look, random.random()))
        raise AssertionError  # pragma: no cover - the loop has no end


async def _nothing() -> AsyncIterator[str]:
    return
    yield ""
