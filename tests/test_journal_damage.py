"""A damaged journal: no stream waits forever, every error is one of the package, and nothing is
paid for again without an outcome or an error that says so.

`DAMAGED_JOURNALS` says how many journals are damaged at random; `nox -s storms` may have more.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import sqlite3
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from support import Service, posters, refusal

import runninghub_async as rh
from runninghub_async.testing import run

JOURNALS = int(os.environ.get("DAMAGED_JOURNALS", "60"))
LOST = rh.Response(504, b"")
JOBS = 12

#: Much longer than any run here takes, in seconds. The virtual clock jumps ahead while a thread
#: reads the journal, so that it cannot tell.
FOR_EVER = 60.0


async def within_reason(work: Any) -> Any:
    """The result of `work`, which is cancelled if it never ends."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    late = threading.Timer(FOR_EVER, loop.call_soon_threadsafe, [task.cancel])
    late.start()
    try:
        return await task
    except asyncio.CancelledError:
        pytest.fail("it hangs")
    finally:
        late.cancel()


async def collect(stream: Any) -> list[Any]:
    return [outcome async for outcome in stream]


def edit(journal: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(journal)) as db, db:
        for statement in statements:
            db.execute(statement)


def left(service: Service, journal: Path, count: int = 6) -> None:
    """A run that was left with jobs in several states: three ended, the others not."""

    async def main() -> None:
        async with service.session(journal=journal, limits=rh.Limits(3, None, None)) as session:
            async with session.stream(posters(count)) as stream:
                for _ in range(3):
                    await anext(stream)

    run(main)


def run_again(service: Service, journal: Path | rh.JobStore, count: int = 6, **options: Any) -> Any:
    """Outcomes of the same stream, or of `resume`, within the longest time that these may take."""
    resume = options.pop("resume", False)

    async def main() -> list[Any]:
        async with service.session(journal=journal, **options) as session:
            return await collect(session.resume() if resume else session.stream(posters(count)))

    return run(lambda: within_reason(main()))


def submit_four(service: Service, journal: Path) -> None:
    """Leave a journal with four tasks that run."""

    async def start() -> None:
        async with service.session(journal=journal) as session:
            await session.submit_many(posters(4))

    run(start)


COPIED = (
    "INSERT INTO jobs (seq, key, batch, path, params, content, open, state)"
    " SELECT 99, 'copy', batch, path, params, content, open, state FROM jobs WHERE seq = 1"
)

SPOILT = (
    "CREATE TRIGGER spoilt BEFORE UPDATE OF logged ON lease"
    " BEGIN SELECT RAISE(ABORT, 'spoilt'); END"
)

#: A column of the first row, what it becomes, and the column that the error names.
BAD_ROWS = [
    ("state = 'ruNning'", "state"),
    ("state = x'ff'", "state"),
    ("task = substr(task, 1, 9)", "task"),
    ("task = '[]'", "task"),
    ('task = \'{"status":"SUCCESZ"}\'', "task"),
    ('task = \'{"status":"SUCCESS","usage":["zz",null,null,null]}\'', "task"),
    ('task = \'{"status":"SUCCESS","usage":[NaN,null,null,null]}\'', "task"),
    ('task = \'{"status":"SUCCESS","usage":["NaN",null,null,null]}\'', "task"),
    ('task = \'{"status":"SUCCESS","usage":[1]}\'', "task"),
    ('task = \'{"status":"SUCCESS","usage":["9e999999","9e999999",null,null]}\'', "task"),
    ('task = \'{"status":"SUCCESS","outputs":[["u","png","","",{"a":1e999}]]}\'', "task"),
    ('task = \'{"status":"SUCCESS","outputs":[[1,2,3,4]]}\'', "task"),
    ('task = \'{"status":"SUCCESS","outputs":[["u","png","","9",7]]}\'', "task"),
    ('task = \'{"status":"SUCCESS","tips":7}\'', "task"),
    ('task = \'{"status":"SUCCESS","error":[1,"",null]}\'', "task"),
    ('task = \'{"status":"SUCCESS","error":["1","",[]]}\'', "task"),
    ('task = \'{"status":"FAILED"}\'', "task"),
    ("task = NULL", "task"),
    ("task_id = NULL", "task_id"),
    ("task_id = 17", ""),
    ("task_id = x'ff00'", "task_id"),
    ("files = '[['", "files"),
    ('files = \'[["../../x", 1, "a", ""]]\'', "files"),
    ('files = \'[["x", -1, "a", ""]]\'', "files"),
    ('files = \'[["x", 1, 7, ""]]\'', "files"),
    ('files = \'[["x", 1, "a", "", -1]]\'', "files"),
    ('files = \'[["x", 1, "a", "", 0, 0]]\'', "files"),
    ("params = substr(params, 1, 9)", "params"),
    ("params = '[1]'", "params"),
    ("params = replace(params, 'number', 'letter')", "params"),
    ("path = 'another/model'", "params"),
    ("place = -1", "place"),
    ("place = 77", "key"),
    ("batch = 'another'", "key"),
    ("attempts = 'x'", "attempts"),
    ("attempts = -1", "attempts"),
    ("cost = 'x'", "cost"),
    ("cost = 0.5", "cost"),
    ("assumed = -1", "assumed"),
    ("sent_at = 'x'", "sent_at"),
    ("accepted_at = 9e999", "accepted_at"),
    ("sent_at = 1e300", "sent_at"),
    ("sent_at = -1", "sent_at"),
    ("ended_at = 253402300800", "ended_at"),
    ("error = x'ff00'", "error"),
    ("error = CAST(x'ff00' AS TEXT)", "error"),
    ("code = CAST(x'c328' AS TEXT)", "code"),
]


@pytest.mark.parametrize(("change", "column"), BAD_ROWS)
def test_a_bad_row_is_one_failed_outcome(change: str, column: str, tmp_path: Path) -> None:
    """It names file, row, key and column; the other jobs go on, and it is not submitted again."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(journal, f"UPDATE jobs SET {change} WHERE seq = 1")
    outcomes = run_again(service, journal)
    assert len(outcomes) == 6
    assert set(service.submitted.values()) == {1}
    bad = [outcome for outcome in outcomes if not outcome.ok]
    if not column:
        # SQLite makes a text of a number in a column of texts.
        assert not bad
        return
    (failed,) = bad
    error = failed.error
    assert isinstance(error, rh.JournalError)
    assert (error.seq, error.column, error.path) == (1, column, str(journal))
    assert error.key == failed.key
    assert str(journal) in str(error)
    assert "not submitted again" in str(error)
    run_again(service, journal, resume=True)
    assert set(service.submitted.values()) == {1}


@pytest.mark.parametrize(
    "change",
    [
        "state = 'ruNning'",
        "task = '{'",
        "open = NULL",
        "held = 7",
        "attempts = x'00'",
        "params = '{'",
        "error = CAST(x'ff' AS TEXT)",
    ],
)
def test_resume_names_a_bad_row_of_a_job_that_runs(change: str, tmp_path: Path) -> None:
    """With its task, which the user may query; the others are finished."""
    service, journal = Service(50.0), tmp_path / "run.db"

    submit_four(service, journal)
    edit(journal, f"UPDATE jobs SET {change} WHERE seq = 2")
    outcomes = run_again(service, journal, resume=True)
    assert [outcome.ok for outcome in outcomes].count(True) == 3
    (failed,) = [outcome for outcome in outcomes if not outcome.ok]
    assert isinstance(failed.error, rh.JournalError)
    assert failed.error.seq == 2
    assert failed.task.id in service.created
    assert failed.task.id in str(failed.error) or "open" in str(failed.error)
    assert set(service.submitted.values()) == {1}


def test_single_calls_raise_the_error_of_a_bad_row(tmp_path: Path) -> None:
    """`run` and `submit` with the job's key."""
    service, journal = Service(5.0), tmp_path / "run.db"
    poster = next(posters(1))

    async def main(*, damaged: bool) -> None:
        async with service.session(journal=journal) as session:
            for call in (session.run, session.submit):
                if damaged:
                    with pytest.raises(rh.JournalError, match=r"'order 1'.* task: "):
                        await call(poster, key="order 1")
                else:
                    await call(poster, key="order 1")

    run(lambda: main(damaged=False))
    edit(journal, "UPDATE jobs SET task = '}'")
    run(lambda: main(damaged=True))
    assert sum(service.submitted.values()) == 1


def test_a_reader_shows_what_is_left_of_a_bad_row(tmp_path: Path) -> None:
    """And what is wrong with it."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(journal, "UPDATE jobs SET attempts = 'x', error = CAST(x'ff' AS TEXT) WHERE seq = 1")
    with rh.JournalReader(journal) as reader:
        first, *others = reader.jobs()
    assert first.damage is not None
    assert first.request.params["prompt"] == "a poster of the number 0"
    assert first.task is not None
    assert all(other.damage is None for other in others)


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("DROP TABLE lease", "cannot be read: no such table: lease"),
        ("DROP TABLE totals", "cannot be read: no such table: totals"),
        ("DROP TABLE meta", "cannot be read: no such table: meta"),
        ("UPDATE minutes SET ended = 'many'", "is damaged: table minutes"),
        ("UPDATE minutes SET ended = -1", "is damaged: table minutes"),
        ("PRAGMA application_id = 7", "is not a journal of this package"),
        ("PRAGMA user_version = 99", "has the newer schema 99"),
        ("PRAGMA user_version = 0", "is damaged: no version writes the schema 0"),
    ],
)
def test_a_reader_says_what_it_cannot_read(statement: str, told: str, tmp_path: Path) -> None:
    """By one kind of error, which names the file."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(journal, statement)
    with pytest.raises(rh.JournalError, match=told) as caught, rh.JournalReader(journal) as reader:
        reader.summary()
    assert caught.value.path == str(journal)


@pytest.mark.parametrize("number", [0, -5])
def test_a_row_before_the_first_one_is_not_passed_over(number: int, tmp_path: Path) -> None:
    """Rows are read from number 1 on. The journal is refused; repaired, it has the job again."""
    service, journal = Service(50.0), tmp_path / "run.db"

    submit_four(service, journal)
    edit(journal, f"UPDATE jobs SET seq = {number} WHERE seq = 2")
    with pytest.raises(rh.JournalError, match=f"a row has the number {number}"):
        run_again(service, journal, resume=True)
    repaired = rh.SqliteJobStore(journal, repair=True)
    assert [outcome.ok for outcome in run_again(service, repaired, resume=True)] == [True] * 4
    assert set(service.submitted.values()) == {1}


#: A row of the table `meta`, and what the error names.
BAD_FACTS = [
    ("'fact:currency', ''", "fact currency"),
    ("'fact:currency', '-5'", "fact currency"),
    ("'fact:currency', char(27)", "fact currency"),
    ("'fact:currency', x'ff'", "fact currency"),
    ("'fact:folder', x'ff'", "fact folder"),
    ("'fact:input', x'00'", "fact input"),
    ("'fact:own', CAST(x'ff' AS TEXT)", "fact own"),
    ("x'00', 'a value'", r"b'\\x00' is no name"),
]


@pytest.mark.parametrize(("values", "named"), BAD_FACTS)
def test_a_bad_fact_is_named(values: str, named: str, tmp_path: Path) -> None:
    """By the reader and by the store, which changes nothing."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(journal, f"INSERT OR REPLACE INTO meta VALUES ({values})")
    told = f"is damaged: table meta: {named}"
    with rh.JournalReader(journal) as reader, pytest.raises(rh.JournalError, match=told):
        reader.summary()
    before = dict(service.submitted)
    for resume in (False, True):
        with pytest.raises(rh.JournalError, match=told) as caught:
            run_again(service, journal, resume=resume)
        assert caught.value.path == str(journal)
    assert dict(service.submitted) == before


@pytest.mark.parametrize(
    ("name", "value"), [("currency", ""), ("currency", "C1Y"), ("own", b"text"), ("own", "\ud800")]
)
def test_a_fact_that_would_be_damaged_is_not_kept(name: str, value: Any, tmp_path: Path) -> None:
    """The journal can still be opened and read."""

    async def main() -> None:
        store = rh.SqliteJobStore(tmp_path / "run.db")
        await store.open("http://127.0.0.1:1")
        try:
            with pytest.raises(rh.JournalError, match=f"cannot be written: fact {name}"):
                await store.put({name: value})
            assert name not in await store.facts()
        finally:
            await store.aclose()

    asyncio.run(main())
    with rh.JournalReader(tmp_path / "run.db") as reader:
        assert not reader.summary().facts


@pytest.mark.parametrize("task_id", ["''", "x'ff'"])
def test_a_bad_event_of_a_job_is_no_reason_to_submit_it(task_id: str, tmp_path: Path) -> None:
    """Its task exists: the stream ends with an error that names the job and the table."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def start() -> None:
        async with service.session(journal=journal) as session:
            await session.enlist(posters(3))

    run(start)
    edit(journal, f"INSERT INTO parked SELECT key, {task_id}, 1 FROM jobs WHERE seq = 2")
    with pytest.raises(rh.JournalError, match=r"table parked: .* is no task id"):
        run_again(service, journal, resume=True)
    assert "a poster of the number 1" not in service.submitted


def test_a_number_that_is_out_of_range_is_damage(tmp_path: Path) -> None:
    """Read as infinite, it would be written into files as no JSON."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(journal, "UPDATE jobs SET content = 'own', params = '{\"seed\":1e999}' WHERE seq = 1")
    with rh.JournalReader(journal) as reader:
        first, *others = reader.jobs()
    assert first.damage is not None
    assert first.damage.column == "params"
    assert all(other.damage is None for other in others)


def test_rows_without_numbers_are_not_read_for_ever(tmp_path: Path) -> None:
    """Of a table that another program made: a page of them would lead to itself."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(
        journal,
        "CREATE TABLE others AS SELECT 'x' || seq AS number, * FROM jobs",
        "ALTER TABLE others DROP COLUMN seq",
        "ALTER TABLE others RENAME COLUMN number TO seq",
        "DROP TABLE jobs",
        "ALTER TABLE others RENAME TO jobs",
    )
    with (
        rh.JournalReader(journal) as reader,
        pytest.raises(rh.JournalError, match="is damaged: table jobs: 'x1' is no number"),
    ):
        list(reader.jobs())


def test_a_price_of_any_request_is_an_amount_or_none() -> None:
    """Whatever its parameters are; they may come from a damaged row."""
    odd: list[Any] = ["9e999999", 1e308, 10**40, [], {}, None, -1, True]
    for spec in rh.Catalogue.load():
        for value in odd:
            keys = ("width", "height", "maxImages", "duration", "resolution", "imageUrls")
            price = rh.StoredRequest(spec.path, dict.fromkeys(keys, value)).price()
            assert price is None or price.amount.is_finite()


def test_a_reader_shows_a_row_without_a_key(tmp_path: Path) -> None:
    """It is known by its number, and its task is still named."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(journal, "UPDATE jobs SET key = '' WHERE seq = 2")
    with rh.JournalReader(journal) as reader:
        first, second, *_ = reader.jobs()
    assert first.damage is None
    assert second.damage is not None
    assert (second.damage.column, second.key, second.seq) == ("key", "row 2", 2)
    assert second.task is not None
    assert second.task.id in str(second.damage)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM jobs WHERE seq = 1",
        "UPDATE jobs SET key = 'another' WHERE seq = 1",
        "UPDATE totals SET amount = amount + 1 WHERE name = 'succeeded'",
        "UPDATE totals SET amount = 'x' WHERE name = 'succeeded'",
        "DELETE FROM totals",
        "DROP TABLE totals",
        "DROP TABLE parked",
        "DROP TABLE lease",
        "DROP TABLE minutes",
        "DROP TABLE jobs",
        "DROP TABLE meta",
        "PRAGMA application_id = 7",
        # No more than an example of what only shows when the journal is about to be used.
        SPOILT,
        "ALTER TABLE jobs RENAME COLUMN params TO other",
        "DELETE FROM meta WHERE name = 'identity'",
        "UPDATE meta SET value = 'no hex' WHERE name = 'secret'",
        "UPDATE meta SET value = x'ff' WHERE name = 'base_url'",
        "INSERT INTO lease VALUES (1, 'x', 1, x'ff', 'y', 'never', '', 1)",
        COPIED,
        "PRAGMA user_version = 0",
    ],
)
def test_a_journal_of_which_jobs_may_be_missing_is_refused(statement: str, tmp_path: Path) -> None:
    """They would be submitted again; the error says what to do, and the journal is released."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(journal, statement)
    before = dict(service.submitted)
    for _ in range(2):
        with pytest.raises(rh.JournalError) as caught:
            run_again(service, journal)
        assert str(journal) in str(caught.value)
        assert not isinstance(caught.value, rh.JournalBusy)
    assert dict(service.submitted) == before


@pytest.mark.parametrize(
    "statement", ["DELETE FROM totals", "DELETE FROM jobs WHERE seq = 1", "DROP INDEX jobs_open"]
)
def test_a_damaged_journal_is_repaired_if_its_user_says_so(statement: str, tmp_path: Path) -> None:
    """Its sums are counted again, and its jobs are resumed."""
    service, journal = Service(5.0), tmp_path / "run.db"
    left(service, journal)
    edit(journal, statement)

    async def main() -> list[Any]:
        store = rh.SqliteJobStore(journal, repair=True)
        async with service.session(journal=store) as session:
            return await collect(session.stream(posters(6)))

    assert len(run(main)) == 6
    assert len(run_again(service, journal)) == 6
    with rh.JournalReader(journal) as reader:
        told = {state: count for state, count in reader.summary().states.items() if count}
        assert told == Counter(record.state for record in reader.jobs())


def test_a_table_that_goes_missing_ends_the_submitting(tmp_path: Path) -> None:
    """In the middle of a run: it ends with an error instead of waiting forever."""
    journal = tmp_path / "run.db"

    class Spoiling(Service):
        async def _answer(self, request: rh.Request) -> rh.Response:
            if len(self.created) == 3:
                await asyncio.to_thread(edit, journal, "DROP TABLE IF EXISTS totals")
            return await super()._answer(request)

    service = Spoiling(5.0)

    async def main() -> None:
        async with service.session(journal=journal, limits=rh.Limits(1, None, None)) as session:
            await collect(session.stream(posters(100)))

    with pytest.raises(rh.JournalError, match="no such table"):
        run(lambda: within_reason(main()))
    assert len(service.created) < 100


class Broken(rh.SqliteJobStore):
    """A store that fails with an error of its own."""

    async def find(self, keys: Any) -> Any:
        raise KeyError(keys[0])


class Odd(rh.SqliteJobStore):
    """A store that returns something that is not a record."""

    async def find(self, keys: Any) -> Any:
        return dict.fromkeys(keys, "nothing")


class Unopen(rh.SqliteJobStore):
    """A store that fails when it is asked for open jobs."""

    async def find_open(self, states: Any, after: int, limit: int) -> Any:
        raise ZeroDivisionError


class Undated(rh.SqliteJobStore):
    """A store that makes a text of a time."""

    async def find(self, keys: Any) -> Any:
        found = await super().find(keys)
        odd: Any = "yesterday"
        return {key: attrs.evolve(record, sent_at=odd) for key, record in found.items()}


def test_a_record_that_cannot_be_used_fails_its_job_alone(tmp_path: Path) -> None:
    """Of a store of one's own: the other jobs of the journal are finished."""
    service, journal = Service(5.0, after_submit=lost_of("3")), tmp_path / "run.db"

    async def start() -> None:
        async with service.session(journal=journal) as session:
            await collect(session.stream(posters(4)))
            await session.enlist(posters(2), batch="other")

    run(start)
    for resume in (True, False):
        outcomes = run_again(service, Undated(journal), 4, resume=resume)
        (failed,) = [outcome for outcome in outcomes if not outcome.ok]
        assert isinstance(failed.error, rh.JournalError)
        assert "cannot be read: TypeError" in str(failed.error)
        assert len(outcomes) == (3 if resume else 4)
    assert service.submitted["a poster of the number 3"] == 1


def lost_of(number: str) -> Any:
    """For `after_submit`: the answers to submits of this number are lost."""
    return lambda prompt: LOST if prompt.endswith(f" {number}") else None


@pytest.mark.parametrize("store", [Broken, Odd, Unopen])
@pytest.mark.parametrize("resume", [False, True])
def test_a_store_that_fails_ends_the_stream(store: Any, resume: bool, tmp_path: Path) -> None:
    """Whatever it raises: the stream ends with an error or outcomes that say so, and never
    hangs."""
    service, journal = Service(5.0), tmp_path / "run.db"

    async def start() -> None:
        async with service.session(journal=journal) as session:
            await session.enlist(posters(3))

    run(start)
    try:
        outcomes = run_again(service, store(journal), resume=resume)
    except rh.JournalError:
        outcomes = []
    assert all(outcome.ok or isinstance(outcome.error, rh.JournalError) for outcome in outcomes)
    assert max(service.submitted.values(), default=0) <= 1


# -- at random ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Service, Path]:
    """A journal with jobs in every state but `running`, and the service that knows its tasks; its
    last process died, so that its log is beside it."""
    folder = tmp_path_factory.mktemp("sound")

    def trouble(prompt: str) -> Any:
        return refusal("1501") if prompt.endswith(" 3") else None

    def lost(prompt: str) -> Any:
        return LOST if prompt.endswith(" 5") else None

    def unknown(task_id: str) -> Any:
        return None if task_id in service.created else refusal("807")

    service = Service(5.0, on_submit=trouble, after_submit=lost, on_query=unknown)
    journal = folder / "run.db"

    async def main() -> None:
        async with service.session(journal=journal) as session:
            await collect(session.stream(posters(8)))
            with contextlib.suppress(rh.SubmitManyError):
                await session.submit_many(posters(JOBS))
            await session.enlist(posters(3), batch="list")
            copies = [f"{journal}{end}" for end in ("", "-wal", "-shm")]
            for copy in copies:
                shutil.copy(copy, copy.replace("run.db", "left.db"))

    run(main)
    edit_left = contextlib.closing(sqlite3.connect(folder / "left.db"))
    with edit_left as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("UPDATE lease SET renewed = 0, host = 'another machine'")
        db.commit()
        for end in ("", "-wal", "-shm"):
            shutil.copy(folder / f"left.db{end}", folder / f"dead.db{end}")
    return service, folder


def damage(journal: Path, chance: random.Random) -> str:
    """Damage a journal in one way, as disks, programs and people do; return a description."""
    kind = chance.choice(["flip", "flip", "flip the log", "cut", "cut the log", "edit", "edit"])
    log = Path(f"{journal}-wal")
    path = log if kind.endswith("log") and log.exists() else journal
    body = bytearray(path.read_bytes())
    if kind.startswith("flip"):
        for _ in range(chance.choice([1, 1, 8])):
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
        path.write_bytes(body)
    elif kind.startswith("cut"):
        path.write_bytes(body[: chance.randrange(len(body))])
    else:
        columns = ["state", "task", "params", "task_id", "attempts", "content", "error", "files",
                   "open", "held", "sent_at", "cost", "place", "batch", "path"]  # fmt: skip
        values = [
            "NULL",
            "''",
            "'x'",
            "x'ff00'",
            "-1",
            "1e999",
            "99999999999",
            "CAST(x'ff' AS TEXT)",
        ]
        column, value = chance.choice(columns), chance.choice(values)
        with contextlib.suppress(sqlite3.Error):
            edit(journal, f"UPDATE jobs SET {column} = {value} WHERE seq % 5 = 1")
        kind = f"edit {column} = {value}"
    return kind


@pytest.mark.parametrize("seed", range(JOURNALS))
def test_a_journal_that_was_damaged_at_random(
    seed: int, sound: tuple[Service, Path], tmp_path: Path
) -> None:
    """It is refused or resumed: each request has an outcome, and what was submitted before is
    submitted again only if an error or an outcome said so."""
    service, folder = sound
    source = "dead.db" if seed % 2 else "run.db"
    for end in ("", "-wal", "-shm"):
        if (folder / f"{source}{end}").exists():
            shutil.copy(folder / f"{source}{end}", tmp_path / f"run.db{end}")
    what = damage(tmp_path / "run.db", random.Random(seed))
    before = Counter(service.submitted)
    with contextlib.suppress(rh.JournalError), rh.JournalReader(tmp_path / "run.db") as reader:
        reader.summary()
        list(reader.jobs())
    try:
        outcomes = run_again(service, tmp_path / "run.db", JOBS)
        run_again(service, tmp_path / "run.db", resume=True)
    except rh.JournalError:
        outcomes = None
    assert outcomes is None or len(outcomes) == JOBS, what
    again = Counter(service.submitted) - before
    # Those of the list were never submitted; the others are in the journal.
    assert all(n == 1 for n in again.values()), what
    assert set(again) <= {f"a poster of the number {n}" for n in range(3)}, what
