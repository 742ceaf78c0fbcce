"""A stub of the service in a process of its own: the two endpoints and nothing else.

It stands on `aiohttp.web.Server`, without routes, checks, limits or a log, so that it takes little
of what is measured; all contenders meet the same one. It is not the package's emulator, which
does far more work for each request.

    with Service() as service:
        ...  # service.url
    service.counts
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import subprocess
import sys
import time
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from ._answers import FIRST_TASK_ID, query_answer, submit_answer
from ._process import ROOT, cpu_seconds

__all__ = ["QUERY_PATH", "SUBMIT_PATH", "Counts", "Service"]

SUBMIT_PATH: Final = "/openapi/v2/seedream-v5-lite/text-to-image"
QUERY_PATH: Final = "/openapi/v2/query"


@dataclasses.dataclass
class Counts:
    """What a service was asked.

    `submitted_bytes`: of the bodies of submits. `seconds`, `busy`: the time between the queries
    `warm_up` and `warm_up + running`, and the share of it that the service itself was computing.
    """

    submits: int = 0
    queries: int = 0
    submitted_bytes: int = 0
    seconds: float = 0.0
    busy: float = 0.0


class Service:
    """The stub, started and stopped with `with`.

    Tasks are done at once. With `running` the answers to the first `warm_up + running` queries
    say RUNNING, whatever they ask for, and the answers to all later ones SUCCESS: a client that
    asks for ever is so told to stop, and the service measures how fast it was asked. With `looks`
    each task runs for its first `looks` queries.
    """

    def __init__(self, *, warm_up: int = 0, running: int = 0, looks: int = 0) -> None:
        self.url = ""
        self.counts = Counts()
        self._arguments = [str(warm_up), str(running), str(looks)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._service", *self._arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            raise RuntimeError("the stub service did not start")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process is not None
        try:
            # Closing its input stops it.
            told, _ = self._process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        self.counts = Counts(**json.loads(told))


class _Stub:
    def __init__(self, warm_up: int, running: int, looks: int) -> None:
        self.counts = Counts()
        self._looks = looks
        self._looked: dict[str, int] = {}
        self._marks = (warm_up, warm_up + running)
        self._ids = map(str, itertools.count(FIRST_TASK_ID))
        self._mark = (0.0, 0.0)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        if request.path == QUERY_PATH:
            answer = self._query(json.loads(body)["taskId"])
        elif request.path == SUBMIT_PATH:
            self.counts.submits += 1
            self.counts.submitted_bytes += len(body)
            answer = submit_answer(next(self._ids))
        else:
            return web.Response(status=404)
        return web.Response(body=answer, content_type="application/json")

    def _query(self, task_id: str) -> bytes:
        self.counts.queries += 1
        begin, end = self._marks
        if self.counts.queries == begin:
            self._mark = time.perf_counter(), cpu_seconds()
        elif self.counts.queries == end:
            self.counts.seconds = time.perf_counter() - self._mark[0]
            self.counts.busy = (cpu_seconds() - self._mark[1]) / self.counts.seconds
        done = self.counts.queries > end
        if done and self._looks:
            looked = self._looked[task_id] = self._looked.get(task_id, 0) + 1
            done = looked > self._looks
            if done:
                del self._looked[task_id]
        return query_answer(task_id, done=done)


async def _serve(warm_up: int, running: int, looks: int) -> Counts:
    stub, loop = _Stub(warm_up, running, looks), asyncio.get_running_loop()
    server = await loop.create_server(web.Server(stub.handle, access_log=None), "127.0.0.1", 0)
    print("http://{}:{}".format(*server.sockets[0].getsockname()[:2]), flush=True)
    # Ends when the parent closes the pipe, and also when the parent is no more.
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()
    return stub.counts


if __name__ == "__main__":
    json.dump(dataclasses.asdict(asyncio.run(_serve(*map(int, sys.argv[1:])))), sys.stdout)
