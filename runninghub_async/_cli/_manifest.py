"""The record of a run: a JSON line per job, and the page made from it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import heapq
import json
import os
import re
from array import array
from collections import deque
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Any, Final

from .._exceptions import APIError, RunningHubError, TaskFailed
from .._models import Task
from .._outcomes import Cancelled, Failed, Outcome, Succeeded, Unfinished, Unknown
from .._saved import Download
from .._threads import Lane
from ._waiting import until_written

__all__ = [
    "Line",
    "Manifest",
    "ManifestError",
    "ManifestFile",
    "cost_of",
    "job_line",
    "line_text",
    "missing_of",
    "outputs_of",
    "stamp",
    "unfinished_line",
]

Line = dict[str, Any]

#: Lines of a manifest that are sorted at once.
_SORTED: Final = 10_000

#: URLs that need no key: anybody who has one can fetch the file.
_URL: Final = re.compile(r"https?://\S+")

#: Bytes of a manifest that are copied at once.
_PIECE: Final = 2**20


def job_line(outcome: Outcome, *, ended: datetime.datetime, currency: str) -> Line:
    """The line of a job that ended at `ended`."""
    status = {Succeeded: "succeeded", Failed: "failed", Cancelled: "cancelled", Unknown: "unknown"}
    task, seconds = outcome.task, outcome.seconds
    begun = ended - datetime.timedelta(seconds=seconds) if seconds is not None else None
    files: tuple[Download, ...] = getattr(outcome, "files", ())
    error = getattr(outcome, "error", None)
    missing = _missing_places(outcome)
    partly = bool(missing) and bool(files)
    if isinstance(outcome, Succeeded) and len(files) + len(missing) < len(outcome.task.outputs):
        error = RunningHubError("interrupted before it was fetched")
    elif missing and not files:
        error = RunningHubError("none of its results could be saved")
    stored = task is not None and outcome.ok and (error is None or partly)
    return {
        **_common(outcome.index, outcome.request, task.id if task else None),
        "status": "failed"
        if error and outcome.ok
        else "partly_stored"
        if partly
        else status[type(outcome)],
        "files": [
            {"path": file.path.name, "sha256": file.sha256, "bytes": file.size} for file in files
        ],
        "outputs": outputs_of(task, stored=stored, missing=missing),
        "missing": missing_of(task, missing),
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
        "missing": [],
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


def outputs_of(
    task: Task | None, *, stored: bool, missing: Collection[int] = ()
) -> list[dict[str, Any]]:
    """What a task made, as the service describes it, each with its state: `stored`, `missing`, or
    `not_stored` if none of them is stored. `missing`: places of outputs, from 0."""
    states = ("stored" if stored else "not_stored", "missing")
    return [
        {"url": o.url, "type": o.type, "text": o.text, "state": states[place in missing]}
        for place, o in enumerate(task.outputs if task else ())
    ]


def missing_of(
    task: Task | None, places: Collection[int], reason: str | None = None
) -> list[dict[str, Any]]:
    """The outputs at these places, which could not be saved, without their URLs: number, type, and
    the reason if it is known."""
    outputs = task.outputs if task else ()
    return [
        {
            "output": place + 1,
            "of": len(outputs),
            "type": outputs[place].type,
            "node_id": outputs[place].node_id,
            "reason": None if reason is None else _URL.sub("(a URL)", reason),
        }
        for place in sorted(places)
    ]


def _missing_places(outcome: Outcome) -> frozenset[int]:
    """The places of the outputs that could not be saved, among those of the task."""
    if not isinstance(outcome, Succeeded):
        return frozenset()
    left = list(outcome.missing)
    places = set()
    for place, output in enumerate(outcome.task.outputs):
        if output in left:
            left.remove(output)
            places.add(place)
    return frozenset(places)


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


class ManifestFile:
    """`manifest.jsonl`, a line for each job in the order in which they ended. For one thread at
    a time; all methods raise `OSError`.

    A line is written whole or not at all: a part that a full disk accepted is removed again. A file
    that was deleted is written again; if that is not possible, `append` fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Kept open, so that a full disk or a folder that is moved away does not lose what is in it.
        self._file = path.open("a+b", buffering=0)
        #: Its length in whole lines, in bytes.
        self._size = _end_last_line(self._file)
        #: Of each line, the index of its job and where it begins.
        self._indices, self._offsets = array("q"), array("q")

    def append(self, line: Line) -> None:
        """Add the line of a job."""
        data = line_text(line).encode()
        self._restore()
        try:
            self._file.truncate(self._size)
            _write_all(self._file, data)
            _write_all(self._file, b"\n")
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise
        self._indices.append(line["index"])
        self._offsets.append(self._size)
        self._size += len(data) + 1

    def _restore(self) -> None:
        """Write the file anew if it was deleted, or its folder moved away."""
        if self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = self.path.open("x+b", buffering=0)
        try:
            self._file.seek(0)
            while piece := self._file.read(_PIECE):
                _write_all(file, piece)
        except BaseException:
            file.close()
            self.path.unlink()
            raise
        self._file.close()
        self._file = file

    def read(self) -> Iterator[Line]:
        """The lines in the order of the input, one at a time."""
        self._restore()
        with self.path.open("rb") as file:
            for place in self._in_order():
                file.seek(self._offsets[place])
                yield json.loads(file.readline())

    def _in_order(self) -> Iterator[int]:
        """The lines by the index of their jobs. Sorted in parts: while it sorts, Python runs no
        other thread, and the event loop must not wait for hundreds of thousands."""
        key, count = self._indices.__getitem__, len(self._indices)
        parts = (
            sorted(range(begin, min(begin + _SORTED, count)), key=key)
            for begin in range(0, count, _SORTED)
        )
        return heapq.merge(*parts, key=key)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _end_last_line(file: IO[bytes]) -> int:
    """End a line that an earlier process did not finish; return the size of the file."""
    size = file.seek(0, os.SEEK_END)
    if size:
        file.seek(size - 1)
        if file.read(1) != b"\n":
            _write_all(file, b"\n")
            size += 1
    return size


def _write_all(file: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


class ManifestError(RunningHubError):
    """The manifest cannot be written."""


class Manifest:
    """Writes the lines of a manifest in a thread, and waits while the disk is full.

    `hold`: see `until_written`. `unwritten`: the lines that are not on disk yet.
    """

    def __init__(self, file: ManifestFile) -> None:
        self.file = file
        self.hold: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
        self.unwritten: deque[Line] = deque()
        self._lane = Lane()
        self._work: asyncio.Task[None] | None = None
        self._error: OSError | None = None

    def add(self, line: Line) -> None:
        """Have a line written soon."""
        self.unwritten.append(line)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._write())

    async def written(self) -> None:
        """Return when all lines are on disk. Raises `ManifestError` if they cannot be written."""
        if self._work is not None:
            # A caller that is cancelled leaves; the line is written all the same.
            await asyncio.shield(self._work)
        if self._error is not None:
            reason = self._error.strerror or self._error
            raise ManifestError(f"{self.file.path} cannot be written: {reason}") from self._error

    async def _write(self) -> None:
        while self.unwritten and self._error is None:
            try:
                await until_written(self._write_first, self.file.path, self.hold, self._lane)
            except OSError as error:
                self._error = error

    async def finish(self, *, patient: bool) -> list[Line]:
        """Write the remaining lines, and return those that cannot be written. `patient`: wait while
        the disk is full; otherwise each line is tried once. When cancelled, it ends once the
        thread has, and may be called again."""
        try:
            if patient:
                await self.written()
        except ManifestError:
            pass
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])
        try:
            await self._lane.run(self._write_once)
        except OSError as error:
            self._error = error
        self._lane.close()
        return list(self.unwritten)

    def _write_once(self) -> None:
        while self.unwritten:
            self._write_first()

    def _write_first(self) -> None:
        # In one step: a cancellation must not come between the two.
        self.file.append(self.unwritten[0])
        self.unwritten.popleft()
