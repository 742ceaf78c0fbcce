"""What a file is, from its first bytes, and whether a place takes it. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final, Protocol, TypeGuard

__all__ = [
    "HEAD",
    "FilePath",
    "canonical",
    "check_file",
    "content_type",
    "is_file",
    "is_known",
    "kind_of",
    "sniff",
]

#: How many of a file's first bytes `sniff` wants.
HEAD: Final = 64

_SIGNATURES: Final = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"glTF", "glb"),
    (b"ID3", "mp3"),
    (b"fLaC", "flac"),
    (b"OggS", "ogg"),
    (b"\x1aE\xdf\xa3", "mkv"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
)
_RIFF: Final = {b"WEBP": "webp", b"WAVE": "wav", b"AVI ": "avi"}

#: The type of a file of the ISO base media format that is not MP4.
_BRANDS: Final = {
    b"qt  ": "mov", b"M4A ": "m4a", b"avif": "avif", b"avis": "avif", b"heic": "heic",
    b"heix": "heic", b"mif1": "heic",
}  # fmt: skip

_TYPES: Final = {
    "png": "image/png", "jpg": "image/jpeg", "gif": "image/gif", "bmp": "image/bmp",
    "tiff": "image/tiff", "webp": "image/webp",
    "avif": "image/avif", "heic": "image/heic",
    "mp4": "video/mp4", "mov": "video/quicktime", "avi": "video/x-msvideo",
    "mkv": "video/x-matroska",
    "mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg",
    "m4a": "audio/mp4",
    "glb": "model/gltf-binary", "zip": "application/zip",
}  # fmt: skip

#: Endings that mean the same, and containers that only their name tells apart.
_SAME: Final = {
    "jpeg": "jpg", "tif": "tiff", "webm": "mkv", "m4v": "mp4", "qt": "mov", "oga": "ogg",
    "wave": "wav", "heif": "heic",
}  # fmt: skip


class FilePath(Protocol):
    """A `pathlib.Path` or its like."""

    def __fspath__(self) -> str:
        """The path as text."""
        ...


def is_file(value: Any) -> TypeGuard[FilePath]:
    """Whether `value` names a local file: a `pathlib.Path` or its like. Text is a URL."""
    return hasattr(value, "__fspath__") and not isinstance(value, str)


def sniff(head: bytes) -> str:
    """The type of the file that starts with `head` (`png`, `mp4`, …); empty if it is none that
    is known."""
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "")
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12], "mp4")
    # An MPEG audio frame: eleven set bits, layer III.
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2:
        return "mp3"
    return ""


def canonical(kind: str) -> str:
    """The type that `kind`, a file's ending, stands for, as `sniff` names it."""
    return _SAME.get(kind, kind)


def is_known(kind: str) -> bool:
    """Whether `sniff` can tell files of this type by their first bytes."""
    return canonical(kind) in _TYPES


def kind_of(kind: str) -> str:
    """`image`, `video` or `audio` for a type of `sniff`, or for one of these words; else empty."""
    family = _TYPES.get(canonical(kind), kind).partition("/")[0]
    return family if family in ("image", "video", "audio") else ""


def content_type(kind: str) -> str:
    """The MIME type of a type as `sniff` names it."""
    return _TYPES.get(canonical(kind), "application/octet-stream")


def check_file(
    name: str,
    size: int,
    head: bytes,
    *,
    family: str = "",
    accept: tuple[str, ...] = (),
    max_size_mb: float | None = None,
) -> Iterator[str]:
    """Every reason not to send a file of this name, size and beginning to such a place.

    `family`: `image`, `video` or `audio`; `accept`: the endings that the place takes. A type
    that is not recognised goes by the file's ending.
    """
    if size == 0:
        yield f"{name} is empty"
        return
    ending = name.rpartition(".")[2].lower() if "." in name else ""
    kind = sniff(head) or canonical(ending)
    if family and kind_of(kind) != family:
        yield f"{name} is {f'a {kind} file' if kind else 'of no known type'}, not {_an(family)}"
    elif accept and not {kind, ending} & {*accept, *map(canonical, accept)}:
        yield f"{name} is {_an(kind)}; taken are {', '.join(accept)}"
    if max_size_mb is not None and size > max_size_mb * 2**20:
        yield f"{name} has {math.ceil(size / 2**20)} MB; at most {max_size_mb:g} MB are taken"


def _an(word: str) -> str:
    return f"an {word}" if word[:1] in "aeiou" else f"a {word}"
