"""What can be called: the service's models, their parameters and their prices.

The facts are package data (`catalogue.jsonl`, refreshed by `scripts/refresh_catalogue.py`), read
when first needed; a model is turned into objects when it is first asked for.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from importlib import resources
from typing import Any, ClassVar, Final, Literal, Self, TypeGuard

import attrs
import cattrs

from ._exceptions import PayloadError
from ._media import is_file
from ._money import Money
from ._text import faults_of, name_of, text_fault, text_faults

__all__ = [
    "Catalogue",
    "SourceConflict",
    "ModelSpec",
    "ParamSpec",
    "PriceRule",
    "PriceSpec",
    "check_option",
    "is_number",
]

ParamType = Literal[
    "string", "enum", "boolean", "integer", "number", "image", "video", "audio", "object"
]

#: Fields that any model takes beside its own (runninghub-api model pages and run endpoints).
COMMON_FIELDS = frozenset({"webhookUrl", "instanceType", "retainSeconds"})

#: `retainSeconds` keeps a machine warm after a run for so long, in seconds; that is billed.
_RETAIN = (10, 180)


#: How a model that has no path of words is addressed.
_NUMBER = re.compile(r"[1-9][0-9]{18}")


def is_number(model: str) -> bool:
    """Whether `model` is a number of the site (19 digits), by which some models are called."""
    return _NUMBER.fullmatch(model) is not None


def check_option(key: str, value: Any) -> str:
    """What is wrong with a field that any run takes (`COMMON_FIELDS`); empty if nothing is."""
    if key == "retainSeconds":
        low, high = _RETAIN
        fine = type(value) is int and low <= value <= high
        return "" if fine else f"expected {low} to {high}, got {value!r:.60}"
    if key == "webhookUrl":
        if not isinstance(value, str) or not value.startswith(("https://", "http://")):
            return f"expected an http(s) URL, got {value!r:.60}"
        return text_fault(value)
    if key in ("addMetadata", "usePersonalQueue"):
        return "" if isinstance(value, bool) else f"expected True or False, got {value!r:.60}"
    # Machines come and go: any name may be one.
    if not isinstance(value, str) or not value:
        return f"expected text, got {value!r:.60}"
    return text_fault(value)


@attrs.frozen
class ParamSpec:
    """One parameter of a model, as the service documents it.

    `name` is the JSON key; `alias` a second key the service is known to take. `choices` are sent
    as JSON strings, also for numbers. `multiple` means a list, of at most `max_items`. Lengths
    are in characters, `max_size_mb` in megabytes. `step` is how the site's own slider moves; a
    value between two steps is not known to be refused, so it is not a fault here either.
    """

    name: str
    type: ParamType
    required: bool = False
    multiple: bool = False
    default: Any = None
    alias: str | None = None
    choices: tuple[str, ...] = ()
    alias_choices: tuple[str, ...] = ()
    known_values: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None
    step: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    max_items: int | None = None
    max_size_mb: float | None = None
    accept: tuple[str, ...] = ()

    def plainly_fine(self, value: Any) -> bool:
        """Whether `value` passes at first sight. False says nothing: `check` looks closely.

        Nearly every value of a long run passes, and this takes a fifth of the time.
        """
        kind = type(value)
        if kind is str:
            if self.multiple:
                return False
            if self.type == "enum":
                return value in self.choices
            return (
                self.type == "string"
                and (self.min_length is None or len(value) >= self.min_length)
                and (self.max_length is None or len(value) <= self.max_length)
                and not text_fault(value)
            )
        return (
            kind is int
            and self.type == "integer"
            and not self.multiple
            and (self.min is None or value >= self.min)
            and (self.max is None or value <= self.max)
        )

    def check(self, value: Any, key: str | None = None) -> Iterator[str]:
        """Every fault of `value`, each as `name: description @ $.path`."""
        key = key or self.name
        if self.type == "object":
            yield from text_faults(value, key, f"$.{key}")
        if not self.multiple:
            for fault in self._check_one(value):
                yield f"{key}: {fault} @ $.{key}"
            return
        if not isinstance(value, list | tuple):
            yield f"{key}: expected a list, got {_kind(value)} @ $.{key}"
            return
        if self.required and not value:
            yield f"{key}: expected at least one item @ $.{key}"
        if self.max_items is not None and len(value) > self.max_items:
            yield f"{key}: more than {self.max_items} items @ $.{key}"
        for place, item in enumerate(value):
            for fault in self._check_one(item):
                yield f"{key}: {fault} @ $.{key}[{place}]"

    def _check_one(self, value: Any) -> Iterator[str]:
        match self.type:
            case "string":
                yield from self._check_text(value)
            case "integer" | "number":
                yield from self._check_number(value)
            case "boolean":
                if not isinstance(value, bool):
                    yield f"expected true or false, got {_kind(value)}"
            case "enum":
                if value not in self.choices and value not in self.alias_choices:
                    shown = ", ".join(self.choices[:12]) + (", …" if self.choices[12:] else "")
                    yield f"expected one of {shown}, got {value!r:.60}"
            case "image" | "video" | "audio":
                if is_file(value):
                    return
                if not isinstance(value, str):
                    yield f"expected a URL or a path, got {_kind(value)}"
                elif not value.startswith(("https://", "http://", "data:")):
                    yield (
                        "expected an http(s) URL, a data URI, or a pathlib.Path to upload,"
                        f" got {value!r:.60}"
                    )
                elif fault := text_fault(value):
                    yield fault
            case "object":
                return

    def _check_text(self, value: Any) -> Iterator[str]:
        if not isinstance(value, str):
            yield f"expected text, got {_kind(value)}"
            return
        if self.min_length is not None and len(value) < self.min_length:
            yield f"shorter than {self.min_length}"
        if self.max_length is not None and len(value) > self.max_length:
            yield f"longer than {self.max_length}"
        if fault := text_fault(value):
            yield fault

    def _check_number(self, value: Any) -> Iterator[str]:
        whole = self.type == "integer"
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
            yield f"expected a {'whole ' if whole else ''}number, got {_kind(value)}"
            return
        if not math.isfinite(value):
            yield "not a finite number"
            return
        if self.min is not None and value < self.min:
            yield f"less than {self.min:g}"
        if self.max is not None and value > self.max:
            yield f"more than {self.max:g}"


@attrs.frozen
class PriceRule:
    """An amount for calls whose parameters equal `when`; absent ones count as their default.
    With `max_megapixels` it is for pictures of at most so many million pixels."""

    when: Mapping[str, Any]
    amount: Decimal
    max_megapixels: Decimal | None = None


@attrs.frozen
class PriceSpec:
    """The listed price of a model: the first rule that fits, per `unit` (call, image, second, …;
    None when the source names none). `at_least` where the source says "from".

    `as_of` is the date of the price, `YYYY-MM-DD`, and `source` says where it was taken from; the
    service may have changed it since. `headline`: only the one amount that the site shows first
    is known. `extra_image` is charged for each picture given after the first.
    """

    currency: str
    unit: str | None = None
    rules: tuple[PriceRule, ...] = ()
    at_least: bool = False
    as_of: str = ""
    source: str = ""
    headline: bool = False
    extra_image: Decimal | None = None


@attrs.frozen
class SourceConflict:
    """Where credible sources differ: `at` says for which models and fields, `fact` what each
    source says and which was taken."""

    at: str
    fact: str

    @property
    def note(self) -> str:
        """The same without the model's name, for a model's own notes."""
        about = self.at.partition(":")[2].strip()
        if self.at.startswith("price "):
            about = f"price of {about}" if about else "price"
        return f"{about}: {self.fact}" if about else self.fact


@attrs.frozen
class ModelSpec:
    """One model: its path, its documented name, its parameters and its price.

    The name and the path often differ; the path is what is sent. `documented` says whether the
    navigation of the service's documentation of March 2026 names it, `incomplete` that the sources
    leave parameters out, so that unknown ones pass. `last_seen` is the date of the newest source
    that lists the model, where the newest of all do not: it may be gone. `notes` say where
    sources differ about it, and what was taken.
    """

    path: str
    name: str
    task: str
    output: str
    vendor: str
    params: tuple[ParamSpec, ...]
    aliases: tuple[str, ...] = ()
    documented: bool = False
    deprecated: bool = False
    incomplete: bool = False
    price: PriceSpec | None = None
    last_seen: str = ""
    notes: tuple[str, ...] = ()
    _by_key: dict[str, ParamSpec] = attrs.field(init=False, repr=False, eq=False)
    _required: dict[str, None] = attrs.field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        # A key such as `2##file` can also be called by what follows its node's number.
        keys = {p.name.partition("##")[2]: p for p in self.params if "##" in p.name}
        keys |= {param.alias: param for param in self.params if param.alias}
        keys |= {param.name: param for param in self.params}
        object.__setattr__(self, "_by_key", keys)
        required = dict.fromkeys(param.name for param in self.params if param.required)
        object.__setattr__(self, "_required", required)

    @property
    def price_date(self) -> str:
        """The date of the listed price, `YYYY-MM-DD`; empty if none is known."""
        return self.price.as_of if self.price else ""

    def param(self, key: str) -> ParamSpec | None:
        """The parameter with this name or alias."""
        return self._by_key.get(key)

    def check(self, params: Mapping[str, Any]) -> tuple[str, ...]:
        """Every fault of `params` at once, each as `description @ $.path`; empty if none.

        Unknown keys are faults, with the nearest known one named: the service ignores them, so
        a typo would be paid for. `None` is a fault too: leave out what is not to be sent.
        """
        if self._plainly_fine(params):
            return ()
        problems: list[str] = []
        seen: set[str] = set()
        for key, value in params.items():
            spec = self._by_key.get(key)
            if spec is None and key in COMMON_FIELDS:
                if fault := check_option(key, value):
                    problems.append(f"{key}: {fault} @ $.{key}")
                continue
            if spec is None:
                if not self.incomplete:
                    shown = name_of(key)
                    problems.append(f"{shown}: unknown field{self._hint(key)} @ $.{shown}")
                else:
                    problems.extend(faults_of({key: value}))
                continue
            if spec.name in seen:
                problems.append(f"{key}: given twice, also as its alias @ $.{key}")
            seen.add(spec.name)
            problems.extend(spec.check(value, key))
        problems.extend(
            f"{name}: missing @ $.{name}" for name in self._required if name not in seen
        )
        return tuple(problems)

    def _plainly_fine(self, params: Mapping[str, Any]) -> bool:
        for key, value in params.items():
            spec = self._by_key.get(key)
            if spec is None or spec.name != key or not spec.plainly_fine(value):
                return False
        return self._required.keys() <= params.keys()

    def _hint(self, key: str) -> str:
        near = difflib.get_close_matches(key, self._by_key, 1)
        return f", perhaps {near[0]}" if near else ""

    def wire_params(
        self, params: Mapping[str, Any], *, documented_keys: bool = False
    ) -> dict[str, Any]:
        """`params` under the keys that are sent.

        Some models are documented with keys and choices of ComfyUI nodes (`12##text`), while the
        live service was found to take flat ones (2026); both are known as `name` and `alias`
        here, either may be given, and the flat ones are sent unless `documented_keys`.
        """
        sent: dict[str, Any] = {}
        for key, value in params.items():
            spec = self._by_key.get(key)
            if spec is None:
                sent[key] = value
                continue
            mine, other = spec.choices, spec.alias_choices
            if documented_keys:
                mine, other = other, mine
            # The lists hold the same choices in the same order.
            if other and value in mine and value not in other:
                value = other[mine.index(value)]  # noqa: PLW2901
            flat = None if documented_keys else spec.alias
            sent[flat or spec.name] = value
        return sent

    def price_of(self, params: Mapping[str, Any]) -> Money | None:
        """The listed price of a call with `params`, at most; None where no rule applies.

        Per image it counts as many as may come back (`maxImages`, `imageNum`), per second the
        `duration` asked for, per thousand characters and per five seconds those begun. None, too,
        where what is paid for is not in the request, such as the length of a video. An estimate
        as of the price's date (`price_date`), not a quotation.
        """
        if self.price is None or self.price.at_least:
            return None
        amount = next((r.amount for r in self.price.rules if self._fits(r, params)), None)
        times = self._units(self.price.unit, params)
        if amount is None or times is None:
            return None
        amount *= times
        if self.price.extra_image is not None:
            given = params.get("imageUrls")
            if _is_list(given) and len(given) > 1:
                amount += self.price.extra_image * (len(given) - 1)
        return Money(amount, self.price.currency)

    def _fits(self, rule: PriceRule, params: Mapping[str, Any]) -> bool:
        if rule.max_megapixels is not None and not (
            self._pixels(params) <= rule.max_megapixels * 1_000_000
        ):
            return False
        return all(self._value(params, key) == value for key, value in rule.when.items())

    def _pixels(self, params: Mapping[str, Any]) -> Decimal:
        """The pixels of a picture, at most: `resolution` and the two sides may both be given."""
        named = params.get("resolution")
        sides = [key for key in ("width", "height") if params.get(key) is not None]
        if named is None and not sides:
            named = self._value(params, "resolution")
        found = [Decimal(_SIDES.get(str(named).lower(), 0)) ** 2]
        if sides or named is None:
            values = [_count(self._value(params, key)) for key in ("width", "height")]
            found.append((values[0] or Decimal(0)) * (values[1] or Decimal(0)))
        return max(found)

    def _units(self, unit: str | None, params: Mapping[str, Any]) -> Decimal | None:
        if unit == "call":
            return Decimal(1)
        if unit == "image":
            if self._value(params, "sequentialImageGeneration") == "disabled":
                return Decimal(1)
            return _count(self._value(params, "maxImages") or self._value(params, "imageNum") or 1)
        if unit == "second":
            return _count(self._value(params, "duration"))
        if unit == "5_seconds":
            seconds = _count(self._value(params, "duration"))
            return None if seconds is None else -(-seconds // 5)
        if unit == "1000_characters":
            text = next((params[key] for key in ("text", "prompt") if key in params), None)
            # Begun thousands count whole: the estimate is an upper bound.
            return Decimal(-(-len(text) // 1000)) if isinstance(text, str) else None
        return None

    def _value(self, params: Mapping[str, Any], key: str) -> Any:
        spec = self._by_key.get(key)
        return params.get(key, spec.default if spec else None)


class Catalogue:
    """All models, by path or by documented name; iterating gives each `ModelSpec` by path."""

    _loaded: ClassVar[Self | None] = None

    def __init__(self, head: Mapping[str, Any], lines: Sequence[str]) -> None:
        self.as_of: str = head["as_of"]
        self.prices_as_of: str = head["prices_as_of"]
        self.sources: tuple[str, ...] = tuple(head["sources"])
        #: Where the sources differ; `ModelSpec.notes` has what concerns a model.
        self.conflicts = tuple(SourceConflict(**each) for each in head.get("conflicts", ()))
        self._price_sources: dict[str, str] = head.get("price_sources", {})
        # Kept as text: hundreds of models as objects are tens of thousands, which every full
        # garbage collection of a long run would go through, for the one or two that it uses.
        self._lines: dict[str, str] = {}
        self._paths: dict[str, str] = {}
        for (path, *names), line in zip(head["names"], lines, strict=True):
            self._lines[path] = line
            for name in (path, *names):
                self._paths.setdefault(name, path)
        self._specs: dict[str, ModelSpec] = {}

    @classmethod
    def load(cls) -> Self:
        """The package's catalogue, read from disk once per process."""
        if cls._loaded is None:
            data = resources.files("runninghub_async").joinpath("catalogue.jsonl")
            cls._loaded = cls.parse(data.read_text(encoding="utf-8"))
        return cls._loaded

    @classmethod
    def loaded(cls) -> bool:
        """Whether `load` would return at once."""
        return cls._loaded is not None

    @classmethod
    def parse(cls, text: str) -> Self:
        """A catalogue from the text of a file of the package's form: a line of facts about the
        catalogue and every model's names, then a line per model, in the same order."""
        head, *lines = text.splitlines()
        return cls(json.loads(head), lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[ModelSpec]:
        return map(self.find, self._lines)

    def find(self, name_or_path: str) -> ModelSpec:
        """The model with this path, documented name or alias.

        Raises `PayloadError`, which names the nearest ones, when there is none.
        """
        path = self._paths.get(name_or_path)
        if path is None:
            near = difflib.get_close_matches(name_or_path, self._paths, 3)
            hint = f"; perhaps {', '.join(near)}" if near else ""
            raise PayloadError(
                [f"model: {name_or_path!r} is not in the catalogue of {self.as_of}{hint} @ $.model"]
            )
        spec = self._specs.get(path)
        if spec is None:
            facts = json.loads(self._lines[path])
            # What many models share is written once, at the top of the file.
            if price := facts.get("price"):
                price.setdefault("source", self._price_sources.get(price.get("as_of"), ""))
            facts["notes"] = [self.conflicts[number].note for number in facts.get("notes", ())]
            spec = self._specs[path] = _converter().structure(facts, ModelSpec)
        return spec

    def search(self, words: Sequence[str] | str) -> list[ModelSpec]:
        """The models whose path, names, task, output or vendor hold all the words, by path."""
        wanted = [w.casefold() for w in (words.split() if isinstance(words, str) else words)]
        return [spec for spec in self if all(word in _searchable(spec) for word in wanted)]


def _searchable(spec: ModelSpec) -> str:
    words = (spec.path, spec.name, spec.task, spec.output, spec.vendor, *spec.aliases)
    return " ".join(words).casefold()


@functools.cache
def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=False)
    converter.register_structure_hook(Decimal, lambda value, _: Decimal(value))
    return converter


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return f"text {value!r:.40}"
        case int() | float():
            return f"the number {value!r:.40}"
    return f"a {type(value).__name__}"


#: Pixels of a side, by the names of resolutions.
_SIDES: Final = {"1k": 1024, "1.5k": 1536, "2k": 2048, "3k": 3072, "4k": 4096, "8k": 8192}


def _is_list(value: Any) -> TypeGuard[Sequence[Any]]:
    return isinstance(value, list | tuple)


def _count(value: Any) -> Decimal | None:
    try:
        count = Decimal(str(value))
    except ArithmeticError:
        return None
    # Beyond this no request is valid, and arithmetic could fail.
    return count if count.is_finite() and count > 0 and -30 < count.adjusted() < 30 else None
