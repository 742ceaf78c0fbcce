"""The wire: one request out, one answer in. Nothing here knows what either means."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, BinaryIO, ClassVar, Final, Protocol, Self, runtime_checkable

import aiohttp
import anyio
import attrs
import yarl

from ._exceptions import (
    ConnectError,
    PayloadError,
    ReadError,
    ReadTimeout,
    RunningHubError,
    SessionError,
    TransportError,
)
from ._exchange import Clock, Exchange, WatchedRequest, close_last, current
from ._local import file_stamp, open_regular
from ._models import FileBody, Request, Response
from ._proxies import Proxies
from ._resolver import PrivateAddressError, PublicResolver, Resolver
from ._threads import run_in_thread

__all__ = [
    "AiohttpTransport",
    "NotPublic",
    "OpeningTransport",
    "SocketTransport",
    "StreamedResponse",
    "StreamingTransport",
    "Transport",
]

#: An answer of the API is a few kilobytes; one beyond this is not the API's.
MAX_ANSWER_BYTES: Final = 8 * 2**20

_CHUNK: Final = 2**18

#: A body of this size or more is sent in pieces, in bytes.
_LARGE_BODY: Final = 2**20

#: How often a silent socket is asked whether it still lives, in seconds.
_HEARTBEAT: Final = 20.0

#: The longest header line that is read, in bytes.
_MAX_HEADER: Final = 2**16

#: A submit leaves on a connection that was used within so many seconds, or on a new one.
_FRESH: Final = 1.0


#: Default headers of a session that was brought along which are not used: they would not fit these
#: requests, or would take its credentials to hosts of results.
_OWN_HEADERS: Final = frozenset(
    {
        "accept-encoding", "authorization", "connection", "content-encoding", "content-length",
        "cookie", "expect", "host", "if-match", "if-modified-since", "if-none-match", "if-range",
        "if-unmodified-since", "proxy-authorization", "range", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip


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


@runtime_checkable
class OpeningTransport(Transport, Protocol):
    """A transport that checks what it was given when its session is entered."""

    async def open(self) -> None:
        """Raises `SessionError` if it cannot be used on this event loop."""
        ...


@runtime_checkable
class DistrustingTransport(Transport, Protocol):
    """A transport that reuses connections, and can give one up."""

    def distrust(self) -> None:
        """The last answer that this task got belongs to another request, or is not the service's:
        use its connection no more, since the answers of later requests would be shifted, too."""
        ...


@attrs.frozen
class StreamedResponse:
    """An answer whose body is read piece by piece. Headers are found by lower-case names.

    `packed`: whether `chunks` are still packed as the header `Content-Encoding` says, so that the
    download has to unpack them; a transport that wraps `AiohttpTransport` has to pass it on.
    Otherwise they are the bytes of the file, whatever the header says.
    """

    status: int
    headers: Mapping[str, str] = attrs.field(repr=False)
    chunks: AsyncIterator[bytes] = attrs.field(repr=False)
    packed: bool = False


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


#: aiohttp's errors and ours, once a request has left; the first class that fits wins.
#: ServerDisconnectedError is "perhaps sent": a kept-alive connection may have died under the
#: request, or after the service had read it.
_AFTER: Final[dict[type[BaseException], type[TransportError]]] = {
    aiohttp.SocketTimeoutError: ReadTimeout,
    aiohttp.ClientError: ReadError,
    TimeoutError: ReadTimeout,
}

#: Theirs whose text is known not to quote the address, which holds the key for some calls and a
#: signature for others.
_PLAIN: Final = (
    aiohttp.ClientConnectorError,
    aiohttp.ServerDisconnectedError,
    aiohttp.SocketTimeoutError,
    aiohttp.ClientPayloadError,
)


_ALLOW: Final = (
    "if a VPN or a proxy resolves every host name to one of its own addresses, allow its network:"
    ' AiohttpTransport(result_networks=["198.18.0.0/15"]), or --result-network 198.18.0.0/15'
)


def _translated(error: BaseException, *, sent: bool, connect_timeout: float) -> TransportError:
    """Our error for aiohttp's; `sent` if the request may have left."""
    if (fault := _of_trace(error)) is not None:
        text = f"a trace config of the aiohttp.ClientSession brought along raised {fault!r:.300}"
        ended = ReadError(text) if sent else ConnectError(text)
        ended.permanent = True
        return ended
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, PrivateAddressError
    ):
        return NotPublic(f"{error.os_error}; {_ALLOW}")
    if not sent:
        return ConnectError(_before(error, connect_timeout))
    ours = next((ours for theirs, ours in _AFTER.items() if isinstance(error, theirs)), ReadError)
    text = _words(error)
    return ours(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def _of_trace(error: BaseException) -> BaseException | None:
    """What a callback of a trace config raised, if that is what `error` is or comes from. It is no
    trouble with the network, whatever its class."""
    found: BaseException | None = error
    while found is not None:
        step = found.__traceback__
        while step is not None:
            if step.tb_frame.f_globals.get("__name__") == "aiohttp.tracing":
                return found
            step = step.tb_next
        found = found.__cause__
    return None


def _before(error: BaseException, connect_timeout: float) -> str:
    """Why there is no connection."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy refused the connection: HTTP {error.status} {error.message}"
    if isinstance(error, TimeoutError):
        return f"{type(error).__name__}: no connection within {connect_timeout:g} s"
    text = _words(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _words(error: BaseException) -> str:
    if isinstance(error, _PLAIN):
        return str(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if not isinstance(error, aiohttp.ClientResponseError):
        return ""
    # What is no HTTP is quoted over several lines, with a mark below.
    return " ".join(error.message.replace("^", " ").split())


def _cause(error: BaseException) -> BaseException | None:
    """What may be shown as the cause of our error."""
    return _of_trace(error) or (error if isinstance(error, _PLAIN) else None)


class AiohttpTransport:
    """HTTP by aiohttp.

    `connect_timeout`: seconds for everything before a request leaves: a free connection, the
    name, the proxy and TLS. `connections`: how many at once for submits, as many again for other
    calls, for uploads, for results from the service's own host and for results from others.
    `keepalive`: how long an idle connection is kept, in seconds; it is shorter than servers keep
    theirs. A submit is never sent on a connection that has been idle for over a second, since a
    server that is just closing it leaves the submit's outcome unknown. `trust_env`: use the
    proxies of the environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    `result_networks`: networks, such as `198.18.0.0/15`, into which the names of results may
    resolve as well, for machines whose VPN resolves every host name to an address of its own.

    `session`: use the connector, default headers, proxy, trace configs and `trust_env` of your own
    `aiohttp.ClientSession`; it stays yours to close. A connection that its connector has no room
    for is waited for without a limit. Its default `Authorization` and `Cookie`, and its other
    settings, such as `raise_for_status` or its time-outs, do not reach the requests made here. A
    session that is closed, belongs to another event loop or has middlewares (which might repeat a
    submit) is refused with `SessionError` when the `Session` is entered. How long an idle
    connection may be used for a submit is then its connector's `keepalive_timeout`.

    Hosts of `Request.public_only` are connected to only if they resolve to public addresses. A
    proxy resolves names itself, and the connector of a session of yours uses its own resolver: with
    either, this check does not happen here.
    """

    #: A request's `file` may hold bytes from memory (`FileBody.content`).
    takes_content: ClassVar[bool] = True

    def __init__(
        self,
        *,
        connect_timeout: float = 10.0,
        connections: int = 128,
        keepalive: float = 10.0,
        trust_env: bool = True,
        result_networks: Sequence[str] = (),
        session: aiohttp.ClientSession | None = None,
    ) -> None:
        self._result_networks = tuple(map(ipaddress.ip_network, result_networks))
        self._connect_timeout = connect_timeout
        self._connections = connections
        self._keepalive = keepalive
        self._brought = session
        self._closed = False
        self._clock: Clock | None = None
        trusted = trust_env if session is None else bool(getattr(session, "trust_env", False))
        self._proxies = Proxies(trusted=trusted)
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        #: The room that a connector that was brought along has, in all and by host.
        self._places: dict[str, asyncio.Semaphore] = {}
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=connect_timeout, sock_connect=connect_timeout
        )
        self._urls: dict[str, yarl.URL] = {}

    async def open(self) -> None:
        """Check the session that was given. Raises `SessionError` for a `ClientSession` that cannot
        be used here."""
        own = self._brought
        if own is None:
            return
        if not isinstance(own, aiohttp.ClientSession):
            raise SessionError(f"session: expected an aiohttp.ClientSession, got {own!r:.60}")
        connector = own.connector
        if own.closed or connector is None or connector.closed:
            raise SessionError("session: the aiohttp.ClientSession is closed")
        if getattr(own, "_loop", None) not in (None, asyncio.get_running_loop()):
            raise SessionError("session: the aiohttp.ClientSession belongs to another event loop")
        if getattr(own, "_middlewares", ()):
            raise SessionError(
                "session: the aiohttp.ClientSession has middlewares, which might send a submit"
                " twice; bring one without"
            )

    async def send(self, request: Request) -> Response:
        """See `Transport.send`."""
        payload = _payload(request)
        watched = isinstance(payload, _Pieces)
        exchange = Exchange(self._clock_here(), request.read_timeout)
        token = current.set(exchange)
        answer: aiohttp.ClientResponse | None = None
        body = bytearray()
        places: list[asyncio.Semaphore] = []
        try:
            session = self._session_for(request, watched=watched)
            url = self._url(request.url)
            headers = _with_length(request) if watched else request.headers
            proxy = _NO_PROXY
            if not self._proxies.none:
                headers, proxy = await self._proxy(session, url, headers)
            if self._brought is not None:
                await self._take_places(url, places)
            answer = await _request_of(session)(
                request.method,
                url,
                data=_Watched(payload, exchange) if isinstance(payload, _Pieces) else payload,
                headers=headers,
                timeout=self._timeout,
                allow_redirects=False,
                **proxy,
            )
            try:
                # Once more in total, and not for each piece: a slow body has to end, too.
                exchange.restart()
                await _read(answer, body)
            finally:
                # A whole answer has given its connection back; pieces may still be on their way.
                if watched or not answer.closed:
                    answer.release()
                    await answer.wait_for_close()
            return Response(answer.status, bytes(body), answer.headers)
        except asyncio.CancelledError:
            if not exchange.was_cancelled_by_clock():
                raise
            raise _late(request, _partial(answer, body, exchange)) from None
        except TransportError as error:
            error.response = _partial(answer, body, exchange)
            raise
        except RunningHubError:
            raise
        except Exception as error:
            fault = getattr(payload, "fault", None)
            if fault is not None:
                raise fault from fault.__cause__
            ours = self._translated(error, sent=exchange.sent)
            ours.response = _partial(answer, body, exchange)
            raise ours from _cause(error)
        finally:
            exchange.stop()
            current.reset(token)
            for place in places:
                place.release()
            if isinstance(payload, _Pieces):
                await payload.aclose()

    def distrust(self) -> None:
        """See `DistrustingTransport.distrust`."""
        close_last()

    @contextlib.asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[StreamedResponse]:
        """See `StreamingTransport.stream`.

        Results have connections of their own: however many are fetched at once, no submit waits
        for one of them, and none of them waits behind a poll.
        """
        places: list[asyncio.Semaphore] = []
        try:
            async with self._streamed(request, places) as answer:
                yield answer
        finally:
            for place in places:
                place.release()

    @contextlib.asynccontextmanager
    async def _streamed(
        self, request: Request, places: list[asyncio.Semaphore]
    ) -> AsyncIterator[StreamedResponse]:
        try:
            self._clock_here()
            session = self._session("public" if request.public_only else "results")
            url = yarl.URL(request.url, encoded=True)
            if self._brought is not None:
                await self._take_places(url, places)
            headers, proxy = await self._proxy(session, url, request.headers)
            answer = await session.request(
                request.method,
                url,
                headers=headers,
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=self._connect_timeout,
                    sock_connect=self._connect_timeout,
                    sock_read=request.read_timeout,
                ),
                allow_redirects=False,
                # It would take half a gzip body for a whole one, and unpacks in the event loop.
                auto_decompress=False,
                **proxy,
            )
        except RunningHubError:
            raise
        except Exception as error:
            # A download is harmless, so it does not matter whether its request had left; but a host
            # that could not be reached should be reported as such.
            sent = not isinstance(error, _UNREACHED)
            raise self._translated(error, sent=sent) from _cause(error)
        try:
            # Outside of the translation: an OSError of the reader's own disk is none of ours.
            chunks = _Chunks(answer, self._connect_timeout)
            yield StreamedResponse(answer.status, answer.headers, chunks, packed=True)
        finally:
            answer.release()
            await answer.wait_for_close()

    @contextlib.asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator[AsyncIterator[str | bytes]]:
        """See `SocketTransport.connect`."""
        try:
            self._clock_here()
            session = self._session("sockets")
            address = yarl.URL(url, encoded=True)
            headers, proxy = await self._proxy(session, address, {})
            socket = await session.ws_connect(
                address,
                heartbeat=_HEARTBEAT,
                max_msg_size=MAX_ANSWER_BYTES,
                headers=headers,
                **proxy,
            )
        except RunningHubError:
            raise
        except aiohttp.WSServerHandshakeError as error:
            # Theirs quotes the address, which holds a credential.
            raise ConnectError(f"the socket was refused: HTTP {error.status}") from None
        except Exception as error:
            raise ConnectError(f"no socket: {type(error).__name__}") from None
        async with socket:
            yield _messages(socket)

    async def aclose(self) -> None:
        """Close the connections, unless the session was brought along."""
        self._closed = True
        if self._clock is not None:
            self._clock.rest()
            self._clock = None
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()

    def _translated(self, error: BaseException, *, sent: bool) -> TransportError:
        return _translated(error, sent=sent, connect_timeout=self._connect_timeout)

    def _session_for(self, request: Request, *, watched: bool) -> aiohttp.ClientSession:
        if request.public_only:
            return self._session("public")
        if not request.repeatable:
            return self._session("submits")
        return self._session("uploads" if watched else "calls")

    def _clock_here(self) -> Clock:
        """The clock of this event loop. Raises `ConnectError` on any other loop than the first: its
        connections would be used there, which crashes some loops."""
        loop = asyncio.get_running_loop()
        if self._clock is None:
            self._clock = Clock(loop)
        elif self._clock.loop is not loop:
            error = ConnectError("the transport belongs to another event loop: open one on each")
            error.permanent = True
            raise error
        return self._clock

    def _session(self, kind: str) -> aiohttp.ClientSession:
        if self._closed:
            raise ConnectError("the transport is closed")
        own = self._brought if kind != "sockets" else None
        if own is not None and (own.closed or own.connector is None or own.connector.closed):
            error = ConnectError(
                "the aiohttp.ClientSession that was brought along is closed: open a new Session"
            )
            error.permanent = True
            raise error
        # Made when first needed, not in __init__, so that it belongs to the loop it is used on.
        session = self._sessions.get(kind)
        if session is None:
            session = self._sessions[kind] = self._open_session(kind)
        return session

    def _open_session(self, kind: str) -> aiohttp.ClientSession:
        options: dict[str, Any] = {}
        own = self._brought if kind != "sockets" else None
        if own is not None:
            # Use its connections, but not its settings: each may change the meaning of an answer.
            options |= {
                "connector": own.connector,
                "connector_owner": False,
                "headers": {k: v for k, v in own.headers.items() if k.lower() not in _OWN_HEADERS},
                "trace_configs": own.trace_configs,
                "proxy": getattr(own, "_default_proxy", None),
                "proxy_auth": getattr(own, "_default_proxy_auth", None),
            }
        else:
            options["connector"] = aiohttp.TCPConnector(
                limit=self._connections,
                keepalive_timeout=min(self._keepalive, _FRESH) if kind == "submits"
                else self._keepalive,
                resolver=PublicResolver(self._result_networks, lambda: self._proxies.hosts)
                if kind == "public"
                else Resolver(),
            )  # fmt: skip
        return aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            request_class=WatchedRequest,
            # Gateways put long policies into one header; aiohttp's default of 8 kB loses the
            # answer.
            max_line_size=_MAX_HEADER,
            max_field_size=_MAX_HEADER,
            # A socket cannot be told to stay where it is; a call is told each time.
            middlewares=(_refuse_redirects,) if kind == "sockets" else (),
            **options,
        )

    async def _proxy(
        self, session: aiohttp.ClientSession, url: yarl.URL, headers: Mapping[str, str]
    ) -> tuple[Mapping[str, str], dict[str, Any]]:
        """The headers of a request to `url`, and the arguments that send it through the proxy of
        the environment, if there is one."""
        secure = url.scheme in ("https", "wss")
        proxy = await self._proxies.find("https" if secure else "http", f"{url.host}:{url.port}")
        if proxy is None or getattr(session, "_default_proxy", None) is not None:
            return headers, {}
        if secure:
            # They belong to the CONNECT, and not to what goes through the tunnel.
            return headers, {"proxy": proxy.url, "proxy_headers": proxy.headers}
        return {**headers, **proxy.headers}, {"proxy": proxy.url}

    async def _take_places(self, url: yarl.URL, places: list[asyncio.Semaphore]) -> None:
        """Wait until the connector that was brought along has room for one more connection, and
        add what has to be released afterwards to `places`. This wait is no trouble of the network,
        so the time for a connection must not include it."""
        connector = self._brought.connector if self._brought is not None else None
        if connector is None:
            return
        for of, most in (("", connector.limit), (url.authority, connector.limit_per_host)):
            if most:
                place = self._places.setdefault(of, asyncio.Semaphore(most))
                await place.acquire()
                places.append(place)

    def _url(self, url: str) -> yarl.URL:
        # Encoded already: a signed query must reach its host as the service wrote it. A session
        # talks to a handful of API paths over and over; result URLs never repeat.
        known = self._urls.get(url)
        if known is None:
            known = yarl.URL(url, encoded=True)
            if len(self._urls) < 256 and not known.query_string:
                self._urls[url] = known
        return known


def _request_of(session: aiohttp.ClientSession) -> Callable[..., Awaitable[aiohttp.ClientResponse]]:
    """What `session.request` wraps so that it can also be entered. Python resumes a wrapped
    coroutine more slowly, at each step of the request."""
    return getattr(session, "_request", session.request)


_STATUS_LINE: Final = re.compile(rb"HTTP/\d\.\d (\d{3})\b")

_NO_PROXY: Final[Mapping[str, Any]] = {}

#: Errors that mean that a host was not reached at all.
_UNREACHED: Final = (
    aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError,
    aiohttp.InvalidURL,
)  # fmt: skip


def _with_length(request: Request) -> dict[str, str]:
    # Without it the body would be sent chunked, which storage hosts refuse.
    size = len(request.file) if request.file is not None else len(request.body or b"")
    return {**request.headers, "Content-Length": str(size)}


def _late(request: Request, partial: Response | None) -> ReadTimeout:
    error = ReadTimeout(f"no answer within {request.read_timeout:g} s")
    error.response = partial
    return error


def _partial(
    answer: aiohttp.ClientResponse | None, body: bytearray, exchange: Exchange
) -> Response | None:
    """The part of an answer that had arrived when it broke off."""
    if answer is not None and body:
        return Response(answer.status, bytes(body), answer.headers)
    # What could not be read as HTTP may hold an answer all the same.
    head, _, rest = bytes(exchange.last_packet).partition(b"\r\n\r\n")
    if answer is not None:
        return Response(answer.status, rest, answer.headers)
    told = _STATUS_LINE.match(head)
    return Response(int(told[1]), rest) if told is not None and rest else None


async def _read(answer: aiohttp.ClientResponse, body: bytearray) -> None:
    """Read the answer into `body`, whose size is that of the unpacked bytes."""
    content = answer.content
    while True:
        try:
            body += await content.readany()
        except Exception:
            # aiohttp still holds what had arrived before the connection broke.
            body += b"".join(getattr(content, "_buffer", ()))
            raise
        if len(body) > MAX_ANSWER_BYTES:
            raise ReadError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        if content.at_eof():
            return


class _Watched:
    """The pieces of a long body. Each that could be handed over restarts the clock of `exchange`,
    and so does the last one, from which on the answer is waited for."""

    def __init__(self, pieces: AsyncIterable[bytes], exchange: Exchange) -> None:
        self._pieces = aiter(pieces)
        self._exchange = exchange

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._exchange.sent:
            self._exchange.restart()
        return await anext(self._pieces)


class _Chunks:
    """The body of an answer, in pieces; a failure is raised as a `TransportError`."""

    def __init__(self, answer: aiohttp.ClientResponse, connect_timeout: float) -> None:
        self._pieces = answer.content.iter_chunked(_CHUNK)
        self._connect_timeout = connect_timeout

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            raise
        except Exception as error:
            ours = _translated(error, sent=True, connect_timeout=self._connect_timeout)
            raise ours from _cause(error)


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


def _payload(request: Request) -> bytes | _Pieces | None:
    if request.file is not None:
        return _Pieces(request.file)
    body = request.body
    if body is None or len(body) < _LARGE_BODY:
        return body
    # Not as a file object, for which aiohttp would use the loop's default executor.
    return _Pieces(FileBody("", len(body), content=body))


class _Pieces:
    """A large body, a piece at a time: from memory, or read from disk in a thread. `fault` is what
    broke it off, where that was not the network."""

    def __init__(self, body: FileBody) -> None:
        self.length = len(body)
        self.fault: Exception | None = None
        self._body = body
        self._left = body.size
        self._file: BinaryIO | None = None
        self._begun = self._ended = False

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
        if not self._begun:
            self._begun = True
            if body.content is None:
                await run_in_thread(self._open)
            return body.head
        if self._left:
            piece = await self._read(body.size - self._left)
            if not piece:
                raise _changed(body)
            self._left -= len(piece)
            if body.progress is not None:
                body.progress(body.size - self._left)
            return piece
        if self._file is not None:
            await run_in_thread(self._check, self._file)
        self._ended = True
        return body.tail

    async def _read(self, at: int) -> bytes:
        if self._file is None:
            assert self._body.content is not None
            return self._body.content[at : at + _CHUNK]
        try:
            return await run_in_thread(self._file.read, min(_CHUNK, self._left))
        except OSError as error:
            reason = error.strerror or str(error)
            raise PayloadError([f"{self._body.path}: {reason} @ $"]) from None

    def _open(self) -> None:
        try:
            # Assigned in the thread: the task that waits for it may be cancelled meanwhile.
            self._file = open_regular(self._body.path)
        except OSError:
            raise _changed(self._body) from None
        self._check(self._file)

    def _check(self, file: BinaryIO) -> None:
        """What is sent has to be what was looked at."""
        if self._body.stamp and file_stamp(os.fstat(file.fileno())) != self._body.stamp:
            raise _changed(self._body)

    async def aclose(self) -> None:
        if self._file is not None:
            with anyio.CancelScope(shield=True):
                await run_in_thread(self._file.close)


def _changed(body: FileBody) -> PayloadError:
    return PayloadError([f"{body.path}: was changed while it was being uploaded @ $"])
