"""The structure, read from the code: what may import what, and what is public."""

from __future__ import annotations

import ast
import inspect
from importlib import metadata, resources
from pathlib import Path

import pytest

import runninghub_async
import runninghub_async.emulator
import runninghub_async.testing
import runninghub_async.webhooks

PACKAGE = Path(inspect.getfile(runninghub_async)).parent

#: A module may import only from modules before it.
ORDER = (
    "_bounded", "_text", "_untrusted",
    "_addresses", "_ranges", "_media", "_impostors", "_pieces", "_unpacking", "_png",
    "_whole",
    "_states", "_saved", "_nodes", "_models", "_renewal", "_names", "_money", "_exceptions",
    "_outcomes", "_records", "_plain",
    # rules
    "_codes", "_catalogue", "_seedream", "_typed", "_apps", "_runs", "_answers",
    "_protocol", "_protocol_v1", "_progress", "_polling", "_circuit", "_retry", "_limits", "_job",
    "_policies", "_sizes", "_budget", "_journal", "_scheduler", "_recovery",
    # the wire
    "_shielded", "_log", "_threads", "_local", "_abandon", "_proxies", "_resolver", "_exchange",
    "_transport", "_pacing", "_decode", "_partial", "_download",
    # the calls
    "_store", "_owner", "_schema", "_rows", "_migrations", "_inspection", "_journal_file",
    "_sqlite", "_reader", "_recorder",
    "_dispatcher", "_call", "_caller", "_turns", "_fetching", "_hold", "_keeping", "_feed",
    "_journaled", "_stream", "_uploads", "_prepare",
    "_families._pages", "_families._account", "_families._workflows", "_families._apps",
    "_families._resources", "_families._assets", "_families._quick", "_families._older",
    "_families._webhooks", "_families._comfyui", "_families._progress", "_families",
    "_retrying", "webhooks", "_session",
    # the edges
    "testing",
    "emulator._codes", "emulator._faults", "emulator._storms", "emulator._ranges",
    "emulator._pictures", "emulator._hostile", "emulator._graphs", "emulator._library",
    "emulator._service", "emulator._files", "emulator._storage", "emulator._runs", "emulator._v1",
    "emulator._uploads", "emulator._webhooks", "emulator._progress",
    "emulator._proxy", "emulator._routes", "emulator._server", "emulator",
    "_cli._sheet", "_cli._waiting", "_cli._terminal", "_cli._tables", "_cli._lists",
    "_cli._events", "_cli._spreadsheet", "_cli._prompts",
    "_cli._values", "_cli._manifest", "_cli._progress", "_cli._models", "_cli._emulate",
    "_cli._calls", "_cli._results", "_cli._runs", "_cli._report", "_cli._records", "_cli._facts",
    "_cli._signals", "_cli._drive", "_cli._resumable", "_cli._retrying", "_cli._journaled",
    "_cli._generate", "_cli._overview", "_cli._export", "_cli._standard",
    "_cli._workflows", "_cli._apps", "_cli._tasks", "_cli._upload", "_cli._account",
    "_cli._library", "_cli._hooks", "_cli._comfyui", "_cli._parser", "_cli", "__main__", "",
)  # fmt: skip

RULES = ORDER[: ORDER.index("_shielded")]


def modules() -> dict[str, ast.Module]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        name = name.removesuffix("__init__").removesuffix(".")
        found[name] = ast.parse(path.read_text("utf-8"))
    return found


MODULES = modules()


def imports(name: str, *, late: bool = True) -> set[str]:
    """What `name` imports: `._x` names of this package, top-level names of others."""
    base = name.split(".") if name in ("emulator", "_cli", "_families") else name.split(".")[:-1]
    found: set[str] = set()
    tree = MODULES[name]
    nodes = ast.walk(tree) if late else iter(tree.body)
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level:
            parent = base[: len(base) - node.level + 1]
            for alias in node.names:
                target = [*parent, *(node.module.split(".") if node.module else [alias.name])]
                found.add("." + ".".join(target))
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


def test_every_module_has_its_place() -> None:
    """A new file is given one, on purpose."""
    assert set(MODULES) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_those_before_it(name: str) -> None:
    """No way back up, and so no cycle."""
    allowed = {f".{before}" for before in ORDER[: ORDER.index(name)]}
    own = {found for found in imports(name, late=False) if found.startswith(".")}
    assert own <= allowed


@pytest.mark.parametrize("name", RULES)
def test_rules_know_no_loop_clock_chance_files_or_network(name: str) -> None:
    """They decide; others act."""
    forbidden = {"asyncio", "anyio", "aiohttp", "aiolimiter", "time", "datetime", "random",
                 "pathlib", "os", "socket", "logging"}  # fmt: skip
    # A path may be part of a value.
    allowed = {"pathlib"} if name == "_saved" else set()
    assert not imports(name) & forbidden - allowed
    assert not any(isinstance(n, ast.AsyncFunctionDef | ast.Await) for n in ast.walk(MODULES[name])
                   if name != "_scheduler")  # fmt: skip


def test_each_foreign_library_has_one_door() -> None:
    """aiohttp on the wire, in the webhooks' adapter and the emulator; aiolimiter in one file."""
    users = {
        lib: {n for n in ORDER if lib in imports(n)} for lib in ("aiohttp", "aiolimiter", "PIL")
    }
    assert users == {
        "aiohttp": {"_resolver", "_exchange", "_transport", "webhooks",
                    "emulator._webhooks", "emulator._progress", "emulator._proxy",
                    "emulator._routes", "emulator._server", "emulator._storage"},
        "aiolimiter": {"_pacing"},
        "PIL": {"_decode", "emulator._pictures"},
    }  # fmt: skip


def test_the_emulator_reads_the_contract_on_its_own() -> None:
    """Of the client it knows the catalogue's facts, and shares the way into threads."""
    for name in ORDER:
        if name.startswith("emulator"):
            inside = {found for found in imports(name) if found.startswith("._")}
            assert inside <= {"._catalogue", "._threads"}


@pytest.mark.parametrize(
    "module",
    [
        runninghub_async,
        runninghub_async.testing,
        runninghub_async.emulator,
        runninghub_async.webhooks,
    ],
)
def test_public_names_are_listed_documented_and_there(module: object) -> None:
    """`__all__` is sorted as it is read, complete, and everything in it has a docstring."""
    names = module.__all__  # type: ignore[attr-defined]
    public = {
        name for name, value in vars(module).items()
        if not name.startswith("_") and not inspect.ismodule(value)
        and getattr(value, "__module__", "").startswith(module.__name__)  # type: ignore[attr-defined]
    }  # fmt: skip
    assert public <= set(names)
    for name in names:
        value = getattr(module, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_importing_the_package_imports_no_edge() -> None:
    """Neither emulator nor command line nor testing, and no extra."""
    top = {found for found in imports("", late=False) if found.startswith(".")}
    assert not {found for found in top if found.startswith((".emulator", "._cli", ".testing"))}


def test_the_installed_package_is_whole() -> None:
    """Data, template and type marker are in it; the metadata says five dependencies."""
    root = resources.files("runninghub_async")
    for part in (
        "py.typed",
        "catalogue.jsonl",
        "_cli/sheet.html",
        "_typed.pyi",
        "emulator/film.mp4",
        "emulator/faults/bad-weather.json",
    ):
        assert root.joinpath(part).is_file()
    requires = metadata.requires("runninghub_async") or []
    runtime = {r.split(">")[0] for r in requires if "extra ==" not in r}
    assert runtime == {"aiohttp", "attrs", "cattrs", "anyio", "aiolimiter"}
    assert metadata.version("runninghub_async") == runninghub_async.__version__
