"""The values that pass through the package. Nothing here decides, waits or talks to anyone."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import attrs

__all__ = ["ErrorInfo", "Output", "Request", "Response", "Task", "TaskStatus", "Usage"]


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
    for text outputs, whose `url` is None. `task_id` says which task made it.
    """

    url: str | None = None
    type: str = ""
    text: str | None = None
    node_id: str = ""
    task_id: str = ""


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
        return ": ".join(part for part in (self.code, self.message) if part) or "no reason given"


@attrs.frozen
class Task:
    """One job at the service, as one of its answers showed it.

    `id` is a string of digits, never a number (it exceeds 2**53). `outputs` is empty until
    `status` is SUCCESS, and may be empty then too. `error` is set on FAILED and CANCEL only.
    `prompt_tips` is the service's JSON text on the validation of the graph, often empty.
    """

    id: str
    status: TaskStatus = TaskStatus.UNKNOWN
    outputs: tuple[Output, ...] = ()
    error: ErrorInfo | None = None
    usage: Usage | None = None
    prompt_tips: str = attrs.field(default="", repr=False)

    @property
    def done(self) -> bool:
        """Whether the task has ended, well or badly."""
        return self.status in _TERMINAL


@attrs.frozen
class Request:
    """One HTTP request, complete. `headers` may carry the API key, so they stay out of `repr`.

    `read_timeout` is the longest silence, in seconds, to put up with once the request is sent.
    """

    method: str
    url: str
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    body: bytes | None = attrs.field(default=None, repr=False)
    read_timeout: float = 60.0


@attrs.frozen
class Response:
    """One HTTP answer, complete. `headers` are found by lower-case names."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
