"""Prompts without end into a dataset folder: they are read only as slots free up.

python examples/endless_prompts.py [30] [dataset/]        (Ctrl+C stops it early)
"""

import asyncio
import json
import os
import random
import sys
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

import runninghub_async as rh
from runninghub_async.emulator import Emulator

SUBJECTS = ("a lighthouse", "a night train", "two herons", "a tea house", "a stone bridge")
STYLES = ("as a linocut", "as a travel poster", "in airbrush deco", "as a paper collage")
PALETTES = ("ink blue and mustard", "rose and moss", "black, white and one red", "sand and teal")


@asynccontextmanager
async def open_session() -> AsyncIterator[rh.Session]:
    limits = rh.Limits(max_concurrency=8)
    if os.environ.get("RUNNINGHUB_API_KEY"):
        async with rh.Session(limits=limits) as session:
            yield session
    else:
        print("RUNNINGHUB_API_KEY is not set: the pictures are drawn by the emulator.")
        polling = rh.ExponentialPolling(initial=0.5, maximum=1.0)
        async with (
            Emulator(duration=1.5) as emulator,
            rh.Session("emulator", base_url=emulator.url, limits=limits, polling=polling) as session,
        ):
            yield session


async def endless() -> AsyncIterator[rh.SeedreamV5Lite]:
    while True:
        await asyncio.sleep(0.01)  # in place of a database, a queue or a language model
        subject, style, palette = map(random.choice, (SUBJECTS, STYLES, PALETTES))
        yield rh.SeedreamV5Lite(f"Poster of {subject} {style}, {palette}")


async def collect(stream: rh.JobStream, session: rh.Session, folder: Path, owed: set[str]) -> None:
    """Every result into the folder; `owed` has the tasks that are paid for and not in it yet."""
    async with await anyio.open_file(folder / "metadata.jsonl", "a", encoding="utf-8") as metadata:
        async for outcome in stream:
            match outcome:
                case rh.Succeeded(task=rh.Task(id=task_id, outputs=[output, *_]), request=request):
                    owed.add(task_id)
                    file = await session.download(output, folder / f"{task_id}.png")
                    line = {"file_name": file.path.name, "sha256": file.sha256}
                    line |= {"task_id": task_id, "prompt": request.prompt}
                    await metadata.write(json.dumps(line) + "\n")
                    await metadata.flush()
                    owed.remove(task_id)
                case _:
                    print(f"nothing came of request {outcome.index}: {outcome}")
            now = stream.statistics()
            if now.delivered % 5 == 0:
                memory = tracemalloc.get_traced_memory()[0] >> 10
                print(f"pulled {now.pulled}, delivered {now.delivered}, memory {memory} KiB")
            if now.succeeded == 5:
                return
