"""Text from outside: how much of it is read as JSON, and how it is shown. No I/O."""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_VALUES", "has_few_values", "shown"]

#: The time to read JSON grows with the number of its values much more than with its length: four
#: megabytes of text take a few milliseconds, four megabytes of `[]` a quarter of a second.
MAX_VALUES: Final = 20_000


def has_few_values(text: str | bytes) -> bool:
    """Whether the JSON in `text` holds at most `MAX_VALUES` values, so that the loop may read it.

    It is an upper bound: a comma within a string counts, too.
    """
    # Each value but the first follows one of these.
    if isinstance(text, bytes):
        return text.count(b",") + text.count(b"[") + text.count(b"{") <= MAX_VALUES
    return text.count(",") + text.count("[") + text.count("{") <= MAX_VALUES


def shown(text: str, limit: int = 100) -> str:
    """`text` for a log line: at most `limit` characters, without control sequences."""
    cut = text if len(text) <= limit else f"{text[:limit]}…"
    return cut if cut.isprintable() else ascii(cut)
