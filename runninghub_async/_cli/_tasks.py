"""`task` and `progress`: a task that exists already."""

from __future__ import annotations

import argparse
import asyncio

from .._models import TaskStatus
from ._calls import FAILED, opened, say
from ._results import make_folder
from ._runs import finish, follow, watch
from ._tables import print_json, tell

__all__ = ["show_progress", "show_task"]


async def show_task(args: argparse.Namespace) -> int:
    """Show a task, once it has ended with `--wait`, after cancelling it with `--cancel`."""
    async with opened(args) as session:
        if args.status:
            status = await session.older.status(args.id)
            if args.json:
                print_json({"id": args.id, "status": status})
            else:
                tell(status)
            return FAILED if status in (TaskStatus.FAILED, TaskStatus.CANCEL) else 0
        folder = await make_folder("--download", args.download) if args.download else None
        if args.cancel:
            await session.cancel(args.id)
            say(f"asked the service to cancel task {args.id}")
        if args.wait:
            task = await follow(session, args.id, args.timeout)
        else:
            task = await (session.older.outputs if args.older else session.query)(args.id)
        if folder is not None and not task.done:
            await finish(session, task, args, None)
            say(f"task {args.id} has not ended: nothing to download yet; --wait waits for it")
            return FAILED
        return await finish(session, task, args, folder)


async def show_progress(args: argparse.Namespace) -> int:
    """Print the events of a run until its socket closes."""
    async with opened(args) as session:
        try:
            return await watch(session, args.id, args)
        except asyncio.CancelledError:
            say(f"task {args.id} runs on at the service")
            raise
