"""Lag and queries of polling schedules: from the end of a task at the service to its user.

200 jobs, all submitted at once, whose tasks take 4 to 20 s each (uniform, seed 1: the same for
every schedule), on a clock that jumps over the waiting (`runninghub_async.testing.run`). A run so
takes no real time and repeats exactly. All schedules are driven by our own session; "fixed 5 s",
what most scripts do, is the one the others are held against. Requests take no time here, and rate
limits are lifted but for the last row, where they are the default ones.

The service is a function within the process and not the emulator: only it can tell when a task
really ended. There is no bar; less lag for more queries is a trade, and more of both a loss.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import random
import statistics
from typing import Final

import runninghub_async as rh
from runninghub_async.testing import MockTransport, run

from ._answers import FIRST_TASK_ID, query_answer, submit_answer
from ._load import KEY, prompts
from ._process import in_fresh_process
from ._table import Row

__all__ = ["measure", "simulate"]

NAME: Final = "lag"
JOBS: Final = 200
SHORTEST, LONGEST = 4.0, 20.0

_UNPACED: Final = rh.Limits(JOBS, None, None)
_PACED: Final = rh.Limits(JOBS)


@dataclasses.dataclass(frozen=True)
class Fixed:
    """A schedule that always waits as long."""

    seconds: float

    def delay(self, looks: int, u: float) -> float:
        """See `Polling.delay`."""
        return self.seconds


@dataclasses.dataclass(frozen=True)
class Result:
    """Lag in seconds, and queries per task."""

    mean: float
    p95: float
    queries: float


_BASE: Final = "fixed 5 s"
_SCHEDULES: Final[dict[str, tuple[rh.Polling, rh.Limits]]] = {
    "ours": (rh.ExponentialPolling(), _UNPACED),
    "fixed 2 s": (Fixed(2.0), _UNPACED),
    "fixed 4 s": (Fixed(4.0), _UNPACED),
    "textbook 1 s x 1.5 to 10 s": (
        rh.ExponentialPolling(initial=1.0, factor=1.5, maximum=10.0, jitter=0.0),
        _UNPACED,
    ),
    _BASE: (Fixed(5.0), _UNPACED),
    "ours, default rates": (rh.ExponentialPolling(), _PACED),
}


def measure(scale: int) -> list[Row]:
    """The rows of this benchmark, with a `scale`-th of the jobs."""
    results = {
        name: Result(*in_fresh_process(simulate, schedule=name, jobs=JOBS // scale))
        for name in _SCHEDULES
    }
    return [_row(name, result, results[_BASE]) for name, result in results.items()]


def simulate(schedule: str, jobs: int) -> tuple[float, float, float]:
    """The fields of a `Result` for `jobs` jobs polled by the named schedule."""
    polling, limits = _SCHEDULES[schedule]
    result = run(_simulate, polling, limits, jobs)
    return result.mean, result.p95, result.queries


async def _simulate(polling: rh.Polling, limits: rh.Limits, jobs: int) -> Result:
    clock = asyncio.get_running_loop().time
    service = _Service()
    lags: list[float] = []
    queries = 0
    async with rh.Session(
        KEY,
        limits=limits,
        polling=polling,
        transport=MockTransport(service.answer),
        rng=random.Random(0),
    ) as session:
        async for outcome in session.stream(map(rh.SeedreamV5Lite, prompts(jobs))):
            assert outcome.task is not None
            lags.append(clock() - service.ends[outcome.task.id])
            queries += outcome.queries
    return Result(statistics.fmean(lags), statistics.quantiles(lags, n=20)[-1], queries / jobs)


class _Service:
    """Tasks that end when their time has come; `ends` says when, by the loop's clock."""

    def __init__(self) -> None:
        self.ends: dict[str, float] = {}
        self._rng = random.Random(1)
        self._ids = map(str, itertools.count(FIRST_TASK_ID))

    def answer(self, request: rh.Request) -> rh.Response:
        """Answer a submit or a query."""
        now = asyncio.get_running_loop().time()
        if request.url.endswith("/query"):
            task_id = json.loads(request.body or b"")["taskId"]
            return rh.Response(200, query_answer(task_id, done=now >= self.ends[task_id]))
        task_id = next(self._ids)
        self.ends[task_id] = now + self._rng.uniform(SHORTEST, LONGEST)
        return rh.Response(200, submit_answer(task_id))


def _row(name: str, result: Result, base: Result) -> Row:
    lag, queries = result.mean / base.mean, result.queries / base.queries
    behind = (
        f"mean {result.mean:.2f} s, p95 {result.p95:.2f} s, {result.queries:.2f} queries per task"
    )
    if result != base:
        behind += f" ({queries:.2f} x): {_verdict(lag, queries)}"
    return Row(NAME, f"mean lag, {name} / {_BASE}", lag, "x", behind=behind)


def _verdict(lag: float, queries: float) -> str:
    if lag < 1:
        return "less lag, more queries" if queries > 1 else "better on both counts"
    return "worse on both counts" if queries > 1 else "more lag, fewer queries"
