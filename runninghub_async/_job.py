"""The life of a job, as a state machine that knows neither loop nor network.

    NEW ──sent──> SUBMITTING ──accepted──> WAITING ──seen, done──> ENDED
     ^                │                     │   ^
     └──may repeat────┤                     └───┘ seen, not yet; or missed
                      └──refused, or its fate unknown──> ENDED

`advance` takes what just happened and returns the job as it is now and the one thing to do next.
Whoever drives it (a stream, a single call) owns the clock, the chance and the connections; what
may be repeated, what counts as failed and when to look again is decided here, and only here.
"""

from __future__ import annotations

import enum
from typing import Any, Final, NamedTuple

import attrs

from ._codes import look_up
from ._exceptions import (
    ConnectError,
    NotFoundError,
    RunningHubError,
    SubmitUnknown,
    TaskCancelled,
    TaskFailed,
)
from ._models import Task, TaskStatus
from ._outcomes import Cancelled, Failed, Outcome, Succeeded, Unknown
from ._polling import Polling
from ._retry import (
    STOPPING,
    Cause,
    Retry,
    RetryPolicy,
    Verdict,
    decide_submit,
    query_wait,
)

__all__ = [
    "Accepted",
    "Action",
    "Deliver",
    "Event",
    "Job",
    "JobState",
    "LookAt",
    "Missed",
    "Refused",
    "Rules",
    "Seen",
    "Sent",
    "Stop",
    "SubmitAgain",
    "advance",
    "reject",
]

#: A fresh id may take a moment to become visible, so "no such task" has to be said this often in
#: a row before it is believed.
NOT_FOUND_BELIEVED: Final = 5


class JobState(enum.Enum):
    """Where a job stands."""

    NEW = "not submitted"
    SUBMITTING = "its submit is under way"
    WAITING = "accepted, not ended"
    ENDED = "ended"


@attrs.frozen
class Rules:
    """The two policies that a job's life depends on."""

    polling: Polling
    retry: RetryPolicy


class Job(NamedTuple):
    """One request on its way. `follow` is False when the caller wants the task id only; `tips`
    is what the submit's answer found wrong with the graph, nearly always nothing.

    A tuple, since a new one is made at every step: it takes a third of the time of a class.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    request: Any
    state: JobState = JobState.NEW
    task_id: str = ""
    attempts: int = 0
    queries: int = 0
    looks: int = 0
    misses: int = 0
    not_found: int = 0
    unsent: int = 0
    accepted_at: float = 0.0
    follow: bool = True
    tips: str = ""


@attrs.frozen
class Sent:
    """The submit leaves now."""


@attrs.frozen
class Accepted:
    """The submit was answered with a task."""

    task: Task


@attrs.frozen
class Refused:
    """The submit was not answered with a task."""

    error: RunningHubError


@attrs.frozen
class Seen:
    """A query was answered."""

    task: Task


@attrs.frozen
class Missed:
    """A query failed; that says nothing about the task."""

    error: RunningHubError


Event = Sent | Accepted | Refused | Seen | Missed


@attrs.frozen
class LookAt:
    """Query the task at this time."""

    at: float


@attrs.frozen
class SubmitAgain:
    """Submit again: certainly nothing was created. `after` is what the service asked for, in
    seconds; None leaves the pause to the driver, who sees all jobs."""

    cause: Cause
    after: float | None = None


@attrs.frozen
class Deliver:
    """Hand this to the caller; the job has ended."""

    result: Outcome | Accepted


@attrs.frozen
class Stop:
    """This job was refused for a reason that every other one will meet too: submit no more."""

    error: RunningHubError


Action = LookAt | SubmitAgain | Deliver | Stop | None


def advance(job: Job, event: Event, now: float, rules: Rules, u: float) -> tuple[Job, Action]:
    """The next state of `job` after `event` at time `now`, and the one next thing to do.

    `u` is a uniform random number in [0, 1). Raises `ValueError` for an event that cannot happen
    in the job's state.
    """
    # Not by `match`, which takes three times as long: this is asked three times for every job.
    state = job.state
    if isinstance(event, Seen) and state is JobState.WAITING:
        return _seen(job, event.task, now, rules, u)
    if isinstance(event, Accepted) and state is JobState.SUBMITTING:
        return _accepted(job, event.task, now, rules, u)
    if isinstance(event, Sent) and state is JobState.NEW:
        return _sent(job), None
    if isinstance(event, Missed) and state is JobState.WAITING:
        return _missed(job, event.error, now, rules, u)
    if isinstance(event, Refused) and state is JobState.SUBMITTING:
        return _refused(job, event.error, rules)
    raise ValueError(f"{type(event).__name__} cannot happen to a job that is {job.state.name}")


def reject(job: Job, error: RunningHubError) -> tuple[Job, Deliver | Stop]:
    """End a job that was never sent, for a fault of its own; or say that every other one would
    meet the same, as when its files were refused for the key, or there is no network."""
    if isinstance(error, (*STOPPING, ConnectError)):
        return job, Stop(error)
    return _end(job), Deliver(Failed(index=job.index, request=job.request, error=error))


def _sent(job: Job) -> Job:
    # In full, like the next one: `_replace` takes four times as long, and every job comes by.
    return Job(
        job.index,
        job.request,
        JobState.SUBMITTING,
        "",
        job.attempts + 1,
        unsent=job.unsent,
        follow=job.follow,
    )


def _accepted(job: Job, task: Task, now: float, rules: Rules, u: float) -> tuple[Job, Action]:
    job = Job(
        job.index,
        job.request,
        JobState.WAITING,
        task.id,
        job.attempts,
        accepted_at=now,
        follow=job.follow,
        tips=task.prompt_tips if task.node_errors else "",
    )
    if not job.follow:
        return _end(job), Deliver(Accepted(task))
    if task.status is TaskStatus.SUCCESS and not task.outputs:
        # Done at once, but an answer to a submit does not show results: ask for them.
        return job, LookAt(now)
    if task.done:
        return _end(job), Deliver(_outcome(job, task, now))
    return job, LookAt(now + rules.polling.delay(0, u))


def _refused(job: Job, error: RunningHubError, rules: Rules) -> tuple[Job, Action]:
    # Only failures to connect in a row count towards giving up on connecting.
    job = job._replace(unsent=job.unsent + 1 if isinstance(error, ConnectError) else 0)
    decision = decide_submit(rules.retry, error, job.unsent or job.attempts)
    if isinstance(decision, Retry):
        return job._replace(state=JobState.NEW), SubmitAgain(decision.cause, decision.after)
    if decision.verdict is Verdict.STOP:
        return job._replace(state=JobState.NEW), Stop(error)
    common: dict[str, Any] = {
        "index": job.index,
        "request": job.request,
        "attempts": job.attempts,
    }
    if decision.verdict is Verdict.FAILED:
        return _end(job), Deliver(Failed(error=error, **common))
    unknown = SubmitUnknown(f"the submit may or may not have created a task: {error}", job.request)
    unknown.__cause__ = error
    return _end(job), Deliver(Unknown(error=unknown, **common))


def _seen(job: Job, task: Task, now: float, rules: Rules, u: float) -> tuple[Job, Action]:
    if task.done:
        job = job._replace(state=JobState.ENDED, queries=job.queries + 1)
        return job, Deliver(_outcome(job, task, now))
    looks = job.looks + 1
    job = job._replace(queries=job.queries + 1, looks=looks, misses=0, not_found=0)
    return job, LookAt(now + rules.polling.delay(looks, u))


def _missed(
    job: Job, error: RunningHubError, now: float, rules: Rules, u: float
) -> tuple[Job, Action]:
    usual = rules.polling.delay(job.looks, u)
    if isinstance(error, NotFoundError):
        job = job._replace(queries=job.queries + 1, not_found=job.not_found + 1)
        if job.not_found >= NOT_FOUND_BELIEVED:
            return _end(job), Deliver(
                Failed(
                    error=error,
                    task=Task(job.task_id),
                    index=job.index,
                    request=job.request,
                    attempts=job.attempts,
                    queries=job.queries,
                )
            )
        return job, LookAt(now + usual)
    misses = job.misses + 1
    job = job._replace(queries=job.queries + 1, misses=misses, not_found=0)
    return job, LookAt(now + query_wait(rules.retry, usual, misses))


def _end(job: Job) -> Job:
    return job._replace(state=JobState.ENDED)


def task_failed(task: Task) -> TaskFailed:
    """The error for a task that FAILED; its cause is of the class that its code stands for."""
    error = TaskFailed.from_task(task)
    if task.error is not None and task.error.code:
        error.__cause__ = look_up(task.error.code).error(task.error.message, code=task.error.code)
    return error


def _outcome(job: Job, task: Task, now: float) -> Outcome:
    if job.tips and not task.prompt_tips:
        # Only the answer to the submit tells which nodes were at fault.
        task = attrs.evolve(task, prompt_tips=job.tips)
    seconds = now - job.accepted_at if job.attempts else None
    if task.status is TaskStatus.SUCCESS:
        return Succeeded(
            index=job.index,
            request=job.request,
            attempts=job.attempts,
            queries=job.queries,
            seconds=seconds,
            task=task,
        )
    common: dict[str, Any] = {
        "index": job.index,
        "request": job.request,
        "attempts": job.attempts,
        "queries": job.queries,
        "seconds": seconds,
        "task": task,
    }
    if task.status is TaskStatus.CANCEL:
        return Cancelled(error=TaskCancelled.from_task(task), **common)
    return Failed(error=task_failed(task), **common)
