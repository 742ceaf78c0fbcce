"""Turns for transfers: a few at once, of which slow ones hold at most half."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from ._bounded import Bounded

__all__ = ["Turn", "Turns"]

#: Hosts that are known to be slow.
_HOSTS_KEPT: Final = 1000


class Turn:
    """A transfer from `host` that has begun."""

    def __init__(self, turns: Turns, host: str) -> None:
        self.host = host
        self.is_slow = False
        self._turns = turns

    def slow(self) -> None:
        """Mark it as slow, so that others may begin beside it."""
        if not self.is_slow:
            self.is_slow = True
            self._turns.found_slow(self.host)


class Turns:
    """`slots` transfers at once, first come, first served.

    Transfers that turn out to be slow count for at most half of the slots, so that others begin
    beside them: half as many again as there are slots, at most. While results of other hosts
    wait, hosts that are known to be slow get at most half of the slots. A host that is fast is
    never held back, however many results it has.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._share = max(1, slots // 2)
        self._running: set[Turn] = set()
        self._waiting: deque[tuple[str, asyncio.Future[Turn]]] = deque()
        self._slow_hosts: Bounded[str, None] = Bounded(_HOSTS_KEPT)

    @contextlib.asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[Turn]:
        """Wait for a slot, and hold it while the context is open."""
        granted: asyncio.Future[Turn] = asyncio.get_running_loop().create_future()
        waiting = (host, granted)
        self._waiting.append(waiting)
        self._grant()
        try:
            turn = await granted
        except BaseException:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            elif granted.done() and not granted.cancelled():
                self._end(granted.result())
            raise
        try:
            yield turn
        finally:
            if not turn.is_slow:
                self._slow_hosts.pop(host, None)
            self._end(turn)

    def found_slow(self, host: str) -> None:
        """A transfer from `host` is slow."""
        self._slow_hosts[host] = None
        self._grant()

    def _end(self, turn: Turn) -> None:
        self._running.discard(turn)
        self._grant()

    def _grant(self) -> None:
        while (found := self._next()) is not None:
            self._waiting.remove(found)
            host, granted = found
            if not granted.done():
                turn = Turn(self, host)
                self._running.add(turn)
                granted.set_result(turn)

    def _next(self) -> tuple[str, asyncio.Future[Turn]] | None:
        """The first that may begin now."""
        slow = sum(turn.is_slow for turn in self._running)
        held = len(self._running) - slow + min(slow, self._share)
        if held >= self._slots or len(self._running) >= self._slots + self._share:
            return None
        crowded = sum(turn.host in self._slow_hosts for turn in self._running) >= self._share
        if crowded:
            for waiting in self._waiting:
                if waiting[0] not in self._slow_hosts:
                    return waiting
        return self._waiting[0] if self._waiting else None
