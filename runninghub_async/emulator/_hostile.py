"""Files that are not what they seem, for a client that should find out."""

from __future__ import annotations

import functools
import struct
import zlib
from typing import Final

from ._pictures import chunk

__all__ = ["bomb", "cut", "flipped"]

#: Of the bomb, in pixels: 3.6 billion of them, of half a byte each.
_SIDE: Final = 60_000
_ROW: Final = 1 + _SIDE // 2
_ROWS: Final = 100


@functools.cache
def bomb() -> bytes:
    """A valid PNG of less than 2 MB: 60,000 x 60,000 pixels, which are 1.8 GB packed into half a
    byte each, and 11 GB as RGB."""
    packer = zlib.compressobj(9, wbits=-15)
    # After a full flush the same bytes may follow again: no need to pack all of it.
    piece = packer.compress(bytes(_ROW * _ROWS)) + packer.flush(zlib.Z_FULL_FLUSH)
    adler = _ROW * _SIDE % 65521 << 16 | 1
    data = (b"\x78\xda", piece * (_SIDE // _ROWS), packer.flush(), struct.pack(">I", adler))
    header = struct.pack(">IIBBBBB", _SIDE, _SIDE, 4, 3, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", bytes(3 * 16)),
            chunk(b"IDAT", b"".join(data)),
            chunk(b"IEND", b""),
        )
    )


def flipped(body: bytes) -> bytes:
    """The same length, but every bit of four bytes is another: no checksum misses that."""
    at = _middle(body)
    other = bytes(byte ^ 0xFF for byte in body[at : at + 4])
    return body[:at] + other + body[at + 4 :]


def cut(body: bytes) -> bytes:
    """What there is up to the middle of the picture."""
    return body[: _middle(body)]


def _middle(body: bytes) -> int:
    """In the middle of a PNG's pixels, and just in the middle of anything else."""
    return (max(0, body.find(b"IDAT")) + len(body)) // 2
