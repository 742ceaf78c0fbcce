"""The commands that keep a journal: runs that can be stopped, resumed, looked at, exported."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Service, emulated, refusal, until
from test_journal_damage import edit

import runninghub_async as rh
from runninghub_async._cli import main
from runninghub_async._cli._tables import amount
from runninghub_async.emulator import Emulator
from runninghub_async.testing import json_response, run

COMMAND = [sys.executable, "-P", "-m", "runninghub_async"]


class Ran:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Place:
    """A folder with an input and a journal, and the command in it, in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capsys = folder, capsys
        self.emulator: Emulator | None = None

    def write(self, *prompts: str, name: str = "in.txt") -> None:
        (self.folder / name).write_text("".join(f"{prompt}\n" for prompt in prompts))

    def run(self, *words: str) -> Ran:
        self._capsys.readouterr()
        try:
            status = main(list(words))
        except SystemExit as end:
            status = int(end.code or 0)
        return Ran(status, *self._capsys.readouterr())

    def generate(self, emulator: Emulator, *words: str, source: str = "in.txt") -> Ran:
        return self.run(*generation(emulator, *words, source=source))

    def lines(self) -> list[dict[str, Any]]:
        text = (self.folder / "out/manifest.jsonl").read_text("utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def states(self) -> Counter[str]:
        """None, too, while the journal is being made."""
        with contextlib.suppress(rh.JournalError), rh.JournalReader("run.db") as reader:
            return Counter({s.value: n for s, n in reader.summary().states.items() if n})
        return Counter()

    def alive(self) -> int:
        """How many tasks are known to be alive. Whether they run is seen sooner or later."""
        states = self.states()
        return states["accepted"] + states["running"]


def generation(emulator: Emulator, *words: str, source: str = "in.txt") -> list[str]:
    return ["generate", source, "--out", "out", "--journal", "run.db", "--base-url", emulator.url,
            "--rate", "200", *words]  # fmt: skip


@pytest.fixture
def place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Place:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNNINGHUB_API_KEY", "a-key-of-16-chars")
    return Place(tmp_path, capsys)


@pytest.fixture
def process(place: Place) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command as a process of its own, which does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*COMMAND, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=60)


def posters(count: int) -> list[str]:
    return [f"a poster of the number {number}" for number in range(count)]


def fault(on: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"on": on, "kind": kind, **more}


# -- generate -------------------------------------------------------------------------------------


def test_a_second_run_finds_all_stored_and_submits_nothing(place: Place) -> None:
    """The file is not read either: its facts are the same."""
    place.write(*posters(4))
    with emulated(duration=0) as emulator:
        first = place.generate(emulator)
        assert first.status == 0, first.err
        assert first.out.splitlines()[0] == "run.db: 4 new"
        assert first.out.splitlines()[1].startswith("4 done, 0 failed in ")
        assert first.out.splitlines()[1].endswith(", 0.88 CNY")
        before = place.lines()
        second = place.generate(emulator)
        assert (second.status, second.out.splitlines()[0]) == (0, "run.db: 4 stored")
        assert emulator.stats.submits == 4
    assert place.lines() == before
    assert [line["index"] for line in before] == [0, 1, 2, 3]


def test_the_manifest_of_a_journal_has_the_lines_of_one_without(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """The same keys; a whole file with the hash; and the page names it."""
    place.write(*posters(2))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
        run = process("generate", "in.txt", "--out", "plain", "--base-url", emulator.url)
        assert run.wait(60) == 0
    plain = json.loads((place.folder / "plain/manifest.jsonl").read_text().splitlines()[0])
    line = place.lines()[0]
    assert line.keys() == plain.keys()
    for key in ("status", "model", "cost", "error", "attempts"):
        assert line[key] == plain[key], key
    data = (place.folder / "out" / line["files"][0]["path"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == line["files"][0]["sha256"]
    page = (place.folder / "out/index.html").read_text("utf-8")
    (data_text,) = [
        part for part in page.split("<") if part.startswith("script") and '"index"' in part
    ]
    rows = json.loads(data_text.partition(">")[2])
    assert [row["files"][0]["path"] for row in rows] == [
        line["files"][0]["path"] for line in place.lines()
    ]


def test_more_lines_are_more_jobs_and_lines_taken_out_are_struck_out(place: Place) -> None:
    """What was made stays made."""
    place.write(*posters(3))
    with emulated(duration=0) as emulator:
        place.generate(emulator, "--budget", "0.3")
        assert place.states() == {"stored": 1, "new": 2}
        place.write(*posters(2), "a poster of something else")
        ran = place.generate(emulator)
        assert ran.status == 0, ran.err
        assert emulator.stats.submits == 3
    assert place.states() == {"stored": 3}
    assert {line["request"]["prompt"] for line in place.lines()} == {
        *posters(2), "a poster of something else",
    }  # fmt: skip


def test_a_faulty_line_is_put_down_as_failed_with_its_number(place: Place) -> None:
    """Exit status 1; retry does not send what was not meant."""
    (place.folder / "in.jsonl").write_text(
        '{"prompt": "a poster of a boat"}\n{"prompt": "a poster", "widht": 1700}\n'
    )
    with emulated(duration=0) as emulator:
        ran = place.generate(emulator, source="in.jsonl")
        assert ran.status == 1
        error = place.lines()[1]["error"]
        assert error["type"] == "PayloadError"
        assert error["message"].startswith("line 2: widht: unknown field")
        again = place.run("retry", "run.db", "--failed")
        assert again.status == 1
        assert "not queued: 1 failed job with an invalid input line" in again.out
        assert emulator.stats.submits == 1
    assert place.states() == {"stored": 1, "failed": 1}
    (place.folder / "in.jsonl").write_text(
        '{"prompt": "a poster of a boat"}\n{"prompt": "a poster", "width": 1700}\n'
    )
    with emulated(duration=0) as emulator:
        assert place.generate(emulator, source="in.jsonl").status == 0


def test_standard_input_is_streamed_and_resumed(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """The second time the same lines are known; until the end came, resume says so."""
    with emulated(duration=0) as emulator:
        first = process(*generation(emulator, source="-"))
        assert first.stdin is not None
        first.stdin.write("".join(f"{prompt}\n" for prompt in posters(3)))
        first.stdin.flush()
        until(lambda: place.states()["stored"] == 3)
        first.send_signal(signal.SIGINT)
        out, err = first.communicate(timeout=60)
        assert first.returncode == 130
        assert "interrupted; to continue: runninghub-async resume run.db" in err
        resumed = place.run("resume", "run.db")
        assert resumed.status == 0
        assert "standard input was not completely read" in resumed.err
        second = process(*generation(emulator, source="-"))
        out, err = second.communicate("".join(f"{p}\n" for p in posters(5)), timeout=60)
        assert second.returncode == 0, err
        assert out.startswith("run.db: 3 stored")
        assert emulator.stats.submits == 5
        assert "not read to its end" not in place.run("resume", "run.db").err


def test_reuse_serves_an_equal_request_at_no_cost(place: Place) -> None:
    """Another file, with the same prompt at another place."""
    place.write("a poster of a boat")
    place.write("a poster of a pier", "a poster of a boat", name="more.txt")
    with emulated(duration=0) as emulator:
        place.generate(emulator)
        ran = place.generate(emulator, "--reuse", source="more.txt")
        assert ran.status == 0, ran.err
        assert emulator.stats.submits == 2
        assert "0.44 CNY" in ran.out
    names = sorted(file.name for file in (place.folder / "out").glob("*.png"))
    assert names == [
        "00000-a-poster-of-a-boat.png", "00000-a-poster-of-a-pier.png",
        "00001-a-poster-of-a-boat.png",
    ]  # fmt: skip


def test_a_budget_stops_with_status_3_and_a_larger_one_goes_on(place: Place) -> None:
    """What was spent before counts."""
    place.write(*posters(4))
    with emulated(duration=0) as emulator:
        ran = place.generate(emulator, "--budget", "0.5 CNY")
        assert ran.status == 3
        assert "the budget of 0.5 CNY is used up: 0.44 CNY are spent" in ran.err
        assert "to continue: runninghub-async resume run.db" in ran.err
        assert "2 done, 0 failed, 2 not submitted in " in ran.out
        assert place.run("resume", "run.db", "--budget", "0.5").status == 3
        assert emulator.stats.submits == 2
        assert place.run("resume", "run.db", "--budget", "0.9").status == 0
        assert emulator.stats.submits == 4


def test_a_budget_without_a_journal_lists_what_was_not_submitted(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """Status 3 as well; in a currency that the site does not bill in, status 2."""
    place.write(*posters(3))
    words = ("generate", "in.txt", "--out", "out", "--emulator", "--budget")
    run = process(*words, "0.25")
    _, err = run.communicate(timeout=60)
    assert run.returncode == 3
    assert "the budget of 0.25 CNY is used up" in err
    assert Counter(line["status"] for line in place.lines())["succeeded"] == 1
    wrong = place.run(*words, "5 EUR")
    assert (wrong.status, "not in EUR" in wrong.err) == (2, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["generate", "in.txt", "--out", "o", "--emulator", "--journal", "x.db"],
         "start `runninghub-async emulator` in another terminal"),
        (["generate", "in.txt", "--out", "o", "--reuse"], "--reuse: needs --journal"),
        (["generate", "in.txt", "--out", "o", "--budget", "much"], "expected an amount"),
        (["generate", "in.txt", "--out", "o", "--budget", "-5"], "expected"),
        (["generate", "in.txt", "--out", "o", "--budget", "5", "--base-url", "nowhere"],
         "base_url must be an http(s) origin"),
        (["generate", "in.txt", "--out", "o", "--journal", "in.txt"], "in.txt"),
        (["generate", "absent.txt", "--out", "o", "--journal", "x.db"], "absent.txt"),
        (["generate", "in.txt", "--out", "in.txt", "--journal", "x.db"], "--out"),
        (["generate", "in.txt", "--out", "foreign", "--journal", "x.db"], "of another run"),
        (["generate", "in.txt", "--out", "o", "--journal", "no/such/x.db"], "No such file"),
        (["resume", "absent.db"], "absent.db"),
        (["resume", "in.txt"], "in.txt"),
        (["retry", "absent.db"], "name what to try again"),
        (["retry", "absent.db", "--unknown", "--code", "7"], "add --failed"),
        (["runs", "absent.db"], "absent.db"),
        (["runs", "absent.db", "--state", "lost"], "invalid choice"),
        (["runs", "absent.db", "--json", "--watch"], "not allowed with"),
        (["export", "absent.db", "--format", "csv"], "absent.db"),
        (["export", "absent.db"], "--format"),
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2_and_makes_no_journal(
    place: Place, words: list[str], told: str
) -> None:
    """One line that says what is wrong."""
    place.write(*posters(1))
    (place.folder / "foreign").mkdir()
    (place.folder / "foreign/manifest.jsonl").write_text("{}\n")
    ran = place.run(*words)
    assert ran.status == 2
    assert told in ran.err
    assert "usage: " in ran.err or len(ran.err.splitlines()) == 1
    assert not ran.out
    assert not (place.folder / "x.db").exists()


@pytest.mark.parametrize("first", ["no JSON at all", "[]", '{"index": 0}'])
def test_a_folder_with_a_manifest_of_something_else_is_not_taken(place: Place, first: str) -> None:
    """By a journal that has a folder already; what is in the other one stays as it is."""
    place.write("no")
    other = place.folder / "other/manifest.jsonl"
    other.parent.mkdir()
    other.write_text(f"{first}\n")
    with emulated(duration=0) as emulator:
        assert place.generate(emulator).status == 1
        ran = place.run("resume", "run.db", "--out", "other")
    assert ran.status == 2
    assert "there is the manifest of another run; take another folder" in ran.err
    assert other.read_text() == f"{first}\n"


@pytest.mark.parametrize("words", [(), ("--journal", "run.db")])
def test_standard_input_that_is_no_text_ends_the_run_after_what_came_before(
    place: Place, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Status 2 and the line; what was submitted until then is in the manifest."""
    (place.folder / "in").write_bytes(b"a poster of a boat\nun caf\xe9\na poster of a pier")
    faults = [fault("submit", "refuse", code="1501")]
    with emulated(faults=faults) as emulator, (place.folder / "in").open() as source:
        monkeypatch.setattr(sys, "stdin", source)
        ran = place.run("generate", "-", "--out", "out", "--base-url", emulator.url, *words)
        assert emulator.stats.submits == 1
    assert ran.status == 2
    assert "generate: -: line 2, character 7: the byte 0xe9 is not UTF-8" in ran.err
    (line,) = place.lines()
    assert line["request"]["prompt"] == "a poster of a boat"
    assert (line["status"], line["error"]["code"]) == ("failed", "1501")


def test_the_last_line_of_standard_input_may_lack_its_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `printf` leaves it; and a closed standard input is status 2."""
    (place.folder / "in").write_text("no\nnor")
    with emulated() as emulator, (place.folder / "in").open() as source:
        monkeypatch.setattr(sys, "stdin", source)
        place.generate(emulator, source="-")
        monkeypatch.setattr(sys, "stdin", None)
        closed = place.generate(emulator, source="-")
    assert [line["request"]["prompt"] for line in place.lines()] == ["no", "nor"]
    assert closed.status == 2
    assert "standard input is closed" in closed.err


@pytest.mark.parametrize("words", [(), ("--journal", "run.db")])
def test_a_standard_input_without_a_line_is_a_run_of_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """As of a search that found nothing: status 0, an empty manifest, and a page."""
    (place.folder / "in").touch()
    with emulated() as emulator, (place.folder / "in").open() as source:
        monkeypatch.setattr(sys, "stdin", source)
        ran = place.run("generate", "-", "--out", "out", "--base-url", emulator.url, *words)
    assert ran.status == 0, ran.err
    assert "0 done, 0 failed in " in ran.out
    assert place.lines() == []
    assert (place.folder / "out/index.html").exists()


# -- stopping and going on ------------------------------------------------------------------------


def test_sigterm_brings_submits_home_and_resume_goes_on(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """Status 143 and how to go on; nothing is submitted twice."""
    place.write(*posters(40))
    with emulated(duration=1.0) as emulator:
        run = process(*generation(emulator, "--rate", "20"))
        until(lambda: emulator.stats.submits > 5)
        run.send_signal(signal.SIGTERM)
        out, err = run.communicate(timeout=60)
        assert run.returncode == 143
        assert err.splitlines()[-1] == "interrupted; to continue: runninghub-async resume run.db"
        assert " running" in out
        assert " not submitted" in out
        assert place.states()["unknown"] == 0
        resumed = place.run("resume", "run.db", "--rate", "200")
        assert resumed.status == 0, resumed.err
        assert emulator.stats.submits == emulator.stats.billed == 40
    assert place.states() == {"stored": 40}
    assert len(list((place.folder / "out").glob("*.png"))) == 40


def test_a_second_signal_ends_a_run_that_waits(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """--on-cancel wait waits for the tasks that run, until the second interrupt."""
    place.write(*posters(3))
    with emulated(duration=60) as emulator:
        run = process(*generation(emulator, "--on-cancel", "wait"))
        until(lambda: place.alive() == 3)
        run.send_signal(signal.SIGINT)
        assert run.stderr is not None
        while "waiting for the tasks that run" not in run.stderr.readline():
            assert run.poll() is None
        run.send_signal(signal.SIGINT)
        assert run.wait(60) == 130
        assert "resume run.db" in run.stderr.read()
    assert place.states() == {"accepted": 3}


def test_on_cancel_asks_the_service_to_cancel(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """Once for each task that runs."""
    place.write(*posters(2))
    with emulated(duration=60) as emulator:
        run = process(*generation(emulator, "--on-cancel", "cancel"))
        until(lambda: place.alive() == 2)
        run.send_signal(signal.SIGINT)
        run.communicate(timeout=60)
        asked = [r for r in list(emulator.requests) if r.target.endswith("/cancel")]
        assert len(asked) == 2


def test_kill_9_loses_nothing_and_bills_nothing_twice(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """Submits under way when it was killed are unknown, and held."""
    place.write(*posters(60))
    with emulated(duration=0.3) as emulator:
        run = process(*generation(emulator, "--rate", "50"))
        until(lambda: place.states()["stored"] > 5)
        run.kill()
        run.wait(60)
        resumed = place.run("resume", "run.db", "--rate", "200")
        held = place.states()["unknown"]
        assert resumed.status == (1 if held else 0)
        assert place.states()["stored"] + held == 60
        assert emulator.stats.billed <= 60
    for line in place.lines():
        for file in line["files"]:
            data = (place.folder / "out" / file["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == file["sha256"]


def test_a_journal_in_use_is_status_2_and_names_the_process(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """One line; and `runs` shows the run from outside meanwhile."""
    place.write(*posters(3))
    with emulated(duration=60) as emulator:
        run = process(*generation(emulator))
        until(lambda: place.alive() == 3)
        for ran in (place.generate(emulator), place.run("resume", "run.db")):
            assert ran.status == 2
            (line,) = ran.err.splitlines()
            assert f"is in use by process {run.pid} on " in line
        shown = place.run("runs", "run.db")
        assert f"open in  process {run.pid} on " in shown.out
        assert "accepted  3" in shown.out
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
    assert "open in  no process" in place.run("runs", "run.db").out


def test_ctrl_c_where_the_folder_is_gone_says_that_the_journal_has_all(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """Manifest and page are not written; both ways to go on are named, and one of them works."""
    place.write(*posters(2))
    with emulated(duration=60) as emulator:
        run = process(*generation(emulator))
        until(lambda: place.alive() == 2)
        (place.folder / "out").rename(place.folder / "moved")
        (place.folder / "out").touch()
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert f"index.html were not written to {place.folder / 'out'}: " in err
    assert "to list them: runninghub-async export run.db --format csv" in err
    assert "to write the files: runninghub-async resume run.db --out DIR" in err
    rows = place.run("export", "run.db", "--format", "csv").out.splitlines()
    assert len(rows) == 1 + 2


def test_a_budget_that_an_earlier_input_uses_up_stops_a_run_with_reuse(place: Place) -> None:
    """Status 3 while earlier jobs are finished: no request of the new input is saved."""
    with emulated(faults=[fault("submit", "garbage", times=1)]) as emulator:

        async def submit() -> None:
            async with rh.Session(base_url=emulator.url, journal="run.db") as session:
                with contextlib.suppress(rh.SubmitUnknown):
                    await session.submit(rh.SeedreamV5Lite("a poster of a boat"), key="one")

        asyncio.run(submit())
        assert place.states() == {"unknown": 1}
        place.write("a poster of something else")
        ran = place.generate(emulator, "--reuse", "--unknown", "resubmit", "--budget", "0.01")
        assert ran.status == 3
        assert "the budget of 0.01 CNY" in ran.err
        assert emulator.stats.submits == 1
    assert place.states() == {"unknown": 1}


def test_resume_takes_folder_and_origin_from_the_journal_unless_given(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From anywhere; --out names where the files were moved to, and a changed one is fetched
    again unless --no-check is given."""
    place.write(*posters(2))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
        elsewhere = place.folder / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        assert place.run("resume", "../run.db").status == 0
        assert emulator.stats.downloads == 2
        (place.folder / "out").rename(place.folder / "moved")
        first = next((place.folder / "moved").glob("00000*"))
        first.write_bytes(b"spoilt")
        words = ("resume", "../run.db", "--out", "../moved")
        assert place.run(*words, "--no-check").status == 0
        assert first.read_bytes() == b"spoilt"
        assert place.run(*words).status == 0
        assert first.read_bytes().startswith(b"\x89PNG")
        assert emulator.stats.downloads == 3
        assert emulator.stats.submits == 2


def test_resume_of_a_librarys_journal_asks_for_a_folder(place: Place) -> None:
    """Its sessions tell no facts; with --out it is resumed."""
    with emulated(duration=0) as emulator:

        async def enlist() -> None:
            async with rh.Session(base_url=emulator.url, journal="run.db") as session:
                await session.enlist([rh.SeedreamV5Lite("a poster of a boat")])

        asyncio.run(enlist())
        ran = place.run("resume", "run.db", "--base-url", emulator.url)
        assert (ran.status, "add --out" in ran.err) == (2, True)
        words = ("resume", "run.db", "--base-url", emulator.url, "--out", "out")
        assert place.run(*words).status == 0
    assert place.lines()[0]["status"] == "succeeded"


# -- retry ----------------------------------------------------------------------------------------


def test_retry_puts_back_failed_jobs_of_one_code(place: Place) -> None:
    """The others stay; without any, status 1 and nothing is done."""
    place.write(*posters(3))
    faults = [
        fault("task", "fail", code="1501", match="number 0", times=1),
        fault("task", "fail", code="1505", match="number 1", times=1),
    ]
    with emulated(duration=0, faults=faults) as emulator:
        ran = place.generate(emulator)
        assert ran.status == 1
        assert "1 done, 2 failed in " in ran.out
        assert "runninghub-async retry run.db --failed" in ran.out
        none = place.run("retry", "run.db", "--failed", "--code", "777")
        assert (none.status, none.out) == (1, "queued 0 failed jobs for retry\n")
        one = place.run("retry", "run.db", "--failed", "--code", "1501")
        assert one.status == 1
        assert one.out.startswith("queued 1 failed job for retry\n")
        assert place.states() == {"stored": 2, "failed": 1}
        assert place.run("retry", "run.db", "--failed").status == 0
        assert emulator.stats.submits == 5


def test_unknown_submits_are_shown_with_what_is_at_stake_and_queued_on_request(
    place: Place,
) -> None:
    """The report, `runs --state unknown`, and retry, which says that it may be billed again."""
    place.write(*posters(2))
    faults = [fault("submit", "garbage", match="number 1", times=1)]
    with emulated(duration=0, faults=faults) as emulator:
        ran = place.generate(emulator)
        assert ran.status == 1
        assert "1 done, 0 failed, 1 unknown in " in ran.out
        assert "at stake: at most 0.22 CNY, for 1 submit whose answer was lost" in ran.out
        assert "runninghub-async runs run.db --state unknown" in ran.out
        shown = place.run("runs", "run.db", "--state", "unknown")
        assert "at stake  at most 0.22 CNY, for 1 submit" in shown.out
        row = shown.out.splitlines()[-1]
        assert row.startswith("1 ")
        assert "0.22 CNY" in row
        assert "a poster of the number 1" in row
        assert "ProtocolError: " in row
        assert place.run("resume", "run.db").status == 1
        assert emulator.stats.submits == 2
        again = place.run("retry", "run.db", "--unknown")
        assert again.status == 0
        assert "queued 1 unknown job for retry, which may be billed twice" in again.out
        assert emulator.stats.submits == emulator.stats.billed == 3


def test_unknown_resubmit_is_a_policy_of_resume(place: Place) -> None:
    """At the risk of a second bill, without a question."""
    place.write(*posters(1))
    with emulated(duration=0, faults=[fault("submit", "garbage", times=1)]) as emulator:
        assert place.generate(emulator).status == 1
        assert place.run("resume", "run.db", "--unknown", "resubmit").status == 0
        assert emulator.stats.billed == 2


def test_results_that_cannot_be_fetched_are_fetched_by_resume(place: Place) -> None:
    """The task was paid for once; its line says what went wrong until then."""
    place.write(*posters(1))
    faults = [fault("result", "redirect", url="http://10.0.0.1/x.png", times=1)]
    with emulated(duration=0, faults=faults) as emulator:
        ran = place.generate(emulator)
        assert ran.status == 1
        assert "1 to fetch in " in ran.out
        (line,) = place.lines()
        assert (line["status"], line["error"]["type"]) == ("failed", "ResultUnsafe")
        assert line["cost"] == {"amount": "0.22", "currency": "CNY"}
        assert place.run("resume", "run.db").status == 0
        assert emulator.stats.submits == 1


# -- runs and export ------------------------------------------------------------------------------


def test_runs_tells_counts_money_and_what_the_run_is(place: Place) -> None:
    """For people and for programs; a list is cut at --limit, and says so."""
    place.write(*posters(3))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
    shown = place.run("runs", "run.db", "--state", "stored", "--limit", "2")
    assert shown.status == 0
    for told in ("stored  3", "spent    0.66 CNY", "in.txt, 3 requests", "seedream-v5-lite/text",
                 f"folder   {place.folder / 'out'}", "and 1 more; --limit"):  # fmt: skip
        assert told in shown.out
    data = place.run("runs", "run.db", "--state", "STORED", "--json").json
    assert data["states"]["stored"] == 3
    assert data["spent"] == {"amount": "0.66", "currency": "CNY"}
    assert data["owner"] is None
    assert data["facts"]["base_url"] == emulator.url
    assert [job["place"] for job in data["jobs"]] == [0, 1, 2]
    assert data["jobs"][0]["cost"] == {"amount": "0.22", "currency": "CNY"}
    assert "jobs" not in place.run("runs", "run.db", "--json").json


def test_runs_watches_until_the_run_ends(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """A line at a time where there is no terminal; the last one says that it does not run."""
    place.write(*posters(2))
    with emulated(duration=60) as emulator:
        run = process(*generation(emulator))
        until(lambda: place.alive() == 2)
        watch = process("runs", "run.db", "--watch")
        assert watch.stdout is not None
        assert watch.stdout.readline().startswith("2 running  ")
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=60)
        assert watch.stdout.read().splitlines()[-1].endswith("  not running")
        assert watch.wait(60) == 0


def test_runs_redraws_on_a_terminal_until_ctrl_c(
    place: Place, process: Callable[..., subprocess.Popen[str]]
) -> None:
    """Clear, and the whole table again; status 130."""
    pty = pytest.importorskip("pty")
    place.write(*posters(2))
    with emulated(duration=60) as emulator:
        run = process(*generation(emulator))
        until(lambda: place.alive() == 2)
        ours, theirs = pty.openpty()
        watch = subprocess.Popen([*COMMAND, "runs", "run.db", "--watch"], stdout=theirs)
        os.close(theirs)
        seen = b""
        while seen.count(b"\x1b[H\x1b[J") < 2:
            seen += os.read(ours, 4096)
        watch.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):
            while os.read(ours, 4096):
                pass
        assert watch.wait(60) == 130
        os.close(ours)
        run.kill()
    assert re.search(rb"(accepted|running) +2", seen)


def test_export_has_a_row_for_each_job_and_no_formula(place: Place) -> None:
    """A prompt that begins like one gets an apostrophe in CSV, and is exact in JSON lines."""
    place.write("=HYPERLINK(1) a poster", 'a poster of a boat, "at dusk"', "no")
    with emulated(duration=0) as emulator:
        place.generate(emulator)
    ran = place.run("export", "run.db", "--format", "csv")
    rows = list(csv.DictReader(ran.out.splitlines()))
    assert [row["state"] for row in rows] == ["stored", "stored", "failed"]
    assert rows[0]["prompt"] == "'=HYPERLINK(1) a poster"
    assert rows[1]["prompt"] == 'a poster of a boat, "at dusk"'
    assert (rows[1]["cost"], rows[1]["currency"], rows[1]["place"]) == ("0.22", "CNY", "1")
    assert rows[1]["files"] == "00001-a-poster-of-a-boat-at-dusk.png"
    assert rows[1]["urls"].startswith(emulator.url)
    assert rows[1]["sent_at"] <= rows[1]["accepted_at"] <= rows[1]["ended_at"]
    assert rows[2]["error"].startswith("PayloadError: line 3: prompt")
    assert place.run("export", "run.db", "--format", "jsonl", "-o", "jobs.jsonl").out == ""
    lines = [json.loads(line) for line in (place.folder / "jobs.jsonl").read_text().splitlines()]
    assert list(lines[0]) == [*rows[0], "request"]
    assert lines[0]["prompt"] == lines[0]["request"]["prompt"] == "=HYPERLINK(1) a poster"
    assert lines[1]["files"] == ["00001-a-poster-of-a-boat-at-dusk.png"]
    lost = place.run("export", "run.db", "--format", "csv", "-o", "no/such.csv")
    assert lost.status == 2
    assert "-o no/such.csv: No such file or directory" in lost.err
    one = place.run("export", "run.db", "--format", "csv", "--state", "failed")
    assert len(one.out.splitlines()) == 2


def test_export_to_a_reader_who_has_gone_is_quiet(place: Place) -> None:
    """Status 1 and no complaint."""
    place.write(*posters(2))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*COMMAND, "export", "run.db", "--format", "jsonl"],
        stdout=write, stderr=subprocess.PIPE, timeout=60, check=False,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (1, b"")


def test_cancelled_jobs_are_queued_on_request(place: Place) -> None:
    """It says that what they had run is billed again."""
    with emulated(duration=2) as emulator:

        async def cancel() -> None:
            async with rh.Session(base_url=emulator.url, journal="run.db") as session:
                request = rh.WorkflowRequest("1904136902449209346")
                await session.cancel(await session.submit(request, key="one"))
                with contextlib.suppress(rh.TaskCancelled):
                    await session.run(request, key="one")

        asyncio.run(cancel())
        assert place.states() == {"cancelled": 1}
        where = ("--out", "out", "--base-url", emulator.url)
        ended = place.run("resume", "run.db", *where)
        assert ended.status == 1
        assert "to retry the cancelled jobs: runninghub-async retry run.db" in ended.out
        (line,) = place.lines()
        assert (line["status"], line["error"]["type"]) == ("cancelled", "TaskCancelled")
        assert line["task_id"] in line["error"]["message"]
        ran = place.run("retry", "run.db", "--cancelled", *where)
        assert ran.status == 0, ran.err
        assert ran.out.startswith(
            "queued 1 cancelled job for retry; cancelled jobs are billed again\n"
        )
    assert place.states() == {"stored": 1}
    assert place.lines()[0]["index"] == 1


def test_a_manifest_names_each_error_however_little_the_journal_holds_of_it(place: Place) -> None:
    """From the task or the code alone, as a store of one's own may have recorded them; and of a
    row that cannot be read, what is wrong with it."""
    ends = {"0": "FAILED", "1": "CANCEL"}

    def on_query(task_id: str) -> rh.Response:
        status = ends[service.created[task_id][-1]]
        told = {"status": status, "errorCode": "1501", "errorMessage": "barred"}
        return json_response({"taskId": task_id, **told})

    def on_submit(prompt: str) -> rh.Response | None:
        return None if prompt[-1] in ends else refusal("1501")

    service = Service(0.0, on_submit=on_submit, on_query=on_query)

    async def failing() -> None:
        async with service.session(journal="run.db") as session:
            requests = map(rh.SeedreamV5Lite, [*posters(5), "no"])
            async for outcome in session.stream(requests, ordered=True):
                assert not outcome.ok

    run(failing)
    edit(
        place.folder / "run.db",
        "UPDATE jobs SET error = NULL",
        "UPDATE jobs SET code = NULL WHERE place = 3",
        "UPDATE jobs SET state = 'odd' WHERE place = 4",
    )
    assert place.run("resume", "run.db", "--out", "out").status == 1
    told = {line["index"]: line["error"] for line in place.lines()}
    failed, cancelled, refused, unexplained, odd, faulty = (told[number] for number in range(6))
    assert (failed["type"], failed["code"]) == ("TaskFailed", "1501")
    assert "1501: barred" in failed["message"]
    assert (cancelled["type"], cancelled["code"]) == ("TaskCancelled", None)
    assert (refused["type"], refused["code"]) == ("ContentPolicyError", "1501")
    assert unexplained["message"] == "failed in an earlier run"
    assert "row 5 " in odd["message"]
    assert "is damaged: state" in odd["message"]
    assert faulty["type"] == "PayloadError"


#: The commands that read a journal.
READING = [
    ("runs", "run.db"),
    ("runs", "run.db", "--json"),
    ("runs", "run.db", "--state", "stored"),
    ("export", "run.db", "--format", "csv"),
    ("export", "run.db", "--format", "jsonl"),
    ("resume", "run.db"),
    ("retry", "run.db", "--failed"),
]


@pytest.mark.parametrize(
    ("values", "named"),
    [("'fact:currency', ''", "fact currency"), ("'fact:folder', x'ff'", "fact folder"),
     ("'fact:input', x'ff'", "fact input")],
)  # fmt: skip
def test_each_command_names_a_bad_fact(values: str, named: str, place: Place) -> None:
    """With status 2."""
    place.write(*posters(1))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
        edit(place.folder / "run.db", f"INSERT OR REPLACE INTO meta VALUES ({values})")
        told = [place.run(*words) for words in READING]
        told.append(place.generate(emulator))
    for ran in told:
        assert ran.status == 2, ran.err
        assert f"run.db: is damaged: table meta: {named}: expected a " in ran.err
        assert "Traceback" not in ran.err


@pytest.mark.parametrize("time", ["1e300", "-1"])
def test_each_command_lists_the_rows_beside_one_without_a_date(time: str, place: Place) -> None:
    """And names its column."""
    place.write(*posters(3))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
        edit(place.folder / "run.db", f"UPDATE jobs SET sent_at = {time} WHERE seq = 2")
        for words in READING[2:]:
            ran = place.run(*words)
            assert "Traceback" not in ran.err
            assert ran.status in (0, 1)
            if words[0] in ("runs", "export"):
                assert "is damaged: sent_at: expected a time" in ran.out
            if "csv" in words:
                assert [bool(row["error"]) for row in csv.DictReader(ran.out.splitlines())] == [
                    False, True, False,
                ]  # fmt: skip


def test_a_bad_row_of_a_stored_job_is_a_failure_in_the_manifest(place: Place) -> None:
    """With the error that names the row, as in the outcome; the exit status is 1."""
    place.write(*posters(3))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
        edit(place.folder / "run.db", "UPDATE jobs SET files = '[[' WHERE seq = 2")
        assert place.run("resume", "run.db").status == 1
    lines = place.lines()
    assert [line["status"] for line in lines] == ["succeeded", "failed", "succeeded"]
    assert lines[1]["error"]["type"] == "JournalError"
    assert "is damaged: files" in lines[1]["error"]["message"]


def test_a_line_feed_in_a_fact_does_not_make_a_line(place: Place) -> None:
    """Of the folder of a journal that somebody else wrote: it is escaped, here and in `runs`."""
    place.write(*posters(1))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
        folder = f"{place.folder}/out\n9 done, 0 failed in 0:01"
        told = folder.replace("'", "''")
        edit(
            place.folder / "run.db", f"UPDATE meta SET value = '{told}' WHERE name = 'fact:folder'"
        )
        ran = place.run("resume", "run.db")
    assert f"open {place.folder}/out\\x0a9 done, 0 failed in 0:01/index.html" in ran.out
    for each in (ran, place.run("runs", "run.db")):
        assert "\n9 done" not in each.out + each.err


def test_a_folder_that_no_system_takes_is_told(place: Place) -> None:
    """A null character of a journal's fact: status 2."""
    place.write(*posters(1))
    with emulated(duration=0) as emulator:
        place.generate(emulator)
        edit(
            place.folder / "run.db",
            "UPDATE meta SET value = 'a' || char(0) || 'b' WHERE name = 'fact:folder'",
        )
        ran = place.run("resume", "run.db")
    assert ran.status == 2
    assert "embedded null" in ran.err


def test_amounts_have_no_zeros_that_say_nothing() -> None:
    """Whole, or at least two places."""
    texts = ("0E-9", "22.000000000", "6.600000000", "0.125", "1E+3")
    told = [amount(rh.Money(text, "CNY").amount) for text in texts]
    assert told == ["0", "22", "6.60", "0.125", "1000"]
