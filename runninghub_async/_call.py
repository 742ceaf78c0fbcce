"""One job as a source of its own: what `submit`, `run` and `wait` hand to the dispatcher."""

from __future__ import annotations

import asyncio
from typing import Literal

from ._dispatcher import Dispatcher
from ._exceptions import RunningHubError
from ._job import Accepted, Job
from ._log import logger_of
from ._outcomes import Outcome, Unknown
from ._scheduler import Entry
from ._sizes import size_of
from ._states import JobState

__all__ = ["Call", "OnCancel"]

logger = logger_of("runninghub_async")

#: What to do with tasks that still run when their caller leaves.
OnCancel = Literal["detach", "cancel", "wait"]


class Call:
    """A source with a single job, whose result one coroutine awaits."""

    def __init__(self, dispatcher: Dispatcher, job: Job, on_cancel: OnCancel = "detach") -> None:
        self.closed = False
        self.stopped = False
        #: The error for its caller if it would have to be submitted and no submit is allowed.
        self._reason: BaseException | None = None
        self.on_cancel: OnCancel = on_cancel
        self.entry = Entry(job, self)
        self._size = size_of(job.request)
        self._dispatcher = dispatcher
        self._taken = False
        self._result: asyncio.Future[Outcome | Accepted] = (
            asyncio.get_running_loop().create_future()
        )

    @property
    def task_id(self) -> str:
        """The id of its task; empty as long as there is none."""
        return self.entry.job.task_id

    async def result(self) -> Outcome | Accepted:
        """Hand the job over and wait for its end. Raises what stopped it.

        When cancelled, the job is let go: a task that exists runs on, and its id is named in a
        warning; a submit under way is answered in the background and then treated likewise.
        """
        scheduler = self._dispatcher.scheduler
        if self._result.done():
            return await self._result
        if self.entry.job.state is JobState.ACCEPTED and not self.entry.job.attempts:
            self._taken = True
            scheduler.watch(self.entry, asyncio.get_running_loop().time())
        elif self.entry.job.task_id or self.entry.lost is not None:
            self._taken = True
            scheduler.adopt(self.entry, asyncio.get_running_loop().time())
        else:
            scheduler.add(self)
        self._dispatcher.wake()
        try:
            return await self._result
        except asyncio.CancelledError:
            self._leave()
            raise

    def withdraw(self) -> None:
        """Do not submit if that has not happened yet; what runs is still waited for."""
        if not self.submitted:
            self._leave()
            self._result.cancel()

    @property
    def submitted(self) -> bool:
        """Whether its submit has left, and is not to be repeated."""
        state = self.entry.job.state
        if state is JobState.UNKNOWN:
            return self.entry.lost is not None
        return state not in (JobState.NEW, JobState.REFUSED)

    def stop_submitting(self, error: BaseException) -> None:
        """Do not submit, and do not retry. Unless it is submitted, the call raises `error`."""
        self.stopped, self._reason = True, error
        if not self.submitted and not self.entry.taken:
            self.fail(error)

    async def ended(self) -> None:
        """Wait for its end."""
        await asyncio.wait([self._result])

    def fail(self, error: BaseException) -> None:
        """The session broke or closes: say so to the caller, and let go of the job."""
        if not self._result.done():
            self._leave()
        # Letting go of the job may have told it already.
        if not self._result.done():
            self._result.set_exception(error)

    def drop(self) -> None:
        """It has ended before it was driven: its key is free, and jobs that wait for it look into
        the journal again."""
        self.entry.gone = True
        self._tell_waiting(None)

    def conclude(self) -> None:
        """The session is closed: a submit still under way has an unknown outcome."""
        if self.entry.job.state is JobState.SUBMITTING:
            logger.warning("a call ended while its submit was under way; its task may exist")

    def _leave(self) -> None:
        if self.closed:
            return
        self.closed = self.stopped = True
        # Cancelling the caller cancels the future, too; any other end came in the same turn.
        if self._result.done() and not self._result.cancelled():
            if self._result.exception() is None:
                self.tell(self._result.result())
            return
        scheduler = self._dispatcher.scheduler
        scheduler.discard(self)
        if not self.entry.taken and self.entry.job.state is not JobState.SUBMITTING:
            # Where it is not released, nothing will become of it; its key is free again.
            self.entry.gone = not (self.entry.job.task_id or self.entry.lost)
        if self.entry.job.task_id or self.entry.lost is not None:
            scheduler.release(self.entry)
        elif self.entry.gone:
            self._tell_waiting(None)
            self._name_what_may_exist()
        self._dispatcher.wake()

    @staticmethod
    def tell(result: Outcome | Accepted) -> None:
        """Name, in a warning, what `result` tells of and its caller will not see."""
        if result.task is not None:
            logger.warning("the result of task %s was not retrieved", result.task.id)
        elif isinstance(result, Unknown):
            logger.warning("the outcome of a submit that may have created a task was not retrieved")

    # -- the dispatcher's side ----------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        return self._taken

    def ready(self) -> bool:
        return not self._taken and not self.closed

    def take(self) -> Entry | None:
        self._taken = True
        return self.entry

    def size_of(self, _: Entry, /) -> int:
        return self._size

    def deliver(self, entry: Entry, result: Outcome | Accepted) -> None:
        self._tell_waiting(result)
        if self.closed or self._result.done():
            if entry.job.attempts:
                self.tell(result)
        else:
            self._result.set_result(result)

    def stop(self, entry: Entry, error: RunningHubError) -> None:
        entry.gone = True
        self._tell_waiting(None)
        if not self._result.done():
            self._result.set_exception(error)

    def halt(self, error: RunningHubError) -> None:
        if self.entry.job.task_id or self.entry.lost is not None:
            return
        self.stopped, self._reason = True, error
        if not self.entry.taken and self.entry.job.state is not JobState.SUBMITTING:
            self._taken = True
            self.stop(self.entry, error)

    def _tell_waiting(self, result: Outcome | Accepted | None) -> None:
        journal = self._dispatcher.journal
        if journal is not None:
            journal.ended(self.entry, result)

    def let_go(self, entry: Entry) -> None:
        self._tell_waiting(None)
        # A mere wait that is given up leaves nothing behind that its caller does not know of.
        if entry.job.attempts and entry.job.task_id:
            logger.warning(
                "a call ended while its task %s still runs at the service", entry.job.task_id
            )
        self._name_what_may_exist()
        if self._reason is not None and not self._result.done():
            self._result.set_exception(self._reason)

    def _name_what_may_exist(self) -> None:
        if self.entry.job.state is JobState.UNKNOWN:
            logger.warning("left a submit that may have created a task")


def waiting_job(task_id: str, index: int = 0, tips: str = "") -> Job:
    """A job for a task that already exists; who requested what is not known here."""
    return Job(index, None, JobState.ACCEPTED, task_id, tips=tips)
