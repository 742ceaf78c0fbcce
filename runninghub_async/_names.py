"""What files are called: after the job, never after what a server says. No I/O.

File systems count bytes, or UTF-16 units; some take `A` and `a` for one name, and some take an
accent in one form only. Windows has names and characters of its own.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final

from ._addresses import suffix_of
from ._media import canonical, kind_of
from ._models import Output

__all__ = [
    "STEM_SHORT",
    "TEXTS",
    "announced",
    "comparable",
    "ending",
    "file_stem",
    "fit_name",
    "prompt_of",
    "usable_stem",
]

#: The longest stem, in bytes. Every usual file system takes names of 255 bytes; the rest is for the
#: temporary name (`.` and `.part`), the number of an output (`-99`), the digest or the number that
#: keeps two jobs apart, and the ending.
STEM_MAX: Final = 200

#: What is tried where that is too long after all.
STEM_SHORT: Final = 50

#: What Windows takes in no name; a slash nobody does. Half of a surrogate pair is no character.
_NOT_IN_NAME: Final = re.compile(r"""[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]""")

#: Devices, which Windows finds under any ending.
_DEVICE: Final = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])", re.IGNORECASE
)

#: What may be a file's extension.
_SUFFIX: Final = re.compile(r"[a-z0-9]{1,12}")

_MIME: Final = re.compile(r"^(?:image|video|audio|text|model|application)/")

#: Words for a kind of file, which are no extensions.
_WORDS: Final = frozenset(
    {"image", "img", "picture", "photo", "video", "audio", "sound", "voice", "file", "model",
     "text", "string", "other", "unknown", "none", "null", "url", "archive", "document", "output",
     "result", "data", "binary", "stream", "octet", "3d"}
)  # fmt: skip
#: What a URL may end with that says nothing of the file it leads to.
_PROGRAMS: Final = frozenset({"php", "asp", "aspx", "jsp", "cgi", "do", "action", "dll", "exe"})
_FAMILIES: Final = {"img": "image", "picture": "image", "photo": "image", "sound": "audio",
                    "voice": "audio"}  # fmt: skip

#: What models call their text; any other string may be a mere setting.
TEXTS: Final = ("prompt", "text", "lyrics", "description", "title")


def prompt_of(request: Any) -> str:
    """The text that a request is about; empty if it has none."""
    params = request.to_params()
    texts = (params.get(key) for key in TEXTS)
    return next((text for text in texts if isinstance(text, str)), "")


def file_stem(index: int, prompt: str) -> str:
    """`00042-slug`: the place in the input, and what any file system takes of the prompt.

    Letters of every script stay; nothing that a shell, a path or a URL reads in its own way.
    """
    text = unicodedata.normalize("NFKC", prompt).casefold()
    kept = (c if unicodedata.category(c)[0] in "LMN" else "-" for c in text)
    slug = re.sub("-+", "-", "".join(kept)).strip("-")
    while len(slug.encode()) > 60:
        slug = slug[:-1]
    return f"{index:05d}-{slug.strip('-')}" if slug else f"{index:05d}"


def usable_stem(stem: str) -> str:
    """`stem` as every file system takes it: characters that one of them refuses are replaced by
    `-`, as are leading dots and trailing dots and spaces; a device of Windows gets a `-`; what is
    longer than `STEM_MAX` bytes is cut between two characters."""
    stem = _NOT_IN_NAME.sub("-", stem)
    body = stem.lstrip(".")
    stem = "-" * (len(stem) - len(body)) + body
    stem = _without_trail(stem)
    base, dot, rest = stem.partition(".")
    if _DEVICE.fullmatch(base.rstrip()):
        stem = f"{base.rstrip()}-{dot}{rest}"
    return _without_trail(fit_name(stem, STEM_MAX))


def _without_trail(stem: str) -> str:
    body = stem.rstrip(". ")
    return body + "-" * (len(stem) - len(body))


def fit_name(name: str, most: int) -> str:
    """The first characters of `name` that have at most `most` bytes in UTF-8."""
    data = name.encode("utf-8", "replace")
    return name if len(data) <= most else data[:most].decode("utf-8", "ignore")


def comparable(name: str) -> str:
    """`name` in a form that is the same for all names that some file system takes for one."""
    folded = unicodedata.normalize("NFC", name).casefold()
    return unicodedata.normalize("NFC", folded)


def announced(output: Output) -> str:
    """The type that `output` should have: by the service's word, else by its URL. A file's
    extension, or `image`, `video` or `audio`; empty if nobody said."""
    word = _type_in(output.type)
    family = _FAMILIES.get(word, word)
    if family in ("image", "video", "audio"):
        return family
    if word and word not in _WORDS and _SUFFIX.fullmatch(word):
        return word
    return _suffix(output)


def ending(output: Output, kind: str = "") -> str:
    """The extension for its file: the service's word if that is an extension, else the type that
    its first bytes show (`kind`, as `sniff` names it), else what its URL ends with, else `bin`.
    Where content and URL agree on another kind of file than the service's word, they count."""
    suffix = _suffix(output)
    word = _type_in(output.type)
    if word and word not in _WORDS and _SUFFIX.fullmatch(word):
        agree = bool(kind) and canonical(suffix) == kind and kind_of(kind) != kind_of(word)
        return suffix if agree else word
    if kind and canonical(suffix) != kind:
        return kind
    return suffix or kind or ("txt" if output.url is None and output.text is not None else "bin")


def _suffix(output: Output) -> str:
    suffix = suffix_of(output.url) if output.url else ""
    return "" if suffix in _PROGRAMS else suffix


def _type_in(word: str) -> str:
    # Some say `image/png`.
    return _MIME.sub("", word.strip())
