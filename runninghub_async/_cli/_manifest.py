"""The record of a run: a JSON line per job, and the page made from it."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .._exceptions import APIError, RunningHubError, TaskFailed
from .._models import Task
from .._outcomes import Cancelled, Failed, Outcome, Succeeded, Unfinished, Unknown
from .._saved import Download

__all__ = [
    "Line",
    "Manifest",
    "cost_of",
    "job_line",
    "line_text",
    "outputs_of",
    "stamp",
    "unfinished_line",
]

Line = dict[str, Any]


def job_line(outcome: Outcome, *, ended: datetime.datetime, currency: str) -> Line:
    """The line of a job that ended at `ended`."""
    status = {Succeeded: "succeeded", Failed: "failed", Cancelled: "cancelled", Unknown: "unknown"}
    task, seconds = outcome.task, outcome.seconds
    begun = ended - datetime.timedelta(seconds=seconds) if seconds is not None else None
    files: tuple[Download, ...] = getattr(outcome, "files", ())
    error = getattr(outcome, "error", None)
    if isinstance(outcome, Succeeded) and task is not None and len(files) < len(task.outputs):
        error = RunningHubError("interrupted before it was fetched")
    return {
        **_common(outcome.index, outcome.request, task.id if task else None),
        "status": "failed" if error and outcome.ok else status[type(outcome)],
        "files": [
            {"path": file.path.name, "sha256": file.sha256, "bytes": file.size} for file in files
        ],
        "outputs": outputs_of(task),
        "submitted_at": stamp(begun),
        "finished_at": stamp(ended),
        "seconds": None if seconds is None else round(seconds, 3),
        "attempts": outcome.attempts,
        "queries": outcome.queries,
        "cost": cost_of(task, currency),
        "error": None if error is None else _error(error),
    }


def unfinished_line(left: Unfinished) -> Line:
    """The line of a job that had not ended when the run did."""
    return {
        **_common(left.index, left.request, left.task_id),
        "status": left.state,
        "files": [],
        "outputs": [],
        "submitted_at": None,
        "finished_at": None,
        "seconds": None,
        "attempts": 0 if left.state == "not_submitted" else 1,
        "queries": 0,
        "cost": None,
        "error": None,
    }


def _common(index: int, request: Any, task_id: str | None) -> Line:
    return {
        "index": index,
        "status": "",
        "model": request.path,
        "request": request.to_params(),
        "task_id": task_id,
    }


def outputs_of(task: Task | None) -> list[dict[str, Any]]:
    """What a task made, as the service told it."""
    outputs = task.outputs if task else ()
    return [{"url": o.url, "type": o.type, "text": o.text} for o in outputs]


def cost_of(task: Task | None, currency: str) -> dict[str, str] | None:
    """What a task was billed, in the site's currency or in coins."""
    if task is None or task.usage is None:
        return None
    if task.usage.total_money is not None:
        return {"amount": str(task.usage.total_money), "currency": currency}
    if task.usage.coins is not None:
        return {"amount": str(task.usage.coins), "currency": "coins"}
    return None


def _error(error: Exception) -> dict[str, Any]:
    code = error.code if isinstance(error, APIError | TaskFailed) else ""
    return {"type": _public(type(error)), "code": code or None, "message": str(error)}


def _public(kind: type[Exception]) -> str:
    """The nearest class that users can import: private ones are details of the package."""
    import runninghub_async

    kinds = (c for c in kind.__mro__ if getattr(runninghub_async, c.__name__, None) is c)
    return next(kinds, RunningHubError).__name__


def stamp(moment: datetime.datetime | None) -> str | None:
    """ISO 8601 in UTC, with milliseconds."""
    if moment is None:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def line_text(line: Line) -> str:
    """`line` as JSON. A local file in its request becomes its path."""
    text = json.dumps(line, ensure_ascii=False, default=os.fspath)
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            # Half of a surrogate pair: JSON can say it, UTF-8 cannot.
            text = json.dumps(line, default=os.fspath)
    return text


class Manifest:
    """`manifest.jsonl`, a line per job in the order in which they ended. Each line is written and
    flushed whole, so that whatever ends the program leaves whole lines."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self._file = self.path.open("w", encoding="utf-8")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, line: Line) -> None:
        """Add one job."""
        self._file.write(line_text(line) + "\n")
        self._file.flush()

    def read(self) -> Iterator[Line]:
        """The lines in input order."""
        with self.path.open(encoding="utf-8") as file:
            yield from sorted((json.loads(line) for line in file), key=lambda line: line["index"])
