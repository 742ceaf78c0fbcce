"""A server on loopback whose answers a test decides, byte for byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs


@attrs.define
class Asked:
    """One request as it came in."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    #: How many came on this connection before it.
    before: int
    write: Callable[[bytes], Awaitable[None]]

    @property
    def fields(self) -> Any:
        return json.loads(self.body or b"{}")


Answering = Callable[[Asked], Awaitable[bytes | None]]
"""Gives the bytes to send, or None to close the connection."""


def http(
    body: bytes | dict[str, Any] = b"", status: int = 200, headers: dict[str, str] | None = None
) -> bytes:
    """An answer, with its length."""
    data = json.dumps(body).encode() if isinstance(body, dict) else body
    lines = {"Content-Type": "application/json", "Content-Length": str(len(data))}
    head = "".join(f"{k}: {v}\r\n" for k, v in {**lines, **(headers or {})}.items())
    return f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + data


@attrs.define
class Raw:
    """The running server; `asked` holds the complete requests that came."""

    url: str = ""
    port: int = 0
    asked: list[Asked] = attrs.field(factory=list)
    connections: int = 0


@asynccontextmanager
async def raw_server(answer: Answering) -> AsyncIterator[Raw]:
    raw = Raw()
    writers: set[asyncio.StreamWriter] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw.connections += 1
        writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        count = 0

        async def write(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ", 2)
                pairs = (line.partition(":") for line in head[1:] if line)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                asked = Asked(method, target, headers, body, count, write)
                raw.asked.append(asked)
                count += 1
                data = await answer(asked)
                if data is None:
                    return
                await write(data)
        except (asyncio.IncompleteReadError, asyncio.CancelledError, OSError):
            pass
        finally:
            writers.discard(writer)
            tasks.discard(task)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**24)
    raw.port = server.sockets[0].getsockname()[1]
    raw.url = f"http://127.0.0.1:{raw.port}"
    try:
        yield raw
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
