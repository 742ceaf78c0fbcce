"""Single calls: one way out for everything that is neither a submit nor a stream's query.

Every call waits for the limiter that queries wait for and stays behind the gate that a refusal
closes for all; what is repeated, and when, is `_retry`'s to say. No call has a loop of its own.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ._dispatcher import Dispatcher
from ._exceptions import (
    ConnectError,
    PolicyError,
    ProtocolError,
    RunningHubError,
    TransportError,
)
from ._models import Request, Response
from ._policies import guarded_chance
from ._protocol import Site
from ._retry import RetryPolicy, call_pause
from ._transport import Transport

__all__ = ["Caller"]

_T = TypeVar("_T")


class Caller:
    """Makes the calls of one session. `opened` gives the dispatcher, or raises `SessionError`."""

    def __init__(
        self,
        site: Site,
        transport: Transport,
        retry: RetryPolicy,
        rng: random.Random,
        opened: Callable[[], Dispatcher],
    ) -> None:
        self.site = site
        self.transport = transport
        self.opened = opened
        self.retry = retry
        self._rng = rng

    async def call(
        self,
        request: Request,
        parse: Callable[[Response], _T],
        *,
        safe: bool = True,
        passing: tuple[type[RunningHubError], ...] = (),
    ) -> _T:
        """Send `request` and read the answer, as often as `RetryPolicy` allows. `safe` and
        `passing` are those of `_retry.call_pause`."""
        return await self.repeat(lambda: self.once(request, parse), safe=safe, passing=passing)

    async def repeat(
        self,
        attempt: Callable[[], Awaitable[_T]],
        *,
        safe: bool = True,
        passing: tuple[type[RunningHubError], ...] = (),
    ) -> _T:
        """Make `attempt` until it works or `RetryPolicy` gives up."""
        began = self.opened().loop.time()
        for number in itertools.count(1):
            dispatcher = self.opened()
            try:
                return await attempt()
            except RunningHubError as error:
                if isinstance(error, TransportError) and error.permanent:
                    raise
                late = dispatcher.loop.time() - began >= self.retry.unreachable_after
                if late and isinstance(error, ConnectError) and not dispatcher.scheduler.reached:
                    # Most likely a wrong address, which is reported soon.
                    raise
                pause = call_pause(
                    self.retry, error, number, self._chance(), safe=safe, passing=passing
                )
                if pause is None:
                    raise
            await self.pause(pause)
        raise AssertionError  # pragma: no cover - the loop has no end

    def _chance(self) -> float:
        """A uniform random number in [0, 1). Raises `PolicyError` where the user's source of them
        gives none: a single call has nothing to lose by ending at once."""
        faults: list[PolicyError] = []
        u = guarded_chance(self._rng, faults.append)()
        if faults:
            raise faults[0]
        return u

    async def pause(self, seconds: float) -> None:
        """Wait for so long; raises `SessionError` as soon as the session closes."""
        await self.opened().pause(seconds)
        self.opened()

    async def once(self, request: Request, parse: Callable[[Response], _T]) -> _T:
        """Send `request` in its turn, a single time."""
        dispatcher = self.opened()
        scheduler, clock = dispatcher.scheduler, dispatcher.loop.time
        while (pause := scheduler.gate.closed_until - clock()) > 0:
            # It may have been closed again meanwhile.
            await self.pause(pause)
        if dispatcher.query_limiter is not None:
            await dispatcher.query_limiter.acquire()
        # The session may have been closed while this was waiting for its turn.
        self.opened()
        sent_at = clock()
        try:
            answer = parse(await self.transport.send(request))
        except RunningHubError as error:
            if isinstance(error, ProtocolError):
                # It may be the answer to another call.
                dispatcher.distrust(error)
            scheduler.slow_down(error, clock(), sent_at)
            raise
        scheduler.reached = True
        return answer
