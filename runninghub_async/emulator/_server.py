"""The emulated service over HTTP, on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from types import TracebackType
from typing import Any, Final, Literal, Self

import anyio.to_thread
import attrs
from aiohttp import BodyPartReader, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage

from .._catalogue import Catalogue
from ._faults import Fault, FaultScript
from ._files import TYPES, make
from ._service import Service, Stats, error_answer, refusal

__all__ = ["Emulator"]

_PREFIX: Final = "/openapi/v2/"

#: The documentation's guidance for uploads; some clients have sent more.
MAX_UPLOAD: Final = 30 * 2**20

#: Bodies of JSON: ten pictures of 10 MB each as data URIs, and what base64 adds to them.
MAX_BODY: Final = 150 * 2**20

_MEDIA: Final = {
    "image": {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"},
    "video": {".mp4", ".mov", ".avi", ".mkv"},
    "audio": {".mp3", ".wav", ".flac"},
}


class Emulator:
    """The service on loopback: `async with Emulator() as emulator: ... emulator.url`.

    `duration`: seconds a task takes, each drawn from half to one and a half times it; 0 for
    tasks that are done at once. `max_concurrency`: tasks alive at once, above which submits are
    answered 421; None for no cap. `rate`: requests per second, above which they are answered
    1003. `faults`: rules as `Fault` or as mappings. `seed`: of durations, faults and ids.
    `api_key`: the only key it takes; None takes any. `port` 0 picks a free one. `retention`:
    seconds an ended task is remembered, after which it is 1004. `upload_limit`: bytes.

    It keeps uploaded files in memory, the last 64. Its pictures are drawn from the prompt, not
    generated, and say so.
    """

    def __init__(
        self,
        *,
        duration: float = 8.0,
        max_concurrency: int | None = 50,
        rate: float | None = None,
        faults: Iterable[Fault | Mapping[str, Any]] = (),
        seed: int = 0,
        api_key: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        retention: float = 86400.0,
        upload_limit: int = MAX_UPLOAD,
    ) -> None:
        if duration < 0:
            raise ValueError(f"duration must not be negative, got {duration!r}")
        rng = random.Random(seed)
        self.url = ""
        self._service = Service(
            duration=duration,
            max_concurrency=max_concurrency,
            rate=rate,
            faults=FaultScript(faults, random.Random(rng.random())),
            rng=rng,
            retention=retention,
        )
        self._api_key = api_key
        self._address = (host, port)
        self._upload_limit = upload_limit
        self._uploads: dict[str, bytes] = {}
        self._runner: web.ServerRunner | None = None

    @property
    def stats(self) -> Stats:
        """What it was asked and billed, so far."""
        return attrs.evolve(self._service.stats)

    async def __aenter__(self) -> Self:
        await anyio.to_thread.run_sync(Catalogue.load)
        server = web.Server(self._handle, request_factory=_request, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, *self._address)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    # -- requests -----------------------------------------------------------------------------

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path
        if path.startswith("/results/"):
            return await self._result(request)
        if path.startswith("/uploads/"):
            return self._uploaded(path.removeprefix("/uploads/"))
        if path == "/_emulator/stats":
            return _json(attrs.asdict(self._service.stats))
        if path == "/":
            return web.Response(text=_FRONT_PAGE, content_type="text/html")
        if path == "/task/openapi/cancel":
            return await self._cancel(request)
        if not path.startswith(_PREFIX):
            return _json(error_answer("1001"))
        return await self._api(request, path.removeprefix(_PREFIX))

    async def _api(self, request: web.BaseRequest, endpoint: str) -> web.StreamResponse:
        if endpoint == "queue/status":
            if not self._authorized(request):
                return _json({"code": 401, "msg": "ApiKey verification failed", "data": None})
            return _json(self._service.queue_status(_now()))
        if request.method != "POST":
            return _json(error_answer("1009"))
        if endpoint == "media/upload/binary":
            return await self._upload(request)
        place: Literal["query", "submit"] = "query" if endpoint == "query" else "submit"
        stats = self._service.stats
        if place == "query":
            stats.queries += 1
        else:
            stats.submits += 1
        try:
            params = _loads(await request.read())
        except web.HTTPRequestEntityTooLarge:
            stats.refused += place == "submit"
            return _json(refusal("1008"))
        prompt = str(params.get("prompt", "")) if isinstance(params, dict) else ""
        fault = self._service.faults.strike(place, prompt)
        if fault is not None and fault.kind == "drop":
            return _cut(request)
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds or 0)
        refused = self._refused(request, place, fault)
        if refused is not None:
            return refused
        now = _now()
        if place == "query":
            stale = fault is not None and fault.kind == "stale"
            answer = self._service.query(params, now, self.url, stale=stale)
        else:
            doomed = self._service.faults.strike("task", prompt)
            answer = self._service.submit(endpoint, params, now, doomed=doomed)
        return _json(answer) if fault is None else _spoilt(request, answer, fault)

    def _refused(
        self, request: web.BaseRequest, place: str, fault: Fault | None
    ) -> web.StreamResponse | None:
        """The answer to a request that is turned away before anything is done."""
        answer: web.StreamResponse | None = None
        says = error_answer if place == "query" else refusal
        if not self._authorized(request):
            answer = _json(says("1002"))
        elif self._service.too_fast(_now()):
            answer = _json(says("1003"))
        elif fault is not None and fault.kind == "refuse":
            answer = _json(says(fault.code))
        elif fault is not None and fault.kind == "rate":
            answer = _json(says("1003"), status=429)
            if fault.seconds is not None:
                answer.headers["Retry-After"] = f"{fault.seconds:g}"
        elif fault is not None and fault.kind == "status" and not fault.created:
            answer = web.Response(status=fault.status, text="upstream error")
        if answer is not None and place == "submit":
            self._service.stats.refused += 1
        return answer

    async def _cancel(self, request: web.BaseRequest) -> web.StreamResponse:
        params = _loads(await request.read())
        key = params.get("apiKey") if isinstance(params, dict) else None
        if not key or (self._api_key is not None and key != self._api_key):
            return _json({"code": 802, "msg": "APIKEY_UNAUTHORIZED", "data": None})
        return _json(self._service.cancel(params, _now()))

    async def _result(self, request: web.BaseRequest) -> web.StreamResponse:
        self._service.stats.downloads += 1
        fault = self._service.faults.strike("result")
        if fault is not None and fault.kind in ("drop", "reset"):
            return _cut(request)
        if fault is not None and fault.kind == "delay":
            await asyncio.sleep(fault.seconds or 0)
        if fault is not None and fault.kind == "status":
            return web.Response(status=fault.status)
        task_id, _, name = request.path.removeprefix("/results/").partition("/")
        number, _, kind = name.partition(".")
        sign = request.query.get("sign", "")
        index = int(number) if number.isdecimal() and len(number) < 4 else -1
        task = self._service.result(task_id, index, sign, _now()) if index >= 0 else None
        if task is None or kind not in TYPES:
            # What an object store answers for a URL that is wrong or has run out.
            text = "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"
            return web.Response(status=403, text=text, content_type="application/xml")
        if fault is not None and fault.kind == "garbage":
            return web.Response(body=b"<html>not a picture</html>", content_type=TYPES[kind])
        body = await anyio.to_thread.run_sync(make, kind, task.params, index)
        if fault is not None and fault.kind == "half":
            return await _half(request, body, TYPES[kind])
        return web.Response(body=body, content_type=TYPES[kind])

    # -- uploads ------------------------------------------------------------------------------

    async def _upload(self, request: web.BaseRequest) -> web.StreamResponse:
        self._service.stats.uploads += 1
        fault = self._service.faults.strike("upload")
        if fault is not None and fault.kind in ("drop", "reset"):
            return _cut(request)
        if (refused := self._refused(request, "upload", fault)) is not None:
            return refused
        if not request.content_type.startswith("multipart/"):
            return _json({"code": 301, "message": "PARAMS_INVALID", "data": None})
        name, body = "", bytearray()
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name != "file":
                continue
            name = part.filename or "file"
            while chunk := await part.read_chunk(2**16):
                body += chunk
                if len(body) > self._upload_limit:
                    text = "APIKEY_FILE_SIZE_EXCEEDED"
                    return _json({"code": 809, "message": text, "data": None})
        if not name:
            return _json({"code": 301, "message": "PARAMS_INVALID", "data": None})
        ending = PurePath(name).suffix.lower()[:8]
        kind = next((k for k, endings in _MEDIA.items() if ending in endings), "file")
        stored = f"{hashlib.sha256(body).hexdigest()}{ending}"
        self._uploads[stored] = bytes(body)
        while len(self._uploads) > 64:
            del self._uploads[next(iter(self._uploads))]
        data = {
            "type": kind,
            "download_url": f"{self.url}/uploads/{stored}",
            "fileName": f"openapi/{stored}",
            "size": str(len(body)),
        }
        return _json({"code": 0, "message": "success", "data": data})

    def _uploaded(self, name: str) -> web.StreamResponse:
        body = self._uploads.get(name)
        if body is None:
            return web.Response(status=404)
        return web.Response(body=body, content_type="application/octet-stream")

    # -- small things -------------------------------------------------------------------------

    def _authorized(self, request: web.BaseRequest) -> bool:
        # The documentation's generated curl sends the header twice; one good one is enough.
        for value in request.headers.getall("Authorization", []):
            scheme, _, key = value.partition(" ")
            known = self._api_key is None or key.strip() == self._api_key
            if scheme.lower() == "bearer" and key.strip() and known:
                return True
        return False


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


def _now() -> float:
    return asyncio.get_running_loop().time()


def _loads(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _json(answer: Any, status: int = 200) -> web.Response:
    body = json.dumps(answer, ensure_ascii=False).encode()
    return web.Response(body=body, status=status, content_type="application/json")


def _cut(request: web.BaseRequest) -> web.Response:
    """Close the connection instead of answering."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _spoilt(request: web.BaseRequest, answer: Any, fault: Fault) -> web.Response:
    """What is sent in place of an answer after the work was done."""
    if fault.kind == "reset":
        return _cut(request)
    if fault.kind == "status":
        return web.Response(status=fault.status, text="upstream error")
    if fault.kind == "garbage":
        return web.Response(body=b"\x00\xff<html>502", content_type="text/html")
    if fault.kind == "half":
        whole = json.dumps(answer).encode()
        return web.Response(body=whole[: len(whole) // 2], content_type="application/json")
    return _json(answer)


async def _half(request: web.BaseRequest, body: bytes, kind: str) -> web.StreamResponse:
    """Announce a whole body, send half of it, hang up."""
    answer = web.StreamResponse(headers={"Content-Type": kind, "Content-Length": str(len(body))})
    await answer.prepare(request)
    await answer.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return answer


_FRONT_PAGE: Final = """<!doctype html><meta charset="utf-8">
<title>runninghub_async emulator</title>
<h1>runninghub_async emulator</h1>
<p>A stand-in for the RunningHub API on loopback. Its pictures are drawn from the prompt, not
generated by a model, and nothing costs money.</p>
<p>What it was asked so far: <a href="/_emulator/stats">/_emulator/stats</a></p>
"""
