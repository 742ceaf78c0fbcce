"""Milliseconds to draw one of the emulator's pictures: 2048 x 2048, with and without Pillow.

50 different prompts of about 100 characters, one after the other, in a fresh process for each kind.
One more picture is drawn before them: it reads the fonts, and is told apart ("first"). Left out is
all that surrounds the drawing, such as the thread it runs in and the answer it goes out with.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
from functools import partial
from typing import Final

from ._load import prompts
from ._process import in_fresh_process, in_turn
from ._table import Row, not_measured

__all__ = ["draw_all", "measure"]

NAME: Final = "pictures"
PICTURES: Final = 50
SIDE: Final = 2048
ROUNDS: Final = 3
BAR: Final = 5.0


def measure(scale: int) -> list[Row]:
    """The rows of this benchmark, with a `scale`-th of the pictures."""
    count = PICTURES // scale
    kinds = {"with Pillow": True, "without Pillow": False}
    if importlib.util.find_spec("PIL") is None:
        del kinds["with Pillow"]
    runs = in_turn(
        {
            name: partial(in_fresh_process, draw_all, count=count, pillow=pillow)
            for name, pillow in kinds.items()
        },
        ROUNDS,
    )
    rows = [_row(name, results) for name, results in runs.items()]
    if "with Pillow" not in kinds:
        rows.append(not_measured(NAME, "with Pillow", "Pillow is not installed"))
    return rows


def draw_all(count: int, pillow: bool) -> list[float]:
    """The milliseconds of each of `1 + count` pictures."""
    if not pillow:
        # Importing it then fails, as if it were not installed.
        sys.modules["PIL"] = None  # type: ignore[assignment]
    from runninghub_async.emulator._pictures import draw

    times = []
    for prompt in prompts(1 + count):
        start = time.perf_counter()
        draw(prompt, SIDE, SIDE)
        times.append((time.perf_counter() - start) * 1000)
    return times


def _row(name: str, runs: list[list[float]]) -> Row:
    medians = [statistics.median(times[1:]) for times in runs]
    slowest = max(max(times[1:]) for times in runs)
    first = statistics.median(times[0] for times in runs)
    drawn = len(runs[0]) - 1
    return Row(
        NAME,
        f"{SIDE} x {SIDE} PNG, {name}",
        statistics.median(medians),
        "ms",
        min(medians),
        max(medians),
        BAR,
        behind=f"medians of {drawn} prompts; slowest {slowest:.1f} ms, first {first:.0f} ms",
    )
