"""`export`: the jobs of a journal as a table for other programs, a row each."""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from .._journal import JobRecord
from .._names import prompt_of
from .._reader import JournalReader
from .._states import JobState
from ._manifest import line_text, stamp
from ._prompts import UsageError
from ._records import missing_places, moment, written
from ._tables import amount
from ._terminal import unescaped

__all__ = ["export"]

_COLUMNS: Final = (
    "place", "key", "state", "model", "prompt", "task_id", "attempts", "sent_at", "accepted_at",
    "ended_at", "cost", "currency", "code", "error", "files", "missing", "urls",
)  # fmt: skip

#: What a spreadsheet takes for the beginning of a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def export(args: argparse.Namespace) -> int:
    """Write the jobs of a journal, in the order in which they were saved, as they are now.

    In CSV, a text that a spreadsheet would take for a formula has an apostrophe before it; JSON
    lines are exact, and have the whole request. Exit status: 0. Raises `JournalError`, and
    `UsageError` for a file that cannot be written.
    """
    state = JobState(args.state) if args.state else None
    with JournalReader(args.journal) as reader, _target(args.output) as file:
        currency = reader.summary().spent.currency
        rows = (_row(record, currency) for record in reader.jobs(state))
        if args.format == "csv":
            _write_csv(file, rows)
        else:
            file.writelines(f"{line_text(row)}\n" for row in rows)
        file.flush()
    return 0


@contextlib.contextmanager
def _target(name: str | None) -> Iterator[IO[str]]:
    if name is None:
        yield unescaped(sys.stdout)
        return
    try:
        with written(Path(name)) as file:
            yield file
    except OSError as error:
        raise UsageError(f"-o {name}: {error.strerror or error}") from None


def _row(record: JobRecord, currency: str) -> dict[str, Any]:
    outputs = record.task.outputs if record.task else ()
    missing = missing_places(record) if record.state is JobState.PARTLY_STORED else []
    return {
        "place": record.place,
        "key": record.key,
        "state": record.state.value,
        "model": record.request.path,
        "prompt": prompt_of(record.request),
        "task_id": record.task.id if record.task else None,
        "attempts": record.attempts,
        "sent_at": stamp(moment(record.sent_at)),
        "accepted_at": stamp(moment(record.accepted_at)),
        "ended_at": stamp(moment(record.ended_at)),
        "cost": None if record.cost is None else amount(record.cost),
        "currency": None if record.cost is None else currency,
        "code": record.code or None,
        "error": record.error or None,
        "files": [file.name for file in record.files],
        "missing": [str(place + 1) for place in missing],
        "urls": [output.url for output in outputs if output.url],
        "request": record.request.to_params(),
    }


def _write_csv(file: IO[str], rows: Iterator[dict[str, Any]]) -> None:
    table = csv.writer(file, lineterminator="\n")
    table.writerow(_COLUMNS)
    for row in rows:
        table.writerow([_cell(row[name]) for name in _COLUMNS])


def _cell(value: Any) -> Any:
    if isinstance(value, list):
        value = "|".join(value)
    if not isinstance(value, str):
        return value
    # Half of a surrogate pair has no UTF-8.
    text = value.encode("utf-8", "replace").decode()
    return f"'{text}" if text.startswith(_FORMULA) else text
