"""What a workflow's graph and the service say about each other's nodes.

A graph here is ComfyUI's API format: node ids to `{"class_type": …, "inputs": {…}}`. An input is
a plain value, or a link `[node id, output number]` to another node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ._media import is_file
from ._text import text_fault, text_faults

__all__ = [
    "NodeError",
    "Nodes",
    "check_graph",
    "check_nodes",
    "fill_graph",
    "node_errors_in",
    "node_info_list",
]

Nodes = Mapping[Any, Mapping[str, Any]]
"""Values for the inputs of nodes: `{"6": {"text": "a boat"}}`; ids may be numbers, too."""

#: How the service words a nodeInfoList that does not fit the graph (code 803).
_MISMATCH: Final = re.compile(
    r"NODE_INFO_MISMATCH\(nodeId=(?P<node>[^,)]*), *fieldName=(?P<field>[^,)]*)"
    r"(?:, *reason=(?P<reason>[^)]*))?\)"
)

#: A graph is sent as text, in which files cannot be found.
NO_PATHS: Final = "upload the file first and give its name; a graph takes no paths"

#: As it stands in nearly every answer; anything else is worth a closer look.
_NO_ERRORS: Final = '"node_errors": {}'


@attrs.frozen
class NodeError:
    """What is wrong with one node of a graph (`node_errors` of `promptTips`, or code 803).

    `node_id` as in the graph, `class_type` and `field` where the service names them.
    """

    node_id: str
    message: str
    class_type: str = ""
    field: str = ""

    def __str__(self) -> str:
        kind = f" ({self.class_type})" if self.class_type else ""
        where = f", {self.field}" if self.field else ""
        return f"node {self.node_id}{kind}{where}: {self.message}"


def node_errors_in(text: str) -> tuple[NodeError, ...]:
    """The node errors in a `promptTips` text or an error's message; empty if there are none."""
    if not text or _NO_ERRORS in text:
        return ()
    if found := tuple(_mismatches(text)):
        return found
    start = text.find("{")
    if "node_errors" not in text or start < 0:
        return ()
    try:
        tips, _ = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        return ()
    told = tips.get("node_errors") if isinstance(tips, dict) else None
    return tuple(_told(told)) if isinstance(told, dict) else ()


def _mismatches(text: str) -> Iterator[NodeError]:
    for match in _MISMATCH.finditer(text):
        reason = (match["reason"] or "does not fit the graph").replace("_", " ")
        yield NodeError(match["node"].strip(), reason, field=match["field"].strip())


def _told(errors: Mapping[str, Any]) -> Iterator[NodeError]:
    for node_id, told in errors.items():
        facts = told if isinstance(told, dict) else {"errors": [told]}
        kind = str(facts.get("class_type") or "")
        listed = facts.get("errors")
        for fault in listed if isinstance(listed, list) and listed else [{}]:
            message, field = _worded(fault if isinstance(fault, dict) else {"message": fault})
            yield NodeError(str(node_id), message, kind, field)


def _worded(fault: Mapping[str, Any]) -> tuple[str, str]:
    extra = fault.get("extra_info")
    field = extra.get("input_name") if isinstance(extra, dict) else None
    words = (fault.get("message"), fault.get("details"))
    return ": ".join(str(word) for word in words if word) or "not valid", str(field or "")


def node_info_list(nodes: Nodes) -> list[dict[str, Any]]:
    """`nodes` in the form the service takes them, `nodeInfoList`."""
    return [
        {"nodeId": str(node_id), "fieldName": field, "fieldValue": value}
        for node_id, fields in nodes.items()
        for field, value in fields.items()
    ]


def fill_graph(graph: Mapping[str, Any], nodes: Nodes) -> dict[str, Any]:
    """A copy of `graph` with the values of `nodes` in it."""
    filled = {str(node_id): node for node_id, node in graph.items()}
    for node_id, fields in nodes.items():
        node = filled[str(node_id)]
        filled[str(node_id)] = {**node, "inputs": {**node.get("inputs", {}), **fields}}
    return filled


def check_nodes(nodes: Any, graph: Mapping[str, Any] | None = None) -> Iterator[str]:
    """Every fault of `nodes`, each as `description @ $.path`; against `graph` if it is known."""
    if not isinstance(nodes, Mapping):
        yield f'nodes: expected {{"6": {{"text": …}}}}, got {type(nodes).__name__} @ $.nodes'
        return
    for node_id, fields in nodes.items():
        at = f"$.nodes.{node_id}"
        if not isinstance(fields, Mapping):
            yield f"nodes: expected a mapping of inputs, got {type(fields).__name__} @ {at}"
            continue
        if not str(node_id).strip() or not all(isinstance(f, str) and f for f in fields):
            yield f"nodes: a node's id and the names of its inputs must not be empty @ {at}"
            continue
        if any(map(text_fault, (str(node_id), *fields))):
            yield "nodes: a node's id or the name of an input with control characters @ $.nodes"
            continue
        node = graph.get(str(node_id)) if graph is not None else None
        if graph is not None and not isinstance(node, Mapping):
            yield f"nodes: the workflow has no node {node_id} @ {at}"
            continue
        for field, value in fields.items():
            if value is None:
                yield f"nodes: the service refuses null; leave it out @ {at}.{field}"
                continue
            yield from text_faults(value, "nodes", f"{at}.{field}")
            if node is not None:
                yield from _check_input(node, field, value, f"{at}.{field}")


def _check_input(node: Mapping[str, Any], field: str, value: Any, at: str) -> Iterator[str]:
    inputs = node.get("inputs")
    inputs = inputs if isinstance(inputs, Mapping) else {}
    kind = node.get("class_type", "node")
    if field not in inputs:
        yield f"nodes: {kind} has no input {field}, but {', '.join(inputs) or 'none'} @ {at}"
    elif _is_link(inputs[field]) and not _is_link(value):
        yield f"nodes: {kind} takes {field} from node {inputs[field][0]} @ {at}"


def _is_link(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and type(value[1]) is int
    )


def check_graph(graph: Any) -> Iterator[str]:
    """Every fault of a whole graph that its own shape shows: nodes without a class, links to
    nodes that are not there."""
    if not isinstance(graph, Mapping) or not graph:
        yield "graph: expected node ids to nodes, in ComfyUI's API format @ $.graph"
        return
    known = {str(node_id) for node_id in graph}
    for node_id, node in graph.items():
        at = f"$.graph.{node_id}"
        if not isinstance(node, Mapping) or not isinstance(node.get("class_type"), str):
            yield f"graph: no class_type; save the workflow in the API format @ {at}"
            continue
        yield from text_faults(node, "graph", at)
        inputs = node.get("inputs", {})
        for field, value in inputs.items() if isinstance(inputs, Mapping) else ():
            if is_file(value):
                yield f"graph: {NO_PATHS} @ {at}.{field}"
            elif _is_link(value) and value[0] not in known:
                yield f"graph: {field} links to node {value[0]}, which is not there @ {at}.{field}"
