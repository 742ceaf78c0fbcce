"""Results into a folder, while a stream runs: a few at once, each under its job's own name."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

import attrs

from ._bounded import Bounded
from ._dispatcher import Dispatcher
from ._download import keep_text
from ._exceptions import DownloadError, PolicyError, RunningHubError
from ._fetching import Fetching, FreshUrls, host_key
from ._hold import FolderHold, Hold, HostHold
from ._journal import KeptFile, numbered
from ._log import logger_of
from ._models import Output
from ._names import STEM_SHORT, comparable, ending, file_stem, fit_name, prompt_of, usable_stem
from ._outcomes import Succeeded
from ._partial import Partial
from ._policies import policy_error, wrong_value
from ._retry import RetryPolicy
from ._saved import Download
from ._scheduler import Row
from ._threads import run_in_thread
from ._turns import Turns

__all__ = ["Keeper", "Saved", "kept"]

logger = logger_of("runninghub_async.trouble")

#: Copied at once, in bytes.
_PIECE: Final = 2**20

#: Results being fetched at once; more would only share the same line.
PARALLEL: Final = 8

#: How many hosts have their failures counted, and how many recent file names are remembered.
_HOSTS_KEPT: Final = 1000
_NAMES_KEPT: Final = 10_000


class Submitting(Protocol):
    """The stream that a task is of."""

    def halt(self, error: RunningHubError) -> None:
        """Submit nothing more, and end with `error`."""
        ...

    def task_ids(self) -> list[str]:
        """The ids of its tasks that have not ended, or whose results are being saved."""
        ...


@attrs.frozen
class Saved:
    """What was saved of a task: `files` and `faults` by the places of its outputs in `task`, which
    has fresh URLs if they were needed."""

    outcome: Succeeded
    files: Mapping[int, Download]
    faults: Mapping[int, Exception]

    def succeeded(self) -> Succeeded:
        """The outcome, with the files and what is missing."""
        outputs = self.outcome.task.outputs
        return attrs.evolve(
            self.outcome,
            files=tuple(self.files[number] for number in sorted(self.files)),
            missing=tuple(outputs[number] for number in sorted(self.faults)),
        )


@attrs.frozen
class _Job:
    """What all results of a job share. `own`: files that are known to be of this job, by the
    places of their outputs; `token` stands for the job where names are reserved; `reserved`: the
    files that it was free to write at one time."""

    stem: str
    row: Row | None
    own: Mapping[int, KeptFile]
    stream: Submitting
    fresh: FreshUrls
    token: object
    reserved: set[Path] = attrs.field(factory=set)


class Keeper:
    """Saves what tasks made in `folder`, which is made if it is not there.

    `name(outcome)` gives the stem of a job's files, by default `00042-slug-of-the-prompt`; the
    second and later results of a job get `-2`, `-3`. Another job's file is never overwritten. While
    nothing can be written, or no result can be fetched from a host, nothing is submitted; `retry`
    says how long (see `_hold`).
    """

    def __init__(
        self,
        folder: Path,
        fetching: Fetching,
        dispatcher: Dispatcher,
        name: Callable[[Succeeded], str] | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - a frozen value
    ) -> None:
        self.folder = folder
        self._fetching = fetching
        self._dispatcher = dispatcher
        self._name = name
        self._retry = retry
        self._turns = Turns(PARALLEL)
        self._folder_hold = FolderHold(dispatcher, retry, str(folder))
        self._host_holds: Bounded[str, Hold] = Bounded(_HOSTS_KEPT)
        #: Names that were given recently, in a form that all file systems tell apart.
        self._given: Bounded[Path, str] = Bounded(_NAMES_KEPT)

    async def keep(
        self, outcome: Succeeded, row: Row | None, own: Sequence[KeptFile], stream: Submitting
    ) -> Saved:
        """Save each result of a task by itself. `own`: files that are known to be of this job;
        those that are whole are not fetched again. `stream`: the stream that may have to stop
        submitting.

        Raises the error of the first result (`DownloadError`, `TransportError`, `OSError`) if none
        could be saved, and `DownloadError` if the task has no results at all.
        """
        outcome = await self._with_outputs(outcome)
        outputs = outcome.task.outputs
        stem = self._stem_of(outcome, stream)
        known = await self._whole(numbered(own))
        job = _Job(stem, row, numbered(own), stream, self._fetching.fresh_urls(outputs), object())
        files: dict[int, Download] = dict(known)
        faults: dict[int, Exception] = {}

        async def save(number: int) -> None:
            try:
                files[number] = await self._save(job, outputs[number], number)
            except Exception as error:
                faults[number] = error

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(len(outputs)):
                    if number not in known:
                        group.create_task(save(number))
        finally:
            self._release(job.token)
        if not files:
            raise faults[min(faults)]
        for number, error in sorted(faults.items()):
            logger.warning(
                "task %s: result %d of %d (%s) could not be saved: %s",
                outcome.task.id,
                number + 1,
                len(outputs),
                ending(outputs[number]),
                error,
            )
        return Saved(outcome, files, faults)

    async def _with_outputs(self, outcome: Succeeded) -> Succeeded:
        if outcome.task.outputs:
            return outcome
        # They may have come a moment after the end of the task; a query costs nothing.
        task = await self._fetching.task_now(outcome.task.id)
        if not task.outputs:
            raise DownloadError(
                f"task {outcome.task.id} succeeded, and the service names no results of it",
                Output(task_id=outcome.task.id),
            )
        return attrs.evolve(outcome, task=attrs.evolve(outcome.task, outputs=task.outputs))

    def _stem_of(self, outcome: Succeeded, stream: Submitting) -> str:
        if self._name is None:
            return _stem(outcome)
        try:
            stem = self._name(outcome)
        except BaseException as error:
            # Whatever it raises, a `CancelledError` too, is a fault of this callable.
            fault = policy_error("name", error)
        else:
            if isinstance(stem, str) and stem.strip():
                return usable_stem(stem)
            fault = wrong_value("name", stem, "a text that can name a file")
        # The task is paid for: its results are saved all the same, under the default name.
        ids = dict.fromkeys((outcome.task.id, *stream.task_ids()))
        failure = PolicyError("name", fault.fault, tuple(ids))
        failure.__cause__ = fault.__cause__
        stream.halt(failure)
        return _stem(outcome)

    async def _whole(self, own: Mapping[int, KeptFile]) -> dict[int, Download]:
        """The files among these that still exist unchanged."""
        if not own:
            return {}
        return await run_in_thread(_whole_files, self.folder, own, kind="checks", abandon=True)

    def _path(self, stem: str, number: int, suffix: str) -> Path:
        shown = f"-{number + 1}" if number else ""
        return self.folder / f"{stem}{shown}.{suffix}"

    async def _save(self, job: _Job, output: Output, number: int) -> Download:
        try:
            return await self._save_as(job, output, number)
        except OSError as error:
            # Some file systems take fewer bytes than all usual ones.
            short = fit_name(job.stem, STEM_SHORT)
            if error.errno != errno.ENAMETOOLONG or short == job.stem:
                raise
            return await self._save_as(attrs.evolve(job, stem=short), output, number)

    async def _save_as(self, job: _Job, output: Output, number: int) -> Download:
        if output.url is None and output.text is not None:
            return await self._patiently(job, output, lambda: self._save_text(job, output, number))
        host = host_key(output)
        if not host:
            return await self._patiently(job, output, lambda: self._fetch(job, output, number))
        hold = self._host_holds.get(host)
        if hold is None:
            where = f"results from {host}"
            hold = self._host_holds[host] = HostHold(self._dispatcher, self._retry, where)
        return await self._patiently(
            job,
            output,
            lambda: hold.through(lambda: self._fetch(job, output, number), output, job.stream.halt),
        )

    async def _patiently(
        self, job: _Job, output: Output, attempt: Callable[[], Awaitable[Download]]
    ) -> Download:
        async def with_folder() -> Download:
            await run_in_thread(_make, self.folder)
            return await attempt()

        return await self._folder_hold.through(with_folder, output, job.stream.halt)

    async def _save_text(self, job: _Job, output: Output, number: int) -> Download:
        path = self._path(job.stem, number, ending(output))
        target = await self._reserve(path, job, number)
        file = await keep_text(output.text or "", target, _temporary(target, job))
        return await self._settled(file, path, job)

    async def _fetch(self, job: _Job, output: Output, number: int) -> Download:
        wanted = self._path(job.stem, number, ending(output))
        target = await self._reserve(wanted, job, number)

        async def place(kind: str) -> Path:
            nonlocal wanted
            better = self._path(job.stem, number, ending(output, kind))
            if better == wanted:
                return target
            wanted = better
            return await self._reserve(better, job, number)

        file = await self._fetching.fetch(
            output,
            target,
            _temporary(target, job),
            fresh=job.fresh,
            turns=self._turns,
            place=place,
        )
        return await self._settled(file, wanted, job)

    async def _settled(self, file: Download, wanted: Path, job: _Job) -> Download:
        resumed = job.row is not None and job.row.known
        if file.path == wanted or not (resumed or wanted in job.reserved):
            return file
        # A process that was killed between the file and its row left the same behind, and so did
        # an attempt that failed when its file was in place and its folder went away.
        return await run_in_thread(_merge, file, wanted)

    async def _reserve(self, path: Path, job: _Job, number: int) -> Path:
        """`path`, or one beside it if another job has that, or is about to."""
        names = self._dispatcher.names
        mine = job.own.get(number)
        for candidate in _candidates(path, job.row):
            shape = candidate.with_name(comparable(candidate.name))
            if names.setdefault(shape, job.token) is not job.token:
                continue
            # The second name of a job with a row is made of its key, and so nobody else's.
            free = mine is not None and candidate.name == mine.name
            free = free or (job.row is not None and candidate != path)
            given = self._given.get(shape, candidate.name)
            if free or (given == candidate.name and not await run_in_thread(_exists, candidate)):
                self._given[shape] = candidate.name
                job.reserved.add(candidate)
                return candidate
            del names[shape]
        raise AssertionError("names without end")

    def _release(self, token: object) -> None:
        names = self._dispatcher.names
        for path in [path for path, holder in names.items() if holder is token]:
            del names[path]

    async def check(self, files: Sequence[KeptFile]) -> tuple[Download, ...] | None:
        """The files of a job, if all are there and as they were written."""
        found = await run_in_thread(_found, self.folder, files, kind="checks", abandon=True)
        return None if found is None else tuple(found)

    async def copy(
        self, outcome: Succeeded, row: Row | None, files: Sequence[Download], stream: Submitting
    ) -> tuple[Download, ...]:
        """Files of another job under this one's name."""
        stem = self._stem_of(outcome, stream)
        job = _Job(stem, row, {}, stream, self._fetching.fresh_urls(()), object())
        copies: list[Download] = []
        try:
            for number, file in enumerate(files):
                path = self._path(stem, number, file.path.suffix[1:])
                path = await self._reserve(path, job, number)
                copies.append(await run_in_thread(_copy, file, path))
        finally:
            self._release(job.token)
        return tuple(copies)


def kept(files: Mapping[int, Download] | Sequence[Download]) -> list[KeptFile]:
    """Files as the journal knows them, by the places of their outputs or in their order."""
    places = files.items() if isinstance(files, Mapping) else enumerate(files)
    return [
        KeptFile(file.path.name, file.size, file.sha256, file.image_type, number)
        for number, file in sorted(places, key=lambda item: item[0])
    ]


def _stem(outcome: Succeeded) -> str:
    place = getattr(outcome.request, "place", None)
    return file_stem(outcome.index if place is None else place, prompt_of(outcome.request))


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except ValueError as error:
        # A character that no path can hold; the result is not at fault.
        raise OSError(errno.EINVAL, str(error), str(folder)) from error


def _exists(path: Path) -> bool:
    # Also true for a broken link: writing would create its target.
    return path.exists() or path.is_symlink()


def _temporary(target: Path, job: _Job) -> Path | None:
    # A job in the journal owns its file: what a killed process left is overwritten.
    return target.with_name(f".{target.name}.part") if job.row is not None else None


def _candidates(path: Path, row: Row | None) -> Iterator[Path]:
    """Names for a file, the best first; those of a job with a row are always the same."""
    yield path
    stem = path.stem
    if row is not None:
        stem = f"{stem}-{hashlib.blake2b(row.key.encode(), digest_size=4).hexdigest()}"
        yield path.with_name(f"{stem}{path.suffix}")
    for number in itertools.count(2):
        yield path.with_name(f"{stem}-{number}{path.suffix}")


def _is_at(path: Path, file: Download | KeptFile) -> bool:
    """Whether the bytes of `file` are what stands at `path`."""
    try:
        if path.stat().st_size != file.size:
            return False
        with path.open("rb") as found:
            return hashlib.file_digest(found, "sha256").hexdigest() == file.sha256
    except OSError:
        return False


def _whole_files(folder: Path, files: Mapping[int, KeptFile]) -> dict[int, Download]:
    return {
        number: Download(folder / f.name, f.size, f.sha256, f.image_type)
        for number, f in files.items()
        if _is_at(folder / f.name, f)
    }


def _found(folder: Path, files: Sequence[KeptFile]) -> list[Download] | None:
    if not all(_is_at(folder / file.name, file) for file in files):
        return None
    return [Download(folder / f.name, f.size, f.sha256, f.image_type) for f in files]


def _merge(file: Download, path: Path) -> Download:
    if not _is_at(path, file):
        return file
    file.path.unlink()
    return attrs.evolve(file, path=path)


def _copy(file: Download, path: Path) -> Download:
    partial = Partial(path, path.with_name(f".{path.name}.part"))
    try:
        with file.path.open("rb") as source:
            while piece := source.read(_PIECE):
                partial.write(piece, at=partial.size)
        partial.keep()
    finally:
        partial.discard()
    return attrs.evolve(file, path=path)
