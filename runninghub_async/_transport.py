"""The wire: one request out, one answer in. Nothing here knows what either means."""

from __future__ import annotations

import contextlib
import io
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, Self, runtime_checkable

import aiohttp
import attrs
import yarl

from ._exceptions import ConnectError, ReadError, ReadTimeout, TransportError
from ._models import Request, Response

__all__ = ["AiohttpTransport", "StreamedResponse", "StreamingTransport", "Transport"]

#: An answer of the API is a few kilobytes; one beyond this is not the API's.
MAX_ANSWER_BYTES: Final = 8 * 2**20

_CHUNK: Final = 2**18

#: From here on aiohttp wants a body as a file, which it sends in pieces.
_LARGE_BODY: Final = 2**20


class Transport(Protocol):
    """What a session needs of the network. `testing.MockTransport` is one without any."""

    async def send(self, request: Request) -> Response:
        """Send `request` once and read its whole answer; do not follow redirects.

        Raises `ConnectError` when the request certainly did not leave, `ReadError` or
        `ReadTimeout` when it perhaps did.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...


@attrs.frozen
class StreamedResponse:
    """An answer whose body is read piece by piece. Headers are found by lower-case names."""

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    chunks: AsyncIterator[bytes] = attrs.field(repr=False)


@runtime_checkable
class StreamingTransport(Transport, Protocol):
    """A transport that can also hand out a body in pieces, for results of any size."""

    def stream(self, request: Request) -> AbstractAsyncContextManager[StreamedResponse]:
        """Send `request` once; the body is read while the context is open."""
        ...


#: Their errors to ours; the first class that fits wins, so the more special ones come first.
#: ServerDisconnectedError is "perhaps sent": a kept-alive connection may have died under the
#: request, or after the service had read it.
_ERRORS: Final[dict[type[BaseException], type[TransportError]]] = {
    aiohttp.ConnectionTimeoutError: ConnectError,
    aiohttp.SocketTimeoutError: ReadTimeout,
    aiohttp.ClientConnectorError: ConnectError,
    aiohttp.InvalidURL: ConnectError,
    aiohttp.ClientError: ReadError,
    TimeoutError: ReadTimeout,
    OSError: ReadError,
}


_THEIRS: Final = tuple(_ERRORS)


def _translated(error: BaseException) -> TransportError:
    ours = next(ours for theirs, ours in _ERRORS.items() if isinstance(error, theirs))
    return ours(f"{type(error).__name__}: {error}" if str(error) else repr(error))


class AiohttpTransport:
    """HTTP by aiohttp.

    `connect_timeout`: seconds for a connection, name resolution and TLS included. `connections`:
    how many at once for calls, and as many again for results. `keepalive`: how long an idle
    connection is kept, in seconds; it is shorter than servers keep theirs, since a submit sent on
    a connection that the server is just closing has an unknown fate. `trust_env`: take proxies
    from the environment. `session`: bring your own `aiohttp.ClientSession` instead; it stays
    yours to close.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = 10.0,
        connections: int = 128,
        keepalive: float = 10.0,
        trust_env: bool = False,
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self._connect_timeout = connect_timeout
        self._connections = connections
        self._keepalive = keepalive
        self._trust_env = trust_env
        self._brought = session
        self._closed = False
        self._calls: aiohttp.ClientSession | None = None
        self._results: aiohttp.ClientSession | None = None
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._urls: dict[str, yarl.URL] = {}

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        if self._calls is None:
            self._calls = self._open_session()
        try:
            async with self._calls.request(
                request.method,
                self._url(request.url),
                data=request.body
                if request.body is None or len(request.body) < _LARGE_BODY
                else io.BytesIO(request.body),
                headers=request.headers,
                timeout=self._timeout(request.read_timeout),
                allow_redirects=False,
            ) as answer:
                length = answer.content_length
                if length is not None and length <= MAX_ANSWER_BYTES:
                    body = await answer.read()
                else:
                    body = await _bounded(answer)
                return Response(answer.status, body, answer.headers)
        except _THEIRS as error:
            raise _translated(error) from error

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """See `StreamingTransport.stream`.

        Results have connections of their own: however many are fetched at once, no submit waits
        for one of them, and none of them waits behind a poll.
        """
        if self._results is None:
            self._results = self._open_session()
        try:
            answer = await self._results.request(
                request.method,
                yarl.URL(request.url, encoded=True),
                headers=request.headers,
                # No total: it would count the reading of a large result.
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    sock_connect=self._connect_timeout,
                    sock_read=request.read_timeout,
                ),
                allow_redirects=False,
            )
        except _THEIRS as error:
            raise _translated(error) from error
        try:
            # Outside of the translation: an OSError of the reader's own disk is none of ours.
            yield StreamedResponse(answer.status, answer.headers, _Chunks(answer))
        finally:
            answer.release()
            await answer.wait_for_close()

    async def aclose(self) -> None:
        """Close the connections, unless the session was brought along."""
        self._closed = True
        sessions, self._calls, self._results = {self._calls, self._results}, None, None
        for session in sessions - {None, self._brought}:
            assert session is not None
            await session.close()

    def _open_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise ConnectError("the transport is closed")
        # Made when first needed, not in __init__, so that it belongs to the loop it is used on.
        if self._brought is not None:
            return self._brought
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections, keepalive_timeout=self._keepalive
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._trust_env,
        )

    def _url(self, url: str) -> yarl.URL:
        # Encoded already: a signed query must reach its host as the service wrote it. A session
        # talks to a handful of API paths over and over; result URLs never repeat.
        known = self._urls.get(url)
        if known is None:
            known = yarl.URL(url, encoded=True)
            if len(self._urls) < 256 and not known.query_string:
                self._urls[url] = known
        return known

    def _timeout(self, read_timeout: float) -> aiohttp.ClientTimeout:
        known = self._timeouts.get(read_timeout)
        if known is None:
            # One timer for the whole exchange costs less than one for each read, and an answer
            # of the API comes in one piece. Connecting has its own, so that a connection that
            # could not be made is never taken for an answer that did not come.
            known = self._timeouts[read_timeout] = aiohttp.ClientTimeout(
                total=self._connect_timeout + read_timeout, sock_connect=self._connect_timeout
            )
        return known


class _Chunks:
    """The body of an answer, in pieces; what breaks is told as a `TransportError`."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self._pieces = answer.content.iter_chunked(_CHUNK)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except _THEIRS as error:
            raise _translated(error) from error


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ReadError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
