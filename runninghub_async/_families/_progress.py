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
from .._progress import ProgressEvent, is_trusted, read_event
from .._protocol import check_task_id, parse_query
from .._protocol_v1 import build_v1
from .._transport import SocketTransport

__all__ = ["TaskProgress"]


#: How soon to ask again for a socket that is not there yet: runs are short, and half of one is
#: gone before the usual first look.
_ASKING: Final = ExponentialPolling(initial=0.5, factor=1.3, maximum=5.0)


class TaskProgress:
    """The events of a run while it runs; see `Session.progress`. Use it with `async for`, inside
    `async with` to close the socket at once on leaving early."""

    def __init__(self, caller: Caller, task: Task | str) -> None:
        self._caller = caller
        self._task_id = check_task_id(task.id if isinstance(task, Task) else task)
        self._address = task.progress_url if isinstance(task, Task) else ""
        self._stack = contextlib.AsyncExitStack()
        self._messages: AsyncIterator[str | bytes] | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProgressEvent:
        try:
            if self._messages is None and not self._ended:
                self._messages = await self._connect()
            message = await anext(self._messages or _nothing())
        except asyncio.CancelledError:
            # Whoever waited for the next event may come back for it.
            raise
        except BaseException:
            await self.aclose()
            raise
        return read_event(message)

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
