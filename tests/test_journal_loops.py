"""The store on an event loop whose timers offer less than asyncio's."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import runninghub_async as rh
from runninghub_async import Begun, Content, JobState, Moved

URL = "https://service.example"


def begun(number: int, old: JobState | None = None) -> Begun:
    content = Content("a/model", f'{{"prompt":"{number}"}}', f"digest {number}")
    return Begun(f"job {number}", old, JobState.SUBMITTING, time.time(), content, number)


def test_a_store_keeps_its_own_times(tmp_path: Path) -> None:
    """On uvloop, whose timer handles do not say when they are due."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> list[str]:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open(URL)
        try:
            for number in range(20):
                key, now = f"job {number}", time.time()
                await store.begin(begun(number))
                store.note(Moved(key, JobState.SUBMITTING, JobState.REFUSED, now))
                store.note(Moved(key, JobState.REFUSED, JobState.NEW, now))
                assert await store.begin(begun(number, JobState.NEW)) == ""
                facts = rh.JobFacts(task_id="1")
                store.note(Moved(key, JobState.SUBMITTING, JobState.ACCEPTED, now, facts))
            # So many that the next write does not wait for more.
            await asyncio.gather(*(store.begin(begun(number)) for number in range(20, 80)))
            await store.flush()
            found = await store.find_open((JobState.ACCEPTED,), 0, 100)
            return [record.key for record in found]
        finally:
            await store.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main()) == [f"job {number}" for number in range(20)]
