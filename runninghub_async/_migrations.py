"""The steps from each schema of a journal to the next. SQL and no threads.

Every later version of the package opens a journal. So a new schema comes with a step here, and with
a journal in `tests/journals` that the previous version wrote.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from ._rows import listed_nano, mark_of

__all__ = [
    "MIGRATIONS",
    "OLDEST",
    "WITH_ASSUMED",
    "Migration",
    "assumed_before",
    "steps_from",
]

#: The first schema that a release wrote.
OLDEST: Final = 1

#: The first schema that keeps what jobs are assumed to have cost.
WITH_ASSUMED: Final = 2

#: Jobs that were paid for at a cost that the service did not name.
_WITHOUT_COST: Final = (
    "SELECT seq, path, params FROM jobs"
    " WHERE state IN ('succeeded', 'partly_stored', 'stored') AND cost IS NULL"
)


class Migration(NamedTuple):
    """How a journal gets the schema `number`, from the one before it. `change` runs within the
    transaction that also records the number: it is made as a whole or not at all."""

    number: int
    description: str
    change: Callable[[sqlite3.Connection], None]


def steps_from(version: int) -> Iterable[Migration]:
    """The steps that a journal of this schema needs, in order."""
    return [step for step in MIGRATIONS if step.number > version]


def assumed_before(db: sqlite3.Connection) -> list[tuple[int, int]]:
    """In a journal of schema 1: what jobs whose cost the service did not name cost by the
    catalogue, in billionths, and their rows."""
    priced = ((listed_nano(path, params), seq) for seq, path, params in db.execute(_WITHOUT_COST))
    return [(amount, seq) for amount, seq in priced if amount]


def _keep_assumed_costs(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE jobs ADD COLUMN assumed INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE lease ADD COLUMN file TEXT NOT NULL DEFAULT ''")
    db.execute("ALTER TABLE lease ADD COLUMN logged INTEGER NOT NULL DEFAULT 1")
    # It held the stored jobs only; the index that replaces it is made when it is needed.
    db.execute("DROP INDEX IF EXISTS jobs_by_content")
    amounts = assumed_before(db)
    db.executemany("UPDATE jobs SET assumed = ? WHERE seq = ?", amounts)
    keys: Any = db.execute("SELECT key FROM jobs")
    totals = Counter(
        assumed=sum(amount for amount, _ in amounts), keys=sum(mark_of(key) for (key,) in keys)
    )
    db.executemany("INSERT OR REPLACE INTO totals VALUES (?, ?)", totals.items())


MIGRATIONS: Final = (
    Migration(
        2,
        "keep what jobs are assumed to have cost, the sum of all keys, and the journal's own file",
        _keep_assumed_costs,
    ),
)
