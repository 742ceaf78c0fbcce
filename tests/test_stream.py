"""Many jobs: order, limits, bad input, early leaving. All on a virtual clock."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support import Service, posters, refusal

import runninghub_async as rh
from runninghub_async.testing import VirtualTimeLoop, json_response, run

FAST = rh.Limits(max_concurrency=20, submit_rate=None, query_rate=None)


async def collect(stream: rh.JobStream) -> list[rh.Outcome]:
    return [outcome async for outcome in stream]


async def as_async(requests: Any) -> AsyncIterator[Any]:
    for request in requests:
        yield request


def indices(outcomes: list[rh.Outcome]) -> list[int]:
    return [outcome.index for outcome in outcomes]


def test_every_request_comes_back_once_as_it_ends() -> None:
    """200 jobs of 4 to 20 s: each delivered once, quick ones before slow ones."""

    async def main() -> None:
        chance = random.Random(1)
        service = Service(lambda _: chance.uniform(4, 20))
        async with service.session(limits=FAST) as session:
            outcomes = await collect(session.stream(posters(200)))
        assert sorted(indices(outcomes)) == list(range(200))
        assert indices(outcomes) != list(range(200))
        assert all(outcome.ok for outcome in outcomes)
        assert len(service.created) == 200

    run(main)


def test_a_result_belongs_to_its_request() -> None:
    """The task that an outcome carries is the one that its own prompt created."""

    async def main() -> None:
        service = Service(lambda prompt: 3.0 + hash(prompt) % 7)
        async with service.session(limits=FAST) as session:
            for outcome in await collect(session.stream(posters(60))):
                assert isinstance(outcome, rh.Succeeded)
                assert service.created[outcome.task.id] == outcome.request.prompt
                assert outcome.request.prompt.endswith(f" {outcome.index}")

    run(main)


@pytest.mark.parametrize("window", [None, 1, 200])
def test_ordered_means_input_order(window: int | None) -> None:
    """In input order whatever the order of ending, with any window."""

    async def main() -> None:
        chance = random.Random(2)
        service = Service(lambda _: chance.uniform(1, 30))
        async with service.session(limits=FAST) as session:
            outcomes = await collect(session.stream(posters(50), ordered=True, window=window))
        assert indices(outcomes) == list(range(50))

    run(main)


def test_the_limit_on_tasks_alive_holds() -> None:
    """Never more than max_concurrency tasks alive, and as many as that while there is work."""

    async def main() -> None:
        service = Service(10.0)
        limits = rh.Limits(7, submit_rate=None, query_rate=None)
        async with service.session(limits=limits) as session:
            await collect(session.stream(posters(50)))
        assert service.most_alive == 7

    run(main)


def test_submits_are_paced_without_a_starting_burst() -> None:
    """10 a second means 10 in the first second, too: each at least 90 ms after the last."""

    async def main() -> None:
        service = Service(5.0)
        limits = rh.Limits(1000, submit_rate=10.0, query_rate=None)
        async with service.session(limits=limits) as session:
            await collect(session.stream(posters(40)))
        gaps = [b - a for a, b in itertools.pairwise(service.submit_times)]
        assert min(gaps) >= 0.09
        assert service.submit_times[-1] - service.submit_times[0] == pytest.approx(3.9, abs=0.2)

    run(main)


def test_queries_are_paced_and_do_not_starve_submits() -> None:
    """With queries at 5 a second and 30 tasks to look after, submits still keep their own pace."""

    async def main() -> None:
        service = Service(20.0)
        limits = rh.Limits(30, submit_rate=10.0, query_rate=5.0)
        async with service.session(limits=limits) as session:
            await collect(session.stream(posters(30)))
        assert service.submit_times[-1] - service.submit_times[0] < 4.0
        times = sorted(itertools.chain.from_iterable(service.query_times.values()))
        assert all(b - a >= 0.19 for a, b in itertools.pairwise(times))

    run(main)


@pytest.mark.parametrize("ordered", [False, True])
def test_an_endless_input_is_read_only_as_slots_free_up(ordered: bool) -> None:
    """Consumer takes 10 and leaves: at most 10 + concurrency + 1 requests were pulled."""

    async def main() -> None:
        pulled = itertools.count()

        def endless() -> Iterator[rh.SeedreamV5Lite]:
            for request in posters():
                next(pulled)
                yield request

        service = Service(5.0)
        async with service.session(limits=FAST) as session:
            taken = 0
            async with session.stream(endless(), ordered=ordered) as stream:
                async for _ in stream:
                    taken += 1
                    if taken == 10:
                        break
                else:
                    pytest.fail("it ended")
        assert next(pulled) <= 10 + 20 + 1

    run(main)


def test_a_slow_consumer_slows_the_submits() -> None:
    """While the consumer sits on its first outcome, no more than the window is pulled."""

    async def main() -> None:
        service = Service(5.0)
        async with service.session(limits=FAST) as session, session.stream(posters()) as stream:
            await anext(stream)
            await asyncio.sleep(3600)
            assert stream.statistics().pulled <= 1 + 20
            assert len(service.created) <= 1 + 20

    run(main)


def test_an_async_input_is_followed_at_its_own_pace() -> None:
    """A request that takes 60 s to come holds up nothing that is already running."""

    async def main() -> None:
        ended: list[float] = []

        async def slow() -> AsyncIterator[rh.SeedreamV5Lite]:
            for request in posters(3):
                yield request
                await asyncio.sleep(60)

        async with Service(5.0).session(limits=FAST) as session:
            async for _ in session.stream(slow()):
                ended.append(asyncio.get_running_loop().time())
        gaps = [b - a for a, b in itertools.pairwise(ended)]
        assert gaps == pytest.approx([60, 60], abs=3)

    run(main)


def test_a_bad_item_costs_nothing_and_disturbs_nobody() -> None:
    """Faulty requests, and things that are no requests, end as Failed with every fault named."""

    async def main() -> None:
        bad = rh.SeedreamV5Lite("abc", width=5, max_images=99)
        items: list[Any] = [*posters(3), bad, "a string", None, *posters(2)]
        service = Service(5.0)
        async with service.session(limits=FAST) as session:
            outcomes = {o.index: o for o in await collect(session.stream(items))}
        failed = outcomes[3]
        assert isinstance(failed, rh.Failed)
        assert isinstance(failed.error, rh.PayloadError)
        assert failed.error.problems == (
            "prompt: shorter than 5 @ $.prompt",
            "width: less than 1600 @ $.width",
            "maxImages: more than 15 @ $.maxImages",
        )
        assert failed.attempts == 0
        for index in (4, 5):
            assert isinstance(getattr(outcomes[index], "error", None), rh.PayloadError)
        assert sum(o.ok for o in outcomes.values()) == 5
        assert sum(service.submitted.values()) == 5

    run(main)


def test_an_input_that_raises_surfaces_after_what_is_in_flight() -> None:
    """All that had been pulled is delivered first; then the input's own error comes, once."""

    async def main() -> None:
        def broken() -> Iterator[rh.SeedreamV5Lite]:
            yield from posters(5)
            raise LookupError("no more paper")

        async with Service(5.0).session(limits=FAST) as session:
            stream = session.stream(broken())
            seen = []
            with pytest.raises(LookupError, match="no more paper"):
                async for outcome in stream:
                    seen.append(outcome.index)
            assert sorted(seen) == [0, 1, 2, 3, 4]
            with pytest.raises(StopAsyncIteration):
                await anext(stream)

    run(main)


def test_an_async_input_that_raises_surfaces_after_what_is_in_flight() -> None:
    """As the error of a plain one does."""

    async def main() -> None:
        async def broken() -> AsyncIterator[rh.SeedreamV5Lite]:
            for request in posters(5):
                yield request
            raise LookupError("no more paper")

        async with Service(5.0).session(limits=FAST) as session:
            stream = session.stream(broken())
            seen = []
            with pytest.raises(LookupError, match="no more paper"):
                async for outcome in stream:
                    seen.append(outcome.index)
            assert sorted(seen) == [0, 1, 2, 3, 4]

    run(main)


def test_a_plain_input_that_was_cancelled_is_not_its_consumer() -> None:
    """Its `CancelledError` comes as a `RuntimeError`: the task that consumes was not cancelled."""

    async def main() -> None:
        def cancelled() -> Iterator[rh.SeedreamV5Lite]:
            yield from posters(3)
            raise asyncio.CancelledError

        async with Service(5.0).session(limits=FAST) as session:
            seen = []
            with pytest.raises(RuntimeError, match="input was cancelled") as caught:
                async for outcome in session.stream(cancelled()):
                    seen.append(outcome.index)
            assert isinstance(caught.value.__cause__, asyncio.CancelledError)
            assert sorted(seen) == [0, 1, 2]

    run(main)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"window": 0}, "window must be at least 1"),
        ({"window_bytes": 0}, "window_bytes must be at least 1"),
        ({"name": str}, "folder"),
        ({"key": str}, "key needs a session with a journal"),
        ({"batch": "b"}, "batch needs a session with a journal"),
        ({"reuse": True}, "reuse needs a session with a journal"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_read(
    options: dict[str, Any], told: str
) -> None:
    """Not one request is taken from the input."""

    async def main() -> None:
        requests = posters()
        async with Service(5.0).session() as session:
            with pytest.raises(ValueError, match=told):
                session.stream(requests, **options)
        assert next(requests).prompt.endswith(" 0")

    run(main)


def test_a_paused_stream_submits_nothing_and_hands_out_what_ends() -> None:
    """For as long as the context is open, in the whole session; then it goes on by itself."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(10.0)
        async with service.session(limits=rh.Limits(4, None, None)) as session:
            stream = session.stream(posters(12))
            first = await anext(stream)
            with stream.paused():
                began = loop.time()
                created = len(service.created)
                single = asyncio.ensure_future(session.submit(next(posters())))
                outcomes = [first, *[await anext(stream) for _ in range(created - 1)]]
                await asyncio.sleep(100)
                assert len(service.created) == created
                assert not single.done()
                assert stream.running == ()
            await single
            assert loop.time() < began + 125
            outcomes += await collect(stream)
        assert sorted(indices(outcomes)) == list(range(12))
        assert all(outcome.ok for outcome in outcomes)

    run(main)


def test_running_names_the_tasks_that_have_not_ended() -> None:
    """Those of this stream, and none that has been handed out."""

    async def main() -> None:
        service = Service(lambda p: 5.0 if p.endswith(" 0") else 50.0)
        async with service.session(limits=rh.Limits(8, None, None)) as session:
            other = await session.submit(rh.SeedreamV5Lite("a poster of a paper boat"))
            stream = session.stream(posters(4))
            first = await anext(stream)
            assert first.task is not None
            assert set(stream.running) == set(service.created) - {first.task.id, other.id}
            assert len(set(stream.running)) == 3
            await collect(stream)
            assert stream.running == ()

    run(main)


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1002", rh.AuthenticationError),
        ("1014", rh.PlanError),
        ("416", rh.InsufficientBalanceError),
    ],
)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("given", [iter, as_async])
def test_key_plan_and_balance_stop_the_submitting(
    code: str, error: type[rh.APIError], ordered: bool, given: Any
) -> None:
    """After the wallet runs dry: one error, what runs is brought home, the rest is not sent."""

    async def main() -> None:
        dry = "number 30"
        service = Service(
            10.0, on_submit=lambda p: refusal(code) if int(p.split()[-1]) >= 30 else None
        )
        limits = rh.Limits(20, submit_rate=20.0, query_rate=None)
        async with service.session(limits=limits) as session:
            stream = session.stream(given(posters(10_000)), ordered=ordered)
            seen = []
            with pytest.raises(error) as caught:
                async for outcome in stream:
                    assert outcome.ok
                    seen.append(outcome.index)
            assert caught.value.advice in str(caught.value)
            assert sorted(seen) == list(range(30))
            assert sum(service.submitted.values()) <= 31 + 3, dry
            left = stream.unfinished
            assert {item.state for item in left} == {"not_submitted"}
            assert sorted([*seen, *(item.index for item in left)]) == list(
                range(stream.statistics().pulled)
            )

    run(main)


@pytest.mark.parametrize("code", ["421", "415", "814", "1520"])
def test_a_full_service_is_waited_for(code: str) -> None:
    """With room for 5, 50 jobs all come back; refusals are bounded and none is a failure."""

    async def main() -> None:
        service = Service(10.0)
        service._on_submit = lambda _: refusal(code) if service.alive >= 5 else None
        limits = rh.Limits(50, submit_rate=None, query_rate=None)
        async with service.session(limits=limits, rng=random.Random(0)) as session:
            outcomes = await collect(session.stream(posters(50)))
        assert all(outcome.ok for outcome in outcomes)
        assert len(service.created) == 50
        assert service.most_alive == 5
        assert sum(service.submitted.values()) <= 3 * 50

    run(main)


def test_a_full_service_with_nothing_of_ours_running_is_tried_again() -> None:
    """Other programs hold every slot for five minutes; then the job gets its turn."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(10.0, on_submit=lambda _: refusal("421") if loop.time() < 300 else None)
        async with service.session(rng=random.Random(0)) as session:
            outcomes = await collect(session.stream(posters(1)))
        assert outcomes[0].ok
        assert 300 <= service.submit_times[-1] <= 315
        assert outcomes[0].attempts == len(service.submit_times) < 60

    run(main)


def test_one_rate_limit_slows_everybody_down() -> None:
    """After a 429 with Retry-After: 30, neither submit nor query leaves for 30 s, then few do."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        told: list[float] = []

        def limit_once(_: str) -> rh.Response | None:
            if loop.time() > 8 and not told:
                told.append(loop.time())
                return rh.Response(429, b"", {"retry-after": "30"})
            return None

        service = Service(60.0, on_submit=limit_once)
        limits = rh.Limits(200, submit_rate=10.0, query_rate=None)
        async with service.session(limits=limits) as session:
            outcomes = await collect(session.stream(posters(150)))
        assert all(outcome.ok for outcome in outcomes)
        begun, reopened = told[0] + 0.1, told[0] + 30
        everything = sorted(
            [*service.submit_times, *itertools.chain.from_iterable(service.query_times.values())]
        )
        assert not [t for t in everything if begun < t < reopened]
        first_tenth = [t for t in everything if reopened <= t < reopened + 0.11]
        assert 1 <= len(first_tenth) <= 4

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        rh.ReadTimeout("silence"),
        rh.ReadError("reset"),
        rh.Response(504, b"gateway"),
        rh.Response(200, b"\xffgarbage"),
        refusal("1005"),
        refusal("1011"),
    ],
    ids=["timeout", "reset", "504", "garbage", "1005", "1011"],
)
def test_a_submit_of_unknown_fate_is_reported_once_and_never_repeated(answer: Any) -> None:
    """The task was created, the answer lost: one Unknown with its request, one bill."""

    async def main() -> None:
        lost = "a poster of the number 3"
        service = Service(5.0, after_submit=lambda p: answer if p == lost else None)
        async with service.session(limits=FAST) as session:
            outcomes = await collect(session.stream(posters(6)))
        unknown = [o for o in outcomes if isinstance(o, rh.Unknown)]
        assert [o.index for o in unknown] == [3]
        assert unknown[0].error.request.prompt == unknown[0].request.prompt == lost
        assert unknown[0].error.__cause__ is not None
        assert service.submitted[lost] == 1
        assert sum(o.ok for o in outcomes) == 5

    run(main)


def test_the_users_policy_may_repeat_what_is_unknown() -> None:
    """`unknown="resubmit"` is the only way to a second submit after the first one left."""

    async def main() -> None:
        answers = [rh.Response(504, b""), None]
        service = Service(5.0, on_submit=lambda _: answers.pop(0))
        async with service.session(unknown="resubmit") as session:
            outcomes = await collect(session.stream(posters(1)))
        assert outcomes[0].ok
        assert outcomes[0].attempts == 2

    run(main)


def test_what_never_left_is_sent_again() -> None:
    """Connections fail for two minutes in mid-run; nothing is lost and nothing sent twice."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(
            5.0,
            on_submit=lambda _: rh.ConnectError("no route") if 0.5 < loop.time() < 120 else None,
        )
        async with service.session(limits=FAST, rng=random.Random(0)) as session:
            outcomes = await collect(session.stream(posters(30)))
        assert all(outcome.ok for outcome in outcomes)
        assert len(service.created) == 30

    run(main)


def test_a_service_that_cannot_be_reached_stops_the_submitting() -> None:
    """One error after the policy's attempts, and not one per request."""

    async def main() -> None:
        service = Service(5.0, on_submit=lambda _: rh.ConnectError("no such host"))
        policy = rh.RetryPolicy(attempts=4)
        async with service.session(limits=FAST, retry=policy) as session:
            stream = session.stream(posters(10_000))
            with pytest.raises(rh.ConnectError, match="no such host"):
                await collect(stream)
            assert {left.state for left in stream.unfinished} == {"not_submitted"}
        assert sum(service.submitted.values()) <= 20 + 4

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        rh.ConnectError("down"),
        rh.ReadTimeout("silence"),
        rh.Response(503, b""),
        rh.Response(200, b"<html>"),
        refusal("1002"),
        refusal("1005"),
        refusal("1011"),
        refusal("1007"),
    ],
    ids=["connect", "timeout", "503", "garbage", "1002", "1005", "1011", "1007"],
)
def test_failing_queries_never_fail_a_task(answer: Any) -> None:
    """Queries fail for an hour: the task is queried less and less often, and its result arrives."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(5.0, on_query=lambda _: answer if loop.time() < 3600 else None)
        async with service.session(limits=FAST) as session:
            outcomes = await collect(session.stream(posters(2)))
        assert all(outcome.ok for outcome in outcomes)
        times = next(iter(service.query_times.values()))
        assert 60 < len(times) < 80
        assert times[10] - times[9] > 4 * (times[1] - times[0])

    run(main)


def test_a_fresh_id_may_take_a_moment_to_be_known() -> None:
    """1004 is believed only when it has been the answer for two minutes without a break."""

    async def main() -> None:
        answers = [refusal("1004")] * 9
        service = Service(5.0, on_query=lambda _: answers.pop() if answers else None)
        async with service.session() as session:
            assert (await collect(session.stream(posters(1))))[0].ok
            service._on_query = lambda _: refusal("1004")
            (lost,) = await collect(session.stream(posters(1)))
        assert isinstance(lost, rh.Failed)
        assert isinstance(lost.error, rh.NotFoundError)
        assert lost.task is not None
        assert lost.task.id in service.created
        times = service.query_times[lost.task.id]
        assert times[-1] - times[0] == pytest.approx(120, abs=10)

    run(main)


def test_a_task_that_fails_or_is_cancelled_is_told_apart() -> None:
    """FAILED becomes Failed with TaskFailed, CANCEL becomes Cancelled; both carry the task."""

    async def main() -> None:
        service = Service(5.0)

        def ends(task_id: str) -> rh.Response | None:
            word = {"0": "FAILED", "1": "CANCEL"}.get(service.created[task_id][-1])
            body = f'{{"taskId": "{task_id}", "status": "{word}", "errorCode": "1501"}}'
            return rh.Response(200, body.encode()) if word else None

        service._on_query = ends
        async with service.session() as session:
            failed, cancelled, fine = await collect(session.stream(posters(3), ordered=True))
        assert isinstance(failed, rh.Failed)
        assert isinstance(failed.error, rh.TaskFailed)
        assert failed.error.code == "1501"
        assert failed.error.task == failed.task
        assert isinstance(cancelled, rh.Cancelled)
        assert cancelled.error.task_id == cancelled.task.id
        assert fine.ok

    run(main)


def test_a_task_that_failed_as_it_was_submitted_is_not_asked_after() -> None:
    """The answer to the submit says so already."""

    async def main() -> None:
        answer = json_response({"taskId": "2013508786110739999", "status": "FAILED"})
        service = Service(5.0, on_submit=lambda _: answer)
        async with service.session() as session:
            (outcome,) = await collect(session.stream(posters(1)))
        assert isinstance(outcome, rh.Failed)
        assert outcome.task is not None
        assert outcome.task.id == "2013508786110739999"
        assert service.query_times == {}

    run(main)


def test_the_numbers_add_up() -> None:
    """statistics() at every moment: pulled is what waits plus what ended."""

    async def main() -> None:
        service = Service(
            8.0,
            on_submit=lambda p: refusal("1501") if p.endswith("7") else None,
            after_submit=lambda p: rh.ReadError("") if p.endswith("9") else None,
        )
        async with service.session(limits=FAST) as session:
            stream = session.stream(posters(100))
            async for _ in stream:
                s = stream.statistics()
                assert s.pulled == s.waiting + s.succeeded + s.failed + s.unknown
            s = stream.statistics()
            assert (s.pulled, s.waiting, s.delivered) == (100, 0, 100)
            assert (s.succeeded, s.failed, s.unknown, s.submitted) == (80, 10, 10, 80)
            assert s.queries == sum(map(len, service.query_times.values()))

    run(main)


# -- leaving ----------------------------------------------------------------------------------


def running_tasks() -> set[asyncio.Task[Any]]:
    return {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}


def test_breaking_out_names_what_still_runs(caplog: pytest.LogCaptureFixture) -> None:
    """The ids of tasks left at the service are in `unfinished` and in a warning."""

    async def main() -> None:
        service = Service(lambda p: 5.0 if p.endswith(" 0") else 100.0)
        async with service.session(limits=FAST) as session:
            async with session.stream(posters()) as stream:
                async for _ in stream:
                    break
            left = [item.task_id for item in stream.unfinished if item.state == "running"]
            ended = {t for t, p in service.created.items() if p.endswith(" 0")}
            assert set(left) == set(service.created) - ended
            assert all(str(task_id) in caplog.text for task_id in left)
        assert not running_tasks()

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)


def test_a_submit_under_way_when_leaving_is_waited_for_a_moment() -> None:
    """A second's grace, so that the id of what was just submitted is known."""

    async def main() -> None:
        service = Service(100.0, latency=0.5)
        async with service.session(limits=rh.Limits(3, None, None)) as session:
            stream = session.stream(posters())
            waiter = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0.1)
            waiter.cancel()
            await stream.aclose()
            assert [item.state for item in stream.unfinished] == ["running"] * 3
            assert {item.task_id for item in stream.unfinished} == set(service.created)

    run(main)


def test_a_submit_that_outlasts_the_grace_is_of_unknown_fate() -> None:
    """No answer within the second: the request is listed as unknown."""

    async def main() -> None:
        service = Service(100.0, latency=30.0)
        async with service.session(limits=rh.Limits(2, None, None)) as session:
            stream = session.stream(posters())
            async with stream:
                waiter = asyncio.ensure_future(anext(stream))
                await asyncio.sleep(1)
                waiter.cancel()
            assert [item.state for item in stream.unfinished] == ["unknown"] * 2

    run(main)


def test_dropping_the_stream_stops_it() -> None:
    """A bare `async for` that is left: its slots come free and its input is read no more."""

    async def main() -> None:
        service = Service(50.0)
        async with service.session(limits=FAST) as session:

            async def look_once() -> None:
                async for _ in session.stream(posters()):
                    break

            await look_once()
            gc.collect()
            await asyncio.sleep(1)
            created = len(service.created)
            await asyncio.sleep(500)
            assert len(service.created) == created
            again = await collect(session.stream(posters(25)))
            assert len(again) == 25

    run(main)


@pytest.mark.parametrize("how", ["raise", "cancel", "close_twice", "close_session"])
def test_however_it_is_left_nothing_leaks(how: str) -> None:
    """No task of ours outlives the session; the transport is closed."""

    async def main() -> None:
        service = Service(50.0)

        async def use() -> None:
            async with service.session(limits=FAST) as session:
                async with session.stream(posters()) as stream:
                    await asyncio.sleep(1)
                    if how == "raise":
                        raise LookupError
                    if how == "close_twice":
                        await stream.aclose()
                        await stream.aclose()
                        return
                    if how == "close_session":
                        await session.aclose()
                        with pytest.raises(rh.SessionError):
                            await anext(stream)
                        return
                    await anext(stream)
                    await asyncio.sleep(1000)

        user = asyncio.ensure_future(use())
        await asyncio.sleep(60)
        user.cancel()
        await asyncio.wait([user])
        assert service.transport.closed
        assert not running_tasks()
        if how == "raise":
            assert isinstance(user.exception(), LookupError)

    run(main)


def test_on_cancel_cancel_asks_the_service_to_cancel() -> None:
    """Every task that ran is cancelled there."""

    async def main() -> None:
        service = Service(100.0)
        async with service.session(limits=rh.Limits(5, None, None)) as session:
            async with session.stream(posters(), on_cancel="cancel"):
                await asyncio.sleep(1)
            assert sorted(service.cancelled) == sorted(service.created)

    run(main)


def test_on_cancel_wait_brings_home_what_runs() -> None:
    """Nothing more is submitted; what ran is in `undelivered`, nothing is unfinished."""

    async def main() -> None:
        service = Service(30.0)
        async with service.session(limits=rh.Limits(5, None, None)) as session:
            async with session.stream(posters(), on_cancel="wait") as stream:
                await asyncio.sleep(1)
            assert len(stream.undelivered) == 5
            assert all(outcome.ok for outcome in stream.undelivered)
            assert not stream.unfinished
        assert len(service.created) == 5

    run(main)


def test_closing_twice_at_once_waits_for_what_runs_both_times() -> None:
    """`on_cancel="wait"`: two tasks close the session, and neither returns before the end."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(30.0)
        session = service.session(limits=rh.Limits(5, None, None), on_cancel="wait")
        await session.__aenter__()
        stream = session.stream(posters())
        await asyncio.sleep(1)
        await asyncio.gather(session.aclose(), session.aclose())
        assert loop.time() > 30
        assert len(stream.undelivered) == len(service.created) == 5
        assert stream.unfinished == ()
        assert service.transport.closed

    run(main)


def test_a_stream_without_a_job_keeps_nobody() -> None:
    """`on_cancel="wait"` has nothing to wait for."""

    async def main() -> None:
        async with Service(30.0).session(on_cancel="wait") as session, asyncio.timeout(5):
            await session.stream([]).aclose()

    run(main)


def test_a_stream_is_of_one_loop() -> None:
    """Another one that asks it for an outcome gets an error, and takes none."""
    service = Service(1.0)
    session = service.session()

    async def elsewhere(stream: rh.JobStream) -> None:
        with pytest.raises(rh.SessionError, match="stream belongs to another event loop"):
            await anext(stream)

    async def opened() -> rh.JobStream:
        await session.__aenter__()
        return session.stream(posters(2))

    async def finish(stream: rh.JobStream) -> None:
        assert len(await collect(stream)) == 2
        await session.aclose()

    rh.Catalogue.load()
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        stream = runner.run(opened())
        run(elsewhere, stream)
        runner.run(finish(stream))


def test_outcomes_not_consumed_are_not_lost() -> None:
    """What had come in when the stream was left is still there, in `undelivered`."""

    async def main() -> None:
        async with Service(5.0).session(limits=FAST) as session:
            async with session.stream(posters(20)) as stream:
                await anext(stream)
                await asyncio.sleep(100)
            assert len(stream.undelivered) == 19

    run(main)


def test_two_streams_share_the_sessions_limits() -> None:
    """Tasks alive and the pace are the session's, and both streams get their turns."""

    async def main() -> None:
        service = Service(10.0)
        async with service.session(limits=rh.Limits(6, 20.0, None)) as session:
            many = asyncio.ensure_future(collect(session.stream(posters(60))))
            await asyncio.sleep(5)
            few = await collect(session.stream(posters(3)))
            assert not many.done()
            assert len(few) == 3
            assert len(await many) == 60
        assert service.most_alive == 6

    run(main)


def test_several_consumers_may_share_a_stream() -> None:
    """Each outcome goes to one of them; a cancelled one takes none with it."""

    async def main() -> None:
        async with Service(lambda p: 3 + len(p) % 3).session(limits=FAST) as session:
            stream = session.stream(posters(100))
            tasks = [asyncio.ensure_future(collect(stream)) for _ in range(4)]
            await asyncio.sleep(4)
            tasks[0].cancel()
            rest = await asyncio.gather(*tasks[1:])
            taken = stream.statistics().delivered
            assert taken == 100
            assert len({o.index for got in rest for o in got}) == sum(map(len, rest))

    run(main)


def test_a_run_repeats_with_the_same_seed() -> None:
    """The same seed, the same requests at the same instants."""

    def times(seed: int) -> list[float]:
        async def main() -> list[float]:
            service = Service(9.0)
            async with service.session(rng=random.Random(seed)) as session:
                await collect(session.stream(posters(30)))
            return sorted(itertools.chain.from_iterable(service.query_times.values()))

        return run(main)

    assert times(1) == pytest.approx(times(1), abs=1e-6)
    assert times(1) != pytest.approx(times(2), abs=1e-6)


def test_a_value_without_a_truth_value_fails_its_request_alone() -> None:
    """As `pandas.NA` and arrays are."""

    class Neither:
        def __bool__(self) -> bool:
            raise TypeError("neither true nor false")

    odd: Any = Neither()
    requests = [*posters(2), rh.SeedreamV5Lite("a poster of an odd size", resolution=odd)]

    async def main() -> list[Any]:
        async with Service(1.0).session() as session:
            outcomes = await collect(session.stream(requests, ordered=True))
            with pytest.raises(rh.PayloadError, match="resolution"):
                await session.run(requests[-1])
            return outcomes

    *good, bad = run(main)
    assert all(outcome.ok for outcome in good)
    assert isinstance(bad.error, rh.PayloadError)
