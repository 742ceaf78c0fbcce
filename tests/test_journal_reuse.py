"""`reuse=True`: content that was paid for under another key, or may have been, costs nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import Answer, Gated, Service, png, refusal
from test_journal_damage import edit, within_reason
from test_journal_money import Own

import runninghub_async as rh
from runninghub_async.emulator import Emulator
from runninghub_async.testing import json_response, run

LOST = rh.Response(504, b"")


async def collect(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


def poster(what: Any) -> rh.SeedreamV5Lite:
    return rh.SeedreamV5Lite(f"a poster of {what}", 1600, 1344)


def edited(count: int) -> list[rh.SeedreamV5Lite]:
    """An input with a line inserted at its top: all places have changed."""
    return [poster("what is new"), *map(poster, range(count))]


def left(service: Kept, journal: Path, requests: list[Any]) -> None:
    """A run that was left when all of its requests had been answered."""

    async def main() -> None:
        async with service.session(journal=journal) as session:
            async with session.stream(requests):
                while len(service.created) + len(service.refused) < len(requests):
                    await asyncio.sleep(0.1)

    run(main)


class Kept(Service):
    """Remembers what it refused."""

    def __init__(self, duration: float = 50.0, **hooks: Any) -> None:
        self.refused: list[str] = []
        self.refuses: set[str] = set()
        super().__init__(duration, on_submit=self._refuse, **hooks)

    def _refuse(self, prompt: str) -> Answer:
        if prompt in self.refuses:
            self.refused.append(prompt)
            return refusal("1501")
        return None


def again(service: Service, journal: Path | Own, requests: list[Any], **options: Any) -> list[Any]:
    async def main() -> list[Any]:
        async with service.session(journal=journal, **options) as session:
            stream = session.stream(requests, reuse=True, ordered=True)
            return await collect(stream)

    return run(main)


def test_what_runs_under_another_key_is_followed(tmp_path: Path) -> None:
    """The input was edited after the run was killed: only the new line is submitted."""
    service, journal = Kept(), tmp_path / "run.db"
    left(service, journal, list(map(poster, range(6))))
    outcomes = again(service, journal, edited(6))
    assert [outcome.ok for outcome in outcomes] == [True] * 7
    assert [outcome.index for outcome in outcomes] == list(range(7))
    for outcome in outcomes:
        assert service.created[outcome.task.id] == outcome.request.prompt
    assert set(service.submitted.values()) == {1}
    # From now on the edited input is known, without `reuse`, too; and so is the first one.

    async def plain() -> list[Any]:
        async with service.session(journal=journal) as session:
            first = await collect(session.stream(edited(6)))
            return first + await collect(session.stream(map(poster, range(6))))

    assert all(outcome.ok for outcome in run(plain))
    assert set(service.submitted.values()) == {1}
    with rh.JournalReader(journal) as reader:
        assert reader.summary().spent == rh.Money("1.54", "USD")


def test_what_is_unknown_under_another_key_is_not_submitted_again(tmp_path: Path) -> None:
    """It comes as `Unknown`; what was refused is submitted again."""
    service, journal = (
        Kept(after_submit=lambda p: LOST if p.endswith("2") else None),
        tmp_path / "j",
    )
    service.refuses = {"a poster of 1"}
    left(service, journal, list(map(poster, range(3))))
    service.refuses.clear()
    outcomes = again(service, journal, edited(3))
    assert [type(outcome).__name__ for outcome in outcomes] == [
        "Succeeded", "Succeeded", "Succeeded", "Unknown",
    ]  # fmt: skip
    assert service.submitted == Counter(
        {"a poster of what is new": 1, "a poster of 0": 1, "a poster of 1": 2, "a poster of 2": 1}
    )


def test_what_was_never_submitted_is_submitted_once(tmp_path: Path) -> None:
    """Also when it is resumed afterwards: its first row is the one that is used."""
    service, journal = Kept(5.0), tmp_path / "run.db"

    async def enlisted() -> None:
        async with service.session(journal=journal) as session:
            await session.enlist(map(poster, range(4)))

    run(enlisted)
    assert all(outcome.ok for outcome in again(service, journal, edited(4)))

    async def resumed() -> list[Any]:
        async with service.session(journal=journal) as session:
            return await collect(session.resume())

    assert run(resumed) == []
    assert set(service.submitted.values()) == {1}


def test_two_equal_jobs_are_both_brought_home(tmp_path: Path) -> None:
    """A picture that was requested twice exists twice, also after a line was inserted; a third is
    shared."""
    service, journal = Kept(), tmp_path / "run.db"
    left(service, journal, [poster(0), poster(0)])
    outcomes = again(service, journal, [poster("what is new"), poster(0), poster(0), poster(0)])
    assert all(outcome.ok for outcome in outcomes)
    assert service.submitted == Counter({"a poster of 0": 2, "a poster of what is new": 1})
    assert len({outcome.task.id for outcome in outcomes[1:]}) == 2


def test_equal_requests_of_one_stream_share_a_job(tmp_path: Path) -> None:
    """While the first is under way, and when it fails the next one is submitted."""
    service, journal = Kept(5.0), tmp_path / "run.db"
    service.refuses = {"a poster of 1"}
    outcomes = again(service, journal, [poster(0)] * 4 + [poster(1)] * 3)
    assert [outcome.ok for outcome in outcomes] == [True] * 4 + [False] * 3
    assert [outcome.index for outcome in outcomes] == list(range(7))
    assert service.submitted == Counter({"a poster of 0": 1, "a poster of 1": 3})
    assert len({outcome.key for outcome in outcomes}) == 7


def test_a_job_of_another_call_or_stream_is_followed(tmp_path: Path) -> None:
    """Within one session, whichever stream is left first."""
    service, journal = Kept(20.0), tmp_path / "run.db"

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            calling = asyncio.ensure_future(session.run(poster(0), key="mine"))
            other = session.stream([poster(1)], batch="other")
            waiting = asyncio.ensure_future(anext(other))
            while len(service.created) < 2:
                await asyncio.sleep(0.1)
            stream = session.stream([poster(0), poster(1)], reuse=True, ordered=True)
            following = asyncio.ensure_future(collect(stream))
            while stream.statistics().waiting < 2:
                await asyncio.sleep(0.1)
            waiting.cancel()
            await other.aclose()
            calling.cancel()
            return await following

    assert [outcome.ok for outcome in run(main)] == [True, True]
    assert set(service.submitted.values()) == {1}


@pytest.mark.parametrize("fails", [False, True])
def test_a_call_whose_submit_is_under_way_is_waited_for(tmp_path: Path, *, fails: bool) -> None:
    """Its outcome is that of the equal request in the stream; only if it was refused is that one
    submitted itself."""

    class GatedAndKept(Gated, Kept):
        """Both."""

    service = GatedAndKept(20.0)
    service.refuses = {"a poster of 0"} if fails else set()

    async def main() -> tuple[Any, Any]:
        # The virtual clock runs on while a thread reads the journal.
        store = Matching(tmp_path / "run.db")
        async with service.session(journal=store) as session:
            calling = asyncio.ensure_future(session.run(poster(0), key="mine"))
            while not service.transport.requests:
                await asyncio.sleep(0.1)
            stream = session.stream([poster(0)], reuse=True)
            following = asyncio.ensure_future(collect(stream))
            await store.looked.wait()
            await asyncio.sleep(0)
            service.gate.set()
            (outcome,) = await following
            return (await asyncio.gather(calling, return_exceptions=True))[0], outcome

    made, outcome = run(main)
    assert service.submitted == {"a poster of 0": 2 if fails else 1}
    if fails:
        assert isinstance(made, rh.APIError)
        assert isinstance(outcome, rh.Failed)
    else:
        assert outcome.task.id == made.id


def test_a_stream_that_is_left_leaves_nobody_waiting(tmp_path: Path) -> None:
    """A request that waits for a job of the same stream is unfinished like it, and sends
    nothing."""
    service, journal = Kept(1e5), tmp_path / "run.db"

    async def main() -> int:
        async with service.session(journal=journal) as session:
            async with session.stream([poster(0)] * 5, reuse=True) as stream:
                while stream.statistics().submitted < 1:
                    await asyncio.sleep(0.1)
            return len(stream.unfinished)

    assert run(main) == 5
    assert sum(service.submitted.values()) == 1


@pytest.mark.parametrize("folder", [True, False])
def test_results_are_stored_under_the_names_of_the_edited_input(
    folder: bool, tmp_path: Path
) -> None:
    """Those that ran are fetched, those that were stored are copied; each is paid for once."""

    async def main() -> None:
        async with Emulator(duration=0.3) as emulator:

            def session() -> rh.Session:
                return rh.Session(
                    "any-key",
                    base_url=emulator.url,
                    journal=tmp_path / "run.db",
                    limits=rh.Limits(3, None, None),
                    polling=rh.ExponentialPolling(0.05, 1.0, 0.05),
                )

            options: dict[str, Any] = {"folder": tmp_path / "out"} if folder else {}
            async with session() as first:
                async with first.stream(map(poster, range(8)), **options) as stream:
                    for _ in range(3):
                        await anext(stream)
            async with session() as second:
                outcomes = await collect(
                    second.stream(
                        [*edited(8), poster(7)], reuse=True, ordered=True, folder=tmp_path / "out"
                    )
                )
            assert [outcome.ok for outcome in outcomes] == [True] * 10
            for outcome in outcomes:
                (file,) = outcome.files
                assert file.path.name.startswith(f"{outcome.index:05}-")
            assert emulator.stats.billed == 9
            async with session() as third:
                async for outcome in third.stream(edited(8), folder=tmp_path / "out"):
                    assert outcome.ok
            assert emulator.stats.billed == 9

    asyncio.run(main())


# -- what becomes of those that follow -----------------------------------------------------------

#: How a task ends at the service, by the outcome that its job has.
ENDS = {
    "Failed": {"status": "FAILED", "errorCode": "1501", "errorMessage": "barred"},
    "Cancelled": {"status": "CANCEL"},
}


class Ending(Service):
    """Jobs whose outcomes are of one class. None of them ends before `may_end`."""

    def __init__(self, ends_as: str) -> None:
        self._told = ENDS.get(ends_as)
        self._lost = LOST if ends_as == "Unknown" else None
        super().__init__(20.0, after_submit=lambda _: self._lost, on_query=self._end)
        self.may_end = asyncio.Event()

    async def _answer(self, request: rh.Request) -> rh.Response:
        if request.method == "GET":
            return rh.Response(200, png())
        answer = await super()._answer(request)
        if answer is self._lost:
            await self.may_end.wait()
        return answer

    def _end(self, task_id: str) -> Answer:
        done = self.may_end.is_set() and asyncio.get_running_loop().time() >= self._ends[task_id]
        told = (self._told if done else {"status": "RUNNING"}) or {}
        return json_response({"taskId": task_id, **told}) if told else None


class Matching(rh.SqliteJobStore):
    """A store that tells when jobs of the same content have been looked for: `looked`. What a
    stream makes of them is then done before anybody else has a turn."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.looked = asyncio.Event()

    async def find_equal(self, digests: Sequence[str]) -> Mapping[str, Sequence[rh.JobRecord]]:
        try:
            return await super().find_equal(digests)
        finally:
            self.looked.set()


@pytest.mark.parametrize("first", ["of a call", "of another stream", "of the same stream"])
@pytest.mark.parametrize("ends_as", ["Succeeded", "Unknown", "Failed", "Cancelled"])
def test_each_that_follows_a_job_has_an_outcome_however_that_ends(
    ends_as: str, first: str, tmp_path: Path
) -> None:
    """Those that follow a success or an unknown submit share it. After a failure the next one is
    submitted, and the others follow that."""
    service, store = Ending(ends_as), Matching(tmp_path / "run.db")

    async def main() -> list[Any]:
        async with service.session(journal=store) as session:
            begun: list[asyncio.Future[Any]] = []
            if first == "of a call":
                begun.append(asyncio.ensure_future(session.run(poster(0), key="mine")))
            elif first == "of another stream":
                other = session.stream([poster(0)], batch="other")
                begun.append(asyncio.ensure_future(collect(other)))
            while begun and not service.created:
                await asyncio.sleep(0.01)
            stream = session.stream([poster(0)] * 4, reuse=True, ordered=True)
            following = asyncio.ensure_future(collect(stream))
            await store.looked.wait()
            assert len(service.created) == len(begun)
            service.may_end.set()
            await asyncio.gather(*begun, return_exceptions=True)
            return await following

    outcomes = run(lambda: within_reason(main()))
    assert [outcome.index for outcome in outcomes] == list(range(4))
    assert {type(outcome).__name__ for outcome in outcomes} == {ends_as}
    assert all(outcome.request == poster(0) for outcome in outcomes)
    shared = ends_as in ("Succeeded", "Unknown")
    assert len(service.created) == (1 if shared else 4 + (first != "of the same stream"))
    if ends_as != "Unknown":
        assert len({outcome.task.id for outcome in outcomes}) == (1 if shared else 4)


@pytest.mark.parametrize("first", ["of a call", "of the same stream"])
@pytest.mark.parametrize("policy", ["detach", "cancel"])
def test_those_that_follow_a_job_end_with_their_session(
    policy: rh.OnCancel, first: str, tmp_path: Path
) -> None:
    """Each is named as unfinished, none waits any longer, and the next run has one task for all."""
    service, store = Ending("Succeeded"), Matching(tmp_path / "run.db")

    async def main() -> list[rh.Unfinished]:
        async with service.session(journal=store, on_cancel=policy) as session:
            waiting: list[asyncio.Future[Any]] = []
            if first == "of a call":
                waiting.append(asyncio.ensure_future(session.run(poster(0), key="mine")))
            while waiting and not service.created:
                await asyncio.sleep(0.01)
            stream = session.stream([poster(0)] * 4, reuse=True)
            waiting.append(asyncio.ensure_future(collect(stream)))
            await store.looked.wait()
            while not service.query_times:
                await asyncio.sleep(0.01)
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(ended, rh.SessionError)
        return list(stream.unfinished)

    unfinished = run(lambda: within_reason(main()))
    assert sorted(left.index for left in unfinished) == list(range(4))
    assert len(service.created) == 1
    running = [left.task_id for left in unfinished if left.state == "running"]
    assert running == ([] if first == "of a call" else list(service.created))
    assert service.cancelled == (list(service.created) if policy == "cancel" else [])
    service.may_end.set()
    outcomes = again(service, tmp_path / "run.db", [poster(0)] * 4)
    assert [outcome.ok for outcome in outcomes] == [True] * 4
    assert {outcome.task.id for outcome in outcomes} == set(service.created)
    assert len(service.created) == 1


@pytest.mark.parametrize("reuse", [True, False])
def test_a_key_of_a_job_under_way_is_followed_or_refused(reuse: bool, tmp_path: Path) -> None:
    """Followed with `reuse`, if the request is the same; another request under it is refused."""
    service, store = Ending("Succeeded"), Matching(tmp_path / "run.db")

    async def main() -> tuple[Any, list[Any]]:
        async with service.session(journal=store) as session:
            calling = asyncio.ensure_future(session.run(poster(0), key="mine"))
            while not service.created:
                await asyncio.sleep(0.01)
            requests, keys = [poster(0), poster(1), poster(2)], iter(["mine", "mine", "other"])
            stream = session.stream(requests, key=lambda _: next(keys), reuse=reuse, ordered=True)
            following = asyncio.ensure_future(collect(stream))
            if reuse:
                await store.looked.wait()
            while len(service.created) < 2:
                await asyncio.sleep(0.01)
            service.may_end.set()
            return await calling, await following

    task, (same, other, third) = run(lambda: within_reason(main()))
    assert third.ok
    assert isinstance(other.error, rh.PayloadError)
    assert "'mine' is of a job that is under way" in str(other.error)
    if reuse:
        assert (same.task, same.index) == (task, 0)
    else:
        assert isinstance(same.error, rh.PayloadError)
    assert service.submitted == Counter({"a poster of 0": 1, "a poster of 2": 1})


def test_a_store_of_ones_own_finds_equal_jobs_one_by_one(tmp_path: Path) -> None:
    """With the methods of `JobStore` alone: what ran under another key is followed."""
    service, journal = Kept(), tmp_path / "run.db"
    left(service, journal, [poster(0), poster(1)])
    assert not isinstance(Own(journal), rh.MatchingStore)
    outcomes = again(service, Own(journal), edited(2))
    assert [outcome.ok for outcome in outcomes] == [True] * 3
    assert set(service.submitted.values()) == {1}


def test_what_was_recorded_to_be_submitted_is_served_by_an_equal_job(tmp_path: Path) -> None:
    """It costs nothing, and `resume` has nothing left to submit."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            await session.run(poster(0), key="mine")
            assert await session.enlist([poster(0), poster(1)]) == 2
            stream = session.stream([poster(0), poster(1)], reuse=True, ordered=True)
            return await collect(stream) + await collect(session.resume())

    first, second = run(main)
    assert first.ok
    assert second.ok
    assert set(service.submitted.values()) == {1}
    with rh.JournalReader(journal) as reader:
        costs = [job.cost or 0 for job in reader.jobs()]
        assert reader.summary().spent == rh.Money("0.44", "USD")
    assert sorted(costs) == [0, Decimal("0.22"), Decimal("0.22")]


def test_who_follows_one_that_follows_hears_of_its_end(tmp_path: Path) -> None:
    """A call is cancelled, and its task has a new follower, which another stream follows in
    turn by its key."""
    service, store = Ending("Succeeded"), Matching(tmp_path / "run.db")

    async def main() -> list[Any]:
        async with service.session(journal=store) as session:
            calling = asyncio.ensure_future(session.run(poster(0), key="of the call"))
            while not service.created:
                await asyncio.sleep(0.01)
            streams = []
            for batch in "ab":
                stream = session.stream(
                    [poster(0)], batch=batch, key=lambda _: "of the streams", reuse=True
                )
                streams.append(asyncio.ensure_future(collect(stream)))
                await store.looked.wait()
                store.looked.clear()
            calling.cancel()
            await store.looked.wait()
            service.may_end.set()
            return [outcome for outcomes in await asyncio.gather(*streams) for outcome in outcomes]

    one, other = run(lambda: within_reason(main()))
    assert one.ok
    assert one.task == other.task
    assert len(service.created) == 1


def test_who_stops_following_hears_nothing_more(tmp_path: Path) -> None:
    """Its request is unfinished, and the job goes on without it."""
    service, store = Ending("Succeeded"), Matching(tmp_path / "run.db")

    async def main() -> tuple[rh.Task, rh.JobStream]:
        async with service.session(journal=store) as session:
            calling = asyncio.ensure_future(session.run(poster(0), key="mine"))
            while not service.created:
                await asyncio.sleep(0.01)
            async with session.stream([poster(0)], reuse=True) as stream:
                await store.looked.wait()
            service.may_end.set()
            return await calling, stream

    task, stream = run(lambda: within_reason(main()))
    assert [task.id] == list(service.created)
    assert [job.state for job in stream.unfinished] == ["not_submitted"]
    assert stream.undelivered == ()


@pytest.mark.parametrize("policy", ["wait", "detach"])
def test_a_stream_that_is_closing_submits_nothing_in_place_of_a_failure(
    policy: rh.OnCancel, tmp_path: Path
) -> None:
    """With `wait` its task is waited for; those that follow it are not submitted after it."""
    service, store = Ending("Failed"), Matching(tmp_path / "run.db")

    async def main() -> rh.JobStream:
        async with service.session(journal=store) as session:
            stream = session.stream([poster(0)] * 3, reuse=True, on_cancel=policy)
            await store.looked.wait()
            while not service.query_times:
                await asyncio.sleep(0.01)
            closing = asyncio.ensure_future(stream.aclose())
            await asyncio.sleep(0)
            service.may_end.set()
            await closing
            return stream

    stream = run(lambda: within_reason(main()))
    assert len(service.created) == 1
    failed = [outcome.index for outcome in stream.undelivered]
    assert failed == ([0] if policy == "wait" else [])
    assert [job.index for job in stream.unfinished] == [0, 1, 2][len(failed) :]
    assert {job.state for job in stream.unfinished if job.index} == {"not_submitted"}


def test_a_journal_that_cannot_be_read_again_fails_those_that_follow(tmp_path: Path) -> None:
    """After the job that they followed has failed: an error of the journal each, and no submit."""
    broken = False

    class Breaking(Matching):
        async def find(self, keys: Sequence[str]) -> Mapping[str, rh.JobRecord]:
            if broken:
                raise ZeroDivisionError
            return await super().find(keys)

    service, store = Ending("Failed"), Breaking(tmp_path / "run.db")

    async def main() -> list[Any]:
        nonlocal broken
        async with service.session(journal=store) as session:
            stream = session.stream([poster(0)] * 3, reuse=True, ordered=True)
            following = asyncio.ensure_future(collect(stream))
            await store.looked.wait()
            broken = True
            service.may_end.set()
            return await following

    first, *others = run(lambda: within_reason(main()))
    assert isinstance(first.error, rh.TaskFailed)
    assert [type(outcome.error) for outcome in others] == [rh.JournalError] * 2
    assert all("cannot be read: ZeroDivisionError" in str(outcome.error) for outcome in others)
    assert len(service.created) == 1


# -- files of those that follow ------------------------------------------------------------------


def saved(
    service: Service, store: Matching, folder: Path, requests: list[Any], **options: Any
) -> list[Any]:
    """Outcomes of a stream whose results are saved, in a session of its own. Nothing ends before
    what equals it was looked for."""

    async def main() -> list[Any]:
        async with service.session(journal=store) as session:
            stream = session.stream(requests, reuse=True, ordered=True, folder=folder, **options)
            following = asyncio.ensure_future(collect(stream))
            await store.looked.wait()
            if isinstance(service, Ending):
                service.may_end.set()
            return await following

    return run(lambda: within_reason(main()))


def test_what_a_call_made_is_saved_for_the_stream_that_follows_it(tmp_path: Path) -> None:
    """The call saved nothing, so the stream fetches the result, and pays nothing."""
    service, store, folder = Ending("Succeeded"), Matching(tmp_path / "run.db"), tmp_path / "out"

    async def main() -> tuple[rh.Task, list[Any]]:
        async with service.session(journal=store) as session:
            calling = asyncio.ensure_future(session.run(poster(0), key="mine"))
            while not service.created:
                await asyncio.sleep(0.01)
            stream = session.stream([poster(0)], reuse=True, folder=folder)
            following = asyncio.ensure_future(collect(stream))
            await store.looked.wait()
            service.may_end.set()
            return await calling, await following

    task, (outcome,) = run(lambda: within_reason(main()))
    assert (outcome.task, outcome.attempts) == (task, 0)
    assert [file.path for file in outcome.files] == [folder / "00000-a-poster-of-0.png"]
    assert outcome.files[0].path.read_bytes() == png()
    with rh.JournalReader(tmp_path / "run.db") as reader:
        assert [job.state.value for job in reader.jobs()] == ["succeeded", "stored"]
        assert reader.summary().spent == rh.Money("0.22", "USD")


@pytest.mark.parametrize("first", ["runs", "is stored"])
def test_a_copy_that_cannot_be_written_fails_alone_and_costs_nothing(
    first: str, tmp_path: Path
) -> None:
    """The outcome has the task that was paid for; a later run writes the copy after all."""
    service, folder = Ending("Succeeded"), tmp_path / "out"
    in_the_way = folder / ".copy 1.png.part"
    in_the_way.mkdir(parents=True)

    def saved_again() -> list[Any]:
        options: dict[str, Any] = {"name": lambda o: f"copy {o.index}", "batch": "again"}
        return saved(service, Matching(tmp_path / "run.db"), folder, [poster(0)] * 2, **options)

    if first == "is stored":
        saved(service, Matching(tmp_path / "run.db"), folder, [poster(0)])
    original, copy = saved_again()
    assert len(original.files) == 1
    assert isinstance(copy, rh.Failed)
    assert isinstance(copy.error, rh.DownloadError)
    assert "cannot be written" in str(copy.error)
    assert copy.task == original.task
    in_the_way.rmdir()
    original, copy = saved_again()
    assert [file.path.name for file in original.files] == ["copy 0.png"]
    assert [file.path.name for file in copy.files] == ["copy 1.png"]
    assert copy.files[0].path.read_bytes() == png()
    assert len(service.created) == 1


def test_what_is_stored_is_reused_by_a_stream_that_saves_nothing(tmp_path: Path) -> None:
    """Its outcome has the task and no files; a run without `reuse` knows it from then on."""
    service, journal = Ending("Succeeded"), tmp_path / "run.db"
    (stored,) = saved(service, Matching(journal), tmp_path / "out", [poster(0)])
    reused, new = again(service, journal, [poster(1), poster(0)])[::-1]
    assert (reused.task, reused.files) == (stored.task, ())
    assert new.ok
    with rh.JournalReader(journal) as reader:
        keys = {job.key for job in reader.jobs()}
    assert keys == {stored.key, new.key, reused.key}
    assert len(keys) == 3

    async def plain() -> list[Any]:
        async with service.session(journal=journal) as session:
            return await collect(session.stream([poster(1), poster(0)], ordered=True))

    assert [outcome.task for outcome in run(plain)] == [new.task, stored.task]
    assert service.submitted == Counter({"a poster of 0": 1, "a poster of 1": 1})


def test_a_stored_row_whose_task_is_gone_is_damaged_and_not_paid_for_again(tmp_path: Path) -> None:
    """Not even by an equal request under another key."""
    service, journal = Ending("Succeeded"), tmp_path / "run.db"
    saved(service, Matching(journal), tmp_path / "out", [poster(0)])
    edit(journal, "UPDATE jobs SET task = NULL, task_id = NULL")
    with rh.JournalReader(journal) as reader:
        (job,) = reader.jobs()
        assert job.damage is not None
        assert job.damage.column == "task"
    again(service, journal, [poster(1), poster(0)])
    assert service.submitted == Counter({"a poster of 0": 1, "a poster of 1": 1})


def test_those_that_follow_a_task_that_is_waited_for_have_its_outcome(tmp_path: Path) -> None:
    """They submit nothing, so a session that leaves waits for them, too."""

    async def main() -> rh.JobStream:
        async with service.session(journal=tmp_path / "run.db", on_cancel="wait") as session:
            stream = session.stream([poster(0)] * 3, reuse=True)
            while not service.created or stream.statistics().pulled < 3:
                await asyncio.sleep(0.01)
            await asyncio.sleep(1)
        return stream

    service = Service(30.0)
    stream = run(main)
    assert sorted(outcome.index for outcome in stream.undelivered) == [0, 1, 2]
    assert all(outcome.ok for outcome in stream.undelivered)
    assert stream.unfinished == ()
    assert service.submitted.total() == 1
