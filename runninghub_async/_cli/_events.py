"""The events of a run in words and as JSON data."""

from __future__ import annotations

from typing import Any

from .._plain import unstructure
from .._progress import (
    NodeDone,
    NodeProgress,
    NodesCached,
    NodeStarted,
    OtherEvent,
    Preview,
    ProgressEvent,
    QueueLength,
    RunEnded,
    RunStarted,
)

__all__ = ["describe"]


def describe(event: ProgressEvent) -> tuple[str, dict[str, Any]]:
    """A line for people, and the event's data with its name under `event`. Of bytes there is
    the number: pictures are not for a terminal."""
    data: dict[str, Any] = {"event": type(event).__name__}
    if isinstance(event, Preview | OtherEvent) and isinstance(event.data, bytes):
        data |= {"type": event.type, "bytes": len(event.data)}
    else:
        data |= unstructure(event)
    return _words(event), data


def _words(event: ProgressEvent) -> str:
    match event:
        case QueueLength(remaining=count):
            return f"{count} in the queue"
        case RunStarted():
            return "started"
        case NodesCached(node_ids=()):
            return "all nodes have to run"
        case NodesCached(node_ids=nodes):
            return f"{len(nodes)} nodes need not run: {', '.join(nodes)}"
        case NodeStarted(node_id=node):
            return f"node {node} started"
        case NodeProgress(node_id=node, value=value, maximum=maximum):
            return f"node {node} {value:g} of {maximum:g}"
        case NodeDone(node_id=node):
            return f"node {node} done"
        case RunEnded(ok=True):
            return "ended well"
        case RunEnded(node_id=node, message=message):
            return f"broke off{f' at node {node}' if node else ''}: {message}"
        case Preview(type=kind, data=picture):
            return f"preview, {len(picture)} bytes of {kind or 'a picture'}"
        case OtherEvent(type=kind):
            return f"event {kind or 'without a name'}"
