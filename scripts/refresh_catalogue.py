"""Rewrite `runninghub_async/catalogue.jsonl` from a collected catalogue of the service's models.

    python scripts/refresh_catalogue.py COLLECTED.json

COLLECTED.json holds `as_of`, `price_as_of`, `sources` and `models`, as gathered from the public
model registry that NOTICE names. The package's own form drops what a client cannot use, renames
what clashes with Python and sorts by path, a model per line, so that a refresh reads well as a
diff. Everything is checked by loading the result; a fault names the model and leaves the old
file as it was.
"""

from __future__ import annotations

import json
import sys
import tempfile
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
    if f.name not in ("params", "price", "_by_key", "_required")
)


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


def price(given: dict[str, Any] | None) -> dict[str, Any] | None:
    """A price in the package's form: amounts as decimal strings, so that none is rounded."""
    if given is None:
        return None
    rules = [{"when": rule["when"], "amount": str(rule["price"])} for rule in given["rules"]]
    kept: dict[str, Any] = {"currency": given["currency"], "unit": given["unit"], "rules": rules}
    if given.get("from"):
        kept["at_least"] = True
    return kept


def model(given: dict[str, Any]) -> dict[str, Any]:
    """One model in the package's form."""
    kept = {key: given[key] for key in MODEL if given.get(key)}
    kept["params"] = [param(given["path"], each) for each in given["params"]]
    if cost := price(given.get("price")):
        kept["price"] = cost
    return kept


def main(source: str) -> None:
    """Write the package data and load it once."""
    collected = json.loads(Path(source).read_text(encoding="utf-8"))
    models = sorted((model(each) for each in collected["models"]), key=lambda each: each["path"])
    head = {
        "as_of": collected["as_of"],
        "prices_as_of": max(collected["price_as_of"].values()),
        "sources": collected["sources"],
        "names": [
            list(dict.fromkeys((m["path"], m["name"], *m.get("aliases", ())))) for m in models
        ],
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
