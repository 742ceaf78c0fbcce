"""The progress of one run, as an async iterator."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Final, Self

import anyio
import attrs

from .._caller import Caller
from .._exceptions import ProtocolError, RunningHubError, SessionError
from .._models import Response, Task
from .._polling import ExponentialPolling
from .._progress import ProgressEvent, RunEnded, is_trusted, read_event
from .._protocol import check_task_id, parse_outputs
from .._protocol_v1 import build_v1
from .._shielded import wait_out
from .._transport import SocketTransport

__all__ = ["TaskProgress"]


#: How soon to ask again for a socket that is not there yet: runs are short, and half of one is
#: gone before the usual first look.
_ASKING: Final = ExponentialPolling(initial=0.5, factor=1.3, maximum=5.0)


#: After this much silence, in seconds, the service is asked whether the run has ended.
_SILENCE: Final = 60.0

#: What may come after the end of a run: seconds, and events.
_AFTER_END: Final = 30.0
_LATE_EVENTS: Final = 1_000

#: A run of a day with two events each second has fewer.
_MOST_EVENTS: Final = 200_000


@attrs.frozen
class _End:
    """The last thing in the queue: the socket has ended, with `error` if it broke."""

    error: Exception | None = None


class TaskProgress:
    """The events of a run while it runs; see `Session.progress`. Use it with `async for`, inside
    `async with` to close the socket at once on leaving early.

    It ends with the socket, or 30 seconds or 1,000 events after `RunEnded`, whichever comes first,
    or when the socket has been silent for a minute and the service says that the task has ended.
    Raises `ProtocolError` after 200,000 events without an end.
    """

    def __init__(self, caller: Caller, task: Task | str) -> None:
        self._caller = caller
        self._task_id = check_task_id(task.id if isinstance(task, Task) else task)
        self._address = task.progress_url if isinstance(task, Task) else ""
        self._stack = contextlib.AsyncExitStack()
        # Read by a task of its own, so that waiting for the next message can be cancelled
        # without closing the socket.
        self._queue: asyncio.Queue[str | bytes | _End] = asyncio.Queue()
        self._reader: asyncio.Task[None] | None = None
        self._ended = False
        self._left = _MOST_EVENTS
        self._deadline = math.inf

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProgressEvent:
        try:
            if self._reader is None and not self._ended:
                await self._connect()
            message = await self._next_message()
        except asyncio.CancelledError:
            # The next event may be asked for again.
            raise
        except BaseException:
            await self.aclose()
            raise
        if message is None:
            await self.aclose()
            raise StopAsyncIteration
        event = read_event(message)
        if isinstance(event, RunEnded) and self._deadline == math.inf:
            self._deadline = asyncio.get_running_loop().time() + _AFTER_END
            self._left = _LATE_EVENTS
        return event

    async def _next_message(self) -> str | bytes | None:
        """The next message; None at the end."""
        if self._ended:
            return None
        if not self._left:
            if self._deadline < math.inf:
                return None
            raise ProtocolError(f"no end of the run in {_MOST_EVENTS} events", Response(200))
        while self._queue.empty():
            rest = self._deadline - asyncio.get_running_loop().time()
            if rest <= 0:
                return None
            try:
                async with asyncio.timeout(min(rest, _SILENCE)):
                    message = await self._queue.get()
                break
            except TimeoutError:
                if rest > _SILENCE and await self._has_ended():
                    return None
        else:
            message = self._queue.get_nowait()
        self._queue.task_done()
        if isinstance(message, _End):
            if message.error is not None:
                raise message.error
            return None
        self._left -= 1
        return message

    async def _has_ended(self) -> bool:
        """Whether the service says that the task has ended; False if it does not answer."""
        try:
            return (await self._outputs()).done
        except SessionError:
            raise
        except RunningHubError:
            return False

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
        self._ended = True
        with anyio.CancelScope(shield=True):
            if self._reader is not None:
                self._reader.cancel()
                await wait_out([self._reader])
            await self._stack.aclose()

    async def _connect(self) -> None:
        transport = self._caller.transport
        if not isinstance(transport, SocketTransport):
            raise SessionError("the session's transport opens no sockets")
        address = self._address or await self._ask()
        if not address:
            self._queue.put_nowait(_End())
            return
        if not is_trusted(address, self._caller.site.base_url):
            raise ProtocolError("the progress socket is not at the service's", Response(200))
        messages = await self._stack.enter_async_context(transport.connect(address))
        self._reader = self._caller.opened().help(self._read(messages))
        # A reader that was cancelled before it began has put no end into the queue.
        self._reader.add_done_callback(lambda _: self._queue.put_nowait(_End()))

    async def _read(self, messages: AsyncIterator[str | bytes]) -> None:
        try:
            async for message in messages:
                self._queue.put_nowait(message)
                # One at a time: a consumer that is slow slows the socket, and no more is held.
                await self._queue.join()
        except Exception as error:
            self._queue.put_nowait(_End(error))

    async def _ask(self) -> str:
        """Where the socket is, once the run has begun; empty if it ends before."""
        for look in itertools.count():
            task = await self._outputs()
            if task.progress_url or task.done:
                return task.progress_url
            await self._caller.pause(_ASKING.delay(look, random.random()))
        raise AssertionError  # pragma: no cover - the loop has no end

    async def _outputs(self) -> Task:
        request = build_v1(self._caller.site, "/task/openapi/outputs", {"taskId": self._task_id})
        return await self._caller.call(request, lambda answer: parse_outputs(answer, self._task_id))
