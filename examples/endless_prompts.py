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


async def save(session: rh.Session, outcome: rh.Succeeded, folder: Path) -> None:
    file = await session.download(outcome.task.outputs[0], folder / f"{outcome.task.id}.png")
    line = {"file_name": file.path.name, "sha256": file.sha256}
    line |= {"task_id": outcome.task.id, "prompt": outcome.request.prompt}
    async with await anyio.open_file(folder / "metadata.jsonl", "a", encoding="utf-8") as metadata:
        await metadata.write(json.dumps(line) + "\n")


async def main(wanted: int = 30, folder: Path = Path("dataset")) -> None:
    await anyio.Path(folder).mkdir(parents=True, exist_ok=True)
    saved = 0
    at_hand: rh.Outcome | None = None
    async with open_session() as session:
        tracemalloc.start()
        stream = session.stream(endless())
        try:
            async with stream:
                async for at_hand in stream:
                    match at_hand:
                        case rh.Succeeded(task=rh.Task(outputs=[_, *_])):
                            # Nothing else is taken from the stream meanwhile, nor from the input.
                            await save(session, at_hand, folder)
                            saved += 1
                        case _:
                            print(f"nothing came of it: {at_hand}")
                    at_hand = None
                    if saved % 10 == 0:
                        now, memory = stream.statistics(), tracemalloc.get_traced_memory()[0]
                        print(f"pulled {now.pulled}, delivered {now.delivered}, {memory >> 10} KiB")
                    if saved == wanted:
                        break
        finally:
            # All of it is paid for; `session.wait(task_id)` and a download bring it home.
            came_in = (at_hand, *stream.undelivered)
            for outcome in came_in:
                if outcome and outcome.task:
                    print(f"not saved: task {outcome.task.id}")
            for left in stream.unfinished:
                print(f"{left.state}: request {left.index}, task {left.task_id}")


if __name__ == "__main__":
    try:
        asyncio.run(main(*map(int, sys.argv[1:2]), *map(Path, sys.argv[2:3])))
    except rh.RunningHubError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
