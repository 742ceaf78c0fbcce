"""`generate --journal`, `resume` and `retry`: runs that can be resumed."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

from .._catalogue import ModelSpec
from .._journal import FAULTY
from .._reader import JournalReader
from .._states import JobState
from .._stream import JobStream
from .._threads import run_in_thread
from ._calls import FAILED, say
from ._facts import STANDARD_INPUT, facts_in, mark_of, new_facts, take_folder
from ._prompts import Item, UsageError, first, look_over, read_items
from ._resumable import Run, opened, summary_of
from ._retrying import queue_failed
from ._signals import Stop, until_stopped
from ._tables import tell

__all__ = ["generate_journaled", "resume", "retry"]


async def generate_journaled(
    args: argparse.Namespace, spec: ModelSpec, common: Mapping[str, Any]
) -> int:
    """`generate` with a journal. Jobs that it holds are resumed; all requests of a file
    are saved before the first is submitted. Exit status: as of `generate`, 1 for a journal in which
    not all jobs are stored."""
    if args.emulator:
        raise UsageError(
            "--journal: the tasks of --emulator end with the process, and could not be"
            " resumed; start `runninghub-async emulator` in another terminal and name it with"
            " --base-url"
        )

    async def work(stop: Stop) -> int:
        known = await run_in_thread(facts_in, args.journal)
        mark = await run_in_thread(mark_of, args, spec)
        streamed = args.reuse or args.prompts == "-"
        enlisted = not streamed and known.get("enlisted") == mark
        if not enlisted:
            await run_in_thread(look_over, args.prompts, spec)
        folder = await run_in_thread(take_folder, "--out", args.out, args.journal, known)
        items = _Counted(first(read_items(args.prompts, spec, common), args.limit))
        facts = await run_in_thread(new_facts, args, spec, known)
        if not enlisted:
            facts["enlisted"] = ""
        async with opened(args, known, args.base_url, folder, facts) as run:
            if streamed:
                return await _stream(run, items, mark, stop, reuse=args.reuse)
            if not enlisted:
                await _enlist(run, items, mark)
                if known:
                    await _warn_of_repeated(run)
            return await run.go_on([lambda: run.session.resume(folder=folder)], stop)

    return await until_stopped(work)


async def _stream(run: Run, items: _Counted, mark: str, stop: Stop, *, reuse: bool) -> int:
    """Read the input as a stream. `reuse`: first finish the jobs that were submitted for an earlier
    version of the input, or for another place in it, so that their results can be reused. Jobs that
    were never submitted and are no longer in the input are removed at the end."""

    def stream() -> JobStream:
        return run.session.stream(items, folder=run.folder, reuse=reuse)

    async def at_end() -> None:
        if reuse:
            await run.store.drop_set_aside("")
        await run.store.put(items.facts(mark))

    if not reuse:
        return await run.go_on([stream], stop, at_end)
    # These are not resumed unless the input names them again.
    await run.store.set_aside("")
    return await run.go_on(
        [lambda: run.session.resume(folder=run.folder, check=False), stream], stop, at_end
    )


async def _warn_of_repeated(run: Run) -> None:
    """Warn, before anything is spent, that the input was edited and its requests have moved."""
    count = await run_in_thread(_count_repeated, run.journal)
    if count:
        same = "1 request is" if count == 1 else f"{count} requests are"
        say(
            f"{same} the same as requests that this run submitted from other places of its input,"
            " as after a line was inserted; they are submitted and billed again. To use what the"
            " journal has: interrupt this run, and run the same command with --reuse"
        )


def _count_repeated(journal: str) -> int:
    with JournalReader(journal) as reader:
        return reader.repeated()


async def _enlist(run: Run, items: _Counted, mark: str) -> None:
    try:
        await run.session.enlist(items)
    except asyncio.CancelledError:
        say("interrupted while the input was recorded; to continue, run the same command again")
        raise
    await run.store.put(items.facts(mark))


async def resume(args: argparse.Namespace) -> int:
    """Resume a journal without its input. Exit status: as of `generate`."""
    return await until_stopped(lambda stop: _resume(args, stop))


async def retry(args: argparse.Namespace) -> int:
    """Queue jobs that ended badly for retry, and resume. The exit status is that of `generate`; 1
    if there was nothing to retry."""
    if not (args.failed or args.unknown_ones or args.cancelled):
        raise UsageError("name what to try again: --failed, --unknown or --cancelled")
    if args.code and not args.failed:
        raise UsageError("--code: applies to failed jobs only; add --failed")
    return await until_stopped(lambda stop: _resume(args, stop, retrying=True))


async def _resume(args: argparse.Namespace, stop: Stop, *, retrying: bool = False) -> int:
    known = (await run_in_thread(summary_of, args.journal)).facts
    name = args.out or known.get("folder")
    if not name:
        raise UsageError(f"{args.journal} does not say where the results go: add --out")
    folder = await run_in_thread(take_folder, "--out", name, args.journal, known)
    base_url = args.base_url or known.get("base_url")
    async with opened(args, known, base_url, folder, {}) as run:
        if retrying and not await _put_back(run, args):
            return FAILED
        if known.get("input") and not known.get("enlisted"):
            source = known["input"]
            again = "" if source == STANDARD_INPUT else " with the same input"
            say(
                f"{source} was not completely read before this run was interrupted; resuming with"
                f" the requests in the journal. For the others, run generate{again} again"
            )
        check = not args.no_check
        return await run.go_on([lambda: run.session.resume(folder=folder, check=check)], stop)


async def _put_back(run: Run, args: argparse.Namespace) -> bool:
    """Queue jobs to be submitted again; return whether there are any."""
    store, count = run.store, 0
    if args.failed:
        back = await queue_failed(run, args.code)
        count += back
        tell(f"queued {_jobs(back, 'failed')} for retry")
        faulty = await run_in_thread(_count_faulty, run.journal)
        if faulty and not args.code:
            tell(f"not queued: {_jobs(faulty, 'failed')} with an invalid input line")
    if args.unknown_ones:
        back = await store.put_back(JobState.UNKNOWN, None)
        count += back
        tell(f"queued {_jobs(back, 'unknown')} for retry, which may be billed twice")
    if args.cancelled:
        back = await store.put_back(JobState.CANCELLED, None)
        count += back
        tell(f"queued {_jobs(back, 'cancelled')} for retry; cancelled jobs are billed again")
    return count > 0


def _jobs(count: int, state: str) -> str:
    return f"{count} {state} {'job' if count == 1 else 'jobs'}"


def _count_faulty(journal: str) -> int:
    with JournalReader(journal) as reader:
        return sum(record.code == FAULTY for record in reader.jobs(JobState.FAILED))


class _Counted:
    """Items that are counted as they are taken."""

    def __init__(self, items: AsyncIterator[Item]) -> None:
        self._items = items
        self._count = 0

    def __aiter__(self) -> AsyncIterator[Item]:
        return self

    async def __anext__(self) -> Item:
        item = await anext(self._items)
        self._count += 1
        return item

    def facts(self, mark: str) -> dict[str, str]:
        """What is known once the last one was taken."""
        return {"enlisted": mark, "count": str(self._count)}
