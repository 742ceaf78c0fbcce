"""Resuming a file where the last attempt broke off: what to request and what to trust. No I/O.

A file is resumed only if a validator vouches for it: two halves of different files would make one
file, and nothing would notice.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from typing import Final

__all__ = ["encodings_of", "length_of", "range_headers", "total_of", "validator_of", "wire_length"]

_CONTENT_RANGE: Final = re.compile(r"bytes +([0-9]+)-([0-9]+)/([0-9]+)")

_STRONG: Final = re.compile(r'"[\x21\x23-\x7e]*"')

#: What hosts write as the encoding of a file that they send as it is. `identity` is the standard's
#: word; the last ones are repeated as they were given when the file was stored.
_AS_IT_IS: Final = ("", "identity", "none", "binary", "utf-8", "utf8", "aws-chunked")


def range_headers(at: int, validator: str) -> dict[str, str]:
    """The headers that ask for a file from its byte `at` on, or for all of it if it is no longer
    the one of `validator`."""
    return {"Range": f"bytes={at}-", "If-Range": validator} if at and validator else {}


def encodings_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """How the body was packed for its journey, in this order, so that no length is that of the
    file; empty if it was not."""
    # A header may come in several lines, which count as one.
    lines = getattr(headers, "getall", None)
    value = headers.get("content-encoding", "")
    value = ",".join(lines("content-encoding")) if value and lines is not None else value
    names = (name.strip().lower() for name in value.split(","))
    return tuple(name for name in names if name not in _AS_IT_IS)


def wire_length(headers: Mapping[str, str]) -> int | None:
    """The length of the body, packed or not; None if it does not say."""
    declared = headers.get("content-length", "")
    return int(declared) if declared.isascii() and declared.isdecimal() else None


def length_of(headers: Mapping[str, str]) -> int | None:
    """The length of the file that a whole answer brings; None if it does not say."""
    return None if encodings_of(headers) else wire_length(headers)


def validator_of(headers: Mapping[str, str]) -> str:
    """The value for `If-Range`, so that only this very file is resumed: its strong ETag or its
    modification time; empty if it has neither."""
    if encodings_of(headers) or headers.get("accept-ranges", "").strip().lower() == "none":
        return ""
    tag = headers.get("etag", "").strip()
    if _STRONG.fullmatch(tag):
        return tag
    changed = headers.get("last-modified", "").strip()
    then, now = _seconds(changed), _seconds(headers.get("date", ""))
    # A file changed in the second it was sent in may have been changed again in that second.
    return changed if then is not None and now is not None and now > then else ""


def total_of(headers: Mapping[str, str], at: int, length: int | None, validator: str) -> int | None:
    """The length of the whole file if this partial answer (206) continues the known file (`length`,
    `validator`) at byte `at`; None if it does not."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None or encodings_of(headers):
        return None
    first, last, total = map(int, match.groups())
    if first != at or not at <= last < total or length not in (None, total):
        return None
    tag = headers.get("etag", "").strip()
    if validator.startswith('"') and tag and tag != validator:
        return None
    return total


def _seconds(date: str) -> int | None:
    parsed = email.utils.parsedate_tz(date)
    if parsed is None:
        return None
    try:
        return email.utils.mktime_tz(parsed)
    except (ValueError, OverflowError):
        return None
