"""The interface of a journal's store; `SqliteJobStore` is the one that comes with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Protocol, runtime_checkable

from ._journal import Begun, JobRecord, Moved
from ._states import JobState

__all__ = ["AssumingStore", "JobStore", "MatchingStore"]


@runtime_checkable
class JobStore(Protocol):
    """Where a session keeps its jobs. All methods are called on the session's event loop."""

    #: What this journal is called in the addresses of webhooks, and what signs them.
    identity: str
    secret: bytes

    async def open(self, base_url: str) -> None:
        """Take the journal for oneself, of jobs of this service. Raises `JournalBusy` while a
        living process has it, and `JournalError` for what is no journal, is newer, or of
        another service."""
        ...

    async def aclose(self) -> None:
        """Write what is left, and let go. Raises `JournalError` if that cannot be written."""
        ...

    async def find(self, keys: Sequence[str]) -> Mapping[str, JobRecord]:
        """Those of these jobs that there are."""
        ...

    async def find_content(self, digests: Sequence[str]) -> Mapping[str, JobRecord]:
        """One job for each of these contents that was paid for or may have been; a stored one, if
        there is one."""
        ...

    async def find_open(
        self, states: Sequence[JobState], after: int, limit: int
    ) -> Sequence[JobRecord]:
        """The first `limit` jobs in one of these states, in order, whose `seq` is beyond
        `after`."""
        ...

    async def begin(self, job: Begun) -> str | None:
        """Write a row, on disk when this returns. Empty if the submit may leave; the id of its
        task, if an event has told of one, and None if the job was removed from its list, or
        begun by another: then nothing must be sent."""
        ...

    def note(self, move: Begun | Moved) -> None:
        """Write a move soon, in order with all else."""
        ...

    async def flush(self) -> None:
        """Return when all that was noted is on disk."""
        ...

    async def event(self, key: str, task_id: str, *, live: bool = False) -> JobRecord | None:
        """A webhook said that the task of this job is `task_id`. The job as it is now, if that
        made the task known; a job that there is not yet is told when it comes. `live`: its submit
        is under way here, so that this counts only if the process ends before the answer comes.
        """
        ...

    async def is_empty(self) -> bool:
        """Whether there is no job."""
        ...

    async def set_aside(self, batch: str) -> None:
        """Set aside the jobs saved for `batch` and never submitted: they are not found open."""
        ...

    async def enlist(self, jobs: Sequence[Begun | tuple[Begun, Moved]]) -> int:
        """Save the jobs that are new, and how they ended, if they did; return how many were new.
        Jobs that had been set aside are open again."""
        ...

    async def drop_set_aside(self, batch: str) -> int:
        """Remove the jobs that are still set aside; return how many."""
        ...

    async def put_back(self, state: JobState, code: str | None) -> int:
        """Queue all jobs in this state to be submitted again, only those with this code if it is
        given; return how many. Leaves out jobs whose request was faulty, and jobs whose task may
        still run because the service did not confirm its end."""
        ...

    async def spent(self) -> Decimal:
        """What all jobs have cost so far."""
        ...

    async def facts(self) -> Mapping[str, str]:
        """The saved facts of the run."""
        ...

    async def put(self, facts: Mapping[str, str]) -> None:
        """Save facts of the run, on disk when this returns."""
        ...


@runtime_checkable
class AssumingStore(Protocol):
    """A `JobStore` that also records what jobs are assumed to have cost. Without it, a later
    session reads all jobs that succeeded."""

    async def assumed(self) -> Decimal:
        """What jobs are assumed to have cost in addition to `spent`, at the catalogue's price:
        tasks that succeeded without a `cost`, and submits of unknown outcome that were repeated."""
        ...


@runtime_checkable
class MatchingStore(Protocol):
    """A `JobStore` that finds all jobs of a content, so that each of several equal requests gets
    its own job. Without it, `find_content` is used."""

    async def find_equal(self, digests: Sequence[str]) -> Mapping[str, Sequence[JobRecord]]:
        """For each of these contents, its jobs in order: those that have not ended, are stored, or
        are of unknown outcome; none that failed or was cancelled."""
        ...
