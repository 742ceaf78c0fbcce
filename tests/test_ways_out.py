"""Whatever happens to whoever waits: ids are told, slots come free, nobody stalls."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from support import FIRST_ID, Service, posters, refusal

import runninghub_async as rh
from runninghub_async.testing import MockTransport, VirtualTimeLoop, json_response, run

POSTER = rh.SeedreamV5Lite("a poster of a paper boat")
OPEN = rh.Limits(None, None, None)


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.WARNING, "runninghub_async"):
        yield


async def everything(stream: rh.JobStream) -> list[rh.Outcome]:
    return [outcome async for outcome in stream]


def told(caplog: pytest.LogCaptureFixture, service: Service) -> bool:
    """Whether every task that was created is named in a warning."""
    return all(task_id in caplog.text for task_id in service.created)


@pytest.mark.parametrize("latency", [0.5, 30.0])
@pytest.mark.parametrize("call", ["run", "submit"])
def test_a_session_that_closes_under_a_call_tells_its_task(
    caplog: pytest.LogCaptureFixture, latency: float, call: str
) -> None:
    """Answered within the grace: the id; not answered: that a task may exist."""

    async def main() -> None:
        service = Service(100.0, latency=latency)
        async with service.session() as session:
            pending = asyncio.ensure_future(getattr(session, call)(POSTER))
            await asyncio.sleep(0.2)
        with pytest.raises(rh.SessionError):
            await pending
        if latency < 1:
            assert service.created
            assert told(caplog, service)
        else:
            assert "may exist" in caplog.text

    run(main)


@pytest.mark.parametrize("turns", range(0, 40, 3))
@pytest.mark.parametrize("on_cancel", ["detach", "wait"])
def test_run_cancelled_in_any_turn_of_the_loop_tells_its_task(
    caplog: pytest.LogCaptureFixture, turns: int, on_cancel: Any
) -> None:
    """Also when the answer and the cancellation come in the same turn."""

    async def main() -> None:
        service = Service(0.01, latency=0)
        polling = rh.ExponentialPolling(0.01, 1, 0.01)
        async with service.session(limits=OPEN, polling=polling) as session:
            task = asyncio.ensure_future(session.run(POSTER, on_cancel=on_cancel))
            for _ in range(turns):
                await asyncio.sleep(0)
            done = task.done()
            task.cancel()
            await asyncio.wait([task])
            await asyncio.sleep(5)
            assert done or told(caplog, service)

    run(main)


def test_a_run_that_waits_for_a_slot_is_not_submitted_after_its_caller_left() -> None:
    """`on_cancel="wait"` waits for what runs, and does not start what does not."""

    async def main() -> None:
        service = Service(20.0)
        async with service.session(limits=rh.Limits(1, None, None)) as session:
            first = asyncio.ensure_future(session.run(POSTER))
            await asyncio.sleep(1)
            second = asyncio.ensure_future(session.run(POSTER, on_cancel="wait"))
            await asyncio.sleep(1)
            second.cancel()
            await asyncio.wait([second])
            await first
            await asyncio.sleep(60)
        assert len(service.created) == 1

    run(main)


@pytest.mark.parametrize("refused", [False, True])
def test_a_session_that_waits_for_its_tasks_submits_nothing_more(refused: bool) -> None:
    """Not the runs that wait for a slot, nor what streams have taken or would take; and no new
    job is accepted meanwhile."""

    async def main() -> None:
        full = False
        service = Service(20.0, on_submit=lambda _: refusal("421") if full else None)
        session = service.session(limits=rh.Limits(2, None, None), on_cancel="wait")
        await session.__aenter__()
        first = asyncio.ensure_future(session.run(POSTER))
        await asyncio.sleep(1)
        full = refused
        streams = [session.stream(posters(9), on_cancel=how) for how in ("wait", "detach")]
        waiting = [asyncio.ensure_future(session.run(POSTER)) for _ in range(3)]
        await asyncio.sleep(1)
        created = len(service.created)
        full = False
        closing = asyncio.ensure_future(session.aclose())
        await asyncio.sleep(1)
        with pytest.raises(rh.SessionError, match="being closed"):
            await session.run(POSTER)
        with pytest.raises(rh.SessionError, match="being closed"):
            session.stream(posters(1))
        await closing
        assert (await first).done
        for ended in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(ended, rh.SessionError)
        assert len(service.created) == created
        assert len(streams[0].undelivered) == (0 if refused else 1)

    run(main)


@pytest.mark.parametrize("call", ["stream", "run"])
@pytest.mark.parametrize("answer", [refusal("421"), rh.ReadError("reset")])
def test_a_submit_under_way_when_a_session_leaves_is_not_repeated(call: str, answer: Any) -> None:
    """It is refused, or its answer is lost and `unknown` says to submit it again."""

    async def main() -> None:
        service = Service(60.0, latency=1.0)
        policies: dict[str, Any] = {"on_cancel": "wait", "unknown": "resubmit"}
        session = service.session(limits=OPEN, **policies)
        await session.__aenter__()
        runs = asyncio.ensure_future(session.run(POSTER))
        await asyncio.sleep(10)
        service.after_submit = lambda _: answer
        (request,) = posters(1)
        if call == "stream":
            stream = session.stream([request])
        else:
            running = asyncio.ensure_future(session.run(request))
        await asyncio.sleep(0.5)
        await session.aclose()
        assert (await runs).done
        assert service.submitted[request.prompt] == 1
        if call == "stream":
            assert len(stream.unfinished) == 1
        else:
            with pytest.raises(rh.SessionError):
                await running

    run(main)


@pytest.mark.parametrize("on_cancel", ["detach", "wait"])
@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("call", ["run", "submit", "submit_many"])
def test_a_call_that_begins_just_before_a_session_leaves_ends_without_a_submit(
    call: str, on_cancel: Any, *, busy: bool
) -> None:
    """Also one that was still reading its input."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[rh.SeedreamV5Lite]:
        begun.set()
        await go_on.wait()
        yield POSTER

    async def main() -> None:
        service = Service(30.0)
        async with service.session(on_cancel=on_cancel) as session, asyncio.timeout(600):
            if busy:
                stream = session.stream(posters(1), on_cancel="wait")
                await asyncio.sleep(1)
            given: Any = slow() if call == "submit_many" else POSTER
            late = asyncio.ensure_future(getattr(session, call)(given))
            loop = asyncio.get_running_loop()
            loop.call_later(1, go_on.set)
            if loop.get_task_factory() is None:
                await asyncio.sleep(0)
            # Else its task has begun at once.
        async with asyncio.timeout(600):
            with pytest.raises(rh.SessionError):
                await late
        assert service.submitted[POSTER.prompt] == 0
        if busy:
            assert len(stream.undelivered) == 1

    run(main)


def test_whoever_is_not_waited_for_still_gets_what_ends_meanwhile() -> None:
    """The tasks are paid for; only what runs at the very end is left or cancelled."""

    async def main() -> None:
        service = Service(lambda prompt: 100.0 if "boat" in prompt else 10.0)
        session = service.session(limits=OPEN, on_cancel="cancel")
        await session.__aenter__()
        stream = session.stream(posters(2))
        consumer = asyncio.ensure_future(everything(stream))
        short = asyncio.ensure_future(session.run(next(posters(1))))
        long = asyncio.ensure_future(session.run(POSTER, on_cancel="wait"))
        await asyncio.sleep(5)
        await session.aclose()
        assert all(outcome.ok for outcome in await consumer)
        assert (await short).done
        assert (await long).done
        assert service.cancelled == []

    run(main)


def test_submit_many_cancelled_tells_all_it_created(caplog: pytest.LogCaptureFixture) -> None:
    """Those answered, and those whose answers were under way."""

    async def main() -> None:
        service = Service(100.0, latency=0.3)
        async with service.session(limits=rh.Limits(5, None, None)) as session:
            task = asyncio.ensure_future(session.submit_many(posters(20)))
            await asyncio.sleep(0.7)
            task.cancel()
            await asyncio.wait([task])
        assert len(service.created) >= 10
        assert told(caplog, service)

    run(main)


def test_a_dropped_stream_tells_what_nobody_took(caplog: pytest.LogCaptureFixture) -> None:
    """Outcomes that had come in when a bare loop was left are named."""

    async def main() -> None:
        service = Service(5.0)
        async with service.session(limits=rh.Limits(10, None, None)) as session:

            async def one() -> str:
                async for outcome in session.stream(posters(10)):
                    await asyncio.sleep(60)
                    assert isinstance(outcome, rh.Succeeded)
                    return outcome.task.id
                raise AssertionError

            taken = await one()
            gc.collect()
            await asyncio.sleep(1)
        assert all(task_id in caplog.text for task_id in set(service.created) - {taken})

    run(main)


def test_slow_submits_do_not_keep_anybody_from_looking() -> None:
    """Submits that hang for a minute leave workers for what is done already."""

    async def main() -> None:
        count = itertools.count()
        service = Service(1.0)

        async def handle(request: rh.Request) -> rh.Response:
            if not request.url.endswith("/query") and next(count) >= 10:
                await asyncio.sleep(60)
                raise rh.ReadTimeout("slow")
            return await service._answer(request)

        limits = rh.Limits(200, None, None)
        async with rh.Session("k", transport=MockTransport(handle), limits=limits) as session:
            async with session.stream(posters()) as stream:
                await anext(stream)
                assert asyncio.get_running_loop().time() < 5

    run(main)


def test_failures_to_connect_count_only_in_a_row() -> None:
    """Twelve refusals for want of room and then one lost connection do not stop a stream."""

    async def main() -> None:
        answers: list[Any] = [refusal("421")] * 12 + [rh.ConnectError("blip"), None]
        service = Service(1.0, on_submit=lambda _: answers.pop(0))
        async with service.session() as session:
            (outcome,) = [o async for o in session.stream([POSTER])]
        assert outcome.ok
        assert outcome.attempts == 14

    run(main)


def test_trouble_that_lasts_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """A service out of reach, and queries that fail and fail, are named in warnings."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(1.0, on_query=lambda _: refusal("1005") if loop.time() < 300 else None)
        async with service.session() as session:
            await session.submit(POSTER)
            service._on_submit = lambda _: rh.ConnectError("no route") if loop.time() < 60 else None
            await session.run(POSTER)
        assert "could not be sent 3 times in a row: no route" in caplog.text
        assert "5 queries in a row failed" in caplog.text

    run(main)


def test_an_end_is_noticed_although_nothing_may_be_submitted() -> None:
    """A stream and an as_completed end while other tasks hold every slot."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(lambda p: 1000.0 if p == POSTER.prompt else 3.0)
        async with service.session(limits=rh.Limits(2, None, None)) as session:
            held = asyncio.ensure_future(session.run(POSTER))
            outcomes = [o async for o in session.stream(posters(1))]
            other = asyncio.ensure_future(session.run(POSTER))
            await asyncio.sleep(1)
            assert outcomes[0].task is not None
            ended = [t async for t in session.as_completed([outcomes[0].task.id])]
            assert len(ended) == 1
            assert loop.time() < 20
            held.cancel()
            other.cancel()

    run(main)


def test_leaving_a_stream_gives_its_slots_to_others_at_once() -> None:
    """A job that waited for a slot is submitted when the stream is left, not at the next poll."""

    async def main() -> None:
        polling = rh.ExponentialPolling(600, 1, 600)
        service = Service(1e6)
        async with service.session(limits=rh.Limits(3, None, None), polling=polling) as session:
            stream = session.stream(posters())
            await asyncio.sleep(1)
            waiting = asyncio.ensure_future(session.submit(POSTER))
            await asyncio.sleep(1)
            assert not waiting.done()
            await stream.aclose()
            await asyncio.wait_for(waiting, 5)

    run(main)


class Hostile:
    """A request that breaks when it is looked at, even to be shown."""

    path = "a/b"

    def check(self) -> tuple[str, ...]:
        raise ZeroDivisionError

    def __repr__(self) -> str:
        raise ZeroDivisionError


def test_nothing_in_the_input_breaks_the_session() -> None:
    """Each hostile item is a Failed with a PayloadError; the good ones come home."""

    async def main() -> None:
        hostile: list[Any] = [
            Hostile(),
            rh.SeedreamV5Lite,
            rh.ModelRequest(None),  # type: ignore[arg-type]
            rh.ModelRequest(["a"]),  # type: ignore[arg-type]
            rh.SeedreamV5Lite("a poster of a boat", 10**5000),
            rh.ModelRequest("a/\ud800", checked=False),
        ]
        async with Service(2.0).session(limits=rh.Limits(1, None, None)) as session:
            stream = session.stream([*hostile, *posters(3)])
            outcomes = [outcome async for outcome in stream]
            assert sum(outcome.ok for outcome in outcomes) == 3
            bad = [o for o in outcomes if isinstance(o, rh.Failed)]
            assert {type(o.error) for o in bad} <= {rh.PayloadError}
            assert len(bad) + 3 == len(outcomes) == 9

    run(main)


def test_an_input_that_misbehaves_hurts_only_its_own_stream() -> None:
    """It raises when closed, or is cancelled inside; others go on."""

    async def main() -> None:
        class Stubborn:
            def __aiter__(self) -> AsyncIterator[Any]:
                return self

            async def __anext__(self) -> Any:
                await asyncio.sleep(0)
                return POSTER

            async def aclose(self) -> None:
                raise LookupError("will not close")

        async def cancelled() -> AsyncIterator[Any]:
            yield POSTER
            raise asyncio.CancelledError

        async with Service(2.0).session(limits=rh.Limits(5, None, None)) as session:
            other = session.stream(posters(30))
            async with session.stream(Stubborn()) as stream:
                await anext(stream)
            with pytest.raises(RuntimeError, match="input was cancelled"):
                async for _ in session.stream(cancelled()):
                    pass
            assert len([outcome async for outcome in other]) == 30

    run(main)


def test_an_input_that_waits_for_what_fails_ends_its_stream_with_that_error() -> None:
    """After the outcomes of what it gave. One that mends it itself goes on."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def prompts(mends: bool) -> AsyncIterator[Any]:
            yield POSTER
            failing: asyncio.Future[str] = loop.create_future()
            loop.call_later(1, failing.set_exception, LookupError("no prompt"))
            try:
                await failing
            except LookupError:
                if not mends:
                    raise
            yield POSTER

        async with Service(2.0).session() as session:
            assert len([outcome async for outcome in session.stream(prompts(True))]) == 2
            found = []
            with pytest.raises(LookupError, match="no prompt"):
                async for outcome in session.stream(prompts(False)):
                    found.append(outcome)
            assert [outcome.ok for outcome in found] == [True]

    run(main)


@pytest.mark.parametrize("cancels", [1, 2])
def test_an_input_that_cleans_up_slowly_is_given_two_seconds(
    caplog: pytest.LogCaptureFixture, cancels: int
) -> None:
    """From the first time it is cancelled, however often; and is then left behind."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        begun, heard = asyncio.Event(), 0

        async def deaf() -> AsyncIterator[Any]:
            nonlocal heard
            yield POSTER
            while True:
                begun.set()
                try:
                    await asyncio.sleep(1e6)
                except asyncio.CancelledError:
                    heard += 1

        service = Service(1e4, latency=1.5)
        async with service.session() as session:
            stream = session.stream(deaf())
            await begun.wait()
            closing = asyncio.ensure_future(stream.aclose())
            await asyncio.sleep(0.5)
            at = loop.time() - 0.5
            if cancels == 1:
                await closing
        await asyncio.wait([closing])
        assert heard == cancels
        return loop.time() - at

    assert 1.5 < run(main) < 3.0
    assert "ignored its cancellation and was left behind" in caplog.text


def test_retry_after_zero_is_no_invitation() -> None:
    """Asked to wait 0 s again and again, the pauses still grow."""

    async def main() -> None:
        answer = rh.Response(429, b"", {"retry-after": "0"})
        loop = asyncio.get_running_loop()
        service = Service(1.0, on_submit=lambda _: answer if loop.time() < 300 else None)
        async with service.session(limits=OPEN) as session:
            assert (await session.run(POSTER)).done
        assert len(service.submit_times) < 20

    run(main)


def test_an_id_that_is_no_number_is_asked_after_all_the_same() -> None:
    """Whatever the service hands out: quotes and all."""

    async def main() -> None:
        strange = 'a"b c\ud800'
        answers = iter([{"taskId": strange}, {"taskId": strange, "status": "FAILED"}])
        transport = MockTransport(lambda _: json_response(next(answers)))
        async with rh.Session("k", transport=transport) as session:
            with pytest.raises(rh.TaskFailed):
                await session.run(POSTER)

    run(main)


class Ticking(VirtualTimeLoop):
    """A loop on which time passes between any two looks at the clock, as it does in life."""

    late = 0.0

    def time(self) -> float:
        self.late += 0.0007
        return super().time() + self.late


def test_nobody_sleeps_through_what_comes_due_while_they_lie_down() -> None:
    """However time passes between a look at the schedule and the setting of the alarm."""

    async def main() -> None:
        service = Service(0.05, latency=0.0)
        polling = rh.ExponentialPolling(0.01, 1.0, 0.01, 0.9)
        limits = rh.Limits(1, None, None)
        async with service.session(polling=polling, limits=limits) as session:
            async with asyncio.timeout(3600):
                outcomes = [outcome async for outcome in session.stream(posters(400))]
        assert len(outcomes) == 400

    rh.Catalogue.load()
    with asyncio.Runner(loop_factory=Ticking) as runner:
        runner.run(main())


def test_closing_is_finished_even_if_it_is_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """Cancelled in the middle of aclose: ids are told and the transport is closed."""

    async def main() -> None:
        service = Service(100.0, latency=0.5)
        session = service.session(limits=rh.Limits(3, None, None))
        await session.__aenter__()
        stream = session.stream(posters())
        await asyncio.sleep(0.6)
        closing = asyncio.ensure_future(session.aclose())
        await asyncio.sleep(0.1)
        closing.cancel()
        await asyncio.wait([closing])
        assert service.transport.closed
        assert told(caplog, service)
        assert stream.unfinished
        assert str(FIRST_ID) in {item.task_id for item in stream.unfinished}

    run(main)
