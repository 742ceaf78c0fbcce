"""The same on every event loop: asyncio's, uvloop's, and with tasks that start at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import loops
import pytest
from support import FULL, posters

import runninghub_async as rh
from runninghub_async.emulator import Emulator
from runninghub_async.testing import VirtualTimeLoop
from runninghub_async.testing import run as run_virtually

#: What goes wrong on a loop may depend on when its timers end.
repeated = pytest.mark.parametrize("repeat", range(10 if FULL else 1))

#: Timers by the hundred that end at about the same moment, some in less than a millisecond.
OFTEN = rh.ExponentialPolling(0.05, 1.2, 0.3, 0.9)

Main = Callable[[Emulator], Coroutine[Any, Any, None]]


@pytest.fixture(params=loops.names())
def on_emulator(request: pytest.FixtureRequest) -> Callable[[Main], None]:
    """Runs a function against an emulator, both on one loop, and finds nothing left there."""

    def run(main: Main) -> None:
        async def whole() -> None:
            async with Emulator(duration=0.4, max_concurrency=None) as emulator:
                await main(emulator)
            assert asyncio.all_tasks() == {asyncio.current_task()}

        with loops.runner(request.param) as runner:
            runner.run(whole())

    return run


def session_on(emulator: Emulator, **options: Any) -> rh.Session:
    options.setdefault("limits", rh.Limits(200, None, None))
    return rh.Session("a-key", base_url=emulator.url, polling=OFTEN, **options)


@repeated
def test_a_stream(on_emulator: Callable[[Main], None], repeat: int) -> None:
    """600 jobs: each delivered once, each billed once, nothing left unfinished."""

    async def main(emulator: Emulator) -> None:
        async with session_on(emulator) as session:
            stream = session.stream(posters(600))
            outcomes = [outcome async for outcome in stream]
            assert not stream.unfinished
        assert Counter(outcome.index for outcome in outcomes) == Counter(range(600))
        assert {type(outcome) for outcome in outcomes} == {rh.Succeeded}
        assert emulator.stats.billed == 600

    on_emulator(main)


@repeated
def test_a_stream_with_a_journal(
    on_emulator: Callable[[Main], None], repeat: int, tmp_path: Any
) -> None:
    """300 jobs, each of them in the journal as it ended."""
    journal = tmp_path / "run.db"

    async def main(emulator: Emulator) -> None:
        async with session_on(emulator, journal=journal) as session:
            outcomes = [outcome async for outcome in session.stream(posters(300))]
        assert all(outcome.ok for outcome in outcomes)
        assert emulator.stats.billed == len(outcomes) == 300

    on_emulator(main)
    with rh.JournalReader(journal) as reader:
        states = reader.summary().states
    assert {state: count for state, count in states.items() if count} == {
        rh.JobState.SUCCEEDED: 300
    }


@repeated
def test_calls_at_once(on_emulator: Callable[[Main], None], repeat: int) -> None:
    """300 of `session.run` at the same time: a task for each, no two the same."""

    async def main(emulator: Emulator) -> None:
        async with session_on(emulator, limits=rh.Limits(300, None, None)) as session:
            tasks = await asyncio.gather(*map(session.run, posters(300)))
        assert {task.status for task in tasks} == {rh.TaskStatus.SUCCESS}
        assert len({task.id for task in tasks}) == emulator.stats.billed == 300

    on_emulator(main)


@repeated
def test_tasks_that_another_session_submitted(
    on_emulator: Callable[[Main], None], repeat: int
) -> None:
    """400 ids are followed until each has ended."""

    async def main(emulator: Emulator) -> None:
        async with session_on(emulator) as first:
            ids = [task.id for task in await first.submit_many(posters(400))]
        async with session_on(emulator) as second:
            ended = [task async for task in second.as_completed(ids)]
        assert {task.status for task in ended} == {rh.TaskStatus.SUCCESS}
        assert Counter(task.id for task in ended) == Counter(ids)

    on_emulator(main)


def test_the_suite_runs_on_the_loop_that_was_chosen() -> None:
    """`TEST_LOOP` reaches `asyncio.run` and, as far as can be, the virtual clock."""

    async def main() -> tuple[type, Any]:
        loop = asyncio.get_running_loop()
        return type(loop), loop.get_task_factory()

    eager = getattr(asyncio, "eager_task_factory", None) if loops.CHOSEN == "eager" else None
    kind, tasks = asyncio.run(main())
    assert (kind.__module__.startswith("uvloop"), tasks) == (loops.CHOSEN == "uvloop", eager)
    assert run_virtually(main) == (VirtualTimeLoop, eager)
