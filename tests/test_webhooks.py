"""Webhooks: who is believed, what is delivered, and that nothing depends on them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from aiohttp import web
from support import Service, posters

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import run
from runninghub_async.webhooks import parse

URL = "https://hooks.example/rh?tenant=7"


class Hooked(Service):
    """A service that tells of the end of each task as `deliver(query, event)` decides."""

    def __init__(self, deliver: Callable[[str, bytes], object], **options: Any) -> None:
        super().__init__(**options)
        self.addresses: dict[str, str] = {}
        self._deliver = deliver
        self._pending: set[asyncio.TimerHandle] = set()

    async def _answer(self, request: rh.Request) -> rh.Response:
        answer = await super()._answer(request)
        body = json.loads(request.body or b"{}")
        task_id = json.loads(answer.body).get("taskId")
        if "webhookUrl" in body and task_id:
            self.addresses[task_id] = body["webhookUrl"]
            told = {"taskId": task_id, "status": "SUCCESS", "results": []}
            event = {"event": "TASK_END", "taskId": task_id, "eventData": told}
            query = urlsplit(body["webhookUrl"]).query
            loop = asyncio.get_running_loop()
            loop.call_at(
                self._ends[task_id] + 0.1, self._deliver, query, json.dumps(event).encode()
            )
        return answer


def test_an_event_brings_the_look_forward() -> None:
    """The result comes with the event and not with the next poll, and from the service's own
    answer: one query, the one that the event caused."""
    hooks = rh.Webhooks(URL)
    service = Hooked(hooks.receive, duration=30.0)

    async def main() -> tuple[float, int]:
        async with service.session(webhooks=hooks) as session:
            task = await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
            assert task.outputs[0].url is not None
            (times,) = service.query_times.values()
            return asyncio.get_running_loop().time(), len(times)

    ended, queries = run(main)
    assert 30.0 <= ended < 31.0
    # One by the patient polling at 20 s, one by the event.
    assert queries == 2


def test_each_job_has_an_address_of_its_own() -> None:
    """What the receiver's own URL holds stays; nobody can make another's address."""
    hooks = rh.Webhooks(URL, secret="s3cret")
    service = Hooked(hooks.receive, duration=1.0)

    async def main() -> None:
        async with service.session(webhooks=hooks) as session:
            async for outcome in session.stream(posters(3)):
                assert outcome.ok

    run(main)
    fields = [parse_qs(urlsplit(address).query) for address in service.addresses.values()]
    assert all(each["tenant"] == ["7"] for each in fields)
    assert len({each["job"][0] for each in fields}) == 3
    assert len({each["sign"][0] for each in fields}) == 3
    assert "s3cret" not in str(service.addresses) + repr(hooks)


def test_a_storm_of_events_delivers_each_job_once() -> None:
    """1,000 jobs; every event three times, shuffled, 10 % of them never, forged ones between."""
    rng = random.Random(0)
    hooks = rh.Webhooks(URL)
    waiting: list[tuple[str, bytes]] = []
    answers: list[int] = []

    def collect(query: str, body: bytes) -> None:
        if rng.random() >= 0.1:
            waiting.extend([(query, body)] * 3)

    service = Hooked(collect, duration=lambda _: rng.uniform(5, 60))

    async def storm() -> None:
        while True:
            await asyncio.sleep(1)
            rng.shuffle(waiting)
            for query, body in [waiting.pop() for _ in range(min(200, len(waiting)))]:
                answers.append(hooks.receive(query, body))
                forged = query[:-1] + ("1" if query[-1] == "0" else "0")
                assert hooks.receive(forged, body) == 403
                assert hooks.receive("", body) == 403

    async def main() -> list[rh.Outcome]:
        limits = rh.Limits(None, None, None)
        async with service.session(webhooks=hooks, limits=limits) as session:
            noise = asyncio.create_task(storm())
            outcomes = [outcome async for outcome in session.stream(posters(1000))]
            # Had it found fault, it would have ended with that.
            assert not noise.done()
            noise.cancel()
            return outcomes

    outcomes = run(main)
    assert sorted(outcome.index for outcome in outcomes) == list(range(1000))
    assert all(outcome.ok for outcome in outcomes)
    assert len(service.created) == 1000
    assert set(answers) == {204}
    assert len(answers) > 2000


@pytest.mark.parametrize("forged", ["", "job=1&sign=2", "job={job}&sign=", "sign={sign}"])
def test_an_event_without_its_digest_changes_nothing(forged: str) -> None:
    """It is answered 403, and not even a query is made for it."""
    hooks = rh.Webhooks(URL)
    seen: list[tuple[str, bytes]] = []
    service = Hooked(lambda query, body: seen.append((query, body)), duration=10.0)
    answers: list[int] = []

    async def main() -> list[float]:
        async with service.session(webhooks=hooks) as session:
            waiting = asyncio.create_task(session.run(rh.SeedreamV5Lite("a poster of a boat")))
            await asyncio.sleep(1)
            ((task_id, address),) = service.addresses.items()
            fields = {k: v[0] for k, v in parse_qs(urlsplit(address).query).items()}
            event = {"taskId": task_id, "status": "SUCCESS", "results": []}
            answers.append(hooks.receive(forged.format(**fields), json.dumps(event).encode()))
            task = await waiting
            return service.query_times[task.id]

    (asked,) = run(main)
    assert answers == [403]
    # The first look of the patient polling, after 20 s.
    assert asked > 18


def test_an_event_that_is_not_true_is_not_believed() -> None:
    """With its digest, but while the task still runs: the service is asked, and says so."""
    hooks = rh.Webhooks(URL)
    service = Hooked(lambda query, body: None, duration=40.0)

    async def main() -> float:
        async with service.session(webhooks=hooks) as session:
            waiting = asyncio.create_task(session.run(rh.SeedreamV5Lite("a poster of a boat")))
            await asyncio.sleep(5)
            ((task_id, address),) = service.addresses.items()
            event = {"taskId": task_id, "status": "FAILED", "errorCode": "1501"}
            assert hooks.receive(urlsplit(address).query, json.dumps(event).encode()) == 204
            await waiting
            return asyncio.get_running_loop().time()

    assert run(main) > 40


def test_without_any_event_the_polling_beneath_delivers() -> None:
    """Every event is lost; every result comes."""
    hooks = rh.Webhooks(URL)
    service = Hooked(lambda query, body: None, duration=70.0)

    async def main() -> int:
        async with service.session(webhooks=hooks) as session:
            return len([outcome async for outcome in session.stream(posters(20)) if outcome.ok])

    assert run(main) == 20


def test_an_event_may_overtake_the_answer_to_its_submit() -> None:
    """It counts once the answer is there: the look is not put off to the patient polling."""
    hooks = rh.Webhooks(URL)

    class Hasty(Hooked):
        async def _answer(self, request: rh.Request) -> rh.Response:
            answer = await super()._answer(request)
            if not request.url.endswith("/query"):
                await asyncio.sleep(3)
            return answer

    service = Hasty(hooks.receive, duration=1.0)

    async def main() -> float:
        async with service.session(webhooks=hooks) as session:
            await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
            return asyncio.get_running_loop().time()

    assert run(main) < 4.0


def test_an_event_also_reaches_those_who_wait_for_a_submitted_task() -> None:
    """`submit` and then `wait` or `as_completed`: the event of the submit counts for them."""
    hooks = rh.Webhooks(URL)
    service = Hooked(hooks.receive, duration=50.0)

    async def main() -> float:
        async with service.session(webhooks=hooks) as session:
            tasks = await session.submit_many(posters(5))
            one = asyncio.create_task(session.wait(tasks[0].id))
            ids = [task.id for task in tasks[1:]]
            assert {task.id async for task in session.as_completed(ids)} == set(ids)
            await one
            return asyncio.get_running_loop().time()

    assert run(main) < 52


def test_a_request_keeps_a_webhook_of_its_own() -> None:
    """A `webhook_url` that the user gave is sent as it is."""
    hooks = rh.Webhooks(URL)
    service = Hooked(lambda query, body: None, duration=1.0)
    own = "https://elsewhere.example/x"

    async def main() -> None:
        async with service.session(webhooks=hooks) as session:
            await session.submit(rh.SeedreamV5Lite("a poster of a boat", webhook_url=own))

    run(main)
    assert list(service.addresses.values()) == [own]


def test_ones_own_jobs_are_confirmed_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """`on_task` gets the key that was chosen and the task as the service tells it, once; an
    early event is looked into a few times and then named; without a session to ask, the service
    is sent away."""
    told: list[tuple[str, rh.Task]] = []

    async def on_task(key: str, task: rh.Task) -> None:
        told.append((key, task))

    hooks = rh.Webhooks(URL, on_task=on_task)
    service = Hooked(lambda query, body: None, duration=40.0)
    query = urlsplit(hooks.url_for("order 17/β")).query

    async def main() -> None:
        async with service.session(webhooks=hooks) as session:
            url = hooks.url_for("order 17/β")
            task = await session.submit(rh.SeedreamV5Lite("a poster of a boat", webhook_url=url))
            event = json.dumps({"taskId": task.id, "status": "SUCCESS", "results": []}).encode()
            for _ in range(3):
                assert hooks.receive(query, event) == 204
            await asyncio.sleep(30)
            assert told == []
            assert f"task {task.id}, job order 17/β, not delivered to" in caplog.text
            for _ in range(3):
                assert hooks.receive(query, event) == 204
                await asyncio.sleep(12)
        assert hooks.receive(query, event.replace(task.id.encode(), b"77")) == 503

    run(main)
    ((key, task),) = told
    assert key == "order 17/β"
    assert task.outputs[0].url is not None


def test_what_on_task_does_not_take_may_come_again(caplog: pytest.LogCaptureFixture) -> None:
    """After an error of its own, or the end of the session before it was asked: named, and not
    taken for delivered."""
    told: list[str] = []

    async def on_task(key: str, task: rh.Task) -> None:
        told.append(key)
        if len(told) == 1:
            raise OSError("the database is away")

    hooks = rh.Webhooks(URL, on_task=on_task)
    service = Hooked(lambda query, body: None, duration=0.0)
    query = urlsplit(hooks.url_for("order 17")).query

    async def main() -> None:
        async with service.session(webhooks=hooks) as session:
            task = await session.submit(rh.SeedreamV5Lite("a poster of a boat"))
            event = json.dumps({"taskId": task.id, "status": "SUCCESS"}).encode()
            assert hooks.receive(query, event) == 204
            await asyncio.sleep(1)
            assert "the database is away" in caplog.text
            assert hooks.receive(query, event) == 204
            await asyncio.sleep(1)
            later = event.replace(task.id.encode(), b"99")
            assert hooks.receive(query, later) == 204
        assert "task 99, job order 17, not delivered to on_task: the session" in caplog.text

    run(main)
    assert told == ["order 17", "order 17"]


def test_a_session_keeps_its_own_keys() -> None:
    """What begins like them cannot be chosen; what comes for a session that is not here does no
    harm."""
    hooks = rh.Webhooks(URL, secret="s")
    with pytest.raises(ValueError, match="~"):
        hooks.url_for("~mine")
    service = Hooked(lambda query, body: None, duration=1.0)

    async def main() -> None:
        async with service.session(webhooks=hooks) as session:
            await session.submit(rh.SeedreamV5Lite("a poster of a boat"))

    run(main)
    (address,) = service.addresses.values()
    event = b'{"taskId": "5", "status": "SUCCESS"}'
    assert rh.Webhooks(URL, secret="s").receive(urlsplit(address).query, event) == 503


@pytest.mark.parametrize("early", [True, False])
def test_an_event_tells_of_a_task_whose_submit_was_lost(
    early: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Before the submit is given up, it makes the task known, and it is followed to its end;
    afterwards its id is named in a warning. Nothing is submitted twice."""
    hooks = rh.Webhooks(URL, patience=1.0)

    class Losing(Hooked):
        async def _answer(self, request: rh.Request) -> rh.Response:
            answer = await super()._answer(request)
            if request.url.endswith("/query"):
                return answer
            await asyncio.sleep(5 if early else 0)
            raise rh.ReadTimeout("lost")

    service = Losing(hooks.receive, duration=2.0)

    async def main() -> rh.Outcome:
        async with service.session(webhooks=hooks) as session:
            (outcome,) = [outcome async for outcome in session.stream(posters(1))]
            await asyncio.sleep(5)
            return outcome

    outcome = run(main)
    (task_id,) = service.created
    if early:
        assert isinstance(outcome, rh.Succeeded)
        assert outcome.task.id == task_id
    else:
        assert isinstance(outcome, rh.Unknown)
        assert f"task {task_id} was created by a submit whose answer was lost" in caplog.text


def test_everyone_who_waits_for_a_task_hears_of_its_end() -> None:
    """Not only who came last."""
    hooks = rh.Webhooks(URL)
    service = Hooked(hooks.receive, duration=50.0)

    async def main() -> float:
        async with service.session(webhooks=hooks) as session:
            task = await session.submit(rh.SeedreamV5Lite("a poster of a paper boat"))
            async with asyncio.TaskGroup() as waiting:
                for _ in range(3):
                    waiting.create_task(session.wait(task.id))
            return asyncio.get_running_loop().time()

    assert run(main) < 52


def test_whoever_gave_up_does_not_keep_the_others_from_hearing() -> None:
    """Of several that wait for one task, one has left before its event comes."""
    hooks = rh.Webhooks(URL)
    service = Hooked(hooks.receive, duration=50.0)

    async def main() -> float:
        async with service.session(webhooks=hooks) as session:
            task = await session.submit(rh.SeedreamV5Lite("a poster of a paper boat"))
            first = asyncio.create_task(session.wait(task))
            with pytest.raises(rh.WaitTimeout):
                await session.wait(task, timeout=5)
            last = asyncio.create_task(session.wait(task))
            await asyncio.gather(first, last)
            return asyncio.get_running_loop().time()

    assert run(main) < 52


class Lossy(Hooked):
    """A service of whose submits no answer comes."""

    async def _answer(self, request: rh.Request) -> rh.Response:
        answer = await super()._answer(request)
        if not request.url.endswith("/query"):
            raise rh.ReadTimeout("lost")
        return answer


def test_an_event_stops_a_submit_that_waits_to_be_repeated() -> None:
    """By the user's policy it would have been sent again, and billed twice."""
    hooks = rh.Webhooks(URL, patience=1.0)
    service = Lossy(hooks.receive, duration=10.0)
    retry = rh.RetryPolicy(wait_initial=60.0)

    async def main() -> rh.Task:
        async with service.session(webhooks=hooks, unknown="resubmit", retry=retry) as session:
            task = await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
            assert asyncio.get_running_loop().time() < 12
            await asyncio.sleep(500)
            return task

    task = run(main)
    assert list(service.created) == [task.id]


def test_leaving_a_lost_submit_says_that_a_task_may_exist(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The caller is cancelled while its event is still waited for."""
    hooks = rh.Webhooks(URL, patience=600.0)
    service = Lossy(lambda query, body: None, duration=10.0)

    async def main() -> None:
        async with service.session(webhooks=hooks) as session:
            pending = asyncio.ensure_future(session.run(rh.SeedreamV5Lite("a poster of a boat")))
            await asyncio.sleep(30)
            pending.cancel()
            await asyncio.wait([pending])
            assert "left a submit that may have created a task" in caplog.text

    run(main)


def test_a_stream_left_as_an_answer_is_lost_lists_it_as_unknown() -> None:
    """Not as never submitted; and the slot is free for the next one."""
    hooks = rh.Webhooks(URL, patience=600.0)
    service = Lossy(lambda query, body: None, duration=10.0, latency=0.5)

    async def main() -> None:
        limits = rh.Limits(1, None, None)
        async with service.session(webhooks=hooks, limits=limits) as session:
            async with session.stream(posters()) as stream:
                await asyncio.sleep(0.2)
            assert [left.state for left in stream.unfinished] == ["unknown"]
            pending = asyncio.ensure_future(session.submit(next(posters())))
            await asyncio.sleep(2)
            assert len(service.created) == 2
            pending.cancel()

    run(main)


def test_a_lost_submit_outlives_waits_for_a_wrong_id() -> None:
    """No query has been answered, which ends the waits for tasks; an event may yet come."""
    hooks = rh.Webhooks(URL, patience=600.0)
    gone = rh.ConnectError("no route")
    service = Lossy(hooks.receive, duration=60.0, on_query=lambda i: gone if i == "7" else None)

    async def main() -> None:
        async with service.session(webhooks=hooks) as session:
            pending = asyncio.ensure_future(session.run(rh.SeedreamV5Lite("a poster of a boat")))
            await asyncio.sleep(1)
            with pytest.raises(rh.ConnectError, match="no route"):
                await session.wait("7")
            assert not pending.done()
            assert [(await pending).id] == list(service.created)

    run(main)


def test_an_event_for_nobody_is_written_into_the_journal(tmp_path: Path) -> None:
    """Of a submit that had been given up: a later run follows its task and submits nothing."""
    journal = tmp_path / "run.db"
    hooks = rh.Webhooks(URL, patience=1.0)
    service = Lossy(hooks.receive, duration=10.0)

    async def first() -> None:
        async with service.session(journal=journal, webhooks=hooks) as session:
            (outcome,) = [outcome async for outcome in session.stream(posters(1))]
            assert isinstance(outcome, rh.Unknown)
            await asyncio.sleep(20)

    async def second() -> list[rh.Outcome]:
        async with service.session(journal=journal) as session:
            return [outcome async for outcome in session.stream(posters(1))]

    run(first)
    (outcome,) = run(second)
    assert isinstance(outcome, rh.Succeeded)
    assert [outcome.task.id] == list(service.created)


def test_an_event_before_its_job_is_kept_for_it(tmp_path: Path) -> None:
    """Of a submit that this journal knows nothing of: its task is not made again."""
    hooks = rh.Webhooks(URL)
    service = Hooked(lambda query, body: None, duration=1.0)

    async def main() -> None:
        async with service.session(journal=tmp_path / "run.db", webhooks=hooks) as session:
            task = await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
            (address,) = service.addresses.values()
            name = parse_qs(urlsplit(address).query)["job"][0].partition(".")[0]
            query = urlsplit(hooks.session_url(f"{name}.order-18")).query
            event = json.dumps({"taskId": task.id, "status": "SUCCESS", "results": []})
            assert hooks.receive(query, event.encode()) == 204
            assert await hooks.take(query, event.encode()) == 204
            same = await session.run(rh.SeedreamV5Lite("a poster of a kite"), key="order-18")
            assert same.id == task.id

    run(main)
    assert len(service.created) == 1


class Failing(rh.SqliteJobStore):
    """A journal that takes no events."""

    async def event(self, key: str, task_id: str, *, live: bool = False) -> rh.JobRecord | None:
        raise rh.JournalError("the disk is gone")


def test_an_event_that_cannot_be_written_down_is_not_confirmed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """503, so that the service sends it again; `receive`, which cannot wait, says so in the log.
    The session goes on."""
    events: list[tuple[str, bytes]] = []
    hooks = rh.Webhooks(URL, patience=1.0)
    service = Lossy(lambda *event: events.append(event), duration=2.0)

    async def main() -> None:
        journal = Failing(tmp_path / "run.db")
        async with service.session(journal=journal, webhooks=hooks) as session:
            with pytest.raises(rh.SubmitUnknown):
                await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
            await asyncio.sleep(5)
            (event,) = events
            assert await hooks.take(*event) == 503
            assert "was not written to the journal: the disk is gone" in caplog.text
            assert hooks.receive(*event) == 204
            await asyncio.sleep(1)
            assert "was not saved in the journal: the disk is gone" in caplog.text
            (task_id,) = service.created
            assert (await session.wait(task_id)).id == task_id

    run(main)


def test_a_key_whose_submit_was_lost_stays_unknown_without_its_event(tmp_path: Path) -> None:
    """Nor is it sent again then, in however many sessions."""
    service = Lossy(lambda query, body: None, duration=2.0)

    async def main() -> None:
        hooks, journal = rh.Webhooks(URL, patience=0.1), tmp_path / "run.db"
        async with service.session(journal=journal, webhooks=hooks) as session:
            with pytest.raises(rh.SubmitUnknown):
                await session.run(rh.SeedreamV5Lite("a poster of a paper boat"), key="order 7")

    for _ in range(3):
        run(main)
    assert len(service.created) == service.submitted.total() == 1


class Watched(rh.SqliteJobStore):
    """A journal that tells when jobs have been looked up in it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.looked = asyncio.Event()

    async def find(self, keys: Sequence[str]) -> Mapping[str, rh.JobRecord]:
        found = await super().find(keys)
        self.looked.set()
        return found


@pytest.mark.parametrize("late", [False, True])
def test_a_key_whose_submit_was_lost_is_waited_for_and_not_sent_again(
    tmp_path: Path, *, late: bool
) -> None:
    """`run` with the same key in a later session: the event of the first submit ends it, whether
    it comes while the journal is asked or later."""
    path = tmp_path / "run.db"
    events: list[tuple[str, bytes]] = []
    service = Lossy(lambda *event: events.append(event), duration=2.0)
    request = rh.SeedreamV5Lite("a poster of a paper boat")

    async def first() -> None:
        hooks = rh.Webhooks(URL, patience=1.0)
        async with service.session(journal=path, webhooks=hooks) as session:
            with pytest.raises(rh.SubmitUnknown):
                await session.run(request, key="order 7")
            await asyncio.sleep(5)

    async def second() -> rh.Task:
        hooks, journal = rh.Webhooks(URL), Watched(path)
        async with service.session(journal=journal, webhooks=hooks) as session:
            pending = asyncio.ensure_future(session.run(request, key="order 7"))
            await (journal.looked.wait() if late else asyncio.sleep(0))
            assert hooks.receive(*events[0]) == 204
            return await pending

    run(first)
    # The clock of the emulated loop would run on while the journal is read.
    assert [asyncio.run(second()).id] == list(service.created)


def test_an_event_may_be_taken_on_another_loop(tmp_path: Path) -> None:
    """A web server in a thread of its own: when it answers, the event is in the journal."""
    events: asyncio.Queue[tuple[str, bytes]]
    hourly = rh.ExponentialPolling(initial=3600, maximum=3600)
    hooks = rh.Webhooks(URL, polling=hourly, patience=0.0)
    service = Lossy(lambda *event: events.put_nowait(event), duration=0.01, latency=0.0)
    store = rh.SqliteJobStore(tmp_path / "run.db")

    async def main() -> None:
        nonlocal events
        events = asyncio.Queue()
        async with service.session(journal=store, webhooks=hooks) as session:
            with pytest.raises(rh.SubmitUnknown):
                await session.run(rh.SeedreamV5Lite("a poster of a paper boat"), key="order 7")
            event = await events.get()
            assert await asyncio.to_thread(lambda: asyncio.run(hooks.take(*event))) == 204
            record = (await store.find(["order 7"]))["order 7"]
            assert record.task is not None
            assert [record.task.id] == list(service.created)

    asyncio.run(main())


class Wire:
    """An ASGI server with one request."""

    def __init__(self, **scope: Any) -> None:
        self.scope = {"type": "http", "method": "POST", "query_string": b"", "headers": [], **scope}
        self.sent: list[Any] = []

    async def ask(self, hooks: rh.Webhooks, *parts: bytes) -> int:
        pieces = iter(parts)
        left = len(parts)

        async def receive() -> Any:
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": next(pieces), "more_body": left > 0}

        async def send(message: Any) -> None:
            self.sent.append(message)

        await hooks.asgi(self.scope, receive, send)
        status: int = self.sent[0]["status"]
        return status


def test_the_asgi_application_answers_at_once() -> None:
    """204 for an event in pieces, 403, 400, 405 and 413; other protocols are refused."""
    hooks = rh.Webhooks(URL)
    query = urlsplit(hooks.url_for("a")).query.encode()
    event = b'{"taskId": "5", "status": "SUCCESS"}'

    async def main() -> None:
        assert await Wire(query_string=query).ask(hooks, event[:9], event[9:]) == 204
        assert await Wire().ask(hooks, event) == 403
        assert await Wire(query_string=query).ask(hooks, b"{}") == 400
        assert await Wire(method="GET").ask(hooks, b"") == 405
        assert await Wire(query_string=query).ask(hooks, *[bytes(2**20)] * 5) == 413
        with pytest.raises(RuntimeError, match="websocket"):
            await Wire(type="websocket").ask(hooks, b"")

    asyncio.run(main())


EVENT = b'{"taskId": "5", "status": "SUCCESS"}'


@pytest.mark.parametrize(
    ("status", "scope"),
    [
        (403, {}),
        (403, {"query_string": b"job=a&sign=b"}),
        (405, {"method": "PUT"}),
        (413, {"headers": [(b"content-length", b"5000000")]}),
    ],
)
def test_a_refused_request_is_answered_without_its_body(status: int, scope: Any) -> None:
    """Nobody can make the receiver hold a body, or wait for one, without a good digest."""
    hooks = rh.Webhooks(URL)
    good = urlsplit(hooks.url_for("a")).query.encode()
    wire = Wire(**({} if status == 403 else {"query_string": good}), **scope)

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        wire.sent.append(message)

    asyncio.run(hooks.asgi(wire.scope, receive, send))
    assert wire.sent[0]["status"] == status


@pytest.mark.parametrize(
    "query",
    [
        "&".join(f"a{n}=b" for n in range(1000)) + "&{good}",
        "a=" + "b" * 20_000 + "&{good}",
        "job=\ud800&sign=\ud800",
        "job=a&sign=%00",
        "job=%ff%fe&sign=%ff",
        "{good}&job=b",
        "{good}&sign=b",
        "\x1b[31m",
    ],
    ids=range(8),
)
def test_no_address_breaks_the_receiver(query: str) -> None:
    """Too many fields, too long, not valid text, given twice: all are without their digest."""
    hooks = rh.Webhooks(URL)
    asked = query.format(good=urlsplit(hooks.url_for("a")).query)
    assert not hooks.is_signed(asked)
    assert hooks.receive(asked, EVENT) == 403
    assert hooks.is_signed(urlsplit(hooks.url_for("a")).query)


def test_refused_requests_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """One line for the first, the tenth, the hundredth."""
    hooks = rh.Webhooks(URL)
    for _ in range(500):
        hooks.receive("", EVENT)
    assert [record.args for record in caplog.records] == [(1,), (10,), (100,)]


def test_a_slow_body_is_given_up() -> None:
    """After 30 seconds, though its digest is good; a client that leaves is not an event."""
    hooks = rh.Webhooks(URL)
    query = urlsplit(hooks.url_for("a")).query.encode()

    async def ask(message: dict[str, Any], pause: float) -> tuple[int, float]:
        wire = Wire(query_string=query)

        async def receive() -> Any:
            await asyncio.sleep(pause)
            return message

        async def send(message: Any) -> None:
            wire.sent.append(message)

        began = asyncio.get_running_loop().time()
        await hooks.asgi(wire.scope, receive, send)
        return wire.sent[0]["status"], round(asyncio.get_running_loop().time() - began)

    async def main() -> None:
        trickle = {"type": "http.request", "body": b" ", "more_body": True}
        assert await ask(trickle, 1.0) == (408, 30)
        assert await ask({"type": "http.request", "more_body": True}, 1.0) == (408, 30)
        assert await ask({"type": "http.disconnect"}, 1.0) == (400, 1)
        assert await ask({"type": "http.request", "body": EVENT}, 29.0) == (204, 29)

    run(main)


@pytest.mark.parametrize(("size", "count"), [(3 * 2**20, 40), (1, 1000)])
def test_what_is_held_at_once_is_bounded(size: int, count: int) -> None:
    """By bytes and by number, over all requests; the others are sent again by the service, and
    small ones pass once there is room."""
    hooks = rh.Webhooks(URL)
    query = urlsplit(hooks.url_for("a")).query.encode()
    held = 0
    answers: list[int] = []

    async def main() -> None:
        release = asyncio.Event()

        async def ask() -> None:
            nonlocal held
            wire = Wire(query_string=query)
            given = False

            async def receive() -> Any:
                nonlocal given, held
                if given:
                    held += size
                    await release.wait()
                    held -= size
                    return {"type": "http.disconnect"}
                given = True
                return {"type": "http.request", "body": bytes(size), "more_body": True}

            async def send(message: Any) -> None:
                wire.sent.append(message)

            await hooks.asgi(wire.scope, receive, send)
            answers.append(wire.sent[0]["status"])

        async with asyncio.TaskGroup() as asking:
            for _ in range(count):
                asking.create_task(ask())
            await asyncio.sleep(1)
            assert held <= 32 * 2**20
            assert 0 < answers.count(503) == len(answers) < count
            release.set()
        assert await Wire(query_string=query).ask(hooks, EVENT) == 204

    run(main)


HOSTILE = {
    "objects": b'{"taskId":"5","status":"SUCCESS","results":[' + b'{"url":""},' * 300_000 + b"0]}",
    "lists": b'{"taskId":"5","status":"SUCCESS","x":[' + b"[]," * 1_000_000 + b"[]]}",
    "numbers": b'{"taskId":"5","status":"SUCCESS","x":[' + b"1," * 1_500_000 + b"1]}",
    "within text": json.dumps({"taskId": "5", "eventData": "[" + "[]," * 100_000 + "[]]"}).encode(),
    "behind escapes": b'{"taskId":"5","eventData":"{\\"status\\":\\"SUCCESS\\",\\"x\\":['
    + b"\\u005b\\u005d\\u002c" * 100_000 + b'[]]}"}',
    "a terminal's": b'{"taskId":"5\\u001b[31m","status":"SUCCESS"}',
    "a long id": b'{"taskId":"' + b"5" * 1000 + b'","status":"SUCCESS"}',
    "an id of spaces": b'{"taskId":"5 5","status":"SUCCESS"}',
}  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
def test_an_event_that_would_hold_the_loop_is_no_event(
    body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """More values than any event has, however they are packed, and ids that are none; nothing of
    it is in the log."""
    hooks = rh.Webhooks(URL)
    query = urlsplit(hooks.session_url("~x.k")).query
    assert hooks.receive(query, body) == 400
    assert asyncio.run(hooks.take(query, body)) == 400
    with pytest.raises(rh.ProtocolError):
        parse(body)
    assert caplog.text.isascii()
    assert "\x1b" not in caplog.text
    assert len(caplog.text) < 1000


def test_a_large_event_of_few_values_is_an_event() -> None:
    """A long text is read in no time."""
    outputs = [{"text": "a" * 3_900_000}]
    body = json.dumps({"taskId": "5", "status": "SUCCESS", "results": outputs})
    hooks = rh.Webhooks(URL)
    query = urlsplit(hooks.url_for("a")).query
    assert hooks.receive(query, body.encode()) == 204
    assert hooks.receive(query, body.encode() + b" " * 500_000) == 413


def test_a_body_that_never_comes_holds_up_no_answer_over_http() -> None:
    """aiohttp: 403 while the body is still being sent, and the connection ends."""

    async def main() -> bytes:
        hooks = rh.Webhooks("http://127.0.0.1/hooks")
        application = web.Application()
        application.router.add_post("/hooks", hooks.aiohttp)
        runner = web.AppRunner(application)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            reader, writer = await asyncio.open_connection(*runner.addresses[0][:2])
            writer.write(b"POST /hooks?job=a&sign=b HTTP/1.1\r\nHost: x\r\n")
            writer.write(b"Content-Length: 4000000\r\n\r\n{")
            async with asyncio.timeout(60):
                answer = await reader.read()
            writer.close()
            return answer
        finally:
            await runner.cleanup()

    head = asyncio.run(main())
    assert head.startswith(b"HTTP/1.1 403")
    assert b"connection: close" in head.lower()


@pytest.mark.parametrize("form", ["A", "B", "C", "D"])
def test_events_over_http_in_every_form(form: Any) -> None:
    """The emulator really POSTs to an aiohttp application, each event twice; nothing but the
    events could bring the results, since the polling would first look in an hour."""
    answers: list[int] = []

    async def main() -> None:
        faults = [Fault(on="webhook", kind="duplicate")]
        hourly = rh.ExponentialPolling(initial=3600, maximum=3600)
        hooks: rh.Webhooks

        async def take(request: web.Request) -> web.Response:
            answer = await hooks.aiohttp(request)
            answers.append(answer.status)
            return answer

        application = web.Application()
        application.router.add_post("/hooks", take)
        async with contextlib.AsyncExitStack() as stack:
            runner = web.AppRunner(application)
            stack.push_async_callback(runner.cleanup)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}/hooks"
            hooks = rh.Webhooks(url, polling=hourly)
            emulator = await stack.enter_async_context(
                Emulator(duration=0.2, faults=faults, webhook_form=form)
            )
            session = await stack.enter_async_context(
                rh.Session("a-key", base_url=emulator.url, webhooks=hooks)
            )
            other = await stack.enter_async_context(aiohttp.ClientSession())
            outcomes = [outcome async for outcome in session.stream(posters(6))]
            async with other.post(url, data=b"{}") as answer:
                assert answer.status == 403
            assert [outcome.ok for outcome in outcomes] == [True] * 6
            assert emulator.stats.billed == 6

    asyncio.run(main())
    assert answers.count(204) >= 6


@pytest.mark.parametrize("url", ["hooks.example", "ftp://hooks.example", ""])
def test_a_receiver_needs_an_address_that_can_be_posted_to(url: str) -> None:
    """http or https."""
    with pytest.raises(ValueError, match="http"):
        rh.Webhooks(url)


@pytest.mark.parametrize("patience", [-1.0, float("nan"), float("inf")])
def test_patience_is_a_number_of_seconds(patience: float) -> None:
    """From 0, and finite."""
    with pytest.raises(ValueError, match="patience"):
        rh.Webhooks(URL, patience=patience)


def test_the_asgi_application_can_be_served_by_itself() -> None:
    """A server that starts it and shuts it down is answered, and no longer waited for."""
    told = iter(["lifespan.startup", "lifespan.shutdown"])
    sent: list[str] = []

    async def receive() -> Any:
        return {"type": next(told)}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    asyncio.run(rh.Webhooks(URL).asgi({"type": "lifespan"}, receive, send))
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
