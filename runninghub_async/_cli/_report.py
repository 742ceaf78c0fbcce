"""Words for how a run stands and how it went."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final

from .._money import Money
from .._states import JobState
from ._tables import amount

__all__ = ["at_stake", "ending_of", "in_words", "next_steps", "outline"]

#: What each state is called where all are counted; two may share a word.
_WORDS: Final = {
    JobState.STORED: "stored",
    JobState.PARTLY_STORED: "partly stored",
    JobState.SUCCEEDED: "to fetch",
    JobState.RUNNING: "running",
    JobState.ACCEPTED: "running",
    JobState.SUBMITTING: "being submitted",
    JobState.NEW: "new",
    JobState.REFUSED: "new",
    JobState.FAILED: "failed",
    JobState.CANCELLED: "cancelled",
    JobState.UNKNOWN: "unknown",
}

#: What is neither done nor failed when a run has ended.
_LEFT: Final = {
    **{state: word for state, word in _WORDS.items() if word not in ("stored", "failed")},
    JobState.NEW: "not submitted",
    JobState.REFUSED: "not submitted",
}


def outline(states: Mapping[JobState, int], words: Mapping[JobState, str] = _WORDS) -> str:
    """How many jobs are in each state, those without any left out: `180 stored, 108 new`."""
    counts: dict[str, int] = {}
    for state, word in words.items():
        counts[word] = counts.get(word, 0) + states.get(state, 0)
    return ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "no jobs"


def ending_of(states: Mapping[JobState, int]) -> str:
    """How a run ended: what is done and what failed, and whatever else there is."""
    told = [f"{states[JobState.STORED]} done", f"{states[JobState.FAILED]} failed"]
    more = outline(states, _LEFT)
    return ", ".join([*told, more] if any(states[state] for state in _LEFT) else told)


def in_words(money: Decimal, currency: str) -> str:
    """An amount with its currency; empty for none."""
    return f"{amount(money)} {currency}" if money else ""


def at_stake(count: int, stakes: Sequence[Money]) -> str:
    """What the submits of unknown outcome, of which there are `count`, may have cost at most."""
    told = " and ".join(in_words(m.amount, m.currency) for m in stakes) or "an unknown amount"
    whose = "1 submit whose answer was" if count == 1 else f"{count} submits whose answers were"
    return f"at stake: at most {told}, for {whose} lost"


def next_steps(states: Mapping[JobState, int], journal: str) -> list[str]:
    """What can be done about jobs that ended badly, a line each."""
    name, steps = shlex.quote(journal), []
    if states.get(JobState.UNKNOWN):
        steps.append(
            f"to list the unknown jobs: runninghub-async runs {name} --state unknown;"
            f" to submit them again (they may be billed twice):"
            f" runninghub-async retry {name} --unknown"
        )
    if states.get(JobState.FAILED):
        steps.append(f"to retry the failed jobs: runninghub-async retry {name} --failed")
    if states.get(JobState.CANCELLED):
        steps.append(f"to retry the cancelled jobs: runninghub-async retry {name} --cancelled")
    if states.get(JobState.SUCCEEDED) or states.get(JobState.PARTLY_STORED):
        steps.append(f"to fetch the results that are missing: runninghub-async resume {name}")
    return steps
