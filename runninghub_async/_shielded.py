"""Waiting that no cancellation breaks off."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import anyio

__all__ = ["wait_out"]


async def wait_out(tasks: Iterable[asyncio.Future[Any]]) -> None:
    """Wait until all have ended; a cancellation takes effect only then."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while pending := [task for task in tasks if not task.done()]:
            try:
                await asyncio.wait(pending)
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
