"""One call at a time, and the session itself."""

from __future__ import annotations

import asyncio
import logging
import pickle
import re
import traceback
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import FIRST_ID, Service, posters, refusal, sample

import runninghub_async as rh
from runninghub_async.testing import MockTransport, json_response, run

POSTER = rh.SeedreamV5Lite("a poster of a paper boat")
KEY = "0123456789abcdef0123456789abcdef"
ENDED = {"status": "SUCCESS", "results": [{"url": "https://x.example/a.png", "outputType": "png"}]}


def test_run_submits_waits_and_returns_the_task() -> None:
    """The first look comes after about three seconds, and never a second submit."""

    async def main() -> None:
        service = Service(10.0)
        async with service.session() as session:
            task = await session.run(POSTER)
        assert task.status is rh.TaskStatus.SUCCESS
        assert task.outputs[0].url == f"https://results.example/{FIRST_ID}.png?sign=a%2Fb"
        assert sum(service.submitted.values()) == 1
        assert 2.7 <= service.query_times[task.id][0] <= 3.5
        assert len(service.query_times[task.id]) == 3

    run(main)


def test_run_raises_what_became_of_the_task() -> None:
    """TaskFailed with the task and its code; PayloadError before anything is sent."""
    failed = sample("query_failed_1501").replace(b"2015810049043947521", b"2013508786110730241")

    async def main() -> None:
        service = Service(1.0, on_query=lambda _: rh.Response(200, failed))
        async with service.session() as session:
            with pytest.raises(rh.TaskFailed, match="1501: Content verification failed") as caught:
                await session.run(POSTER)
            assert caught.value.task_id == str(FIRST_ID)
            assert caught.value.task is not None
            with pytest.raises(rh.PayloadError, match=r"prompt: shorter than 5 @ \$\.prompt"):
                await session.run(rh.SeedreamV5Lite("abc"))
        assert sum(service.submitted.values()) == 1

    run(main)


def test_submit_returns_at_once_and_waits_out_a_full_service() -> None:
    """A refusal for want of room is not an error of submit."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(100.0, on_submit=lambda _: refusal("421") if loop.time() < 20 else None)
        async with service.session() as session:
            task = await session.submit(POSTER)
            assert task.id == str(FIRST_ID)
            assert not task.done
            assert 20 <= loop.time() < 32

    run(main)


def test_submit_many_keeps_the_input_order() -> None:
    """Task i belongs to request i, however the answers came."""

    async def main() -> None:
        service = Service(5.0)
        async with service.session(limits=rh.Limits(8, None, None)) as session:
            tasks = await session.submit_many(posters(40))
            prompts = [service.created[task.id] for task in tasks]
            assert prompts == [request.prompt for request in posters(40)]
            ended = [task async for task in session.as_completed(t.id for t in tasks)]
        assert {task.id for task in ended} == set(service.created)
        assert all(task.status is rh.TaskStatus.SUCCESS for task in ended)

    run(main)


def test_submit_many_takes_an_async_input() -> None:
    """It is read whole, and the tasks are in its order."""

    async def requests() -> AsyncIterator[rh.SeedreamV5Lite]:
        for request in posters(5):
            await asyncio.sleep(1)
            yield request

    async def main() -> None:
        service = Service(5.0)
        async with service.session() as session:
            tasks = await session.submit_many(requests())
        assert [service.created[task.id] for task in tasks] == [r.prompt for r in posters(5)]

    run(main)


def test_submit_many_checks_everything_before_it_sends_anything() -> None:
    """Every faulty item is named with its place; nothing was sent."""

    async def main() -> None:
        service = Service(5.0)
        items: list[Any] = [POSTER, rh.SeedreamV5Lite("abc"), POSTER, "nonsense"]
        async with service.session() as session:
            with pytest.raises(rh.PayloadError) as caught:
                await session.submit_many(items)
        assert [p.split(":")[0] for p in caught.value.problems] == ["item 1", "item 3"]
        assert not service.submitted

    run(main)


@pytest.mark.parametrize("code", ["1501", "416"])
def test_submit_many_loses_no_task_to_a_refusal(code: str) -> None:
    """What was accepted is in the error, whether one item or all further ones were refused."""

    async def main() -> None:
        service = Service(
            50.0, on_submit=lambda p: refusal(code) if int(p.split()[-1]) >= 15 else None
        )
        async with service.session(limits=rh.Limits(4, 10.0, None)) as session:
            with pytest.raises(rh.SubmitManyError) as caught:
                await session.submit_many(posters(20))
        accepted = {task.id for task in caught.value.tasks if task}
        assert accepted == set(service.created)
        assert sorted(caught.value.errors) == [i for i in range(20) if not caught.value.tasks[i]]
        assert all(
            e.code == code for e in caught.value.errors.values() if isinstance(e, rh.APIError)
        )

    run(main)


@pytest.mark.parametrize("latency", [0.4, 30.0], ids=["within the grace", "much later"])
def test_ids_that_come_after_submit_many_was_cancelled_are_named_once(
    latency: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever left hears of each task that was created, as soon as the service has told its id;
    until then, of how many submits were under way."""

    async def main() -> set[str]:
        service = Service(100.0, latency=latency)
        async with service.session(limits=rh.Limits(None, None, None)) as session:
            pending = asyncio.ensure_future(session.submit_many(posters(5)))
            await asyncio.sleep(0.2)
            pending.cancel()
            await asyncio.wait([pending])
            assert pending.cancelled()
            sent = len(service.transport.requests)
            if latency > 1:
                assert not service.created
                assert f"while {sent} submits were under way; their tasks may exist" in caplog.text
            await asyncio.sleep(60)
            # Said by then, not only when the session ends.
            assert len(service.created) == sent == len(service.transport.requests) > 1
            return set(service.created)

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        created = run(main)
    assert Counter(re.findall(r"\d{19}", caplog.text)) == dict.fromkeys(created, 1)


@pytest.mark.parametrize(("after", "ids"), [(1.5, 0), (3.5, 2)])
def test_submit_many_cancelled_tells_how_many_answers_had_been_lost(
    after: float, ids: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside the ids of the tasks, where there are any: those submits may have created tasks."""

    async def main() -> None:
        service = Service(
            100.0, after_submit=lambda p: rh.ReadError("cut") if int(p.split()[-1]) < 2 else None
        )
        async with service.session(limits=rh.Limits(None, 1.0, None)) as session:
            pending = asyncio.ensure_future(session.submit_many(posters(20)))
            await asyncio.sleep(after)
            pending.cancel()
            await asyncio.wait([pending])
            assert "left submit_many with 2 submits of unknown outcome" in caplog.text
            assert len(re.findall(r"\d{19}", caplog.text)) == ids
            assert (" tasks: " in caplog.text) is (ids > 0)

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)


@pytest.mark.parametrize("after", [0.2, 0.7, 1.2])
def test_a_session_that_is_left_during_submit_many_loses_no_id(
    after: float, caplog: pytest.LogCaptureFixture
) -> None:
    """What had been answered is in the error, what is answered while the session closes is in the
    log, each once. Nothing more is submitted."""

    async def main() -> None:
        service = Service(100.0, latency=0.5)
        async with service.session(limits=rh.Limits(None, 10.0, None)) as session:
            pending = asyncio.ensure_future(session.submit_many(posters(20)))
            await asyncio.sleep(after)
        with pytest.raises(rh.RunningHubError) as caught:
            await pending
        if after < 0.5:
            assert isinstance(caught.value, rh.SessionError)
            accepted = []
        else:
            assert isinstance(caught.value, rh.SubmitManyError)
            accepted = [task.id for task in caught.value.tasks if task is not None]
            for index, error in caught.value.errors.items():
                assert caught.value.tasks[index] is None
                assert isinstance(error, rh.SessionError)
            assert len(accepted) + len(caught.value.errors) == 20
        named = re.findall(r"\d{19}", caplog.text)
        assert named
        assert sorted(accepted + named) == sorted(service.created)
        assert len(service.created) == sum(service.submitted.values()) < 20

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)


def test_submits_that_outlast_a_session_left_in_submit_many_are_told_by_number(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Their answers cannot come any more, but they may have created tasks."""

    async def main() -> None:
        service = Service(100.0, latency=30.0)
        async with service.session(limits=rh.Limits(None, None, None)) as session:
            pending = asyncio.ensure_future(session.submit_many(posters(5)))
            await asyncio.sleep(0.2)
        with pytest.raises(rh.SessionError, match="closed"):
            await pending
        sent = len(service.transport.requests)
        assert f"while {sent} submits were under way; their tasks may exist" in caplog.text

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)


def test_as_completed_gives_failed_and_forgotten_tasks_too() -> None:
    """No error is raised for them; a forgotten one is UNKNOWN with its error."""
    answers = {
        "11": json_response(
            {"taskId": "11", "status": "FAILED", "errorCode": "1015", "errorMessage": "sorry"}
        ),
        "12": rh.Response(200, sample("query_1004")),
        "13": json_response({"taskId": "13", "status": "SUCCESS"}),
    }

    async def main() -> dict[str, rh.Task]:
        service = Service(on_query=answers.__getitem__)
        async with service.session() as session:
            return {task.id: task async for task in session.as_completed(["11", "12", "13"])}

    tasks = run(main)
    assert tasks["11"].status is rh.TaskStatus.FAILED
    assert str(tasks["11"].error) == "1015: sorry"
    assert tasks["12"].status is rh.TaskStatus.UNKNOWN
    assert tasks["12"].error is not None
    assert tasks["12"].error.code == "1004"
    assert tasks["13"].status is rh.TaskStatus.SUCCESS


def test_a_wait_that_runs_out_keeps_the_id() -> None:
    """WaitTimeout is a TimeoutError with the id; the same task can be waited for again."""

    async def main() -> None:
        service = Service(100.0)
        async with service.session() as session:
            task = await session.submit(POSTER)
            with pytest.raises(TimeoutError) as caught:
                await session.wait(task.id, timeout=10)
            assert isinstance(caught.value, rh.WaitTimeout)
            assert caught.value.task_id == task.id
            assert (await session.wait(task.id)).status is rh.TaskStatus.SUCCESS
        assert sum(service.submitted.values()) == 1

    run(main)


def test_a_timeout_of_somebody_else_is_not_taken_for_that_of_the_wait() -> None:
    """A `TimeoutError` from below is a bug there: it is not turned into "still runs"."""

    async def main() -> None:
        def broken(_: rh.Request) -> rh.Response:
            raise TimeoutError("a bug of the transport")

        async with rh.Session("k", transport=MockTransport(broken)) as session:
            with pytest.raises(TimeoutError, match="a bug of the transport") as caught:
                await session.wait("1", timeout=100)
        assert not isinstance(caught.value, rh.WaitTimeout)

    run(main)


def test_a_wait_that_was_given_up_during_its_query_says_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its caller knows the id. The answer to the query, which comes later, concerns nobody."""

    async def main() -> None:
        service = Service(latency=5.0, on_query=lambda i: json_response({"taskId": i, **ENDED}))
        async with service.session() as session:
            with pytest.raises(rh.WaitTimeout):
                await session.wait("7", timeout=4)
            await asyncio.sleep(10)
            assert len(service.query_times["7"]) == 1

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert caplog.text == ""


def test_wait_returns_a_failed_task_and_raises_for_an_unknown_one() -> None:
    """wait returns how it ended; only 1004 is an error, once it has lasted for two minutes."""

    async def main() -> None:
        service = Service(
            on_query=lambda i: (
                json_response({"taskId": "1", "status": "FAILED"}) if i == "1" else refusal("1004")
            )
        )
        async with service.session() as session:
            assert (await session.wait("1")).status is rh.TaskStatus.FAILED
            with pytest.raises(rh.NotFoundError):
                await session.wait("2")

    run(main)


@pytest.mark.parametrize("when", [0.02, 1.0, 5.0])
@pytest.mark.parametrize("on_cancel", ["detach", "cancel"])
def test_cancelling_run_never_loses_the_id(
    when: float, on_cancel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Cancelled during the submit or the wait: the id is named, or the task is cancelled."""

    async def main() -> None:
        service = Service(100.0)
        async with service.session() as session:
            task = asyncio.ensure_future(session.run(POSTER, on_cancel=on_cancel))
            await asyncio.sleep(when)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await asyncio.sleep(10)
            assert str(FIRST_ID) in caplog.text or service.cancelled == [str(FIRST_ID)]
            if on_cancel == "cancel" and when > 0.1:
                assert service.cancelled == [str(FIRST_ID)]

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)


def test_a_run_that_is_left_although_its_answer_is_lost_says_what_may_exist(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Cancelled while its submit is under way, whose answer never comes."""

    async def main() -> None:
        service = Service(100.0, latency=3.0, after_submit=lambda _: rh.ReadError("cut"))
        async with service.session() as session:
            pending = asyncio.ensure_future(session.run(POSTER))
            await asyncio.sleep(1)
            pending.cancel()
            await asyncio.wait([pending])
            await asyncio.sleep(10)

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert "the outcome of a submit that may have created a task was not retrieved" in caplog.text


def test_a_run_cancelled_in_the_turn_of_its_answer_names_its_task(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The result is there, and its caller will not see it."""

    async def main() -> None:
        pending: asyncio.Future[rh.Task] | None = None

        def answer(request: rh.Request) -> rh.Response:
            if request.url.endswith("/query"):
                assert pending is not None
                asyncio.get_running_loop().call_soon(pending.cancel)
                return json_response({"taskId": str(FIRST_ID), **ENDED})
            return json_response({"taskId": str(FIRST_ID), "status": "RUNNING"})

        async with rh.Session("k", transport=MockTransport(answer)) as session:
            pending = asyncio.ensure_future(session.run(POSTER))
            await asyncio.wait([pending])
            assert pending.cancelled()

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert f"the result of task {FIRST_ID} was not retrieved" in caplog.text


def test_cancelling_ends_although_the_service_does_not_answer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`on_cancel="cancel"`: after ten seconds the tasks that could not be cancelled are named."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(100.0)

        async def handle(request: rh.Request) -> rh.Response:
            if request.url.endswith("/cancel"):
                await asyncio.sleep(3600)
            return await service._answer(request)

        limits = rh.Limits(3, None, None)
        async with rh.Session("k", transport=MockTransport(handle), limits=limits) as session:
            async with session.stream(posters(), on_cancel="cancel"):
                await asyncio.sleep(1)
            assert loop.time() == pytest.approx(11, abs=0.5)
        assert f"to cancel 3 tasks: {' '.join(service.created)}" in caplog.text

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)


def test_closing_does_not_wait_for_a_job_that_finds_no_free_slot() -> None:
    """`on_cancel="wait"` is about tasks: what was never accepted ends with the session."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(20.0, on_submit=lambda _: refusal("421"))
        async with service.session(on_cancel="wait") as session:
            waiting = asyncio.ensure_future(session.run(POSTER))
            await asyncio.sleep(60)
        assert loop.time() < 62
        with pytest.raises(rh.SessionError, match="closed"):
            await waiting

    run(main)


def test_many_runs_at_once_share_the_limits() -> None:
    """300 users at once, 10 slots: never more than 10 alive, and everybody is served."""

    async def main() -> None:
        service = Service(5.0)
        async with service.session(limits=rh.Limits(10, None, None)) as session:
            tasks = await asyncio.gather(*(session.run(request) for request in posters(300)))
        assert len({task.id for task in tasks}) == 300
        assert service.most_alive == 10

    run(main)


def test_a_bare_model_path_can_be_run() -> None:
    """Any model by documented name or path; a new one unchecked; a typo is named."""

    async def main() -> None:
        service = Service(1.0)
        async with service.session() as session:
            await session.run(rh.ModelRequest("seedream-v4-文生图", {"prompt": "a paper boat"}))
            await session.run(rh.ModelRequest("brand/new-model", {"prompt": "x"}, checked=False))
            for bad, told in [
                (rh.ModelRequest("seedream-v5-lite/text-to-imag"), "perhaps seedream-v5-lite"),
                (rh.ModelRequest("../query", checked=False), "is not a path"),
                (rh.ModelRequest("a/b?c", checked=False), "is not a path"),
                (rh.ModelRequest("a/b", [1], checked=False), "expected a mapping"),  # type: ignore[arg-type]
                (rh.ModelRequest("a/b", {"x": {1, 2}}, checked=False), "cannot be sent as JSON"),
                (rh.ModelRequest("a/b", {"x": float("nan")}, checked=False), "cannot be sent"),
            ]:
                with pytest.raises(rh.PayloadError, match=told):
                    await session.run(bad)
        urls = [r.url.removeprefix("https://www.runninghub.ai/openapi/v2/") for r in
                service.transport.requests if not r.url.endswith("/query")]  # fmt: skip
        assert urls == ["seedream-v4/text-to-image", "brand/new-model"]

    run(main)


# -- the session itself -----------------------------------------------------------------------


def test_a_session_without_a_key_says_how_to_get_going() -> None:
    """Named: the argument, the variables, the emulator."""

    async def main() -> None:
        with pytest.raises(rh.SessionError, match=r"RUNNINGHUB_API_KEY.*emulator"):
            async with rh.Session():
                pass

    run(main)


def test_key_and_base_url_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """RUNNINGHUB_* before RH_*, an argument before both; read when the session is made."""
    monkeypatch.setenv("RH_API_KEY", "second")
    monkeypatch.setenv("RH_API_BASE_URL", "https://www.runninghub.cn/openapi/v2")
    assert sent_key(rh.Session) == ("Bearer second", "https://www.runninghub.cn")
    monkeypatch.setenv("RUNNINGHUB_API_KEY", "first")
    monkeypatch.setenv("RUNNINGHUB_BASE_URL", "https://one.example")
    assert sent_key(rh.Session) == ("Bearer first", "https://one.example")
    assert sent_key(lambda **o: rh.Session("mine", base_url="https://two.example", **o)) == (
        "Bearer mine",
        "https://two.example",
    )


def sent_key(make: Any) -> tuple[str, str]:
    transport = MockTransport(lambda _: json_response({"taskId": "1"}))

    async def main() -> None:
        async with make(transport=transport) as session:
            await session.submit(POSTER)

    run(main)
    request = transport.requests[0]
    return request.headers["Authorization"], request.url.split("/openapi")[0]


@pytest.mark.parametrize("key", ["a key", "schlüssel", "a\nb"])
def test_a_key_no_header_can_carry_is_refused_unseen(key: str) -> None:
    """And the error does not repeat the key."""
    with pytest.raises(ValueError, match="API key") as caught:
        rh.Session(key)
    assert key not in str(caught.value)


def test_the_key_stays_out_of_reprs_and_tracebacks() -> None:
    """repr of session, request and transport, and every error's text."""

    async def main() -> None:
        transport = MockTransport(lambda _: refusal("1002"))
        async with rh.Session(KEY, transport=transport) as session:
            try:
                await session.run(POSTER)
            except rh.AuthenticationError as error:
                told = "".join(traceback.format_exception(error)) + repr(error)
            assert KEY not in told + repr(session) + repr(transport.requests)
            assert KEY in transport.requests[0].headers["Authorization"]

    run(main)


def test_a_session_is_used_open_and_on_its_own_loop() -> None:
    """Before opening, after closing, twice, and on a second loop: a clear error each."""
    service = Service(1.0)
    session = service.session()

    async def use() -> None:
        await session.run(POSTER)

    async def main() -> None:
        with pytest.raises(rh.SessionError, match="not open"):
            await use()
        async with session:
            await use()
            with pytest.raises(rh.SessionError, match="opened once"):
                await session.__aenter__()
        with pytest.raises(rh.SessionError, match="closed"):
            await use()
        await session.aclose()

    run(main)

    other = Service(1.0).session()
    runner = asyncio.Runner()
    runner.run(other.__aenter__())

    async def elsewhere() -> None:
        with pytest.raises(rh.SessionError, match="another event loop"):
            await other.run(POSTER)
        with pytest.raises(rh.SessionError, match="another event loop"):
            other.stream([POSTER])

    run(elsewhere)
    runner.run(other.aclose())
    runner.close()


def test_a_session_on_a_loop_that_is_not_asyncios_says_so() -> None:
    """Driven by hand, as by another framework."""
    entering = Service(1.0).session().__aenter__()
    with pytest.raises(rh.SessionError, match="needs an asyncio event loop"):
        entering.send(None)


def test_a_session_that_was_never_opened_closes_its_transport() -> None:
    """It was handed over with the transport; and it cannot be opened afterwards."""

    async def main() -> None:
        service = Service(1.0)
        session = service.session()
        await session.aclose()
        assert service.transport.closed
        with pytest.raises(rh.SessionError, match="opened once"):
            await session.__aenter__()

    run(main)


@pytest.mark.parametrize("call", ["submit", "run"])
def test_a_key_of_a_job_needs_a_journal(call: str) -> None:
    """Without one nothing would remember it; nothing is sent."""

    async def main() -> None:
        service = Service(1.0)
        async with service.session() as session:
            with pytest.raises(ValueError, match="key needs a session with a journal"):
                await getattr(session, call)(POSTER, key="order 7")
        assert service.transport.requests == []

    run(main)


def test_a_single_call_to_a_dead_host_ends_soon() -> None:
    """Before the first answer, a wrong address is likely: not all attempts are made."""

    async def main() -> None:
        def dead(_: rh.Request) -> rh.Response:
            raise rh.ConnectError("no such host")

        retry = rh.RetryPolicy(call_attempts=1000)
        async with rh.Session("k", transport=MockTransport(dead), retry=retry) as session:
            with pytest.raises(rh.ConnectError, match="no such host"):
                await session.account.status()
            assert asyncio.get_running_loop().time() < 30

    run(main)


def test_a_session_closes_although_a_call_waits_to_be_repeated() -> None:
    """The call ends with a `SessionError` at once, not with its next attempt."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        retry = rh.RetryPolicy(wait_initial=1000.0, wait_max=1000.0)
        transport = MockTransport(lambda _: rh.Response(503))
        async with rh.Session("k", transport=transport, retry=retry) as session:
            pending = asyncio.ensure_future(session.query("1"))
            await asyncio.sleep(5)
        with pytest.raises(rh.SessionError, match="closed"):
            await pending
        assert loop.time() < 10
        assert len(transport.requests) == 1

    run(main)


def test_closing_ends_pending_calls_with_an_error() -> None:
    """A run() in another task learns that the session was closed."""

    async def main() -> None:
        async with Service(100.0).session() as session:
            pending = asyncio.ensure_future(session.run(POSTER))
            await asyncio.sleep(5)
        with pytest.raises(rh.SessionError, match="closed"):
            await pending

    run(main)


def test_a_transport_that_breaks_does_so_loudly() -> None:
    """A bug below surfaces in stream and call; nobody waits for ever."""

    async def main() -> None:
        def broken(_: rh.Request) -> rh.Response:
            raise ZeroDivisionError("a bug")

        async with rh.Session("k", transport=MockTransport(broken)) as session:
            with pytest.raises(ZeroDivisionError):
                await session.run(POSTER)
            with pytest.raises(ZeroDivisionError):
                async for _ in session.stream(posters(5)):
                    pass

    run(main)


def test_a_journal_is_a_path_or_a_store() -> None:
    """Anything else is refused at once."""
    with pytest.raises(TypeError, match="journal"):
        rh.Session("k", journal=object())  # type: ignore[arg-type]


def test_errors_survive_a_process_boundary() -> None:
    """Pickled and back, with their facts."""
    error = rh.RateLimitError("slow down", code="1003", status=429, retry_after=3.0)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.code, again.retry_after) == (
        rh.RateLimitError,
        str(error),
        "1003",
        3.0,
    )
    failed = rh.TaskFailed.from_task(rh.Task("7", rh.TaskStatus.FAILED))
    assert pickle.loads(pickle.dumps(failed)).task == failed.task
    timeout = pickle.loads(pickle.dumps(rh.WaitTimeout("still running", "9")))
    assert timeout.task_id == "9"


def test_an_empty_as_completed_and_an_empty_stream_end_at_once() -> None:
    """Nothing in, nothing out."""

    async def main() -> None:
        async with Service().session() as session:
            assert [t async for t in session.as_completed([])] == []
            assert [o async for o in session.stream([])] == []
            assert await session.submit_many([]) == []

    run(main)
