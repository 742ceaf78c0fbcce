"""The power goes at any point of a run, which is resumed from what was on the disk."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support import FIRST_ID, png, posters

import runninghub_async as rh
from runninghub_async.testing import MockTransport, json_response, run

JOBS = 12
PRICE = 0.22
PICTURE = png()

#: What the journal may say of a job whose request has left.
SENT = frozenset(rh.JobState) - {rh.JobState.NEW, rh.JobState.REFUSED}

#: Points of a run at which the power may go: before and after each submit takes effect, at each
#: of two queries and at the download.
POINTS = 5 * JOBS


class Cloud:
    """A service whose tasks have ended when they are asked after twice. It counts the points at
    which the power may go, and at one of them nothing answers any more."""

    def __init__(self) -> None:
        self.tasks: dict[str, str] = {}
        self.created: Counter[str] = Counter()
        self.submitted: Counter[str] = Counter()
        self.downloads: Counter[str] = Counter()
        self._ids = itertools.count(FIRST_ID)
        self._looks: Counter[str] = Counter()
        self._points = 0
        self._last = 0
        self._disk: tuple[Path, Path] | None = None
        self._dark: asyncio.Event | None = None

    def cut_at(self, point: int, journal: Path, copy: Path) -> asyncio.Event:
        """Have the power go there, and what is on the disk then be copied."""
        self._last, self._disk, self._dark = point, (journal, copy), asyncio.Event()
        return self._dark

    def restore(self) -> None:
        """The power is back."""
        self._last, self._dark = 0, None

    def transport(self) -> MockTransport:
        return MockTransport(self._answer)

    async def _point(self) -> None:
        self._points += 1
        if self._dark is not None and self._points == self._last:
            assert self._disk is not None
            _copy_as_it_is(*self._disk)
            self._dark.set()
        await self._in_the_dark()

    async def _in_the_dark(self) -> None:
        if self._dark is not None and self._dark.is_set():
            await asyncio.Event().wait()

    async def _answer(self, request: rh.Request) -> rh.Response:
        await self._in_the_dark()
        if request.method == "GET":
            await self._point()
            self.downloads[request.url] += 1
            return rh.Response(200, PICTURE)
        body = json.loads(request.body or b"{}")
        if request.url.endswith("/query"):
            await self._point()
            return self._told(body["taskId"])
        await self._point()
        prompt = body["prompt"]
        self.submitted[prompt] += 1
        self.created[prompt] += 1
        task_id = str(next(self._ids))
        self.tasks[task_id] = prompt
        await self._point()
        return json_response({"taskId": task_id, "status": "QUEUED", "errorCode": ""})

    def _told(self, task_id: str) -> rh.Response:
        self._looks[task_id] += 1
        done = self._looks[task_id] > 1
        url = f"https://results.example/{task_id}.png"
        return json_response(
            {
                "taskId": task_id,
                "status": "SUCCESS" if done else "RUNNING",
                "errorCode": "",
                "results": [{"url": url, "outputType": "png", "nodeId": "2"}] if done else None,
                "usage": {"thirdPartyConsumeMoney": str(PRICE)} if done else None,
            }
        )


def _copy_as_it_is(journal: Path, copy: Path) -> None:
    """Right here and not in a thread, so that nothing else can happen meanwhile; and without
    SQLite, whose copy would be neater than what a power cut leaves."""
    for name in (journal.name, f"{journal.name}-wal"):
        with (journal.parent / name).open("rb", buffering=0) as source:
            data = source.readall()
        with (copy / name).open("wb", buffering=0) as target:
            target.write(data)


def session_of(cloud: Cloud, journal: Path, **options: Any) -> rh.Session:
    return rh.Session(
        "a-key",
        transport=cloud.transport(),
        journal=journal,
        limits=rh.Limits(4, None, None),
        **options,
    )


def made(folder: Path) -> Path:
    for name in ("lost", "kept"):
        (folder / name).mkdir()
    return folder


async def until_dark(cloud: Cloud, point: int, folder: Path) -> None:
    """A run that goes on until the power goes; what it would still write goes elsewhere."""
    journal = folder / "lost" / "run.db"
    dark = cloud.cut_at(point, journal, folder / "kept")

    async def work() -> None:
        async for _ in session.stream(posters(JOBS), folder=folder / "results"):
            pass

    async with session_of(cloud, journal) as session:
        working = asyncio.ensure_future(work())
        gone = asyncio.ensure_future(dark.wait())
        await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
        assert dark.is_set(), "there are fewer points than that"
        working.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await working


def jobs_in(folder: Path) -> list[rh.JobRecord]:
    with rh.JournalReader(folder / "run.db") as reader:
        jobs = list(reader.jobs())
        states = Counter(job.state for job in jobs)
        assert {state: n for state, n in reader.summary().states.items() if n} == states
        return jobs


def power_is_back(folder: Path) -> None:
    """Who had the journal is dead; here it is this very process, which is not."""
    with contextlib.closing(sqlite3.connect(folder / "run.db")) as db, db:
        db.execute("DELETE FROM lease")


def prompt_of(job: rh.JobRecord) -> str:
    return str(job.request.to_params()["prompt"])


def sent_in(folder: Path) -> set[str]:
    """The prompts of which the journal knows that their requests left, or were about to."""
    return {prompt_of(job) for job in jobs_in(folder) if job.state in SENT}


@pytest.mark.parametrize(
    ("again", "point"),
    [
        *[("stream", point) for point in range(1, POINTS + 1)],
        *[("resume", point) for point in range(1, POINTS + 1, 2)],
    ],
)
def test_the_power_goes(again: str, point: int, tmp_path: Path) -> None:
    """What the service has seen is on the disk; resumed from there, every job is stored or named
    as unknown, and none is made twice."""
    cloud = Cloud()
    run(until_dark, cloud, point, made(tmp_path))
    # Who leaves in the middle of a download leaves nothing of it.
    assert [*tmp_path.glob("results/.*")] == []
    seen = Counter(cloud.submitted)
    assert set(seen) <= sent_in(tmp_path / "kept")

    async def go_on() -> None:
        async with session_of(cloud, tmp_path / "kept" / "run.db") as session:
            if again == "resume":
                await session.enlist(posters(JOBS))
                stream = session.resume(folder=tmp_path / "results")
            else:
                stream = session.stream(posters(JOBS), folder=tmp_path / "results")
            async for outcome in stream:
                assert isinstance(outcome, rh.Succeeded | rh.Unknown)

    cloud.restore()
    power_is_back(tmp_path / "kept")
    run(go_on)
    jobs = jobs_in(tmp_path / "kept")
    states = Counter(job.state for job in jobs)
    assert set(states) <= {rh.JobState.STORED, rh.JobState.UNKNOWN}
    assert states.total() == JOBS
    assert states[rh.JobState.UNKNOWN] <= 4
    assert cloud.submitted.most_common(1)[0][1] == 1
    stored = {prompt_of(job) for job in jobs if job.state is rh.JobState.STORED}
    assert stored <= set(cloud.created) <= {prompt_of(job) for job in jobs}
    for job in jobs:
        if job.state is rh.JobState.UNKNOWN:
            assert job.sent_at is not None
            assert job.error
    files = {file.name for job in jobs for file in job.files}
    # A job whose id was not on the disk yet may have left its file all the same.
    lost = {f"{job.place:05}" for job in jobs if job.state is rh.JobState.UNKNOWN}
    there = {path.name for path in (tmp_path / "results").iterdir()}
    assert files <= there
    assert {name[:5] for name in there - files} <= lost
    assert len(files) == len(stored)
    assert all((tmp_path / "results" / name).read_bytes() == PICTURE for name in files)


def test_there_are_as_many_points_as_that(tmp_path: Path) -> None:
    """And none beyond: a run without a cut passes each once."""
    cloud = Cloud()
    with pytest.raises(AssertionError, match="fewer points"):
        run(until_dark, cloud, POINTS + 1, made(tmp_path))
    assert cloud.downloads.total() == cloud.created.total() == JOBS


@pytest.mark.parametrize("answered", [False, True])
def test_an_event_that_was_answered_is_on_the_disk(answered: bool, tmp_path: Path) -> None:
    """The service does not send it again; it came while the answer to the submit was still under
    way, or while its answer was not saved yet."""

    class Eager(Cloud):
        async def _answer(self, request: rh.Request) -> rh.Response:
            answer = await super()._answer(request)
            if request.method == "POST" and not request.url.endswith("/query"):
                if answered:
                    asyncio.get_running_loop().call_soon(telling.append, self._later(request))
                else:
                    await self._tell(request)
            return answer

        def _later(self, request: rh.Request) -> asyncio.Future[None]:
            return asyncio.ensure_future(self._tell(request))

        async def _tell(self, request: rh.Request) -> None:
            query = json.loads(request.body or b"")["webhookUrl"].partition("?")[2]
            (task_id,) = self.tasks
            event = {"taskId": task_id, "status": "SUCCESS"}
            assert await hooks.take(query, json.dumps(event).encode()) == 204
            _copy_as_it_is(tmp_path / "lost" / "run.db", tmp_path / "kept")
            gone.set()

    made(tmp_path)
    cloud, telling = Eager(), list[asyncio.Future[None]]()
    hooks = rh.Webhooks("https://example.org/hooks", patience=1.0)
    gone = asyncio.Event()

    async def cut() -> None:
        async with session_of(cloud, tmp_path / "lost" / "run.db", webhooks=hooks) as session:
            running = asyncio.ensure_future(session.run(next(iter(posters(1)))))
            await gone.wait()
            running.cancel()
            await asyncio.wait([running])

    async def go_on() -> None:
        async with session_of(cloud, tmp_path / "kept" / "run.db") as session:
            async for outcome in session.resume():
                assert outcome.ok

    run(cut)
    power_is_back(tmp_path / "kept")
    run(go_on)
    (job,) = jobs_in(tmp_path / "kept")
    assert job.state is rh.JobState.SUCCEEDED
    assert job.task is not None
    assert job.task.id in cloud.tasks
    assert cloud.submitted.total() == 1
