"""The tables of a journal, and its rows as values. SQL and no threads."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, NamedTuple

from ._journal import JobRecord, StoredRequest, amount_of, files_in, params_in, task_in
from ._owner import Owner
from ._states import JobState

__all__ = [
    "APPLICATION",
    "COLUMNS",
    "FACTS",
    "OPEN",
    "SCHEMA",
    "VERSION",
    "Page",
    "connect",
    "lease_of",
    "of_state",
    "read_page",
    "record_of",
    "totals_in",
]

#: Marks a data base as a journal of this package ("rhj1"), and its version.
APPLICATION: Final = 0x72686A31
VERSION: Final = 1

#: How the column `open` sorts the states. What is stored has none and is in no index but that of
#: the keys: of a million jobs, few are looked for.
OPEN: Final[Mapping[JobState, int | None]] = {
    JobState.NEW: 0,
    JobState.REFUSED: 0,
    JobState.SUBMITTING: 1,
    JobState.ACCEPTED: 1,
    JobState.RUNNING: 1,
    JobState.FAILED: 2,
    JobState.CANCELLED: 2,
    JobState.UNKNOWN: 2,
    JobState.SUCCEEDED: 3,
    JobState.PARTLY_STORED: 3,
    JobState.STORED: None,
}

SCHEMA: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE lease (
    one INTEGER PRIMARY KEY CHECK (one = 1), name TEXT NOT NULL, pid INTEGER NOT NULL,
    host TEXT NOT NULL, started TEXT NOT NULL, renewed REAL NOT NULL
);
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, place INTEGER, batch TEXT NOT NULL,
    held INTEGER NOT NULL DEFAULT 0, path TEXT NOT NULL, params TEXT NOT NULL,
    content TEXT NOT NULL, open INTEGER, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    sent_at REAL, accepted_at REAL, ended_at REAL, task_id TEXT, task TEXT, cost INTEGER,
    code TEXT, error TEXT, files TEXT
);
CREATE INDEX jobs_open ON jobs (open, seq) WHERE open IS NOT NULL;
CREATE TABLE parked (key TEXT PRIMARY KEY, task_id TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE totals (name TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE minutes (minute INTEGER PRIMARY KEY, ended INTEGER NOT NULL);
"""

_FIELDS: Final = (
    "seq", "key", "place", "batch", "path", "params", "content", "state", "attempts", "sent_at",
    "accepted_at", "ended_at", "task_id", "task", "cost", "code", "error", "files",
)  # fmt: skip
COLUMNS: Final = ", ".join(_FIELDS)


def record_of(row: Sequence[Any]) -> JobRecord:
    """A job from its row, with the columns in the order of `COLUMNS`."""
    told = dict(zip(_FIELDS, row, strict=True))
    task_id, cost = told["task_id"], told["cost"]
    request = StoredRequest(told["path"], params_in(told["params"]), told["key"], told["place"])
    return JobRecord(
        seq=told["seq"],
        key=told["key"],
        state=JobState(told["state"]),
        request=request,
        content=told["content"],
        batch=told["batch"],
        task=task_in(task_id, told["task"]) if task_id else None,
        attempts=told["attempts"],
        sent_at=told["sent_at"],
        accepted_at=told["accepted_at"],
        ended_at=told["ended_at"],
        cost=None if cost is None else amount_of(cost),
        code=told["code"] or "",
        error=told["error"] or "",
        files=files_in(told["files"]),
    )


class Page(NamedTuple):
    """Some jobs, in order; `cut` if there may be more."""

    records: list[JobRecord]
    cut: bool


#: Bytes of requests that are read at once: one may hold pictures as data URIs, of megabytes each.
_PAGE_BYTES: Final = 2**20

_PARAMS: Final = _FIELDS.index("params")


def read_page(db: sqlite3.Connection, query: str, values: Sequence[Any], limit: int) -> Page:
    """The first jobs that `query` finds: `limit` at most, fewer if they are large, and at least
    one if there is any."""
    records: list[JobRecord] = []
    size = 0
    with contextlib.closing(db.execute(query, values)) as rows:
        for row in rows:
            records.append(record_of(row))
            size += len(row[_PARAMS])
            if len(records) >= limit or size >= _PAGE_BYTES:
                return Page(records, cut=True)
    return Page(records, cut=False)


def of_state(state: JobState) -> tuple[str, list[Any]]:
    """The condition for jobs in `state`, and its values, in words that the index answers to."""
    code = OPEN[state]
    if code is None:
        return "open IS NULL AND state = ?", [state.value]
    return "open = ? AND state = ?", [code, state.value]


def totals_in(rows: Iterable[tuple[str, int]]) -> tuple[dict[JobState, int], Decimal]:
    """How many jobs are in each state, and what all have cost."""
    amounts = dict(rows)
    spent = amount_of(amounts.pop("spent", 0))
    return {state: amounts.get(state, 0) for state in JobState}, spent


#: What was put down of the run.
FACTS: Final = "SELECT substr(name, 6), value FROM meta WHERE name LIKE 'fact:%'"


def lease_of(db: sqlite3.Connection) -> tuple[Owner, float] | None:
    """Who has the journal, and when it last said so; None if nobody has."""
    row = db.execute("SELECT name, pid, host, started, renewed FROM lease").fetchone()
    if row is None:
        return None
    name, pid, host, started, renewed = row
    return Owner(name, pid, host, started), renewed


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a journal, for one thread."""
    mode = "ro" if read_only else "rw"
    uri = f"file:{_quoted(path)}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10.0)


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
