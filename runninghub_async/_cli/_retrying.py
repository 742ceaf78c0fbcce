"""Which failed jobs may be submitted again: those whose tasks have ended for certain."""

from __future__ import annotations

import asyncio
import shlex
from typing import Final

from .._exceptions import RunningHubError
from .._journal import FAULTY, JobRecord
from .._models import TaskStatus
from .._states import JobState
from ._calls import say
from ._resumable import Run

__all__ = ["queue_failed"]

#: How many jobs are read at once, and how many of their tasks are queried at once.
_PAGE: Final = 200
_QUERIES: Final = 8

_ENDED_BADLY: Final = (TaskStatus.FAILED, TaskStatus.CANCEL)


async def queue_failed(run: Run, code: str | None) -> int:
    """Queue failed jobs, only those with `code` if it is given, to be submitted again; return how
    many.

    A job that has a task is queued only if the service confirms now that the task has failed or
    was cancelled: one that still runs would be billed twice. The others are named on standard
    error, with the reason. Raises `JournalError`.
    """
    count, after = 0, 0
    while page := await run.store.find_open((JobState.FAILED,), after, _PAGE):
        wanted = [r for r in page if r.code != FAULTY and (code is None or r.code == code)]
        slots = asyncio.Semaphore(_QUERIES)
        reasons = await asyncio.gather(*(_why_not(run, record, slots) for record in wanted))
        for reason in filter(None, reasons):
            say(f"not queued: {reason}")
        keys = [r.key for r, reason in zip(wanted, reasons, strict=True) if not reason]
        if keys:
            count += await run.store.put_back_each(JobState.FAILED, keys)
        after = page[-1].seq
    return count


async def _why_not(run: Run, record: JobRecord, slots: asyncio.Semaphore) -> str:
    """Why a job must not be submitted again; empty if it may be."""
    task = record.task
    if task is None:
        return ""
    where = f"task {task.id}" + ("" if record.place is None else f" of request {record.place}")
    fetch = f"runninghub-async task {shlex.quote(task.id)} --wait --download DIR"
    try:
        async with slots:
            now = await run.session.query(task.id)
    except RunningHubError as error:
        if task.status in _ENDED_BADLY:
            # The service said so when it ended.
            return ""
        return f"{where} may still run, the service does not confirm its end: {error}"
    if now.status in _ENDED_BADLY:
        return ""
    if now.status is TaskStatus.SUCCESS:
        return f"{where} has succeeded; to fetch its results: {fetch}"
    return f"{where} is {now.status} at the service; to wait for it: {fetch}"
