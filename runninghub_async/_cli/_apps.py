"""`app` and `quick`: AI apps, what they take, and runs of them."""

from __future__ import annotations

import argparse

from .._apps import AppInput
from .._plain import unstructure
from .._runs import AppRequest, QuickCreateRequest
from ._calls import opened
from ._lists import first
from ._runs import carry_out
from ._tables import cut, facts, print_json, table
from ._values import node_values, texts_of_app

__all__ = ["list_apps", "quick_styles", "run_app", "run_quick", "show_app"]


async def list_apps(args: argparse.Namespace) -> int:
    """Print public apps."""
    async with opened(args) as session:
        apps = await first(session.apps.list(sort=args.sort, days=args.days), args.limit)
    if args.json:
        print_json(unstructure(apps))
    else:
        rows = [(app.id, cut(app.title), app.description) for app in apps]
        print(table(("id", "title", "description"), rows))
    return 0


async def show_app(args: argparse.Namespace) -> int:
    """Print what an app takes."""
    async with opened(args) as session:
        app = await session.apps.get(args.id)
    if args.json:
        print_json(unstructure(app))
        return 0
    locked = "asks for a password" if app.needs_password else ""
    print(facts({"app": app.id, "name": app.name, "tags": ", ".join(app.tags), "": locked}))
    print()
    print(table(("input", "type", "default", "choices", "description"), map(_row, app.inputs)))
    return 0


async def run_app(args: argparse.Namespace) -> int:
    """Run an app, once its inputs have been looked at."""
    node_values(args.set)
    async with opened(args) as session:
        app = await session.apps.get(args.id)
        request = AppRequest(
            app,
            node_values(args.set, texts_of_app(app)),
            instance_type=args.instance_type,
            use_personal_queue=args.use_personal_queue or None,
            retain_seconds=args.retain_seconds,
            access_password=args.access_password,
            quick_create_code=args.quick_create_code,
            webhook_url=args.webhook_url,
            api=args.api,
        )
        return await carry_out(session, request, args)


async def quick_styles(args: argparse.Namespace) -> int:
    """Print the style models of a quick-create app."""
    async with opened(args) as session:
        styles = await session.quick_create.styles(args.id, kind=args.kind)
    if args.json:
        print_json(unstructure(styles))
    else:
        rows = [(s.id, s.name, s.category, s.key, cut(s.trigger), s.content) for s in styles]
        print(table(("id", "name", "category", "input", "trigger", "content"), rows))
    return 0


async def run_quick(args: argparse.Namespace) -> int:
    """Run a quick-create module."""
    request = QuickCreateRequest(
        args.id, args.code, node_values(args.set), webhook_url=args.webhook_url
    )
    async with opened(args) as session:
        return await carry_out(session, request, args)


def _row(spec: AppInput) -> tuple[object, ...]:
    told = [
        value if label in {value, ""} else f"{value} ({label})"
        for value, label in zip(spec.choices, spec.labels, strict=True)
    ]
    choices = " | ".join(told)
    low, high = spec.min, spec.max
    if not choices and low is not None and high is not None:
        choices = f"{low:g} to {high:g}"
    elif not choices and (low is not None or high is not None):
        choices = f"at least {low:g}" if low is not None else f"at most {high:g}"
    name = f"{spec.node_id}.{spec.field}"
    return name, spec.type, cut(spec.default), cut(choices), spec.description
