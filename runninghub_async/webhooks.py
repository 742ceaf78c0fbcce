"""Webhooks: what the service POSTs when a task ends, and a receiver for it.

    webhooks = Webhooks("https://example.org/hooks/", secret="…")
    app.mount("/hooks", webhooks.asgi)                        # any ASGI framework
    application.router.add_post("/hooks/", webhooks.aiohttp)  # or aiohttp
    async with Session(webhooks=webhooks) as session: ...

The slash at the end matters: frameworks answer a mount's bare path with a redirect, which the
service is not known to follow.

The service signs nothing, so each job gets an address of its own with a keyed digest in it, an
event without it is refused, and even a good one only makes the session ask the service (Query
V2) how the task stands: what is delivered is the service's answer. Events may come more than
once, late or never; polling goes on beneath them, only less often.

Source: the service's documentation, "Webhook" in "Start ComfyUI Task" and on the model pages, and
four forms of the event that were seen in use.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import math
import secrets
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

import attrs

from ._answers import id_in, loads, told_task, unwrapped
from ._bounded import Bounded
from ._exceptions import ProtocolError, RunningHubError
from ._models import Response, Task
from ._polling import ExponentialPolling, Polling

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["TaskEvent", "Webhooks", "parse"]

logger = logging.getLogger("runninghub_async")

#: An event is a few kilobytes.
MAX_EVENT_BYTES: Final = 4 * 2**20

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
    """One event. `task` is what it says of the task, which nobody has confirmed; `name` is the
    event's (always `TASK_END` so far, empty in the form that has none)."""

    task: Task
    name: str = ""


def parse(body: bytes, headers: Mapping[str, str] | None = None) -> TaskEvent:
    """The event in the body of a webhook, in any of the four forms seen.

    An envelope `{event, taskId, eventData}` whose `eventData` is JSON text of the older outputs
    (workflows and apps), an object like Query V2's answer (models) or `{code, msg, data}`; or
    no envelope at all. `headers` are those of the request, of which nothing is needed so far:
    every form is UTF-8. Raises `ProtocolError` for anything else.
    """
    answer = Response(200, body, headers or {})
    told = loads(body)
    data = unwrapped(told.get("eventData", told)) if isinstance(told, dict) else None
    if not isinstance(told, dict) or not isinstance(data, dict):
        raise ProtocolError("the webhook's body is no event", answer)
    inner = data.get("data")
    holders = (told, data, inner if isinstance(inner, dict) else {})
    task_id = next((found for holder in holders if (found := id_in(holder))), "")
    task = told_task(data, task_id) if task_id else None
    if task is None:
        raise ProtocolError("the webhook's body tells of no task", answer)
    return TaskEvent(task, str(told.get("event") or ""))


class Webhooks:
    """A receiver for a session's webhooks. `url` is where the service reaches it from outside.

    `secret`: of the digests in the addresses; by default that of the session's journal, or a new
    one for each process, so give one where several processes, or a later one without a journal,
    are to take the events. `patience`: how long, in seconds, the event of a submit whose answer
    was lost is waited for; as long it keeps its slot. `polling`: how a
    session that is given this looks after its tasks all the same; its own `polling` is not
    used. `on_task(key, task)`: called once for each task that was submitted with
    `webhook_url=webhooks.url_for(key)`, with the task as the session found it by asking. If it
    fails, or the session closes first, the task is named in a warning and its event may come
    again; `session.webhook_events.resend` makes it.

    `asgi` and `aiohttp` answer 204 for an event, at once and before anything is asked; 403 for
    one without its digest, 400 for what is no event, 405 for another method than POST, 413
    beyond 4 MB, and 503 while too many wait, or
    the session of its job is not open, so that the service comes again.
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
        return hmac.new(self._secret, key.encode(), hashlib.sha256).hexdigest()

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
        """Tell it no more."""
        self._sessions.pop(name, None)

    # -- the service's side -------------------------------------------------------------------

    def receive(self, query: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """Take one event, from the address's `query` and the request's `body`, and return the
        HTTP status to answer. For servers that speak neither ASGI nor aiohttp; call it on the
        session's event loop. With a journal, prefer `take`."""
        told = self._read(query, body, headers)
        if isinstance(told, int):
            return told
        attached, job, task_id = told
        attached.hint(job, task_id)
        return 204

    async def take(self, query: str, body: bytes, headers: Mapping[str, str] | None = None) -> int:
        """The same, on any event loop; what the event tells is in the session's journal, if it
        has one, before this returns: once it is answered, the service does not tell it again."""
        told = self._read(query, body, headers)
        if isinstance(told, int):
            return told
        attached, job, task_id = told
        try:
            await attached.hear(job, task_id)
        except RunningHubError as error:
            logger.warning("task %s was not written down: %s", task_id, error)
            return 503
        return 204

    def _read(
        self, query: str, body: bytes, headers: Mapping[str, str] | None
    ) -> tuple[_Attached, str, str] | int:
        """The session, the job and the task that an event is of, or the status that answers it."""
        fields = parse_qs(query)
        key, sign = (fields.get(name, [""])[-1] for name in ("job", "sign"))
        if not hmac.compare_digest(sign.encode(), self._sign(key).encode()):
            logger.warning("refused a webhook without its digest")
            return 403
        try:
            event = parse(body, headers)
        except ProtocolError as error:
            logger.warning("a webhook that is no event: %s", error)
            return 400
        if not key.startswith(_MARK):
            return self._take_own(key, event.task)
        name, _, job = key[1:].partition(".")
        attached = self._sessions.get(name)
        if attached is None:
            # It may be about to be resumed; the service comes again.
            logger.warning("task %s ended, whose session is not here", event.task.id)
            return 503
        return attached, job, event.task.id

    def _take_own(self, key: str, task: Task) -> int:
        if self._on_task is None:
            return 204
        if (key, task.id) in self._seen:
            return 204
        attached = next(iter(self._sessions.values()), None)
        if attached is None or self._waiting >= _WAITING:
            # Nobody to ask, or no room: the service comes again.
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
        logger.warning("task %s, job %s, was not told to on_task: %s", task_id, key, reason)

    # -- adapters -----------------------------------------------------------------------------

    async def asgi(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """A plain ASGI application: mount it, or serve it by itself."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"webhooks do not speak {scope['type']}")
        status = 405
        if scope["method"] == "POST":
            headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
            body = await _body(receive)
            query = scope.get("query_string", b"").decode("latin-1")
            status = 413 if body is None else await self.take(query, body, headers)
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def aiohttp(self, request: web.Request) -> web.Response:
        """A handler for an aiohttp application's route."""
        from aiohttp import web

        if request.method != "POST":
            return web.Response(status=405)
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > MAX_EVENT_BYTES:
                return web.Response(status=413)
        query = request.rel_url.raw_query_string
        return web.Response(status=await self.take(query, bytes(body), request.headers))


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


async def _body(receive: _Receive) -> bytes | None:
    """The whole body; None if it is too long."""
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > MAX_EVENT_BYTES:
            return None
        if not message.get("more_body"):
            return bytes(body)
