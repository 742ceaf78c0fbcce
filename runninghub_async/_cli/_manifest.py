"""The record of a run: a JSON line per job, and the page made from it."""

from __future__ import annotations

import datetime
import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .._download import Download
from .._exceptions import APIError, RunningHubError, TaskFailed
from .._models import Task
from .._outcomes import Cancelled, Failed, Outcome, Succeeded, Unfinished, Unknown

__all__ = ["Manifest", "file_stem", "job_line", "unfinished_line"]

Line = dict[str, Any]


def file_stem(index: int, prompt: str) -> str:
    """`00042-slug`: the place in the input, and what any file system takes of the prompt.

    Letters of every script stay; nothing that a shell, a path or a URL reads in its own way.
    """
    text = unicodedata.normalize("NFKC", prompt).casefold()
    kept = (c if unicodedata.category(c)[0] in "LMN" else "-" for c in text)
    slug = re.sub("-+", "-", "".join(kept)).strip("-")
    while len(slug.encode()) > 60:
        slug = slug[:-1]
    return f"{index:05d}-{slug.strip('-')}" if slug else f"{index:05d}"


def job_line(
    outcome: Outcome,
    files: list[Download],
    *,
    ended: datetime.datetime,
    currency: str,
    error: Exception | None = None,
) -> Line:
    """The line of a job that ended at `ended`. `error`: why its files could not be fetched."""
    status = {Succeeded: "succeeded", Failed: "failed", Cancelled: "cancelled", Unknown: "unknown"}
    task, seconds = outcome.task, outcome.seconds
    begun = ended - datetime.timedelta(seconds=seconds) if seconds is not None else None
    trouble = error or getattr(outcome, "error", None)
    return {
        **_common(outcome.index, outcome.request, task.id if task else None),
        "status": "failed" if error else status[type(outcome)],
        "files": [
            {"path": file.path.name, "sha256": file.sha256, "bytes": file.size} for file in files
        ],
        "outputs": _outputs(task),
        "submitted_at": _stamp(begun),
        "finished_at": _stamp(ended),
        "seconds": None if seconds is None else round(seconds, 3),
        "attempts": outcome.attempts,
        "queries": outcome.queries,
        "cost": _cost(task, currency),
        "error": None if trouble is None else _error(trouble),
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


def _outputs(task: Task | None) -> list[dict[str, Any]]:
    outputs = task.outputs if task else ()
    return [{"url": o.url, "type": o.type, "text": o.text} for o in outputs]


def _cost(task: Task | None, currency: str) -> dict[str, str] | None:
    if task is None or task.usage is None:
        return None
    if task.usage.total_money is not None:
        return {"amount": str(task.usage.total_money), "currency": currency}
    if task.usage.coins is not None:
        return {"amount": str(task.usage.coins), "currency": "coins"}
    return None


def _error(error: Exception) -> dict[str, Any]:
    code = error.code if isinstance(error, APIError | TaskFailed) else ""
    kind = type(error) if isinstance(error, OSError) else _public(type(error))
    return {"type": kind.__name__, "code": code or None, "message": str(error)}


def _public(kind: type[Exception]) -> type[Any]:
    """The nearest class that users can import: private ones are details of the package."""
    import runninghub_async

    return next(
        (c for c in kind.__mro__ if getattr(runninghub_async, c.__name__, None) is c),
        RunningHubError,
    )


def _stamp(moment: datetime.datetime | None) -> str | None:
    if moment is None:
        return None
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


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
        """Add one job. A local file in its request becomes its path."""
        text = json.dumps(line, ensure_ascii=False, default=os.fspath)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                # Half of a surrogate pair: JSON can say it, UTF-8 cannot.
                text = json.dumps(line, default=os.fspath)
        self._file.write(text + "\n")
        self._file.flush()

    def read(self) -> Iterator[Line]:
        """The lines in input order."""
        with self.path.open(encoding="utf-8") as file:
            yield from sorted((json.loads(line) for line in file), key=lambda line: line["index"])
