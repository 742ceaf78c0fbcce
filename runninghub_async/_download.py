"""Results into files: whole or not at all.

A result's host is not the service: it gets no API key, its redirects are followed a few times,
only over http(s) and only to public addresses, its names are ignored, and its body is bounded.
The file appears under its own name only after it has been looked through to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self
from urllib.parse import urljoin, urlsplit

import anyio
import anyio.to_thread

from ._addresses import host_of, why_not
from ._decode import decode
from ._exceptions import (
    DownloadError,
    ResultBroken,
    ResultGone,
    ResultIncomplete,
    ResultTooLarge,
    ResultUnsafe,
    RunningHubError,
    TransportError,
)
from ._media import kind_of
from ._models import Output, Request
from ._partial import Partial
from ._pieces import Broken, Reader, TooLarge
from ._ranges import length_of, range_headers, total_of, validator_of
from ._saved import Download
from ._shielded import wait_out
from ._transport import NotPublic, StreamedResponse, StreamingTransport, Transport
from ._whole import check_whole

__all__ = ["PASSING", "Download", "Fetch", "keep_text"]

MAX_REDIRECTS: Final = 5
READ_TIMEOUT: Final = 60.0

#: What another attempt may mend, beside what it mends for every call. A broken result is among
#: them, since nothing tells a host's fault from the transfer's.
PASSING: Final = (ResultIncomplete, ResultBroken)

#: Collected before each write: a hop to a thread costs more than writing a small piece.
_PIECE: Final = 2**20


class Fetch:
    """The fetching of `output` into the file `path`, in as many attempts as somebody makes.

    `max_bytes`: how long it may be. `home`: the host of the service, which is trusted; any other
    has to be public. `temporary`: where to collect it, on the file system of `path`; what a dead
    process left there is removed. Default: a random name beside `path`.

    Leave it by `async with` or `discard`, or what a failed attempt collected stays.
    """

    def __init__(
        self,
        transport: Transport,
        output: Output,
        path: Path,
        *,
        max_bytes: int,
        home: str,
        temporary: Path | None = None,
    ) -> None:
        self._transport = transport
        self._output = output
        self._path = path
        self._max_bytes = max_bytes
        self._home = home
        self._temporary = temporary
        self._partial: Partial | None = None
        self._length: int | None = None
        #: Vouches for what was collected; empty if the next attempt has to start over.
        self._validator = ""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.discard()

    def renew(self, output: Output) -> None:
        """Fetch `output` instead, the same result at another URL, from its beginning."""
        self._output = output
        self._validator = ""

    async def discard(self) -> None:
        """Remove what was collected; a file that was kept stays."""
        partial, self._partial, self._validator = self._partial, None, ""
        if partial is not None:
            await _discarded(partial)

    async def attempt(self) -> Download:
        """Try once, from where the last attempt broke off if the host can go on there.

        Raises a `DownloadError` (`PASSING` for what may go better another time), `TransportError`
        when no answer came, or `OSError`, after which nothing is left of what was collected.
        """
        url = self._output.url
        if url is None:
            raise DownloadError("the output has no URL: it is a text", self._output)
        try:
            for _ in range(MAX_REDIRECTS + 1):
                request = self._request(url)
                async with _open(self._transport, request) as answer:
                    if answer.status not in (301, 302, 303, 307, 308):
                        return await self._take(answer)
                    url = self._target(url, answer.headers.get("location", ""))
        except NotPublic as error:
            raise ResultUnsafe(str(error), self._output) from None
        except RunningHubError:
            raise
        except BaseException:
            await self.discard()
            raise
        raise ResultUnsafe(f"more than {MAX_REDIRECTS} redirects", self._output)

    def _request(self, url: str) -> Request:
        if reason := why_not(url, self._home):
            raise ResultUnsafe(reason, self._output)
        # Packed, its lengths would not be those of the file.
        headers = {"Accept-Encoding": "identity"}
        if self._partial is not None:
            headers |= range_headers(self._partial.size, self._validator)
        foreign = host_of(url) != self._home.lower().rstrip(".")
        return Request("GET", url, headers, read_timeout=READ_TIMEOUT, public_only=foreign)

    def _target(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            lesser = urlsplit(url).scheme == "https" != urlsplit(target).scheme
        except ValueError:
            raise ResultUnsafe("redirected to what is no URL", self._output) from None
        if lesser:
            raise ResultUnsafe("redirected from https to a lesser scheme", self._output)
        return target

    async def _take(self, answer: StreamedResponse) -> Download:
        status, output = answer.status, self._output
        if status in (403, 404, 410):
            raise ResultGone(f"HTTP {status}: the result has expired or is gone", output)
        if status >= 500 or status in (408, 429):
            raise ResultIncomplete(f"HTTP {status} from the result's host", output)
        if status == 200:
            self._validator = validator_of(answer.headers)
            self._length = length_of(answer.headers)
            return await self._store(answer, 0)
        at = self._partial.size if self._partial is not None and self._validator else 0
        if at and status in (206, 416):
            total = total_of(answer.headers, at, self._length, self._validator)
            if status == 206 and total is not None:
                self._length = total
                return await self._store(answer, at)
            self._validator = ""
            raise ResultIncomplete("the host does not go on where it broke off", output)
        raise DownloadError(f"HTTP {status} from the result's host", output)

    async def _store(self, answer: StreamedResponse, at: int) -> Download:
        length, output = self._length, self._output
        if length is not None and length > self._max_bytes:
            raise ResultTooLarge(
                f"{length} bytes are more than the {self._max_bytes} allowed", output
            )
        partial = self._partial = self._partial or Partial(self._path, self._temporary)
        fault: TransportError | None = None
        held = bytearray()
        try:
            async for chunk in answer.chunks:
                held += chunk
                if at + len(held) > self._max_bytes:
                    raise ResultTooLarge(f"more than {self._max_bytes} bytes", output)
                if len(held) >= _PIECE:
                    at = await self._write(partial, held, at)
                    held = bytearray()
        except TransportError as error:
            fault = error
        at = await self._write(partial, held, at)
        # A complete body is sometimes reported as broken off: its length knows better.
        if at != length and (fault is not None or length is not None):
            if length is not None and at > length:
                self._validator = ""
            raise ResultIncomplete(
                f"{at} of {length or 'unknown'} bytes arrived", output
            ) from fault
        if not at:
            raise ResultIncomplete("the result is empty", output)
        return await self._keep(partial)

    @staticmethod
    async def _write(partial: Partial, piece: bytearray, at: int) -> int:
        await anyio.to_thread.run_sync(lambda: partial.write(piece, at=at))
        return at + len(piece)

    async def _keep(self, partial: Partial) -> Download:
        # Whatever is wrong with it now, the bytes that are there are of no use.
        self._validator = ""
        announced = self._output.type

        def check(file: BinaryIO, size: int) -> str:
            kind, pixels = check_whole(Reader(file, size), announced)
            if pixels:
                file.seek(0)
                decode(file, kind, pixels)
            return kind

        try:
            kind = await anyio.to_thread.run_sync(partial.look, check)
        except Broken as error:
            raise ResultBroken(str(error), self._output) from None
        except TooLarge as error:
            raise ResultTooLarge(str(error), self._output) from None
        download = await _kept(partial, self._path, kind if kind_of(kind) == "image" else "")
        self._partial = None
        return download


async def keep_text(text: str, path: Path, temporary: Path | None = None) -> Download:
    """Put a text result into the file `path`, in UTF-8, whole or not at all.

    `temporary`: as for `Fetch`. Raises `OSError`, and leaves nothing behind then.
    """
    partial = Partial(path, temporary)
    data = text.encode("utf-8", "replace")
    try:
        await anyio.to_thread.run_sync(lambda: partial.write(data, at=0))
        return await _kept(partial, path, "")
    except BaseException:
        await _discarded(partial)
        raise


async def _discarded(partial: Partial) -> None:
    """Remove what there is, however often whoever wants that is cancelled meanwhile."""
    partial.give_up()
    await wait_out([asyncio.ensure_future(anyio.to_thread.run_sync(partial.discard))])


async def _kept(partial: Partial, path: Path, image_type: str) -> Download:
    await anyio.to_thread.run_sync(partial.keep)
    return Download(path, partial.size, partial.hash.hexdigest(), image_type)


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
