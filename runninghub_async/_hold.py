"""While results cannot be saved, nothing is submitted: tasks would be paid for and their results
lost.

One job at a time tries again, the others wait. A hold ends when a result is saved. If that takes
too long it is given up, and submitting stops with one error.
"""

from __future__ import annotations

import asyncio
import errno
import math
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ._dispatcher import Dispatcher
from ._exceptions import DownloadError, ResultGone, ResultTooLarge, RunningHubError, TransportError
from ._log import logger_of
from ._models import Output
from ._retry import RetryPolicy

__all__ = ["FAILED_IN_A_ROW", "FULL", "FolderHold", "Hold", "HostHold", "patience_of"]

logger = logger_of("runninghub_async.trouble")

_T = TypeVar("_T")

#: What a full file system reports. It is waited for without a limit: room can be made.
FULL: Final = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})

#: Faults of one file name, which say nothing about other names.
_OF_A_NAME: Final = frozenset({errno.ENAMETOOLONG, errno.EILSEQ})

#: If the results of so many tasks in a row cannot be fetched from one host, the host is at fault.
FAILED_IN_A_ROW: Final = 4

#: The shortest time before a hold is given up, and the pauses between two tries, in seconds.
_LEAST_PATIENCE: Final = 20.0
_FIRST_PAUSE: Final = 0.5
_LONGEST_PAUSE: Final = 15.0
_PAUSE_FOR_ROOM: Final = 2.0

#: When a hold that lasts is reported again, in seconds after its start; then less and less often.
_FIRST_REPORT: Final = 30.0
_RAREST_REPORT: Final = 3600.0


def patience_of(policy: RetryPolicy) -> float:
    """How long a hold lasts before it is given up, in seconds: as long as a submit that cannot be
    sent is repeated. 303 s by default; no limit if `policy.attempts` is None."""
    if policy.attempts is None:
        return math.inf
    total = 0.0
    for attempt in range(1, policy.attempts + 1):
        pause = policy.backoff(attempt, 0.5)
        total += pause
        if pause >= policy.wait_max:
            total += (policy.attempts - attempt) * pause
            break
    return max(_LEAST_PATIENCE, total)


class Hold:
    """A reason to submit nothing while it is `active`."""

    #: What is waited for, and what is logged when it has come.
    until = "results can be saved"
    again = "results can be saved again"
    #: How many tasks have to fail before it begins.
    threshold = 1

    def __init__(self, dispatcher: Dispatcher, policy: RetryPolicy, where: str) -> None:
        self.active = False
        self.given_up = False
        self._dispatcher = dispatcher
        self._patience = patience_of(policy)
        self._where = where
        self._lock = asyncio.Lock()
        self._inside = 0
        self._failed: set[object] = set()
        self._since = self._report_at = 0.0
        self._pause = _FIRST_PAUSE

    def blames(self, error: Exception, output: Output) -> bool:
        """Whether `error` is what this is about."""
        raise NotImplementedError

    def why(self, error: Exception) -> str:
        """`error` in a few words."""
        return str(error)

    async def through(
        self,
        attempt: Callable[[], Awaitable[_T]],
        output: Output,
        stop: Callable[[RunningHubError], None],
    ) -> _T:
        """Run `attempt`, which saves `output`. While it fails for the reason of this hold, hold and
        run it again.

        Raises what the last attempt raised. `stop(error)` is called once, when this is given up.
        """
        error: Exception | None = None
        while True:
            if not self.active:
                try:
                    result = await attempt()
                except Exception as failure:
                    if not self._begins(failure, output):
                        raise
                    error = failure
                else:
                    self._went_well()
                    return result
            self._inside += 1
            try:
                # The hold may have ended while this waited for the lock; then all others try at
                # once.
                async with self._lock:
                    while self.active:
                        await self._wait(error, output)
                        try:
                            result = await attempt()
                        except Exception as failure:
                            if not self.blames(failure, output):
                                raise
                            error = failure
                            self._goes_on(failure, output, stop)
                        else:
                            self._went_well()
                            return result
            finally:
                self._inside -= 1
                if not self._inside:
                    # The last waiter has left, perhaps because its stream was closed.
                    self._release()
            if self.given_up and error is not None:
                raise error

    def _begins(self, error: Exception, output: Output) -> bool:
        if self.given_up or not self.blames(error, output):
            return False
        self._failed.add(output.task_id or object())
        if len(self._failed) < self.threshold:
            return False
        if not self.active:
            self.active = True
            self._dispatcher.scheduler.paused += 1
            self._since = self._dispatcher.loop.time()
            self._report_at = self._since + _FIRST_REPORT
            self._pause = _FIRST_PAUSE
            logger.warning(
                "%s: %s; nothing is submitted until %s",
                self._where,
                self.why(error),
                self._until(error),
            )
        return True

    async def _wait(self, error: Exception | None, output: Output) -> None:
        await self._dispatcher.pause(self._pause)
        if self._dispatcher.closed:
            raise error or DownloadError("the session was closed before it was saved", output)

    def _goes_on(
        self, error: Exception, output: Output, stop: Callable[[RunningHubError], None]
    ) -> None:
        now = self._dispatcher.loop.time()
        lasted = now - self._since
        left = max(_FIRST_PAUSE, self._patience - lasted)
        self._pause = min(2 * self._pause, self._longest_pause(error), left)
        if lasted >= self._patience and self._ends_ever(error):
            self.given_up = True
            self._release()
            message = (
                f"{self._where}: {self.why(error)}, for {lasted:.0f} s; nothing more is submitted."
                " The tasks succeeded and are billed: `resume` with this folder saves their"
                " results, or `download` while their URLs live (about 24 hours)"
            )
            logger.warning("%s", message)
            stop(_fault(error, message, output))
        elif now >= self._report_at:
            self._report_at = now + min(2 * lasted, _RAREST_REPORT)
            logger.warning(
                "%s: %s, for %.0f s now; nothing is submitted until %s",
                self._where,
                self.why(error),
                lasted,
                self._until(error),
            )

    def _went_well(self) -> None:
        self._failed.clear()
        if self.active:
            self._release()
            logger.warning("%s: %s", self._where, self._again())

    def _release(self) -> None:
        if self.active:
            self.active = False
            self._dispatcher.scheduler.paused -= 1
            self._dispatcher.wake()

    def _until(self, error: Exception) -> str:  # noqa: ARG002 - for those who tell cases apart
        return self.until

    def _again(self) -> str:
        return self.again

    def _longest_pause(self, error: Exception) -> float:  # noqa: ARG002 - likewise
        return _LONGEST_PAUSE

    def _ends_ever(self, error: Exception) -> bool:  # noqa: ARG002 - likewise
        return True


class FolderHold(Hold):
    """Nothing can be written where results are saved. Every error of the system counts, except
    faults of one file name."""

    _full = False

    def blames(self, error: Exception, output: Output) -> bool:  # noqa: ARG002 - of every result
        """Whether `error` is one of this machine: of writing, of memory or of threads."""
        if not isinstance(error, OSError):
            no_thread = isinstance(error, RuntimeError) and "thread" in str(error)
            return no_thread or isinstance(error, MemoryError)
        # The name of the folder itself may be too long, too.
        of_the_folder = error.filename is not None and self._where.startswith(str(error.filename))
        return of_the_folder or error.errno not in _OF_A_NAME

    def why(self, error: Exception) -> str:
        """What the system said."""
        return str(getattr(error, "strerror", None) or error)

    def _until(self, error: Exception) -> str:
        self._full = not self._ends_ever(error)
        return "there is room" if self._full else self.until

    def _again(self) -> str:
        return "there is room again" if self._full else self.again

    def _longest_pause(self, error: Exception) -> float:
        return _LONGEST_PAUSE if self._ends_ever(error) else _PAUSE_FOR_ROOM

    def _ends_ever(self, error: Exception) -> bool:
        return not (isinstance(error, OSError) and error.errno in FULL)


class HostHold(Hold):
    """No result can be had from one host: an address that is refused, no connection, HTTP 403 or
    5xx, a page in place of every result."""

    until = "a result comes"
    again = "results come again"
    threshold = FAILED_IN_A_ROW

    def blames(self, error: Exception, output: Output) -> bool:
        """Whether the host may be to blame for `error`. It is not for an expired URL of a task that
        ended long ago, nor for a result that is too large."""
        if isinstance(error, ResultGone):
            return output.task_id in self._dispatcher.ended
        return isinstance(error, DownloadError | TransportError) and not isinstance(
            error, ResultTooLarge
        )


def _fault(error: Exception, message: str, output: Output) -> DownloadError:
    """The error with which submitting stops, of the same class as the error of the results."""
    kind = type(error) if isinstance(error, DownloadError) else DownloadError
    fault = kind(message, output)
    fault.__cause__ = error
    return fault
