"""Opens local files without waiting for anything but the disk."""

from __future__ import annotations

import errno
import os
import stat
from typing import BinaryIO, Final, cast

__all__ = ["file_stamp", "open_regular"]

# Opening a pipe waits for its other end, unless these flags are set.
_FLAGS: Final = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def open_regular(path: str) -> BinaryIO:
    """Open the regular file `path`, or the one that it links to, for reading.

    Raises `OSError` for anything else (a directory, a pipe, a socket, a device), and never waits
    for one. It blocks on the disk: call it in a thread.
    """
    # A device may act on being opened, so it is looked at before, and once more when it is open,
    # because the name may have been given to something else in between.
    _check(os.stat(path))  # noqa: PTH116 - the path is text by now
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _FLAGS))  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()))
    except OSError:
        file.close()
        raise
    return cast(BinaryIO, file)


def file_stamp(facts: os.stat_result) -> tuple[int, ...]:
    """A value that changes when the file does, as far as its file system shows."""
    return (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino, facts.st_dev)


def _check(facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise OSError(errno.EINVAL, "is not a regular file but a directory, a pipe or a device")
