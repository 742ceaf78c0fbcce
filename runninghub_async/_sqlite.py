"""A journal in one SQLite file: write-ahead log, one thread that owns the connection, and one
commit for all that came while the last one was on its way to the disk.

`synchronous=FULL`: what is committed survives a power cut. In WAL mode `NORMAL` would lose the
last commits, and a lost row may be a paid submit.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import math
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, TypeVar

import attrs

from . import _rows
from ._exceptions import JournalBusy, JournalError
from ._inspection import inspect, recount
from ._journal import Begun, JobRecord, Moved
from ._journal_file import JournalFile, create, is_begun_anew, is_log_cut, log_lost, lost_commits
from ._log import logger_of
from ._migrations import OLDEST, steps_from
from ._owner import LEASE, Owner
from ._scheduler import MOST_SUBMITTING
from ._schema import (
    APPLICATION,
    COLUMNS,
    DAMAGED,
    SCHEMA,
    VERSION,
    Page,
    connect,
    fact_rows,
    facts_of,
    fetch,
    lease_of,
    of_state,
    read_page,
    record_or_damage,
    totals_in,
)
from ._shielded import wait_out
from ._states import JobState

__all__ = ["SqliteJobStore"]

logger = logger_of("runninghub_async.trouble")

_T = TypeVar("_T")

#: Those who wait for a row to be on disk before they send.
_Waiting = list[tuple[str, asyncio.Future[str | None]]]

#: How long a write may wait for company, in seconds: one that somebody waits for, or that holds a
#: paid task's id, and one that only saves a query after a crash.
_SOON: Final = 0.002
_LATER: Final = 0.2

#: Seconds from one write to the next, at least: most of what a commit costs it costs however few
#: rows there are in it. For so long, and while the write before goes on, the id of a paid task may
#: be in memory alone; its submit was at risk, too, while the answer was on its way.
_PACE: Final = 0.1

#: With so many waiting nearly all callers are there, so the commit starts.
_MANY: Final = MOST_SUBMITTING - 4

#: How long it may take until it is written that a task was seen running, in seconds. That only
#: tells who looks on; and often the task has ended by then, and one write tells both.
_SEEN: Final = 1.0

#: How soon a write that failed is tried again, and how often that is said, in seconds.
_AGAIN: Final = 1.0
_TOLD_EVERY: Final = 60.0

#: How long a session that closes waits for a disk that takes nothing, in seconds.
_LAST_TRY: Final = 5.0

#: After so many commits the log is checkpointed: rarely, since most pages change again soon.
_CHECKPOINT: Final = 150

#: The most jobs of one content that are found at once.
_EQUAL_MAX: Final = 100

#: How many tasks a warning names.
_NAMED_MAX: Final = 1000

#: If this is set to 1, a journal is opened whatever process has it.
_TAKE_OVER: Final = "RUNNINGHUB_JOURNAL_TAKE_OVER"

#: The first schema in which the lease says which file it is of.
_WITH_FILE: Final = 2

_CONTENTS: Final = "CREATE INDEX IF NOT EXISTS jobs_of_content ON jobs (content)"


class _Lost(JournalError):
    """Nothing more can be written: the journal is closed, or another process has it."""


class SqliteJobStore:
    """A journal in the file `path`, which is created if it is missing, readable by its owner only.

    `lease`: seconds after which a process that has not been heard of counts as dead, where this
    machine cannot tell: on another machine, in another container, or without `/proc`. `take_over`:
    open the journal whatever process has it, if that process is dead but counts as alive; the
    environment variable `RUNNINGHUB_JOURNAL_TAKE_OVER=1` does the same. If that process lives after
    all, it notices and submits nothing more. `repair`: continue with a damaged journal, from which
    jobs may be missing, and recount its rows.

    A write that fails, as on a full disk, is tried again every second, and nothing is submitted
    meanwhile; warnings of the logger `runninghub_async.trouble` say so. A journal that is deleted,
    moved or replaced while it is open submits nothing more.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        lease: float = LEASE,
        take_over: bool = False,
        repair: bool = False,
    ) -> None:
        self.path = os.fspath(path)
        self._take_over = take_over or os.environ.get(_TAKE_OVER, "") not in ("", "0")
        self._repair = repair
        self.identity = ""
        self.secret = b""
        self._lease = lease
        self._owner: Owner | None = None
        self._renewed = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._db: sqlite3.Connection | None = None
        self._file: JournalFile | None = None
        #: Its files now belong to another journal and must not be touched when it is closed.
        self._abandoned = False
        #: Commits since the last checkpoint.
        self._commits = 0
        self._batch: list[Begun | Moved] = []
        self._waiting: _Waiting = []
        #: Jobs that were seen running, which is not in the batch yet.
        self._seen: dict[str, Moved] = {}
        #: Batches that the thread was handed, and those of them that it is done with.
        self._sent = 0
        self._done = 0
        self._timer: asyncio.TimerHandle | None = None
        #: When it is due, by the loop's clock: not every loop's timer handle has that.
        self._due = math.inf
        #: The delay after which a write is arranged for; infinite if none is, and 0 while one is
        #: under way, after which more is looked for.
        self._arranged = math.inf
        self._seen_timer: asyncio.TimerHandle | None = None
        #: When the next batch may go, by the loop's clock.
        self._next = 0.0
        self._written: asyncio.Event | None = None
        self._error: JournalError | None = None
        #: Set when a thread that keeps trying to write should stop that.
        self._hopeless = threading.Event()
        self._parked = False
        self._lost_named = False

    # -- opening and closing ------------------------------------------------------------------

    async def open(self, base_url: str) -> None:
        """See `JobStore.open`."""
        self._loop = asyncio.get_running_loop()
        self._written = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="runninghub_async journal")
        # What is committed is safe; a program that forgets to close must not hang at its end.
        self._thread.daemon = True
        self._thread.start()
        self._error = None
        self._lost_named = False
        self._hopeless.clear()
        try:
            await self._do(functools.partial(self._open, base_url))
        except BaseException:
            # It may have been opened after its caller had left.
            await self._stop()
            raise

    async def aclose(self) -> None:
        """See `JobStore.aclose`."""
        if self._thread is None or self._loop is None:
            return
        late = self._loop.call_later(_LAST_TRY, self._hopeless.set)
        try:
            while self._batch or self._seen or self._done < self._sent:
                self._take_seen()
                self._send()
                await self.flush()
        finally:
            late.cancel()
            self._hopeless.set()
            await self._stop()

    async def _stop(self) -> None:
        """Close, and end the thread, even if the caller is cancelled meanwhile: another session may
        be waiting for the journal."""
        assert self._loop is not None
        # Every later call gets this error.
        self._error = self._error or _Lost("is closed", self.path)
        for timer in (self._timer, self._seen_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._seen_timer = None
        closed = self._loop.create_future()
        self._work.put(lambda: self._end(closed))
        self._work.put(None)
        self._thread = None
        await wait_out([closed])
        self._forget(self._error)

    def _forget(self, error: JournalError) -> None:
        """Nothing more will be written, until it is opened again; say so to those who wait."""
        for _, future in self._waiting:
            _fail(future, error)
        self._batch, self._waiting = [], []
        self._seen.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._arranged, self._next = None, math.inf, 0.0
        self._sent = self._done = 0

    def _end(self, closed: asyncio.Future[None]) -> None:
        assert self._loop is not None
        try:
            self._close()
        finally:
            _tell(self._loop, _fulfil, closed, None)

    def _open(self, base_url: str) -> None:
        self._owner = Owner.here()
        self._abandoned = False
        try:
            self.path = os.path.abspath(self.path)  # noqa: PTH100 - text, for messages and SQLite
            create(self.path)
            has_log = os.path.exists(f"{self.path}-wal")  # noqa: PTH110 - text, as above
            # Before SQLite counts what is left, also for the next run.
            if not self._repair and is_log_cut(self.path):
                raise self._log_lost("is damaged")
            db = connect(self.path)
        except (OSError, sqlite3.Error) as error:
            text = getattr(error, "strerror", None) or str(error)
            raise JournalError(f"cannot be opened: {text}", self.path) from error
        prepared = False
        try:
            with _translated(self.path):
                self._prepare(db)
                prepared = True
                self._take(db, base_url)
        except BaseException:
            if prepared:
                with contextlib.suppress(sqlite3.Error):
                    self._give_back_lease(db)
                db.close()
            elif has_log:
                _close_untouched(db, self.path)
            else:
                db.close()
            if self._file is not None:
                self._file.close()
                self._file = None
            raise
        self._db = db

    def _prepare(self, db: sqlite3.Connection) -> None:
        application, version = _pragma(db, "application_id"), _pragma(db, "user_version")
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if tables and application != APPLICATION:
            raise JournalError("is not a journal of this package", self.path)
        if tables and version > VERSION:
            raise JournalError(
                f"has the schema {version}, and this version of the package knows {VERSION}:"
                " it was written by a newer one. Use that one, or a newer one",
                self.path,
            )
        if tables and version < OLDEST:
            raise JournalError(f"is damaged: no version writes the schema {version}", self.path)
        if tables:
            self._refuse_if_busy(lease_of(db, self.path), time.time())
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        # `_checkpoint` copies the log into the file.
        db.execute("PRAGMA wal_autocheckpoint = 0")
        if tables:
            _, frames, _ = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._refuse_if_log_lost(db, frames)

    def _refuse_if_log_lost(self, db: sqlite3.Connection, frames: int) -> None:
        """Check the log: a process that died left its last commits there, and without them jobs are
        missing."""
        if self._repair:
            return
        lost = lost_commits(self.path, frames)
        # One may be a commit that was not on the disk when the power failed: nothing was sent.
        if lost < 0 or lost > 1:
            what = "is damaged"
        elif not frames and self._log_is_missing(db) and not is_begun_anew(self.path):
            what = "was deleted after its last process had died"
        else:
            if lost:
                logger.warning(
                    "%s: the last entry of its log is not whole, as after a power failure. A"
                    " request in it counts as never sent, and is submitted again",
                    self.path,
                )
            return
        raise self._log_lost(what)

    def _log_lost(self, what: str) -> JournalError:
        remedy = ", or continue without it with SqliteJobStore(path, repair=True)"
        return log_lost(self.path, what, remedy)

    def _log_is_missing(self, db: sqlite3.Connection) -> bool:
        if _pragma(db, "user_version") < _WITH_FILE:
            return False
        row = db.execute("SELECT file FROM lease WHERE logged = 0").fetchone()
        return row is not None and row[0] == str(os.stat(self.path).st_ino)  # noqa: PTH116

    def _take(self, db: sqlite3.Connection, base_url: str) -> None:
        now = time.time()
        with _transaction(db):
            if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                _make(db, base_url)
            self._refuse_if_busy(lease_of(db, self.path), now)
            settings = self._settings_of(db)
            # Checked before anything is written.
            facts_of(db, self.path)
            self._refuse_if_of_another(settings["base_url"], base_url)
            self._renew(db, now)
        for step in steps_from(_pragma(db, "user_version")):
            with _transaction(db):
                self._refuse_if_lost(db)
                step.change(db)
                db.execute(f"PRAGMA user_version = {step.number}")
        if self._repair:
            with _transaction(db):
                recount(db, self.path)
        inspect(db, self.path, os.stat(self.path).st_size)  # noqa: PTH116
        self._file = JournalFile(self.path)
        with _transaction(db):
            self._refuse_if_lost(db)
            _rows.settle_left(db, now)
            self._parked = _rows.find_parked(db) > 0
        self._checkpoint(db, self._file)
        self.identity, self.secret = settings["identity"], bytes.fromhex(settings["secret"])
        self._renewed = now

    def _settings_of(self, db: sqlite3.Connection) -> dict[str, str]:
        """The settings that the journal holds. Raises `JournalError` if they are damaged."""
        settings = dict(fetch(db, "SELECT name, value FROM meta", (), self.path))
        for name in ("identity", "secret", "base_url"):
            if not isinstance(settings.get(name), str) or not settings[name]:
                raise JournalError(f"is damaged: table meta: {name} is missing", self.path)
        try:
            bytes.fromhex(settings["secret"])
        except ValueError:
            raise JournalError("is damaged: table meta: secret is invalid", self.path) from None
        return settings

    def _checkpoint(self, db: sqlite3.Connection, file: JournalFile) -> None:
        """Checkpoint the log. From here on the file alone says that its log is missing; the record
        that it exists is in the log."""
        self._commits = 0
        with _transaction(db):
            db.execute("UPDATE lease SET logged = 0, file = ?", (file.number,))
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        with _transaction(db):
            db.execute("UPDATE lease SET logged = 1")
        file.written(checkpoint=True)

    def _refuse_if_busy(self, before: tuple[Owner, float] | None, now: float) -> None:
        if before is None or self._take_over or not before[0].lives(before[1], now, self._lease):
            return
        owner, renewed = before
        raise JournalBusy(
            f"is in use by {owner}, which was last heard of {max(0.0, now - renewed):.0f} s ago."
            " If that process is dead, open it with SqliteJobStore(path, take_over=True), or set"
            f" {_TAKE_OVER}=1",
            self.path,
        )

    def _refuse_if_of_another(self, told: str, base_url: str) -> None:
        if not _same_service(told, base_url):
            raise JournalError(f"belongs to jobs at {told}, not {base_url}", self.path)

    def _refuse_if_lost(self, db: sqlite3.Connection) -> None:
        held = db.execute("SELECT name FROM lease").fetchone()
        if held is None or self._owner is None or held[0] != self._owner.name:
            raise _Lost("was taken over by another process", self.path)

    def _refuse_if_moved(self, db: sqlite3.Connection) -> None:
        """Raise `JournalError` if the files have changed: writes into a file that was moved are
        lost."""
        if self._file is None or not (fault := self._file.fault()):
            return
        tasks = ""
        if not self._abandoned:
            tasks = self._rescue(db, self._file)
        raise _Lost(
            f"{fault}: nothing more is submitted. Tasks that run are still waited for; their ids"
            f" are in the log of this program{tasks}. Bring the file back before the next run,"
            " which would otherwise pay for the same requests again",
            self.path,
        )

    def _rescue(self, db: sqlite3.Connection, file: JournalFile) -> str:
        """Save what can be saved of a journal whose files were moved or deleted: log its tasks, and
        checkpoint the log into the file, wherever that is now."""
        self._abandoned = True
        ids: list[str] = []
        with contextlib.suppress(sqlite3.Error):
            query = (
                "SELECT task_id FROM jobs WHERE open = 1 AND task_id IS NOT NULL"
                f" ORDER BY seq LIMIT {_NAMED_MAX}"
            )
            ids = [str(task_id) for (task_id,) in db.execute(query)]
        logger.error(
            "%s: its files were deleted, moved or replaced; %d tasks still run: %s",
            self.path,
            len(ids),
            " ".join(ids),
        )
        if file.only_log_lost or file.is_gone():
            with contextlib.suppress(sqlite3.Error):
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return f" ({len(ids)} tasks)"

    def _renew(self, db: sqlite3.Connection, now: float) -> None:
        mine = self._owner
        assert mine is not None
        db.execute(
            "INSERT INTO lease (one, name, pid, host, started, renewed) VALUES (1, ?, ?, ?, ?, ?)"
            " ON CONFLICT (one) DO UPDATE SET name = excluded.name, pid = excluded.pid,"
            " host = excluded.host, started = excluded.started, renewed = excluded.renewed",
            (mine.name, mine.pid, mine.host, mine.started, now),
        )

    def _give_back_lease(self, db: sqlite3.Connection) -> None:
        if self._owner is not None:
            db.execute("DELETE FROM lease WHERE name = ?", (self._owner.name,))

    def _close(self) -> None:
        if self._db is None:
            return
        db, self._db = self._db, None
        if self._file is not None:
            self._abandoned = self._abandoned or bool(self._file.fault())
            self._file.close()
            self._file = None
        if self._abandoned:
            _leave_open(db)
            return
        try:
            self._give_back_lease(db)
        except sqlite3.Error as error:
            logger.warning("%s: the lease was not released: %s", self.path, error)
        db.close()

    # -- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=self._lease / 3)
            except queue.Empty:
                self._keep_lease()
                continue
            if work is None:
                return
            work()
            if self._is_lease_due(time.time()):
                self._keep_lease()

    def _is_lease_due(self, now: float) -> bool:
        # This also holds if the clock was set back.
        return abs(now - self._renewed) > self._lease / 3

    def _keep_lease(self) -> None:
        if self._db is None:
            return
        try:
            self._transact(self._db, lambda _: None)
        except _Lost as error:
            logger.warning("the lease was not renewed: %s", error)
            if self._loop is not None:
                _tell(self._loop, self._on_lost, error)
        except (sqlite3.Error, JournalError) as error:
            logger.warning("%s: the lease was not renewed: %s", self.path, error)

    def _on_lost(self, error: JournalError) -> None:
        self._error = self._error or error

    def _transact(self, db: sqlite3.Connection, change: Callable[[sqlite3.Connection], _T]) -> _T:
        """Make a change in one transaction, if the journal is still ours, and at its place."""
        self._refuse_if_moved(db)
        with _transaction(db):
            self._refuse_if_lost(db)
            now = time.time()
            renews = self._is_lease_due(now)
            if renews:
                self._renew(db, now)
            result = change(db)
        if renews:
            self._renewed = now
        if self._file is not None:
            self._file.written()
            self._commits += 1
            if self._commits >= _CHECKPOINT:
                # It is tried again with the next commit; the change itself is on disk.
                with contextlib.suppress(sqlite3.Error):
                    self._checkpoint(db, self._file)
        return result

    def _persist(self, change: Callable[[sqlite3.Connection], _T]) -> _T:
        """The same, for as long as it takes: what a full disk does not take now it may later."""
        told = -_TOLD_EVERY
        while True:
            if self._db is None:
                raise _Lost("is closed", self.path)
            try:
                result = self._transact(self._db, change)
            except sqlite3.OperationalError as error:
                if self._hopeless.is_set() or str(error).startswith("no such"):
                    raise _Lost(f"cannot be written: {error}", self.path) from error
                if time.monotonic() - told >= _TOLD_EVERY:
                    told = time.monotonic()
                    logger.warning(
                        "%s cannot be written: %s; nothing is submitted until it can",
                        self.path,
                        error,
                    )
                self._hopeless.wait(_AGAIN)
            except (JournalError, _rows.Otherwise):
                raise
            except Exception as error:
                # A value that no data base takes, or one that is broken.
                raise JournalError(f"cannot be written: {error!r}", self.path) from error
            else:
                if told > 0:
                    logger.warning("%s can be written again", self.path)
                return result

    async def _do(self, work: Callable[[], _T]) -> _T:
        """Run `work` in the thread, after all that was noted before."""
        self._take_seen()
        self._send(behind=True)
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            raise JournalError("is not open", self.path)
        done: asyncio.Future[_T] = loop.create_future()

        def run() -> None:
            try:
                result = work()
            except BaseException as error:
                _tell(loop, _fail, done, error)
            else:
                _tell(loop, _fulfil, done, result)

        self._work.put(run)
        return await done

    async def _change(self, change: Callable[[sqlite3.Connection], _T]) -> _T:
        return await self._do(lambda: self._persist(change))

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            raise JournalError("is closed", self.path)
        return self._db

    async def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        return await self._do(lambda: fetch(self._opened(), query, values, self.path))

    async def _read_records(self, query: str, values: Sequence[Any]) -> list[JobRecord]:
        """Jobs, made of their rows in the thread: one may hold megabytes."""

        def read() -> list[JobRecord]:
            rows = fetch(self._opened(), query, values, self.path)
            return [record_or_damage(row, self.path) for row in rows]

        return await self._do(read)

    # -- writing ------------------------------------------------------------------------------

    async def begin(self, job: Begun) -> str | None:
        """See `JobStore.begin`."""
        if self._error is not None:
            raise self._error
        assert self._loop is not None
        done: asyncio.Future[str | None] = self._loop.create_future()
        self._batch.append(job)
        self._waiting.append((job.key, done))
        if self._arranged > _SOON or len(self._waiting) >= _MANY:
            self._schedule(_SOON)
        return await done

    def note(self, move: Begun | Moved) -> None:
        """See `JobStore.note`."""
        if isinstance(move, Moved):
            if move.state is JobState.RUNNING and not move.facts:
                self._note_seen(move)
                return
            if self._seen and (seen := self._seen.pop(move.key, None)) is not None:
                move = move._replace(old=seen.old)
        self._batch.append(move)
        delay = _SOON if move.state is JobState.ACCEPTED else _LATER
        if delay < self._arranged:
            self._schedule(delay)

    def _note_seen(self, move: Moved) -> None:
        self._seen[move.key] = move
        if self._seen_timer is None and self._loop is not None:
            self._seen_timer = self._loop.call_later(_SEEN, self._take_seen)

    def _take_seen(self) -> None:
        """Nothing else has happened to these jobs since: write that they run."""
        if self._seen_timer is not None:
            self._seen_timer.cancel()
            self._seen_timer = None
        if self._seen:
            self._batch += self._seen.values()
            self._seen.clear()
            self._schedule(_LATER)

    async def flush(self) -> None:
        """See `JobStore.flush`."""
        assert self._written is not None
        self._take_seen()
        # No later one: while others go on writing there always is one more.
        last = self._sent + bool(self._batch)
        while self._done < last:
            if self._sent < last:
                self._schedule(_SOON)
            self._written.clear()
            await self._written.wait()
        if self._error is not None:
            raise self._error

    def _schedule(self, delay: float) -> None:
        """Write after `delay`, or once the pace allows it; or after what is being written."""
        if not self._arranged:
            return
        assert self._loop is not None
        at = self._loop.time()
        if len(self._waiting) < _MANY:
            at = max(at + delay, self._next)
        if self._timer is not None:
            if self._due <= at:
                return
            self._timer.cancel()
        self._timer, self._due = self._loop.call_at(at, self._send), at
        self._arranged = delay

    def _send(self, *, behind: bool = False) -> None:
        """Hand the thread what has gathered, unless it is still writing and nothing has to come
        `behind` it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._arranged = math.inf
        if not self._batch or (not self._arranged and not behind):
            return
        self._arranged = 0.0
        batch, self._batch = self._batch, []
        waiting, self._waiting = self._waiting, []
        self._sent += 1
        assert self._loop is not None
        self._next = self._loop.time() + _PACE
        self._work.put(lambda: self._write(batch, waiting))

    def _write(self, batch: list[Begun | Moved], waiting: _Waiting) -> None:
        assert self._loop is not None
        answers: dict[str, str | JournalError | None] = {}
        lost: _Lost | None = None
        try:
            answers |= self._write_down(batch)
        except _Lost as error:
            lost = error
            self._name_lost(batch, error)
        except JournalError:
            # What one job wrote cannot be kept: that must not take the others with it.
            for item in batch:
                answers |= self._write_alone(item)
        except Exception as error:
            # Without an answer the callers would wait forever.
            lost = _Lost(f"cannot be written: {error!r}", self.path)
            lost.__cause__ = error
            self._name_lost(batch, lost)
        _tell(self._loop, self._on_written, waiting, answers, lost)

    def _write_down(self, batch: Sequence[Begun | Moved]) -> _rows.Answers:
        try:
            return self._persist(lambda db: _rows.write(db, batch, parked=self._parked))
        except _rows.Otherwise:
            pass
        try:
            return self._persist(lambda db: _rows.write_each(db, batch, parked=self._parked))
        except _rows.Otherwise as error:
            raise JournalError("cannot be written: a row does not take it", self.path) from error

    def _write_alone(self, item: Begun | Moved) -> Mapping[str, str | JournalError | None]:
        try:
            return self._write_down([item])
        except JournalError as error:
            self._name_lost([item], error)
            return {item.key: error}

    def _name_lost(self, items: Iterable[Begun | Moved], error: JournalError) -> None:
        """Name the tasks that no row names. The whole error is logged once."""
        ids = [item.facts.get("task_id", "") for item in items if isinstance(item, Moved)]
        tasks = " ".join(filter(None, ids))
        if not self._lost_named or not isinstance(error, _Lost):
            self._lost_named = isinstance(error, _Lost)
            logger.error("%s: not saved: %s", error, tasks or "no new task")
        elif tasks:
            logger.error("%s: not saved: %s", self.path, tasks)

    def _on_written(
        self,
        waiting: _Waiting,
        answers: Mapping[str, str | JournalError | None],
        lost: _Lost | None,
    ) -> None:
        assert self._written is not None
        self._done += 1
        self._error = self._error or lost
        for key, future in waiting:
            answer = lost or answers.get(key, "")
            if future.done():
                continue
            if isinstance(answer, JournalError):
                future.set_exception(answer)
            else:
                future.set_result(answer)
        self._written.set()
        if self._done < self._sent:
            return
        self._arranged = math.inf
        if self._batch:
            self._schedule(_SOON)

    # -- the rest of `JobStore` ---------------------------------------------------------------

    async def find(self, keys: Sequence[str]) -> Mapping[str, JobRecord]:
        """See `JobStore.find`."""
        found: dict[str, JobRecord] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            query = f"SELECT {COLUMNS} FROM jobs WHERE key IN ({marks})"
            found |= {record.key: record for record in await self._read_records(query, part)}
        return found

    async def find_content(self, digests: Sequence[str]) -> Mapping[str, JobRecord]:
        """See `JobStore.find_content`."""
        equal = await self.find_equal(digests)
        return {
            digest: min(records, key=lambda record: record.state is not JobState.STORED)
            for digest, records in equal.items()
        }

    async def find_equal(self, digests: Sequence[str]) -> Mapping[str, Sequence[JobRecord]]:
        """See `MatchingStore.find_equal`; at most a hundred of each."""
        await self._change(lambda db: db.execute(_CONTENTS))
        found: dict[str, list[JobRecord]] = {}
        for digest in dict.fromkeys(digests):
            records = await self._read_records(
                f"SELECT {COLUMNS} FROM jobs WHERE content = ?"
                f" AND state NOT IN ('failed', 'cancelled') ORDER BY seq LIMIT {_EQUAL_MAX}",
                (digest,),
            )
            if records:
                found[digest] = records
        return found

    async def find_open(
        self, states: Sequence[JobState], after: int, limit: int
    ) -> Sequence[JobRecord]:
        """See `JobStore.find_open`."""
        found: list[JobRecord] = []
        last = math.inf
        for state in states:
            where, values = of_state(state)
            query = (
                f"SELECT {COLUMNS} FROM jobs WHERE {where} AND held = 0 AND seq > ? ORDER BY seq"
            )
            page = await self._do(functools.partial(self._page, query, (*values, after), limit))
            found += page.records
            if page.cut:
                # There may be more of this state, but nothing before its last one.
                last = min(last, page.records[-1].seq)
        found.sort(key=lambda record: record.seq)
        return [record for record in found if record.seq <= last][:limit]

    def _page(self, query: str, values: Sequence[Any], limit: int) -> Page:
        return read_page(self._opened(), query, values, limit, self.path)

    async def find_damaged(self, after: int, limit: int) -> Sequence[JobRecord]:
        """The first `limit` jobs, in order, whose `seq` is beyond `after` and which `find_open`
        does not find because their state is damaged."""
        records = await self._read_records(
            f"SELECT {COLUMNS} FROM jobs WHERE seq > ? AND ({DAMAGED}) ORDER BY seq LIMIT ?",
            (after, limit),
        )
        return [self._as_damaged(record) for record in records]

    def _as_damaged(self, record: JobRecord) -> JobRecord:
        if record.damage is not None:
            return record
        error = JournalError(
            f"row {record.seq} (key {record.key!r}) is damaged: open: does not fit the state"
            f" {record.state}. The job is not submitted again; a stream over the same request"
            " resumes it",
            self.path,
            seq=record.seq,
            key=record.key,
            column="open",
        )
        return attrs.evolve(record, damage=error)

    async def event(self, key: str, task_id: str, *, live: bool = False) -> JobRecord | None:
        """See `JobStore.event`."""
        # What is parked is looked for only where anything is.
        self._parked = True
        known = await self._change(lambda db: _rows.hear(db, key, task_id, live=live))
        return (await self.find([key]))[key] if known else None

    async def is_empty(self) -> bool:
        """See `JobStore.is_empty`."""
        return not await self._read("SELECT 1 FROM jobs LIMIT 1")

    async def spent(self) -> Decimal:
        """See `JobStore.spent`."""
        return totals_in(await self._read("SELECT name, amount FROM totals"), self.path)[1]

    async def assumed(self) -> Decimal:
        """See `AssumingStore.assumed`."""
        return totals_in(await self._read("SELECT name, amount FROM totals"), self.path)[2]

    async def facts(self) -> Mapping[str, str]:
        """See `JobStore.facts`."""
        return await self._do(lambda: facts_of(self._opened(), self.path))

    async def put(self, facts: Mapping[str, str]) -> None:
        """See `JobStore.put`."""
        rows = fact_rows(facts, self.path)
        await self._change(
            lambda db: db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows)
        )

    async def set_aside(self, batch: str) -> None:
        """See `JobStore.set_aside`."""
        await self._change(lambda db: _rows.set_aside(db, batch))

    async def enlist(self, jobs: Sequence[Begun | tuple[Begun, Moved]]) -> int:
        """See `JobStore.enlist`."""
        return await self._change(lambda db: _rows.enlist(db, jobs))

    async def drop_set_aside(self, batch: str) -> int:
        """See `JobStore.drop_set_aside`."""
        return await self._change(lambda db: _rows.drop_set_aside(db, batch))

    async def put_back(self, state: JobState, code: str | None) -> int:
        """See `JobStore.put_back`."""
        return await self._change(lambda db: _rows.put_back(db, state, code))

    async def put_back_each(self, state: JobState, keys: Sequence[str]) -> int:
        """Queue those of these jobs that are in `state` to be submitted again; return how many. The
        caller must know that their tasks have ended; this is not checked."""
        return await self._change(lambda db: _rows.put_back_each(db, state, keys))


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Raises the errors of opening a journal as `JournalError`."""
    try:
        yield
    except JournalError:
        raise
    except sqlite3.OperationalError as error:
        raise JournalError(f"cannot be opened: {error}", path) from error
    except sqlite3.DatabaseError as error:
        reason = "is no journal" if "not a database" in str(error) else f"is damaged: {error}"
        raise JournalError(reason, path) from error
    except OSError as error:
        raise JournalError(f"cannot be opened: {error.strerror or error}", path) from error
    except Exception as error:
        raise JournalError(f"is damaged: {error!r}", path) from error


def _close_untouched(db: sqlite3.Connection, path: str) -> None:
    """Close the connection to a journal that was refused, and leave its log as it is. The last
    connection would delete the log, and with it what shows the next run that jobs are missing."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(sqlite3.Error):
            # It holds a lock that the last connection needs, and cannot write itself.
            reader = stack.enter_context(contextlib.closing(connect(path, read_only=True)))
            reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        db.close()


def _leave_open(db: sqlite3.Connection) -> None:
    """Leave a connection whose files are gone open. Closing it, SQLite would delete the file that
    now has the name of its log, which may be the log of another process."""
    if hasattr(db, "setconfig"):
        db.setconfig(sqlite3.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE)  # type: ignore[attr-defined]
        db.close()
    else:
        # Before Python 3.12 only this keeps it from being closed at the end of the process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(db))


def _make(db: sqlite3.Connection, base_url: str) -> None:
    for statement in SCHEMA.split(";"):
        db.execute(statement)
    facts = {
        "identity": secrets.token_hex(8),
        "secret": secrets.token_hex(32),
        "base_url": base_url,
    }
    db.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
    db.execute(f"PRAGMA application_id = {APPLICATION}")
    db.execute(f"PRAGMA user_version = {VERSION}")


def _pragma(db: sqlite3.Connection, name: str) -> int:
    value: int = db.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _same_service(one: str, other: str) -> bool:
    """Loopback is a stand-in, whose port differs each time."""
    return one == other or (_is_loopback(one) and _is_loopback(other))


def _is_loopback(url: str) -> bool:
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return host.startswith(("127.", "localhost", "[::1]"))


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *values: Any) -> None:
    try:
        loop.call_soon_threadsafe(callback, *values)
    except RuntimeError:
        # The loop is closed: the caller has left.
        logger.debug("nobody waits for the journal now")


def _fulfil(future: asyncio.Future[_T], result: _T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
