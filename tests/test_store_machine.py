"""The journal's store against a plain dictionary, under any order of what may happen to it."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import attrs
import hypothesis
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support import FULL

import runninghub_async as rh
from runninghub_async import MOVES, Begun, Content, JobFacts, JobState, Moved

T = TypeVar("T")

KEYS = [f"job {n}" for n in range(8)]
BATCHES = ["", "posters"]
CODES = ["", "421", "1005"]
URL = "https://service.example"

keys = st.sampled_from(KEYS)
batches = st.sampled_from(BATCHES)
states = st.sampled_from(sorted(JobState))
NEVER_SENT = (JobState.NEW, JobState.FAILED)


@attrs.define
class Known:
    """A row, as the model has it; `seq` only orders them."""

    seq: int
    batch: str
    state: JobState
    attempts: int = 0
    task_id: str = ""
    code: str = ""
    error: str = ""
    aside: bool = False

    def found(self, task_id: str) -> None:
        """Its event told of its task: what happened to the answer says nothing any more."""
        self.state, self.task_id, self.code, self.error = JobState.ACCEPTED, task_id, "", ""

    @property
    def never_sent(self) -> bool:
        return self.state in NEVER_SENT and not self.attempts


class StoreMachine(RuleBasedStateMachine):
    """One journal, in a folder of its own, opened again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.loop = asyncio.new_event_loop()
        self.jobs: dict[str, Known] = {}
        self.early: dict[str, str] = {}
        self.spent = Decimal(0)
        self.count = 0

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin_with_nothing(self) -> None:
        self.open()
        assert self.do(self.store.is_empty())

    def open(self) -> None:
        self.store = rh.SqliteJobStore(self.folder / "run.db")
        self.do(self.store.open(URL))

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.compare()
            self.do(self.store.aclose())
        self.loop.close()
        shutil.rmtree(self.folder)

    def add(self, key: str, batch: str, state: JobState) -> Known:
        self.count += 1
        job = self.jobs[key] = Known(self.count, batch, state)
        return job

    def begun(self, key: str, state: JobState, batch: str = "", attempts: int = 0) -> Begun:
        known = self.jobs.get(key)
        content = Content("a/model", json.dumps({"prompt": key}), key)
        old = None if known is None else known.state
        return Begun(key, old, state, time.time(), content, 0, batch, attempts)

    # -- what happens to jobs -----------------------------------------------------------------

    @rule(key=keys, batch=batches)
    def a_submit_leaves(self, key: str, batch: str) -> None:
        job = self.jobs.get(key)
        if job is not None and JobState.SUBMITTING not in MOVES[job.state]:
            return
        attempts = 1 if job is None else job.attempts + 1
        begun = self.begun(key, JobState.SUBMITTING, batch, attempts)
        never_sent = job is None or job.state is JobState.NEW
        expected = self.early.get(key, "") if never_sent else ""
        job = job or self.add(key, batch, JobState.SUBMITTING)
        assert self.do(self.store.begin(begun)) == expected
        job.state, job.attempts, job.aside = JobState.SUBMITTING, attempts, False

    @rule(key=keys, batch=batches)
    def one_is_put_down(self, key: str, batch: str) -> None:
        if key not in self.jobs:
            begun = self.begun(key, JobState.NEW, batch)
            self.add(key, batch, JobState.NEW)
            self.do(self.note(begun))

    async def note(self, move: Begun | Moved) -> None:
        self.store.note(move)

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def one_moves(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.jobs)))
        job = self.jobs[key]
        ways = sorted(set(MOVES[job.state]) - {JobState.SUBMITTING})
        if not ways:
            return
        state = data.draw(st.sampled_from(ways))
        facts: JobFacts = {}
        if state in (JobState.ACCEPTED, JobState.SUCCEEDED, JobState.STORED):
            facts["task_id"] = job.task_id = job.task_id or data.draw(st.sampled_from("123"))
        if state is JobState.ACCEPTED:
            self.early.pop(key, None)
        if state in (JobState.SUCCEEDED, JobState.STORED):
            facts["task"] = '{"status": "SUCCESS"}'
        if state is JobState.SUCCEEDED:
            facts["cost"] = cost = data.draw(st.integers(0, 3 * 10**9))
            self.spent += Decimal(cost) / 10**9
        if state in (JobState.FAILED, JobState.UNKNOWN, JobState.REFUSED):
            facts["code"] = job.code = data.draw(st.sampled_from(CODES))
            facts["error"] = job.error = "what was told"
        self.do(self.note(Moved(key, job.state, state, time.time(), facts)))
        job.state, job.aside = state, False

    @rule(key=keys, task_id=st.sampled_from("789"))
    def an_event_comes(self, key: str, task_id: str) -> None:
        job = self.jobs.get(key)
        record = self.do(self.store.event(key, task_id))
        if job is None:
            self.early[key] = task_id
            assert record is None
        elif job.state in (JobState.UNKNOWN, JobState.SUBMITTING):
            job.found(task_id)
            self.early.pop(key, None)
            assert record is not None
            self.same(record, key)
        else:
            assert record is None

    @rule(
        state=st.sampled_from([JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN]),
        code=st.sampled_from([None, *CODES[1:]]),
    )
    def some_are_put_back(self, state: JobState, code: str | None) -> None:
        count = 0
        for job in self.jobs.values():
            # One with a task whose end the service did not name is left as it is.
            if job.state is state and code in (None, job.code) and not job.task_id:
                count += 1
                job.state, job.attempts = JobState.NEW, 0
                job.task_id = job.code = job.error = ""
        assert self.do(self.store.put_back(state, code)) == count

    @rule(batch=batches, listed=st.sets(keys))
    def a_list_is_put_down(self, batch: str, listed: set[str]) -> None:
        """In one go, or left by a crash after any of its steps, as the rules below do."""
        self.some_are_set_aside(batch)
        self.some_are_listed(batch, listed)
        self.what_is_set_aside_is_dropped(batch)

    @rule(batch=batches)
    def some_are_set_aside(self, batch: str) -> None:
        for job in self.jobs.values():
            job.aside |= job.batch == batch and job.never_sent
        self.do(self.store.set_aside(batch))

    @rule(batch=batches, listed=st.sets(keys))
    def some_are_listed(self, batch: str, listed: set[str]) -> None:
        page: list[Begun | tuple[Begun, Moved]] = []
        fresh = sorted(listed - set(self.jobs))
        for key in sorted(listed):
            content = Content("a/model", json.dumps({"prompt": key}), key)
            now = time.time()
            begun = Begun(key, None, JobState.NEW, now, content, 0, batch)
            if int(key[-1]) % 3:
                page.append(begun)
                continue
            facts = JobFacts(code="1007", error="a fault")
            end = Moved(key, JobState.NEW, JobState.FAILED, now, facts)
            page.append((begun, end))
        assert self.do(self.store.enlist(page)) == len(fresh)
        for key in sorted(listed):
            if key not in fresh:
                self.jobs[key].aside = False
            elif int(key[-1]) % 3:
                self.add(key, batch, JobState.NEW)
            else:
                job = self.add(key, batch, JobState.FAILED)
                job.code, job.error = "1007", "a fault"

    @rule(batch=batches)
    def what_is_set_aside_is_dropped(self, batch: str) -> None:
        gone = [
            key for key, job in self.jobs.items()
            if job.batch == batch and job.aside and job.never_sent
        ]  # fmt: skip
        for key in gone:
            del self.jobs[key]
        assert self.do(self.store.drop_set_aside(batch)) == len(gone)

    @rule()
    def it_is_closed_and_opened_again(self) -> None:
        self.do(self.store.aclose())
        self.open()
        for job in self.jobs.values():
            if job.state is JobState.SUBMITTING:
                job.state, job.error = JobState.UNKNOWN, "the process that sent it ended"
        told = {
            key: self.early[key] for key, job in self.jobs.items()
            if job.state is JobState.UNKNOWN and key in self.early
        }  # fmt: skip
        for key, task_id in told.items():
            self.jobs[key].found(task_id)
        if told:
            for key in [k for k in self.early if k in self.jobs and self.jobs[k].task_id]:
                del self.early[key]

    # -- what is known of them ----------------------------------------------------------------

    def same(self, record: rh.JobRecord, key: str) -> None:
        job = self.jobs[key]
        assert record.key == key
        assert (record.state, record.batch, record.attempts) == (job.state, job.batch, job.attempts)
        assert (record.task.id if record.task else "") == job.task_id
        assert record.code == job.code
        assert record.error.startswith(job.error)
        assert bool(record.error) == bool(job.error)
        assert record.request.to_params() == {"prompt": key}

    @rule(asked=st.sets(keys))
    def some_are_found(self, asked: set[str]) -> None:
        found = self.do(self.store.find(sorted(asked)))
        assert set(found) == asked & set(self.jobs)
        for key, record in found.items():
            self.same(record, key)

    @rule(wanted=st.sets(states, min_size=1), limit=st.integers(1, 5), data=st.data())
    def open_ones_are_found(self, wanted: set[JobState], limit: int, data: st.DataObject) -> None:
        every = self.do(self.store.find_open(tuple(wanted), 0, 100))
        expected = sorted(
            (job.seq, key) for key, job in self.jobs.items()
            if job.state in wanted and not job.aside
        )  # fmt: skip
        assert [record.key for record in every] == [key for _, key in expected]
        after = data.draw(st.sampled_from([0, *(record.seq for record in every)]))
        page = self.do(self.store.find_open(tuple(wanted), after, limit))
        assert page == [record for record in every if record.seq > after][:limit]

    @rule()
    def compare(self) -> None:
        """The counts, the sum and the rows tell the same, to a reader beside it, too."""
        self.do(self.store.flush())
        assert self.do(self.store.spent()) == self.spent
        assert self.do(self.store.is_empty()) == (not self.jobs)
        with rh.JournalReader(self.folder / "run.db") as reader:
            summary = reader.summary()
            records = list(reader.jobs())
            for state in JobState:
                assert [r.key for r in reader.jobs(state)] == [
                    r.key for r in records if r.state is state
                ]
        assert summary.spent.amount == self.spent
        expected = Counter(job.state for job in self.jobs.values())
        assert {state: count for state, count in summary.states.items() if count} == expected
        assert [r.key for r in records] == sorted(self.jobs, key=lambda key: self.jobs[key].seq)
        for record in records:
            self.same(record, record.key)


TestStore = StoreMachine.TestCase
# To find the shortest example would write thousands of journals more.
TestStore.settings = settings(
    max_examples=60 if FULL else 20, stateful_step_count=40, phases=[hypothesis.Phase.generate]
)


def test_jobs_that_are_written_at_once_keep_their_order(tmp_path: Path) -> None:
    """Also where some of them have moved on by then, and others have not."""

    def begun(number: int, old: JobState | None, state: JobState) -> Begun:
        content = Content("a/model", "{}", str(number))
        return Begun(f"job {number}", old, state, 0.0, content, 0, "", 0)

    async def main() -> list[str]:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open(URL)
        for number in range(6):
            store.note(begun(number, None, JobState.NEW))
        moving = [store.begin(begun(n, JobState.NEW, JobState.SUBMITTING)) for n in (0, 3, 4)]
        await asyncio.gather(*moving)
        await store.flush()
        found = await store.find_open((JobState.NEW, JobState.SUBMITTING), 0, 100)
        await store.aclose()
        return [record.key for record in found]

    assert asyncio.run(main()) == [f"job {number}" for number in range(6)]


# -- the table --------------------------------------------------------------------------------


def test_every_state_can_be_reached() -> None:
    """From `new`."""
    reached = {JobState.NEW}
    while more := {state for old in reached for state in MOVES[old]} - reached:
        reached |= more
    assert reached == set(JobState) == set(MOVES)


def test_an_open_job_can_end() -> None:
    """From every state there is a way to one that a resumed run leaves as it is."""
    ending = {JobState.STORED, JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN}
    while more := {old for old in JobState if set(MOVES[old]) & ending} - ending:
        ending |= more
    assert ending == set(JobState)


@pytest.mark.parametrize("old", JobState)
def test_a_move_is_to_another_state_and_says_why(old: JobState) -> None:
    """So that the table can be read."""
    assert old not in MOVES[old]
    assert all(MOVES[old].values())
