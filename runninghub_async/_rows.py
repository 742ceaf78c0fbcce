"""Rows of a journal: how they are written, within the caller's transaction. SQL and no threads."""

from __future__ import annotations

import functools
import operator
import sqlite3
import time
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ._budget import listed_price
from ._journal import FAULTY, Begun, JobFacts, Moved, StoredRequest, nano_of, params_in
from ._schema import OPEN
from ._states import JobState, may_move

__all__ = [
    "Answers",
    "Otherwise",
    "drop_set_aside",
    "enlist",
    "find_parked",
    "hear",
    "listed_nano",
    "mark_of",
    "put_back",
    "put_back_each",
    "set_aside",
    "settle_left",
    "write",
    "write_each",
]

#: The answers to callers that wait for their row before they send: the id of a task that is known
#: already, or None if they must not send at all; no entry means that they may send.
Answers = Mapping[str, str | None]

_Item = Begun | Moved

#: New values of a row, by the names of its columns.
_Columns = dict[str, Any]

#: A statement that writes a row, and its values.
_Row = tuple[str, tuple[Any, ...]]

#: The columns that a move may set.
_FACTS: Final = JobFacts.__annotations__.keys()

#: From which state to which, of a `Begun` or `Moved`.
_MOVE: Final = operator.itemgetter(1, 2)

#: The column for the time at which a job came into its state.
_SINCE: Final = {JobState.SUBMITTING: "sent_at", JobState.ACCEPTED: "accepted_at"}

#: Events of jobs that are not there yet.
_PARKED_KEPT: Final = 100_000

_LOST: Final = "the process that sent it ended before it knew the answer"

_ENDING: Final = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN}
)

_SAVED: Final = (JobState.PARTLY_STORED, JobState.STORED)

_MINUTE: Final = (
    "INSERT INTO minutes VALUES (?, ?)"
    " ON CONFLICT (minute) DO UPDATE SET ended = ended + excluded.ended"
)
_TOTAL: Final = (
    "INSERT INTO totals VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET amount = amount + excluded.amount"
)
_STATES: Final = frozenset(JobState)
_UNPARK: Final = "DELETE FROM parked WHERE key = ?"

#: Jobs that were saved and never submitted.
_SET_ASIDE: Final = (
    "UPDATE jobs SET held = 1 WHERE batch = ? AND open IN (0, 2) AND attempts = 0"
    " AND state IN ('new', 'failed')"
)
_ASIDE: Final = (
    "FROM jobs WHERE batch = ? AND held = 1 AND open IN (0, 2) AND attempts = 0"
    " AND state IN ('new', 'failed')"
)


class Otherwise(Exception):
    """The rows are not as those who wrote the moves thought."""


@functools.cache
def _shape(old: JobState | None, state: JobState) -> tuple[_Columns, str]:
    """What every move from `old`, or to a new row, says of the row, and in which column it says
    when."""
    columns: _Columns = {"state": state._value_}
    if old is None or OPEN[state] != OPEN[old]:
        # It is in an index: to write it is work, also where nothing changes.
        columns["open"] = OPEN[state]
    if _ends(old, state):
        return columns, "ended_at"
    return columns, _SINCE.get(state, "")


def _told(item: _Item, old: JobState | None) -> _Columns:
    """The columns that `item` tells of, for a row that is `old` yet, or not there."""
    shape, since = _shape(old, item.state)
    columns = shape.copy()
    if isinstance(item, Begun):
        columns["attempts"] = item.attempts
    elif item.facts.keys() <= _FACTS:
        columns |= item.facts
    else:
        raise ValueError(f"facts: expected some of {sorted(_FACTS)}, got {sorted(item.facts)}")
    if since:
        columns[since] = item.at
    return columns


def _is_unpriced(item: _Item) -> bool:
    """Whether this move is billed at an amount that the service did not name: a task that
    succeeded, or a submit of unknown outcome that is repeated."""
    if item.state is JobState.SUCCEEDED and isinstance(item, Moved):
        return "task" in item.facts and "cost" not in item.facts
    return item.old is JobState.UNKNOWN and isinstance(item, Begun)


def _assumed(db: sqlite3.Connection, item: _Item, first: _Item | None = None) -> int:
    """What that job costs by the catalogue, in billionths. `first` may hold its request, if its row
    is not written yet."""
    if isinstance(first, Begun) and first.old is None:
        return listed_nano(first.content.path, first.content.params) or 0
    row = db.execute("SELECT path, params FROM jobs WHERE key = ?", (item.key,)).fetchone()
    return 0 if row is None else listed_nano(*row) or 0


def _ends(old: JobState | None, state: JobState) -> bool:
    """Whether this is the end of a job, and not something else about one that had ended."""
    return state in _ENDING and old is not state and old not in _SAVED


def write(db: sqlite3.Connection, batch: Sequence[_Item], *, parked: bool) -> Answers:
    """Write moves all at once, as nearly always the rows are as their jobs think. `parked`: there
    are events of jobs that were not there.

    Raises `Otherwise` where a row was removed, begun by another or found out about meanwhile;
    the transaction has to be rolled back, and `write_each` to be asked.
    """
    first: dict[str, _Item] = {}
    told: dict[str, _Columns] = {}
    sums: Counter[str] = Counter()
    for item in batch:
        key, old = item[0], item[1]
        row = told.get(key)
        if row is None:
            first[key], told[key] = item, _told(item, old)
            if _is_unpriced(item):
                told[key]["assumed"] = _assumed(db, item)
        elif old is None or row["state"] != old._value_:
            raise Otherwise
        else:
            more = _told(item, old)
            if _is_unpriced(item):
                more["assumed"] = _assumed(db, item, first[key]) + row.get("assumed", 0)
            if "cost" in more:
                # Each bill counts; of every other column only the last value counts.
                sums["spent"] += row.get("cost", 0)
            row |= more
    rows: list[_Row] = []
    for (key, item), row in zip(first.items(), told.values(), strict=True):
        if (old := item.old) is not None:
            rows.append(_changed(key, old, row))
        elif isinstance(item, Begun):
            rows.append(_new(item, row))
            sums["keys"] += mark_of(key)
    _write_alike(db, rows)
    sums["spent"] += sum(row.get("cost", 0) for row in told.values())
    sums["assumed"] = sum(row.get("assumed", 0) for row in told.values())
    _count(db, Counter(map(_MOVE, batch)), sums)
    return _match_parked(db, batch) if parked else {}


def _new(job: Begun, columns: _Columns) -> _Row:
    values = (job.key, job.batch, job.place, *job.content, *columns.values())
    return _insert(*columns), values


def _changed(key: str, old: JobState, columns: _Columns) -> _Row:
    return _update(*columns), (*columns.values(), key, old._value_)


def _write_alike(db: sqlite3.Connection, rows: Sequence[_Row]) -> None:
    """Write rows, those with the same columns at once. Raises `Otherwise` if any of them was not
    as it was thought to be.

    Only new values are bound: `None` takes Python's `sqlite3` five times as long as a text.
    """
    changed: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    inserted: list[tuple[str, list[tuple[Any, ...]]]] = []
    for statement, values in rows:
        if not statement.startswith("INSERT"):
            changed[statement].append(values)
        elif inserted and inserted[-1][0] == statement:
            inserted[-1][1].append(values)
        else:
            # The database numbers new rows in the order in which it gets them, and that is the
            # order in which a later session reads them: it has to be the order of the jobs.
            inserted.append((statement, [values]))
    written = 0
    for statement, all_values in (*inserted, *changed.items()):
        written += db.executemany(statement, all_values).rowcount
    if written != len(rows):
        raise Otherwise


@functools.lru_cache(maxsize=256)
def _insert(*columns: str) -> str:
    names = ("key", "batch", "place", "path", "params", "content", *columns)
    marks = ", ".join("?" * len(names))
    return f"INSERT OR IGNORE INTO jobs ({', '.join(names)}) VALUES ({marks})"


@functools.lru_cache(maxsize=256)
def _update(*columns: str) -> str:
    # A row that is written again is wanted: it is no longer set aside.
    told = ", ".join(
        f"{name} = assumed + ?" if name == "assumed" else f"{name} = ?" for name in columns
    )
    return f"UPDATE jobs SET held = 0, {told} WHERE key = ? AND state = ?"


def write_each(db: sqlite3.Connection, batch: Sequence[_Item], *, parked: bool) -> Answers:
    """Write moves in order, and hold each against its row."""
    answers: dict[str, str | None] = {}
    moves: Counter[tuple[JobState | None, JobState]] = Counter()
    sums: Counter[str] = Counter()
    for item in batch:
        found = db.execute("SELECT state, task_id FROM jobs WHERE key = ?", (item.key,)).fetchone()
        if found is None:
            if isinstance(item, Begun) and item.old is None:
                _write_alike(db, [_new(item, _told(item, None))])
                moves[None, item.state] += 1
                sums["keys"] += mark_of(item.key)
            elif isinstance(item, Begun):
                # Removed.
                answers[item.key] = None
            continue
        begins = isinstance(item, Begun)
        if found[0] not in _STATES:
            if begins:
                raise ValueError(f"job {item.key}: its row is damaged: state is {found[0]!r:.40}")
            continue
        state, task_id = JobState(found[0]), found[1]
        if begins and (item.old is None or state is item.state or not may_move(state, item.state)):
            # Begun by another, or known by now.
            answers[item.key] = task_id if item.old is not None and task_id else None
            continue
        if not may_move(state, item.state) or (state is item.state is not item.old):
            # Out of date: two follow the same task, and the other was first.
            continue
        columns = _told(item, state)
        if _is_unpriced(item):
            columns["assumed"] = _assumed(db, item)
        _write_alike(db, [_changed(item.key, state, columns)])
        moves[state, item.state] += 1
        sums["spent"] += columns.get("cost", 0)
        sums["assumed"] += columns.get("assumed", 0)
    _count(db, moves, sums)
    return {**answers, **_match_parked(db, batch)} if parked else answers


def _count(
    db: sqlite3.Connection,
    moves: Mapping[tuple[JobState | None, JobState], int],
    sums: Mapping[str, int],
) -> None:
    """Keep the sums: how many jobs are in each state, what they cost, how many ended of late."""
    totals: dict[str, int] = defaultdict(int, sums)
    ended = 0
    for (old, state), count in moves.items():
        totals[state] += count
        if old is not None:
            totals[old] -= count
        if _ends(old, state):
            ended += count
    _add(db, totals)
    if ended:
        db.execute(_MINUTE, (int(time.time() // 60), ended))


def mark_of(key: object) -> int:
    """A number for a key. The sum over all rows shows a row that was lost, or whose key was
    changed, which would be submitted again."""
    return zlib.crc32(str(key).encode("utf-8", "replace"))


def listed_nano(path: str, params: str) -> int | None:
    """What a request costs at most by the catalogue, in billionths; None if that is not known."""
    try:
        listed = listed_price(StoredRequest(path, params_in(params)))
    except Exception:
        # A row that is damaged; it is named where it is read.
        return None
    return None if listed is None else nano_of(listed.amount)


def _add(db: sqlite3.Connection, totals: Mapping[str, int]) -> None:
    db.executemany(_TOTAL, [(name, count) for name, count in totals.items() if count])


# -- events -------------------------------------------------------------------------------------


def find_parked(db: sqlite3.Connection) -> int:
    """How many events of jobs there are that were not there."""
    count: int = db.execute("SELECT count(*) FROM parked").fetchone()[0]
    return count


def _match_parked(db: sqlite3.Connection, batch: Iterable[_Item]) -> Answers:
    """Events came before their jobs: the tasks exist, and must not be made again. An event is kept
    until a row has its task, since the session may close, or its process be killed, before that."""
    known: dict[str, str | None] = {}
    for item in batch:
        if item.state is JobState.ACCEPTED:
            db.execute(_UNPARK, (item.key,))
        elif item.state is JobState.SUBMITTING and item.old in (None, JobState.NEW):
            row = db.execute("SELECT task_id FROM parked WHERE key = ?", (item.key,)).fetchone()
            if row is not None:
                if not (isinstance(row[0], str) and row[0]):
                    # Its task exists and would be made, and paid for, a second time.
                    raise ValueError(f"job {item.key}: table parked: {row[0]!r:.40} is no task id")
                known[item.key] = row[0]
    return known


def hear(db: sqlite3.Connection, key: str, task_id: str, *, live: bool) -> bool:
    """An event said that the task of this job is `task_id`; whether that made its task known."""
    row = db.execute("SELECT state FROM jobs WHERE key = ?", (key,)).fetchone()
    if row is None or live:
        _park(db, key, task_id)
        return False
    if row[0] not in ("unknown", "submitting"):
        return False
    db.execute(
        "UPDATE jobs SET open = 1, state = 'accepted', task_id = ?, accepted_at = ?, code = NULL,"
        " error = NULL, ended_at = NULL WHERE key = ?",
        (task_id, time.time(), key),
    )
    db.execute(_UNPARK, (key,))
    _add(db, {row[0]: -1, "accepted": 1})
    return True


def _park(db: sqlite3.Connection, key: str, task_id: str) -> None:
    db.execute("INSERT OR REPLACE INTO parked VALUES (?, ?, ?)", (key, task_id, time.time()))
    if find_parked(db) > _PARKED_KEPT:
        db.execute(
            "DELETE FROM parked WHERE key IN (SELECT key FROM parked ORDER BY at LIMIT 1000)"
        )


def settle_left(db: sqlite3.Connection, now: float) -> None:
    """Of submits that an earlier process left under way nobody knows what became, but for those
    whose event has come."""
    left = db.execute(
        "UPDATE jobs SET open = 2, state = 'unknown', error = ?, ended_at = ?"
        " WHERE open = 1 AND state = 'submitting'",
        (_LOST, now),
    ).rowcount
    _add(db, {"submitting": -left, "unknown": left})
    found = db.execute(
        "UPDATE jobs SET open = 1, state = 'accepted', accepted_at = ?, code = NULL, error = NULL,"
        " ended_at = NULL, task_id = (SELECT task_id FROM parked WHERE parked.key = jobs.key)"
        " WHERE open = 2 AND state = 'unknown' AND key IN (SELECT key FROM parked)",
        (now,),
    ).rowcount
    if found:
        db.execute(
            "DELETE FROM parked WHERE key IN (SELECT key FROM jobs WHERE task_id IS NOT NULL)"
        )
        _add(db, {"unknown": -found, "accepted": found})


# -- lists --------------------------------------------------------------------------------------


def set_aside(db: sqlite3.Connection, batch: str) -> None:
    """Set aside what was recorded for `batch` and never submitted."""
    db.execute(_SET_ASIDE, (batch,))


def enlist(db: sqlite3.Connection, jobs: Iterable[Begun | tuple[Begun, Moved]]) -> int:
    """Record jobs that are not in the journal yet, and restore those that were set aside; return
    how many are new."""
    totals: Counter[str] = Counter()
    new = 0
    for item in jobs:
        begun, end = (item, None) if isinstance(item, Begun) else item
        state = begun.state if end is None else end.state
        row: _Columns = {"state": state._value_, "open": OPEN[state]}
        if end is not None:
            row |= {"ended_at": end.at, **end.facts}
        statement, values = _new(begun, row)
        if db.execute(statement, values).rowcount:
            totals[state] += 1
            totals["keys"] += mark_of(begun.key)
            new += 1
        else:
            db.execute("UPDATE jobs SET held = 0 WHERE key = ? AND held = 1", (begun.key,))
    _add(db, totals)
    return new


def drop_set_aside(db: sqlite3.Connection, batch: str) -> int:
    """Remove the jobs that are still set aside; return how many."""
    totals: Counter[str] = Counter()
    gone = db.execute(f"DELETE {_ASIDE} RETURNING state, key", (batch,)).fetchall()
    for state, key in gone:
        totals[state] -= 1
        totals["keys"] -= mark_of(key)
    _add(db, totals)
    return len(gone)


_RETRY: Final = (
    "UPDATE jobs SET open = 0, state = 'new', task_id = NULL, task = NULL, code = NULL,"
    " error = NULL, ended_at = NULL, attempts = 0"
)

#: A task that may still run: the service has not said how it ended.
_MAY_RUN: Final = (
    "coalesce(task_id, '') <> '' AND replace(substr(coalesce(task, ''), 1, 30), ' ', '')"
    " NOT LIKE '{\"status\":\"FAILED\"%' AND replace(substr(coalesce(task, ''), 1, 30), ' ', '')"
    ' NOT LIKE \'{"status":"CANCEL"%\''
)


def put_back(db: sqlite3.Connection, state: JobState, code: str | None) -> int:
    """Queue jobs in `state` to be submitted again, only those with this code if it is given; return
    how many. Jobs whose task may still run are left unchanged."""
    where = f"open = 2 AND state = ? AND coalesce(code, '') <> ? AND NOT ({_MAY_RUN})"
    values = [state.value, FAULTY]
    if code is not None:
        where, values = f"{where} AND code = ?", [*values, code]
    assumed = _assume(db, where, values) if state is JobState.UNKNOWN else 0
    count = db.execute(f"{_RETRY} WHERE {where}", values).rowcount
    _add(db, {state: -count, JobState.NEW: count, "assumed": assumed})
    return count


def put_back_each(db: sqlite3.Connection, state: JobState, keys: Iterable[str]) -> int:
    """Queue those of these jobs that are in `state` to be submitted again; return how many. The
    caller must know that their tasks have ended."""
    count = assumed = 0
    for key in keys:
        values = (key, state.value)
        if state is JobState.UNKNOWN:
            assumed += _assume(db, "key = ? AND state = ?", values)
        count += db.execute(f"{_RETRY} WHERE key = ? AND state = ?", values).rowcount
    _add(db, {state: -count, JobState.NEW: count, "assumed": assumed})
    return count


def _assume(db: sqlite3.Connection, where: str, values: Sequence[Any]) -> int:
    """Count what the first submits of these jobs may have cost, since that will never be known."""
    query = f"SELECT seq, path, params FROM jobs WHERE {where}"
    amounts = [
        (listed_nano(path, params) or 0, seq) for seq, path, params in db.execute(query, values)
    ]
    db.executemany("UPDATE jobs SET assumed = assumed + ? WHERE seq = ?", amounts)
    return sum(amount for amount, _ in amounts)
