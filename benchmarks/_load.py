"""What all clients of the stub share: the key, the prompts, the body of a submit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from ._answers import FIRST_TASK_ID

__all__ = ["HEADERS", "IN_FLIGHT", "KEY", "parameters", "prompts", "task_ids"]

KEY: Final = "0123456789abcdef0123456789abcdef"
HEADERS: Final = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}

#: Requests in flight at once.
IN_FLIGHT: Final = 64


def prompts(count: int) -> Iterator[str]:
    """`count` different prompts of about 100 characters."""
    for number in range(count):
        yield (
            f"Poster {number:06}: a lighthouse at dusk over a calm sea, flat colours, paper grain, "
            "large quiet title"
        )


def parameters(prompt: str) -> dict[str, Any]:
    """The body that `SeedreamV5Lite(prompt)` sends, as one would write it by hand."""
    return {
        "prompt": prompt,
        "width": 2048,
        "height": 2048,
        "sequentialImageGeneration": "disabled",
        "maxImages": 1,
        "toolsType": "web_search",
    }


def task_ids(count: int) -> list[str]:
    """`count` ids as the service gives them."""
    return [str(FIRST_TASK_ID + number) for number in range(count)]
