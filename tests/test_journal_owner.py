"""Which process has a journal: correct on machines that reveal little, and with wrong clocks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support import Service, posters

import runninghub_async as rh
from runninghub_async.testing import run

LIVES, FREE = True, False


def held(journal: Path, **columns: Any) -> None:
    """A lease as a process may leave it; by default one of this process, renewed just now."""
    with contextlib.closing(sqlite3.connect(journal)) as db:
        names = ", ".join(f"{name} = ?" for name in columns)
        db.execute(f"UPDATE lease SET {names}", list(columns.values()))
        db.commit()


def opened(journal: Path, **options: Any) -> None:
    async def main() -> None:
        store = rh.SqliteJobStore(journal, **options)
        async with Service().session(journal=store):
            await asyncio.sleep(0)

    run(main)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """One whose lease is still there, as after a crash of this very process."""
    path, copy = tmp_path / "run.db", tmp_path / "copy.db"

    def copied() -> None:
        with contextlib.closing(sqlite3.connect(path)) as db:
            with contextlib.closing(sqlite3.connect(copy)) as target:
                db.backup(target)

    async def main() -> None:
        async with Service().session(journal=path):
            await asyncio.to_thread(copied)

    run(main)
    return copy


@pytest.fixture
def other() -> Any:
    """A living process that has nothing to do with journals."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process.pid
    process.send_signal(signal.SIGTERM)
    process.communicate()


AGO = -86_400.0
CASES = [
    # Known by its number and by when it began.
    ({}, LIVES),
    ({"renewed": AGO}, LIVES),
    # The number is another process's by now.
    ({"started": "17"}, FREE),
    ({"pid": 2**22 + 1}, FREE),
    ({"pid": 2**62}, LIVES),
    # Nothing tells when it began: only the age of its lease counts.
    ({"started": ""}, LIVES),
    ({"started": "", "renewed": AGO}, FREE),
    # Another machine or container, or this one before it was started again.
    ({"host": "machine boot space"}, LIVES),
    ({"host": "machine boot space", "renewed": AGO}, FREE),
    # A clock that was set back, or one that was far ahead.
    ({"host": "machine boot space", "renewed": 10.0}, LIVES),
    ({"host": "machine boot space", "renewed": 86_400.0}, FREE),
    ({"started": "", "renewed": 86_400.0}, FREE),
]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a machine without /proc")
@pytest.mark.parametrize(("lease", "alive"), CASES)
def test_a_journal_is_free_when_its_owner_is_dead(
    lease: dict[str, Any], alive: bool, journal: Path
) -> None:
    """And not before; times are seconds from now."""
    now = time.time()
    held(journal, **lease | {"renewed": now + lease.get("renewed", 0.0)})
    if not alive:
        opened(journal)
        return
    with pytest.raises(rh.JournalBusy, match="take_over=True"):
        opened(journal)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="a machine without /proc")
@pytest.mark.parametrize(
    ("lease", "alive"),
    [({"renewed": 10.0}, LIVES), ({"pid": 2**22 + 1}, FREE), ({"started": "17"}, FREE)],
)
def test_this_machine_is_known_by_the_name_that_an_earlier_version_gave_it(
    lease: dict[str, Any], alive: bool, journal: Path
) -> None:
    """So that a run that was killed goes on at once, and one that lives is not taken over."""
    with contextlib.closing(sqlite3.connect(journal)) as db:
        (host,) = db.execute("SELECT host FROM lease").fetchone()
    now = time.time()
    held(journal, host=host.rpartition("@")[0], **{"renewed": now} | lease)
    if alive:
        with pytest.raises(rh.JournalBusy, match="take_over=True"):
            opened(journal)
    else:
        opened(journal)


def test_a_number_that_another_process_has_by_now_is_not_the_owner(
    other: int, journal: Path
) -> None:
    """Where nothing tells when it began: once the lease is old."""
    held(journal, pid=other, started="", renewed=time.time() - 86_400)
    opened(journal)


def test_a_journal_is_taken_over_if_its_user_says_so(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an argument, or by the environment of a command."""
    with pytest.raises(rh.JournalBusy, match="RUNNINGHUB_JOURNAL_TAKE_OVER=1"):
        opened(journal)
    opened(journal, take_over=True)
    monkeypatch.setenv("RUNNINGHUB_JOURNAL_TAKE_OVER", "1")
    opened(journal)


def test_an_owner_that_was_judged_dead_submits_nothing_more(tmp_path: Path) -> None:
    """A machine that was asleep finds that another one has taken its journal."""
    service = Service(5.0)

    async def main() -> None:
        first = service.session(journal=tmp_path / "run.db")
        await first.__aenter__()
        await first.submit(next(posters(1)))
        store = rh.SqliteJobStore(tmp_path / "run.db", take_over=True)
        async with service.session(journal=store):
            with pytest.raises(rh.JournalError, match="taken over"):
                await first.submit(next(posters(1)))
        with contextlib.suppress(rh.JournalError):
            await first.aclose()

    run(main)
    assert service.submitted.total() == 1


def test_a_lease_is_renewed_while_nothing_is_written(tmp_path: Path) -> None:
    """An idle session keeps its journal: the age of its lease stays below its length."""
    journal, lease = tmp_path / "run.db", 0.6

    def renewed() -> float:
        with contextlib.closing(sqlite3.connect(journal)) as db:
            told: float = db.execute("SELECT renewed FROM lease").fetchone()[0]
            return told

    async def main() -> None:
        store = rh.SqliteJobStore(journal, lease=lease)
        async with Service().session(journal=store):
            first = await asyncio.to_thread(renewed)
            while await asyncio.to_thread(renewed) == first:
                pass

    asyncio.run(asyncio.wait_for(main(), 60))
    assert os.path.exists(journal)  # noqa: PTH110


class Heard(logging.Handler):
    """Sets `heard` once a record of the package has this text; from any thread."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.heard = asyncio.Event()
        self._text = text
        self._loop = asyncio.get_running_loop()

    def emit(self, record: logging.LogRecord) -> None:
        if self._text in record.getMessage():
            self._loop.call_soon_threadsafe(self.heard.set)


@contextlib.asynccontextmanager
async def hearing(text: str) -> AsyncIterator[asyncio.Event]:
    handler = Heard(text)
    logger = logging.getLogger("runninghub_async.trouble")
    logger.addHandler(handler)
    try:
        yield handler.heard
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("lost", [True, False])
def test_a_lease_that_is_not_renewed_is_told_while_nothing_is_written(
    lost: bool, tmp_path: Path
) -> None:
    """The idle session notices that its journal is another's by now, and submits nothing more.
    After a write that only failed it goes on."""
    journal, service = tmp_path / "run.db", Service(5.0)
    statement = "UPDATE lease SET name = 'another'" if lost else (
        "CREATE TRIGGER full BEFORE UPDATE OF renewed ON lease"
        " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
    )  # fmt: skip

    def edit(text: str) -> None:
        with contextlib.closing(sqlite3.connect(journal)) as db, db:
            db.execute(text)

    async def main() -> None:
        store = rh.SqliteJobStore(journal, lease=0.03)
        async with hearing("the lease was not renewed") as heard:
            session = service.session(journal=store)
            await session.__aenter__()
            await asyncio.to_thread(edit, statement)
            await heard.wait()
            if lost:
                with pytest.raises(rh.JournalError, match="taken over by another process"):
                    await session.submit(next(posters(1)))
            else:
                await asyncio.to_thread(edit, "DROP TRIGGER full")
                await session.submit(next(posters(1)))
            with contextlib.suppress(rh.JournalError) if lost else contextlib.nullcontext():
                await session.aclose()

    asyncio.run(main())
    assert service.submitted.total() == (0 if lost else 1)


def test_a_lease_that_cannot_be_given_back_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The session has ended well all the same; the next one may have to take the journal over."""
    journal = tmp_path / "run.db"

    def edit() -> None:
        with contextlib.closing(sqlite3.connect(journal)) as db, db:
            db.execute(
                "CREATE TRIGGER full BEFORE DELETE ON lease"
                " BEGIN SELECT RAISE(ABORT, 'the disk is full'); END"
            )

    async def main() -> None:
        async with Service(5.0).session(journal=journal) as session:
            await session.submit(next(posters(1)))
            await asyncio.to_thread(edit)

    run(main)
    assert f"{journal}: the lease was not released: the disk is full" in caplog.text
    with pytest.raises(rh.JournalBusy):
        opened(journal)


def test_a_journal_is_of_one_service(tmp_path: Path) -> None:
    """Its tasks are not asked for at another one; any port of this machine is a stand-in."""
    journal = tmp_path / "run.db"

    async def opens(*urls: str) -> None:
        for url in urls:
            store = rh.SqliteJobStore(journal)
            await store.open(url)
            await store.aclose()

    asyncio.run(opens("https://service.example", "https://service.example"))
    with pytest.raises(
        rh.JournalError, match=r"belongs to jobs at https://service\.example, not https"
    ):
        asyncio.run(opens("https://other.example"))
    journal.unlink()
    asyncio.run(opens("http://127.0.0.1:8001", "http://localhost:8002", "http://[::1]:8003/x"))


def test_a_store_that_is_not_open_says_so(tmp_path: Path) -> None:
    """To close it is no mistake."""
    store = rh.SqliteJobStore(tmp_path / "run.db")

    async def main() -> None:
        await store.aclose()
        for _ in range(2):
            with pytest.raises(rh.JournalError, match="is not open"):
                await store.find(["a key"])
            await store.open("https://service.example")
            assert await store.find(["a key"]) == {}
            await store.aclose()

    asyncio.run(main())
