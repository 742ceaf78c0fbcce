"""`emulator`: the stand-in for the service, until it is stopped."""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from pathlib import Path

from .._threads import run_in_thread
from ._prompts import UsageError

__all__ = ["emulate"]


async def emulate(args: argparse.Namespace) -> int:
    """Serve until cancelled. The first line printed is the URL."""
    from ..emulator import Emulator, FaultScript
    from ..emulator._storms import STORMS

    faults = args.faults or ()
    if args.faults and args.faults not in STORMS:
        try:
            text = await run_in_thread(Path(args.faults).read_text, "utf-8")
            FaultScript.parse(text, random.Random(0))
            faults = json.loads(text)
        except FileNotFoundError:
            known = ", ".join(STORMS)
            raise UsageError(f"--faults {args.faults}: neither a file nor one of {known}") from None
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"--faults {args.faults}: {error}") from None
    emulator = Emulator(
        duration=args.duration,
        max_concurrency=args.max_concurrency,
        rate=args.rate,
        faults=faults,
        seed=args.seed,
        api_key=args.api_key,
        port=args.port,
        key_type=args.key_type,
        webhook_form=args.webhook_form,
    )
    try:
        async with emulator:
            print(emulator.url, flush=True)
            print("its pictures are drawn, not generated; Ctrl+C stops it", flush=True)
            await asyncio.get_running_loop().create_future()
    except (OSError, OverflowError) as error:
        raise UsageError(f"--port {args.port}: {error}") from None
    except asyncio.CancelledError:
        return 0
    return 0
