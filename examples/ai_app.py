"""An AI app: what it takes, a check that costs nothing, and a run with a local file.

python examples/ai_app.py [APP_ID] [picture.png]
"""

import asyncio
import base64
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import runninghub_async as rh
from runninghub_async.emulator import Emulator

APP = "1937084629516193794"  # the emulator's; with a key, name one that you have run once

#: One grey pixel, for those who named no picture.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNoAAAAggCBd81ytgAAAABJRU5ErkJggg=="
)


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


def show(app: rh.App) -> None:
    print(f"{app.name} ({app.id}){', needs a password' if app.needs_password else ''}")
    for entry in app.inputs:
        facts = [entry.type, f"default {entry.default}"]
        if entry.choices:
            facts.append(f"one of {' | '.join(entry.choices)}")
        if entry.min is not None and entry.max is not None:
            facts.append(f"{entry.min:g} to {entry.max:g}")
        name = f"{entry.node_id}.{entry.field}"
        print(f"  {name:<18} {entry.description}: {', '.join(facts)}")


def values_for(app: rh.App, picture: Path) -> dict[str, dict[str, Any]]:
    """Another choice for every list, and the picture for every picture; the rest stays as saved."""
    values: dict[str, dict[str, Any]] = {}
    for entry in app.inputs:
        match entry.type:
            case "LIST" if entry.choices:
                values.setdefault(entry.node_id, {})[entry.field] = entry.choices[-1]
            case "IMAGE":
                values.setdefault(entry.node_id, {})[entry.field] = picture
    return values


async def run(app_id: str, picture: Path) -> None:
    async with open_session() as session:
        app = await session.apps.get(app_id)
        show(app)

        wrong = rh.AppRequest(app, {"3": {"steps": "many", "sampler": "ddim"}})
        for problem in wrong.check():  # nothing is sent for this
            print(f"  fault: {problem}")

        request = rh.AppRequest(app, values_for(app, picture))
        task = await session.run(request)  # uploads the picture, submits, waits
        print(f"task {task.id}: {task.usage}")
        for place, output in enumerate(task.outputs):
            if output.url is None:
                print(output.text)
                continue
            saved = await session.download(output, f"app-{place}.{output.type}")
            print(f"{saved.path}: {saved.size} bytes")


def main(app_id: str = APP, picture: str = "") -> None:
    with TemporaryDirectory() as folder:
        pixel = Path(folder, "pixel.png")
        pixel.write_bytes(PIXEL)
        asyncio.run(run(app_id, Path(picture) if picture else pixel))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:3])
    except (rh.RunningHubError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
