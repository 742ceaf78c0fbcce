"""What a journal costs: CPU per job, and the time to resume one that holds a million jobs.

CPU without pictures: 1,000 jobs of `cpu_per_job`, 64 in flight, with 4 queries each, which is what
the default schedule asks of a task (`lag` says 3.7). That of the main job: posters on the emulator,
their pictures fetched and kept, as fast as 32 slots allow and at the default pace of 10 submits a
second, where each job has a commit to itself. Then where the journal's share is largest: with one
query per job, and at the default pace without pictures; beside the latter, what SQLite alone takes
at that pace for one commit a job. The thread that writes counts, too. The bar is that of all.

With and without take turns in one process, many times: what slows this machine down for a while
then slows both. It is kept to one CPU, and the service to the others: two threads on the halves of
one core take each other's time, and not their own.

Resume: a journal of 1,000,000 stored jobs and one that was never submitted. The time is that from
making the session to the first submit's arrival at the transport, imports and catalogue left out;
the memory is the largest resident size of the process beyond that with a journal of 1,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import re
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import runninghub_async as rh
from runninghub_async.testing import MockTransport

from ._answers import FIRST_TASK_ID, submit_answer
from ._load import IN_FLIGHT, KEY, parameters, prompts
from ._process import ROOT, cpu_of, cpu_seconds, in_fresh_process, in_turn
from ._service import Service
from ._table import Row, ratio, series

__all__ = ["committed", "kept", "measure", "resumed", "streamed"]

NAME: Final = "journal"
JOBS: Final = 1_000
POSTERS: Final = 200
PACED: Final = 60
ROUNDS: Final = 31
FEW_ROUNDS: Final = 5
ROWS: Final = 1_000_000
FEW: Final = 1_000
RESUMES: Final = 3
BAR: Final = 1.15
RESUME_BAR: Final = 2.0
GROWTH_BAR: Final = 5.0


def measure(scale: int) -> list[Row]:
    """The rows of this benchmark, with a `scale`-th of the jobs."""
    pace = rh.Limits().submit_rate or 10.0
    with _apart() as cpu:
        rows = [
            _row_of(*_cost(JOBS // scale, 3, None, cpu)),
            _row_of(*_cost_of_keeping(POSTERS // scale, None, cpu)),
            _row_of(*_cost_of_keeping(PACED // scale, pace, cpu)),
            _row_of(*_cost(JOBS // scale, 0, None, cpu)),
            *_cost_at_pace(PACED // scale, 3, pace, cpu),
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


@contextlib.contextmanager
def _apart() -> Iterator[int | None]:
    """The CPU for what is measured; what is started otherwise keeps to the other ones."""
    if not hasattr(os, "sched_setaffinity") or len(every := os.sched_getaffinity(0)) < 2:
        yield None
        return
    os.sched_setaffinity(0, every - {max(every)})
    try:
        yield max(every)
    finally:
        os.sched_setaffinity(0, every)


def _keep_to(cpu: int | None) -> None:
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


def _cost(
    jobs: int, looks: int, rate: float | None, cpu: int | None
) -> tuple[str, list[list[float]]]:
    rounds = ROUNDS if rate is None else FEW_ROUNDS
    with Service(looks=looks) as service:
        sides = in_fresh_process(
            streamed, url=service.url, jobs=jobs, rate=rate, rounds=rounds, cpu=cpu
        )
    queries = f"{looks + 1} {'queries' if looks else 'query'} per job"
    return f"{_pace(rate)}, {queries}", sides


def _pace(rate: float | None) -> str:
    return "flat out" if rate is None else f"{rate:.0f} jobs a second"


def _cost_at_pace(jobs: int, looks: int, rate: float, cpu: int | None) -> list[Row]:
    measured, sides = _cost(jobs, looks, rate, cpu)
    row = _row_of(measured, sides)
    floor = in_fresh_process(committed, jobs=jobs, rate=rate, cpu=cpu)
    _, without = sides
    told = f"SQLite {floor * 1e3:.2f} ms: one commit a job, and nothing else"
    least = [took + floor for took in without]
    return [
        row,
        ratio(NAME, f"CPU, {measured}: without + SQLite / without", least, without, behind=told),
    ]


def _cost_of_keeping(
    jobs: int, rate: float | None, cpu: int | None
) -> tuple[str, list[list[float]]]:
    command = [sys.executable, "-m", "runninghub_async", "emulator", "--duration", "0.2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as emulator:
        try:
            assert emulator.stdout is not None
            found = re.search(r"http://[\d.]+:\d+", emulator.stdout.readline())
            if found is None:
                raise RuntimeError("the emulator did not say where it is")
            sides = in_fresh_process(
                kept, url=found[0], jobs=jobs, rate=rate, rounds=FEW_ROUNDS, cpu=cpu
            )
        finally:
            emulator.terminate()
    return f"{_pace(rate)}, pictures kept", sides


def _row_of(measured: str, sides: Sequence[Sequence[float]]) -> Row:
    with_it, without = sides
    told = f"with {series(with_it, 'ms', 1e3)}, without {series(without, 'ms', 1e3)}"
    return ratio(NAME, f"CPU, {measured}: with / without", with_it, without, bar=BAR, behind=told)


def kept(
    url: str, jobs: int, rate: float | None, rounds: int, cpu: int | None
) -> list[list[float]]:
    """CPU seconds of a poster by `Session.stream` into a folder, with a journal and without."""
    polling = rh.ExponentialPolling(initial=0.2, factor=1.0, maximum=0.2)
    run = partial(_run, url, rh.Limits(32, rate, None), polling, keep=True)
    return _in_turns(run, jobs, rounds, cpu)


def streamed(
    url: str, jobs: int, rate: float | None, rounds: int, cpu: int | None
) -> list[list[float]]:
    """CPU seconds of a job by `Session.stream`, `rate` a second, with a journal and without."""
    polling = rh.ExponentialPolling(initial=1e-6, factor=1.0, maximum=1e-6, jitter=0.0)
    run = partial(_run, url, rh.Limits(IN_FLIGHT, rate, None), polling, keep=False)
    return _in_turns(run, jobs, rounds, cpu)


def committed(jobs: int, rate: float, cpu: int | None) -> float:
    """CPU seconds of what no journal in SQLite can do without where jobs come one by one: a row on
    disk before each submit. The moves of earlier jobs are in the same commit."""
    _keep_to(cpu)
    took = 0.0
    with tempfile.TemporaryDirectory() as folder, sqlite3.connect(f"{folder}/run.db") as db:
        db.isolation_level = None
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE jobs (key INTEGER PRIMARY KEY, params TEXT, task_id TEXT)")
        for key, prompt in enumerate(prompts(jobs)):
            time.sleep(1 / rate)
            before = cpu_seconds()
            db.execute("BEGIN IMMEDIATE")
            row = (key, json.dumps(parameters(prompt)))
            db.execute("INSERT INTO jobs VALUES (?, ?, NULL)", row)
            told = (str(FIRST_TASK_ID), key - 1)
            db.execute("UPDATE jobs SET task_id = ? WHERE key = ?", told)
            db.execute("COMMIT")
            took += cpu_seconds() - before
    return took / jobs


async def _run(
    url: str,
    limits: rh.Limits,
    polling: rh.Polling,
    jobs: int,
    folder: str,
    *,
    keep: bool,
    journaled: bool,
) -> None:
    journal = Path(folder, "run.db") if journaled else None
    done = 0
    async with rh.Session(
        KEY, base_url=url, limits=limits, polling=polling, journal=journal
    ) as session:
        requests = map(rh.SeedreamV5Lite, prompts(jobs))
        async for outcome in session.stream(requests, folder=folder if keep else None):
            done += outcome.ok
    if done != jobs:
        raise RuntimeError(f"{done} of {jobs} jobs succeeded")


def _in_turns(
    run: Callable[..., Coroutine[Any, Any, None]], jobs: int, rounds: int, cpu: int | None
) -> list[list[float]]:
    """CPU seconds of a job with a journal and without, once in each round.

    One job goes first. Where many requests begin before the first one has been sent, as they do
    once a commit lets them go, Python 3.11 keeps the attributes of all later requests of aiohttp
    in dictionaries of their own; that is 5 % of the time of a job, and no journal's doing.
    """
    _keep_to(cpu)

    def one_run(count: int, *, journaled: bool) -> float:
        with tempfile.TemporaryDirectory() as folder:
            gc.collect()
            return cpu_of(partial(run, count, folder, journaled=journaled)) / count

    one_run(1, journaled=False)
    one_run(jobs, journaled=True)
    sides = {name: partial(one_run, jobs, journaled=name == "with") for name in ("with", "without")}
    return list(in_turn(sides, rounds).values())


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
            "UPDATE jobs SET open = 0, state = 'new', attempts = 0, sent_at = NULL,"
            " accepted_at = NULL, task_id = NULL WHERE place = 0"
        )
        db.execute("UPDATE totals SET amount = name = 'new' WHERE name IN ('accepted', 'new')")
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
            # Last, as the newest of a list that grew.
            db.execute("UPDATE jobs SET seq = ? WHERE state = 'new'", (rows + 10,))

    await asyncio.to_thread(multiply)
    # The sums that the journal keeps of its rows are those of one row.
    repaired = rh.SqliteJobStore(path, repair=True)
    async with rh.Session(KEY, transport=transport, journal=repaired):
        pass


_TASK: Final = (
    '{"status":"SUCCESS","outputs":[["https://results.example/2013508786110730241/0.png'
    '?sign=0123456789abcdef","png",null,"2"]],"usage":[null,null,"0.22","8"]}'
)
_FILES: Final = f'[["00042-a-lighthouse-at-dusk.png",4194304,"{"0" * 64}","png"]]'


def _row(measured: str, values: list[float], unit: str, bar: float, behind: str) -> Row:
    middle = sorted(values)[len(values) // 2]
    return Row(NAME, measured, middle, unit, min(values), max(values), bar, behind=behind)
