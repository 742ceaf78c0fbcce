"""The tables of a journal, and its rows as values. SQL and no threads."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeVar

from ._exceptions import JournalError
from ._journal import (
    JobRecord,
    KeptFile,
    StoredRequest,
    amount_of,
    files_in,
    is_key_of,
    params_in,
    task_in,
)
from ._models import Task, TaskStatus
from ._money import Money
from ._owner import Owner
from ._states import JobState
from ._untrusted import shown

__all__ = [
    "APPLICATION",
    "COLUMNS",
    "DAMAGED",
    "OPEN",
    "SCHEMA",
    "TABLES",
    "VERSION",
    "Page",
    "columns_of",
    "connect",
    "fact_rows",
    "facts_of",
    "fetch",
    "lease_of",
    "of_state",
    "read_page",
    "record_or_damage",
    "totals_in",
]

_T = TypeVar("_T")

#: The mark of a database that is a journal of this package ("rhj1"), and its schema version: see
#: `_migrations`.
APPLICATION: Final = 0x72686A31
VERSION: Final = 2

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
    host TEXT NOT NULL, started TEXT NOT NULL, renewed REAL NOT NULL,
    file TEXT NOT NULL DEFAULT '', logged INTEGER NOT NULL DEFAULT 1
);
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, place INTEGER, batch TEXT NOT NULL,
    held INTEGER NOT NULL DEFAULT 0, path TEXT NOT NULL, params TEXT NOT NULL,
    content TEXT NOT NULL, open INTEGER, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
    sent_at REAL, accepted_at REAL, ended_at REAL, task_id TEXT, task TEXT, cost INTEGER,
    code TEXT, error TEXT, files TEXT, assumed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX jobs_open ON jobs (open, seq) WHERE open IS NOT NULL;
CREATE TABLE parked (key TEXT PRIMARY KEY, task_id TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE totals (name TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE minutes (minute INTEGER PRIMARY KEY, ended INTEGER NOT NULL);
"""

_FIELDS: Final = (
    "seq", "key", "place", "batch", "path", "params", "content", "state", "attempts", "sent_at",
    "accepted_at", "ended_at", "task_id", "task", "cost", "code", "error", "files", "assumed",
)  # fmt: skip
COLUMNS: Final = ", ".join(_FIELDS)

#: The columns that the necessary tables of a journal must have.
TABLES: Final[Mapping[str, frozenset[str]]] = {
    "meta": frozenset({"name", "value"}),
    "lease": frozenset({"one", "name", "pid", "host", "started", "renewed", "file", "logged"}),
    "jobs": frozenset({*_FIELDS, "held", "open"}),
    "parked": frozenset({"key", "task_id", "at"}),
    "totals": frozenset({"name", "amount"}),
    "minutes": frozenset({"minute", "ended"}),
}

_STATES: Final = ", ".join(f"'{state}'" for state in JobState)
_OPEN_OF: Final = " ".join(
    f"WHEN '{state}' THEN {'NULL' if code is None else code}" for state, code in OPEN.items()
)

#: Rows that no query for a state finds, or only one for a wrong state.
DAMAGED: Final = (
    f"typeof(key) <> 'text' OR state NOT IN ({_STATES}) OR open IS NOT CASE state {_OPEN_OF} END"
    " OR held NOT IN (0, 1)"
)


def columns_of(version: int) -> str:
    """The columns of a job in a journal of this schema, in the order of `COLUMNS`."""
    return COLUMNS if version >= VERSION else COLUMNS.replace("assumed", "0 AS assumed")


# -- a row as a value ---------------------------------------------------------------------------

_TEXTS: Final = ("key", "batch", "path", "params", "content", "state")
_MAYBE_TEXTS: Final = ("task_id", "task", "code", "error", "files")
_TIMES: Final = ("sent_at", "accepted_at", "ended_at")
_DIGEST_LENGTH: Final = 32

#: The first moment that no calendar of Python's has, the year 10000, as Unix time.
_NO_DATE: Final = 253402300800

#: The states in which the id of the task is known.
_FOLLOWED: Final = frozenset({JobState.ACCEPTED, JobState.RUNNING})
_WELL_ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.PARTLY_STORED, JobState.STORED})


class _Damage(Exception):
    """The value in `column` is invalid, for this reason."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(reason)
        self.column = column


def record_or_damage(row: Sequence[Any], path: str) -> JobRecord:
    """A row as a record; for a damaged row, what can be read of it, with its `damage`. Raises
    `JournalError` for a row without a number."""
    fields: dict[str, Any] = dict(zip(_FIELDS, row, strict=True))
    if not isinstance(fields["seq"], int):
        # The page after such a number would hold the same rows again, without an end.
        raise JournalError(
            f"is damaged: table jobs: {fields['seq']!r:.40} is no number of a row", path
        )
    try:
        return _sound(fields)
    except _Damage as damage:
        return _remains(fields, _error_of(fields, damage, path))


def _sound(fields: Mapping[str, Any]) -> JobRecord:
    _check_types(fields)
    state = _checked(fields, "state", JobState)
    params = _checked(fields, "params", params_in)
    _check_content(fields)
    task_id = fields["task_id"]
    task = _checked(fields, "task", lambda text: task_in(task_id, text)) if task_id else None
    if task is None and (state in _FOLLOWED or fields["task"]):
        raise _Damage("task_id", "expected the id of its task, got nothing")
    if state in _WELL_ENDED and (task is None or task.status is not TaskStatus.SUCCESS):
        raise _Damage("task", "expected a task that succeeded")
    files = _checked(fields, "files", files_in)
    cost = fields["cost"]
    return JobRecord(
        seq=fields["seq"],
        key=fields["key"],
        state=state,
        request=StoredRequest(fields["path"], params, fields["key"], fields["place"]),
        content=fields["content"],
        batch=fields["batch"],
        task=task,
        attempts=fields["attempts"],
        sent_at=fields["sent_at"],
        accepted_at=fields["accepted_at"],
        ended_at=fields["ended_at"],
        cost=None if cost is None else amount_of(cost),
        code=fields["code"] or "",
        error=fields["error"] or "",
        files=files,
        assumed=amount_of(fields["assumed"]),
    )


def _check_types(fields: Mapping[str, Any]) -> None:
    for column in _TEXTS:
        if not _is_text(fields[column]):
            raise _Damage(column, f"expected a text, got {fields[column]!r:.40}")
    for column in _MAYBE_TEXTS:
        value = fields[column]
        if value is not None and not _is_text(value):
            raise _Damage(column, f"expected a text, got {value!r:.40}")
    for column in _TIMES:
        value = fields[column]
        if value is not None and not (isinstance(value, int | float) and 0 <= value < _NO_DATE):
            raise _Damage(column, f"expected a time, got {value!r:.40}")
    for column in ("attempts", "assumed", "seq"):
        if not isinstance(fields[column], int) or fields[column] < 0:
            raise _Damage(column, f"expected a count, got {fields[column]!r:.40}")
    if fields["cost"] is not None and not isinstance(fields["cost"], int):
        raise _Damage("cost", f"expected an amount, got {fields['cost']!r:.40}")
    place = fields["place"]
    if place is not None and (not isinstance(place, int) or place < 0):
        raise _Damage("place", f"expected a number, got {place!r:.40}")
    if not fields["key"]:
        raise _Damage("key", "expected a text, got nothing")


def _check_content(fields: Mapping[str, Any]) -> None:
    """Check that path, parameters and key are unchanged since the row was written."""
    content = fields["content"]
    if len(content) != _DIGEST_LENGTH:
        # Not a digest of this package, so there is nothing to compare.
        return
    text = f"{fields['path']}\n{fields['params']}"
    if blake2b(text.encode(), digest_size=16).hexdigest() != content:
        raise _Damage("params", "path and parameters do not fit the digest of the content")
    if not is_key_of(fields["key"], content, fields["place"], fields["batch"]):
        raise _Damage("key", "does not fit batch, place and content")


def _checked(fields: Mapping[str, Any], column: str, read: Any) -> Any:
    try:
        return read(fields[column])
    except Exception as error:
        raise _Damage(column, f"{error}"[:200]) from error


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    # Bytes that are not UTF-8 are read as halves of surrogate pairs.
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def _error_of(fields: Mapping[str, Any], damage: _Damage, path: str) -> JournalError:
    seq, key, task_id = fields["seq"], _key_of(fields), fields["task_id"]
    place = f", request {fields['place']}" if isinstance(fields["place"], int) else ""
    of_task = f"; its task is {task_id}" if _is_text(task_id) and task_id else ""
    return JournalError(
        f"row {seq} (key {key!r}{place}) is damaged: {damage.column}: {damage}{of_task}. It may"
        " have been paid for, and is not submitted again. Restore the journal from a copy, or"
        " submit the request under another key",
        path,
        seq=seq,
        key=key,
        column=damage.column,
    )


def _key_of(fields: Mapping[str, Any]) -> str:
    key = fields["key"]
    return key if _is_text(key) and key else f"row {fields['seq']}"


def _remains(fields: Mapping[str, Any], error: JournalError) -> JobRecord:
    """What can be read of a damaged row."""
    state, task, params = JobState.UNKNOWN, None, dict[str, Any]()
    files: tuple[KeptFile, ...] = ()
    with suppress(Exception):
        state = JobState(fields["state"])
    if _is_text(fields["task_id"]) and fields["task_id"]:
        task = Task(fields["task_id"])
        with suppress(Exception):
            task = task_in(fields["task_id"], fields["task"])
    with suppress(Exception):
        params = params_in(fields["params"])
    with suppress(Exception):
        files = files_in(fields["files"])
    place = fields["place"] if isinstance(fields["place"], int) else None
    path, key = fields["path"] if _is_text(fields["path"]) else "", _key_of(fields)
    texts = {name: fields[name] if _is_text(fields[name]) else "" for name in (*_TEXTS, "code")}
    attempts, cost = fields["attempts"], fields["cost"]
    return JobRecord(
        seq=fields["seq"],
        key=key,
        state=state,
        request=StoredRequest(path, params, key, place),
        content=texts["content"],
        batch=texts["batch"],
        task=task,
        attempts=attempts if isinstance(attempts, int) else 0,
        cost=amount_of(cost) if isinstance(cost, int) else None,
        code=texts["code"],
        error=str(error),
        files=files,
        damage=error,
    )


# -- the rest -----------------------------------------------------------------------------------


def of_state(state: JobState) -> tuple[str, list[Any]]:
    """The condition for jobs in `state`, and its values, in words that the index answers to."""
    code = OPEN[state]
    if code is None:
        return "open IS NULL AND state = ?", [state.value]
    return "open = ? AND state = ?", [code, state.value]


def totals_in(
    rows: Iterable[tuple[str, int]], path: str = ""
) -> tuple[dict[JobState, int], Decimal, Decimal]:
    """How many jobs are in each state, what they were billed, and what they are assumed to have
    cost in addition. Raises `JournalError` for invalid sums."""
    amounts: dict[str, int] = {}
    for name, amount in rows:
        # The sums of states count rows; the sum of the keys may be any number.
        if not isinstance(amount, int) or (name != "keys" and amount < 0):
            raise JournalError(f"its sums are damaged: {name!r:.40} is {amount!r:.40}", path)
        amounts[name] = amount
    spent, assumed = amount_of(amounts.get("spent", 0)), amount_of(amounts.get("assumed", 0))
    return {state: amounts.get(state, 0) for state in JobState}, spent, assumed


#: How the names of facts about the run begin in the table `meta`.
_FACT: Final = "fact:"


def facts_of(db: sqlite3.Connection, path: str) -> dict[str, str]:
    """What was recorded about the run. Raises `JournalError`, which names the fact, for what
    `fact_rows` does not let in."""
    facts: dict[str, str] = {}
    for name, value in fetch(db, "SELECT name, value FROM meta", (), path):
        if not _is_text(name):
            raise JournalError(f"is damaged: table meta: {name!r:.40} is no name", path)
        if name.startswith(_FACT):
            fact = name.removeprefix(_FACT)
            if fault := _fault_of_fact(fact, value):
                raise JournalError(f"is damaged: table meta: {fault}", path)
            facts[fact] = value
    return facts


def fact_rows(facts: Mapping[str, str], path: str) -> list[tuple[str, str]]:
    """Rows of the table `meta` for these facts. Raises `JournalError` for what `facts_of` would
    call damaged."""
    for fact, value in facts.items():
        if fault := _fault_of_fact(fact, value):
            raise JournalError(f"cannot be written: {fault}", path)
    return [(f"{_FACT}{fact}", value) for fact, value in facts.items()]


def _fault_of_fact(fact: Any, value: Any) -> str:
    """What is wrong with a fact; empty if nothing."""
    if not _is_text(fact):
        return f"fact {fact!r:.40}: its name is no text"
    if not _is_text(value):
        return f"fact {shown(fact, 40)}: expected a text, got {value!r:.40}"
    if fact == "currency":
        try:
            Money(0, value)
        except ValueError:
            return f"fact {fact}: expected a currency, got {value!r:.40}"
    return ""


def lease_of(db: sqlite3.Connection, path: str = "") -> tuple[Owner, float] | None:
    """Who has the journal, and when the lease was last renewed; None if nobody has it. Raises
    `JournalError` for an invalid lease."""
    row = db.execute("SELECT name, pid, host, started, renewed FROM lease").fetchone()
    if row is None:
        return None
    name, pid, host, started, renewed = row
    texts = all(isinstance(text, str) for text in (name, host, started))
    if not texts or not isinstance(pid, int) or not isinstance(renewed, int | float):
        raise JournalError("the record of which process has it is damaged", path)
    return Owner(name, pid, host, started), renewed


def fetch(db: sqlite3.Connection, query: str, values: Sequence[Any], path: str) -> list[Any]:
    """The rows of a query. Raises `JournalError`."""
    return _read(db, query, values, path, sqlite3.Cursor.fetchall)


class Page(NamedTuple):
    """Some jobs, in order; `cut` if there may be more."""

    records: list[JobRecord]
    cut: bool


#: Bytes of requests that are read at once: one may hold pictures as data URIs, of megabytes each.
_PAGE_BYTES: Final = 2**20
_PARAMS: Final = _FIELDS.index("params")


def read_page(
    db: sqlite3.Connection, query: str, values: Sequence[Any], limit: int, path: str
) -> Page:
    """The first jobs that `query` finds: `limit` at most, fewer if they are large, and at least
    one if there is any. Raises `JournalError`."""

    def read(rows: sqlite3.Cursor) -> Page:
        records: list[JobRecord] = []
        size = 0
        for row in rows:
            records.append(record_or_damage(row, path))
            size += len(row[_PARAMS]) if isinstance(row[_PARAMS], str | bytes) else 0
            if len(records) >= limit or size >= _PAGE_BYTES:
                return Page(records, cut=True)
        return Page(records, cut=False)

    return _read(db, query, values, path, read)


def _read(
    db: sqlite3.Connection,
    query: str,
    values: Sequence[Any],
    path: str,
    read: Callable[[sqlite3.Cursor], _T],
) -> _T:
    """The results of `read` for the rows of a query. Text that is not UTF-8 contains halves of
    surrogate pairs, so that one bad row does not hide the others."""
    try:
        try:
            with closing(db.execute(query, values)) as rows:
                return read(rows)
        except sqlite3.OperationalError as error:
            if "decode" not in str(error):
                raise
        db.text_factory = _lenient
        try:
            with closing(db.execute(query, values)) as rows:
                return read(rows)
        finally:
            db.text_factory = str
    except (sqlite3.Error, OverflowError) as error:
        raise JournalError(f"cannot be read: {error}", path) from error


def _lenient(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")


def connect(path: str, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection to a journal, for one thread."""
    mode = "ro" if read_only else "rw"
    uri = f"file:{_quoted(path)}?mode={mode}"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10.0)
    try:
        # A page with impossible offsets is an error instead of being misread.
        db.execute("PRAGMA cell_size_check = ON")
    except BaseException:
        db.close()
        raise
    return db


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
