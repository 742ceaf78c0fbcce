"""Every test runs with blocking calls forbidden on a running event loop, and without an API key
in anything that is logged."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import hypothesis
import pytest
from blockbuster import blockbuster_ctx

# How long an example takes says nothing about the code on a machine that others use, too.
hypothesis.settings.register_profile(
    "here",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    database=None,
)
hypothesis.settings.load_profile("here")


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with blockbuster_ctx():
        yield


#: The keys that the suite's sessions use, and no test's data holds.
KEYS = ("a-key", "any-key", "a-key-of-16-chars", "secret")


def leaks(record: logging.LogRecord) -> bool:
    """Whether a key is in anything that a handler could write of `record`."""
    text = logging.Formatter().format(record)
    return any(key in text for key in KEYS)


class _Watch(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        # What the tests' own servers write down of what they were asked is none of ours.
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


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNNINGHUB_API_KEY", "RH_API_KEY", "RUNNINGHUB_BASE_URL", "RH_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
