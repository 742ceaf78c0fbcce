"""What the progress socket of a workflow says, as events. No I/O.

Source: the service's documentation, "Task Progress Display Example"; the messages are ComfyUI's.
The service calls the socket unstable: it is for showing, not for deciding that a task is done.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from ._media import sniff
from ._untrusted import has_few_values

__all__ = [
    "NodeDone",
    "NodeProgress",
    "NodeStarted",
    "NodesCached",
    "OtherEvent",
    "Preview",
    "ProgressEvent",
    "QueueLength",
    "RunEnded",
    "RunStarted",
    "is_trusted",
    "read_event",
]

#: Whose sockets get the credential in their address.
_DOMAINS: Final = ("runninghub.cn", "runninghub.ai")


@attrs.frozen
class QueueLength:
    """How many runs wait at the machine."""

    remaining: int


@attrs.frozen
class RunStarted:
    """The machine has begun with the workflow."""


@attrs.frozen
class NodesCached:
    """These nodes need not run: their outputs are still there."""

    node_ids: tuple[str, ...]


@attrs.frozen
class NodeStarted:
    """The node is running now."""

    node_id: str


@attrs.frozen
class NodeProgress:
    """The node has done `value` of `maximum` steps."""

    node_id: str
    value: float
    maximum: float

    @property
    def fraction(self) -> float:
        """From 0 to 1."""
        return min(1.0, max(0.0, self.value / self.maximum)) if self.maximum > 0 else 0.0


@attrs.frozen
class NodeDone:
    """The node has run; `output` is what it shows, in ComfyUI's own words."""

    node_id: str
    output: Mapping[str, Any] = attrs.field(factory=dict, repr=False)


@attrs.frozen
class RunEnded:
    """The workflow has run, or broke off at node `node_id` with `message`."""

    ok: bool
    node_id: str = ""
    message: str = ""


@attrs.frozen
class Preview:
    """A picture of the work in progress; `type` is `png`, `jpg` or empty."""

    type: str
    data: bytes = attrs.field(repr=False)


@attrs.frozen
class OtherEvent:
    """A message that is none of the above, as it came."""

    type: str
    data: Any = attrs.field(default=None, repr=False)


ProgressEvent = (
    QueueLength
    | RunStarted
    | NodesCached
    | NodeStarted
    | NodeProgress
    | NodeDone
    | RunEnded
    | Preview
    | OtherEvent
)


def is_trusted(url: str, base_url: str) -> bool:
    """Whether a socket at `url` may be opened: encrypted and at the service's own hosts, or at
    the very host that `base_url` names, which may be an emulator in plain text."""
    try:
        parts, base = urlsplit(url), urlsplit(base_url)
        host, own = parts.hostname or "", (base.hostname, base.port, base.scheme)
        here = (host, parts.port, {"ws": "http", "wss": "https"}.get(parts.scheme)) == own
    except ValueError:
        return False
    at_home = any(host == domain or host.endswith(f".{domain}") for domain in _DOMAINS)
    return here or (parts.scheme == "wss" and at_home)


def read_event(message: str | bytes) -> ProgressEvent:
    """The event in one message; never raises. A message with more values than may be read at once
    is an `OtherEvent` with its text."""
    if isinstance(message, bytes) and not message.lstrip().startswith(b"{"):
        return _picture(message)
    if not has_few_values(message):
        return OtherEvent("", message)
    try:
        content = json.loads(message)
    except (ValueError, RecursionError):
        return OtherEvent("", message)
    if not isinstance(content, dict):
        return OtherEvent("", content)
    kind, data = str(content.get("type") or ""), content.get("data")
    return _event(kind, data) if isinstance(data, dict) else OtherEvent(kind, data)


def _event(kind: str, data: Mapping[str, Any]) -> ProgressEvent:
    node = str(data.get("node") or data.get("node_id") or "")
    match kind:
        case "status":
            status = data.get("status")
            info = status.get("exec_info") if isinstance(status, dict) else None
            left = info.get("queue_remaining") if isinstance(info, dict) else None
            return QueueLength(left) if isinstance(left, int) else OtherEvent(kind, data)
        case "execution_start":
            return RunStarted()
        case "execution_cached":
            nodes = data.get("nodes")
            return NodesCached(tuple(map(str, nodes)) if isinstance(nodes, list) else ())
        case "executing" if node:
            return NodeStarted(node)
        case "progress":
            return NodeProgress(node, _number(data.get("value")), _number(data.get("max")))
        case "executed":
            output = data.get("output")
            return NodeDone(node, output if isinstance(output, dict) else {})
        case "execution_success":
            return RunEnded(ok=True)
        case "execution_error" | "execution_interrupted":
            text = data.get("exception_message") or kind.removeprefix("execution_")
            return RunEnded(ok=False, node_id=node, message=str(text))
    return OtherEvent(kind, data)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > 1e300:
        return 0.0
    return value


def _picture(message: bytes) -> ProgressEvent:
    """ComfyUI's binary frame: its kind, the picture's kind, the picture."""
    if len(message) < 8:
        return OtherEvent("", message)
    kind, _ = struct.unpack(">II", message[:8])
    return Preview(sniff(message[8:]), message[8:]) if kind == 1 else OtherEvent("", message)
