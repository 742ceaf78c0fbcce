"""From the body of a run request, older or newer, to the work it asks for, or why it is refused.

Codes are those of the older table; the newer endpoints answer the same ones as `errorCode`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

import attrs

from ._codes import NO_APP
from ._graphs import Graph, change, checked, is_graph, mismatch, said_in, size_in
from ._library import App, Library, Workflow
from ._service import Work, is_id

__all__ = ["Refused", "app_work", "prompt_in", "proxy_work", "workflow_work"]

_RETAIN: Final = (10, 180)
_SIZE: Final = {"width": 1024, "height": 1024}


@attrs.frozen
class Refused:
    """A code, and a text where the table's own does not say enough."""

    code: str
    text: str = ""


def prompt_in(params: Any) -> str:
    """The text a request is about, before anything in it has been checked."""
    if not isinstance(params, dict):
        return ""
    prompt = params.get("prompt")
    if isinstance(prompt, dict):
        return said_in([], prompt) if is_graph(prompt) else ""
    return str(prompt) if prompt is not None else said_in(params.get("nodeInfoList"), {})


def workflow_work(library: Library, key: Any, params: Any, *, older: bool) -> Work | Refused:
    """The work of `create` and of `run/workflow/<id>`."""
    if not isinstance(params, dict):
        return Refused("301", "request body must be a JSON object")
    if fault := _id_fault("workflowId", key):
        return fault
    workflow = library.workflows.get(str(key))
    if workflow is None:
        return Refused("380")
    if fault := _barred(workflow, params):
        return fault
    changes = params.get("nodeInfoList")
    changes = [] if changes is None else changes
    if reason := mismatch(workflow.graph, changes):
        return Refused("803", reason)
    graph = workflow.graph
    if params.get("workflow") not in (None, ""):
        # The saved one is then only a placeholder, but it is what the list was held against.
        given = _loads(params["workflow"])
        if not is_graph(given):
            return Refused("433")
        graph = given
    graph, faults = change(graph, changes)
    found = checked(graph, faults)
    return _work(
        params,
        family="workflow",
        path=str(key),
        graph=graph,
        files=found.files,
        tips=found.tips,
        unsound=not found.sound,
        older=older,
        params=_drawn(changes, graph),
    )


def app_work(
    library: Library, key: Any, params: Any, *, older: bool, quick: bool = False
) -> Work | Refused:
    """The work of `ai-app/run`, `quick-ai-app/run` and `run/ai-app/<id>`."""
    if not isinstance(params, dict):
        return Refused("301", "request body must be a JSON object")
    if fault := _id_fault("webappId", key):
        return fault
    if quick and not params.get("quickCreateCode"):
        return Refused("301", "quickCreateCode must not be null")
    app = library.apps.get(str(key))
    if app is None:
        return Refused(*NO_APP) if older else Refused("901")
    if fault := _barred(app, params):
        return fault
    changes = params.get("nodeInfoList")
    if changes is None and older:
        return Refused("301", "nodeInfoList must not be null")
    changes = [] if changes is None else changes
    # Which inputs a quick-create module has depends on its code, and no list of codes is known.
    if reason := mismatch(_named(changes) if quick else app.graph, changes):
        return Refused("803", reason)
    graph, _ = change(app.graph, changes)
    nodes = [node for node, _ in app.outputs]
    tips: dict[str, Any] = {
        "result": True, "error": None, "outputs_to_execute": nodes, "node_errors": {},
    }  # fmt: skip
    return _work(
        params,
        family="quick" if quick else "app",
        path=str(key),
        graph=graph,
        files=app.outputs,
        tips=json.dumps(tips),
        older=older,
        params=_drawn(changes, graph),
    )


def proxy_work(params: Any, instance: str) -> Work | Refused:
    """The work of ComfyUI's own `POST /prompt`; a refusal's text is ComfyUI's answer."""
    graph = params.get("prompt") if isinstance(params, dict) else None
    if not is_graph(graph) or not graph:
        error = {"type": "no_prompt", "message": "No prompt provided", "details": "",
                 "extra_info": {}}  # fmt: skip
        return Refused("433", json.dumps({"error": error, "node_errors": {}}))
    found = checked(graph, {})
    if not found.sound:
        tips = json.loads(found.tips)
        said = {"error": tips["error"], "node_errors": tips["node_errors"]}
        return Refused("433", json.dumps(said))
    return Work(
        family="proxy",
        path="",
        params=_drawn([], graph),
        files=found.files,
        tips=found.tips,
        graph=graph,
        instance=instance,
        client_id=str(params.get("client_id") or ""),
    )


def _work(body: Mapping[str, Any], *, older: bool, **facts: Any) -> Work | Refused:
    instance = body.get("instanceType") or "default"
    # Machines have names that come and go ("standard", "rtx4090"): any text may be one.
    if not isinstance(instance, str):
        return Refused("301", "instanceType is invalid")
    retain = body.get("retainSeconds")
    if isinstance(retain, str) and retain.isdecimal() and len(retain) < 9:
        retain = int(retain)
    if retain is not None and retain != "":
        low, high = _RETAIN
        if not isinstance(retain, int) or isinstance(retain, bool) or not low <= retain <= high:
            return Refused("301", f"retainSeconds must be between {low} and {high}")
    return Work(
        **facts,
        older=older,
        instance=instance,
        retain=retain or 0,
        # The documentation's own example has the boolean as text.
        personal=body.get("usePersonalQueue") in (True, "true"),
        webhook=str(body.get("webhookUrl") or ""),
    )


def _id_fault(name: str, value: Any) -> Refused | None:
    if value is None or value == "":
        return Refused("301", f"{name} must not be null")
    if not is_id(value):
        return Refused("301", f"{name} must be greater than 0")
    return None


def _barred(item: Workflow | App, body: Mapping[str, Any]) -> Refused | None:
    if not item.ran:
        return Refused("810")
    if item.password and body.get("accessPassword") != item.password:
        return Refused("301", "accessPassword is wrong")
    return None


def _named(changes: Any) -> Graph:
    """A graph that has whatever inputs these changes name."""
    graph: dict[str, dict[Literal["inputs"], dict[str, Any]]] = {}
    for item in changes if isinstance(changes, list) else []:
        if isinstance(item, dict):
            node = graph.setdefault(str(item.get("nodeId")), {"inputs": {}})
            node["inputs"][str(item.get("fieldName"))] = ""
    return graph  # type: ignore[return-value]


def _drawn(changes: Any, graph: Graph) -> dict[str, Any]:
    return {**_SIZE, **size_in(graph), "prompt": said_in(changes, graph)}


def _loads(text: Any) -> Any:
    try:
        return json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
