"""What runs in a fresh process: one function of one benchmark. See `_process.in_fresh_process`."""

from __future__ import annotations

import importlib
import json
import sys


def main(module: str, name: str, arguments: str) -> None:
    """Call `module.name` with `arguments`, a JSON object, and write its result as JSON."""
    function = getattr(importlib.import_module(module), name)
    json.dump(function(**json.loads(arguments)), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
