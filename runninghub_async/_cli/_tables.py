"""What the commands print: aligned tables for people, JSON for programs."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

__all__ = ["amount", "cut", "facts", "harmless", "one_line", "print_json", "table"]

#: What `cut` leaves, in columns of a terminal.
_WIDEST = 60

#: Escapes, marks that turn the direction of writing and halves of characters; but there are
#: scripts that cannot do without two of these.
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})
_KEPT = "\u200c\u200d\n\t"


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
    """`value` as text on one line, harmless: what it holds may be a stranger's."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return harmless(" ".join(str(value).split()))


def harmless(text: str) -> str:
    """`text` without what a terminal would obey, but with its lines."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c for c in text if c in _KEPT or unicodedata.category(c) not in _UNSEEN)


def cut(value: Any) -> str:
    """`value` as a cell that leaves room for others. For what nobody has to copy."""
    text = one_line(value)
    if _width(text) <= _WIDEST:
        return text
    while _width(text) > _WIDEST - 1:
        text = text[:-1]
    return f"{text.rstrip()}…"


def print_json(value: Any, *, line: bool = False) -> None:
    """Print JSON data to standard output; on one line for streams, each as soon as it is known."""
    indent = None if line else 2
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        # The terminal's encoding, or half of a surrogate pair: JSON can say either in ASCII.
        text = json.dumps(value, indent=indent)
    print(text, flush=line)


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
