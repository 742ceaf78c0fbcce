"""How much memory a request holds, roughly: the bytes of the texts in it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["size_of"]

#: Deeper than any request; a structure that contains itself must end somewhere.
_DEPTH = 8


def size_of(value: Any, depth: int = _DEPTH) -> int:
    """The bytes of the texts in `value`, a request or a part of one."""
    if isinstance(value, str):
        # Letters beyond Latin-1 take two or four bytes each.
        return len(value) if value.isascii() else value.__sizeof__()
    if isinstance(value, bytes | bytearray):
        return len(value)
    if not depth:
        return 0
    if isinstance(value, Mapping):
        return sum(size_of(each, depth - 1) for each in value.values())
    if isinstance(value, list | tuple):
        return sum(size_of(each, depth - 1) for each in value)
    fields = getattr(type(value), "__attrs_attrs__", None)
    if fields is None:
        return 0
    return sum(size_of(getattr(value, field.name, None), depth - 1) for field in fields)
