"""The user's own parts: policies, callables and inputs that fail, and applications around."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio.from_thread
import anyio.to_thread
import pytest
from support import Service, posters, refusal

import runninghub_async as rh
from runninghub_async.emulator import Emulator
from runninghub_async.testing import MockTransport, json_response, run


class Schedule:
    """Polling whose delay is a function of the number of polls."""

    def __init__(self, decide: Callable[[int], Any]) -> None:
        self._decide = decide

    def delay(self, looks: int, u: float) -> Any:
        del u
        return self._decide(looks)


class Dice(random.Random):
    """A random source that returns given values."""

    def __init__(self, decide: Callable[[], Any]) -> None:
        super().__init__(0)
        self._decide = decide

    def random(self) -> Any:
        return self._decide()


async def never_ends() -> None:
    """Ignores its cancellation, as careless code does."""
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)


def fails(*_: Any) -> Any:
    raise ZeroDivisionError("a fault of the user's")


def cancels(*_: Any) -> Any:
    raise asyncio.CancelledError


def exits(*_: Any) -> Any:
    raise GeneratorExit


class Unspeakable(Exception):
    """Cannot even be shown."""

    def __repr__(self) -> str:
        raise ZeroDivisionError

    __str__ = __repr__


def fails_unspeakably(*_: Any) -> Any:
    raise Unspeakable


async def coroutine(*_: Any) -> Any:
    return 1.0


FAILING = [fails, cancels, exits, fails_unspeakably, coroutine]


NONSENSE: list[Any] = [math.nan, math.inf, -math.inf, -5.0, None, "3", 1e300, [], object()]


async def broken_by(session: rh.Session, stream: rh.JobStream, name: str) -> rh.PolicyError:
    """The error that ends the stream; the session gives the same to every later call."""
    with pytest.raises(rh.PolicyError) as caught:
        async for _ in stream:
            pass
    assert caught.value.name == name
    with pytest.raises(rh.PolicyError):
        await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
    return caught.value


@pytest.mark.parametrize("value", NONSENSE)
@pytest.mark.parametrize("since", [0, 2])
def test_a_schedule_that_returns_nonsense_ends_the_session(value: Any, since: int) -> None:
    """One error names it; every task that was created is named by the error or in a warning."""
    check_schedule(lambda looks: 1.0 if looks < since else value)


@pytest.mark.parametrize("since", [0, 1])
def test_a_schedule_that_raises_ends_the_session(since: int) -> None:
    """The exception that it raised is the cause."""
    error = check_schedule(lambda looks: 1.0 if looks < since else fails())
    assert isinstance(error.__cause__, ZeroDivisionError)


@pytest.mark.parametrize("failing", FAILING)
def test_whatever_a_schedule_raises_no_accepted_task_is_lost(
    failing: Callable[..., Any], tmp_path: Path
) -> None:
    """A cancellation of its own, for example: the journal has the id of each task."""
    service = Service(100.0)

    async def first() -> None:
        options: Any = {"polling": Schedule(failing), "journal": tmp_path / "run.db"}
        async with service.session(**options) as session:
            await broken_by(session, session.stream(posters(3)), "polling.delay")

    async def second() -> list[rh.Outcome]:
        async with service.session(journal=tmp_path / "run.db") as session:
            return [outcome async for outcome in session.resume()]

    run(first)
    assert service.created
    assert all(outcome.ok for outcome in run(second))
    assert max(service.submitted.values()) == 1


def test_a_log_handler_that_raises_breaks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Useless answers, refusals and failed queries are logged; no task is lost over that."""

    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError(f"no room for {record.msg}")

    handler, logger = Raising(), logging.getLogger("runninghub_async")

    async def main() -> list[rh.Outcome]:
        answers = [rh.ReadError("reset")] * 3 + [refusal("421")] * 6
        service = Service(
            20.0,
            on_submit=lambda _: answers.pop() if len(service.created) > 3 and answers else None,
            on_query=lambda _: rh.Response(502) if asyncio.get_running_loop().time() < 9 else None,
        )
        async with service.session(journal=tmp_path / "run.db") as session:
            return [outcome async for outcome in session.stream(posters(30))]

    logger.addHandler(handler)
    try:
        found = run(main)
    finally:
        logger.removeHandler(handler)
    assert Counter(type(outcome) for outcome in found) == {rh.Succeeded: 27, rh.Unknown: 3}
    assert "no room for" in capsys.readouterr().err


def check_schedule(decide: Callable[[int], Any]) -> rh.PolicyError:
    async def main() -> rh.PolicyError:
        service = Service(100.0)
        async with service.session(polling=Schedule(decide)) as session:
            stream = session.stream(posters(20))
            error = await broken_by(session, stream, "polling.delay")
            await stream.aclose()
            running = {left.task_id for left in stream.unfinished if left.task_id}
        assert service.created
        assert set(service.created) == running | set(error.task_ids)
        assert error.task_ids
        return error

    return run(main)


@pytest.mark.parametrize("value", [math.nan, 1.0, -0.1, None, "0.5", *FAILING])
def test_chance_that_fails_ends_the_session(value: Any) -> None:
    """As with a schedule; the ids of the tasks are in the error."""

    async def main() -> None:
        service = Service(100.0)
        dice = Dice(value if callable(value) else lambda: value)
        async with service.session(rng=dice) as session:
            error = await broken_by(session, session.stream(posters(5)), "rng.random")
        assert set(service.created) >= set(error.task_ids) > set()

    run(main)


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.0, -5.0, None, "0.5", fails])
def test_chance_that_fails_ends_a_single_call(value: Any) -> None:
    """The call would be repeated after a pause, which is drawn by chance."""

    async def main() -> None:
        transport = MockTransport(lambda _: json_response({}, status=503))
        dice = Dice(value if callable(value) else lambda: value)
        async with asyncio.timeout(3600), rh.Session("k", transport=transport, rng=dice) as session:
            with pytest.raises(rh.PolicyError) as caught:
                await session.account.queue()
        assert caught.value.name == "rng.random"
        assert isinstance(caught.value.__cause__, ZeroDivisionError) == (value is fails)
        assert len(transport.requests) == 1

    run(main)


@pytest.mark.parametrize("value", ["again", None, True, *FAILING])
def test_a_policy_for_unknown_submits_that_fails_ends_the_session(value: Any) -> None:
    """The submit is held, not repeated."""

    async def main() -> None:
        service = Service(100.0, after_submit=lambda p: rh.ReadError("cut") if "2" in p else None)
        policy = value if callable(value) else lambda _: value
        async with service.session(unknown=policy) as session:
            await broken_by(session, session.stream(posters(5)), "unknown")
        assert max(service.submitted.values()) == 1

    run(main)


@pytest.mark.parametrize("value", [None, 7, *FAILING])
def test_a_key_that_fails_ends_the_session(value: Any, tmp_path: Path) -> None:
    """Nothing is submitted for it."""

    async def main() -> None:
        key = value if callable(value) else lambda _: value
        async with Emulator(duration=0.05) as emulator:
            async with rh.Session(
                "any-key", base_url=emulator.url, journal=tmp_path / "run.db"
            ) as session:
                await broken_by(session, session.stream(posters(3), key=key), "key")
            assert emulator.stats.accepted == 0

    asyncio.run(main())


def test_an_input_that_ignores_its_cancellation_is_left_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The stream, the session and `asyncio.run` end all the same, and a warning says so."""

    async def deaf() -> AsyncIterator[rh.SeedreamV5Lite]:
        yield rh.SeedreamV5Lite("a poster of a paper boat")
        await never_ends()

    async def main() -> None:
        service = Service(1.0)
        async with service.session() as session, session.stream(deaf()) as stream:
            async for outcome in stream:
                assert outcome.ok
                break
        assert asyncio.get_running_loop().time() < 60

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert "left behind" in caplog.text


def test_an_input_may_take_a_moment_to_clean_up() -> None:
    """What it awaits when it is cancelled is awaited."""
    cleaned = []

    async def tidy() -> AsyncIterator[rh.SeedreamV5Lite]:
        try:
            yield rh.SeedreamV5Lite("a poster of a paper boat")
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(1)
            cleaned.append(True)

    async def main() -> None:
        service = Service(1.0)
        async with service.session() as session, session.stream(tidy()) as stream:
            async for _ in stream:
                break

    run(main)
    assert cleaned == [True]


def test_an_input_whose_closing_never_ends_is_left(caplog: pytest.LogCaptureFixture) -> None:
    """An iterator with an `aclose` that hangs."""

    class Hangs:
        def __aiter__(self) -> Hangs:
            return self

        async def __anext__(self) -> rh.SeedreamV5Lite:
            return rh.SeedreamV5Lite("a poster of a paper boat")

        async def aclose(self) -> None:
            await never_ends()

    async def main() -> None:
        service = Service(1.0)
        async with service.session() as session, session.stream(Hangs()) as stream:
            async for _ in stream:
                break
        assert asyncio.get_running_loop().time() < 60

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert "closing a stream's input failed" in caplog.text


def test_sync_endpoints_of_an_application_do_not_starve_downloads(tmp_path: Path) -> None:
    """All forty of anyio's threads wait for a download each, as FastAPI's plain endpoints do."""

    async def main() -> None:
        async with (
            Emulator(duration=0.05) as emulator,
            rh.Session("any-key", base_url=emulator.url) as session,
        ):
            task = await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
            served = []

            def endpoint(number: int) -> None:
                target = tmp_path / f"{number}.png"
                anyio.from_thread.run(session.download, task.outputs[0], target)
                served.append(number)

            async with anyio.create_task_group() as group:
                for number in range(45):
                    group.start_soon(anyio.to_thread.run_sync, endpoint, number)
            assert len(served) == 45

    asyncio.run(main())


# -- what is believed of a task -----------------------------------------------------------------


@pytest.mark.parametrize("early", [None, [], [{"url": "", "outputType": "png"}]])
def test_success_before_its_results_is_asked_again(early: Any) -> None:
    """The first answers show no results, or one without its URL: the job ends with them."""

    async def main() -> None:
        looks: dict[str, int] = {}

        def first(task_id: str) -> rh.Response | None:
            looks[task_id] = looks.get(task_id, 0) + 1
            if looks[task_id] > 3:
                return None
            return json_response({"taskId": task_id, "status": "SUCCESS", "results": early})

        service = Service(0.0, on_query=first)
        async with service.session() as session:
            outcomes = [outcome async for outcome in session.stream(posters(3))]
        assert all(isinstance(o, rh.Succeeded) and o.task.outputs[0].url for o in outcomes)

    run(main)


def test_success_that_stays_without_results_is_reported_as_such() -> None:
    """The task is queried for a minute, then `Failed` with `ResultsMissing`, the task and its
    id."""

    async def main() -> None:
        service = Service(
            on_query=lambda i: json_response({"taskId": i, "status": "SUCCESS", "results": None})
        )
        async with service.session() as session:
            (outcome,) = [outcome async for outcome in session.stream(posters(1))]
            assert isinstance(outcome, rh.Failed)
            assert isinstance(outcome.error, rh.ResultsMissing)
            assert outcome.task is not None
            assert outcome.task.id in service.created
            assert asyncio.get_running_loop().time() == pytest.approx(65, abs=10)

    run(main)


def test_a_workflow_may_make_nothing() -> None:
    """Its results are asked for again for a moment; then the task is given without any."""
    task_id = "2013508786110730241"

    async def main() -> None:
        transport = MockTransport(
            lambda _: json_response({"taskId": task_id, "status": "SUCCESS", "results": []})
        )
        async with rh.Session("a-key", transport=transport) as session:
            task = await session.run(rh.WorkflowRequest("1904136902449209346"))
        assert task.outputs == ()
        assert asyncio.get_running_loop().time() < 30

    run(main)


def test_a_status_that_nobody_has_documented_ends_with_what_comes_with_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Results make it a success, an error code a failure; until then it is queried less often."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def odd(task_id: str) -> rh.Response | None:
            facts: dict[str, Any] = {"taskId": task_id, "status": "ARCHIVED"}
            number = int(service.created[task_id][-1])
            if loop.time() > 300:
                if number == 0:
                    facts["results"] = ["https://results.example/bare.png"]
                else:
                    facts |= {"errorCode": "1015", "errorMessage": "sorry"}
            return json_response(facts)

        service = Service(on_query=odd)
        async with service.session() as session:
            good, bad = [o async for o in session.stream(posters(2), ordered=True)]
        assert isinstance(good, rh.Succeeded)
        assert good.task.outputs[0].url == "https://results.example/bare.png"
        assert isinstance(bad, rh.Failed)
        assert isinstance(bad.error, rh.TaskFailed)
        assert max(map(len, service.query_times.values())) < 20

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert caplog.text.count("ARCHIVED") == 1


def test_keys_of_a_result_without_a_field_are_kept() -> None:
    """Layers come with their order and place."""

    async def main() -> None:
        layer = {"url": "https://x.example/1.png", "outputType": "png", "z_index": 2, "box": [1, 2]}
        service = Service(
            on_query=lambda i: json_response({"taskId": i, "status": "SUCCESS", "results": [layer]})
        )
        async with service.session() as session:
            task = await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
        assert task.outputs[0].extra == {"z_index": 2, "box": [1, 2]}

    run(main)


def test_odd_numbers_of_a_result_do_not_damage_the_journal(tmp_path: Path) -> None:
    """NaN and infinity among the keys that are kept: the row can be read again."""

    async def main() -> None:
        body = (
            b'{"taskId": "%s", "status": "SUCCESS", "results": [{"url": "https://x.example/1.png",'
            b' "outputType": "png", "z_index": NaN, "scale": 1e400, "note": "NaN"}]}'
        )
        service = Service(on_query=lambda i: rh.Response(200, body % i.encode()))
        for _ in range(2):
            async with service.session(journal=tmp_path / "run.db") as session:
                (outcome,) = [outcome async for outcome in session.stream(posters(1))]
            assert isinstance(outcome, rh.Succeeded)
            assert outcome.task.outputs[0].extra["note"] == "NaN"
        assert len(service.created) == 1

    run(main)


GATEWAYS = [
    ({"status": "failed", "message": "upstream unavailable"}, 200),
    ({"status": "success"}, 200),
    ({"status": "FAILED"}, 502),
    ({"code": 0, "data": {"status": "FAILED"}}, 200),
    ({"taskId": "2013508786110730999", "status": "FAILED"}, 200),
    ({"code": 0, "data": {"taskId": "2013508786110730999", "taskStatus": "FAILED"}}, 200),
    ({"code": 805, "msg": "task failed", "data": None}, 503),
]


@pytest.mark.parametrize(("answer", "status"), GATEWAYS)
def test_only_an_answer_about_the_task_decides_about_it(
    answer: dict[str, Any], status: int
) -> None:
    """A gateway's own JSON, or an answer about another task, is a query that failed."""

    async def main() -> None:
        answers = [json_response(answer, status)]
        service = Service(0.0, on_query=lambda _: answers.pop() if answers else None)
        async with service.session() as session:
            (outcome,) = [outcome async for outcome in session.stream(posters(1))]
        assert isinstance(outcome, rh.Succeeded)
        assert outcome.task.outputs

    run(main)


@pytest.mark.parametrize("seconds", [15, 60, 110])
def test_a_task_that_is_not_visible_yet_is_not_gone(seconds: float) -> None:
    """The stream, and `wait` with the id alone, keep querying."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gone = json_response({"errorCode": "1004", "errorMessage": "Task not found"})
        service = Service(0.0, on_query=lambda _: gone if loop.time() < seconds else None)
        async with service.session() as session:
            task = await session.submit(rh.SeedreamV5Lite("a poster of a paper boat"))
            waited, outcomes = await asyncio.gather(
                session.wait(task.id), collected(session.stream(posters(2)))
            )
        assert waited.done
        assert all(outcome.ok for outcome in outcomes)

    run(main)


async def collected(stream: rh.JobStream) -> list[rh.Outcome]:
    return [outcome async for outcome in stream]
