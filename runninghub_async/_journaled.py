"""Streams over a journal: of requests whose jobs it may know already, and of the jobs it holds."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from weakref import WeakMethod

import attrs

from ._dispatcher import Dispatcher
from ._exceptions import (
    JournalError,
    PayloadError,
    PolicyError,
    ResultsMissing,
    RunningHubError,
    unforeseen,
)
from ._feed import NOTHING, Feed, not_kept
from ._job import Accepted
from ._journal import JobRecord, place_in
from ._keeping import Keeper, kept
from ._outcomes import Failed, Outcome, Succeeded, Unknown
from ._policies import policy_error, wrong_value
from ._recorder import Recorder, already_live, digest_of, is_new
from ._recovery import Plan, Step, plan
from ._scheduler import Entry, Row
from ._states import JobState

#: Jobs of the journal, by their content.
_Equal = Mapping[str, Sequence[JobRecord]]

__all__ = ["FreshFeed", "JournaledFeed", "ResumedFeed", "await_evidence"]

#: States of rows that may have moved to one of the others before a resume takes them up.
_UNSETTLED: Final = frozenset({JobState.NEW, JobState.REFUSED, JobState.UNKNOWN})
_STILL_OPEN: Final = frozenset({JobState.NEW, JobState.REFUSED, JobState.ACCEPTED})

#: Rows of the journal that are read at once.
_PAGE: Final = 200


class FreshFeed(Feed):
    """A feed whose jobs are new to their journal: it was empty, and no other stream has begun."""

    def __init__(
        self, dispatcher: Dispatcher, requests: Any, recorder: Recorder, batch: str, **options: Any
    ) -> None:
        recorder.fresh = False
        recorder.of_first = WeakMethod(self._entry_of)
        super().__init__(dispatcher, requests, **options)
        self._recorder = recorder
        self._batch = batch

    def _entry_of(self, key: str) -> Entry | None:
        entry = self.entries.get(place_in(key))
        return entry if entry is not None and entry.job.key == key else None

    def take(self) -> Entry | None:
        while (request := self.next_request()) is not NOTHING:
            row = self._recorder.row(request, self._pulled, self._batch)
            if row is None or not self._recorder.claimed(row.key):
                return self.enter(request, row)
            self.fail(self.enter(request), already_live(row.key))
        return None


class JournaledFeed(Feed):
    """A feed whose jobs the journal may know. `key(request)` gives a job's own key. `reuse` serves
    a request with the outcome of another job with the same content; the request is submitted only
    if that job failed, was refused or was never sent."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        requests: Any,
        recorder: Recorder,
        batch: str = "",
        *,
        key: Callable[[Any], str] | None = None,
        reuse: bool = False,
        **options: Any,
    ) -> None:
        recorder.fresh = False
        super().__init__(dispatcher, requests, fed=True, **options)
        self._recorder = recorder
        self._batch = batch
        self._key = key
        self._reuse = reuse
        #: The rows of requests that resumed the job of another one, by their places.
        self._own_rows: dict[int, Row] = {}
        #: What was pulled is being looked up, and may yet have to be submitted.
        self._admitting = False
        #: The places of jobs that are being looked up: their tasks may run.
        self._looked_up: set[int] = set()

    @property
    def exhausted(self) -> bool:
        return super().exhausted and not self._admitting

    def ready(self) -> bool:
        return bool(self._fetched) and not self.closed

    def take(self) -> Entry | None:
        while self._fetched:
            entry: Entry = self._fetched.popleft()
            self._ask_for_more()
            if not entry.gone and not entry.job.task_id:
                return entry
        return None

    def _give_up_fetched(self) -> None:
        for entry in list(self._fetched):
            entry.gone = True
            self.let_go(entry)
        self._fetched.clear()

    # -- from requests to entries -------------------------------------------------------------

    async def _fetch(self) -> list[Any]:
        self._admitting = True
        try:
            return await self._pull_known()
        finally:
            self._admitting = False
            self._settle_if_done()

    async def _pull_known(self) -> list[Any]:
        entries = await self._pull()
        try:
            submitted = await self._admit(entries)
        except Exception as error:
            # The journal could not be read for any of them, so waiting for them would never end.
            self._stop_taking(_known_error(error))
            for entry in entries:
                if entry.job.index in self.entries:
                    entry.gone = True
                    self.let_go(entry)
            return []
        if not submitted:
            self._ask_for_more()
        return submitted

    async def _pull(self) -> list[Entry]:
        """As many requests as there is room for, of an async input one."""
        entries: list[Entry] = []
        try:
            if isinstance(self._input, AsyncIterator):
                return [self.enter(await self._next_request())]
            assert isinstance(self._input, Iterator)
            while not entries or (self._has_room() and len(entries) < _PAGE):
                entries.append(self.enter(next(self._input)))
        except (StopIteration, StopAsyncIteration):
            self._end_input(None)
        except Exception as error:
            self._end_input(error)
        return entries

    def _row(self, entry: Entry) -> Row | None:
        request = entry.job.request
        own = None if self._key is None else self._own_key(self._key, request)
        row = self._recorder.row(request, entry.job.index, self._batch, own)
        if row is not None:
            entry.job = entry.job._replace(key=row.key)
        return row

    def _own_key(self, key: Callable[[Any], str], request: Any) -> str:
        """The key that the user's `key` returns; the session ends if it is not text."""
        try:
            own = key(request)
        except BaseException as error:
            # Whatever it raises, a `CancelledError` too, is a fault of this callable.
            fault = policy_error("key", error)
        else:
            if isinstance(own, str):
                return own
            fault = wrong_value("key", own, "a text")
        self.dispatcher.fault(fault)
        raise fault

    async def _admit(self, entries: Sequence[Entry]) -> list[Entry]:
        """Those of `entries` that are to be submitted; what is known of the others goes on from
        where it stands."""
        places = {entry.job.index for entry in entries}
        self._looked_up |= places
        try:
            return await self._find_and_admit(entries)
        finally:
            self._looked_up -= places

    def _waits(self, entry: Entry) -> bool:
        if entry.job.index in self._looked_up or self._recorder.follows(entry):
            return False
        return super()._waits(entry)

    async def _find_and_admit(self, entries: Sequence[Entry]) -> list[Entry]:
        for entry in entries:
            try:
                entry.row = self._row(entry)
            except PolicyError:
                raise
            except Exception as error:
                known_as = error if isinstance(error, RunningHubError) else unforeseen(error)
                self.fail(entry, known_as)
        rows = [entry.row for entry in entries if entry.row is not None]
        digests: dict[str, str] = {}
        if self._reuse:
            digests = {row.key: row.content.digest for row in rows if row.content is not None}
        known, equal = await self._recorder.look_up([row.key for row in rows], digests)
        return [e for e in entries if not e.gone and self._goes(e, known, equal)]

    def _goes(self, entry: Entry, known: Mapping[str, JobRecord], equal: _Equal) -> bool:
        """Whether `entry` is to be submitted. An error of one job ends that job only."""
        try:
            return self._goes_on(entry, known, equal)
        except Exception as error:
            if entry.job.index in self.entries and not entry.gone:
                self.fail(entry, _known_error(error))
            return False

    def _goes_on(self, entry: Entry, known: Mapping[str, JobRecord], equal: _Equal) -> bool:
        """Whether `entry` is to be submitted."""
        row = entry.row
        if row is None:
            # What is wrong with it is found when it is looked at to be sent.
            return True
        record = known.get(row.key)
        if self._reuse and (other := self._recorder.live(row.key)) not in (None, entry):
            assert other is not None
            if row.content is not None and digest_of(other.job.request) == row.content.digest:
                self._wait_for(entry, other)
                return False
        digest = row.content.digest if row.content is not None else ""
        try:
            self._recorder.claim(entry)
            if record is not None and not self._recorder.fits(row, record):
                fault = f"key: {row.key!r} is already used for another request in the journal @ $"
                raise PayloadError([fault])  # noqa: TRY301
        except PayloadError as error:
            entry.row, entry.job = None, entry.job._replace(key="")
            self.fail(entry, error)
            return False
        if self._reuse and digest and is_new(record):
            same = [other for other in equal.get(digest, ()) if other.key != row.key]
            if (goes := self._use(entry, record, digest, same)) is not None:
                return goes
        if digest:
            self._recorder.drives(entry, digest)
        return True if record is None else self.restore(entry, record)

    # -- the same content under another key ---------------------------------------------------

    def _use(
        self,
        entry: Entry,
        record: JobRecord | None,
        digest: str,
        same: Sequence[JobRecord],
    ) -> bool | None:
        """Serve `entry` by another job with its content; None if there is none, else whether it
        is to be submitted, as that job."""
        row, recorder = entry.row, self._recorder
        assert row is not None
        idle = [other for other in same if recorder.live(other.key) is None]
        first = min(idle, key=_rank, default=None)
        if first is None or _rank(first) == _LAST:
            busy = (recorder.driving(recorder.live(other.key)) for other in same)
            under_way = recorder.equal(digest) or next(filter(None, busy), None)
            if under_way is not None and under_way is not entry:
                self._wait_for(entry, under_way)
                return False
        if first is None:
            return None
        if record is not None:
            row.recorded, row.faulted = record.state, True
        if first.state is JobState.STORED and first.damage is None:
            self.fetch(entry, self._serve(entry, first))
            return False
        self._own_rows[entry.job.index] = row
        if waiting := recorder.waiting.pop(row.key, None):
            # What waits for this job hears of it under the key that it has from now on.
            recorder.waiting.setdefault(first.key, []).extend(waiting)
        entry.row = Row(first.key, None, None, first.place, first.batch, first.state)
        entry.job = entry.job._replace(key=first.key)
        recorder.claim(entry)
        recorder.drives(entry, digest)
        return self.restore(entry, first)

    def _wait_for(self, entry: Entry, other: Entry) -> None:
        """Have `entry` wait for the end of a job with the same content."""

        def ended(result: Outcome | Accepted | None) -> None:
            if entry.gone:
                return
            if isinstance(result, Succeeded):
                self.fetch(entry, self._share(entry, result))
            elif isinstance(result, Unknown):
                entry.gone = True
                job = entry.job
                self._hand_in(entry, attrs.evolve(result, index=job.index, request=job.request))
            else:
                # That job failed, or was detached while its task runs: look into the journal again.
                self.dispatcher.help(self._admit_again(entry))

        self._recorder.wait_for(other, entry, ended)

    async def _admit_again(self, entry: Entry) -> None:
        try:
            submitted = await self._admit([entry])
        except Exception as error:
            if entry.job.index in self.entries and not entry.gone:
                self.fail(entry, _known_error(error))
            return
        if submitted:
            self._submit_later(entry)

    def _submit_later(self, entry: Entry) -> None:
        if self._stopped:
            entry.gone = True
            self.let_go(entry)
            return
        self._fetched.append(entry)
        self.dispatcher.scheduler.discard(self)
        self.dispatcher.scheduler.add(self)
        self.dispatcher.wake()

    async def _share(self, entry: Entry, made: Succeeded) -> None:
        """Serve a job with the outcome of another one with the same content."""
        job, row, keeper = entry.job, entry.row, self.keeper
        assert row is not None
        outcome = attrs.evolve(
            made, index=job.index, request=job.request, key=row.key, attempts=0, queries=0,
            seconds=None, files=(), missing=(),
        )  # fmt: skip
        result: Outcome | None = outcome
        try:
            whole = bool(made.files) and not made.missing
            if keeper is not None and whole:
                copies = await keeper.copy(outcome, row, made.files, self)
                result = attrs.evolve(outcome, files=copies)
                self._recorder.shared(row, outcome, kept(copies), whole=True)
            else:
                self._recorder.shared(row, outcome, (), whole=False)
                result = None if keeper is not None else outcome
        except Exception as error:
            result = not_kept(outcome, error)
        finally:
            if result is not None:
                self._keepers.pop(job.index, None)
                entry.gone = True
                self._hand_in(entry, result)
        if result is None and keeper is not None:
            entry.gone = True
            await self._keep(keeper, entry, outcome)

    def _hand_in(self, entry: Entry, result: Outcome | Accepted) -> None:
        own = self._own_rows.pop(entry.job.index, None)
        if own is not None and isinstance(result, Succeeded):
            # The next run finds it by this request, too.
            whole = bool(result.files) and not result.missing
            self._recorder.shared(own, result, kept(result.files), whole=whole)
        super()._hand_in(entry, result)

    def let_go(self, entry: Entry) -> None:
        self._own_rows.pop(entry.job.index, None)
        super().let_go(entry)

    # -- jobs that are known ------------------------------------------------------------------

    def restore(self, entry: Entry, record: JobRecord) -> bool:
        """Resume a job of the journal; whether it is to be submitted."""
        row, job = entry.row, entry.job
        assert row is not None
        row.recorded, row.content, row.params = record.state, None, None
        row.known = row.faulted = True
        rules, now = self.dispatcher.rules, time.time()
        keeps = self.keeper is not None
        made = plan(record, job.index, job.request, rules, keeps=keeps, now=now)
        entry.job = made.job._replace(follow=job.follow)
        if made.step is Step.SUBMIT:
            self._recorder.again(row)
            return True
        if not job.follow and record.task is not None and record.damage is None:
            entry.gone = True
            self._hand_in(entry, Accepted(record.task))
            return False
        if made.step in (Step.FOLLOW, Step.AWAIT):
            if made.step is Step.AWAIT:
                await_evidence(self.dispatcher, entry, made)
            self.dispatcher.scheduler.adopt(entry, self.dispatcher.loop.time())
            self.dispatcher.wake()
            return False
        entry.gone = True
        outcome, keeper = made.outcome, self.keeper
        assert outcome is not None
        if made.step is Step.FETCH and record.ended_at is not None and record.task is not None:
            # Results may be on their way to their host for a minute after the end of a task.
            ended = self.dispatcher.loop.time() - max(0.0, now - record.ended_at)
            self.dispatcher.ended.setdefault(record.task.id, ended)
        if keeper is not None and isinstance(outcome, Succeeded) and made.step is not Step.DELIVER:
            if made.step is Step.FETCH:
                self.fetch(entry, self._keep(keeper, entry, outcome, record.files))
            else:
                self.fetch(entry, self._check(keeper, entry, outcome, record))
        else:
            self._hand_in(entry, outcome)
        return False

    async def _check(
        self, keeper: Keeper, entry: Entry, outcome: Succeeded, record: JobRecord
    ) -> None:
        result: Outcome | None = outcome
        try:
            files = await keeper.check(record.files)
            result = None if files is None else attrs.evolve(outcome, files=files)
        finally:
            if result is not None:
                self._keepers.pop(entry.job.index, None)
                self._hand_in(entry, result)
        if result is None and entry.row is not None:
            self._recorder.unstored(entry.row)
            await self._keep(keeper, entry, outcome, record.files)

    async def _serve(self, entry: Entry, record: JobRecord) -> None:
        """Serve a job with what another one with the same content made, if that is still whole;
        submit it otherwise."""
        made = plan(
            record, entry.job.index, entry.job.request, self.dispatcher.rules, keeps=False, now=0.0
        )
        outcome, keeper, row = made.outcome, self.keeper, entry.row
        result: Outcome | None = None
        try:
            if isinstance(outcome, Succeeded) and row is not None:
                outcome = attrs.evolve(outcome, key=row.key, attempts=0, seconds=None)
                if keeper is None:
                    result = outcome
                    self._recorder.reused(entry, outcome, ())
                elif (files := await keeper.check(record.files)) is not None:
                    copies = await keeper.copy(outcome, row, files, self)
                    result = attrs.evolve(outcome, files=copies)
                    self._recorder.reused(entry, outcome, kept(copies))
        except Exception as error:
            assert isinstance(outcome, Succeeded)
            result = not_kept(outcome, error)
        finally:
            self._keepers.pop(entry.job.index, None)
            entry.fetching = False
            if result is not None:
                entry.gone = True
                self._hand_in(entry, result)
            else:
                self._submit_later(entry)


#: What is served first: jobs that run or have succeeded, then stored ones, then the others.
_FIRST, _SECOND, _LAST = range(3)


def _rank(record: JobRecord) -> int:
    if record.damage is not None or record.state in (JobState.UNKNOWN, JobState.SUBMITTING):
        return _LAST
    return _SECOND if record.state is JobState.STORED else _FIRST


def _known_error(error: Exception) -> RunningHubError:
    """The error of a stream or a job for which the journal could not be read."""
    if isinstance(error, RunningHubError):
        return error
    failure = JournalError(f"the journal cannot be read: {error!r}")
    failure.__cause__ = error
    return failure


class ResumedFeed(JournaledFeed):
    """A feed of the jobs that a journal holds and that have not ended, in order: first what was
    paid for already, then what was never submitted."""

    def __init__(
        self, dispatcher: Dispatcher, recorder: Recorder, *, check: bool, **options: Any
    ) -> None:
        super().__init__(dispatcher, (), recorder, **options)
        keeps = self.keeper is not None
        self._phases = deque[Sequence[JobState]](
            [
                # Rows whose state cannot be read: each is reported once.
                *([()] if hasattr(recorder.store, "find_damaged") else []),
                (JobState.ACCEPTED, JobState.RUNNING),
                *([(JobState.SUCCEEDED, JobState.PARTLY_STORED)] if keeps else []),
                (JobState.UNKNOWN,),
                # A webhook may have named the task of an unknown job before its turn came.
                (JobState.ACCEPTED, JobState.RUNNING),
                (JobState.NEW, JobState.REFUSED),
                # Last, since it may take long: what is stored is looked at again, bit by bit.
                *([(JobState.STORED,)] if keeps and check else []),
            ]
        )
        self._page: deque[JobRecord] = deque()
        #: Keys of jobs whose tasks have succeeded and show no results.
        self._without_results: set[str] = set()
        self._after = 0
        #: Damaged rows that were reported by an outcome: they stay as they are, and are found
        #: again.
        self._damaged: set[int] = set()

    async def _fetch(self) -> list[Any]:
        submitted: list[Entry] = []
        try:
            while not self._page and self._phases:
                await self._turn_page()
            if not self._page:
                self._end_input(None)
            elif self._has_room():
                submitted = await self._take_page()
        except Exception as error:
            self._stop_taking(_known_error(error))
        self._ask_for_more()
        return submitted

    async def _turn_page(self) -> None:
        states, store = self._phases[0], self._recorder.store
        if states:
            page = await store.find_open(states, self._after, _PAGE)
        else:
            page = await store.find_damaged(self._after, _PAGE)  # type: ignore[attr-defined]
        for record in page:
            if self.closed:
                break
            if record.damage is not None:
                if record.seq in self._damaged:
                    continue
                self._damaged.add(record.seq)
            stored = record.state is JobState.STORED and record.damage is None
            if not stored or await self._has_changed(record):
                self._page.append(record)
        self._after = page[-1].seq if page else 0
        if not page:
            self._phases.popleft()

    async def _has_changed(self, record: JobRecord) -> bool:
        assert self.keeper is not None
        return bool(record.files) and await self.keeper.check(record.files) is None

    def _hand_in(self, entry: Entry, result: Outcome | Accepted) -> None:
        if isinstance(result, Failed) and isinstance(result.error, ResultsMissing):
            # It stays open in the journal, and has been asked for its results long enough.
            self._without_results.add(entry.job.key)
        super()._hand_in(entry, result)

    async def _take_page(self) -> list[Entry]:
        """Take up as much of the page as there is room for, as it is by now; what is under way
        here, or was meanwhile, is passed over."""
        records = [self._page.popleft() for _ in range(min(len(self._page), self._room()))]
        live = self._recorder.live
        keys = [record.key for record in records if live(record.key) is None]
        known, _ = await self._recorder.look_up(keys)
        submitted: list[Entry] = []
        for record in records:
            # A damaged row may have no usable key.
            now = known.get(record.key) if record.damage is None else record
            if now is None or live(record.key) is not None or record.key in self._without_results:
                continue
            # It may have been submitted meanwhile, by a stream that was left.
            moved = record.state in _UNSETTLED and now.state in _STILL_OPEN
            if (moved or now.state is record.state) and (entry := self._take_up(now)) is not None:
                submitted.append(entry)
        return submitted

    def _take_up(self, record: JobRecord) -> Entry | None:
        """An entry to submit, or None for a job that is continued in another way."""
        row = Row(record.key, None, None, record.place, record.batch, record.state)
        entry = self.enter(record.request, row)
        try:
            self._recorder.claim(entry)
            return entry if self.restore(entry, record) else None
        except Exception as error:
            if entry.job.index in self.entries and not entry.gone:
                self.fail(entry, _known_error(error))
            return None


def await_evidence(dispatcher: Dispatcher, entry: Entry, made: Plan) -> None:
    """After a submit whose answer was lost in an earlier session, its webhook may tell yet."""
    assert entry.row is not None
    entry.lost = made.error
    entry.due = dispatcher.loop.time() + (made.until - time.time())
    entry.announced = entry.row.key
    dispatcher.announced[entry.row.key] = entry
