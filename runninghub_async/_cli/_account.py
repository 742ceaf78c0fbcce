"""`account`: coins and wallet, slots, keys."""

from __future__ import annotations

import argparse

from .._plain import unstructure
from .._records import KeyInfo
from ._calls import opened
from ._tables import facts, print_json, table

__all__ = ["show_account"]


async def show_account(args: argparse.Namespace) -> int:
    """Print what the service tells of the account."""
    async with opened(args) as session:
        account = session.account
        calls = {"status": account.status, "queue": account.queue, "keys": account.keys}
        told = await calls[args.what]()
    if args.json:
        print_json(unstructure(told))
    elif isinstance(told, list):
        rows = [_row(key) for key in told]
        print(table(("key", "name", "status", "used", "quota", "created", "expires"), rows))
    else:
        print(facts({name.replace("_", " "): v for name, v in unstructure(told).items()}))
    return 0


def _row(key: KeyInfo) -> tuple[object, ...]:
    return (
        key.key,
        key.name,
        key.status,
        key.quota_used,
        key.quota_limit,
        key.created,
        key.expires,
    )
