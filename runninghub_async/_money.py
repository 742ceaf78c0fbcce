"""An amount of money, and sums that never mix two currencies."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal, InvalidOperation

import attrs

__all__ = ["Money", "Sums"]


def _amount(value: Decimal | int | str) -> Decimal:
    if isinstance(value, float):
        raise TypeError(f"an amount of money is a Decimal, an int or a text, not {value!r}")
    try:
        return Decimal(value)
    except InvalidOperation:
        raise ValueError(f"not an amount of money: {value!r}") from None


@attrs.frozen
class Money:
    """An amount in a currency: `Money("0.22", "CNY")`. RH coins have the currency `coins`.

    Raises `TypeError` for a float, which cannot hold most amounts, `ValueError` for what is no
    finite number, or no currency.
    """

    amount: Decimal = attrs.field(converter=_amount)
    currency: str

    def __attrs_post_init__(self) -> None:
        if not self.amount.is_finite():
            raise ValueError(f"not an amount of money: {self.amount}")
        if not isinstance(self.currency, str) or not self.currency.isalpha():
            raise ValueError(f"not a currency: {self.currency!r}")

    def __str__(self) -> str:
        return f"{self.amount:f} {self.currency}"


class Sums:
    """A sum in each currency."""

    def __init__(self, amounts: Iterable[Money | None] = ()) -> None:
        self._sums: dict[str, Decimal] = {}
        for money in amounts:
            self.add(money)

    def add(self, money: Money | None) -> None:
        """Add an amount, if there is one."""
        if money is not None:
            self._sums[money.currency] = self._sums.get(money.currency, Decimal(0)) + money.amount

    def all(self) -> tuple[Money, ...]:
        """The sums, one for each currency."""
        return tuple(Money(amount, currency) for currency, amount in self._sums.items())
