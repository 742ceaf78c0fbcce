"""Results into a folder, while a stream runs: a few at once, each under its job's own name."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import attrs

from ._dispatcher import Dispatcher
from ._download import keep_text
from ._exceptions import DownloadError
from ._journal import KeptFile
from ._models import Output
from ._names import ending, file_stem, prompt_of
from ._outcomes import Succeeded
from ._partial import Partial
from ._saved import Download
from ._scheduler import Row

__all__ = ["Fetcher", "Keeper", "kept"]

logger = logging.getLogger("runninghub_async.trouble")

#: Fetches `output` into a file, by way of another one if that is given.
Fetcher = Callable[[Output, Path, Path | None], Awaitable[Download]]

#: What a file system says that has no room.
_FULL: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})

#: How often a full disk is tried again, in seconds.
_AGAIN: Final = 2.0

#: Copied at once, in bytes.
_PIECE: Final = 2**20

#: Results being fetched at once; more would only share the same line.
PARALLEL: Final = 8


class Keeper:
    """Fetches what tasks made into `folder`, which is made if it is not there.

    `name(outcome)` gives the stem of a job's files, by default `00042-slug-of-the-prompt`; the
    second and later results of a job get `-2`, `-3`. Another job's file is never overwritten.
    """

    def __init__(
        self,
        folder: Path,
        fetch: Fetcher,
        dispatcher: Dispatcher,
        name: Callable[[Succeeded], str] | None = None,
    ) -> None:
        self.folder = folder
        self._fetch = fetch
        self._dispatcher = dispatcher
        self._name = name or _stem
        self._slots = asyncio.Semaphore(PARALLEL)
        self._checks = anyio.CapacityLimiter(2)

    async def keep(
        self, outcome: Succeeded, row: Row | None, own: Sequence[KeptFile] = ()
    ) -> tuple[Download, ...]:
        """Fetch all results of a task. `own`: files that are known to be of this job.

        While the disk is full, nothing is submitted, and it is tried again until there is room.
        Raises `DownloadError`, `TransportError` or `OSError`.
        """
        if not outcome.task.outputs:
            return ()
        stem, token = self._stem_of(outcome), object()
        files: list[Download] = []
        async with self._slots:
            await anyio.to_thread.run_sync(_make, self.folder)
            try:
                for number, output in enumerate(outcome.task.outputs):
                    path = self._path(stem, number, f".{ending(output)}")
                    files.append(await self._keep_one(output, path, row, own, token))
            finally:
                self._release(token)
        return tuple(files)

    def _stem_of(self, outcome: Succeeded) -> str:
        stem = self._name(outcome)
        if not stem or stem.startswith(".") or set(stem) & set("/\\:\0") or len(stem) > 200:
            raise DownloadError(f"name: {stem!r:.60} cannot name a file", outcome.task.outputs[0])
        return stem

    def _path(self, stem: str, number: int, suffix: str) -> Path:
        told = f"-{number + 1}" if number else ""
        return self.folder / f"{stem}{told}{suffix}"

    async def _keep_one(
        self,
        output: Output,
        path: Path,
        row: Row | None,
        own: Sequence[KeptFile],
        token: object,
    ) -> Download:
        target = await self._reserve(path, row, own, token)
        # A job that has a row has its file to itself: what a killed process left is overwritten.
        temporary = target.with_name(f".{target.name}.part") if row is not None else None
        file = await self._patiently(output, target, temporary)
        if target == path or row is None or not row.known:
            return file
        # A process that was killed between the file and its row left the same behind.
        return await anyio.to_thread.run_sync(_merge, file, path)

    async def _reserve(
        self, path: Path, row: Row | None, own: Sequence[KeptFile], token: object
    ) -> Path:
        """`path`, or one beside it if another job has that, or is about to."""
        names = self._dispatcher.names
        mine = {file.name for file in own}
        for candidate in _candidates(path, row):
            if names.setdefault(candidate, token) is not token:
                continue
            # The second name of a job with a row is made of its key, and so nobody else's.
            free = candidate.name in mine or (row is not None and candidate != path)
            if free or not await anyio.to_thread.run_sync(candidate.exists):
                return candidate
            del names[candidate]
        raise AssertionError("names without end")

    def _release(self, token: object) -> None:
        names = self._dispatcher.names
        for path in [path for path, holder in names.items() if holder is token]:
            del names[path]

    async def _patiently(self, output: Output, path: Path, temporary: Path | None) -> Download:
        told = False
        scheduler = self._dispatcher.scheduler
        try:
            while True:
                try:
                    if output.url is None and output.text is not None:
                        return await keep_text(output.text, path, temporary)
                    return await self._fetch(output, path, temporary)
                except OSError as error:
                    if error.errno not in _FULL:
                        raise
                    if not told:
                        told = True
                        scheduler.paused += 1
                        logger.warning(
                            "%s: %s; nothing is submitted until there is room",
                            self.folder,
                            error.strerror,
                        )
                await self._dispatcher.pause(_AGAIN)
                if self._dispatcher.closed:
                    raise DownloadError("the disk is full", output)
        finally:
            if told:
                scheduler.paused -= 1
                if not scheduler.paused:
                    logger.warning("%s: there is room again", self.folder)
                self._dispatcher.wake()

    async def check(self, files: Sequence[KeptFile]) -> tuple[Download, ...] | None:
        """The files of a job, if all are there and as they were written."""
        found = await anyio.to_thread.run_sync(
            _found, self.folder, files, limiter=self._checks, abandon_on_cancel=True
        )
        return None if found is None else tuple(found)

    async def copy(
        self, outcome: Succeeded, row: Row | None, files: Sequence[Download]
    ) -> tuple[Download, ...]:
        """Files of another job under this one's name."""
        stem, token = self._stem_of(outcome), object()
        copies: list[Download] = []
        try:
            for number, file in enumerate(files):
                path = self._path(stem, number, file.path.suffix)
                path = await self._reserve(path, row, (), token)
                copies.append(await anyio.to_thread.run_sync(_copy, file, path))
        finally:
            self._release(token)
        return tuple(copies)


def kept(files: Sequence[Download]) -> list[KeptFile]:
    """Files as the journal knows them."""
    return [KeptFile(file.path.name, file.size, file.sha256, file.image_type) for file in files]


def _stem(outcome: Succeeded) -> str:
    place = getattr(outcome.request, "place", None)
    return file_stem(outcome.index if place is None else place, prompt_of(outcome.request))


def _make(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)


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
