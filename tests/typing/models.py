"""What `models` takes and refuses, for the type checkers; never run.

Every line that must be an error is marked as one; both checkers report a mark without one.
"""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from pathlib import Path
from typing import Literal, assert_type

from runninghub_async import ModelRequest, models


def right(resolution: Literal["2k", "4k"], pictures: list[str], saved: list[Path]) -> None:
    """By path, by documented name, with everything that a value may be."""
    assert_type(models["seedream-v4.5/text-to-image"](prompt="a poster"), ModelRequest)
    models["seedream-v4.5-文生图"](prompt="a poster", resolution=resolution, maxImages=2)
    models["seedream-v4/text-to-image"](prompt="a poster", webhookUrl="https://x", retainSeconds=60)
    models["seedream-v4/image-to-image"](prompt="bluer", imageUrls=pictures)
    models["seedream-v4/image-to-image"](prompt="bluer", imageUrls=saved)
    models["seedream-v4/image-to-image"](prompt="bluer", imageUrls=("https://x/a.png", Path("b")))


def by_flat_name(film: Path) -> None:
    """What goes out as `2##file` or `20##image` is called by its alias, or by what follows."""
    models["rhart-audio/extract-background"](file=film)
    models["rhart-audio/source-separation"](videoUrl="https://x/a.mp4")


def left_out() -> None:
    """A model whose parameters are not all known takes any more."""
    models["rhart-video/ltx-2/text-to-video-lora"](prompt="waves", anything=1)


def wrong(number: int) -> None:
    """Each in one way."""
    # The model.
    models["seedream-v4/no-such"](prompt="a poster")  # type: ignore[typeddict-item]
    # A parameter that there is not.
    models["seedream-v4/text-to-image"](prompt="x", size="2k")  # type: ignore[call-arg]
    # A choice, which is a string also where it is a number.
    models["seedream-v4/text-to-image"](prompt="x", resolution="9k")  # type: ignore[arg-type]
    # A required one left out.
    models["seedream-v4/text-to-image"]()  # type: ignore[call-arg]
    # The type.
    models["seedream-v4/text-to-image"](prompt=number)  # type: ignore[arg-type]
    models["seedream-v4/text-to-image"](prompt=None)  # type: ignore[arg-type]
    models["seedream-v4/image-to-image"](prompt="x", imageUrls=[b"x"])  # type: ignore[list-item]
    # By position.
    models["seedream-v4/text-to-image"]("x")  # type: ignore[call-arg]
    # What follows "##" where there is an alias.
    models["rhart-audio/source-separation"](file="https://x/a.mp4")  # type: ignore[call-arg]
