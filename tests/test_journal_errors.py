"""What went wrong in an earlier run: a later one with the same journal raises the same errors."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import Service, refusal

import runninghub_async as rh
from runninghub_async.testing import json_response

PROMPTS = {
    "abc": rh.PayloadError,
    "a poster that is refused": rh.APIError,
    "a poster that fails": rh.TaskFailed,
    "a poster that is cancelled": rh.TaskCancelled,
    "a poster that is made": None,
}


def test_errors_are_the_same_in_a_later_run(tmp_path: Path) -> None:
    """Of a faulty request, a refusal, a failed task and a cancelled one; nothing is sent again."""

    def on_submit(prompt: str) -> rh.Response | None:
        return refusal("1501") if prompt.endswith("refused") else None

    def on_query(task_id: str) -> rh.Response | None:
        status = {"fails": "FAILED", "cancelled": "CANCEL"}
        told = status.get(service.created[task_id].rsplit(maxsplit=1)[-1])
        code = {"errorCode": "1501", "errorMessage": "barred"} if told == "FAILED" else {}
        return json_response({"taskId": task_id, "status": told, **code}) if told else None

    service = Service(0.0, on_submit=on_submit, on_query=on_query, latency=0.0)

    async def outcomes() -> list[rh.Outcome]:
        polling = rh.ExponentialPolling(0.01, 1, 0.01)
        async with service.session(journal=tmp_path / "run.db", polling=polling) as session:
            stream = session.stream(map(rh.SeedreamV5Lite, PROMPTS), ordered=True)
            return [outcome async for outcome in stream]

    first = asyncio.run(outcomes())
    submitted = service.submitted.total()
    second = asyncio.run(outcomes())
    assert service.submitted.total() == submitted == 4

    def told(outcome: rh.Outcome) -> tuple[Any, ...]:
        error = None if isinstance(outcome, rh.Succeeded) else outcome.error
        return type(outcome), type(error), getattr(error, "code", None), str(error)

    assert list(map(told, first)) == list(map(told, second))
    for outcome, kind in zip(second, PROMPTS.values(), strict=True):
        assert isinstance(outcome, rh.Succeeded if kind is None else (rh.Failed, rh.Cancelled))
        assert kind is None or isinstance(getattr(outcome, "error", None), kind)


@pytest.mark.parametrize(
    ("amount", "currency", "error"),
    [
        (0.22, "CNY", TypeError),
        ("much", "CNY", ValueError),
        (Decimal("NaN"), "CNY", ValueError),
        ("Infinity", "CNY", ValueError),
        ("1", "", ValueError),
        ("1", "C1Y", ValueError),
        ("1", None, ValueError),
    ],
)
def test_what_is_no_money_is_refused(amount: Any, currency: Any, error: type[Exception]) -> None:
    """A float cannot hold most amounts."""
    with pytest.raises(error, match=r"money|currency"):
        rh.Money(amount, currency)
