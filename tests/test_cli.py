"""The command line, as a process of its own, against the emulator."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import runninghub_async as rh
from runninghub_async._cli._progress import Progress, describe, duration

# -P: the installed package, not the checkout the tests are started from.
COMMAND = [sys.executable, "-P", "-m", "runninghub_async"]


def call(
    *words: str | Path, stdin: str | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RUNNINGHUB", "RH_"))}
    return subprocess.run(
        [*COMMAND, *map(str, words)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**clean, **env},
    )


def manifest(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


@contextlib.contextmanager
def emulator(*words: str) -> Iterator[str]:
    """The command `emulator` in the background; its URL is the first line it prints."""
    process = subprocess.Popen(
        [*COMMAND, "emulator", *words], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 0
    finally:
        # Where the test failed, and where the signal did not end it.
        process.kill()
        process.wait(60)
        process.stdout.close()


def stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/_emulator/stats") as answer:
        told: dict[str, Any] = json.load(answer)
    return told


def test_generate_leaves_pictures_a_manifest_and_a_page(tmp_path: Path) -> None:
    """A .csv with sizes and a bad row: files with the right hashes, one failure, exit status 1."""
    source, out = tmp_path / "in.csv", tmp_path / "out"
    rows = [
        ["prompt", "width", "max_images"],
        ["a poster of a paper boat, at dusk", "1600", ""],
        ["纸船海报，雨后的街道", "2000", "1"],
        ["too wide a poster", "99999", ""],
        ["", "", ""],
    ]
    with source.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    done = call("generate", source, "--out", out, "--emulator", "--rate", "50")
    assert done.returncode == 1, done.stderr
    assert done.stdout.splitlines()[-1] == f"open {out / 'index.html'}"
    lines = sorted(manifest(out), key=lambda line: line["index"])
    assert [line["status"] for line in lines] == ["succeeded", "succeeded", "failed"]
    assert [line["files"][0]["path"] for line in lines[:2]] == [
        "00000-a-poster-of-a-paper-boat-at-dusk.png",
        "00001-纸船海报-雨后的街道.png",
    ]
    for line in lines[:2]:
        data = (out / line["files"][0]["path"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == line["files"][0]["sha256"]
        assert line["cost"] == {"amount": "0.22", "currency": "CNY"}
        assert line["finished_at"] > line["submitted_at"]
        assert line["task_id"].isdigit()
        assert line["outputs"][0]["url"]
    assert lines[0]["request"]["height"] == 2048
    assert lines[1]["request"]["maxImages"] == 1
    assert lines[2]["error"]["type"] == "PayloadError"
    assert lines[2]["error"]["message"] == "line 4: width: more than 4704 @ $.width"
    page = (out / "index.html").read_text("utf-8")
    assert "00000-a-poster-of-a-paper-boat-at-dusk.png" in page
    assert "http-equiv" in page


def test_only_the_first_of_an_endless_input_are_read(tmp_path: Path) -> None:
    """--limit 12 of a pipe that never ends: 12 files, and the pipe is closed."""
    producer = subprocess.Popen(
        [sys.executable, "-c", "n = 0\nwhile True: print('a poster of number', n); n += 1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert producer.stdout is not None
    done = subprocess.run(
        [*COMMAND, "generate", "-", "--out", tmp_path, "--emulator", "--limit", "12",
         "--rate", "50", "--concurrency", "10"],
        stdin=producer.stdout, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    producer.stdout.close()
    producer.wait(60)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.png"))) == 12
    assert sorted(line["index"] for line in manifest(tmp_path)) == list(range(12))


def test_json_lines_and_param_and_other_models(tmp_path: Path) -> None:
    """Keys are fields, --param fills in what a line leaves out, a text result is a .txt file."""
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"prompt": "a poster of a boat", "width": 1700}\nnot json\n[1]\n'
        '{"prompt": "a poster of a boat", "widht": 1700}\n'
    )
    out = tmp_path / "out"
    done = call("generate", source, "--out", out, "--emulator", "--param", "width=1800",
                "--param", "height=1400")  # fmt: skip
    assert done.returncode == 1
    lines = sorted(manifest(out), key=lambda line: line["index"])
    assert (lines[0]["request"]["width"], lines[0]["request"]["height"]) == (1700, 1400)
    messages = [line["error"]["message"] for line in lines[1:]]
    assert "not JSON" in messages[0]
    assert "line 2" in messages[0]
    assert "expected a JSON object" in messages[1]
    assert "widht: unknown field of seedream-v5-lite/text-to-image" in messages[2]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "absent.txt", "--out", "o", "--emulator"], "absent.txt"),
        (["generate", "in.pdf", "--out", "o", "--emulator"], "expected .txt, .csv or .jsonl"),
        (["generate", "bad.csv", "--out", "o", "--emulator"], "colour: unknown field"),
        (["generate", "in.txt", "--out", "o", "--emulator", "--model", "seedream-v9"], "perhaps"),
        (["generate", "in.txt", "--out", "o", "--emulator", "--param", "width=wide"], "width"),
        (["generate", "in.txt", "--out", "o", "--emulator", "--param", "nonsense"], "key=value"),
        (["generate", "in.txt", "--out", "o", "--emulator", "--rate", "0"], "above 0"),
        (["generate", "in.txt", "--out", "o"], "RUNNINGHUB_API_KEY"),
        (["generate", "in.txt", "--out", "in.txt", "--emulator"], "--out in.txt"),
        (["generate", "twice.csv", "--out", "o", "--emulator"], "prompt: two columns"),
        (["emulator", "--port", "99999"], "--port 99999"),
        (["emulator", "--faults", "bad.csv"], "--faults bad.csv"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    """Before anything is made or sent."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.txt").write_text("a poster of a paper boat\n")
    (tmp_path / "bad.csv").write_text("prompt,colour\na poster,red\n")
    (tmp_path / "twice.csv").write_text("prompt,prompt\na poster,another\n")
    done = call(*words)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "o/manifest.jsonl").exists()


def test_a_wrong_key_stops_the_run_with_status_3(tmp_path: Path) -> None:
    """One message, what to do about it, and the requests listed as not submitted."""
    source = tmp_path / "in.txt"
    source.write_text("".join(f"a poster of the number {n}\n" for n in range(200)))
    with emulator("--api-key", "right", "--duration", "0.5") as url:
        done = call("generate", source, "--out", tmp_path / "out", "--base-url", url,
                    RUNNINGHUB_API_KEY="wrong")  # fmt: skip
        assert done.returncode == 3
        assert done.stderr.count("check the API key") == 1
        assert "wrong" not in done.stderr
        assert {line["status"] for line in manifest(tmp_path / "out")} == {"not_submitted"}
        assert stats(url)["submits"] < 5
        right = call("generate", source, "--out", tmp_path / "out", "--base-url", url,
                     "--limit", "3", RUNNINGHUB_API_KEY="right")  # fmt: skip
        assert right.returncode == 0, right.stderr


def test_faults_from_a_file_and_unknown_submits(tmp_path: Path) -> None:
    """A submit whose answer was lost is marked in the manifest; exit status 1."""
    faults = tmp_path / "faults.json"
    faults.write_text('[{"on": "submit", "kind": "garbage", "times": 1}]')
    source = tmp_path / "in.txt"
    source.write_text("a poster of one\na poster of two\n")
    with emulator("--faults", str(faults), "--duration", "0.2", "--seed", "5") as url:
        done = call("generate", source, "--out", tmp_path / "out", "--base-url", url,
                    RH_API_KEY="k")  # fmt: skip
        assert done.returncode == 1
        lines = manifest(tmp_path / "out")
        assert Counter(line["status"] for line in lines) == {"unknown": 1, "succeeded": 1}
        assert stats(url)["billed"] == 2


def test_ctrl_c_stops_at_once_and_names_what_still_runs(tmp_path: Path) -> None:
    """While tasks run: a whole manifest, every pulled request in it, the ids on the screen."""
    process = subprocess.Popen(
        [*COMMAND, "generate", "-", "--out", tmp_path, "--emulator", "--rate", "20"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write("".join(f"a poster of the number {n}\n" for n in range(400)))
    process.stdin.flush()
    deadline = time.monotonic() + 60
    path = tmp_path / "manifest.jsonl"
    while not (path.exists() and path.stat().st_size) and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = manifest(tmp_path)
    assert sorted(line["index"] for line in lines) == list(range(len(lines)))
    running = [line["task_id"] for line in lines if line["status"] == "running"]
    assert running
    assert f"{len(running)} tasks still run at the service" in out
    assert all(task_id in out for task_id in running)
    assert "to fetch the results of one: runninghub-async task ID --wait --download DIR" in out
    assert (tmp_path / "index.html").exists()


def test_kill_leaves_whole_lines_and_whole_files(tmp_path: Path) -> None:
    """SIGKILL in the middle: each line parses, each file it names has its hash, none is partial."""
    process = subprocess.Popen(
        [*COMMAND, "generate", "-", "--out", tmp_path, "--emulator", "--rate", "100"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdin is not None
    process.stdin.write("".join(f"a poster of the number {n}\n" for n in range(400)))
    process.stdin.flush()
    path = tmp_path / "manifest.jsonl"
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text().count("\n") > 5) and time.monotonic() < deadline:
        select.select([], [], [], 0.05)
    process.kill()
    process.wait(60)
    process.stdin.close()
    named = set()
    for line in manifest(tmp_path):
        for file in line["files"]:
            named.add(file["path"])
            data = (tmp_path / file["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]
    assert len(named) > 5
    for picture in tmp_path.glob("*.png"):
        assert picture.read_bytes().endswith(b"IEND\xaeB`\x82")


def test_odd_input_is_lived_through(tmp_path: Path) -> None:
    """Half a surrogate pair, emoji only, Hindi, a deep line, a BOM on standard input; whoever
    watched the progress has gone."""
    source = tmp_path / "in.jsonl"
    prompts = ["lone \ud83d surrogate", "\U0001f600" * 6, "हिन्दी पोस्टर मेला"]
    lines = [json.dumps({"prompt": prompt}) for prompt in prompts] + ["[" * 100_000]
    source.write_text("\n".join(lines))
    process = subprocess.Popen(
        [*COMMAND, "generate", source, "--out", tmp_path / "a/b", "--emulator"],
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(60) == 1
    told = {line["index"]: line for line in manifest(tmp_path / "a/b")}
    assert [told[n]["status"] for n in range(4)] == ["failed", "succeeded", "succeeded", "failed"]
    assert told[1]["files"][0]["path"] == "00001.png"
    assert told[2]["files"][0]["path"] == "00002-हिन्दी-पोस्टर-मेला.png"
    assert (tmp_path / "a/b/index.html").exists()
    done = call("generate", "-", "--out", tmp_path / "c", "--emulator", stdin="\ufeffa poster\n")
    assert done.returncode == 0, done.stderr
    assert manifest(tmp_path / "c")[0]["request"]["prompt"] == "a poster"


def test_a_key_of_blanks_is_no_key(tmp_path: Path) -> None:
    """The same word of advice as without one."""
    (tmp_path / "in.txt").write_text("a poster of a paper boat\n")
    done = call("generate", tmp_path / "in.txt", "--out", tmp_path / "o", RUNNINGHUB_API_KEY=" ")
    assert done.returncode == 2
    assert "no API key. Set RUNNINGHUB_API_KEY" in done.stderr


def test_models_searches_and_shows() -> None:
    """Words list the models that hold them all; a name shows one; none is status 1."""
    listed = call("models", "seedream", "text-to-image")
    assert listed.returncode == 0
    assert re.search(
        r"^seedream-v5-lite/text-to-image +0.22 CNY per image$", listed.stdout, re.MULTILINE
    )
    one = call("models", "seedream-v5-lite/text-to-image").stdout
    for fact in (
        "* prompt",
        "5 to 2000 characters",
        "1600 to 4704",
        "2k | 3k",
        "0.22 CNY per image, as of 2026-09-01 (the service's published price list)",
        "文生图",
    ):
        assert fact in one
    noted = call("models", "seedream-v5-pro/image-to-image").stdout
    assert "and 0.018 CNY for each picture given after the first" in noted
    assert "note        prompt: 2000 characters on the page of 2026-07-09" in noted
    assert call("models", "no", "such").returncode == 1
    assert "480 of 480 models" in call("models").stdout


def test_help_and_version() -> None:
    """Each command explains itself."""
    for command in ("generate", "emulator", "models"):
        assert call(command, "--help").returncode == 0
    assert call("--version").stdout.strip() == rh.__version__


def test_progress_is_one_live_line_on_a_terminal() -> None:
    """Written over at most ten times a second; ends with a new line."""
    written: list[str] = []

    class Terminal:
        write, flush = written.append, staticmethod(lambda: None)

        @staticmethod
        def isatty() -> bool:
            return True

    now = [0.0]
    progress = Progress(Terminal(), 300, "CNY", clock=lambda: now[0])  # type: ignore[arg-type]
    for step in range(100):
        now[0] = step / 50
        progress.show(rh.Statistics(waiting=50))
    assert 15 < len(written) <= 20
    assert all(text.startswith("\r\x1b[K") and "\n" not in text for text in written)
    progress.show(rh.Statistics(), last=True)
    assert written[-1].endswith("\n")


def test_progress_says_done_failed_waiting_rate_time_left_and_money() -> None:
    """In that order, in one line."""
    progress = Progress(sys.stderr, 300, "CNY")
    progress.tally.stored, progress.tally.failed = 48, 2
    progress.tally.money += __import__("decimal").Decimal("10.56")
    text = describe(progress.tally, rh.Statistics(waiting=50), 10.0, 300, "CNY")
    assert text == "50/300 ended  48 done  2 failed  50 waiting  5.0/s  0:50 left  10.56 CNY"
    assert duration(3725) == "1:02:05"


def test_the_emulator_stops_cleanly() -> None:
    """URL first, stats while it runs, status 0 on SIGINT, a taken port is status 2."""
    with emulator("--max-concurrency", "7") as url:
        assert stats(url)["submits"] == 0
        with urllib.request.urlopen(url) as answer:
            assert b"not\ngenerated by a model" in answer.read()
        taken = call("emulator", "--port", url.rsplit(":", 1)[1])
        assert taken.returncode == 2
