"""Result files of every kind the service makes, each small and valid for what it is."""

from __future__ import annotations

import functools
import io
import json
import struct
import wave
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from ._pictures import draw
from ._service import size_of, written

__all__ = ["TYPES", "make"]

TYPES: Final = {
    "png": "image/png",
    "mp4": "video/mp4",
    "mp3": "audio/mpeg",
    "wav": "audio/wav",
    "glb": "model/gltf-binary",
    "txt": "text/plain",
}

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
        return _film()
    if kind == "txt":
        return written(params).encode("utf-8", "replace")
    if kind == "glb":
        return _empty_scene()
    return _silence() if kind == "wav" else _MP3_FRAME * round(_MP3_FRAMES_PER_SECOND)


@functools.cache
def _film() -> bytes:
    """Three seconds of H.264, since that is what every player knows; the same for all."""
    return resources.files("runninghub_async").joinpath("emulator/film.mp4").read_bytes()


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
