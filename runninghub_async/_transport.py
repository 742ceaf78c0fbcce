"""The wire: one request out, one answer in. Nothing here knows what either means."""

from __future__ import annotations

import contextlib
import io
import ipaddress
import os
import socket
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final, Protocol, Self, runtime_checkable

import aiohttp
import aiohttp.abc
import anyio
import anyio.to_thread
import attrs
import yarl

from ._addresses import host_of, is_public
from ._exceptions import ConnectError, PayloadError, ReadError, ReadTimeout, TransportError
from ._models import FileBody, Request, Response

__all__ = [
    "AiohttpTransport",
    "NotPublic",
    "SocketTransport",
    "StreamedResponse",
    "StreamingTransport",
    "Transport",
    "file_stamp",
]

#: An answer of the API is a few kilobytes; one beyond this is not the API's.
MAX_ANSWER_BYTES: Final = 8 * 2**20

_CHUNK: Final = 2**18

#: From here on aiohttp wants a body as a file, which it sends in pieces.
_LARGE_BODY: Final = 2**20

#: How often a silent socket is asked whether it still lives, in seconds.
_HEARTBEAT: Final = 20.0

#: An upload that is slower than this, in bytes per second, is given up.
_SLOWEST: Final = 2**15


class NotPublic(ConnectError):
    """`Request.public_only`, and the host's name leads to no public address."""


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
class SocketTransport(Transport, Protocol):
    """A transport that can also open a WebSocket, for the progress of workflows."""

    def connect(self, url: str) -> AbstractAsyncContextManager[AsyncIterator[str | bytes]]:
        """The messages of the socket at `url`, while the context is open. No key is sent."""
        ...


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
    # What is odd about an address or an answer; nobody can say whether anything was sent.
    ValueError: ReadError,
}


_THEIRS: Final = tuple(_ERRORS)


#: Theirs whose text is known not to quote the address, which holds the key for some calls and a
#: signature for others.
_PLAIN: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ServerDisconnectedError,
    aiohttp.SocketTimeoutError,
    aiohttp.ClientPayloadError,
)


def _translated(error: BaseException) -> TransportError:
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, _PrivateError
    ):
        return NotPublic(str(error.os_error))
    ours = next(ours for theirs, ours in _ERRORS.items() if isinstance(error, theirs))
    text = ""
    if isinstance(error, _PLAIN):
        text = str(error)
    elif isinstance(error, OSError) and error.errno:
        text = os.strerror(error.errno)
    elif isinstance(error, aiohttp.ClientResponseError):
        text = error.message
    return ours(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _cause(error: BaseException) -> BaseException | None:
    """What may be shown as the cause of our error."""
    return error if isinstance(error, _PLAIN) else None


class AiohttpTransport:
    """HTTP by aiohttp.

    `connect_timeout`: seconds for a connection, name resolution and TLS included. `connections`:
    how many at once for calls, and as many again for results from the service's own host and for
    results from others. `keepalive`: how long an idle
    connection is kept, in seconds; it is shorter than servers keep theirs, since a submit sent on
    a connection that the server is just closing has an unknown fate. `trust_env`: take proxies
    from the environment. `result_networks`: networks, such as `198.18.0.0/15`, into which the
    names of results may resolve as well, for machines whose VPN answers every name with an
    address of its own. `session`: bring your own `aiohttp.ClientSession` instead; it stays
    yours to close.

    The names of `Request.public_only` are connected to only where they resolve to public
    addresses. A proxy resolves names itself, and a session that was brought is used as it is:
    with either, the judging of names is left to it.
    """

    def __init__(
        self,
        *,
        connect_timeout: float = 10.0,
        connections: int = 128,
        keepalive: float = 10.0,
        trust_env: bool = False,
        result_networks: Sequence[str] = (),
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self._result_networks = tuple(map(ipaddress.ip_network, result_networks))
        self._connect_timeout = connect_timeout
        self._connections = connections
        self._keepalive = keepalive
        self._trust_env = trust_env
        self._brought = session
        self._closed = False
        self._calls: aiohttp.ClientSession | None = None
        self._results: aiohttp.ClientSession | None = None
        self._public: aiohttp.ClientSession | None = None
        self._sockets: aiohttp.ClientSession | None = None
        self._timeouts: dict[float, aiohttp.ClientTimeout] = {}
        self._urls: dict[str, yarl.URL] = {}

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        if request.public_only:
            session = self._results_session(request)
        else:
            session = self._calls = self._calls or self._open_session()
        payload = _payload(request)
        try:
            async with session.request(
                request.method,
                self._url(request.url),
                data=payload,
                headers=request.headers
                if request.file is None
                # Said beforehand, or it would go out in chunks, which storage hosts refuse.
                else {**request.headers, "Content-Length": str(len(request.file))},
                timeout=self._timeout(request),
                allow_redirects=False,
            ) as answer:
                length = answer.content_length
                if length is not None and length <= MAX_ANSWER_BYTES:
                    body = await answer.read()
                else:
                    body = await _bounded(answer)
                return Response(answer.status, body, answer.headers)
        except _THEIRS as error:
            if isinstance(payload, _Pieces) and payload.fault is not None:
                raise payload.fault from None
            raise _translated(error) from _cause(error)
        finally:
            if isinstance(payload, _Pieces):
                await payload.aclose()

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """See `StreamingTransport.stream`.

        Results have connections of their own: however many are fetched at once, no submit waits
        for one of them, and none of them waits behind a poll.
        """
        session = self._results_session(request)
        try:
            answer = await session.request(
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
            raise _translated(error) from _cause(error)
        try:
            # Outside of the translation: an OSError of the reader's own disk is none of ours.
            yield StreamedResponse(answer.status, answer.headers, _Chunks(answer))
        finally:
            answer.release()
            await answer.wait_for_close()

    @contextlib.asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator[AsyncIterator[str | bytes]]:
        """See `SocketTransport.connect`."""
        if self._sockets is None:
            self._sockets = self._open_session(own=True)
        try:
            socket = await self._sockets.ws_connect(
                yarl.URL(url, encoded=True),
                heartbeat=_HEARTBEAT,
                max_msg_size=MAX_ANSWER_BYTES,
            )
        except aiohttp.WSServerHandshakeError as error:
            # Theirs quotes the address, which holds a credential.
            raise ConnectError(f"the socket was refused: HTTP {error.status}") from None
        except _THEIRS as error:
            raise ConnectError(f"no socket: {type(error).__name__}") from None
        async with socket:
            yield _messages(socket)

    async def aclose(self) -> None:
        """Close the connections, unless the session was brought along."""
        self._closed = True
        sessions = {self._calls, self._results, self._public, self._sockets}
        self._calls = self._results = self._public = self._sockets = None
        for session in sessions - {None, self._brought}:
            assert session is not None
            await session.close()

    def _results_session(self, request: Request) -> aiohttp.ClientSession:
        if request.public_only:
            self._public = self._public or self._open_session(public_only=True)
            return self._public
        self._results = self._results or self._open_session()
        return self._results

    def _open_session(
        self, *, own: bool = False, public_only: bool = False
    ) -> aiohttp.ClientSession:
        if self._closed:
            raise ConnectError("the transport is closed")
        # Made when first needed, not in __init__, so that it belongs to the loop it is used on.
        if self._brought is not None and not own:
            return self._brought
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections,
                keepalive_timeout=self._keepalive,
                resolver=_PublicResolver(self._result_networks, proxies=self._trust_env)
                if public_only
                else None,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._trust_env,
            # A socket cannot be told to stay where it is; a call is told each time.
            middlewares=(_refuse_redirects,) if own else (),
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

    def _timeout(self, request: Request) -> aiohttp.ClientTimeout:
        read_timeout = request.read_timeout
        size = len(request.file or request.body or b"")
        if size >= _LARGE_BODY:
            # Sending takes its time, and the silence is counted from its end.
            return aiohttp.ClientTimeout(
                total=self._connect_timeout + read_timeout + size / _SLOWEST,
                sock_connect=self._connect_timeout,
                sock_read=read_timeout,
            )
        known = self._timeouts.get(read_timeout)
        if known is None:
            # One timer for the whole exchange costs less than one for each read, and an answer
            # of the API comes in one piece. Connecting has its own, so that a connection that
            # could not be made is never taken for an answer that did not come.
            known = self._timeouts[read_timeout] = aiohttp.ClientTimeout(
                total=self._connect_timeout + read_timeout, sock_connect=self._connect_timeout
            )
        return known


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class _PrivateError(OSError):
    """What a resolver may raise: a name that leads to no public address."""


class _PublicResolver(aiohttp.abc.AbstractResolver):
    """The system's resolver, but for addresses that are neither public nor in `networks`.
    `proxies`: those that the environment names are exempt, since they stand between this machine
    and the internet."""

    def __init__(self, networks: tuple[_Network, ...], *, proxies: bool) -> None:
        self._networks = networks
        self._resolver = aiohttp.ThreadedResolver()
        addresses = urllib.request.getproxies().values() if proxies else ()
        self._exempt = frozenset(map(host_of, addresses))

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        if host in self._exempt:
            return found
        public = [each for each in found if self._admits(each["host"])]
        if not public:
            where = f", but to {found[0]['host']}" if found else ""
            raise _PrivateError(
                f"the host {host[:100]!r} leads to no public address{where}; if a VPN or proxy of"
                " yours answers with such addresses, allow its network: result_networks of"
                " AiohttpTransport, or --result-network of the command"
            )
        return public

    def _admits(self, address: str) -> bool:
        if is_public(address):
            return True
        return any(ipaddress.ip_address(address) in network for network in self._networks)

    async def close(self) -> None:
        await self._resolver.close()


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
            raise _translated(error) from _cause(error)


async def _refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    answer = await handler(request)
    if answer.status in (301, 302, 303, 307, 308):
        answer.close()
        raise aiohttp.ClientConnectionError("redirected")
    return answer


async def _messages(socket: aiohttp.ClientWebSocketResponse) -> AsyncIterator[str | bytes]:
    async for message in socket:
        if message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
            yield message.data


def _payload(request: Request) -> bytes | io.BytesIO | _Pieces | None:
    if request.file is not None:
        return _Pieces(request.file)
    body = request.body
    return body if body is None or len(body) < _LARGE_BODY else io.BytesIO(body)


class _Pieces:
    """The body of an upload, read from disk in a thread, a piece at a time. `fault` is what broke
    it off, where that was not the network."""

    def __init__(self, body: FileBody) -> None:
        self.fault: Exception | None = None
        self._body = body
        self._left = body.size
        self._file: anyio.AsyncFile[bytes] | None = None
        self._ended = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._ended:
            raise StopAsyncIteration
        try:
            return await self._next()
        except Exception as error:
            # aiohttp would take it for trouble with the connection.
            self.fault = error
            raise

    async def _next(self) -> bytes:
        body = self._body
        if self._file is None:
            self._file = await self._open()
            await self._check(self._file)
            return body.head
        if self._left:
            piece = await self._file.read(min(_CHUNK, self._left))
            if not piece:
                raise _changed(body)
            self._left -= len(piece)
            if body.progress is not None:
                body.progress(body.size - self._left)
            return piece
        await self._check(self._file)
        self._ended = True
        return body.tail

    async def _open(self) -> anyio.AsyncFile[bytes]:
        try:
            return await anyio.open_file(self._body.path, "rb")
        except OSError:
            raise _changed(self._body) from None

    async def _check(self, file: anyio.AsyncFile[bytes]) -> None:
        """What is sent has to be what was looked at."""
        facts = await anyio.to_thread.run_sync(os.fstat, file.wrapped.fileno())
        if self._body.stamp and file_stamp(facts) != self._body.stamp:
            raise _changed(self._body)

    async def aclose(self) -> None:
        if self._file is not None:
            with anyio.CancelScope(shield=True):
                await self._file.aclose()


def file_stamp(facts: os.stat_result) -> tuple[int, ...]:
    """What changes when a file does, as far as its file system tells."""
    return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev)


def _changed(body: FileBody) -> PayloadError:
    return PayloadError([f"{body.path}: was changed while it was being uploaded @ $"])


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ReadError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
