"""How a run is shown while it lasts: one live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from decimal import Decimal
from typing import IO

import attrs

from .._feed import Statistics
from .._outcomes import Outcome, Succeeded, Unknown
from ._tables import amount
from ._terminal import live

__all__ = ["Progress", "Tally", "describe", "duration"]


@attrs.define
class Tally:
    """What the stream's own numbers do not hold."""

    stored: int = 0
    partly: int = 0
    failed: int = 0
    unknown: int = 0
    money: Decimal = Decimal(0)

    def count(self, outcome: Outcome) -> None:
        """Count how a job ended; done is what has all its files."""
        if isinstance(outcome, Unknown):
            self.unknown += 1
        elif isinstance(outcome, Succeeded) and outcome.missing and outcome.files:
            self.partly += 1
        elif isinstance(outcome, Succeeded) and len(outcome.files) >= len(outcome.task.outputs):
            self.stored += 1
        else:
            self.failed += 1


def describe(
    tally: Tally, statistics: Statistics, elapsed: float, total: int | None, currency: str
) -> str:
    """Done, failed, waiting, rate, time left and money so far, in one line."""
    ended = tally.stored + tally.partly + tally.failed + tally.unknown
    parts = [f"{ended}/{total} ended" if total is not None else f"{ended} ended"]
    parts.append(f"{tally.stored} done")
    if tally.partly:
        parts.append(f"{tally.partly} partly")
    parts.append(f"{tally.failed} failed")
    if tally.unknown:
        parts.append(f"{tally.unknown} unknown")
    parts.append(f"{statistics.waiting} waiting")
    rate = ended / elapsed if elapsed > 0 else 0.0
    parts.append(f"{rate:.1f}/s")
    if total is not None and 0 < ended < total and rate:
        parts.append(f"{duration((total - ended) / rate)} left")
    if tally.money:
        parts.append(f"{amount(tally.money)} {currency}")
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """Minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Writes to `file`, on a terminal at most ten times a second, elsewhere every five seconds."""

    def __init__(
        self,
        file: IO[str],
        total: int | None,
        currency: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = Tally()
        self._file = live(file)
        self._total = total
        self._currency = currency
        self._clock = clock
        self._start = self._shown = clock()
        self._live = file.isatty()
        self._every = 0.1 if self._live else 5.0

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self._clock() - self._start

    def show(self, statistics: Statistics, *, last: bool = False) -> None:
        """Show the state if it is time to."""
        now = self._clock()
        if not last and now - self._shown < self._every:
            return
        self._shown = now
        text = describe(self.tally, statistics, now - self._start, self._total, self._currency)
        if self._live:
            columns = shutil.get_terminal_size().columns
            text = f"\r\x1b[K{text[: columns - 1]}" + ("\n" if last else "")
        else:
            text += "\n"
        # The reader may have left; the run is worth more than its display.
        with contextlib.suppress(OSError, ValueError):
            self._file.write(text)
            self._file.flush()
