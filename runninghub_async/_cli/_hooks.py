"""`webhook`: the delivery of a task's event, and sending it again."""

from __future__ import annotations

import argparse

from .._plain import unstructure
from ._calls import opened
from ._tables import facts, print_json, tell

__all__ = ["resend_webhook", "show_webhook"]


async def show_webhook(args: argparse.Namespace) -> int:
    """Print the delivery of a task's event."""
    async with opened(args) as session:
        detail = await session.webhook_events.get(args.id)
    if args.json:
        print_json(unstructure(detail))
        return 0
    print(
        facts(
            {
                "event": detail.id,
                "task": detail.task_id,
                "status": detail.status,
                # What follows may be what the receiver knows the service by.
                "url": detail.url.partition("?")[0],
                "response": detail.response,
                "retries": detail.retries,
                "created": detail.created,
                "updated": detail.updated,
                "data": detail.data,
            }
        )
    )
    return 0


async def resend_webhook(args: argparse.Namespace) -> int:
    """Have an event delivered again."""
    async with opened(args) as session:
        await session.webhook_events.resend(args.id, url=args.url)
    if args.json:
        print_json({"event": args.id, "resent": True})
    else:
        tell(f"event {args.id} is delivered again")
    return 0
