"""The circuit of a session: whether submits leave while others get no useful answer.

    closed ──(three useless answers in a row)──> open ──(after a wait)──> half open
      ^                                            ^                         │
      └───────────────── a useful answer ──────────┴──── a useless one ──────┘

An outage, a login portal or a wrong address meets every submit alike. Each submit that meets it may
end as unknown, so few are spent on it: half open, one submit leaves at a time. A useful answer is
one that the service itself gave, including a refusal: it settles the submit.

No clock and no I/O: `now` is a time in seconds.
"""

from __future__ import annotations

import enum
import math
from typing import Final

__all__ = ["Circuit", "CircuitState", "Trouble"]

#: Useless answers in a row after which it opens. Two may be chance.
_ROW: Final = 3

#: Submits that may be out before the first useful answer of the session, and after the last one.
#: Without the second bound a silent service would be sent ten submits a second for a minute.
_MOST_UNPROVEN: Final = 3
_MOST_BEFORE_AN_ANSWER: Final = 5

#: For so long after a useful answer, in seconds, there is no such bound: answers come in bunches,
#: and so do the submits that they make room for. At the default pace it admits three more.
_JUST_NOW: Final = 0.25


class CircuitState(enum.Enum):
    """Where the circuit stands."""

    CLOSED = "submits leave"
    OPEN = "no submit leaves for now"
    HALF_OPEN = "one submit is out to see whether the service answers again"


class Trouble(enum.Enum):
    """What a useless answer looks like."""

    ORIGIN = "another server, a portal or a firewall answers in place of the service"
    OUTAGE = "the service or the way to it is in trouble"
    BROKEN = "the connection breaks off, or what comes is no HTTP"


class Circuit:
    """See above. `wait_initial`, `wait_max`: the pauses while it is open, doubled each time;
    `give_up_after`: how long the trouble may last before submitting stops; None: no limit."""

    def __init__(self, wait_initial: float, wait_max: float, give_up_after: float | None) -> None:
        self.state = CircuitState.CLOSED
        #: Some submit or query of this session has had a useful answer.
        self.proven = False
        #: What the last useless answer was, since when they come, and how many in a row.
        self.seen = ""
        self.since = 0.0
        self.row = 0
        #: Submits that left since the last useful answer and have had no answer of any kind.
        self.unanswered = 0
        #: When the latest of the useless submits in a row was sent.
        self._useless_sent_at = -math.inf
        self._until = 0.0
        self._useful_at = -math.inf
        self._tries = 0
        #: Answers of another server in a row; the same together with connections that broke off.
        self._origins = 0
        self._foreign = 0
        self._wait_initial = wait_initial
        self._wait_max = wait_max
        self._give_up_after = give_up_after

    def admits(self, now: float) -> bool:
        """Whether one more submit may leave."""
        if self.state is CircuitState.CLOSED:
            if now - self._useful_at < _JUST_NOW and not self.row:
                return True
            return not self._is_full
        return self.state is CircuitState.OPEN and now >= self._until

    def wake_at(self) -> float | None:
        """When it will admit a submit because time has passed; None if time changes nothing."""
        return self._until if self.state is CircuitState.OPEN else None

    @property
    def silent(self) -> bool:
        """Whether nothing leaves because nothing is answered."""
        return self.state is CircuitState.CLOSED and self.unanswered > 0 and self._is_full

    @property
    def _is_full(self) -> bool:
        most = _MOST_BEFORE_AN_ANSWER if self.proven else _MOST_UNPROVEN
        return self.unanswered + self.row >= most

    def taken(self) -> None:
        """A submit is about to leave."""
        self.unanswered += 1
        if self.state is CircuitState.OPEN:
            self.state = CircuitState.HALF_OPEN

    def not_sent(self) -> None:
        """A submit that was taken did not leave."""
        self.unanswered = max(0, self.unanswered - 1)
        if self.state is CircuitState.HALF_OPEN:
            self.state = CircuitState.OPEN

    def useful(self, now: float, sent_at: float) -> float | None:
        """The service answered a submit sent at `sent_at`. If the circuit was open, it closes now;
        returns since when useful answers were missing, else None.

        A submit that left before the last useless one says nothing about the time since: when an
        outage begins, earlier submits may still be answered.
        """
        self.proven = True
        if self.row and sent_at < self._useless_sent_at:
            self.unanswered = max(0, self.unanswered - 1)
            return None
        was_open = self.state is not CircuitState.CLOSED
        since, self.since = self.since, 0.0
        self._useful_at = now
        self.state = CircuitState.CLOSED
        self.row = self.unanswered = self._tries = self._origins = self._foreign = 0
        return since if was_open else None

    def useless(self, trouble: Trouble, seen: str, now: float, sent_at: float, u: float) -> bool:
        """A submit sent at `sent_at` got a useless answer, described by `seen`. Returns whether
        submitting stops.

        `u` is a uniform random number in [0, 1).
        """
        self.unanswered = max(0, self.unanswered - 1)
        if not self.row:
            self.since, self._useless_sent_at = now, sent_at
        self._useless_sent_at = max(self._useless_sent_at, sent_at)
        self.row += 1
        self.seen = seen
        self._origins = self._origins + 1 if trouble is Trouble.ORIGIN else 0
        self._foreign = 0 if trouble is Trouble.OUTAGE else self._foreign + 1
        if self.state is CircuitState.OPEN:
            # It was under way when the circuit opened, and says nothing new.
            return False
        if self.state is CircuitState.CLOSED and self.row < _ROW:
            return False
        self.state = CircuitState.OPEN
        wait = min(self._wait_max, self._wait_initial * 2.0 ** min(self._tries, 30))
        # Never sooner than the plain wait: each try may cost a submit of unknown outcome.
        self._until = now + wait * (1.0 + 0.25 * u)
        self._tries += 1
        # A connection that breaks off may be chance once more than another server's answer.
        if not self.proven and (self._origins >= _ROW or self._foreign > _ROW):
            return True
        return self._give_up_after is not None and now - self.since >= self._give_up_after

    def gave_up(self, now: float) -> None:
        """Submitting stopped. A later submit gets one try before it stops again."""
        self.state = CircuitState.OPEN
        self._until = now
