"""Fault scripts that come with the package, by name."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final

__all__ = ["STORMS", "storm"]

STORMS: Final = (
    "bad-weather",
    "expired-results",
    "faltering-downloads",
    "hostile-results",
    "lost-answers",
    "lost-answers-and-events",
    "refusals",
)


def storm(name: str) -> list[dict[str, Any]]:
    """The rules of one of `STORMS`. It reads a file."""
    place = resources.files("runninghub_async").joinpath(f"emulator/faults/{name}.json")
    rules: list[dict[str, Any]] = json.loads(place.read_text("utf-8"))
    return rules
