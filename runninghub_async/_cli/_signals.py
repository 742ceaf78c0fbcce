"""How a long run is stopped from outside: once gently, twice at once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Final

from ._calls import INTERRUPTED, say

__all__ = ["HUNG_UP", "TERMINATED", "Stop", "until_stopped"]

TERMINATED: Final = 143
HUNG_UP: Final = 129

#: Who sends SIGTERM often sends SIGKILL ten seconds later; the end comes by itself before that.
_PATIENCE: Final = 8.0


class Stop:
    """`status`: the exit status that a signal asked for, 0 as long as none came. `farewell()`: the
    lines to print if the process has to end at once."""

    def __init__(self) -> None:
        self.status = 0
        self.farewell: Callable[[], str] = str


async def until_stopped(work: Callable[[Stop], Awaitable[int]]) -> int:
    """The exit status of `work`, which is cancelled by the first SIGINT, SIGTERM or SIGHUP.

    A second one ends the process at once. So does a time-out, eight seconds after SIGTERM or
    SIGHUP: what was written to a journal is on disk by then. Without such handlers, as on Windows,
    asyncio handles Ctrl+C.
    """
    stop, loop, task = Stop(), asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def on_signal(status: int) -> None:
        if stop.status:
            _end_at_once(status, stop)
        stop.status = status
        task.cancel()
        if status != INTERRUPTED:
            loop.call_later(_PATIENCE, _end_at_once, status, stop)

    numbers = {signal.SIGINT: INTERRUPTED, signal.SIGTERM: TERMINATED}
    if hasattr(signal, "SIGHUP"):
        # The terminal was closed.
        numbers[signal.SIGHUP] = HUNG_UP
    # One that is ignored, as in a shell's background, stays so.
    heard = {n: s for n, s in numbers.items() if signal.getsignal(n) is not signal.SIG_IGN}
    with contextlib.ExitStack() as undo:
        # Loops in other threads, and on Windows, take no handlers.
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            for number, status in heard.items():
                loop.add_signal_handler(number, on_signal, status)
                undo.callback(loop.remove_signal_handler, number)
        try:
            return await work(stop)
        except asyncio.CancelledError:
            if not stop.status:
                raise
            return stop.status


def _end_at_once(status: int, stop: Stop) -> None:
    for line in stop.farewell().splitlines():
        say(line)
    for file in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            file.flush()
    os._exit(status)
