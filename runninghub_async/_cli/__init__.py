"""The command `runninghub-async`: how it starts, and how it ends."""

from __future__ import annotations

import argparse
import contextlib
import logging
import traceback
from collections.abc import Iterator, Sequence

from .._exceptions import RunningHubError
from ._calls import FAILED, INTERRUPTED, USAGE, say, status_of, worded
from ._parser import build_parser
from ._prompts import UsageError
from ._terminal import screens

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    It is also 1 if the command succeeded but standard output could not be written.
    """
    with screens() as screen:
        args = build_parser().parse_args(argv)
        with _warnings_shown():
            status = _run(args)
        try:
            screen.wait_for_room()
        except KeyboardInterrupt:
            return INTERRUPTED
        return status or (FAILED if screen.broken else 0)


def _run(args: argparse.Namespace) -> int:
    try:
        status: int = args.run(args)
    except UsageError as error:
        say(f"{_name(args)}: {error}")
        return USAGE
    except RunningHubError as error:
        say(f"{_name(args)}: {worded(error)}")
        return status_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return FAILED
    except OSError as error:
        say(f"{_name(args)}: {error}")
        return FAILED
    except Exception:
        # A bug of ours. Its traceback may quote text of others, which is escaped when printed.
        traceback.print_exc()
        return FAILED
    return status


def _name(args: argparse.Namespace) -> str:
    action = getattr(args, "action", "")
    return f"runninghub-async {args.command}{action and ' '}{action}"


class _Shown(logging.Handler):
    """Log records on standard error, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        say(record.getMessage() + (f": {error!r}" if error is not None else ""))


@contextlib.contextmanager
def _warnings_shown() -> Iterator[None]:
    """The library's warnings say what it waits for, and which tasks were left behind."""
    package, handler = logging.getLogger("runninghub_async"), _Shown(logging.WARNING)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
