"""A stream brought to its end while somebody watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from decimal import Decimal

import anyio

from .._exceptions import RunningHubError
from .._outcomes import Outcome
from .._stream import JobStream
from ._calls import say
from ._progress import Progress
from ._prompts import UsageError

__all__ = ["drive"]


async def drive(
    stream: JobStream,
    progress: Progress,
    take: Callable[[Outcome], None],
    *,
    waits: bool,
    spent: Callable[[], Awaitable[Decimal]] | None = None,
    kept: Callable[[], Awaitable[None]] | None = None,
) -> BaseException | None:
    """Give every outcome to `take`, also those that come while the stream is left; return what
    stopped the run early, if anything did.

    `waits`: leaving the stream waits for the tasks that run. `spent`: returns the money spent so
    far, if it is counted elsewhere than in `progress`. `kept`: waits until what `take` was given is
    on disk, before the next outcome is taken; a `RunningHubError` that it raises stops the run.
    """
    stopped: BaseException | None = None
    # However this ends, what was paid for is written down.
    try:
        async with stream, anyio.create_task_group() as shown:
            shown.start_soon(_tick, stream, progress, spent)
            try:
                async for outcome in stream:
                    take(outcome)
                    if kept is not None:
                        await kept()
            except (RunningHubError, UsageError) as error:
                stopped = error
            except asyncio.CancelledError:
                if waits:
                    say("waiting for the tasks that run; interrupt again to leave them")
                raise
            shown.cancel_scope.cancel()
    except asyncio.CancelledError as error:
        stopped = error
    finally:
        for outcome in stream.undelivered:
            take(outcome)
    await _ask(progress, spent)
    progress.show(stream.statistics(), last=True)
    return stopped


async def _tick(
    stream: JobStream, progress: Progress, spent: Callable[[], Awaitable[Decimal]] | None
) -> None:
    while True:
        await _ask(progress, spent)
        progress.show(stream.statistics())
        await anyio.sleep(0.1 if spent is None else 0.5)


async def _ask(progress: Progress, spent: Callable[[], Awaitable[Decimal]] | None) -> None:
    if spent is not None:
        # A journal that cannot be read stops the stream, which says so.
        with contextlib.suppress(RunningHubError):
            progress.tally.money = await spent()
