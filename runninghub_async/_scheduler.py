"""What to do next, over all the jobs of a session. Plain functions of the time; no I/O.

One heap of due times holds every waiting job, so a waiting job is a small record and not a
coroutine or a timer. Workers ask `next_step`; what they learn they report, and the scheduler
keeps the books: tasks alive, the window of slots, the gate, what is due when.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary, WeakValueDictionary

import attrs

from ._bounded import Recent
from ._budget import Budget, listed_price
from ._circuit import Circuit, CircuitState, Trouble
from ._exceptions import (
    CapacityError,
    ConnectError,
    NotFoundError,
    OutageError,
    RateLimitError,
    RunningHubError,
    TransportError,
)
from ._job import (
    Accepted,
    Action,
    AwaitEvidence,
    Deliver,
    Event,
    Found,
    Job,
    LookAt,
    Missed,
    Refused,
    Rules,
    Seen,
    Sent,
    Silent,
    Stop,
    SubmitAgain,
    advance,
    reject,
)
from ._journal import Content
from ._limits import Gate, Limits, Window
from ._models import Task
from ._outcomes import Outcome
from ._retry import STOPPING, Cause, asked_pause, trouble_of
from ._states import JobState

__all__ = ["MOST_SUBMITTING", "Entry", "Row", "Scheduler", "Source", "Step"]


_SENT = Sent()

#: The gate as it nearly always is; told by identity, since it is looked at before every step.
_OPEN: Final = Gate()

#: Task ids that are remembered, so that a stray answer is not taken for another job's.
_IDS_KEPT: Final = 1_000

#: After so many seconds without any answer to the submits that left, that is logged.
_SILENCE: Final = 15.0

#: So many outdated records in the heap are not worth the work of clearing them out.
_MANY: Final = 64

#: Submits under way at once. Fewer than there are workers: a service that is slow to take
#: submits must not keep everybody from asking after what is done.
MOST_SUBMITTING: Final = 48

#: No further submit is begun while those under way hold so many bytes. Each holds its request
#: twice: as its JSON body, and until it is in the journal as the text that is written there.
MOST_BYTES_SUBMITTING: Final = 2**23


class Step(enum.Enum):
    """What a free worker should do."""

    QUERY = "query the task that is due"
    SUBMIT = "submit the next request"


class Source(Protocol):
    """Where jobs come from and where their results go."""

    #: Left by its user: its jobs are let go as soon as they come up.
    closed: bool
    #: Nothing of it is submitted any more, for the first time or again. So it is once it is closed.
    stopped: bool

    def ready(self) -> bool:
        """Whether `take` would give a job now."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether no more jobs will come."""
        ...

    def take(self) -> Entry | None:
        """The next new job; None if there turned out to be none."""
        ...

    def size_of(self, entry: Entry, /) -> int:
        """The bytes that the request of a job holds; 0 if they are few."""
        ...

    def deliver(self, entry: Entry, result: Outcome | Accepted) -> None:
        """A job has ended."""
        ...

    def stop(self, entry: Entry, error: RunningHubError) -> None:
        """This job was refused, and every further one of this source would be: take no more."""
        ...

    def halt(self, error: RunningHubError) -> None:
        """Nothing more is submitted in this session: take no more and end with `error`."""
        ...

    def let_go(self, entry: Entry) -> None:
        """A job of a closed source came up, in the state it was left in, or a job of a stopped one
        that was to be submitted."""
        ...


@attrs.define(eq=False)
class Row:
    """A job's row in the journal: its key and place, its content, also as `params`, until that is
    written, and the state it was last written down in, None while there is no row; `before` its
    submit was about to leave. `known`: it is of an earlier session. `faulted`: it may tell of
    what went wrong before."""

    key: str
    content: Content | None = None
    params: dict[str, Any] | None = None
    place: int | None = None
    batch: str = ""
    recorded: JobState | None = None
    before: JobState | None = None
    known: bool = False
    faulted: bool = False


@attrs.define(eq=False)
class Entry:
    """A job and where it belongs. `gone` once its source has let go of it; `number` orders
    those that wait to be submitted again, so that the first taken is the first sent. `due` is
    when it is looked at next, infinite while it is not to be; `told` is its task if the end of that
    was announced meanwhile; `announced` is what its webhook will call it. `fetching`: its task has
    ended, and its results are being fetched. `taken`: a worker is about to submit it. `lost` is
    what happened to the answer of a submit of unknown fate. `other` waits for the same task. `row`
    is its place in the journal, if there is one.

    There may be hundreds of thousands: what only few jobs have is kept beside them."""

    job: Job
    source: Source
    gone: bool = False
    number: int = -1
    due: float = math.inf
    told: str = ""
    announced: str = ""
    lost: RunningHubError | None = None
    other: Entry | None = None
    row: Row | None = None
    fetching: bool = False
    taken: bool = False

    @property
    def under_way(self) -> bool:
        """Whether anything is still to become of it here."""
        return self.fetching or not self.gone


#: Rounds of connecting, with growing pauses, before an address that was never reached counts as
#: wrong.
_TRIES_UNREACHED: Final = 4

#: How often a job's files may be refused while others are taken, before the job is at fault.
_UPLOAD_FAULTS: Final = 4

#: A pause that the service asks for is logged from so many seconds on.
_LONG_PAUSE: Final = 10.0

#: So long, in seconds, all queries fail before that is logged; then twice as long each time.
_MISSED_TOLD: Final = 10.0

_NOT_THE_SERVICE: Final = (
    "These are not the service's own answers: check base_url, the network and the proxy"
)
_LATER: Final = "Submit the rest later, or resume the journal"


def _spell(seconds: float) -> str:
    """A duration for a person."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


class Scheduler:
    """The books of one session. `chance` gives uniform random numbers in [0, 1)."""

    def __init__(self, limits: Limits, rules: Rules, chance: Callable[[], float]) -> None:
        self.window = Window.open(limits)
        self.gate = _OPEN
        retry = rules.retry
        self.circuit = Circuit(retry.outage_wait, retry.outage_wait_max, retry.outage_max)
        #: Called with a line for the log, about a wait and its reason.
        self.say: Callable[[str], object] = str
        #: The address of the service, for messages.
        self.origin = ""
        #: The wall clock, in Unix time.
        self.wall: Callable[[], float] = float
        self.alive = 0
        self.in_flight = 0
        #: Jobs whose submit is under way, with the bytes that their requests hold, and their sum.
        self._submitting: dict[Entry, int] = {}
        self._submitting_bytes = 0
        #: How often the files of a job were refused while others were taken.
        self._upload_faults: WeakKeyDictionary[Entry, int] = WeakKeyDictionary()
        #: A worker is waiting for the rate limiter; a second one would only queue behind it.
        self.pacing_submit = False
        self.pacing_query = False
        #: Those that wait for tasks which others submitted; of several, the last that came, which
        #: knows of the one before it.
        self.watched: WeakValueDictionary[str, Entry] = WeakValueDictionary()
        #: Reasons, such as a full disk, for which nothing is submitted for now.
        self.paused = 0
        #: Called with every move of a job that has a row.
        self.on_move: Callable[[Entry, Event, Action], None] | None = None
        self.budget: Budget | None = None
        self._poor = False
        self._rules = rules
        self._chance = chance
        self._due: list[tuple[float, int, Entry]] = []
        self._again: list[tuple[float, int, Entry]] = []
        self._sources: deque[Source] = deque()
        self._order = itertools.count()
        self._refusals = 0
        self._slot_pause = -math.inf
        self._outdated = 0
        #: Since when no request could be sent at all, before the first answer of the session.
        self._unreachable_since: float | None = None
        #: Since when every submit is refused because no slot is free or the rate limit is reached,
        #: with no task alive.
        self._refused_since: float | None = None
        #: Ids of the latest tasks that were created here. No second job may have one of them.
        self._ids: Recent[str] = Recent(_IDS_KEPT)
        self._silence_told = False
        self._money_told = False
        self._last_taken = 0.0
        #: Some call of this session has had an answer of the service.
        self.reached = False
        #: When a submit was last answered in the service's own words.
        self._useful_at = -math.inf
        #: Since when every query fails, how many, and when that is logged next.
        self._missed_since: float | None = None
        self._missed = 0
        self._missed_told = 0.0
        #: When a pause that the service asks for is logged next, and how long after the last time.
        self._pause_told = -math.inf
        self._pause_gap = 0.0

    def add(self, source: Source) -> None:
        """Take jobs from `source` from now on, in turn with the others."""
        self._sources.append(source)

    def watch(self, entry: Entry, now: float) -> None:
        """Follow a task that is already running, started by whomever; it takes no slot here."""
        other = self.watched.get(entry.job.task_id)
        while other is not None and other.gone:
            other = other.other
        entry.other = other
        self.watched[entry.job.task_id] = entry
        self._look_at(entry, now)

    def adopt(self, entry: Entry, now: float) -> None:
        """Resume a job of an earlier session: its task is alive, or its submit has an unknown
        outcome and its webhook may yet arrive (`due` says until when)."""
        self.alive += 1
        if entry.job.task_id:
            self._ids.add(entry.job.task_id)
        entry.number = next(self._order)
        if self.budget is not None:
            request = entry.job.request
            if entry.row is not None:
                self.budget.taken_up(entry.row.key)
            self.budget.take_over(entry.number, request.path, listed_price(request))
        self._look_at(entry, now if entry.due == math.inf else entry.due)

    def hint(self, entry: Entry, task_id: str, now: float) -> None:
        """Somebody says that `task_id`, the task of `entry`, has ended: look at once, and believe
        the answer.

        A hint that comes while its submit or a query is under way counts for what follows it; and
        should the submit's answer be lost, the task is known all the same.
        """
        if entry.gone:
            return
        if entry.job.state is JobState.UNKNOWN and not entry.taken:
            self._find(entry, task_id, now)
            return
        if entry.due == math.inf:
            entry.told = task_id
        elif entry.due > now:
            self._outdate()
            self._look_at(entry, now)

    def _find(self, entry: Entry, task_id: str, now: float) -> None:
        if entry.lost is None:
            # It was to be submitted again, and will be passed over there.
            self.alive += 1
        else:
            entry.lost = None
            self._outdate()
        self._ids.add(task_id)
        self._apply(entry, Found(task_id), now, now)

    def has_created(self, task_id: str) -> bool:
        """Whether `task_id` was created by a submit of this session, or is resumed by it."""
        return task_id in self._ids

    def has_seen(self, task_id: str) -> bool:
        """Whether `task_id` is of another job: one created here, or one that is followed."""
        return task_id in self._ids or task_id in self.watched

    def _look_at(self, entry: Entry, at: float) -> None:
        # An earlier record of it in the heap is passed over when it comes up.
        entry.due = at
        heapq.heappush(self._due, (at, next(self._order), entry))

    def _outdate(self) -> None:
        """A record in the heap counts no more; once most do not, clear them out."""
        self._outdated += 1
        if self._outdated > _MANY and 2 * self._outdated > len(self._due):
            self._due = [due for due in self._due if not due[2].gone and due[0] == due[2].due]
            heapq.heapify(self._due)
            self._outdated = 0

    def discard(self, source: Source) -> None:
        """Take no more jobs from `source`."""
        if source in self._sources:
            self._sources.remove(source)

    # -- what to do ---------------------------------------------------------------------------

    def next_step(self, now: float) -> Step | None:
        """What a free worker should do now; None if nothing."""
        if self.gate is not _OPEN and not self.gate.admits(now, self.in_flight):
            return None
        if self._due and self._due[0][0] <= now and not self.pacing_query:
            return Step.QUERY
        if not self.pacing_submit and self._may_submit(now):
            return Step.SUBMIT
        return None

    def wake_at(self, now: float) -> float | None:
        """When `next_step` may next say something else merely because time has passed."""
        if now < self.gate.closed_until:
            return self.gate.closed_until
        at = self._due[0][0] if self._due and self._due[0][0] > now else math.inf
        again = self.circuit.wake_at()
        if again is not None and again > now:
            at = min(at, again)
        elif self.circuit.silent and not self._silence_told:
            at = min(at, max(now, self._last_taken + _SILENCE))
        if self._slot_pause > now:
            at = min(at, self._slot_pause)
        elif self._again and self._again[0][0] > now:
            at = min(at, self._again[0][0])
        return None if at == math.inf else at

    def _may_submit(self, now: float) -> bool:
        if self.alive >= self.window.size or now < self._slot_pause:
            return False
        if not self.circuit.admits(now):
            return False
        if self.paused or self._poor:
            return False
        many = len(self._submitting) >= MOST_SUBMITTING
        if many or self._submitting_bytes >= MOST_BYTES_SUBMITTING:
            return False
        if self._again and self._again[0][0] <= now:
            return True
        for source in self._sources:  # noqa: SIM110 - asked at every step, and three times faster
            if source.ready():
                return True
        return False

    def take_query(self, now: float) -> Entry | None:
        """The job whose query is due, now counted as in flight."""
        if self.gate is not _OPEN and not self.gate.admits(now, self.in_flight):
            return None
        while self._due and self._due[0][0] <= now:
            at, _, entry = heapq.heappop(self._due)
            if entry.gone or at != entry.due:
                self._outdated = max(0, self._outdated - 1)
                continue
            entry.due = math.inf
            if entry.source.closed:
                self.release(entry)
                continue
            if entry.lost is not None:
                lost, entry.lost = entry.lost, None
                self._apply(entry, Silent(lost), now, now)
                continue
            self.in_flight += 1
            return entry
        return None

    def take_submit(self, now: float) -> Entry | None:
        """The job to submit, new or again; its slot is counted from here on."""
        if self.gate is not _OPEN and not self.gate.admits(now, self.in_flight):
            return None
        if not self._may_submit(now):
            return None
        entry = self._take_again(now) or self._take_new()
        if entry is not None:
            entry.taken = True
            self._last_taken = now
            self.circuit.taken()
            self.alive += 1
            self.in_flight += 1
            self._submitting[entry] = size = entry.source.size_of(entry)
            self._submitting_bytes += size
        return entry

    def _take_again(self, now: float) -> Entry | None:
        while self._again and self._again[0][0] <= now:
            entry = heapq.heappop(self._again)[2]
            if entry.gone or entry.job.task_id:
                continue
            if not entry.source.stopped:
                return entry
            entry.gone = True
            entry.source.let_go(entry)
        return None

    def _take_new(self) -> Entry | None:
        for _ in range(len(self._sources)):
            source = self._sources.popleft()
            entry = source.take() if source.ready() else None
            if not source.exhausted and not source.closed:
                self._sources.append(source)
            if entry is not None:
                entry.number = next(self._order)
                return entry
        return None

    # -- what happened ------------------------------------------------------------------------

    def sending(self, entry: Entry, now: float) -> None:
        """The submit of `entry` leaves now."""
        entry.taken = False
        entry.job, _ = advance(entry.job, _SENT, now, self._rules, 0.0)

    def rejected(self, entry: Entry, error: RunningHubError) -> None:
        """`entry` was taken but cannot be submitted; nothing was sent."""
        self._put_down(entry)
        if entry.gone:
            return
        entry.job, action = reject(entry.job, error)
        self._tell(entry, Refused(error), action)
        if isinstance(action, Stop):
            entry.source.stop(entry, action.error)
        else:
            entry.source.deliver(entry, action.result)

    def wait_for_money(self, entry: Entry) -> None:
        """`entry` was taken, and has to wait until something under way tells what it costs."""
        self._put_down(entry)
        self._poor = True
        heapq.heappush(self._again, (-math.inf, entry.number, entry))
        if not self._money_told:
            self._money_told = True
            self.say(
                "a submit waits for the budget: it can be sent only after a running task has"
                " ended and its cost is known"
            )

    def begin_upload(self) -> bool:
        """A job that was taken uploads its files first. The uploads are calls of their own, and the
        gate counts what is under way. Returns whether the circuit counts the job meanwhile: it does
        if the job is the one that is tried."""
        self.in_flight -= 1
        counted = self.circuit.state is not CircuitState.CLOSED
        if not counted:
            self.circuit.unanswered = max(0, self.circuit.unanswered - 1)
        return counted

    def end_upload(self, *, counted: bool) -> None:
        """The uploads have ended, well or badly: the job counts as taken again."""
        self.in_flight += 1
        if not counted:
            self.circuit.unanswered += 1

    def may_leave(self, now: float) -> bool:
        """Whether a job whose uploads have ended may be submitted at once."""
        return not self.paused and self.circuit.admits(now)

    def put_off(self, entry: Entry) -> None:
        """`entry` was taken, and has to wait for its turn again. Its uploads are remembered."""
        self._put_down(entry)
        heapq.heappush(self._again, (-math.inf, entry.number, entry))

    def withdrawn(self, entry: Entry) -> None:
        """`entry` was taken, and its source left before anything was sent."""
        self._put_down(entry)
        if not entry.gone:
            entry.gone = True
            entry.source.let_go(entry)

    def not_uploaded(self, entry: Entry, error: RunningHubError, now: float, began: float) -> None:
        """A file of `entry`, whose upload began at `began`, was not taken. Nothing was submitted.

        What every upload meets is no job's own fault: the job waits, and the circuit says when it
        is tried again. A job ends as failed when its files were refused several times while
        others were taken, or each time in the service's own words.
        """
        trouble = trouble_of(error)
        refused = isinstance(error, RateLimitError | CapacityError)
        answered = self._useful_at > began
        unsent = error if isinstance(error, ConnectError) else None
        faults = self._upload_faults.get(entry, 0)
        if not refused and not unsent:
            faults += answered or bool(getattr(error, "code", ""))
            self._upload_faults[entry] = faults
        tries = self._rules.retry.attempts
        lost = unsent is not None and tries is not None and entry.job.unsent + 1 >= tries
        ends = lost or faults >= _UPLOAD_FAULTS or (trouble is None and not refused)
        if ends or entry.gone or entry.source.stopped:
            if entry.gone or entry.source.stopped:
                self.withdrawn(entry)
            else:
                self.rejected(entry, error)
            return
        useless = trouble is not None and not unsent and not answered
        self._put_down(entry, useless=useless)
        entry.job = entry.job._replace(unsent=entry.job.unsent + 1 if unsent else 0)
        if unsent or isinstance(error, RateLimitError):
            self._close_gate(asked_pause(self._rules.retry, error), now, began)
        elif refused:
            self._lose_slot(asked_pause(self._rules.retry, error), now)
        heapq.heappush(self._again, (-math.inf, entry.number, entry))
        if unsent is not None:
            self._judge_reach(unsent, now, began)
        elif useless and trouble is not None:
            self._judge_useless(trouble, error, now, began)

    def _put_down(self, entry: Entry, *, useless: bool = False) -> None:
        """`entry` was taken, and is not sent after all."""
        entry.taken = False
        if not useless:
            self.circuit.not_sent()
        self.in_flight -= 1
        self.alive -= 1
        self._submitted(entry)
        if self.budget is not None and self.budget.unsent(entry.number):
            self._poor = False

    def _submitted(self, entry: Entry) -> None:
        """The submit of `entry` is under way no longer."""
        self._submitting_bytes -= self._submitting.pop(entry)

    def accepted(self, entry: Entry, task: Task, now: float, sent_at: float) -> None:
        """The submit sent at `sent_at` was answered with `task`."""
        self._submitted(entry)
        self._passed(sent_at)
        self._refusals = 0
        self._refused_since = None
        self._pause_gap = 0.0
        self._ids.add(task.id)
        # First of all the task itself: nothing that follows may lose it.
        self._apply(entry, Accepted(task), now, sent_at)
        self._answered(now, sent_at)

    def refused(self, entry: Entry, error: RunningHubError, now: float, sent_at: float) -> None:
        """The submit sent at `sent_at` was not answered with a task."""
        self._submitted(entry)
        self.in_flight -= 1
        self._apply(entry, Refused(error, bool(entry.announced)), now, sent_at)
        self._judge(error, now, sent_at)

    def _judge(self, error: RunningHubError, now: float, sent_at: float) -> None:
        """Learn from a submit without a task what it means for all the others."""
        if isinstance(error, TransportError) and error.permanent:
            self._halt(error)
        if isinstance(error, ConnectError):
            self.circuit.not_sent()
            self._judge_reach(error, now, sent_at)
            return
        trouble = trouble_of(error)
        if trouble is None:
            self._answered(now, sent_at)
            self._judge_refusal(error, now)
            if isinstance(error, STOPPING):
                self._halt(error)
        else:
            self._judge_useless(trouble, error, now, sent_at)

    def _judge_useless(
        self, trouble: Trouble, error: RunningHubError, now: float, sent_at: float
    ) -> None:
        opens = self.circuit.state is not CircuitState.OPEN
        if self.circuit.useless(trouble, str(error), now, sent_at, self._chance()):
            self.circuit.gave_up(now)
            self._halt(self._outage(trouble, error, now))
        elif opens and self.circuit.state is CircuitState.OPEN:
            self.say(
                f"{self.circuit.row} submits in a row got no useful answer, the last: {error};"
                " the others wait, and a single one is sent from time to time as a test"
            )

    def _judge_reach(self, error: ConnectError, now: float, sent_at: float) -> None:
        """Nothing was sent. Before the first answer the most likely cause is a wrong address."""
        if self.reached or self._rules.retry.attempts is None:
            return
        if self._unreachable_since is None:
            self._unreachable_since = sent_at
        waited = now - self._unreachable_since
        if waited >= self._rules.retry.unreachable_after or self.gate.closings >= _TRIES_UNREACHED:
            self._unreachable_since = None
            self._halt(self._unreachable(error))

    def _unreachable(self, error: RunningHubError) -> ConnectError:
        failure = ConnectError(
            f"{error}. No request has reached {self.origin} since the session was opened:"
            " check base_url, the network and the proxy"
        )
        failure.__cause__ = error
        return failure

    def _judge_refusal(self, error: RunningHubError, now: float) -> None:
        """Stop after refusals for lack of a slot or by the rate limit that last too long."""
        longest = self._rules.retry.refusal_max
        if not isinstance(error, CapacityError | RateLimitError) or self.alive:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = now
        elif longest is not None and now - self._refused_since >= longest:
            seconds, self._refused_since = now - self._refused_since, None
            failure = OutageError(
                f"submitting stopped: for {_spell(seconds)} every submit was refused, the last"
                f" with: {error}",
                seen=str(error), since=self.wall() - seconds, running=self.alive,
            )  # fmt: skip
            failure.__cause__ = error
            self._halt(failure)

    def _answered(self, now: float, sent_at: float) -> None:
        """A submit, sent at `sent_at`, got an answer from the service itself."""
        self._unreachable_since = None
        self._silence_told = False
        self.reached = True
        self._useful_at = now
        since = self.circuit.useful(now, sent_at)
        if since is not None:
            self.say(f"submits get useful answers again, after {_spell(now - since)} without one")

    def note_silence(self, now: float) -> None:
        """Say that submits wait because earlier ones have no answer yet."""
        if self.circuit.silent and not self._silence_told:
            if now - self._last_taken < _SILENCE:
                return
            self._silence_told = True
            self.say(
                f"the last {self.circuit.unanswered} submits have had no answer for"
                f" {_spell(now - self._last_taken)}; the others wait"
            )

    def _outage(self, trouble: Trouble, error: RunningHubError, now: float) -> OutageError:
        circuit = self.circuit
        # A code that nobody has documented may well be the service's.
        origin = trouble is not Trouble.OUTAGE and not getattr(error, "code", "")
        origin = origin and not (trouble is Trouble.BROKEN and circuit.proven)
        running = self.alive - len(self._submitting)
        failure = OutageError(
            f"submitting stopped: the last {circuit.row} submits to {self.origin} got no"
            f" useful answer, for {_spell(now - circuit.since)} now; the last one: {error}."
            f" {running} tasks still run. {_NOT_THE_SERVICE if origin else _LATER}",
            seen=str(error), since=self.wall() - (now - circuit.since), running=running,
        )  # fmt: skip
        failure.__cause__ = error
        return failure

    def _halt(self, error: RunningHubError) -> None:
        """End every source with one error: nothing more is submitted."""
        waiting = [entry.source for _, _, entry in self._again]
        for source in dict.fromkeys([*self._sources, *waiting]):
            source.halt(error)
        self._again = [each for each in self._again if not each[2].gone]
        heapq.heapify(self._again)

    def abandoned(self, entry: Entry) -> None:
        """The exchange about `entry` broke off for a reason that is none of the service's."""
        self.in_flight -= 1
        if not entry.job.task_id:
            self._submitted(entry)
            self.circuit.not_sent()
        if not entry.gone:
            entry.gone = True
            self._free_slot(entry)
            self._let_go(entry)

    def seen(self, entry: Entry, task: Task, now: float, sent_at: float) -> None:
        """The query sent at `sent_at` was answered with `task`."""
        self._passed(sent_at)
        self.circuit.proven = self.reached = True
        if self._missed_since is not None:
            if self._missed_told > _MISSED_TOLD:
                self.say(f"queries are answered again, after {_spell(now - self._missed_since)}")
            self._missed_since, self._missed = None, 0
        self._apply(entry, Seen(task), now, sent_at)

    def missed(self, entry: Entry, error: RunningHubError, now: float, sent_at: float) -> None:
        """The query sent at `sent_at` failed."""
        self.in_flight -= 1
        self.slow_down(error, now, sent_at)
        self._apply(entry, Missed(error), now, sent_at)
        if not isinstance(error, NotFoundError):
            self._judge_misses(entry, error, now, sent_at)

    def _judge_misses(
        self, entry: Entry, error: RunningHubError, now: float, sent_at: float
    ) -> None:
        """Every query fails: say so, and before the first answer of the session, end what waits
        for answers from a wrong address, or with a wrong key."""
        if self._missed_since is None:
            self._missed_since, self._missed_told = sent_at, _MISSED_TOLD
        self._missed += 1
        lasts = now - self._missed_since
        if isinstance(error, TransportError) and error.permanent:
            self._leave_all(error)
            return
        if not self.reached and self._is_hopeless(error):
            patience = self._rules.retry.unreachable_after
            if lasts >= patience:
                unsent = isinstance(error, ConnectError)
                self._leave_all(self._unreachable(error) if unsent else self._unanswered(error))
                return
            if not entry.gone and entry.due > now + patience / 2:
                self._outdate()
                self._look_at(entry, now + patience / 2)
        if lasts >= self._missed_told:
            self._missed_told = 2.0 * max(lasts, self._missed_told)
            self.say(
                f"every query for {_spell(lasts)} failed ({self._missed} in a row), the last:"
                f" {error}; the tasks keep running, and are queried less and less often"
            )

    def _is_hopeless(self, error: RunningHubError) -> bool:
        """Whether `error`, with no answer before it, shows a wrong address or key."""
        if isinstance(error, ConnectError):
            return self._rules.retry.attempts is not None
        if isinstance(error, STOPPING):
            return True
        return trouble_of(error) in (Trouble.ORIGIN, Trouble.BROKEN)

    def _unanswered(self, error: RunningHubError) -> RunningHubError:
        if isinstance(error, STOPPING):
            return error
        told = OutageError(
            f"no query to {self.origin} got an answer about its task since the session was opened;"
            f" the last one: {error}. The tasks are not affected. {_NOT_THE_SERVICE}",
            seen=str(error), since=self.wall(), running=self.alive,
        )  # fmt: skip
        told.__cause__ = error
        return told

    def _leave_all(self, error: RunningHubError) -> None:
        """End every wait for a task, and the submitting, with `error`. The tasks run on."""
        self._missed_since, self._missed = None, 0
        due, self._due = self._due, []
        self._outdated = 0
        self._halt(error)
        for at, _, entry in due:
            if entry.gone or at != entry.due:
                continue
            if entry.lost is not None or not entry.job.task_id:
                self._look_at(entry, at)
                continue
            entry.due = math.inf
            entry.gone = True
            self._free_slot(entry)
            self._let_go(entry)
            if entry.source.closed:
                entry.source.let_go(entry)
            else:
                entry.source.stop(entry, error)

    def slow_down(self, error: RunningHubError, now: float, sent_at: float) -> None:
        """Close the gate if `error`, to a request sent at `sent_at`, says that it was one too
        many."""
        if isinstance(error, RateLimitError):
            self._close_gate(asked_pause(self._rules.retry, error), now, sent_at)

    def release(self, entry: Entry) -> None:
        """Let go of a waiting job whose source was closed; its task runs on."""
        entry.gone = True
        if entry.due != math.inf:
            self._outdate()
        self._free_slot(entry)
        self._let_go(entry)
        entry.source.let_go(entry)

    def _let_go(self, entry: Entry) -> None:
        """Its money counts as spent: nobody will hear what it cost."""
        if self.budget is not None and self.budget.let_go(entry.number):
            self._poor = False

    def _tell(self, entry: Entry, event: Event, action: Action) -> None:
        """Report a move to the journal and to the budget."""
        row = entry.row
        if row is not None and row.recorded is not entry.job.state and self.on_move is not None:
            self.on_move(entry, event, action)
        if self.budget is not None and self.budget.after(entry.number, action):
            self._poor = False

    def _free_slot(self, entry: Entry) -> None:
        # Only what was submitted here holds a slot.
        if entry.job.attempts:
            self.alive -= 1

    def _passed(self, sent_at: float) -> None:
        self.in_flight -= 1
        if self.gate is not _OPEN and sent_at >= self.gate.closed_until:
            gate = self.gate.passed()
            self.gate = gate if gate.width != math.inf else _OPEN

    def _apply(
        self,
        entry: Entry,
        event: Accepted | Refused | Seen | Missed | Found | Silent,
        now: float,
        sent_at: float,
    ) -> None:
        entry.job, action = advance(entry.job, event, now, self._rules, self._chance())
        if entry.row is not None or self.budget is not None:
            self._tell(entry, event, action)
        if entry.gone:
            # Let go of while its query was under way: its slot is free and its task named
            # already, but an end is still better news than none.
            if isinstance(action, Deliver):
                entry.source.deliver(entry, action.result)
            return
        if isinstance(action, LookAt):
            if entry.source.closed:
                self.release(entry)
            else:
                told, entry.told = entry.told, ""
                self._look_at(entry, now if told else action.at)
            return
        if isinstance(action, AwaitEvidence):
            self.say(
                f"the response to a submit was lost ({action.error}); its webhook is awaited for"
                f" {_spell(action.at - now)}"
            )
            entry.lost = action.error
            if entry.source.closed:
                self.release(entry)
            else:
                self._look_at(entry, action.at)
            return
        self._free_slot(entry)
        if isinstance(action, Deliver):
            if entry.job.task_id:
                self.window = self.window.ended()
                self._slot_pause = -math.inf
            entry.gone = True
            entry.source.deliver(entry, action.result)
        elif isinstance(action, SubmitAgain):
            self._put_back(entry, action, now, sent_at)
        elif isinstance(action, Stop):
            entry.source.stop(entry, action.error)

    def _put_back(self, entry: Entry, action: SubmitAgain, now: float, sent_at: float) -> None:
        retry = self._rules.retry
        at = -math.inf
        match action.cause:
            case Cause.CAPACITY:
                self._lose_slot(action.after, now)
            case Cause.RATE | Cause.UNSENT:
                self._close_gate(action.after, now, sent_at)
            case Cause.POLICY:
                at = now + retry.backoff(entry.job.attempts, self._chance())
        if entry.source.stopped:
            entry.gone = True
            entry.source.let_go(entry)
        else:
            heapq.heappush(self._again, (at, entry.number, entry))

    def _lose_slot(self, asked: float | None, now: float) -> None:
        """The service has no room: keep to what is alive, and wait for one of those to end."""
        self.window = self.window.refused(self.alive)
        # Submits that were under way together are refused together: one pause for all of them.
        if now >= self._slot_pause:
            self._refusals += 1
            retry = self._rules.retry
            pause = min(retry.backoff(self._refusals, self._chance()), retry.capacity_wait_max)
            self._slot_pause = now + max(pause, asked or 0.0)
            self._tell_pause(asked, now)

    def _close_gate(self, asked: float | None, now: float, sent_at: float) -> None:
        again = sent_at >= self.gate.closed_until
        pause = self._rules.retry.backoff(self.gate.closings + again, self._chance())
        # What the service asks for, and never less than our own pause: some ask for 0.
        self.gate = self.gate.closed(now, max(pause, asked or 0.0), sent_at)
        self._tell_pause(asked, now)

    def _tell_pause(self, asked: float | None, now: float) -> None:
        """Say that the service asks for a long pause; ever less often if it goes on asking."""
        if asked is None or asked < _LONG_PAUSE or now < self._pause_told:
            return
        self._pause_gap = max(asked, 2.0 * self._pause_gap)
        self._pause_told = now + self._pause_gap
        self.say(f"the service asks for a pause of {_spell(asked)}: too many requests or tasks")
