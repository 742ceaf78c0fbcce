"""Pictures that are drawn, not generated: cheap PNGs of any size, a poster where Pillow is there.

A picture is drawn at a quarter of its size in four colours. In a PNG of two bits per pixel one
such pixel, four wide, is just one byte; and three rows of four are "the same as above", which is
a row of zeros under the PNG filter Up. So little is left to compress that 2048 x 2048 takes a
few milliseconds.
"""

from __future__ import annotations

import colorsys
import functools
import hashlib
import math
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

__all__ = ["chunk", "draw", "sketch"]

SCALE: Final = 4

#: The size at which text is measured once, and how much of a prompt is shown at most.
_REFERENCE: Final = 20
_LONGEST: Final = 260

#: How far a letter may reach over its own width, in pixels.
_BEARING: Final = 3
_PIXELS: Final = bytes(value * 0x55 for value in range(4)) + bytes(252)

PAPER, SHADE, ACCENT, INK = range(4)


def draw(prompt: str, width: int, height: int, seed: int = 0) -> bytes:
    """A PNG of `width` x `height` pixels that belongs to `prompt` and `seed`."""
    pillow = _pillow()
    if pillow is None:
        return sketch(prompt, width, height, seed)
    digest = _digest(prompt, seed)
    columns, rows = -(-width // SCALE), -(-height // SCALE)
    coarse = _poster(pillow, prompt, digest, columns, rows)
    return _png(coarse, columns, width, height, _palette(digest))


def sketch(prompt: str, width: int, height: int, seed: int = 0) -> bytes:
    """The same without words: it needs no fonts, so it can be drawn on the event loop."""
    digest = _digest(prompt, seed)
    columns, rows = -(-width // SCALE), -(-height // SCALE)
    return _png(_pattern(digest, columns, rows), columns, width, height, _palette(digest))


def _digest(prompt: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\n{prompt}".encode("utf-8", "replace")).digest()


def _png(coarse: bytes, columns: int, width: int, height: int, palette: bytes) -> bytes:
    again = b"\x02" + bytes(columns)
    repeated = again * (SCALE - 1) + b"\x00"
    packed = coarse.translate(_PIXELS)
    rows = [packed[start : start + columns] for start in range(0, len(packed), columns)]
    lines = [b"\x00", repeated.join(rows), again * ((height - 1) % SCALE)]
    header = struct.pack(">IIBBBBB", width, height, 2, 3, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"PLTE", palette),
            chunk(b"tEXt", b"Software\x00runninghub_async emulator: drawn, not generated"),
            chunk(b"IDAT", _deflate(b"".join(lines))),
            chunk(b"IEND", b""),
        )
    )


def _deflate(data: bytes) -> bytes:
    # Runs of equal bytes are all there is to find, and looking for nothing else is faster.
    packer = zlib.compressobj(3, strategy=zlib.Z_RLE)
    return packer.compress(data) + packer.flush()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG, with its length and its checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _palette(digest: bytes) -> bytes:
    hue = digest[0] / 256
    dark = digest[1] & 1
    paper = (hue, 0.10 + 0.25 * digest[2] / 256, 0.97) if not dark else (hue, 0.55, 0.20)
    shade = (hue, paper[1] + 0.14, 0.86) if not dark else (hue, 0.50, 0.34)
    accent = ((hue + 0.28 + 0.44 * digest[3] / 256) % 1, 0.72, 0.88 if dark else 0.80)
    ink = (hue, 0.60, 0.16) if not dark else (hue, 0.08, 0.98)
    colours = (paper, shade, accent, ink)
    return b"".join(
        bytes(round(channel * 255) for channel in colorsys.hsv_to_rgb(*colour))
        for colour in colours
    )


def _pattern(digest: bytes, columns: int, rows: int) -> bytes:
    """Without Pillow: broad tiles by the digest's bits, and a frame."""
    tiles = 8
    across = [x * tiles // columns for x in range(columns)]
    lines = []
    for tile in range(tiles):
        row = bytes(
            (digest[(tile * 4 + at // 2) % 32] >> (at % 4) * 2 & 3) if digest[at] % 3 else PAPER
            for at in range(tiles)
        )
        lines.append(bytes(row[at] for at in across))
    return b"".join(lines[y * tiles // rows] for y in range(rows))


@functools.cache
def _pillow() -> Any:
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        return None
    return Image, ImageDraw, ImageFont


def _poster(pillow: Any, prompt: str, digest: bytes, columns: int, rows: int) -> bytes:
    image_module, draw_module, _ = pillow
    image = image_module.new("L", (columns, rows), PAPER)
    pen = draw_module.Draw(image)
    pen.fontmode = "1"
    _motif(pen, digest, columns, rows)
    margin = max(4, columns // 14)
    script, text = _script(prompt), prompt.strip()[:_LONGEST] or "(no prompt)"
    room = columns - 2 * margin
    size = _fitting(_length(_font(pillow, _REFERENCE, script), text), room, rows * 0.5)
    size = max(9, min(size, columns // 11))
    font = _font(pillow, size, script)
    step = round(size * 1.22)
    lines = list(_wrapped(text, font, room))
    lines = lines[: max(1, int(rows * 0.52) // step)]
    top = rows - margin - round(columns / 20) - len(lines) * step
    pen.rectangle((0, top - margin // 2, columns, rows), fill=PAPER)
    pen.rectangle((margin, top - margin // 2, margin * 3, top - margin // 2 + 3), fill=ACCENT)
    for number, line in enumerate(lines):
        _write(pillow, pen, (margin, top + number * step), line, font, script)
    pen.bitmap((margin, rows - margin - columns // 42), _foot(pillow, columns // 42), fill=ACCENT)
    return image.tobytes()  # type: ignore[no-any-return]


def _write(pillow: Any, pen: Any, at: tuple[int, int], line: str, font: Any, script: str) -> None:
    """One line of text, stamped letter by letter: laying it out anew takes twenty times as long.
    Scripts whose letters join are laid out all the same."""
    x: float
    x, y = at
    if script == "wide":
        pen.text((x, y), line, font=font, fill=INK)
        return
    for character in line:
        if not character.isspace():
            pen.bitmap((round(x) - _BEARING, y), _letter(pillow, font, character), fill=INK)
        x += _advance(font, character)


@functools.lru_cache(maxsize=4096)
def _letter(pillow: Any, font: Any, character: str) -> Any:
    size = math.ceil(_advance(font, character)) + 2 * _BEARING
    stamp = pillow[0].new("1", (size, 2 * round(font.size)))
    pen = pillow[1].Draw(stamp)
    pen.fontmode = "1"
    pen.text((_BEARING, 0), character, font=font, fill=1)
    return stamp


@functools.lru_cache(maxsize=64)
def _foot(pillow: Any, size: int) -> Any:
    """The line that says what the picture is, ready to be stamped."""
    text, font = "EMULATOR · drawn, not generated by a model", _font(pillow, max(8, size), "latin")
    # Without smoothing each letter is rounded up to whole pixels, so the line runs longer.
    stamp = pillow[0].new("1", (math.ceil(1.5 * font.getlength(text)), 2 * size + 8))
    pen = pillow[1].Draw(stamp)
    pen.fontmode = "1"
    pen.text((0, 0), text, font=font, fill=1)
    return stamp


def _motif(pen: Any, digest: bytes, columns: int, rows: int) -> None:
    pen.rectangle((0, 0, columns, rows // 2), fill=SHADE)
    kind = digest[4] % 4
    unit = columns // 8
    for number in range(5 + digest[5] % 4):
        a, b = digest[6 + number], digest[16 + number]
        x, y = a * columns // 256, b * rows // 2 // 256
        fill = (ACCENT, INK, PAPER)[(a ^ b) % 3]
        reach = unit // 2 + (a + b) % max(1, unit)
        if kind == 0:
            pen.ellipse((x - reach, y - reach, x + reach, y + reach), fill=fill)
        elif kind == 1:
            pen.polygon(((x, y - reach), (x + reach, y + reach), (x - reach, y + reach)), fill=fill)
        elif kind == 2:
            pen.rectangle((x - reach // 3, 0, x + reach // 3, y + reach), fill=fill)
        else:
            pen.arc((x - reach, y - reach, x + reach, y + reach), a, a + 250, fill, unit // 6 + 1)


def _fitting(length: float, room: float, height: float) -> int:
    """The size at which text of `length` at the reference size fills lines of `room` up to
    `height`; the ragged edge costs about an eighth."""
    return int(0.88 * math.sqrt(height * room * _REFERENCE / (1.22 * max(1.0, length))))


def _wrapped(text: str, font: Any, room: int) -> Iterator[str]:
    """`text` in lines that fit; a word longer than a line is broken anywhere."""
    space = _length(font, " ")
    line, used = "", 0.0
    for word in text.split():
        length = _length(font, word)
        if line and used + space + length <= room:
            line, used = f"{line} {word}", used + space + length
            continue
        if line:
            yield line
        rest = word
        while length > room:
            fits = max(1, int(len(rest) * room / length))
            yield rest[:fits]
            rest = rest[fits:]
            length = _length(font, rest)
        line, used = rest, length
    yield line


@functools.lru_cache(maxsize=8192)
def _advance(font: Any, character: str) -> float:
    return float(font.getlength(character))


def _length(font: Any, text: str) -> float:
    """How long `text` runs, but for kerning: close enough to break lines by, and much faster."""
    return sum(_advance(font, character) for character in text)


def _script(text: str) -> str:
    if any(0x2E80 <= ord(character) <= 0xFFEF for character in text):
        return "cjk"
    return "latin" if text.isascii() else "wide"


#: Font files by what they cover, best first; a system has what it has.
_FONTS: Final = {
    "cjk": ("NotoSansCJK-B", "NotoSansCJK", "SourceHanSans", "PingFang", "Hiragino Sans", "msyhbd",
            "msyh", "malgun", "wqy-", "Arial Unicode", "unifont"),
    "wide": ("DejaVuSans-Bold.", "NotoSans-Bold.", "Arial Bold", "arialbd", "LiberationSans-Bold"),
    "latin": (),
}  # fmt: skip


@functools.cache
def _font_files() -> tuple[Path, ...]:
    home = Path.home()
    known: dict[str, list[str | Path]] = {
        "darwin": ["/System/Library/Fonts", "/Library/Fonts", home / "Library/Fonts"],
        "win32": [Path(os.environ.get("SYSTEMROOT", "C:/Windows")) / "Fonts"],
    }
    folders = known.get(
        sys.platform, ["/usr/share/fonts", "/usr/local/share/fonts", home / ".fonts"]
    )
    return tuple(
        file
        for folder in folders
        for file in sorted(Path(folder).rglob("*"))
        if file.suffix.lower() in (".ttf", ".otf", ".ttc")
    )


def _layout(fonts: Any, script: str) -> Any:
    # Complex layout costs as much as drawing; only some scripts need it.
    return fonts.Layout.RAQM if script == "wide" else fonts.Layout.BASIC


@functools.lru_cache(maxsize=256)
def _font(pillow: Any, size: int, script: str) -> Any:
    fonts = pillow[2]
    for name in _FONTS[script]:
        for file in _font_files():
            if name.lower() in file.name.lower():
                return fonts.truetype(str(file), size, layout_engine=_layout(fonts, script))
    return fonts.load_default(size)
