"""Faults that meet every submit alike: the circuit opens, one submit is tried, the input waits."""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Answer, Service, posters, refusal

import runninghub_async as rh
from runninghub_async.testing import MockTransport, json_response, run

PAGE = rh.Response(200, b"<html><title>We will be back soon</title></html>")
ONCE = rh.SeedreamV5Lite("a poster of a paper boat")


async def ends_of(stream: rh.JobStream) -> tuple[Counter[str], rh.RunningHubError | None]:
    """How many outcomes there were of each kind, and the error that the stream raised."""
    seen: Counter[str] = Counter()
    try:
        async for outcome in stream:
            seen[type(outcome).__name__] += 1
    except rh.RunningHubError as error:
        return seen, error
    return seen, None


async def silence(_: str) -> rh.Response:
    await asyncio.sleep(60)
    raise rh.ReadTimeout("no answer within 60 s")


OUTAGES: dict[str, Callable[[], Answer]] = {
    "502": lambda: rh.Response(502, b"<html>502 Bad Gateway</html>"),
    "a page with 200": lambda: PAGE,
    "resets": lambda: rh.ReadError("Connection reset by peer"),
    "busy in JSON": lambda: refusal("1011"),
}


@pytest.mark.parametrize("kind", OUTAGES)
def test_an_outage_of_a_minute_costs_few_submits(kind: str) -> None:
    """500 jobs at the default pace: at most eight beside those in flight end as unknown."""

    async def main() -> tuple[Counter[str], int]:
        loop = asyncio.get_running_loop()
        service = Service(
            10.0, on_submit=lambda _: OUTAGES[kind]() if 20 < loop.time() < 80 else None
        )
        async with service.session() as session:
            seen, error = await ends_of(session.stream(posters(500)))
        assert error is None
        return seen, len(service.created)

    seen, created = run(main)
    assert seen["Unknown"] <= 8 + 2
    assert seen["Succeeded"] == 500 - seen["Unknown"] == created


def test_late_answers_from_before_an_outage_do_not_prolong_it() -> None:
    """Submits take three seconds to be answered, then each is reset at once: those that left
    before and are still answered do not count as a service that answers again."""

    async def main() -> Counter[str]:
        loop = asyncio.get_running_loop()
        service = Service(10.0)

        async def answer(request: rh.Request) -> rh.Response:
            if not request.url.endswith("/query"):
                if 20 < loop.time() < 80:
                    raise rh.ReadError("Connection reset by peer")
                await asyncio.sleep(3)
            return await service.transport.send(request)

        async with rh.Session("a-key", transport=MockTransport(answer)) as session:
            seen, error = await ends_of(session.stream(posters(500)))
        assert error is None
        return seen

    seen = run(main)
    assert seen["Unknown"] <= 8
    assert seen["Succeeded"] == 500 - seen["Unknown"]


def test_a_silent_service_gets_no_more_submits() -> None:
    """Nothing is answered for a minute: few submits leave on top of those that wait already."""

    async def main() -> Counter[str]:
        loop = asyncio.get_running_loop()
        service = Service(10.0)
        usual = service.transport._handler

        async def handler(request: rh.Request) -> rh.Response:
            submits = not request.url.endswith("/query")
            if submits and 20 < loop.time() < 80:
                return await silence(request.url)
            answer = usual(request)
            return answer if isinstance(answer, rh.Response) else await answer

        transport = MockTransport(handler)
        async with rh.Session("a-key", transport=transport) as session:
            seen, error = await ends_of(session.stream(posters(500)))
        assert error is None
        return seen

    seen = run(main)
    assert seen["Unknown"] <= 8 + 2
    assert seen["Succeeded"] == 500 - seen["Unknown"]


def test_what_is_held_back_is_neither_unknown_nor_spent() -> None:
    """The budget counts what was made and what may have been made, not what waited."""

    async def main() -> tuple[Counter[str], int]:
        loop = asyncio.get_running_loop()
        service = Service(
            5.0, on_submit=lambda _: OUTAGES["502"]() if 5 < loop.time() < 65 else None
        )
        async with service.session(
            budget=rh.Money("22", "CNY"), base_url="https://www.runninghub.cn"
        ) as session:
            seen, error = await ends_of(session.stream(posters(95)))
        assert error is None
        return seen, len(service.created)

    seen, created = run(main)
    assert created >= 95 - 8 - 2
    assert seen["Failed"] == 0


def test_an_outage_that_lasts_stops_the_submitting_with_one_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The error says what was seen, since when, and how many tasks still run."""

    async def main() -> tuple[rh.JobStream, Counter[str], Any]:
        loop = asyncio.get_running_loop()
        service = Service(3600.0, on_submit=lambda _: OUTAGES["502"]() if loop.time() > 2 else None)
        policy = rh.RetryPolicy(outage_max=300.0)
        async with service.session(retry=policy, limits=rh.Limits(None, 10.0, None)) as session:
            stream = session.stream(posters(1000))
            waiting = asyncio.ensure_future(ends_of(stream))
            await asyncio.sleep(3000)
            assert not waiting.done()
            async for _ in session.as_completed([]):
                pass
            seen, error = await waiting
        return stream, seen, error

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        stream, seen, error = run(main)
    assert isinstance(error, rh.OutageError)
    assert "502" in error.seen
    assert error.running > 0
    assert "still run" in str(error)
    assert seen["Unknown"] <= 16
    assert {left.state for left in stream.unfinished} <= {"not_submitted"}
    assert "a single one is sent from time to time" in caplog.text


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (PAGE, rh.OutageError, "We will be back soon"),
        (rh.Response(301, b"", {"location": "https://x.example/"}), rh.OutageError, "x.example"),
        (rh.Response(404, b"<title>Not here</title>"), rh.OutageError, "base_url"),
        (rh.Response(403, b"<title>Sign in</title>"), rh.OutageError, "Sign in"),
        (json_response({"message": "no route matched"}, 404), rh.OutageError, "no route matched"),
        (refusal("1002"), rh.AuthenticationError, "not interchangeable"),
        (refusal("416"), rh.InsufficientBalanceError, "top up"),
        (rh.ConnectError("no such host"), rh.ConnectError, "base_url"),
    ],
)
@pytest.mark.parametrize("calls", ["a stream", "many runs"])
def test_what_is_wrong_from_the_start_is_reported_soon(
    answer: Answer, kind: type[rh.RunningHubError], words: str, calls: str
) -> None:
    """A wrong origin, a portal, a wrong key, an empty wallet, a dead host: within 15 seconds, with
    few submits, by one error that says what to do."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(5.0, on_submit=lambda _: answer)
        async with service.session(limits=rh.Limits(50, None, None)) as session:
            if calls == "a stream":
                seen, error = await ends_of(session.stream(posters(300)))
                errors = [error]
                assert seen["Unknown"] + seen["Failed"] <= 4
            else:
                errors = await asyncio.gather(
                    *(session.run(ONCE) for _ in range(50)), return_exceptions=True
                )  # type: ignore[assignment]
            assert loop.time() <= 15
        assert isinstance(errors[-1], kind)
        assert words in str(errors[-1])
        sent = 0 if kind is rh.ConnectError else sum(service.submitted.values())
        assert sent <= 4

    run(main)


def test_one_blocked_prompt_fails_alone() -> None:
    """A firewall's page in answer to one prompt is that prompt's failure and names the page."""

    async def main() -> None:
        page = rh.Response(403, b"<title>Attention Required! | Cloudflare</title>")
        service = Service(5.0, on_submit=lambda p: page if p.endswith(" 7") else None)
        async with service.session() as session:
            outcomes = [outcome async for outcome in session.stream(posters(40))]
        (failed,) = [outcome for outcome in outcomes if not outcome.ok]
        assert isinstance(failed, rh.Failed)
        assert isinstance(failed.error, rh.BlockedError)
        assert "Attention Required" in str(failed.error)
        assert len(service.created) == 39

    run(main)


@pytest.mark.parametrize("status", [413, 414, 415, 431])
def test_a_request_that_is_too_large_fails_alone(status: int) -> None:
    """The others are submitted, however many such requests there are in a row."""

    async def main() -> None:
        service = Service(
            5.0, on_submit=lambda p: rh.Response(status, b"<html>") if "1" in p else None
        )
        async with service.session() as session:
            seen, error = await ends_of(session.stream(posters(20)))
        assert error is None
        assert seen == {"Succeeded": 9, "Failed": 11}

    run(main)


@pytest.mark.parametrize("code", ["1003", "421"])
def test_refusals_without_end_are_logged_and_end(
    code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At growing distances, with the service's words; and after the policy's time an error."""

    async def main() -> None:
        service = Service(5.0, on_submit=lambda _: refusal(code))
        policy = rh.RetryPolicy(refusal_max=7200.0)
        async with service.session(retry=policy) as session:
            with pytest.raises(rh.OutageError, match=f"code {code}") as caught:
                await session.run(ONCE)
        assert caught.value.running == 0
        assert asyncio.get_running_loop().time() == pytest.approx(7200, abs=120)

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    lines = [line for line in caplog.messages if f"code {code}" in line]
    assert 2 <= len(lines) <= 10


def test_an_interruption_after_the_first_success_is_waited_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The network is gone for two minutes: everything waits, and a warning says so."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        gone = rh.ConnectError("no route to host")
        service = Service(5.0, on_submit=lambda _: gone if 3 < loop.time() < 123 else None)
        async with service.session() as session:
            seen, error = await ends_of(session.stream(posters(60)))
        assert error is None
        assert seen == {"Succeeded": 60}

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert "no route to host" in caplog.text


def test_the_id_of_another_job_is_not_accepted() -> None:
    """An answer that names a task which another job has is a stray one: the submit is unknown."""

    async def main() -> None:
        service = Service(30.0)
        first: list[str] = []

        def stray(prompt: str) -> Answer:
            if not prompt.endswith(" 3"):
                return None
            first.extend(list(service.created)[:1])
            return json_response({"taskId": first[0], "status": "RUNNING"})

        service.after_submit = stray
        async with service.session() as session:
            outcomes = [outcome async for outcome in session.stream(posters(6))]
        (unknown,) = [outcome for outcome in outcomes if not outcome.ok]
        assert isinstance(unknown, rh.Unknown)
        assert unknown.index == 3
        assert first[0] in str(unknown.error)
        ids = [outcome.task.id for outcome in outcomes if outcome.task is not None]
        assert len(set(ids)) == len(ids) == 5

    run(main)


def test_requests_that_wait_are_bounded_in_bytes() -> None:
    """However many slots there are, only so many bytes of requests are taken and not handed out."""

    async def main() -> None:
        service = Service(30.0)
        held = [0]
        most = [0]

        def requests() -> Any:
            for n in range(60):
                held[0] += 1
                most[0] = max(most[0], held[0])
                yield rh.ModelRequest(
                    "seedream-v5-lite/image-to-image",
                    {
                        "prompt": f"a poster {n}",
                        "imageUrls": ["data:image/png;base64," + "A" * 99_000],
                    },
                )

        async with service.session(limits=rh.Limits(50, None, None)) as session:
            async for outcome in session.stream(requests(), window_bytes=500_000):
                assert outcome.ok
                held[0] -= 1
        assert len(service.created) == 60
        assert most[0] <= 8

    run(main)


def test_a_service_that_answers_again_closes_the_circuit_for_all() -> None:
    """Streams and single calls share the circuit, and all of them continue."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(
            5.0, on_submit=lambda _: OUTAGES["502"]() if 2 < loop.time() < 30 else None
        )
        async with service.session() as session:
            stream = asyncio.ensure_future(ends_of(session.stream(posters(100))))
            await asyncio.sleep(10)
            tasks = await asyncio.gather(
                *(session.run(ONCE) for _ in range(5)), return_exceptions=True
            )
            seen, error = await stream
        assert error is None
        lost = seen["Unknown"] + sum(isinstance(task, rh.SubmitUnknown) for task in tasks)
        assert lost <= 8
        assert seen["Succeeded"] + sum(isinstance(t, rh.Task) for t in tasks) == 105 - lost

    run(main)


def test_an_answer_that_names_its_task_in_words_only_is_reported_with_them() -> None:
    """What the service says in an unknown form reaches the user."""

    async def main() -> None:
        said = {"error": {"code": "content_policy", "message": "Sensitive content detected"}}
        service = Service(5.0, on_submit=lambda _: json_response(said))
        async with service.session() as session:
            with pytest.raises(rh.SubmitUnknown, match="Sensitive content detected"):
                await session.run(ONCE)

    run(main)


def test_null_is_no_id() -> None:
    """`"null"` beside a refusal for lack of a free slot: the job waits and is submitted again."""

    async def main() -> None:
        answers = [json_response({"taskId": "null", "errorCode": "421", "errorMessage": "full"})]
        service = Service(5.0, on_submit=lambda _: answers.pop() if answers else None)
        async with service.session() as session:
            assert (await session.run(ONCE)).done
        assert len(service.created) == 1
        assert json.loads(service.transport.requests[0].body or b"")["prompt"] == ONCE.prompt

    run(main)


@pytest.mark.parametrize(
    "answer",
    [
        rh.Response(501, b"<html><title>Error response</title></html>"),
        rh.Response(511, b"<html>Sign in</html>"),
        json_response({"message": "Payment Required"}, 402),
        json_response({"detail": "no such field"}, 422),
        json_response({"code": 404, "msg": "no route"}),
        rh.ReadError("ServerDisconnectedError: Server disconnected"),
    ],
    ids=["501", "511", "402", "422", "code 404", "disconnects"],
)
def test_another_kind_of_server_is_reported_soon(answer: Answer) -> None:
    """Whatever answers, or hangs up: four submits at most, and one error within 15 seconds."""

    async def main() -> None:
        service = Service(5.0, on_submit=lambda _: answer)
        async with service.session() as session:
            seen, error = await ends_of(session.stream(posters(300)))
        assert isinstance(error, rh.OutageError)
        assert asyncio.get_running_loop().time() <= 15
        assert seen["Unknown"] == sum(service.submitted.values()) <= 4

    run(main)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (rh.ConnectError("no such host"), rh.ConnectError),
        (refusal("802"), rh.AuthenticationError),
        (PAGE, rh.OutageError),
        (rh.ReadError("Server disconnected"), rh.OutageError),
    ],
    ids=["dead host", "wrong key", "portal", "disconnects"],
)
def test_a_wait_that_was_never_answered_ends(
    answer: Answer, kind: type[rh.RunningHubError]
) -> None:
    """A wrong address or key is reported by waits, too. The task is not failed by it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        away = True
        service = Service(5.0, on_query=lambda _: answer if away else None)
        async with service.session() as session:
            async with service.session() as earlier:
                known = await earlier.submit(ONCE)
            began = loop.time()
            with pytest.raises(kind):
                await session.wait(known)
            with pytest.raises(kind):
                async for _ in session.as_completed([known]):
                    pass
            assert loop.time() - began <= 30
            away = False
            assert (await session.wait(known)).status is rh.TaskStatus.SUCCESS

    run(main)


def test_a_wait_that_asks_often_is_told_of_a_dead_host_as_soon() -> None:
    """A schedule faster than the patience changes nothing."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        service = Service(5.0, on_query=lambda _: rh.ConnectError("no such host"))
        polling = rh.ExponentialPolling(initial=0.5, maximum=0.5)
        retry = rh.RetryPolicy(query_wait_max=0.5)
        async with service.session(polling=polling, retry=retry) as session:
            with pytest.raises(rh.ConnectError, match="base_url"):
                await session.wait("2013508786110730241")
        assert 8 <= loop.time() <= 12
        assert len(service.query_times["2013508786110730241"]) > 10

    run(main)


def test_queries_that_all_fail_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Every slot is taken and no query is answered for five minutes: a few lines say so."""

    async def main() -> Counter[str]:
        loop = asyncio.get_running_loop()
        gone = rh.Response(502, b"<html>502 Bad Gateway</html>")
        service = Service(5.0, on_query=lambda _: gone if 8 < loop.time() < 308 else None)
        async with service.session(limits=rh.Limits(5)) as session:
            seen, error = await ends_of(session.stream(posters(20)))
        assert error is None
        return seen

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        assert run(main) == {"Succeeded": 20}
    lines = [line for line in caplog.messages if line.startswith("every query for")]
    assert 3 <= len(lines) <= 6
    assert any(line.startswith("queries are answered again") for line in caplog.messages)


def test_submits_without_any_answer_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    """The service is silent from the start: it is said long before the read time-out."""

    async def main() -> None:
        service = Service(5.0)

        async def handler(request: rh.Request) -> rh.Response:
            return await silence(request.url)

        service.transport = MockTransport(handler)
        async with service.session() as session:
            stream = session.stream(posters(20))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(30):
                    await anext(stream)
            await stream.aclose()

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert any("have had no answer" in line for line in caplog.messages)


@pytest.mark.parametrize("status", [429, 200], ids=["rate", "room"])
def test_a_long_pause_that_the_service_asks_for_is_logged(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It asks for ten minutes, again and again: a line at once, and a few within hours."""
    code = "1003" if status == 429 else "421"
    body = {"errorCode": code, "errorMessage": "later"}
    answer = json_response(body, status, {"retry-after": "600"})

    async def main() -> None:
        service = Service(5.0, on_submit=lambda _: answer)
        async with service.session() as session:
            stream = session.stream(posters(5))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(5):
                    await anext(stream)
            assert sum("a pause of 10 min" in line for line in caplog.messages) == 1
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(6 * 3600):
                    await anext(stream)
            await stream.aclose()

    with caplog.at_level(logging.WARNING, "runninghub_async"):
        run(main)
    assert 2 <= sum("a pause of 10 min" in line for line in caplog.messages) <= 10


@pytest.mark.parametrize("journaled", [False, True])
def test_a_submit_that_may_exist_is_never_reported_as_failed(
    journaled: bool, tmp_path: Path
) -> None:
    """Lost, submitted again by the policy, and then refused: the first one may still exist."""

    async def main() -> None:
        lost: list[str] = []

        def once(prompt: str) -> Answer:
            lost.append(prompt)
            return rh.ReadError("cut")

        service = Service(5.0, after_submit=once)
        service._on_submit = lambda _: refusal("1007") if lost else None
        options: dict[str, Any] = {"journal": tmp_path / "run.db"} if journaled else {}
        async with service.session(unknown="resubmit", **options) as session:
            (outcome,) = [outcome async for outcome in session.stream(posters(1))]
        assert isinstance(outcome, rh.Unknown)
        assert outcome.attempts == 2

    run(main)
