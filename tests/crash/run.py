"""A run in a process of its own, so that it can be killed: `run.py OPTIONS`, which are JSON.

`journal`, `url`: of the session. `count`: how many requests. `calls`: what to do, of `stream`,
`enlist` and `resume`. `folder`: where results go. `port`: of a receiver for webhooks, which are
waited for `patience` seconds. `room`: bytes that a file may have, until a line comes on the
standard input. `large`: have every result be a picture of this many bytes, about.

It says on the standard output what the package warns of, and `opened` and `done`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import random
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

import runninghub_async as rh


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


class Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def posters(count: int) -> Iterator[rh.SeedreamV5Lite]:
    return (rh.SeedreamV5Lite(f"a poster of the number {n}", 1600, 1344) for n in range(count))


def noise(size: int) -> bytes:
    """A PNG of about this many bytes."""
    side = math.isqrt(size)
    rows = b"".join(b"\0" + random.Random(row).randbytes(side) for row in range(side))
    parts = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 1)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )


class Large(rh.AiohttpTransport):
    """Asks for the results, and gives another picture in their place."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._picture = noise(size)

    @contextlib.asynccontextmanager
    async def stream(self, request: rh.Request) -> AsyncIterator[rh.StreamedResponse]:
        async with super().stream(request) as answer:
            assert answer.status == 200
            yield rh.StreamedResponse(200, {}, self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        yield self._picture


@contextlib.asynccontextmanager
async def receiver(port: int, patience: float) -> AsyncIterator[rh.Webhooks | None]:
    if not port:
        yield None
        return
    hooks = rh.Webhooks(f"http://127.0.0.1:{port}/hooks/", patience=patience)
    application = web.Application()
    application.router.add_post("/hooks/", hooks.aiohttp)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, reuse_port=True).start()
        yield hooks
    finally:
        await runner.cleanup()


def limit(room: int) -> None:
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (room or hard, hard))


async def make_room() -> None:
    await asyncio.to_thread(sys.stdin.readline)
    limit(0)


async def main(told: dict[str, Any]) -> None:
    folder = Path(told["folder"]) if told.get("folder") else None
    async with contextlib.AsyncExitStack() as stack:
        hooks = await stack.enter_async_context(
            receiver(told.get("port", 0), told.get("patience", 0.0))
        )
        session = await stack.enter_async_context(
            rh.Session(
                "a-key",
                base_url=told["url"],
                journal=told["journal"],
                limits=rh.Limits(told.get("limit", 30), None, None),
                polling=rh.ExponentialPolling(0.05, 1, 0.05),
                retry=rh.RetryPolicy(
                    wait_initial=0.02, wait_max=0.2, capacity_wait_max=0.05, query_wait_max=0.2
                ),
                transport=Large(told["large"]) if told.get("large") else None,
                webhooks=hooks,
            )
        )
        say("opened")
        if told.get("room"):
            limit(told["room"])
            stack.enter_context(stopping(asyncio.ensure_future(make_room())))
        for call in told["calls"]:
            if call == "enlist":
                await session.enlist(posters(told["count"]))
                continue
            stream = (
                session.resume(folder=folder)
                if call == "resume"
                else session.stream(posters(told["count"]), folder=folder)
            )
            async for _ in stream:
                pass
    say("done")


@contextlib.contextmanager
def stopping(task: asyncio.Future[None]) -> Iterator[None]:
    try:
        yield
    finally:
        task.cancel()


if __name__ == "__main__":
    logging.getLogger("runninghub_async.trouble").addHandler(Said())
    asyncio.run(main(json.loads(sys.argv[1])))
