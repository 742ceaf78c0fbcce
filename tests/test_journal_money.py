"""A budget over several sessions: what the service billed without naming a price counts in all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import Answer, Service, posters

import runninghub_async as rh
from runninghub_async.testing import json_response, run

CN = "https://www.runninghub.cn"
LOST = rh.Response(504, b"")
PRICE = rh.Money("0.22", "CNY")


def silent(status: str = "SUCCESS") -> Callable[[str], Answer]:
    """Tasks that have ended when they are looked at, and whose answer names no cost."""

    def answer(task_id: str) -> Answer:
        results = [{"url": "https://results.example/a.png", "outputType": "png", "nodeId": "2"}]
        return json_response(
            {
                "taskId": task_id, "status": status, "errorCode": "", "usage": None,
                "results": results if status == "SUCCESS" else None,
            }
        )  # fmt: skip

    return answer


async def collect(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


def spends(service: Service, journal: Any, count: int = 10, **options: Any) -> None:
    """A session that submits as long as the budget of 1 CNY allows."""
    options = {"base_url": CN, "budget": rh.Money("1.00", "CNY"), **options}

    async def main() -> None:
        async with service.session(journal=journal, **options) as session:
            with contextlib.suppress(rh.BudgetError):
                await collect(session.stream(posters(count)))

    run(main)


def summary(journal: Path) -> rh.JournalSummary:
    with rh.JournalReader(journal) as reader:
        return reader.summary()


def test_what_was_billed_without_a_price_counts_in_all_later_sessions(tmp_path: Path) -> None:
    """At the listed price."""
    service, journal = Service(on_query=silent()), tmp_path / "run.db"
    for _ in range(3):
        spends(service, journal)
        assert len(service.created) == 4
    told = summary(journal)
    assert (told.spent, told.assumed) == (rh.Money("0", "CNY"), rh.Money("0.88", "CNY"))


def test_what_failed_without_a_price_counts_as_nothing(tmp_path: Path) -> None:
    """As within a session."""
    service, journal = Service(on_query=silent("FAILED")), tmp_path / "run.db"
    spends(service, journal, 4)
    spends(service, journal, 10)
    assert len(service.created) == 10
    assert summary(journal).assumed.amount == 0


def test_a_task_that_is_waited_for_by_its_id_counts_too(tmp_path: Path) -> None:
    """`wait` takes no request: the journal has it."""
    service, journal = Service(on_query=silent()), tmp_path / "run.db"

    async def main() -> None:
        async with service.session(journal=journal, base_url=CN) as session:
            for task in await session.submit_many(posters(4)):
                await session.wait(task)

    run(main)
    assert summary(journal).assumed == rh.Money("0.88", "CNY")
    spends(service, journal)
    assert len(service.created) == 4


def test_the_first_of_two_submits_counts_after_a_resubmit(tmp_path: Path) -> None:
    """The cost of submits whose response was lost will never be known."""
    lost = {f"a poster of the number {n}" for n in range(2)}
    service = Service(after_submit=lambda prompt: LOST if prompt in lost else None)
    journal = tmp_path / "run.db"
    spends(service, journal, 2)
    lost.clear()

    async def again() -> None:
        async with service.session(journal=journal, base_url=CN, unknown="resubmit") as session:
            assert len(await collect(session.resume())) == 2

    run(again)
    told = summary(journal)
    assert (told.spent, told.assumed) == (rh.Money("0.44", "CNY"), rh.Money("0.44", "CNY"))
    spends(service, journal)
    assert len(service.created) == 4


def test_the_first_of_two_submits_counts_after_a_retry(tmp_path: Path) -> None:
    """The same, where the user asks for it; also while the second one has not left yet."""
    service = Service(after_submit=lambda _: LOST)
    journal = tmp_path / "run.db"
    spends(service, journal, 4)

    async def retry() -> None:
        async with service.session(journal=journal, base_url=CN) as session:
            assert (await session.retry(state=rh.JobState.UNKNOWN)).queued == 4

    run(retry)
    assert summary(journal).assumed == rh.Money("0.88", "CNY")
    spends(service, journal)
    assert len(service.created) == 4


def test_the_bill_of_a_failed_task_counts_after_its_retry(tmp_path: Path) -> None:
    """Each bill counts: that of the first attempt, and that of the second."""
    fails = {"on": True}

    def query(task_id: str) -> Answer:
        status = "FAILED" if fails["on"] else "SUCCESS"
        results = [{"url": "https://results.example/a.png", "outputType": "png"}]
        return json_response(
            {
                "taskId": task_id, "status": status, "errorCode": "1005" if fails["on"] else "",
                "usage": {"thirdPartyConsumeMoney": "0.22"}, "results": results,
            }
        )  # fmt: skip

    service, journal = Service(on_query=query), tmp_path / "run.db"
    spends(service, journal, 2)
    fails["on"] = False

    async def retry() -> None:
        async with service.session(journal=journal, base_url=CN) as session:
            assert (await session.retry()).queued == 2
            assert len(await collect(session.resume())) == 2

    run(retry)
    assert summary(journal).spent == rh.Money("0.88", "CNY")
    spends(service, journal)
    assert len(service.created) == 4


def test_a_price_in_another_currency_counts_as_so_many_of_the_budgets() -> None:
    """An overestimate is better than nothing: a budget in USD also ends if no answer names a
    cost."""
    service = Service(on_query=silent())

    async def main() -> int:
        async with service.session(budget=rh.Money("1.00", "USD")) as session:
            with pytest.raises(rh.BudgetError):
                await collect(session.stream(posters(100)))
        return len(service.created)

    assert run(main) == 5


class Own:
    """A store with the methods of `JobStore` alone."""

    def __init__(self, path: Path) -> None:
        inner = rh.SqliteJobStore(path)
        self.inner = inner
        self.open, self.aclose, self.flush = inner.open, inner.aclose, inner.flush
        self.find, self.find_content = inner.find, inner.find_content
        self.find_open, self.begin, self.note = inner.find_open, inner.begin, inner.note
        self.event, self.is_empty, self.enlist = inner.event, inner.is_empty, inner.enlist
        self.set_aside, self.drop_set_aside = inner.set_aside, inner.drop_set_aside
        self.put_back, self.spent = inner.put_back, inner.spent
        self.facts, self.put = inner.facts, inner.put

    @property
    def identity(self) -> str:
        return self.inner.identity

    @property
    def secret(self) -> bytes:
        return self.inner.secret


def test_a_store_that_knows_no_assumed_costs_is_looked_through(tmp_path: Path) -> None:
    """`JobStore` has not changed: a user's own store still counts correctly."""
    service, journal = Service(on_query=silent()), tmp_path / "run.db"
    assert not isinstance(Own(journal), rh.AssumingStore)
    for _ in range(2):
        spends(service, Own(journal))
        assert len(service.created) == 4


def test_what_may_yet_be_billed_at_a_price_nobody_knows_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It cannot be counted, so a warning says so."""
    service, journal = Service(after_submit=lambda _: LOST), tmp_path / "run.db"
    requests = [rh.ModelRequest("new-model/x", {"prompt": "a boat"}, checked=False)]

    async def main() -> None:
        options: dict[str, Any] = {"base_url": CN, "budget": rh.Money("1.00", "CNY")}
        async with service.session(journal=journal, **options) as session:
            await collect(session.stream(requests))

    run(main)
    assert "at an unknown price" not in caplog.text
    run(main)
    assert "1 jobs of earlier sessions may still be billed, at an unknown price" in caplog.text


def test_a_reader_adds_nothing_up_twice(tmp_path: Path) -> None:
    """The sums agree with the rows, in whatever order jobs ended."""
    usages = iter([None, "0.10", None, "0.30"] * 5)
    known: dict[str, Any] = {}

    def query(task_id: str) -> Answer:
        cost = known.setdefault(task_id, next(usages))
        usage = None if cost is None else {"thirdPartyConsumeMoney": cost}
        told = {"taskId": task_id, "status": "SUCCESS", "usage": usage, "errorCode": ""}
        results = [{"url": "https://results.example/a.png", "outputType": "png"}]
        return rh.Response(200, json.dumps(told | {"results": results}).encode())

    service, journal = Service(on_query=query), tmp_path / "run.db"

    async def main() -> None:
        async with service.session(journal=journal, base_url=CN) as session:
            await collect(session.stream(posters(12)))
            await asyncio.sleep(0)

    for _ in range(2):
        run(main)
        with rh.JournalReader(journal) as reader:
            told, records = reader.summary(), list(reader.jobs())
        assert told.spent.amount == sum(r.cost for r in records if r.cost is not None)
        assert told.assumed.amount == sum(r.assumed for r in records) == 6 * PRICE.amount


def test_what_is_resumed_is_counted_once(tmp_path: Path) -> None:
    """Tasks of an earlier session may be billed yet; followed here, they are not counted twice."""
    service, journal = Service(50.0), tmp_path / "run.db"

    async def leave() -> None:
        async with service.session(journal=journal, base_url=CN) as session:
            await session.submit_many(posters(4))

    async def main() -> None:
        budget = rh.Money("2.00", "CNY")
        async with service.session(journal=journal, base_url=CN, budget=budget) as session:
            again = await collect(session.stream(posters(4)))
            assert [outcome.ok for outcome in again] == [True] * 4
            with contextlib.suppress(rh.BudgetError):
                await collect(session.stream(posters(20), batch="more"))

    run(leave)
    assert len(service.created) == 4
    run(main)
    # 9 x 0.22 CNY.
    assert len(service.created) == 9
    assert summary(journal).spent == rh.Money("1.98", "CNY")


def test_what_was_left_running_counts_at_once() -> None:
    """A submit that waits for the budget goes on when the tasks that it waits for are left:
    their cost will not be heard."""

    async def main() -> None:
        service = Service(1000.0)
        budget = rh.Money("1.00", "CNY")
        async with service.session(base_url=CN, budget=budget) as session:
            stream = session.stream(posters(4))
            await asyncio.sleep(5)
            assert len(service.created) == 4
            waiting = asyncio.ensure_future(session.run(next(posters())))
            await asyncio.sleep(5)
            assert not waiting.done()
            await stream.aclose()
            with pytest.raises(rh.BudgetError) as caught:
                await asyncio.wait_for(waiting, 5)
            assert caught.value.spent == rh.Money("0.88", "CNY")
        assert len(service.created) == 4

    run(main)


def test_a_journal_and_a_budget_have_one_currency(tmp_path: Path) -> None:
    """The error names both, and the journal is free again for a session without that mistake."""
    service, journal = Service(), tmp_path / "run.db"
    spends(service, journal, 1)
    with pytest.raises(rh.JournalError, match="money is in CNY, the budget in coins"):
        spends(service, journal, 2, budget=rh.Money("100", "coins"))
    assert len(service.created) == 1
    spends(service, journal, 2)
    assert len(service.created) == 2


def test_a_budget_whose_past_cannot_be_read_is_not_begun(tmp_path: Path) -> None:
    """Rather than to count from zero; and the journal is free again."""

    class Unreadable(rh.SqliteJobStore):
        async def spent(self) -> Decimal:
            raise rh.JournalError("the disk is gone")

    service, journal = Service(), tmp_path / "run.db"
    with pytest.raises(rh.JournalError, match="the disk is gone"):
        spends(service, Unreadable(journal), 2)
    assert not service.created
    spends(service, journal, 2)
    assert len(service.created) == 2
