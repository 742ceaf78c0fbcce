"""What to do about a job that a journal knows of. Plain functions; no I/O."""

from __future__ import annotations

import enum

import attrs

from ._exceptions import PayloadError, RunningHubError
from ._job import Job, Rules, decision_on, outcome_of, unknown_outcome
from ._journal import JobRecord, error_in
from ._outcomes import Failed, Outcome
from ._states import JobState

__all__ = ["Plan", "Step", "plan"]


class Step(enum.Enum):
    """What to do next with a job."""

    SUBMIT = "submit it"
    FOLLOW = "its task is alive: look at it"
    AWAIT = "its fate is unknown, and its webhook may yet tell"
    FETCH = "its results, or the missing ones, are to be fetched"
    CHECK = "its results are on disk, if they are still whole"
    DELIVER = "it has ended"


@attrs.frozen
class Plan:
    """How a job goes on: `job` for what is driven further, `outcome` for what has ended, `error`
    for what happened to a lost answer, `until` (Unix time) for how long its webhook is awaited."""

    step: Step
    job: Job
    outcome: Outcome | None = None
    error: RunningHubError | None = None
    until: float = 0.0


def plan(
    record: JobRecord, index: int, request: object, rules: Rules, *, keeps: bool, now: float
) -> Plan:
    """What to do next with the job of `record` at `now`, in Unix time, for request `index` of a
    stream; `keeps` if results are stored."""
    state = record.state
    task_id = record.task.id if record.task else ""
    job = Job(index, request, state, task_id, record.attempts, key=record.key)
    if record.damage is not None:
        return Plan(Step.DELIVER, job, _damaged(record, job))
    new = Plan(Step.SUBMIT, Job(index, request, state, key=record.key))
    if state in (JobState.NEW, JobState.REFUSED):
        return new
    if state is JobState.FAILED and not record.attempts:
        # Nothing was sent for a fault that may be mended by now; to find out costs nothing.
        return attrs.evolve(new, job=new.job._replace(state=JobState.NEW))
    if state in (JobState.ACCEPTED, JobState.RUNNING):
        return Plan(Step.FOLLOW, job)
    if state is JobState.UNKNOWN:
        return _of_unknown(record, job, rules, now)
    if state is JobState.SUBMITTING:
        # Those of earlier sessions have been settled: it is under way here, or just was.
        busy = PayloadError([f"key: {record.key!r} is of a job that is under way @ $"])
        return Plan(Step.DELIVER, job, Failed(index=index, request=request, error=busy))
    outcome = _outcome(record, job)
    if state in (JobState.SUCCEEDED, JobState.PARTLY_STORED) and keeps:
        return Plan(Step.FETCH, job, outcome)
    if state is JobState.STORED and keeps and record.files:
        return Plan(Step.CHECK, job, outcome)
    return Plan(Step.DELIVER, job, outcome)


def _of_unknown(record: JobRecord, job: Job, rules: Rules, now: float) -> Plan:
    error = RunningHubError(record.error or "the answer was lost")
    until = (record.sent_at or 0.0) + rules.patience
    if rules.patience > 0 and until > now:
        return Plan(Step.AWAIT, job, error=error, until=until)
    outcome = unknown_outcome(job, error)
    if decision_on(outcome, rules) == "resubmit":
        return Plan(Step.SUBMIT, job)
    return Plan(Step.DELIVER, job, outcome)


def _damaged(record: JobRecord, job: Job) -> Failed:
    assert record.damage is not None
    return Failed(
        index=job.index,
        request=job.request,
        attempts=job.attempts,
        key=job.key,
        error=record.damage,
        task=record.task,
    )


def _outcome(record: JobRecord, job: Job) -> Outcome:
    if record.task is not None and record.task.done:
        outcome = outcome_of(job, record.task, None)
        if record.accepted_at is not None and record.ended_at is not None:
            outcome = attrs.evolve(outcome, seconds=record.ended_at - record.accepted_at)
        return outcome
    return Failed(
        index=job.index,
        request=job.request,
        attempts=job.attempts,
        key=job.key,
        error=error_in(record),
        task=record.task,
    )
