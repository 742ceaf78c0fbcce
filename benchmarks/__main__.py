"""`python -m benchmarks [--quick] [NAME ...]`: run the benchmarks and print one table.

Ratios come first; those with a bar say whether it is met, and the exit status is 1 if one is not,
or could not be measured. `--quick` takes a tenth of the sizes: enough to see that everything runs,
too little to believe the numbers.

What is measured runs in a fresh process of its own, the service it talks to in another. Things that
are compared are run in turn, A B A B A B; a ratio is one of medians, its range that of the rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

from . import cpu_per_job, import_time, journal, lag, memory, pictures, query_rate, typing_cost
from ._table import Row, not_measured, render

_BENCHMARKS: Final[dict[str, Callable[[int], list[Row]]]] = {
    module.NAME: module.measure
    for module in (
        cpu_per_job,
        query_rate,
        journal,
        import_time,
        lag,
        memory,
        pictures,
        typing_cost,
    )
}


def main() -> int:
    """Run the benchmarks that were named, or all; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(_BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="a tenth of the sizes")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(_BENCHMARKS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    failed = False
    for name in arguments.names or _BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            rows += _BENCHMARKS[name](10 if arguments.quick else 1)
        except (subprocess.SubprocessError, RuntimeError) as error:
            failed = True
            rows.append(not_measured(name, "failed", str(error)[-80:]))
    print(_caption(quick=arguments.quick), render(rows), sep="\n")
    return int(failed or any(row.met is False for row in rows))


def _caption(*, quick: bool) -> str:
    where = f"Python {platform.python_version()}, aiohttp {version('aiohttp')}"
    return f"{where}, {os.cpu_count()} CPUs{', a tenth of the sizes' if quick else ''}"


if __name__ == "__main__":
    sys.exit(main())
