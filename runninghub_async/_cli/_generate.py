"""`generate`: a file of prompts in, a folder of pictures, a manifest and a page out."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import sys
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import anyio.to_thread

from .._catalogue import ModelSpec
from .._download import Download
from .._exceptions import RunningHubError
from .._limits import Limits
from .._models import Output
from .._outcomes import Outcome, Succeeded
from .._session import Session
from .._stream import JobStream
from ._calls import FAILED, INTERRUPTED, currency_of, open_session, status_of
from ._manifest import Manifest, file_stem, job_line, unfinished_line
from ._progress import Progress, duration
from ._prompts import UsageError, find_model, look_over, overrides, read_items
from ._results import ending, fetch
from ._sheet import TEXTS, render_sheet

__all__ = ["generate"]

#: Results being fetched at once; more only share the same line.
_DOWNLOADS = 8

_WITHOUT = "add --emulator to try the whole chain without key and without cost"


async def generate(args: argparse.Namespace) -> int:
    """Run the command and return its exit status: 0 all done, 1 some failed, 3 stopped by key,
    plan or balance, 130 interrupted. Raises `UsageError` for what makes it 2."""
    spec = find_model(args.model)
    common = {p.name: p.default for p in spec.params if not p.required and p.default is not None}
    common |= overrides(spec, args.param)
    total = await anyio.to_thread.run_sync(look_over, args.prompts, spec)
    if total is None or (args.limit is not None and args.limit < total):
        total = args.limit
    items = _first(read_items(args.prompts, spec, common), args.limit)
    folder = Path(args.out)
    async with contextlib.AsyncExitStack() as stack:
        session, currency = await _open_session(args, stack)
        try:
            await anyio.to_thread.run_sync(_make_room, folder)
        except OSError as error:
            raise UsageError(f"--out {folder}: {error.strerror or error}") from None
        progress = Progress(sys.stderr, total, currency)
        manifest = stack.enter_context(Manifest(folder / "manifest.jsonl"))
        run = _Run(session, folder, manifest, progress, currency)
        return await run.finish(await run.drive(items), spec)


async def _open_session(
    args: argparse.Namespace, stack: contextlib.AsyncExitStack
) -> tuple[Session, str]:
    limits = Limits(max_concurrency=args.concurrency, submit_rate=args.rate)
    if args.emulator:
        from ..emulator import Emulator

        emulator = await stack.enter_async_context(Emulator(duration=3.0, max_concurrency=100))
        session = Session("emulator", base_url=emulator.url, limits=limits)
        await stack.enter_async_context(session)
    else:
        session = await open_session(stack, args.base_url, limits=limits, without=_WITHOUT)
    return session, currency_of(session)


async def _first(items: AsyncIterator[Any], limit: int | None) -> AsyncIterator[Any]:
    """The first `limit` items; what comes after them is not even read."""
    count = 0
    while limit is None or count < limit:
        try:
            item = await anext(items)
        except StopAsyncIteration:
            return
        count += 1
        yield item


class _Run:
    """One run: outcomes into files and lines."""

    def __init__(
        self,
        session: Session,
        folder: Path,
        manifest: Manifest,
        progress: Progress,
        currency: str,
    ) -> None:
        self._session = session
        self._folder = folder
        self._manifest = manifest
        self._progress = progress
        self._currency = currency
        self._fetching: dict[int, Outcome] = {}
        self._ended: dict[int, datetime.datetime] = {}
        self._slots = asyncio.Semaphore(_DOWNLOADS)
        self._running_ids: list[str] = []

    async def drive(self, items: AsyncIterator[Any]) -> BaseException | None:
        """Bring everything home; return what stopped the run early, if anything did."""
        stopped: BaseException | None = None
        stream = self._session.stream(items)
        # However this ends, what was paid for is written down.
        try:
            async with stream, anyio.create_task_group() as shown:
                shown.start_soon(self._tick, stream)
                async with anyio.create_task_group() as fetches:
                    try:
                        async for outcome in stream:
                            await self._take(outcome, fetches)
                    except (RunningHubError, UsageError) as error:
                        stopped = error
                shown.cancel_scope.cancel()
        except asyncio.CancelledError as error:
            stopped = error
        finally:
            self._write_down_the_rest(stream)
        self._progress.show(stream.statistics(), last=True)
        return stopped

    async def finish(self, stopped: BaseException | None, spec: ModelSpec) -> int:
        """Make the page, say how it went, return the exit status."""
        tally, took = self._progress.tally, self._progress.elapsed
        facts = {
            "Model": spec.path,
            "Service": self._session.base_url,
            "Took": duration(took),
            "Cost": f"{tally.money:f} {self._currency}" if tally.money else "not told",
        }
        page = self._folder / "index.html"
        await anyio.to_thread.run_sync(_write_page, page, self._manifest, facts)
        print(
            f"{tally.stored} done, {tally.failed} failed in {duration(took)}"
            + (f", {tally.money:f} {self._currency}" if tally.money else "")
        )
        if self._running_ids:
            print(
                f"{len(self._running_ids)} tasks still run at the service: "
                + " ".join(self._running_ids)
            )
        print(f"open {page}")
        if isinstance(stopped, asyncio.CancelledError):
            return INTERRUPTED
        if stopped is not None:
            print(f"stopped: {stopped}", file=sys.stderr)
        if isinstance(stopped, UsageError):
            raise stopped
        if isinstance(stopped, RunningHubError):
            return status_of(stopped)
        return FAILED if tally.failed else 0

    # -- inside -------------------------------------------------------------------------------

    async def _tick(self, stream: JobStream) -> None:
        while True:
            self._progress.show(stream.statistics())
            await anyio.sleep(0.1)

    async def _take(self, outcome: Outcome, tasks: anyio.abc.TaskGroup) -> None:
        self._ended[outcome.index] = _now()
        if not isinstance(outcome, Succeeded):
            self._write(outcome, [])
            return
        # Waiting here makes the stream wait, and so the submits: the disk sets the pace.
        await self._slots.acquire()
        self._fetching[outcome.index] = outcome
        tasks.start_soon(self._store, outcome)

    async def _store(self, outcome: Succeeded) -> None:
        files: list[Download] = []
        try:
            for number, output in enumerate(outcome.task.outputs):
                path = self._name(outcome, number, output)
                files.append(await fetch(self._session, output, path))
        except (RunningHubError, OSError) as error:
            self._write(outcome, files, error)
        else:
            self._write(outcome, files)
        finally:
            self._slots.release()

    def _name(self, outcome: Succeeded, number: int, output: Output) -> Path:
        stem = file_stem(outcome.index, _prompt_of(outcome.request))
        number_told = f"-{number + 1}" if number else ""
        return self._folder / f"{stem}{number_told}.{ending(output)}"

    def _write(
        self, outcome: Outcome, files: list[Download], error: Exception | None = None
    ) -> None:
        self._fetching.pop(outcome.index, None)
        ended = self._ended.pop(outcome.index, None) or _now()
        line = job_line(outcome, files, ended=ended, currency=self._currency, error=error)
        self._manifest.write(line)
        tally = self._progress.tally
        if outcome.ok and error is None:
            tally.stored += 1
        else:
            tally.failed += 1
        if line["cost"] is not None and line["cost"]["currency"] == self._currency:
            tally.money += Decimal(line["cost"]["amount"])

    def _write_down_the_rest(self, stream: JobStream) -> None:
        """What had come in but was not stored, and what had not come in."""
        for outcome in (*self._fetching.copy().values(), *stream.undelivered):
            if outcome.ok:
                self._write(outcome, [], RunningHubError("interrupted before it was fetched"))
            else:
                self._write(outcome, [])
        for left in stream.unfinished:
            self._manifest.write(unfinished_line(left))
            if left.task_id:
                self._running_ids.append(left.task_id)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _prompt_of(request: Any) -> str:
    params = request.to_params()
    told = (params.get(key) for key in TEXTS)
    return next((text for text in told if isinstance(text, str)), "")


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


def _write_page(page: Path, manifest: Manifest, facts: dict[str, str]) -> None:
    page.write_text(
        render_sheet(manifest.read(), title=page.parent.resolve().name, facts=facts),
        encoding="utf-8",
    )
