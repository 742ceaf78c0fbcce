"""Reading what to generate: `.txt`, `.csv`, `.jsonl` or standard input, one request at a time."""

from __future__ import annotations

import codecs
import csv
import itertools
import json
import math
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import anyio.to_thread
import attrs

from .._catalogue import COMMON_FIELDS, Catalogue, ModelSpec, ParamSpec
from .._exceptions import PayloadError
from .._money import Money
from .._seedream import ModelRequest

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


_Row = tuple[str, dict[str, Any], str]

#: Lines of a file that are read at once; a hop to a thread costs more than one of them.
_PAGE: Final = 200


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
    while True:
        # The file may be a pipe that takes its time; the loop must not wait for it.
        page, error = await anyio.to_thread.run_sync(_take, rows, count, abandon_on_cancel=True)
        for where, fields, problem in page:
            if problem:
                yield Item(where, ModelRequest(spec.path), (problem,))
                continue
            named, problems = _fields(spec, fields)
            yield Item(where, ModelRequest(spec.path, {**common, **named}), tuple(problems))
        if error is not None:
            raise UsageError(f"{source}: {error}") from error
        if len(page) < count:
            return


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
    """The next `count` rows, fewer at the end, and what went wrong after them."""
    page: list[_Row] = []
    try:
        page.extend(itertools.islice(rows, count))
    except (OSError, UnicodeError, csv.Error) as error:
        return page, error
    return page, None


def look_over(source: str, spec: ModelSpec) -> int | None:
    """How many requests `source` holds; None for standard input.

    Raises `UsageError` for what would spoil the whole run: no such file, an unknown kind, a
    header with a column that is no field of the model.
    """
    if source == "-":
        return None
    try:
        if Path(source).suffix.lower() == ".csv":
            with Path(source).open(encoding="utf-8-sig", newline="") as file:
                header = next(csv.reader(file, strict=True), [])
            names = [name.strip() for name in header]
            _, problems = _fields(spec, dict.fromkeys(names, ""))
            problems += [f"{n}: two columns" for n in sorted(set(names)) if names.count(n) > 1]
            if problems:
                raise UsageError(f"{source}: " + "; ".join(problems))
        return sum(1 for _ in _rows(source))
    except (OSError, UnicodeError, csv.Error) as error:
        raise UsageError(f"{source}: {error}") from error


def _rows(source: str) -> Iterator[_Row]:
    if source == "-":
        yield from _text_rows(_stdin_lines())
        return
    kind = Path(source).suffix.lower()
    readers = {".txt": _text_rows, ".csv": _csv_rows, ".jsonl": _json_rows}
    if kind not in readers:
        raise UsageError(f"{source}: expected .txt, .csv or .jsonl, or - for standard input")
    newline = "" if kind == ".csv" else None
    with Path(source).open(encoding="utf-8-sig", newline=newline) as file:
        yield from readers[kind](file)


def _stdin_lines() -> Iterator[str]:
    """Lines of standard input, read without its lock: a reader that is left waiting when the
    program ends must not hold what the interpreter needs to shut down."""
    handle, held, first = sys.stdin.fileno(), b"", True
    while chunk := os.read(handle, 4096):
        *lines, held = (held + chunk).split(b"\n")
        for line in lines:
            yield line.removeprefix(codecs.BOM_UTF8 if first else b"").decode()
            first = False
    if held:
        yield held.removeprefix(codecs.BOM_UTF8 if first else b"").decode()


def _text_rows(lines: Iterator[str] | IO[str]) -> Iterator[_Row]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield f"line {number}", {"prompt": line.strip()}, ""


def _csv_rows(file: IO[str]) -> Iterator[_Row]:
    reader = csv.DictReader(file, strict=True)
    if not reader.fieldnames:
        raise UsageError("the first line of a .csv file names the request's fields")
    for row in reader:
        where = f"line {reader.line_num}"
        if None in row:
            yield where, {}, f"more cells than the header has columns @ {where}"
            continue
        fields = {key.strip(): cell for key, cell in row.items() if cell and cell.strip()}
        if fields:
            yield where, fields, ""


def _json_rows(file: IO[str]) -> Iterator[_Row]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        where = f"line {number}"
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield where, {}, f"not JSON, {error} @ {where}"
            continue
        if isinstance(fields, dict):
            yield where, fields, ""
        else:
            yield where, {}, f"expected a JSON object @ {where}"


def _fields(spec: ModelSpec, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The fields under the names the service knows, text turned into what each field takes."""
    named: dict[str, Any] = {}
    problems: list[str] = []
    for key, value in given.items():
        param = spec.param(key) or spec.param(_camel(key))
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
    """`@path` in a field for pictures, films or sounds as the file that it names."""
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
