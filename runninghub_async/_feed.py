"""The inside of a stream: requests in, results out, a bounded number between.

A feed is the `Source` that the dispatcher knows. It never refers to the stream object that its
user holds, so that the dropping of that object can be noticed.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from typing import Any, Final, Literal

import attrs

from ._abandon import Abandonable
from ._budget import listed_price
from ._call import OnCancel, waiting_job
from ._dispatcher import Dispatcher
from ._exceptions import DownloadError, RunningHubError, SessionError, unforeseen
from ._job import Accepted, Job
from ._journal import KeptFile
from ._keeping import Keeper, kept
from ._log import logger_of
from ._models import Output
from ._money import Money, Sums
from ._outcomes import Cancelled, Failed, Outcome, Succeeded, Unfinished, Unknown
from ._recorder import Recorder
from ._scheduler import Entry, Row
from ._sizes import size_of
from ._states import JobState

__all__ = ["NOTHING", "WINDOW_BYTES", "Feed", "OnCancel", "Statistics", "not_kept"]

logger = logger_of("runninghub_async")

#: With no limit on tasks alive, results that wait for a slow consumer still need one.
_UNLIMITED_BACKLOG: Final = 1000

#: How long an input that is left early may take to close, in seconds.
_CLOSE_INPUT: Final = 10.0

#: The default bound on the bytes of requests that a stream has taken and not handed out. Only
#: requests above a certain size are counted.
WINDOW_BYTES: Final = 2**25
_LARGE: Final = 2**12

#: In place of a request, at the end of the input.
NOTHING: Final = object()


@attrs.frozen
class Statistics:
    """The state of a stream, as numbers.

    `pulled`: requests taken from the input. `submitted`: tasks the service accepted. `waiting`:
    pulled, and not ended. `succeeded`, `failed` (cancelled ones included), `unknown`: ended.
    `queries`: answers to queries of tasks. `refused`: submits refused for lack of a free slot.
    `delivered`: outcomes handed out. `at_stake`: what the submits of unknown outcome cost at most,
    by the catalogue, in each currency.
    """

    pulled: int = 0
    submitted: int = 0
    waiting: int = 0
    succeeded: int = 0
    failed: int = 0
    unknown: int = 0
    queries: int = 0
    refused: int = 0
    delivered: int = 0
    at_stake: tuple[Money, ...] = ()


class Feed:
    """A source with a bounded backlog; one consumer or several take from its other end."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        requests: Iterable[Any] | AsyncIterable[Any],
        *,
        ordered: bool,
        backlog: int | None,
        slots: int | None,
        follow: bool = True,
        keeper: Keeper | None = None,
        on_cancel: OnCancel = "detach",
        fed: bool = False,
        window_bytes: int | None = WINDOW_BYTES,
    ) -> None:
        self.dispatcher = dispatcher
        self.keeper = keeper
        self.on_cancel: OnCancel = on_cancel
        self.closed = False
        self.stopped = False
        self.concluded = False
        self.dropped = False
        self.entries: dict[int, Entry] = {}
        self.unfinished: list[Unfinished] = []
        #: The places of those that will not come.
        self._skipped: set[int] = set()
        self.error: BaseException | None = None
        self.ready_results: deque[tuple[int, Outcome | Accepted]] = deque()
        self._follow = follow
        self.held_back: dict[int, Outcome | Accepted] = {}
        self._ordered = ordered
        self._next_out = 0
        self._consumers: deque[asyncio.Future[None]] = deque()
        self._pulled = 0
        self._handed = 0
        self._ended = dict.fromkeys((Succeeded, Failed, Cancelled, Unknown), 0)
        self._queries = 0
        self._submitted = 0
        self._refused = 0
        self._at_stake = Sums()
        #: Fetching what tasks made, by the jobs' places.
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._stopped = False
        #: Jobs counted when they were let go of, which may yet end.
        self._counted_late: set[int] = set()
        self._exhausted = False
        self._backlog = backlog or slots
        self._window_bytes = math.inf if window_bytes is None else window_bytes
        #: The sizes of the large requests that are held, by their places, and their sum.
        self._large: dict[int, int] = {}
        self._held_bytes = 0
        self._fetched: deque[Any] = deque()
        #: The input ignored its cancellation.
        self._deaf = False
        self._wanted: asyncio.Event | None = None
        self._drained: asyncio.Event | None = None
        self._input: Iterator[Any] | AsyncIterator[Any]
        self.feeder: asyncio.Task[None] | None = None
        if isinstance(requests, AsyncIterable):
            self._input = aiter(requests)
            fed = True
        else:
            self._input = iter(requests)
        if fed:
            self._wanted = asyncio.Event()
            self._wanted.set()

    def start(self) -> None:
        """Begin to take requests."""
        self.dispatcher.scheduler.add(self)
        if self._wanted is not None:
            self.feeder = self.dispatcher.help(self._feed())
        self.dispatcher.wake()

    def watch(self, task_ids: Iterable[str], journal: Recorder | None = None) -> None:
        """Follow tasks that exist already, in place of taking requests."""
        now = asyncio.get_running_loop().time()
        for task_id in task_ids:
            row = None if journal is None else journal.row_of(task_id)
            entry = Entry(waiting_job(task_id, index=self._pulled), self, row=row)
            self.entries[self._pulled] = entry
            self._pulled += 1
            self.dispatcher.scheduler.watch(entry, now)
        self._exhausted = True
        self.dispatcher.wake()

    # -- the dispatcher's side ----------------------------------------------------------------

    @property
    def exhausted(self) -> bool:
        return self._exhausted and not self._fetched

    def ready(self) -> bool:
        if self.closed or (self._exhausted and not self._fetched):
            return False
        if self._wanted is not None and not self._fetched:
            return False
        return self._has_room()

    def take(self) -> Entry | None:
        request = self.next_request()
        return None if request is NOTHING else self.enter(request)

    def next_request(self) -> Any:
        """The next one that came in, or `NOTHING`."""
        if not self._fetched:
            return self._next_of_input()
        request = self._fetched.popleft()
        self._ask_for_more()
        return request

    def enter(self, request: Any, row: Row | None = None) -> Entry:
        """A job for `request`, of this feed from now on."""
        index = self._pulled
        job = Job(index, request, follow=self._follow, key="" if row is None else row.key)
        size = size_of(request)
        entry = Entry(job, self, row=row)
        self.entries[index] = entry
        self._pulled += 1
        if size >= _LARGE:
            self._large[index] = size
            self._held_bytes += size
        return entry

    def size_of(self, entry: Entry, /) -> int:
        return self._large.get(entry.job.index, 0)

    def _release_bytes(self, index: int) -> None:
        if self._large:
            self._held_bytes -= self._large.pop(index, 0)

    def deliver(self, entry: Entry, result: Outcome | Accepted) -> None:
        if self.keeper is not None and isinstance(result, Succeeded) and not self.closed:
            self.fetch(entry, self._keep(self.keeper, entry, result))
        else:
            self._hand_in(entry, result)

    def fetch(self, entry: Entry, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which saves the results of `entry`, in the background."""
        entry.fetching = True
        self._keepers[entry.job.index] = self.dispatcher.help(work)

    async def _keep(
        self,
        keeper: Keeper,
        entry: Entry,
        outcome: Succeeded,
        own: Sequence[KeptFile] = (),
    ) -> None:
        result: Outcome = outcome
        journal, row = self.dispatcher.journal, entry.row
        try:
            saved = await keeper.keep(outcome, row, own, self)
            result = saved.succeeded()
            if row is not None and journal is not None:
                if saved.faults:
                    first = saved.faults[min(saved.faults)]
                    journal.partly_stored(row, kept(saved.files), _known_as(outcome, first))
                else:
                    journal.stored(row, kept(saved.files))
        except Exception as error:
            result = not_kept(outcome, error)
            if row is not None and journal is not None:
                journal.not_stored(row, result.error)
        finally:
            # Also when the stream was left meanwhile: then its outcome is told without files.
            self._keepers.pop(entry.job.index, None)
            self._hand_in(entry, result)

    def _hand_in(self, entry: Entry, result: Outcome | Accepted) -> None:
        self.entries.pop(entry.job.index, None)
        entry.fetching = False
        self._count(entry)
        if not isinstance(result, Accepted):
            self._ended[type(result)] += 1
            if isinstance(result, Unknown):
                self._at_stake.add(listed_price(result.request))
        if self.closed:
            # It was under way when it was let go of: its end is known now, after all.
            self._correct(entry.job.index, None)
        if self._ordered:
            self.held_back[entry.job.index] = result
            self._put_out_in_order()
        else:
            self.ready_results.append((entry.job.index, result))
            self._notify()
        self._tell_waiting(entry, result)
        self._settle_if_done()
        if self.concluded:
            # Its answer came after the stream was left: nobody will take it.
            _name_what_nobody_took([result])

    def _tell_waiting(self, entry: Entry, result: Outcome | Accepted | None) -> None:
        journal = self.dispatcher.journal
        if journal is not None:
            journal.ended(entry, result)

    def fail(self, entry: Entry, error: RunningHubError) -> None:
        """A job cannot be submitted: it ends with `error`, and nothing was sent."""
        entry.job = entry.job._replace(state=JobState.FAILED)
        entry.gone = True
        failed = Failed(index=entry.job.index, request=entry.job.request, error=error)
        self._hand_in(entry, failed)

    def stop(self, entry: Entry, error: RunningHubError) -> None:
        self.stopped = True
        self._stop_taking(error)
        self.let_go(entry)
        self._withdraw_waiting()

    def halt(self, error: RunningHubError) -> None:
        """Submit nothing more, for a reason that is not the fault of one job: the stream ends with
        `error` once the submitted jobs have ended."""
        self.stop_submitting(error)
        self._settle_if_done()

    def task_ids(self) -> list[str]:
        """The ids of its tasks that have not ended, or whose results are being saved."""
        return [entry.job.task_id for entry in self.entries.values() if entry.job.task_id]

    def _withdraw_waiting(self) -> None:
        """Drop the jobs that wait for their first submit or for a retry."""
        for other in list(self.entries.values()):
            if self._waits(other):
                other.gone = True
                self.let_go(other)

    def _waits(self, entry: Entry) -> bool:
        """Whether a job waits to be submitted, and is not being prepared for that."""
        if entry.gone or entry.taken or entry.fetching or entry.job.task_id:
            return False
        return entry.lost is None and entry.job.state is not JobState.SUBMITTING

    def let_go(self, entry: Entry) -> None:
        if self.concluded:
            self._correct(entry.job.index, _unfinished(entry.job))
            _name_what_runs([_unfinished(entry.job)])
            self._tell_waiting(entry, None)
            return
        self.entries.pop(entry.job.index, None)
        self._count(entry)
        self.unfinished.append(_unfinished(entry.job))
        self._release_bytes(entry.job.index)
        self._skipped.add(entry.job.index)
        self._put_out_in_order()
        self._tell_waiting(entry, None)
        self._settle_if_done()

    def _count(self, entry: Entry) -> None:
        job = entry.job
        if self.closed:
            if job.index in self._counted_late:
                return
            self._counted_late.add(job.index)
        self._queries += job.queries
        self._submitted += bool(job.task_id)
        if job.attempts > 1:
            self._refused += job.attempts - 1

    def _correct(self, index: int, left: Unfinished | None) -> None:
        self._skipped.discard(index)
        self.unfinished = [other for other in self.unfinished if other.index != index]
        if left is not None:
            self.unfinished.append(left)

    def _put_out_in_order(self) -> None:
        # A job that will not come must not keep the others waiting for its turn.
        while self.held_back and (
            self._next_out in self.held_back or self._next_out in self._skipped
        ):
            if self._next_out in self.held_back:
                result = self.held_back.pop(self._next_out)
                self.ready_results.append((self._next_out, result))
                self._notify()
            self._next_out += 1

    # -- the consumer's side ------------------------------------------------------------------

    async def next_indexed(self) -> tuple[int, Outcome | Accepted]:
        """The next result with its request's place in the input.

        Raises the stream's error, once, and then `StopAsyncIteration`.
        """
        while not self.ready_results:
            if asyncio.get_running_loop() is not self.dispatcher.loop:
                raise SessionError("the stream belongs to another event loop")
            if not self.entries:
                self._look_for_the_end()
            if self.finished:
                if self.error is not None:
                    error, self.error = self.error, None
                    raise error
                raise StopAsyncIteration
            consumer = asyncio.get_running_loop().create_future()
            self._consumers.append(consumer)
            try:
                await consumer
            except BaseException:
                # Cancelled, or its coroutine closed.
                if consumer in self._consumers:
                    self._consumers.remove(consumer)
                elif self.ready_results:
                    # It had been told of a result that it will not fetch: tell another.
                    self._notify()
                raise
        self._handed += 1
        result = self.ready_results.popleft()
        self._release_bytes(result[0])
        if self._wanted is not None:
            self._ask_for_more()
        self.dispatcher.wake()
        return result

    def _look_for_the_end(self) -> None:
        """With nothing under way, read one request ahead: a stream that is at its end must not
        wait for the leave to submit before it finds out."""
        idle = not self.entries and not self._fetched and not self._exhausted
        if idle and self._wanted is None and not self.closed:
            request = self._next_of_input()
            if request is not NOTHING:
                self._fetched.append(request)

    def _next_of_input(self) -> Any:
        try:
            return next(self._input)  # type: ignore[arg-type]
        except StopIteration:
            self._end_input(None)
        except asyncio.CancelledError as error:
            self._end_input(_input_cancelled(error))
        except Exception as error:
            self._end_input(error)
        return NOTHING

    @property
    def finished(self) -> bool:
        """Whether nothing more will be put out."""
        return self.closed or (self.exhausted and not self.entries and not self.held_back)

    def statistics(self) -> Statistics:
        running = self.entries.values()
        return Statistics(
            pulled=self._pulled,
            submitted=self._submitted + sum(bool(entry.job.task_id) for entry in running),
            waiting=len(self.entries),
            succeeded=self._ended[Succeeded],
            failed=self._ended[Failed] + self._ended[Cancelled],
            unknown=self._ended[Unknown],
            queries=self._queries + sum(entry.job.queries for entry in running),
            refused=self._refused + sum(max(0, e.job.attempts - 1) for e in running),
            delivered=self._handed,
            at_stake=self._at_stake.all(),
        )

    async def drain(self) -> None:
        """Submit nothing more; return when what was submitted has ended."""
        self.stop_submitting(None)
        if self._drained is None:
            self._drained = asyncio.Event()
        if self.entries:
            await self._drained.wait()

    @property
    def is_all_submitted(self) -> bool:
        """Whether its input has ended, and each job of it has a task or an outcome."""
        rest = any(not entry.gone and not entry.job.task_id for entry in self.entries.values())
        return self._exhausted and not self._fetched and not rest

    def stop_submitting(self, error: BaseException | None) -> None:
        """Take no more requests, and drop the jobs that are not submitted. `error` ends the stream
        when the submitted jobs have ended."""
        self.stopped = True
        self._stop_taking(error)
        self._withdraw_waiting()

    def close(self) -> None:
        """Take and hand out nothing more; drop what waits. Submits under way continue."""
        if self.closed:
            return
        self.closed = self.stopped = True
        self._stop_taking(None)
        scheduler = self.dispatcher.scheduler
        for entry in list(self.entries.values()):
            if entry.job.index in self._keepers:
                # Not at once: a task that has not begun would end without handing its outcome in.
                self.dispatcher.loop.call_soon(self._keepers[entry.job.index].cancel)
            elif entry.gone:
                continue
            elif entry.job.task_id or entry.lost is not None:
                scheduler.release(entry)
            elif not entry.taken and entry.job.state is not JobState.SUBMITTING:
                entry.gone = True
                self.let_go(entry)
        if self.feeder is not None:
            self.feeder.cancel()
        for consumer in self._consumers:
            if not consumer.done():
                consumer.set_result(None)
        # Others may have been waiting for the slots that are free now.
        self.dispatcher.wake()

    def drop(self) -> None:
        """Close without waiting: the rest is done once nothing is under way."""
        self.dropped = True
        self.close()
        self._settle_if_done()

    def end(self, error: BaseException) -> None:
        """The session broke or closed: say so to those who still wait for results."""
        if not self.finished:
            self.error = error
        self.close()

    def conclude(self) -> None:
        """Take stock: submits still under way have an unknown outcome; name what runs on."""
        if self.concluded:
            return
        self.concluded = True
        left = list(self.entries.values())
        for entry in left:
            self._count(entry)
            self.unfinished.append(_unfinished(entry.job))
        self.entries.clear()
        for entry in left:
            self._tell_waiting(entry, None)
        if self._drained is not None:
            self._drained.set()
        _name_what_runs(self.unfinished)
        _name_what_nobody_took([r for _, r in (*self.ready_results, *self.held_back.items())])

    async def leave(self) -> None:
        """Close, give submits under way a moment to tell their ids, and take stock."""
        if self.closed:
            return
        self.close()
        try:
            if self._keepers:
                await asyncio.wait(self._keepers.values())
            if self.entries:
                await self.dispatcher.settle()
        finally:
            self.conclude()
        if self.feeder is not None:
            await asyncio.wait([self.feeder])

    # -- inside -------------------------------------------------------------------------------

    def _has_room(self) -> bool:
        return self._room() > 0

    def _room(self) -> int:
        """How many more requests may be taken now."""
        if self._held_bytes >= self._window_bytes:
            return 0
        if self._backlog is not None:
            return self._backlog - (self._pulled - self._handed - len(self.unfinished))
        return _UNLIMITED_BACKLOG - len(self.ready_results) - len(self.held_back)

    def _ask_for_more(self) -> None:
        if self._wanted is not None and not self._fetched and self._has_room():
            self._wanted.set()

    async def _feed(self) -> None:
        """Fetch from an async input, one request ahead of what there is room for."""
        assert self._wanted is not None
        try:
            while not self._exhausted:
                await self._wanted.wait()
                self._wanted.clear()
                if self._exhausted:
                    break
                try:
                    fetched = await self._fetch()
                except StopAsyncIteration:
                    self._end_input(None)
                except asyncio.CancelledError as error:
                    if self.closed:
                        raise
                    self._end_input(_input_cancelled(error))
                except Exception as error:
                    self._end_input(error)
                else:
                    self._fetched.extend(fetched)
                    if self._stopped:
                        # The stream was stopped while this one was on its way.
                        self._give_up_fetched()
                        self._settle_if_done()
                    else:
                        self.dispatcher.wake()
        except Exception as error:
            # Without its feeder the stream would wait forever, so it ends with the reason.
            self._stop_taking(unforeseen(error))
        finally:
            await self._close_input()

    async def _close_input(self) -> None:
        close = getattr(self._input, "aclose", None)
        if close is None or not self.closed or self._deaf:
            return
        try:
            async with asyncio.timeout(_CLOSE_INPUT):
                await Abandonable(close())
        except Exception:
            logger.warning("closing a stream's input failed", exc_info=True)

    async def _next_request(self) -> Any:
        """The next request of an async input; raises `StopAsyncIteration` at its end. An input
        that ignores its cancellation is left behind."""
        waiting: Abandonable[Any] = Abandonable(anext(self._input))  # type: ignore[arg-type]
        try:
            return await waiting
        finally:
            if waiting.abandoned:
                self._deaf = True
                logger.warning(
                    "a stream's input ignored its cancellation and was left behind: %.100r",
                    self._input,
                )

    async def _fetch(self) -> list[Any]:
        """The next requests of an async input; raises `StopAsyncIteration` at its end."""
        return [await self._next_request()]

    def _stop_taking(self, error: BaseException | None) -> None:
        """Take no more requests, for whatever reason; those read ahead are given back."""
        self._stopped = True
        self._end_input(error)
        self._give_up_fetched()
        self.dispatcher.scheduler.discard(self)

    def _end_input(self, error: BaseException | None) -> None:
        self._exhausted = True
        if self.error is None:
            self.error = error
        if self._wanted is not None:
            self._wanted.set()
        self._settle_if_done()

    def _give_up_fetched(self) -> None:
        """What was read from the input ahead of its turn will not be submitted: say so."""
        for request in self._fetched:
            self.unfinished.append(_unfinished(Job(self._pulled, request)))
            self._skipped.add(self._pulled)
            self._pulled += 1
        self._fetched.clear()

    def _notify(self) -> None:
        while self._consumers:
            consumer = self._consumers.popleft()
            if not consumer.done():
                consumer.set_result(None)
                return

    def _settle_if_done(self) -> None:
        if self.entries and not self.closed:
            return
        if not self.entries and self._drained is not None:
            self._drained.set()
        if not self.entries and self.dropped:
            self.conclude()
        if self.finished:
            while self._consumers:
                self._notify()


def not_kept(outcome: Succeeded, error: Exception) -> Failed:
    """The task was paid for and succeeded, and its results could not be fetched."""
    return Failed(
        index=outcome.index,
        request=outcome.request,
        attempts=outcome.attempts,
        queries=outcome.queries,
        seconds=outcome.seconds,
        key=outcome.key,
        task=outcome.task,
        error=_known_as(outcome, error),
    )


def _known_as(outcome: Succeeded, error: Exception) -> RunningHubError:
    if isinstance(error, OSError):
        outputs = outcome.task.outputs or (Output(task_id=outcome.task.id),)
        fault = DownloadError(f"cannot be written: {error}", outputs[0])
        fault.__cause__ = error
        return fault
    return error if isinstance(error, RunningHubError) else unforeseen(error)


def _input_cancelled(error: asyncio.CancelledError) -> RuntimeError:
    """The input was cancelled, not its consumer, who must not take it for his own."""
    told = RuntimeError("the stream's input was cancelled")
    told.__cause__ = error
    return told


def _unfinished(job: Job) -> Unfinished:
    state: Literal["running", "unknown", "not_submitted"] = "not_submitted"
    if job.task_id:
        state = "running"
    elif job.state in (JobState.SUBMITTING, JobState.UNKNOWN):
        state = "unknown"
    return Unfinished(
        index=job.index, request=job.request, state=state, task_id=job.task_id or None
    )


def _name_what_runs(unfinished: Iterable[Unfinished]) -> None:
    running = [left.task_id for left in unfinished if left.task_id]
    unknown = sum(left.state == "unknown" for left in unfinished)
    if running:
        logger.warning(
            "a stream was closed while %d tasks still run at the service: %s",
            len(running),
            " ".join(running),
        )
    if unknown:
        logger.warning(
            "a stream was closed while %d submits were under way; their tasks may exist", unknown
        )


def _name_what_nobody_took(results: Iterable[Outcome | Accepted]) -> None:
    tasks = [result.task.id for result in results if result.task is not None]
    if tasks:
        logger.warning(
            "the results of %d tasks were not retrieved: %s", len(tasks), " ".join(tasks)
        )
    unknown = sum(isinstance(result, Unknown) for result in results)
    if unknown:
        logger.warning(
            "the outcomes of %d submits that may have created tasks were not retrieved", unknown
        )
