"""A budget: whether one more submit fits into what is left. Plain sums; no I/O.

What a request costs is first what the catalogue lists, then that in proportion to what finished
tasks of the same model were billed. A request whose price nobody knows yet goes alone.
"""

from __future__ import annotations

import enum
from decimal import Decimal
from typing import Any, Final

from ._bounded import Bounded
from ._exceptions import BudgetError
from ._job import Action, AwaitEvidence, Deliver, LookAt, SubmitAgain
from ._models import Task, Usage
from ._money import Money
from ._outcomes import Cancelled, Failed
from ._retry import Cause

__all__ = ["Admission", "Budget", "listed_price"]

#: Models, workflows and apps whose prices are remembered.
_LEARNT: Final = 1000

_ZERO: Final = Decimal(0)


class Admission(enum.Enum):
    """Whether a request may be submitted."""

    GO = "it fits"
    WAIT = "it may fit once something under way has ended"
    STOP = "it does not fit, and nothing is under way"


def listed_price(request: Any) -> Money | None:
    """What `request` costs at most by the catalogue; None where nothing tells."""
    price = getattr(request, "price", None)
    told = price() if callable(price) else None
    return told if isinstance(told, Money) else None


def billed(usage: Usage | None, currency: str) -> Decimal | None:
    """What a task was billed in `currency`; None where the service did not say."""
    if usage is None:
        return None
    return usage.coins if currency == "coins" else usage.total_money


class Budget:
    """The books of one session: `spent` is certain or counts as such, the rest is under way."""

    def __init__(self, limit: Money) -> None:
        self.limit = limit
        self.spent = _ZERO
        self._under_way: dict[int, tuple[str, Decimal | None, Decimal | None]] = {}
        self._reserved = _ZERO
        self._blind = 0
        #: By key: what jobs of earlier sessions may be billed yet, which counts as spent.
        self._carried: dict[str, Decimal] = {}
        #: By path: what finished tasks were billed, what the catalogue listed, how many.
        self._learnt: Bounded[str, tuple[Decimal, Decimal, int]] = Bounded(_LEARNT)

    def admit(self, number: int, path: str, listed: Money | None) -> Admission:
        """Whether job `number` may be submitted; if so, its cost is reserved."""
        expected = self._expected(path, listed)
        left = self.limit.amount - self.spent - self._reserved
        fits = left > 0 if expected is None else expected <= left
        alone = expected is None or self._blind
        if fits and not (alone and self._under_way):
            self.take_over(number, path, listed)
            return Admission.GO
        return Admission.WAIT if self._under_way else Admission.STOP

    def take_over(self, number: int, path: str, listed: Money | None) -> None:
        """Reserve what job `number`, which is or will be under way, will probably cost."""
        expected = self._expected(path, listed)
        self._under_way[number] = (path, None if listed is None else listed.amount, expected)
        self._reserved += expected or _ZERO
        self._blind += expected is None

    def exhausted(self, path: str, listed: Money | None) -> BudgetError:
        """The error for a request that does not fit."""
        amount, currency = self._expected(path, listed), self.limit.currency
        expected = None if amount is None else Money(amount, currency)
        return BudgetError(self.limit, Money(self.spent, currency), expected)

    def _expected(self, path: str, listed: Money | None) -> Decimal | None:
        """What a request for `path`, listed at so much, will probably cost. Once tasks have told
        what they were billed, the list's currency does not matter."""
        cost, of_listed, count = self._learnt.get(path, (_ZERO, _ZERO, 0))
        if not count:
            known = listed is not None and listed.currency == self.limit.currency
            return listed.amount if known and listed is not None else None
        if listed is not None and of_listed:
            return listed.amount * cost / of_listed
        return cost / count

    def after(self, number: int, action: Action) -> bool:
        """Settle job `number` if this is its end; whether it was."""
        if isinstance(action, LookAt | AwaitEvidence | None) or number not in self._under_way:
            return False
        if not isinstance(action, Deliver):
            # It is to be submitted again, or not at all; only where the user's policy says so may
            # something have been created.
            risk = isinstance(action, SubmitAgain) and action.cause is Cause.POLICY
            return self._settle(number, None if risk else _ZERO)
        result = action.result
        task: Task | None = result.task
        cost = billed(task.usage, self.limit.currency) if task is not None else None
        if cost is not None:
            self._learn(number, cost)
        elif isinstance(result, Failed | Cancelled):
            cost = _ZERO
        return self._settle(number, cost)

    def unsent(self, number: int) -> bool:
        """Job `number` was admitted and not sent; whether anything was reserved for it."""
        return self._settle(number, _ZERO)

    def carry(self, key: str, listed: Money | None) -> None:
        """A job of an earlier session may still be billed, at no more than it is listed at."""
        if listed is not None:
            # In the catalogue's currency: an overestimate is better than nothing.
            self._carried[key] = listed.amount
            self.spent += listed.amount

    def taken_up(self, key: str) -> None:
        """That job is resumed in this session, which counts its cost from now on."""
        self.spent -= self._carried.pop(key, _ZERO)

    def let_go(self, number: int) -> bool:
        """Job `number` was detached, so its end is not seen: its expected cost counts."""
        return self._settle(number, None)

    def _learn(self, number: int, cost: Decimal) -> None:
        path, listed, _ = self._under_way[number]
        before, of_listed, count = self._learnt.get(path, (_ZERO, _ZERO, 0))
        # One without a listed price spoils the proportion, and the mean takes its place.
        both = listed is not None and (of_listed or not count)
        share = of_listed + listed if both and listed is not None else _ZERO
        self._learnt[path] = (before + cost, share, count + 1)

    def _settle(self, number: int, cost: Decimal | None) -> bool:
        """Job `number` cost so much, or what was expected; whether it was under way."""
        if number not in self._under_way:
            return False
        _, listed, expected = self._under_way.pop(number)
        self._reserved -= expected or _ZERO
        self._blind -= expected is None
        if cost is None:
            # In the catalogue's currency: an overestimate is better than nothing.
            cost = expected if expected is not None else listed or _ZERO
        self.spent += cost
        return True
