"""The command `runninghub-async`: what each subcommand takes, and how it ends."""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from ._prompts import UsageError

__all__ = ["main"]

USAGE = 2

_GENERATE = """\
PROMPTS is a .txt file (a prompt a line), a .csv or .jsonl file (columns or keys are the request's
fields, such as prompt, width, height), or - for a prompt a line on standard input. Lists in a .csv
cell are separated by |. DIR gets a file per result, manifest.jsonl and index.html.

exit status: 0 all done, 1 some failed, 2 usage, 3 stopped by key, plan or balance,
130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = _parser().parse_args(argv)
    # The commands say themselves what most of the library's warnings would.
    logging.getLogger("runninghub_async").addHandler(logging.NullHandler())
    logging.getLogger("runninghub_async.trouble").addHandler(logging.StreamHandler())
    try:
        status: int = args.run(args)
    except UsageError as error:
        print(f"runninghub-async {args.command}: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; a second complaint at exit helps nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="runninghub-async",
        description="Generate with RunningHub's API: many at once, none billed twice, none lost.",
    )
    from .. import __version__

    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_generate(commands)
    _add_emulator(commands)
    _add_models(commands)
    return parser


def _add_generate(commands: Any) -> None:
    command = commands.add_parser(
        "generate",
        help="a file of prompts in, a folder of pictures and a page out",
        epilog=_GENERATE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.add_argument("prompts", metavar="PROMPTS", help=".txt, .csv, .jsonl, or -")
    command.add_argument("--out", required=True, metavar="DIR", help="the folder for the results")
    command.add_argument(
        "--model",
        default="seedream-v5-lite/text-to-image",
        metavar="NAME",
        help="path or documented name (default %(default)s)",
    )
    command.add_argument(
        "--param",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a field for every request; the input's own fields come first",
    )
    command.add_argument(
        "--rate", type=_positive, default=10.0, metavar="R", help="submits per second (default 10)"
    )
    command.add_argument(
        "--concurrency",
        type=_count,
        default=50,
        metavar="N",
        help="tasks alive at the service at once (default 50)",
    )
    command.add_argument("--limit", type=_count, metavar="N", help="take only the first N requests")
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--emulator", action="store_true", help="run against a built-in stand-in, without a key"
    )
    where.add_argument("--base-url", metavar="URL", help="the service's origin")
    command.set_defaults(run=_on_loop(_generate))


def _add_emulator(commands: Any) -> None:
    command = commands.add_parser(
        "emulator", help="serve a stand-in for the API on loopback until stopped"
    )
    command.add_argument("--port", type=int, default=0, metavar="N", help="default: a free one")
    command.add_argument(
        "--duration",
        type=_seconds,
        default=8.0,
        metavar="S",
        help="seconds a task takes, half to one and a half times (default 8)",
    )
    command.add_argument(
        "--max-concurrency", type=_count, default=50, metavar="N", help="default 50; then 421"
    )
    command.add_argument("--rate", type=_positive, metavar="N", help="requests/s; then 1003")
    command.add_argument("--faults", metavar="FILE", help="a JSON list of fault rules")
    command.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance")
    command.add_argument("--api-key", metavar="KEY", help="the only key to take; default: any")
    command.set_defaults(run=_on_loop(_emulate))


def _add_models(commands: Any) -> None:
    command = commands.add_parser("models", help="search the catalogue, or show one model")
    command.add_argument("words", nargs="*", metavar="WORDS", help="words, or a model's name")
    command.set_defaults(run=_models)


def _on_loop(
    command: Callable[[argparse.Namespace], Coroutine[Any, Any, int]],
) -> Callable[[argparse.Namespace], int]:
    return lambda args: asyncio.run(command(args))


# Imported when called, so that one command does not load what another needs.


async def _generate(args: argparse.Namespace) -> int:
    from ._generate import generate

    return await generate(args)


async def _emulate(args: argparse.Namespace) -> int:
    from ._emulate import emulate

    return await emulate(args)


def _models(args: argparse.Namespace) -> int:
    from ._models import show_models

    return show_models(args)


def _positive(text: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _seconds(text: str) -> float:
    value = _number(text)
    if not (math.isfinite(value) and value >= 0):
        raise argparse.ArgumentTypeError(f"expected seconds, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
