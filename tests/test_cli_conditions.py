"""The command line in real conditions: full disks, hostile texts, spreadsheets as they are
exported, large rows, closed outputs, edited inputs."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import fcntl
import io
import json
import logging
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import emulated, png, served, until

import runninghub_async as rh
from runninghub_async._cli import main
from runninghub_async._cli._manifest import Manifest, ManifestFile, job_line
from runninghub_async._cli._progress import Tally
from runninghub_async._cli._prompts import UsageError, find_model, look_over, read_items
from runninghub_async._cli._records import line_of, write_pages
from runninghub_async._cli._terminal import Screen, live
from runninghub_async.testing import run as run_virtually

COMMAND = [sys.executable, "-P", "-m", "runninghub_async"]

#: Control sequences, and marks that change the direction of writing.
EVIL = "\x1b]0;OWNED\x07\x1b[2J\x7f\x9b31m\u202e\u2066\u200f\u2028"
CONTROLS = set(EVIL) - set("]0;OWNED[2J31m")


class Ran:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


Run = Callable[..., Ran]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNNINGHUB_API_KEY", "a-key-of-16-chars")

    def run(*words: str) -> Ran:
        capsys.readouterr()
        try:
            status = main(list(words))
        except SystemExit as end:
            status = int(end.code or 0)
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command as a process of its own, which does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **options: Any) -> subprocess.Popen[str]:
        env = {**os.environ, "RUNNINGHUB_API_KEY": "a-key-of-16-chars"}
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        process = subprocess.Popen(
            [*COMMAND, *words], text=True, cwd=tmp_path, env=env, **(streams | options)
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=20)


def ended_at_once(urls: list[str]) -> Callable[[str, dict[str, Any]], Any]:
    """A service whose tasks have ended when they are submitted, with results at these URLs."""

    def answer(path: str, _: dict[str, Any]) -> Any:
        if path.endswith(".png"):
            return png()
        results = [{"url": url, "outputType": "png"} for url in urls]
        return {"taskId": "7", "status": "SUCCESS", "results": results}

    return answer


def lines_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "manifest.jsonl").read_text("utf-8")
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def drain(pipe: Any) -> list[str]:
    """The lines of a pipe as they arrive."""
    lines: list[str] = []
    threading.Thread(target=lambda: lines.extend(iter(pipe.readline, "")), daemon=True).start()
    return lines


# -- text of others -------------------------------------------------------------------------------


def hostile(path: str, body: dict[str, Any]) -> Any:
    if path.endswith("/query"):
        results = [{"text": f"{EVIL}hello", "outputType": "txt"}]
        return {"taskId": body["taskId"], "status": "SUCCESS", "results": results}
    if "text-to-image" in path and "evil" in body["prompt"]:
        return {"errorCode": "1007", "errorMessage": EVIL, "taskId": ""}
    if "text-to-image" in path:
        return {"taskId": f"9{EVIL}" if "odd" in body["prompt"] else "9", "status": "RUNNING"}
    if "accountStatus" in path:
        return {"code": 0, "data": {"remainCoins": "1", "currentTaskCounts": "0", "currency": EVIL}}
    records = [{"webappId": "1", "title": EVIL, "description": EVIL}]
    return {"code": 0, "data": {"records": records, "current": 1, "size": 10, "total": 1}}


MODEL = "seedream-v5-lite/text-to-image"


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (1, ["run", MODEL, "--param", "prompt=an evil poster"]),
        (0, ["run", MODEL, "--param", "prompt=an odd poster", "--no-wait"]),
        (0, ["run", MODEL, "--param", "prompt=a poster here"]),
        (0, ["account"]),
        (0, ["app", "list"]),
        (2, ["run", EVIL]),
        (2, ["run", MODEL, "--param", f"{EVIL}=1"]),
        (2, ["upload", f"{EVIL}.png"]),
        (2, ["generate", f"{EVIL}.txt", "--out", "o"]),
        (2, ["generate", "evil.csv", "--out", "o"]),
        (2, [EVIL]),
        (2, ["runs", "x.db", "--state", EVIL]),
    ],
)
def test_text_of_others_does_not_control_the_terminal(
    run: Run, status: int, words: list[str]
) -> None:
    """Text of a server, a file or an argument is shown, escaped, on both outputs."""
    Path("evil.csv").write_text(f"prompt,{EVIL}\na poster,1\n", "utf-8")
    with served(hostile) as url:
        more = ["--base-url", url] if words[0] in ("run", "account", "app", "upload") else []
        ran = run(*words, *more)
    assert ran.status == status, ran.err
    assert not CONTROLS & set(ran.out + ran.err)
    assert "x1b]0;owned" in (ran.out + ran.err).lower()


def test_json_is_ascii_and_exact(run: Run) -> None:
    """Programs get exactly what the server wrote, and a terminal gets no control sequences."""
    with served(hostile) as url:
        ran = run("app", "list", "--json", "--base-url", url)
    assert ran.out.isascii()
    assert not CONTROLS & set(ran.out)
    assert json.loads(ran.out)[0]["title"] == EVIL


def test_a_warning_replaces_the_live_line() -> None:
    """A warning is not hidden behind the progress and does not garble it."""
    terminal = Terminal()
    screen: Any = Screen(terminal)
    progress = live(screen)
    progress.write("\r\x1b[K3/9 ended")
    print("task 1: \x1b[2J", file=screen)
    progress.write("\r\x1b[K4/9 ended\n")
    print("done", file=screen)
    assert terminal.getvalue() == (
        "\r\x1b[K3/9 ended\r\x1b[Ktask 1: \\x1b[2J\n\r\x1b[K4/9 ended\ndone\n"
    )


def test_warnings_of_the_library_are_shown(run: Run, tmp_path: Path) -> None:
    """Also in a run of many requests, whose summary does not mention them."""
    (tmp_path / "in.txt").write_text("a poster of a boat\n")
    tips = json.dumps({"node_errors": {"6": {"errors": [{"message": f"too wide {EVIL}"}]}}})

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/query"):
            return {"taskId": "1", "status": "FAILED", "errorCode": "1501", "errorMessage": "no"}
        return {"taskId": "1", "status": "RUNNING", "promptTips": tips}

    with served(answer) as url:
        ran = run("generate", "in.txt", "--out", "out", "--base-url", url)
    assert ran.status == 1
    assert re.search(r"^task 1 was accepted with faults: .*too wide \\x1b", ran.err, re.MULTILINE)


# -- files that cannot be written -----------------------------------------------------------------


def failing(count: int) -> list[dict[str, Any]]:
    return [{"on": "task", "kind": "fail", "code": "1501", "times": count}]


@pytest.mark.long
def test_the_manifest_waits_for_room(process: Callable[..., Any], tmp_path: Path) -> None:
    """One warning with the reason, nothing submitted meanwhile; then all lines, whole."""
    text = "x" * 1500
    (tmp_path / "in.txt").write_text("".join(f"a poster {n} {text}\n" for n in range(30)))

    def small() -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))

    with emulated(duration=0, faults=failing(30)) as emulator:
        ran = process(
            "generate", "in.txt", "--out", "out", "--base-url", emulator.url,
            "--rate", "10", "--concurrency", "5", preexec_fn=small,
        )  # fmt: skip
        told = drain(ran.stderr)
        until(lambda: any("manifest.jsonl cannot be written" in line for line in told))
        before = emulator.stats.submits
        assert before < 30
        # Longer than the time from one attempt to the next.
        until(lambda: sum("ended" in line for line in told) > 1)
        assert emulator.stats.submits <= before + 1
        lines_of(tmp_path / "out")
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.prlimit(ran.pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert ran.wait(60) == 1
    assert sum("nothing is submitted until it can" in line for line in told) == 1
    assert any("manifest.jsonl can be written again" in line for line in told)
    assert sorted(line["index"] for line in lines_of(tmp_path / "out")) == list(range(30))
    assert "Traceback" not in "".join(told)


@contextlib.contextmanager
def limited(size: int) -> Iterator[Callable[[], None]]:
    """This process's files may have that size; what is given makes room again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield room
    finally:
        room()


class Interrupts(io.StringIO):
    """A standard error with somebody before it who presses Ctrl+C at the sight of a text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def write(self, text: str) -> int:
        if self._text in text:
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


def test_ctrl_c_on_a_full_disk_tells_what_no_file_does(run: Run, tmp_path: Path) -> None:
    """Status 130 at once, without waiting for room; the manifest has no half of a line."""
    (tmp_path / "in.txt").write_text("a poster of a boat\n")
    with (
        emulated(faults=[{"on": "submit", "kind": "garbage"}]) as emulator,
        contextlib.redirect_stderr(Interrupts("manifest.jsonl cannot be written")) as seen,
        limited(100),
    ):
        ran = run("generate", "in.txt", "--out", "out", "--base-url", emulator.url)
    assert ran.status == 130
    assert "0 done, 0 failed, 1 unknown in " in ran.out
    told = seen.getvalue().splitlines()
    assert "not in manifest.jsonl: 1 submits whose responses were lost" in told
    assert "out/index.html was not written: File too large" in told
    assert [(path.name, path.stat().st_size) for path in (tmp_path / "out").iterdir()] == [
        ("manifest.jsonl", 0)
    ]


def test_ctrl_c_ends_a_run_that_has_ended_but_for_its_manifest(run: Run, tmp_path: Path) -> None:
    """The key was refused, and the requests that were not submitted find no room."""
    (tmp_path / "in.txt").write_text("a poster of a boat\n")
    refused = {"errorCode": "412", "errorMessage": "no such key", "taskId": ""}
    with (
        served(lambda _path, _body: refused) as url,
        contextlib.redirect_stderr(Interrupts("manifest.jsonl cannot be written")) as seen,
        limited(100),
    ):
        ran = run("generate", "in.txt", "--out", "out", "--base-url", url)
    assert ran.status == 130
    assert "0 done, 0 failed in " in ran.out
    assert "not in manifest.jsonl" not in seen.getvalue()


def test_ctrl_c_while_the_input_is_recorded_says_what_to_do(run: Run, tmp_path: Path) -> None:
    """The journal finds no room; nothing was submitted."""
    (tmp_path / "in.txt").write_text("".join(f"a poster {n} {'x' * 1000}\n" for n in range(1000)))
    with (
        emulated() as emulator,
        contextlib.redirect_stderr(Interrupts("run.db cannot be written")) as seen,
        limited(300_000),
    ):
        ran = run("generate", "in.txt", "--out", "out", "--journal", "run.db", "--base-url",
                  emulator.url)  # fmt: skip
        assert emulator.stats.submits == 0
    assert ran.status == 130
    assert seen.getvalue().splitlines()[-1] == (
        "interrupted while the input was recorded; to continue, run the same command again"
    )


def test_a_line_that_finds_no_room_is_written_when_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Submitting is held for that long; a warning begins it and another ends it."""
    path, told = tmp_path / "manifest.jsonl", []

    class Crowded(ManifestFile):
        """Room is made for the fourth attempt to write."""

        def append(self, line: dict[str, Any]) -> None:
            told.append(f"line {line['index']}")
            if len(told) == 5:
                room()
            super().append(line)

    @contextlib.contextmanager
    def hold() -> Iterator[None]:
        told.append("held")
        yield
        told.append("let go")

    async def main() -> None:
        manifest = Manifest(file)
        manifest.hold = hold
        manifest.add({"index": 0})
        manifest.add({"index": 1, "text": "x" * 200})
        await manifest.written()
        assert await manifest.finish(patient=True) == []

    with contextlib.closing(Crowded(path)) as file, limited(100) as room:
        with caplog.at_level(logging.WARNING, "runninghub_async"):
            run_virtually(main)
    assert [line["index"] for line in lines_of(tmp_path)] == [0, 1]
    assert told == ["line 0", "line 1", "held", "line 1", "line 1", "let go"]
    assert caplog.messages == [
        f"{path} cannot be written: File too large; nothing is submitted until it can be",
        f"{path} can be written again",
    ]


def test_a_manifest_that_can_never_be_written_is_given_up_after_eight_seconds(
    tmp_path: Path,
) -> None:
    """A fault other than a full disk is tried five times; then the lines are given back."""
    out = tmp_path / "out"
    out.mkdir()

    async def main() -> None:
        manifest = Manifest(file)
        manifest.add({"index": 1})
        with pytest.raises(rh.RunningHubError, match="cannot be written: File exists"):
            await manifest.written()
        assert asyncio.get_running_loop().time() == pytest.approx(8, abs=0.1)
        manifest.add({"index": 2})
        left = await manifest.finish(patient=True)
        assert [line["index"] for line in left] == [1, 2]

    with contextlib.closing(ManifestFile(out / "manifest.jsonl")) as file:
        file.append({"index": 0})
        shutil.rmtree(out)
        out.touch()
        run_virtually(main)


def test_interrupts_while_a_line_is_written_do_not_write_it_twice(tmp_path: Path) -> None:
    """The run is left while the first line is written, and again while the second one is."""
    begun, gates = [threading.Event() for _ in range(3)], [threading.Event() for _ in range(3)]

    class Slow(ManifestFile):
        """Writes each line when its gate is open."""

        def append(self, line: dict[str, Any]) -> None:
            begun[line["index"]].set()
            gates[line["index"]].wait(10)
            super().append(line)

    async def main() -> None:
        manifest = Manifest(file)
        for index in range(3):
            manifest.add({"index": index})
        assert await asyncio.to_thread(begun[0].wait, 10)
        first = asyncio.ensure_future(manifest.finish(patient=False))
        await asyncio.sleep(0)
        gates[0].set()
        assert await asyncio.to_thread(begun[1].wait, 10)
        first.cancel()
        second = asyncio.ensure_future(manifest.finish(patient=False))
        assert await asyncio.wait([second], timeout=0.2) == (set(), {second})
        gates[1].set()
        gates[2].set()
        assert await second == []

    with contextlib.closing(Slow(tmp_path / "manifest.jsonl")) as file:
        asyncio.run(main())
    assert [line["index"] for line in lines_of(tmp_path)] == [0, 1, 2]


def test_neither_a_line_nor_a_whole_manifest_is_written_in_part(tmp_path: Path) -> None:
    """The disk is full for a long line, and for the file that was deleted."""
    path = tmp_path / "manifest.jsonl"
    with contextlib.closing(ManifestFile(path)) as file:
        with limited(100):
            file.append({"index": 0})
            with pytest.raises(OSError, match="large"):
                file.append({"index": 1, "text": "x" * 200})
            assert lines_of(tmp_path) == [{"index": 0}]
        file.append({"index": 1, "text": "x" * 200})
        path.unlink()
        with limited(100):
            with pytest.raises(OSError, match="large"):
                file.append({"index": 2})
            assert not path.exists()
        file.append({"index": 2})
    assert [line["index"] for line in lines_of(tmp_path)] == [0, 1, 2]


@pytest.mark.long
def test_ids_are_named_where_the_manifest_cannot_be_written(
    process: Callable[..., Any], tmp_path: Path
) -> None:
    """The folder became a file: each task is named on standard error, exit status 1."""
    (tmp_path / "in.txt").write_text("".join(f"a poster number {n}\n" for n in range(40)))
    with emulated(duration=0, faults=failing(40)) as emulator:
        ran = process(
            "generate", "in.txt", "--out", "out", "--base-url", emulator.url, "--rate", "5"
        )
        path = tmp_path / "out/manifest.jsonl"
        until(lambda: path.exists() and path.stat().st_size)
        (tmp_path / "out").rename(tmp_path / "moved")
        (tmp_path / "out").write_text("")
        out, err = ran.communicate(timeout=60)
        created = emulator.stats.accepted
    assert ran.returncode == 1
    assert "Traceback" not in err
    assert "stopped: " in err
    ids = set(re.findall(r"\d{19}", out + err))
    ids |= {line["task_id"] for line in lines_of(tmp_path / "moved")}
    assert len(ids - {None}) == created < 40


def test_a_manifest_that_was_deleted_is_written_again(tmp_path: Path) -> None:
    """With all lines; a line that was cut off earlier is ended, and is the only faulty one."""
    path = tmp_path / "out/manifest.jsonl"
    path.parent.mkdir()
    path.write_text('{"index": 0}\n{"ind')
    file = ManifestFile(path)
    file.append({"index": 2, "text": "b"})
    shutil.rmtree(path.parent)
    file.append({"index": 1, "text": "a"})
    assert [line["index"] for line in file.read()] == [1, 2]
    file.close()
    assert path.read_text().splitlines() == [
        '{"index": 0}', '{"ind', '{"index": 2, "text": "b"}', '{"index": 1, "text": "a"}',
    ]  # fmt: skip
    with contextlib.closing(ManifestFile(path)) as file:
        file.append({"index": 3})
    assert path.read_text().splitlines()[-2:] == ['{"index": 1, "text": "a"}', '{"index": 3}']


def test_a_reader_that_goes_away_does_not_stop_a_run(
    process: Callable[..., Any], tmp_path: Path
) -> None:
    """What was paid for is saved; the exit status says that not everything was shown."""
    (tmp_path / "in.txt").write_text("a poster of a boat\n")
    read, write = os.pipe()
    os.close(read)
    with emulated(duration=0) as emulator:
        words = ("generate", "in.txt", "--out", "out", "--base-url", emulator.url)
        ran = process(*words, stdout=write)
        os.close(write)
        _, err = ran.communicate(timeout=60)
    assert ran.returncode == 1
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    assert [line["status"] for line in lines_of(tmp_path / "out")] == ["succeeded"]
    assert (tmp_path / "out/index.html").exists()


def test_a_run_needs_no_output_and_no_interrupt(
    process: Callable[..., Any], tmp_path: Path
) -> None:
    """Standard streams closed and SIGINT ignored, as under nohup and in scripts; SIGTERM ends
    it in good order."""
    (tmp_path / "in.txt").write_text("a poster of a boat\na poster of a pier\n")

    def bare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number in (0, 1, 2):
            os.close(number)

    with emulated(duration=0) as emulator:
        words = ("generate", "in.txt", "--base-url", emulator.url, "--journal", "run.db")
        ran = process(*words, "--out", "out", preexec_fn=bare)
        assert ran.wait(60) == 0
    assert [line["status"] for line in lines_of(tmp_path / "out")] == ["succeeded"] * 2
    with emulated(duration=30) as emulator:
        words = ("generate", "in.txt", "--rate", "50", "--base-url", emulator.url)
        ran = process(*words, "--out", "more", preexec_fn=bare)
        until(lambda: emulator.stats.accepted == 2)
        ran.send_signal(signal.SIGINT)
        ran.send_signal(signal.SIGTERM)
        assert ran.wait(60) == 143
    lines = lines_of(tmp_path / "more")
    assert [line["status"] for line in lines] == ["running"] * 2
    assert all(line["task_id"] for line in lines)


def test_ctrl_c_may_wait_for_what_is_under_way(process: Callable[..., Any], tmp_path: Path) -> None:
    """--on-cancel wait: what was paid for comes home, and is in the manifest; status 130."""
    (tmp_path / "in.txt").write_text("a poster of a boat\n")
    asked, ended = threading.Event(), threading.Event()
    urls: list[str] = []
    submitted = ended_at_once(urls)

    def answer(path: str, body: dict[str, Any]) -> Any:
        asked.set()
        assert ended.wait(60)
        return submitted(path, body)

    with served(answer) as url:
        urls.append(f"{url}/x.png")
        ran = process("generate", "in.txt", "--out", "out", "--base-url", url,
                      "--on-cancel", "wait")  # fmt: skip
        assert asked.wait(60)
        ran.send_signal(signal.SIGINT)
        while "waiting for the tasks that run; interrupt again" not in ran.stderr.readline():
            assert ran.poll() is None
        ended.set()
        out, _ = ran.communicate(timeout=60)
    assert ran.returncode == 130
    assert "1 done, 0 failed in " in out
    (line,) = lines_of(tmp_path / "out")
    assert line["status"] == "succeeded"
    assert (tmp_path / "out" / line["files"][0]["path"]).read_bytes() == png()


def test_a_second_ctrl_c_names_the_tasks_that_no_file_names(
    process: Callable[..., Any], tmp_path: Path
) -> None:
    """It ends a run that waits at once, with the id of the task on the screen."""
    (tmp_path / "in.txt").write_text("a poster of a boat\n")
    asked, ended = threading.Event(), threading.Event()
    urls: list[str] = []
    submitted = ended_at_once(urls)

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path.endswith(".png"):
            asked.set()
            ended.wait(60)
        return submitted(path, body)

    with served(answer) as url:
        urls.append(f"{url}/x.png")
        ran = process("generate", "in.txt", "--out", "out", "--base-url", url,
                      "--on-cancel", "wait")  # fmt: skip
        assert asked.wait(60)
        ran.send_signal(signal.SIGINT)
        while "waiting for the tasks that run; interrupt again" not in ran.stderr.readline():
            assert ran.poll() is None
        ran.send_signal(signal.SIGINT)
        out, err = ran.communicate(timeout=60)
        ended.set()
    assert (ran.returncode, out) == (130, "")
    assert err.splitlines() == [
        "1 task still runs at the service: 7",
        "to fetch the results of one: runninghub-async task ID --wait --download DIR",
    ]


# -- outputs of every kind ------------------------------------------------------------------------


class Broken(io.StringIO):
    """An output that fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error

    def write(self, _: str) -> int:
        raise self._error


def test_a_program_whose_output_fails_gets_status_1(run: Run) -> None:
    """Not an exception, whether its stand-in for standard output is broken or closed."""
    closed = io.StringIO()
    closed.close()
    for output in (closed, Broken(OSError(5, "Input/output error"))):
        with contextlib.redirect_stdout(output):
            ran = run("models", "--count")
        assert (ran.status, ran.err) == (1, "")


def test_a_run_does_not_need_a_standard_error(run: Run, tmp_path: Path) -> None:
    """A stand-in for it that is closed: the run ends well."""
    (tmp_path / "in.txt").write_text("a poster of a boat\n")
    with (tmp_path / "log").open("w") as closed:
        pass
    urls: list[str] = []
    with served(ended_at_once(urls)) as url, contextlib.redirect_stderr(closed):
        urls.append(f"{url}/x.png")
        ran = run("generate", "in.txt", "--out", "out", "--base-url", url)
    assert ran.status == 0
    assert [line["status"] for line in lines_of(tmp_path / "out")] == ["succeeded"]


def test_a_traceback_does_not_control_the_terminal(run: Run) -> None:
    """Of an error that nobody expected: status 1, and the texts in it are escaped."""
    with contextlib.redirect_stdout(Broken(RuntimeError(EVIL))):
        ran = run("models", "--count")
    assert ran.status == 1
    assert ran.err.startswith("Traceback (most recent call last):\n")
    assert "RuntimeError: \\x1b]0;OWNED" in ran.err
    assert not CONTROLS & set(ran.err)


def exported(run: Run, output: Any) -> Ran:
    """An export of a journal with one evil job, to this standard output."""

    async def fill(store: rh.JobStore) -> None:
        await job(store, 7, (S.FAILED, {"code": "1007", "error": f"InvalidRequestError: {EVIL}"}))

    if not Path("run.db").exists():
        asyncio.run(journal("http://127.0.0.1:9", fill, Path("out")))
    with contextlib.redirect_stdout(output):
        return run("export", "run.db", "--format", "csv")


def test_an_export_is_exact_unless_it_goes_to_a_terminal(run: Run) -> None:
    """Into a program's own stream, too; without any output it still ends well."""
    stream, terminal = io.StringIO(), Terminal()
    for output in (stream, terminal, None):
        assert exported(run, output).status == 0
    assert EVIL in stream.getvalue()
    assert "\\x1b]0;OWNED" in terminal.getvalue()
    assert not CONTROLS & set(terminal.getvalue())


def test_an_export_to_a_full_disk_is_status_1_with_the_reason(run: Run) -> None:
    """Not a table that ends in the middle and looks whole."""
    with contextlib.suppress(OSError), Path("/dev/full").open("w") as full:
        ran = exported(run, full)
    assert ran.status == 1
    assert ran.err == "runninghub-async export: [Errno 28] No space left on device\n"


def test_a_slow_reader_of_an_output_that_does_not_wait_gets_all(run: Run) -> None:
    """Another program may have made the pipe non-blocking: no text is lost."""
    whole = run("models", "--json").out
    read, write = os.pipe()
    os.set_blocking(write, False)
    room = fcntl.fcntl(write, fcntl.F_GETPIPE_SZ)
    got = bytearray()

    def take() -> None:
        until(lambda: waiting_in(read) == room)
        while piece := os.read(read, 2**16):
            got.extend(piece)

    reader = threading.Thread(target=take)
    reader.start()
    with os.fdopen(write, "w", encoding="utf-8") as pipe, contextlib.redirect_stdout(pipe):
        ran = run("models", "--json")
    reader.join(60)
    os.close(read)
    assert (ran.status, ran.err) == (0, "")
    assert got.decode() == whole


def waiting_in(pipe: int) -> int:
    """How many bytes have not been read."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0])


# -- spreadsheets ---------------------------------------------------------------------------------


def read(path: Path, model: str = MODEL) -> list[tuple[dict[str, Any], tuple[str, ...]]]:
    """The requests of an input, each with its faults."""
    spec = find_model(model)

    async def items() -> list[Any]:
        return [item async for item in read_items(str(path), spec, {})]

    assert look_over(str(path), spec) is not None
    return [(item.to_params(), item.check()) for item in asyncio.run(items())]


ONE = {"prompt": "a poster, at dusk", "width": 2048}


@pytest.mark.parametrize(
    "content",
    [
        'prompt,width,,\n"a poster, at dusk",2048,,\n,,,\n , ,,\n',
        'sep=,\nprompt,width\n"a poster, at dusk",2048\n',
        '"sep=;"\r\nprompt;width\r\na poster, at dusk;2048\r\n',
        "\ufeffsep=\t\nprompt\twidth\na poster, at dusk\t2048\n",
        "prompt;width\na poster, at dusk;2048\n",
        '\ufeff"prompt","width"\r"a poster, at dusk","2048"\r',
        '\r\n Prompt , WIDTH \r\n"a poster, at dusk",2048\r\n\r\n',
        'prompt,width\n"a poster, at dusk",2048,,,\n',
    ],
)
def test_spreadsheets_are_read_as_they_are_exported(tmp_path: Path, content: str) -> None:
    """Empty columns and rows, the separator's line, marks, line ends and letters."""
    path = tmp_path / "in.csv"
    path.write_bytes(content.encode())
    assert read(path) == [(ONE, ())]


def test_names_of_columns_may_have_blanks_and_cells_may_be_large(tmp_path: Path) -> None:
    """A picture as a data URI, under a column title as a person would write it."""
    uri = "data:image/png;base64," + "A" * 300_000
    path = tmp_path / "in.csv"
    path.write_text(f'prompt,Image URLs\n"a ""quoted"" poster\nof two lines","{uri}"\n')
    (item,) = read(path, "seedream-v5-lite/image-to-image")
    assert item == ({"prompt": 'a "quoted" poster\nof two lines', "imageUrls": [uri]}, ())


def test_faults_of_a_row_name_its_line_and_column(tmp_path: Path) -> None:
    """The line where the row begins, as an editor counts; the others still run."""
    path = tmp_path / "in.csv"
    path.write_text(
        'sep=,\nprompt,width,\n"a poster\nof two lines",99999,\n'
        "a poster,2048,stray,more\na poster,2048,,more\na poster,2048,\n"
    )
    problems = [faults for _, faults in read(path)]
    assert problems[0] == ("line 3: width: more than 4704 @ $.width",)
    assert problems[1] == ("line 5: column C has no name in the header: 'stray'",)
    assert problems[2] == ("line 6: column D has a cell, but no name in the header: 'more'",)
    assert problems[3] == ()


def test_cells_become_what_their_fields_take(tmp_path: Path) -> None:
    """Numbers, true and false, objects and lists, in JSON or with bars; what does not fit stays as
    it is, and is named."""
    path = tmp_path / "in.csv"
    path.write_text("prompt,minRatio\na poster,0.5\na poster,half\n")
    good, bad = read(path, "bytedance/jimeng-4.6/text-to-image")
    assert (good[0]["minRatio"], good[1]) == (0.5, ())
    assert (bad[0]["minRatio"], bad[1][0][:16]) == ("half", "line 3: minRatio")
    path.write_text("prompt,promptExtend\na poster,TRUE\na poster,no\n")
    good, bad = read(path, "alibaba/qwen-image-2.0/text-to-image")
    assert (good[0]["promptExtend"], good[1]) == (True, ())
    assert (bad[0]["promptExtend"], bad[1][0][:20]) == ("no", "line 3: promptExtend")
    path.write_text("prompt,refVideos\na poster,[{}]\na poster,[{\n")
    good, bad = read(path, "skyreels-v4/omni-reference")
    assert good[0]["refVideos"] == [{}]
    assert bad[0]["refVideos"] == "[{"
    urls = ["https://x.example/1.png", "https://x.example/2.png"]
    cells = [" | ".join(urls), json.dumps(urls), "["]
    path.write_text("prompt;imageUrls\n" + "".join(f"a poster;'{cell}'\n" for cell in cells))
    path.write_text(path.read_text().replace("'", ""))
    *good_ones, bad = read(path, "seedream-v5-lite/image-to-image")
    assert [fields["imageUrls"] for fields, _ in good_ones] == [urls, urls]
    assert (bad[0]["imageUrls"], bad[1][0][:17]) == ("[", "line 4: imageUrls")


def test_lines_of_json_are_numbered_with_the_empty_ones(tmp_path: Path) -> None:
    """And a field that is named twice, in two spellings, is a fault."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a poster"}\n\n  \n{"prompt": "a poster", "Prompt": "another"}\n')
    assert read(path) == [
        ({"prompt": "a poster"}, ()),
        ({"prompt": "a poster"}, ("line 4: Prompt: given twice @ $.prompt",)),
    ]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("in.csv", "prompt\nun café\n".encode("cp1252"), "line 2, character 7: the byte 0xe9"),
        ("in.txt", "a poster\nun café\n".encode("cp1252"), "line 2, character 7: the byte 0xe9"),
        ("in.jsonl", b'{"prompt": "a"}\n{"prompt": "\xff"}\n', "line 2, character 13"),
        ("in.csv", "prompt\na poster\n".encode("utf-16"), "line 1: the file is in UTF-16"),
        ("in.txt", "a poster\n".encode("utf-16-le"), "line 1, character 2: a NUL byte"),
        ("in.csv", b"prompt\na poster\na \0poster\n", "line 3, character 3: a NUL byte"),
        ("in.csv", b'prompt\na poster\n"a "quoted" poster"\n', "line 3: text after a closing"),
        ("in.csv", b'prompt\n"a poster\nnever\nclosed\n', "line 2: a quote that is opened"),
        ("in.csv", b"prompt,width\n", "holds no requests, only the line with the fields' names"),
        ("in.csv", b"", "the first line of a .csv file names"),
        ("in.txt", b"\n \n", "holds no requests"),
        ("in.csv", b"sep=;\nprompt;colour\na;b\n", "line 2: column B: colour: unknown field"),
        ("in.csv", b"prompt,width,Prompt\na,1,b\n", "prompt: two columns, column A and column C"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    """Before anything is spent: encodings, NUL bytes, quotes, and files without requests."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        look_over(str(path), find_model(MODEL))
    assert told in str(caught.value)
    assert str(path) in str(caught.value)


# -- rows of megabytes ----------------------------------------------------------------------------


def large(number: int) -> rh.ModelRequest:
    picture = f"data:image/png;base64,{number:08d}" + "A" * 2**20
    return rh.ModelRequest(
        "seedream-v5-lite/image-to-image",
        {"prompt": f"a poster number {number}", "imageUrls": [picture]},
    )


def test_memory_does_not_grow_with_rows_of_megabytes(tmp_path: Path) -> None:
    """60 requests of a megabyte each: read, recorded, and written to manifest and page."""
    source, journal, count = tmp_path / "in.jsonl", tmp_path / "run.db", 60
    with source.open("w") as file:
        for number in range(count):
            file.write(json.dumps(large(number).to_params()) + "\n")
    spec = find_model("seedream-v5-lite/image-to-image")

    async def record() -> int:
        async with rh.Session("a-key", base_url="http://127.0.0.1:9", journal=journal) as session:
            return await session.enlist(read_items(str(source), spec, {}))

    tracemalloc.start()
    try:
        assert look_over(str(source), spec) == count
        assert asyncio.run(record()) == count
        write_pages(str(journal), tmp_path / "out", {})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(lines_of(tmp_path / "out")) == count
    assert peak < 30 * 2**20


def test_the_page_of_a_manifest_needs_one_line_at_a_time(tmp_path: Path) -> None:
    """Lines come back in the order of the input, and only one of them is in memory."""
    file = ManifestFile(tmp_path / "manifest.jsonl")
    for number in reversed(range(40)):
        file.append({"index": number, "request": {"prompt": "x" * 2**20}})
    tracemalloc.start()
    try:
        assert [line["index"] for line in file.read()] == list(range(40))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        file.close()
    assert peak < 10 * 2**20


# -- inputs that were edited, and retries ---------------------------------------------------------


def posters(first: int, last: int) -> str:
    return "".join(f"a poster of the number {number}\n" for number in range(first, last))


@pytest.mark.long
def test_reuse_follows_what_runs_when_a_line_was_inserted(
    run: Run, process: Callable[..., Any], tmp_path: Path
) -> None:
    """Killed in the middle, edited, and run with --reuse: nothing is billed twice."""
    (tmp_path / "in.txt").write_text(posters(0, 12))
    with emulated(duration=4) as emulator:
        words = ("generate", "in.txt", "--out", "out", "--journal", "run.db", "--base-url",
                 emulator.url, "--concurrency", "6")  # fmt: skip
        killed = process(*words)
        until(lambda: emulator.stats.accepted == 6)
        until(lambda: _states().get("accepted", 0) + _states().get("running", 0) == 6)
        killed.kill()
        killed.wait()
        (tmp_path / "in.txt").write_text("a poster of something else\n" + posters(0, 12))
        ran = run(*words, "--reuse")
        assert ran.status == 0, ran.err
        assert emulator.stats.billed == 13
    prompts = {line["request"]["prompt"] for line in lines_of(tmp_path / "out")}
    assert len(prompts) == 13


def _states() -> dict[str, int]:
    with contextlib.suppress(rh.JournalError), rh.JournalReader("run.db") as reader:
        return {state.value: count for state, count in reader.summary().states.items() if count}
    return {}


def test_an_edited_input_without_reuse_is_warned_of(run: Run, tmp_path: Path) -> None:
    """How many requests are billed again, and what avoids it; more lines at the end are silent."""
    source = tmp_path / "in.txt"
    source.write_text(posters(0, 3))
    with emulated(duration=0) as emulator:
        words = ("generate", "in.txt", "--out", "out", "--journal", "run.db", "--base-url",
                 emulator.url, "--rate", "100")  # fmt: skip
        assert "--reuse" not in run(*words).err
        source.write_text(posters(0, 4))
        assert "--reuse" not in run(*words).err
        source.write_text("a poster of something else\n" + posters(0, 4))
        ran = run(*words, "--budget", "0.01")
    assert ran.status == 3
    assert "4 requests are the same as requests that this run submitted from other" in ran.err
    assert "run the same command with --reuse" in ran.err


S = rh.JobState


async def job(store: rh.JobStore, place: int, *moves: tuple[rh.JobState, rh.JobFacts]) -> None:
    """A job of a journal, on its way through these states."""
    params = json.dumps({"prompt": f"a poster of the number {place}"})
    content = rh.Content(MODEL, params, f"content {place}")
    await store.begin(rh.Begun(f"{place}", None, S.SUBMITTING, 1.0, content, place, "", 1))
    old = S.SUBMITTING
    for state, facts in moves:
        store.note(rh.Moved(f"{place}", old, state, 2.0, facts))
        old = state
    await store.flush()


async def journal(url: str, fill: Callable[[rh.JobStore], Any], folder: Path) -> None:
    store = rh.SqliteJobStore("run.db")
    await store.open(url)
    await fill(store)
    await store.put({"folder": str(folder), "manifest": str(folder), "base_url": url})
    await store.aclose()


def test_a_retry_asks_before_it_submits_a_task_that_may_be_alive(run: Run, tmp_path: Path) -> None:
    """Jobs that have certainly failed, or have no task, are submitted; the others are named."""
    failed = {"errorCode": "1501", "errorMessage": "blocked", "status": "FAILED"}
    states: dict[str, dict[str, Any]] = {
        "1": failed,
        "2": {"status": "RUNNING"},
        "3": {"status": "SUCCESS", "results": []},
    }
    submitted: list[str] = []

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/query"):
            gone = {"errorCode": "1002", "errorMessage": "gone", "status": ""}
            return {"taskId": body["taskId"], **states.get(body["taskId"], gone)}
        submitted.append(body["prompt"])
        return {"taskId": "", "errorCode": "1007", "errorMessage": "refused"}

    task = json.dumps({"status": "FAILED", "error": ["1501", "blocked", None]})

    async def fill(store: rh.JobStore) -> None:
        for place in range(1, 6):
            facts = rh.JobFacts(task_id=f"{place}", code="1501", error="TaskFailed: blocked")
            if place == 5:
                # The service had confirmed its end.
                facts["task"] = task
            await job(store, place, (S.ACCEPTED, {"task_id": f"{place}"}), (S.FAILED, facts))
        await job(store, 6, (S.FAILED, {"code": "1007", "error": "InvalidRequestError: no"}))

    with served(answer) as url:
        asyncio.run(journal(url, fill, tmp_path / "out"))
        ran = run("retry", "run.db", "--failed")
    assert ran.out.startswith("queued 3 failed jobs for retry\n")
    assert sorted(submitted) == [f"a poster of the number {place}" for place in (1, 5, 6)]
    assert "not queued: task 2 of request 2 is RUNNING at the service" in ran.err
    assert "not queued: task 3 of request 3 has succeeded" in ran.err
    assert "runninghub-async task 3 --wait --download DIR" in ran.err
    assert "not queued: task 4 of request 4 may still run" in ran.err
    assert ran.status == 1


# -- partial success ------------------------------------------------------------------------------

OUTPUTS = tuple(
    rh.Output(f"https://results.example/{n}.png?sign=secret", "png", node_id=f"{n}")
    for n in range(3)
)


def test_a_task_with_missing_results_is_neither_done_nor_failed() -> None:
    """Its line says which outputs are on disk and which are not, without their URLs."""
    outcome = rh.Succeeded(
        index=4,
        request=rh.ModelRequest(MODEL, {"prompt": "a poster"}),
        task=rh.Task("1", rh.TaskStatus.SUCCESS, OUTPUTS),
        files=tuple(rh.Download(Path(f"out/00004-a-poster{n}.png"), 1, "0") for n in ("", "-3")),
        missing=(OUTPUTS[1],),
    )
    line = job_line(outcome, ended=datetime.datetime.now(datetime.UTC), currency="CNY")
    assert line["status"] == "partly_stored"
    assert [output["state"] for output in line["outputs"]] == ["stored", "missing", "stored"]
    assert line["missing"] == [
        {"output": 2, "of": 3, "type": "png", "node_id": "1", "reason": None}
    ]
    tally = Tally()
    tally.count(outcome)
    assert (tally.stored, tally.partly, tally.failed) == (0, 1, 0)


def test_a_line_says_what_was_not_fetched_and_what_it_cost() -> None:
    """The run was interrupted before the download; an app is billed in coins, or in nothing."""
    ended = datetime.datetime.now(datetime.UTC)
    lines = []
    for usage in (rh.Usage(coins=Decimal(12)), rh.Usage()):
        task = rh.Task("1", rh.TaskStatus.SUCCESS, OUTPUTS, usage=usage)
        outcome = rh.Succeeded(index=4, request=rh.ModelRequest(MODEL), task=task)
        lines.append(job_line(outcome, ended=ended, currency="CNY"))
    assert [line["cost"] for line in lines] == [{"amount": "12", "currency": "coins"}, None]
    for line in lines:
        assert (line["status"], line["error"]["type"]) == ("failed", "RunningHubError")
        assert line["error"]["message"] == "interrupted before it was fetched"
        assert {output["state"] for output in line["outputs"]} == {"not_stored"}


@pytest.mark.parametrize(
    ("good", "told", "status"),
    [(1, "0 done, 1 partly, 0 failed in ", "partly_stored"), (0, "0 done, 1 failed in ", "failed")],
)
def test_a_run_tells_that_results_are_missing(
    run: Run, tmp_path: Path, good: int, told: str, status: str
) -> None:
    """Status 1; which ones is in the manifest, and what there is was stored."""
    (tmp_path / "in.txt").write_text("a poster of a boat\n")
    urls = ["http://10.0.0.1/y.png"] * (2 - good)
    with served(ended_at_once(urls)) as url:
        urls += [f"{url}/x.png"] * good
        ran = run("generate", "in.txt", "--out", "out", "--base-url", url)
    assert ran.status == 1
    assert told in ran.out
    assert ("results are missing: manifest.jsonl names them" in ran.out) == bool(good)
    assert ("  1 partly  " in ran.err) == bool(good)
    (line,) = lines_of(tmp_path / "out")
    assert line["status"] == status
    assert len(line["files"]) == good
    assert line["error"] is None if good else line["error"]["type"] == "ResultUnsafe"


def test_each_run_in_a_folder_keeps_the_earlier_ones(run: Run, tmp_path: Path) -> None:
    """What was paid for is moved aside, not written over."""
    for number in range(3):
        (tmp_path / "in.txt").write_text(f"a poster of the number {number}\n")
        urls: list[str] = []
        with served(ended_at_once(urls)) as url:
            urls.append(f"{url}/x.png")
            assert run("generate", "in.txt", "--out", "out", "--base-url", url).status == 0
    for number, name in enumerate(("out/run-1", "out/run-2", "out")):
        (line,) = lines_of(tmp_path / name)
        assert line["request"]["prompt"] == f"a poster of the number {number}"
        assert (tmp_path / name / line["files"][0]["path"]).read_bytes() == png()
        assert (tmp_path / name / "index.html").exists()


def test_a_journal_tells_why_a_job_has_no_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its result was not fetched yet, or the store of another program kept only a text."""
    monkeypatch.chdir(tmp_path)
    kept = {"status": "SUCCESS", "outputs": [["https://x.example/1.png", "png", None, "2"]]}

    async def fill(store: rh.JobStore) -> None:
        done: rh.JobFacts = {"task": json.dumps(kept)}
        await job(store, 0, (S.ACCEPTED, {"task_id": "1"}), (S.SUCCEEDED, done))
        await job(store, 1, (S.FAILED, {"error": "no room for it"}))

    asyncio.run(journal("http://127.0.0.1:9", fill, tmp_path / "out"))
    write_pages("run.db", tmp_path / "out", {})
    lines = lines_of(tmp_path / "out")
    assert [(line["status"], line["error"]["type"]) for line in lines] == [
        ("failed", "RunningHubError")
    ] * 2
    assert [line["error"]["message"] for line in lines] == ["not fetched yet", "no room for it"]


def test_a_journal_shows_what_is_partly_stored(run: Run, tmp_path: Path) -> None:
    """`runs` and `export` list it, the manifest and the page name what is missing and why."""
    kept = [{"url": o.url, "type": o.type, "text": None, "node": o.node_id} for o in OUTPUTS]
    task = {"status": "SUCCESS", "outputs": [list(each.values()) for each in kept]}
    files = json.dumps([["00007-a-poster-of-the-number-7.png", 1, "0", ""],
                        ["00007-a-poster-of-the-number-7-3.png", 1, "0", ""]])  # fmt: skip
    reason = "ResultBroken: https://results.example/1.png?sign=secret: no picture"

    async def fill(store: rh.JobStore) -> None:
        await job(
            store,
            7,
            (S.ACCEPTED, {"task_id": "1"}),
            (S.SUCCEEDED, {"task": json.dumps(task)}),
            (S.PARTLY_STORED, {"files": files, "error": reason}),
        )

    asyncio.run(journal("http://127.0.0.1:9", fill, tmp_path / "out"))
    listed = run("runs", "run.db", "--state", "partly_stored")
    assert re.search(r"^partly_stored +1$", listed.out, re.MULTILINE)
    assert "a poster of the number 7" in listed.out
    exported = json.loads(run("export", "run.db", "--format", "jsonl").out)
    assert (exported["state"], exported["missing"]) == ("partly_stored", ["2"])
    write_pages("run.db", tmp_path / "out", {})
    (line,) = lines_of(tmp_path / "out")
    assert line["status"] == "partly_stored"
    assert len(line["files"]) == 2
    assert [output["state"] for output in line["outputs"]] == ["stored", "missing", "stored"]
    assert line["missing"] == [
        {"output": 2, "of": 3, "type": "png", "node_id": "1",
         "reason": "ResultBroken: (a URL) no picture"}
    ]  # fmt: skip
    page = (tmp_path / "out/index.html").read_text("utf-8")
    assert '"status":"partly_stored"' in page
    assert "ResultBroken: (a URL) no picture" in page
    with rh.JournalReader("run.db") as reader:
        assert line_of(next(reader.jobs()), "CNY") == line


# -- the user's network ---------------------------------------------------------------------------


def test_results_behind_a_vpn_can_be_allowed(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A name that resolves to a private address is refused, and the error names the option."""
    resolve = socket.getaddrinfo

    def answer_all(host: Any, *args: Any, **options: Any) -> Any:
        return resolve("127.0.0.1" if str(host).endswith(".example") else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", answer_all)

    def answer(path: str, body: dict[str, Any]) -> Any:
        if not path.endswith("/query"):
            return png()
        results = [{"url": f"http://results.example:{port}/x.png", "outputType": "png"}]
        return {"taskId": body["taskId"], "status": "SUCCESS", "results": results}

    with served(answer) as url:
        port = url.rpartition(":")[2]
        words = ("task", "1", "--base-url", url, "--download")
        refused = run(*words, "a")
        assert refused.status == 1
        assert "results.example' resolves to no public address, but to 127.0.0.1" in refused.err
        assert "--result-network" in refused.err
        assert run(*words, "b", "--result-network", "127.0.0.0/8").status == 0
        monkeypatch.setenv("RUNNINGHUB_RESULT_NETWORKS", "198.18.0.0/15, 127.0.0.1/32")
        assert run(*words, "c").status == 0
        monkeypatch.setenv("RUNNINGHUB_RESULT_NETWORKS", "198.18.0.1/15")
        wrong = run(*words, "d")
    assert wrong.status == 2
    assert "RUNNINGHUB_RESULT_NETWORKS: 198.18.0.1/15 has host bits set" in wrong.err
    assert (tmp_path / "b/1-1.png").read_bytes() == (tmp_path / "c/1-1.png").read_bytes() == png()


def test_threads_that_print_at_once_lose_no_line(tmp_path: Path) -> None:
    """The journal's thread logs while the loop prints."""
    count = 1_000
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        screen = Screen(file)

        def say(name: str) -> None:
            for number in range(count):
                print(f"{name} {number}\n", end="", file=screen, flush=True)

        threads = [threading.Thread(target=say, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = (tmp_path / "out").read_text(encoding="utf-8").splitlines()
    assert sorted(lines) == sorted(f"{name} {number}" for name in "ab" for number in range(count))


def test_data_for_which_there_is_no_room_ends_with_status_1(
    process: Callable[..., Any], tmp_path: Path
) -> None:
    shutil.copy(Path(__file__).parent / "journals" / "555b203.db", tmp_path / "run.db")
    with Path("/dev/full").open("wb", buffering=0) as full:
        ran = process("export", "run.db", "--format", "csv", stdout=full)
        _, err = ran.communicate(timeout=60)
    assert ran.returncode == 1, err
    assert err.splitlines() == ["runninghub-async export: [Errno 28] No space left on device"]


def test_ctrl_c_while_text_waits_for_room_ends_quietly(process: Callable[..., Any]) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        ran = process("models", stdout=full)
        line = ran.stderr.readline()
        assert "waiting for room" in line
        ran.send_signal(signal.SIGINT)
        _, err = ran.communicate(timeout=60)
    # The line may come twice: the signal may arrive before its first write is noted.
    assert (ran.returncode, set(err.splitlines()) - {line.rstrip()}) == (130, set())
