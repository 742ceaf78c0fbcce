"""The workers of a session: they ask the scheduler what to do, do it, and report.

A bounded pool, started as needed. A worker with nothing to do parks; whatever makes something to
do wakes exactly one, and that one wakes the next if there is more.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final
from weakref import WeakValueDictionary

import attrs

from ._answers import sole_task
from ._bounded import Bounded
from ._budget import Admission, listed_price
from ._exceptions import (
    CapacityError,
    JournalError,
    PayloadError,
    PolicyError,
    ProtocolError,
    RateLimitError,
    RunningHubError,
    TransportError,
    unforeseen,
)
from ._job import Rules
from ._limits import Limits
from ._log import logger_of
from ._models import Request, Response, Task, TaskStatus
from ._pacing import RateLimiter, local_limiter
from ._policies import GuardedPolling, guarded_chance, guarded_unknown
from ._protocol import FileInBody, parse_query, parse_submit
from ._recorder import Recorder
from ._scheduler import Entry, Scheduler, Step
from ._shielded import wait_out
from ._states import JobState
from ._transport import DistrustingTransport, Transport

__all__ = ["Dispatcher"]

#: What goes wrong for a while and mends itself, or does not; a child of the package's logger.
logger = logger_of("runninghub_async.trouble")

#: Requests in flight at once, at most. At 0.2 s a request that is over 300 a second, several
#: times what the default rates ask for.
WORKERS: Final = 64

#: Submits of unknown outcome whose webhooks are still listened for.
_LOST_KEPT: Final = 10_000

#: Tasks whose beginning or end this session has seen.
_ENDED_KEPT: Final = 1_000

#: Ids up to this length are not looked for in the request that they answer.
_SHORT_ID: Final = 12

#: How long a leaving session waits for submits that are under way, so as to learn their ids.
GRACE: Final = 1.0


_NOT_OURS: Final = "request: was removed from its list, or submitted by another stream @ $"
_NOT_KEPT: Final = "request: holds what no journal can keep, such as keys of several types @ $"

#: After so many queries in a row have failed, say so: the job stays, but its user may know more.
_MISSES_TOLD: Final = frozenset({5, 20, 100, 500, 2500})

#: The same for a task that has not ended after so many looks: ten minutes at the default pace.
_LOOKS_TOLD: Final = frozenset({100, 400, 1600, 6400, 25600})
_QUERIES_TOLD: Final = frozenset({5, 20, 80})

#: The same for one submit that found no free slot; now and then is how it should be.
_REFUSALS_TOLD: Final = frozenset({5, 25, 125, 625})

#: The same for submits that cannot even be sent.
_UNSENT_TOLD: Final = frozenset({3, 8, 50, 250})


class Dispatcher:
    """Drives the jobs of one session on one event loop."""

    def __init__(
        self,
        transport: Transport,
        limits: Limits,
        rules: Rules,
        rng: random.Random,
        build_submit: Callable[[Entry], Request],
        upload_files: Callable[[Entry], Awaitable[Request]],
        build_query: Callable[[str], Request],
        journal: Recorder | None = None,
        *,
        origin: str = "",
    ) -> None:
        rules = attrs.evolve(
            rules,
            polling=GuardedPolling(rules.polling, self.fault),
            unknown=guarded_unknown(rules.unknown, self.fault),
        )
        self.scheduler = Scheduler(limits, rules, guarded_chance(rng, self.fault))
        self.scheduler.say = logger.warning
        self.scheduler.wall = time.time
        self.scheduler.origin = origin
        self.rules = rules
        #: What ended the session; every later call raises it again.
        self.broken: BaseException | None = None
        self.journal = journal
        if journal is not None:
            self.scheduler.on_move = journal.moved
        self._transport = transport
        self._can_distrust = transport if isinstance(transport, DistrustingTransport) else None
        self._build_submit = build_submit
        self._upload_files = upload_files
        self._build_query = build_query
        self._submit_limiter = local_limiter(limits.submit_rate)
        self._query_limiter = local_limiter(limits.query_rate)
        self.loop = asyncio.get_running_loop()
        #: Entries whose end somebody has promised to announce, by the names they were given.
        self.announced: WeakValueDictionary[str, Entry] = WeakValueDictionary()
        #: Of those, the last whose submits had an unknown outcome to the end.
        self.lost: Bounded[str, None] = Bounded(_LOST_KEPT)
        #: When tasks ended, in the loop's time, of those that this session has seen before that.
        self.ended: Bounded[str, float] = Bounded(_ENDED_KEPT)
        #: Files that are being written, and for which job, by names that all file systems tell
        #: apart.
        self.names: dict[Path, object] = {}
        self._parked: deque[asyncio.Future[None]] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._helpers: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        #: When it fires. The handle is not asked: for short waits uvloop's handle has no `when`.
        self._timer_at = math.inf
        #: Undocumented status words that have been logged.
        self._odd_words: Bounded[str, None] = Bounded(100)
        self._looking_again = 0
        self._submitting = 0
        self._submits_done = asyncio.Event()
        self._on_crash: Callable[[BaseException], None] | None = None
        self.closed = False
        self._closing = asyncio.Event()

    def hint(self, name: str, task_id: str) -> None:
        """The task of the entry called `name` is said to have ended, and to be `task_id`: look at
        it now, and at what waits for that task without having submitted it."""
        if self._live(name) is not None:
            self._hint_entry(name, task_id)
        elif self.journal is not None:
            self.help(self._write_down(self.journal, name, task_id))
        elif name in self.lost:
            logger.warning("task %s was created by a submit whose answer was lost", task_id)
        self._hint_watched(task_id)

    async def hear(self, name: str, task_id: str) -> None:
        """The same; what it tells is in the journal, if there is one, when this returns. Raises
        `JournalError`."""
        journal = self.journal
        if journal is None:
            self.hint(name, task_id)
            return
        entry = self._live(name)
        if entry is None:
            await self._find(journal, name, task_id)
        elif not entry.job.task_id:
            # Should this process end before the submit's answer comes, the event comes no more.
            await journal.store.event(name, task_id, live=True)
        self._hint_entry(name, task_id)
        self._hint_watched(task_id)
        await journal.store.flush()

    def _live(self, name: str) -> Entry | None:
        entry = self.announced.get(name)
        return None if entry is None or entry.gone else entry

    def _hint_entry(self, name: str, task_id: str) -> None:
        entry = self._live(name)
        if entry is not None:
            self.lost.pop(name, None)
            self.scheduler.hint(entry, task_id, self.loop.time())
            self.wake()

    def _hint_watched(self, task_id: str) -> None:
        entry = self.scheduler.watched.get(task_id)
        while entry is not None:
            self.scheduler.hint(entry, task_id, self.loop.time())
            entry = entry.other
        self.wake()

    async def _write_down(self, journal: Recorder, name: str, task_id: str) -> None:
        try:
            await self._find(journal, name, task_id)
        except JournalError as error:
            logger.warning(
                "task %s of job %s was not saved in the journal: %s", task_id, name, error
            )

    async def _find(self, journal: Recorder, name: str, task_id: str) -> None:
        """An event of a job that is not under way here: its task may have been unknown."""
        if await journal.store.event(name, task_id) is None:
            return
        logger.info("task %s of job %s is known from its webhook", task_id, name)
        entry = self._live(name)
        if entry is not None and entry.row is not None:
            # It was taken up meanwhile, as it had been before.
            entry.row.recorded = JobState.ACCEPTED
            self._hint_entry(name, task_id)

    @property
    def query_limiter(self) -> RateLimiter | None:
        """The limiter of queries and other single calls."""
        return self._query_limiter

    def fault(self, error: PolicyError) -> None:
        """The user's policy or callable failed: end the session with `error`, after this step."""
        if self.broken is None and not self.closed:
            self.broken = error
            self.loop.call_soon(self._crash, error)

    def _crash(self, error: BaseException) -> None:
        self.broken = self.broken or error
        if self._on_crash is not None:
            self._on_crash(error)

    def on_crash(self, callback: Callable[[BaseException], None]) -> None:
        """Tell `callback` if a worker ever dies of an unexpected error."""
        self._on_crash = callback

    def wake(self) -> None:
        """Wake one worker if there is something to do."""
        # One that is about to look again will see for itself, and wake the next.
        if self.closed or self._looking_again:
            return
        if not self._parked and len(self._workers) >= WORKERS:
            return
        now = self.loop.time()
        if self.scheduler.next_step(now) is None:
            # All workers may be busy for long, and what they left behind comes due meanwhile.
            self._set_timer(now)
            return
        while self._parked:
            parked = self._parked.popleft()
            if not parked.done():
                parked.set_result(None)
                return
        if len(self._workers) < WORKERS:
            worker = self._start(self._work(), "runninghub_async worker")
            self._workers.add(worker)
            worker.add_done_callback(self._worker_ended)

    def help(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `coroutine` as a task that ends, at the latest, with the session."""
        helper = self._start(coroutine, "runninghub_async helper")
        self._helpers.add(helper)
        helper.add_done_callback(self._helper_ended)
        return helper

    def _start(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        # Not by the loop's task factory: an eager one would run the first step of a worker within
        # the step of the one that wakes it, and so on without end.
        return asyncio.Task(coroutine, loop=self.loop, name=name)

    async def pause(self, seconds: float) -> None:
        """Wait for so long, or until the session closes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def settle(self, grace: float = GRACE) -> None:
        """Wait until no submit is under way, for at most `grace` seconds."""
        if self._submitting:
            self._submits_done.clear()
            try:
                async with asyncio.timeout(grace):
                    await self._submits_done.wait()
            except TimeoutError:
                pass

    async def aclose(self) -> None:
        """Learn what can be learnt of submits under way, then end all workers."""
        self.closed = True
        self._closing.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        try:
            await self.settle()
        finally:
            tasks = [*self._workers, *self._helpers]
            for task in tasks:
                task.cancel()
            await wait_out(tasks)

    # -- a worker -----------------------------------------------------------------------------

    async def _work(self) -> None:
        scheduler, clock = self.scheduler, self.loop.time
        looked_twice = False
        while not self.closed:
            now = clock()
            step = scheduler.next_step(now)
            if step is None and looked_twice:
                await self._park(now)
                looked_twice = False
            elif step is None:
                # Often the consumer of what was just delivered makes room in this very turn of
                # the loop; to look again costs much less than to be parked and woken.
                looked_twice = True
                self._looking_again += 1
                try:
                    await asyncio.sleep(0)
                finally:
                    self._looking_again -= 1
            else:
                looked_twice = False
                await (self._query() if step is Step.QUERY else self._submit())

    async def _park(self, now: float) -> None:
        parked = self.loop.create_future()
        self._parked.append(parked)
        self._set_timer(now)
        await parked

    def _set_timer(self, now: float) -> None:
        """Wake somebody when time alone brings something to do.

        `now` is the moment at which there was nothing: read anew, the clock might already have
        passed a due time that nobody would then be woken for.
        """
        at = self.scheduler.wake_at(now)
        if at is None or (self._timer is not None and now < self._timer_at <= at):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self.loop.call_at(at, self._on_timer), at

    def _on_timer(self) -> None:
        self._timer = None
        self.scheduler.note_silence(self.loop.time())
        self.wake()

    async def _query(self) -> None:
        scheduler, clock = self.scheduler, self.loop.time
        if self._query_limiter is not None:
            scheduler.pacing_query = True
            try:
                self.wake()
                await self._query_limiter.acquire()
            finally:
                scheduler.pacing_query = False
        entry = scheduler.take_query(clock())
        if entry is None:
            await asyncio.sleep(0)
            return
        self.wake()
        sent_at = clock()
        try:
            try:
                answer = await self._transport.send(self._build_query(entry.job.task_id))
            except TransportError as error:
                if error.response is None:
                    raise
                # What came before the connection broke may be all there is.
                answer = error.response
            task = parse_query(answer, entry.job.task_id)
        except RunningHubError as error:
            self.distrust(error)
            scheduler.missed(entry, error, clock(), sent_at)
            if entry.job.misses in _MISSES_TOLD:
                logger.warning(
                    "task %s: %d queries in a row failed, the last with: %s",
                    entry.job.task_id,
                    entry.job.misses,
                    error,
                )
        except BaseException:
            scheduler.abandoned(entry)
            raise
        else:
            if task.done and (entry.job.queries or scheduler.has_created(task.id)):
                self.ended.setdefault(task.id, clock())
            scheduler.seen(entry, task, clock(), sent_at)
            if not task.done or not entry.gone:
                self._note_wait(entry, task)

    def distrust(self, error: RunningHubError) -> None:
        """Give up the connection of an answer that was not the service's own to this request."""
        if getattr(error, "response", None) is not None and self._can_distrust is not None:
            self._can_distrust.distrust()

    def _note_wait(self, entry: Entry, task: Task) -> None:
        """Log why a task has not ended yet, if that takes long or is unusual."""
        job = entry.job
        if task.status_word and task.status_word not in self._odd_words:
            self._odd_words[task.status_word] = None
            logger.warning(
                "task %s has the undocumented status %r; it is queried less and less often until"
                " results or an error code come with it",
                task.id,
                task.status_word,
            )
        elif task.status is TaskStatus.SUCCESS and job.queries in _QUERIES_TOLD:
            logger.warning("task %s has succeeded, but its results are not there yet", task.id)
        elif job.looks in _LOOKS_TOLD:
            logger.warning(
                "task %s is still %s after %d queries", task.id, task.status.value, job.queries
            )

    async def _submit(self) -> None:
        scheduler, clock = self.scheduler, self.loop.time
        if self._submit_limiter is not None:
            scheduler.pacing_submit = True
            try:
                self.wake()
                await self._submit_limiter.acquire()
            finally:
                scheduler.pacing_submit = False
        taken = await self._take_good_one()
        if taken is None:
            return
        entry, request = taken
        self.wake()
        if entry.row is not None and not await self._written_down(entry):
            return
        if entry.told:
            # Its webhook came before it was sent (again): the task exists.
            logger.info("task %s is known from its webhook alone", entry.told)
            scheduler.sending(entry, clock())
            scheduler.accepted(entry, Task(entry.told), clock(), clock())
            return
        sent_at = clock()
        scheduler.sending(entry, sent_at)
        self._submitting += 1
        answer: Response | None = None
        try:
            try:
                answer = await self._transport.send(request)
                task = parse_submit(answer)
            except TransportError as error:
                # The connection broke within the answer; its beginning may hold the id.
                answer = error.response
                salvaged = None if answer is None else sole_task(answer)
                if salvaged is None:
                    raise
                task = salvaged
            self._refuse_foreign(task, request, answer)
        except RunningHubError as error:
            self.distrust(error)
            self._not_accepted(entry, error, sent_at)
        except BaseException:
            scheduler.abandoned(entry)
            raise
        else:
            scheduler.accepted(entry, task, clock(), sent_at)
            if entry.job.tips:
                faults = "; ".join(map(str, task.node_errors))
                logger.warning("task %s was accepted with faults: %s", task.id, faults)
        finally:
            self._submitting -= 1
            if not self._submitting:
                self._submits_done.set()

    def _refuse_foreign(self, task: Task, request: Request, answer: Response | None) -> None:
        """Raise `ProtocolError` if `task`, which the answer to a submit names, is another job's."""
        # The service's ids have 19 digits; a short one may stand in any request.
        if len(task.id) > _SHORT_ID and task.id.encode(errors="replace") in (request.body or b""):
            words = f"the answer quotes {task.id} from the request"
        elif self.scheduler.has_seen(task.id):
            words = f"the answer names task {task.id}, which is another job's"
        else:
            return
        raise ProtocolError(words, answer or Response(200))

    def _not_accepted(self, entry: Entry, error: RunningHubError, sent_at: float) -> None:
        """The submit of `entry`, sent at `sent_at`, was not answered with a task."""
        scheduler, now = self.scheduler, self.loop.time()
        if entry.told:
            # Its end was announced before its beginning: there is such a task.
            scheduler.accepted(entry, Task(entry.told), now, sent_at)
            logger.info("task %s is known from its webhook alone", entry.told)
            return
        scheduler.refused(entry, error, now, sent_at)
        job = entry.job
        if entry.announced and job.state is JobState.UNKNOWN:
            self.lost[entry.announced] = None
        if isinstance(error, CapacityError | RateLimitError) and job.attempts in _REFUSALS_TOLD:
            room = isinstance(error, CapacityError)
            reason = "for lack of a free slot" if room else "by the rate limit"
            logger.warning("a submit was refused %d times %s: %s", job.attempts, reason, error)
        if job.unsent in _UNSENT_TOLD:
            logger.warning("a submit could not be sent %d times in a row: %s", job.unsent, error)

    async def _written_down(self, entry: Entry) -> bool:
        """Whether `entry` is still to be sent, now that the journal says that it is."""
        assert self.journal is not None
        scheduler = self.scheduler
        try:
            task_id = await self.journal.begin(entry)
        except RunningHubError as error:
            scheduler.rejected(entry, error)
            return False
        except BaseException:
            self.journal.unsent(entry)
            scheduler.withdrawn(entry)
            raise
        if task_id is None:
            # Jobs with the same content wait for it under the key that it loses.
            self.journal.ended(entry, None)
            entry.row, entry.job = None, entry.job._replace(key="")
            scheduler.rejected(entry, PayloadError([_NOT_OURS]))
            return False
        entry.told = task_id or entry.told
        if entry.told and not entry.gone:
            # The task exists, so that there is nothing to be withdrawn.
            return True
        if entry.gone or entry.source.stopped:
            if task_id:
                self.journal.found(entry, task_id)
            else:
                self.journal.unsent(entry)
            scheduler.withdrawn(entry)
            return False
        return True

    async def _take_good_one(self) -> tuple[Entry, Request] | None:
        """The next job that can be sent; those at fault end here and cost neither request nor
        token."""
        scheduler, clock = self.scheduler, self.loop.time
        while not self.closed:
            entry = scheduler.take_submit(clock())
            if entry is None:
                break
            uploading = False
            began = clock()
            try:
                try:
                    request: Request | None = self._build_submit(entry)
                except FileInBody:
                    uploading = True
                    request = await self._complete(entry)
                    uploading = False
                if request is not None and self._may_be_sent(entry):
                    return entry, request
            except RunningHubError as error:
                if uploading:
                    scheduler.not_uploaded(entry, error, clock(), began)
                else:
                    scheduler.rejected(entry, error)
            except Exception as error:
                scheduler.rejected(entry, unforeseen(error))
            # A long run of bad input must not hold the loop.
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        return None

    def _may_be_sent(self, entry: Entry) -> bool:
        """Whether `entry` fits into the budget now; if it has to wait for that, it is put back.
        Raises `BudgetError` if it will not fit, and `PayloadError` for what the journal cannot
        keep: it would be sent again by every run."""
        if self.journal is not None and entry.row is None:
            raise PayloadError([_NOT_KEPT])
        budget, request = self.scheduler.budget, entry.job.request
        if budget is None:
            return True
        listed = listed_price(request)
        admission = budget.admit(entry.number, request.path, listed)
        if admission is Admission.STOP:
            raise budget.exhausted(request.path, listed)
        if admission is Admission.WAIT:
            self.scheduler.wait_for_money(entry)
        return admission is Admission.GO

    async def _complete(self, entry: Entry) -> Request | None:
        """The request for `entry`, once the files in it have been uploaded; None if nobody needs it
        now."""
        scheduler = self.scheduler
        counted = scheduler.begin_upload()
        self.wake()
        try:
            request = await self._upload_files(entry)
        except asyncio.CancelledError:
            scheduler.end_upload(counted=counted)
            scheduler.withdrawn(entry)
            raise
        except BaseException:
            scheduler.end_upload(counted=counted)
            raise
        # It may have taken minutes, in which an outage may have begun.
        may_leave = counted or scheduler.may_leave(self.loop.time())
        scheduler.end_upload(counted=counted)
        if entry.gone or entry.source.stopped:
            scheduler.withdrawn(entry)
            return None
        if not may_leave:
            scheduler.put_off(entry)
            return None
        return request

    # -- ends ---------------------------------------------------------------------------------

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        self._report_crash(worker)

    def _helper_ended(self, helper: asyncio.Task[None]) -> None:
        self._helpers.discard(helper)
        if not helper.cancelled():
            self._report_crash(helper)

    def _report_crash(self, task: asyncio.Task[None]) -> None:
        error: BaseException | None
        if task.cancelled():
            error = None if self.closed else RuntimeError("a worker was cancelled from outside")
        else:
            error = task.exception()
        if error is not None:
            self._crash(error)
