"""A result on disk, as a value. Nothing here opens it."""

from __future__ import annotations

from pathlib import Path

import attrs

__all__ = ["Download"]


@attrs.frozen
class Download:
    """A result on disk: where, how long, the SHA-256 of its bytes in hex, and the type its first
    bytes show (`png`, `jpg`, …; empty when it is no image this package knows)."""

    path: Path
    size: int
    sha256: str
    image_type: str = ""
