"""Journals of earlier releases: they open and resume, and nothing in them is paid for twice."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import runninghub_async as rh
from runninghub_async.testing import MockTransport, json_response, run

OLD = Path(__file__).parent / "journals" / "555b203.db"
URL = "http://127.0.0.1:1"
S = rh.JobState

#: What is in it.
WRITTEN = {
    S.ACCEPTED: 1, S.CANCELLED: 1, S.FAILED: 3, S.NEW: 4, S.REFUSED: 1, S.RUNNING: 1, S.STORED: 2,
    S.SUBMITTING: 2, S.SUCCEEDED: 1, S.UNKNOWN: 1,
}  # fmt: skip


class Cloud:
    """Knows every task, each of which has succeeded."""

    def __init__(self) -> None:
        self.transport = MockTransport(self._answer)
        self.submitted: Counter[str] = Counter()
        self.queried: set[str] = set()

    def _answer(self, request: rh.Request) -> rh.Response:
        body = json.loads(request.body or b"{}")
        if not request.url.endswith("/query"):
            self.submitted[body["prompt"]] += 1
            return json_response(
                {"taskId": str(10**18 + self.submitted.total()), "status": "RUNNING"}
            )
        self.queried.add(body["taskId"])
        return json_response(
            {
                "taskId": body["taskId"], "status": "SUCCESS", "errorCode": "",
                "results": [{"url": "https://results.example/a.png", "outputType": "png"}],
                "usage": {"thirdPartyConsumeMoney": "0.22"},
            }
        )  # fmt: skip

    def session(self, journal: Path, **options: Any) -> rh.Session:
        return rh.Session(
            "a-key", base_url=URL, transport=self.transport, journal=journal, **options
        )


def always(key: str) -> Callable[[Any], str]:
    return lambda _: key


async def collect(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    shutil.copy(OLD, tmp_path / "run.db")
    return tmp_path / "run.db"


def version(journal: Path) -> int:
    with contextlib.closing(sqlite3.connect(journal)) as db:
        told: int = db.execute("PRAGMA user_version").fetchone()[0]
        return told


def counts(journal: Path) -> dict[rh.JobState, int]:
    with rh.JournalReader(journal) as reader:
        told = {state: n for state, n in reader.summary().states.items() if n}
        assert told == Counter(record.state for record in reader.jobs())
        assert not [record for record in reader.jobs() if record.damage is not None]
        return told


def test_an_old_journal_is_read_as_it_is(journal: Path) -> None:
    """Nothing is written; what was billed without a price is known there, too."""
    before = journal.read_bytes()
    assert counts(journal) == WRITTEN
    with rh.JournalReader(journal) as reader:
        told = reader.summary()
    assert told.spent == rh.Money("0.44", "CNY")
    assert told.assumed == rh.Money("0.22", "CNY")
    assert journal.read_bytes() == before
    assert [path.name for path in journal.parent.iterdir() if path.suffix == ".db"] == ["run.db"]


def test_an_old_journal_is_resumed(journal: Path) -> None:
    """Running tasks are followed, unsent jobs are submitted once, the rest is unchanged."""
    cloud = Cloud()

    async def main() -> list[Any]:
        async with cloud.session(journal) as session:
            return await collect(session.resume())

    outcomes = run(main)
    assert {outcome.request.params["prompt"] for outcome in outcomes if outcome.ok} == {
        f"a poster, {what}" for what in ("accepted", "runs", "new 0", "new 1", "no room")
    }
    assert cloud.submitted == Counter({f"a poster, {x}": 1 for x in ("new 0", "new 1", "no room")})
    unknown = [outcome for outcome in outcomes if isinstance(outcome, rh.Unknown)]
    assert len(unknown) == 3
    assert len(outcomes) == 8
    assert version(journal) == 2
    again = run(main)
    assert all(isinstance(outcome, rh.Unknown) for outcome in again)
    assert cloud.submitted.total() == 3
    with rh.JournalReader(journal) as reader:
        told = reader.summary()
        assumed = [record.assumed for record in reader.jobs() if record.assumed]
    assert told.assumed == rh.Money("0.22", "CNY")
    assert told.spent == rh.Money("1.54", "CNY")
    # The job whose cost was not named has it in its own row, too.
    assert assumed == [Decimal("0.22")]


def test_the_same_requests_again_find_their_jobs_in_an_old_journal(journal: Path) -> None:
    """In each state, by place and batch or by a key of one's own."""
    cloud = Cloud()

    def poster(what: str) -> rh.SeedreamV5Lite:
        return rh.SeedreamV5Lite(f"a poster, {what}", 1600, 1344)

    async def main() -> dict[str, str]:
        found = {}
        async with cloud.session(journal) as session:
            inputs = {
                "": ["succeeded", "refused", "fails"],
                "stored 0": ["stored 0"],
                "stored 1": ["stored 1"],
                "left": ["runs", "no room", "under way 0", "under way 1"],
                "list": ["new 0", "new 1"],
                "aside": ["aside 0", "aside 1"],
            }
            for batch, names in inputs.items():
                stream = session.stream(map(poster, names), batch=batch)
                async for outcome in stream:
                    found[names[outcome.index]] = type(outcome).__name__
            for key in ("cancelled", "accepted"):
                stream = session.stream([poster(key)], key=always(key))
                found[key] = type((await collect(stream))[0]).__name__
            (lost,) = await collect(session.stream([poster("lost")], key=always("a key of my own")))
            found["lost"] = type(lost).__name__
        return found

    assert run(main) == {
        "succeeded": "Succeeded", "refused": "Failed", "fails": "Failed", "stored 0": "Succeeded",
        "stored 1": "Succeeded", "runs": "Succeeded", "no room": "Succeeded",
        "under way 0": "Unknown", "under way 1": "Unknown", "new 0": "Succeeded",
        "new 1": "Succeeded", "aside 0": "Succeeded", "aside 1": "Succeeded",
        "cancelled": "Cancelled", "accepted": "Succeeded", "lost": "Unknown",
    }  # fmt: skip
    assert set(cloud.submitted.values()) == {1}
    assert {prompt.removeprefix("a poster, ") for prompt in cloud.submitted} == {
        "no room", "new 0", "new 1", "aside 0", "aside 1",
    }  # fmt: skip


def test_an_event_that_an_old_journal_kept_is_matched(journal: Path) -> None:
    """Its task exists, so the job is not submitted again."""
    cloud = Cloud()

    async def main() -> rh.Task:
        async with cloud.session(journal) as session:
            return await session.run(rh.SeedreamV5Lite("a poster, early"), key="early")

    assert run(main).id == "2013508786110730000"
    assert not cloud.submitted


def test_a_budget_counts_what_an_old_journal_knows(journal: Path) -> None:
    """What was billed, what was billed without a price, and what may yet be."""
    cloud = Cloud()

    async def main(limit: str) -> None:
        budget = rh.Money(limit, "CNY")
        async with cloud.session(journal, budget=budget) as session:
            with pytest.raises(rh.BudgetError) as caught:
                await collect(session.stream([rh.SeedreamV5Lite("a poster")] * 9, batch="new"))
            # Two were billed, one without a price, and five may yet be.
            assert caught.value.spent == rh.Money("1.76", "CNY")

    run(lambda: main("1.90"))
    assert not cloud.submitted


def test_a_migration_that_is_interrupted_leaves_the_journal_as_it_was(journal: Path) -> None:
    """It is one transaction: a later session repeats it and resumes."""
    with contextlib.closing(sqlite3.connect(journal)) as db:
        # A page in the middle that cannot be read stands for whatever ends it.
        db.execute(
            "CREATE TRIGGER halt BEFORE INSERT ON totals BEGIN SELECT raise(ABORT, 'x'); END"
        )
        db.commit()
    cloud = Cloud()

    async def main() -> None:
        async with cloud.session(journal) as session:
            await collect(session.resume())

    with pytest.raises(rh.JournalError):
        run(main)
    assert version(journal) == 1
    assert counts(journal) == WRITTEN
    with contextlib.closing(sqlite3.connect(journal)) as db:
        assert "assumed" not in {row[1] for row in db.execute("PRAGMA table_info(jobs)")}
        db.execute("DROP TRIGGER halt")
        db.commit()
    run(main)
    assert version(journal) == 2


@pytest.mark.parametrize(("number", "told"), [(3, "newer"), (1000, "newer"), (0, "damaged")])
def test_only_a_newer_journal_is_called_newer(number: int, told: str, journal: Path) -> None:
    """With its version, by a session as by a reader; it is left as it is."""
    with contextlib.closing(sqlite3.connect(journal)) as db:
        db.execute(f"PRAGMA user_version = {number}")
    before = journal.read_bytes()

    async def main() -> None:
        async with Cloud().session(journal):
            await asyncio.sleep(0)

    with pytest.raises(rh.JournalError, match=f"(?s){told}|schema {number}") as caught:
        run(main)
    assert told in str(caught.value)
    assert f"schema {number}" in str(caught.value)
    with pytest.raises(rh.JournalError, match=told):
        rh.JournalReader(journal)
    assert journal.read_bytes() == before


def test_an_old_journal_that_another_process_has_is_not_migrated(journal: Path) -> None:
    """That process would not know the new schema."""
    with contextlib.closing(sqlite3.connect(journal)) as db:
        db.execute("UPDATE lease SET renewed = unixepoch() + 5")
        db.commit()

    async def main() -> None:
        async with Cloud().session(journal):
            await asyncio.sleep(0)

    with pytest.raises(rh.JournalBusy):
        run(main)
    assert version(journal) == 1
