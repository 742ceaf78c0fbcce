"""How `nox -s docs` builds these pages.

Markdown is read by MyST; the API reference comes from the docstrings, whose single backticks and
indented examples are turned into what Sphinx reads, with links to whatever is public. Nothing is
fetched from elsewhere, so the build works offline.
"""

from __future__ import annotations

import re
import types
from typing import Any

import runninghub_async
from runninghub_async import emulator, testing, webhooks

project = "runninghub_async"
author = "The runninghub_async authors"
copyright = author  # noqa: A001  # the name that Sphinx reads
release = version = runninghub_async.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["deflist", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"runninghub_async {release}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_copy_source = False
html_show_sphinx = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
add_module_names = False

nitpicky = True
nitpick_ignore_regex = [
    # The standard library, attrs, aiohttp: their pages would have to be fetched to be linked.
    (r"py:.*", r"(?!runninghub_async\.).*"),
    # What a signature shows of the package's inside has no page of its own.
    (r"py:.*", r"runninghub_async\.(.*\.)?_.*"),
]

# -- public names under their public address, in signatures as well -------------------------------

PLACES = {
    "runninghub_async": runninghub_async,
    "runninghub_async.webhooks": webhooks,
    "runninghub_async.emulator": emulator,
    "runninghub_async.testing": testing,
}
for _place, _module in PLACES.items():
    for _name in _module.__all__:
        _value = getattr(_module, _name)
        if isinstance(_value, type | types.FunctionType) and "._" in _value.__module__:
            _value.__module__ = _place

# -- docstrings -----------------------------------------------------------------------------------

_CODE = re.compile(r"(?<![`:\w])`([^`\n]+(?:\n[^`\n]+)?)`(?!`)")


def _target(text: str, where: str) -> str:
    """The address of what `text` names in a docstring of `where`, if the reference has it."""
    head, *rest = text.split(".")
    head = {"session": "Session", "webhooks": "Webhooks"}.get(head, head) if rest else head
    for place in sorted(PLACES, key=lambda place: not where.startswith(f"{place}.")):
        if head not in PLACES[place].__all__ or (where.startswith(f"{place}.{head}") and not rest):
            continue
        value = getattr(PLACES[place], head)
        if not rest or _documented(value, rest):
            home = value.__module__ if isinstance(value, type | types.FunctionType) else place
            return ".".join((home, head, *rest))
    return ""


def _documented(value: Any, rest: list[str]) -> bool:
    member = vars(value).get(rest[0]) if len(rest) == 1 and isinstance(value, type) else None
    return isinstance(member, types.FunctionType | property) and bool(member.__doc__)


def read_docstring(
    app: Any,  # noqa: ARG001
    what: str,  # noqa: ARG001
    name: str,
    obj: Any,  # noqa: ARG001
    options: Any,  # noqa: ARG001
    lines: list[str],
) -> None:
    """Turn a docstring of this package into reStructuredText, in place."""

    def code(match: re.Match[str]) -> str:
        text = " ".join(match[1].split())
        target = _target(text, name)
        return f":py:obj:`{text} <{target}>`" if target else f"``{text}``"

    out: list[str] = []
    shown = False
    for paragraph in "\n".join(lines).split("\n\n"):
        if paragraph.startswith("    "):
            if not shown:
                out.append(".. code-block::")
            shown = True
            out.append(paragraph)
        else:
            shown = False
            out.append(_CODE.sub(code, paragraph))
    lines[:] = "\n\n".join(out).split("\n")


def setup(app: Any) -> None:
    """What Sphinx calls."""
    app.connect("autodoc-process-docstring", read_docstring)
