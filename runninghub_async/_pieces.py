"""Reading a file that may be anything, piece by piece, never beyond its end. No I/O of its own."""

from __future__ import annotations

from typing import BinaryIO, Final

__all__ = ["MAX_UNPACKED", "Broken", "Reader", "TooLarge", "check_pixels"]

#: The bytes that a picture may have when it is unpacked: 268 million pixels of four bytes.
MAX_UNPACKED: Final = 2**30

#: How many parts a file may be made of; more of them are there to keep a processor busy.
_MAX_STEPS: Final = 2**23

_NEAR: Final = 2**16


class Broken(Exception):
    """The file is not what it should be; the text says why."""


class TooLarge(Exception):
    """The picture would take more memory than it may; the text says how much."""


class Reader:
    """Takes `file`, of `size` bytes, apart from its beginning. Raises `Broken` at its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.at = 0
        self.left = size
        self._file = file
        self._steps = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        self._count(count)
        piece = self._file.read(count)
        if len(piece) != count:
            raise Broken("it ends too early")
        return piece

    def skip(self, count: int) -> None:
        """Leave the next `count` bytes out."""
        self._count(count)
        if count <= _NEAR:
            self._file.read(count)
        else:
            self._file.seek(count, 1)

    def back(self, count: int) -> None:
        """Return the last `count` bytes."""
        self.at -= count
        self.left += count
        self._file.seek(-count, 1)

    def _count(self, count: int) -> None:
        self._steps += 1
        if self._steps > _MAX_STEPS:
            raise Broken("it is made of more parts than any picture")
        if count > self.left:
            raise Broken("it ends too early")
        self.at += count
        self.left -= count


def check_pixels(width: int, height: int, pixel: int = 4) -> int:
    """How many pixels a picture has, each of `pixel` bytes. Raises `Broken` for none and
    `TooLarge` for too many."""
    if width <= 0 or height <= 0:
        raise Broken(f"a picture of {width} x {height} pixels is none")
    if width * height * pixel > MAX_UNPACKED:
        raise TooLarge(
            f"{width} x {height} pixels would unpack to more than the {MAX_UNPACKED} bytes allowed"
        )
    return width * height
