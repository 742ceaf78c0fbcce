"""A run over a journal: opened, brought to its end, and told of."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import attrs

from .._exceptions import RunningHubError
from .._limits import Limits
from .._reader import JournalReader, JournalSummary
from .._session import Session
from .._sqlite import SqliteJobStore
from .._states import OPEN, JobState
from .._stream import JobStream
from .._threads import run_in_thread
from ._calls import FAILED, INTERRUPTED, budget_of, open_session, say, status_of
from ._drive import drive
from ._progress import Progress, duration
from ._records import write_pages
from ._report import at_stake, ending_of, in_words, next_steps, outline
from ._signals import HUNG_UP, TERMINATED, Stop
from ._tables import tell
from ._waiting import until_written

__all__ = ["Run", "opened", "summary_of"]


@contextlib.asynccontextmanager
async def opened(
    args: argparse.Namespace,
    told: Mapping[str, str],
    base_url: str | None,
    folder: Path,
    facts: dict[str, str],
) -> AsyncIterator[Run]:
    """A run over the journal that `args` name, which was told `told` before and is told `facts`,
    until it is left. Raises `UsageError` and `JournalError`."""
    store = SqliteJobStore(args.journal)
    async with contextlib.AsyncExitStack() as stack:
        session = await open_session(
            stack,
            base_url,
            limits=Limits(max_concurrency=args.concurrency, submit_rate=args.rate),
            networks=args.result_network,
            journal=store,
            budget=budget_of(args.budget, base_url, told.get("currency", "")),
            unknown=args.unknown,
            on_cancel=args.on_cancel,
        )
        where = {"folder": str(folder), "manifest": str(folder), "base_url": session.base_url}
        await store.put(facts | where)
        yield Run(session, store, args.journal, folder)


@attrs.frozen
class Run:
    """A run over the journal in the file `journal`."""

    session: Session
    store: SqliteJobStore
    journal: str
    folder: Path

    async def go_on(
        self,
        streams: Sequence[Callable[[], JobStream]],
        stop: Stop,
        at_end: Callable[[], Awaitable[None]] | None = None,
    ) -> int:
        """Run all streams to their end, one after the other, print how it went, and return the exit
        status. `at_end` is called when the last stream has read all of its input."""
        stop.farewell = lambda: f"interrupted; to continue: {self._again}"
        begun = await self._summary()
        tell(f"{Path(self.journal).name}: {outline(begun.states)}")
        left = sum(begun.states[state] for state in (*OPEN, JobState.UNKNOWN))
        progress = Progress(sys.stderr, None if at_end else left, begun.spent.currency)
        waits = self.session.on_cancel == "wait"
        stopped: BaseException | None = None
        for open_stream in streams:
            if stopped is None:
                stopped = await drive(
                    open_stream(), progress, progress.tally.count, waits=waits,
                    spent=self.store.spent,
                )  # fmt: skip
        if stopped is None and at_end is not None:
            await at_end()
        await self.store.flush()
        return await self._finish(stopped, stop, progress)

    async def _finish(self, stopped: BaseException | None, stop: Stop, progress: Progress) -> int:
        end = await self._summary()
        cost = in_words(end.spent.amount, end.spent.currency)
        took = duration(progress.elapsed)
        tell(f"{ending_of(end.states)} in {took}" + (cost and f", {cost}"))
        unknown = end.states[JobState.UNKNOWN]
        if unknown:
            tell(at_stake(unknown, end.at_stake))
        if stopped is None:
            for step in next_steps(end.states, self.journal):
                tell(step)
        written = True
        if stop.status not in (TERMINATED, HUNG_UP):
            facts = {
                "Model": end.facts.get("model", ""),
                "Service": self.session.base_url,
                "Journal": self.store.path,
                "Took": took,
                "Cost": cost or "not known",
            }
            written = await self._write_pages(
                facts, patient=not isinstance(stopped, asyncio.CancelledError)
            )
        status = self._status(stopped, stop, end)
        # The row of a stored job may be damaged, and then counts as stored all the same.
        whole = written and not progress.tally.failed
        return status or (0 if whole else FAILED)

    def _status(self, stopped: BaseException | None, stop: Stop, end: JournalSummary) -> int:
        if isinstance(stopped, asyncio.CancelledError):
            say(stop.farewell())
            return stop.status or INTERRUPTED
        if isinstance(stopped, RunningHubError):
            say(f"stopped: {stopped}")
            say(f"to continue: {self._again}")
            return status_of(stopped)
        if stopped is not None:
            raise stopped
        done = end.states[JobState.STORED] == sum(end.states.values())
        return 0 if done else FAILED

    @property
    def _again(self) -> str:
        return f"runninghub-async resume {shlex.quote(self.journal)}"

    async def _summary(self) -> JournalSummary:
        await self.store.flush()
        return await run_in_thread(summary_of, self.journal)

    async def _write_pages(self, facts: Mapping[str, str], *, patient: bool) -> bool:
        """Write manifest and page, and print the page's path; return whether that succeeded. The
        journal has everything that they would hold."""
        page = self.folder / "index.html"
        write = functools.partial(write_pages, self.journal, self.folder, facts)
        try:
            await (until_written(write, page) if patient else run_in_thread(write))
        except OSError as error:
            name = shlex.quote(self.journal)
            say(
                f"manifest.jsonl and index.html were not written to {self.folder}:"
                f" {error.strerror or error}. Nothing is lost: all tasks are in the journal;"
                f" to list them: runninghub-async export {name} --format csv; to write the files:"
                f" {self._again} --out DIR"
            )
            return False
        tell(f"open {page}")
        return True


def summary_of(journal: str) -> JournalSummary:
    """The journal in numbers. Raises `JournalError`."""
    with JournalReader(journal) as reader:
        return reader.summary()
