"""The journal: a request that is repeated is resumed, and nothing is submitted twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import Service, posters, refusal

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import run

FAST: dict[str, Any] = {
    "limits": rh.Limits(20, None, None),
    "polling": rh.ExponentialPolling(0.05, 1.0, 0.05),
}
LOST = rh.Response(504, b"")


async def collect(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


def states(path: Path) -> dict[str, int]:
    """How many jobs are in each state; a row each, and the totals agree."""
    with rh.JournalReader(path) as reader:
        told = {state.value: count for state, count in reader.summary().states.items() if count}
        assert told == Counter(record.state.value for record in reader.jobs())
        return told


def streamed(service: Service, journal: Path, count: int = 10, **options: Any) -> list[Any]:
    """Outcomes of a stream of posters in a session of its own."""
    session_options = {
        name: options.pop(name)
        for name in ("unknown", "budget", "webhooks", "retry", "limits")
        if name in options
    }

    async def main() -> list[Any]:
        async with service.session(journal=journal, **session_options) as session:
            return await collect(session.stream(posters(count), **options))

    return run(main)


def resumed(service: Service, journal: Path, **options: Any) -> list[Any]:
    """Outcomes of what a journal holds, in a session of its own."""

    async def main() -> list[Any]:
        async with service.session(journal=journal, **options) as session:
            return await collect(session.resume())

    return run(main)


def test_who_looks_on_sees_that_tasks_run(tmp_path: Path) -> None:
    """While they do."""
    journal = tmp_path / "run.db"

    def running() -> int:
        with rh.JournalReader(journal) as reader:
            return reader.summary().states[rh.JobState.RUNNING]

    async def main() -> None:
        async with (
            Emulator(duration=15.0) as emulator,
            rh.Session("any-key", base_url=emulator.url, journal=journal, **FAST) as session,
            session.stream(posters(3), on_cancel="detach") as stream,
            asyncio.timeout(20),
        ):
            looking = asyncio.ensure_future(anext(stream))
            while await asyncio.to_thread(running) < 3:
                assert not looking.done()
            looking.cancel()

    asyncio.run(main())


# -- the same again -----------------------------------------------------------------------------


def test_keys_sort_as_the_input_does(tmp_path: Path) -> None:
    """And are others for another batch, another place or another request."""
    service = Service(1.0)

    async def main() -> dict[str, list[str]]:
        async with service.session(journal=tmp_path / "run.db") as session:
            return {
                batch: [
                    outcome.key
                    for outcome in await collect(
                        session.stream(posters(40), batch=batch, ordered=True)
                    )
                ]
                for batch in ("", "spring", "autumn")
            }

    keys = run(main)
    for of_batch in keys.values():
        assert of_batch == sorted(of_batch)
    assert len({key for of_batch in keys.values() for key in of_batch}) == 120
    assert set(service.submitted.values()) == {3}


def test_the_same_stream_again_costs_nothing(tmp_path: Path) -> None:
    """Outcomes come from the journal, with the tasks of the first time and in full."""
    service, journal = Service(5.0), tmp_path / "run.db"
    first = streamed(service, journal, ordered=True)
    again = streamed(service, journal, ordered=True)
    assert set(service.submitted.values()) == {1}
    assert [(o.index, o.key, o.task) for o in first] == [(o.index, o.key, o.task) for o in again]
    assert all(o.ok and o.key and o.seconds is not None for o in again)
    assert states(journal) == {"succeeded": 10}


def test_a_longer_input_submits_only_what_is_new(tmp_path: Path) -> None:
    """Jobs are found by request and place."""
    service, journal = Service(5.0), tmp_path / "run.db"
    streamed(service, journal, 4)
    outcomes = streamed(service, journal, 9)
    assert len(outcomes) == 9
    assert set(service.submitted.values()) == {1}
    assert len(service.created) == 9


def test_the_same_request_elsewhere_is_another_job(tmp_path: Path) -> None:
    """Another place, or another batch: whoever asks for two pictures gets two."""
    service, journal = Service(5.0), tmp_path / "run.db"
    poster = rh.SeedreamV5Lite("a poster of a paper boat")

    async def main() -> None:
        async with service.session(journal=journal) as session:
            await collect(session.stream([poster, poster]))
            await collect(session.stream([poster], batch="second"))
            await collect(session.stream([poster], batch="second"))
            await session.run(poster)
            await session.run(poster)

    run(main)
    assert service.submitted == {poster.prompt: 5}


def test_the_order_of_fields_makes_no_other_job(tmp_path: Path) -> None:
    """`{a, b}` is `{b, a}`."""
    service, journal = Service(5.0), tmp_path / "run.db"
    fields = {"prompt": "a poster of a paper boat", "width": 2048, "height": 2048}
    for params in (fields, dict(reversed(fields.items()))):

        async def main(params: dict[str, Any] = params) -> None:
            request = rh.ModelRequest("seedream-v5-lite/text-to-image", params)
            async with service.session(journal=journal) as session:
                assert len(await collect(session.stream([request]))) == 1

        run(main)
    assert sum(service.submitted.values()) == 1


def test_a_key_of_ones_own_finds_the_job_again(tmp_path: Path) -> None:
    """For single calls and streams; another request under the same key is refused."""
    service, journal = Service(5.0), tmp_path / "run.db"
    poster, other = (rh.SeedreamV5Lite(f"a poster of {what}") for what in ("a boat", "a kite"))

    async def main() -> None:
        for _ in range(2):
            async with service.session(journal=journal) as session:
                one = await session.run(poster, key="order 17")
                assert one == await session.run(poster, key="order 17")
                assert (await session.submit(poster, key="order 17")).id == one.id
                (outcome,) = await collect(session.stream([poster], key=lambda _: "order 17"))
                assert (outcome.task, outcome.key) == (one, "order 17")
                with pytest.raises(
                    rh.PayloadError, match="'order 17' is already used for another request"
                ):
                    await session.run(other, key="order 17")

    run(main)
    assert service.submitted == {poster.prompt: 1}


def test_two_requests_with_one_key_are_one_too_many(tmp_path: Path) -> None:
    """The second fails, names the key, and costs nothing; the others run."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            return await collect(session.stream(posters(3), key=lambda request: request.prompt))

    outcomes = run(main)
    assert all(o.ok for o in outcomes)

    async def twice() -> list[Any]:
        async with service.session(journal=tmp_path / "other.db") as session:
            return await collect(session.stream(posters(3), key=lambda _: "one", ordered=True))

    first, *rest = run(twice)
    assert first.ok
    assert [type(o.error) for o in rest] == [rh.PayloadError, rh.PayloadError]
    assert all("'one'" in str(o.error) for o in rest)
    assert sum(service.submitted.values()) == 3 + 1


@pytest.mark.parametrize("option", [{"batch": "b"}, {"key": str}, {"reuse": True}])
def test_what_needs_a_journal_says_so(option: dict[str, Any]) -> None:
    """Not silently ignored: it would cost money."""

    async def main() -> None:
        async with Service().session() as session:
            with pytest.raises(ValueError, match=f"{next(iter(option))} needs .* a journal"):
                session.stream(posters(1), **option)
            with pytest.raises(ValueError, match="resume needs"):
                session.resume()

    run(main)


# -- how a run ended before ---------------------------------------------------------------------


def test_what_was_left_running_is_followed_and_not_submitted(tmp_path: Path) -> None:
    """Left in the middle; the next session brings home the same tasks, then the rest."""
    service, journal = Service(30.0), tmp_path / "run.db"

    async def left() -> None:
        async with service.session(journal=journal, limits=rh.Limits(3, None, None)) as session:
            async with session.stream(posters(10)) as stream:
                while len(service.created) < 3:
                    await asyncio.sleep(0.1)
                del stream

    run(left)
    assert states(journal) == {"accepted": 3}
    outcomes = streamed(service, journal)
    assert all(o.ok for o in outcomes)
    assert set(service.submitted.values()) == {1}
    assert len(service.created) == 10


def test_failures_are_not_repeated_unless_asked_for(tmp_path: Path) -> None:
    """A refused request stays refused, with its code; put back, it is submitted again."""
    trouble = {"on": True}
    service = Service(
        5.0, on_submit=lambda prompt: refusal("1501") if trouble["on"] and "3" in prompt else None
    )
    journal = tmp_path / "run.db"
    for _ in range(2):
        outcomes = streamed(service, journal, ordered=True)
        assert isinstance(outcomes[3], rh.Failed)
        assert isinstance(outcomes[3].error, rh.ContentPolicyError)
        assert outcomes[3].error.code == "1501"
    assert service.submitted["a poster of the number 3"] == 1
    trouble["on"] = False

    async def retry() -> list[Any]:
        store = rh.SqliteJobStore(journal)
        async with service.session(journal=store) as session:
            assert await store.put_back(rh.JobState.FAILED, "1") == 0
            assert await store.put_back(rh.JobState.FAILED, "1501") == 1
            return await collect(session.resume())

    (outcome,) = run(retry)
    assert outcome.ok
    assert outcome.request.place == 3
    assert service.submitted["a poster of the number 3"] == 2


def test_what_is_unknown_is_held_resubmitted_or_asked_about(tmp_path: Path) -> None:
    """Held by default, over sessions; a function sees the outcome and decides."""
    lost = {"a poster of the number 2", "a poster of the number 5"}
    service = Service(5.0, after_submit=lambda prompt: LOST if prompt in lost else None)
    journal = tmp_path / "run.db"
    for _ in range(2):
        outcomes = streamed(service, journal)
        unknown = [o for o in outcomes if isinstance(o, rh.Unknown)]
        assert {o.request.prompt for o in unknown} == lost
        assert all("504" in str(o.error) and o.key for o in unknown)
        assert all(service.submitted[prompt] == 1 for prompt in lost)
    assert states(journal) == {"succeeded": 8, "unknown": 2}
    asked: list[rh.Unknown] = []

    def decide(outcome: rh.Unknown) -> Any:
        asked.append(outcome)
        return "resubmit" if "2" in outcome.request.to_params()["prompt"] else "hold"

    lost.clear()
    (held, sent) = sorted(resumed(service, journal, unknown=decide), key=lambda outcome: outcome.ok)
    assert isinstance(held, rh.Unknown)
    assert sent.ok
    assert len(asked) == 2
    assert service.submitted["a poster of the number 2"] == 2
    assert service.submitted["a poster of the number 5"] == 1
    assert resumed(service, journal, unknown="resubmit")[0].ok
    assert states(journal) == {"succeeded": 10}


@pytest.mark.parametrize("policy", [lambda _: "perhaps", lambda _: 1 / 0])
def test_a_policy_that_fails_holds_and_says_so(policy: Any) -> None:
    """Neither of the two words, or an exception: the submit is held, and the session ends."""
    service = Service(5.0, after_submit=lambda prompt: LOST if prompt[-1] == "1" else None)
    with pytest.raises(ValueError, match="unknown: expected one of hold, resubmit"):
        service.session(unknown="perhaps")

    async def main() -> None:
        async with service.session(unknown=policy) as session:
            with pytest.raises(rh.PolicyError, match=r"^unknown "):
                await collect(session.stream(posters(3), ordered=True))

    run(main)
    assert service.submitted["a poster of the number 1"] == 1


@pytest.mark.parametrize("policy", [lambda _: "perhaps", lambda _: 1 / 0])
def test_a_policy_that_fails_on_a_recorded_submit_ends_the_session_too(
    policy: Any, tmp_path: Path
) -> None:
    """It is asked about a submit of an earlier session before anything is sent."""
    service, journal = Service(5.0, after_submit=lambda _: LOST), tmp_path / "run.db"
    (request,) = posters(1)

    async def main(unknown: Any) -> None:
        async with service.session(journal=journal, unknown=unknown) as session:
            with pytest.raises(rh.SubmitUnknown):
                await session.run(request, key="a")
            if callable(unknown):
                with pytest.raises(rh.PolicyError, match=r"^unknown "):
                    await session.run(request, key="b")

    run(main, "hold")
    run(main, policy)
    assert set(service.submitted.values()) == {1}


def test_many_submitted_and_awaited_by_id_are_known_to_have_ended(tmp_path: Path) -> None:
    """`submit_many`, `as_completed` and `wait` write into the same rows."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def main() -> None:
        async with service.session(journal=journal) as session:
            tasks = await session.submit_many(posters(4))
            await session.wait(tasks[0])
            await collect(session.as_completed(tasks[1:]))
            assert [t.id for t in await session.submit_many(posters(4))] == [t.id for t in tasks]

    run(main)
    assert states(journal) == {"succeeded": 4}
    assert set(service.submitted.values()) == {1}


# -- lists --------------------------------------------------------------------------------------


def test_what_is_enlisted_is_submitted_by_resume_alone(tmp_path: Path) -> None:
    """No input is needed any more; order and places are kept."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def enlist() -> None:
        async with service.session(journal=journal) as session:
            assert await session.enlist(posters(7)) == 7
            assert await session.enlist(posters(7)) == 0

    run(enlist)
    assert not service.submitted
    outcomes = resumed(service, journal, limits=rh.Limits(1, None, None))
    assert [o.request.place for o in outcomes] == list(range(7))
    assert list(service.created.values()) == [f"a poster of the number {n}" for n in range(7)]
    assert resumed(service, journal) == []
    assert set(service.submitted.values()) == {1}


def test_a_new_list_strikes_out_what_was_never_submitted(tmp_path: Path) -> None:
    """What was submitted stays, and what another batch holds; the rest costs nothing."""
    service, journal = Service(5.0), tmp_path / "run.db"
    letters = [rh.SeedreamV5Lite(f"a poster of the letter {c}") for c in "abcd"]

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            await session.enlist(letters[:2])
            await collect(session.resume())
            await session.enlist(letters)
            await session.enlist(posters(1), batch="other")
            assert await session.enlist([letters[0], letters[3]]) == 1
            return await collect(session.resume())

    outcomes = run(main)
    prompts = sorted(o.request.to_params()["prompt"][-1] for o in outcomes)
    assert prompts == ["0", "d"]
    assert set(service.submitted.values()) == {1}
    assert states(journal) == {"succeeded": 4}


def test_a_list_that_was_not_read_to_its_end_submits_nothing_old(tmp_path: Path) -> None:
    """Nobody knows whether what it had not come to yet is still wanted."""
    service, journal = Service(5.0), tmp_path / "run.db"

    def broken() -> Any:
        yield rh.SeedreamV5Lite("a poster of the number 0")
        raise OSError("the disk was pulled out")

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            await session.enlist(posters(3))
            with pytest.raises(OSError, match="pulled out"):
                await session.enlist(broken())
            return await collect(session.resume())

    run(main)
    assert set(service.submitted) <= {"a poster of the number 0"}


def test_a_faulty_request_is_put_down_as_failed(tmp_path: Path) -> None:
    """With what is wrong with it; it is neither sent nor in the way of the others."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            await session.enlist([rh.SeedreamV5Lite("x"), *posters(2)])
            return await collect(session.resume())

    assert len(run(main)) == 2
    assert states(journal) == {"failed": 1, "succeeded": 2}
    with rh.JournalReader(journal) as reader:
        (failed,) = reader.jobs(rh.JobState.FAILED)
    assert "prompt" in failed.error


def test_what_is_no_request_is_not_put_down(tmp_path: Path) -> None:
    """No journal could hold it; the others keep their places, and a call says what is wrong."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            requests: list[Any] = ["nonsense", *posters(2), object()]
            assert await session.enlist(requests) == 2
            with pytest.raises(rh.PayloadError):
                await session.run("nonsense")  # type: ignore[arg-type]
            return await collect(session.resume())

    assert [outcome.ok for outcome in run(main)] == [True, True]
    assert states(journal) == {"succeeded": 2}
    with rh.JournalReader(journal) as reader:
        assert [record.place for record in reader.jobs()] == [1, 2]


# -- money --------------------------------------------------------------------------------------


def test_the_budget_stops_the_submitting_and_brings_home_what_runs(tmp_path: Path) -> None:
    """Never passed; the error tells the sums; with a journal a later session goes on counting."""
    service, journal = Service(5.0), tmp_path / "run.db"
    budget = rh.Money("1.00", "CNY")
    seen: list[Any] = []

    async def main() -> None:
        async with service.session(
            journal=journal, budget=budget, base_url="https://www.runninghub.cn"
        ) as session:
            stream = session.stream(posters(10))
            with pytest.raises(rh.BudgetError) as caught:
                async for outcome in stream:
                    seen.append(outcome)
            assert caught.value.budget == budget
            assert caught.value.spent == rh.Money("0.88", "CNY")
            assert caught.value.expected == rh.Money("0.22", "CNY")

    run(main)
    assert [o.ok for o in seen] == [True] * 4
    assert len(service.created) == 4
    with rh.JournalReader(journal) as reader:
        assert reader.summary().spent == rh.Money("0.88", "CNY")
    seen.clear()
    run(main)
    assert len(service.created) == 4
    assert [o.ok for o in seen] == [True] * 4


def test_what_tasks_really_cost_is_learnt() -> None:
    """The catalogue says 0.22; these are billed less, so more of them fit."""

    def cheap(task_id: str) -> Any:
        if asyncio.get_running_loop().time() < 2:
            return None
        return rh.Response(
            200,
            b'{"taskId": "%s", "status": "SUCCESS", "results": [], "usage":'
            b' {"thirdPartyConsumeMoney": "0.02"}}' % task_id.encode(),
        )

    service = Service(50.0, on_query=cheap)

    async def main() -> int:
        async with service.session(
            budget=rh.Money("1.00", "CNY"), base_url="https://www.runninghub.cn"
        ) as session:
            return len(await collect(session.stream(posters(40))))

    assert run(main) == 40


def test_a_request_whose_price_nobody_knows_goes_alone() -> None:
    """Until one has told; then as many as fit."""
    service = Service(5.0)

    async def main() -> int:
        requests = [
            rh.ModelRequest("new-model/text-to-image", {"prompt": f"number {n}"}, checked=False)
            for n in range(8)
        ]
        async with service.session(
            budget=rh.Money("100", "CNY"), base_url="https://www.runninghub.cn"
        ) as session:
            outcomes = await collect(session.stream(requests))
        return sum(o.ok for o in outcomes)

    assert run(main) == 8
    first, second = service.submit_times[:2]
    assert second - first >= 5.0
    assert service.most_alive == 7


def test_a_budget_in_another_currency_is_refused() -> None:
    """Before anything is sent."""
    with pytest.raises(ValueError, match="bills in USD or coins, not in CNY"):
        rh.Session("k", base_url="https://www.runninghub.ai", budget=rh.Money("5", "CNY"))
    with pytest.raises(TypeError, match=r"0\.5"):
        rh.Money(0.5, "CNY")  # type: ignore[arg-type]


def test_the_report_tells_how_much_is_at_stake() -> None:
    """What the submits of unknown outcome cost at most."""
    service = Service(5.0, after_submit=lambda prompt: LOST if prompt[-1] in "12" else None)

    async def main() -> rh.Statistics:
        async with service.session() as session:
            stream = session.stream(posters(5))
            await collect(stream)
            return stream.statistics()

    told = run(main)
    assert told.unknown == 2
    assert told.at_stake == (rh.Money("0.44", "CNY"),)


# -- evidence -----------------------------------------------------------------------------------


def test_a_webhook_that_came_before_its_row_is_matched(tmp_path: Path) -> None:
    """The task exists, from a submit this journal knows nothing of: it is not made again."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def main() -> list[Any]:
        store = rh.SqliteJobStore(journal)
        async with service.session(journal=store) as session:
            task = await session.submit(rh.SeedreamV5Lite("a poster of a paper boat"))
            assert await store.event("order 18", task.id) is None
            same = await session.run(rh.SeedreamV5Lite("a poster of a kite"), key="order 18")
            assert same.id == task.id
            return list(service.submitted)

    assert run(main) == ["a poster of a paper boat"]


def test_a_later_process_takes_the_events_of_an_earlier_one(tmp_path: Path) -> None:
    """What signs the addresses is in the journal; an event makes the unknown known."""
    journal = tmp_path / "run.db"
    hooks: list[str] = []

    class Hooked(Service):
        async def _answer(self, request: rh.Request) -> rh.Response:
            if not request.url.endswith("/query"):
                hooks.append(json.loads(request.body or b"{}")["webhookUrl"])
            return await super()._answer(request)

    service = Hooked(5.0, after_submit=lambda _: LOST)

    async def first() -> None:
        receiver = rh.Webhooks("https://example.org/hooks", patience=1.0)
        async with service.session(journal=journal, webhooks=receiver) as session:
            (outcome,) = await collect(session.stream(posters(1)))
            assert isinstance(outcome, rh.Unknown)

    run(first)
    (task_id,) = service.created
    told = {"code": 0, "msg": "success", "data": []}
    event = {"event": "TASK_END", "taskId": task_id, "eventData": json.dumps(told)}
    body = json.dumps(event).encode()

    async def second() -> list[Any]:
        receiver = rh.Webhooks("https://example.org/hooks", patience=1e9)
        async with service.session(journal=journal, webhooks=receiver) as session:
            stream = session.resume()
            waiting = asyncio.ensure_future(collect(stream))
            while not stream.statistics().waiting:
                await asyncio.sleep(0.01)
            query = hooks[0].partition("?")[2]
            forged = query[:-1] + ("1" if query[-1] == "0" else "0")
            assert receiver.receive(forged, body) == 403
            assert receiver.receive(query, body) == 204
            return await waiting

    (outcome,) = run(second)
    assert isinstance(outcome, rh.Succeeded)
    assert outcome.task.id == task_id
    assert states(journal) == {"succeeded": 1}
    assert set(service.submitted.values()) == {1}


# -- files --------------------------------------------------------------------------------------


def test_stored_files_are_looked_at_and_fetched_again_only_if_changed(tmp_path: Path) -> None:
    """One gone, one changed, the others untouched; no task is made again."""

    def spoil(now: bool) -> int:
        files = sorted((tmp_path / "out").iterdir())
        if now:
            files[0].unlink()
            files[1].write_bytes(files[1].read_bytes()[:-9] + b"something")
        return len(files)

    async def main() -> None:
        async with Emulator(duration=0.1) as emulator:
            for downloads, fetched in ((6, 6), (6, 0), (8, 2)):
                async with rh.Session(
                    "any-key", base_url=emulator.url, journal=tmp_path / "run.db", **FAST
                ) as session:
                    outcomes = await collect(
                        session.stream(_small(6), folder=tmp_path / "out", ordered=True)
                    )
                assert emulator.stats.downloads == downloads, fetched
                assert [o.files[0].path.name[:5] for o in outcomes] == [f"{n:05}" for n in range(6)]
                assert await asyncio.to_thread(spoil, fetched == 0) == 6
            assert emulator.stats.billed == 6

    asyncio.run(main())
    assert states(tmp_path / "run.db") == {"stored": 6}


def _small(count: int, what: str = "number") -> list[rh.SeedreamV5Lite]:
    return [rh.SeedreamV5Lite(f"a poster of the {what} {n}", 1600, 1344) for n in range(count)]


def test_reuse_serves_the_same_content_at_no_cost(tmp_path: Path) -> None:
    """Off by default; the copy has the new job's name; a spoilt original is not served."""

    def spoil() -> None:
        for file in (tmp_path / "a").iterdir():
            file.write_bytes(b"spoilt")

    async def main() -> None:
        async with Emulator(duration=0.1) as emulator:
            async with rh.Session(
                "any-key", base_url=emulator.url, journal=tmp_path / "run.db", **FAST
            ) as session:
                poster = _small(1)[0]
                (first,) = await collect(session.stream([poster], folder=tmp_path / "a"))
                again = await collect(
                    session.stream([poster] * 3, batch="b", folder=tmp_path / "a", reuse=True)
                )
                assert emulator.stats.billed == 1
                assert {o.task.id for o in again} == {first.task.id}
                names = {o.files[0].path.name for o in (first, *again)}
                assert len(names) == 4
                assert len({o.files[0].sha256 for o in (first, *again)}) == 1
                await collect(session.stream([poster], batch="c", folder=tmp_path / "a"))
                assert emulator.stats.billed == 2
                await asyncio.to_thread(spoil)
                await collect(
                    session.stream([poster], batch="d", folder=tmp_path / "a", reuse=True)
                )
                assert emulator.stats.billed == 3

    asyncio.run(main())
    assert states(tmp_path / "run.db") == {"stored": 6}
    with rh.JournalReader(tmp_path / "run.db") as reader:
        assert reader.summary().spent == rh.Money("0.66", "CNY")


def test_another_jobs_file_is_never_overwritten(tmp_path: Path) -> None:
    """The same prompt and place in another batch, and a file that was there before."""
    kept = tmp_path / "00001-a-poster-of-the-number-1.png"
    kept.write_bytes(b"mine")

    async def main() -> None:
        async with Emulator(duration=0.1) as emulator:
            async with rh.Session(
                "any-key", base_url=emulator.url, journal=tmp_path / "run.db", **FAST
            ) as session:
                for batch in ("a", "b"):
                    outcomes = await collect(
                        session.stream(_small(2), batch=batch, folder=tmp_path)
                    )
                    assert all(o.ok for o in outcomes)

    asyncio.run(main())
    assert len(list(tmp_path.glob("*.png"))) == 5
    assert kept.read_bytes() == b"mine"


def test_results_that_cannot_be_had_fail_without_losing_the_task(tmp_path: Path) -> None:
    """The journal still holds the task, and a resumed run fetches it."""

    async def main() -> None:
        faults = [Fault(on="result", kind="html", times=5)]
        async with Emulator(duration=0.1, faults=faults) as emulator:
            options: dict[str, Any] = {"retry": rh.RetryPolicy(wait_initial=0.01, wait_max=0.02)}
            for ok in (False, True):
                async with rh.Session(
                    "any-key", base_url=emulator.url, journal=tmp_path / "run.db", **FAST, **options
                ) as session:
                    stream = (
                        session.resume(folder=tmp_path / "out")
                        if ok
                        else session.stream(_small(1), folder=tmp_path / "out")
                    )
                    (outcome,) = await collect(stream)
                assert outcome.ok is ok
                if not ok:
                    assert isinstance(outcome.error, rh.ResultBroken)
                    told = await asyncio.to_thread(states, tmp_path / "run.db")
                    assert told == {"succeeded": 1}
            assert emulator.stats.billed == 1

    asyncio.run(main())
    assert states(tmp_path / "run.db") == {"stored": 1}


def test_the_key_is_in_no_journal(tmp_path: Path) -> None:
    """Not in the file, and not in what is beside it while it is open."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def main() -> None:
        async with service.session(journal=journal) as session:
            await collect(session.stream(posters(3)))
            assert b"a-key" not in await asyncio.to_thread(all_bytes)

    def all_bytes() -> bytes:
        files = list(tmp_path.iterdir())
        assert len(files) == 3
        return b"".join(file.read_bytes() for file in files)

    run(main)
    assert journal.stat().st_mode & 0o077 == 0


# -- cancelling ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["detach", "cancel", "wait"])
@pytest.mark.parametrize("where", ["session", "stream"])
def test_a_session_that_closes_does_as_it_was_told(
    tmp_path: Path, policy: rh.OnCancel, where: str
) -> None:
    """Tasks run on, are cancelled, or are waited for; the journal knows them in any case."""
    service, journal = Service(1e4), tmp_path / "run.db"

    async def main() -> None:
        of_session: dict[str, Any] = {"on_cancel": policy} if where == "session" else {}
        of_stream: dict[str, Any] = {"on_cancel": policy} if where == "stream" else {}
        async with service.session(journal=journal, **of_session) as session:
            stream = session.stream(posters(3), **of_stream)
            while len(service.created) < 3 or stream.statistics().submitted < 3:
                await asyncio.sleep(0.1)
        assert len(stream.undelivered) == (3 if policy == "wait" else 0)

    run(main)
    assert sorted(service.cancelled) == (sorted(service.created) if policy == "cancel" else [])
    told = states(journal)
    if policy == "wait":
        assert told == {"succeeded": 3}
    else:
        assert told.keys() <= {"accepted", "running"}
        assert sum(told.values()) == 3


@pytest.mark.parametrize("policy", ["detach", "cancel", "wait"])
def test_a_call_is_treated_alike_when_its_session_closes(policy: rh.OnCancel) -> None:
    """`run`, in a task of its own."""
    service = Service(1e4)

    async def main() -> None:
        async with service.session(on_cancel=policy) as session:
            running = asyncio.ensure_future(session.run(next(posters())))
            while not service.created:
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
        if policy == "wait":
            assert (await running).id in service.created
        else:
            with pytest.raises(rh.SessionError):
                await running

    run(main)
    assert service.cancelled == (list(service.created) if policy == "cancel" else [])


def test_cancelling_is_tried_once(caplog: pytest.LogCaptureFixture) -> None:
    """A service that fails to cancel is not asked again; the task is named."""
    asked: list[str] = []

    class Stubborn(Service):
        async def _answer(self, request: rh.Request) -> rh.Response:
            if request.url.endswith("/cancel"):
                asked.append(request.url)
                return rh.Response(503)
            return await super()._answer(request)

    service = Stubborn(30.0)

    async def main() -> None:
        async with service.session(on_cancel="cancel") as session:
            running = asyncio.ensure_future(session.run(next(posters())))
            while not service.created:
                await asyncio.sleep(0.1)
            await asyncio.sleep(1)
            running.cancel()
            await asyncio.wait([running])

    run(main)
    assert len(asked) == 1
    assert f"task {next(iter(service.created))} could not be cancelled" in caplog.text


def test_a_policy_that_is_none_is_refused() -> None:
    """Of the session, of a stream and of a call."""
    with pytest.raises(ValueError, match="on_cancel"):
        Service().session(on_cancel="explode")

    async def main() -> None:
        async with Service().session() as session:
            with pytest.raises(ValueError, match="on_cancel"):
                session.stream(posters(1), on_cancel="explode")  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="on_cancel"):
                await session.run(next(posters()), on_cancel="explode")  # type: ignore[arg-type]

    run(main)
