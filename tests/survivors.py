"""Processes that outlived the suite: found by an environment variable that each inherits."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import uuid
from pathlib import Path

_MARK = "TEST_RUN_ID"
#: How long processes that are about to end may take, in seconds.
_PATIENCE = 10.0


def mark() -> bool:
    """Mark every process that is started from now on. Returns False in a worker of another process
    that has done so."""
    first = _MARK not in os.environ
    os.environ.setdefault(_MARK, uuid.uuid4().hex)
    return first


def ended() -> list[str]:
    """The command lines of processes of this run that have not ended, and now have been killed.

    Where there is no /proc none is found.
    """
    deadline = time.monotonic() + _PATIENCE
    while (left := _running()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    return [f"{pid}: {command}" for pid, command in sorted(left.items())]


def _running() -> dict[int, str]:
    wanted = f"{_MARK}={os.environ[_MARK]}".encode()
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        pid = int(folder.name)
        if pid == os.getpid():
            continue
        # Processes of other users, and those that end meanwhile, cannot be read.
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = command.decode(errors="replace").strip()
    return found
