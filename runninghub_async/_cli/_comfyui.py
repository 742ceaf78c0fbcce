"""`comfyui`: the address that stands in for a ComfyUI server."""

from __future__ import annotations

import argparse

from ._calls import FAILED, opened
from ._tables import facts, print_json

__all__ = ["show_comfyui"]


async def show_comfyui(args: argparse.Namespace) -> int:
    """Print the address, its key only if asked to, and whether anything answers there."""
    async with opened(args) as session:
        url = session.comfyui.url(plus=args.plus)
        reachable = await session.comfyui.reachable(plus=args.plus)
    if not args.show_key:
        url = f"{url.rpartition('/')[0]}/****"
    if args.json:
        print_json({"url": url, "reachable": reachable})
    else:
        print(facts({"url": url, "reachable": reachable}))
    return 0 if reachable else FAILED
