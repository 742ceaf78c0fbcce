"""The one place through which the command prints text for people.

`main` puts a `Screen` in the place of standard output and of standard error. Whatever is printed,
by whichever command, by argparse or by a log handler, is escaped there: texts of servers, task
ids, file names and prompts cannot control the terminal. Only `live` writes control sequences.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import IO, Any, Final

from .._hold import FULL
from ._waiting import AGAIN

__all__ = ["Screen", "escaped", "is_broken", "live", "screens", "unescaped"]

#: What a terminal obeys, or what changes how the text around it is read: controls but for line
#: feed and tab, marks that turn the direction of writing, separators that some programs take for
#: the end of a line, invisible characters, and halves of surrogate pairs. The two joiners, which
#: some scripts cannot do without, are not in it.
_UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)

#: Bytes of a redirected output that are written at once.
_HELD: Final = 2**16

#: Seconds before a file that does not wait is tried again.
_SHORT: Final = 0.01


def escaped(text: str) -> str:
    r"""`text` with each character that could control a terminal as a visible escape: `\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_visible, text)


def _visible(found: re.Match[str]) -> str:
    code = ord(found[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Screen(io.TextIOBase):
    """A stream of text for people, over `file`, which is None where the process has none.

    All text is escaped. A reader that has closed its end, as in `generate ... | head -1`, does not
    end the command: what is paid for is saved first. The text is then lost, and `broken` is True.
    Text that a full disk does not accept is held until it can be written.

    Threads may write at once, and a signal handler in the middle of a write.
    """

    def __init__(self, file: IO[str] | None) -> None:
        self.file = file
        self.broken = False
        #: The file below all buffers, so that the number of bytes written is known; None for a
        #: stand-in.
        self._raw: Any = None
        self._held = bytearray()
        self._drawn = False
        self._lock = threading.RLock()
        if isinstance(file, io.TextIOWrapper):
            buffer: Any = file.buffer
            self._raw = getattr(buffer, "raw", buffer)
            with contextlib.suppress(OSError, ValueError):
                file.flush()

    def write(self, text: str) -> int:
        """Write `text`, escaped, on lines of its own."""
        with self._lock:
            self._put(f"\r\x1b[K{escaped(text)}" if self._drawn else escaped(text))
            self._drawn = False
        return len(text)

    def draw(self, text: str) -> None:
        """Write `text` as it is. If it does not end a line, what is written next replaces it."""
        if text:
            with self._lock:
                self._put(text)
                self._drawn = not text.endswith(("\n", "\x1b[J"))

    def _put(self, text: str) -> None:
        if self.file is None or self.broken:
            return
        if self._raw is not None:
            if os.linesep != "\n":
                text = text.replace("\n", os.linesep)
            self._held += text.encode(self.encoding, "backslashreplace")
            if self.isatty() or len(self._held) > _HELD:
                self.flush()
            return
        try:
            self.file.write(text)
        except (OSError, ValueError):
            self.broken = True

    def flush(self) -> None:
        """Hand on what was written."""
        if self.file is None or self.broken:
            return
        try:
            with self._lock:
                while self._held:
                    self._write_held()
                self.file.flush()
        except (OSError, ValueError) as error:
            if getattr(error, "errno", None) not in FULL:
                self.broken = True
                self._held.clear()

    def _write_held(self) -> None:
        # Taken out meanwhile: a signal handler may add to it, or write, before this write ends.
        held, self._held = self._held, bytearray()
        try:
            count = self._raw.write(held)
            if count is None:
                # Another program has made it non-blocking.
                time.sleep(_SHORT)
            del held[: count or 0]
        finally:
            self._held[:0] = held

    def wait_for_room(self) -> None:
        """Write what a full disk has not taken yet, however long that takes."""
        self.flush()
        if self._held:
            name = getattr(self.file, "name", "standard output")
            print(f"{name}: the disk is full; waiting for room", file=sys.stderr, flush=True)
        while self._held:
            time.sleep(AGAIN)
            self.flush()
        self.flush_file()

    def flush_file(self) -> None:
        """Write what was written past the screen; it is not waited for."""
        try:
            if self.file is not None:
                self.file.flush()
        except (OSError, ValueError):
            self.broken = True

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        with contextlib.suppress(OSError, ValueError):
            return self.file is not None and self.file.isatty()
        return False

    def fileno(self) -> int:
        """The descriptor. Raises `OSError` without one."""
        if self.file is None:
            raise OSError("there is no file")
        return self.file.fileno()

    def writable(self) -> bool:
        """True."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the file."""
        return getattr(self.file, "encoding", None) or "utf-8"


class _Live:
    """The same terminal, for a line that is drawn over again: nothing is escaped."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.write = screen.draw
        self.flush = screen.flush
        self.isatty = screen.isatty


def live(file: IO[str]) -> IO[str]:
    """`file` for control sequences of our own and texts that are escaped already."""
    return _Live(file) if isinstance(file, Screen) else file  # type: ignore[return-value]


def unescaped(file: IO[str]) -> IO[str]:
    """`file` for data that another program reads, exactly; a terminal gets it escaped."""
    if not isinstance(file, Screen) or file.isatty():
        return file
    if isinstance(file.file, io.TextIOWrapper):
        # Half of a surrogate pair has no UTF-8.
        file.file.reconfigure(errors="backslashreplace")
    return io.StringIO() if file.file is None else file.file


def is_broken(file: IO[str]) -> bool:
    """Whether the reader of `file` has closed it."""
    return isinstance(file, Screen) and file.broken


@contextlib.contextmanager
def screens() -> Iterator[Screen]:
    """Standard output and standard error as screens; the first of them."""
    _fill_descriptors()
    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = screen, error_screen = Screen(out), Screen(err)
    try:
        yield screen
    finally:
        for each in (screen, error_screen):
            each.flush()
            each.flush_file()
            _let_exit(each)
        sys.stdout, sys.stderr = out, err


def _fill_descriptors() -> None:
    """Open what is closed: otherwise a journal or a socket could get its descriptor."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            with contextlib.suppress(OSError):
                os.open(os.devnull, os.O_RDWR)


def _let_exit(screen: Screen) -> None:
    """At its end the interpreter flushes what could not be written, which would print a second
    error and change the exit status."""
    if screen.broken and isinstance(screen.file, io.TextIOWrapper):
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, screen.file.fileno())
            os.close(null)
