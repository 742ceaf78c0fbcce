"""Memory: of a job that waits, and of a run that does not end.

Waiting: 100,000 requests, made beforehand, are submitted and then wait for an hour; what the
process has grown by, per job, is what a waiting job takes beyond its request. Measured twice, in
processes of their own: the bytes that Python allocated, by tracemalloc, and the resident size.

Endless: jobs from a generator, 64 at a time, outcomes dropped as they come; the growth of the
resident size between 20,000 and 200,000 finished jobs.

The transport is a few lines within the process, so that connections and their buffers, which do
not depend on the number of jobs, are left out. Sizes are decimal: 1 kB is 1,000 bytes.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import logging
import statistics
import tracemalloc
from collections.abc import Callable, Sequence
from typing import Final

import runninghub_async as rh

from ._answers import FIRST_TASK_ID, query_answer, submit_answer
from ._load import IN_FLIGHT, KEY, prompts
from ._process import in_fresh_process, in_turn, resident_bytes, resident_from
from ._table import Row

__all__ = ["endless", "measure", "waiting"]

NAME: Final = "memory"
WAITING: Final = 100_000
FINISHED: Final = (20_000, 200_000)
ROUNDS: Final = 3
WAITING_BAR: Final = 1000.0
ENDLESS_BAR: Final = 5.0


def measure(scale: int) -> list[Row]:
    """The rows of this benchmark, with a `scale`-th of the jobs."""
    jobs, (first, last) = WAITING // scale, (count // scale for count in FINISHED)
    runs = in_turn(
        {
            "traced": lambda: in_fresh_process(waiting, jobs=jobs, traced=True),
            "resident": lambda: in_fresh_process(waiting, jobs=jobs, traced=False),
            "endless": lambda: in_fresh_process(endless, first=first, last=last),
        },
        ROUNDS,
    )
    waits, where = f"{jobs:,} waiting, per job", resident_from()
    per_job = {name: [grown / jobs for grown in runs[name]] for name in ("traced", "resident")}
    grown = [size / 1e6 for size in runs["endless"]]
    between = f"growth, {first:,} to {last:,} finished"
    return [
        _row(f"{waits}, allocated", per_job["traced"], "B", WAITING_BAR, "tracemalloc"),
        _row(f"{waits}, resident", per_job["resident"], "B", WAITING_BAR, where),
        _row(between, grown, "MB", ENDLESS_BAR, where),
    ]


def waiting(jobs: int, traced: bool) -> int:
    """The bytes that `jobs` jobs have added once all of them wait."""
    # Their ids are named in a warning when the session is left.
    logging.getLogger("runninghub_async").setLevel(logging.ERROR)
    requests = [rh.SeedreamV5Lite(prompt) for prompt in prompts(jobs)]

    async def main() -> int:
        transport = _InProcess()
        async with _session(transport, None, 3600.0) as session:
            # The check of the first request makes what is kept for all of them.
            requests[0].check()
            size = _measure_of(traced)
            before = size()
            async with session.stream(requests) as stream:
                while transport.submits < jobs:
                    await asyncio.sleep(0.05)
                # The last answers are on their way.
                await asyncio.sleep(0.05)
                if (waits := stream.statistics().submitted) != jobs:
                    raise RuntimeError(f"{waits} of {jobs} jobs wait")
                return size() - before

    return asyncio.run(main())


def endless(first: int, last: int) -> int:
    """The bytes of resident size added between `first` and `last` finished jobs."""

    async def main() -> int:
        sizes: dict[int, int] = {}
        async with _session(_InProcess(), IN_FLIGHT, 0.001) as session:
            requests = map(rh.SeedreamV5Lite, prompts(last))
            count = 0
            async for outcome in session.stream(requests):
                count += outcome.ok
                if count in (first, last):
                    sizes[count] = resident_bytes()
        return sizes[last] - sizes[first]

    return asyncio.run(main())


class _InProcess:
    """The service without a network; it keeps nothing."""

    def __init__(self) -> None:
        self.submits = 0
        self._ids = map(str, itertools.count(FIRST_TASK_ID))

    async def send(self, request: rh.Request) -> rh.Response:
        # A network would let the others have their turn.
        await asyncio.sleep(0)
        if request.url.endswith("/query"):
            task_id = json.loads(request.body or b"")["taskId"]
            return rh.Response(200, query_answer(task_id, done=True))
        self.submits += 1
        return rh.Response(200, submit_answer(next(self._ids)))

    async def aclose(self) -> None:
        pass


def _session(transport: rh.Transport, slots: int | None, interval: float) -> rh.Session:
    polling = rh.ExponentialPolling(initial=interval, factor=1.0, maximum=interval, jitter=0.0)
    return rh.Session(
        KEY, limits=rh.Limits(slots, None, None), polling=polling, transport=transport
    )


def _measure_of(traced: bool) -> Callable[[], int]:
    """How to size this process up from now on."""
    if traced:
        tracemalloc.start()

    def size() -> int:
        gc.collect()
        return tracemalloc.get_traced_memory()[0] if traced else resident_bytes()

    return size


def _row(measured: str, values: Sequence[float], unit: str, bar: float, where: str) -> Row:
    return Row(
        NAME,
        measured,
        statistics.median(values),
        unit,
        min(values),
        max(values),
        bar,
        behind=f"{where}, {len(values)} rounds",
    )
