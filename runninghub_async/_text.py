"""What text in a request may hold. No I/O.

Control characters and halves of surrogate pairs are never meant: they come from terminals,
spreadsheets and broken decoding, and the service refuses them, or worse, stops reading at them.
So they are a fault of the request, found before it is sent. Tab, line feed and carriage return are
text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["faults_of", "name_of", "text_fault", "text_faults"]

_CONTROLS: Final = bytes(c for c in (*range(0x20), 0x7F) if c not in b"\t\n\r")

#: C0, DEL and C1, and surrogates.
_REFUSED: Final = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def text_fault(text: str) -> str:
    """What is wrong with `text`; empty if it may be sent. It takes a microsecond for a prompt, and
    a few milliseconds for a data URI of megabytes."""
    if text.isascii():
        data = text.encode()
        if len(data.translate(None, _CONTROLS)) == len(data):
            return ""
    found = _REFUSED.search(text)
    if found is None:
        return ""
    if "\ud800" <= found[0] <= "\udfff":
        return f"not valid Unicode: half a surrogate pair at character {found.start() + 1}"
    return f"the control character U+{ord(found[0]):04X} at character {found.start() + 1}"


def faults_of(params: Mapping[str, Any]) -> tuple[str, ...]:
    """The faults of every text in a request's `params`, each as `key: description @ $.path`."""
    return tuple(
        fault
        for key, value in params.items()
        for fault in text_faults({key: value}, name_of(key), "$")
    )


def text_faults(value: Any, name: str, at: str) -> tuple[str, ...]:
    """The faults of every text in `value`, each as `name: description @ path`, where `at` is the
    path of `value`; keys count as text."""
    try:
        return tuple(_faults(value, name, at))
    except RecursionError:
        # Not valid JSON either, and refused elsewhere.
        return ()


def name_of(key: Any) -> str:
    """`key` as a fault names it: without what a terminal would act on."""
    return key if isinstance(key, str) and not text_fault(key) else ascii(key)


def _faults(value: Any, name: str, at: str) -> Iterator[str]:
    if isinstance(value, str):
        if fault := text_fault(value):
            yield f"{name}: {fault} @ {at}"
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if isinstance(key, str) and (fault := text_fault(key)):
                yield f"{name}: a key with {fault} @ {at}"
            else:
                yield from _faults(each, name, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from _faults(each, name, f"{at}[{place}]")
