"""The money rules in bad weather, over real HTTP."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support import Service, posters, refusal

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import run

LEAVES: list[rh.OnCancel] = ["detach", "cancel", "wait"]

STORM = [
    Fault(on="submit", kind="refuse", code="421", share=0.15),
    Fault(on="submit", kind="refuse", code="1003", share=0.06),
    Fault(on="submit", kind="garbage", share=0.05),
    Fault(on="submit", kind="status", status=502, share=0.03),
    Fault(on="submit", kind="reset", share=0.03),
    Fault(on="query", kind="reset", share=0.10),
    Fault(on="query", kind="garbage", share=0.05),
    Fault(on="query", kind="status", status=503, share=0.05),
    Fault(on="query", kind="stale", share=0.05),
]


class Counting:
    """A transport that counts the submits of each prompt by how they ended."""

    def __init__(self) -> None:
        self._inner = rh.AiohttpTransport()
        self.refused: Counter[bytes] = Counter()
        self.sent: Counter[bytes] = Counter()

    async def send(self, request: rh.Request) -> rh.Response:
        prompt = b"" if request.url.endswith("/query") else request.body or b""
        self.sent[prompt] += 1
        answer = await self._inner.send(request)
        if any(b'"errorCode": "%b"' % code in answer.body for code in (b"421", b"1003")):
            self.refused[prompt] += 1
        return answer

    async def aclose(self) -> None:
        await self._inner.aclose()


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_thousand_jobs_through_a_storm(seed: int) -> None:
    """Every job delivered once; delivered <= billed <= delivered + unknown; nothing submitted
    again after its request left, but for plain refusals."""

    async def main() -> None:
        transport = Counting()
        async with Emulator(duration=0.1, faults=STORM, seed=seed, max_concurrency=40) as emulator:
            async with rh.Session(
                "a-key",
                base_url=emulator.url,
                transport=transport,
                limits=rh.Limits(64, None, None),
                polling=rh.ExponentialPolling(0.05, 1.2, 0.2),
                retry=rh.RetryPolicy(wait_initial=0.01, wait_max=0.05, query_wait_max=0.5),
                rng=random.Random(seed),
            ) as session:
                stream = session.stream(posters(1000))
                outcomes = [outcome async for outcome in stream]
                statistics = stream.statistics()
            billed = emulator.stats.billed
        assert sorted(outcome.index for outcome in outcomes) == list(range(1000))
        kinds = Counter(type(outcome).__name__ for outcome in outcomes)
        assert set(kinds) == {"Succeeded", "Unknown"}
        assert kinds["Succeeded"] <= billed <= kinds["Succeeded"] + kinds["Unknown"]
        assert 40 < kinds["Unknown"] < 200
        ids = [outcome.task.id for outcome in outcomes if outcome.task]
        assert len(set(ids)) == len(ids) == kinds["Succeeded"]
        del transport.sent[b""], transport.refused[b""]
        assert all(times == 1 + transport.refused[p] for p, times in transport.sent.items())
        assert (statistics.succeeded, statistics.unknown) == (kinds["Succeeded"], kinds["Unknown"])

    asyncio.run(main())


async def as_async(requests: Any) -> AsyncIterator[Any]:
    for request in requests:
        yield request


@pytest.mark.parametrize("seed", range(40))
def test_random_leaving_accounts_for_every_task(seed: int) -> None:
    """Left at any moment, in any of the ways: each accepted task is an outcome, or named."""
    chance = random.Random(seed)

    async def main() -> None:
        def trouble(_: str) -> Any:
            return chance.choice([None, None, None, refusal("421"), rh.ConnectError("x")])

        service = Service(
            lambda _: chance.uniform(0, 20), on_submit=trouble, latency=chance.uniform(0.01, 0.9)
        )
        ordered, on_cancel = chance.random() < 0.5, chance.choice(LEAVES)
        limits = rh.Limits(chance.randint(1, 30), None, None)
        async with service.session(limits=limits, rng=chance) as session:
            seen: list[rh.Outcome] = []
            requests = posters() if chance.random() < 0.5 else as_async(posters())
            stream = session.stream(requests, ordered=ordered, on_cancel=on_cancel)
            try:
                async with asyncio.timeout(chance.uniform(0, 60)), stream:
                    async for outcome in stream:
                        seen.append(outcome)
            except TimeoutError:
                pass
            # Answers that were under way when the grace ran out come in the background.
            await asyncio.sleep(100)
            ended = [*seen, *stream.undelivered]
            left = stream.unfinished
            assert sorted([o.index for o in ended] + [item.index for item in left]) == list(
                range(stream.statistics().pulled)
            )
            known = {o.task.id for o in ended if o.task} | {i.task_id for i in left if i.task_id}
            assert known == set(service.created)
            # Every slot is free again: as many run at once as ever.
            again = [o async for o in session.stream(posters(5))]
            assert len(again) == 5

    run(main)
