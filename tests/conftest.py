"""Every test runs with blocking calls forbidden on a running event loop."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(autouse=True)
def _no_blocking() -> Iterator[None]:
    with blockbuster_ctx():
        yield


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RUNNINGHUB_API_KEY", "RH_API_KEY", "RUNNINGHUB_BASE_URL", "RH_API_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
