"""The contact sheet of a bulk run: one self-contained page, opened from its folder."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from typing import Any

from .._names import TEXTS

__all__ = ["sheet_pieces"]

_KEPT = (
    "index",
    "status",
    "model",
    "task_id",
    "files",
    "missing",
    "submitted_at",
    "finished_at",
    "seconds",
    "attempts",
    "queries",
    "cost",
    "error",
)
_SHAPE = ("width", "height", "aspectRatio", "aspect_ratio")

# The text of a script element is not entity-decoded, so only JSON's own escapes can keep
# "</script>" and "<!--" out of it. json.dumps escapes U+2028, U+2029 and lone surrogates itself.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def sheet_pieces(
    jobs: Iterable[Mapping[str, Any]], *, title: str, facts: Mapping[str, str]
) -> Iterator[str]:
    """The page for the manifest lines `jobs`, with `facts` (label to text) on top, bit by bit.

    Write it as UTF-8 beside the files it shows: their paths are taken as relative to the page.
    """
    template = resources.files("runninghub_async._cli").joinpath("sheet.html")
    # Taken apart once, so that a title or prompt that looks like a placeholder stays as it is.
    parts = re.split(r"\{\{(title|facts|data)\}\}", template.read_text(encoding="utf-8"))
    for place, part in enumerate(parts):
        if not place % 2:
            yield part
        elif part == "title":
            yield html.escape(title)
        elif part == "facts":
            for label, text in facts.items():
                told = html.escape(text)
                yield f'<div><dt>{html.escape(label)}</dt><dd dir="auto">{told}</dd></div>'
        else:
            yield "["
            for count, job in enumerate(jobs):
                text = json.dumps(_row(job), separators=(",", ":")).translate(_ESCAPES)
                yield f",{text}" if count else text
            yield "]"


def _row(job: Mapping[str, Any]) -> dict[str, Any]:
    # A request can carry megabytes (an image as base64), so only what the page shows goes in.
    request = job["request"]
    told = (request.get(key) for key in TEXTS)
    text = next((value[:20000] for value in told if isinstance(value, str) and value.strip()), "")
    return {
        **{key: job.get(key) for key in _KEPT},
        "text": text,
        "shape": {key: request[key] for key in _SHAPE if key in request},
    }
