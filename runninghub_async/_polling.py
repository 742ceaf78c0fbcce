"""When to look at a running task next.

Plain arithmetic: the number of looks so far and a number in [0, 1) go in, seconds come out. The
textbook schedule (1 s x 1.5 up to 10 s) asks most often while nothing can be ready and least
often when it is; hence the late first look and the low ceiling of the defaults.
"""

from __future__ import annotations

import math
from typing import Protocol

import attrs

__all__ = ["ExponentialPolling", "Polling", "jitter"]


def jitter(wait: float, spread: float, u: float) -> float:
    """`wait` moved by at most the share `spread` either way, by `u` in [0, 1)."""
    return wait * (1.0 + spread * (2.0 * u - 1.0))


class Polling(Protocol):
    """A schedule: anything with this method can be given to a session."""

    def delay(self, looks: int, u: float) -> float:
        """Seconds until the next look, after `looks` answers that said "not yet".

        `looks` counts from 0, the wait between the accepted submit and the first look; `u` is
        a uniform random number in [0, 1).
        """
        ...


def _positive(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{attribute.name} must be a positive number, not {value!r}")


def _share(_: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{attribute.name} must be at least 0 and less than 1, not {value!r}")


@attrs.frozen
class ExponentialPolling:
    """Exponential backoff: `initial` seconds, then `factor` times longer each, up to `maximum`.

    Each wait is moved by up to the share `jitter` either way, so that tasks submitted together
    are not queried together forever. Raises `ValueError` for invalid numbers.
    """

    initial: float = attrs.field(default=3.0, validator=_positive)
    factor: float = 1.15
    maximum: float = attrs.field(default=6.0, validator=_positive)
    jitter: float = attrs.field(default=0.1, validator=_share)

    def __attrs_post_init__(self) -> None:
        if not (math.isfinite(self.factor) and self.factor >= 1):
            raise ValueError(f"factor must be at least 1, not {self.factor!r}")
        if self.maximum < self.initial:
            raise ValueError(
                f"maximum ({self.maximum!r}) must not be below initial ({self.initial!r})"
            )

    def delay(self, looks: int, u: float) -> float:
        """See `Polling.delay`."""
        # Past this many looks the power is over `maximum`, and far enough on it overflows.
        if self.factor > 1 and looks * math.log(self.factor) > math.log(
            self.maximum / self.initial
        ):
            wait = self.maximum
        else:
            wait = self.initial * self.factor**looks
        return jitter(wait, self.jitter, u)
