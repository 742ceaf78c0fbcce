"""The life of a job, as a state machine that knows neither loop nor network.

The states and the moves between them are those of the table in `_states`; what makes a job move
are the events below. `advance` takes what just happened and returns the job as it is now and the
one thing to do next. Its caller (a stream, a single call, a resumed run) owns the clock, the chance
and the connections; what may be repeated, what counts as failed and when to look again
is decided here, and only here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple

import attrs

from ._circuit import Trouble
from ._codes import look_up
from ._exceptions import (
    BudgetError,
    ConnectError,
    JournalError,
    NotFoundError,
    PolicyError,
    ResultsMissing,
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
    trouble_of,
)
from ._states import JobState

__all__ = [
    "Accepted",
    "Action",
    "AwaitEvidence",
    "Decision",
    "Deliver",
    "Event",
    "Found",
    "Job",
    "LookAt",
    "Missed",
    "Refused",
    "Rules",
    "Seen",
    "Sent",
    "Silent",
    "Stop",
    "SubmitAgain",
    "UnknownPolicy",
    "advance",
    "decision_on",
    "outcome_of",
    "reject",
    "task_failed",
    "unknown_outcome",
]

#: A new id may take a while to become visible. "No such task" is believed only after this many
#: answers in a row, over at least `RetryPolicy.not_found_after` seconds.
NOT_FOUND_BELIEVED: Final = 5

#: A workflow may make nothing, so its missing results are asked for again for this long at most;
#: and how often late results are asked for. Both in seconds.
_RUN_WITHOUT_RESULTS: Final = 10.0
_RESULTS_WAIT: Final = 5.0

#: What to do about a submit of unknown outcome: keep it as it is, or submit again.
Decision = Literal["hold", "resubmit"]
UnknownPolicy = Decision | Callable[[Unknown], Decision]


@attrs.frozen
class Rules:
    """The policies that a job's life depends on. `patience`: how long, in seconds, the webhook of
    a submit of unknown outcome is waited for; 0 where there are none."""

    polling: Polling
    retry: RetryPolicy
    unknown: UnknownPolicy = "hold"
    patience: float = 0.0


class Job(NamedTuple):
    """One request on its way. `follow` is False when the caller wants the task id only; `tips`
    is what the submit's answer found wrong with the graph, nearly always nothing; `key` is the
    job's in the journal; `unsure` if an earlier submit of it may have created a task.
    `misses`: queries in a row that failed. `doubtful_since`: since when the service says "no such
    task" (then there are misses), or success without results; 0 while it says neither.

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
    unsent: int = 0
    accepted_at: float = 0.0
    follow: bool = True
    tips: str = ""
    key: str = ""
    unsure: bool = False
    doubtful_since: float = 0.0


@attrs.frozen
class Sent:
    """The submit leaves now."""


@attrs.frozen
class Accepted:
    """The submit was answered with a task."""

    task: Task


@attrs.frozen
class Refused:
    """The submit was not answered with a task. `announced`: its webhook may yet tell."""

    error: RunningHubError
    announced: bool = False


@attrs.frozen
class Found:
    """The webhook of a submit whose answer was lost names its task."""

    task_id: str


@attrs.frozen
class Silent:
    """The webhook of a submit whose answer was lost was waited for in vain; `error` is what
    happened to the answer."""

    error: RunningHubError


@attrs.frozen
class Seen:
    """A query was answered."""

    task: Task


@attrs.frozen
class Missed:
    """A query failed; that says nothing about the task."""

    error: RunningHubError


Event = Sent | Accepted | Refused | Found | Silent | Seen | Missed


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
class AwaitEvidence:
    """Its answer was lost, as `error` tells: wait until then for its webhook, and for `Silent`
    after that."""

    at: float
    error: RunningHubError


@attrs.frozen
class Deliver:
    """Hand this to the caller; the job has ended."""

    result: Outcome | Accepted


@attrs.frozen
class Stop:
    """This job was refused for a reason that every other one will meet too: submit no more."""

    error: RunningHubError


Action = LookAt | SubmitAgain | AwaitEvidence | Deliver | Stop | None


def advance(job: Job, event: Event, now: float, rules: Rules, u: float) -> tuple[Job, Action]:
    """The next state of `job` after `event` at time `now`, and the one next thing to do.

    `u` is a uniform random number in [0, 1). Raises `ValueError` for an event that cannot happen
    in the job's state.
    """
    # Not by `match`, which takes three times as long: this is asked three times for every job.
    state = job.state
    waits = state is JobState.ACCEPTED or state is JobState.RUNNING
    if isinstance(event, Seen) and waits:
        return _seen(job, event.task, now, rules, u)
    if isinstance(event, Accepted) and state is JobState.SUBMITTING:
        return _accepted(job, event.task, now, rules, u)
    if isinstance(event, Sent) and state in _UNSENT:
        return _sent(job), None
    if isinstance(event, Missed) and waits:
        return _missed(job, event.error, now, rules, u)
    if isinstance(event, Refused) and state is JobState.SUBMITTING:
        return _refused(job, event, now, rules)
    if isinstance(event, Found) and state is JobState.UNKNOWN:
        found = job._replace(state=JobState.ACCEPTED, task_id=event.task_id, accepted_at=now)
        return found, LookAt(now)
    if isinstance(event, Silent) and state is JobState.UNKNOWN:
        return _undecided(job, event.error, rules)
    raise ValueError(f"{type(event).__name__} cannot happen to a job that is {job.state.name}")


#: From where a submit may leave; from `UNKNOWN` if the user's policy says so.
_UNSENT: Final = (JobState.NEW, JobState.REFUSED, JobState.UNKNOWN)


def reject(job: Job, error: RunningHubError) -> tuple[Job, Deliver | Stop]:
    """End a job that was never sent, for a fault of its own; or say that every other one would
    meet the same, as when its files were refused for the key, or there is no network."""
    if isinstance(error, (*STOPPING, ConnectError, BudgetError, JournalError, PolicyError)):
        return job, Stop(error)
    if job.state is JobState.UNKNOWN:
        # An earlier submit of it may have created a task.
        return job, Deliver(unknown_outcome(job, error))
    failed = job._replace(state=JobState.FAILED)
    return failed, Deliver(Failed(index=job.index, request=job.request, error=error, key=job.key))


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
        key=job.key,
        unsure=job.unsure or job.state is JobState.UNKNOWN,
    )


def _accepted(job: Job, task: Task, now: float, rules: Rules, u: float) -> tuple[Job, Action]:
    job = Job(
        job.index,
        job.request,
        JobState.ACCEPTED,
        task.id,
        job.attempts,
        accepted_at=now,
        follow=job.follow,
        tips=task.prompt_tips if task.node_errors else "",
        key=job.key,
    )
    if not job.follow:
        return job, Deliver(Accepted(task))
    if task.status is TaskStatus.SUCCESS and not _has_results(task):
        # Done at once, but an answer to a submit does not show results: ask for them.
        return job, LookAt(now)
    if task.done:
        return _ended(job, task), Deliver(outcome_of(job, task, now))
    return job, LookAt(now + rules.polling.delay(0, u))


def _refused(job: Job, event: Refused, now: float, rules: Rules) -> tuple[Job, Action]:
    error = event.error
    # Only failures to connect in a row count towards giving up on connecting.
    job = job._replace(unsent=job.unsent + 1 if isinstance(error, ConnectError) else 0)
    decision = decide_submit(rules.retry, error, job.unsent or job.attempts)
    # That this submit created nothing says nothing about one before it.
    waiting = job._replace(state=JobState.UNKNOWN if job.unsure else JobState.REFUSED)
    if isinstance(decision, Retry):
        return waiting, SubmitAgain(decision.cause, decision.after)
    if decision.verdict is Verdict.STOP:
        return waiting, Stop(error)
    if decision.verdict is Verdict.FAILED and job.unsure:
        return waiting, Deliver(unknown_outcome(waiting, error))
    if decision.verdict is Verdict.FAILED:
        failed = Failed(
            error=error,
            index=job.index,
            request=job.request,
            attempts=job.attempts,
            key=job.key,
        )
        return job._replace(state=JobState.FAILED), Deliver(failed)
    job = job._replace(state=JobState.UNKNOWN)
    if event.announced and rules.patience > 0:
        return job, AwaitEvidence(now + rules.patience, error)
    return _undecided(job, error, rules)


def _undecided(job: Job, error: RunningHubError, rules: Rules) -> tuple[Job, Action]:
    """Its fate is unknown and will stay so, unless the user's policy makes another of it."""
    outcome = unknown_outcome(job, error)
    if decision_on(outcome, rules) == "resubmit":
        return job, SubmitAgain(Cause.POLICY)
    return job, Deliver(outcome)


def unknown_outcome(job: Job, error: RunningHubError) -> Unknown:
    """The outcome of a submit whose answer was lost; `error` says how."""
    told = f"the submit may or may not have created a task: {error}"
    if trouble_of(error) is Trouble.ORIGIN and not getattr(error, "code", ""):
        told += (
            ". This is no answer in the service's form: check base_url, the network and the proxy"
        )
    unknown = SubmitUnknown(told, job.request)
    unknown.__cause__ = error
    return Unknown(
        error=unknown,
        index=job.index,
        request=job.request,
        attempts=job.attempts,
        key=job.key,
    )


def decision_on(outcome: Unknown, rules: Rules) -> Decision:
    """What the user's policy says about a submit of unknown outcome. Each is repeated at most
    `RetryPolicy.attempts` times."""
    attempts = rules.retry.attempts
    if attempts is not None and outcome.attempts >= attempts:
        return "hold"
    return rules.unknown(outcome) if callable(rules.unknown) else rules.unknown


def _seen(job: Job, task: Task, now: float, rules: Rules, u: float) -> tuple[Job, Action]:
    if task.status is TaskStatus.SUCCESS and not _has_results(task):
        return _without_results(job, task, now, rules, u)
    if task.done:
        job = _ended(job._replace(queries=job.queries + 1), task)
        return job, Deliver(outcome_of(job, task, now))
    looks = job.looks + 1
    runs = job.state is JobState.RUNNING or task.status is TaskStatus.RUNNING
    # An undocumented status may be an end: query less and less often.
    odd = job.misses + 1 if task.status is TaskStatus.UNKNOWN else 0
    job = job._replace(
        state=JobState.RUNNING if runs else JobState.ACCEPTED,
        queries=job.queries + 1,
        looks=looks,
        misses=odd,
        doubtful_since=0.0,
    )
    usual = rules.polling.delay(looks, u)
    return job, LookAt(now + (query_wait(rules.retry, usual, odd) if odd else usual))


def _has_results(task: Task) -> bool:
    """Whether a task that has succeeded shows all its results. An entry about an error is one."""
    for output in task.outputs:
        if not (output.there or any("error" in key.lower() for key in output.extra)):
            return False
    return bool(task.outputs)


def _without_results(
    job: Job, task: Task, now: float, rules: Rules, u: float
) -> tuple[Job, Action]:
    """It has succeeded, and results are missing: status and results come from two stores."""
    since = job.doubtful_since or now
    runs_graph = str(getattr(job.request, "path", "")).startswith(("/", "run/"))
    patience = rules.retry.no_results_after
    if runs_graph:
        patience = min(patience, _RUN_WITHOUT_RESULTS)
    job = job._replace(
        state=JobState.RUNNING,
        queries=job.queries + 1,
        misses=0,
        doubtful_since=since,
    )
    if now - since < patience:
        return job, LookAt(now + min(rules.polling.delay(job.looks, u), _RESULTS_WAIT))
    if runs_graph or job.request is None or any(output.there for output in task.outputs):
        job = _ended(job, task)
        return job, Deliver(outcome_of(job, task, now))
    # It stays running: a resumed run asks for the results again.
    return job, Deliver(
        Failed(
            error=ResultsMissing.from_task(task),
            task=task,
            index=job.index,
            request=job.request,
            attempts=job.attempts,
            queries=job.queries,
            seconds=now - job.accepted_at,
            key=job.key,
        )
    )


def _missed(
    job: Job, error: RunningHubError, now: float, rules: Rules, u: float
) -> tuple[Job, Action]:
    usual = rules.polling.delay(job.looks, u)
    if isinstance(error, NotFoundError):
        since = job.doubtful_since if job.misses and job.doubtful_since else now
        misses = job.misses + 1
        job = job._replace(queries=job.queries + 1, misses=misses, doubtful_since=since)
        believed = now - since >= rules.retry.not_found_after
        if believed and misses >= NOT_FOUND_BELIEVED:
            return job._replace(state=JobState.FAILED), Deliver(
                Failed(
                    error=error,
                    task=Task(job.task_id),
                    index=job.index,
                    request=job.request,
                    attempts=job.attempts,
                    queries=job.queries,
                    key=job.key,
                )
            )
        return job, LookAt(now + usual)
    misses = job.misses + 1
    job = job._replace(queries=job.queries + 1, misses=misses, doubtful_since=0.0)
    return job, LookAt(now + query_wait(rules.retry, usual, misses))


def _ended(job: Job, task: Task) -> Job:
    return job._replace(state=_ENDS[task.status])


_ENDS: Final = {
    TaskStatus.SUCCESS: JobState.SUCCEEDED,
    TaskStatus.FAILED: JobState.FAILED,
    TaskStatus.CANCEL: JobState.CANCELLED,
}


def task_failed(task: Task) -> TaskFailed:
    """The error for a task that FAILED; its cause is of the class that its code stands for."""
    error = TaskFailed.from_task(task)
    if task.error is not None and task.error.code:
        error.__cause__ = look_up(task.error.code).error(task.error.message, code=task.error.code)
    return error


def outcome_of(job: Job, task: Task, now: float | None) -> Outcome:
    """The outcome of a task that has ended; `now` is None if nobody knows when."""
    if job.tips and not task.prompt_tips:
        # Only the answer to the submit tells which nodes were at fault.
        task = attrs.evolve(task, prompt_tips=job.tips)
    seconds = now - job.accepted_at if job.attempts and now is not None else None
    if task.status is TaskStatus.SUCCESS:
        return Succeeded(
            index=job.index,
            request=job.request,
            attempts=job.attempts,
            queries=job.queries,
            seconds=seconds,
            key=job.key,
            task=task,
        )
    common: dict[str, Any] = {
        "index": job.index,
        "request": job.request,
        "attempts": job.attempts,
        "queries": job.queries,
        "seconds": seconds,
        "key": job.key,
        "task": task,
    }
    if task.status is TaskStatus.CANCEL:
        return Cancelled(error=TaskCancelled.from_task(task), **common)
    return Failed(error=task_failed(task), **common)
