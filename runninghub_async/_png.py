"""Whether a PNG is whole: every checksum looked at, every pixel unpacked, in flat memory."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from ._pieces import MAX_UNPACKED, Broken, Reader, TooLarge

__all__ = ["check_png"]

_PIECE: Final = 2**16
_UNPACKED_PIECE: Final = 2**18

#: The bits of a pixel by colour type, for each of the depths that type allows.
_DEPTHS: Final = {
    0: {1: 1, 2: 2, 4: 4, 8: 8, 16: 16},
    2: {8: 24, 16: 48},
    3: {1: 1, 2: 2, 4: 4, 8: 8},
    4: {8: 16, 16: 32},
    6: {8: 32, 16: 64},
}
_PALETTE: Final = 3

#: Adam7: for each pass the first column and row, and the steps between columns and rows.
_ADAM7: Final = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
    (0, 1, 1, 2),
)  # fmt: skip


def check_png(reader: Reader) -> int:
    """Look through a PNG from its first byte to the end of `IEND`, and return how many pixels it
    has. What follows `IEND` belongs to nobody and is let be.

    Raises `Broken`, and `TooLarge` for a picture that its header alone says is too large.
    """
    reader.take(8)
    kind, length = _head(reader)
    if kind != b"IHDR" or length != 13:
        raise Broken("it does not start with its header")
    width, height, depth, colour, packing, filtering, interlace = struct.unpack(
        ">IIBBBBB", _checked(reader, kind, length)
    )
    bits = _DEPTHS.get(colour, {}).get(depth)
    if bits is None or packing or filtering or interlace > 1:
        raise Broken("its header is invalid")
    if not 0 < width < 2**31 or not 0 < height < 2**31:
        raise Broken(f"its size of {width} x {height} pixels is invalid")
    passes = _passes(width, height, bits, interlaced=bool(interlace))
    if sum(rows * row for rows, row in passes) > MAX_UNPACKED:
        raise TooLarge(
            f"{width} x {height} pixels would unpack to more than the {MAX_UNPACKED} bytes allowed"
        )
    pixels = _Pixels(passes)
    _chunks(reader, pixels, depth, colour)
    pixels.end()
    return int(width * height)


def _chunks(reader: Reader, pixels: _Pixels, depth: int, colour: int) -> None:
    before, palette = b"IHDR", False
    while True:
        kind, length = _head(reader)
        if kind == b"IDAT":
            if colour == _PALETTE and not palette:
                raise Broken("its palette is missing")
            if pixels.begun and before != kind:
                raise Broken("its pixels are scattered")
            _walk(reader, kind, length, pixels)
        elif kind == b"PLTE":
            entries, odd = divmod(length, 3)
            most = 2**depth if colour == _PALETTE else 256
            if palette or pixels.begun or odd or not 0 < entries <= most or colour in (0, 4):
                raise Broken("its palette is none")
            _walk(reader, kind, length)
            palette = True
        elif kind == b"IEND":
            if length:
                raise Broken("its end is none")
            _walk(reader, kind, length)
            return
        elif kind[0] & 0x20:
            _walk(reader, kind, length)
        else:
            raise Broken(f"it needs an unknown part, {kind!r}")
        before = kind


def _head(reader: Reader) -> tuple[bytes, int]:
    length, kind = struct.unpack(">I4s", reader.take(8))
    if length >= 2**31 or not kind.isalpha():
        raise Broken("a part of it has no name")
    return kind, length


def _checked(reader: Reader, kind: bytes, length: int) -> bytes:
    data = reader.take(length)
    _compare(reader, kind, zlib.crc32(data, zlib.crc32(kind)))
    return data


def _walk(reader: Reader, kind: bytes, length: int, pixels: _Pixels | None = None) -> None:
    if length + 4 > reader.left:
        raise Broken("it ends too early")
    checksum = zlib.crc32(kind)
    while length:
        piece = reader.take(min(length, _PIECE))
        checksum = zlib.crc32(piece, checksum)
        if pixels is not None:
            pixels.feed(piece)
        length -= len(piece)
    if pixels is not None:
        pixels.begun = True
    _compare(reader, kind, checksum)


def _compare(reader: Reader, kind: bytes, checksum: int) -> None:
    if reader.take(4) != checksum.to_bytes(4, "big"):
        raise Broken(f"the checksum of its part {kind!r} is wrong")


def _passes(width: int, height: int, bits: int, *, interlaced: bool) -> list[tuple[int, int]]:
    """How many rows there are, and of how many bytes each, the one for the filter included."""
    if not interlaced:
        return [(height, 1 + -(-width * bits // 8))]
    sizes = ((-(-(width - x) // across), -(-(height - y) // down)) for x, y, across, down in _ADAM7)
    return [(rows, 1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 < rows]


class _Pixels:
    """The stream of pixels, unpacked a piece at a time and thrown away."""

    def __init__(self, passes: list[tuple[int, int]]) -> None:
        self.begun = False
        self._unpacker = zlib.decompressobj()
        self._passes = passes
        self._at = 0

    def feed(self, packed: bytes) -> None:
        while not self._unpacker.eof:
            try:
                piece = self._unpacker.decompress(packed, _UNPACKED_PIECE)
            except zlib.error:
                raise Broken("its pixels cannot be unpacked") from None
            self._look(piece)
            packed = self._unpacker.unconsumed_tail
            # Without input left there may still be output held back by the bound on it.
            if not packed and len(piece) < _UNPACKED_PIECE:
                break

    def end(self) -> None:
        if self._passes or not self._unpacker.eof:
            raise Broken("it has fewer pixels than its header says")

    def _look(self, piece: bytes) -> None:
        start = 0
        while start < len(piece):
            if not self._passes:
                raise Broken("it has more pixels than its header says")
            rows, row = self._passes[0]
            end = min(len(piece), start + rows * row - self._at)
            filters = piece[start + -self._at % row : end : row]
            if filters.translate(None, b"\0\1\2\3\4"):
                raise Broken("a row of it has an unknown filter")
            self._at += end - start
            start = end
            if self._at == rows * row:
                self._at = 0
                self._passes = self._passes[1:]
