"""Which process has a journal, and whether it is alive."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from pathlib import Path
from typing import Final, Self

import attrs

__all__ = ["LEASE", "Owner"]

#: How long a process counts as alive after its last renewal, in seconds, where nothing else can
#: tell.
LEASE: Final = 30.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def _started(pid: int) -> str:
    """When the process started, in the system's own count; empty if the system does not say, `dead`
    for one that has ended and was not yet reaped. A process number may be reused once its first
    holder is dead."""
    told = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(told) < 20:
        return ""
    return "dead" if told[0] in "ZX" else told[19]


def _host() -> str:
    """The machine and the PID namespace. Two containers may have the same name and namespace; their
    first processes did not start at the same moment."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    node = platform.node().replace(" ", "-")
    return f"{node} {_read('/proc/sys/kernel/random/boot_id')} {space}@{_started(1)}"


def _is_here(host: str) -> bool:
    """Whether `host` is this machine, as `_host` names it or as version 0.1 did: without its first
    process."""
    here = _host()
    return host in (here, here.rpartition("@")[0])


@attrs.frozen
class Owner:
    """A process that has a journal open; `name` differs for each opening."""

    name: str
    pid: int
    host: str
    started: str

    @classmethod
    def here(cls) -> Self:
        """This process."""
        return cls(secrets.token_hex(8), os.getpid(), _host(), _started(os.getpid()))

    def lives(self, renewed: float, now: float, lease: float) -> bool:
        """Whether it may still be alive, if it last renewed its lease at `renewed`; times are Unix
        time, in seconds.

        Where this machine records when a process started, the answer is certain. Everywhere else
        the process counts as alive for `lease` seconds. A time further ahead than that comes from a
        wrong clock and is ignored.
        """
        heard_of = abs(now - renewed) < lease
        if not _is_here(self.host) or sys.platform == "win32":
            # Another machine, container or boot. On Windows a signal would end the process.
            return heard_of
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            # There is one, of another user; or the number is invalid.
            pass
        started = _started(self.pid)
        if not started or not self.started:
            # The number alone does not identify the process.
            return heard_of
        return started == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition(' ')[0]}"
