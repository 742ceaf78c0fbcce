"""How much at once: the user's limits, and one step of adapting to the service's own.

Frozen values; each method returns the next one. Times are seconds of whatever clock the caller
uses, and chance comes in with the pause.
"""

from __future__ import annotations

import math

import attrs

__all__ = ["Gate", "Limits", "Window"]


@attrs.frozen
class Limits:
    """What a session allows itself; None lifts a limit.

    `max_concurrency`: tasks alive at the service at once. The service's own cap belongs to the
    API key and is shared with everything else that uses the key, so 80 to 90 % of it is good.
    `submit_rate`, `query_rate`: requests per second, evenly paced. Raises `ValueError` for
    anything but positive numbers.
    """

    max_concurrency: int | None = 50
    submit_rate: float | None = 10.0
    query_rate: float | None = 50.0

    def __attrs_post_init__(self) -> None:
        slots = self.max_concurrency
        if slots is not None and (not isinstance(slots, int) or slots < 1):
            raise ValueError(f"max_concurrency must be a whole number above 0, not {slots!r}")
        for name in ("submit_rate", "query_rate"):
            rate = getattr(self, name)
            if rate is not None and not (math.isfinite(rate) and rate > 0):
                raise ValueError(f"{name} must be a positive number or None, not {rate!r}")


@attrs.frozen
class Window:
    """How many tasks to keep alive at the service: at most `ceiling`, less while it refuses.

    A refusal (421 and its kin) shows that there is room for little more than what is alive just
    then; the window shrinks towards that, by at most three tenths at once, since a single
    refusal may be somebody else's burst. Each task that
    ends wins back a fraction of a slot, so that the room is probed again about once in every
    quarter window of ended tasks; a probe that fails costs one refused request and no money.
    """

    ceiling: float
    size: float

    @classmethod
    def open(cls, limits: Limits) -> Window:
        """The window to start with: as wide as the limits allow."""
        ceiling = math.inf if limits.max_concurrency is None else float(limits.max_concurrency)
        return cls(ceiling, ceiling)

    def refused(self, alive: int) -> Window:
        """After a refusal, with `alive` other tasks alive or being submitted."""
        least = float(alive) if self.size == math.inf else max(float(alive), 0.7 * self.size)
        return Window(self.ceiling, max(1.0, min(self.size, least)))

    def ended(self) -> Window:
        """After a task ended."""
        if self.size >= self.ceiling:
            return self
        return Window(self.ceiling, min(self.ceiling, self.size + min(1.0, 4.0 / self.size)))


@attrs.frozen
class Gate:
    """One gate for everything that goes to the service.

    1003 and HTTP 429 close it for everybody. It reopens one request wide, and each answer that
    is not another refusal doubles that, so that a crowd of waiters does not storm it.
    """

    closed_until: float = -math.inf
    width: float = math.inf
    closings: int = 0

    #: At this width the gate holds nobody back.
    FULL = 64.0

    def admits(self, now: float, in_flight: int) -> bool:
        """Whether one more request may leave, with `in_flight` under way."""
        return now >= self.closed_until and in_flight < self.width

    def closed(self, now: float, pause: float, sent_at: float) -> Gate:
        """After a refusal, to a request sent at `sent_at`, that asks for `pause` seconds.

        Requests that had left before the gate closed say nothing new: they lengthen the pause
        if theirs is longer, but do not count as another closing.
        """
        again = sent_at >= self.closed_until
        return Gate(
            max(self.closed_until, now + pause), 1.0, self.closings + 1 if again else self.closings
        )

    def passed(self) -> Gate:
        """After an answer, to a request sent since the gate last closed, that was no refusal."""
        width = self.width * 2
        return Gate(self.closed_until, width, self.closings) if width < self.FULL else Gate()
