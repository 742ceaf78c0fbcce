"""Blocking work in threads: the one function through which files and names are touched.

The loop's default executor and anyio's default limiter belong to the application: an application
that has filled them with its own calls must not stop a download, and a download must not stop
the application. So each kind of work here has a limiter of its own, one for each event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeVar, TypeVarTuple, Unpack

import anyio
import anyio.lowlevel
import anyio.to_thread

__all__ = ["run_in_thread"]

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
    on files that are already stored, `names` for name resolution. `abandon`: when the caller is
    cancelled, leave the thread to finish by itself instead of waiting for it.
    """
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
