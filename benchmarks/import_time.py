"""Time of `import runninghub_async` against that of its five dependencies alone.

Each import runs in a fresh process, around `time.perf_counter`, so the start of the interpreter is
left out. All bytecode is compiled beforehand, into a folder made for the purpose: the checkout is
not written to, and `PYTHONDONTWRITEBYTECODE` does not matter.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import Final

from ._process import ROOT, in_turn
from ._table import Row, ratio, series

__all__ = ["measure"]

NAME: Final = "import_time"
ROUNDS: Final = 15
BAR: Final = 1.3

_DEPENDENCIES: Final = "aiohttp, attrs, cattrs, anyio, aiolimiter"
_PROGRAM: Final = """\
import time
start = time.perf_counter()
import {modules}
print(time.perf_counter() - start)
"""


def measure(_: int) -> list[Row]:
    """The rows of this benchmark. There is no size to scale down."""
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        contenders = {
            "ours": lambda: _seconds("runninghub_async", environment),
            "dependencies": lambda: _seconds(_DEPENDENCIES, environment),
        }
        in_turn(contenders, 1)
        times = in_turn(contenders, ROUNDS)
    sides = ", ".join(f"{name} {series(times[name], 'ms', 1000)}" for name in times)
    measured = "ours / its 5 dependencies"
    return [ratio(NAME, measured, times["ours"], times["dependencies"], bar=BAR, behind=sides)]


def _seconds(modules: str, environment: Mapping[str, str]) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(modules=modules)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    return float(done.stdout)
