"""CPU per job: `Session.stream` against the same requests by hand, with aiohttp and with httpx.

10,000 jobs, 64 in flight, tasks done at once: one submit and one query each, same headers, same
body (the stub counts requests and bytes, and they must be equal). By hand means 64 workers that
share one iterator and one session, and read and check each answer; nothing is checked before it
is sent, retried, paced or reported, which is what a stream adds.

CPU is user and system time of the client's process from opening the client to closing it: imports
are left out, reading the catalogue is not. httpx does a fifth of the jobs; most of its time goes
into httpcore's pool, which goes through all 64 connections again and again for every request. The
service is the stub of `_service`, in another process.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Final

import aiohttp

import runninghub_async as rh

from ._load import HEADERS, IN_FLIGHT, KEY, parameters, prompts
from ._process import cpu_of, in_fresh_process, in_turn
from ._service import QUERY_PATH, SUBMIT_PATH, Counts, Service
from ._table import Row, not_measured, ratio, series

__all__ = ["bare_aiohttp", "bare_httpx", "measure", "ours"]

NAME: Final = "cpu_per_job"
JOBS: Final = 10_000
ROUNDS: Final = 11
HTTPX_ROUNDS: Final = 3
BAR: Final = 1.15

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def measure(scale: int) -> list[Row]:
    """The rows of this benchmark, with a `scale`-th of the jobs."""
    jobs = JOBS // scale
    contenders = {
        "ours": partial(_one_run, ours, jobs),
        "bare": partial(_one_run, bare_aiohttp, jobs),
    }
    runs = in_turn(contenders, ROUNDS)
    if importlib.util.find_spec("httpx") is not None:
        # On its own: it takes so long that the other two would drift apart meanwhile.
        runs |= in_turn({"httpx": partial(_one_run, bare_httpx, jobs // 5)}, HTTPX_ROUNDS)
    cpu = {name: [seconds for seconds, _ in results] for name, results in runs.items()}
    work = {name: _work(results[0][1]) for name, results in runs.items()}
    if len(set(work.values())) != 1:
        raise RuntimeError(f"the contenders do not make the same requests: {work}")
    same = f"each {work['ours']}"
    sides = f"ours {_ms(cpu['ours'])}, bare {_ms(cpu['bare'])}; {same}"
    rows = [ratio(NAME, "ours / bare aiohttp", cpu["ours"], cpu["bare"], bar=BAR, behind=sides)]
    if "httpx" not in cpu:
        return [*rows, not_measured(NAME, "ours / bare httpx", "httpx is not installed")]
    sides = f"httpx {_ms(cpu['httpx'])}, {jobs // 5:,} jobs; {same}"
    return [
        *rows,
        ratio(NAME, "ours / bare httpx", cpu["ours"][:HTTPX_ROUNDS], cpu["httpx"], behind=sides),
    ]


def ours(url: str, jobs: int) -> float:
    """CPU seconds of `jobs` jobs by `Session.stream`."""

    async def main() -> None:
        # Tasks that are done at once are asked after at once, as by hand.
        polling = rh.ExponentialPolling(initial=1e-6, factor=1.0, maximum=1e-6, jitter=0.0)
        limits = rh.Limits(IN_FLIGHT, None, None)
        done = 0
        async with rh.Session(KEY, base_url=url, limits=limits, polling=polling) as session:
            async for outcome in session.stream(map(rh.SeedreamV5Lite, prompts(jobs))):
                done += outcome.ok
        _check(done, jobs)

    return cpu_of(main)


def bare_aiohttp(url: str, jobs: int) -> float:
    """CPU seconds of `jobs` jobs by hand, with aiohttp."""

    async def main() -> None:
        async with aiohttp.ClientSession(headers=HEADERS) as http:

            async def post(path: str, body: dict[str, Any]) -> Any:
                async with http.post(url + path, data=_encode(body).encode()) as response:
                    response.raise_for_status()
                    return json.loads(await response.read())

            _check(await _by_hand(post, jobs), jobs)

    return cpu_of(main)


def bare_httpx(url: str, jobs: int) -> float:
    """CPU seconds of `jobs` jobs by hand, with httpx."""
    # Here, so that the other contenders do not carry it in their heap.
    import httpx

    async def main() -> None:
        limits = httpx.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
        async with httpx.AsyncClient(headers=HEADERS, limits=limits, trust_env=False) as http:

            async def post(path: str, body: dict[str, Any]) -> Any:
                response = await http.post(url + path, content=_encode(body).encode())
                response.raise_for_status()
                return json.loads(response.content)

            _check(await _by_hand(post, jobs), jobs)

    return cpu_of(main)


async def _by_hand(
    post: Callable[[str, dict[str, Any]], Coroutine[Any, Any, Any]], jobs: int
) -> int:
    """Run `jobs` jobs on as many workers as requests may be in flight; how many succeeded."""
    todo = prompts(jobs)
    return sum(await asyncio.gather(*(_worker(post, todo) for _ in range(IN_FLIGHT))))


async def _worker(
    post: Callable[[str, dict[str, Any]], Coroutine[Any, Any, Any]], todo: Iterator[str]
) -> int:
    done = 0
    for prompt in todo:
        task_id = (await post(SUBMIT_PATH, parameters(prompt)))["taskId"]
        answer = await post(QUERY_PATH, {"taskId": task_id})
        done += answer["status"] == "SUCCESS"
    return done


def _check(done: int, jobs: int) -> None:
    if done != jobs:
        raise RuntimeError(f"{done} of {jobs} jobs succeeded")


def _one_run(client: Callable[[str, int], float], jobs: int) -> tuple[float, tuple[int, Counts]]:
    with Service() as service:
        cpu = in_fresh_process(client, url=service.url, jobs=jobs)
    return cpu / jobs, (jobs, service.counts)


def _work(run: tuple[int, Counts]) -> str:
    jobs, counts = run
    requests, size = (counts.submits + counts.queries) / jobs, counts.submitted_bytes / jobs
    return f"{requests:.2f} requests and {size:.0f} submitted bytes per job"


def _ms(seconds: list[float]) -> str:
    return series(seconds, "ms", 1000)
