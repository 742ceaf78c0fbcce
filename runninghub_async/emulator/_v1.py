"""The older answers: `/task/openapi/*` and its kin, in the envelope code, msg, errorMessages, data.

States are codes here: 804 while a task runs, 813 while it is queued, 805 when it came to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from ._codes import NO_APP, says
from ._library import Library
from ._runs import Refused
from ._service import Emulated, Service, failed_reason

__all__ = [
    "app_page", "cancel", "created", "demo", "done", "duplicate", "graph_json", "outputs",
    "refused", "status",
]  # fmt: skip


def done(data: Any = None, msg: str = "success") -> dict[str, Any]:
    """The envelope of what went well."""
    return {"code": 0, "msg": msg, "errorMessages": None, "data": data}


def refused(code: str, text: str = "") -> dict[str, Any]:
    """The envelope of what did not."""
    return says("v1", code, text)[0]


def created(task: Emulated, now: float, socket: str | None) -> dict[str, Any]:
    """How `create` and both app runs are answered; `socket` is the address of its progress."""
    running = now >= task.starts
    return done(
        {
            "netWssUrl": socket if running else None,
            "taskId": task.id,
            "clientId": task.client_id,
            "taskStatus": "RUNNING" if running else "QUEUED",
            "promptTips": task.work.tips,
        }
    )


def status(service: Service, params: Any, now: float) -> dict[str, Any]:
    """Answer `POST /task/openapi/status`; it knows no word for what was cancelled."""
    task = _asked(service, params, now)
    if isinstance(task, Refused):
        return refused(task.code, task.text)
    word = task.status(now)
    return done("FAILED" if word == "CANCEL" else word)


def outputs(
    service: Service, params: Any, now: float, origin: str, socket: Any, *, quirk: str = ""
) -> dict[str, Any]:
    """Answer `POST /task/openapi/outputs`; `socket(task)` gives the progress URL."""
    task = _asked(service, params, now)
    if isinstance(task, Refused):
        return refused(task.code, task.text)
    word = task.status(now)
    if word in ("QUEUED", "RUNNING"):
        if quirk == "unready":
            return done(None)
        code = "804" if word == "RUNNING" else "813"
        data = {"netWssUrl": socket(task)} if word == "RUNNING" else None
        return {**refused(code), "data": data}
    return ended(service, task, now, origin)


def ended(service: Service, task: Emulated, now: float, origin: str) -> dict[str, Any]:
    """What `outputs` says of a task that has ended."""
    word = task.status(now)
    if word != "SUCCESS":
        reason: Any = failed_reason(task)
        if task.quirk == "reason":
            reason = json.dumps(reason)
        return {**refused("805"), "data": {"failedReason": reason} if reason else None}
    spent = str(task.money) if task.money else None
    model = task.work.family == "model"
    return done(
        [
            {
                "fileUrl": url,
                "fileType": kind,
                "taskCostTime": str(round(task.ran)),
                "nodeId": node,
                "thirdPartyConsumeMoney": spent if model else None,
                "consumeMoney": None if model else spent,
                "consumeCoins": None if task.coins is None else str(task.coins),
                "storageType": None,
                "bucket": None,
                "objectKey": None,
                **extra,
            }
            for node, kind, url, extra in service.files(task, now, origin)
        ]
    )


def cancel(service: Service, params: Any, now: float) -> tuple[dict[str, Any], Emulated | None]:
    """Answer `POST /task/openapi/cancel`; with the task, if it was alive until now."""
    task = _asked(service, params, now)
    if isinstance(task, Refused):
        return refused(task.code, task.text), None
    if not service.cancel(task, now):
        return refused("1", "task cannot cancel"), None
    return done(), task


def graph_json(library: Library, params: Any) -> dict[str, Any]:
    """Answer `POST /api/openapi/getJsonApiFormat`: the graph as text, sometimes twice over."""
    key = params.get("workflowId") if isinstance(params, dict) else None
    if key is None or key == "":
        return refused("301", "workflowId must not be null")
    workflow = library.workflows.get(str(key))
    if workflow is None:
        return refused("380")
    text = json.dumps(workflow.graph)
    return done({"prompt": json.dumps(text) if workflow.twice else text})


def duplicate(library: Library, params: Any) -> dict[str, Any]:
    """Answer `POST /api/openapi/workflow/duplicate`: the id of a copy that is the caller's own."""
    key = params.get("workflowId") if isinstance(params, dict) else None
    if key is None or key == "":
        return refused("301", "workflowId must not be null")
    copy = library.duplicate(str(key))
    return refused("380") if copy is None else done({"newWorkflowId": copy})


def app_page(library: Library, params: Any, origin: str) -> dict[str, Any]:
    """Answer `POST /api/webapp/detail`, which needs no key. Whose workflow an app runs is shown
    to its owner only."""
    key = str(params.get("webappId")) if isinstance(params, dict) else ""
    app = library.apps.get(key)
    if app is None:
        return refused(*NO_APP)
    return done(
        {
            "id": key,
            "name": app.name,
            "description": "",
            "workflowId": None,
            "inputNodes": [dict(node) for node in app.nodes],
            "covers": [{"id": "1", "url": f"{origin}/covers/{key}.png"}],
            "tags": [{"id": "1", "name": "poster", "nameEn": "poster"}],
            "statisticsInfo": _STATISTICS,
        }
    )


#: The service writes these counts as text.
_STATISTICS: Final = {
    "likeCount": "12", "downloadCount": "3", "useCount": "456", "pv": "789", "collectCount": "5",
}  # fmt: skip


def demo(library: Library, query: Mapping[str, str], origin: str) -> dict[str, Any]:
    """Answer `GET /api/webapp/apiCallDemo`. The `curl` in it is not valid JSON, as the site's."""
    key = query.get("webappId")
    app = library.apps.get(str(key))
    if app is None:
        return refused(*NO_APP)
    body = '{"webappId": %s, "apiKey": , "quickCreateCode": "null", "nodeInfoList": [...]}' % key  # noqa: UP031
    return done(
        {
            "curl": f"curl -X POST {origin}/task/openapi/ai-app/run -d '{body}'",
            "accessEncrypted": bool(app.password),
            "webappName": app.name,
            "statisticsInfo": _STATISTICS,
            "nodeInfoList": [dict(node) for node in app.nodes],
            "covers": [{"id": "1", "url": f"{origin}/covers/{key}.png"}],
            "tags": [{"id": "1", "name": "poster", "nameEn": "poster"}],
        }
    )  # fmt: skip


def _asked(service: Service, params: Any, now: float) -> Emulated | Refused:
    task_id = params.get("taskId") if isinstance(params, dict) else None
    if not isinstance(task_id, str | int) or task_id == "":
        return Refused("301", "taskId must not be null")
    return service.find(task_id, now) or Refused("807")
