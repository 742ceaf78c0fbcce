"""Local files on their way to the service: looked at, sent from disk, sent once per content."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from ._addresses import why_not
from ._bounded import Bounded
from ._caller import Caller
from ._catalogue import ParamSpec
from ._codes import code_of_status
from ._exceptions import (
    APIError,
    AuthenticationError,
    PayloadError,
    ProtocolError,
    SessionError,
)
from ._local import file_stamp, open_regular
from ._log import logger_of
from ._media import HEAD, FilePath, check_file, is_file, kind_of, sniff
from ._models import FileBody, Request, Response
from ._policies import guarded_progress
from ._protocol import build_upload, parse_upload
from ._protocol_v1 import build_lora, build_lora_put, build_old_upload, parse_lora
from ._records import Lora, Upload
from ._text import text_fault
from ._threads import run_in_thread
from ._transport import NotPublic
from ._untrusted import shown

__all__ = ["OnProgress", "Uploader"]

logger = logger_of("runninghub_async")

OnProgress = Callable[[int, int], object]
"""Called with the bytes of a file sent so far, and all there are."""

#: The service's guidance, in bytes; larger files have been taken, so it is a warning only.
GUIDANCE: Final = 30 * 2**20

#: An upload's URL lives a day; it is not used near its end. In seconds of the wall clock, which
#: also counts while the machine sleeps.
_FRESH_FOR: Final = 20 * 3600.0

#: How far the wall clock may be set back before uploads are repeated, in seconds.
_SET_BACK: Final = 60.0

#: How often the files of one request are uploaded if the first expires before the last is sent.
_ROUNDS: Final = 3

#: Uploads and digests that are remembered.
_REMEMBERED: Final = 4096

_PIECE: Final = 2**20


@attrs.frozen
class _File:
    """A local file as it was when looked at. `content` is there for bytes that are no file."""

    path: str
    name: str
    size: int
    head: bytes
    stamp: tuple[int, ...] = ()
    content: bytes | None = attrs.field(default=None, repr=False)

    @property
    def kind(self) -> str:
        return sniff(self.head) or self.name.rpartition(".")[2].lower()

    def body(self, progress: OnProgress | None, *, in_pieces: bool) -> bytes | FileBody:
        """The body to send. `in_pieces`: bytes that are not in a file may be sent without a
        copy."""
        if self.content is not None and not (in_pieces and _is_large(self)):
            return self.content
        report = None if progress is None else _with_total(progress, self.size)
        return FileBody(
            self.path, self.size, progress=report, stamp=self.stamp, content=self.content
        )


class Uploader:
    """The uploads of one session."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._digests: Bounded[tuple[str, tuple[int, ...]], str] = Bounded(_REMEMBERED)
        self._sent: Bounded[str, tuple[float, asyncio.Future[Upload]]] = Bounded(_REMEMBERED)

    async def upload(
        self,
        source: FilePath | str | bytes,
        name: str | None,
        progress: OnProgress | None,
        older: str | None = None,
    ) -> Upload:
        """Send `source` now, through the newer upload, or the older one as file type `older`."""
        file = await self._good(source, name)
        return await self._send(file, await self._digest(file), progress, older)

    async def upload_lora(
        self, source: FilePath | str, name: str | None, progress: OnProgress | None
    ) -> Lora:
        """Send a LoRA, unless the service has the same bytes."""
        file = await self._good(source, None)
        name = name or Path(file.name).stem
        if fault := text_fault(name):
            raise PayloadError([f"name: {fault} @ $.name"])
        md5 = await self._hashed(file, "md5")
        site = self._caller.site
        asked = build_lora(site, name, md5)

        async def attempt() -> Lora:
            lora, url = await self._caller.once(asked, lambda answer: parse_lora(answer, md5))
            if url:
                request = build_lora_put(url, self._body(file, progress))
                foreign = not _is_own(url, site.base_url)
                await self._put(attrs.evolve(request, public_only=foreign))
            return lora

        return await self._caller.repeat(attempt)

    def _body(self, file: _File, progress: OnProgress | None) -> bytes | FileBody:
        in_pieces = getattr(self._caller.transport, "takes_content", False)
        guarded = None if progress is None else guarded_progress(progress)
        return file.body(guarded, in_pieces=in_pieces)

    async def _put(self, request: Request) -> None:
        try:
            answer = await self._caller.transport.send(request)
        except NotPublic as error:
            raise _refused(str(error)) from None
        _check_put(answer)

    async def check(
        self, params: Mapping[str, Any], param: Callable[[str], ParamSpec | None]
    ) -> list[str]:
        """Every fault of the files in `params`, each as `description @ $.path`."""
        problems: list[str] = []
        for at, key, value in _files_in(params):
            await self._checked(value, at, param(key), problems)
        return problems

    async def fill(
        self,
        params: Mapping[str, Any],
        param: Callable[[str], ParamSpec | None],
        *,
        by_name: Callable[[str], bool],
    ) -> dict[str, Any]:
        """`params` with each local file uploaded and its URL in its place, or, where `by_name`
        says so of the place (`$.imageUrls[0]`), its name.

        Raises `PayloadError` with every fault of the files, before any is sent.
        """
        problems: list[str] = []
        found = [
            (at, await self._checked(value, at, param(key), problems))
            for at, key, value in _files_in(params)
        ]
        if problems:
            raise PayloadError(problems)
        given: dict[str, str] = {}
        for _ in range(_ROUNDS):
            oldest = time.time()
            for at, file in found:
                assert file is not None
                try:
                    since, upload = await self._once_per_content(file)
                except PayloadError as error:
                    raise PayloadError(_placed(error, at)) from error
                value = upload.name if by_name(at) else upload.url
                if not value:
                    raise PayloadError([f"{file.name}: was uploaded but got no URL @ {at}"])
                given[at] = value
                oldest = min(oldest, since)
            # The last of many large files may take so long that the first has expired.
            if _is_fresh(oldest):
                break
        else:
            raise PayloadError(["request: its uploads take longer than their URLs live @ $"])
        filled = _replaced(params, given)
        assert isinstance(filled, dict)
        return filled

    # -- inside -------------------------------------------------------------------------------

    async def _good(self, source: FilePath | str | bytes, name: str | None) -> _File:
        """A file that was given by itself, not in a request."""
        file = await self._look(source, name)
        if problems := list(check_file(file.name, file.size, file.head)):
            raise PayloadError([f"source: {problem} @ $" for problem in problems])
        return file

    async def _checked(
        self, value: Any, at: str, spec: ParamSpec | None, problems: list[str]
    ) -> _File | None:
        try:
            file = await self._look(value, None)
        except PayloadError as error:
            problems.extend(_placed(error, at))
            return None
        family = spec.type if spec is not None and spec.type in ("image", "video", "audio") else ""
        faults = check_file(
            file.name,
            file.size,
            file.head,
            family=family,
            accept=spec.accept if spec is not None else (),
            max_size_mb=spec.max_size_mb if spec is not None else None,
        )
        problems.extend(f"{fault} @ {at}" for fault in faults)
        return file

    async def _look(self, source: FilePath | str | bytes, name: str | None) -> _File:
        if isinstance(source, bytes):
            kind = sniff(source[:HEAD])
            return _File(
                "", name or f"file.{kind or 'bin'}", len(source), source[:HEAD], content=source
            )
        try:
            return await run_in_thread(_look_at, os.fspath(source), name)
        except (OSError, ValueError, TypeError) as error:
            reason = getattr(error, "strerror", "") or str(error)
            raise PayloadError([f"{source!s}: {reason} @ $"]) from error

    async def _digest(self, file: _File) -> str:
        key = (file.path, file.stamp)
        known = self._digests.get(key) if file.path else None
        if known is None:
            if file.content is not None and not _is_large(file):
                return _hash(file, "sha256")
            known = await self._hashed(file, "sha256")
            if file.path:
                self._digests[key] = known
        return known

    @staticmethod
    async def _hashed(file: _File, algorithm: str) -> str:
        try:
            return await run_in_thread(_hash, file, algorithm)
        except OSError as error:
            raise PayloadError([f"{file.path}: {error.strerror or error} @ $"]) from error

    async def _once_per_content(self, file: _File) -> tuple[float, Upload]:
        """The upload of this content, and the time when it began, by the wall clock."""
        digest = await self._digest(file)
        dispatcher = self._caller.opened()
        since, sent = self._sent.get(digest, (0.0, None))
        if sent is None or not _is_fresh(since):
            since, sent = time.time(), dispatcher.loop.create_future()
            self._sent[digest] = (since, sent)
            helper = dispatcher.help(self._fulfil(sent, file, digest))
            helper.add_done_callback(partial(_give_up, sent))
        # Others may wait for the same file when one caller is cancelled.
        return since, await asyncio.shield(sent)

    async def _fulfil(self, sent: asyncio.Future[Upload], file: _File, digest: str) -> None:
        try:
            sent.set_result(await self._send(file, digest, None))
        except Exception as error:
            # The next request with this file tries again.
            if self._sent.get(digest, (0.0, None))[1] is sent:
                self._sent.pop(digest, None)
            sent.set_exception(error)
            sent.exception()

    async def _send(
        self, file: _File, digest: str, progress: OnProgress | None, older: str | None = None
    ) -> Upload:
        if file.size > GUIDANCE:
            logger.warning(
                "%s has %d MB; the service advises at most 30 MB, and a URL of your own for more",
                shown(file.name),
                file.size // 2**20,
            )
        site, body = self._caller.site, self._body(file, progress)
        if older is None:
            build = partial(build_upload, site, file.name, file.kind, body)
        else:
            build = partial(build_old_upload, site, older, file.name, file.kind, body)
        # A form in one piece holds a copy of the bytes, which takes long if they are many.
        large = isinstance(body, bytes) and _is_large(file)
        request = await run_in_thread(build) if large else build()
        # A good key has been refused here for a moment, so a refusal is not believed at once.
        upload = await self._caller.call(request, parse_upload, passing=(AuthenticationError,))
        kind = upload.type or kind_of(file.kind)
        return attrs.evolve(upload, size=file.size, sha256=digest, type=kind)


def _files_in(value: Any, at: str = "$", key: str = "") -> Iterator[tuple[str, str, Any]]:
    """Where in a body local files stand: path, nearest key, file."""
    if is_file(value):
        yield at, key, value
    elif isinstance(value, Mapping):
        for name, each in value.items():
            yield from _files_in(each, f"{at}.{name}", str(name))
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from _files_in(each, f"{at}[{place}]", key)


def _replaced(value: Any, given: Mapping[str, str], at: str = "$") -> Any:
    if is_file(value):
        return given[at]
    if isinstance(value, Mapping):
        return {name: _replaced(each, given, f"{at}.{name}") for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_replaced(each, given, f"{at}[{place}]") for place, each in enumerate(value)]
    return value


def _placed(error: PayloadError, at: str) -> list[str]:
    """The faults of a file, with the place `at` of the request as their address."""
    return [f"{p.removesuffix(' @ $')} @ {at}" for p in error.problems]


def _is_large(file: _File) -> bool:
    """Whether to touch all of its bytes takes long. A file on disk is not read as a whole."""
    return file.content is not None and file.size > _PIECE


def _is_fresh(since: float) -> bool:
    """Whether the URL of an upload that began at `since` may still be used."""
    return -_SET_BACK <= time.time() - since <= _FRESH_FOR


def _give_up(sent: asyncio.Future[Upload], _: object) -> None:
    """Give those who still wait the error that the session was closed."""
    if not sent.done():
        sent.set_exception(SessionError("the session was closed"))
        sent.exception()


def _look_at(path: str, name: str | None) -> _File:
    with open_regular(path) as file:
        head = file.read(HEAD)
        facts = os.fstat(file.fileno())
    return _File(path, name or Path(path).name, facts.st_size, head, file_stamp(facts))


def _hash(file: _File, algorithm: str) -> str:
    digest = hashlib.new(algorithm, file.content or b"", usedforsecurity=False)
    if file.content is None:
        with open_regular(file.path) as source:
            while piece := source.read(_PIECE):
                digest.update(piece)
            if file_stamp(os.fstat(source.fileno())) != file.stamp:
                raise PayloadError([f"{file.path}: was changed while it was being uploaded @ $"])
    return digest.hexdigest()


def _with_total(progress: OnProgress, total: int) -> Callable[[int], object]:
    return lambda sent: progress(sent, total)


def _is_own(url: str, base_url: str) -> bool:
    """Whether the LoRA goes to the service's own origin, which may be an emulator on loopback. Any
    other address has to be https and public, so that no answer can make this process write into its
    own network. Raises `ProtocolError` for any other address."""
    reason = why_not(url, urlsplit(base_url).hostname or "")
    if not reason and _origin(url) == _origin(base_url):
        return True
    reason = reason or why_not(url, "")
    if not reason and urlsplit(url).scheme != "https":
        reason = "the URL is not https"
    if reason:
        raise _refused(reason)
    return False


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    default = 443 if parts.scheme == "https" else 80
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or default


def _refused(reason: str) -> ProtocolError:
    return ProtocolError(
        f"the LoRA was not sent to the storage address that the service named: {reason}",
        Response(200),
    )


def _check_put(answer: Response) -> None:
    row = code_of_status(answer.status)
    if row is not None:
        kind = APIError if answer.status in (401, 403) else row.error
        raise kind("the storage host did not take the LoRA", status=answer.status)
