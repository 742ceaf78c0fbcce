"""Which bytes of a file a request asks for, as RFC 9110 has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

__all__ = ["wanted"]

_ONE: Final = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.IGNORECASE | re.ASCII)


def wanted(headers: Mapping[str, str], length: int, etag: str) -> range | None:
    """The bytes asked for of a file of `length` bytes; empty if there are none such in it.

    None for the whole: if nothing was asked for, or several ranges, or nonsense, or a range of
    what is another file by its `If-Range`. A date there never fits, as there is none to fit.
    """
    asked = _ONE.fullmatch(headers.get("Range", "").strip())
    if asked is None or headers.get("If-Range", etag) != etag:
        return None
    first, last, tail = asked.groups()
    if tail is not None:
        return range(max(0, length - int(tail)), length)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(length, int(last) + 1) if last else length)
