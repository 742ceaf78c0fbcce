"""Every test runs with blocking calls forbidden on a running event loop."""

from __future__ import annotations

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


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNNINGHUB_API_KEY", "RH_API_KEY", "RUNNINGHUB_BASE_URL", "RH_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
