"""`models`: search the catalogue, or show one model with its parameters and price."""

from __future__ import annotations

import argparse

from .._catalogue import Catalogue, ModelSpec, ParamSpec, PriceSpec
from .._plain import unstructure
from ._tables import print_json, tell

__all__ = ["listed_price", "show_models"]


def show_models(args: argparse.Namespace) -> int:
    """Print one model if the words name one, else those that hold all of them; 1 if none does."""
    catalogue = Catalogue.load()
    words = " ".join(args.words)
    if words in catalogue:
        return _show_one(catalogue.find(words), args)
    found = catalogue.search(words)
    if args.count:
        print(len(found))
        return 0 if found else 1
    if args.json:
        print_json([unstructure(spec) for spec in found])
        return 0 if found else 1
    if not found:
        tell(f"no model in the catalogue of {catalogue.as_of} matches: {words}")
        return 1
    width = max(len(spec.path) for spec in found)
    for spec in found:
        marks = " (deprecated)" if spec.deprecated else ""
        print(f"{spec.path:<{width}}  {listed_price(spec.price)}{marks}")
    print(f"{len(found)} of {len(catalogue)} models as of {catalogue.as_of}")
    return 0


def _show_one(spec: ModelSpec, args: argparse.Namespace) -> int:
    if args.count:
        print(1)
    elif args.json:
        print_json(unstructure(spec))
    else:
        print(_one(spec))
    return 0


def _one(spec: ModelSpec) -> str:
    names = [name for name in dict.fromkeys((spec.name, *spec.aliases)) if name != spec.path]
    lines = [spec.path]
    if names:
        lines.append(f"  also        {', '.join(names)}")
    lines += [
        f"  task        {spec.task}, by {spec.vendor}; makes {spec.output}",
        f"  price       {listed_price(spec.price)}{_taken(spec.price)}",
    ]
    if spec.price is not None and spec.price.extra_image is not None:
        lines.append(
            f"              and {spec.price.extra_image:f} {spec.price.currency} for each picture"
            " given after the first"
        )
    if spec.last_seen:
        lines.append(f"  last listed {spec.last_seen}; the service may have removed it")
    if spec.deprecated:
        lines.append("  deprecated")
    if spec.incomplete:
        lines.append("  its parameters are not completely known")
    lines += [f"  note        {note}" for note in spec.notes]
    lines += ["", "  parameters (* = required)"]
    width = max((len(p.name) for p in spec.params), default=0)
    lines += [f"  {'*' if p.required else ' '} {p.name:<{width}}  {_param(p)}" for p in spec.params]
    return "\n".join(lines)


def _param(param: ParamSpec) -> str:
    parts = [f"list of {param.type}s" if param.multiple else param.type]
    if param.choices:
        parts = [" | ".join(param.choices)]
    low, high, unit = param.min, param.max, ""
    if param.type == "string":
        low, high, unit = param.min_length, param.max_length, " characters"
    if low is not None and high is not None:
        parts.append(f"{low:g} to {high:g}{unit}")
    elif low is not None:
        parts.append(f"at least {low:g}{unit}")
    elif high is not None:
        parts.append(f"at most {high:g}{unit}")
    if param.max_items is not None:
        parts.append(f"at most {param.max_items}")
    if param.max_size_mb is not None:
        parts.append(f"up to {param.max_size_mb:g} MB")
    if param.accept:
        parts.append("/".join(param.accept))
    if param.default is not None:
        parts.append(f"default {param.default}")
    if param.alias:
        parts.append(f"also {param.alias}")
    return ", ".join(parts)


def _taken(price: PriceSpec | None) -> str:
    """When and from where a price was taken."""
    if price is None or not price.as_of:
        return ""
    what = ", the one price that it shows" if price.headline else ""
    return f", as of {price.as_of} ({price.source}{what})"


def listed_price(price: PriceSpec | None) -> str:
    """A model's price in words, from the cheapest to the dearest of its rules."""
    if price is None or not price.rules:
        return "price not known"
    amounts = sorted({rule.amount for rule in price.rules})
    span = f"{amounts[0]:f}" if len(amounts) == 1 else f"{amounts[0]:f} to {amounts[-1]:f}"
    start = "from " if price.at_least else ""
    per = f" per {price.unit.replace('_', ' ')}" if price.unit else ""
    return f"{start}{span} {price.currency}{per}"
