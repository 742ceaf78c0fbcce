"""Whether to try again. The money rules live here.

A submit is repeated only when it certainly created nothing: it never left, or the service refused
it for lack of a free slot. After any other error once the body has left, the outcome is unknown: it
is reported, not repeated. Queries cost nothing and are repeated without a limit, less and less
often.
"""

from __future__ import annotations

import enum
import math
from typing import Final

import attrs

from ._circuit import Trouble
from ._codes import CODES, OF_ONE_REQUEST, Submit, code_of_status, look_up
from ._exceptions import (
    APIError,
    AuthenticationError,
    BlockedError,
    CapacityError,
    ConnectError,
    InsufficientBalanceError,
    PlanError,
    ProtocolError,
    RateLimitError,
    ReadError,
    RunningHubError,
    ServerError,
    TransportError,
)
from ._polling import jitter

__all__ = [
    "STOPPING",
    "Cause",
    "GiveUp",
    "Retry",
    "RetryPolicy",
    "Verdict",
    "asked_pause",
    "call_pause",
    "decide_submit",
    "query_wait",
    "trouble_of",
]


class Cause(enum.Enum):
    """Why a submit is to be repeated."""

    UNSENT = "it never left"
    CAPACITY = "no free slot"
    RATE = "too many requests"
    POLICY = "the user's policy repeats submits of unknown outcome"


class Verdict(enum.Enum):
    """What is to become of a submit that is not repeated."""

    FAILED = "this request was refused"
    STOP = "every further request would be refused alike"
    UNKNOWN = "it may or may not exist"


@attrs.frozen
class Retry:
    """Submit again. `after` is the pause in seconds that the service asked for; None where it
    named none, and the scheduler, which sees all jobs, decides."""

    cause: Cause
    after: float | None = None


@attrs.frozen
class GiveUp:
    """Do not submit again."""

    verdict: Verdict


@attrs.frozen(kw_only=True)
class RetryPolicy:
    """How to repeat what may be repeated. Waits are in seconds.

    `attempts`: how often a submit that cannot be sent is tried before submitting stops (None: no
    limit). Before the session's first answer it stops after `unreachable_after` seconds, so that a
    wrong host or proxy is reported soon. `wait_initial`, `wait_exp_base`, `wait_max`: the pauses,
    exponential; `wait_jitter`: the share by which each is moved either way. `retry_after_max`: the
    longest `Retry-After` that is believed. `capacity_wait_max`: the longest pause before a submit
    that found no free slot is tried again; the end of one of your own tasks cuts it short.
    `query_wait_max`: how rarely a task is queried while its queries fail. `call_attempts`: how
    often any other call, an upload or a download is tried.

    `outage_wait`, `outage_wait_max`: the first and the longest pause between single submits while
    no submit gets a useful answer, doubled each time. `outage_max`: how long that may last before
    submitting stops with an `OutageError`. `refusal_max`: the same if every submit is refused
    because no slot is free or the rate limit is reached. None waits forever.

    `not_found_after`: how long the service must say "no such task", without a break, before it is
    believed: a new task may take a while to become visible. `no_results_after`: how long a task
    that has succeeded without results is asked for them.

    Raises `ValueError` for invalid numbers.
    """

    attempts: int | None = 10
    wait_initial: float = 1.0
    wait_max: float = 60.0
    wait_jitter: float = 0.25
    wait_exp_base: float = 2.0
    retry_after_max: float = 600.0
    capacity_wait_max: float = 10.0
    query_wait_max: float = 60.0
    call_attempts: int = 5
    unreachable_after: float = 8.0
    outage_wait: float = 2.0
    outage_wait_max: float = 60.0
    outage_max: float | None = 1800.0
    refusal_max: float | None = 86400.0
    not_found_after: float = 120.0
    no_results_after: float = 60.0

    def __attrs_post_init__(self) -> None:
        if self.attempts is not None and self.attempts < 1:
            raise ValueError(f"attempts must be at least 1 or None, not {self.attempts!r}")
        if self.call_attempts < 1:
            raise ValueError(f"call_attempts must be at least 1, not {self.call_attempts!r}")
        for name in (
            "wait_initial",
            "wait_max",
            "retry_after_max",
            "capacity_wait_max",
            "query_wait_max",
            "unreachable_after",
            "outage_wait",
            "outage_wait_max",
            "not_found_after",
            "no_results_after",
        ):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value!r}")
        for name in ("outage_max", "refusal_max"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number or None, not {value!r}")
        if not 0 <= self.wait_jitter < 1:
            raise ValueError("wait_jitter must be at least 0 and less than 1")
        if not (math.isfinite(self.wait_exp_base) and self.wait_exp_base >= 1):
            raise ValueError("wait_exp_base must be at least 1")

    def backoff(self, attempt: int, u: float) -> float:
        """The pause after failed attempt number `attempt`, which counts from 1."""
        # 2**60 initial pauses are beyond any ceiling; the bound keeps the power from overflowing.
        wait = min(self.wait_max, self.wait_initial * self.wait_exp_base ** min(attempt - 1, 60))
        return jitter(wait, self.wait_jitter, u)


#: What every further request would be refused for, too.
STOPPING: Final = (AuthenticationError, PlanError, InsufficientBalanceError)


def decide_submit(policy: RetryPolicy, error: RunningHubError, attempt: int) -> Retry | GiveUp:
    """What to do about a submit that failed with `error` at its `attempt`-th try (from 1)."""
    tries_left = policy.attempts is None or attempt < policy.attempts
    if isinstance(error, ConnectError):
        return Retry(Cause.UNSENT) if tries_left else GiveUp(Verdict.STOP)
    if isinstance(error, APIError):
        if isinstance(error, RateLimitError):
            return Retry(Cause.RATE, asked_pause(policy, error))
        if isinstance(error, CapacityError):
            return Retry(Cause.CAPACITY, asked_pause(policy, error))
        if isinstance(error, STOPPING):
            return GiveUp(Verdict.STOP)
        row = look_up(error.code) if error.code else code_of_status(error.status)
        if row is not None and row.submit is Submit.NEVER:
            return GiveUp(Verdict.FAILED)
    return GiveUp(Verdict.UNKNOWN)


def trouble_of(error: RunningHubError) -> Trouble | None:
    """What kind of useless answer a submit got; None for an answer that the service itself gave,
    and for one that concerns this request alone."""
    if isinstance(error, ProtocolError):
        return Trouble.ORIGIN
    if isinstance(error, BlockedError):
        return None if error.status in OF_ONE_REQUEST else Trouble.ORIGIN
    if isinstance(error, APIError):
        row = look_up(error.code) if error.code else code_of_status(error.status)
        if row is not None and row.submit is not Submit.OPEN:
            return None
        known = error.code in CODES if error.code else error.status in _OUTAGES
        return Trouble.OUTAGE if known else Trouble.ORIGIN
    if isinstance(error, ReadError):
        return Trouble.BROKEN
    return Trouble.OUTAGE if isinstance(error, TransportError) else None


#: HTTP statuses of a service, or of its gateway, that is in trouble for a while. 501, 505 and 511
#: come from another kind of server, or from a portal.
_OUTAGES: Final = frozenset({408, *range(500, 600)} - {501, 505, 511})


#: What another try may mend when nothing can be done twice.
_PASSING: Final = (TransportError, RateLimitError, ServerError)


def call_pause(
    policy: RetryPolicy,
    error: RunningHubError,
    attempt: int,
    u: float,
    *,
    safe: bool,
    passing: tuple[type[RunningHubError], ...] = (),
) -> float | None:
    """Seconds before a call that is no submit is tried again after `error` at its `attempt`-th
    try (from 1); None to give up.

    `safe`: doing it twice does no harm. Otherwise only what certainly was not done is repeated.
    `passing`: errors that pass for this call, beside those that pass for every one.
    """
    if attempt >= policy.call_attempts:
        return None
    harmless = (*_PASSING, *passing) if safe else (ConnectError, RateLimitError)
    if not isinstance(error, harmless):
        return None
    return max(policy.backoff(attempt, u), asked_pause(policy, error) or 0.0)


def asked_pause(policy: RetryPolicy, error: RunningHubError) -> float | None:
    """The pause that the service asked for with `error`, as far as it is believed."""
    if isinstance(error, APIError) and error.retry_after is not None:
        return min(error.retry_after, policy.retry_after_max)
    return None


def query_wait(policy: RetryPolicy, usual: float, misses: int) -> float:
    """Seconds to the next look after `misses` failed queries in a row (from 1), where a
    successful one would be followed after `usual` seconds: doubled for each miss, bounded."""
    return max(usual, min(policy.query_wait_max, usual * 2.0 ** min(misses, 30)))
