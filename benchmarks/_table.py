"""The one table that comes out, and the rows it is made of."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence

__all__ = ["Row", "not_measured", "ratio", "render", "series"]

_HEAD = ("benchmark", "measured", "value", "min..max", "bar", "met", "behind it")


@dataclasses.dataclass(frozen=True)
class Row:
    """One number. `unit` is `x` for a ratio; `bar` is the most (or `at_least`) it should be."""

    benchmark: str
    measured: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    bar: float | None = None
    at_least: bool = False
    behind: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None without a bar."""
        if self.bar is None:
            return None
        # NaN, which stands for "not measured", meets nothing.
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def series(values: Sequence[float], unit: str, scale: float = 1.0) -> str:
    """Median and range of `values`, for the last column."""
    low, middle, high = (
        _number(value * scale) for value in (min(values), statistics.median(values), max(values))
    )
    return f"{middle} {unit} ({low}..{high})"


def ratio(
    benchmark: str,
    measured: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    bar: float | None = None,
    at_least: bool = False,
    behind: str = "",
) -> Row:
    """The ratio of the medians; its range is that of the ratios within each round."""
    rounds = [our / their for our, their in zip(ours, theirs, strict=True)]
    return Row(
        benchmark,
        measured,
        statistics.median(ours) / statistics.median(theirs),
        "x",
        min(rounds),
        max(rounds),
        bar,
        at_least,
        behind,
    )


def not_measured(benchmark: str, measured: str, why: str, bar: float | None = None) -> Row:
    """A row that says why there is no number in it."""
    return Row(benchmark, measured, math.nan, "", bar=bar, behind=why)


def render(rows: Iterable[Row]) -> str:
    """The table, ratios first."""
    ordered = sorted(rows, key=lambda row: row.unit != "x")
    cells = [_HEAD, *map(_cells, ordered)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in cells]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])


def _cells(row: Row) -> tuple[str, ...]:
    sign = ">=" if row.at_least else "<="
    return (
        row.benchmark,
        row.measured,
        "-" if math.isnan(row.value) else f"{_number(row.value)} {row.unit}",
        "-" if row.low is None or row.high is None else f"{_number(row.low)}..{_number(row.high)}",
        "-" if row.bar is None else f"{sign} {row.bar:g}",
        {True: "yes", False: "NO", None: "-"}[row.met],
        row.behind,
    )


def _number(value: float) -> str:
    digits = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:,.{digits}f}"
