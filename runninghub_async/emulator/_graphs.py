"""Graphs in ComfyUI's API format: what may be changed in one, what it makes, in which order.

A graph maps node ids to `{"class_type": ..., "inputs": {...}}`; an input is a value or a link,
`["7", 0]`. Everything here is a plain function of its arguments.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

__all__ = [
    "Checked", "Graph", "change", "checked", "is_graph", "mismatch", "order", "said_in", "size_in",
]  # fmt: skip

Graph = Mapping[str, Mapping[str, Any]]

#: Nodes that give a result, and the extension of what they give.
OUTPUTS: Final = {
    "SaveImage": "png",
    "PreviewImage": "png",
    "SaveVideo": "mp4",
    "VHS_VideoCombine": "mp4",
    "SaveAudio": "mp3",
    "SaveAudioMP3": "mp3",
    "PreviewAudio": "mp3",
    "SaveGLB": "glb",
    "Preview3D": "glb",
    "PreviewAny": "txt",
    "SaveText": "txt",
    "ShowText|pysssss": "txt",
}

#: Values that are no prompt: numbers, switches, and names of files.
_NO_TEXT: Final = re.compile(r"\s*|[-+]?\d+(\.\d+)?|true|false|\S*\.[a-z0-9]{2,11}", re.IGNORECASE)

#: No graph makes more than this of one node, whatever its batch size says.
_MOST: Final = 16


@attrs.frozen
class Checked:
    """What ComfyUI's validation says of a graph: `tips` is the text of `promptTips`, `files` the
    node and extension of each result that will come, `sound` whether anything runs at all."""

    tips: str
    files: tuple[tuple[str, str], ...]
    sound: bool


def mismatch(graph: Graph, changes: Any) -> str:
    """Why `nodeInfoList` does not fit the graph, in the service's words; empty if it does."""
    if not isinstance(changes, list):
        return "nodeInfoList must be an array"
    for item in changes:
        if not isinstance(item, dict):
            return "nodeInfoList must be an array of objects"
        node, field = str(item.get("nodeId")), str(item.get("fieldName"))
        inputs = graph.get(node, {}).get("inputs", {})
        reason = ""
        if node not in graph:
            reason = "node_not_found_in_workflow"
        elif field not in inputs:
            reason = "field_not_found_in_node_inputs"
        elif item.get("fieldValue") is None:
            reason = "field_value_is_null"
        elif _link(inputs[field]) and not _link(item["fieldValue"]):
            reason = "field_is_a_link"
        if reason:
            return f"NODE_INFO_MISMATCH(nodeId={node}, fieldName={field}, reason={reason})"
    return ""


def change(
    graph: Graph, changes: Iterable[Mapping[str, Any]]
) -> tuple[Graph, dict[str, list[dict[str, Any]]]]:
    """The graph with the values given, and the faults of those that are of the wrong type.

    Numbers may come as text, as the documentation's own examples send them.
    """
    nodes = {key: {**node, "inputs": dict(node.get("inputs", {}))} for key, node in graph.items()}
    faults: dict[str, list[dict[str, Any]]] = {}
    for item in changes:
        key, field, value = str(item["nodeId"]), str(item["fieldName"]), item["fieldValue"]
        if key not in nodes:
            continue
        inputs = nodes[key]["inputs"]
        if _is_number(inputs.get(field)) and not _link(value):
            try:
                value = type(inputs[field])(float(value))
            except (TypeError, ValueError, OverflowError):
                fault = _fault("invalid_input_type", f"{field}, {value!r:.60}", field)
                faults.setdefault(key, []).append(fault)
        inputs[field] = value
    return nodes, faults


def checked(graph: Graph, faults: Mapping[str, list[dict[str, Any]]]) -> Checked:
    """Validate a graph as ComfyUI does: an output runs if nothing upstream of it is at fault."""
    errors = {key: list(found) for key, found in faults.items()}
    for key, node in graph.items():
        for field, value in node.get("inputs", {}).items():
            if _link(value) and value[0] not in graph:
                fault = _fault("bad_linked_input", f"{field}, node {value[0]} not found", field)
                errors.setdefault(key, []).append(fault)
    outputs = [key for key, node in graph.items() if node.get("class_type") in OUTPUTS]
    above = {key: set(order(graph, [key])) for key in outputs}
    good = [key for key in outputs if not above[key] & errors.keys()]
    error: dict[str, Any] | None = None
    if not outputs:
        error = {"type": "prompt_no_outputs", "message": "Prompt has no outputs", "details": "",
                 "extra_info": {}}  # fmt: skip
    elif not good:
        error = {"type": "prompt_outputs_failed_validation", "details": "", "extra_info": {},
                 "message": "Prompt outputs failed validation"}  # fmt: skip
    said = {
        key: {
            "errors": found,
            "dependent_outputs": [each for each in outputs if key in above[each]],
            "class_type": graph[key].get("class_type"),
        }
        for key, found in errors.items()
    }
    tips = {"result": bool(good), "error": error, "outputs_to_execute": good, "node_errors": said}
    batch = _batch(graph)
    files = tuple((key, kind) for key in good for kind in _kinds(graph[key], batch))
    return Checked(json.dumps(tips), files, bool(good))


def order(graph: Graph, outputs: Sequence[str]) -> list[str]:
    """The nodes that these outputs need, each after those it needs itself."""
    done: dict[str, None] = {}
    stack = list(reversed(outputs))
    open_: set[str] = set()
    while stack:
        key = stack[-1]
        if key in done or key not in graph or key in open_:
            stack.pop()
            if key in graph:
                done.setdefault(key)
            continue
        open_.add(key)
        stack += [value[0] for value in graph[key].get("inputs", {}).values() if _link(value)]
    return list(done)


def said_in(changes: Any, graph: Graph) -> str:
    """The text a task is about: what was written into its nodes, or stands there anyway."""
    words = [
        text
        for item in (changes if isinstance(changes, list) else [])
        if isinstance(item, dict) and (text := _text(item.get("fieldValue")))
    ]
    words = words or [
        text
        for node in graph.values()
        for field, value in node.get("inputs", {}).items()
        if field in ("text", "prompt") and (text := _text(value))
    ]
    return "\n".join(words)


def size_in(graph: Graph) -> dict[str, Any]:
    """Width and height of the first node that says both; empty if none does."""
    for node in graph.values():
        inputs = node.get("inputs", {})
        if _is_number(inputs.get("width")) and _is_number(inputs.get("height")):
            return {"width": inputs["width"], "height": inputs["height"]}
    return {}


def is_graph(value: Any) -> bool:
    """Whether this is a graph in API format, as opposed to the editor's own, or anything else."""
    return isinstance(value, dict) and all(
        isinstance(node, dict)
        and isinstance(node.get("class_type"), str)
        and isinstance(node.get("inputs", {}), dict)
        for node in value.values()
    )


def _kinds(node: Mapping[str, Any], batch: int) -> Iterator[str]:
    kind = OUTPUTS[node["class_type"]]
    if kind == "mp3" and str(node.get("inputs", {}).get("format")).lower() == "wav":
        kind = "wav"
    yield from [kind] * (batch if kind == "png" else 1)


def _batch(graph: Graph) -> int:
    sizes = [node.get("inputs", {}).get("batch_size") for node in graph.values()]
    known = (size for size in sizes if _is_number(size) and math.isfinite(size))
    return next((max(1, min(_MOST, int(size))) for size in known), 1)


def _fault(kind: str, details: str, field: str) -> dict[str, Any]:
    message = kind.replace("_", " ").capitalize()
    return {"type": kind, "message": message, "details": details,
            "extra_info": {"input_name": field}}  # fmt: skip


def _link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(value: Any) -> str:
    return value if isinstance(value, str) and not _NO_TEXT.fullmatch(value) else ""
