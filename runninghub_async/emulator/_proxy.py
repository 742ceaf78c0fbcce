"""ComfyUI's own interface, as `/proxy/<key>` and `/proxy-plus/<key>` stand for it.

Answers are ComfyUI's, without an envelope. Only `/object_info` looks at no key, as reported of
the service.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final

from aiohttp import web

from ._progress import converse, play, status
from ._service import Emulated

__all__ = ["OBJECT_INFO", "Listeners", "history", "prompted"]

#: The real one is some thirty megabytes; this has the nodes of the built-in workflow.
OBJECT_INFO: Final = {
    name: {
        "input": {"required": required},
        "output": outputs,
        "output_is_list": [False] * len(outputs),
        "output_name": outputs,
        "name": name,
        "display_name": name,
        "description": "",
        "category": "emulator",
        "output_node": not outputs,
    }
    for name, required, outputs in (
        ("KSampler", {
            "model": ["MODEL"], "seed": ["INT", {"default": 0, "min": 0}],
            "steps": ["INT", {"default": 20, "min": 1, "max": 10000}],
            "cfg": ["FLOAT", {"default": 8.0, "min": 0.0, "max": 100.0}],
            "sampler_name": [["euler", "dpmpp_2m", "ddim"]], "scheduler": [["normal", "karras"]],
            "positive": ["CONDITIONING"], "negative": ["CONDITIONING"],
            "latent_image": ["LATENT"], "denoise": ["FLOAT", {"default": 1.0}],
        }, ["LATENT"]),
        ("CheckpointLoaderSimple",
         {"ckpt_name": [["v1-5-pruned-emaonly.safetensors"]]}, ["MODEL", "CLIP", "VAE"]),
        ("EmptyLatentImage", {"width": ["INT", {"default": 512}],
                              "height": ["INT", {"default": 512}],
                              "batch_size": ["INT", {"default": 1}]}, ["LATENT"]),
        ("CLIPTextEncode", {"text": ["STRING", {"multiline": True}], "clip": ["CLIP"]},
         ["CONDITIONING"]),
        ("VAEDecode", {"samples": ["LATENT"], "vae": ["VAE"]}, ["IMAGE"]),
        ("LoadImage", {"image": [["example.png"], {"image_upload": True}]}, ["IMAGE", "MASK"]),
        ("SaveImage", {"images": ["IMAGE"],
                       "filename_prefix": ["STRING", {"default": "ComfyUI"}]}, []),
    )
}  # fmt: skip


def prompted(task: Emulated, number: int) -> dict[str, Any]:
    """Answer `POST /prompt`."""
    errors = json.loads(task.work.tips)["node_errors"]
    return {"prompt_id": task.prompt_id, "number": number, "node_errors": errors}


def history(task: Emulated | None, now: float) -> dict[str, Any]:
    """Answer `GET /history/<id>`: empty until the task has ended."""
    if task is None or task.status(now) in ("QUEUED", "RUNNING"):
        return {}
    good = task.status(now) == "SUCCESS"
    outputs: dict[str, dict[str, list[dict[str, str]]]] = {}
    for number, (node, kind) in enumerate(task.work.files if good else ()):
        file = {"filename": f"{task.id}_{number}.{kind}", "subfolder": "", "type": "output"}
        outputs.setdefault(node, {}).setdefault("images", []).append(file)
    return {
        task.prompt_id: {
            "prompt": [0, task.prompt_id, task.work.graph, {}, list(outputs)],
            "outputs": outputs,
            "status": {
                "status_str": "success" if good else "error",
                "completed": good,
                "messages": [],
            },
        }
    }


class Listeners:
    """Sockets opened before there is anything to tell, by client id."""

    def __init__(self) -> None:
        self._queues: dict[str, asyncio.Queue[Emulated]] = {}

    def tell(self, task: Emulated) -> None:
        """A task of this client has been created."""
        if queue := self._queues.get(task.client_id):
            queue.put_nowait(task)

    async def listen(self, socket: web.WebSocketResponse, client_id: str) -> None:
        """Tell the runs of this client's tasks until it hangs up."""
        queue = self._queues[client_id] = asyncio.Queue()
        try:
            await converse(socket, _tell(socket, queue))
        finally:
            if self._queues.get(client_id) is queue:
                del self._queues[client_id]


async def _tell(socket: web.WebSocketResponse, queue: asyncio.Queue[Emulated]) -> None:
    while True:
        await socket.send_str(status(queue.qsize()))
        await play(socket, await queue.get())
