"""Unpacking a body that was packed for its journey, a bounded piece at a time. No I/O.

aiohttp would do it, but takes the quiet end of a gzip body for its end wherever it comes, so that
half a file would look like a whole one. Here only a body that says itself that it ends has ended.
Everything here works long and belongs in a thread.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from ._pieces import Broken

__all__ = ["Unpacker"]

#: How much is handed on at once, in bytes: what a member leaves over is copied.
_WINDOW: Final = 2**14

#: How many members a body may be made of; more of them are there to keep a processor busy.
_MAX_MEMBERS: Final = 2**20

#: How often a body may be packed; more would only be there to take memory.
_MAX_STAGES: Final = 4


class Unpacker:
    """Undoes `encodings`, the last one first. Raises `Broken` where that cannot be done.

    Give it the body by `feed`, and after each time `take` until nothing more comes.
    """

    def __init__(self, encodings: tuple[str, ...]) -> None:
        unknown = [name for name in encodings if name not in _DECODERS]
        if unknown or len(encodings) > _MAX_STAGES:
            packed = ", ".join(unknown or encodings)
            raise Broken(f"it is packed in a way that cannot be unpacked: {packed:.60}")
        self._fed = memoryview(b"")
        self._stages: list[_Stage] = []
        source = self._draw
        for name in reversed(encodings):
            self._stages.append(_Stage(name, source))
            source = self._stages[-1].take

    @property
    def ended(self) -> bool:
        """Whether what was fed is complete."""
        return not self._fed and all(stage.ended for stage in self._stages)

    def feed(self, packed: bytes | bytearray) -> None:
        """The next bytes of the body; they must not be changed afterwards."""
        self._fed = memoryview(packed)

    def take(self, limit: int) -> bytes:
        """About `limit` bytes of the file, or fewer; none if it takes more of the body."""
        return self._stages[-1].take(limit)

    def _draw(self, limit: int) -> bytes:
        piece = bytes(self._fed[:limit])
        self._fed = self._fed[limit:]
        return piece


class _Decoder(Protocol):
    """Unpacks one member. `ended`: it has come to its end. `more`: it holds more than it gave."""

    ended: bool
    more: bool

    def step(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        """About `limit` bytes at most, and what was not used of `data`."""
        ...


class _Stage:
    """Undoes one encoding of what `source` gives, member by member."""

    def __init__(self, name: str, source: Callable[[int], bytes]) -> None:
        self._name = name
        self._source = source
        self._decoder: _Decoder | None = None
        self._data = b""
        self._members = 0

    @property
    def ended(self) -> bool:
        return self._decoder is not None and self._decoder.ended and not self._data

    def take(self, limit: int) -> bytes:
        parts: list[bytes] = []
        while limit > 0:
            if not self._data and (self._decoder is None or not self._decoder.more):
                self._data = self._source(_WINDOW)
                if not self._data:
                    break
            part = self._step(limit)
            if part:
                parts.append(part)
                limit -= len(part)
        return b"".join(parts)

    def _step(self, limit: int) -> bytes:
        try:
            if self._decoder is None or self._decoder.ended:
                self._decoder = self._next()
            part, self._data = self._decoder.step(self._data, limit)
        except (MemoryError, Broken):
            raise
        except Exception as error:
            # Each library has an error of its own, and some of them raise others as well.
            raise Broken(f"it cannot be unpacked ({self._name}): {error!s:.100}") from error
        return part

    def _next(self) -> _Decoder:
        self._members += 1
        if self._members > _MAX_MEMBERS:
            raise Broken("it is packed in more parts than any file")
        return _DECODERS[self._name](self._data)


class _Zlib:
    def __init__(self, bits: int) -> None:
        self._inner = zlib.decompressobj(bits)
        self.ended = self.more = False

    def step(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        part = self._inner.decompress(data, limit)
        self.ended = self._inner.eof
        # The end of a long repetition may be due after all of `data` was used.
        self.more = not self.ended and len(part) == limit
        return part, self._inner.unused_data if self.ended else self._inner.unconsumed_tail


class _Brotli:
    def __init__(self) -> None:
        self._inner = _library("br", "Brotli", "brotli", "brotlicffi").Decompressor()
        self._decompress = getattr(self._inner, "decompress", None) or self._inner.process
        self.ended = self.more = False

    def step(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        part: bytes = self._decompress(data, limit)
        self.ended = self._inner.is_finished()
        # It does not say whether it holds more; the next step gives nothing if not.
        self.more = not self.ended and bool(part)
        return part, b""


class _Zstd:
    def __init__(self) -> None:
        library = _library("zstd", "backports.zstd", "compression.zstd", "backports.zstd")
        self._inner = library.ZstdDecompressor()
        self.ended = self.more = False

    def step(self, data: bytes, limit: int) -> tuple[bytes, bytes]:
        part: bytes = self._inner.decompress(data, limit)
        self.ended = self._inner.eof
        self.more = not self.ended and not self._inner.needs_input
        return part, self._inner.unused_data if self.ended else b""


def _library(name: str, package: str, *modules: str) -> Any:
    """Those that aiohttp uses as well, if they are installed."""
    for module in modules:
        try:
            return importlib.import_module(module)
        except ImportError:
            continue
    raise Broken(f"it is packed ({name}), and the package {package} that unpacks it is missing")


def _gzip(_: bytes) -> _Decoder:
    return _Zlib(16 + zlib.MAX_WBITS)


def _deflate(head: bytes) -> _Decoder:
    # Many hosts leave out the header of zlib, which alone can begin with such a byte.
    return _Zlib(zlib.MAX_WBITS if head[0] & 0xF == 8 else -zlib.MAX_WBITS)


_DECODERS: Final[dict[str, Callable[[bytes], _Decoder]]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": lambda _: _Brotli(),
    "zstd": lambda _: _Zstd(),
}
