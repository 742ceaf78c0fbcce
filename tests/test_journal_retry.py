"""Retries of failed jobs: a task that may still run is queried first."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import Answer, Service, posters, refusal

import runninghub_async as rh
from runninghub_async.testing import json_response, run

LOST = rh.Response(504, b"")


async def collect(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


class Forgetful(Service):
    """A service that does not know its tasks for a while, or says that they failed."""

    def __init__(self) -> None:
        super().__init__(5.0, on_query=self._say)
        self.says: Any = None

    def _say(self, task_id: str) -> Answer:
        if self.says in ("807", "1001"):
            return refusal(self.says)
        if self.says == "FAILED":
            return json_response(
                {
                    "taskId": task_id, "status": "FAILED", "errorCode": "1005",
                    "errorMessage": "no", "usage": {"thirdPartyConsumeMoney": "0.22"},
                }
            )  # fmt: skip
        return None


def failed(service: Forgetful, journal: Path, count: int = 3) -> None:
    """Jobs that failed because the service said that it knew no such tasks."""
    service.says = "807"

    async def main() -> None:
        async with service.session(journal=journal) as session:
            outcomes = await collect(session.stream(posters(count)))
            assert [type(outcome.error) for outcome in outcomes] == [rh.NotFoundError] * count

    run(main)
    service.says = None


def retried(service: Service, journal: Path, **options: Any) -> tuple[rh.Retried, list[Any]]:
    async def main() -> tuple[rh.Retried, list[Any]]:
        async with service.session(journal=journal) as session:
            done = await session.retry(**options)
            return done, await collect(session.resume())

    return run(main)


def states(journal: Path) -> dict[rh.JobState, int]:
    with rh.JournalReader(journal) as reader:
        told = {state: n for state, n in reader.summary().states.items() if n}
        assert told == Counter(record.state for record in reader.jobs())
        return told


def test_put_back_leaves_what_may_still_run(tmp_path: Path) -> None:
    """Its task was paid for, and may just not be visible yet."""
    service, journal = Forgetful(), tmp_path / "run.db"
    failed(service, journal)

    async def main() -> int:
        store = rh.SqliteJobStore(journal)
        async with service.session(journal=store):
            return await store.put_back(rh.JobState.FAILED, None)

    assert run(main) == 0
    assert states(journal) == {rh.JobState.FAILED: 3}


def test_a_task_that_is_there_after_all_is_followed(tmp_path: Path) -> None:
    """And not submitted again."""
    service, journal = Forgetful(), tmp_path / "run.db"
    failed(service, journal)
    done, outcomes = retried(service, journal)
    assert done == rh.Retried(resumed=3)
    assert [outcome.ok for outcome in outcomes] == [True] * 3
    assert {outcome.task.id for outcome in outcomes} == set(service.created)
    assert set(service.submitted.values()) == {1}
    assert states(journal) == {rh.JobState.SUCCEEDED: 3}


def test_a_task_of_which_the_service_says_that_it_failed_is_submitted_again(
    tmp_path: Path,
) -> None:
    """Now its failure is certain."""
    service, journal = Forgetful(), tmp_path / "run.db"
    failed(service, journal)

    async def main() -> list[Any]:
        async with service.session(journal=journal) as session:
            service.says = "FAILED"
            assert await session.retry() == rh.Retried(queued=3)
            service.says = None
            return await collect(session.stream(posters(3)))

    assert [outcome.ok for outcome in run(main)] == [True] * 3
    assert set(service.submitted.values()) == {2}


def test_what_a_failed_task_was_billed_counts_although_it_is_submitted_again(
    tmp_path: Path,
) -> None:
    """The look that shows its failure shows its cost, too."""
    service, journal = Forgetful(), tmp_path / "run.db"
    failed(service, journal, 2)

    async def main() -> None:
        async with service.session(journal=journal) as session:
            service.says = "FAILED"
            assert await session.retry() == rh.Retried(queued=2)

    with rh.JournalReader(journal) as reader:
        assert reader.summary().spent.amount == 0
    run(main)
    with rh.JournalReader(journal) as reader:
        assert reader.summary().spent.amount == Decimal("0.44")


@pytest.mark.parametrize("says", ["807", "1001"])
def test_a_task_that_cannot_be_looked_at_is_left(
    says: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And named; a task that the service does not know is submitted again only if the user asks for
    it."""
    service, journal = Forgetful(), tmp_path / "run.db"
    failed(service, journal, 2)

    async def main() -> None:
        async with service.session(journal=journal) as session:
            service.says = says
            assert await session.retry() == rh.Retried(left=2)
            assert all(task_id in caplog.text for task_id in service.created)
            if says == "807":
                assert await session.retry(missing=True) == rh.Retried(queued=2)
                service.says = None
                assert len(await collect(session.resume())) == 2

    run(main)
    assert set(service.submitted.values()) == {2 if says == "807" else 1}


def test_what_certainly_failed_is_queued_without_a_look(tmp_path: Path) -> None:
    """Refused, or failed at the service: by its code, and by the states that can be retried."""
    codes = {"0": "1501", "1": "1007"}
    service = Service(
        5.0,
        on_submit=lambda prompt: refusal(codes[prompt[-1]]) if prompt[-1] in codes else None,
        after_submit=lambda prompt: LOST if prompt[-1] == "2" else None,
    )
    journal = tmp_path / "run.db"

    async def main() -> None:
        async with service.session(journal=journal) as session:
            await collect(session.stream(posters(4)))
            queries = sum(map(len, service.query_times.values()))
            assert await session.retry(code="1501") == rh.Retried(queued=1)
            assert await session.retry() == rh.Retried(queued=1)
            assert await session.retry(state=rh.JobState.UNKNOWN) == rh.Retried(queued=1)
            assert sum(map(len, service.query_times.values())) == queries
            with pytest.raises(ValueError, match="expected failed, cancelled or unknown"):
                await session.retry(state=rh.JobState.STORED)
        async with service.session() as session:
            with pytest.raises(ValueError, match="retry needs a session with a journal"):
                await session.retry()

    run(main)
    assert states(journal) == {rh.JobState.NEW: 3, rh.JobState.SUCCEEDED: 1}
