"""Pacing: a token before each request. The only file that knows aiolimiter.

Whatever has an `acquire` can take its place, so that several processes may share one quota.
"""

from __future__ import annotations

from typing import Protocol

from aiolimiter import AsyncLimiter

__all__ = ["RateLimiter", "local_limiter"]


class RateLimiter(Protocol):
    """What a session waits for before each request of a kind."""

    async def acquire(self) -> None:
        """Return when one more request may leave; first come, first served."""
        ...


def local_limiter(rate: float | None) -> RateLimiter | None:
    """A limiter of `rate` requests per second for this process; None for no limit.

    A leaky bucket of `(rate, 1)` lets a full second's worth through at once and so nearly twice
    the rate in its first second. The bucket here holds 10 ms worth, but at least one: enough to
    make up for the coarseness of timers, too little to be a burst.
    """
    if rate is None:
        return None
    size = max(1.0, rate / 100)
    return AsyncLimiter(size, size / rate)
