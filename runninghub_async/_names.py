"""Names of files: made from the job, never from what a server says. No I/O.

File systems count bytes, or UTF-16 units. For some, `A` and `a` are the same name, and some accept
an accent in one form only. Windows forbids some names and characters.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final

from ._addresses import suffix_of
from ._media import canonical, is_known, kind_of
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

#: The longest stem, in bytes. Every common file system allows names of 255 bytes; the rest is for
#: the temporary name (`.` and `.part`), the number of an output (`-99`), the digest or the number
#: that keeps two jobs apart, and the extension.
STEM_MAX: Final = 200

#: What is tried if that is still too long.
STEM_SHORT: Final = 50

#: Characters that Windows forbids in names, and the slash, which every system forbids. Half of a
#: surrogate pair is no character.
_NOT_IN_NAME: Final = re.compile(r"""[<>:"/\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]""")

#: Devices of Windows, which it finds under any extension.
_DEVICE: Final = re.compile(
    r"(?:con|prn|aux|nul|conin\$|conout\$|(?:com|lpt)[0-9¹²³])", re.IGNORECASE
)

#: A valid file extension.
_SUFFIX: Final = re.compile(r"[a-z0-9]{1,12}")

_MIME: Final = re.compile(r"^(?:image|video|audio|text|model|application)/")

#: Extensions that say nothing about the type, and none.
_ANYTHING: Final = frozenset({"", "bin", "dat", "data", "file", "tmp"})

#: Words for a kind of file, which are not extensions.
_WORDS: Final = frozenset(
    {"image", "img", "picture", "photo", "video", "audio", "sound", "voice", "file", "model",
     "text", "string", "other", "unknown", "none", "null", "url", "archive", "document", "output",
     "result", "data", "binary", "stream", "octet", "3d"}
)  # fmt: skip

#: Extensions of a URL that say nothing about the file behind it.
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
    """`stem` in a form that every file system accepts: characters that one of them refuses are
    replaced by `-`, as are leading dots and trailing dots and spaces; a device of Windows gets a
    `-`; what is longer than `STEM_MAX` bytes is cut between two characters."""
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
    """A form of `name` that is the same for all names that some file system considers equal."""
    folded = unicodedata.normalize("NFC", name).casefold()
    return unicodedata.normalize("NFC", folded)


def announced(output: Output) -> str:
    """The type that `output` should have, from the service, else from its URL: a file extension, or
    `image`, `video` or `audio`; empty if unknown."""
    word = _type_in(output.type)
    family = _FAMILIES.get(word, word)
    if family in ("image", "video", "audio"):
        return family
    if word and word not in _WORDS and _SUFFIX.fullmatch(word):
        return word
    return _suffix(output)


def ending(output: Output, kind: str = "") -> str:
    """The extension for its file. The content decides where its first bytes show an image (`kind`,
    as `sniff` names it); then the URL, if its extension is that of a known type; then the service's
    word, if that is an extension; else `bin`. Of two spellings of one type the service's is used.
    Other containers hold many types, so their first bytes only confirm what URL or service say."""
    suffix, word = _suffix(output), _type_in(output.type)
    if word in _WORDS or not _SUFFIX.fullmatch(word):
        word = ""
    if kind_of(kind) == "image":
        return next((each for each in (word, suffix) if canonical(each) == kind), kind)
    if word:
        agree = bool(kind) and canonical(suffix) == kind and kind_of(kind) != kind_of(word)
        # A type that first bytes would have shown is not that of this file.
        by_url = not kind and suffix not in _ANYTHING and not is_known(suffix)
        return suffix if agree or by_url else word
    if kind and canonical(suffix) != kind:
        return kind
    return suffix or kind or ("txt" if output.url is None and output.text is not None else "bin")


def _suffix(output: Output) -> str:
    suffix = suffix_of(output.url) if output.url else ""
    return "" if suffix in _PROGRAMS else suffix


def _type_in(word: str) -> str:
    # Some say `image/png`.
    return _MIME.sub("", word.strip())
