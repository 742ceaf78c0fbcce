"""Results into files: whole or not at all.

A result's host is not the service: it gets no API key, its redirects are followed a few times
and only over http(s), its names are ignored, and its body is bounded. The file appears under its
own name only after its length and its first bytes have been looked at.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Final
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.to_thread
import attrs

from ._exceptions import DownloadError
from ._media import kind_of, sniff
from ._models import Output, Request
from ._transport import StreamedResponse, StreamingTransport, Transport

__all__ = ["Download", "Gone", "Incomplete", "download_once"]

MAX_REDIRECTS: Final = 5
READ_TIMEOUT: Final = 60.0

#: Collected before each write: a hop to a thread costs more than writing a small piece.
_PIECE: Final = 2**20

_IMAGE_TYPES: Final = frozenset({"png", "jpg", "jpeg", "webp", "gif", "bmp"})


@attrs.frozen
class Download:
    """A result on disk: where, how long, the SHA-256 of its bytes in hex, and the type its first
    bytes show (`png`, `jpg`, …; empty when it is no image this package knows)."""

    path: Path
    size: int
    sha256: str
    image_type: str = ""


class Gone(DownloadError):
    """The URL has expired or was never there: a fresh one may help, trying again will not."""


class Incomplete(DownloadError):
    """The host or the connection faltered: trying again may help."""


async def download_once(
    transport: Transport, output: Output, path: Path, max_bytes: int
) -> Download:
    """Fetch `output` into `path`, which must not be a folder, in one try.

    Raises `DownloadError` (`Gone` for HTTP 403, 404 and 410, `Incomplete` for what may go better
    another time) or `TransportError`, and leaves nothing behind then.
    """
    url = output.url
    if url is None:
        raise DownloadError("the output has no URL: it is a text", output)
    for _ in range(MAX_REDIRECTS + 1):
        _check_url(url, output)
        request = Request("GET", url, read_timeout=READ_TIMEOUT)
        async with _open(transport, request) as answer:
            if answer.status in (301, 302, 303, 307, 308):
                target = urljoin(url, answer.headers.get("location", ""))
                if url.startswith("https:") and not target.startswith("https:"):
                    raise DownloadError("redirected from https to a lesser scheme", output)
                url = target
                continue
            if answer.status in (403, 404, 410):
                raise Gone(f"HTTP {answer.status}: the result has expired or is gone", output)
            if answer.status >= 500 or answer.status in (408, 429):
                raise Incomplete(f"HTTP {answer.status} from the result's host", output)
            if answer.status != 200:
                raise DownloadError(f"HTTP {answer.status} from the result's host", output)
            return await _store(answer, output, path, max_bytes)
    raise DownloadError(f"more than {MAX_REDIRECTS} redirects", output)


def _check_url(url: str, output: Output) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError("the result's URL is not http(s)", output)


def _open(transport: Transport, request: Request) -> AbstractAsyncContextManager[StreamedResponse]:
    if isinstance(transport, StreamingTransport):
        return transport.stream(request)
    return _whole(transport, request)


@contextlib.asynccontextmanager
async def _whole(transport: Transport, request: Request) -> AsyncIterator[StreamedResponse]:
    answer = await transport.send(request)

    async def chunks() -> AsyncIterator[bytes]:
        yield answer.body

    yield StreamedResponse(answer.status, answer.headers, chunks())


async def _store(answer: StreamedResponse, output: Output, path: Path, max_bytes: int) -> Download:
    declared = answer.headers.get("content-length", "")
    encoded = answer.headers.get("content-encoding", "identity") != "identity"
    length = int(declared) if declared.isdecimal() and not encoded else None
    if length is not None and length > max_bytes:
        raise DownloadError(f"{length} bytes are more than the {max_bytes} allowed", output)
    file = await anyio.to_thread.run_sync(_Partial, path)
    try:
        held = bytearray()
        async for chunk in answer.chunks:
            held += chunk
            if file.size + len(held) > max_bytes:
                raise DownloadError(f"more than {max_bytes} bytes", output)  # noqa: TRY301
            if len(held) >= _PIECE:
                await anyio.to_thread.run_sync(file.write, bytes(held))
                held.clear()
        return await anyio.to_thread.run_sync(_finish, file, bytes(held), output, length)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(file.discard)
        raise


class _Partial:
    """A temporary file beside its target, hashed as it grows."""

    def __init__(self, path: Path) -> None:
        # Not tempfile: its files are private, and a result should be as public as its folder.
        name = path.with_name(f".{secrets.token_hex(12)}.part")
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        handle = os.open(name, flags, 0o666)
        self.path = path
        self.size = 0
        self.head = b""
        self.hash = hashlib.sha256()
        self._name = name
        self._file = os.fdopen(handle, "wb")

    def write(self, piece: bytes) -> None:
        self.head = self.head or piece[:16]
        self.size += len(piece)
        self.hash.update(piece)
        self._file.write(piece)

    def keep(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._name.replace(self.path)

    def discard(self) -> None:
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._name.unlink()


def _finish(file: _Partial, rest: bytes, output: Output, length: int | None) -> Download:
    file.write(rest)
    if length is not None and file.size != length:
        raise Incomplete(f"{file.size} of {length} bytes arrived", output)
    if file.size == 0:
        raise Incomplete("the result is empty", output)
    kind = sniff(file.head)
    kind = kind if kind_of(kind) == "image" else ""
    if output.type in _IMAGE_TYPES and not kind:
        raise DownloadError(
            f"not an image although announced as {output.type}: it starts with {file.head[:8]!r}",
            output,
        )
    file.keep()
    return Download(file.path, file.size, file.hash.hexdigest(), kind)
