"""A table of posters into a folder of pictures, many at once, with an account of what failed.

python examples/posters_from_csv.py [posters.csv] [posters/]
"""

import asyncio
import csv
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import runninghub_async as rh
from runninghub_async.emulator import Emulator

TABLE = Path(__file__).with_name("posters.csv")


@asynccontextmanager
async def open_session() -> AsyncIterator[rh.Session]:
    if os.environ.get("RUNNINGHUB_API_KEY"):
        async with rh.Session() as session:
            yield session
    else:
        print("RUNNINGHUB_API_KEY is not set: the pictures are drawn by the emulator.")
        quick = rh.ExponentialPolling(initial=0.5, maximum=1.0)
        async with (
            Emulator(duration=1.5) as emulator,
            rh.Session("emulator", base_url=emulator.url, polling=quick) as session,
        ):
            yield session


async def make(requests: list[rh.SeedreamV5Lite], folder: Path) -> dict[int, str]:
    """What went wrong, by row, counted from 1."""
    wrong = dict.fromkeys(range(1, len(requests) + 1), "not submitted")
    download_slots = asyncio.Semaphore(8)

    async def save(row: int, output: rh.Output) -> None:
        try:
            await session.download(output, folder / f"{row:04}.png")
            del wrong[row]
        except (rh.RunningHubError, OSError) as error:
            wrong[row] = f"task {output.task_id} made it, but the download failed: {error}"
        finally:
            download_slots.release()

    async with (
        open_session() as session,
        asyncio.TaskGroup() as downloads,
        session.stream(requests) as stream,
    ):
        try:
            async for outcome in stream:
                row = outcome.index + 1
                match outcome:
                    case rh.Succeeded(task=rh.Task(id=task_id, outputs=[output, *_])):
                        print(f"row {row}: task {task_id}")
                        # Taken here, not in the task: downloads that lag then slow the submits.
                        await download_slots.acquire()
                        downloads.create_task(save(row, output))
                    case rh.Succeeded():
                        wrong[row] = f"task {outcome.task.id} ended well, but made no picture"
                    case rh.Unknown():
                        wrong[row] = f"UNKNOWN, may have been billed: {outcome.error}"
                    case rh.Failed() | rh.Cancelled():
                        wrong[row] = str(outcome.error)
        except rh.RunningHubError as stop:
            # A wrong key or an empty wallet. Caught in here, it does not end the downloads.
            print(f"stopped: {stop}")
    return wrong


def main(table: str | Path = TABLE, folder: str = "posters") -> int:
    # Read whole before anything is submitted: a broken table then costs nothing.
    with Path(table).open(newline="", encoding="utf-8-sig") as file:
        requests = [
            rh.SeedreamV5Lite(row["prompt"], int(row["width"]), int(row["height"]))
            for row in csv.DictReader(file)
        ]
    Path(folder).mkdir(parents=True, exist_ok=True)
    wrong = asyncio.run(make(requests, Path(folder)))
    print(f"{len(requests) - len(wrong)} of {len(requests)} posters are in {folder}")
    for row, reason in wrong.items():
        print(f"row {row}: {reason}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
