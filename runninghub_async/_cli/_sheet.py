"""The contact sheet of a bulk run: one self-contained page, opened from its folder."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from typing import Any

__all__ = ["TEXTS", "render_sheet"]

_KEPT = (
    "index",
    "status",
    "model",
    "task_id",
    "files",
    "submitted_at",
    "finished_at",
    "seconds",
    "attempts",
    "queries",
    "cost",
    "error",
)
#: What models call their text; any other string may be a mere setting.
TEXTS = ("prompt", "text", "lyrics", "description", "title")
_SHAPE = ("width", "height", "aspectRatio", "aspect_ratio")

# The text of a script element is not entity-decoded, so only JSON's own escapes can keep
# "</script>" and "<!--" out of it. json.dumps escapes U+2028, U+2029 and lone surrogates itself.
_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def render_sheet(jobs: Iterable[Mapping[str, Any]], *, title: str, facts: Mapping[str, str]) -> str:
    """Return the page for the manifest lines ``jobs``, with ``facts`` (label to text) on top.

    Write it as UTF-8 beside the files it shows: their paths are taken as relative to the page.
    """
    data = json.dumps([_row(job) for job in jobs], separators=(",", ":")).translate(_ESCAPES)
    values = {
        "title": html.escape(title),
        "facts": "".join(
            f'<div><dt>{html.escape(label)}</dt><dd dir="auto">{html.escape(text)}</dd></div>'
            for label, text in facts.items()
        ),
        "data": data,
    }
    template = resources.files("runninghub_async._cli").joinpath("sheet.html")
    # One pass, so that a title or prompt that looks like a placeholder stays as it is.
    return re.sub(
        r"\{\{(title|facts|data)\}\}",
        lambda match: values[match[1]],
        template.read_text(encoding="utf-8"),
    )


def _row(job: Mapping[str, Any]) -> dict[str, Any]:
    # A request can carry megabytes (an image as base64), so only what the page shows goes in.
    request = job["request"]
    told = (request.get(key) for key in TEXTS)
    text = next((value[:20000] for value in told if isinstance(value, str) and value.strip()), "")
    return {
        **{key: job[key] for key in _KEPT},
        "text": text,
        "shape": {key: request[key] for key in _SHAPE if key in request},
    }
