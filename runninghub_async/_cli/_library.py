"""`resources` and `assets`: model files that workflows can load, and the asset library."""

from __future__ import annotations

import argparse
import json
from typing import Any

from .._plain import unstructure
from .._records import Resource
from ._calls import opened
from ._lists import first
from ._prompts import UsageError
from ._tables import facts, print_json, table

__all__ = ["call_assets", "list_resources"]


async def list_resources(args: argparse.Namespace) -> int:
    """Print model files of a kind."""
    async with opened(args) as session:
        listed = session.resources.list(
            args.kind, name=args.name or "", base_models=args.base_model, tags=args.tag
        )
        found = await first(listed, args.limit)
    if args.json:
        print_json(unstructure(found))
    else:
        rows = [(resource.name, _told(resource)) for resource in found]
        print(table(("name", "facts"), rows))
    return 0


async def call_assets(args: argparse.Namespace) -> int:
    """Make one of the asset library's five calls and print what it gave back."""
    fields = _fields(args.fields)
    async with opened(args) as session:
        library = session.assets.groups if args.group else session.assets
        told = await getattr(library, args.verb)(fields)
    if args.json:
        print_json(told)
    else:
        print(_text(told))
    return 0


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"JSON: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError("JSON: expected an object of fields")
    return fields


def _told(resource: Resource) -> str:
    """The plain facts: which there are, nobody has written down."""
    plain = {k: v for k, v in resource.facts.items() if isinstance(v, str | int | float)}
    return ", ".join(f"{k}: {v}" for k, v in plain.items() if v not in {"", resource.name})


def _text(told: Any) -> str:
    """Records as a table, one of them as facts, anything else as JSON."""
    listed = told.get("records", told) if isinstance(told, dict) else told
    if isinstance(listed, list) and all(isinstance(each, dict) for each in listed):
        names = list(dict.fromkeys(name for each in listed for name in each))
        rows = [[_cell(each.get(name)) for name in names] for each in listed]
        return table(names, rows) if names else "none"
    if isinstance(listed, dict):
        return facts({name: _cell(value) for name, value in listed.items()}) or "done"
    return "done" if told is None else _cell(told)


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
