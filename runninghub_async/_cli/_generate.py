"""`generate`: a file of prompts in, a folder of pictures, a manifest and a page out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import functools
import sys
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from .._catalogue import ModelSpec
from .._exceptions import RunningHubError
from .._limits import Limits
from .._outcomes import Outcome
from .._session import Session
from .._stream import JobStream
from .._threads import run_in_thread
from ._calls import FAILED, INTERRUPTED, budget_of, currency_of, open_session, say, status_of
from ._drive import drive
from ._manifest import Line, Manifest, ManifestFile, job_line, unfinished_line
from ._progress import Progress, duration
from ._prompts import UsageError, find_model, first, look_over, overrides, read_items
from ._records import written
from ._report import at_stake, in_words
from ._sheet import sheet_pieces
from ._signals import Stop, until_stopped
from ._tables import tell
from ._waiting import until_written

__all__ = ["generate"]

_WITHOUT = "add --emulator to try the whole chain without key and without cost"


async def generate(args: argparse.Namespace) -> int:
    """Run the command and return its exit status: 0 all done, 1 some failed, 3 stopped by key,
    plan, balance or budget, 130 interrupted, 143 terminated. Raises `UsageError` for what makes
    it 2."""
    spec = await run_in_thread(find_model, args.model)
    common = {p.name: p.default for p in spec.params if not p.required and p.default is not None}
    common |= overrides(spec, args.param)
    if args.journal:
        from ._journaled import generate_journaled

        return await generate_journaled(args, spec, common)
    if args.reuse:
        raise UsageError("--reuse: needs --journal, which remembers what was made")
    return await until_stopped(lambda stop: _generate(args, spec, common, stop))


async def _generate(
    args: argparse.Namespace, spec: ModelSpec, common: dict[str, Any], stop: Stop
) -> int:
    total = await run_in_thread(look_over, args.prompts, spec)
    if total is None or (args.limit is not None and args.limit < total):
        total = args.limit
    items = first(read_items(args.prompts, spec, common), args.limit)
    folder = Path(args.out)
    async with contextlib.AsyncExitStack() as stack:
        session = await _open_session(args, stack)
        try:
            await run_in_thread(_make_room, folder)
            file = await run_in_thread(ManifestFile, folder / "manifest.jsonl")
        except OSError as error:
            raise UsageError(f"--out {folder}: {error.strerror or error}") from None
        stack.callback(file.close)
        progress = Progress(sys.stderr, total, currency_of(session))
        run = _Run(session, folder, Manifest(file), progress)
        stop.farewell = run.farewell
        stopped = await run.drive(items)
        return await run.finish(stopped, spec, stop)


async def _open_session(args: argparse.Namespace, stack: contextlib.AsyncExitStack) -> Session:
    options: dict[str, Any] = {
        "limits": Limits(max_concurrency=args.concurrency, submit_rate=args.rate),
        "unknown": args.unknown,
        "on_cancel": args.on_cancel,
    }
    if args.emulator:
        from ..emulator import Emulator

        emulator = await stack.enter_async_context(Emulator(duration=3.0, max_concurrency=100))
        options["budget"] = budget_of(args.budget, emulator.url)
        try:
            session = Session("emulator", base_url=emulator.url, **options)
        except ValueError as error:
            raise UsageError(str(error)) from None
        return await stack.enter_async_context(session)
    options["budget"] = budget_of(args.budget, args.base_url)
    return await open_session(
        stack, args.base_url, networks=args.result_network, without=_WITHOUT, **options
    )


class _Run:
    """One run: outcomes into lines."""

    def __init__(
        self, session: Session, folder: Path, manifest: Manifest, progress: Progress
    ) -> None:
        self._session = session
        self._folder = folder
        self._manifest = manifest
        self._progress = progress
        self._currency = currency_of(session)
        self._stream: JobStream | None = None

    async def drive(self, items: AsyncIterator[Any]) -> BaseException | None:
        """Run all requests to their end; return what stopped the run early, if anything did."""
        stream = self._stream = self._session.stream(items, folder=self._folder)
        self._manifest.hold = stream.paused
        waits = self._session.on_cancel == "wait"
        try:
            return await drive(
                stream, self._progress, self._take, waits=waits, kept=self._manifest.written
            )
        finally:
            for left in stream.unfinished:
                self._manifest.add(unfinished_line(left))

    def farewell(self) -> str:
        """What to say if the process has to end at once: the tasks that no file names."""
        lines = list(self._manifest.unwritten)
        running = () if self._stream is None else self._stream.running
        parts = _unwritten(lines)
        if running:
            parts += _running(running)
        return "\n".join(parts)

    async def finish(self, stopped: BaseException | None, spec: ModelSpec, stop: Stop) -> int:
        """Write the rest of the manifest, and the page; say how it went, return the exit
        status."""
        assert self._stream is not None
        interrupted = isinstance(stopped, asyncio.CancelledError)
        try:
            lost = await self._manifest.finish(patient=not interrupted)
        except asyncio.CancelledError:
            interrupted = True
            lost = await self._manifest.finish(patient=False)
        tally, took = self._progress.tally, self._progress.elapsed
        money = in_words(tally.money, self._currency)
        facts = {
            "Model": spec.path,
            "Service": self._session.base_url,
            "Took": duration(took),
            "Cost": money or "not known",
        }
        parts = [f"{tally.stored} done", f"{tally.failed} failed"]
        if tally.partly:
            parts.insert(1, f"{tally.partly} partly")
        if tally.unknown:
            parts.append(f"{tally.unknown} unknown")
        tell(f"{', '.join(parts)} in {duration(took)}" + (money and f", {money}"))
        if tally.unknown:
            stakes = self._stream.statistics().at_stake
            tell(at_stake(tally.unknown, stakes))
        if tally.partly:
            tell("results are missing: manifest.jsonl names them, and their tasks")
        running = [left.task_id for left in self._stream.unfinished if left.task_id]
        if running:
            for text in _running(running):
                tell(text)
        for text in _unwritten(lost):
            say(text)
        patient = not interrupted and not lost
        page_written = await self._write_page(facts, patient=patient)
        if interrupted:
            return stop.status or INTERRUPTED
        if stopped is not None:
            say(f"stopped: {stopped}")
        if isinstance(stopped, UsageError):
            raise stopped
        if isinstance(stopped, RunningHubError):
            return status_of(stopped)
        ended_badly = tally.failed or tally.unknown or tally.partly
        return FAILED if ended_badly or lost or not page_written else 0

    async def _write_page(self, facts: dict[str, str], *, patient: bool) -> bool:
        """Write the page and print its path; return whether that succeeded."""
        page = self._folder / "index.html"
        write = functools.partial(_write_page, page, self._manifest.file, facts)
        try:
            await (until_written(write, page) if patient else run_in_thread(write))
        except OSError as error:
            say(f"{page} was not written: {error.strerror or error}")
            return False
        tell(f"open {page}")
        return True

    def _take(self, outcome: Outcome) -> None:
        ended = datetime.datetime.now(datetime.UTC)
        line = job_line(outcome, ended=ended, currency=self._currency)
        self._manifest.add(line)
        tally = self._progress.tally
        tally.count(outcome)
        if line["cost"] is not None and line["cost"]["currency"] == self._currency:
            tally.money += Decimal(line["cost"]["amount"])


def _make_room(folder: Path) -> None:
    """An earlier run in the same folder was paid for: its record and its pictures are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "manifest.jsonl").exists():
        return
    number = 1
    while (old := folder / f"run-{number}").exists():
        number += 1
    old.mkdir()
    for file in [*folder.glob("[0-9][0-9][0-9][0-9][0-9]*.*"), folder / "manifest.jsonl"]:
        file.rename(old / file.name)
    with contextlib.suppress(FileNotFoundError):
        (folder / "index.html").rename(old / "index.html")


def _write_page(page: Path, manifest: ManifestFile, facts: dict[str, str]) -> None:
    with written(page) as file:
        title = page.parent.resolve().name
        file.writelines(sheet_pieces(manifest.read(), title=title, facts=facts))


def _running(ids: Sequence[str]) -> list[str]:
    """Which tasks still run, and what can be done about them, a line each."""
    tasks = "1 task still runs" if len(ids) == 1 else f"{len(ids)} tasks still run"
    return [
        f"{tasks} at the service: {' '.join(ids)}",
        "to fetch the results of one: runninghub-async task ID --wait --download DIR",
    ]


def _unwritten(lines: Sequence[Line]) -> list[str]:
    """The tasks whose lines could not be written, a line each."""
    texts = [
        f"not in manifest.jsonl: task {line['task_id']} of request {line['index']},"
        f" {line['status']}"
        for line in lines
        if line["task_id"]
    ]
    unknown = sum(line["status"] == "unknown" for line in lines)
    if unknown:
        texts.append(f"not in manifest.jsonl: {unknown} submits whose responses were lost")
    return texts
