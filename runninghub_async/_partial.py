"""A file that appears whole or not at all, and outlives a power cut once it is there.

Everything here blocks and belongs in a thread. A cancelled caller does not stop the thread that
works for it, so each step holds a lock, and none leaves anything once the file was given up.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final, TypeVar

__all__ = ["Partial"]

_T = TypeVar("_T")

#: What file systems say that do not synchronise folders.
_NO_FOLDERS: Final = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


class Partial:
    """A temporary file for `path`, hashed as it grows: `temporary`, which must be on the same
    file system, or a name of its own beside it."""

    def __init__(self, path: Path, temporary: Path | None = None) -> None:
        # Not tempfile: its files are private, and a result should be as public as its folder.
        self._name = temporary or path.with_name(f".{secrets.token_hex(12)}.part")
        self._replacing = temporary is not None
        self._path = path
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()
        self._given_up = False
        self._there = False
        self._start()

    def _start(self) -> None:
        self.size = 0
        self.hash = hashlib.sha256()

    def write(self, piece: bytes | bytearray, *, at: int) -> None:
        """Put `piece` at byte `at`, which is the end of what is there or 0, to start over."""
        with self._lock:
            if self._given_up:
                return
            file = self._file = self._file or self._open()
            if not at and self.size:
                file.seek(0)
                file.truncate()
                self._start()
            left = memoryview(piece)
            while left:
                left = left[file.write(left) :]
            self.size += len(piece)
            self.hash.update(piece)

    def look(self, check: Callable[[BinaryIO, int], _T]) -> _T:
        """What `check` makes of the file and its size."""
        with self._lock, self._name.open("rb") as file:
            return check(file, self.size)

    def keep(self, path: Path | None = None) -> None:
        """Give the file its name for good, or another one in the same folder."""
        with self._lock:
            if self._given_up or self._file is None:
                return
            self._path = path or self._path
            os.fsync(self._file.fileno())
            self._file.close()
            self._name.replace(self._path)
            self._there = False
            _sync_folder(self._path.parent)

    def give_up(self) -> None:
        """Let no step that is still to come do anything. This one does not block."""
        self._given_up = True

    def discard(self) -> None:
        """Remove what there is."""
        self._given_up = True
        with self._lock:
            if self._file is not None:
                self._file.close()
            if self._there:
                self._there = False
                # Its folder may be gone or read-only; the reason for discarding it matters more.
                with contextlib.suppress(OSError):
                    self._name.unlink()

    def _open(self) -> BinaryIO:
        if self._replacing:
            # Removed, not truncated: whatever it is a link to is none of ours.
            self._name.unlink(missing_ok=True)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
        # Without a buffer, which a full disk would make fail once more on closing.
        handle = os.open(self._name, flags, 0o666)
        self._there = True
        return os.fdopen(handle, "wb", buffering=0)


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDERS:
            raise
    finally:
        os.close(handle)
