"""Values on the command line: `--set 6.text="a boat"`, `@path` for a local file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .._apps import App
from ._prompts import UsageError, plain

__all__ = ["Values", "node_values", "texts_of_app", "texts_of_graph"]

#: Types of inputs of apps whose values are text: what was typed, a choice, a file's name.
_TEXTS = frozenset({"STRING", "LIST", "SWITCH", "IMAGE", "AUDIO", "VIDEO"})

Values = dict[str, dict[str, Any]]

TakesText = Callable[[str, str], bool]
"""Whether this input of this node is known to take text, so that 2024 stays as it is."""


def node_values(pairs: list[str], takes_text: TakesText = lambda _node, _field: False) -> Values:
    """The values of `--set NODE.FIELD=VALUE`. Raises `UsageError` for what is not of that form."""
    values: Values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        # A node's id has no dot; the name of an input may have.
        node, _, field = name.strip().partition(".")
        if not (equals and node and field):
            raise UsageError(f"--set {pair}: expected NODE.FIELD=VALUE, such as 6.text=boat")
        if field in values.setdefault(node, {}):
            raise UsageError(f"--set {node}.{field}: given twice")
        values[node][field] = _value(text, takes_text(node, field))
    return values


def texts_of_app(app: App) -> TakesText:
    """By the types of the app's inputs."""

    def takes_text(node: str, field: str) -> bool:
        spec = app.input(node, field)
        return spec is not None and spec.type in _TEXTS

    return takes_text


def texts_of_graph(graph: Mapping[str, Any]) -> TakesText:
    """By the values that the graph was saved with."""

    def takes_text(node: str, field: str) -> bool:
        found = graph.get(node)
        inputs = found.get("inputs") if isinstance(found, Mapping) else None
        return isinstance(inputs, Mapping) and isinstance(inputs.get(field), str)

    return takes_text


def _value(text: str, as_text: bool) -> Any:
    if text.startswith("@@"):
        return text[1:]
    if text.startswith("@"):
        return Path(text[1:])
    return text if as_text else plain(text)
