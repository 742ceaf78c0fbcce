"""A journal as it is now, read while another process may be writing it. Nothing is changed."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

import attrs

from ._budget import listed_price
from ._exceptions import JournalError
from ._journal import JobRecord, amount_of
from ._journal_file import is_log_cut, log_lost
from ._migrations import OLDEST, WITH_ASSUMED, assumed_before
from ._money import Money, Sums
from ._owner import LEASE
from ._schema import (
    APPLICATION,
    VERSION,
    columns_of,
    connect,
    facts_of,
    fetch,
    lease_of,
    of_state,
    read_page,
    totals_in,
)
from ._states import JobState

__all__ = ["JournalReader", "JournalSummary"]

_PAGE: Final = 500

#: What all prices of the catalogue are in.
CATALOGUE_CURRENCY: Final = "CNY"


_NOTHING: Final = Money("0", CATALOGUE_CURRENCY)


@attrs.frozen
class JournalSummary:
    """A journal in numbers. `states`: how many jobs are in each state. `spent`: what all have been
    billed. `at_stake`: the most that jobs of unknown outcome, and jobs whose submit is under way,
    may cost by the catalogue, in each currency. `ended_per_minute`: over the last ten minutes in
    which anything ended, this one included. `owner`: the process that has the journal open; empty
    if none has. `facts`: what was recorded about the run.

    `assumed`: what jobs are assumed to have cost in addition to `spent`, at the catalogue's price:
    tasks that succeeded but whose answer named no cost, and submits of unknown outcome that were
    repeated. A budget counts it.
    """

    states: Mapping[JobState, int]
    spent: Money
    at_stake: tuple[Money, ...] = ()
    ended_per_minute: float = 0.0
    owner: str = ""
    facts: Mapping[str, str] = attrs.field(factory=dict)
    assumed: Money = _NOTHING


class JournalReader:
    """The journal in the file `path`; use it with `with`, in one thread. Each call sees a
    consistent state. A journal of an older version of the package is read without changing it.

    Raises `JournalError` for a file that is not a journal of this package, and for a newer or
    damaged journal. Of a damaged row the record holds what can be read, with its `damage`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - text, for messages and SQLite
        if is_log_cut(self.path):
            # SQLite would forget what is missing, and a later run pay for it again.
            raise log_lost(self.path, "is damaged", " before you continue")
        with contextlib.ExitStack() as on_error:
            try:
                self._db = on_error.enter_context(
                    contextlib.closing(connect(self.path, read_only=True))
                )
                application = self._db.execute("PRAGMA application_id").fetchone()[0]
                self._version = self._db.execute("PRAGMA user_version").fetchone()[0]
            except sqlite3.Error as error:
                raise JournalError(f"cannot be read: {error}", self.path) from error
            self._columns = columns_of(self._version)
            if application != APPLICATION or not OLDEST <= self._version <= VERSION:
                raise JournalError(_not_readable(application, self._version), self.path)
            on_error.pop_all()

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
        """The journal in numbers, however many jobs it holds. Raises `JournalError`."""
        try:
            self._db.execute("BEGIN")
            try:
                return self._summary()
            finally:
                self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise JournalError(f"cannot be read: {error}", self.path) from error

    def _read(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        return fetch(self._db, query, values, self.path)

    def _summary(self) -> JournalSummary:
        states, spent, assumed = totals_in(self._read("SELECT name, amount FROM totals"), self.path)
        if self._version < WITH_ASSUMED:
            assumed = amount_of(sum(amount for amount, _ in assumed_before(self._db)))
        facts = facts_of(self._db, self.path)
        holder = lease_of(self._db, self.path)
        lives = holder is not None and holder[0].lives(holder[1], time.time(), LEASE)
        owner = str(holder[0]) if holder is not None and lives else ""
        return JournalSummary(
            states,
            Money(spent, facts.get("currency", "CNY")),
            self._at_stake(),
            self._rate(),
            owner,
            facts,
            Money(assumed, CATALOGUE_CURRENCY),
        )

    def _at_stake(self) -> tuple[Money, ...]:
        open_bills = (JobState.UNKNOWN, JobState.SUBMITTING)
        records = itertools.chain.from_iterable(map(self.jobs, open_bills))
        return Sums(listed_price(record.request) for record in records).all()

    def _rate(self) -> float:
        minute = int(time.time() // 60)
        rows = self._read(
            "SELECT minute, ended FROM minutes WHERE minute > ? ORDER BY minute", (minute - 10,)
        )
        if not all(isinstance(number, int) and number >= 0 for row in rows for number in row):
            raise JournalError("is damaged: table minutes: not a count", self.path)
        if not rows or rows[0][0] > minute:
            return 0.0
        minutes: int = minute - rows[0][0] + 1
        return float(sum(ended for _, ended in rows)) / minutes

    def repeated(self) -> int:
        """How many jobs that were never submitted repeat a request that was submitted and may have
        been billed, for example after a line was inserted into the input."""
        ((count,),) = self._read(
            "SELECT count(*) FROM jobs WHERE open = 0 AND state = 'new' AND attempts = 0"
            " AND held = 0 AND content IN (SELECT content FROM jobs"
            " WHERE state NOT IN ('new', 'refused', 'failed', 'cancelled'))"
        )
        return int(count)

    def jobs(self, state: JobState | None = None) -> Iterator[JobRecord]:
        """All jobs, or those in one state, in the order in which they were recorded; read bit by
        bit, so a job may have moved on meanwhile. Raises `JournalError`."""
        where, values = ("TRUE", []) if state is None else of_state(state)
        after = 0
        while True:
            query = f"SELECT {self._columns} FROM jobs WHERE {where} AND seq > ? ORDER BY seq"
            page = read_page(self._db, query, (*values, after), _PAGE, self.path)
            yield from page.records
            if not page.cut:
                return
            after = page.records[-1].seq


def _not_readable(application: int, version: int) -> str:
    if not (application or version):
        return "is empty"
    if application != APPLICATION:
        return "is not a journal of this package"
    if version > VERSION:
        return f"has the newer schema {version}; this version of the package knows {VERSION}"
    return f"is damaged: no version writes the schema {version}"
