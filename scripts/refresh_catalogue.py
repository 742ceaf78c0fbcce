"""Rewrite `runninghub_async/catalogue.jsonl` from a collected catalogue of the service's models.

    python scripts/refresh_catalogue.py COLLECTED.json

COLLECTED.json holds `as_of`, `price_as_of`, `sources`, `conflicts` and `models`, as gathered from
the public sources that NOTICE names; its `legend` explains the fields. The package's own form
drops what a client cannot use, renames what clashes with Python and sorts by path, a model per
line, so that a refresh reads well as a diff.

It carries over what a user needs to judge a fact: the date and the source of each price, where
sources differ (`Catalogue.conflicts`, and per model `ModelSpec.notes`), and models that the newest
sources no longer list. Everything is checked by loading the result; a fault names the model and
leaves the old file as it was.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import attrs

from runninghub_async import Catalogue, ModelSpec, ParamSpec

TARGET = Path(__file__).resolve().parent.parent / "runninghub_async" / "catalogue.jsonl"
TYPES = {"string", "enum", "boolean", "integer", "number", "image", "video", "audio", "object"}
PARAM = tuple(field.name for field in attrs.fields(ParamSpec))
MODEL = tuple(
    f.name
    for f in attrs.fields(ModelSpec)
    if f.name not in ("params", "price", "notes", "_by_key", "_required")
)


#: Where a price of each date comes from. A date that is not here stops the script.
PRICE_SOURCES = {
    "2026-09-01": "the service's published price list",
    "2026-04-29": "the service's published price list",
    "2026-06-18": "a capture of the site's model pages",
    "2026-07-09": "the model's documentation page",
}

#: Prices that the collected file cannot express, from the documentation pages of 2026-07: by size
#: of the picture, and for each picture given after the first.
SEEDREAM_V5_PRO = {
    "currency": "CNY",
    "unit": "image",
    "rules": [
        {"when": {}, "amount": "0.27", "max_megapixels": "2.36"},
        {"when": {}, "amount": "0.54"},
    ],
    "extra_image": "0.018",
    "as_of": "2026-07-09",
}
KNOWN_PRICES = {
    "seedream-v5-pro/image-to-image": SEEDREAM_V5_PRO,
    "seedream-v5-pro/text-to-image": SEEDREAM_V5_PRO,
}

#: What the places of conflicts mean that are words and no paths; empty for what is no model's.
PLACES = {
    "nano/gpt-image edit models": ("rhart-image-n*/*edit*", "rhart-image-n*/image-to-image*",
                                   "rhart-image-g*/*edit*", "rhart-image-g*/image-to-image*"),
    "seedance": ("*seedance*",),
    "sparkvideo": ("*sparkvideo*",),
    "-icl-2.0": ("*-icl-2.0*",),
    "pricing of 2026-09-01": (),
}  # fmt: skip


def places(conflict: dict[str, str], models: Sequence[dict[str, Any]]) -> list[str]:
    """The paths of the models that a conflict is about."""
    where, _, about = conflict["at"].removeprefix("price ").partition(":")
    if where == "models with keys=node":
        return [each["path"] for each in models if each.get("keys") == "node"]
    found: list[dict[str, Any]] = []
    for item in where.split(", "):
        patterns = PLACES.get(item)
        if patterns is None:
            # `image(-pro)` is both, and a name may stand without its vendor.
            both = (re.sub(r"\((.*?)\)", r"\1", item), re.sub(r"\(.*?\)", "", item))
            patterns = tuple(p for base in dict.fromkeys(both) for p in (base, f"*/{base}"))
        fits = [m for m in models if any(fnmatchcase(m["path"], p) for p in patterns)]
        if patterns and not fits:
            raise SystemExit(f"conflict at {conflict['at']!r}: {item!r} is no model")
        found += fits
    fields = {word.strip() for word in about.split(",")}
    with_field = [m for m in found if fields & {each["name"] for each in m["params"]}]
    return list(dict.fromkeys(each["path"] for each in with_field or found))


def param(model: str, given: dict[str, Any]) -> dict[str, Any]:
    """One parameter in the package's form."""
    if unknown := given.keys() - set(PARAM):
        raise SystemExit(f"{model}: {given.get('name')}: unknown keys {sorted(unknown)}")
    if given["type"] not in TYPES:
        raise SystemExit(f"{model}: {given['name']}: unknown type {given['type']!r}")
    return {
        key: given[key]
        for key in PARAM
        if given.get(key) not in (None, False) or (key == "default" and key in given)
    }


def price(path: str, given: dict[str, Any] | None, usual: str) -> dict[str, Any] | None:
    """A price in the package's form: amounts as decimal strings, so that none is rounded, with the
    date `usual` where it names none of its own."""
    if path in KNOWN_PRICES:
        return KNOWN_PRICES[path]
    if given is None:
        return None
    rules = [{"when": rule["when"], "amount": str(rule["price"])} for rule in given["rules"]]
    kept: dict[str, Any] = {"currency": given["currency"], "unit": given["unit"], "rules": rules}
    if given.get("from"):
        kept["at_least"] = True
    if given.get("headline"):
        kept["headline"] = True
    kept["as_of"] = given.get("as_of", usual)
    if kept["as_of"] not in PRICE_SOURCES:
        raise SystemExit(f"{path}: no source is known for prices of {kept['as_of']}")
    return kept


def model(given: dict[str, Any], usual: str, notes: Sequence[int]) -> dict[str, Any]:
    """One model in the package's form."""
    kept = {key: given[key] for key in MODEL if given.get(key)}
    kept["params"] = [param(given["path"], each) for each in given["params"]]
    if cost := price(given["path"], given.get("price"), usual):
        kept["price"] = cost
    if notes:
        kept["notes"] = list(notes)
    return kept


def main(source: str) -> None:
    """Write the package data and load it once."""
    collected = json.loads(Path(source).read_text(encoding="utf-8"))
    usual = collected["price_as_of"]["rules"]
    conflicts = collected.get("conflicts", [])
    notes: dict[str, list[int]] = {}
    for number, each in enumerate(conflicts):
        for path in places(each, collected["models"]):
            notes.setdefault(path, []).append(number)
    models = sorted(
        (model(each, usual, notes.get(each["path"], ())) for each in collected["models"]),
        key=lambda each: each["path"],
    )
    head = {
        "as_of": collected["as_of"],
        "prices_as_of": usual,
        "sources": collected["sources"],
        "names": [
            list(dict.fromkeys((m["path"], m["name"], *m.get("aliases", ())))) for m in models
        ],
        "price_sources": PRICE_SOURCES,
        "conflicts": conflicts,
    }
    lines = [
        json.dumps(each, ensure_ascii=False, separators=(",", ":")) for each in (head, *models)
    ]
    text = "\n".join(lines) + "\n"
    catalogue = Catalogue.parse(text)
    for spec in catalogue:
        _ = spec.params
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=TARGET.parent, delete=False
    ) as file:
        file.write(text)
    written = Path(file.name)
    written.chmod(0o644)
    written.replace(TARGET)
    print(f"{TARGET.name}: {len(catalogue)} models as of {catalogue.as_of}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
