"""A small service for `MockTransport`, on the loop's clock, that remembers what it did; and
servers for what is no coroutine."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import itertools
import json
import os
import random
import select
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import runninghub_async as rh
from runninghub_async.emulator import Emulator
from runninghub_async.testing import MockTransport, json_response

#: Whether what comes in large numbers comes in all of them (`TEST_SIZE=full`).
FULL = os.environ.get("TEST_SIZE") == "full"

SAMPLES = Path(__file__).parent / "samples"
FIRST_ID = 2013508786110730241

Answer = rh.Response | Exception | None
"""What a hook gives: an answer, an error of the network, or None for the usual."""


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.json").read_bytes()


def png(
    width: int = 8, height: int = 8, *, colour: int = 2, depth: int = 8, interlaced: bool = False
) -> bytes:
    """A whole PNG of noise, with rows under every filter."""
    noise = random.Random(f"{width} {height} {colour} {depth} {interlaced}")
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
             (0, 1, 1, 2)]  # fmt: skip
    rows = []
    for x, y, across, down in adam7 if interlaced else [(0, 0, 1, 1)]:
        columns = len(range(x, width, across))
        for _ in range(y, height, down) if columns else ():
            size = (columns * samples * depth + 7) // 8
            rows.append(bytes([noise.randrange(5)]) + noise.randbytes(size))
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))]
    if colour == 3:
        parts.append((b"PLTE", noise.randbytes(3 * 2**depth)))
    parts += [(b"tEXt", b"Title\0a test"), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*part) for part in parts)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@contextlib.contextmanager
def emulated(**options: Any) -> Iterator[Emulator]:
    """An emulator on a loop in a thread."""
    ready, stop = threading.Event(), asyncio.Event()
    made: list[tuple[Emulator, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        async with Emulator(**options) as emulator:
            made.append((emulator, asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(60)
    ((emulator, loop),) = made
    try:
        yield emulator
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)


@contextlib.contextmanager
def served(answer: Callable[[str, dict[str, Any]], Any]) -> Iterator[str]:
    """The URL of a server whose answers (JSON or bytes) `answer(path, body)` decides."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("content-length") or 0))
            told = answer(self.path, json.loads(text) if text.startswith(b"{") else {})
            data = told if isinstance(told, bytes) else json.dumps(told).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def until(true: Callable[[], object]) -> None:
    """Wait for a minute at most."""
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        select.select([], [], [], 0.02)


def refusal(code: str) -> rh.Response:
    return json_response({"errorCode": code, "errorMessage": f"code {code}"})


def posters(count: int | None = None) -> Any:
    numbers = itertools.count() if count is None else range(count)
    return (rh.SeedreamV5Lite(f"a poster of the number {n}") for n in numbers)


class Service:
    """Tasks that end `duration` seconds after their submit.

    `on_submit(prompt)` and `on_query(task_id)` may answer instead; `after_submit(prompt)` may
    spoil the answer to a submit that did create a task.
    """

    def __init__(
        self,
        duration: float | Callable[[str], float] = 10.0,
        *,
        on_submit: Callable[[str], Answer] | None = None,
        after_submit: Callable[[str], Answer] | None = None,
        on_query: Callable[[str], Answer] | None = None,
        max_alive: int | None = None,
        latency: float = 0.05,
    ) -> None:
        self.transport = MockTransport(self._answer)
        self.created: dict[str, str] = {}
        self.submitted: Counter[str] = Counter()
        self.submit_times: list[float] = []
        self.query_times: dict[str, list[float]] = {}
        self.cancelled: list[str] = []
        self.most_alive = 0
        self._ends: dict[str, float] = {}
        self._duration = duration
        self._on_submit = on_submit
        self.after_submit = after_submit
        self._on_query = on_query
        self._max_alive = max_alive
        self._latency = latency
        self._ids = itertools.count(FIRST_ID)

    def session(self, **options: Any) -> rh.Session:
        options.setdefault("rng", random.Random(0))
        return rh.Session("a-key", transport=self.transport, **options)

    async def _answer(self, request: rh.Request) -> rh.Response:
        await asyncio.sleep(self._latency)
        body = json.loads(request.body or b"{}")
        if request.url.endswith("/query"):
            return self._give(self._query(body["taskId"]))
        if request.url.endswith("/cancel"):
            self.cancelled.append(body["taskId"])
            return json_response({"code": 0, "msg": "success", "data": None})
        return self._give(self._submit(body["prompt"]))

    @staticmethod
    def _give(answer: rh.Response | Exception) -> rh.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def alive(self) -> int:
        now = asyncio.get_running_loop().time()
        return sum(end > now for end in self._ends.values())

    def _submit(self, prompt: str) -> rh.Response | Exception:
        now = asyncio.get_running_loop().time()
        self.submitted[prompt] += 1
        self.submit_times.append(now)
        told = self._on_submit(prompt) if self._on_submit else None
        if told is not None:
            return told
        if self._max_alive is not None and self.alive >= self._max_alive:
            return refusal("421")
        task_id = str(next(self._ids))
        self.created[task_id] = prompt
        takes = self._duration(prompt) if callable(self._duration) else self._duration
        self._ends[task_id] = now + takes
        self.most_alive = max(self.most_alive, self.alive)
        told = self.after_submit(prompt) if self.after_submit else None
        return told or json_response({"taskId": task_id, "status": "QUEUED", "errorCode": ""})

    def _query(self, task_id: str) -> rh.Response | Exception:
        now = asyncio.get_running_loop().time()
        self.query_times.setdefault(task_id, []).append(now)
        told = self._on_query(task_id) if self._on_query else None
        if told is not None:
            return told
        done = now >= self._ends[task_id]
        url = f"https://results.example/{task_id}.png?sign=a%2Fb"
        return json_response(
            {
                "taskId": task_id,
                "status": "SUCCESS" if done else "RUNNING",
                "errorCode": "",
                "results": [{"url": url, "outputType": "png", "nodeId": "2"}] if done else None,
                "usage": {"thirdPartyConsumeMoney": "0.22"} if done else None,
            }
        )


class Gated(Service):
    """A service that answers no submit before its `gate` is open."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.gate = asyncio.Event()

    async def _answer(self, request: rh.Request) -> rh.Response:
        if not request.url.endswith("/query"):
            await self.gate.wait()
        return await super()._answer(request)
