"""The emulated service over HTTP, on loopback: keys, limits and faults of each request."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from inspect import isawaitable
from types import TracebackType
from typing import Any, Final, Literal, Self

import attrs
from aiohttp import StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

from .._catalogue import Catalogue
from .._threads import run_in_thread
from ._codes import NO_USER, code_in, says
from ._faults import Fault, FaultScript
from ._graphs import Graph
from ._library import App, Library, Workflow
from ._proxy import Listeners
from ._routes import Call, Route, State, denied, find
from ._runs import prompt_in
from ._service import KeyType, Service, Stats
from ._storms import STORMS, storm
from ._uploads import MAX_UPLOAD, Part, Uploads, digest_of, form_in
from ._webhooks import Form, Webhooks

__all__ = ["Emulator", "Recorded"]

#: Bodies of JSON: ten pictures of 10 MB each as data URIs, and what base64 adds to them.
MAX_BODY: Final = 150 * 2**20

#: What a form adds to the file in it, at most; and bytes that are worth a thread to go through.
_FORM: Final = 2**16
_LARGE: Final = 2**20

#: How much of a body is kept in `requests`.
_HEAD: Final = 2048

BadKey = Literal["806", "1002", "1601", "802", "401"]
Site = Literal["cn", "ai"]

_CURRENCIES: Final = {"cn": "CNY", "ai": "USD"}

#: What each place is counted as.
_COUNTED: Final = {
    "submit": "submits",
    "query": "queries",
    "upload": "uploads",
    "result": "downloads",
    "call": "calls",
}


@attrs.frozen
class Recorded:
    """A request as it arrived: `target` is path and query as sent, header names are lower case
    (a header sent twice is joined by a comma), and of the body there are the first 2048 bytes."""

    method: str
    target: str
    headers: dict[str, str]
    body_start: bytes


class Emulator:
    """The service on loopback: `async with Emulator() as emulator: ... emulator.url`.

    `duration`: seconds a task takes, each drawn from half to one and a half times it; 0 for
    tasks that are done at once. `max_concurrency`: tasks alive at once, above which submits are
    answered 421; None for no cap. `rate`: requests per second, above which they are answered
    1003. `faults`: rules as `Fault` or as mappings, or the name of a script that comes with it,
    such as "bad-weather"; `ValueError` names them all for one that does not. `seed`: of
    durations, faults and ids. `api_key`: the only key it takes; None takes any. `port` 0 picks a
    free one. `retention`: seconds an ended task is remembered, after which it is 1004.
    `upload_limit`: bytes.

    `key_type`: what the key may do. Only SHARED ones may call standard models (1014). NORMAL
    ones pay in coins. EXCLUSIVE ones have `max_concurrency` machines: beyond them it is 415, or
    a place in the key's own queue if `usePersonalQueue` is set, up to 1000 (814).
    `bad_key`: how the newer endpoints answer a wrong key, "806", "1002", "1601" or
    "802" with HTTP 200, or "401" for HTTP 401. The older ones answer 301 "user not exist", but
    802 and HTTP 401 where those are chosen. `accountStatus` always answers 806 and the upload of
    v2 HTTP 401, unless 401 is chosen. `error_status`: the HTTP status of the newer
    endpoints' errors.

    `webhook_form`: A to D as the documentation's section on webhooks has them; "auto" is A for
    tasks of older endpoints and B for the others. `webhook_retries`: deliveries after the first,
    if the receiver does not answer 2xx within ten seconds, `webhook_gap` seconds apart.
    `queue`: seconds that each new task waits, QUEUED, before it starts; None lets models start at
    once, and workflows and apps wait for a tenth of their time.
    `url_lifetime`: seconds that a result's URL can be fetched; each query gives fresh ones.
    `site`: "cn" bills in CNY, "ai" in USD; the figures are the catalogue's in either case. The
    sites word the answer to an upload differently.
    `workflows`: saved workflows by id, each a `Workflow` or just its graph. `apps`: AI apps by
    id, each an `App` or a list of its inputs. The built-in ones are described in `_library`.

    It keeps uploaded files in memory, the last 64 or 256 MB, and in `requests` the last 10,000
    requests. Its pictures are drawn from the prompt, not generated, and say so.
    """

    def __init__(
        self,
        *,
        duration: float = 8.0,
        max_concurrency: int | None = 50,
        rate: float | None = None,
        faults: str | Iterable[Fault | Mapping[str, Any]] = (),
        seed: int = 0,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        retention: float = 86400.0,
        upload_limit: int = MAX_UPLOAD,
        key_type: KeyType = "SHARED",
        bad_key: BadKey = "806",
        error_status: int = 200,
        webhook_form: Form = "auto",
        webhook_retries: int = 3,
        webhook_gap: float = 60.0,
        url_lifetime: float = 86400.0,
        queue: float | None = None,
        site: Site = "cn",
        workflows: Mapping[str, Workflow | Graph] | None = None,
        apps: Mapping[str, App | list[Mapping[str, Any]]] | None = None,
    ) -> None:
        if duration < 0:
            raise ValueError(f"duration must not be negative, got {duration!r}")
        if queue is not None and not queue >= 0:
            raise ValueError(f"queue must not be negative, got {queue!r}")
        for name, value, known in (
            ("key_type", key_type, ("SHARED", "NORMAL", "EXCLUSIVE")),
            ("bad_key", bad_key, ("806", "1002", "1601", "802", "401")),
            ("webhook_form", webhook_form, ("auto", "A", "B", "C", "D")),
            ("site", site, ("cn", "ai")),
        ):
            if value not in known:
                raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
        if isinstance(faults, str) and faults not in STORMS:
            named = ", ".join(STORMS)
            raise ValueError(f"faults: expected rules, or one of {named}, got {faults!r}")
        rng = random.Random(seed)
        self.url = ""
        self.requests: deque[Recorded] = deque(maxlen=10_000)
        self._chance = random.Random(rng.random())
        self._storm = faults if isinstance(faults, str) else ""
        self._service = Service(
            duration=duration,
            max_concurrency=max_concurrency,
            rate=rate,
            faults=FaultScript(() if isinstance(faults, str) else faults, self._chance),
            rng=rng,
            retention=retention,
            key_type=key_type,
            currency=_CURRENCIES[site],
            url_lifetime=url_lifetime,
            queue=queue,
        )
        self._library = Library(workflows or {}, apps or {})
        self._uploads = Uploads(self._service, upload_limit, english=site == "ai")
        self._api_key = api_key
        self._bad_key = bad_key
        self._error_status = error_status
        self._form: Form = webhook_form
        self._retries, self._gap = webhook_retries, webhook_gap
        self._address = (host, port)
        self._runner: web.ServerRunner | None = None
        self._state: State | None = None

    @property
    def stats(self) -> Stats:
        """What it was asked and billed, so far."""
        return attrs.evolve(self._service.stats)

    @property
    def created(self) -> Counter[str]:
        """How many tasks it created for each prompt, of the last 100,000 prompts that were new;
        the prompt of a workflow or an app is the text in its node values."""
        return self._service.begun.copy()

    async def __aenter__(self) -> Self:
        await run_in_thread(Catalogue.load)
        if self._storm:
            rules = await run_in_thread(storm, self._storm)
            self._service.faults = FaultScript(rules, self._chance)
        server = web.Server(self._handle, request_factory=_request, access_log=None)
        self._runner = runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, *self._address)
        await site.start()
        host, port = runner.addresses[0][:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        webhooks = Webhooks(
            self._service, self.url, form=self._form, retries=self._retries, gap=self._gap
        )
        self._service.on_webhook = webhooks.watch
        self._state = State(
            self._service, self._library, self._uploads, Listeners(), webhooks, self.url
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self._runner is not None:
                runner, self._runner = self._runner, None
                await runner.cleanup()
        finally:
            if self._state is not None:
                await self._state.webhooks.aclose()

    # -- requests -----------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a request, from a page of any site."""
        if request.method == "OPTIONS":
            self._record(request, b"")
            answer: web.StreamResponse = web.Response(status=204)
        else:
            answer = await self._taken(request)
        if not answer.prepared:
            answer.headers.update(_cors(request))
        return answer

    async def _taken(self, request: web.BaseRequest) -> web.StreamResponse:
        route, rest = find(request.method, request.path)
        try:
            body = await self._read(request, route)
        except web.HTTPRequestEntityTooLarge:
            body = None
        self._record(request, body or b"")
        head = request.method == "HEAD" and route.place == "result"
        if route.method and request.method not in (route.method, route.also) and not head:
            return self._sent(route, *says(route.family, "1009"))
        if route.place is not None:
            counted = _COUNTED[route.place]
            setattr(self._service.stats, counted, getattr(self._service.stats, counted) + 1)
        if body is None:
            self._service.stats.refused += route.place == "submit"
            return self._sent(route, *says(route.family, "1008"))
        return await self._answer(request, route, rest, body)

    async def _answer(
        self, request: web.BaseRequest, route: Route, rest: str, body: bytes
    ) -> web.StreamResponse:
        """Let a request in, unless a fault, its key or its pace is against it, and answer it."""
        call = await _call(request, route, rest, body)
        fault = None
        if route.place is not None:
            prompt = call.prompt or self._service.prompt_of(call.task_id)
            fault = call.fault = self._service.faults.strike(route.place, prompt)
        if fault is not None and fault.kind == "drop":
            return _cut(request)
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds or 0)
        call.now = _now()
        refused = self._refused(route, call)
        if refused is not None:
            self._service.stats.refused += route.place == "submit"
            return refused
        accepted = self._service.stats.accepted
        assert self._state is not None
        answer = route.handler(self._state, call)
        if isawaitable(answer):
            answer = await answer
        elif route.place == "submit" and self._service.stats.accepted == accepted:
            self._service.stats.refused += 1
        if fault is not None and fault.kind == "late":
            await asyncio.sleep(fault.seconds or 0)
        if isinstance(answer, web.StreamResponse):
            return _cut(request) if fault is not None and fault.kind == "reset" else answer
        said, status = answer if isinstance(answer, tuple) else (answer, 200)
        if fault is not None:
            return self._spoilt(route, call, said, status)
        return self._sent(route, said, status)

    def _refused(self, route: Route, call: Call) -> web.StreamResponse | None:
        """The answer to a request that is turned away before anything is done."""
        fault, kind = call.fault, call.fault.kind if call.fault is not None else ""
        if not self._authorized(route, call):
            if route.first is not None and (wrong := route.first(call.params)):
                return self._sent(route, wrong)
            return self._sent(route, *self._unknown_key(route))
        stored = route.place in (None, "result") or route.method == "PUT"
        if not stored and self._service.too_fast(call.now):
            return self._sent(route, *says(route.family, "1003"))
        if fault is None:
            return None
        if kind == "refuse":
            if stored:
                return denied()
            return self._sent(route, *says(route.family, fault.code))
        if kind == "rate":
            answer = _json(says(route.family, "1003")[0], 429)
            if fault.seconds is not None:
                answer.headers["Retry-After"] = f"{fault.seconds:g}"
            return answer
        early = not fault.created or route.place == "result"
        if early and kind == "status":
            return web.Response(status=fault.status, text="upstream error")
        if not fault.created and kind in ("half", "garbage"):
            return _garbled(kind, says(route.family, "500")[0])
        return None

    def _spoilt(self, route: Route, call: Call, answer: Any, status: int) -> web.StreamResponse:
        """What is sent in place of an answer after the work was done."""
        fault = call.fault
        assert fault is not None
        if fault.kind == "reset":
            return _cut(call.request)
        if fault.kind == "status":
            return web.Response(status=fault.status, text="upstream error")
        if fault.kind in ("half", "garbage"):
            return _garbled(fault.kind, answer)
        if fault.kind == "both" and not code_in(answer):
            answer = {**answer, **_coded(route, fault)}
        return self._sent(route, answer, status)

    def _sent(self, route: Route, answer: Any, status: int = 200) -> web.Response:
        if self._error_status != 200 and status == 200 and route.family != "v1":
            # A task that failed is no error of the request that asks for it.
            wrong = code_in(answer) and not answer.get("status")
            return _json(answer, self._error_status if wrong else 200)
        return _json(answer, status)

    # -- keys ---------------------------------------------------------------------------------

    def _authorized(self, route: Route, call: Call) -> bool:
        if route.key is None:
            return True
        # The documentation's generated curl sends the header twice; one good one is enough.
        for value in call.request.headers.getall("Authorization", ()):
            scheme, _, key = value.partition(" ")
            if scheme.lower() == "bearer" and self._good(key.strip()):
                return True
            if route.key == "raw" and self._good(value.strip()):
                return True
        if route.key == "/":
            return self._good(call.rest.partition("/")[0])
        return bool(route.key) and self._good(call.field(route.key))

    def _good(self, key: Any) -> bool:
        return bool(key) and isinstance(key, str) and self._api_key in (None, key)

    def _unknown_key(self, route: Route) -> tuple[dict[str, Any], int]:
        if self._bad_key == "401" or route.denied == "-1":
            return says(route.family, "-1")
        if route.family == "v1" and (route.denied or self._bad_key != "802"):
            return says("v1", route.denied) if route.denied else says("v1", *NO_USER)
        if route.family == "message":
            return says("message", "401", _NO_KEY)
        return says(route.family, self._bad_key)

    # -- bodies -------------------------------------------------------------------------------

    async def _read(self, request: web.BaseRequest, route: Route) -> bytes:
        if route.body == "json":
            return await request.read()
        if route.body == "stream":
            return await request.content.readany()
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
            if len(body) > self._uploads.limit + _FORM:
                # What is beyond the limit is refused whatever it is.
                break
        return bytes(body)

    def _record(self, request: web.BaseRequest, body: bytes) -> None:
        headers: dict[str, str] = {}
        for name, value in request.headers.items():
            key = name.lower()
            headers[key] = f"{headers[key]}, {value}" if key in headers else value
        self.requests.append(Recorded(request.method, request.raw_path, headers, body[:_HEAD]))


#: Half in Chinese, as it was met.
_NO_KEY: Final = "ApiKey verification failed: API Key不存在"


async def _call(request: web.BaseRequest, route: Route, rest: str, body: bytes) -> Call:
    if request.method in ("GET", "HEAD"):
        # Some clients send a body with GET; the query comes first.
        held = _loads(body) if body else None
        params = {**(held if isinstance(held, dict) else {}), **request.query}
        return Call(request, params, rest, body)
    if route.body == "stream":
        return Call(request, None, rest, body)
    if route.body == "json":
        params = _loads(body)
        if route.key is None and request.query and params in (None, {}):
            params = dict(request.query)
        return Call(request, params, rest, body, prompt_in(params))
    kind = request.headers.get("Content-Type", "")
    if len(body) > _LARGE:
        fields, file, digest = await run_in_thread(_unpacked, kind, body)
    else:
        fields, file, digest = _unpacked(kind, body)
    return Call(request, fields, rest, body, file=file, digest=digest)


def _unpacked(kind: str, body: bytes) -> tuple[dict[str, str], Part | None, str]:
    """The fields of a form, its file, and the file's digest."""
    parts = form_in(kind, body)
    fields = {p.name: p.body.decode("utf-8", "replace") for p in parts if p.filename is None}
    file = next((p for p in parts if p.name in ("file", "image") and p.filename), None)
    return fields, file, digest_of(file.body) if file is not None else ""


def _coded(route: Route, fault: Fault) -> dict[str, Any]:
    """The error that is answered together with a task."""
    said = says(route.family, fault.code)[0]
    return {key: said[key] for key in ("errorCode", "errorMessage", "code", "msg") if key in said}


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """A request that may carry pictures as data URIs, ten of 10 MB as the catalogue allows."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


def _cors(request: web.BaseRequest) -> dict[str, str]:
    """What lets a page of another site read the answer. A browser asks first, by OPTIONS."""
    headers = {
        "Access-Control-Allow-Origin": "*",
        "Access-Control-Expose-Headers": "*",
    }
    if request.method == "OPTIONS":
        asked = request.headers.get("Access-Control-Request-Headers")
        headers["Access-Control-Allow-Methods"] = "GET, HEAD, POST, PUT, OPTIONS"
        headers["Access-Control-Allow-Headers"] = asked or "Authorization, Content-Type"
        headers["Access-Control-Max-Age"] = "3600"
        if "Access-Control-Request-Private-Network" in request.headers:
            headers["Access-Control-Allow-Private-Network"] = "true"
    return headers


def _now() -> float:
    return asyncio.get_running_loop().time()


def _loads(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _json(answer: Any, status: int = 200) -> web.Response:
    # Half a surrogate pair, which a prompt may hold, goes back as it came: escaped.
    body = json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")
    return web.Response(body=body, status=status, content_type="application/json")


def _cut(request: web.BaseRequest) -> web.Response:
    """Close the connection instead of answering."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _garbled(kind: str, answer: Any) -> web.Response:
    if kind == "garbage":
        return web.Response(body=b"\x00\xff<html>502", content_type="text/html")
    whole = json.dumps(answer).encode()
    return web.Response(body=whole[: len(whole) // 2], content_type="application/json")
