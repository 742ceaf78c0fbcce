"""Whether a file may be what was announced, where `_whole` has no rule for its type. No I/O.

A sign-in page, a portal or an error document often comes with HTTP 200 and under any name. It is
found by its content; the host's `Content-Type` and the announced type only say what to expect.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from typing import Any, Final

__all__ = ["LOOK", "impostor"]

#: How many of a file's first bytes `impostor` wants. An error document is no longer than that.
LOOK: Final = 2**16

_TEXTS: Final = frozenset({"txt", "text", "md", "markdown"})
#: What may be a page, an error document in JSON, and one in XML.
_PAGES: Final = _TEXTS | {"html", "htm", "xhtml", "mhtml"}
_JSON: Final = _TEXTS | {"json", "jsonl", "ndjson", "geojson", "ipynb", "log"}
_XML: Final = _PAGES | {"xml", "xsd", "xsl", "rss", "log"}

#: Types without a signature of their own that are never text; and the prefixes of text types.
_NO_TEXT: Final = frozenset({"safetensors", "onnx", "splat", "dds", "tga"})
_DOCUMENTS: Final = ("application/json", "application/problem+json", "application/xml")

#: What stands before the first element of a document.
_BEFORE: Final = re.compile(r"(?:\s+|<!--.*?-->|<\?.*?\?>)+", re.DOTALL)

#: The elements by which browsers know a page, and a comment that does not end.
_PAGE: Final = re.compile(
    r"<(?:!doctype\s+html|html|head|body|title|meta|script|style|iframe|link|center|noscript|main"
    r"|div|span|font|table|form|h[1-6]|br|p|a|b|!--)(?![a-z0-9_:.-])",
    re.IGNORECASE,
)
_XML_ERROR: Final = re.compile(r"<(?:[a-z]+:)?error(?:response|s)?[\s>/]", re.IGNORECASE)

#: Keys of a JSON answer about an error. Those of the second kind count only if the answer has no
#: keys but those of an envelope.
_ERROR_KEYS: Final = frozenset(
    {"error", "errors", "errorcode", "errormessage", "errmsg", "errcode", "errno", "exception"}
)
_SAYING: Final = frozenset({"code", "msg", "message", "detail", "status", "statuscode", "success"})
_ENVELOPE: Final = _SAYING | {
    "data", "result", "requestid", "traceid", "timestamp", "time", "path", "type", "title",
    "instance", "reason", "hostid", "ok", "info", "documentation",
}  # fmt: skip
_ERROR_START: Final = re.compile(r'\{\s*"(?:error\w*|err\w{2,4}|code|msg)"', re.IGNORECASE)

_GZIP: Final = b"\x1f\x8b\x08"
_GZIPPED: Final = frozenset({"gz", "tgz", "gzip", "svgz", "spz"})


def impostor(head: bytes, size: int, announced: str, content_type: str = "") -> str:
    """What is wrong with a file that starts with `head`, its first `LOOK` bytes, and has `size`
    bytes; empty if it may be what was announced.

    `announced` is its type as a file extension, empty if unknown; `content_type` is the
    header. Types that `_media.sniff` knows are not checked here.
    """
    shown = f"it starts with {head[:8]!r}"
    test = _TESTS.get(announced)
    if test is not None:
        return "" if test(head, size) else f"announced as {announced}, but {shown}"
    found = _page_in(_text(head, announced), size, announced)
    if not found and b"\0" not in head[:1024]:
        found = _by_header(content_type.partition(";")[0].strip().lower(), announced)
    what = f"announced as {announced}" if announced else "no text was announced"
    return f"{found} although {what}: {shown}" if found else ""


def _by_header(content_type: str, announced: str) -> str:
    if announced not in _PAGES and content_type in ("text/html", "application/xhtml+xml"):
        return "a web page, by its Content-Type,"
    if announced in _NO_TEXT and content_type.startswith(("text/", *_DOCUMENTS)):
        return "a text, by its Content-Type,"
    return ""


def _text(head: bytes, announced: str) -> str:
    """The beginning as text, unpacked if needed. Invalid bytes are replaced."""
    if head.startswith(_GZIP) and announced not in _GZIPPED:
        try:
            head = zlib.decompressobj(31).decompress(head, LOOK)
        except zlib.error:
            return ""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return head.decode("utf-16", "replace")
    return head.decode("utf-8-sig", "replace")


def _page_in(text: str, size: int, announced: str) -> str:
    start = _BEFORE.match(text)
    body = text[start.end() :] if start else text
    if announced not in _PAGES and _PAGE.match(body):
        return "a web page"
    if announced not in _XML and _XML_ERROR.match(body):
        return "an error document (XML)"
    if announced not in _JSON and size <= LOOK and body[:1] == "{" and _tells_of_error(body):
        return "an error document (JSON)"
    return ""


def _tells_of_error(text: str) -> bool:
    try:
        answer: Any = json.loads(text)
    except (ValueError, RecursionError):
        return _ERROR_START.match(text) is not None
    words = {key.lower().replace("_", "").replace("-", ""): value for key, value in answer.items()}
    if any(words.get(key) for key in _ERROR_KEYS):
        return True
    return words.keys() <= _ENVELOPE and not _SAYING.isdisjoint(words)


# -- types with a beginning of their own ----------------------------------------------------------


def _starts(*beginnings: bytes) -> Callable[[bytes, int], bool]:
    return lambda head, size: size > 0 and head.startswith(beginnings)


def _svg(head: bytes, size: int) -> bool:
    # A page may have a drawing in it.
    page = _page_in(_text(head, "svg"), size, "svg")
    return not page and re.search(rb"<(?:[A-Za-z_][\w.-]*:)?svg[\s>]", head) is not None


def _stl(head: bytes, size: int) -> bool:
    if len(head) >= 84 and size == 84 + 50 * int.from_bytes(head[80:84], "little"):
        return True
    return head.lstrip()[:5].lower() == b"solid"


def _gltf(head: bytes, size: int) -> bool:
    text = head.decode("utf-8-sig", "replace").lstrip()
    return text[:1] == "{" and ('"asset"' in text or size > LOOK)


def _fbx(head: bytes, size: int) -> bool:
    return size > 0 and (head.startswith(b"Kaydara FBX Binary") or b"FBX" in head[:512])


def _tar(head: bytes, size: int) -> bool:
    return size >= 512 and head[257:262] == b"ustar"


_ZIP: Final = _starts(b"PK\x03\x04", b"PK\x05\x06")
_PICKLE: Final = _starts(b"PK\x03\x04", b"\x80")

_TESTS: Final[dict[str, Callable[[bytes, int], bool]]] = {
    **dict.fromkeys(("usdz", "docx", "xlsx", "pptx", "3mf", "npz", "kmz", "cbz", "epub"), _ZIP),
    **dict.fromkeys(("pt", "pth", "ckpt"), _PICKLE),
    **dict.fromkeys(("gz", "tgz", "gzip", "spz"), _starts(_GZIP)),
    "svgz": _starts(_GZIP),
    "svg": _svg,
    "stl": _stl,
    "ply": _starts(b"ply\n", b"ply\r"),
    "fbx": _fbx,
    "gltf": _gltf,
    "gguf": _starts(b"GGUF"),
    "npy": _starts(b"\x93NUMPY"),
    "blend": _starts(b"BLENDER", _GZIP, b"\x28\xb5\x2f\xfd"),
    "usdc": _starts(b"PXR-USDC"),
    "usda": _starts(b"#usda"),
    "psd": _starts(b"8BPS"),
    "psb": _starts(b"8BPS"),
    "exr": _starts(b"v/1\x01"),
    "hdr": _starts(b"#?RADIANCE", b"#?RGBE"),
    "pdf": _starts(b"%PDF-"),
    "7z": _starts(b"7z\xbc\xaf\x27\x1c"),
    "rar": _starts(b"Rar!\x1a\x07"),
    "tar": _tar,
    "ico": _starts(b"\0\0\1\0"),
    "mid": _starts(b"MThd"),
    "midi": _starts(b"MThd"),
    "flv": _starts(b"FLV\x01"),
    "aac": _starts(b"\xff\xf1", b"\xff\xf9", b"ADIF", b"ID3"),
    "vtt": lambda head, _: head.removeprefix(b"\xef\xbb\xbf").startswith(b"WEBVTT"),
}
