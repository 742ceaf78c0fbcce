"""Killed at any moment, and resumed: nothing billed twice, nothing lost, nothing half.

`CRASH_MOMENTS` says at how many moments a run of 300 jobs is killed; `nox -s crash` has 100.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import random
import signal
import socket
import sqlite3
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault, Recorded
from runninghub_async.testing import MockTransport

MOMENTS = int(os.environ.get("CRASH_MOMENTS", "10"))
SCRIPT = Path(__file__).parent / "crash" / "run.py"
JOBS = 300
PRICE = Decimal("0.22")

#: Real processes that are killed: where there are signals.
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.name != "posix", reason="kills processes"),
]


# -- processes and what they leave ------------------------------------------------------------


def kind_of(request: Recorded) -> str:
    if request.target.startswith("/results/"):
        return "result"
    return "query" if request.target.endswith("/query") else "submit"


class Watched(deque[Recorded]):
    """What arrived at an emulator; calls what waits for the n-th request of a kind, at once."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: Counter[str] = Counter()
        self.submits: Counter[str] = Counter()
        self._awaited: dict[tuple[str, int], Callable[[], object]] = {}

    def append(self, request: Recorded) -> None:
        kind = kind_of(request)
        self.kinds[kind] += 1
        if kind == "submit":
            self.submits[json.loads(request.body_start)["prompt"]] += 1
        if (call := self._awaited.pop((kind, self.kinds[kind]), None)) is not None:
            call()

    def at(self, kind: str, number: int, call: Callable[[], object]) -> None:
        """Call when so many more requests of this kind have arrived."""
        self._awaited[kind, self.kinds[kind] + number] = call

    async def more(self, kind: str, number: int) -> None:
        """Return when so many more requests of this kind have arrived."""
        come = asyncio.Event()
        self.at(kind, number, come.set)
        await come.wait()


def watch(emulator: Emulator) -> Watched:
    watched = Watched()
    emulator.requests = watched
    return watched


class Child:
    """A process that runs `crash/run.py`."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def hears(self, text: str) -> str:
        """The next line with this text in it."""
        assert self.process.stdout is not None
        while line := (await self.process.stdout.readline()).decode():
            self.said.append(line)
            if text in line:
                return line
        pytest.fail(f"ended without saying {text!r}, but {self.said}")

    async def tell(self) -> None:
        """A line on its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def killed(self) -> None:
        """Return when it is dead, as it was meant to be."""
        out, _ = await self.process.communicate()
        assert self.process.returncode == -signal.SIGKILL, out.decode()

    async def done(self) -> None:
        """Return when it has ended well."""
        out, _ = await self.process.communicate()
        assert self.process.returncode == 0, out.decode()


@contextlib.asynccontextmanager
async def child(place: Path, url: str, *calls: str, **told: Any) -> AsyncIterator[Child]:
    options = {"url": url, "journal": str(place / "run.db"), "calls": calls, "count": JOBS, **told}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(SCRIPT), json.dumps(options),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    running = Child(process)
    try:
        yield running
    finally:
        running.kill()
        await process.wait()


def jobs_in(folder: Path) -> tuple[rh.JournalSummary, list[rh.JobRecord]]:
    with rh.JournalReader(folder / "run.db") as reader:
        return reader.summary(), list(reader.jobs())


def account(
    folder: Path, emulator: Emulator, count: int = JOBS, *, files: bool = True
) -> dict[str, rh.JobRecord]:
    """Hold a run that has ended against the books of the service; its unknown jobs, by prompt."""
    summary, jobs = jobs_in(folder)
    states = Counter(job.state for job in jobs)
    assert states.total() == count
    assert {state: n for state, n in summary.states.items() if n} == states
    good = [job for job in jobs if job.state in (rh.JobState.STORED, rh.JobState.SUCCEEDED)]
    unknown = {
        job.request.to_params()["prompt"]: job for job in jobs if job.state is rh.JobState.UNKNOWN
    }
    assert len(good) + len(unknown) == count
    assert {job.state for job in good} <= {rh.JobState.STORED if files else rh.JobState.SUCCEEDED}
    # What was billed, and what of it is known.
    assert len(good) <= emulator.stats.billed <= count
    assert summary.spent == rh.Money(PRICE * len(good), "CNY")
    created = emulator.created
    assert created.most_common(1)[0][1] == 1
    assert set(created) - {job.request.to_params()["prompt"] for job in good} <= set(unknown)
    ids = [job.task.id for job in good if job.task is not None]
    assert len(set(ids)) == len(good)
    # What is known of the others.
    for job in unknown.values():
        assert job.task is None
        assert job.sent_at is not None
        assert job.attempts >= 1
        assert job.error
    if files:
        whole_files(folder / "results", good)
    return unknown


def whole_files(folder: Path, jobs: list[rh.JobRecord]) -> None:
    """What is in the folder is what the journal says: no more, no less, and no half."""
    kept = {file.name: file for job in jobs for file in job.files}
    assert len(kept) == len(jobs)
    assert {path.name for path in folder.iterdir()} == set(kept)
    for name, file in kept.items():
        body = (folder / name).read_bytes()
        assert (len(body), hashlib.sha256(body).hexdigest()) == (file.size, file.sha256)


# -- killed -----------------------------------------------------------------------------------

#: Only prompts with this in them are ever refused, and may be submitted again.
REFUSED = "number 7"


async def killed_and_resumed(
    folder: Path, emulator: Emulator, chance: random.Random, calls: Any, **told: Any
) -> int:
    """A run that is killed once or twice and then ends; how often it was killed."""
    requests = watch(emulator)
    told["folder"] = str(folder / "results")
    first, again = calls
    # As many of each kind are sure to come: no job does without.
    kind, count = chance.choice(["submit", "query", "result"]), chance.randint(1, JOBS)
    kills, calls = 0, first
    while count > 0:
        async with child(folder, emulator.url, *calls, **told) as running:
            strike_at(requests, kind, count, running, chance)
            await running.killed()
        kills, calls, kind = kills + 1, again, "result"
        # Those whose answers were under way will not come, perhaps.
        left = JOBS - requests.kinds["result"] - 30
        count = chance.randint(1, left) if kills < 2 and left > 0 and chance.random() < 0.5 else 0
    async with child(folder, emulator.url, *again, **told) as running:
        await running.done()
    # Nothing but a plain refusal had anything submitted again.
    assert all(n == 1 for prompt, n in requests.submits.items() if REFUSED not in prompt)
    stats = emulator.stats
    assert stats.submits == stats.accepted + stats.refused == requests.kinds["submit"]
    return kills


def strike_at(
    requests: Watched, kind: str, count: int, running: Child, chance: random.Random
) -> None:
    """Kill it at this request, or a little later, in the middle of whatever follows."""
    pause = chance.choice([0.0, chance.uniform(0, 0.01)])

    def strike() -> None:
        if pause:
            asyncio.get_running_loop().call_later(pause, running.kill)
        else:
            running.kill()

    requests.at(kind, count, strike)


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_killed_at_any_moment_and_resumed(moment: int, tmp_path: Path) -> None:
    """A stream that is asked for again, or a list that is resumed: every job is stored or
    named as unknown, none is submitted twice, and its files are whole."""
    chance = random.Random(moment)
    calls = (["stream"], ["stream"]) if moment % 2 else (["enlist", "resume"], ["resume"])
    faults = [
        Fault(on="submit", kind="refuse", code="421", match=REFUSED, share=0.3),
        Fault(on="result", kind="half", share=0.05),
    ]
    emulator = Emulator(
        duration=0.2, max_concurrency=None, seed=moment, faults=faults if moment % 3 else ()
    )

    async def main() -> int:
        async with emulator:
            return await killed_and_resumed(tmp_path, emulator, chance, calls)

    kills = asyncio.run(main())
    assert len(account(tmp_path, emulator)) <= 30 * kills


@contextlib.contextmanager
def port_of_our_own() -> Iterator[int]:
    """A port that one process after another listens on, and no other program is given meanwhile."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.parametrize("moment", range(max(2, MOMENTS // 4)))
def test_killed_with_webhooks_on(moment: int, tmp_path: Path) -> None:
    """A later process takes the events that an earlier one did not live to see: what stays
    unknown is only what the service never got."""
    chance = random.Random(1000 + moment)
    calls = (["stream"], ["stream"]) if moment % 2 else (["enlist", "resume"], ["resume"])
    emulator = Emulator(
        duration=0.2, max_concurrency=None, seed=moment, webhook_gap=0.05, webhook_retries=10_000
    )

    async def main() -> None:
        async with emulator:
            with port_of_our_own() as port:
                await killed_and_resumed(
                    tmp_path, emulator, chance, calls, port=port, patience=12.0
                )

    asyncio.run(main())
    unknown = account(tmp_path, emulator)
    assert not set(unknown) & set(emulator.created)


# -- two at once ------------------------------------------------------------------------------


def session_on(journal: Path, **options: Any) -> rh.Session:
    """One that nobody answers."""
    options.setdefault("transport", MockTransport(lambda _: rh.Response(500)))
    return rh.Session("a-key", journal=journal, **options)


async def opened(journal: Path, **options: Any) -> None:
    async with session_on(journal, **options):
        pass


def test_a_second_process_is_told_of_the_first_and_takes_over_from_a_dead_one(
    tmp_path: Path,
) -> None:
    """By its number while it lives; at once when it does not, and what it was submitting then
    is of unknown outcome."""
    faults = [Fault(on="submit", kind="delay", seconds=60, after=20)]
    emulator = Emulator(duration=0.2, max_concurrency=None, faults=faults)

    async def main() -> None:
        async with emulator:
            requests = watch(emulator)
            async with child(tmp_path, emulator.url, "stream") as first:
                await requests.more("submit", 21)
                with pytest.raises(rh.JournalBusy, match=f"process {first.process.pid} "):
                    await opened(tmp_path / "run.db", base_url=emulator.url)
                first.kill()
                await first.killed()
            await opened(tmp_path / "run.db", base_url=emulator.url)

    asyncio.run(main())
    summary, jobs = jobs_in(tmp_path)
    assert summary.owner == ""
    assert summary.states[rh.JobState.SUBMITTING] == 0
    unknown = [job for job in jobs if job.state is rh.JobState.UNKNOWN]
    assert unknown
    assert all("the process that sent it ended" in job.error for job in unknown)
    accepted = {job.task.id for job in jobs if job.task is not None}
    # An answer may have been on its way when it was killed; a row was not.
    assert len(accepted) <= emulator.stats.accepted == 20
    assert emulator.stats.submits <= len(accepted) + len(unknown)


def test_two_sessions_of_one_process_do_not_share_a_journal(tmp_path: Path) -> None:
    """The second gets an error; when the first has closed, it may open it."""
    journal = tmp_path / "run.db"

    async def main() -> None:
        async with session_on(journal):
            with pytest.raises(rh.JournalBusy, match=f"process {os.getpid()} "):
                await opened(journal)
        await opened(journal)

    asyncio.run(main())


def test_a_reader_names_who_has_the_journal(tmp_path: Path) -> None:
    """While it is open, and nobody afterwards."""
    journal = tmp_path / "run.db"

    def owner() -> str:
        return jobs_in(tmp_path)[0].owner

    async def main() -> str:
        async with session_on(journal):
            return await asyncio.to_thread(owner)

    assert f"process {os.getpid()} " in asyncio.run(main())
    assert owner() == ""


def a_text(path: Path) -> None:
    path.write_text("what is to be done today\n" * 100)


def a_folder(path: Path) -> None:
    path.mkdir()


def of_another_program(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE jobs (name TEXT)")


def a_newer_one(path: Path) -> None:
    asyncio.run(opened(path))
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 1000")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (a_text, "is no journal"),
        (a_folder, "directory"),
        (of_another_program, "is not a journal of this package"),
        (a_newer_one, "written by a newer one"),
    ],
)
def test_what_is_no_journal_is_refused_and_left_as_it_is(
    make: Callable[[Path], None], told: str, tmp_path: Path
) -> None:
    """With a `JournalError` that says why and names the file."""
    path = tmp_path / "run.db"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(rh.JournalError, match=told) as caught:
        asyncio.run(opened(path))
    assert str(path) in str(caught.value)
    assert not isinstance(caught.value, rh.JournalBusy)
    assert before == (path.read_bytes() if path.is_file() else b"")
    assert [found.name for found in tmp_path.iterdir()] == ["run.db"]
    with pytest.raises(rh.JournalError):
        rh.JournalReader(path)


# -- full disks -------------------------------------------------------------------------------


def test_a_disk_that_is_full_for_the_results(tmp_path: Path) -> None:
    """Nothing is submitted, and that is said; with room again all is brought home."""
    pytest.importorskip("resource")
    emulator = Emulator(duration=0.05, max_concurrency=None)
    jobs = 30
    told: dict[str, Any] = {
        "count": jobs,
        "folder": str(tmp_path / "results"),
        # A limit on the size of files stands in for the end of the disk.
        "room": 1_000_000,
        "large": 1_500_000,
        "limit": 3,
    }

    async def main() -> None:
        async with emulator:
            requests = watch(emulator)
            async with child(tmp_path, emulator.url, "stream", **told) as running:
                line = await running.hears("nothing is submitted until there is room")
                assert told["folder"] in line
                # Each of those that could not be kept is tried again, for as long as it takes.
                await requests.more("result", 2)
                before = emulator.stats.submits
                await requests.more("result", 4)
                assert emulator.stats.submits == before < jobs
                await running.tell()
                await running.hears("there is room again")
                await running.done()

    asyncio.run(main())
    assert account(tmp_path, emulator, jobs) == {}


@pytest.mark.parametrize("killed", [False, True])
def test_a_disk_that_is_full_for_the_journal(killed: bool, tmp_path: Path) -> None:
    """Nothing is submitted that could not be written down, and that is said; with room again,
    or for a later process, the run goes on."""
    pytest.importorskip("resource")
    emulator = Emulator(duration=0.05, max_concurrency=None)
    jobs = 200
    told = {"count": jobs, "room": 250_000, "limit": 5}

    async def main() -> None:
        async with emulator:
            requests = watch(emulator)
            async with child(tmp_path, emulator.url, "stream", **told) as running:
                line = await running.hears("nothing is submitted until it can")
                assert str(tmp_path / "run.db") in line
                _, known = await asyncio.to_thread(jobs_in, tmp_path)
                # Not one that the journal does not know, and far from all.
                prompts = {job.request.to_params()["prompt"] for job in known}
                assert set(requests.submits) <= prompts
                assert 0 < len(prompts) < jobs
                if killed:
                    running.kill()
                    await running.killed()
                else:
                    await running.tell()
                    await running.hears("can be written again")
                    await running.done()
            if killed:
                async with child(tmp_path, emulator.url, "stream", count=jobs) as running:
                    await running.done()

    asyncio.run(main())
    unknown = account(tmp_path, emulator, jobs, files=False)
    assert len(unknown) <= (5 if killed else 0)
