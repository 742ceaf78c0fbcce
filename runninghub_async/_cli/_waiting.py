"""Writing that waits: while a disk is full, and for a while whatever else is wrong with it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

from .._hold import FULL
from .._threads import Lane, run_in_thread

__all__ = ["AGAIN", "until_written"]

logger = logging.getLogger("runninghub_async.trouble")

_T = TypeVar("_T")

#: Seconds between two attempts.
AGAIN: Final = 2.0

#: Attempts before any other error counts as permanent.
_ATTEMPTS: Final = 5

_Hold = Callable[[], contextlib.AbstractContextManager[object]]


async def until_written(
    write: Callable[[], _T],
    path: Path,
    hold: _Hold = contextlib.nullcontext,
    lane: Lane | None = None,
) -> _T:
    """The result of `write()`, which writes `path` in a thread, that of `lane` if given.

    If it fails, a warning gives the reason once, and it is tried again every two seconds, in the
    context of `hold`, which keeps anything from being submitted: for as long as the disk is full,
    and five times for any other reason. Raises the last `OSError`.
    """
    failed = 0
    with contextlib.ExitStack() as held:
        while True:
            try:
                result = await (run_in_thread(write) if lane is None else lane.run(write))
            except OSError as error:
                failed += 1
                if failed == 1:
                    held.enter_context(hold())
                    idle = "" if hold is contextlib.nullcontext else "; nothing is submitted"
                    logger.warning(
                        "%s cannot be written: %s%s until it can be",
                        path,
                        error.strerror or error,
                        idle or "; waiting",
                    )
                if error.errno not in FULL and failed >= _ATTEMPTS:
                    raise
            else:
                if failed:
                    logger.warning("%s can be written again", path)
                return result
            await asyncio.sleep(AGAIN)
