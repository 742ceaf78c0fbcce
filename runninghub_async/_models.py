"""The values that pass through the package. Nothing here decides, waits or talks to anyone."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

import attrs

from ._nodes import NodeError, node_errors_in

__all__ = [
    "ErrorInfo",
    "FileBody",
    "Output",
    "Request",
    "Response",
    "Task",
    "TaskPart",
    "TaskStatus",
    "Usage",
    "shown_url",
]


class TaskStatus(enum.StrEnum):
    """Where a task stands, in the service's own words (Query V2, `status`).

    The spellings CANCELED and CANCELLED, PENDING and PROCESSING, which third parties have met,
    are folded into `CANCEL` and `QUEUED`/`RUNNING` when an answer is read. A word nobody has
    documented becomes `UNKNOWN`, which is not terminal: the task is looked at again.
    """

    CREATE = "CREATE"
    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCESS = "SUCCESS"
    FAILED = "FAILED"
    CANCEL = "CANCEL"
    UNKNOWN = "UNKNOWN"

    @property
    def terminal(self) -> bool:
        """Whether nothing more will happen to the task."""
        return self in _TERMINAL


_TERMINAL = frozenset({TaskStatus.SUCCESS, TaskStatus.FAILED, TaskStatus.CANCEL})


@attrs.frozen
class Output:
    """One thing a task made (`results[]` of Query V2).

    `url` lives about 24 hours and may be signed: keep its query string. `type` is the file
    extension the service names (`png`, `mp4`, `txt`), lower case, without a dot. `text` is set
    for text outputs, whose `url` is None. `task_id` says which task made it. `extra` holds the
    keys of the service's answer that have no field here, such as the `z_index` of a layer.
    """

    url: str | None = None
    type: str = ""
    text: str | None = None
    node_id: str = ""
    task_id: str = ""
    extra: Mapping[str, Any] = attrs.field(factory=dict, repr=False, hash=False)

    @property
    def there(self) -> bool:
        """Whether there is anything to fetch or to read: some results are listed before they exist,
        and some entries describe an error."""
        return self.url is not None or self.text is not None


@attrs.frozen
class Usage:
    """What a task cost (`usage` of Query V2). The service leaves out what does not apply.

    `coins` for consumer keys, `money` for GPU time on shared keys, `third_party_money` for
    third-party models; the wallet's currency is CNY on runninghub.cn and USD on runninghub.ai.
    `seconds` is the running time the service reports.
    """

    money: Decimal | None = None
    coins: Decimal | None = None
    third_party_money: Decimal | None = None
    seconds: Decimal | None = None

    @property
    def total_money(self) -> Decimal | None:
        """GPU time and third-party money together; None when the service named neither."""
        if self.money is None and self.third_party_money is None:
            return None
        return (self.money or Decimal(0)) + (self.third_party_money or Decimal(0))


@attrs.frozen
class ErrorInfo:
    """Why a task failed, in the service's words: `code` (a string, as the service sends it),
    `message`, and `reason`, the node's exception where the task ran a workflow."""

    code: str = ""
    message: str = ""
    reason: Mapping[str, Any] | str | None = None

    def __str__(self) -> str:
        text = ": ".join(part for part in (self.code, self.message) if part) or "no reason given"
        return f"{text}; {self.where}" if self.where else text

    @property
    def where(self) -> str:
        """The node that failed and its exception, in one line; empty if no node is named."""
        if not isinstance(self.reason, Mapping):
            return ""
        told = [self.reason.get(k) for k in ("node_id", "node_name", "exception_type")]
        node, name, kind = (str(value) if value else "" for value in told)
        if not node and not name:
            return ""
        what = ": ".join(x for x in (kind, str(self.reason.get("exception_message") or "")) if x)
        return f"node {node}{f' ({name})' if name else ''}{f': {what}' if what else ''}".strip()


@attrs.frozen
class TaskPart:
    """One task of a composite one (`taskUsageList` of Query V2), with its own cost."""

    id: str
    parent_id: str = ""
    status: TaskStatus = TaskStatus.UNKNOWN
    usage: Usage | None = None


@attrs.frozen
class Task:
    """One job at the service, as one of its answers showed it.

    `id` is a string of digits, never a number (it exceeds 2**53). `outputs` is empty until `status`
    is SUCCESS, and may be empty then too. `error` is set on FAILED and CANCEL only. `prompt_tips`
    is the service's JSON text on the validation of the graph, often empty. `client_id` is the
    ComfyUI client's. `progress_url` is the address of the progress socket while there is one
    (`netWssUrl`); it holds a credential, so it stays out of `repr`. `parent_id` and `parts` belong
    to composite tasks. `status_word` is the service's own status if it is undocumented; `status` is
    then UNKNOWN.
    """

    id: str
    status: TaskStatus = TaskStatus.UNKNOWN
    outputs: tuple[Output, ...] = ()
    error: ErrorInfo | None = None
    usage: Usage | None = None
    prompt_tips: str = attrs.field(default="", repr=False)
    client_id: str = attrs.field(default="", repr=False)
    progress_url: str = attrs.field(default="", repr=False)
    parent_id: str = attrs.field(default="", repr=False)
    parts: tuple[TaskPart, ...] = attrs.field(default=(), repr=False)
    status_word: str = attrs.field(default="", repr=False)

    @property
    def node_errors(self) -> tuple[NodeError, ...]:
        """What the service found wrong with the nodes of the graph; the task may be doomed."""
        return node_errors_in(self.prompt_tips)

    @property
    def done(self) -> bool:
        """Whether the task has ended, well or badly."""
        return self.status in _TERMINAL


def shown_url(url: str) -> str:
    """`url` as far as it may be shown: no query, and no key in the path of the native proxy."""
    shown = url.partition("?")[0]
    return _PROXY_KEY.sub(r"\1…", shown)


#: The native ComfyUI proxy is the one family that carries the key in its path.
_PROXY_KEY = re.compile(r"(/proxy(?:-plus)?/)[^/?#]+")


@attrs.frozen
class FileBody:
    """A request's body that is read from disk while it is sent: `head`, the first `size` bytes of
    the file `path`, `tail`. `progress(sent)`, if given, is called with the bytes of the file sent
    so far. `stamp` identifies the file's state; a transport that finds another state raises
    `PayloadError`. `content`: the bytes to send in place of a file. Only a transport whose
    `takes_content` is true gets it; any other gets the bytes as `Request.body`."""

    path: str
    size: int
    head: bytes = attrs.field(default=b"", repr=False)
    tail: bytes = attrs.field(default=b"", repr=False)
    progress: Callable[[int], object] | None = attrs.field(default=None, repr=False, eq=False)
    stamp: tuple[int, ...] = attrs.field(default=(), repr=False)
    content: bytes | None = attrs.field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.head) + self.size + len(self.tail)


@attrs.frozen
class Request:
    """One HTTP request, complete. `headers`, `body` and some URLs carry the API key, so they stay
    out of `repr`. `file`, if given, is the body in place of `body`.

    `read_timeout` is the longest silence that is tolerated once the request is sent, in seconds.
    `public_only`: the host's name came from outside, so connect to it only if it resolves to an
    address of the public internet. `repeatable`: sending it twice does no harm; False for submits.
    """

    method: str
    url: str = attrs.field(repr=lambda url: repr(shown_url(url)))
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    read_timeout: float = 60.0
    file: FileBody | None = None
    public_only: bool = False
    repeatable: bool = True


@attrs.frozen
class Response:
    """One HTTP answer, complete. `headers` are found by lower-case names; `body` is unpacked,
    whatever `Content-Encoding` says."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
