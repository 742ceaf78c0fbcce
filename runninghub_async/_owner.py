"""Who has a journal: a process, told apart from every other one, alive or dead."""

from __future__ import annotations

import os
import platform
import secrets
import sys
from pathlib import Path
from typing import Final, Self

import attrs

__all__ = ["LEASE", "Owner"]

#: How long a process of another machine counts as alive without having said so, in seconds.
LEASE: Final = 30.0


def _read(path: str) -> str:
    try:
        return Path(path).read_text("ascii").strip()
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When the process began, in the system's own count; empty where nobody tells, `dead` for one
    that has ended and is only remembered. A number may be given to another process once its
    first holder is dead."""
    told = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if not told:
        return ""
    return "dead" if told[0] in "ZX" else told[19]


def _started_anew(before: str, now: str) -> bool:
    """Whether the machine is the same and has been switched off in between."""
    (node, boot, _), (same, booted, _) = before.split(" ", 2), now.split(" ", 2)
    return bool(node == same and boot and booted and boot != booted)


def _host() -> str:
    """The machine, and the space in which its process numbers mean something."""
    try:
        space = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        space = ""
    node = platform.node().replace(" ", "-")
    return f"{node} {_read('/proc/sys/kernel/random/boot_id')} {space}"


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
        """Whether it may still be alive, having last said so at `renewed`, in seconds.

        On this machine that is certain; of another one all that is known is that it has not been
        heard of for `lease` seconds.
        """
        if _started_anew(self.host, _host()):
            return False
        if self.host != _host() or sys.platform == "win32":
            # On Windows, to ask after a process by a signal is to end it.
            return renewed + lease > now
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            # There is one, and it is somebody else's.
            pass
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host.partition(' ')[0]}"
