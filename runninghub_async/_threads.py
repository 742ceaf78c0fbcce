"""Blocking work in threads: the one function through which files and names are touched.

The loop's default executor and anyio's default limiter belong to the application: an application
that has filled them with its own calls must not stop a download, and a download must not stop
the application. So each kind of work here has a limiter of its own, one for each event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Literal, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._shielded import wait_out

__all__ = ["Lane", "run_in_thread"]

_T = TypeVar("_T")
_Args = TypeVarTuple("_Args")

#: How many threads each kind of work may use at once. Names have their own: a name server that
#: answers nothing holds a thread for half a minute, and files must not wait for that.
_THREADS: Final = {"files": 16, "checks": 2, "names": 32}

_limiters: anyio.lowlevel.RunVar[dict[str, anyio.CapacityLimiter]] = anyio.lowlevel.RunVar(
    "runninghub_async threads"
)


async def run_in_thread(
    function: Callable[[Unpack[_Args]], _T],
    *args: *_Args,
    kind: Literal["files", "checks", "names"] = "files",
    abandon: bool = False,
) -> _T:
    """Run `function(*args)` in a thread and return its result.

    `kind` selects the limit on threads: `files` for reading and writing, `checks` for long work
    on files that are already stored, `names` for name resolution. `abandon`: when the caller's
    scope is cancelled, leave the thread to finish by itself instead of waiting for it. The
    cancellation of a task (`Task.cancel`) never waits for the thread: see `Lane` and `wait_out`.
    """
    if kind == "names":
        return await _run_in_daemon(function, *args, abandon=abandon)
    return await anyio.to_thread.run_sync(
        function, *args, abandon_on_cancel=abandon, limiter=_limiter(kind)
    )


def _limiter(kind: str) -> anyio.CapacityLimiter:
    try:
        limiters = _limiters.get()
    except LookupError:
        limiters = {name: anyio.CapacityLimiter(count) for name, count in _THREADS.items()}
        _limiters.set(limiters)
    return limiters[kind]


async def _run_in_daemon(
    function: Callable[[Unpack[_Args]], _T], *args: *_Args, abandon: bool
) -> _T:
    """The same, in a daemon thread of its own: Python waits for any other when the program ends,
    and a name server that answers nothing would hold it up. A thread that was left counts towards
    the limit until it ends."""
    limiter, borrower = _limiter("names"), object()
    await limiter.acquire_on_behalf_of(borrower)
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    result: list[_T] = []
    fault: list[BaseException] = []

    def end() -> None:
        limiter.release_on_behalf_of(borrower)
        _end(ended)

    def work() -> None:
        try:
            result.append(context.run(function, *args))
        except BaseException as error:
            fault.append(error)
        _tell(loop, end)

    context = contextvars.copy_context()
    try:
        threading.Thread(target=work, name="runninghub_async names", daemon=True).start()
    except BaseException:
        limiter.release_on_behalf_of(borrower)
        raise
    with anyio.CancelScope(shield=not abandon):
        await ended
    if fault:
        raise fault.pop()
    return result.pop()


class Lane:
    """One thread for work on texts of megabytes, one piece of work at a time.

    The C library keeps freed memory for each thread. Work on large texts that went through all
    threads of a pool would leave megabytes in each of them.
    """

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(
        self,
        function: Callable[[Unpack[_Args]], _T],
        *args: *_Args,
        abandon: bool = False,
    ) -> _T:
        """Run `function(*args)` in the thread and return its result. `abandon`: as of
        `run_in_thread`."""
        if self._thread is None:
            # A daemon, so that a program that is left in a hurry does not wait for it.
            self._thread = threading.Thread(
                target=_work_off, args=(self._work,), name="runninghub_async lane", daemon=True
            )
            self._thread.start()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        result: list[_T] = []
        fault: list[BaseException] = []

        def work() -> None:
            try:
                result.append(function(*args))
            except BaseException as error:
                fault.append(error)
            _tell(loop, partial(_end, ended))

        self._work.put(work)
        await (ended if abandon else wait_out([ended]))
        if fault:
            raise fault.pop()
        return result.pop()

    def close(self) -> None:
        """End the thread after its work."""
        self._work.put(None)


def _work_off(work: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while True:
        step = work.get()
        if step is None:
            return
        step()
        # While it waits, it keeps nothing of what it did.
        del step


def _end(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


def _tell(loop: asyncio.AbstractEventLoop, end: Callable[[], object]) -> None:
    """Have the loop call `end`, from a thread."""
    try:
        loop.call_soon_threadsafe(end)
    except RuntimeError:
        # The loop is closed: nobody waits.
        return
