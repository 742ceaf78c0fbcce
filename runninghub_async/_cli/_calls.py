"""What the commands that call the service share: a session, and words for how it went."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

from .._exceptions import (
    AuthenticationError,
    InsufficientBalanceError,
    PayloadError,
    PlanError,
    RunningHubError,
    SessionError,
)
from .._limits import Limits
from .._session import Session
from ._prompts import UsageError
from ._tables import one_line

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "currency_of",
    "open_session",
    "opened",
    "say",
    "status_of",
    "worded",
]

FAILED, USAGE, REFUSED, INTERRUPTED = 1, 2, 3, 130

_NO_KEY = """\
no API key. Set RUNNINGHUB_API_KEY to a key of runninghub.ai (or of runninghub.cn, with --base-url
https://www.runninghub.cn), or {without}.\
"""


async def open_session(
    stack: contextlib.AsyncExitStack,
    base_url: str | None,
    *,
    limits: Limits = Limits(),  # noqa: B008 - a frozen value
    without: str = "try `runninghub-async emulator`, which takes any, with --base-url",
) -> Session:
    """A session with the key of the environment, open for as long as `stack`. Raises
    `UsageError` for an address that is none, or without a key; then `without` is the advice."""
    try:
        return await stack.enter_async_context(Session(base_url=base_url, limits=limits))
    except SessionError:
        raise UsageError(_NO_KEY.format(without=without)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None


@contextlib.asynccontextmanager
async def opened(args: argparse.Namespace) -> AsyncIterator[Session]:
    """The session of a command with `--base-url`, whose warnings are shown: they name tasks that
    were left behind."""
    logger, handler = logging.getLogger("runninghub_async"), _Said()
    # What its child says has a handler of its own already.
    handler.addFilter(lambda record: record.name == logger.name)
    logger.addHandler(handler)
    try:
        async with contextlib.AsyncExitStack() as stack:
            yield await open_session(stack, args.base_url)
    finally:
        logger.removeHandler(handler)


class _Said(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def currency_of(session: Session) -> str:
    """The wallet's currency is the site's; the emulator bills by the catalogue, in CNY."""
    return "USD" if session.base_url.endswith(".ai") else "CNY"


def status_of(error: RunningHubError) -> int:
    """The exit status that `error` means."""
    if isinstance(error, PayloadError):
        return USAGE
    if isinstance(error, AuthenticationError | PlanError | InsufficientBalanceError):
        return REFUSED
    return FAILED


def worded(error: RunningHubError) -> str:
    """`error` in words; where a fault is the whole request's, there is no place to name."""
    if isinstance(error, PayloadError):
        return "; ".join(problem.removesuffix(" @ $") for problem in error.problems)
    return str(error)


def say(text: object) -> None:
    """One line for whoever watches, now."""
    # They may have gone; what is under way is worth more than its display.
    with contextlib.suppress(OSError, ValueError):
        print(one_line(text), file=sys.stderr, flush=True)
