"""What the commands that call the service share: a session, and words for how it went."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import Any

from .._exceptions import (
    AuthenticationError,
    BudgetError,
    InsufficientBalanceError,
    JournalError,
    PayloadError,
    PlanError,
    RunningHubError,
    SessionError,
)
from .._limits import Limits
from .._money import Money
from .._session import Session
from .._transport import AiohttpTransport
from ._prompts import UsageError
from ._tables import one_line

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "USAGE",
    "budget_of",
    "currency_of",
    "open_session",
    "opened",
    "say",
    "status_of",
    "worded",
]

FAILED, USAGE, REFUSED, INTERRUPTED = 1, 2, 3, 130

#: Networks in the environment, as `--result-network` names them, with commas or blanks between.
_NETWORKS = "RUNNINGHUB_RESULT_NETWORKS"

_NO_KEY = """\
no API key. Set RUNNINGHUB_API_KEY to a key of runninghub.ai (or of runninghub.cn, with --base-url
https://www.runninghub.cn), or {without}.\
"""


async def open_session(
    stack: contextlib.AsyncExitStack,
    base_url: str | None,
    *,
    limits: Limits = Limits(),  # noqa: B008 - a frozen value
    networks: Sequence[str] = (),
    without: str = "try `runninghub-async emulator`, which takes any, with --base-url",
    **options: Any,
) -> Session:
    """A session with the key of the environment, open for as long as `stack`; `options` are more of
    its arguments. `networks`: those of `--result-network`. Raises `UsageError` for an invalid
    address or a missing key (with `without` as the advice), and `JournalError`."""
    try:
        options["transport"] = _transport(networks)
        session = Session(base_url=base_url, limits=limits, **options)
        return await stack.enter_async_context(session)
    except SessionError:
        raise UsageError(_NO_KEY.format(without=without)) from None
    except ValueError as error:
        raise UsageError(str(error)) from None


def _transport(networks: Sequence[str]) -> AiohttpTransport | None:
    """The transport for results in these networks, and in those of the environment; None for the
    session's own."""
    more = os.environ.get(_NETWORKS, "").replace(",", " ").split()
    try:
        return AiohttpTransport(result_networks=[*networks, *more]) if networks or more else None
    except ValueError as error:
        raise UsageError(f"{_NETWORKS}: {error}") from None


@contextlib.asynccontextmanager
async def opened(args: argparse.Namespace) -> AsyncIterator[Session]:
    """The session of a command with `--base-url`."""
    async with contextlib.AsyncExitStack() as stack:
        networks = getattr(args, "result_network", ())
        yield await open_session(stack, args.base_url, networks=networks)


def currency_of(session: Session) -> str:
    """The wallet's currency is the site's; the emulator bills by the catalogue, in CNY."""
    return "USD" if session.base_url.endswith(".ai") else "CNY"


def budget_of(
    given: tuple[Decimal, str] | None, base_url: str | None, told: str = ""
) -> Money | None:
    """What `--budget` means, as an amount and a currency, which may be empty; then it is `told`,
    the journal's, or the site's. Raises `UsageError` for an address that is none."""
    if given is None:
        return None
    number, currency = given
    try:
        return Money(number, currency or told or currency_of(Session(base_url=base_url)))
    except ValueError as error:
        raise UsageError(str(error)) from None


def status_of(error: RunningHubError) -> int:
    """The exit status that `error` means."""
    if isinstance(error, PayloadError | JournalError):
        return USAGE
    if isinstance(error, AuthenticationError | PlanError | InsufficientBalanceError | BudgetError):
        return REFUSED
    return FAILED


def worded(error: RunningHubError) -> str:
    """`error` in words; where a fault is the whole request's, there is no place to name."""
    if isinstance(error, PayloadError):
        return "; ".join(problem.removesuffix(" @ $") for problem in error.problems)
    return str(error)


def say(text: object) -> None:
    """Print one line on standard error at once."""
    # In one write: the journal's thread logs at the same time.
    print(f"{one_line(text)}\n", end="", file=sys.stderr, flush=True)
