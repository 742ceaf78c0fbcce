"""Posters that survive being killed: stop it at any moment, start it again, and it goes on.

python examples/resume_posters.py [posters.csv] [posters/] [posters.db]

Nothing is submitted twice, and what is stored is not fetched again. It stops before it has spent
more than 50 CNY (7 USD at runninghub.ai), all its runs together.

The built-in emulator ends with this program, and its tasks with it. To kill one and not the other:

    runninghub-async emulator --port 8000 &
    export RUNNINGHUB_API_KEY=any RUNNINGHUB_BASE_URL=http://127.0.0.1:8000
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
async def open_session(journal: str) -> AsyncIterator[rh.Session]:
    if os.environ.get("RUNNINGHUB_API_KEY"):
        # Each site bills in its own currency, and the default is runninghub.ai.
        dollars = ".ai" in os.environ.get("RUNNINGHUB_BASE_URL", ".ai")
        budget = rh.Money(7, "USD") if dollars else rh.Money(50, "CNY")
        async with rh.Session(journal=journal, budget=budget) as session:
            yield session
    else:
        print("RUNNINGHUB_API_KEY is not set: the pictures are drawn by the emulator.")
        quick = rh.ExponentialPolling(initial=0.5, maximum=1.0)
        budget = rh.Money(50, "CNY")
        async with (
            Emulator(duration=1.5) as emulator,
            rh.Session(
                "emulator", base_url=emulator.url, journal=journal, budget=budget, polling=quick
            ) as session,
        ):
            yield session


async def make(requests: list[rh.SeedreamV5Lite], folder: str, journal: str) -> None:
    async with open_session(journal) as session, session.stream(requests, folder=folder) as stream:
        try:
            async for outcome in stream:
                row = outcome.index + 1
                match outcome:
                    case rh.Succeeded(files=[file, *_]):
                        print(f"row {row}: {file.path}")
                    case rh.Succeeded():
                        print(f"row {row}: task {outcome.task.id} ended well, but made no picture")
                    case _:
                        print(f"row {row}: {type(outcome).__name__}, {outcome.error}")
        except rh.RunningHubError as stop:
            # A spent budget, a wrong key or an empty wallet; start it again once that is mended.
            print(f"stopped: {stop}")


def tell(journal: str) -> int:
    """How the whole run stands, by its journal; 1 if something is left to do or to look into."""
    with rh.JournalReader(journal) as reader:
        summary = reader.summary()
    counts = {state: count for state, count in summary.states.items() if count}
    print("; ".join(f"{count} {state}" for state, count in counts.items()), end="; ")
    print(f"spent {summary.spent}")
    for amount in summary.at_stake:
        print(f"of unknown outcome, and perhaps billed: {amount}")
    return 0 if {*counts} == {rh.JobState.STORED} else 1


def main(table: str | Path = TABLE, folder: str = "posters", journal: str = "posters.db") -> int:
    with Path(table).open(newline="", encoding="utf-8-sig") as file:
        requests = [
            rh.SeedreamV5Lite(row["prompt"], int(row["width"]), int(row["height"]))
            for row in csv.DictReader(file)
        ]
    asyncio.run(make(requests, folder, journal))
    return tell(journal)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:4]))
    except rh.JournalError as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
