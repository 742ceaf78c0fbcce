"""The account, its slots and its keys."""

from __future__ import annotations

from .._caller import Caller
from .._protocol import build_call, parse_keys, parse_queue
from .._protocol_v1 import build_account, parse_account
from .._records import AccountStatus, KeyInfo, QueueStatus

__all__ = ["Account"]


class Account:
    """`session.account`. All raise `APIError`, `ProtocolError` or `TransportError`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def status(self) -> AccountStatus:
        """Coins, wallet and running tasks ("Get Account Information")."""
        return await self._caller.call(build_account(self._caller.site), parse_account)

    async def queue(self) -> QueueStatus:
        """How many tasks the key may have at once and has: the one dependable figure, shared by
        every program that uses the key (`GET /openapi/v2/queue/status`)."""
        request = build_call(self._caller.site, "queue/status", method="GET")
        return await self._caller.call(request, parse_queue)

    async def keys(self) -> list[KeyInfo]:
        """The account's API keys, masked (`GET /openapi/v2/api-key/list`)."""
        request = build_call(self._caller.site, "api-key/list", method="GET")
        return await self._caller.call(request, parse_keys)
