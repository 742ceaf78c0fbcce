"""The jobs of a journal as lines of a manifest, and the manifest and the page made of them."""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

from .._journal import JobRecord, error_in
from .._names import file_stem, prompt_of
from .._reader import JournalReader
from .._states import JobState
from ._manifest import Line, cost_of, line_text, missing_of, outputs_of, stamp
from ._sheet import sheet_pieces
from ._tables import amount

__all__ = ["error_of", "line_of", "missing_places", "moment", "write_pages", "written"]

_STATUS: Final = {
    JobState.NEW: "not_submitted",
    JobState.REFUSED: "not_submitted",
    JobState.SUBMITTING: "unknown",
    JobState.ACCEPTED: "running",
    JobState.RUNNING: "running",
    # The task did, and there are no files of it.
    JobState.SUCCEEDED: "failed",
    JobState.PARTLY_STORED: "partly_stored",
    JobState.STORED: "succeeded",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.UNKNOWN: "unknown",
}

#: `fromtimestamp` of Windows ends before the year 10000, up to which a journal's times go.
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

_WITH_ERROR: Final = (
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.SUCCEEDED,
    JobState.PARTLY_STORED,
)


def line_of(record: JobRecord, currency: str) -> Line:
    """The manifest's line of a job. A job that no input had has the number of its row as its
    index; how often it was asked after is not kept."""
    begun, ended = record.accepted_at or record.sent_at, record.ended_at
    seconds = None if begun is None or ended is None else round(ended - begun, 3)
    stored = record.state in (JobState.STORED, JobState.PARTLY_STORED)
    missing = missing_places(record) if record.state is JobState.PARTLY_STORED else ()
    return {
        "index": record.seq if record.place is None else record.place,
        "status": _STATUS[JobState.FAILED if record.damage is not None else record.state],
        "model": record.request.path,
        "request": record.request.to_params(),
        "task_id": record.task.id if record.task else None,
        "files": [{"path": f.name, "sha256": f.sha256, "bytes": f.size} for f in record.files]
        if stored
        else [],
        "outputs": outputs_of(record.task, stored=stored, missing=missing),
        "missing": missing_of(record.task, missing, record.error or None),
        "submitted_at": stamp(moment(begun)),
        "finished_at": stamp(moment(ended)),
        "seconds": seconds,
        "attempts": record.attempts,
        "queries": None,
        "cost": {"amount": amount(record.cost), "currency": currency}
        if record.cost is not None
        else cost_of(record.task, currency),
        "error": error_of(record),
    }


def missing_places(record: JobRecord) -> list[int]:
    """The places of a task's outputs of which there is no file, by the names that files get."""
    if record.task is None:
        return []
    place = record.seq if record.place is None else record.place
    stem = re.escape(file_stem(place, prompt_of(record.request)))
    names = [file.name for file in record.files]
    missing = []
    for number in range(len(record.task.outputs)):
        own = f"{stem}-{number + 1}" if number else stem
        # A second name of the job's has eight digits of its key.
        if not any(re.fullmatch(rf"{own}(-[0-9a-f]{{8}})?\.[^.]*", name) for name in names):
            missing.append(number)
    # Names that the user gave show how many there are, and not which.
    count = max(0, len(record.task.outputs) - len(names))
    return missing if len(missing) == count else list(range(len(names), len(names) + count))


def error_of(record: JobRecord) -> dict[str, Any] | None:
    """What went wrong with a job: the error's type, the service's code, and the message."""
    if record.damage is not None:
        return {"type": "JournalError", "code": None, "message": str(record.damage)}
    if record.state is JobState.UNKNOWN:
        return {"type": "SubmitUnknown", "code": None, "message": str(error_in(record))}
    if record.error and record.state in _WITH_ERROR:
        kind, told, message = record.error.partition(": ")
        if not (told and kind.isidentifier()):
            kind, message = "RunningHubError", record.error
        return {"type": kind, "code": record.code or None, "message": message}
    if record.state is JobState.SUCCEEDED:
        return {"type": "RunningHubError", "code": None, "message": "not fetched yet"}
    if record.state in (JobState.FAILED, JobState.CANCELLED):
        error = error_in(record)
        return {"type": type(error).__name__, "code": record.code or None, "message": str(error)}
    return None


def moment(seconds: float | None) -> datetime.datetime | None:
    """Unix time as a moment in UTC."""
    return None if seconds is None else _EPOCH + datetime.timedelta(seconds=seconds)


def write_pages(journal: str, folder: Path, facts: Mapping[str, str]) -> None:
    """Write `manifest.jsonl` and `index.html` of a journal into `folder`, which is made if it is
    not there; whole or not at all, and line by line, however many they are. Raises `OSError` and
    `JournalError`."""
    folder.mkdir(parents=True, exist_ok=True)
    with JournalReader(journal) as reader:
        currency = reader.summary().spent.currency

        def lines() -> Iterator[Line]:
            return (line_of(record, currency) for record in reader.jobs())

        with written(folder / "manifest.jsonl") as file:
            file.writelines(f"{line_text(line)}\n" for line in lines())
        with written(folder / "index.html") as file:
            title = folder.resolve().name
            file.writelines(sheet_pieces(lines(), title=title, facts=facts))


@contextlib.contextmanager
def written(path: Path) -> Iterator[IO[str]]:
    """A file that takes the place of `path` once it is whole."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
