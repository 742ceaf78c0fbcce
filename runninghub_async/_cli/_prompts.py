"""Reading what to generate: `.txt`, `.csv`, `.jsonl` or standard input, one request at a time."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import attrs

from .._catalogue import COMMON_FIELDS, Catalogue, ModelSpec, ParamSpec
from .._exceptions import PayloadError
from .._money import Money
from .._seedream import ModelRequest
from .._threads import Lane
from ._spreadsheet import SheetRow, UnreadableError, column_name, read_sheet

__all__ = [
    "Item",
    "UsageError",
    "find_model",
    "first",
    "look_over",
    "overrides",
    "plain",
    "read_items",
]


class _Row(NamedTuple):
    """A row of the input: where it is, its fields or what is wrong with it, and about how many
    bytes it takes in memory."""

    where: str
    fields: dict[str, Any]
    problem: str
    size: int


#: Rows that are read at once, and bytes; a hop to a thread costs more than a short row. A row may
#: hold pictures as data URIs, of megabytes each.
_PAGE: Final = 200
_PAGE_BYTES: Final = 2**20

#: Bytes that are not UTF-8, as "surrogateescape" reads them.
_NOT_UTF8: Final = re.compile("[\udc80-\udcff]")

_ONE_TABLE: Final = 'save it as UTF-8 (in a spreadsheet: "CSV UTF-8")'


class UsageError(Exception):
    """The command was called wrongly, or its input cannot be read at all."""


@attrs.frozen
class Item:
    """One line of the input: a request, or what is wrong with it. It is itself a request."""

    where: str
    request: ModelRequest
    problems: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return self.request.path

    def to_params(self) -> dict[str, Any]:
        return self.request.to_params()

    def price(self) -> Money | None:
        return None if self.problems else self.request.price()

    def check(self) -> tuple[str, ...]:
        return tuple(
            f"{self.where}: {problem}" for problem in self.problems or self.request.check()
        )


def overrides(spec: ModelSpec, pairs: list[str]) -> dict[str, Any]:
    """The fields of `--param key=value`. Raises `UsageError` for one the model does not take."""
    fields: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--param {pair}: expected key=value")
        fields[key.strip()] = text
    named, problems = _fields(spec, fields)
    problems += [
        problem
        for key, value in named.items()
        if (p := spec.param(key))
        for problem in p.check(value, key)
    ]
    if problems:
        raise UsageError("--param: " + "; ".join(problems))
    return named


async def read_items(
    source: str, spec: ModelSpec, common: Mapping[str, Any]
) -> AsyncIterator[Item]:
    """The requests of `source`, a path or `-`, each with the fields of `common` below its own.

    Lines that hold nothing are passed over. A line at fault is an `Item` with problems, so that
    the others still run. Raises `UsageError` for a file that cannot be read or a header that
    names no field of the model.
    """
    rows = _rows(source)
    count = 1 if source == "-" else _PAGE
    lane = Lane()
    try:
        while True:
            # The file may be a pipe that takes its time; the loop must not wait for it.
            page, error = await lane.run(_take, rows, count, abandon=True)
            if not page and error is None:
                return
            page.reverse()
            while page:
                # Nothing here refers to a row that was handed out.
                yield _item(page.pop(), spec, common)
            if error is not None:
                raise UsageError(f"{source}: {_reason(error)}") from error
    finally:
        lane.close()


def _item(row: _Row, spec: ModelSpec, common: Mapping[str, Any]) -> Item:
    if row.problem:
        return Item(row.where, ModelRequest(spec.path), (row.problem,))
    named, problems = _fields(spec, row.fields)
    return Item(row.where, ModelRequest(spec.path, {**common, **named}), tuple(problems))


async def first(items: AsyncIterator[Item], limit: int | None) -> AsyncIterator[Item]:
    """The first `limit` items; what comes after them is not even read from a pipe."""
    count = 0
    while limit is None or count < limit:
        try:
            item = await anext(items)
        except StopAsyncIteration:
            return
        count += 1
        yield item


def _take(rows: Iterator[_Row], count: int) -> tuple[list[_Row], Exception | None]:
    """The next rows (at most `count`; empty at the end), and the error that follows them, if
    any."""
    page: list[_Row] = []
    size = 0
    try:
        for row in rows:
            page.append(row)
            size += row.size
            if len(page) >= count or size >= _PAGE_BYTES:
                break
    except (OSError, UnreadableError) as error:
        return page, error
    return page, None


def look_over(source: str, spec: ModelSpec) -> int | None:
    """How many requests `source` holds; None for standard input.

    Raises `UsageError` for faults that concern the whole run: no such file, an unknown kind, an
    encoding that is not UTF-8, a table that cannot be read, a column that is not a field of the
    model, or no request at all.
    """
    if source == "-":
        return None
    kind = _kind(source)
    try:
        if kind == ".csv":
            _check_header(source, spec)
        count = sum(1 for line in _lines(source) if line.strip()) if kind == ".jsonl" else 0
        count = count or sum(1 for _ in _rows(source))
    except (OSError, UnreadableError) as error:
        raise UsageError(f"{source}: {_reason(error)}") from error
    if not count:
        only = ", only the line with the fields' names" if kind == ".csv" else ""
        raise UsageError(f"{source}: holds no requests{only}")
    return count


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _kind(source: str) -> str:
    kind = Path(source).suffix.lower()
    if kind not in _READERS:
        raise UsageError(f"{source}: expected .txt, .csv or .jsonl, or - for standard input")
    return kind


def _rows(source: str) -> Iterator[_Row]:
    if source == "-":
        return _text_rows(_checked(_stdin_lines()))
    return _READERS[_kind(source)](_lines(source))


def _lines(source: str) -> Iterator[str]:
    """The lines of a file with their ends, which may be those of any system."""
    path = Path(source)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        yield from _checked(file)


def _stdin_lines() -> Iterator[str]:
    """Lines of standard input, read without its lock: a reader that is left waiting when the
    program ends must not hold what the interpreter needs to shut down."""
    if sys.stdin is None:
        raise UnreadableError("standard input is closed")
    handle, held, encoding = sys.stdin.fileno(), b"", "utf-8-sig"
    while chunk := os.read(handle, 2**16):
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            yield line.decode(encoding, "surrogateescape")
            encoding = "utf-8"
    if held:
        yield held.decode(encoding, "surrogateescape")


def _checked(lines: Iterable[str]) -> Iterator[str]:
    """`lines`, as long as they are text in UTF-8. Raises `UnreadableError`."""
    # No generator: while one waits, it keeps its last line, which may take megabytes.
    return map(_check_line, lines, itertools.count(1))


def _check_line(line: str, number: int) -> str:
    if line.isascii() and "\0" not in line:
        return line
    if line.startswith(("\udcff\udcfe", "\udcfe\udcff")):
        raise UnreadableError(f"line {number}: the file is in UTF-16; {_ONE_TABLE}")
    if (place := line.find("\0")) >= 0:
        raise UnreadableError(
            f"line {number}, character {place + 1}: a NUL byte; the file is in UTF-16, or"
            f" damaged; {_ONE_TABLE}"
        )
    if found := _NOT_UTF8.search(line):
        raise UnreadableError(
            f"line {number}, character {found.start() + 1}: the byte"
            f" 0x{ord(found[0]) - 0xDC00:02x} is not UTF-8; the file is in another encoding,"
            f" such as Windows-1252; {_ONE_TABLE}"
        )
    return line


def _text_rows(lines: Iterable[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if text := line.strip():
            yield _Row(f"line {number}", {"prompt": text}, "", sys.getsizeof(text))


def _csv_rows(lines: Iterable[str]) -> Iterator[_Row]:
    rows = read_sheet(lines)
    titles = _titles(next(rows, None))
    for line, cells in rows:
        problem, fields = "", {}
        for place, cell in enumerate(cells):
            if not cell or cell.isspace():
                continue
            if place < len(titles) and titles[place]:
                fields[titles[place]] = cell
            elif not problem:
                what = "has no name in the header"
                if place >= len(titles):
                    what = "has a cell, but no name in the header"
                problem = f"{column_name(place, titles)} {what}: {cell[:40]!r}"
        yield _Row(f"line {line}", fields, problem, sum(map(sys.getsizeof, cells)))


def _titles(header: SheetRow | None) -> list[str]:
    if header is None:
        raise UnreadableError("the first line of a .csv file names the request's fields")
    return [title.strip() for title in header.cells]


def _check_header(source: str, spec: ModelSpec) -> None:
    """Raise `UsageError` for columns that are not fields of the model."""
    header = next(read_sheet(_lines(source)), None)
    titles = _titles(header)
    places: dict[str, list[int]] = {}
    problems: list[str] = []
    for place, title in enumerate(titles):
        if not title:
            # Its cells may all be empty; one that is not is named with its line.
            continue
        named, faults = _fields(spec, {title: ""})
        problems += [f"{column_name(place, ())}: {fault}" for fault in faults]
        places.setdefault(next(iter(named), title), []).append(place)
    for where in places.values():
        if len(where) > 1:
            both = " and ".join(column_name(place, ()) for place in where)
            problems.append(f"{titles[where[0]]}: two columns, {both}")
    if problems:
        line = 1 if header is None else header.line
        raise UsageError(f"{source}: line {line}: " + "; ".join(problems))


def _json_rows(lines: Iterable[str]) -> Iterator[_Row]:
    number = 0
    for line in lines:
        number += 1
        if not line.strip():
            continue
        row = _json_row(number, line)
        # A line may take megabytes, and is not needed while its row is submitted.
        del line
        yield row
        del row


def _json_row(number: int, line: str) -> _Row:
    where, size = f"line {number}", sys.getsizeof(line)
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        return _Row(where, {}, f"not JSON: {error.msg} at character {error.colno}", size)
    except (ValueError, RecursionError) as error:
        return _Row(where, {}, f"not JSON: {error}", size)
    if isinstance(fields, dict):
        return _Row(where, fields, "", size)
    return _Row(where, {}, "expected a JSON object", size)


_READERS: Final = {".txt": _text_rows, ".csv": _csv_rows, ".jsonl": _json_rows}


def _fields(spec: ModelSpec, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields under the names the service knows, text turned into what each field takes."""
    named: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in given.items():
        param = _param(spec, key)
        if param is not None and param.name in named:
            problems.append(f"{key}: given twice @ $.{param.name}")
        elif param is None and (key in COMMON_FIELDS or spec.incomplete):
            named[key] = plain(value) if isinstance(value, str) else value
        elif param is None:
            known = ", ".join(p.name for p in spec.params)
            problems.append(f"{key}: unknown field of {spec.path}, which has {known} @ $.{key}")
        else:
            named[param.name] = _local(
                param, _typed(param, value) if isinstance(value, str) else value
            )
    return named, problems


def _param(spec: ModelSpec, key: str) -> ParamSpec | None:
    """The field that `key` means, whatever its case and spacing: `Image URLs` is `imageUrls`."""
    if param := spec.param(key) or spec.param(_camel(key)):
        return param
    wanted = _letters(key)
    found = [param for param in spec.params if wanted == _letters(param.name)]
    return found[0] if len(found) == 1 and wanted else None


def _letters(key: str) -> str:
    return "".join(c for c in key.casefold() if c.isalnum())


def _camel(key: str) -> str:
    head, *rest = key.strip().split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def _typed(param: ParamSpec, text: str) -> Any:
    """`text` as the type of `param`; as it is when it does not fit, so that `check` names it."""
    if param.multiple:
        if text.lstrip().startswith("["):
            try:
                return json.loads(text)
            except ValueError:
                return text
        return [part.strip() for part in text.split("|") if part.strip()]
    try:
        match param.type:
            case "integer":
                return int(text)
            case "number":
                return float(text)
            case "object":
                return json.loads(text)
            case "boolean":
                return {"true": True, "false": False}[text.strip().lower()]
    except (ValueError, KeyError):
        return text
    return text.strip() if param.type == "enum" else text


def plain(text: str) -> Any:
    """`text` as the number, true or false that it spells; as it is if it spells none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, int | float) and math.isfinite(value) else text


def _local(param: ParamSpec, value: Any) -> Any:
    """`@path` in a field for pictures, videos or audio as the file that it names."""
    if param.type not in ("image", "video", "audio"):
        return value
    if isinstance(value, list):
        return [_local(param, each) for each in value]
    return Path(value[1:]) if isinstance(value, str) and value.startswith("@") else value


def find_model(name: str) -> ModelSpec:
    """The model of this name. Raises `UsageError` with the nearest ones when there is none."""
    try:
        return Catalogue.load().find(name)
    except PayloadError as error:
        raise UsageError(error.problems[0].removesuffix(" @ $.model")) from None
