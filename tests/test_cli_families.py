"""The commands for single calls: a table, JSON and an error of each, against the emulator."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import pytest
from support import emulated, served, until

import runninghub_async as rh
from runninghub_async._cli import main
from runninghub_async._cli._events import describe
from runninghub_async._cli._tables import cut, facts, one_line, table
from runninghub_async.emulator import Emulator

WORKFLOW = "1904136902449209346"
NEVER_RUN = "1904136902449209347"
LOCKED = "1904136902449209348"
APP = "1937084629516193794"
MEDIA_APP = "1937084629516193795"
QUICK = "1957344152277151746"
MODEL = "seedream-v5-lite/text-to-image"
PROMPT = "prompt=a poster of a boat"

COMMAND = [sys.executable, "-P", "-m", "runninghub_async"]


class Services(NamedTuple):
    """Emulators: tasks done at once, tasks that take two seconds, one key only, all tasks fail,
    submits whose answers are lost, nothing but runs."""

    quick: Emulator
    slow: Emulator
    keyed: Emulator
    doomed: Emulator
    torn: Emulator
    shy: Emulator


class Ran(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


class Run(Protocol):
    def __call__(self, *words: str | Path) -> Ran: ...


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    """On a loop in a thread."""
    ready, stop = threading.Event(), asyncio.Event()
    made: list[tuple[Services, asyncio.AbstractEventLoop]] = []

    async def serve() -> None:
        fail = {"on": "task", "kind": "fail", "code": "1501"}
        tear = {"on": "submit", "kind": "garbage"}
        shun = {"on": "call", "kind": "refuse", "code": "301"}
        note: dict[str, Any] = {"1": {"class_type": "Note", "inputs": {}}}
        async with contextlib.AsyncExitStack() as stack:
            emulators = [
                await stack.enter_async_context(emulator)
                for emulator in (
                    Emulator(duration=0, workflows={"7": note}),
                    Emulator(duration=2),
                    Emulator(duration=0, api_key="right"),
                    Emulator(duration=0, faults=[fail]),
                    Emulator(duration=0, faults=[tear]),
                    Emulator(duration=0, faults=[shun]),
                )
            ]
            made.append((Services(*emulators), asyncio.get_running_loop()))
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(60)
    ((emulators, loop),) = made
    yield emulators
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)


@pytest.fixture
def run(
    services: Services, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """The command in this process, with a key, against the emulator whose tasks are done at once
    unless `--base-url` names another."""
    monkeypatch.setenv("RUNNINGHUB_API_KEY", "a-key-of-16-chars")
    monkeypatch.setenv("RUNNINGHUB_BASE_URL", services.quick.url)

    def run(*words: str | Path) -> Ran:
        capsys.readouterr()
        try:
            status = main([*map(str, words)])
        except SystemExit as end:
            status = int(end.code or 0)
        return Ran(status, *capsys.readouterr())

    return run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "boat.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    return path


def sent(emulator: Emulator, part: str) -> dict[str, Any]:
    """The body of the last request to a path that ends so."""
    last = [r for r in list(emulator.requests) if r.target.endswith(part)][-1]
    body: dict[str, Any] = json.loads(last.body_start)
    return body


def task_of(ran: Ran) -> str:
    """The id that a command names first on standard error."""
    word, task_id = ran.err.splitlines()[0].split()
    assert word == "task"
    assert task_id.isdigit()
    return task_id


# -- what they share ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        "generate", "resume", "retry", "runs", "export", "emulator", "models", "price", "run",
        "task", "progress", "upload", "account", "resources", "assets", "comfyui", "workflow",
        "workflow show", "workflow run", "app", "app list", "app show", "app run", "quick",
        "quick styles", "quick run", "webhook", "webhook show", "webhook resend",
    ],
)  # fmt: skip
def test_every_command_has_help(run: Run, words: str) -> None:
    """It fits on a screen."""
    told = run(*words.split(), "--help")
    assert told.status == 0
    assert told.out.startswith(f"usage: runninghub-async {words}")
    assert len(told.out.splitlines()) < 50


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["price", "no-such-model"], "not in the catalogue"),
        (["price", MODEL, "--param", "widht=1"], "widht: unknown field"),
        (["price", MODEL, "--ask"], "prompt: missing"),
        (["run", MODEL], "prompt: missing"),
        (["run", MODEL, "--param", PROMPT, "--param", "width=wide"], "width: expected a whole"),
        (["run", MODEL, "--no-wait", "--out", "x"], "not allowed with"),
        (["run", MODEL, "--param", PROMPT, "--timeout", "0"], "above 0"),
        (["run", MODEL, "--param", PROMPT, "--timeout", "soon"], "above 0, got soon"),
        (["run", MODEL, "--param", PROMPT, "--result-network", "home"], "a network such as 198.18"),
        (["emulator", "--duration", "-1"], "expected seconds, got -1"),
        (["app", "list", "--limit", "0"], "a whole number above 0, got 0"),
        (["task", "abc"], "task_id: expected a string of digits"),
        (["task", "1", "--wait", "--cancel"], "not allowed with"),
        (["progress", "abc"], "task_id"),
        (["workflow"], "ACTION"),
        (["workflow", "show", "my-flow"], "workflow_id"),
        (["workflow", "run", "my-flow"], "workflow: expected the digits"),
        (["workflow", "run", WORKFLOW, "--set", "6"], "--set 6: expected NODE.FIELD=VALUE"),
        (["workflow", "run", WORKFLOW, "--set", "text=a"], "expected NODE.FIELD=VALUE"),
        (["workflow", "run", WORKFLOW, "--set", "6.text=a", "--set", "6.text=b"], "given twice"),
        (["workflow", "run", WORKFLOW, "--set", "6.txt=a"], "CLIPTextEncode has no input txt"),
        (["workflow", "run", WORKFLOW, "--set", "99.text=a"], "the workflow has no node 99"),
        (["workflow", "run", WORKFLOW, "--retain-seconds", "5"], "retain_seconds: expected 10"),
        (["workflow", "run", WORKFLOW, "--graph", "absent.json"], "--graph absent.json"),
        (["workflow", "run", WORKFLOW, "--set", "10.image=@absent.png"], "absent.png"),
        (["app", "show", "my-app"], "app_id"),
        (["app", "list", "--sort", "best"], "invalid choice"),
        (["app", "run", APP, "--set", "6.txt=a"], "the app has no input 6.txt"),
        (["app", "run", APP, "--set", "3.steps=1000"], "more than 100 @ $.nodes.3.steps"),
        (["quick", "run", QUICK], "--code"),
        (["quick", "run", "x", "--code", "002"], "app: expected the digits"),
        (["upload", "absent.png"], "absent.png"),
        (["upload", "a.png", "b.png", "--name", "c"], "--name: for a single file"),
        (["account", "money"], "invalid choice"),
        (["resources", "vae"], "invalid choice"),
        (["assets", "create", "[1]"], "expected an object"),
        (["assets", "create", "{"], "JSON: "),
        (["webhook", "show", "abc"], "task_id"),
        (["account", "--base-url", "nowhere"], "base_url must be an http(s) origin"),
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2_and_names_what_is_wrong(
    run: Run, services: Services, words: list[str], told: str
) -> None:
    """In one line, with nothing on standard output, and nothing is submitted."""
    before = services.quick.stats.submits
    ran = run(*words)
    assert ran.status == 2
    assert told in ran.err
    assert not ran.out
    assert "usage: " in ran.err or len(ran.err.splitlines()) == 1
    assert services.quick.stats.submits == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["task", "123"], "[1004]"),
        (["task", "123", "--older"], "["),
        (["workflow", "show", "19041369024492093"], "[380]"),
        (["workflow", "run", "19041369024492093"], "[380]"),
        (["workflow", "run", "19041369024492093", "--set", "6.text=a"], "[380]"),
        (["workflow", "run", NEVER_RUN], "[810]"),
        (["app", "show", "19370846295161937"], "[1] webapp not exists"),
        (["app", "run", "19370846295161937"], "[1] webapp not exists"),
        (["quick", "run", "19370846295161937", "--code", "002"], "[1] webapp not exists"),
        (["webhook", "show", "123"], "["),
        (["webhook", "resend", "123"], "["),
        (["assets", "query", '{"id": "7"}'], "["),
    ],
)
def test_what_the_service_refuses_is_status_1(run: Run, words: list[str], told: str) -> None:
    """One line that begins with the command's name and has the service's code."""
    ran = run(*words)
    assert ran.status == 1
    (line,) = ran.err.splitlines()
    named = " ".join(words[: 2 if words[0] in {"workflow", "app", "quick", "webhook"} else 1])
    assert line.startswith(f"runninghub-async {named}: {told}")
    assert not ran.out


@pytest.mark.parametrize(
    "words",
    [
        ["account"], ["account", "queue"], ["account", "keys"], ["workflow", "run", WORKFLOW],
        ["run", MODEL, "--param", PROMPT], ["price", MODEL, "--param", PROMPT, "--ask"],
        ["task", "123"], ["app", "list"], ["resources", "lora"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_wrong_key_is_status_3(run: Run, services: Services, words: list[str]) -> None:
    """It says what to check, and does not repeat the key."""
    ran = run(*words, "--base-url", services.keyed.url)
    assert ran.status == 3
    assert "check the API key" in ran.err
    assert "a-key" not in ran.err + ran.out


def test_without_a_key_the_advice_is_where_to_get_one(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Status 2, as `generate` has it; the catalogue's price needs none."""
    monkeypatch.delenv("RUNNINGHUB_API_KEY")
    ran = run("account")
    assert ran.status == 2
    assert "RUNNINGHUB_API_KEY" in ran.err
    assert run("price", MODEL).status == 0


# -- standard models ------------------------------------------------------------------------------


def test_every_name_of_every_model_shows_it(run: Run) -> None:
    """Paths, documented names and aliases, with blanks and in Chinese, as one word or several."""
    models = list(rh.Catalogue.load())
    names = {name: s.path for s in models for name in (*s.aliases, s.name, s.path)}
    assert any(" " in name and not name.isascii() for name in names)
    for name, path in names.items():
        ran = run("models", *name.split())
        assert (ran.status, ran.out.splitlines()[0]) == (0, path), name


def test_models_counts_and_gives_json(run: Run) -> None:
    """--count is the number alone; --json a list, or one object for a name."""
    assert run("models", "--count").out == "480\n"
    listed = run("models", "seedream", "--json")
    assert {"seedream-v4/text-to-image", MODEL} <= {spec["path"] for spec in listed.json}
    one = run("models", MODEL, "--json").json
    assert (one["path"], one["params"][0]["name"]) == (MODEL, "prompt")
    assert run("models", MODEL, "--count").out == "1\n"
    assert run("models", "no", "such", "--json") == (1, "[]\n", "")
    assert run("models", "no", "such", "--count") == (1, "0\n", "")


def test_price_is_the_catalogues_and_on_request_the_services(run: Run) -> None:
    """Without --ask nothing is asked; amounts are text, so that none is rounded."""
    params = ["--param", "sequentialImageGeneration=auto", "--param", "max_images=3"]
    shown = run("price", MODEL, *params)
    assert shown.status == 0
    assert "estimate  0.66 CNY" in shown.out
    told = run("price", MODEL, "--param", PROMPT, "--ask", "--json").json
    assert told["estimate"] == {"amount": "0.22", "currency": "CNY"}
    assert told["asked"]["amount"] == "0.22"
    assert run("price", MODEL, "--json").json.keys() == {"model", "estimate", "as_of"}
    # No price is known of this one, so there is no date of it either.
    unpriced = "seedream-v5-pro/layer-decomposition"
    assert "estimate  not known\n" in run("price", unpriced).out
    assert run("price", unpriced, "--json").json["as_of"] is None
    assert "service   0.22 CNY" in run("price", MODEL, "--param", PROMPT, "--ask").out


def test_a_call_that_is_free_is_said_to_be(run: Run) -> None:
    """With how many are left where the service says it."""
    told: dict[str, Any] = {"estimatedPrice": "0.22", "currency": "CNY", "isFreeThisCall": True}
    with served(lambda _path, _body: {"code": 0, "data": told}) as url:
        words = ("price", MODEL, "--param", PROMPT, "--ask", "--base-url", url)
        assert "free      this call is free\n" in run(*words).out
        told["remainingFreeLimitCount"] = 3
        assert "free      this call is free, 3 left\n" in run(*words).out
        told["isFreeThisCall"] = False
        assert "free" not in run(*words).out


def test_run_makes_a_picture(run: Run, tmp_path: Path) -> None:
    """The id first, then a table with the cost and the file."""
    ran = run("run", MODEL, "--param", PROMPT, "--out", tmp_path / "out")
    assert ran.status == 0, ran.err
    task_id = task_of(ran)
    (file,) = (tmp_path / "out").iterdir()
    assert file.name == f"{task_id}-1.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert "cost     0.22 CNY" in ran.out
    assert ran.out.splitlines()[-1].endswith(str(file))


def test_run_prints_a_text_that_is_the_result(run: Run, tmp_path: Path) -> None:
    """Below the table; with --out it is a file like any other."""
    words = ("run", "rhart-text-g-25-flash/text-to-text", "--param", "prompt=say boat")
    ran = run(*words)
    assert ran.status == 0, ran.err
    *_, row, blank, text = ran.out.splitlines()
    assert row.endswith("see below")
    assert blank == ""
    stored = run(*words, "--out", tmp_path)
    assert (tmp_path / f"{task_of(stored)}-1.txt").read_text("utf-8") == text
    assert text not in stored.out


def test_run_as_json_is_the_task_and_its_files(run: Run, tmp_path: Path) -> None:
    """The data that `structure` makes a task of, with `files` beside it."""
    ran = run("run", MODEL, "--param", PROMPT, "--out", tmp_path, "--json")
    data = ran.json
    (file,) = data.pop("files")
    assert Path(file["path"]).stat().st_size == file["bytes"]
    task = rh.structure(data, rh.Task)
    assert (task.id, task.status) == (task_of(ran), rh.TaskStatus.SUCCESS)
    assert task.progress_url == ""


def test_run_uploads_local_files_of_media_fields(
    run: Run, services: Services, picture: Path
) -> None:
    """@path among the items of a list; elsewhere the sign is text."""
    urls = f"imageUrls=@{picture}|https://example.com/b.png"
    text = "prompt=@noon, a boat"
    ran = run("run", "seedream-v5-lite/image-to-image", "--param", urls, "--param", text)
    assert ran.status == 0, ran.err
    body = sent(services.quick, "seedream-v5-lite/image-to-image")
    assert body["prompt"] == "@noon, a boat"
    assert body["imageUrls"][0].startswith(services.quick.url)
    assert body["imageUrls"][1] == "https://example.com/b.png"


def test_run_takes_what_any_model_takes(run: Run, services: Services) -> None:
    """A webhook's address is no field of the model, but the service knows it."""
    ran = run("run", MODEL, "--param", PROMPT, "--param", "webhookUrl=http://127.0.0.1:9/",
              "--no-wait")  # fmt: skip
    assert ran.status == 0, ran.err
    assert sent(services.quick, MODEL)["webhookUrl"] == "http://127.0.0.1:9/"


def test_generate_uploads_local_files_and_writes_down_their_paths(
    services: Services, picture: Path, tmp_path: Path
) -> None:
    """@path in --param and in a row's list, uploaded once; the manifest names the file."""
    rows = [{"prompt": "a boat at sea"}, {"prompt": "a boat at noon", "imageUrls": [f"@{picture}"]}]
    source = tmp_path / "in.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    before = services.quick.stats.uploads
    done = subprocess.run(
        [*COMMAND, "generate", source, "--out", tmp_path / "out", "--model",
         "seedream-v5-lite/image-to-image", "--param", f"imageUrls=@{picture}",
         "--base-url", services.quick.url],
        capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "RUNNINGHUB_API_KEY": "k"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert services.quick.stats.uploads == before + 1
    lines = (tmp_path / "out/manifest.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["request"]["imageUrls"] for line in lines] == [[str(picture)]] * 2


def test_a_failed_task_is_status_1_with_its_id_and_reason(run: Run, services: Services) -> None:
    """JSON still tells of it; the line on standard error says why."""
    ran = run("run", MODEL, "--param", PROMPT, "--base-url", services.doomed.url, "--json")
    assert ran.status == 1
    assert ran.json["status"] == "FAILED"
    assert f"task {task_of(ran)}: 1501" in ran.err.splitlines()[-1]
    seen = run("task", task_of(ran), "--base-url", services.doomed.url)
    assert seen.status == 1
    assert "error" in seen.out


def test_a_submit_of_unknown_fate_is_said_to_be_one(run: Run, services: Services) -> None:
    """Status 1, and it is sent once."""
    ran = run("run", MODEL, "--param", PROMPT, "--base-url", services.torn.url)
    assert ran.status == 1
    assert "may or may not have created a task" in ran.err
    assert services.torn.stats.submits == 1


# -- tasks ----------------------------------------------------------------------------------------


@pytest.fixture
def task_id(run: Run) -> str:
    """A workflow's task that has ended."""
    return task_of(run("workflow", "run", WORKFLOW, "--no-wait", "--webhook-url",
                       "http://127.0.0.1:9/hook?sign=secret"))  # fmt: skip


def test_task_shows_waits_and_downloads(run: Run, task_id: str, tmp_path: Path) -> None:
    """By the newer call and by the older one alike."""
    shown = run("task", task_id)
    assert shown.status == 0
    assert shown.out.splitlines()[:2] == [f"task     {task_id}", "status   SUCCESS"]
    assert run("task", task_id, "--json").json["id"] == task_id
    assert run("task", task_id, "--older", "--json").json["status"] == "SUCCESS"
    for number, words in enumerate((["--wait"], [], ["--older"])):
        ran = run("task", task_id, *words, "--download", tmp_path / str(number), "--json")
        assert ran.status == 0, ran.err
        assert ran.json["files"][0]["path"] == str(tmp_path / f"{number}/{task_id}-1.png")


def test_a_tasks_status_alone(run: Run, services: Services, task_id: str) -> None:
    """A word, or JSON; status 1 if it failed."""
    assert run("task", task_id, "--status") == (0, "SUCCESS\n", "")
    assert run("task", task_id, "--status", "--json").json == {"id": task_id, "status": "SUCCESS"}
    doomed = ("--base-url", services.doomed.url)
    failed = task_of(run("workflow", "run", WORKFLOW, "--no-wait", *doomed))
    assert run("task", failed, "--status", *doomed) == (1, "FAILED\n", "")


def test_results_that_cannot_be_stored_are_status_1(run: Run, task_id: str, tmp_path: Path) -> None:
    """The task is shown all the same; a folder that cannot be is status 2 before anything runs."""
    (tmp_path / f"{task_id}-1.png").mkdir()
    ran = run("task", task_id, "--download", tmp_path, "--json")
    assert ran.status == 1
    assert ran.json["files"] == []
    assert f"{task_id}-1.png of task {task_id}" in ran.err
    assert f"runninghub-async task {task_id} --download {tmp_path}" in ran.err
    (tmp_path / "file").touch()
    assert "--out" in run("workflow", "run", WORKFLOW, "--out", tmp_path / "file").err


def test_a_running_task_is_shown_cancelled_and_waited_for_in_vain(
    run: Run, services: Services, tmp_path: Path
) -> None:
    """Nothing to download yet is status 1; so is a wait that runs out; cancelling is 0."""
    slow = ("--base-url", services.slow.url)
    submitted = run("workflow", "run", WORKFLOW, "--no-wait", *slow)
    assert submitted.status == 0
    task_id = task_of(submitted)
    early = run("task", task_id, "--download", tmp_path, *slow)
    assert early.status == 1
    assert "--wait waits for it" in early.err
    late = run("task", task_id, "--wait", "--timeout", "0.1", *slow)
    assert late.status == 1
    assert f"task {task_id} still runs" in late.err
    cancelled = run("task", task_id, "--cancel", *slow)
    assert cancelled.status == 0
    assert cancelled.out == f"task    {task_id}\nstatus  CANCEL\n"
    assert cancelled.err == f"asked the service to cancel task {task_id}\n"
    assert run("task", task_id, *slow).status == 1


def test_progress_is_a_line_for_each_event(run: Run, services: Services) -> None:
    """As JSON lines and in words; of an ended run there is nothing to tell."""
    slow = ("--base-url", services.slow.url)
    task_id = task_of(run("workflow", "run", WORKFLOW, "--no-wait", *slow))
    ran = run("progress", task_id, "--json", *slow)
    assert ran.status == 0
    events = [line["event"] for line in ran.lines]
    assert {"RunStarted", "NodeStarted", "NodeProgress", "Preview", "NodeDone"} <= set(events)
    assert ran.lines[-1] == {"event": "RunEnded", "ok": True, "node_id": "", "message": ""}
    over = run("progress", task_id, *slow)
    assert (over.status, over.out) == (0, "")
    assert "no progress to show" in over.err
    another = task_of(run("workflow", "run", WORKFLOW, "--no-wait", *slow))
    shown = run("progress", another, *slow)
    assert shown.out.splitlines()[-1] == "ended well"


def test_events_in_words() -> None:
    """Each kind has its line; pictures and other bytes are counted."""
    told: dict[rh.ProgressEvent, str] = {
        rh.QueueLength(3): "3 in the queue",
        rh.RunStarted(): "started",
        rh.NodesCached(("4", "5")): "2 nodes need not run: 4, 5",
        rh.NodeStarted("3"): "node 3 started",
        rh.NodeProgress("3", 5, 20): "node 3 5 of 20",
        rh.RunEnded(ok=True): "ended well",
        rh.RunEnded(ok=False, node_id="3", message="no"): "broke off at node 3: no",
        rh.Preview("png", b"12"): "preview, 2 bytes of png",
        rh.OtherEvent("crystools.monitor"): "event crystools.monitor",
    }
    assert {event: describe(event)[0] for event in told} == told
    assert describe(rh.NodeDone("9"))[0] == "node 9 done"
    assert describe(rh.OtherEvent("", b"123"))[1] == {
        "event": "OtherEvent", "type": "", "bytes": 3,
    }  # fmt: skip


def test_ctrl_c_names_the_task_that_still_runs(services: Services) -> None:
    """At once with status 130, while it waits."""
    process = subprocess.Popen(
        [*COMMAND, "workflow", "run", WORKFLOW, "--base-url", services.slow.url, "--progress"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        env={**os.environ, "RUNNINGHUB_API_KEY": "k"},
    )  # fmt: skip
    assert process.stderr is not None
    task_id = process.stderr.readline().split()[1]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"task {task_id} still runs at the service" in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not out


def test_ctrl_c_leaves_the_progress_of_a_task_that_runs_on(run: Run) -> None:
    """Status 130, and one line that says that the task is not stopped."""
    with emulated(duration=120) as emulator:
        where = ("--base-url", emulator.url)
        task_id = task_of(run("workflow", "run", WORKFLOW, "--no-wait", *where))
        process = subprocess.Popen(
            [*COMMAND, "progress", task_id, *where],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, "RUNNINGHUB_API_KEY": "k"},
        )  # fmt: skip
        until(lambda: emulator.stats.queries)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert told == ("", f"task {task_id} runs on at the service\n")


# -- workflows ------------------------------------------------------------------------------------


def test_workflow_show_is_a_table_of_inputs_or_the_graph(run: Run) -> None:
    """Aligned; links say from where."""
    shown = run("workflow", "show", WORKFLOW)
    assert shown.status == 0
    head, *rows = shown.out.splitlines()
    assert head.split() == ["node", "class", "input", "value"]
    assert len({row.index(value) for row, value in zip(rows, ["1566", "20", "8.0"], strict=False)
                } | {head.index("value")}) == 1  # fmt: skip
    assert any(row.endswith("from node 4, output 1") for row in rows)
    graph = run("workflow", "show", WORKFLOW, "--json").json
    assert graph["6"]["class_type"] == "CLIPTextEncode"
    assert run("workflow", "show", "7").out.splitlines()[1:] == ["1     Note"]


def test_workflow_run_sets_values_of_the_right_type(
    run: Run, services: Services, picture: Path
) -> None:
    """Numbers are numbers but where the graph has text; @path is uploaded, @@x is @x."""
    ran = run(
        "workflow", "run", WORKFLOW, "--no-wait", "--json",
        "--set", "6.text=2024", "--set", "7.text=@@noon", "--set", "3.seed=7",
        "--set", "3.cfg=6.5", "--set", f"10.image=@{picture}",
        "--instance-type", "plus", "--use-personal-queue", "--retain-seconds", "20",
        "--no-metadata", "--webhook-url", "http://127.0.0.1:9/",
    )  # fmt: skip
    assert ran.status == 0, ran.err
    body = sent(services.quick, "/task/openapi/create")
    values = {(i["nodeId"], i["fieldName"]): i["fieldValue"] for i in body["nodeInfoList"]}
    uploaded = values.pop(("10", "image"))
    assert uploaded.endswith(".png")
    assert str(picture) not in uploaded
    assert values == {
        ("6", "text"): "2024",
        ("7", "text"): "@noon",
        ("3", "seed"): 7,
        ("3", "cfg"): 6.5,
    }
    options = {key: body[key] for key in ("instanceType", "usePersonalQueue", "retainSeconds",
                                          "addMetadata", "webhookUrl")}  # fmt: skip
    assert options == {
        "instanceType": "plus",
        "usePersonalQueue": True,
        "retainSeconds": 20,
        "addMetadata": False,
        "webhookUrl": "http://127.0.0.1:9/",
    }
    assert ran.json["id"] == task_of(ran)


@pytest.mark.parametrize("api", ["v1", "v2"])
def test_workflow_run_waits_and_downloads(run: Run, tmp_path: Path, api: str) -> None:
    """Through either endpoint."""
    ran = run("workflow", "run", WORKFLOW, "--set", "6.text=a boat", "--api", api, "--out",
              tmp_path / "new/folder")  # fmt: skip
    assert ran.status == 0, ran.err
    assert (tmp_path / f"new/folder/{task_of(ran)}-1.png").stat().st_size


def test_workflow_run_of_a_graph_from_a_file(
    run: Run, services: Services, tmp_path: Path, picture: Path
) -> None:
    """What `show --json` printed, with values put into it; files are uploaded and named."""
    path = tmp_path / "graph.json"
    path.write_text(run("workflow", "show", WORKFLOW, "--json").out, encoding="utf-8")
    ran = run("workflow", "run", WORKFLOW, "--graph", path, "--set", "6.text=7",
              "--set", f"10.image=@{picture}", "--no-wait")  # fmt: skip
    assert ran.status == 0, ran.err
    path.write_text("[1]")
    assert run("workflow", "run", WORKFLOW, "--graph", path).status == 2


def test_workflow_run_names_nodes_at_fault(run: Run) -> None:
    """Which only the answer to the submit tells."""
    ran = run("workflow", "run", WORKFLOW, "--set", "3.steps=many")
    assert ran.status == 1
    fault = "node 3 (KSampler), steps: Invalid input type"
    assert f"was accepted with faults: {fault}" in ran.err
    assert f"nodes    {fault}" in ran.out


def test_workflow_run_without_a_graph_to_check_against(run: Run, services: Services) -> None:
    """A workflow that is not shown may be run; that nothing was checked is said."""
    ran = run("workflow", "run", WORKFLOW, "--set", "6.text=a boat", "--no-wait", "--base-url",
              services.shy.url)  # fmt: skip
    assert ran.status == 0, ran.err
    assert ran.err.startswith("the inputs are not checked: [301]")


def test_workflow_run_with_a_password(run: Run) -> None:
    """With it the workflow runs; the password itself is shown nowhere."""
    ran = run("workflow", "run", LOCKED, "--access-password", "open-sesame", "--no-wait")
    assert ran.status == 0, ran.err
    assert "open-sesame" not in ran.out + ran.err
    assert run("workflow", "run", LOCKED, "--access-password", "wrong").status != 0


def test_a_runs_progress_goes_to_standard_error(run: Run, services: Services) -> None:
    """The result alone is on standard output."""
    ran = run("workflow", "run", WORKFLOW, "--progress", "--json", "--base-url",
              services.slow.url)  # fmt: skip
    assert ran.status == 0, ran.err
    assert ran.json["status"] == "SUCCESS"
    lines = ran.err.splitlines()
    assert lines[0] == f"task {ran.json['id']}"
    assert {"started", "node 6 started", "ended well"} <= set(lines)


# -- apps -----------------------------------------------------------------------------------------


def test_a_run_goes_on_where_its_progress_cannot_be_shown(run: Run) -> None:
    """The reason is printed; the task is waited for, and its status is the command's."""

    def answer(path: str, body: dict[str, Any]) -> Any:
        if path.endswith("/outputs"):
            return {"code": 301, "msg": "not today", "data": None}
        if path.endswith("/query"):
            results = [{"text": "a poem", "outputType": "txt"}]
            return {"taskId": body["taskId"], "status": "SUCCESS", "results": results}
        return {"taskId": "7", "status": "RUNNING", "code": 0, "data": {"taskId": "7"}}

    with served(answer) as url:
        ran = run("workflow", "run", WORKFLOW, "--progress", "--base-url", url)
    assert ran.status == 0, ran.err
    assert "a poem" in ran.out
    assert "no more progress to show: [301] not today" in ran.err


def test_app_list_and_show(run: Run) -> None:
    """As many as asked for, over several pages; an app's inputs with types and choices."""
    listed = run("app", "list", "--sort", "newest", "--limit", "60", "--json")
    assert len(listed.json) == 60
    assert listed.json[0]["id"].isdigit()
    assert len(run("app", "list", "--limit", "2").out.splitlines()) == 3
    shown = run("app", "show", APP).out
    assert "Poster with everything" in shown
    rows = [line.split() for line in shown.splitlines()]
    assert ["6.text", "STRING", "a", "paper", "boat", "prompt"] in rows
    assert ["3.steps", "INT", "20", "1", "to", "100", "steps"] in rows
    assert "euler | dpmpp_2m | ddim" in shown
    assert run("app", "show", APP, "--json").json["inputs"][0]["field"] == "text"


def test_app_show_tells_a_limit_that_is_alone(run: Run) -> None:
    """A number that has no highest or no lowest value."""
    limits: dict[str, Any] = {"steps": {"min": 1}, "strength": {"max": 2.5}}
    nodes = [
        {"nodeId": "3", "fieldName": name, "fieldType": "FLOAT", "fieldData": ["FLOAT", limit]}
        for name, limit in limits.items()
    ]
    with served(lambda _path, _body: {"code": 0, "data": {"nodeInfoList": nodes}}) as url:
        shown = run("app", "show", APP, "--base-url", url).out
    assert "at least 1\n" in shown
    assert "at most 2.5\n" in shown


def test_app_run(run: Run, services: Services, picture: Path, tmp_path: Path) -> None:
    """Values as the app's inputs want them; results of every kind become files."""
    ran = run("app", "run", APP, "--set", "6.text=2024", "--set", "3.steps=30", "--set",
              "11.value=false", "--set", f"10.image=@{picture}", "--no-wait")  # fmt: skip
    assert ran.status == 0, ran.err
    body = sent(services.quick, "/task/openapi/ai-app/run")
    values = [i["fieldValue"] for i in body["nodeInfoList"]]
    assert values[:3] == ["2024", 30, False]
    media = run("app", "run", MEDIA_APP, "--out", tmp_path, "--json")
    assert media.status == 0, media.err
    kinds = {Path(file["path"]).suffix for file in media.json["files"]}
    assert kinds == {".mp4", ".mp3", ".glb", ".txt"}
    newer = run("app", "run", APP, "--api", "v2", "--retain-seconds", "15", "--no-wait")
    assert newer.status == 0, newer.err


def test_quick_create(run: Run, services: Services) -> None:
    """Its styles, and a run of a module."""
    shown = run("quick", "styles", QUICK)
    assert shown.out.splitlines()[0].split() == [
        "id", "name", "category", "input", "trigger", "content",
    ]  # fmt: skip
    first, second = (run("quick", "styles", QUICK, "--kind", k, "--json").json for k in "12")
    assert first
    assert first != second
    ran = run("quick", "run", QUICK, "--code", "002", "--set", "6.text=a boat")
    assert ran.status == 0, ran.err
    assert sent(services.quick, "/task/openapi/quick-ai-app/run")["quickCreateCode"] == "002"
    assert f"task     {task_of(ran)}" in ran.out


# -- files, the account and its things ------------------------------------------------------------


def test_upload_tells_names_and_addresses(run: Run, picture: Path, tmp_path: Path) -> None:
    """A line of JSON per file, as each is done; the older call gives no address."""
    other = tmp_path / "other.png"
    other.write_bytes(picture.read_bytes() + b"x")
    ran = run("upload", picture, other, "--json")
    assert ran.status == 0, ran.err
    assert [line["file"] for line in ran.lines] == [str(picture), str(other)]
    assert all(line["url"].startswith("http") and len(line["sha256"]) == 64 for line in ran.lines)
    (older,) = run("upload", picture, "--older", "--json").lines
    assert older["url"] is None
    shown = run("upload", picture).out
    assert ran.lines[0]["name"] in shown
    assert ran.lines[0]["url"] in shown


def test_upload_shows_what_came_before_a_failure(run: Run, picture: Path) -> None:
    """Status 2 for the file that is not there."""
    ran = run("upload", picture, "absent.png")
    assert ran.status == 2
    assert "boat.png" in ran.out
    assert "absent.png: No such file" in ran.err


def test_upload_of_a_lora(run: Run, tmp_path: Path) -> None:
    """A second time nothing is sent."""
    lora = tmp_path / "ink.safetensors"
    lora.write_bytes(b"ink" * 100)
    (first,) = run("upload", "--lora", lora, "--name", "boats", "--json").lines
    assert first["stored"] is True
    assert "was there already" in run("upload", "--lora", lora).out


def test_upload_has_one_live_line_on_a_terminal(run: Run, picture: Path) -> None:
    """Written over, and left with a new line."""
    terminal = Terminal()
    with contextlib.redirect_stderr(terminal):
        assert run("upload", picture).status == 0
    assert terminal.getvalue().startswith("\r\x1b[Kboat.png  ")
    assert terminal.getvalue().endswith("100% of 0.0 MB\n")


def test_an_upload_that_sends_nothing_leaves_no_line_on_a_terminal(run: Run) -> None:
    """Only what is wrong with the file."""
    terminal = Terminal()
    with contextlib.redirect_stderr(terminal):
        assert run("upload", "absent.png").status == 2
    assert terminal.getvalue().startswith("runninghub-async upload: absent.png: No such file")


def test_account_queue_and_keys(run: Run) -> None:
    """As facts, as a table, as JSON."""
    status = run("account")
    assert "key type  SHARED" in status.out
    assert run("account", "status", "--json").json["currency"] == "CNY"
    assert run("account", "queue", "--json").json["limit"] == 50
    assert "limit     50" in run("account", "queue").out
    assert run("account", "keys").out.splitlines()[0].startswith("key ")
    (key,) = run("account", "keys", "--json").json
    assert "*" in key["key"]


def test_resources(run: Run) -> None:
    """Those of a kind whose names hold a text."""
    ran = run("resources", "lora", "--name", "00", "--limit", "4", "--json")
    assert [each["name"][:6] for each in ran.json] == ["loras/"] * 4
    shown = run("resources", "GGUF", "--limit", "2").out.splitlines()
    assert shown[0].split() == ["name", "facts"]
    assert shown[1].startswith("unet_gguf/gguf-001.gguf  id: ")


@pytest.mark.parametrize("group", [[], ["--group"]])
def test_assets(run: Run, group: list[str]) -> None:
    """Whatever fields are given; records come as a table."""
    made = run("assets", "create", '{"name": "a boat"}', "--json", *group).json
    fields = json.dumps({"id": made["id"], "name": "two boats"})
    assert run("assets", "update", fields, *group).status == 0
    listed = run("assets", "list", *group).out
    assert listed.splitlines()[0].split() == ["name", "id"]
    assert "two boats" in listed
    assert "name  two boats" in run("assets", "query", fields, *group).out
    assert run("assets", "delete", fields, *group).status == 0
    assert run("assets", "list", *group).out == "none\n"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (None, "done"),
        ({}, "done"),
        ("kept", "kept"),
        (["纸船", 2], '["纸船", 2]'),
        ({"id": 7, "tags": ["a"]}, 'id    7\ntags  ["a"]'),
    ],
)
def test_whatever_the_asset_library_gives_back_is_shown(run: Run, data: Any, told: str) -> None:
    """Its answers are not documented: nothing, a text, a list and an object each have a form."""
    with served(lambda _path, _body: {"code": 0, "data": data}) as url:
        assert run("assets", "query", "{}", "--base-url", url) == (0, f"{told}\n", "")


def test_webhook_show_and_resend(run: Run, task_id: str) -> None:
    """The table leaves out the query of the address; JSON has it all."""
    told = run("webhook", "show", task_id, "--json").json
    assert told["url"] == "http://127.0.0.1:9/hook?sign=secret"
    shown = run("webhook", "show", task_id)
    assert f"event     {told['id']}" in shown.out
    assert "secret" not in shown.out
    again = run("webhook", "resend", told["id"], "--url", "http://127.0.0.1:9/other", "--json")
    assert again.json == {"event": told["id"], "resent": True}
    assert told["id"] in run("webhook", "resend", told["id"]).out


def test_comfyui_hides_the_key_unless_asked(run: Run, services: Services) -> None:
    """And says whether anything answers there, in its status, too."""
    hidden = run("comfyui")
    assert (hidden.status, "a-key" in hidden.out) == (0, False)
    assert "reachable  yes" in hidden.out
    assert run("comfyui", "--show-key", "--json").json == {
        "url": f"{services.quick.url}/proxy/a-key-of-16-chars",
        "reachable": True,
    }
    assert "/proxy-plus/****" in run("comfyui", "--plus").out
    nowhere = run("comfyui", "--json", "--base-url", "http://127.0.0.1:9")
    assert (nowhere.status, nowhere.json["reachable"]) == (1, False)


# -- the printer ----------------------------------------------------------------------------------


def test_tables_are_aligned_in_every_script() -> None:
    """Chinese takes two columns, accents that combine none; nothing trails."""
    text = table(("name", "n"), [("纸船", 1), ("e\u0301te", 22), (None, True)])
    assert text.splitlines() == ["name  n", "纸船  1", "e\u0301te   22", "      yes"]
    assert facts({"a": 1, "bcd": "x", "none": None, "empty": ""}) == "a    1\nbcd  x"
    assert cut("船" * 60).endswith("…")
    assert cut("short") == "short"


def test_what_strangers_wrote_does_nothing_to_a_terminal() -> None:
    """Escapes, new lines, marks of direction and halves of characters; joiners stay."""
    assert one_line("a\x1b[2J\nb\u202ec\ud83d") == r"a\x1b[2J b\u202ec\ud83d"
    assert one_line("क\u200dष") == "क\u200dष"
