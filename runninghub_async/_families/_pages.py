"""Lists that come in pages, as one."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Final, Generic, Self, TypeVar

from .._exceptions import ProtocolError
from .._models import Response
from .._records import Page

__all__ = ["Pages"]

_T = TypeVar("_T")

#: A list with more pages than this does not end: 50 items to a page make half a million.
_MOST_PAGES: Final = 10_000


class Pages(Generic[_T]):
    """An async iterator over all items of a list. It requests a page when it needs one.

    The list ends with a page that says so, with an empty page, or with as many items as the
    service's `total`. Raises `ProtocolError` where a page repeats an earlier one although the
    list goes on, and after 10,000 pages; the items before it have been returned by then.
    """

    def __init__(
        self,
        fetch: Callable[[int], Awaitable[Page[_T]]],
        key: Callable[[_T], Hashable] = repr,
    ) -> None:
        self._fetch = fetch
        self._key = key
        self._next = 1
        self._count = 0
        self._items: deque[_T] = deque()
        self._more = True
        self._before: frozenset[Hashable] = frozenset()
        # A hash for each page and not its items: however long the list is, this stays small.
        self._seen: dict[int, int] = {}

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _T:
        if not self._items and self._more:
            page = await self._fetch(self._next)
            self._more = self._goes_on(page)
            self._items.extend(page.items)
            self._count += len(page.items)
            self._next += 1
        if not self._items:
            raise StopAsyncIteration
        return self._items.popleft()

    def _goes_on(self, page: Page[_T]) -> bool:
        """Whether another page follows `page`."""
        # An empty page is the end, whatever else the service says about it.
        if not page.has_next or not page.items:
            return False
        if 0 < page.total <= self._count + len(page.items):
            return False
        self._check(frozenset(map(self._key, page.items)))
        return True

    def _check(self, keys: frozenset[Hashable]) -> None:
        """Raise `ProtocolError` if the list cannot have an end."""
        number = self._next
        earlier = self._seen.setdefault(hash(keys), number)
        if keys <= self._before:
            earlier = number - 1
        if earlier != number:
            self._fail(f"page {number} repeats page {earlier}, and says that more follow")
        if number >= _MOST_PAGES:
            self._fail(f"it has no end after {number} pages")
        self._before = keys

    def _fail(self, reason: str) -> None:
        self._more = False
        raise ProtocolError(
            f"the service's list contradicts itself: {reason}; {self._count} items were returned",
            Response(200),
        )
