"""Every test runs with blocking calls forbidden on a running event loop, and without an API key
in anything that is logged. No process that the suite starts may outlive it.

`TEST_LOOP` names the event loop, see `loops.py`; `TEST_SIZE` says how much there is of what comes
in large numbers, see `support.py`.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Generator, Iterator

import hypothesis
import loops
import pytest
import survivors
from blockbuster import blockbuster_ctx
from support import FULL

for name, examples, full in (("everyday", 25, False), ("full", 100, True)):
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        # The duration of an example says nothing on a machine that other programs use, too.
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        database=None,
        # The same examples each day; new ones are looked for in full size.
        derandomize=not full,
        print_blob=True,
    )
hypothesis.settings.load_profile("full" if FULL else "everyday")

loops.install()

# A shell's background job ignores SIGINT, and so does what it starts: the tests send it on purpose.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A user's own environment must not reach the tests or the commands that they start.
for name in list(os.environ):
    if (
        name.startswith(("RUNNINGHUB_", "RH_"))
        or name.lower().endswith("_proxy")
        # Colours and widths of terminals; with the last two pytest shows differences of any length.
        or name in {"FORCE_COLOR", "NO_COLOR", "COLUMNS", "LINES", "CI", "BUILD_NUMBER"}
    ):
        del os.environ[name]

FIRST = survivors.mark()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish() -> Iterator[None]:
    """Fail if a process outlived the suite, after the workers have ended and the summary was
    printed."""
    yield
    if FIRST and (left := survivors.ended()):
        pytest.exit("\n".join(["these processes outlived the suite:", *left]), returncode=1)


#: How many lines of a failure are shown, from its start and from its end.
HEAD, TAIL = 12, 22


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show a failure on a page, however long its traceback, unless --tb asks for more."""
    report = yield
    if report.failed and item.config.getoption("tbstyle") == "short":
        lines = str(report.longrepr).splitlines()
        if (left_out := len(lines) - HEAD - TAIL) > 0:
            told = f"... {left_out} lines left out: --tb=long shows them ..."
            report.longrepr = "\n".join([*lines[:HEAD], told, *lines[-TAIL:]])
    return report


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with blockbuster_ctx():
        yield


#: The keys that the suite's sessions use, and no test's data holds.
KEYS = ("a-key", "any-key", "a-key-of-16-chars", "secret")


def leaks(record: logging.LogRecord) -> bool:
    """Whether a key is in any part of `record` that a handler could write."""
    text = logging.Formatter().format(record)
    return any(key in text for key in KEYS)


class _Watch(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # What the tests' own servers record about requests is not a log of the package.
        if record.name != "aiohttp.access" and leaks(record):
            self.found.append(f"{record.name}: {record.msg}")


@pytest.fixture(autouse=True)
def _no_key_in_any_log() -> Iterator[None]:
    watch, root = _Watch(), logging.getLogger()
    level = root.level
    root.addHandler(watch)
    root.setLevel(logging.DEBUG)
    yield
    root.removeHandler(watch)
    root.setLevel(level)
    assert watch.found == []
