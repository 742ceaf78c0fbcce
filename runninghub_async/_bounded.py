"""A memory that forgets: of many keys, the last so many."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

__all__ = ["Bounded"]

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
