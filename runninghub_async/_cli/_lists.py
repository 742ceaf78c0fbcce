"""Lists without end, as far as somebody wants to read them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

__all__ = ["first"]

_T = TypeVar("_T")


async def first(items: AsyncIterator[_T], limit: int) -> list[_T]:
    """The first `limit` items, or all if there are fewer; what comes after is not asked for."""
    found: list[_T] = []
    while len(found) < limit:
        try:
            found.append(await anext(items))
        except StopAsyncIteration:
            break
    return found
