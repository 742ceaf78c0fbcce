"""Lists that come in pages, as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

from .._records import Page

__all__ = ["Pages"]

_T = TypeVar("_T")


class Pages(Generic[_T]):
    """An async iterator over all items of a list, which asks for a page when it needs one."""

    def __init__(self, fetch: Callable[[int], Awaitable[Page[_T]]]) -> None:
        self._fetch = fetch
        self._next = 1
        self._items: deque[_T] = deque()
        self._more = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        while not self._items and self._more:
            page = await self._fetch(self._next)
            self._next += 1
            self._items.extend(page.items)
            # An empty page is the end, whatever else the service says of it.
            self._more = page.has_next and bool(page.items)
        if not self._items:
            raise StopAsyncIteration
        return self._items.popleft()
