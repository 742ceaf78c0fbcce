"""The contact sheet in a real browser, from the file system."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

HOSTILE = "</script><img src=x onerror=\"document.title='taken over'\"> a poster"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of five posters and a failure, by the command."""
    folder = tmp_path_factory.mktemp("posters")
    prompts = [f"a poster of the number {n}" for n in range(4)] + [HOSTILE, "abc"]
    source = folder / "in.jsonl"
    source.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    command = [sys.executable, "-P", "-m", "runninghub_async", "generate", str(source)]
    done = subprocess.run(
        [*command, "--out", str(folder / "out"), "--emulator"], check=False, timeout=50
    )
    assert done.returncode == 1
    return folder / "out" / "index.html"


def chromium(page: Path, profile: Path, *words: str) -> str:
    """What a headless Chromium says of the page."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "this test needs Chromium on the PATH"
    done = subprocess.run(
        [program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         f"--user-data-dir={profile}", "--window-size=1400,2400", "--virtual-time-budget=8000",
         *words, f"file://{quote(str(page))}"],
        capture_output=True, text=True, check=True, timeout=50,
    )  # fmt: skip
    return done.stdout


def test_every_job_has_its_card_and_its_picture(page: Path, tmp_path: Path) -> None:
    """Six cards; the pictures load lazily from beside the page; the failure says why."""
    html = chromium(page, tmp_path, "--dump-dom")
    pictures = re.findall(r'<img[^>]+src="([^"]+\.png)"', html)
    assert len(set(pictures)) == 5
    assert html.count('loading="lazy"') >= 5
    assert "prompt: shorter than 5" in html
    assert "PayloadError" in html


def test_a_prompt_is_text_and_nothing_else(page: Path, tmp_path: Path) -> None:
    """A prompt that is markup is shown and not obeyed."""
    html = chromium(page, tmp_path, "--dump-dom")
    assert "<title>taken over" not in html
    assert "&lt;/script&gt;&lt;img src=x" in html


def test_the_page_can_be_seen(page: Path, tmp_path: Path) -> None:
    """A screenshot is a picture with something on it."""
    shot = tmp_path / "page.png"
    chromium(page, tmp_path / "profile", f"--screenshot={shot}")
    assert shot.stat().st_size > 50_000
