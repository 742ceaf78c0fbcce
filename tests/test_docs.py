"""What the documents say is true: their code runs, their tables are whole, examples work."""

from __future__ import annotations

import asyncio
import importlib.util
import io
import itertools
import os
import re
import shlex
import struct
import subprocess
import sys
import threading
import wave
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, get_args

import attrs
import pytest

import runninghub_async as rh
from runninghub_async import _families, emulator, testing, webhooks
from runninghub_async._cli._parser import build_parser
from runninghub_async._codes import CODES
from runninghub_async.emulator import Emulator, Fault, Stats
from runninghub_async.emulator._faults import Kind, Place
from runninghub_async.emulator._routes import find

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
API_PAGES = sorted((DOCS / "api").glob("*.md"))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def load(path: Path) -> ModuleType:
    """A module that is in no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TABLES = load(DOCS / "tables.py")
COMMANDS = {
    command.prog.removeprefix("runninghub-async ") for command in TABLES.leaves(build_parser())
}

#: A block that is marked to run, with what comes before it, for the number of its line.
BLOCK = re.compile(r"<!-- runs -->\n```python\n(.*?)```", re.DOTALL)

#: Runs the marked blocks of a page, each in a namespace and a thread of its own: they wait more
#: than they work. The page's own lines show in a traceback.
RUNNER = f"""
import pathlib, re, sys, threading, traceback
page = pathlib.Path(sys.argv[1])
text = page.read_text("utf-8")
failed = []

def run(source, line):
    try:
        code = compile("\\n" * line + source, str(page), "exec")
        exec(code, {{"__name__": "__main__"}})
    except BaseException:
        failed.append(line)
        print(f"{{page.name}}, line {{line}}:", traceback.format_exc(), file=sys.stderr)

threads = [
    threading.Thread(target=run, args=(found[1], text[: found.start(1)].count("\\n")))
    for found in re.finditer({BLOCK.pattern!r}, text, re.DOTALL)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit(bool(failed))
"""


@pytest.fixture(scope="module")
def service() -> Iterator[str]:
    """An emulator for other processes, on a loop in a thread."""
    ready, stop = threading.Event(), asyncio.Event()
    told: list[tuple[str, asyncio.AbstractEventLoop]] = []

    def serve() -> None:
        async def main() -> None:
            async with Emulator(duration=0.5, max_concurrency=500) as emulator:
                told.append((emulator.url, asyncio.get_running_loop()))
                ready.set()
                await stop.wait()

        asyncio.run(main())

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(60)
    ((url, loop),) = told
    yield url
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)


def python(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("RUNNINGHUB", "RH_"))}
    return subprocess.run(
        [sys.executable, "-W", "error", *words],
        capture_output=True, text=True, cwd=cwd, timeout=60, check=False, env={**clean, **env},
    )  # fmt: skip


# -- code -----------------------------------------------------------------------------------------


def lay_out_files(folder: Path) -> None:
    """What the pages speak of as lying there: `pier.png`, `voice.wav`, `ink.safetensors`,
    `posters.csv` and `faults.json`."""
    rows = b"".join(b"\0" + bytes((n, 90, 160)) * 64 for n in range(64))
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", 64, 64, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    (folder / "pier.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    (folder / "voice.wav").write_bytes(sound.getvalue())
    (folder / "ink.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      " + bytes(5000))
    (folder / "posters.csv").write_text(
        "prompt,width,height\na poster for a jazz night,2048,2048\na poster for tea,1728,2304\n"
        "no,2048,2048\n",
        encoding="utf-8",
    )
    (folder / "faults.json").write_text(
        '[{"on": "submit", "kind": "refuse", "code": "421", "share": 0.2}]', encoding="utf-8"
    )


@pytest.mark.long
def test_the_code_on_the_pages_runs(service: str, tmp_path: Path) -> None:
    """Each Python block as it stands, against the emulator, a process to a page; nothing goes to
    stderr but warnings of what was left running."""

    def run(page: Path) -> str:
        folder = tmp_path / page.stem
        folder.mkdir()
        lay_out_files(folder)
        done = python(
            "-c", RUNNER, str(page),
            cwd=folder, RUNNINGHUB_API_KEY="k", RUNNINGHUB_BASE_URL=service,
        )  # fmt: skip
        return done.stderr if done.returncode or "Traceback" in done.stderr else ""

    # One test for all, since they wait more than they work: some pages at once.
    with ThreadPoolExecutor(6) as pool:
        wrong = "\n".join(error for error in pool.map(run, PAGES) if error)
    assert not wrong, wrong


@pytest.mark.parametrize("page", [*PAGES, *API_PAGES], ids=lambda page: page.stem)
def test_no_block_of_python_is_left_out(page: Path) -> None:
    """Every Python block is marked to run."""
    text = page.read_text("utf-8")
    assert len(BLOCK.findall(text)) == len(re.findall(r"^ *(?:```|~~~) ?py", text, re.MULTILINE))


def test_the_pages_have_code_to_run() -> None:
    """The README, and most pages about calls."""
    counts = {page.stem: len(BLOCK.findall(page.read_text("utf-8"))) for page in PAGES}
    assert counts["README"] >= 6
    assert sum(counts.values()) >= 50


# -- tables ---------------------------------------------------------------------------------------

#: The pages of the service's English navigation that are not about a single model.
SERVICE_PAGES = (
    "Log of Update", "Instructions for Use", "About nodeInfoList", "About Enterprise ComfyUI API",
    "Native ComfyUI API Integration Guide", "API Error Code Reference",
    "About Quick Create Invocation", "Obtain quick create parameter data",
    "Initiate Quick Create Task", "Complete integration example",
    "Complete integration example: Advanced Edition", "Full Workflow Integration Example",
    "Task Progress Display Example", "Standard Model API", "Check Task Status",
    "Check Task Output", "Get Webhook Event Details", "Resend Specific Webhook Event",
    "Query generation result (V2)", "Start ComfyUI Task 1 Basic", "Start ComfyUI Task 2 Advanced",
    "Get Workflow JSON", "Cancel ComfyUI Task", "Start AI App Task",
    "Get API call examples for AI application", "File upload (new)", "Upload Resource",
    "Upload Lora", "Get Account Information", "Schemas",
)  # fmt: skip

#: Those that describe no call.
NO_CALL = ("Log of Update", "Schemas")

#: The routes that create a task, beside those with `run` in them.
SUBMITS = ("/task/openapi/create", "/openapi/v2/seedream-v5-lite/text-to-image")

#: Endpoints that are known without a page.
SERVICE_CALLS = (
    "run/workflow", "run/ai-app", "price-preview", "queue/status", "api-key/list", "resource/list",
    "aiapp/list", "assets/create", "assets/list", "assets/query", "assets/update",
    "assets/delete", "assets/groups",
)  # fmt: skip


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def rows(text: str) -> list[list[str]]:
    """The cells of every row of every table, but for headings and rules."""
    lines = text.splitlines()
    return [
        [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line, after in zip(lines, [*lines[1:], ""], strict=True)
        if line.startswith("|") and not line.startswith("|---") and not after.startswith("|---")
    ]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


SERVICE_ROWS = [row for row in rows(page("service-pages.md")) if len(row) == 5]


def there_is(name: str) -> bool:
    """Whether `name` is a call of a session, or a name of the package or of something in it."""
    head, *rest = name.split(".")
    value: Any = rh.Session("k") if head == "session" else getattr(rh, head, None)
    for part in rest:
        if isinstance(value, type) and issubclass(value, Exception) and not hasattr(value, part):
            # What only an instance has stands in its class's `__init__`.
            return part in value.__init__.__code__.co_names
        value = getattr(value, part, None)
    return value is not None


def test_every_page_of_the_service_is_in_the_table() -> None:
    """Each page of its navigation, and each endpoint that has none."""
    assert {row[0] for row in SERVICE_ROWS} >= {*SERVICE_PAGES, *SERVICE_CALLS}


@pytest.mark.parametrize("row", SERVICE_ROWS, ids=lambda row: row[0])
def test_the_table_of_the_services_pages_names_what_there_is(row: list[str]) -> None:
    """Calls, the emulator's routes, commands and pages."""
    title, calls, routes, commands, read = row
    if title in NO_CALL:
        return
    assert quoted(calls)
    assert [name for name in quoted(calls) if not there_is(name)] == []
    for wanted in quoted(routes):
        method, path = wanted.split()
        route, _ = find(method, path)
        assert route.method == method
        # Whatever is nothing else below /openapi/v2 is taken for a model.
        assert (route.place == "submit") == (path in SUBMITS or "run" in path)
    assert {*quoted(commands)} <= COMMANDS
    pages = re.findall(r"\]\(([^)#]+)", read)
    assert pages
    assert all((DOCS / name).exists() for name in pages)


def test_the_schemas_name_what_there_is() -> None:
    """The right-hand side of the table of schemas."""
    found = [row for row in rows(page("service-pages.md")) if len(row) == 2]
    assert len(found) >= 20
    assert [name for _, cell in found for name in quoted(cell) if not there_is(name)] == []


@pytest.mark.parametrize("name", TABLES.TABLES)
def test_the_tables_are_those_of_the_package(name: str) -> None:
    """Codes, commands and states; `python docs/tables.py` writes them anew."""
    assert TABLES.with_tables(name, page(name)) == page(name), "run: python docs/tables.py"


def test_the_drawing_of_the_states_is_that_of_the_package() -> None:
    """Every state has a box, every move its line, and the page shows the drawing."""
    assert {*TABLES.BOXES} == {*rh.MOVES}
    assert {*TABLES.LINES} == {(old, new) for old, moves in rh.MOVES.items() for new in moves}
    assert TABLES.DRAWING.read_text("utf-8") == TABLES.drawing(), "run: python docs/tables.py"
    assert f"(_static/{TABLES.DRAWING.name})" in page("journal.md")


def test_the_lines_of_the_drawing_lead_from_box_to_box() -> None:
    """Each begins and ends on the edge of its own, and no other box hides a part of it."""

    def touches(box: tuple[int, ...], x: int, y: int) -> bool:
        left, top, width, height = box
        return left <= x <= left + width and top <= y <= top + height

    for states, corners in TABLES.LINES.items():
        for state, corner in zip(states, (corners[0], corners[-1]), strict=True):
            assert touches(TABLES.BOXES[state], *corner), states
        for (x, y), (u, v) in itertools.pairwise(corners):
            assert x == u or y == v
            along = [(x + (u - x) * n // 100, y + (v - y) * n // 100) for n in range(101)]
            others = [box for name, box in TABLES.BOXES.items() if name not in states]
            assert not any(touches(box, *point) for box in others for point in along), states


def test_every_code_and_every_error_is_on_the_page_of_errors() -> None:
    """In a row of its own."""
    first = [row[0] for row in rows(page("errors.md"))]
    assert {*CODES} <= {*first}
    errors = {
        name
        for name in rh.__all__
        if isinstance(value := getattr(rh, name), type) and issubclass(value, rh.RunningHubError)
    } - {"RunningHubError"}
    assert errors <= {name for cell in first for name in quoted(cell)}


def test_the_table_of_options_is_true() -> None:
    """Each request takes the options that the table gives it, and no others."""
    values = {
        "webhook_url": "https://example.org/", "instance_type": "plus", "retain_seconds": 60,
        "use_personal_queue": True, "access_password": "p", "add_metadata": False,
    }  # fmt: skip
    found = [row for row in rows(page("options.md")) if len(row) == 7]
    assert {quoted(row[0])[0] for row in found} == {*values}

    def takes(kind: Any, option: str, *words: str, **more: str) -> bool:
        if option not in {field.name for field in attrs.fields(kind)}:
            return False
        return not kind(*words, **{option: values[option]}, **more).check()

    for option, *cells in found:
        name, wire = quoted(option)
        model = "seedream-v4/text-to-image"
        as_field = rh.ModelRequest(model, {"prompt": "a poster", wire: values[name]}).check() == ()
        assert [cell != "no" for cell in cells] == [
            as_field,
            takes(rh.WorkflowRequest, name, "1"),
            takes(rh.WorkflowRequest, name, "1", api="v2"),
            takes(rh.AppRequest, name, "1"),
            takes(rh.AppRequest, name, "1", api="v2"),
            takes(rh.QuickCreateRequest, name, "1", "002"),
        ], name


def test_every_option_of_the_emulator_is_in_its_manual() -> None:
    """Its parameters, the fields, places and kinds of faults, what it counts, what is built in."""
    named = {name for row in rows(page("emulator.md")) for cell in row[:2] for name in quoted(cell)}
    code = Emulator.__init__.__code__
    assert {*code.co_varnames[1 : 1 + code.co_kwonlyargcount]} <= named
    assert {field.name for field in attrs.fields(Fault)} - {"on", "kind"} <= named
    assert {*get_args(Place), *get_args(Kind)} <= named
    assert {field.name for field in attrs.fields(Stats)} <= named


def test_every_public_name_is_in_the_reference() -> None:
    """The package's, and those of the modules that are imported by themselves."""
    text = "\n".join(path.read_text("utf-8") for path in API_PAGES)
    found = {*re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)", text, re.MULTILINE)}
    for module in (rh, emulator, testing, webhooks):
        assert {*module.__all__} <= found


def test_the_reference_has_every_member_of_a_session() -> None:
    """They are listed in the order of their use."""
    text = (DOCS / "api/session.md").read_text("utf-8")
    listed = text.partition(":members:")[2].partition("```")[0].replace(",", " ").split()
    members = [n for n, m in vars(rh.Session).items() if callable(m) or isinstance(m, property)]
    assert sorted(listed) == sorted(name for name in members if not name.startswith("_"))


def test_every_call_of_a_family_is_on_some_page() -> None:
    """Beside the reference, and as it is called."""
    text = "\n".join(path.read_text("utf-8") for path in PAGES)
    session = rh.Session("k")
    calls = {f"session.{name}": call for name, call in vars(rh.Session).items()}
    for name, family in vars(session).items():
        if type(family).__name__ in _families.__all__:
            calls |= {f"session.{name}.{n}": getattr(type(family), n) for n in dir(type(family))}
    names = [
        name
        for name, call in calls.items()
        if isinstance(call, FunctionType) and not name.rpartition(".")[2].startswith("_")
    ]
    assert len(names) > 30
    assert [name for name in names if name not in text and name != "session.aclose"] == []


SHELL = [
    line.removeprefix("$ ")
    for path in PAGES
    for block in re.findall(r"```(?:console|sh)\n(.*?)```", path.read_text("utf-8"), re.DOTALL)
    for line in block.replace("\\\n", "").splitlines()
    if re.match(r"(\$ )?([A-Z_]+=\S+ |\S*/bin/)*runninghub-async ", line)
]


@pytest.mark.parametrize("line", SHELL)
def test_the_commands_on_the_pages_are_such(line: str) -> None:
    """The command line takes them."""
    words = shlex.split(line)
    while not words.pop(0).endswith("runninghub-async"):
        pass
    assert build_parser().parse_args(words).run


# -- README and examples --------------------------------------------------------------------------


def test_the_readme_opens_with_the_two_commands() -> None:
    """Two `sh` blocks come first: one ends by naming the page, one runs the tests."""
    blocks = re.findall(r"```(\w+)\n(.*?)```", README, re.DOTALL)
    assert [language for language, _ in blocks[:2]] == ["sh", "sh"]
    assert "generate examples/posters.csv" in blocks[0][1]
    assert blocks[0][1].strip().splitlines()[-1].endswith('posters/index.html in a browser"')
    assert "nox" in blocks[1][1]


@pytest.mark.long
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_run_without_a_key(path: Path, tmp_path: Path) -> None:
    """Each by itself, on the emulator, without a warning."""
    words = [str(path)]
    if path.stem.endswith("_fastapi"):
        words.append("--self-test")
    if path.name == "endless_prompts.py":
        words.append("8")
    if path.name in ("posters_from_csv.py", "resume_posters.py"):
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
