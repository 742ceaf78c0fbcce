"""Checks that a journal is whole when it is opened. SQL and no threads.

A job whose row was lost, or whose key was changed, would be submitted again; so a journal in which
that may have happened is refused. Faults within a row are found when the row is read.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from ._exceptions import JournalError
from ._rows import mark_of
from ._schema import TABLES, fetch, totals_in

__all__ = ["inspect", "recount"]

#: Up to this size, in bytes, every page is checked, which takes about half a second at most.
#: Beyond that only the rows are counted.
THOROUGH: Final = 64 * 2**20

_WHAT_TO_DO: Final = (
    "Jobs may be missing, which would be submitted and paid for again: restore the journal from a"
    " copy. To continue with what is left, open it with SqliteJobStore(path, repair=True)"
)


def inspect(db: sqlite3.Connection, path: str, size: int) -> None:
    """Raise `JournalError` unless the journal in `path`, of so many bytes, is whole."""
    for table, expected in TABLES.items():
        found = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
        if not expected <= found:
            what = ", ".join(sorted(expected - found)) if found else "is missing"
            raise JournalError(f"is damaged: table {table}: {what}. {_WHAT_TO_DO}", path)
    if size <= THOROUGH:
        (fault,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if fault != "ok":
            raise JournalError(f"is damaged: {fault}. {_WHAT_TO_DO}", path)
    _compare_sums(db, path, thorough=size <= THOROUGH)
    # Not needed for correctness, only for speed.
    db.execute("CREATE INDEX IF NOT EXISTS jobs_open ON jobs (open, seq) WHERE open IS NOT NULL")


def _compare_sums(db: sqlite3.Connection, path: str, *, thorough: bool) -> None:
    sums = fetch(db, "SELECT name, amount FROM totals", (), path)
    states, _, _ = totals_in(sums, path)
    count, first = db.execute("SELECT count(*), min(seq) FROM jobs").fetchone()
    if count and not (isinstance(first, int) and first > 0):
        # Jobs are read from number 1 on, so this one would be passed over.
        raise JournalError(
            f"is damaged: table jobs: a row has the number {first!r:.40}. {_WHAT_TO_DO}", path
        )
    if sum(states.values()) != count:
        raise JournalError(
            f"is damaged: it holds {count} jobs and has recorded {sum(states.values())}."
            f" {_WHAT_TO_DO}",
            path,
        )
    if thorough and _sum_of_keys(db, path) != dict(sums).get("keys", 0):
        raise JournalError(
            f"is damaged: the keys of its jobs are not those it has recorded. {_WHAT_TO_DO}", path
        )


def _sum_of_keys(db: sqlite3.Connection, path: str) -> int:
    return sum(mark_of(key) for (key,) in fetch(db, "SELECT key FROM jobs", (), path))


def recount(db: sqlite3.Connection, path: str) -> None:
    """Recompute the sums from the rows that are left; the money that was paid stays as recorded."""
    db.execute("REINDEX")
    db.execute(
        "UPDATE jobs SET seq = seq + (SELECT max(0, max(seq)) - min(seq) + 1 FROM jobs)"
        " WHERE seq < 1"
    )
    kept = {
        name: amount for name, amount in fetch(db, "SELECT name, amount FROM totals", (), path)
        if name in ("spent", "assumed") and isinstance(amount, int) and amount >= 0
    }  # fmt: skip
    counts = dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall())
    counts = {str(state): count for state, count in counts.items()}
    db.execute("DELETE FROM totals")
    sums = {**counts, **kept, "keys": _sum_of_keys(db, path)}
    db.executemany("INSERT INTO totals VALUES (?, ?)", sums.items())
