"""The command `runninghub-async`: how it starts, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence

from .._exceptions import RunningHubError
from ._parser import build_parser
from ._prompts import UsageError

__all__ = ["main"]

USAGE = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names come in scripts that a terminal's encoding may not have.
        sys.stdout.reconfigure(errors="backslashreplace")
    args = build_parser().parse_args(argv)
    try:
        with _logging():
            status: int = args.run(args)
    except UsageError as error:
        print(f"{_name(args)}: {error}", file=sys.stderr)
        return USAGE
    except RunningHubError as error:
        from ._calls import say, status_of, worded

        say(f"{_name(args)}: {worded(error)}")
        return status_of(error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read the output has gone; a second complaint at exit helps nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status


def _name(args: argparse.Namespace) -> str:
    action = getattr(args, "action", "")
    return f"runninghub-async {args.command}{action and ' '}{action}"


@contextlib.contextmanager
def _logging() -> Iterator[None]:
    """The commands say themselves what most of the library's warnings would."""
    quiet, trouble = logging.NullHandler(), logging.StreamHandler()
    package = logging.getLogger("runninghub_async")
    package.addHandler(quiet)
    package.getChild("trouble").addHandler(trouble)
    try:
        yield
    finally:
        package.removeHandler(quiet)
        package.getChild("trouble").removeHandler(trouble)
