"""What the documents say is true: the README's code runs, its commands exist, examples work."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runninghub_async.emulator import Emulator

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- runs -->\n```python\n(.*?)```", README, re.DOTALL)
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """An emulator for other processes, on a loop in a thread."""
    ready, stop = threading.Event(), asyncio.Event()
    told: list[tuple[str, asyncio.AbstractEventLoop]] = []

    def serve() -> None:
        async def main() -> None:
            async with Emulator(duration=0.5) as emulator:
                told.append((emulator.url, asyncio.get_running_loop()))
                ready.set()
                await stop.wait()

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(20)
    ((url, loop),) = told
    yield url
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)


def python(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RUNNINGHUB", "RH_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", *words],
        capture_output=True, text=True, cwd=cwd, timeout=55, check=False, env={**clean, **env},
    )  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{len(block)} characters")
def test_the_readmes_code_runs(block: str, tmp_path: Path, service: str) -> None:
    """Each Python block as it stands, against the emulator; nothing goes to stderr but warnings
    of what was left running."""
    done = python("-c", block, cwd=tmp_path, RUNNINGHUB_API_KEY="k", RUNNINGHUB_BASE_URL=service)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_no_block_of_python_is_left_out() -> None:
    """Every Python block of the README is marked to run."""
    assert len(BLOCKS) == README.count("```python") == 6


def test_the_readme_opens_with_the_two_commands() -> None:
    """Two `sh` blocks come first: one ends by naming the page, one runs the tests."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
    assert [language for language, _ in blocks[:2]] == ["sh", "sh"]
    assert "generate examples/posters.csv" in blocks[0][1]
    assert blocks[0][1].strip().splitlines()[-1].endswith('posters/index.html in a browser"')
    assert "nox" in blocks[1][1]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_run_without_a_key(path: Path, tmp_path: Path) -> None:
    """Each by itself, on the emulator, without a warning."""
    words = [str(path)]
    if path.name == "inside_fastapi.py":
        words.append("--self-test")
    if path.name == "endless_prompts.py":
        words.append("8")
    if path.name == "posters_from_csv.py":
        short = tmp_path / "short.csv"
        lines = (ROOT / "examples/posters.csv").read_text("utf-8").splitlines(keepends=True)
        short.write_text("".join(lines[:7]), encoding="utf-8")
        words += [str(short), str(tmp_path / "out")]
    done = python(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stderr
    assert "emulator" in done.stdout


def test_the_brief_is_a_real_one() -> None:
    """At least 40 rows, several languages and sizes, none of them faulty."""
    import csv

    import runninghub_async as rh

    with (ROOT / "examples/posters.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    requests = [rh.SeedreamV5Lite(r["prompt"], int(r["width"]), int(r["height"])) for r in rows]
    assert len({request.prompt for request in requests}) == len(rows) >= 40
    assert len({(request.width, request.height) for request in requests}) >= 5
    assert sum(not request.prompt.isascii() for request in requests) >= 15
    assert [request.check() for request in requests] == [()] * len(requests)


def test_every_command_and_option_is_in_the_readme() -> None:
    """What `--help` offers for `generate`, the README names."""
    for word in ("generate", "emulator", "models", "--model", "--param", "--rate", "--concurrency",
                 "--limit", "--base-url", "--emulator", "--out"):  # fmt: skip
        assert word in README
