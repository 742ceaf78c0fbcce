"""Result files of every kind the service makes, each small and valid for what it is."""

from __future__ import annotations

import io
import json
import struct
import wave
from collections.abc import Mapping
from typing import Any, Final

from ._pictures import draw
from ._service import size_of, whole, written

__all__ = ["TYPES", "make"]

TYPES: Final = {
    "png": "image/png",
    "mp4": "video/mp4",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "glb": "model/gltf-binary",
    "txt": "text/plain",
}

#: Pixels of a film's only picture.
_FILM: Final = (640, 360)

#: MPEG-1 layer III, 32 kbit/s, 44.1 kHz, one channel. The 17 bytes of side information that
#: follow are zero, which says that no bits were spent on sound; so all that follows is, too.
_MP3_FRAME: Final = b"\xff\xfb\x10\xc4".ljust(144 * 32000 // 44100, b"\0")
_MP3_FRAMES_PER_SECOND: Final = 44100 / 1152


def make(kind: str, params: Mapping[str, Any], number: int) -> bytes:
    """The bytes of result `number` of a task with these parameters."""
    prompt = str(params.get("prompt", ""))
    if kind == "png":
        return draw(prompt, *size_of(params), seed=number)
    if kind == "mp4":
        seconds = whole(params.get("duration"), 5, 1, 600)
        return _film(draw(prompt, *_FILM, seed=number), seconds)
    if kind == "txt":
        return written(params).encode("utf-8", "replace")
    if kind == "glb":
        return _empty_scene()
    return _silence() if kind == "wav" else _MP3_FRAME * round(_MP3_FRAMES_PER_SECOND)


def _silence() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(2 * 8000))
    return file.getvalue()


def _empty_scene() -> bytes:
    scene = json.dumps({"asset": {"version": "2.0", "generator": "runninghub_async emulator"}})
    body = scene.encode().ljust(-(-len(scene) // 4) * 4)
    header = struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(body))
    return header + struct.pack("<I4s", len(body), b"JSON") + body


# -- films ----------------------------------------------------------------------------------------

#: ISO/IEC 14496-12 boxes want these constants: times count milliseconds, and the matrix leaves
#: the picture as it is.
_TICKS: Final = 1000
_MATRIX: Final = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
_ENGLISH: Final = 0x55C4

#: Of the codings that MP4 registers, the one of still PNGs needs no encoder (mp4ra.org, 0x6D).
_PNG_CODING: Final = 0x6D


def _film(picture: bytes, seconds: int) -> bytes:
    """One picture, shown for `seconds`: a whole MP4 with one video track of one sample."""
    head = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isommp41")
    # The index says where the picture is, which depends on how long the index is.
    length = len(_movie(len(picture), seconds, 0))
    index = _movie(len(picture), seconds, len(head) + length + 8)
    return head + index + _box(b"mdat", picture)


def _movie(size: int, seconds: int, offset: int) -> bytes:
    width, height = _FILM
    ticks = seconds * _TICKS
    mvhd = _full(
        b"mvhd", 0, struct.pack(">4IIH10x", 0, 0, _TICKS, ticks, 0x10000, 0x0100),
        _MATRIX, bytes(24), struct.pack(">I", 2),
    )  # fmt: skip
    tkhd = _full(
        b"tkhd", 3, struct.pack(">5I16x", 0, 0, 1, 0, ticks),
        _MATRIX, struct.pack(">2I", width << 16, height << 16),
    )  # fmt: skip
    mdhd = _full(b"mdhd", 0, struct.pack(">4I2H", 0, 0, _TICKS, ticks, _ENGLISH, 0))
    hdlr = _full(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"drawn\0")
    dref = _full(b"dref", 0, struct.pack(">I", 1), _full(b"url ", 1))
    stbl = _box(
        b"stbl",
        _full(b"stsd", 0, struct.pack(">I", 1), _coding(width, height)),
        _full(b"stts", 0, struct.pack(">3I", 1, 1, ticks)),
        _full(b"stsc", 0, struct.pack(">4I", 1, 1, 1, 1)),
        _full(b"stsz", 0, struct.pack(">3I", 0, 1, size)),
        _full(b"stco", 0, struct.pack(">2I", 1, offset)),
    )
    minf = _box(b"minf", _full(b"vmhd", 1, bytes(8)), _box(b"dinf", dref), stbl)
    trak = _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, minf))
    return _box(b"moov", mvhd, trak)


def _coding(width: int, height: int) -> bytes:
    decoder = _descriptor(4, struct.pack(">BBxxx2I", _PNG_CODING, 0x11, 0, 0))
    stream = _descriptor(3, struct.pack(">HB", 1, 0), decoder, _descriptor(6, b"\x02"))
    return _box(
        b"mp4v",
        struct.pack(">6xH16x2H", 1, width, height),
        struct.pack(">2I4xH32xHh", 72 << 16, 72 << 16, 1, 24, -1),
        _full(b"esds", 0, stream),
    )


def _descriptor(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes((tag, len(body))) + body


def _full(kind: bytes, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + kind + body
