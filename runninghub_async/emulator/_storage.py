"""What the host of the results answers: as an object store does, or as a fault would have it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from .._threads import run_in_thread
from ._faults import Fault
from ._files import TYPES, make
from ._hostile import bomb, cut, flipped
from ._ranges import wanted

__all__ = ["give"]

_PIECE: Final = bytes(2**16)

_PAGE: Final = "<!doctype html><title>Sign in</title><p>Sign in to see this picture.</p>"


async def give(
    request: web.BaseRequest,
    kind: str,
    params: Mapping[str, Any],
    number: int,
    fault: Fault | None,
) -> web.StreamResponse:
    """Answer the request for result `number` of a task with these parameters."""
    what = fault.kind if fault is not None else ""
    if fault is not None and what == "redirect":
        return web.Response(status=302, headers={"Location": fault.url or request.raw_path})
    if what == "garbage":
        return web.Response(body=b"<html>not a picture</html>", content_type=TYPES[kind])
    if what == "html":
        return web.Response(text=_PAGE, content_type="text/html")
    body, etag = await run_in_thread(_made, what, kind, params, number)
    # Pages of any site may show results; some answers are sent before their caller sees them.
    headers = {"Content-Type": TYPES[kind], "Accept-Ranges": "bytes", "ETag": etag,
               "Access-Control-Allow-Origin": "*"}  # fmt: skip
    if what == "name":
        headers["Content-Disposition"] = 'attachment; filename="../../x"'
    if request.method == "HEAD":
        return web.Response(body=body, headers=headers)
    if what == "endless":
        return await _endless(request, body, headers)
    part = None if what == "whole" else wanted(request.headers, len(body), etag)
    status = 200
    if part is not None:
        if not part:
            return web.Response(status=416, headers={"Content-Range": f"bytes */{len(body)}"})
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(body)}"
        status, body = 206, body[part.start : part.stop]
    if what == "half":
        # Rounded up, so that a client that requests the rest again and again comes to an end.
        return await _unfit(request, status, headers, body[: -(-len(body) // 2)], len(body))
    if what == "longer":
        return await _unfit(request, status, headers, body, 2 * len(body))
    if what == "shorter":
        return await _unfit(request, status, headers, body, len(body) // 2)
    return web.Response(status=status, body=body, headers=headers)


def _made(what: str, kind: str, params: Mapping[str, Any], number: int) -> tuple[bytes, str]:
    """The bytes of a result and their ETag."""
    body = bomb() if what == "bomb" else make(kind, params, number)
    if what == "cut":
        body = cut(body)
    etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
    # What is spoilt on its way is, to the host, still the file that it keeps.
    return flipped(body) if what == "flipped" else body, etag


async def _unfit(
    request: web.BaseRequest, status: int, headers: Mapping[str, str], body: bytes, length: int
) -> web.StreamResponse:
    """Announce `length` bytes, send `body`, hang up."""
    answer = web.StreamResponse(status=status, headers={**headers, "Content-Length": str(length)})
    if length < len(body):
        # What comes too much must not be taken for the answer to somebody else's request.
        answer.force_close()
    await answer.prepare(request)
    await answer.write(body[:length])
    if request.transport is not None:
        request.transport.write(body[length:])
        request.transport.close()
    return answer


async def _endless(
    request: web.BaseRequest, body: bytes, headers: Mapping[str, str]
) -> web.StreamResponse:
    """Half a picture, and zeros after it for as long as there is somebody to take them."""
    answer = web.StreamResponse(headers=headers)
    answer.enable_chunked_encoding()
    await answer.prepare(request)
    with contextlib.suppress(ConnectionError):
        await answer.write(body[: len(body) // 2])
        while True:
            await answer.write(_PIECE)
            # A reader that is fast enough would leave no turn to anybody else.
            await asyncio.sleep(0)
    return answer
