"""Two thousand jobs over a journal, with a fifth of the submits' answers lost, over real HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web
from support import posters

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault

#: Thousands of jobs over real HTTP.
pytestmark = pytest.mark.long

JOBS = 2000
LOST_ANSWERS = Fault(on="submit", kind="reset", share=0.2)


@contextlib.asynccontextmanager
async def receiver(patience: float) -> AsyncIterator[rh.Webhooks]:
    """A receiver that looks at what it announced only now and then by itself."""
    hooks: rh.Webhooks

    async def take(request: web.Request) -> web.Response:
        return await hooks.aiohttp(request)

    application = web.Application()
    application.router.add_post("/hooks/", take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        polling = rh.ExponentialPolling(1.0, 1, 1.0)
        url = f"http://127.0.0.1:{port}/hooks/"
        hooks = rh.Webhooks(url, patience=patience, polling=polling)
        yield hooks
    finally:
        await runner.cleanup()


@attrs.frozen
class Ended:
    """What a storm left behind."""

    kinds: Counter[str]
    created: Counter[str]
    billed: int
    spent: Decimal
    states: Counter[rh.JobState]
    lost: set[str]


def storm(
    folder: Path,
    faults: str | list[Fault],
    *,
    patience: float | None,
    seed: int = 0,
    awaited: Callable[[str], bool] | None = None,
) -> Ended:
    """2,000 jobs, or until those are there whose prompt is `awaited`; `patience` in seconds, None
    without webhooks."""
    emulator = Emulator(
        duration=0.2,
        max_concurrency=None,
        faults=faults,
        seed=seed,
        webhook_gap=0.1,
        webhook_retries=1000,
    )

    async def main() -> list[rh.Outcome]:
        outcomes: list[rh.Outcome] = []
        wanted = (request.to_params()["prompt"] for request in posters(JOBS))
        missing = {prompt for prompt in wanted if awaited is None or awaited(prompt)}
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(emulator)
            hooks = None
            if patience is not None:
                hooks = await stack.enter_async_context(receiver(patience))
            options: dict[str, Any] = {"webhooks": hooks, "rng": random.Random(seed)}
            session = await stack.enter_async_context(
                rh.Session(
                    "a-key",
                    base_url=emulator.url,
                    journal=folder / "run.db",
                    limits=rh.Limits(200, None, None),
                    polling=rh.ExponentialPolling(0.1, 1, 0.1),
                    retry=rh.RetryPolicy(wait_initial=0.02, wait_max=0.1),
                    **options,
                )
            )
            stream = await stack.enter_async_context(session.stream(posters(JOBS)))
            async for outcome in stream:
                outcomes.append(outcome)
                missing.discard(outcome.request.to_params()["prompt"])
                if not missing:
                    break
        return outcomes

    outcomes = asyncio.run(main())
    indexes = sorted(outcome.index for outcome in outcomes)
    assert indexes == sorted(set(indexes))
    assert awaited is not None or indexes == list(range(JOBS))
    ids = [outcome.task.id for outcome in outcomes if outcome.task]
    assert len(set(ids)) == len(ids)
    with rh.JournalReader(folder / "run.db") as reader:
        summary = reader.summary()
        jobs = list(reader.jobs())
    states = Counter(job.state for job in jobs)
    assert {state: n for state, n in summary.states.items() if n} == states
    return Ended(
        Counter(type(outcome).__name__ for outcome in outcomes),
        emulator.created,
        emulator.stats.billed,
        summary.spent.amount,
        states,
        {j.request.to_params()["prompt"] for j in jobs if j.state is rh.JobState.UNKNOWN},
    )


def test_with_webhooks_no_lost_answer_loses_a_job(tmp_path: Path) -> None:
    """2,000 delivered, 2,000 billed, none unknown, although 400 answers never came."""
    ended = storm(tmp_path, [LOST_ANSWERS], patience=60)
    assert ended.kinds == {"Succeeded": JOBS}
    assert ended.billed == ended.created.total() == JOBS
    assert ended.spent == Decimal("0.22") * JOBS
    assert ended.states == {rh.JobState.SUCCEEDED: JOBS}


def test_without_webhooks_what_was_lost_is_named(tmp_path: Path) -> None:
    """Delivered and unknown make 2,000, which is what was billed: nothing was bought twice."""
    ended = storm(tmp_path, [LOST_ANSWERS], patience=None)
    assert set(ended.kinds) == {"Succeeded", "Unknown"}
    assert ended.kinds.total() == ended.billed == JOBS
    assert ended.created.most_common(1)[0][1] == 1
    assert 300 < ended.kinds["Unknown"] < 500
    assert ended.spent == Decimal("0.22") * ended.kinds["Succeeded"]


def test_with_events_lost_doubled_and_late(tmp_path: Path) -> None:
    """Only where the answer and its event were both lost is a job unknown, about 2 % of them."""
    ended = storm(tmp_path, "lost-answers-and-events", patience=20, seed=1)
    assert set(ended.kinds) == {"Succeeded", "Unknown"}
    assert ended.kinds.total() == ended.billed == JOBS
    assert ended.created.most_common(1)[0][1] == 1
    assert 10 < ended.kinds["Unknown"] < 80


def test_only_events_that_were_lost_leave_a_job_unknown(tmp_path: Path) -> None:
    """Those of the prompts with a 9 are; garbage and repetition do no harm to the others."""
    faults = [
        LOST_ANSWERS,
        Fault(on="webhook", kind="lost", match="number 9"),
        Fault(on="webhook", kind="duplicate", share=0.2, times_each=3),
        Fault(on="webhook", kind="delay", seconds=0.5, share=0.2),
    ]
    ended = storm(
        tmp_path, faults, patience=1e6, seed=2, awaited=lambda prompt: "number 9" not in prompt
    )
    assert ended.lost
    assert all("number 9" in prompt for prompt in ended.lost)
    assert ended.states.total() == ended.billed == ended.created.total() == JOBS
    assert ended.created.most_common(1)[0][1] == 1
