"""Waiting for code that may ignore its cancellation, such as a user's async generator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, Final, Generic, TypeVar

__all__ = ["Abandonable"]

_T = TypeVar("_T")

#: How long cancelled code may clean up before it is left behind, in seconds.
GRACE: Final = 2.0

#: What was left behind. A generator that is garbage-collected in the middle of a step runs its code
#: once more, and `asyncio.run` waits for it.
_left_behind: list[Any] = []


class Abandonable(Generic[_T]):
    """`await Abandonable(awaitable)` is `await awaitable`, but ends `GRACE` seconds after it was
    cancelled, whether the code within has ended or not. `abandoned` says that it has not."""

    def __init__(self, awaitable: Awaitable[_T]) -> None:
        self._awaitable = awaitable
        self.abandoned = False
        self._over = False

    def __await__(self) -> Generator[Any, Any, _T]:
        inner: Any = self._awaitable.__await__()
        timer: asyncio.TimerHandle | None = None
        error: BaseException | None = None
        value: Any = None
        try:
            while True:
                try:
                    waiting = inner.send(value) if error is None else inner.throw(error)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                value = error = None
                try:
                    value = yield waiting
                except asyncio.CancelledError as cancelled:
                    if self._over:
                        # This cancellation was our own: no caller asked for it.
                        _task().uncancel()
                        self.abandoned = True
                        _left_behind.append(inner)
                        raise
                    if timer is None:
                        timer = self._start_timer()
                    error = cancelled
                except BaseException as other:
                    error = other
        finally:
            if timer is not None:
                timer.cancel()

    def _start_timer(self) -> asyncio.TimerHandle:
        task = _task()

        def give_up() -> None:
            self._over = True
            task.cancel()

        return task.get_loop().call_later(GRACE, give_up)


def _task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None
    return task
