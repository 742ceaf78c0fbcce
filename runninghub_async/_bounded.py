"""Memories that forget: of many keys, the last so many."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["Bounded", "Recent"]

_K = TypeVar("_K")
_V = TypeVar("_V")


class Bounded(OrderedDict[_K, _V]):
    """A dict of the `most` keys that were set last."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def __setitem__(self, key: _K, value: _V) -> None:
        known = key in self
        super().__setitem__(key, value)
        if known:
            self.move_to_end(key)
        elif len(self) > self._most:
            self.popitem(last=False)


class Recent(Generic[_K]):
    """The last keys that were added: `least` of them at least, and twice as many at most.

    It costs less than a `Bounded`, which knows the exact order.
    """

    def __init__(self, least: int) -> None:
        self._least = least
        self._new: set[_K] = set()
        self._old: set[_K] = set()

    def __contains__(self, key: object) -> bool:
        return key in self._new or key in self._old

    def add(self, key: _K) -> None:
        """Remember `key`."""
        self._new.add(key)
        if len(self._new) >= self._least:
            self._old, self._new = self._new, set()
