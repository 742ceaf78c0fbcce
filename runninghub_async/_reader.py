"""A journal as it is now, read while another process may be writing it. Nothing is changed."""

from __future__ import annotations

import itertools
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final, Self

import attrs

from ._budget import listed_price
from ._exceptions import JournalError
from ._journal import JobRecord
from ._money import Money, Sums
from ._owner import LEASE
from ._schema import (
    APPLICATION,
    COLUMNS,
    FACTS,
    VERSION,
    connect,
    lease_of,
    of_state,
    read_page,
    totals_in,
)
from ._states import JobState

__all__ = ["JournalReader", "JournalSummary"]

_PAGE: Final = 500


@attrs.frozen
class JournalSummary:
    """A journal in numbers. `states`: how many jobs are in each state. `spent`: what all have
    been billed. `at_stake`: what those of unknown fate, and those whose submit is under way,
    cost at most by the catalogue, in each currency. `ended_per_minute`: over the last ten
    minutes in which anything ended, this one included. `owner`: the process that has the journal
    open; empty if none has. `facts`: what was put down of the run."""

    states: Mapping[JobState, int]
    spent: Money
    at_stake: tuple[Money, ...] = ()
    ended_per_minute: float = 0.0
    owner: str = ""
    facts: Mapping[str, str] = attrs.field(factory=dict)


class JournalReader:
    """The journal in the file `path`; use it with `with`, in one thread. Each call sees a whole
    state of it. Raises `JournalError` for what is no journal of this package, or a newer one."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - text, for messages and SQLite
        try:
            self._db = connect(self.path, read_only=True)
            application = self._db.execute("PRAGMA application_id").fetchone()[0]
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.Error as error:
            raise JournalError(f"cannot be read: {error}", self.path) from error
        if (application, version) != (APPLICATION, VERSION):
            self._db.close()
            if not (application or version):
                raise JournalError("holds nothing, or not yet", self.path)
            newer = application == APPLICATION and version > VERSION
            told = f"has the newer schema {version}" if newer else "is no journal of this package"
            raise JournalError(told, self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._db.close()

    def summary(self) -> JournalSummary:
        """The journal in numbers, however many jobs it holds."""
        self._db.execute("BEGIN")
        try:
            return self._summary()
        finally:
            self._db.execute("COMMIT")

    def _summary(self) -> JournalSummary:
        db = self._db
        states, spent = totals_in(db.execute("SELECT name, amount FROM totals"))
        facts = dict(db.execute(FACTS))
        holder = lease_of(db)
        lives = holder is not None and holder[0].lives(holder[1], time.time(), LEASE)
        owner = str(holder[0]) if holder is not None and lives else ""
        return JournalSummary(
            states,
            Money(spent, facts.get("currency", "CNY")),
            self._at_stake(),
            self._rate(),
            owner,
            facts,
        )

    def _at_stake(self) -> tuple[Money, ...]:
        open_bills = (JobState.UNKNOWN, JobState.SUBMITTING)
        records = itertools.chain.from_iterable(map(self.jobs, open_bills))
        return Sums(listed_price(record.request) for record in records).all()

    def _rate(self) -> float:
        minute = int(time.time() // 60)
        rows = self._db.execute(
            "SELECT minute, ended FROM minutes WHERE minute > ? ORDER BY minute", (minute - 10,)
        ).fetchall()
        if not rows:
            return 0.0
        minutes: int = minute - rows[0][0] + 1
        return float(sum(ended for _, ended in rows)) / minutes

    def repeated(self) -> int:
        """How many jobs that were never submitted have the request of one that was, and that may
        have been billed: as after a line was inserted into the input of the run."""
        (count,) = self._db.execute(
            "SELECT count(*) FROM jobs WHERE open = 0 AND state = 'new' AND attempts = 0"
            " AND held = 0 AND content IN (SELECT content FROM jobs"
            " WHERE state NOT IN ('new', 'refused', 'failed', 'cancelled'))"
        ).fetchone()
        return int(count)

    def jobs(self, state: JobState | None = None) -> Iterator[JobRecord]:
        """All jobs, or those in one state, in the order in which they were put down; read bit by
        bit, so a job may have moved on meanwhile."""
        where, values = ("TRUE", []) if state is None else of_state(state)
        after = 0
        while True:
            query = f"SELECT {COLUMNS} FROM jobs WHERE {where} AND seq > ? ORDER BY seq"
            page = read_page(self._db, query, (*values, after), _PAGE)
            yield from page.records
            if not page.cut:
                return
            after = page.records[-1].seq
