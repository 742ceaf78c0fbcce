"""One run from its submit to its files, however it was asked for; and how a task is shown."""

from __future__ import annotations

import argparse
import asyncio
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._exceptions import RunningHubError
from .._models import Task, TaskStatus, Usage
from .._plain import unstructure
from .._progress import RunEnded
from .._saved import Download
from .._seedream import GenerationRequest
from .._session import Session
from ._calls import FAILED, currency_of, say
from ._events import describe
from ._results import fetch_all, make_folder
from ._tables import facts, one_line, print_json, table

__all__ = ["carry_out", "finish", "watch"]

#: How long the last events may take once the task is known to have ended, in seconds.
_LAST_EVENTS = 2.0


async def carry_out(session: Session, request: GenerationRequest, args: argparse.Namespace) -> int:
    """Submit `request`, name its task at once, and bring it home unless `--no-wait` is given."""
    folder = await make_folder("--out", args.out) if args.out else None
    task = await session.submit(request)
    say(f"task {task.id}")
    if args.no_wait:
        return _show(session, task, args)
    task = await follow(session, task, args.timeout, progress=args.progress)
    return await finish(session, task, args, folder)


async def follow(
    session: Session, given: Task | str, timeout: float | None, *, progress: bool = False
) -> Task:
    """Wait for a task's end. An interrupt prints which task still runs."""
    task_id = given.id if isinstance(given, Task) else given
    watcher = asyncio.create_task(_watch(session, task_id)) if progress else None
    try:
        task = await session.wait(given, timeout=timeout)
        if watcher is not None:
            await asyncio.wait([watcher], timeout=_LAST_EVENTS)
    except asyncio.CancelledError:
        say(
            f"task {task_id} still runs at the service;"
            f" to wait for it again: runninghub-async task {task_id} --wait"
        )
        raise
    finally:
        if watcher is not None:
            watcher.cancel()
            await asyncio.wait([watcher])
    return task


async def finish(
    session: Session, task: Task, args: argparse.Namespace, folder: Path | None
) -> int:
    """Fetch the results of a task into `folder` if there is one, show it, return the status."""
    if folder is None:
        return _show(session, task, args)
    files, faults = await fetch_all(session, task, folder)
    status = _show(session, task, args, files)
    for fault in faults:
        say(fault)
    if faults:
        again = shlex.join(["runninghub-async", "task", task.id, "--download", str(folder)])
        say(f"to fetch them again, within about 24 hours of its end: {again}")
    return FAILED if faults else status


async def watch(session: Session, task_id: str, args: argparse.Namespace) -> int:
    """Print the events of a run; 1 if it broke off."""
    status, told = 0, False
    async with session.progress(task_id) as events:
        async for event in events:
            told = True
            line, data = describe(event)
            if args.json:
                print_json(data, line=True)
            else:
                print(one_line(line), flush=True)
            if isinstance(event, RunEnded):
                status = 0 if event.ok else FAILED
    if not told:
        say(f"no progress to show: task {task_id} has ended, or has no socket")
    return status


async def _watch(session: Session, task_id: str) -> None:
    try:
        async with session.progress(task_id) as events:
            async for event in events:
                say(describe(event)[0])
    except RunningHubError as error:
        say(f"no more progress to show: {error}")


def _show(
    session: Session,
    task: Task,
    args: argparse.Namespace,
    files: Mapping[int, Download] | None = None,
) -> int:
    """Print a task, and return 1 if nothing came of it."""
    if args.json:
        print_json(_data(task, files))
    else:
        print(_text(task, files or {}, currency_of(session)))
    if task.status is TaskStatus.CANCEL and args.cancel:
        return 0
    if task.status in (TaskStatus.FAILED, TaskStatus.CANCEL):
        say(f"task {task.id}: {_reason(task) or task.status}")
        return FAILED
    return 0


def _data(task: Task, files: Mapping[int, Download] | None) -> dict[str, Any]:
    data: dict[str, Any] = unstructure(task)
    if files is not None:
        data["files"] = [
            {"output": place, "path": str(file.path), "bytes": file.size, "sha256": file.sha256}
            for place, file in files.items()
        ]
    return data


def _text(task: Task, files: Mapping[int, Download], currency: str) -> str:
    told = facts(
        {
            "task": task.id,
            "status": task.status,
            "cost": _cost(task.usage, currency),
            "seconds": task.usage.seconds if task.usage else None,
            "part of": task.parent_id if task.parent_id != task.id else "",
            "error": _reason(task),
            "nodes": "; ".join(map(str, task.node_errors)),
        }
    )
    parts = [told]
    if task.parts:
        shares = [(part.id, part.status, _cost(part.usage, currency)) for part in task.parts]
        parts.append(table(("part", "status", "cost"), shares))
    if task.outputs:
        rows = [
            (
                place + 1,
                output.type,
                output.node_id,
                files[place].path if place in files else output.url or "see below",
            )
            for place, output in enumerate(task.outputs)
        ]
        parts.append(table(("result", "type", "node", "file" if files else "where"), rows))
    parts += [
        output.text
        for place, output in enumerate(task.outputs)
        if output.text and not output.url and place not in files
    ]
    return "\n\n".join(parts)


def _reason(task: Task) -> str:
    """Why a task failed; a cancellation gives none."""
    told = task.error is not None and (task.status is TaskStatus.FAILED or task.error.message)
    return str(task.error) if told else ""


def _cost(usage: Usage | None, currency: str) -> str:
    if usage is None:
        return ""
    if usage.total_money is not None:
        return f"{usage.total_money:f} {currency}"
    return f"{usage.coins:f} coins" if usage.coins is not None else ""
