"""How much memory a request holds, roughly: the bytes of the texts in it. No I/O."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import Any

__all__ = ["size_of"]

#: Deeper than any request; a structure that contains itself must end somewhere.
_DEPTH = 8

#: Values that hold no text.
_SMALL = frozenset({int, float, bool, type(None)})


def size_of(request: Any) -> int:
    """The bytes of the texts in a request."""
    size = 0
    of: Any = type(request)
    for name in _fields(of):
        value: Any = getattr(request, name, None)
        kind = type(value)
        if kind is str:
            # Letters beyond Latin-1 take two or four bytes each.
            size += len(value) if value.isascii() else value.__sizeof__()
        elif kind is tuple and not value:
            continue
        elif kind not in _SMALL:
            # Anything may stand in a request, even what has no truth value.
            size += _deep(value, _DEPTH)
    return size


@functools.lru_cache(maxsize=256)
def _fields(kind: Hashable) -> tuple[str, ...]:
    return tuple(field.name for field in getattr(kind, "__attrs_attrs__", ()))


def _deep(value: Any, depth: int) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else value.__sizeof__()
    if isinstance(value, bytes | bytearray):
        return len(value)
    if not depth:
        return 0
    if isinstance(value, Mapping):
        return sum(_deep(each, depth - 1) for each in value.values())
    if isinstance(value, list | tuple):
        return sum(_deep(each, depth - 1) for each in value)
    kind: Any = type(value)
    return sum(_deep(getattr(value, name, None), depth - 1) for name in _fields(kind))
