"""Whose turn it is to fetch: a few transfers at once, of which slow hosts hold at most half."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator
from typing import Final

from ._bounded import Bounded

__all__ = ["Turns"]

#: Hosts that are known to be slow.
_HOSTS_KEPT: Final = 1000


class Turns:
    """`slots` transfers at once, first come, first served.

    As soon as a host is known to be slow (`slow`), its transfers count for at most half of the
    slots, so that those of other hosts get their turn; while no other waits it may use all. One
    host that is fast is never held back, however many results it has.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._share = max(1, slots // 2)
        self._running: Counter[str] = Counter()
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()
        self._slow: Bounded[str, None] = Bounded(_HOSTS_KEPT)

    @contextlib.asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Wait for a slot, and hold it while the context is open."""
        granted = asyncio.get_running_loop().create_future()
        self._waiting.append((host, granted))
        self._grant()
        try:
            await granted
        except BaseException:
            if granted.done() and not granted.cancelled():
                self._give_back(host)
            elif (host, granted) in self._waiting:
                self._waiting.remove((host, granted))
            raise
        try:
            yield
        finally:
            self._give_back(host)

    def slow(self, host: str) -> None:
        """A transfer from `host` is slow."""
        if host not in self._slow:
            self._slow[host] = None
            self._grant()

    def fast(self, host: str) -> None:
        """A transfer from `host` went well."""
        self._slow.pop(host, None)

    def _give_back(self, host: str) -> None:
        self._running[host] -= 1
        if not self._running[host]:
            del self._running[host]
        self._grant()

    def _grant(self) -> None:
        while (found := self._next()) is not None:
            host, granted = found
            self._waiting.remove(found)
            if not granted.done():
                self._running[host] += 1
                granted.set_result(None)

    def _next(self) -> tuple[str, asyncio.Future[None]] | None:
        """The first that may begin now."""
        running = self._running.total()
        slow = sum(count for host, count in self._running.items() if host in self._slow)
        # Those of slow hosts beyond their share keep their connections, and no slot.
        held = running - slow + min(slow, self._share)
        others = any(host not in self._slow for host, _ in self._waiting)
        for waiting in self._waiting:
            if waiting[0] not in self._slow:
                if held < self._slots:
                    return waiting
            elif running < self._slots and (slow < self._share or not others):
                return waiting
        return None
