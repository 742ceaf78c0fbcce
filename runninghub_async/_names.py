"""What files are called: after the job, never after what a server says."""

from __future__ import annotations

import re
import unicodedata
from typing import Any, Final

from ._models import Output

__all__ = ["TEXTS", "ending", "file_stem", "prompt_of"]

#: What models call their text; any other string may be a mere setting.
TEXTS: Final = ("prompt", "text", "lyrics", "description", "title")


def prompt_of(request: Any) -> str:
    """The text that a request is about; empty if it has none."""
    params = request.to_params()
    told = (params.get(key) for key in TEXTS)
    return next((text for text in told if isinstance(text, str)), "")


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


def ending(output: Output) -> str:
    """The extension for its file: the service's word, which may name a type and nothing else."""
    return output.type if re.fullmatch(r"[a-z0-9]{1,5}", output.type) else "bin"
