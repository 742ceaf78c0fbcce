"""What comes at a bad moment: two streams, a webhook, a leave, a list, an odd value."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import Gated, Service, posters, refusal
from test_journal import LOST, collect, states
from test_journal_damage import edit, within_reason
from test_journal_owner import hearing

import runninghub_async as rh
from runninghub_async.emulator import Emulator
from runninghub_async.testing import MockTransport, json_response, run

URL = "https://example.org/hooks"


class Slow(rh.SqliteJobStore):
    """A store before whose commits something may happen: `before(job)`."""

    def __init__(self, path: Path, before: Callable[[Any], Awaitable[None]]) -> None:
        super().__init__(path)
        self._before = before

    async def begin(self, job: rh.Begun) -> str | None:
        await self._before(job)
        return await super().begin(job)


class Hooked(Service):
    """Remembers the addresses of webhooks, and makes events for them."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.addresses: dict[str, str] = {}

    async def _answer(self, request: rh.Request) -> rh.Response:
        body = json.loads(request.body or b"{}")
        if "webhookUrl" in body:
            self.addresses[body["prompt"]] = body["webhookUrl"]
        return await super()._answer(request)

    def event(self, prompt: str) -> tuple[str, bytes]:
        (task_id,) = [task for task, of in self.created.items() if of == prompt]
        told = {"taskId": task_id, "status": "SUCCESS"}
        return self.addresses[prompt].partition("?")[2], json.dumps(told).encode()


async def nothing(_: Any) -> None:
    """Nothing happens."""


def test_an_odd_text_of_the_service_takes_nothing_else_with_it(tmp_path: Path) -> None:
    """Half of a surrogate pair in an error; the other jobs' rows are written all the same."""
    odd = json_response({"errorCode": "1501", "errorMessage": "bad word: \ud83d"})
    service = Service(5.0, on_submit=lambda prompt: odd if prompt[-1] == "3" else None)

    async def main() -> list[Any]:
        async with service.session(journal=tmp_path / "run.db") as session:
            return await collect(session.stream(posters(8)))

    assert sum(outcome.ok for outcome in run(main)) == 7
    assert states(tmp_path / "run.db") == {"failed": 1, "succeeded": 7}


@pytest.mark.parametrize("windows", [(1, 8), (8, 1), (20, 20)])
def test_two_streams_of_the_same_jobs_make_each_once(
    tmp_path: Path, windows: tuple[int, int]
) -> None:
    """One of them gets each job, the other gets an error; neither breaks the other."""
    service = Service(3.0)

    async def main() -> list[list[Any]]:
        async with service.session(journal=tmp_path / "run.db") as session:
            streams = [session.stream(posters(20), window=window) for window in windows]
            return list(await asyncio.gather(*map(collect, streams)))

    one, other = run(main)
    assert set(service.submitted.values()) == {1}
    assert len(service.created) == 20
    assert states(tmp_path / "run.db") == {"succeeded": 20}
    assert {o.index for o in (*one, *other) if o.ok} == set(range(20))
    faults = [o.error for o in (*one, *other) if not o.ok]
    assert all(isinstance(fault, rh.PayloadError) for fault in faults)


@pytest.mark.parametrize("window", [1, 2])
def test_a_call_beside_a_stream_that_has_a_job_of_its_key(tmp_path: Path, window: int) -> None:
    """The second gets an error, and the job is sent once."""
    service = Service(30.0)

    async def main() -> tuple[str, list[Any], Any]:
        async with service.session(journal=tmp_path / "first.db") as session:
            known = (await collect(session.stream(posters(2), ordered=True)))[1]
        async with service.session(journal=tmp_path / "run.db") as session:
            service.submitted.clear()
            stream = session.stream(posters(2), window=window, ordered=True)
            while len(service.submitted) < window:
                await asyncio.sleep(0.1)
            call = asyncio.ensure_future(session.run(known.request, key=known.key))
            outcomes = await collect(stream)
            return known.key, outcomes, (await asyncio.gather(call, return_exceptions=True))[0]

    key, (one, other), called = run(main)
    assert one.ok
    assert set(service.submitted.values()) == {1}
    late = other.error if window == 1 else called
    early = called if window == 1 else other
    assert isinstance(late, rh.PayloadError)
    assert key in str(late)
    assert isinstance(early, rh.Task | rh.Succeeded)


def test_a_list_made_anew_while_it_is_worked_off(tmp_path: Path) -> None:
    """What it strikes out is not submitted any more, or stays in the journal."""
    service = Service(30.0)

    async def main() -> list[Any]:
        limits = rh.Limits(1, None, None)
        async with service.session(journal=tmp_path / "run.db", limits=limits) as session:
            await session.enlist(posters(6))
            stream = session.resume(window=6)
            while not service.created:
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            await session.enlist([])
            return await collect(stream)

    outcomes = run(main)
    told = states(tmp_path / "run.db")
    assert told == {"succeeded": len(service.created)}
    assert sum(outcome.ok for outcome in outcomes) == len(service.created) < 6


def test_a_list_beside_a_stream_of_the_same_jobs(tmp_path: Path) -> None:
    """In a journal that was empty when the stream began."""
    service = Service(3.0)

    async def main() -> None:
        limits = rh.Limits(4, None, None)
        async with service.session(journal=tmp_path / "run.db", limits=limits) as session:
            stream = session.stream(posters(20))
            await asyncio.sleep(1)
            await session.enlist(posters(20))
            await collect(stream)
            await collect(session.resume())

    run(main)
    assert states(tmp_path / "run.db") == {"succeeded": 20}
    assert set(service.submitted.values()) == {1}


@pytest.mark.parametrize("at_once", [True, False])
def test_a_webhook_while_a_resubmit_is_written_down(tmp_path: Path, at_once: bool) -> None:
    """The task exists after all: it is followed, and nothing is sent."""
    hooks = rh.Webhooks(URL, patience=5.0)
    lost = "a poster of the number 2"
    service = Hooked(50.0, after_submit=lambda prompt: LOST if prompt == lost else None)

    async def tell(job: Any) -> None:
        if job.old is rh.JobState.UNKNOWN:
            if at_once:
                assert hooks.receive(*service.event(lost)) == 204
            else:
                assert await hooks.take(*service.event(lost)) == 204
            await asyncio.sleep(0.001)

    async def main() -> list[Any]:
        store = Slow(tmp_path / "run.db", tell)
        async with service.session(journal=store, webhooks=hooks, unknown="resubmit") as session:
            return await collect(session.stream(posters(5)))

    assert all(outcome.ok for outcome in run(main))
    assert set(service.submitted.values()) == {1}
    assert states(tmp_path / "run.db") == {"succeeded": 5}


def test_evidence_that_came_before_a_resubmit_was_its_turn(tmp_path: Path) -> None:
    """Found in a later session, while the job waits for a slot."""
    service = Hooked(5.0, after_submit=lambda _: LOST)
    journal = tmp_path / "run.db"

    async def first() -> None:
        async with service.session(
            journal=journal, webhooks=rh.Webhooks(URL, patience=0.1)
        ) as session:
            assert not any(o.ok for o in await collect(session.stream(posters(2))))

    async def second() -> list[Any]:
        service.after_submit = None
        hooks = rh.Webhooks(URL, patience=0.0)
        async with service.session(
            journal=journal, webhooks=hooks, unknown="resubmit", limits=rh.Limits(1, None, None)
        ) as session:
            stream = session.resume(window=2)
            resuming = asyncio.ensure_future(collect(stream))
            while sum(service.submitted.values()) < 3:
                await asyncio.sleep(0.01)
            waits = min(service.submitted, key=lambda prompt: service.submitted[prompt])
            assert await hooks.take(*service.event(waits)) == 204
            return await resuming

    run(first)
    assert all(outcome.ok for outcome in run(second))
    assert sorted(service.submitted.values()) == [1, 2]


def test_a_webhook_is_believed_more_than_a_refusal() -> None:
    """421 says that nothing was created; the event of the task says otherwise."""
    hooks = rh.Webhooks(URL)
    answers = [refusal("421")]
    service = Hooked(50.0, after_submit=lambda _: answers.pop() if answers else None)

    async def main() -> str:
        async with service.session(webhooks=hooks) as session:
            running = asyncio.ensure_future(session.run(next(posters())))
            while not service.created:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            hooks.receive(*service.event("a poster of the number 0"))
            return (await running).id

    assert [run(main)] == list(service.created)
    assert set(service.submitted.values()) == {1}


def test_who_leaves_before_a_resubmit_left_leaves_it_unknown(tmp_path: Path) -> None:
    """And not as one that was never sent, which any later session would submit."""
    service, journal = Service(5.0, after_submit=lambda _: LOST), tmp_path / "run.db"
    begun = asyncio.Event()

    async def wait(job: Any) -> None:
        if job.old is rh.JobState.UNKNOWN:
            begun.set()
            await asyncio.sleep(0.005)

    async def main() -> None:
        async with service.session(journal=Slow(journal, wait), unknown="resubmit") as session:
            stream = session.stream(posters(1))
            await begun.wait()
            await stream.aclose()

    run(main)
    assert states(journal) == {"unknown": 1}
    assert set(service.submitted.values()) == {1}


def test_a_resubmit_that_was_refused_is_still_unknown(tmp_path: Path) -> None:
    """The refusal is of the second submit; a session that holds does not send a third."""
    answers: list[Any] = [LOST, *[refusal("421")] * 500]
    service, journal = Service(5.0, on_submit=lambda _: answers.pop(0)), tmp_path / "run.db"

    async def main() -> None:
        async with service.session(journal=journal, unknown="resubmit") as session:
            async with session.stream(posters(1)):
                while len(answers) > 497:
                    await asyncio.sleep(0.1)

    run(main)
    assert states(journal) == {"unknown": 1}


def test_money_that_was_reserved_and_not_spent_is_free_again(tmp_path: Path) -> None:
    """A stream is left while its submit waits to be written down; another one still can submit."""
    service = Service(5.0)
    begun = asyncio.Event()

    async def wait(_: Any) -> None:
        if not begun.is_set():
            begun.set()
            await asyncio.sleep(0.005)

    async def main() -> list[Any]:
        async with service.session(
            journal=Slow(tmp_path / "run.db", wait),
            budget=rh.Money("0.30", "CNY"),
            base_url="https://www.runninghub.cn",
        ) as session:
            stream = session.stream(posters(4), window=1)
            await begun.wait()
            await stream.aclose()
            return await collect(session.stream(posters(1), batch="other"))

    (outcome,) = run(main)
    assert outcome.ok


def test_a_resubmit_may_be_a_second_bill_to_the_budget(tmp_path: Path) -> None:
    """Both count; and so do tasks of an earlier session that still run."""
    service, journal = Service(5.0, after_submit=lambda _: LOST), tmp_path / "run.db"
    budget: dict[str, Any] = {
        "budget": rh.Money("1.00", "CNY"), "base_url": "https://www.runninghub.cn"
    }  # fmt: skip

    async def main(batch: str) -> None:
        async with service.session(journal=journal, unknown="resubmit", **budget) as session:
            with pytest.raises(rh.BudgetError):
                await collect(session.stream(posters(8), batch=batch))

    run(main, "a")
    assert len(service.created) == 4
    run(main, "b")
    assert len(service.created) == 4


def test_a_key_that_cannot_be_kept_fails_its_job_alone(tmp_path: Path) -> None:
    """Half of a surrogate pair, a key without end, an empty one."""
    bad = ["\ud83d", "x" * 501, ""]

    def key(request: Any) -> str:
        number = int(request.prompt[-1])
        return bad[number] if number < 3 else "fine"

    service = Service(5.0)

    async def main() -> list[Any]:
        async with service.session(journal=tmp_path / "run.db") as session:
            return await collect(session.stream(posters(4), key=key, ordered=True))

    *faulty, fine = run(main)
    assert [type(o.error) for o in faulty] == [rh.PayloadError] * 3
    assert fine.ok
    assert len(service.created) == 1


def test_what_no_journal_can_keep_is_not_sent(tmp_path: Path) -> None:
    """It would be found by no later run, and billed again by each."""
    service = Service(5.0)
    odd = rh.ModelRequest("new/text-to-image", {"prompt": "p", "extra": {1: "a", "b": 2}},
                          checked=False)  # fmt: skip

    async def main() -> list[Any]:
        async with service.session(journal=tmp_path / "run.db") as session:
            return await collect(session.stream([odd, next(posters())], ordered=True))

    first, second = run(main)
    assert isinstance(first.error, rh.PayloadError)
    assert second.ok
    assert "p" not in service.submitted


def test_a_key_is_free_again_once_its_call_has_failed(tmp_path: Path) -> None:
    """Refused, or left before it was sent."""
    answers: list[Any] = [refusal("1002")]
    service = Service(5.0, on_submit=lambda _: answers.pop() if answers else None)
    poster = next(posters())

    async def main() -> None:
        async with service.session(journal=tmp_path / "run.db") as session:
            with pytest.raises(rh.AuthenticationError):
                await session.run(poster, key="one")
            assert (await session.run(poster, key="one")).done
            left = asyncio.ensure_future(session.run(poster, key="two"))
            await asyncio.sleep(0)
            left.cancel()
            await asyncio.wait([left])
            assert (await session.run(poster, key="two")).done

    run(main)


def test_two_that_follow_one_task_count_it_once(tmp_path: Path) -> None:
    """`as_completed` beside a stream of the same jobs."""
    service = Service(5.0)

    async def main() -> None:
        async with service.session(journal=tmp_path / "run.db") as session:
            tasks = await session.submit_many(posters(3))
            await asyncio.gather(
                collect(session.as_completed(tasks)), collect(session.stream(posters(3)))
            )

    run(main)
    assert states(tmp_path / "run.db") == {"succeeded": 3}
    with rh.JournalReader(tmp_path / "run.db") as reader:
        assert reader.summary().spent.amount == rh.Money("0.66", "USD").amount


def test_jobs_that_want_one_name_get_a_file_each(tmp_path: Path) -> None:
    """At once, in one folder, in one stream and in two."""

    async def main() -> list[Any]:
        async with Emulator(duration=0.1) as emulator:
            async with rh.Session(
                "any-key",
                base_url=emulator.url,
                journal=tmp_path / "run.db",
                limits=rh.Limits(20, None, None),
                polling=rh.ExponentialPolling(0.05, 1.0, 0.05),
            ) as session:
                requests = [
                    rh.SeedreamV5Lite(f"a poster of the number {n}", 1600, 1344) for n in range(5)
                ]
                streams = [
                    session.stream(
                        requests, batch=batch, folder=tmp_path / "out", name=lambda _: "same"
                    )
                    for batch in "ab"
                ]
                found = await asyncio.gather(*map(collect, streams))
        return [outcome for outcomes in found for outcome in outcomes]

    outcomes = asyncio.run(main())
    assert all(outcome.ok for outcome in outcomes)
    names = {outcome.files[0].path.name for outcome in outcomes}
    assert len(names) == 10
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


def test_a_journal_is_given_back_however_its_session_ends(tmp_path: Path) -> None:
    """Cancelled while it opens, or while it waits for what runs."""
    service, journal = Service(1e9), tmp_path / "run.db"

    async def main() -> None:
        async def hold() -> None:
            async with service.session(journal=journal, on_cancel="wait") as session:
                stream = session.stream(posters(1))
                while not service.created:
                    await asyncio.sleep(0.1)
                assert stream.statistics().pulled

        for turns in range(6):
            holding = asyncio.ensure_future(hold())
            for _ in range(turns):
                await asyncio.sleep(0)
            holding.cancel()
            await asyncio.wait([holding])
        holding = asyncio.ensure_future(hold())
        while not service.created:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        holding.cancel()
        await asyncio.wait([holding])
        async with service.session(journal=journal):
            pass

    run(main)


def test_who_waits_for_what_was_written_waits_for_no_later_writes(tmp_path: Path) -> None:
    """Others write on and on; before it was so, the answers to webhooks waited for all of them."""
    most = 10_000
    begun = 0

    async def main() -> None:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open("https://service.example")
        flushed = asyncio.Event()

        async def go_on(writer: int) -> None:
            nonlocal begun
            while not flushed.is_set() and begun < most:
                begun += 1
                content = rh.Content("a-model", "{}", f"{begun}")
                key = f"job {writer}.{begun}"
                await store.begin(rh.Begun(key, None, rh.JobState.SUBMITTING, 0.0, content))

        writers = [asyncio.ensure_future(go_on(writer)) for writer in range(100)]
        await asyncio.sleep(0)
        await store.flush()
        flushed.set()
        await asyncio.gather(*writers)
        await store.aclose()

    asyncio.run(main())
    assert begun < most


def test_what_was_billed_twice_counts_twice(tmp_path: Path) -> None:
    """Also where both bills are written at once."""
    succeeded, stored = rh.JobState.SUCCEEDED, rh.JobState.STORED

    async def main() -> Decimal:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open("https://service.example")
        content = rh.Content("a-model", "{}", "a digest")
        await store.begin(rh.Begun("job", None, rh.JobState.SUBMITTING, 0.0, content))
        for old, state, cost in (
            (rh.JobState.SUBMITTING, succeeded, 10**9),
            (succeeded, stored, None),
            (stored, succeeded, 2 * 10**9),
        ):
            facts = rh.JobFacts() if cost is None else rh.JobFacts(cost=cost)
            store.note(rh.Moved("job", old, state, 0.0, facts))
        await store.flush()
        spent = await store.spent()
        await store.aclose()
        return spent

    assert asyncio.run(main()) == 3


def test_a_request_that_no_row_takes_fails_alone(tmp_path: Path) -> None:
    """One without a path, whose row the data base refuses, among good ones."""

    class Pathless:
        path = None

        def to_params(self) -> dict[str, Any]:
            return {"prompt": "a poster"}

        def check(self) -> tuple[str, ...]:
            return ("path: expected a text, got None @ $",)

    service = Service(5.0)

    async def main() -> list[Any]:
        async with service.session(journal=tmp_path / "run.db") as session:
            requests: list[Any] = [*posters(3), Pathless(), *posters(3)]
            return await collect(session.stream(requests, ordered=True))

    outcomes = run(main)
    assert [outcome.ok for outcome in outcomes] == [True] * 3 + [False] + [True] * 3
    assert states(tmp_path / "run.db") == {"succeeded": 6}


def test_a_store_that_closes_leaves_nobody_waiting(tmp_path: Path) -> None:
    """Who begins meanwhile is written down, or told; what was noted is there the next time."""
    store = rh.SqliteJobStore(tmp_path / "run.db")

    def begun(key: str) -> rh.Begun:
        content = rh.Content("a-model", "{}", key)
        return rh.Begun(key, None, rh.JobState.SUBMITTING, 0.0, content)

    async def main() -> None:
        await store.open("https://service.example")
        await store.begin(begun("one"))
        first = asyncio.ensure_future(store.begin(begun("another")))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.aclose())
        await asyncio.sleep(0)
        store.note(rh.Moved("one", rh.JobState.SUBMITTING, rh.JobState.ACCEPTED, 0.0))
        last = asyncio.ensure_future(store.begin(begun("a third")))
        assert [await first, await last] == ["", ""]
        await closing
        with pytest.raises(rh.JournalError, match="closed"):
            await store.begin(begun("too late"))
        await store.open("https://service.example")
        found = await store.find(["one", "another", "a third", "too late"])
        assert {key: record.state for key, record in found.items()} == {
            "one": rh.JobState.ACCEPTED,
            "another": rh.JobState.UNKNOWN,
            "a third": rh.JobState.UNKNOWN,
        }
        assert await store.begin(begun("in time")) == ""
        await store.aclose()

    asyncio.run(main())


def test_a_move_that_tells_of_what_no_job_has_is_refused(tmp_path: Path, caplog: Any) -> None:
    """And takes nothing with it."""

    async def main() -> rh.JobState:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open("https://service.example")
        content = rh.Content("a-model", "{}", "a digest")
        await store.begin(rh.Begun("job", None, rh.JobState.SUBMITTING, 0.0, content))
        odd: Any = {"colour": "blue"}
        move = rh.Moved("job", rh.JobState.SUBMITTING, rh.JobState.ACCEPTED, 0.0)
        store.note(move)
        store.note(move._replace(old=rh.JobState.ACCEPTED, state=rh.JobState.FAILED, facts=odd))
        await store.flush()
        state = (await store.find(["job"]))["job"].state
        await store.aclose()
        return state

    assert asyncio.run(main()) is rh.JobState.ACCEPTED
    assert "colour" in caplog.text


def test_what_an_earlier_try_met_with_says_nothing_of_a_success(tmp_path: Path) -> None:
    """A submit that was refused once: its job shows no error in the end."""
    refusals = iter([refusal("421")])
    service = Service(5.0, on_submit=lambda _: next(refusals, None))

    async def main() -> None:
        async with service.session(journal=tmp_path / "run.db") as session:
            (request,) = posters(1)
            await session.run(request)

    run(main)
    assert not list(refusals)
    with rh.JournalReader(tmp_path / "run.db") as reader:
        (job,) = reader.jobs()
    assert (job.state, job.attempts, job.code, job.error) == (rh.JobState.SUCCEEDED, 2, "", "")


def test_an_event_that_came_before_its_job_is_told_when_the_submit_is_to_leave(
    tmp_path: Path,
) -> None:
    """Also where the job was saved first, to be submitted later."""

    async def main() -> list[str | None]:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open("https://service.example")
        content = rh.Content("a-model", "{}", "a digest")
        answers = []
        for key, old in (("at once", None), ("later", rh.JobState.NEW)):
            await store.event(key, f"the task of {key}")
            if old is not None:
                store.note(rh.Begun(key, None, old, 0.0, content))
                await store.flush()
            begun = rh.Begun(key, old, rh.JobState.SUBMITTING, 0.0, content)
            answers.append(await store.begin(begun))
        await store.aclose()
        return answers

    assert asyncio.run(main()) == ["the task of at once", "the task of later"]


def test_a_query_that_failed_says_nothing_of_a_success(tmp_path: Path) -> None:
    """It was repeated, and nothing had become of the job."""
    answers = iter([rh.Response(500, b"{}")])
    service = Service(5.0, on_query=lambda _: next(answers, None))

    async def main() -> None:
        async with service.session(journal=tmp_path / "run.db") as session:
            await collect(session.stream(posters(1)))

    run(main)
    assert not list(answers)
    with rh.JournalReader(tmp_path / "run.db") as reader:
        (job,) = reader.jobs()
    assert (job.state, job.code, job.error) == (rh.JobState.SUCCEEDED, "", "")


def test_an_event_is_told_also_beside_a_job_that_is_not_to_be_sent(tmp_path: Path) -> None:
    """Both are begun at once; one of them had been begun before."""

    async def main() -> list[str | None]:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open("https://service.example")
        content = rh.Content("a-model", "{}", "a digest")
        jobs = [
            rh.Begun(key, None, rh.JobState.SUBMITTING, 0.0, content) for key in ("one", "another")
        ]
        await store.begin(jobs[1])
        await store.event("one", "a task")
        answers = await asyncio.gather(*map(store.begin, jobs))
        await store.aclose()
        return answers

    assert asyncio.run(main()) == ["a task", None]


# -- a store by itself ----------------------------------------------------------------------------

POSTER = rh.Content("seedream-v5-lite/text-to-image", '{"prompt":"a poster of a boat"}', "a digest")


@contextlib.asynccontextmanager
async def opened(journal: Path, **options: Any) -> AsyncIterator[rh.SqliteJobStore]:
    store = rh.SqliteJobStore(journal, **options)
    await store.open("https://service.example")
    try:
        yield store
    finally:
        await store.aclose()


def submitting(key: str, old: rh.JobState | None = None) -> rh.Begun:
    return rh.Begun(key, old, rh.JobState.SUBMITTING, 0.0, POSTER, attempts=1)


@pytest.mark.parametrize("at_once", [True, False])
def test_a_success_without_a_bill_counts_at_the_price_of_the_catalogue(
    at_once: bool, tmp_path: Path
) -> None:
    """Also where the answer to the submit told of it, so that both are written at once; and where
    a row is not as its writer thought."""

    async def main() -> tuple[Decimal, Decimal]:
        async with opened(tmp_path / "run.db") as store:
            begun = asyncio.ensure_future(store.begin(submitting("job")))
            await (asyncio.sleep(0) if at_once else begun)
            facts = rh.JobFacts(task_id="1", task='{"status":"SUCCESS"}')
            succeeded = rh.Moved("job", rh.JobState.SUBMITTING, rh.JobState.SUCCEEDED, 0.0, facts)
            store.note(succeeded if at_once else succeeded._replace(old=rh.JobState.ACCEPTED))
            assert await begun == ""
            await store.flush()
            return await store.spent(), await store.assumed()

    assert asyncio.run(main()) == (Decimal(0), Decimal("0.22"))
    with rh.JournalReader(tmp_path / "run.db") as reader:
        (job,) = reader.jobs()
    assert (job.state, job.cost, job.assumed) == (rh.JobState.SUCCEEDED, None, Decimal("0.22"))


@pytest.mark.parametrize("damaged", [False, True])
def test_unknown_submits_that_are_put_back_one_by_one_may_have_been_billed(
    damaged: bool, tmp_path: Path
) -> None:
    """Each at the price of the catalogue; one whose request cannot be read, at none."""
    journal = tmp_path / "run.db"

    async def main() -> tuple[int, Decimal]:
        async with opened(journal) as store:
            for key in ("one", "another", "a third"):
                await store.begin(submitting(key))
                store.note(rh.Moved(key, rh.JobState.SUBMITTING, rh.JobState.UNKNOWN, 0.0))
            await store.flush()
            if damaged:
                text = "UPDATE jobs SET params = '{' WHERE key = 'one'"
                await asyncio.to_thread(edit, journal, text)
            keys = ["one", "a third", "of none"]
            count = await store.put_back_each(rh.JobState.UNKNOWN, keys)
            return count, await store.assumed()

    assert asyncio.run(main()) == (2, Decimal("0.22" if damaged else "0.44"))
    with rh.JournalReader(journal) as reader:
        assert reader.summary().states[rh.JobState.NEW] == 2
        assert reader.summary().states[rh.JobState.UNKNOWN] == 1


def test_a_row_that_is_damaged_meanwhile_is_neither_submitted_nor_written_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its submit fails; the others are written all the same."""
    journal = tmp_path / "run.db"

    async def main() -> None:
        async with opened(journal) as store:
            for key in ("one", "another"):
                store.note(rh.Begun(key, None, rh.JobState.NEW, 0.0, POSTER))
            await store.flush()
            text = "UPDATE jobs SET state = 'odd' WHERE key = 'one'"
            await asyncio.to_thread(edit, journal, text)
            begun = [store.begin(submitting(key, rh.JobState.NEW)) for key in ("one", "another")]
            bad, good = await asyncio.gather(*begun, return_exceptions=True)
            assert isinstance(bad, rh.JournalError)
            assert "job one: its row is damaged: state is 'odd'" in str(bad)
            assert good == ""
            accepted = rh.JobFacts(task_id="17")
            for key in ("one", "another"):
                old, state = rh.JobState.SUBMITTING, rh.JobState.ACCEPTED
                store.note(rh.Moved(key, old, state, 0.0, accepted))
            await store.flush()
            found = await store.find(["one", "another"])
            assert found["one"].damage is not None
            assert found["one"].task is None
            assert found["another"].state is rh.JobState.ACCEPTED

    asyncio.run(main())


def test_a_store_whose_closing_is_cancelled_tells_those_who_wait(tmp_path: Path) -> None:
    """It is closed by then, with all that it had begun to write, and can be opened again."""

    async def main() -> None:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open("https://service.example")
        first = asyncio.ensure_future(store.begin(submitting("first")))
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(store.aclose())
        waiting, left = (asyncio.ensure_future(store.begin(submitting(key))) for key in "ab")
        # In this turn the first is handed to the thread, and then the others come.
        await asyncio.sleep(0)
        store.note(rh.Moved("first", rh.JobState.ACCEPTED, rh.JobState.RUNNING, 0.0))
        left.cancel()
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert await first == ""
        with pytest.raises(rh.JournalError, match="is closed"):
            await waiting
        assert left.cancelled()
        async with opened(tmp_path / "run.db") as again:
            assert set(await again.find(["first", "a", "b"])) == {"first"}

    asyncio.run(main())


@pytest.mark.parametrize("room", [True, False])
def test_what_a_full_disk_did_not_take_is_written_in_the_end_or_named(
    room: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A store that closes waits a moment for room; without it, the ids of tasks are in the log."""
    resource = pytest.importorskip("resource")

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    async def main() -> rh.JobRecord:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open("https://service.example")
        await store.begin(submitting("job"))
        async with hearing("cannot be written") as heard:
            with full():
                facts = rh.JobFacts(task_id="17")
                old, state = rh.JobState.SUBMITTING, rh.JobState.ACCEPTED
                store.note(rh.Moved("job", old, state, 0.0, facts))
                await heard.wait()
                if not room:
                    with pytest.raises(rh.JournalError, match="cannot be written"):
                        await store.aclose()
            if room:
                await store.aclose()
        # A full disk took no end of the lease either.
        async with opened(tmp_path / "run.db", take_over=not room) as again:
            return (await again.find(["job"]))["job"]

    job = run(main)
    assert "nothing is submitted until it can" in caplog.text
    if room:
        assert job.task == rh.Task("17")
        assert f"{tmp_path / 'run.db'} can be written again" in caplog.text
    else:
        assert job.state is rh.JobState.UNKNOWN
        assert "not saved: 17" in caplog.text


def test_facts_that_are_no_texts_are_damage(tmp_path: Path) -> None:
    """They are told as such, and not as an error of a type."""

    async def main() -> None:
        async with opened(tmp_path / "run.db") as store:
            await store.put({"source": "prompts.txt"})
            assert await store.facts() == {"source": "prompts.txt"}
            text = "UPDATE meta SET value = x'ff' WHERE name = 'fact:source'"
            await asyncio.to_thread(edit, tmp_path / "run.db", text)
            with pytest.raises(rh.JournalError, match="is damaged: table meta"):
                await store.facts()

    asyncio.run(main())


def test_a_late_answer_about_a_task_that_has_ended_changes_nothing(tmp_path: Path) -> None:
    """Two wait for one task, and the answers to their queries overtake each other."""
    service = Service(5.0)
    queries = 0

    async def answer(request: rh.Request) -> rh.Response:
        nonlocal queries
        told = await service.transport.send(request)
        if not request.url.endswith("/query"):
            return told
        queries += 1
        if queries == 1:
            # The first to ask hears last, and of a state that is over by then.
            await asyncio.sleep(60)
            return json_response({"taskId": task_id_in(request), "status": "RUNNING"})
        await asyncio.sleep(10)
        return await service.transport.send(request)

    def task_id_in(request: rh.Request) -> str:
        return str(json.loads(request.body or b"{}")["taskId"])

    async def main() -> None:
        transport = MockTransport(answer)
        async with rh.Session("a-key", transport=transport, journal=tmp_path / "run.db") as session:
            task = await session.submit(next(posters(1)))
            one, other = await asyncio.gather(session.wait(task), session.wait(task))
            assert one == other

    run(main)
    assert states(tmp_path / "run.db") == {"succeeded": 1}
    with rh.JournalReader(tmp_path / "run.db") as reader:
        assert reader.summary().spent == rh.Money("0.22", "USD")


def test_a_request_whose_check_fails_is_put_down_as_faulty(tmp_path: Path) -> None:
    """It is not sent, by a later run neither: it cannot be submitted as it stands."""

    class Odd(rh.ModelRequest):
        def check(self) -> tuple[str, ...]:
            raise LookupError("no such check")

    service, journal = Service(5.0), tmp_path / "run.db"
    odd = Odd("seedream-v5-lite/text-to-image", {"prompt": "a poster of a boat"})

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            return await collect(session.stream([odd, *posters(1)], ordered=True))

    for _ in range(2):
        failed, fine = run(main)
        assert isinstance(failed.error, rh.PayloadError)
        assert fine.ok
    assert list(service.submitted) == ["a poster of the number 0"]
    with rh.JournalReader(journal) as reader:
        assert [job.code for job in reader.jobs()] == ["faulty", ""]


# -- a second stream of a session, whose journal is looked into -----------------------------------


def test_what_no_journal_can_keep_is_not_sent_by_a_later_stream_either(tmp_path: Path) -> None:
    """Nor does it keep the others from being found."""
    service = Service(5.0)
    odd = rh.ModelRequest("new/text-to-image", {"prompt": "p", "extra": {"a set"}}, checked=False)

    async def main() -> list[Any]:
        async with service.session(journal=tmp_path / "run.db") as session:
            await collect(session.stream(posters(2)))
            return await collect(session.stream([odd, *posters(1), odd], ordered=True))

    first, again, third = run(main)
    assert again.ok
    assert isinstance(first.error, rh.PayloadError)
    assert isinstance(third.error, rh.PayloadError)
    assert "p" not in service.submitted


def test_an_input_that_fails_ends_a_later_stream_after_what_it_gave(tmp_path: Path) -> None:
    """With its own error."""
    service = Service(5.0)

    def failing() -> Iterator[rh.SeedreamV5Lite]:
        yield from posters(2)
        raise LookupError("no more prompts")

    async def main() -> list[Any]:
        found = []
        async with service.session(journal=tmp_path / "run.db") as session:
            await collect(session.stream(posters(1)))
            with pytest.raises(LookupError, match="no more prompts"):
                async for outcome in session.stream(failing(), batch="later"):
                    found.append(outcome)
        return found

    outcomes = run(main)
    assert [outcome.ok for outcome in outcomes] == [True, True]
    assert service.submitted.total() == 3


def test_a_key_that_raises_after_a_bad_one_ends_the_stream_with_its_error(tmp_path: Path) -> None:
    """The request with the bad key has its outcome; nothing is submitted, and nothing hangs."""
    service = Service(5.0)

    def key(request: rh.SeedreamV5Lite) -> str:
        return {"0": ""}[request.prompt[-1]]

    async def main() -> tuple[list[Any], tuple[rh.Unfinished, ...]]:
        found = []
        async with service.session(journal=tmp_path / "run.db") as session:
            stream = session.stream(posters(3), key=key, ordered=True)
            with pytest.raises(rh.PolicyError, match=r"^key raised"):
                async for outcome in stream:
                    found.append(outcome)
        return found, stream.unfinished

    (failed,), unfinished = run(main)
    assert isinstance(failed.error, rh.PayloadError)
    assert [left.index for left in unfinished] == [1, 2]
    assert not service.submitted


class Held(rh.SqliteJobStore):
    """A store of which one method gives its result only when `go_on` is set."""

    def __init__(self, path: Path, held: str) -> None:
        super().__init__(path)
        self.held = held
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self.passed = asyncio.Event()

    async def _hold(self, name: str, result: Any) -> Any:
        if name == self.held:
            self.arrived.set()
            await self.go_on.wait()
        self.passed.set()
        return result

    async def begin(self, job: rh.Begun) -> str | None:
        found: str | None = await self._hold("begin", await super().begin(job))
        return found

    async def find(self, keys: Any) -> Any:
        return await self._hold("find", await super().find(keys))

    async def find_equal(self, digests: Any) -> Any:
        return await self._hold("find_equal", await super().find_equal(digests))


def test_a_job_that_is_looked_up_when_its_session_leaves_is_not_called_unsubmitted(
    tmp_path: Path,
) -> None:
    """Its task of an earlier session runs, and is waited for."""
    service, journal = Service(30.0), tmp_path / "run.db"
    requests = list(posters(1))

    async def first() -> None:
        async with service.session(journal=journal) as session:
            await session.submit(requests[0], key="one")

    async def second() -> rh.JobStream:
        store = Held(journal, "find")
        session = service.session(journal=store, on_cancel="wait")
        await session.__aenter__()
        stream = session.stream(requests, key=lambda _: "one")
        await store.arrived.wait()
        closing = asyncio.ensure_future(session.aclose())
        await asyncio.sleep(0)
        store.go_on.set()
        await closing
        return stream

    run(first)
    stream = run(second)
    assert stream.unfinished == ()
    assert [outcome.ok for outcome in stream.undelivered] == [True]
    assert service.submitted.total() == 1


@pytest.mark.parametrize("on_cancel", ["detach", "wait"])
@pytest.mark.parametrize("leaves", ["session", "stream"])
def test_a_task_that_the_journal_just_named_is_not_forgotten(
    leaves: str, on_cancel: Any, tmp_path: Path
) -> None:
    """Its event came to a run that was killed; who asks for it now leaves at once."""
    service, journal = Service(5.0), tmp_path / "run.db"
    (request,) = posters(1)

    async def main() -> tuple[rh.Task, list[Any]]:
        async with service.session() as session:
            task = await session.submit(request)
        store = Held(journal, "begin")
        async with service.session(journal=store, on_cancel=on_cancel) as session:
            await store.event("one", task.id)
            stream = session.stream([request], key=lambda _: "one")
            await store.arrived.wait()
            leaving = stream.aclose() if leaves == "stream" else session.aclose()
            closing = asyncio.ensure_future(leaving)
            await asyncio.sleep(0)
            store.go_on.set()
            await closing
        async with service.session(journal=journal) as session:
            return task, await collect(session.stream([request], key=lambda _: "one"))

    task, (outcome,) = run(main)
    assert outcome.task.id == task.id
    assert service.submitted.total() == 1


@pytest.mark.parametrize(
    ("key", "reuse", "read"),
    [("one", False, "find"), ("one", True, "find"), ("two", True, "find_equal")],
)
@pytest.mark.parametrize("ends", ["while it is submitted", "while its task runs"])
def test_a_job_that_ends_while_its_row_is_read_is_known_as_it_ended(
    key: str, read: str, ends: str, tmp_path: Path, *, reuse: bool
) -> None:
    """Its row was read before its end, and is looked at after it."""
    service = Gated(5.0)
    if ends == "while its task runs":
        service.gate.set()
    (request,) = posters(1)

    async def main() -> tuple[rh.Task, Any]:
        store = Held(tmp_path / "run.db", "")
        async with service.session(journal=store) as session:
            calling = asyncio.ensure_future(session.run(request, key="one"))
            while not service.transport.requests:
                await asyncio.sleep(0.1)
            store.held = read
            stream = session.stream([request], key=lambda _: key, reuse=reuse)
            following = asyncio.ensure_future(collect(stream))
            await store.arrived.wait()
            service.gate.set()
            task = await calling
            store.go_on.set()
            return task, (await following)[0]

    task, outcome = run(main)
    assert outcome.ok
    assert outcome.task.id == task.id
    assert service.submitted.total() == 1


def test_a_job_that_ends_while_a_resume_reads_its_row_is_passed_over(tmp_path: Path) -> None:
    """It was listed in the journal; a stream of the same session has submitted it meanwhile."""
    service, journal = Service(5.0), tmp_path / "run.db"
    (request,) = posters(1)

    async def enlisted() -> None:
        async with service.session(journal=journal) as session:
            await session.enlist([request], batch="b")

    async def main() -> tuple[list[Any], list[Any]]:
        store = Held(journal, "find")
        async with service.session(journal=store) as session:
            resuming = asyncio.ensure_future(collect(session.resume()))
            await store.arrived.wait()
            store.held = ""
            outcomes = await collect(session.stream([request], batch="b"))
            store.go_on.set()
            return outcomes, await resuming

    run(enlisted)
    outcomes, resumed = run(main)
    assert [outcome.ok for outcome in outcomes] == [True]
    assert resumed == []
    assert service.submitted.total() == 1


@pytest.mark.parametrize("how", ["is known", "is cancelled", "is of another request"])
def test_who_waits_for_a_call_that_ends_at_once_is_served(how: str, tmp_path: Path) -> None:
    """The call was reading its row when the stream found it under way."""
    service, journal = Service(5.0), tmp_path / "run.db"
    request, other = posters(2)

    async def first() -> None:
        async with service.session(journal=journal) as session:
            await session.run(other if how == "is of another request" else request, key="one")

    async def main() -> tuple[Any, Any]:
        store = Held(journal, "find")
        async with service.session(journal=store) as session:
            calling = asyncio.ensure_future(session.run(request, key="one"))
            await store.arrived.wait()
            store.held, store.passed = "", asyncio.Event()
            stream = session.stream([request], key=lambda _: "one", reuse=True)
            following = asyncio.ensure_future(collect(stream))
            await store.passed.wait()
            for _ in range(5):
                await asyncio.sleep(0)
            if how == "is cancelled":
                calling.cancel()
            store.go_on.set()
            (called,) = await asyncio.gather(calling, return_exceptions=True)
            return called, (await following)[0]

    run(first)
    called, outcome = run(lambda: within_reason(main()))
    assert service.submitted.total() == 1
    if how == "is of another request":
        assert isinstance(called, rh.PayloadError)
        assert "is already used for another request" in str(outcome.error)
    else:
        assert isinstance(called, asyncio.CancelledError if how == "is cancelled" else rh.Task)
        assert outcome.ok


@pytest.mark.parametrize(("key", "read"), [("one", "find"), ("two", "find_equal")])
def test_a_submit_whose_stream_was_left_is_known_when_it_is_answered(
    key: str, read: str, tmp_path: Path
) -> None:
    """Its row is read while the submit is under way, and looked at when that is answered."""
    service = Gated(5.0)
    (request,) = posters(1)

    async def main() -> Any:
        store = Held(tmp_path / "run.db", "")
        async with service.session(journal=store) as session:
            left = session.stream([request], key=lambda _: "one")
            while not service.transport.requests:
                await asyncio.sleep(0.1)
            await left.aclose()
            store.held = read
            stream = session.stream([request], key=lambda _: key, reuse=key == "two")
            following = asyncio.ensure_future(collect(stream))
            await store.arrived.wait()
            service.gate.set()
            while not service.created:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.1)
            store.go_on.set()
            return (await following)[0]

    outcome = run(main)
    assert outcome.ok
    assert service.submitted.total() == 1
