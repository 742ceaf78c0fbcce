"""Checks that a file is what was announced and, if it is a picture, that it is whole.

PNG pictures are unpacked to their last pixel, the other kinds walked through by their structure;
`_decode` has more to say of those. Video, audio and archives are known by their first bytes,
other types by `_impostors`. No I/O of its own.
"""

from __future__ import annotations

import re
import struct
from typing import Final

from ._media import HEAD, canonical, is_known, kind_of, sniff
from ._pieces import Broken, Reader, check_pixels
from ._png import check_png

__all__ = ["check_whole"]

_BLOCK: Final = 2**12

_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SIZES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START, _END, _SCAN, _TEMPORARY = 0xD8, 0xD9, 0xDA, 0x01

#: The format's limit for pictures; its header has room for pictures a thousand times as wide, on
#: which decoders spend minutes.
_MAX_WEBP_SIDE: Final = 2**14

#: Uncompressed, and the same with masks for its channels.
_PLAIN_BMP: Final = (0, 3, 6)


def check_whole(reader: Reader, announced: str) -> tuple[str, int]:
    """The type of a file as its first bytes show it, and how many pixels it has (0 unless it is a
    known kind of picture).

    `announced` is the type it should have; empty if unknown. A picture may be of another kind
    than announced, and so may video or audio. Raises `Broken` and `TooLarge`.
    """
    head = reader.take(min(HEAD, reader.left))
    reader.back(len(head))
    kind = sniff(head)
    _check_kind(kind, announced, head)
    if announced and kind_of(announced) != "image":
        return kind, 0
    if not announced and kind == "bmp":
        # Two letters, with which a text may start, too.
        return kind, 0
    check = _CHECKS.get(kind)
    return kind, check(reader) if check else 0


def _check_kind(kind: str, announced: str, head: bytes) -> None:
    family = kind_of(announced)
    if family == "image":
        if kind_of(kind) != family:
            raise Broken(
                f"not an image although announced as {announced}: it starts with {head[:8]!r}"
            )
    elif family:
        # Many containers hold video as well as audio.
        if kind_of(kind) not in ("video", "audio"):
            raise Broken(f"neither video nor audio although announced as {announced}:"
                         f" it starts with {head[:8]!r}")  # fmt: skip
    elif is_known(announced) and kind != canonical(announced):
        raise Broken(f"announced as {announced}, but it starts with {head[:8]!r}")


def _jpeg(reader: Reader) -> int:
    """From marker to marker, through the data of the scans, to the end of the image."""
    pixels, scanned = 0, False
    reader.take(2)
    while True:
        marker = _next_marker(reader)
        if marker == _END:
            if not scanned:
                raise Broken("it has no pixels")
            return pixels
        if marker in (_START, _TEMPORARY):
            continue
        length = int.from_bytes(reader.take(2), "big") - 2
        if length < 0:
            raise Broken("a part of it has no length")
        if marker in _SIZES:
            if length < 6:
                raise Broken("it does not tell its size")
            height, width = struct.unpack(">xHHx", reader.take(6))
            pixels = check_pixels(width, height)
            length -= 6
        if marker == _SCAN:
            if not pixels:
                raise Broken("its pixels come before their size")
            scanned = True
        reader.skip(length)


def _next_marker(reader: Reader) -> int:
    while True:
        block = reader.take(min(_BLOCK, reader.left))
        found = _MARKER.search(block)
        if found:
            reader.back(len(block) - found.end())
            return block[found.end() - 1]
        if not reader.left:
            raise Broken("it ends too early")
        if block.endswith(b"\xff"):
            reader.back(1)


def _webp(reader: Reader) -> int:
    size = int.from_bytes(reader.take(12)[4:8], "little") - 4
    if size > reader.left:
        raise Broken("it ends too early")
    end = reader.at + size
    pixels, shown = 0, False
    while end - reader.at >= 8:
        kind, length = struct.unpack("<4sI", reader.take(8))
        if length > end - reader.at:
            raise Broken("a part of it is longer than all of it")
        head = reader.take(min(10, length))
        if not pixels:
            width, height = _webp_size(kind, head)
            if max(width, height) > _MAX_WEBP_SIDE:
                raise Broken(f"no WebP has {width} x {height} pixels")
            pixels = check_pixels(width, height)
        shown = shown or kind in (b"VP8 ", b"VP8L", b"ANMF")
        # Padded to an even length; at the very end some leave that out.
        reader.skip(min(length - len(head) + length % 2, end - reader.at))
    if not shown:
        raise Broken("it has no pixels")
    return pixels


def _webp_size(kind: bytes, head: bytes) -> tuple[int, int]:
    if kind == b"VP8X" and len(head) == 10:
        return (int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1)
    if kind == b"VP8L" and len(head) >= 5 and head[0] == 0x2F:
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(head) == 10 and head[3:6] == b"\x9d\x01\x2a":
        width, height = struct.unpack("<HH", head[6:])
        return width & 0x3FFF, height & 0x3FFF
    raise Broken("it does not tell its size")


def _gif(reader: Reader) -> int:
    width, height, flags = struct.unpack("<HHBxx", reader.take(13)[6:])
    pixels, shown = check_pixels(width, height), False
    _skip_colours(reader, flags)
    while (block := reader.take(1)) != b";":
        if block == b",":
            _skip_colours(reader, reader.take(9)[8])
            reader.take(1)
            shown = True
        elif block == b"!":
            reader.take(1)
        else:
            raise Broken(f"a part of it is none: {block!r}")
        while length := reader.take(1)[0]:
            reader.skip(length)
    if not shown:
        raise Broken("it has no pixels")
    return pixels


def _skip_colours(reader: Reader, flags: int) -> None:
    if flags & 0x80:
        reader.skip(3 * 2 ** ((flags & 7) + 1))


def _bmp(reader: Reader) -> int:
    size = reader.left
    start, header = struct.unpack("<II", reader.take(18)[10:])
    packing = packed = 0
    if header == 12:
        width, height, bits = struct.unpack("<HHxxH", reader.take(8))
    elif header >= 40:
        width, height, bits, packing, packed = struct.unpack("<iixxHII", reader.take(20))
    else:
        raise Broken("its header says what no BMP says")
    pixels = check_pixels(width, abs(height))
    if packing in _PLAIN_BMP:
        packed = -(-width * bits // 32) * 4 * abs(height)
    if not packed or start < 14 + header or start + packed > size:
        raise Broken("it ends too early")
    return pixels


_CHECKS: Final = {"png": check_png, "jpg": _jpeg, "webp": _webp, "gif": _gif, "bmp": _bmp}
