"""The files of a journal are moved or deleted while a session has it open: nothing more is
submitted, and a later run does not pay again without saying so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import Service, posters

import runninghub_async as rh
from runninghub_async.testing import run

#: A file that is open cannot be deleted or moved there.
pytestmark = pytest.mark.skipif(os.name != "posix", reason="files that are open are locked")

JOBS = 40


async def collect(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


class Disturbed(Service):
    """A service that damages the journal during the fifth submit."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(5.0)
        self._act: Callable[[], None] | None = act

    async def _answer(self, request: rh.Request) -> rh.Response:
        if len(self.created) >= 5 and self._act is not None:
            act, self._act = self._act, None
            await asyncio.to_thread(act)
        return await super()._answer(request)


def streamed(service: Service, journal: Path) -> list[Any]:
    async def main() -> list[Any]:
        async with service.session(journal=journal, limits=rh.Limits(2, None, None)) as session:
            return await collect(session.stream(posters(JOBS)))

    return run(main)


def deleted(journal: Path) -> None:
    journal.unlink()


def all_deleted(journal: Path) -> None:
    for path in journal.parent.iterdir():
        path.unlink()


def moved(journal: Path) -> None:
    journal.rename(journal.with_name("elsewhere.db"))


def without_log(journal: Path) -> None:
    Path(f"{journal}-wal").unlink()


def without_log_and_index(journal: Path) -> None:
    Path(f"{journal}-wal").unlink()
    Path(f"{journal}-shm").unlink()


def emptied(journal: Path) -> None:
    os.truncate(journal, 0)


def cut(journal: Path) -> None:
    os.truncate(journal, journal.stat().st_size // 2)


def with_empty_log(journal: Path) -> None:
    os.truncate(f"{journal}-wal", 0)


def with_blank_log(journal: Path) -> None:
    """What is left once SQLite has written behind the end of a log that was emptied."""
    with Path(f"{journal}-wal").open("r+b") as log:
        log.write(bytes(32))


def replaced_by_a_copy(journal: Path) -> None:
    copy = journal.with_name("copy")
    shutil.copy(journal, copy)
    copy.replace(journal)


def replaced_by_an_empty_file(journal: Path) -> None:
    copy = journal.with_name("copy")
    copy.touch()
    copy.replace(journal)


def written_over(journal: Path) -> None:
    with contextlib.closing(sqlite3.connect(journal.with_name("other"))) as other:
        other.execute("CREATE TABLE other (x)")
        other.execute("INSERT INTO other VALUES (randomblob(100000))")
        other.commit()
    journal.write_bytes(journal.with_name("other").read_bytes())


#: What is done to the files, what the first run says of it, and what a run that is started after
#: it can do: go on, or refuse.
DONE = [
    (deleted, "deleted or moved", "refuses"),
    (moved, "deleted or moved", "refuses"),
    (emptied, "cut short", "refuses"),
    (cut, "cut short", "refuses"),
    (written_over, "written over|cut short", "refuses"),
    (replaced_by_an_empty_file, "replaced by another file", "refuses"),
    (replaced_by_a_copy, "replaced by another file", "goes on"),
    (without_log, "lost its log", "goes on"),
    (without_log_and_index, "lost its log", "goes on"),
    (with_empty_log, "lost its log", "refuses"),
    (with_blank_log, "lost its log.*emptied", "refuses"),
    (all_deleted, "deleted or moved", "is new"),
]


@pytest.mark.parametrize(("act", "told", "next_run"), DONE)
def test_a_journal_whose_files_are_taken_away_ends_the_submitting(
    act: Callable[[Path], None],
    told: str,
    next_run: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With one error that says what happened; the tasks that run are named."""
    journal = tmp_path / "run.db"
    service = Disturbed(lambda: act(journal))
    with pytest.raises(rh.JournalError, match=told) as caught:
        streamed(service, journal)
    assert str(journal) in str(caught.value)
    # The jobs under way at that moment and those recorded before; far from all.
    assert len(service.created) < JOBS / 2
    assert "its files were deleted, moved or replaced" in caplog.text
    first = dict(service.submitted)
    # Its owner is this process, which lives on.
    next_store = rh.SqliteJobStore(journal, take_over=True)
    if next_run == "refuses":
        with pytest.raises(rh.JournalError):
            streamed_with(service, next_store)
        assert dict(service.submitted) == first
    elif next_run == "goes on":
        assert len(streamed_with(service, next_store)) == JOBS
        assert set(service.submitted.values()) == {1}
    else:
        # Nothing is left that records the first run.
        assert len(streamed_with(service, next_store)) == JOBS


def streamed_with(service: Service, store: rh.SqliteJobStore) -> list[Any]:
    async def main() -> list[Any]:
        async with service.session(journal=store, limits=rh.Limits(8, None, None)) as session:
            return await collect(session.stream(posters(JOBS)))

    return run(main)


def test_an_end_of_the_first_run_leaves_the_files_of_the_next_one_alone(tmp_path: Path) -> None:
    """SQLite deletes the log by its name when the last connection closes: by then it may be the
    log of another process."""
    journal = tmp_path / "run.db"

    async def main() -> None:
        first = service.session(journal=journal)
        await first.__aenter__()
        await first.submit(next(posters(1)))
        await asyncio.to_thread(all_deleted, journal)
        async with service.session(journal=journal) as second:
            await second.submit(next(posters(1)))
            before = await asyncio.to_thread(lambda: sorted(tmp_path.iterdir()))
            with contextlib.suppress(rh.JournalError):
                await first.aclose()
            assert await asyncio.to_thread(lambda: sorted(tmp_path.iterdir())) == before
            assert (await second.submit(next(posters(1)))).id in service.created

    service = Service(5.0)
    run(main)


def test_a_journal_that_is_only_touched_or_read_goes_on(tmp_path: Path) -> None:
    """What backups, readers and file managers do does not stop the run."""
    journal = tmp_path / "run.db"

    def harmless() -> None:
        os.utime(journal)
        os.utime(f"{journal}-wal")
        shutil.copy(journal, tmp_path / "copy.db")
        journal.chmod(0o640)
        with contextlib.closing(sqlite3.connect(journal)) as db:
            with contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as copy:
                db.backup(copy)
        with rh.JournalReader(journal) as reader:
            reader.summary()

    assert len(streamed(Disturbed(harmless), journal)) == JOBS


def test_a_copy_made_by_sqlite_can_be_resumed(tmp_path: Path) -> None:
    """Its log is not beside it, and is not needed."""
    journal = tmp_path / "run.db"

    def copy() -> None:
        with contextlib.closing(sqlite3.connect(journal)) as db:
            with contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as target:
                db.backup(target)

    service = Disturbed(copy)
    streamed(service, journal)
    store = rh.SqliteJobStore(tmp_path / "backup.db", take_over=True)
    assert len(streamed_with(service, store)) == JOBS


def killed(service: Service, journal: Path, where: Path) -> None:
    """Write to `where` the files of a process that was killed in the middle of a run."""
    where.mkdir()

    def copy() -> None:
        for path in list(journal.parent.glob("run.db*")):
            shutil.copy(path, where)

    async def main() -> None:
        async with service.session(journal=journal) as session:
            await collect(session.stream(posters(6)))
            await asyncio.to_thread(copy)

    run(main)
    # As if it had been written there: a copy has another number, which tells it from the original.
    with contextlib.closing(sqlite3.connect(where / "run.db")) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("UPDATE lease SET file = ?", (str((where / "run.db").stat().st_ino),))
        db.commit()
        for path in list(where.glob("run.db*")):
            shutil.copy(path, path.with_name(path.name + ".kept"))
    for path in list(where.glob("*.kept")):
        (where / path.name.removesuffix(".kept")).write_bytes(path.read_bytes())
        path.unlink()


def test_a_log_that_is_deleted_after_a_crash_is_missed(tmp_path: Path) -> None:
    """The files that look like litter hold the last jobs."""
    service = Service(5.0)
    killed(service, tmp_path / "run.db", tmp_path / "left")
    journal = tmp_path / "left" / "run.db"
    Path(f"{journal}-wal").unlink()
    # What the file alone holds is from before the jobs.
    with contextlib.closing(sqlite3.connect(journal)) as db:
        db.execute("UPDATE lease SET file = ?", (str(journal.stat().st_ino),))
        db.commit()
    with pytest.raises(rh.JournalError, match="was deleted after its last process had died"):
        streamed_with(service, rh.SqliteJobStore(journal, take_over=True))
    assert set(service.submitted.values()) == {1}
    assert (
        len(streamed_with(service, rh.SqliteJobStore(journal, take_over=True, repair=True))) == JOBS
    )


@pytest.mark.parametrize("where", ["kind", "header", "middle"])
def test_a_damaged_log_is_left_as_it_is_and_refused_again(where: str, tmp_path: Path) -> None:
    """SQLite would delete it at the end of the first try, and the second would pay again."""
    service = Service(5.0)
    killed(service, tmp_path / "run.db", tmp_path / "left")
    journal = tmp_path / "left" / "run.db"
    log = Path(f"{journal}-wal")
    damaged = bytearray(log.read_bytes())
    damaged[{"kind": 0, "header": 20, "middle": len(damaged) // 3}[where]] ^= 1
    log.write_bytes(damaged)
    for _ in range(3):
        with pytest.raises(rh.JournalError, match="is damaged"):
            streamed_with(service, rh.SqliteJobStore(journal, take_over=True))
        assert log.read_bytes() == damaged
    assert set(service.submitted.values()) == {1}


PAGE = 4096

#: Writes six jobs whose tasks run on, and is killed in the middle.
KILLED = """
import asyncio, os, signal, sys
import runninghub_async as rh
from runninghub_async.testing import run
from support import Service, posters

async def main():
    async with Service(5.0).session(journal=sys.argv[1]) as session:
        async for _ in session.stream(posters(6)):
            os.kill(os.getpid(), signal.SIGKILL)

run(main)
"""


def really_killed(journal: Path) -> Path:
    """Have a process that writes `journal` killed; return the log it leaves."""
    here = [str(Path(__file__).parent), str(Path(rh.__file__).parent.parent)]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(journal)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(here)},
        check=False,
        capture_output=True,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    return Path(f"{journal}-wal")


def cut_at_half(log: bytes) -> bytes:
    return log[: len(log) // 2]


def cut_between_frames(log: bytes) -> bytes:
    step = 24 + PAGE
    return log[: 32 + (len(log) - 32) // step // 2 * step]


def cut_behind_its_header(log: bytes) -> bytes:
    return log[:32]


def with_a_blank_end(log: bytes) -> bytes:
    left = cut_between_frames(log)
    return left + bytes(len(log) - len(left))


def blank_from_the_middle_of_a_frame(log: bytes) -> bytes:
    half = len(log) // 2
    return log[:half] + bytes(len(log) - half)


@pytest.mark.parametrize(
    "damage",
    [
        cut_at_half,
        cut_between_frames,
        cut_behind_its_header,
        with_a_blank_end,
        blank_from_the_middle_of_a_frame,
    ],
)
def test_a_log_that_lost_its_end_after_a_crash_is_refused(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """Its index still counts what was in it, also at the second try."""
    journal = tmp_path / "run.db"
    log = really_killed(journal)
    damaged = damage(log.read_bytes())
    log.write_bytes(damaged)
    service = Service(5.0)
    for _ in range(2):
        with pytest.raises(rh.JournalError, match="is damaged"):
            streamed_with(service, rh.SqliteJobStore(journal))
        assert log.read_bytes() == damaged
        # SQLite would repair the index for a reader, too, and nothing would be missing then.
        with pytest.raises(rh.JournalError, match="is damaged"):
            rh.JournalReader(journal)
    assert not service.submitted


@pytest.mark.parametrize("log", [None, b"", bytes(100)])
def test_a_copy_whose_log_was_left_behind_is_refused(log: bytes | None, tmp_path: Path) -> None:
    """The index that was copied counts what is missing."""
    left, journal = tmp_path / "left", tmp_path / "run.db"
    left.mkdir()
    really_killed(left / "run.db")
    for name in ("run.db", "run.db-shm"):
        shutil.copy(left / name, tmp_path / name)
    if log is not None:
        Path(f"{journal}-wal").write_bytes(log)
    service = Service(5.0)
    with pytest.raises(rh.JournalError, match="is damaged"):
        streamed_with(service, rh.SqliteJobStore(journal))
    with pytest.raises(rh.JournalError, match="is damaged"):
        rh.JournalReader(journal)
    assert not service.submitted


def test_a_log_of_a_killed_process_is_read_on(tmp_path: Path) -> None:
    """Its index counts what is in it; a reader sees its jobs as well."""
    journal = tmp_path / "run.db"
    really_killed(journal)
    with rh.JournalReader(journal) as reader:
        assert sum(reader.summary().states.values()) > 0

    async def main() -> None:
        async with Service(5.0).session(journal=journal):
            pass

    run(main)


def test_a_last_entry_that_is_not_whole_counts_as_never_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As after a power failure: a warning says so, and all that came before it is there."""
    service = Service(5.0)
    killed(service, tmp_path / "run.db", tmp_path / "left")
    journal = tmp_path / "left" / "run.db"
    log = Path(f"{journal}-wal")
    log.write_bytes(log.read_bytes()[:-1] + b"?")
    # The index counts no entry that is not on the disk.
    Path(f"{journal}-shm").unlink()
    assert len(streamed_with(service, rh.SqliteJobStore(journal, take_over=True))) == JOBS
    assert "the last entry of its log is not whole" in caplog.text
    assert set(service.submitted.values()) == {1}


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    """The error says so, instead of calling the folder damaged."""
    with pytest.raises(rh.JournalError, match="cannot be opened: Is a directory"):
        streamed(Service(5.0), tmp_path)


def test_a_long_log_is_worked_into_the_file_while_it_is_open(tmp_path: Path) -> None:
    """So that it does not grow for as long as a session lives, and a copy of the file alone has
    nearly all."""
    journal = tmp_path / "run.db"

    async def main() -> bytes:
        store = rh.SqliteJobStore(journal)
        await store.open("https://service.example")
        for number in range(200):
            await store.put({"last": f"fact {number}"})
        content = await asyncio.to_thread(journal.read_bytes)
        await store.aclose()
        return content

    found = asyncio.run(main())
    assert b"fact 1" in found
    assert b"fact 199" not in found


def test_a_log_that_was_being_begun_anew_is_not_missed(tmp_path: Path) -> None:
    """A process that is killed in that moment leaves a log with a new header and old entries."""
    service = Service(5.0)
    killed(service, tmp_path / "run.db", tmp_path / "left")
    journal = tmp_path / "left" / "run.db"
    log = Path(f"{journal}-wal")
    with contextlib.closing(sqlite3.connect(journal)) as db:
        db.execute("UPDATE lease SET logged = 0, file = ?", (str(journal.stat().st_ino),))
        db.commit()
        db.execute("PRAGMA wal_checkpoint").fetchall()
        before = log.read_bytes()
        db.execute("UPDATE lease SET logged = 1")
        db.commit()
        after = log.read_bytes()
        assert after[:32] != before[:32]
        worked_in = journal.read_bytes()
    journal.write_bytes(worked_in)
    log.write_bytes(after[:32] + before[32:])
    assert len(streamed_with(service, rh.SqliteJobStore(journal, take_over=True))) == JOBS
    assert set(service.submitted.values()) == {1}


def test_a_log_that_another_program_worked_in_is_not_missed(tmp_path: Path) -> None:
    """A reader of a journal after a crash leaves it whole."""
    service = Service(5.0)
    killed(service, tmp_path / "run.db", tmp_path / "left")
    journal = tmp_path / "left" / "run.db"
    with contextlib.closing(sqlite3.connect(journal)) as db:
        assert db.execute("SELECT count(*) FROM jobs").fetchone() == (6,)
    assert not Path(f"{journal}-wal").exists()
    assert len(streamed_with(service, rh.SqliteJobStore(journal, take_over=True))) == JOBS
    assert set(service.submitted.values()) == {1}


@pytest.mark.parametrize("left", ["-wal", "-shm"])
@pytest.mark.parametrize("empty", [False, True])
def test_what_is_left_of_a_journal_is_not_begun_anew(
    left: str, empty: bool, tmp_path: Path
) -> None:
    """Missing or empty: the user decides. An empty file without the others is a new journal."""
    service, journal = Service(5.0), tmp_path / "run.db"
    Path(f"{journal}{left}").write_bytes(b"left")
    if empty:
        journal.touch()
    with pytest.raises(rh.JournalError, match=f"run.db{left} of a journal at this place"):
        streamed(service, journal)
    assert not service.submitted
    assert journal.exists() == empty
    Path(f"{journal}{left}").unlink()
    assert len(streamed(service, journal)) == JOBS
