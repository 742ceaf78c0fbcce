"""The files of a journal, watched: whether they are still those that were opened.

SQLite keeps writing into a file that was deleted, moved or replaced. Those writes are lost, and a
later run would pay for the same jobs again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import struct
import threading
from typing import BinaryIO, Final

from ._exceptions import JournalError

__all__ = ["JournalFile", "create", "is_begun_anew", "is_log_cut", "log_lost", "lost_commits"]

#: The start of the file, with its version and the count of its changes.
_HEADER: Final = 100

_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = 24
#: What begins the index of a log, twice. How many frames are in the data base as well follows.
_INDEX_HEADER: Final = 48
_INDEX_START: Final = 2 * _INDEX_HEADER + 4
_WAL_MAGIC: Final = (0x377F0682, 0x377F0683)


def create(path: str) -> None:
    """Create the file if it is missing, readable by its owner only: SQLite would let everyone read
    it.

    Raises `JournalError` if the files beside it show that a journal has been lost, and `OSError`.
    """
    left = [name for name in (f"{path}-wal", f"{path}-shm") if os.path.exists(name)]  # noqa: PTH110
    try:
        found = os.stat(path)  # noqa: PTH116
    except FileNotFoundError:
        size = -1
    else:
        size = found.st_size
        if stat.S_ISDIR(found.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if size <= 0 and left:
        what = "is not there" if size < 0 else "is empty"
        raise JournalError(
            f"{what}, but {' and '.join(left)} of a journal at this place still exist: it was"
            " deleted, moved or emptied, and its jobs would be paid for again. Bring the file"
            " back, or delete what is left of it to begin a new journal",
            path,
        )
    if size < 0:
        # Another process may be faster.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


class JournalFile:
    """The files of the journal that this process has open at `path`. All methods belong to one
    thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        # To open and close the file would drop SQLite's locks on it, so it stays open as long as
        # the connection does.
        self._file = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        self._identity = _identity(os.fstat(self._file))
        self._size = 0
        self._touched = 0
        self._header = b""
        self._log: tuple[int, int] | None = None
        self._log_size = 0
        #: Whether the journal's own file is whole, and only its log was lost.
        self.only_log_lost = False

    @property
    def number(self) -> str:
        """What tells this file from a copy of it."""
        return str(self._identity[1])

    def written(self, *, checkpoint: bool = False) -> None:
        """Note that this process has just written into the log, or by a `checkpoint` into the file
        too.

        Other changes of the files are not mistaken for its own writes: those never shorten a file
        and never start another log.
        """
        if checkpoint:
            now = os.fstat(self._file)
            self._size = max(self._size, now.st_size)
            self._touched, self._header = now.st_mtime_ns, self._read_header()
        with contextlib.suppress(OSError):
            log = os.stat(f"{self.path}-wal")  # noqa: PTH116
            if self._log is None:
                self._log = _identity(log)
            if self._log == _identity(log):
                self._log_size = max(self._log_size, log.st_size)

    def fault(self) -> str:
        """What has happened to the files since then; empty if nothing."""
        try:
            now = os.stat(self.path)  # noqa: PTH116
        except OSError:
            return "was deleted or moved while it was in use"
        if _identity(now) != self._identity:
            return "was replaced by another file while it was in use"
        if now.st_size < self._size:
            return "was cut short while it was in use"
        if now.st_mtime_ns != self._touched and _is_another(self._header, self._read_header()):
            return "was written over by another program while it was in use"
        if self._log is None:
            return ""
        try:
            log, begins = self._look_at_log()
        except FileNotFoundError:
            self.only_log_lost = True
            return f"lost its log, {self.path}-wal, which was deleted or moved while it was in use"
        if _identity(log) != self._log or log.st_size < self._log_size:
            self.only_log_lost = _identity(log) != self._log
            return f"lost its log, {self.path}-wal, which was replaced while it was in use"
        if log.st_size and not begins:
            # It was emptied, and SQLite went on writing behind the gap.
            return f"lost its log, {self.path}-wal, which was emptied while it was in use"
        return ""

    def _look_at_log(self) -> tuple[os.stat_result, bool]:
        """The log's status, and whether it begins as each log does.

        Both are of one file, even if it is deleted meanwhile. SQLite has no locks on the log that
        closing drops.
        """
        path = f"{self.path}-wal"
        try:
            with open(path, "rb", buffering=0) as log:  # noqa: PTH123
                return os.fstat(log.fileno()), log.read(3) == _LOG_MAGIC
        except FileNotFoundError:
            raise
        except OSError:
            # No descriptor is free, which says nothing about the log.
            return os.stat(path), True  # noqa: PTH116

    def is_gone(self) -> bool:
        """Whether nothing is at its place."""
        return not os.path.exists(self.path)  # noqa: PTH110

    def close(self) -> None:
        """Stop watching."""
        os.close(self._file)

    def _read_header(self) -> bytes:
        os.lseek(self._file, 0, os.SEEK_SET)
        return os.read(self._file, _HEADER)


#: How a log begins, whatever the order of the bytes in its checksums.
_LOG_MAGIC: Final = b"\x37\x7f\x06"


def _is_another(before: bytes, now: bytes) -> bool:
    """Whether the file with this header is another one than that whose header was `before`."""
    if len(now) < _HEADER:
        return True
    # Kind, schema and owner of the file; then the count of its changes, which grows when another
    # program checkpoints the log.
    fixed = any(before[part] != now[part] for part in (slice(0, 20), slice(56, 72)))
    return fixed or now[24:28] < before[24:28]


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def lost_commits(path: str, known: int) -> int:
    """How many commits in the log of the journal `path` come after its first `known` frames,
    which are all that SQLite believes. Those of one that was not on the disk when the power
    failed may; those of others were lost to damage. -1 if the start of the log is damaged."""
    found = _read_log(path)
    if found is None:
        return 0
    header, frames = found
    if not _is_whole(header, struct.unpack(">I", header[:4])[0]):
        return -1
    salts = _salts_of(header)
    # Frames of other salts are of an earlier round, and were worked in.
    return sum(own == salts and committed > 0 for committed, own in frames[known:])


def is_begun_anew(path: str) -> bool:
    """Whether the log of the journal `path` was about to be written from its start again when its
    process died: it holds nothing yet but frames of the round before, which were worked in."""
    found = _read_log(path)
    if found is None:
        return False
    header, frames = found
    first, _ = _salts_of(header)
    # SQLite adds one to the first salt with each round.
    return any(own[0] == (first - 1) & 0xFFFFFFFF for _, own in frames)


def log_lost(path: str, what: str, remedy: str) -> JournalError:
    """The error for a journal whose log is not what it was, as `what` says."""
    return JournalError(
        f"its log, {path}-wal, {what}. The jobs in it would be submitted and paid for again:"
        f" restore it{remedy}",
        path,
    )


def is_log_cut(path: str) -> bool:
    """Whether the index of the journal `path` counts committed frames that its log does not hold.

    A commit's frames are on the disk before the index counts them, so they were lost to damage.
    To be asked before SQLite opens the journal: it then counts anew what is left.
    """
    before = _read_index(path)
    counted, salts = _counted(before)
    if not counted:
        return False
    try:
        with open(f"{path}-wal", "rb") as log:  # noqa: PTH123
            missing = _whole_frames(log, salts, counted) < counted
    except FileNotFoundError:
        missing = True
    except OSError:
        return False
    # Another process that writes may have restarted the log in the meantime.
    return missing and _read_index(path) == before


def _whole_frames(log: BinaryIO, salts: bytes, most: int) -> int:
    """How many of the first `most` frames of a log with these salts are as they were written. All
    of them if it is another log."""
    header = log.read(_WAL_HEADER)
    if len(header) < _WAL_HEADER:
        return 0
    magic, _, size = struct.unpack(">3I", header[:12])
    if not _is_whole(header, magic):
        # SQLite takes nothing from such a log.
        return 0
    if header[16:24] != salts:
        return most
    order = ">" if magic & 1 else "<"
    sums: tuple[int, int] = struct.unpack(">2I", header[24:32])
    for number in range(most):
        frame = log.read(_FRAME_HEADER + size)
        if len(frame) < _FRAME_HEADER + size or frame[8:16] != salts:
            return number
        sums = _checksum(frame[:8] + frame[_FRAME_HEADER:], order, sums)
        if sums != struct.unpack(">2I", frame[16:24]):
            return number
    return most


def _counted(index: bytes) -> tuple[int, bytes]:
    """How many committed frames an index counts, and the salts of their log; 0 if it is not
    whole, or all of them are in the data base, too."""
    one, other = index[:_INDEX_HEADER], index[_INDEX_HEADER : 2 * _INDEX_HEADER]
    copied = index[2 * _INDEX_HEADER :]
    if len(copied) < 4 or one != other or not one[12]:
        return 0, b""
    if _checksum(one[:40], "=", (0, 0)) != struct.unpack("=2I", one[40:]):
        return 0, b""
    counted: int = struct.unpack("=I", one[16:20])[0]
    return (counted if counted > struct.unpack("=I", copied[:4])[0] else 0), one[32:40]


#: Indexes that were looked at, and stay open until they are deleted: to close one would drop the
#: locks that a connection of this process has on it.
_indexes: dict[tuple[int, int], int] = {}
_indexes_lock = threading.Lock()


def _read_index(path: str) -> bytes:
    """The start of the index; empty if it cannot be read."""
    with _indexes_lock:
        try:
            if os.name == "nt":
                # Closing drops no locks there, and an open file cannot be deleted.
                with open(f"{path}-shm", "rb", buffering=0) as index:  # noqa: PTH123
                    return index.read(_INDEX_START)
            for known, file in list(_indexes.items()):
                if not os.fstat(file).st_nlink:
                    os.close(_indexes.pop(known))
            found = _identity(os.stat(f"{path}-shm"))  # noqa: PTH116
            if found not in _indexes:
                file = os.open(f"{path}-shm", os.O_RDONLY)
                _indexes[_identity(os.fstat(file))] = file
            else:
                file = _indexes[found]
            return os.pread(file, _INDEX_START, 0)
        except OSError:
            return b""


_Salts = tuple[int, int]


def _salts_of(header: bytes) -> _Salts:
    first, second = struct.unpack(">2I", header[16:24])
    return first, second


def _read_log(path: str) -> tuple[bytes, list[tuple[int, _Salts]]] | None:
    """The header of a log, and of each frame the size of the data base after its commit (0 if it
    is not the last one of a commit) and its salts; None without a frame."""
    try:
        log = os.open(f"{path}-wal", os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    try:
        header = os.read(log, _WAL_HEADER)
        size = os.fstat(log).st_size
        if size < _WAL_HEADER + _FRAME_HEADER:
            return None
        step = _FRAME_HEADER + struct.unpack(">I", header[8:12])[0]
        frames: list[tuple[int, _Salts]] = []
        for at in range(_WAL_HEADER, size - step + 1, step):
            os.lseek(log, at, os.SEEK_SET)
            _, committed, first, second = struct.unpack(">4I", os.read(log, 16))
            frames.append((committed, (first, second)))
        return header, frames
    finally:
        os.close(log)


def _is_whole(header: bytes, magic: int) -> bool:
    """Whether the header of a log fits its own checksum."""
    if magic not in _WAL_MAGIC:
        return False
    order = ">" if magic & 1 else "<"
    return _checksum(header[:24], order, (0, 0)) == struct.unpack(">2I", header[24:32])


def _checksum(data: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    """SQLite's checksum of what came before and `data`."""
    first, second = sums
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for one, other in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second
