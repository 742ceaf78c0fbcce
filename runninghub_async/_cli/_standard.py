"""`run` and `price`: one request for a standard model, or what it would cost."""

from __future__ import annotations

import argparse
from typing import Any

from .._catalogue import ModelSpec
from .._plain import unstructure
from .._seedream import ModelRequest
from .._threads import run_in_thread
from ._calls import opened
from ._models import listed_price
from ._prompts import find_model, overrides
from ._runs import carry_out
from ._tables import facts, print_json

__all__ = ["run_model", "show_price"]


async def run_model(args: argparse.Namespace) -> int:
    """Submit one request, with the documented defaults for what is not given."""
    request = _request(await run_in_thread(find_model, args.model), args)
    async with opened(args) as session:
        return await carry_out(session, request, args)


async def show_price(args: argparse.Namespace) -> int:
    """Print the catalogue's estimate, and the service's with `--ask`."""
    spec = await run_in_thread(find_model, args.model)
    request = _request(spec, args)
    estimate = request.price()
    data: dict[str, Any] = {
        "model": spec.path,
        "estimate": unstructure(estimate),
        "as_of": spec.price_date or None,
    }
    told = {
        "model": spec.path,
        "listed": listed_price(spec.price),
        "estimate": f"{estimate} (price of {spec.price_date})" if estimate else "not known",
    }
    if args.ask:
        async with opened(args) as session:
            asked = await session.price(request)
        data["asked"] = unstructure(asked)
        amount = "names no amount" if asked.amount is None else f"{asked.amount:f}"
        told["service"] = f"{amount} {asked.currency}"
        if asked.free:
            left = "" if asked.free_left is None else f", {asked.free_left} left"
            told["free"] = f"this call is free{left}"
        told["wording"] = asked.text
    if args.json:
        print_json(data)
    else:
        print(facts(told))
    return 0


def _request(spec: ModelSpec, args: argparse.Namespace) -> ModelRequest:
    given = overrides(spec, args.param)
    defaults = {p.name: p.default for p in spec.params if not p.required and p.default is not None}
    return ModelRequest(spec.path, defaults | given)
