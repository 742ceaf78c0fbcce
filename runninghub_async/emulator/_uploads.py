"""Uploads: what a form holds, what is kept of it, and the two-step way of a LoRA."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from pathlib import PurePath
from typing import Any, Final

import attrs

from ._codes import says
from ._service import Service
from ._v1 import done, refused

__all__ = ["MAX_UPLOAD", "Part", "Uploads", "digest_of", "form_in"]

#: The documentation's guidance for uploads; some clients have sent more.
MAX_UPLOAD: Final = 30 * 2**20

#: Seconds for which an uploaded file, and the place for a LoRA, can be reached.
_A_DAY: Final = 86400.0
_AN_HOUR: Final = 3600.0

#: How many uploads are kept, and how many bytes of them; the first ones are forgotten.
_KEPT: Final = 64
_KEPT_BYTES: Final = 256 * 2**20

_MEDIA: Final = {
    "image": {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp"},
    "video": {".mp4", ".mov", ".avi", ".mkv"},
    "audio": {".mp3", ".wav", ".flac"},
}


@attrs.frozen
class Part:
    """One field of a form; `filename` is None where there was none."""

    name: str
    filename: str | None
    body: bytes


def form_in(content_type: str, body: bytes) -> list[Part]:
    """The fields of a multipart body; empty for what is none."""
    kind, _, rest = content_type.partition(";")
    boundary = _parameter(rest, "boundary")
    if not kind.strip().lower().startswith("multipart/") or not boundary:
        return []
    parts = []
    for piece in (b"\r\n" + body).split(b"\r\n--" + boundary.encode("utf-8", "replace"))[1:]:
        head, found, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not found or piece.startswith(b"--"):
            continue
        lines = head.decode("utf-8", "replace").split("\r\n")
        for line in lines:
            field, _, value = line.partition(":")
            if field.strip().lower() == "content-disposition":
                name, filename = _parameter(value, "name"), _parameter(value, "filename")
                parts.append(Part(name or "", filename, content))
    return parts


def _parameter(header: str, name: str) -> str | None:
    for piece in header.split(";"):
        key, found, value = piece.partition("=")
        if found and key.strip().lower() == name:
            return value.strip().strip('"')
    return None


class Uploads:
    """The files of one emulator, in memory, the last 64 or 256 MB; of LoRAs only their digests."""

    def __init__(self, service: Service, limit: int, *, english: bool = False) -> None:
        self._service = service
        self._english = english
        self.limit = limit
        self._files: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._loras: set[str] = set()

    def newer(self, part: Part | None, digest: str, origin: str, now: float) -> dict[str, Any]:
        """Answer `POST /openapi/v2/media/upload/binary`; a size is text there."""
        if part is None:
            return says("message", "301")[0]
        if len(part.body) > self.limit:
            return says("message", "809")[0]
        stored, kind = self._keep(part, digest, now)
        # Each site has its own word for a success and for the name.
        return {
            "code": 200 if self._english else 0,
            "message": "success",
            "data": {
                "type": kind,
                "download_url": f"{origin}/uploads/{stored}",
                "filename" if self._english else "fileName": f"openapi/{stored}",
                "size": str(len(part.body)),
            },
        }

    def older(self, part: Part | None, digest: str, kind: str, now: float) -> dict[str, Any]:
        """Answer `POST /task/openapi/upload`; an archive's name has no extension there."""
        if part is None:
            return refused("301")
        if len(part.body) > self.limit:
            return refused("809")
        stored, _ = self._keep(part, digest, now)
        name = stored.removesuffix(".zip")
        return done({"fileName": f"api/{name}", "fileType": kind or "input"})

    def native(self, part: Part | None, now: float) -> dict[str, Any] | None:
        """Answer ComfyUI's own `POST /upload/image`; None for a form without one."""
        if part is None or len(part.body) > self.limit:
            return None
        self._files[name := part.filename or "image.png"] = part.body, now + _A_DAY
        self._trim()
        return {"name": name, "subfolder": "", "type": "input"}

    def shown(self, name: str, now: float) -> bytes | None:
        """The bytes of an upload by the name that either upload gave it."""
        stored = name.removeprefix("api/").removeprefix("openapi/")
        found = (self.file(each, now) for each in (stored, f"{stored}.zip"))
        return next((body for body in found if body is not None), None)

    def file(self, name: str, now: float) -> bytes | None:
        """The bytes of an upload, for as long as its URL holds."""
        body, until = self._files.get(name, (None, 0.0))
        return body if now < until else None

    def _keep(self, part: Part, digest: str, now: float) -> tuple[str, str]:
        ending = PurePath(part.filename or "file").suffix.lower()[:8]
        kind = next((k for k, endings in _MEDIA.items() if ending in endings), "file")
        self._files[stored := digest + ending] = part.body, now + _A_DAY
        self._trim()
        return stored, kind

    def _trim(self) -> None:
        held = sum(len(body) for body, _ in self._files.values())
        while len(self._files) > _KEPT or (held > _KEPT_BYTES and len(self._files) > 1):
            _, (body, _) = self._files.popitem(last=False)
            held -= len(body)

    # -- LoRAs --------------------------------------------------------------------------------

    def lora_place(self, params: Any, origin: str, now: float) -> dict[str, Any]:
        """Answer `POST /api/openapi/getLoraUploadUrl`; no `url` where the file is there."""
        fields = params if isinstance(params, dict) else {}
        name, md5 = fields.get("loraName"), fields.get("md5Hex")
        if not isinstance(name, str) or not name or not isinstance(md5, str) or len(md5) != 32:
            return refused("301", "loraName and md5Hex must not be null")
        file = f"{md5.lower()}.safetensors"
        data = {"fileName": f"api-lora-cn/{file}"}
        if md5.lower() not in self._loras:
            sign = self._service.sign(file, 0, now, _AN_HOUR)
            data["url"] = f"{origin}/loras/{file}?sign={sign}"
        return done(data)

    def lora_allowed(self, file: str, sign: str, now: float) -> bool:
        """Whether a file may be put there, with this signature, now."""
        return self._service.signed(file, 0, sign, now)

    def lora_put(self, file: str, md5: str) -> bool:
        """Keep in mind that a file arrived; False if it is not the one it was said to be."""
        if file != f"{md5}.safetensors":
            return False
        self._loras.add(md5)
        return True


def digest_of(body: bytes) -> str:
    """The name that a file is kept by."""
    return hashlib.sha256(body).hexdigest()
