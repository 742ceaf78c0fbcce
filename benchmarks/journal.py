"""What a journal costs: CPU per job, and the time to go on with one that holds a million jobs.

CPU of the main job: 200 posters on the emulator, which runs in another process, their pictures
fetched and kept, once with a journal in a new file, once without; the thread that writes counts,
too. Then without pictures: the jobs of `cpu_per_job`, 10,000 of them, 64 in flight, with 4 queries
each, which is what the default schedule asks of a task (`lag` says 3.7); with one query, where a
job is the least work that the journal's could be measured against; and at the default pace of 10
submits a second, where each job has its commits to itself. The bar is that of all. Both sides are
kept to one CPU: two threads on the halves of one core take each other's time, and not their own.

Resume: a journal of 1,000,000 stored jobs and one that was never submitted. The time is that from
making the session to the first submit's arrival at the transport, imports and catalogue left out;
the memory is the largest resident size of the process beyond that with a journal of 1,000.
"""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import runninghub_async as rh
from runninghub_async.testing import MockTransport

from ._answers import FIRST_TASK_ID, submit_answer
from ._load import IN_FLIGHT, KEY, prompts
from ._process import ROOT, cpu_of, in_fresh_process, in_turn
from ._service import Service
from ._table import Row, ratio, series

__all__ = ["kept", "measure", "resumed", "streamed"]

NAME: Final = "journal"
JOBS: Final = 10_000
POSTERS: Final = 200
ROUNDS: Final = 7
ROWS: Final = 1_000_000
FEW: Final = 1_000
RESUMES: Final = 3
BAR: Final = 1.15
RESUME_BAR: Final = 2.0
GROWTH_BAR: Final = 5.0


def measure(scale: int) -> list[Row]:
    """The rows of this benchmark, with a `scale`-th of the jobs."""
    rows = [
        _cost_of_keeping(POSTERS // scale),
        _cost(JOBS // scale, 3, None),
        _cost(JOBS // scale, 0, None),
        _cost(JOBS // 100 // scale, 3, rh.Limits().submit_rate),
    ]
    many = ROWS // scale
    with tempfile.TemporaryDirectory() as folder:
        sizes = {name: Path(folder, f"{name}.db") for name in ("many", "few")}
        asyncio.run(_make(sizes["many"], many))
        asyncio.run(_make(sizes["few"], FEW))
        resumes = in_turn(
            {
                name: partial(in_fresh_process, resumed, path=str(path))
                for name, path in sizes.items()
            },
            RESUMES,
        )
        size = sizes["many"].stat().st_size
    seconds = [took for took, _ in resumes["many"]]
    grown = [
        (large - small) / 1e6
        for (_, large), (_, small) in zip(resumes["many"], resumes["few"], strict=True)
    ]
    behind = f"a file of {size / 1e6:,.0f} MB; with {FEW:,}: " + series(
        [took for took, _ in resumes["few"]], "s"
    )
    rows.append(_row(f"{many:,} jobs: to the first submit", seconds, "s", RESUME_BAR, behind))
    told = f"largest resident size, beyond that with {FEW:,}"
    rows.append(_row(f"{many:,} jobs: memory", grown, "MB", GROWTH_BAR, told))
    return rows


def _cost(jobs: int, looks: int, rate: float | None) -> Row:
    queries = f"{looks + 1} {'queries' if looks else 'query'} per job"
    pace = "flat out" if rate is None else f"{rate:.0f} jobs a second"
    return _with_and_without(f"{pace}, {queries}", jobs, partial(_one_run, jobs, looks, rate))


def _with_and_without(told: str, jobs: int, one_run: Callable[..., float]) -> Row:
    sides = {"with": True, "without": False}
    runs = in_turn({name: partial(one_run, journaled=side) for name, side in sides.items()}, ROUNDS)
    each = {name: [seconds / jobs for seconds in values] for name, values in runs.items()}
    behind = ", ".join(f"{name} {series(values, 'ms', 1e3)}" for name, values in each.items())
    measured = f"CPU, {told}: with / without"
    return ratio(NAME, measured, each["with"], each["without"], bar=BAR, behind=behind)


def _cost_of_keeping(jobs: int) -> Row:
    command = [sys.executable, "-m", "runninghub_async", "emulator", "--duration", "0.2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as emulator:
        try:
            assert emulator.stdout is not None
            found = re.search(r"http://[\d.]+:\d+", emulator.stdout.readline())
            if found is None:
                raise RuntimeError("the emulator did not say where it is")
            one_run = partial(in_fresh_process, kept, url=found[0], jobs=jobs)
            return _with_and_without("pictures kept", jobs, one_run)
        finally:
            emulator.terminate()


def kept(url: str, jobs: int, journaled: bool) -> float:
    """CPU seconds of `jobs` posters by `Session.stream`, into a folder."""

    async def main(jobs: int, folder: Path, journal: Path | None) -> None:
        polling = rh.ExponentialPolling(initial=0.2, factor=1.0, maximum=0.2)
        limits = rh.Limits(32, None, None)
        done = 0
        async with rh.Session(
            KEY, base_url=url, limits=limits, polling=polling, journal=journal
        ) as session:
            async for outcome in session.stream(
                map(rh.SeedreamV5Lite, prompts(jobs)), folder=folder
            ):
                done += outcome.ok
        if done != jobs:
            raise RuntimeError(f"{done} of {jobs} jobs succeeded")

    _keep_to_one_cpu()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(main(1, Path(folder, "first"), None))
        journal = Path(folder, "run.db") if journaled else None
        return cpu_of(partial(main, jobs, Path(folder, "kept"), journal))


def streamed(url: str, jobs: int, rate: float | None, journal: str | None) -> float:
    """CPU seconds of `jobs` jobs by `Session.stream`, `rate` a second.

    One job goes first. Where many requests begin before the first one has been sent, as they do
    once a commit lets them go, Python 3.11 keeps the attributes of all later requests of aiohttp
    in dictionaries of their own; that is 5 % of the time of a job, and no journal's doing.
    """

    async def main(jobs: int, journal: str | None) -> None:
        polling = rh.ExponentialPolling(initial=1e-6, factor=1.0, maximum=1e-6, jitter=0.0)
        limits = rh.Limits(IN_FLIGHT, rate, None)
        done = 0
        async with rh.Session(
            KEY, base_url=url, limits=limits, polling=polling, journal=journal
        ) as session:
            async for outcome in session.stream(map(rh.SeedreamV5Lite, prompts(jobs))):
                done += outcome.ok
        if done != jobs:
            raise RuntimeError(f"{done} of {jobs} jobs succeeded")

    _keep_to_one_cpu()
    asyncio.run(main(1, None))
    return cpu_of(partial(main, jobs, journal))


def resumed(path: str) -> tuple[float, int]:
    """Seconds to the first submit of a resumed journal, and the largest resident size."""
    rh.Catalogue.load()
    arrived = 0.0

    def answer(request: rh.Request) -> rh.Response:
        nonlocal arrived
        if request.url.endswith("/query"):
            raise rh.ReadError("that is enough")
        arrived = arrived or time.perf_counter()
        return rh.Response(200, submit_answer(str(FIRST_TASK_ID)))

    async def main() -> float:
        begun = time.perf_counter()
        async with rh.Session(KEY, transport=MockTransport(answer), journal=path) as session:
            stream = session.resume()
            async with stream, asyncio.timeout(60):
                while not arrived:
                    await asyncio.sleep(0.001)
        return arrived - begun

    took = asyncio.run(main())
    unit = 1 if sys.platform == "darwin" else 1024
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    # As it was before, for the next round.
    with sqlite3.connect(path) as db:
        db.execute(
            "UPDATE jobs SET open = 0, state = 'new', attempts = 0, task_id = NULL WHERE place = -1"
        )
    return took, largest


async def _make(path: Path, rows: int) -> None:
    """A journal of so many stored jobs, copies of one, and one that was never submitted."""
    transport = MockTransport(lambda _: rh.Response(500))
    async with rh.Session(KEY, transport=transport, journal=path) as session:
        await session.enlist([rh.SeedreamV5Lite(prompt) for prompt in prompts(1)])

    def multiply() -> None:
        with sqlite3.connect(path) as db:
            db.execute(
                "INSERT INTO jobs (key, place, batch, path, params, content, state, attempts,"
                " sent_at, accepted_at, ended_at, task_id, task, cost, files)"
                " WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
                " SELECT lower(hex(randomblob(16))), i, batch, path, params, content, 'stored', 1,"
                " 0, 1, 2, ? + i, ?, 220000000, ? FROM jobs, n",
                (rows, FIRST_TASK_ID, _TASK, _FILES),
            )
            db.execute("UPDATE jobs SET place = -1 WHERE state = 'new'")
            # Last, as the newest of a list that grew.
            db.execute("UPDATE jobs SET seq = ? WHERE state = 'new'", (rows + 10,))
            db.execute("INSERT INTO totals VALUES ('stored', ?)", (rows,))

    await asyncio.to_thread(multiply)


_TASK: Final = (
    '{"status":"SUCCESS","outputs":[["https://results.example/2013508786110730241/0.png'
    '?sign=0123456789abcdef","png",null,"2"]],"usage":[null,null,"0.22","8"]}'
)
_FILES: Final = f'[["00042-a-lighthouse-at-dusk.png",4194304,"{"0" * 64}","png"]]'


def _keep_to_one_cpu() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _one_run(jobs: int, looks: int, rate: float | None, *, journaled: bool) -> float:
    with Service(looks=looks) as service, tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "run.db")) if journaled else None
        return in_fresh_process(streamed, url=service.url, jobs=jobs, rate=rate, journal=path)


def _row(measured: str, values: list[float], unit: str, bar: float, behind: str) -> Row:
    middle = sorted(values)[len(values) // 2]
    return Row(NAME, measured, middle, unit, min(values), max(values), bar, behind=behind)
