"""Fresh processes for what is measured, taken in turn, and what a process says of itself."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

__all__ = [
    "ROOT",
    "cpu_of",
    "cpu_seconds",
    "in_fresh_process",
    "in_turn",
    "resident_bytes",
    "resident_from",
]

ROOT: Final = Path(__file__).resolve().parent.parent

#: Longer than anything here takes; a benchmark that hangs must end some time.
_TIMEOUT: Final = 900.0

_STATM: Final = Path("/proc/self/statm")

_T = TypeVar("_T")


def in_fresh_process(function: Callable[..., _T], **arguments: Any) -> _T:
    """`function(**arguments)` in a process of its own; both ways the values travel as JSON.

    Raises `subprocess.SubprocessError` if it fails or does not end.
    """
    command = [sys.executable, "-m", "benchmarks._child", function.__module__, function.__name__]
    done = subprocess.run(
        [*command, json.dumps(arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=_TIMEOUT,
    )
    result: _T = json.loads(done.stdout)
    return result


def in_turn(contenders: Mapping[str, Callable[[], _T]], rounds: int) -> dict[str, list[_T]]:
    """Each contender `rounds` times, one after the other: A B A B A B.

    What slows the machine down for a while then slows all of them.
    """
    results: dict[str, list[_T]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            results[name].append(run())
    return results


def cpu_of(main: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """The user and system time that `asyncio.run(main())` takes."""
    before = cpu_seconds()
    asyncio.run(main())
    return cpu_seconds() - before


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_bytes() -> int:
    """The resident size of this process now; without `/proc`, its largest so far."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    # Kilobytes, but for macOS, where it is bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def resident_from() -> str:
    """Where `resident_bytes` takes its number from."""
    return str(_STATM) if _STATM.exists() else "ru_maxrss, the peak"
