"""A `.csv` file as spreadsheets export it: rows of cells, with the line where each begins."""

from __future__ import annotations

import csv
import itertools
import re
import string
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

__all__ = ["SheetRow", "UnreadableError", "column_name", "read_sheet"]

# A picture as a data URI is longer than the 131,072 characters that are the default. This is the
# most that a C long holds everywhere; what a cell may hold is decided by the service.
csv.field_size_limit(2**31 - 1)

#: How a spreadsheet names its separator in a line before the header.
_SEPARATOR: Final = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)

#: What some countries' spreadsheets write where others write a comma.
_OTHERS: Final = ";\t"


class UnreadableError(Exception):
    """The input cannot be read; the text names the line."""


class SheetRow(NamedTuple):
    """A row: the `line` where it begins, from 1, and its `cells`."""

    line: int
    cells: list[str]


def read_sheet(lines: Iterable[str]) -> Iterator[SheetRow]:
    """The rows of `lines`, which keep their ends, the header first; rows without any text are
    left out. Raises `UnreadableError`."""
    rest = iter(lines)
    first = next(rest, "")
    separator, skipped = ",", 0
    if found := _SEPARATOR.fullmatch(first):
        separator, skipped = found[1], 1
        first = next(rest, "")
    elif separator not in first:
        # No field's name holds these, so a header without a comma is not of one column then.
        separator = next((other for other in _OTHERS if other in first), separator)
    reader = csv.reader(itertools.chain([first], rest), delimiter=separator, strict=True)
    while True:
        begins = reader.line_num + skipped + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UnreadableError(_fault(error, begins, reader.line_num + skipped)) from None
        if any(cell and not cell.isspace() for cell in cells):
            yield SheetRow(begins, cells)


def column_name(place: int, header: Sequence[str]) -> str:
    """A column as a person finds it: the letters that a spreadsheet shows, and its title."""
    letters, number = "", place + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = string.ascii_uppercase[rest] + letters
    title = header[place].strip() if place < len(header) else ""
    return f"column {letters} ({title})" if title else f"column {letters}"


def _fault(error: csv.Error, begins: int, line: int) -> str:
    if "unexpected end" in str(error):
        return (
            f"line {begins}: a quote that is opened in this row is not closed before the file ends"
        )
    where = f"line {line}" if line == begins else f"line {line} (of the row from line {begins} on)"
    if "expected after" in str(error):
        return f"{where}: text after a closing quote; a quote within a quoted cell is written twice"
    return f"{where}: {error}"
