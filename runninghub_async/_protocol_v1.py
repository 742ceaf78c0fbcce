"""The older wire contract, `{"code": 0, "msg": …, "data": …}`. No I/O.

Sources: the service's documentation, the pages named at each call. Every call carries the key in
its JSON body and, as the newer pages show it, in the header as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import attrs

from ._answers import data_of, number, object_of, status_of, text, told_task, unwrapped, whole
from ._apps import App
from ._exceptions import ProtocolError
from ._models import FileBody, Request, Response, Task, TaskStatus
from ._protocol import QUERY_TIMEOUT, Site, build_call, multipart, with_body
from ._records import AccountStatus, Lora, Style, WebhookDetail
from ._runs import Workflow

__all__ = [
    "build_account",
    "build_app",
    "build_lora",
    "build_lora_put",
    "build_old_upload",
    "build_styles",
    "build_view",
    "build_v1",
    "parse_account",
    "parse_app",
    "parse_done",
    "parse_duplicate",
    "parse_lora",
    "parse_status",
    "parse_styles",
    "parse_webhook",
    "parse_workflow",
]


def build_v1(site: Site, path: str, body: Mapping[str, Any]) -> Request:
    """A JSON call of the older API: `path` from the origin, the key first in the body."""
    return build_call(site, path, {**site.credentials, **body})


def parse_done(response: Response) -> None:
    """Return if the service took the request ("Cancel ComfyUI Task", "Resend Specific Webhook
    Event"); raise its `APIError` or a `ProtocolError`."""
    data_of(response)


def parse_status(response: Response) -> TaskStatus:
    """`/task/openapi/status` ("Check Task Status"): `data` is the word."""
    data = data_of(response)
    if not isinstance(data, str):
        raise ProtocolError("data is no status", response)
    return status_of(data)


def build_account(site: Site) -> Request:
    """`/uc/openapi/accountStatus` ("Get Account Information"), which wants `apikey`, all lower."""
    return build_call(site, "/uc/openapi/accountStatus", {"apikey": site.api_key})


def parse_account(response: Response) -> AccountStatus:
    """`/uc/openapi/accountStatus`: every number is a string, or null."""
    data = object_of(response)
    return AccountStatus(
        number(data.get("remainCoins")),
        number(data.get("remainMoney")),
        text(data.get("currency")) or None,
        whole(data.get("currentTaskCounts")),
        text(data.get("apiType")),
    )


def build_app(site: Site, app_id: str) -> Request:
    """`GET /api/webapp/apiCallDemo` ("Get API call examples for AI application"), which has the
    key in its query."""
    query = urlencode({"apiKey": site.api_key, "webappId": app_id}, quote_via=quote)
    url = f"{site.base_url}/api/webapp/apiCallDemo?{query}"
    return Request("GET", url, site.headers, None, QUERY_TIMEOUT)


def parse_app(response: Response, app_id: str) -> App:
    """`/api/webapp/apiCallDemo`. Its `curl` is broken JSON and is not looked at."""
    return App.read(app_id, object_of(response))


def parse_workflow(response: Response, workflow_id: str) -> Workflow:
    """`/api/openapi/getJsonApiFormat` ("Get Workflow JSON"): a graph as text, which is itself
    encoded once more at times."""
    graph = unwrapped(object_of(response).get("prompt"))
    if not isinstance(graph, dict):
        raise ProtocolError("prompt is no graph", response)
    return Workflow(workflow_id, graph)


def parse_duplicate(response: Response) -> str:
    """`/api/openapi/workflow/duplicate`: the new workflow's id (schema `WorkflowDuplicateResponse`;
    some clients read it from `workflowId`)."""
    data = object_of(response)
    for key in ("newWorkflowId", "workflowId"):
        value = data.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).isdigit():
            return str(value)
    raise ProtocolError("the answer names no new workflow", response)


def build_view(site: Site, name: str) -> str:
    """`GET /task/openapi/view/<fileName>`: where a file of the older upload is shown."""
    return f"{site.base_url}/task/openapi/view/{quote(name)}"


def build_styles(site: Site, app_id: str, kind: int) -> Request:
    """`/api/fast/creation/model/params` ("Obtain quick create parameter data"): no key in the
    body."""
    body = {"type": kind, "webappId": app_id}
    return build_call(site, "/api/fast/creation/model/params", body)


def parse_styles(response: Response) -> list[Style]:
    """`/api/fast/creation/model/params`; "Loar" is the API's own spelling."""
    data = data_of(response)
    if not isinstance(data, list):
        raise ProtocolError("data is no list", response)
    return [_style(item) for item in data if isinstance(item, dict)]


def _style(item: Mapping[str, Any]) -> Style:
    files = ((item.get(f"modelLoar{n}FileName"), item.get(f"modelLoar{n}Weight")) for n in (1, 2))
    loras = tuple((file, str(weight or "")) for file, weight in files if isinstance(file, str))
    return Style(
        str(item.get("id") or ""),
        text(item.get("modelName")),
        text(item.get("modelKey")),
        text(item.get("modelCategory")),
        text(item.get("content")),
        text(item.get("modelTrigger")),
        text(item.get("modelPreviewUrl")),
        tuple(lora for lora in loras if lora[0]),
    )


def parse_webhook(response: Response) -> WebhookDetail:
    """`/task/openapi/getWebhookDetail` ("Get Webhook Event Details")."""
    data = object_of(response)
    event = data.get("eventData")
    task_id = str(data.get("taskId") or "")
    return WebhookDetail(
        str(data.get("id") or ""),
        task_id,
        text(data.get("webhookUrl")),
        text(data.get("callbackStatus")),
        str(data.get("callbackResponse") or ""),
        whole(data.get("retryCount")),
        event if isinstance(event, str) else json.dumps(event) if event else "",
        text(data.get("createTime")),
        text(data.get("updateTime")),
        _task_in(event, task_id),
    )


def _task_in(event: Any, task_id: str) -> Task | None:
    """What an event says of its task; None if it cannot be read."""
    event = unwrapped(event)
    return told_task(event, task_id) if isinstance(event, dict) else None


def build_old_upload(
    site: Site, file_type: str, name: str, kind: str, body: bytes | FileBody
) -> Request:
    """`/task/openapi/upload` ("Upload Resource"): fields `apiKey`, `fileType` and `file`."""
    fields = {**site.credentials, "fileType": file_type}
    return multipart(site, "/task/openapi/upload", fields, name, kind, body)


def build_lora(site: Site, name: str, md5: str) -> Request:
    """`/api/openapi/getLoraUploadUrl` ("Upload Lora"): where to put a LoRA of this MD5."""
    body = {"loraName": name, "md5Hex": md5}
    return build_v1(site, "/api/openapi/getLoraUploadUrl", body)


def parse_lora(response: Response, md5: str) -> tuple[Lora, str]:
    """`/api/openapi/getLoraUploadUrl`: the LoRA's name, and the URL to put its bytes to, which
    is empty where the service has them already."""
    data = object_of(response)
    name, url = text(data.get("fileName")), text(data.get("url"))
    if not name:
        raise ProtocolError("no name for the LoRA", response)
    return Lora(name, md5, stored=bool(url)), url


def build_lora_put(url: str, body: bytes | FileBody) -> Request:
    """`PUT` to the presigned URL of a storage host, which gets no key."""
    headers = {"Content-Type": "application/octet-stream"}
    return attrs.evolve(with_body(body), url=url, headers=headers)
