"""Retries of failed jobs on the user's request. A task that may still run is queried first."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import attrs

from ._budget import billed
from ._exceptions import NotFoundError, RunningHubError
from ._journal import FAULTY, JobFacts, JobRecord, Moved, nano_of
from ._log import logger_of
from ._models import Task, TaskStatus
from ._recorder import Recorder
from ._states import JobState

__all__ = ["Retried", "retry_jobs"]

logger = logger_of("runninghub_async")

#: How many rows are read at once, and how many tasks are queried at once.
_PAGE: Final = 500
_QUERIES: Final = 8

#: The statuses with which the service confirms that a task failed.
_OVER: Final = (TaskStatus.FAILED, TaskStatus.CANCEL)

#: The columns that are cleared when a job is to be submitted again.
_NOTHING: Final = JobFacts(task_id="", task="", code="", error="")


@attrs.frozen
class Retried:
    """What `Session.retry` did. `queued`: jobs that the next `resume` or `stream` submits again.
    `resumed`: jobs whose task still exists; it is followed, not submitted again. `left`: jobs that
    were left unchanged, because their task may still run and be billed, or because their row is
    damaged."""

    queued: int = 0
    resumed: int = 0
    left: int = 0


async def retry_jobs(
    recorder: Recorder,
    query: Callable[[str], Awaitable[Task]],
    state: JobState,
    code: str | None,
    *,
    missing: bool,
) -> Retried:
    """See `Session.retry`."""
    store = recorder.store
    queued, done = await store.put_back(state, code), Retried()
    after = 0
    while page := await store.find_open((state,), after, _PAGE):
        after = page[-1].seq
        wanted = [
            record for record in page
            if record.code != FAULTY and code in (None, record.code)
            and recorder.live(record.key) is None
        ]  # fmt: skip
        for start in range(0, len(wanted), _QUERIES):
            looks = (
                _look(recorder, record, query, missing=missing)
                for record in wanted[start : start + _QUERIES]
            )
            for one in await asyncio.gather(*looks):
                done = Retried(
                    done.queued + one.queued, done.resumed + one.resumed, done.left + one.left
                )
    await store.flush()
    return attrs.evolve(done, queued=done.queued + queued)


async def _look(
    recorder: Recorder,
    record: JobRecord,
    query: Callable[[str], Awaitable[Task]],
    *,
    missing: bool,
) -> Retried:
    """Decide about one job whose failure the service did not confirm, by a fresh query."""
    if record.damage is not None or record.task is None or record.state is not JobState.FAILED:
        return Retried(left=1)
    task_id = record.task.id
    try:
        task = await query(task_id)
    except NotFoundError as error:
        if not missing:
            logger.warning(
                "job %s was not queued again: %s. Its task %s may have been billed;"
                " retry(missing=True) submits it again all the same",
                record.key,
                error,
                task_id,
            )
            return Retried(left=1)
        task = None
    except RunningHubError as error:
        logger.warning(
            "job %s was not queued again: its task %s could not be queried: %s",
            record.key,
            task_id,
            error,
        )
        return Retried(left=1)
    now = time.time()
    if task is not None and task.status not in _OVER:
        facts = JobFacts(task_id=task_id, code="", error="")
        recorder.store.note(Moved(record.key, record.state, JobState.ACCEPTED, now, facts))
        return Retried(resumed=1)
    facts = _NOTHING.copy()
    cost = nano_of(billed(task.usage, recorder.currency)) if task is not None else None
    if cost is not None:
        facts["cost"] = cost
    recorder.store.note(Moved(record.key, record.state, JobState.NEW, now, facts))
    return Retried(queued=1)
