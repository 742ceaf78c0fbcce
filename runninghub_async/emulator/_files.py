"""Result files of every kind the service makes, each small and valid for what it is."""

from __future__ import annotations

import io
import json
import struct
import wave
from collections.abc import Mapping
from typing import Any

from ._pictures import draw
from ._service import size_of

__all__ = ["TYPES", "make"]

TYPES = {
    "png": "image/png",
    "mp4": "video/mp4",
    "wav": "audio/wav",
    "glb": "model/gltf-binary",
}


def make(kind: str, params: Mapping[str, Any], number: int) -> bytes:
    """The bytes of result `number` of a task with these parameters."""
    if kind == "png":
        return draw(str(params.get("prompt", "")), *size_of(params), seed=number)
    if kind == "wav":
        return _silence()
    return _empty_scene() if kind == "glb" else _empty_film()


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


def _empty_film() -> bytes:
    """The two boxes every MP4 starts with; no player finds a picture in it, and none is claimed."""
    brands = b"isom" + struct.pack(">I", 512) + b"isommp41"
    note = b"runninghub_async emulator: no film was made"
    return b"".join(
        struct.pack(">I", 8 + len(data)) + kind + data
        for kind, data in ((b"ftyp", brands), (b"mdat", note))
    )
