"""`upload`: files into the service's store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .._plain import unstructure
from .._records import Lora
from .._session import Session
from ._calls import opened
from ._prompts import UsageError
from ._tables import one_line, print_json, table
from ._terminal import live

__all__ = ["upload_files"]


async def upload_files(args: argparse.Namespace) -> int:
    """Upload each file and print where it is; what came before a failure is printed all the
    same."""
    if args.name and len(args.files) > 1:
        raise UsageError("--name: for a single file")
    done: list[tuple[str, Any]] = []
    try:
        async with opened(args) as session:
            for file in args.files:
                upload = await _upload(session, Path(file), args)
                done.append((file, upload))
                if args.json:
                    print_json({"file": file, **unstructure(upload)}, line=True)
    finally:
        if done and not args.json:
            print(_table(done))
    return 0


async def _upload(session: Session, file: Path, args: argparse.Namespace) -> Any:
    shown = _Shown(file.name) if sys.stderr.isatty() else None
    try:
        if args.lora:
            return await session.upload_lora(file, name=args.name, progress=shown)
        send = session.older.upload if args.older else session.upload
        return await send(file, name=args.name, progress=shown)
    finally:
        if shown is not None:
            shown.end()


class _Shown:
    """One line on a terminal, written over as the file goes out."""

    def __init__(self, name: str) -> None:
        self._name = one_line(name)[:40]
        self._last = ""

    def __call__(self, sent: int, total: int) -> None:
        text = f"{self._name}  {100 * sent // max(total, 1)}% of {total / 2**20:.1f} MB"
        if text != self._last:
            self._last = text
            print(f"\r\x1b[K{text}", end="", file=live(sys.stderr), flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._last:
            print(file=live(sys.stderr), flush=True)


def _table(done: list[tuple[str, Any]]) -> str:
    if isinstance(done[0][1], Lora):
        rows = [
            (file, lora.name, lora.md5, "" if lora.stored else "was there already")
            for file, lora in done
        ]
        return table(("file", "name", "md5", ""), rows)
    return table(
        ("file", "type", "bytes", "name", "url"),
        [(file, up.type, up.size, up.name, up.url) for file, up in done],
    )
