"""Results into files: whole or not at all.

A result's host is not the service: it gets no API key, its redirects are followed a few times,
only over http(s) and only to public addresses, its names are ignored, and its body is bounded.
The file appears under its own name only after it has been looked through to its end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self
from urllib.parse import urljoin, urlsplit

from ._addresses import ascii_host, encoded, host_of, suffix_of, why_not
from ._decode import decode
from ._exceptions import (
    DownloadError,
    ReadTimeout,
    ResultBroken,
    ResultGone,
    ResultIncomplete,
    ResultTooLarge,
    ResultUnsafe,
    RunningHubError,
    TransportError,
)
from ._impostors import LOOK, impostor
from ._media import canonical, kind_of, sniff
from ._models import Output, Request
from ._names import announced
from ._partial import Partial
from ._pieces import Broken, Reader, TooLarge
from ._ranges import (
    encodings_of,
    length_of,
    range_headers,
    total_of,
    validator_of,
    wire_length,
)
from ._saved import Download
from ._shielded import wait_out
from ._threads import run_in_thread
from ._transport import NotPublic, StreamedResponse, StreamingTransport, Transport
from ._unpacking import Unpacker
from ._whole import check_whole

__all__ = ["PASSING", "Download", "Fetch", "TooSlow", "keep_text"]

MAX_REDIRECTS: Final = 5

#: How long a host may send nothing, in seconds, and over what time its speed is averaged.
READ_TIMEOUT: Final = 60.0

#: A transfer with fewer bytes per second than this, averaged over `READ_TIMEOUT`, is broken off
#: and tried again from where it was.
LOWEST_SPEED: Final = 2**10

#: How long an answer may take to begin, in units of `READ_TIMEOUT`: where few transfers run at
#: once, and where many may wait for a connection.
ANSWER_TIME: Final = 2.0
ANSWER_TIME_IN_A_CROWD: Final = 10.0

#: A transfer with fewer bytes per second than this counts as slow (`on_slow`), looked at so many
#: times in each `READ_TIMEOUT`.
SLOW: Final = 2**14
_LOOKS: Final = 6.0

#: What another attempt may mend, beside what it mends for every call. A broken result is among
#: them, since nothing tells a host's fault from the transfer's.
PASSING: Final = (ResultIncomplete, ResultBroken)

#: Collected before each write: a hop to a thread costs more than writing a small piece.
_PIECE: Final = 2**20


#: What another program may call a text just as well: two letters.
_WEAK: Final = ("", "bmp")


class TooSlow(TransportError):
    """Bytes arrive, but too slowly."""


class Fetch:
    """Fetches `output` into the file `path`, in as many attempts as the caller makes.

    `max_bytes`: how long it may be. `home`: the host of the service, which is trusted; any other
    host has to be public. `temporary`: the file to write first, on the file system of `path`; one
    that a dead process left is removed. Default: a random name beside `path`.

    `on_slow()` is called while a transfer is slow. `place(kind)` gives the path once the type that
    the content shows is known, in place of `path`. `answer_time`: how long an answer may take to
    begin, in units of `READ_TIMEOUT`.

    Leave it by `async with` or `discard`; otherwise the file of a failed attempt stays.
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
        on_slow: Callable[[], None] | None = None,
        place: Callable[[str], Awaitable[Path]] | None = None,
        answer_time: float = ANSWER_TIME_IN_A_CROWD,
    ) -> None:
        self._transport = transport
        self._output = output
        self._path = path
        self._max_bytes = max_bytes
        self._home = ascii_host(home)
        self._temporary = temporary
        self._on_slow = on_slow
        self._place = place
        self._answer_time = answer_time
        #: The HTTP status of the last answer.
        self.status = 0
        #: Since the speed was last measured: the bytes, and the seconds of waiting.
        self._received, self._waited = 0, 0.0
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

    @property
    def collected(self) -> int:
        """How many bytes the next attempt need not ask for again."""
        return self._partial.size if self._partial is not None and self._validator else 0

    @property
    def length(self) -> int | None:
        """How many bytes the file has, as far as its host said so."""
        return self._length

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
        if self._output.url is None:
            raise DownloadError(_why_no_url(self._output), self._output)
        self._received, self._waited, self.status = 0, 0.0, 0
        try:
            return await self._follow(encoded(self._output.url))
        except NotPublic as error:
            raise ResultUnsafe(str(error), self._output) from None
        except RunningHubError:
            raise
        except BaseException:
            await self.discard()
            raise

    async def _follow(self, url: str) -> Download:
        for _ in range(MAX_REDIRECTS + 1):
            async with contextlib.AsyncExitStack() as stack:
                answer = await self._ask(stack, self._request(url))
                self.status = answer.status
                if answer.status not in (301, 302, 303, 307, 308):
                    return await self._take(answer)
                url = self._target(url, encoded(answer.headers.get("location", "")))
        raise ResultUnsafe(f"more than {MAX_REDIRECTS} redirects", self._output)

    async def _ask(self, stack: contextlib.AsyncExitStack, request: Request) -> StreamedResponse:
        opening = stack.enter_async_context(_open(self._transport, request))
        if not isinstance(self._transport, StreamingTransport):
            # Here the whole body comes with the answer, which takes longer.
            return await opening
        # Headers that come byte by byte never trip a time-out on silence.
        limit = READ_TIMEOUT * self._answer_time
        try:
            with self._waiting():
                async with asyncio.timeout(limit):
                    return await opening
        except TimeoutError as error:
            raise ResultIncomplete(f"no answer within {limit:g} s", self._output) from error

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Measures the time of waiting for the host. Only this time counts as slow."""
        loop = asyncio.get_running_loop()
        begun, pause = loop.time(), READ_TIMEOUT / _LOOKS
        on_slow = self._on_slow if self._received < SLOW * pause else None
        timer = loop.call_later(max(0.0, pause - self._waited), on_slow) if on_slow else None
        try:
            yield
        finally:
            self._waited += loop.time() - begun
            if timer is not None:
                timer.cancel()

    def _count(self, received: int) -> None:
        self._received += received
        pause = READ_TIMEOUT / _LOOKS
        if self._waited >= pause:
            if self._on_slow is not None and self._received < SLOW * self._waited:
                self._on_slow()
            self._received, self._waited = 0, 0.0

    def _request(self, url: str) -> Request:
        if reason := why_not(url, self._home):
            raise ResultUnsafe(reason, self._output)
        # Packed, its lengths would not be those of the file.
        headers = {"Accept-Encoding": "identity"}
        if self._partial is not None:
            headers |= range_headers(self._partial.size, self._validator)
        foreign = host_of(url) != self._home.rstrip(".")
        return Request("GET", url, headers, read_timeout=READ_TIMEOUT, public_only=foreign)

    def _target(self, url: str, location: str) -> str:
        try:
            target = urljoin(url, location)
            lesser = urlsplit(url).scheme == "https" != urlsplit(target).scheme
        except ValueError:
            raise ResultUnsafe("redirected to an invalid URL", self._output) from None
        if lesser:
            raise ResultUnsafe("redirected from https to http or another scheme", self._output)
        return target

    async def _take(self, answer: StreamedResponse) -> Download:
        status, output = answer.status, self._output
        if status in (403, 404, 410):
            raise ResultGone(f"HTTP {status}: the result has expired or is gone", output)
        if status == 200:
            self._validator = validator_of(answer.headers)
            self._length = length_of(answer.headers)
            return await self._store(answer, 0)
        at = self.collected
        if at and status in (206, 416):
            total = total_of(answer.headers, at, self._length, self._validator)
            if status == 206 and total is not None:
                self._length = total
                return await self._store(answer, at)
            self._validator = ""
            raise ResultIncomplete("the host does not resume where it broke off", output)
        # Success without the whole body says no more about the next try than a fault of the host.
        if status < 300 or status >= 500 or status in (408, 425, 429):
            raise ResultIncomplete(f"HTTP {status} from the result's host", output)
        raise DownloadError(f"HTTP {status} from the result's host", output)

    async def _store(self, answer: StreamedResponse, at: int) -> Download:
        output, length, bound = self._output, self._length, self._max_bytes
        unpacker = self._unpacker(answer)
        if unpacker is not None:
            # What cannot be packed any smaller becomes a little larger.
            length, bound = wire_length(answer.headers), bound + _PIECE
        if length is not None and length > bound:
            raise ResultTooLarge(
                f"{length} bytes are more than the {self._max_bytes} allowed", output
            )
        partial = self._partial = self._partial or Partial(self._path, self._temporary)
        fault: TransportError | None = None
        held = bytearray()
        received = at
        try:
            async with contextlib.aclosing(self._chunks(answer)) as chunks:
                async for chunk in chunks:
                    held += chunk
                    received += len(chunk)
                    if received > bound:
                        raise ResultTooLarge(f"more than {self._max_bytes} bytes", output)
                    if len(held) >= _PIECE:
                        at = await self._write(partial, held, at, unpacker)
                        held = bytearray()
        except TransportError as error:
            fault = error
        at = await self._write(partial, held, at, unpacker)
        # A complete body is sometimes reported as broken off: its length knows better.
        if received != length and (fault is not None or length is not None):
            if length is not None and received > length:
                self._validator = ""
            why = f"; {fault}" if isinstance(fault, TooSlow) else ""
            raise ResultIncomplete(
                f"{received} of {length or 'unknown'} bytes arrived{why}", output
            ) from fault
        if unpacker is not None and received and not unpacker.ended:
            raise ResultIncomplete(f"the packed body ends too early, after {at} bytes", output)
        if not at:
            raise ResultIncomplete("the result is empty", output)
        return await self._keep(partial, answer.headers.get("content-type", ""))

    async def _chunks(self, answer: StreamedResponse) -> AsyncGenerator[bytes, None]:
        """The body, as long as it comes fast enough; the time of writing it does not count.
        Raises `TransportError`."""
        clock = asyncio.get_running_loop().time
        chunks = aiter(answer.chunks)
        waited, received = 0.0, 0
        while True:
            begun = clock()
            try:
                # The transport has a time-out of its own, which should come first.
                with self._waiting():
                    async with asyncio.timeout(READ_TIMEOUT * 1.1):
                        chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError as error:
                raise ReadTimeout(f"no byte within {READ_TIMEOUT:g} s") from error
            waited += clock() - begun
            received += len(chunk)
            self._count(len(chunk))
            yield chunk
            if waited >= READ_TIMEOUT:
                if received < LOWEST_SPEED * waited:
                    raise TooSlow(f"{received} bytes in {waited:.0f} s are too slow")
                waited, received = 0.0, 0

    def _unpacker(self, answer: StreamedResponse) -> Unpacker | None:
        encodings = encodings_of(answer.headers) if answer.packed else ()
        try:
            return Unpacker(encodings) if encodings else None
        except Broken as error:
            raise ResultBroken(str(error), self._output) from None

    async def _write(
        self, partial: Partial, piece: bytearray, at: int, unpacker: Unpacker | None
    ) -> int:
        """Put `piece`, unpacked if it is packed, at byte `at`. Returns where the file ends then."""
        if unpacker is None:
            await run_in_thread(lambda: partial.write(piece, at=at))
            return at + len(piece)
        unpacker.feed(piece)
        try:
            # One piece at a time: a packed one may hold a thousand of them.
            while count := await run_in_thread(
                _unpack, unpacker, partial, at, min(_PIECE, self._max_bytes - at + 1)
            ):
                at += count
                if at > self._max_bytes:
                    raise ResultTooLarge(f"more than {self._max_bytes} bytes", self._output)
        except Broken as error:
            raise ResultBroken(str(error), self._output) from None
        return at

    async def _keep(self, partial: Partial, content_type: str) -> Download:
        # Whatever is wrong with it now, the bytes that are there are of no use.
        self._validator = ""
        output = self._output

        def check(file: BinaryIO, size: int) -> str:
            head = file.read(LOOK)
            file.seek(0)
            expected = _expected(output, head)
            kind, pixels = check_whole(Reader(file, size), expected)
            if kind in _WEAK and (fault := impostor(head, size, expected, content_type)):
                raise Broken(fault)
            if pixels:
                file.seek(0)
                decode(file, kind, pixels)
            return kind

        try:
            kind = await run_in_thread(partial.look, check)
        except Broken as error:
            raise ResultBroken(str(error), self._output) from None
        except TooLarge as error:
            raise ResultTooLarge(str(error), self._output) from None
        if self._place is not None:
            self._path = await self._place(kind)
        download = await _kept(partial, self._path, kind if kind_of(kind) == "image" else "")
        self._partial = None
        return download


def _unpack(unpacker: Unpacker, partial: Partial, at: int, limit: int) -> int:
    """Put the next bytes of the file, about `limit`, at byte `at`. Returns how many they are."""
    piece = unpacker.take(limit)
    if piece:
        partial.write(piece, at=at)
    return len(piece)


def _expected(output: Output, head: bytes) -> str:
    """The type that the file should have: the service's, unless content and URL agree on
    another."""
    kind, suffix = sniff(head), suffix_of(output.url or "")
    return suffix if kind and canonical(suffix) == kind else announced(output)


def _why_no_url(output: Output) -> str:
    if output.text is not None:
        return "the output is a text and has no URL"
    fault = output.extra.get("error") or output.extra.get("errorMessage")
    return f"the service names no URL for it{f': {fault!s:.200}' if fault else ''}"


async def keep_text(text: str, path: Path, temporary: Path | None = None) -> Download:
    """Put a text result into the file `path`, in UTF-8, whole or not at all.

    `temporary`: as for `Fetch`. Raises `OSError`, and leaves nothing behind then.
    """
    partial = Partial(path, temporary)
    data = text.encode("utf-8", "replace")
    try:
        await run_in_thread(lambda: partial.write(data, at=0))
        return await _kept(partial, path, "")
    except BaseException:
        await _discarded(partial)
        raise


async def _discarded(partial: Partial) -> None:
    """Remove the file, however often the caller is cancelled meanwhile."""
    partial.give_up()
    await wait_out([asyncio.ensure_future(run_in_thread(partial.discard))])


async def _kept(partial: Partial, path: Path, image_type: str) -> Download:
    await run_in_thread(partial.keep, path)
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
