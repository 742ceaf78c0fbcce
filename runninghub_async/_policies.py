"""Guards for the user's policies and callables: an exception or an invalid value ends the session.

An exception in the middle of a step would lose data, such as the id of a task that was just
accepted. So a guard returns something harmless and reports the fault, and the session ends with it
after the step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Final

from ._exceptions import PolicyError
from ._job import Decision, UnknownPolicy
from ._outcomes import Unknown
from ._polling import Polling

__all__ = [
    "GuardedPolling",
    "guarded_chance",
    "guarded_progress",
    "guarded_unknown",
    "policy_error",
    "wrong_value",
]

OnFault = Callable[[PolicyError], object]

#: The delay in place of a failed schedule, in seconds; the session ends before it is over.
_HARMLESS: Final = 5.0

#: The longest wait that a schedule may ask for, in seconds: a task lives a day at the service.
_LONGEST: Final = 7 * 86400.0


def policy_error(name: str, error: BaseException) -> PolicyError:
    """The error for a callable called `name` that raised `error`."""
    fault = PolicyError(name, f"raised {_shown(error)}")
    fault.__cause__ = error
    return fault


def wrong_value(name: str, value: Any, wanted: str) -> PolicyError:
    """The error for a callable called `name` that returned `value`."""
    if inspect.iscoroutine(value):
        # Python would warn that nobody awaited it.
        value.close()
    return PolicyError(name, f"returned {_shown(value)}, not {wanted}")


def _shown(value: Any) -> str:
    try:
        return f"{value!r:.100}"
    except Exception:
        return f"{type(value).__name__}, which has no repr"


# `BaseException` below: a `CancelledError` of the user's code would be taken for the session's own
# end, and whatever else came through would end a worker in the middle of its step.


class GuardedPolling:
    """A schedule whose delays are numbers of seconds from 0 to a week."""

    def __init__(self, polling: Polling, on_fault: OnFault) -> None:
        self._delay = getattr(polling, "delay", None)
        self._on_fault = on_fault

    def delay(self, looks: int, u: float) -> float:
        """See `Polling.delay`."""
        wait: Any = None
        try:
            wait = self._delay(looks, u)  # type: ignore[misc]
            if 0.0 <= wait <= _LONGEST:
                return float(wait)
        except BaseException as error:
            self._on_fault(_of_result("polling.delay", wait, "seconds from 0 to a week", error))
        else:
            self._on_fault(wrong_value("polling.delay", wait, "seconds from 0 to a week"))
        return _HARMLESS


def guarded_chance(rng: object, on_fault: OnFault) -> Callable[[], float]:
    """Uniform random numbers in [0, 1), drawn by `rng.random`."""
    # If there is no such method, the call of it is the fault.
    draw: Any = getattr(rng, "random", None)

    def chance() -> float:
        u: Any = None
        try:
            u = draw()
            if 0.0 <= u < 1.0:
                return u  # type: ignore[no-any-return]
        except BaseException as error:
            on_fault(_of_result("rng.random", u, "a number from 0 to 1", error))
        else:
            on_fault(wrong_value("rng.random", u, "a number from 0 to 1"))
        return 0.5

    return chance


def _of_result(name: str, value: Any, wanted: str, error: BaseException) -> PolicyError:
    """The error for a callable that raised, or whose value, if it has one, cannot be compared."""
    return policy_error(name, error) if value is None else wrong_value(name, value, wanted)


def guarded_progress(progress: Callable[[int, int], object]) -> Callable[[int, int], None]:
    """`progress`, which raises nothing but `PolicyError`: any other exception would be taken for
    the network's, or for a cancellation or the end of the body that it is called for. Raises
    `PolicyError` for a function that is `async`."""
    if inspect.iscoroutinefunction(progress):
        raise PolicyError("progress", "is an async function, which would not be awaited")

    def report(sent: int, total: int) -> None:
        try:
            result = progress(sent, total)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            # It is called without a pause, so not even a CancelledError comes from outside.
            raise policy_error("progress", error) from error
        # No other awaitable: a task runs by itself.
        if inspect.iscoroutine(result):
            result.close()
            raise PolicyError("progress", f"returned {result!r}, which would not be awaited")

    return report


def guarded_unknown(policy: UnknownPolicy, on_fault: OnFault) -> UnknownPolicy:
    """The policy for submits of unknown outcome; a function that fails holds the submit."""
    if not callable(policy):
        return policy

    def decide(outcome: Unknown) -> Decision:
        decision: Any
        try:
            decision = policy(outcome)
        except BaseException as error:
            on_fault(policy_error("unknown", error))
            return "hold"
        if isinstance(decision, str) and decision in ("hold", "resubmit"):
            return decision  # type: ignore[return-value]
        on_fault(wrong_value("unknown", decision, "'hold' or 'resubmit'"))
        return "hold"

    return decide
