"""Write a journal with jobs in every state: `make.py JOURNAL`, run with the release that is to
write it.

It starts itself again as a process that is killed in the middle of two submits, and then turns
what that process left into one file without any trace of the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault

FAULTS = [
    Fault(on="submit", kind="refuse", code="1501", match="refused"),
    Fault(on="submit", kind="refuse", code="421", match="no room"),
    Fault(on="submit", kind="status", status=504, match="lost"),
    Fault(on="submit", kind="delay", seconds=60, match="under way"),
    Fault(on="task", kind="fail", match="fails"),
]


def poster(what: str) -> rh.SeedreamV5Lite:
    return rh.SeedreamV5Lite(f"a poster, {what}", 1600, 1344)


async def collect(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


async def fill(journal: str) -> None:
    """Write jobs in every state, and be killed."""
    store = rh.SqliteJobStore(journal)
    async with contextlib.AsyncExitStack() as stack:
        slow = await stack.enter_async_context(Emulator(duration=60, faults=FAULTS))
        quick = await stack.enter_async_context(Emulator(duration=0.1, faults=FAULTS))
        folder = tempfile.mkdtemp()

        def session(emulator: Emulator) -> rh.Session:
            return rh.Session(
                "any-key",
                base_url=emulator.url,
                journal=store,
                limits=rh.Limits(20, None, None),
                polling=rh.ExponentialPolling(0.05, 1.0, 0.05),
            )

        async with session(quick) as first:
            for what in ("stored 0", "stored 1"):
                await collect(first.stream([poster(what)], folder=folder, batch=what))
            await collect(first.stream([poster("succeeded"), poster("refused"), poster("fails")]))
            await collect(first.stream([rh.SeedreamV5Lite("x")], batch="faulty"))
            await collect(first.stream([poster("lost")], key=lambda _: "a key of my own"))
            await first.enlist([poster("new 0"), poster("new 1")], batch="list")
            await first.enlist([poster("aside 0"), poster("aside 1")], batch="aside")
        second = await stack.enter_async_context(session(slow))
        cancelled = await second.submit(poster("cancelled"), key="cancelled")
        with contextlib.suppress(rh.RunningHubError):
            await second.cancel(cancelled)
        with contextlib.suppress(rh.RunningHubError):
            await second.wait(cancelled, timeout=5)
        await second.submit(poster("accepted"), key="accepted")
        stream = second.stream(
            [poster(what) for what in ("runs", "no room", "under way 0", "under way 1")],
            batch="left",
        )
        waiting = asyncio.ensure_future(collect(stream))
        assert await store.event("early", "2013508786110730000") is None
        await store.set_aside("aside")
        for _ in range(200):
            await asyncio.sleep(0.1)
            with rh.JournalReader(journal) as reader:
                if reader.summary().states[rh.JobState.RUNNING]:
                    break
        await store.flush()
        assert not waiting.done()
        os.kill(os.getpid(), signal.SIGKILL)


def tidy(journal: str) -> None:
    """Make one file of it, from an unnamed machine, whose owner died long ago."""
    with contextlib.closing(sqlite3.connect(journal)) as db, db:
        states = dict(db.execute("SELECT state, count(*) FROM jobs GROUP BY state"))
        if "running" not in states:
            raise SystemExit(f"no job was seen running: {states}")
        # As if the task's answer had named no cost.
        db.execute("UPDATE jobs SET cost = NULL WHERE batch = 'stored 1'")
        db.execute("UPDATE totals SET amount = amount - 220000000 WHERE name = 'spent'")
        db.execute("UPDATE lease SET host = 'machine boot space', pid = 1, renewed = 1e9")
        db.execute("UPDATE meta SET value = 'http://127.0.0.1:1' WHERE name = 'base_url'")
    sys.stdout.write(json.dumps(states) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        asyncio.run(fill(sys.argv[1]))
    else:
        subprocess.run([sys.executable, __file__, sys.argv[1], "fill"], check=False)
        tidy(sys.argv[1])
        assert not Path(sys.argv[1] + "-wal").exists()
