"""What ComfyUI tells while it runs a graph, and the socket that tells it.

The messages of a run are a plain list, each with the part of the running time after which it is
due. The documentation calls the socket unstable and no way to learn that a task has ended.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from aiohttp import WSMsgType, web

from ._graphs import order
from ._pictures import sketch
from ._service import Emulated, failed_reason

__all__ = ["converse", "play", "status", "story"]

#: ComfyUI's binary frames start with the kind of event and of picture: a preview, a PNG.
_PREVIEW: Final = struct.pack(">II", 1, 2)

_STEPS: Final = 4

#: What shows as a graph where a task has none to show.
_SAMPLER: Final = ("3",)


def status(waiting: int) -> str:
    """What is said first, and when the queue changes."""
    said = {"status": {"exec_info": {"queue_remaining": waiting}}}
    return json.dumps({"type": "status", "data": said})


def story(task: Emulated) -> Iterator[tuple[float, str | bytes]]:
    """Every message of a task's run, in order, with when it is due: 0 the start, 1 the end.

    A failed run breaks off at its last node; one preview comes halfway through the second.
    """
    run = task.prompt_id or task.id
    outputs = list(dict.fromkeys(node for node, _ in task.work.files))
    nodes = [node for node in order(task.work.graph, outputs) if node not in outputs] or _SAMPLER
    places = [*nodes, *outputs]
    yield 0.0, _message("execution_start", prompt_id=run)
    yield 0.0, _message("execution_cached", nodes=[], prompt_id=run)
    for number, node in enumerate(places):
        start, share = number / len(places), 1 / len(places)
        yield start, _message("executing", node=node, display_node=node, prompt_id=run)
        if task.failure and number == len(places) - 1:
            yield 1.0, _message("execution_error", prompt_id=run, **failed_reason(task))
            return
        if node in outputs:
            continue
        for step in range(1, _STEPS + 1):
            at = start + share * step / (_STEPS + 1)
            yield at, _message("progress", value=step, max=_STEPS, node=node, prompt_id=run)
        if number == min(1, len(nodes) - 1):
            prompt = str(task.work.params.get("prompt", ""))
            yield start + share * 0.9, _PREVIEW + sketch(prompt, 64, 64)
    for node in outputs:
        images = [
            {"filename": f"{task.id}_{number}.{kind}", "subfolder": "", "type": "output"}
            for number, (key, kind) in enumerate(task.work.files)
            if key == node
        ]
        said = {"images": images}
        yield 1.0, _message("executed", node=node, display_node=node, output=said, prompt_id=run)
    yield 1.0, _message("executing", node=None, prompt_id=run)
    yield 1.0, _message("execution_success", prompt_id=run)


async def play(socket: web.WebSocketResponse, task: Emulated) -> None:
    """Send the messages of a task's run as they come; a late listener gets the earlier ones at
    once."""
    loop = asyncio.get_running_loop()
    for part, message in story(task):
        due = task.starts + part * (task.ends - task.starts)
        while task.cancelled is None and (left := due - loop.time()) > 0:  # noqa: ASYNC110
            # Long waits are cut up, so that a cancelled task is noticed.
            await asyncio.sleep(min(left, 1.0))
        if task.cancelled is not None:
            run = task.prompt_id or task.id
            await socket.send_str(_message("execution_interrupted", prompt_id=run))
            return
        if isinstance(message, bytes):
            await socket.send_bytes(message)
        else:
            await socket.send_str(message)


async def converse(socket: web.WebSocketResponse, telling: Coroutine[Any, Any, None]) -> None:
    """Run `telling` until it ends or the other side hangs up, which only reading notices."""
    jobs = [asyncio.create_task(telling), asyncio.create_task(_listen(socket))]
    try:
        await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for job in jobs:
            job.cancel()
        ends = await asyncio.gather(*jobs, return_exceptions=True)
    for end in ends:
        if isinstance(end, Exception) and not isinstance(end, ConnectionError):
            raise end


async def _listen(socket: web.WebSocketResponse) -> None:
    async for message in socket:
        if message.type is WSMsgType.ERROR:
            return


def _message(kind: str, **data: Any) -> str:
    return json.dumps({"type": kind, "data": data})
