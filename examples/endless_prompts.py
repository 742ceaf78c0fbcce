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
        quick = rh.ExponentialPolling(initial=0.5, maximum=1.0)
        async with (
            Emulator(duration=1.5, retention=10.0) as emulator,
            rh.Session("emulator", base_url=emulator.url, limits=limits, polling=quick) as session,
        ):
            yield session


async def endless() -> AsyncIterator[rh.SeedreamV5Lite]:
    while True:
        await asyncio.sleep(0.01)  # in place of a database, a queue or a language model
        subject, style, palette = map(random.choice, (SUBJECTS, STYLES, PALETTES))
        yield rh.SeedreamV5Lite(f"Poster of {subject} {style}, {palette}")


async def save(session: rh.Session, outcome: rh.Succeeded, folder: Path) -> None:
    task = outcome.task
    file = await session.download(task.outputs[0], folder / f"{task.id}.png")
    facts = {"prompt": outcome.request.prompt, "task_id": task.id}
    facts |= {"file_name": file.path.name, "sha256": file.sha256}
    async with await anyio.open_file(folder / "metadata.jsonl", "a", encoding="utf-8") as lines:
        await lines.write(json.dumps(facts) + "\n")


async def fill(folder: Path, session: rh.Session, stream: rh.JobStream, wanted: int) -> None:
    async for outcome in stream:
        match outcome:
            case rh.Succeeded(task=rh.Task(id=task_id, outputs=[_, *_])):
                print(f"task {task_id}")  # before the download: it is paid for in any case
                try:
                    # One by one: a slow disk then slows the reading of the input, too.
                    await save(session, outcome, folder)
                    wanted -= 1
                except rh.RunningHubError as error:
                    print(f"not saved: {error}")
            case rh.Succeeded():
                print(f"no picture: task {outcome.task.id}")
            case _:
                print(f"{type(outcome).__name__}: {outcome.error}")
        now = stream.statistics()
        if now.delivered == 1:
            tracemalloc.start()  # what is made once has been made by now
        if now.delivered % 10 == 0:
            memory = tracemalloc.get_traced_memory()[0] >> 10
            print(f"pulled {now.pulled}, delivered {now.delivered}, memory +{memory} KiB")
        if not wanted:
            return


async def main(wanted: str = "30", target: str = "dataset") -> None:
    folder = Path(target)
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    async with open_session() as session:
        stream = session.stream(endless())
        try:
            async with stream:
                await fill(folder, session, stream, int(wanted))
        finally:
            # These are paid for, too: `session.wait(task_id)` and a download bring them home.
            for ended in stream.undelivered:
                if ended.task:
                    print(f"ended, not saved: task {ended.task.id}")
            for left in stream.unfinished:
                if left.state != "not_submitted":
                    print(f"{left.state}: task {left.task_id}")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:3]))
    except (rh.RunningHubError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
