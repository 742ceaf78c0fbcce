"""Between a session's jobs and its journal: rows for jobs, moves as they happen."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final
from weakref import WeakMethod, WeakSet, WeakValueDictionary

from ._bounded import Bounded
from ._budget import billed
from ._exceptions import JournalError, PayloadError, RunningHubError
from ._job import Accepted, Action, Deliver, Event, Missed, Refused
from ._journal import (
    FAULTY,
    Begun,
    Content,
    JobFacts,
    JobRecord,
    KeptFile,
    Moved,
    content_of,
    error_text,
    files_text,
    key_of,
    nano_of,
    task_text,
)
from ._log import logger_of
from ._outcomes import Failed, Outcome, Succeeded
from ._scheduler import Entry, Row
from ._states import JobState, may_move
from ._store import JobStore, MatchingStore

__all__ = ["Recorder", "already_live", "digest_of", "is_new"]

logger = logger_of("runninghub_async")


_NOTHING: Final = Content("", "", "")
_NO_FACTS: Final = JobFacts()
_NONE: Final[Mapping[str, str]] = {}

#: How often rows with the same content are read, at most, once one of them has succeeded.
_LOOKS: Final = 4

#: What tells of an error.
_ERRORS: Final = (Refused, Missed)

#: The longest key that is taken of users, in characters.
_KEY_MAX: Final = 500

#: Tasks that `submit` and `submit_many` made, whose rows are still known.
_TASKS_KEPT: Final = 100_000


class Recorder:
    """The journal of one session. `currency` is what its service bills in."""

    def __init__(self, store: JobStore, currency: str) -> None:
        self.store = store
        self.currency = currency
        #: Jobs under way in this session, by their keys, but for those of `of_first`.
        self._live: WeakValueDictionary[str, Entry] = WeakValueDictionary()
        #: Rows of tasks that were submitted here and are waited for by their ids, if at all.
        self._by_task: Bounded[str, Row] = Bounded(_TASKS_KEPT)
        #: By content: of the jobs under way, the last that does not wait for another job.
        self._equal: WeakValueDictionary[str, Entry] = WeakValueDictionary()
        #: Jobs that wait for the end of one with the same content.
        self._idle: WeakSet[Entry] = WeakSet()
        #: What is called at the end of a job under way, by its key, with its outcome or None.
        self.waiting: dict[str, list[Callable[[Outcome | Accepted | None], None]]] = {}
        #: For each look-up in the journal that is under way, the keys of the rows that were written
        #: since it began, and the digests of new ones.
        self._changes: list[set[str]] = []
        #: No job has been asked for yet, and the journal was empty when it was opened.
        self.fresh = False
        #: The entry of a key among the jobs of the stream that began then: it has its own list of
        #: them, and need not keep another one here.
        self.of_first: WeakMethod[Callable[[str], Entry | None]] | None = None

    # -- rows ---------------------------------------------------------------------------------

    def row(
        self, request: Any, place: int | None, batch: str, own: str | None = None
    ) -> Row | None:
        """The row for a request, not written yet; None for a request that is none, which is
        never sent either. A request without a place or a key of its own is a job of its own."""
        if own is not None and not _can_be_kept(own):
            raise PayloadError([f"key: expected a text of 1 to {_KEY_MAX} characters @ $"])
        try:
            params = request.to_params()
            content = content_of(request.path, params)
        except Exception:
            # What is wrong with it is said where it is checked.
            return None
        if own is None and place is None:
            own = secrets.token_hex(16)
        return Row(key_of(content, place, batch, own), content, params, place, batch)

    def claim(self, entry: Entry) -> None:
        """Take the job for `entry`. Raises `PayloadError` if another one has it."""
        assert entry.row is not None
        if self.live(entry.row.key) not in (None, entry):
            raise already_live(entry.row.key)
        self._live[entry.row.key] = entry

    def claimed(self, key: str) -> bool:
        """Whether another job has this key, and not one of the first stream's."""
        return bool(self._live) and _under_way(self._live.get(key))

    def row_of(self, task_id: str) -> Row | None:
        """The row of a task that was submitted here."""
        return self._by_task.get(task_id)

    def live(self, key: str) -> Entry | None:
        """The job of this key, if it is under way here."""
        of_first = None if self.of_first is None else self.of_first()
        entry = None if of_first is None else of_first(key)
        if not _under_way(entry):
            entry = self._live.get(key)
        return entry if _under_way(entry) else None

    def drives(self, entry: Entry, digest: str) -> None:
        """The job of `entry`, of this content, is under way; others may wait for its end."""
        self._equal[digest] = entry

    def equal(self, digest: str) -> Entry | None:
        """A job under way here with this content."""
        return self.driving(self._equal.get(digest))

    def driving(self, entry: Entry | None) -> Entry | None:
        """`entry`, if it is under way and does not itself wait for another job: two jobs that wait
        for each other would never end."""
        return entry if _under_way(entry) and entry not in self._idle else None

    def wait_for(
        self, other: Entry, entry: Entry, call: Callable[[Outcome | Accepted | None], None]
    ) -> None:
        """Call at the end of the job of `other`, for which `entry` waits."""
        assert other.row is not None
        self._idle.add(entry)

        def ended(result: Outcome | Accepted | None) -> None:
            self._idle.discard(entry)
            call(result)

        self.waiting.setdefault(other.row.key, []).append(ended)

    def ended(self, entry: Entry, result: Outcome | Accepted | None) -> None:
        """A job that was under way here has an outcome, or is detached without one."""
        if self.waiting and entry.row is not None:
            for call in self.waiting.pop(entry.row.key, ()):
                call(result)

    async def look_up(
        self, keys: Sequence[str], digests: Mapping[str, str] = _NONE
    ) -> tuple[Mapping[str, JobRecord], Mapping[str, Sequence[JobRecord]]]:
        """What the journal knows of jobs, by their keys; and of those that are new to it and have
        one of the `digests`, by the digest: the jobs with the same content. Raises `JournalError`.

        A row may be read before its job moves and arrive after the job has ended. Such rows are
        read again, because no later event would correct them. Rows with the same content are read
        a limited number of times once one has succeeded: others may write them all the time.
        """
        known: dict[str, JobRecord] = {}
        equal: dict[str, Sequence[JobRecord]] = {}
        changed: set[str] = set()
        looks = 0
        self._changes.append(changed)
        wanted = keys
        try:
            while wanted:
                found = await self.store.find(wanted)
                for key in wanted:
                    known.pop(key, None)
                known.update(found)
                new = [digests[key] for key in wanted if key in digests and is_new(known.get(key))]
                if new:
                    # Those that have none now may have had some at the first look.
                    equal.update(dict.fromkeys(new, ()))
                    equal.update(await self._find_equal(new))
                if not changed:
                    break
                looks += 1
                # What is still under way here is waited for, whatever its row says.
                ended = {key for key in changed if not self._is_writing(key)}
                outdated = {
                    digest
                    for digest, records in equal.items()
                    if (digest in ended or any(record.key in ended for record in records))
                    and (looks < _LOOKS or not any(map(_has_succeeded, records)))
                }
                wanted = [key for key in keys if key in ended or digests.get(key) in outdated]
                changed.clear()
        finally:
            self._changes = [each for each in self._changes if each is not changed]
        return known, equal

    def _is_writing(self, key: str) -> bool:
        """Whether the job of this key is under way here, and has a row."""
        entry = self.live(key)
        return entry is not None and entry.row is not None and entry.row.recorded is not None

    async def _find_equal(self, digests: Sequence[str]) -> Mapping[str, Sequence[JobRecord]]:
        if isinstance(self.store, MatchingStore):
            return await self.store.find_equal(digests)
        found = await self.store.find_content(digests)
        return {digest: [record] for digest, record in found.items()}

    @staticmethod
    def fits(row: Row, record: JobRecord) -> bool:
        """Whether a record is of the same request, and not of another one with the same key."""
        return row.content is None or row.content.digest == record.content

    # -- what happens -------------------------------------------------------------------------

    def begin(self, entry: Entry) -> Coroutine[Any, Any, str | None]:
        """Write down, durably, that the submit of `entry` is about to leave. If the journal knows
        a task for it already, its id is returned, and None if the job is not to be sent now;
        in both cases nothing must be sent."""
        row = entry.row
        assert row is not None
        begun = Begun(
            row.key,
            row.recorded,
            JobState.SUBMITTING,
            time.time(),
            row.content or _NOTHING,
            row.place,
            row.batch,
            entry.job.attempts + 1,
        )
        self._has_changed(row)
        row.before, row.recorded = row.recorded, JobState.SUBMITTING
        row.content = row.params = None
        return self.store.begin(begun)

    def unsent(self, entry: Entry) -> None:
        """It was written down that a submit is about to leave, and it did not."""
        if entry.row is not None and entry.row.recorded is JobState.SUBMITTING:
            self._note(entry.row, entry.row.before or JobState.NEW)

    def found(self, entry: Entry, task_id: str) -> None:
        """The journal knew the task of a job that nobody waits for any more."""
        if entry.row is not None and entry.row.recorded is JobState.SUBMITTING:
            self._note(entry.row, JobState.ACCEPTED, {"task_id": task_id})
        logger.warning("task %s still runs at the service, and nothing waits for it", task_id)

    def follows(self, entry: Entry) -> bool:
        """Whether a job waits for the end of one with the same content."""
        return entry in self._idle

    def moved(self, entry: Entry, event: Event, action: Action) -> None:
        """`entry` made a move: what `Scheduler.on_move` is told."""
        row, state = entry.row, entry.job.state
        assert row is not None
        if row.recorded is None:
            self._put_down(row)
            if state is JobState.NEW:
                return
        if not entry.job.attempts and not may_move(row.recorded or state, state):
            # One of several that wait for the same task.
            return
        facts: JobFacts = {}
        if state is JobState.ACCEPTED:
            facts["task_id"] = entry.job.task_id
            if row.faulted:
                # The result of an earlier try is outdated.
                facts["code"] = facts["error"] = ""
        if isinstance(event, _ERRORS):
            facts["code"], facts["error"] = error_text(event.error)
            if not entry.job.attempts and _at_fault(entry.job.request):
                facts["code"] = FAULTY
        if isinstance(action, Deliver):
            self._add_result(facts, action.result)
            if isinstance(action.result, Accepted):
                self._by_task[entry.job.task_id] = row
        self._note(row, state, facts)

    def _add_result(self, facts: JobFacts, result: Outcome | Accepted) -> None:
        task = result.task
        if task is None or not task.done:
            return
        facts["task_id"], facts["task"] = task.id, task_text(task)
        cost = nano_of(billed(task.usage, self.currency))
        if cost is not None:
            facts["cost"] = cost
        if isinstance(result, Failed):
            facts["code"], facts["error"] = error_text(result.error)

    def _put_down(self, row: Row) -> None:
        """A row for a job that ends without ever having been sent."""
        self._has_changed(row)
        self.store.note(
            Begun(
                row.key, None, JobState.NEW, time.time(), row.content or _NOTHING, row.place,
                row.batch,
            )
        )  # fmt: skip
        row.recorded = JobState.NEW

    def stored(self, row: Row, files: Sequence[KeptFile]) -> None:
        """The results of a job are on disk."""
        facts = JobFacts(files=files_text(files))
        if row.faulted:
            # The result of an earlier try is outdated.
            facts["code"] = facts["error"] = ""
        self._note(row, JobState.STORED, facts)

    def partly_stored(self, row: Row, files: Sequence[KeptFile], error: RunningHubError) -> None:
        """Some results of a job are on disk, and others could not be fetched, for now."""
        code, text = error_text(error)
        facts = JobFacts(files=files_text(files), code=code, error=text)
        self._note(row, JobState.PARTLY_STORED, facts)

    def not_stored(self, row: Row, error: RunningHubError) -> None:
        """The results of a job could not be fetched, for now."""
        code, text = error_text(error)
        self._note(row, JobState.SUCCEEDED, {"code": code, "error": text})

    def reused(self, entry: Entry, outcome: Succeeded, files: Sequence[KeptFile]) -> None:
        """A job is served with what another one with the same content made, at no cost."""
        assert entry.row is not None
        self.shared(entry.row, outcome, files, whole=True)

    def shared(
        self, row: Row, outcome: Succeeded, files: Sequence[KeptFile], *, whole: bool
    ) -> None:
        """A job has the outcome of another one with the same content, at no cost; unless `whole`,
        its results are still to be fetched."""
        if row.recorded is None:
            self._put_down(row)
        kept, task = files_text(files), task_text(outcome.task)
        facts = JobFacts(files=kept, task=task, task_id=outcome.task.id, cost=0)
        self._note(row, JobState.STORED, facts)
        if not whole:
            self._note(row, JobState.SUCCEEDED)

    def unstored(self, row: Row) -> None:
        """A file of a stored job is gone or changed."""
        self._note(row, JobState.SUCCEEDED)

    def again(self, row: Row) -> None:
        """A job that had failed unsent is tried again."""
        if row.recorded is JobState.FAILED:
            self._note(row, JobState.NEW)

    def _has_changed(self, row: Row) -> None:
        for changed in self._changes:
            changed.add(row.key)
            if row.content is not None:
                changed.add(row.content.digest)

    def _note(self, row: Row, state: JobState, facts: JobFacts = _NO_FACTS) -> None:
        old = row.recorded
        assert old is not None
        if not may_move(old, state):
            raise JournalError(f"job {row.key} cannot go from {old} to {state}")
        self._has_changed(row)
        row.recorded = state
        if "error" in facts:
            row.faulted = True
        self.store.note(Moved(row.key, old, state, time.time(), facts))


def already_live(key: str) -> PayloadError:
    """What is wrong with a second job of this key."""
    return PayloadError([f"key: {key!r} is of a job that is under way @ $"])


def digest_of(request: Any) -> str:
    """The digest of a request's content; empty for one that cannot be written down."""
    try:
        return content_of(request.path, request.to_params()).digest
    except Exception:
        return ""


def is_new(record: JobRecord | None) -> bool:
    """Whether nothing has happened to a job yet."""
    return record is None or (record.state is JobState.NEW and record.damage is None)


def _has_succeeded(record: JobRecord) -> bool:
    return record.damage is None and record.state in (JobState.SUCCEEDED, JobState.STORED)


def _under_way(entry: Entry | None) -> bool:
    return entry is not None and entry.under_way


def _at_fault(request: Any) -> bool:
    """Whether a request is not to be submitted as it stands; what its files lack may be mended."""
    try:
        return bool(request.check())
    except Exception:
        return True


def _can_be_kept(key: str) -> bool:
    """Whether a key is a text that every data base takes."""
    if not isinstance(key, str) or not 0 < len(key) <= _KEY_MAX:
        return False
    return key.encode("utf-8", "ignore").decode() == key
