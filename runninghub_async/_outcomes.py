"""Outcomes: each request ends with one of them, for `match`."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import attrs

from ._exceptions import RunningHubError, SubmitUnknown, TaskCancelled
from ._models import Output, Task
from ._saved import Download

__all__ = ["Cancelled", "Failed", "Outcome", "Succeeded", "Unfinished", "Unknown"]


@attrs.frozen(kw_only=True)
class _Base:
    index: int
    request: Any
    attempts: int = 0
    queries: int = 0
    seconds: float | None = None

    key: str = ""

    ok: ClassVar[bool] = False


@attrs.frozen(kw_only=True)
class Succeeded(_Base):
    """The task ended well; `task.outputs` holds what it made.

    All outcomes share: `index`, the request's place in the input, from 0; `request`, as it was
    given; `task`, as last seen; `attempts`, how often a submit was sent or tried; `queries`, how
    often the service was asked; `seconds`, from the accepted submit to the answer that ended it;
    `key`, the job's in the journal, empty without one.

    `files`: the results on disk, in the order of `task.outputs`, where the stream saves them in
    a folder. `missing`: the outputs of the task that could not be saved; a warning says why, and
    a resumed run fetches them. `ok` is True either way.
    """

    task: Task
    files: tuple[Download, ...] = ()
    missing: tuple[Output, ...] = ()
    ok: ClassVar[bool] = True
    #: Always None, so that every outcome has an `error`.
    error: ClassVar[None] = None


@attrs.frozen(kw_only=True)
class Failed(_Base):
    """Nothing came of the request; `error` says why. `task` is None if none was ever created.

    Where a stream keeps results in a folder and could not fetch them, `task` has succeeded, and
    a resumed run or `Session.download` can fetch them yet.
    """

    error: RunningHubError
    task: Task | None = None


@attrs.frozen(kw_only=True)
class Cancelled(_Base):
    """The task was cancelled at the service, by whomever."""

    task: Task
    error: TaskCancelled


@attrs.frozen(kw_only=True)
class Unknown(_Base):
    """The submit's answer was lost: a task may exist and may be billed. It is not sent again."""

    error: SubmitUnknown
    task: None = None


Outcome = Succeeded | Failed | Cancelled | Unknown


@attrs.frozen(kw_only=True)
class Unfinished:
    """A request that had been taken from the input when its stream was left or stopped.

    `state` is `running` (accepted; `task_id` is set, and `Session.wait(task_id)` brings it home),
    `unknown` (its submit was under way) or `not_submitted` (nothing was created).
    """

    index: int
    request: Any
    state: Literal["running", "unknown", "not_submitted"]
    task_id: str | None = None
