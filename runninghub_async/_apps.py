"""AI apps: which inputs one has, and whether values fit them.

Source: the service's documentation, "Get API call examples for AI application".
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

import attrs

from ._media import is_file, kind_of
from ._nodes import Nodes

__all__ = ["App", "AppInput"]

_MEDIA: Final = frozenset({"IMAGE", "AUDIO", "VIDEO"})


@attrs.frozen
class AppInput:
    """One input of an AI app: field `field` of node `node_id`.

    `type`: STRING, INT, FLOAT, BOOLEAN, LIST, SWITCH, IMAGE, AUDIO or VIDEO, or COMBO, which is
    another word for LIST. `default` is what the app was saved with. `choices` are the values of a
    LIST or SWITCH as they are sent, in the same order as `labels`. `min` and `max` where the app
    names them.
    """

    node_id: str
    field: str
    type: str = "STRING"
    default: Any = None
    description: str = ""
    node_name: str = ""
    choices: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None

    def check(self, value: Any) -> Iterator[str]:
        """Every fault of `value`, in words."""
        match self.type:
            case "INT" | "FLOAT":
                yield from self._check_number(value)
            case "BOOLEAN":
                if not isinstance(value, bool) and value not in ("true", "false"):
                    yield f"expected true or false, got {value!r:.60}"
            case "LIST" | "SWITCH" | "COMBO":
                if self.choices and _text(value) not in self.choices:
                    shown = ", ".join(self.choices[:12]) + (", …" if self.choices[12:] else "")
                    yield f"expected one of {shown}, got {value!r:.60}"
            case "IMAGE" | "AUDIO" | "VIDEO":
                if is_file(value):
                    # What is in it is looked at when it is uploaded.
                    ending = value.__fspath__().rpartition(".")[2].lower()
                    if kind_of(ending) not in ("", self.type.lower()):
                        yield f"expected {self.type}, got a file called .{ending}"
                elif not isinstance(value, str) or not value:
                    yield f"expected a path, an uploaded file's name or a URL, got {value!r:.60}"
            case "STRING":
                if not isinstance(value, str):
                    yield f"expected text, got {value!r:.60}"

    def _check_number(self, value: Any) -> Iterator[str]:
        try:
            number = float(value) if isinstance(value, str | int | float) else None
        except (ValueError, OverflowError):
            number = None
        whole = self.type == "INT"
        if number is None or isinstance(value, bool) or (whole and not number.is_integer()):
            yield f"expected a {'whole ' if whole else ''}number, got {value!r:.60}"
        elif not abs(number) < float("inf"):
            yield "not a finite number"
        elif self.min is not None and number < self.min:
            yield f"less than {self.min:g}"
        elif self.max is not None and number > self.max:
            yield f"more than {self.max:g}"


@attrs.frozen
class App:
    """An AI app, as its call example shows it: what it is called and which inputs it has."""

    id: str
    name: str = ""
    inputs: tuple[AppInput, ...] = ()
    tags: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()
    needs_password: bool = False

    def input(self, node_id: str | int, field: str) -> AppInput | None:
        """The input `field` of node `node_id`; None if the app has none such."""
        wanted = (str(node_id), field)
        return next((i for i in self.inputs if (i.node_id, i.field) == wanted), None)

    def check(self, nodes: Nodes) -> tuple[str, ...]:
        """Every fault of values for this app, each as `description @ $.path`."""
        problems: list[str] = []
        known = ", ".join(f"{i.node_id}.{i.field}" for i in self.inputs)
        for node_id, fields in nodes.items():
            for field, value in fields.items() if isinstance(fields, Mapping) else ():
                at = f"$.nodes.{node_id}.{field}"
                spec = self.input(node_id, field)
                if spec is None:
                    problems.append(
                        f"nodes: the app has no input {node_id}.{field}: {known} @ {at}"
                    )
                elif value is not None:
                    problems.extend(f"nodes: {fault} @ {at}" for fault in spec.check(value))
        return tuple(problems)

    @classmethod
    def read(cls, app_id: str, data: Mapping[str, Any]) -> App:
        """The app `app_id` from the `data` of the service's answer."""
        listed = data.get("nodeInfoList")
        return cls(
            app_id,
            _text(data.get("webappName")),
            tuple(_input(x) for x in listed if isinstance(x, dict))
            if isinstance(listed, list)
            else (),
            tuple(_names(data.get("tags"), "name")),
            tuple(_names(data.get("covers"), "url")),
            data.get("accessEncrypted") in (True, 1, "1", "true"),
        )


def _input(item: Mapping[str, Any]) -> AppInput:
    kind = _text(item.get("fieldType")).upper() or "STRING"
    values, facts = _options(item.get("fieldData"))
    texts = (item.get(key) for key in ("descriptionEn", "description", "descriptionCn"))
    if not values and kind == "BOOLEAN":
        values = [("true", "true"), ("false", "false")]
    return AppInput(
        _text(item.get("nodeId")),
        _text(item.get("fieldName")),
        kind,
        item.get("fieldValue"),
        next((text for text in texts if isinstance(text, str) and text), ""),
        _text(item.get("nodeName")),
        tuple(value for value, _ in values) if kind not in _MEDIA else (),
        tuple(label for _, label in values) if kind not in _MEDIA else (),
        _number(facts.get("min")),
        _number(facts.get("max")),
    )


def _options(data: Any) -> tuple[list[tuple[str, str]], Mapping[str, Any]]:
    """The choices and the facts in a `fieldData`, in whichever of its shapes.

    Seen are ComfyUI's `[["a", "b"], {"default": "a"}]`, `["COMBO", {"options": ["a", "b"]}]` and
    `["INT", {"min": 1}]`, plain `["a", "b"]`, and lists of objects with a `name` and an `index`
    or `value`.
    """
    if isinstance(data, str):
        try:
            data = json.loads(data)
        except (ValueError, RecursionError):
            return [], {}
    if isinstance(data, Mapping):
        return _options_of(data.get("options") or data.get("values")), data
    if not isinstance(data, list):
        return [], {}
    facts = data[1] if len(data) > 1 and isinstance(data[1], Mapping) else {}
    if data[:1] == ["COMBO"] and len(data) <= 2:
        return _options_of(facts.get("options") if facts else data[-1]), facts
    if data and isinstance(data[0], list):
        return _options_of(data[0]), facts
    if facts and isinstance(data[0], str):
        return _options_of(facts.get("options")), facts
    return _options_of(data), {}


def _options_of(listed: Any) -> list[tuple[str, str]]:
    options: list[tuple[str, str]] = []
    for item in listed if isinstance(listed, list) else ():
        if isinstance(item, Mapping):
            told = [item.get(key) for key in ("value", "index", "name", "label")]
            value = next((each for each in told if each is not None), None)
            label = item.get("description") or item.get("label") or item.get("name") or value
        else:
            value = label = item
        if isinstance(value, str | int | float):
            options.append((_text(value), _text(label)))
    return options


def _names(listed: Any, key: str) -> Iterator[str]:
    for item in listed if isinstance(listed, list) else ():
        value = item.get(key) if isinstance(item, Mapping) else item
        if isinstance(value, str) and value:
            yield value


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, str | int | float) else ""
