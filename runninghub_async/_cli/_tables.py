"""What the commands print: aligned tables for people, JSON for programs."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from ._terminal import escaped

__all__ = ["amount", "cut", "facts", "one_line", "print_json", "table", "tell"]

#: What `cut` leaves, in columns of a terminal.
_WIDEST = 60


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """`rows` below `head`, each column as wide as its widest cell. None is an empty cell."""
    lines = [[one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(_filled, line, widths)).rstrip() for line in lines)


def facts(pairs: Mapping[str, Any]) -> str:
    """One fact a line, its name first. Those that are None or empty are left out."""
    told = [(one_line(name), text) for name, value in pairs.items() if (text := one_line(value))]
    width = max((_width(name) for name, _ in told), default=0)
    return "\n".join(f"{_filled(name, width)}  {text}" for name, text in told)


def amount(value: Decimal) -> str:
    """`value` in digits, without zeros that say nothing: 3, 0.50 or 0.125."""
    value = value.normalize()
    return f"{value:.2f}" if value.as_tuple().exponent == -1 else f"{value:f}"


def one_line(value: Any) -> str:
    """`value` as text on one line, escaped, so that columns are as wide as they are shown."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(escaped(str(value).replace("\r\n", "\n")).split())


def cut(value: Any) -> str:
    """`value` as a cell that leaves room for others. For what nobody has to copy."""
    text = one_line(value)
    if _width(text) <= _WIDEST:
        return text
    while _width(text) > _WIDEST - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"


def print_json(value: Any, *, line: bool = False) -> None:
    """Print JSON data in ASCII to standard output; on one line for streams, each as soon as it is
    known. Control characters are JSON escapes, so the data stay exact."""
    text = json.dumps(value, indent=None if line else 2)
    # The one control character that JSON leaves as it is.
    print(text.replace("\x7f", "\\u007f"), flush=line)


def _filled(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def _width(text: str) -> int:
    """Columns on a terminal: Chinese takes two each, accents that combine take none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def tell(text: str) -> None:
    """Print one line on standard output at once. A line feed in it is of a name or a path, perhaps
    of a journal that somebody else wrote, and is escaped: what follows it would pass for a line of
    the command's own."""
    print(escaped(text).replace("\n", "\\x0a"), flush=True)
