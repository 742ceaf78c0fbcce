"""Rows of a journal: how they are written, within whoever's transaction. SQL and no threads."""

from __future__ import annotations

import functools
import operator
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ._journal import FAULTY, Begun, JobFacts, Moved
from ._schema import OPEN
from ._states import JobState, may_move

__all__ = [
    "Answers",
    "Otherwise",
    "drop_set_aside",
    "enlist",
    "find_parked",
    "hear",
    "put_back",
    "set_aside",
    "settle_left",
    "write",
    "write_each",
]

#: What those are told who wait for a row to be written before they send: the id of a task that is
#: known already, or None if they must not send at all; nothing for all others.
Answers = Mapping[str, str | None]

_Item = Begun | Moved

#: What a row is told, by the names of its columns.
_Columns = dict[str, Any]

#: A statement that writes a row, and its values.
_Row = tuple[str, tuple[Any, ...]]

#: The columns that a move may tell of.
_FACTS: Final = JobFacts.__annotations__.keys()

#: From which state to which, of a `Begun` or `Moved`.
_MOVE: Final = operator.itemgetter(1, 2)

#: In which column it is told when a job came into its state.
_SINCE: Final = {JobState.SUBMITTING: "sent_at", JobState.ACCEPTED: "accepted_at"}

#: Events of jobs that are not there yet.
_PARKED_KEPT: Final = 100_000

_LOST: Final = "the process that sent it ended before it knew the answer"

_ENDING: Final = frozenset(
    {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN}
)

_MINUTE: Final = (
    "INSERT INTO minutes VALUES (?, ?)"
    " ON CONFLICT (minute) DO UPDATE SET ended = ended + excluded.ended"
)
_TOTAL: Final = (
    "INSERT INTO totals VALUES (?, ?)"
    " ON CONFLICT (name) DO UPDATE SET amount = amount + excluded.amount"
)
_UNPARK: Final = "DELETE FROM parked WHERE key = ? RETURNING task_id"

#: What was put down and never submitted.
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


def _ends(old: JobState | None, state: JobState) -> bool:
    """Whether this is the end of a job, and not something else about one that had ended."""
    return state in _ENDING and old is not state and old is not JobState.STORED


def write(db: sqlite3.Connection, batch: Sequence[_Item], *, parked: bool) -> Answers:
    """Write moves all at once, as nearly always the rows are as their jobs think. `parked`: there
    are events of jobs that were not there.

    Raises `Otherwise` where a row was struck out, begun by another or found out about meanwhile;
    the transaction has to be rolled back, and `write_each` to be asked.
    """
    first: dict[str, _Item] = {}
    told: dict[str, _Columns] = {}
    spent = 0
    for item in batch:
        key, old = item[0], item[1]
        row = told.get(key)
        if row is None:
            first[key], told[key] = item, _told(item, old)
        elif old is None or row["state"] != old._value_:
            raise Otherwise
        else:
            more = _told(item, old)
            if "cost" in more:
                # Each bill counts; else the last word on each column does.
                spent += row.get("cost", 0)
            row |= more
    rows: list[_Row] = []
    for (key, item), row in zip(first.items(), told.values(), strict=True):
        if (old := item.old) is not None:
            rows.append(_changed(key, old, row))
        elif isinstance(item, Begun):
            rows.append(_new(item, row))
    _write_alike(db, rows)
    spent += sum(row.get("cost", 0) for row in told.values())
    _count(db, Counter(map(_MOVE, batch)), spent)
    return _match_parked(db, batch) if parked else {}


def _new(job: Begun, columns: _Columns) -> _Row:
    values = (job.key, job.batch, job.place, *job.content, *columns.values())
    return _insert(*columns), values


def _changed(key: str, old: JobState, columns: _Columns) -> _Row:
    return _update(*columns), (*columns.values(), key, old._value_)


def _write_alike(db: sqlite3.Connection, rows: Sequence[_Row]) -> None:
    """Write rows, those with the same columns at once. Raises `Otherwise` if any of them was not
    as it was thought to be.

    Only what is told is bound: `None` takes Python's `sqlite3` five times as long as a text.
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
    # Whoever writes a row down anew wants it: it is not set aside any more.
    told = ", ".join(f"{name} = ?" for name in columns)
    return f"UPDATE jobs SET held = 0, {told} WHERE key = ? AND state = ?"


def write_each(db: sqlite3.Connection, batch: Sequence[_Item], *, parked: bool) -> Answers:
    """Write moves in order, and hold each against its row."""
    answers: dict[str, str | None] = {}
    moves: Counter[tuple[JobState | None, JobState]] = Counter()
    spent = 0
    for item in batch:
        found = db.execute("SELECT state, task_id FROM jobs WHERE key = ?", (item.key,)).fetchone()
        if found is None:
            if isinstance(item, Begun) and item.old is None:
                _write_alike(db, [_new(item, _told(item, None))])
                moves[None, item.state] += 1
            elif isinstance(item, Begun):
                # Struck out.
                answers[item.key] = None
            continue
        state, task_id = JobState(found[0]), found[1]
        begins = isinstance(item, Begun)
        if begins and (item.old is None or state is item.state or not may_move(state, item.state)):
            # Begun by another, or known by now.
            answers[item.key] = task_id if item.old is not None and task_id else None
            continue
        if not may_move(state, item.state) or (state is item.state is not item.old):
            # Out of date: two follow the same task, and the other was first.
            continue
        columns = _told(item, state)
        _write_alike(db, [_changed(item.key, state, columns)])
        moves[state, item.state] += 1
        spent += columns.get("cost", 0)
    _count(db, moves, spent)
    return {**answers, **_match_parked(db, batch)} if parked else answers


def _count(
    db: sqlite3.Connection, moves: Mapping[tuple[JobState | None, JobState], int], spent: int
) -> None:
    """Keep the sums: how many jobs are in each state, what they cost, how many ended of late."""
    totals: dict[str, int] = defaultdict(int, spent=spent)
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


def _add(db: sqlite3.Connection, totals: Mapping[str, int]) -> None:
    db.executemany(_TOTAL, [(name, count) for name, count in totals.items() if count])


# -- events -------------------------------------------------------------------------------------


def find_parked(db: sqlite3.Connection) -> int:
    """How many events of jobs there are that were not there."""
    count: int = db.execute("SELECT count(*) FROM parked").fetchone()[0]
    return count


def _match_parked(db: sqlite3.Connection, batch: Iterable[_Item]) -> Answers:
    """Events came before their jobs: the tasks exist, and must not be made again. Those of tasks
    that are known otherwise by now say nothing more."""
    known: dict[str, str | None] = {}
    for item in batch:
        begun = item.state is JobState.SUBMITTING and item.old in (None, JobState.NEW)
        if begun or item.state is JobState.ACCEPTED:
            row = db.execute(_UNPARK, (item.key,)).fetchone()
            if row is not None and begun:
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
    """Set aside what was put down for `batch` and never submitted."""
    db.execute(_SET_ASIDE, (batch,))


def enlist(db: sqlite3.Connection, jobs: Iterable[Begun | tuple[Begun, Moved]]) -> int:
    """Put down jobs that are not there yet, and take up again those that were set aside; how many
    are new."""
    totals: Counter[str] = Counter()
    for item in jobs:
        begun, end = (item, None) if isinstance(item, Begun) else item
        state = begun.state if end is None else end.state
        row: _Columns = {"state": state._value_, "open": OPEN[state]}
        if end is not None:
            row |= {"ended_at": end.at, **end.facts}
        statement, values = _new(begun, row)
        if db.execute(statement, values).rowcount:
            totals[state] += 1
        else:
            db.execute("UPDATE jobs SET held = 0 WHERE key = ? AND held = 1", (begun.key,))
    _add(db, totals)
    return totals.total()


def drop_set_aside(db: sqlite3.Connection, batch: str) -> int:
    """Strike out what is still set aside; how many that were."""
    gone = Counter(state for (state,) in db.execute(f"DELETE {_ASIDE} RETURNING state", (batch,)))
    _add(db, {state: -count for state, count in gone.items()})
    return gone.total()


def put_back(db: sqlite3.Connection, state: JobState, code: str | None) -> int:
    """Have jobs of `state` submitted anew, or those with this code; how many."""
    query = (
        "UPDATE jobs SET open = 0, state = 'new', task_id = NULL, task = NULL, code = NULL,"
        " error = NULL, ended_at = NULL, attempts = 0"
        " WHERE open = 2 AND state = ? AND coalesce(code, '') <> ?"
    )
    values = [state.value, FAULTY]
    if code is not None:
        query, values = f"{query} AND code = ?", [*values, code]
    count = db.execute(query, values).rowcount
    _add(db, {state: -count, JobState.NEW: count})
    return count
