"""Queries per second with 20,000 tasks waiting: `Session.as_completed` against bare aiohttp.

Every task runs for ever and every one is always due, so each side asks as fast as it can, with 64
requests in flight: ours out of its heap of due times, by hand by cycling through the ids. The
service counts: 5,000 queries to warm up, then the time that the next 20,000 take to arrive. Above
about 90 % of its own CPU the service would be what is measured; its share is shown.

Left out: rate limits (lifted), tasks that end. The service is the stub of `_service`, in another
process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
from collections.abc import Callable
from typing import Final

import aiohttp

import runninghub_async as rh

from ._load import HEADERS, IN_FLIGHT, KEY, task_ids
from ._process import cpu_of, in_fresh_process, in_turn
from ._service import QUERY_PATH, Counts, Service
from ._table import Row, ratio, series

__all__ = ["bare", "measure", "ours"]

NAME: Final = "query_rate"
WAITING: Final = 20_000
WARM_UP: Final = 5_000
QUERIES: Final = 20_000
ROUNDS: Final = 7
BAR: Final = 0.9


def measure(scale: int) -> list[Row]:
    """The rows of this benchmark, with a `scale`-th of the tasks and queries."""
    runs = in_turn(
        {"ours": lambda: _one_run(ours, scale), "bare": lambda: _one_run(bare, scale)}, ROUNDS
    )
    rates = {
        name: [QUERIES // scale / counts.seconds for _, counts in results]
        for name, results in runs.items()
    }
    sides = ", ".join(
        f"{name} {series(rates[name], 'per s')}, {_spent(runs[name])}" for name in runs
    )
    waiting = f"{WAITING // scale:,} waiting"
    return [
        ratio(
            NAME,
            f"ours / bare aiohttp, {waiting}",
            rates["ours"],
            rates["bare"],
            bar=BAR,
            at_least=True,
            behind=sides,
        )
    ]


def ours(url: str, waiting: int) -> float:
    """Ask for `waiting` tasks, over and over, until one has ended; the CPU seconds it took."""
    # The tasks that still run when the first has ended are named in a warning.
    logging.getLogger("runninghub_async").setLevel(logging.ERROR)

    async def main() -> None:
        polling = rh.ExponentialPolling(initial=0.001, factor=1.0, maximum=0.001, jitter=0.0)
        limits = rh.Limits(None, None, None)
        async with (
            rh.Session(KEY, base_url=url, limits=limits, polling=polling) as session,
            session.as_completed(task_ids(waiting)) as tasks,
        ):
            await anext(tasks)

    return cpu_of(main)


def bare(url: str, waiting: int) -> float:
    """The same by hand, with aiohttp."""

    async def main() -> None:
        todo = itertools.cycle(task_ids(waiting))
        async with aiohttp.ClientSession(headers=HEADERS) as http:

            async def worker() -> None:
                status = ""
                while status != "SUCCESS":
                    body = json.dumps({"taskId": next(todo)}).encode()
                    async with http.post(url + QUERY_PATH, data=body) as response:
                        response.raise_for_status()
                        status = json.loads(await response.read())["status"]

            await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))

    return cpu_of(main)


def _one_run(client: Callable[[str, int], float], scale: int) -> tuple[float, Counts]:
    """CPU milliseconds per query, and what the service counted."""
    with Service(warm_up=WARM_UP // scale, running=QUERIES // scale) as service:
        cpu = in_fresh_process(client, url=service.url, waiting=WAITING // scale)
    return cpu / service.counts.queries * 1000, service.counts


def _spent(runs: list[tuple[float, Counts]]) -> str:
    busy = max(counts.busy for _, counts in runs)
    return f"{series([cpu for cpu, _ in runs], 'ms CPU')} each, service at most {busy:.0%} busy"
