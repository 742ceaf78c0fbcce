"""One local picture, several prompts: it is uploaded once, however many requests name it.

python examples/image_to_image.py [picture.png] [folder/]
"""

import asyncio
import os
import struct
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import runninghub_async as rh
from runninghub_async.emulator import Emulator

PROMPTS = (
    "the same scene at night, lanterns reflected in the water",
    "the same scene in deep snow",
    "the same scene as a linocut in two colours",
    "the same scene as a matchbox label, 1930",
)


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
            print(f"{emulator.stats.submits} submits, {emulator.stats.uploads} upload")


def draw(path: Path, side: int = 512) -> Path:
    """A sunset over water, for those who have no picture at hand."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = bytearray()
    for y in range(side):
        glow = 255 * y // side if y < side // 2 else 255 - 200 * y // side
        rows += b"\0" + bytes((glow, glow // 2, 90)) * side
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


async def make(picture: Path, folder: Path) -> int:
    requests = [rh.SeedreamV5Lite(prompt, image_urls=[picture]) for prompt in PROMPTS]
    # What is wrong with a request is known before anything is sent; with the file, when it is read.
    assert not any(request.check() for request in requests)
    failed = 0
    async with open_session() as session, session.stream(requests) as stream:
        async for outcome in stream:
            match outcome:
                case rh.Succeeded(task=rh.Task(id=task_id, outputs=[output, *_])):
                    print(f"task {task_id}: {outcome.request.prompt}")
                    saved = await session.download(output, folder / f"{outcome.index}.png")
                    print(f"  {saved.path}: {saved.size} bytes")
                case rh.Succeeded():
                    failed += 1
                    print(f"task {outcome.task.id} ended well, but made no picture")
                case _:
                    failed += 1
                    print(f"{type(outcome).__name__}: {outcome.error}")
    return 1 if failed else 0


def main(picture: str = "", folder: str = "variations") -> int:
    Path(folder).mkdir(parents=True, exist_ok=True)
    return asyncio.run(
        make(Path(picture) if picture else draw(Path(folder, "scene.png")), Path(folder))
    )


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:3]))
    except (rh.RunningHubError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
