"""Many jobs: from any iterable in, as outcomes out.

A stream is a class, not an async generator: its work belongs to the session's dispatcher, so
leaving the loop early, cancelling or dropping the stream never has to run code inside a half
finished generator.
"""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Coroutine, Iterator
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from ._feed import Feed, Statistics
from ._job import Accepted
from ._models import ErrorInfo, Task, TaskStatus
from ._outcomes import Failed, Outcome, Unfinished

__all__ = ["JobStream", "TaskStream"]

_T = TypeVar("_T")


class _Stream(Generic[_T]):
    """What both kinds of stream share: an async iterator that ends properly however it is left."""

    def __init__(self, feed: Feed, convert: Callable[[Any], _T]) -> None:
        self._feed = feed
        self._convert = convert
        # When the iterator is dropped in the middle of a loop. Nothing is scheduled from a
        # destructor but one plain call on the loop's own thread.
        self._dropped = weakref.finalize(self, _let_go_later, feed, asyncio.get_running_loop())
        self._dropped.atexit = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        return self._convert((await self._feed.next_indexed())[1])

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
        """Stop: take no more input, let go of what waits.

        Submits that are under way are given a second to answer, so that their ids are known.
        """
        self._dropped.detach()
        await self._feed.leave()


class JobStream(_Stream["Outcome"]):
    """The outcomes of many requests, as they come or in input order. See `Session.stream`.

    `async with session.stream(...) as stream: async for outcome in stream: ...` stops at once on
    leaving; a bare `async for` is stopped when the stream object is dropped, or at the latest
    when the session closes.
    """

    def __init__(
        self,
        feed: Feed,
        cancel: Callable[[list[str]], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(feed, _same)
        self._cancel = cancel

    def statistics(self) -> Statistics:
        """The numbers of the run so far."""
        return self._feed.statistics()

    @property
    def unfinished(self) -> tuple[Unfinished, ...]:
        """What had been taken from the input and did not end, once the stream was left or
        stopped: tasks that still run, submits of unknown outcome, requests never submitted."""
        return tuple(sorted(self._feed.unfinished, key=lambda left: left.index))

    @property
    def undelivered(self) -> tuple[Outcome, ...]:
        """Outcomes that had come in but were not consumed when the stream was left."""
        feed = self._feed
        waiting = [*feed.ready_results, *sorted(feed.held_back.items())]
        return tuple(result for _, result in waiting if not isinstance(result, Accepted))

    @property
    def running(self) -> tuple[str, ...]:
        """The ids of the stream's tasks that run at the service now, as far as they are known."""
        return tuple(e.job.task_id for e in self._feed.entries.values() if e.job.task_id)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Submit nothing while the context is open: `with stream.paused(): ...`.

        For a consumer that cannot store its outcomes, for example because the disk is full. The
        whole session pauses; tasks that run are followed, and their outcomes are handed out.
        """
        dispatcher = self._feed.dispatcher
        dispatcher.scheduler.paused += 1
        try:
            yield
        finally:
            dispatcher.scheduler.paused -= 1
            dispatcher.wake()

    async def aclose(self) -> None:
        """Stop: take no more input, and do with what still runs as `on_cancel` said.

        `detach` (the default) lets it run on and names the task ids in `unfinished` and in a
        warning of the logger `runninghub_async`; `cancel` asks the service to cancel it, for at
        most ten seconds; `wait` waits for it, and its outcomes are then in `undelivered`.
        """
        if self._feed.on_cancel == "wait" and not self._feed.closed:
            await self._feed.drain()
        if self._feed.closed:
            return
        await super().aclose()
        running = [left.task_id for left in self._feed.unfinished if left.task_id]
        if self._feed.on_cancel == "cancel" and running:
            await self._cancel(running)


class TaskStream(_Stream[Task]):
    """Tasks as they end, well or badly; no error is raised for a task that failed."""

    def __init__(self, feed: Feed) -> None:
        super().__init__(feed, _task_of)


def _same(outcome: Outcome) -> Outcome:
    return outcome


def _task_of(outcome: Outcome) -> Task:
    task = outcome.task
    assert task is not None
    if task.done or not isinstance(outcome, Failed):
        return task
    # The service no longer knows the id; the task has no end of its own to show.
    code = getattr(outcome.error, "code", "")
    return Task(task.id, TaskStatus.UNKNOWN, error=ErrorInfo(code, str(outcome.error)))


def _let_go_later(feed: Feed, loop: asyncio.AbstractEventLoop) -> None:
    if feed.closed or loop.is_closed():
        return

    loop.call_soon_threadsafe(feed.drop)
