"""Guards for the user's policies and callables: an exception or an invalid value ends the session.

An exception in the middle of a step would lose data, such as the id of a task that was just
accepted. So a guard returns something harmless and reports the fault, and the session ends with it
after the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ._exceptions import PolicyError
from ._job import Decision, UnknownPolicy
from ._outcomes import Unknown
from ._polling import Polling

__all__ = ["GuardedPolling", "guarded_chance", "guarded_unknown", "policy_error"]

OnFault = Callable[[PolicyError], object]

#: The delay in place of a failed schedule, in seconds; the session ends before it is over.
_HARMLESS: Final = 5.0

#: The longest wait that a schedule may ask for, in seconds: a task lives a day at the service.
_LONGEST: Final = 7 * 86400.0


def policy_error(name: str, error: Exception) -> PolicyError:
    """The error for a callable called `name` that raised `error`."""
    fault = PolicyError(name, f"raised {error!r}")
    fault.__cause__ = error
    return fault


class GuardedPolling:
    """A schedule whose delays are numbers of seconds from 0 to a week."""

    def __init__(self, polling: Polling, on_fault: OnFault) -> None:
        self._delay = getattr(polling, "delay", None)
        self._on_fault = on_fault

    def delay(self, looks: int, u: float) -> float:
        """See `Polling.delay`."""
        try:
            wait = self._delay(looks, u)  # type: ignore[misc]
            if 0.0 <= wait <= _LONGEST:
                return float(wait)
            self._on_fault(
                PolicyError("polling.delay", f"returned {wait!r}, not seconds from 0 to a week")
            )
        except Exception as error:
            self._on_fault(policy_error("polling.delay", error))
        return _HARMLESS


def guarded_chance(draw: Callable[[], float], on_fault: OnFault) -> Callable[[], float]:
    """Uniform random numbers in [0, 1), drawn by `draw`."""

    def chance() -> float:
        try:
            u = draw()
            if 0.0 <= u < 1.0:
                return u
            on_fault(PolicyError("rng.random", f"returned {u!r}, not a number from 0 to 1"))
        except Exception as error:
            on_fault(policy_error("rng.random", error))
        return 0.5

    return chance


def guarded_unknown(policy: UnknownPolicy, on_fault: OnFault) -> UnknownPolicy:
    """The policy for submits of unknown outcome; a function that fails holds the submit."""
    if not callable(policy):
        return policy

    def decide(outcome: Unknown) -> Decision:
        decision: Any
        try:
            decision = policy(outcome)
        except Exception as error:
            on_fault(policy_error("unknown", error))
            return "hold"
        if decision == "hold" or decision == "resubmit":  # noqa: PLR1714 - narrows the type
            return decision  # type: ignore[no-any-return]
        on_fault(PolicyError("unknown", f"returned {decision!r}, not 'hold' or 'resubmit'"))
        return "hold"

    return decide
