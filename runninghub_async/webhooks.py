"""Webhooks: what the service POSTs when a task ends, and a receiver for it.

    webhooks = Webhooks("https://example.org/hooks/", secret="…")
    app.mount("/hooks", webhooks.asgi)                        # any ASGI framework
    application.router.add_post("/hooks/", webhooks.aiohttp)  # or aiohttp
    async with Session(webhooks=webhooks) as session: ...

The slash at the end matters: frameworks answer a mount's bare path with a redirect, which the
service is not known to follow.

The service signs nothing, so each job gets its own address with a keyed digest in it. A request
without it is refused before its body is read. Even a valid event only makes the session query the
service (Query V2) for the task: the service's answer is what you get. Events may come more than
once, late or never, so polling continues, only less often.

Source: the service's documentation ("Webhook" in "Start ComfyUI Task" and on the model pages) and
four forms of the event that were observed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import math
import re
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import attrs

from ._answers import id_in, loads, told_task
from ._bounded import Bounded
from ._exceptions import ProtocolError, RunningHubError
from ._log import logger_of
from ._models import Response, Task
from ._polling import ExponentialPolling, Polling
from ._untrusted import MAX_VALUES, has_few_values, shown

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["TaskEvent", "Webhooks", "parse"]

logger = logger_of("runninghub_async")

#: An event is a few kilobytes. The loop reads one of this size in about 20 ms, because the number
#: of values in it is bounded, too.
MAX_EVENT_BYTES: Final = 4 * 2**20

#: Bounds on reading bodies of requests with a valid digest: seconds for one body, bytes held at
#: once, and bodies read at once.
_BODY_SECONDS: Final = 30.0
_HELD: Final = 32 * 2**20
_READING: Final = 256

#: How long the connection of a refused request stays open for the rest of its body, in seconds.
_LINGER: Final = 2.0

#: An address is a few hundred characters.
_MAX_QUERY: Final = 16 * 2**10
_MAX_FIELDS: Final = 100

#: The service's ids are digits; any other form is expected to be short and ASCII.
_TASK_ID: Final = re.compile(r"[!-~]{1,64}")

#: What begins the keys that sessions give to their own jobs.
_MARK: Final = "~"

#: How often a task is looked at whose event came early, and how soon.
_LOOKS: Final = 5
_SOON: Final = ExponentialPolling(initial=1.0, factor=2.0, maximum=10.0)

#: Events of one's own that are being confirmed at once, and that wait for it.
_CONFIRMING: Final = 8
_WAITING: Final = 1000

#: Ended tasks that are remembered, to tell an event that comes again.
_REMEMBERED: Final = 10_000

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@attrs.frozen
class TaskEvent:
    """One event. `task` is its unconfirmed statement about the task; `name` is the name of the
    event (always `TASK_END` so far, empty in the form that has none)."""

    task: Task
    name: str = ""


def parse(body: bytes, headers: Mapping[str, str] | None = None) -> TaskEvent:
    """The event in the body of a webhook, in any of the four forms seen.

    An envelope `{event, taskId, eventData}` whose `eventData` is JSON text of the older outputs
    (workflows and apps), an object like Query V2's answer (models) or `{code, msg, data}`; or
    no envelope at all. `headers` are those of the request; nothing in them is needed so far,
    because every form is UTF-8. Raises `ProtocolError` for anything else, and for an event with
    more than 20,000 values.
    """
    answer = Response(200, body, headers or {})
    envelope = _read_json(body, answer)
    data = envelope.get("eventData", envelope) if isinstance(envelope, dict) else None
    # Text within text, as the service nests it.
    for _ in range(2):
        data = _read_json(data, answer) if isinstance(data, str) else data
    if not isinstance(envelope, dict) or not isinstance(data, dict):
        raise ProtocolError("the webhook's body is no event", answer)
    inner = data.get("data")
    holders = (envelope, data, inner if isinstance(inner, dict) else {})
    task_id = next((found for holder in holders if (found := id_in(holder))), "")
    task = told_task(data, task_id) if _TASK_ID.fullmatch(task_id) else None
    if task is None:
        raise ProtocolError("the webhook's body does not name a task and its status", answer)
    return TaskEvent(task, str(envelope.get("event") or ""))


def _read_json(text: str | bytes, answer: Response) -> Any:
    if not has_few_values(text):
        raise ProtocolError(f"the webhook's body has more than {MAX_VALUES} values", answer)
    return loads(text)


class Webhooks:
    """A receiver for a session's webhooks. `url` is where the service reaches it from outside.

    `secret`: signs the addresses. Default: the secret of the session's journal, or a new one for
    each process; give one if several processes, or a later one without a journal, are to take the
    events. `patience`: seconds, from 0, for which the event of a submit whose response was lost is
    awaited; the job keeps its slot for as long. `polling`: how a session with webhooks still polls
    its tasks; its own `polling` is not used. `on_task(key, task)`: called once for each task that
    was submitted with `webhook_url=webhooks.url_for(key)`, with the task as the session got it from
    the service. If it fails, or the session closes first, the task is named in a warning and its
    event may come again; `session.webhook_events.resend` requests it. Raises `ValueError` for a
    `url` that is not http(s) and a `patience` that is no such number.

    `asgi` and `aiohttp` answer 204 for an event, at once and before the task is queried; 403 for a
    request without its digest, whose body is not read; 400 for a body that is no event, 405 for
    another method than POST, 408 for a body that takes more than 30 seconds, 413 beyond 4 MB, and
    503 while too many wait, too much is being read, or the session of its job is not open, so
    that the service sends it again.
    """

    def __init__(
        self,
        url: str,
        *,
        secret: str | bytes | None = None,
        polling: Polling = ExponentialPolling(initial=20.0, factor=1.5, maximum=60.0),  # noqa: B008 - a frozen value
        on_task: Callable[[str, Task], Awaitable[None]] | None = None,
        patience: float = 600.0,
    ) -> None:
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise ValueError(f"url must be an http(s) address, not {url!r}")
        self.url = url
        self.polling = polling
        if not (math.isfinite(patience) and patience >= 0):
            raise ValueError(f"patience must be a number of seconds from 0, not {patience!r}")
        self.patience = patience
        given = secret.encode() if isinstance(secret, str) else secret
        self._secret = given or secrets.token_bytes(32)
        self._secret_is_own = not given
        self._on_task = on_task
        self._sessions: dict[str, _Attached] = {}
        self._seen: Bounded[tuple[str, str], None] = Bounded(_REMEMBERED)
        self._confirming = asyncio.Semaphore(_CONFIRMING)
        self._waiting = 0
        #: The bodies that are being read, and the bytes that each holds so far.
        self._bodies: dict[object, int] = {}
        self._refused = 0

    def __repr__(self) -> str:
        return f"<Webhooks {self.url.partition('?')[0]}>"

    def url_for(self, key: str) -> str:
        """The address for the job that you call `key`; nobody else can make it. Raises
        `ValueError` for a key that begins with `~`, as those of sessions do."""
        if key.startswith(_MARK):
            raise ValueError(f"key must not begin with {_MARK}")
        return self.session_url(key)

    def session_url(self, key: str) -> str:
        """The address for a session's own job."""
        parts = urlsplit(self.url)
        query = urlencode([*parse_qsl(parts.query), ("job", key), ("sign", self._sign(key))])
        return urlunsplit(parts._replace(query=query))

    def _sign(self, key: str) -> str:
        signed = key.encode(errors="surrogatepass")
        return hmac.new(self._secret, signed, hashlib.sha256).hexdigest()

    def _key_in(self, query: str) -> str | None:
        """The key in an address; None if its digest is missing or wrong."""
        fields: dict[str, list[str]] = {}
        if len(query) <= _MAX_QUERY:
            with contextlib.suppress(ValueError):
                fields = parse_qs(query, max_num_fields=_MAX_FIELDS)
        key, sign = (fields.get(name, [""])[-1] for name in ("job", "sign"))
        if hmac.compare_digest(sign.encode(errors="replace"), self._sign(key).encode()):
            return key
        self._refused += 1
        # A line for each would let anybody fill the disk.
        if str(self._refused).strip("0") == "1":
            logger.warning("refused webhooks without a valid digest: %d so far", self._refused)
        return None

    # -- the session's side -------------------------------------------------------------------

    def attach(
        self,
        name: str,
        hint: Callable[[str, str], object],
        hear: Callable[[str, str], Awaitable[None]],
        query: Callable[[str], Awaitable[Task]],
        start: Callable[[Coroutine[Any, Any, None]], asyncio.Future[Any]],
        secret: bytes = b"",
    ) -> None:
        """Tell the session called `name` of events from now on; a session does this itself.

        `hint(job, task_id)` takes an event, `hear` does and writes it down, `query` asks after a
        task, `start` runs a coroutine that ends with the session. `secret` is its journal's,
        which signs in place of the one of this process, so that a later process knows what an
        earlier one had signed.
        """
        if secret and self._secret_is_own and not self._sessions:
            self._secret = secret
        self._sessions[name] = _Attached(hint, hear, query, start)

    def detach(self, name: str) -> None:
        """Stop delivering events to the session called `name`."""
        self._sessions.pop(name, None)

    # -- the service's side -------------------------------------------------------------------

    def is_signed(self, query: str) -> bool:
        """Whether an address with this `query` has a valid digest. If not, answer 403 without
        reading the request's body: anybody can send one."""
        return self._key_in(query) is not None

    def receive(self, query: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Take one event, from the address's `query` and the request's `body`, and return the
        HTTP status to answer. For servers that use neither ASGI nor aiohttp; call it on the
        session's event loop. With a journal, prefer `take`.
        Ask `is_signed` before reading the body."""
        event = self._read(query, body, headers)
        if isinstance(event, int):
            return event
        attached, job, task_id = event
        attached.hint(job, task_id)
        return 204

    async def take(self, query: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """The same, on any event loop. The event is in the session's journal, if it has one,
        before this returns: once it is answered, the service does not send it again."""
        event = self._read(query, body, headers)
        if isinstance(event, int):
            return event
        attached, job, task_id = event
        try:
            await attached.hear(job, task_id)
        except RunningHubError as error:
            logger.warning(
                "the event of task %s was not written to the journal: %s", task_id, error
            )
            return 503
        return 204

    def _read(
        self, query: str, body: bytes, headers: Mapping[str, str] | None
    ) -> tuple[_Attached, str, str] | int:
        """The session, the job and the task that an event is about, or the status to answer."""
        key = self._key_in(query)
        if key is None:
            return 403
        if len(body) > MAX_EVENT_BYTES:
            return 413
        try:
            event = parse(body, headers)
        except ProtocolError as error:
            logger.warning("a webhook with a valid digest holds no event: %s", error)
            return 400
        if not key.startswith(_MARK):
            return self._take_own(key, event.task)
        name, _, job = key[1:].partition(".")
        attached = self._sessions.get(name)
        if attached is None:
            # It may be about to be resumed; the service sends the event again.
            logger.warning("task %s ended, but its session is not open", event.task.id)
            return 503
        return attached, job, event.task.id

    def _take_own(self, key: str, task: Task) -> int:
        if self._on_task is None:
            return 204
        if (key, task.id) in self._seen:
            return 204
        attached = next(iter(self._sessions.values()), None)
        if attached is None or self._waiting >= _WAITING:
            # No session to query with, or no room: the service sends it again.
            return 503
        self._seen[key, task.id] = None
        self._waiting += 1
        helper = attached.start(self._confirm(attached, key, task.id))
        helper.add_done_callback(lambda helper: self._confirmed(helper, key, task.id))
        return 204

    async def _confirm(self, attached: _Attached, key: str, task_id: str) -> None:
        assert self._on_task is not None
        try:
            async with self._confirming:
                for look in range(_LOOKS):
                    task = await attached.query(task_id)
                    if task.done:
                        break
                    # Too early by a little, or made up.
                    await asyncio.sleep(_SOON.delay(look, 0.5))
                else:
                    self._not_told(key, task_id, "the service says that it still runs")
                    return
            await self._on_task(key, task)
        except Exception as error:
            self._not_told(key, task_id, repr(error))

    def _confirmed(self, helper: asyncio.Future[Any], key: str, task_id: str) -> None:
        self._waiting -= 1
        if helper.cancelled():
            self._not_told(key, task_id, "the session was closed")

    def _not_told(self, key: str, task_id: str, reason: str) -> None:
        """The same event may come again, and the id is not lost."""
        self._seen.pop((key, task_id), None)
        logger.warning(
            "task %s, job %s, not delivered to on_task: %s", task_id, shown(key), shown(reason, 500)
        )

    # -- adapters -----------------------------------------------------------------------------

    async def asgi(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """A plain ASGI application: mount it, or serve it by itself."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"webhooks do not serve {scope['type']}")
        query = scope.get("query_string", b"").decode("latin-1")
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        status = self._before_body(scope["method"], query, headers.get("content-length", ""))
        if not status:
            body = await self._body(_pieces_of(receive))
            status = body if isinstance(body, int) else await self.take(query, body, headers)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def aiohttp(self, request: web.Request) -> web.Response:
        """A handler for an aiohttp application's route."""
        from aiohttp import web

        query = request.rel_url.raw_query_string
        status = self._before_body(request.method, query, str(request.content_length or ""))
        if not status:
            body = await self._body(request.content.readany)
            status = (
                body if isinstance(body, int) else await self.take(query, body, request.headers)
            )
        answer = web.Response(status=status)
        if not request.content.at_eof():
            answer.force_close()
            if request.transport is not None:
                # aiohttp would go on reading for longer, only to discard it.
                asyncio.get_running_loop().call_later(_LINGER, request.transport.close)
        return answer

    def _before_body(self, method: str, query: str, length: str) -> int:
        """The status for a request whose body need not be read; 0 for one whose body must be."""
        if method != "POST":
            return 405
        if not self.is_signed(query):
            return 403
        too_long = length.isascii() and length.isdigit() and len(length) < 20
        return 413 if too_long and int(length) > MAX_EVENT_BYTES else 0

    async def _body(self, next_piece: Callable[[], Awaitable[bytes]]) -> bytes | int:
        """The whole body, of which `next_piece` gives a piece, empty at the end; or the status to
        answer if it is too long, takes too long, or too much is being read already."""
        if len(self._bodies) >= _READING:
            return 503
        body, token = bytearray(), object()
        self._bodies[token] = 0
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                while piece := await next_piece():
                    if len(body) + len(piece) > MAX_EVENT_BYTES:
                        return 413
                    if sum(list(self._bodies.values())) + len(piece) > _HELD:
                        return 503
                    body += piece
                    self._bodies[token] = len(body)
        except TimeoutError:
            return 408
        except ConnectionError:
            return 400
        finally:
            del self._bodies[token]
        return bytes(body)


@attrs.frozen(eq=False)
class _Attached:
    """What a receiver may ask of a session."""

    hint: Callable[[str, str], object]
    hear: Callable[[str, str], Awaitable[None]]
    query: Callable[[str], Awaitable[Task]]
    start: Callable[[Coroutine[Any, Any, None]], asyncio.Future[Any]]


async def _lifespan(receive: _Receive, send: _Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _pieces_of(receive: _Receive) -> Callable[[], Awaitable[bytes]]:
    """The body of an ASGI request, a piece for each call, empty at the end. Raises
    `ConnectionError` if the client leaves before."""
    more = True

    async def next_piece() -> bytes:
        nonlocal more
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            more = bool(message.get("more_body"))
            if piece := message.get("body", b""):
                return bytes(piece)
        return b""

    return next_piece
