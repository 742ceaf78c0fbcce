"""Every path the service has, as a table, and what is answered there.

A handler is given the emulator's state and a request that has been let in; it answers with JSON
and leaves keys, limits and faults to its caller.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import attrs
from aiohttp import web

from .._threads import run_in_thread
from . import _v1
from ._codes import NO_APP, Family, refusal, says
from ._faults import Fault, Place
from ._files import TYPES, make
from ._library import Library
from ._pictures import sketch
from ._progress import converse, play, status
from ._proxy import OBJECT_INFO, Listeners, history, prompted
from ._runs import Refused, app_work, proxy_work, workflow_work
from ._service import Emulated, Service, Work, query_fault
from ._storage import give
from ._uploads import Part, Uploads
from ._webhooks import Webhooks

__all__ = ["Call", "Route", "State", "find"]


@attrs.define
class State:
    """All that one emulator knows; `origin` is where it is reached."""

    service: Service
    stock: Library
    uploads: Uploads
    listeners: Listeners
    webhooks: Webhooks
    origin: str

    def socket(self, task: Emulated, now: float) -> str:
        """Where a task's progress is sent; the URL is a credential, as the service's own."""
        host = self.origin.replace("http", "ws", 1)
        token = f"{task.id}.{self.service.sign(f'ws/{task.id}', 0, now)}"
        return (
            f"{host}/ws/c_instance?c_host=10.0.0.7&c_port=8188&clientId={task.client_id}"
            f"&workflowId={task.work.path}&Rh-Comfy-Auth={token}"
        )


@attrs.define
class Call:
    """A request on its way through: what it asks for, and its fault. `rest` is the path
    after the route's own; of a form, `params` are the fields without a file."""

    request: web.BaseRequest
    params: Any
    rest: str
    body: bytes
    prompt: str = ""
    file: Part | None = None
    digest: str = ""
    fault: Fault | None = None
    now: float = 0.0

    @property
    def quirk(self) -> str:
        """How a fault changes what a query tells, if it does."""
        kind = self.fault.kind if self.fault is not None else ""
        return kind if kind in ("stale", "unready") else ""

    @property
    def task_id(self) -> str:
        """The id of the task whose state or file is asked for; some other text if none is."""
        file = str(self.field("filename") or self.rest).replace("/", "_")
        return str(self.field("taskId") or file.partition("_")[0])

    def field(self, name: str) -> Any:
        """A field of the body; None where there is none."""
        return self.params.get(name) if isinstance(self.params, dict) else None


#: JSON, JSON with another HTTP status than 200, or something else.
Answer = dict[str, Any] | tuple[Any, int] | web.StreamResponse
Handler = Callable[[State, Call], Answer | Awaitable[Answer]]


@attrs.frozen
class Route:
    """How requests to a path are taken.

    `method`: the documented one; empty for all. `also`: another one that is taken. `key`: where the
    API key is looked for beside the Bearer header: a field of body, query or form; "/" for the
    path, "raw" for the header without its scheme, "" for nowhere else, and None where it does not
    matter. `denied`: the code of a wrong one in the older envelope, if it is not the usual one.
    `body`: how it is read; a "stream" is left to the handler. `first`: a check before the key; it
    may give the answer.
    """

    method: str
    place: Place | None
    family: Family
    handler: Handler
    key: str | None = ""
    denied: str = ""
    body: Literal["json", "form", "stream"] = "json"
    first: Callable[[Any], dict[str, Any] | None] | None = None
    also: str = ""


# -- newer endpoints ------------------------------------------------------------------------------


def _submit(state: State, call: Call) -> Answer:
    doomed = state.service.faults.strike("task", call.prompt)
    return state.service.submit(call.rest, call.params, call.now, doomed=doomed)


def _query(state: State, call: Call) -> Answer:
    return state.service.query(call.params, call.now, state.origin, quirk=call.quirk)


def _preview(state: State, call: Call) -> Answer:
    return state.service.preview(call.rest, call.params)


def _run_workflow(state: State, call: Call) -> Answer:
    work = workflow_work(state.stock, call.rest, call.params, older=False)
    return _started(state, call, work)


def _run_app(state: State, call: Call) -> Answer:
    work = app_work(state.stock, call.rest, call.params, older=False)
    return _started(state, call, work)


def _started(state: State, call: Call, work: Work | Refused) -> Answer:
    task = _begin(state, call, work)
    if isinstance(task, Refused):
        return refusal(task.code, task.text)
    return state.service.created(task, call.now)


def _begin(state: State, call: Call, work: Work | Refused) -> Emulated | Refused:
    if isinstance(work, Refused):
        return work
    if code := state.service.full(call.now, personal=work.personal):
        return Refused(code)
    doomed = state.service.faults.strike("task", str(work.params.get("prompt", "")))
    return state.service.create(work, call.now, doomed)


def _queue_status(state: State, call: Call) -> Answer:
    return state.service.queue_status(call.now)


def _api_keys(state: State, call: Call) -> Answer:
    key = call.request.headers.get("Authorization", "").rpartition(" ")[2]
    listed = {
        "key": _masked(key),
        "apiKeyName": "emulator",
        "status": 1,
        "quotaLimit": None,
        "quotaUsed": state.service.stats.accepted,
        "visible": True,
        "expireAt": None,
        "expireInMinute": None,
        "createdAt": "2026-01-01T00:00:00",
    }
    return _data([listed])


def _resources(state: State, call: Call) -> Answer:
    return _data(state.stock.resources(call.params))


def _app_list(state: State, call: Call) -> Answer:
    return _data(state.stock.listed_apps(call.params, state.origin))


def _assets(state: State, call: Call) -> Answer:
    shelf, _, verb = call.rest.rpartition("/")
    if shelf not in ("", "groups") or verb not in _VERBS:
        return says("query", "1001")
    return _data(state.stock.assets(shelf, verb, call.params))


def _upload(state: State, call: Call) -> Answer:
    return state.uploads.newer(call.file, call.digest, state.origin, call.now)


def _data(data: Any) -> Answer:
    if data is None:
        return says("msg", "301")
    return {"code": 0, "msg": "success", "data": data}


def _masked(key: str) -> str:
    return f"{key[:5]}********{key[-5:]}" if len(key) >= 16 else "********"


_VERBS: Final = ("create", "list", "query", "update", "delete")


# -- older endpoints ------------------------------------------------------------------------------


def _create(state: State, call: Call) -> Answer:
    work = workflow_work(state.stock, call.field("workflowId"), call.params, older=True)
    return _created(state, call, work)


def _app_run(state: State, call: Call) -> Answer:
    work = app_work(state.stock, call.field("webappId"), call.params, older=True)
    return _created(state, call, work)


def _quick_run(state: State, call: Call) -> Answer:
    key = call.field("webappId")
    return _created(state, call, app_work(state.stock, key, call.params, older=True, quick=True))


def _created(state: State, call: Call, work: Work | Refused) -> Answer:
    task = _begin(state, call, work)
    if isinstance(task, Refused):
        return _v1.refused(task.code, task.text)
    return _v1.created(task, call.now, state.socket(task, call.now))


def _status(state: State, call: Call) -> Answer:
    return _v1.status(state.service, call.params, call.now)


def _outputs(state: State, call: Call) -> Answer:
    return _v1.outputs(
        state.service,
        call.params,
        call.now,
        state.origin,
        lambda task: state.socket(task, call.now),
        quirk=call.quirk,
    )


def _cancel(state: State, call: Call) -> Answer:
    answer, task = _v1.cancel(state.service, call.params, call.now)
    if task is not None:
        state.webhooks.ended(task)
    return answer


def _old_upload(state: State, call: Call) -> Answer:
    kind = str(call.field("fileType") or "")
    return state.uploads.older(call.file, call.digest, kind, call.now)


def _webhook_detail(state: State, call: Call) -> Answer:
    event = state.webhooks.detail(str(call.field("taskId")))
    if event is None:
        return _v1.refused("1", "webhook event not exists")
    return _v1.done({"userApiKey": _masked(str(call.field("apiKey") or "")),
                     **state.webhooks.shown(event)})  # fmt: skip


def _webhook_again(state: State, call: Call) -> Answer:
    event_id, url = str(call.field("webhookId")), str(call.field("webhookUrl") or "")
    if not state.webhooks.send_again(event_id, url):
        return _v1.refused("1", "webhook event not exists")
    return _v1.done(msg="")


def _graph_json(state: State, call: Call) -> Answer:
    return _v1.graph_json(state.stock, call.params)


def _duplicate(state: State, call: Call) -> Answer:
    return _v1.duplicate(state.stock, call.params)


def _app_page(state: State, call: Call) -> Answer:
    return _v1.app_page(state.stock, call.params, state.origin)


async def _model_list(state: State, call: Call) -> Answer:
    # Going through all models would keep other requests waiting.
    return _data(await run_in_thread(state.stock.models, call.params))


async def _model_page(state: State, call: Call) -> Answer:
    return _data(await run_in_thread(state.stock.model, call.params))


def _lora_place(state: State, call: Call) -> Answer:
    return state.uploads.lora_place(call.params, state.origin, call.now)


def _styles(state: State, call: Call) -> Answer:
    styles = state.stock.styles(call.params)
    return _v1.refused(*NO_APP) if styles is None else _v1.done(styles)


def _demo(state: State, call: Call) -> Answer:
    return _v1.demo(state.stock, call.params, state.origin)


def _account(state: State, call: Call) -> Answer:
    return _v1.done(state.service.account(call.now))


def _astray(state: State, call: Call) -> Answer:  # noqa: ARG001  # a mis-spelt path of the older kind
    return _v1.refused("412")


def _nowhere(state: State, call: Call) -> Answer:  # noqa: ARG001
    return says("query", "1001")


# -- storage --------------------------------------------------------------------------------------


async def _result(state: State, call: Call) -> Answer:
    task_id, _, name = call.rest.partition("/")
    number, _, _ = name.partition(".")
    sign = call.request.query.get("sign", "")
    index = int(number) if number.isdecimal() and len(number) < 4 else -1
    task = state.service.result(task_id, index, sign, call.now) if index >= 0 else None
    if task is None:
        return denied()
    return await give(call.request, task.work.files[index][1], task.work.params, index, call.fault)


def _cover(state: State, call: Call) -> Answer:  # noqa: ARG001
    return web.Response(body=sketch(call.rest, 256, 256), content_type="image/png")


async def _view(state: State, call: Call) -> Answer:
    """An upload of the older kind, or a file that an app was saved with."""
    kind = call.rest.rpartition(".")[2].lower()
    body = state.uploads.shown(call.rest, call.now)
    if body is None and call.rest in state.stock.files():
        if kind in TYPES:
            body = await run_in_thread(make, kind, {"prompt": call.rest, **_SMALL}, 0)
        else:
            body = call.rest.encode()
    if body is None:
        return web.Response(status=404)
    return web.Response(body=body, content_type=TYPES.get(kind, "application/octet-stream"))


_SMALL: Final = {"width": 512, "height": 512}


def _uploaded(state: State, call: Call) -> Answer:
    body = state.uploads.file(call.rest, call.now)
    if body is None:
        return web.Response(status=404)
    return web.Response(body=body, content_type="application/octet-stream")


async def _lora_put(state: State, call: Call) -> Answer:
    if not state.uploads.lora_allowed(call.rest, call.request.query.get("sign", ""), call.now):
        return denied()
    digest = hashlib.md5(call.body, usedforsecurity=False)
    async for chunk in call.request.content.iter_any():
        digest.update(chunk)
    if not state.uploads.lora_put(call.rest, digest.hexdigest()):
        return denied("BadDigest", 400)
    return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})


def denied(code: str = "AccessDenied", status: int = 403) -> web.Response:
    """What an object store answers for a URL that is wrong or has run out."""
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>"
    return web.Response(status=status, text=text, content_type="application/xml")


# -- sockets and ComfyUI's own interface ----------------------------------------------------------


async def _progress(state: State, call: Call) -> Answer:
    task_id, _, sign = call.request.query.get("Rh-Comfy-Auth", "").partition(".")
    task = state.service.find(task_id, call.now)
    if task is None or not state.service.signed(f"ws/{task_id}", 0, sign, call.now):
        return web.Response(status=403)
    socket = web.WebSocketResponse()
    await socket.prepare(call.request)
    await socket.send_str(status(0))
    await converse(socket, play(socket, task))
    await socket.close()
    return socket


async def _proxy_socket(state: State, call: Call) -> Answer:
    socket = web.WebSocketResponse()
    await socket.prepare(call.request)
    await state.listeners.listen(socket, call.request.query.get("clientId", ""))
    await socket.close()
    return socket


def _proxy_queue(state: State, call: Call) -> Answer:
    return {"exec_info": {"queue_remaining": state.service.alive(call.now)}}


def _proxy_prompt(state: State, call: Call) -> Answer:
    instance = "plus" if call.request.path.startswith("/proxy-plus/") else "default"
    work = proxy_work(call.params, instance)
    if isinstance(work, Refused):
        return json.loads(work.text), 400
    task = _begin(state, call, work)
    if isinstance(task, Refused):
        return _v1.refused(task.code)
    state.listeners.tell(task)
    return prompted(task, state.service.stats.accepted)


def _proxy_history(state: State, call: Call) -> Answer:
    return history(state.service.prompted(call.rest.rpartition("/")[2]), call.now)


async def _proxy_view(state: State, call: Call) -> Answer:
    name = call.request.query.get("filename", "")
    stem, _, kind = name.rpartition(".")
    task_id, _, number = stem.partition("_")
    task = state.service.find(task_id, call.now)
    files = task.work.files if task is not None and task.status(call.now) == "SUCCESS" else ()
    if task is None or not number.isdecimal() or int(number) >= len(files) or kind not in TYPES:
        body = state.uploads.file(name, call.now)
        return web.Response(status=404) if body is None else web.Response(body=body)
    return await give(call.request, kind, task.work.params, int(number), call.fault)


def _proxy_upload(state: State, call: Call) -> Answer:
    answer = state.uploads.native(call.file, call.now)
    return web.Response(status=400) if answer is None else answer


def _object_info(state: State, call: Call) -> Answer:  # noqa: ARG001
    return dict(OBJECT_INFO)


# -- the emulator's own ---------------------------------------------------------------------------


def _stats(state: State, call: Call) -> Answer:  # noqa: ARG001
    return attrs.asdict(state.service.stats)


def _begun(state: State, call: Call) -> Answer:  # noqa: ARG001
    return dict(state.service.begun)


def _front(state: State, call: Call) -> Answer:  # noqa: ARG001
    return web.Response(text=_FRONT_PAGE, content_type="text/html")


_FRONT_PAGE: Final = """<!doctype html><meta charset="utf-8">
<title>runninghub_async emulator</title>
<h1>runninghub_async emulator</h1>
<p>A stand-in for the RunningHub API on loopback. Its pictures are drawn from the prompt, not
generated by a model, and nothing costs money.</p>
<p>What it was asked so far: <a href="/_emulator/stats">/_emulator/stats</a></p>
"""


# -- the table ------------------------------------------------------------------------------------

_V2: Final = "/openapi/v2/"
_TASK: Final = "/task/openapi/"

_EXACT: Final = {
    _V2 + "query": Route("POST", "query", "query", _query, first=query_fault),
    _V2 + "queue/status": Route("GET", "call", "msg", _queue_status),
    _V2 + "api-key/list": Route("GET", "call", "msg", _api_keys),
    _V2 + "resource/list": Route("POST", "call", "msg", _resources),
    # Code published by the service sends the key here without its scheme.
    _V2 + "aiapp/list": Route("POST", "call", "msg", _app_list, "raw"),
    _V2 + "media/upload/binary": Route("POST", "upload", "message", _upload, body="form"),
    _TASK + "create": Route("POST", "submit", "v1", _create, "apiKey"),
    _TASK + "ai-app/run": Route("POST", "submit", "v1", _app_run, "apiKey"),
    _TASK + "quick-ai-app/run": Route("POST", "submit", "v1", _quick_run, "apiKey"),
    _TASK + "status": Route("POST", "query", "v1", _status, "apiKey", also="GET"),
    _TASK + "outputs": Route("POST", "query", "v1", _outputs, "apiKey", also="GET"),
    _TASK + "cancel": Route("POST", "call", "v1", _cancel, "apiKey"),
    _TASK + "upload": Route("POST", "upload", "v1", _old_upload, "apiKey", body="form"),
    _TASK + "getWebhookDetail": Route("POST", "call", "v1", _webhook_detail, "apiKey"),
    _TASK + "retryWebhook": Route("POST", "call", "v1", _webhook_again, "apiKey"),
    "/api/openapi/getJsonApiFormat": Route("POST", "call", "v1", _graph_json, "apiKey"),
    "/api/openapi/workflow/duplicate": Route("POST", "call", "v1", _duplicate, "apiKey"),
    "/api/openapi/getLoraUploadUrl": Route("POST", "call", "v1", _lora_place, "apiKey"),
    "/api/fast/creation/model/params": Route("POST", "call", "v1", _styles, None),
    "/api/webapp/apiCallDemo": Route("GET", "call", "v1", _demo, "apiKey"),
    # Pages of the site that anybody may read.
    "/api/webapp/detail": Route("POST", "call", "v1", _app_page, None, also="GET"),
    "/api/sku/list": Route("POST", "call", "v1", _model_list, None, also="GET"),
    "/api/sku/detail": Route("POST", "call", "v1", _model_page, None, also="GET"),
    "/uc/openapi/accountStatus": Route("POST", "call", "v1", _account, "apikey", "806"),
    "/ws/c_instance": Route("GET", "call", "v1", _progress, None),
    "/_emulator/stats": Route("GET", None, "v1", _stats, None),
    "/_emulator/created": Route("GET", None, "v1", _begun, None),
    "/": Route("GET", None, "v1", _front, None),
}

#: By the start of the path; the first that fits, so what is left of v2 is a model's path.
_STARTS: Final = (
    (_V2 + "run/workflow/", Route("POST", "submit", "v2", _run_workflow)),
    (_V2 + "run/ai-app/", Route("POST", "submit", "v2", _run_app)),
    (_V2 + "price-preview/", Route("POST", "call", "v2", _preview)),
    (_V2 + "assets/", Route("POST", "call", "msg", _assets)),
    (_V2, Route("POST", "submit", "v2", _submit)),
    ("/results/", Route("GET", "result", "v1", _result, None)),
    ("/uploads/", Route("GET", None, "v1", _uploaded, None)),
    ("/covers/", Route("GET", None, "v1", _cover, None)),
    ("/loras/", Route("PUT", "upload", "v1", _lora_put, None, body="stream")),
    (_TASK + "view/", Route("GET", None, "v1", _view, None)),
    ("/task/", Route("", "call", "v1", _astray, None)),
    ("/api/", Route("", "call", "v1", _astray, None)),
    ("/uc/", Route("", "call", "v1", _astray, None)),
    ("", Route("", "call", "query", _nowhere, None)),
)

#: After `/proxy/<key>/`: by method and the first word.
_PROXY: Final = {
    "GET prompt": Route("GET", "call", "v1", _proxy_queue, "/", "-1"),
    "POST prompt": Route("POST", "submit", "v1", _proxy_prompt, "/", "-1"),
    "GET history": Route("GET", "call", "v1", _proxy_history, "/", "-1"),
    "GET view": Route("GET", "result", "v1", _proxy_view, "/", "-1"),
    "POST upload": Route("POST", "upload", "v1", _proxy_upload, "/", "-1", body="form"),
    "GET object_info": Route("GET", "call", "v1", _object_info, None),
    "GET ws": Route("GET", "call", "v1", _proxy_socket, "/", "-1"),
}
_PROXIES: Final = ("/proxy/", "/proxy-plus/")


def find(method: str, path: str) -> tuple[Route, str]:
    """The route of a path, and what of the path it leaves to its handler."""
    route = _EXACT.get(path)
    if route is not None:
        return route, ""
    if path.startswith(_PROXIES):
        key, _, rest = path.removeprefix(_PROXIES[1]).removeprefix(_PROXIES[0]).partition("/")
        route = _PROXY.get(f"{method} {rest.partition('/')[0]}")
        if route is not None:
            return route, f"{key}/{rest}"
    start, route = next(each for each in _STARTS if path.startswith(each[0]))
    return route, path[len(start) :]
