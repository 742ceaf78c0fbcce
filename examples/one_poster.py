"""One prompt in, one picture file out: submit, wait, download.

python examples/one_poster.py ["a prompt"] [poster.png]
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import runninghub_async as rh
from runninghub_async.emulator import Emulator

PROMPT = 'Poster for a night market: paper lanterns over wet cobbles, bold title "Night Market"'


@asynccontextmanager
async def open_session() -> AsyncIterator[rh.Session]:
    if os.environ.get("RUNNINGHUB_API_KEY"):
        async with rh.Session() as session:
            yield session
    else:
        print("RUNNINGHUB_API_KEY is not set: the picture is drawn by the emulator.")
        quick = rh.ExponentialPolling(initial=0.5, maximum=1.0)
        async with (
            Emulator(duration=1.5) as emulator,
            rh.Session("emulator", base_url=emulator.url, polling=quick) as session,
        ):
            yield session


def cost_of(task: rh.Task) -> str:
    match task.usage:
        case rh.Usage(total_money=money) if money is not None:
            return f"{money} in the wallet's currency"
        case rh.Usage(coins=coins) if coins is not None:
            return f"{coins} coins"
        case _:
            return "not told"


async def main(prompt: str = PROMPT, path: str = "poster.png") -> None:
    async with open_session() as session:
        started = time.monotonic()
        task = await session.run(rh.SeedreamV5Lite(prompt, width=1728, height=2304))
        # Before the download: whatever happens there, the id leads back to the picture.
        print(f"task {task.id}: {time.monotonic() - started:.1f} s, cost {cost_of(task)}")
        if not task.outputs:
            sys.exit(f"task {task.id} ended well, but made no picture")
        download = await session.download(task.outputs[0], Path(path))
        print(f"{download.path}: {download.size} bytes")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:3]))
    except (rh.RunningHubError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
