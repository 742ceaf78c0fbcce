"""What `_typed.pyi` costs: in the wheel, at import, and in mypy and pyright.

The package is copied twice, once without the stub. The checkers look at a file of 20 right calls,
of models from all over the catalogue, each time as if for the first time (mypy without a cache,
pyright has none): as `models[...](...)`, and the same as `ModelRequest(...)`, with the stub and
without. A checker that is not installed is passed over.
"""

from __future__ import annotations

import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

from runninghub_async import Catalogue, ModelSpec, ParamSpec

from ._process import ROOT, in_turn
from ._table import Row, not_measured, ratio, series

__all__ = ["measure"]

NAME: Final = "typing_cost"
CALLS: Final = 20
ROUNDS: Final = 5
IMPORT_ROUNDS: Final = 15
BAR: Final = 2.0
IMPORT_BAR: Final = 1.1

_CHECKERS: Final = {
    # Silent: what is to be found wrong is in the file, not in the package.
    "mypy": ("--strict", "--config-file=", f"--cache-dir={os.devnull}", "--follow-imports=silent"),
    "pyright": ("--pythonpath", sys.executable),
}
_IMPORT: Final = """\
import time
start = time.perf_counter()
import runninghub_async._typed
print(time.perf_counter() - start)
"""
_VALUES: Final = {
    "string": "'x'",
    "boolean": "True",
    "integer": "1",
    "number": "1.5",
    "image": "'https://x/a.png'",
    "video": "'https://x/a.mp4'",
    "audio": "'https://x/a.mp3'",
    "object": "{}",
}


def measure(scale: int) -> list[Row]:
    """The rows of this benchmark, with a `scale`-th of the checkers' rounds."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        trees = {name: Path(folder, name) for name in ("with", "without")}
        for tree in trees.values():
            shutil.copytree(
                ROOT / "runninghub_async",
                tree / "runninghub_async",
                ignore=shutil.ignore_patterns("__pycache__"),
            )
            (tree / "by_models.py").write_text(_program(_as_models), encoding="utf-8")
            (tree / "by_request.py").write_text(_program(_as_request), encoding="utf-8")
            (tree / "wrong.py").write_text(_WRONG, encoding="utf-8")
        stub = trees["without"] / "runninghub_async" / "_typed.pyi"
        stub_size = stub.stat().st_size
        stub.unlink()
        rows = [_size(trees, stub_size), _import(trees)]
        for checker in _CHECKERS:
            if importlib.util.find_spec(checker) is None:
                rows.append(not_measured(NAME, checker, "not installed"))
            else:
                rows += _checking(checker, trees, max(1, ROUNDS // scale))
    return rows


def _size(trees: Mapping[str, Path], stub: int) -> Row:
    sizes = {name: _zipped(tree) for name, tree in trees.items()}
    behind = f"{sizes['with']:,} and {sizes['without']:,} bytes; the stub alone {stub:,}, unpacked"
    return ratio(
        NAME, "package, zipped: with / without", [sizes["with"]], [sizes["without"]], behind=behind
    )


def _zipped(tree: Path) -> int:
    """What the package takes in a wheel."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((tree / "runninghub_async").rglob("*")):
            archive.write(path, path.relative_to(tree))
    return buffer.tell()


def _import(trees: Mapping[str, Path]) -> Row:
    contenders = {name: partial(_import_seconds, tree) for name, tree in trees.items()}
    in_turn(contenders, 1)  # compiles the bytecode
    times = in_turn(contenders, IMPORT_ROUNDS)
    return ratio(
        NAME,
        "import: with / without",
        times["with"],
        times["without"],
        bar=IMPORT_BAR,
        behind=", ".join(f"{name} {series(times[name], 'ms', 1000)}" for name in times),
    )


def _import_seconds(tree: Path) -> float:
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tree / "bytecode")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return float(done.stdout)


def _checking(checker: str, trees: Mapping[str, Path], rounds: int) -> list[Row]:
    contenders: dict[str, Callable[[], float]] = {
        "models": partial(_check_seconds, checker, trees["with"], "by_models.py"),
        "ModelRequest": partial(_check_seconds, checker, trees["with"], "by_request.py"),
        "ModelRequest without the stub": partial(
            _check_seconds, checker, trees["without"], "by_request.py"
        ),
    }
    in_turn(contenders, 1)  # brings what is read into the system's cache
    times = in_turn(contenders, rounds)
    used, unused, absent = times.values()
    behind = ", ".join(f"{name} {series(times[name], 's')}" for name in times)
    lines = len(_check(checker, trees["with"], "wrong.py").stdout.splitlines())
    return [
        ratio(
            NAME, f"{checker}: {CALLS} models[]() / as ModelRequest(), no stub", used, absent,
            bar=BAR, behind=behind,
        ),
        ratio(
            NAME, f"{checker}: ModelRequest(), with / without the stub", unused, absent, bar=BAR
        ),
        Row(NAME, f"{checker}: printed for one wrong choice", lines, "lines"),
    ]  # fmt: skip


def _check_seconds(checker: str, tree: Path, program: str) -> float:
    start = perf_counter()
    done = _check(checker, tree, program)
    seconds = perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{checker} {program}: {done.stdout.strip()}")
    return seconds


def _check(checker: str, tree: Path, program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", checker, *_CHECKERS[checker], program],
        cwd=tree,
        stdout=subprocess.PIPE,
        check=False,
        encoding="utf-8",
        timeout=300,
    )


_HEAD: Final = """\
from runninghub_async import ModelRequest
from runninghub_async._typed import models

"""
_WRONG: Final = f'{_HEAD}models["seedream-v4/text-to-image"](prompt="x", resolution="9k")\n'


def _program(call: Callable[[ModelSpec, dict[str, str]], str]) -> str:
    catalogue = [spec for spec in Catalogue.load() if not spec.incomplete]
    specs = catalogue[:: len(catalogue) // CALLS][:CALLS]
    return _HEAD + "".join(f"{call(spec, _given(spec))}\n" for spec in specs)


def _given(spec: ModelSpec) -> dict[str, str]:
    return {param.alias or param.name.rpartition("##")[2]: _value(param) for param in spec.params}


def _value(param: ParamSpec) -> str:
    value = repr(param.choices[0]) if param.type == "enum" else _VALUES[param.type]
    return f"[{value}]" if param.multiple else value


def _as_models(spec: ModelSpec, given: dict[str, str]) -> str:
    inner = ", ".join(f"{key}={value}" for key, value in given.items())
    return f"models[{spec.path!r}]({inner})"


def _as_request(spec: ModelSpec, given: dict[str, str]) -> str:
    inner = ", ".join(f"{key!r}: {value}" for key, value in given.items())
    return f"ModelRequest({spec.path!r}, {{{inner}}})"
