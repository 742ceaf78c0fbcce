"""Results into files: whole or not at all."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib
import sys
import threading
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web
from rawserver import Asked, raw_server
from support import png

import runninghub_async as rh
from runninghub_async._download import Fetch, keep_text
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import MockTransport, run

PNG = png(24, 24)
POSTER = rh.SeedreamV5Lite("a poster of a paper boat", 1600, 1344)
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
FAST: dict[str, Any] = {
    "polling": rh.ExponentialPolling(0.01, 1, 0.01),
    "retry": rh.RetryPolicy(wait_initial=0.01, wait_max=0.02),
}


def fetch(tmp_path: Path, handle: Any, output: rh.Output | None = None, **options: Any) -> Any:
    """Download from a transport that answers by `handle`."""
    transport = MockTransport(handle)

    async def main() -> rh.Download:
        async with rh.Session("a-key", transport=transport) as session:
            return await session.download(
                output or rh.Output("https://results.example/x.png?sign=a%2Fb", "png"),
                tmp_path / "poster.png",
                **options,
            )

    return run(main), transport


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_result_is_stored_whole_with_its_hash(tmp_path: Path) -> None:
    """Size, SHA-256 and type; the signed query goes out as it came; no key goes along."""
    download, transport = fetch(tmp_path, lambda _: rh.Response(200, PNG))
    assert (tmp_path / "poster.png").read_bytes() == PNG
    assert download == rh.Download(
        tmp_path / "poster.png", len(PNG), hashlib.sha256(PNG).hexdigest(), "png"
    )
    (request,) = transport.requests
    assert request.url == "https://results.example/x.png?sign=a%2Fb"
    assert request.headers == {"Accept-Encoding": "identity"}
    assert files(tmp_path) == ["poster.png"]


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (rh.Response(200, b"<html>"), rh.ResultBroken, "not an image although announced as png"),
        (rh.Response(200, PNG[:-1]), rh.ResultBroken, "ends too early"),
        (rh.Response(200, PNG[:-13] + b"?" + PNG[-12:]), rh.ResultBroken, "checksum"),
        (rh.Response(200, b""), rh.ResultIncomplete, "the result is empty"),
        (rh.Response(200, PNG[:500], {"content-length": "1000"}), rh.ResultIncomplete,
         "500 of 1000 bytes"),
        (rh.Response(200, PNG, {"content-length": "9"}), rh.ResultIncomplete, "of 9 bytes"),
        (rh.Response(200, PNG, {"content-length": "999999"}), rh.ResultTooLarge,
         "more than the 5000 allowed"),
        (rh.Response(200, PNG * 9), rh.ResultTooLarge, "more than 5000 bytes"),
        (rh.Response(404), rh.ResultGone, "HTTP 404"),
        (rh.Response(410), rh.ResultGone, "HTTP 410"),
        (rh.Response(403), rh.ResultGone, "expired"),
        (rh.Response(418), rh.DownloadError, "HTTP 418"),
        (rh.Response(206, PNG), rh.ResultIncomplete, "HTTP 206"),
        (rh.Response(503), rh.ResultIncomplete, "HTTP 503"),
        (rh.Response(302, b"", {"location": "/x.png"}), rh.ResultUnsafe, "more than 5 redirects"),
        (rh.Response(302), rh.ResultUnsafe, "more than 5 redirects"),
        (rh.Response(302, b"", {"location": "http://results.example/x"}), rh.ResultUnsafe,
         "https to http"),
        (rh.Response(302, b"", {"location": "file:///etc/passwd"}), rh.ResultUnsafe,
         "https to http"),
        (rh.Response(302, b"", {"location": "https://[x/"}), rh.ResultUnsafe, "invalid URL"),
        (rh.Response(302, b"", {"location": "https://10.0.0.1/"}), rh.ResultUnsafe, "public"),
        (rh.Response(302, b"", {"location": "//u@results.example/"}), rh.ResultUnsafe, "user name"),
    ],
)  # fmt: skip
def test_what_is_not_whole_leaves_nothing_behind(
    tmp_path: Path, answer: rh.Response, error: type[rh.DownloadError], told: str
) -> None:
    """An error that says why and has the output; an older file of the name stays as it was."""
    (tmp_path / "poster.png").write_bytes(b"older")
    with pytest.raises(rh.DownloadError, match=told) as caught:
        fetch(tmp_path, lambda _: answer, max_bytes=5000)
    assert type(caught.value) is error
    assert caught.value.output.type == "png"
    assert files(tmp_path) == ["poster.png"]
    assert (tmp_path / "poster.png").read_bytes() == b"older"


def test_what_another_try_cannot_mend_is_not_tried_again(tmp_path: Path) -> None:
    """A broken result is fetched five times, an unsafe or too large one once."""
    for answer, times in (
        (rh.Response(200, b"<html>"), 5),
        (rh.Response(200, PNG[:-1]), 5),
        (rh.Response(200, PNG, {"content-length": "999999"}), 1),
        (rh.Response(302, b"", {"location": "https://10.0.0.1/"}), 1),
        (rh.Response(418), 1),
    ):
        asked: list[rh.Request] = []

        def handle(request: rh.Request, answer: rh.Response = answer) -> rh.Response:
            asked.append(request)  # noqa: B023 - used within this turn
            return answer

        with pytest.raises(rh.DownloadError):
            fetch(tmp_path, handle, max_bytes=5000)
        assert len(asked) == times


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://x/y", "javascript:1", "https://"])
def test_only_http_is_fetched(tmp_path: Path, url: str) -> None:
    """Whatever the service names; nothing is asked for."""
    with pytest.raises(rh.ResultUnsafe, match=r"not http"):
        fetch(tmp_path, lambda _: pytest.fail("asked"), rh.Output(url, "png"))
    with pytest.raises(rh.DownloadError, match="is a text"):
        fetch(tmp_path, lambda _: pytest.fail("asked"), rh.Output(None, "txt", "a text"))


def test_what_falters_is_tried_again(tmp_path: Path) -> None:
    """503, a reset, half a body, then the picture."""
    answers: list[Any] = [
        rh.Response(503),
        rh.ReadError("reset"),
        rh.Response(200, PNG[:9], {"content-length": "1000"}),
        rh.Response(200, PNG[:-1]),
        rh.Response(200, PNG),
    ]

    def handle(_: rh.Request) -> rh.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, rh.Response)
        return answer

    fetch(tmp_path, handle)
    assert answers == []
    assert files(tmp_path) == ["poster.png"]


def test_an_expired_url_is_asked_for_again_once(tmp_path: Path) -> None:
    """The task id in the output leads to a fresh URL; without one the error stands."""

    def handle(request: rh.Request) -> rh.Response:
        if request.url.endswith("/query"):
            return rh.Response(
                200,
                b'{"taskId": "7", "status": "SUCCESS", "results": [{"url": "https://fresh.example/y.png",'
                b' "outputType": "png"}]}',
            )
        return rh.Response(200, PNG) if "fresh" in request.url else rh.Response(403)

    output = rh.Output("https://old.example/x.png", "png", task_id="7")
    _, transport = fetch(tmp_path, handle, output)
    assert [r.url.split("/")[2] for r in transport.requests] == [
        "old.example",
        "www.runninghub.ai",
        "fresh.example",
    ]


@pytest.mark.parametrize("before", [[], [503], [503, 0, 503]])
@pytest.mark.parametrize("after", [403, 404, 410])
def test_a_fresh_url_is_asked_for_once_whatever_comes_before_and_after(
    tmp_path: Path, before: list[int], after: int
) -> None:
    """A fresh URL that has expired as well is the end."""
    old, fresh = [*before, after], [*before, after]

    def handle(request: rh.Request) -> rh.Response:
        if request.url.endswith("/query"):
            return rh.Response(
                200,
                b'{"taskId": "7", "status": "SUCCESS", "results": [{"url": "https://fresh.example/y.png",'
                b' "outputType": "png"}]}',
            )
        status = (fresh if "fresh" in request.url else old).pop(0)
        if not status:
            raise rh.ReadError("reset")
        return rh.Response(status)

    output = rh.Output("https://old.example/x.png", "png", task_id="7")
    with pytest.raises(rh.ResultGone, match=str(after)):
        fetch(tmp_path, handle, output)
    assert (old, fresh) == ([], [])
    assert files(tmp_path) == []


# -- where the last try broke off -------------------------------------------------------------

BIG = png(60, 60)
TAG = {"etag": '"v1"', "content-length": str(len(BIG))}


def part(start: int, end: int = len(BIG), total: int = len(BIG)) -> dict[str, str]:
    length = {"content-length": str(end - start)}
    return {"etag": '"v1"', "content-range": f"bytes {start}-{end - 1}/{total}"} | length


@attrs.frozen
class Answer:
    """What a host gives: `body` in pieces, and then `fault`."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    fault: Exception | None = None
    packed: bool = False


class Host(MockTransport):
    """A host of results that streams its answers one after another."""

    def __init__(self, *answers: Answer) -> None:
        super().__init__(lambda _: rh.Response(500))
        self._answers = list(answers)

    @asynccontextmanager
    async def stream(self, request: rh.Request) -> AsyncIterator[rh.StreamedResponse]:
        self.requests.append(request)
        answer = self._answers.pop(0)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(answer.body), 777):
                yield answer.body[start : start + 777]
            if answer.fault is not None:
                raise answer.fault

        yield rh.StreamedResponse(answer.status, answer.headers, chunks(), answer.packed)

    @property
    def ranges(self) -> list[tuple[str | None, str | None]]:
        return [(r.headers.get("Range"), r.headers.get("If-Range")) for r in self.requests]


def fetch_from(host: Host, folder: Path, body: bytes = BIG) -> rh.Download:
    async def main() -> rh.Download:
        async with rh.Session("a-key", transport=host) as session:
            output = rh.Output("https://results.example/x.png", "png")
            return await session.download(output, folder / "x.png")

    download = run(main)
    assert files(folder) == ["x.png"]
    assert download.path.read_bytes() == body
    assert (download.size, download.sha256) == (len(body), hashlib.sha256(body).hexdigest())
    return download


RESET = rh.ReadError("reset")
BROKEN = Answer(200, TAG, BIG[:5000], RESET)


def test_a_broken_transfer_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    """Again and again; every byte is asked for once."""
    host = Host(
        BROKEN,
        Answer(206, part(5000), BIG[5000:7000], RESET),
        Answer(503, {}),
        Answer(206, part(7000, 8000), BIG[7000:8000]),
        Answer(206, part(8000), BIG[8000:]),
    )
    fetch_from(host, tmp_path)
    assert host.ranges == [
        (None, None),
        ("bytes=5000-", '"v1"'),
        ("bytes=7000-", '"v1"'),
        ("bytes=7000-", '"v1"'),
        ("bytes=8000-", '"v1"'),
    ]


OTHER = png(61, 61)


@pytest.mark.parametrize(
    "wrong",
    [
        Answer(206, part(4000), BIG[4000:]),
        Answer(206, part(5001), BIG[5001:]),
        Answer(206, part(5000, total=len(BIG) + 1), BIG[5000:]),
        Answer(206, part(5000) | {"etag": '"v2"'}, BIG[5000:]),
        Answer(206, part(5000) | {"content-encoding": "gzip"}, BIG[5000:]),
        Answer(206, part(5000) | {"content-range": "bytes 5000-9/*"}, BIG[5000:]),
        Answer(206, {}, BIG[5000:]),
        Answer(416, {"content-range": f"bytes */{len(BIG)}"}),
    ],
)
def test_a_host_that_goes_on_elsewhere_is_asked_for_all_of_it(
    tmp_path: Path, wrong: Answer
) -> None:
    """Nothing of what it sent is kept."""
    host = Host(BROKEN, wrong, Answer(200, TAG, BIG))
    fetch_from(host, tmp_path)
    assert host.ranges == [(None, None), ("bytes=5000-", '"v1"'), (None, None)]


def test_a_file_that_changed_meanwhile_is_fetched_from_its_beginning(tmp_path: Path) -> None:
    """The host answers with all of it, as `If-Range` asks."""
    changed = {"etag": '"v2"', "content-length": str(len(OTHER))}
    host = Host(BROKEN, Answer(200, changed, OTHER[:600], RESET), Answer(200, changed, OTHER))
    fetch_from(host, tmp_path, OTHER)
    assert host.ranges == [(None, None), ("bytes=5000-", '"v1"'), ("bytes=600-", '"v2"')]


AT = "Wed, 21 Oct 2015 07:28:00 GMT"
LATER = "Wed, 21 Oct 2015 07:29:00 GMT"


@pytest.mark.parametrize(
    ("headers", "vouches"),
    [
        ({}, None),
        ({"accept-ranges": "bytes"}, None),
        ({"etag": 'W/"v1"'}, None),
        ({"etag": "v1"}, None),
        ({"etag": '"v1"', "accept-ranges": "none"}, None),
        ({"etag": '"v1"', "content-encoding": "gzip"}, None),
        ({"last-modified": AT}, None),
        ({"last-modified": AT, "date": AT}, None),
        ({"last-modified": "once", "date": LATER}, None),
        ({"last-modified": AT, "date": LATER}, AT),
        ({"etag": 'W/"v1"', "last-modified": AT, "date": LATER}, AT),
        ({"etag": '"v1"', "last-modified": AT, "date": LATER}, '"v1"'),
    ],
)
def test_only_what_is_vouched_for_is_resumed(
    tmp_path: Path, headers: dict[str, str], vouches: str | None
) -> None:
    """By a strong ETag, or by a time of change that is past."""
    end = Answer(206, part(5000), BIG[5000:]) if vouches else Answer(200, {}, BIG)
    host = Host(Answer(200, headers, BIG[:5000], RESET), end)
    fetch_from(host, tmp_path)
    assert host.ranges == [(None, None), ("bytes=5000-" if vouches else None, vouches)]


def test_a_broken_picture_is_fetched_from_its_beginning(tmp_path: Path) -> None:
    """Nobody knows which of its bytes are right."""
    wrong = BIG[:6000] + b"?" + BIG[6001:]
    host = Host(Answer(200, TAG, wrong), Answer(200, TAG, BIG))
    fetch_from(host, tmp_path)
    assert host.ranges == [(None, None), (None, None)]


def test_a_whole_body_that_is_reported_as_broken_off_is_whole(tmp_path: Path) -> None:
    """Its length and its last pixel know better."""
    host = Host(Answer(200, TAG, BIG, rh.ReadError("received N of N")))
    fetch_from(host, tmp_path)
    assert len(host.requests) == 1


def test_no_more_than_allowed_comes_in_parts(tmp_path: Path) -> None:
    """A part counts with what is there."""
    host = Host(
        Answer(200, {"etag": '"v1"'}, BIG[:5000], RESET),
        Answer(206, part(5000, total=2**31), BIG[5000:]),
    )
    with pytest.raises(rh.ResultTooLarge):
        fetch_from(host, tmp_path)
    assert files(tmp_path) == []


# -- bodies that come packed ------------------------------------------------------------------


def deflated(data: bytes) -> bytes:
    """Without the header of zlib, as many hosts send it."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def in_chunks(body: bytes) -> bytes:
    """Each chunk and the last one as they should be."""
    pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def reply(body: bytes, encoding: str, framing: str = "length") -> bytes:
    lines = "".join(f"Content-Encoding: {line}\r\n" for line in encoding.split("|"))
    if framing == "length":
        return f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body
    head = f"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n{lines}\r\n"
    return head.encode() + in_chunks(body)


TEXT = "".join(f"{n} {hashlib.sha256(b'%d' % n).hexdigest()[:9]}\n" for n in range(3000)).encode()

PACKED = {
    "gzip": gzip.compress(TEXT),
    "GZIP": gzip.compress(TEXT),
    "x-gzip": gzip.compress(TEXT),
    "gzip, gzip": gzip.compress(gzip.compress(TEXT)),
    "gzip|gzip": gzip.compress(gzip.compress(TEXT)),
    "deflate, gzip": gzip.compress(zlib.compress(TEXT)),
    "deflate": zlib.compress(TEXT),
    " deflate ": deflated(TEXT),
}


def fetch_text(folder: Path, *replies: bytes, max_bytes: int = 2**30) -> tuple[int, rh.Download]:
    """Fetch a text over real HTTP from a host that sends `replies`, the last one again and again.
    How often it was asked, and the file."""
    left = list(replies)

    async def answer(_: Asked) -> bytes:
        return left.pop(0) if len(left) > 1 else left[0]

    async def main() -> tuple[int, rh.Download]:
        async with raw_server(answer) as raw, rh.Session("k", base_url=raw.url, **FAST) as session:
            output = rh.Output(f"{raw.url}/x.txt", "txt")
            got = await session.download(output, folder / "x.txt", max_bytes=max_bytes)
            assert "range" not in raw.asked[-1].headers
            return len(raw.asked), got

    return asyncio.run(main())


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("encoding", PACKED)
def test_a_packed_body_is_unpacked(tmp_path: Path, encoding: str, framing: str) -> None:
    """Whatever it is called, whatever wraps it, however often it was packed."""
    asked, download = fetch_text(tmp_path, reply(PACKED[encoding], encoding, framing))
    assert asked == 1
    assert download.path.read_bytes() == TEXT
    assert (download.size, download.sha256) == (len(TEXT), hashlib.sha256(TEXT).hexdigest())


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("encoding", PACKED)
@pytest.mark.parametrize("missing", ["half", "the last byte"])
def test_a_packed_body_that_is_cut_short_is_never_kept(
    tmp_path: Path, encoding: str, framing: str, missing: str
) -> None:
    """Though its length is the announced one, or its last chunk came: it is tried again, from its
    beginning."""
    whole = PACKED[encoding]
    cut = reply(whole[: len(whole) // 2 if missing == "half" else -1], encoding, framing)
    with pytest.raises(rh.ResultIncomplete, match="packed body ends too early"):
        fetch_text(tmp_path, cut)
    assert files(tmp_path) == []
    asked, download = fetch_text(tmp_path, cut, reply(whole, encoding, framing))
    assert asked == 2
    assert download.path.read_bytes() == TEXT


@pytest.mark.parametrize("framing", ["length", "chunks"])
def test_several_packed_members_make_one_file(tmp_path: Path, framing: str) -> None:
    """A thousand of them as well as two; the last one has to end."""
    few = gzip.compress(TEXT[:1000]) + gzip.compress(TEXT[1000:])
    many = b"".join(gzip.compress(TEXT[at : at + 30]) for at in range(0, len(TEXT), 30))
    for body in (few, many):
        _, download = fetch_text(tmp_path, reply(body, "gzip", framing))
        assert download.path.read_bytes() == TEXT
        download.path.unlink()
        with pytest.raises(rh.ResultIncomplete):
            fetch_text(tmp_path, reply(body[:-1], "gzip", framing))
        assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("body", "encoding", "told"),
    [
        (TEXT, "gzip", "incorrect header"),
        (TEXT, "x-gzip", "incorrect header"),
        (gzip.compress(TEXT), "gzip, gzip", "incorrect header"),
        (gzip.compress(TEXT)[:-8] + bytes(8), "gzip", "incorrect data check"),
        (gzip.compress(TEXT) + b"<html>", "gzip", "incorrect header"),
        (b"\x07" + deflated(TEXT), "deflate", "invalid block type"),
        (TEXT, "compress", "cannot be unpacked: compress"),
        (gzip.compress(TEXT), "gzip, exi", "cannot be unpacked: exi"),
        (TEXT, "gzip" + ", gzip" * 4, "cannot be unpacked: gzip, gzip"),
    ],
)
def test_what_cannot_be_unpacked_is_broken(
    tmp_path: Path, body: bytes, encoding: str, told: str
) -> None:
    """It is never kept as it came, and the error says how it is packed."""
    with pytest.raises(rh.ResultBroken, match=told):
        fetch_text(tmp_path, reply(body, encoding))
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("encoding", "modules"),
    [("br", ["brotli", "brotlicffi"]), ("zstd", ["compression.zstd", "backports.zstd"])],
)
def test_an_encoding_whose_library_is_missing_is_named(
    tmp_path: Path, encoding: str, modules: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing here asks for such a body, but a host may send it all the same."""
    for module in modules:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(rh.ResultBroken, match=rf"\({encoding}\), and the package"):
        fetch_text(tmp_path, reply(TEXT, encoding))


@pytest.mark.parametrize(
    ("encoding", "module"),
    [("br", "brotli"), ("zstd", ZSTD)],
)
def test_brotli_and_zstandard_are_unpacked_where_a_library_is(
    tmp_path: Path, encoding: str, module: str
) -> None:
    """To their end, as everything else."""
    body = importlib.import_module(module).compress(TEXT)
    _, download = fetch_text(tmp_path, reply(body, encoding, "chunks"))
    assert download.path.read_bytes() == TEXT
    download.path.unlink()
    with pytest.raises(rh.ResultIncomplete, match="ends too early"):
        fetch_text(tmp_path, reply(body[:-9], encoding, "chunks"))


@pytest.mark.parametrize("word", ["identity", "none", "binary", "UTF-8", "aws-chunked"])
def test_a_word_that_means_no_packing_changes_nothing(tmp_path: Path, word: str) -> None:
    """Storage hosts repeat what was given to them with the file."""
    _, download = fetch_text(tmp_path, reply(TEXT, word))
    assert download.path.read_bytes() == TEXT


def test_a_packed_body_may_hold_no_more_than_allowed(tmp_path: Path) -> None:
    """64 KiB that unpack to 64 MiB are given up, and a body whose members hold nothing as well."""
    for body in (gzip.compress(bytes(2**26), 9), gzip.compress(b"") * 60_000):
        with pytest.raises(rh.ResultTooLarge, match="more than 1000 bytes"):
            fetch_text(tmp_path, reply(body, "gzip", "chunks"), max_bytes=1000)
        assert files(tmp_path) == []
    assert len(fetch_text(tmp_path, reply(PACKED["gzip"], "gzip"), max_bytes=len(TEXT))) == 2
    with pytest.raises(rh.ResultTooLarge):
        fetch_text(tmp_path, reply(PACKED["gzip"], "gzip"), max_bytes=len(TEXT) - 1)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, gzip"])
def test_what_unpacks_to_much_is_never_held_at_once(tmp_path: Path, encoding: str) -> None:
    """64 MiB out of 64 KiB, in a few megabytes of memory."""
    body = gzip.compress(b"\n" * 2**26, 9)
    if encoding == "gzip, gzip":
        body = gzip.compress(body)
    tracemalloc.start()
    try:
        _, download = fetch_text(tmp_path, reply(body, encoding))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert download.size == 2**26
    assert peak < 2**23


def test_a_packed_transfer_that_breaks_off_starts_over(tmp_path: Path) -> None:
    """Its bytes are not those of the file, whatever vouches for it."""
    body = gzip.compress(BIG)
    headers = {"content-encoding": "gzip", "content-length": str(len(body)), "etag": '"v1"'}
    host = Host(
        Answer(200, headers, body[:5000], RESET, packed=True),
        Answer(200, headers, body[:5000], packed=True),
        Answer(200, headers, body, packed=True),
    )
    fetch_from(host, tmp_path)
    assert host.ranges == [(None, None)] * 3


def test_a_packed_body_has_its_announced_length(tmp_path: Path) -> None:
    """One of two members is complete, and only the length tells."""
    one, two = gzip.compress(BIG[:5000]), gzip.compress(BIG[5000:])
    headers = {"content-encoding": "gzip", "content-length": str(len(one + two))}
    whole = Answer(200, headers, one + two, rh.ReadError("received N of N"), packed=True)
    fetch_from(Host(Answer(200, headers, one, packed=True), whole), tmp_path)


def test_a_transport_that_unpacks_says_nothing(tmp_path: Path) -> None:
    """Its chunks are the file, whatever header it passes on; so is the body of a `Response`."""
    headers = {"content-encoding": "gzip", "content-length": "9"}
    fetch_from(Host(Answer(200, headers, BIG)), tmp_path)
    (tmp_path / "x.png").unlink()
    download, _ = fetch(tmp_path, lambda _: rh.Response(200, PNG, headers))
    assert download.path.read_bytes() == PNG


# -- disks ------------------------------------------------------------------------------------


def test_a_full_disk_is_told_as_it_is_and_gets_its_room_back(tmp_path: Path) -> None:
    """An `OSError`; a limit on the size of files stands in for the end of the disk."""
    resource = pytest.importorskip("resource")
    picture = png(200, 200)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="large"):
            fetch(tmp_path, lambda _: rh.Response(200, picture))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert files(tmp_path) == []


def test_a_folder_in_the_way_is_told_as_it_is(tmp_path: Path) -> None:
    """And nothing is left beside it; nor where there is no folder at all."""
    (tmp_path / "poster.png").mkdir()
    with pytest.raises(OSError, match="directory"):
        fetch(tmp_path, lambda _: rh.Response(200, PNG))
    assert files(tmp_path) == ["poster.png"]
    with pytest.raises(FileNotFoundError):
        fetch(tmp_path / "none", lambda _: rh.Response(200, PNG))


def fetching(host: Host, path: Path, temporary: Path | None = None) -> Fetch:
    output = rh.Output("https://results.example/x.png", "png")
    return Fetch(host, output, path, max_bytes=2**20, home="service.example", temporary=temporary)


def test_a_name_can_be_given_to_what_is_collected(tmp_path: Path) -> None:
    """What a dead process left under it is removed, also where it is a link to something else."""
    left, target = tmp_path / "left.part", tmp_path / "x.png"
    (tmp_path / "precious").write_bytes(b"stays")
    left.symlink_to(tmp_path / "precious")

    async def main() -> list[str]:
        async with fetching(Host(BROKEN, Answer(206, part(5000), BIG[5000:])), target, left) as f:
            with pytest.raises(rh.ResultIncomplete, match="5000 of"):
                await f.attempt()
            there = await asyncio.to_thread(files, tmp_path)
            await f.attempt()
            await f.discard()
        return there

    assert run(main) == ["left.part", "precious"]
    assert files(tmp_path) == ["precious", "x.png"]
    assert target.read_bytes() == BIG
    assert (tmp_path / "precious").read_bytes() == b"stays"


def test_what_is_discarded_is_begun_anew(tmp_path: Path) -> None:
    """As often as one likes; a fresh URL starts over as well."""
    host = Host(BROKEN, BROKEN, Answer(200, TAG, BIG))

    async def main() -> None:
        fetch = fetching(host, tmp_path / "x.png")
        await fetch.discard()
        with pytest.raises(rh.ResultIncomplete):
            await fetch.attempt()
        await fetch.discard()
        await fetch.discard()
        assert await asyncio.to_thread(files, tmp_path) == []
        with pytest.raises(rh.ResultIncomplete):
            await fetch.attempt()
        fetch.renew(rh.Output("https://fresh.example/x.png", "png"))
        await fetch.attempt()

    run(main)
    assert [request.url.split("/")[2] for request in host.requests] == [
        "results.example",
        "results.example",
        "fresh.example",
    ]
    assert {*host.ranges} == {(None, None)}
    assert files(tmp_path) == ["x.png"]


@pytest.mark.parametrize("name", [None, "x.part"])
def test_a_text_becomes_a_file_whole_or_not_at_all(tmp_path: Path, name: str | None) -> None:
    """With its hash; what cannot be written in UTF-8 is replaced."""
    temporary = tmp_path / name if name else None
    path = tmp_path / "x.txt"
    for text in ("a boat ⛵\n", "", "\ud800"):
        data = text.encode("utf-8", "replace")
        download = run(keep_text, text, path, temporary)
        assert download == rh.Download(path, len(data), hashlib.sha256(data).hexdigest())
        assert path.read_bytes() == data
    assert files(tmp_path) == ["x.txt"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="directory"):
        run(keep_text, "text", tmp_path / "folder", temporary)
    assert files(tmp_path) == ["folder", "x.txt"]


def test_cancelling_while_a_picture_is_looked_through_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread goes on to its end, and then finds that nobody wants the file."""
    begun, end = threading.Event(), threading.Event()

    def check(reader: object, announced: str) -> tuple[str, int]:
        begun.set()
        assert end.wait(60)
        return "png", 0

    monkeypatch.setattr("runninghub_async._download.check_whole", check)

    async def main() -> None:
        fetch = fetching(Host(Answer(200, TAG, BIG)), tmp_path / "x.png")
        task = asyncio.ensure_future(fetch.attempt())
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        asyncio.get_running_loop().call_later(0.05, end.set)
        await asyncio.wait([task])
        assert task.cancelled()

    asyncio.run(main())
    assert files(tmp_path) == []


# -- over real HTTP ---------------------------------------------------------------------------


@asynccontextmanager
async def server(
    handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
) -> AsyncIterator[str]:
    runner = web.ServerRunner(web.Server(handler, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def test_no_key_reaches_the_results_host_not_even_by_redirect(tmp_path: Path) -> None:
    """Two ports, one redirect: neither sees an Authorization header."""
    seen: list[str | None] = []

    async def last(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Authorization"))
        return web.Response(body=PNG)

    async def main() -> None:
        async with server(last) as end:

            async def first(request: web.BaseRequest) -> web.StreamResponse:
                seen.append(request.headers.get("Authorization"))
                return web.Response(status=302, headers={"Location": f"{end}/moved.png"})

            async with server(first) as start, rh.Session("a-key", base_url=start) as session:
                output = rh.Output(f"{start}/x.png", "png")
                await session.download(output, tmp_path / "poster.png")

    asyncio.run(main())
    assert seen == [None, None]


def test_a_connection_that_breaks_is_resumed(tmp_path: Path) -> None:
    """Over real HTTP, by a host that knows ranges: no byte is fetched twice that had arrived."""
    picture = png(1200, 1200)
    store = tmp_path / "store.png"
    store.write_bytes(picture)
    asked: list[str | None] = []

    async def breaking(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.headers.get("Range"))
        if len(asked) > 1:
            return web.FileResponse(store)
        facts = await asyncio.to_thread(store.stat)
        tag = f'"{facts.st_mtime_ns:x}-{facts.st_size:x}"'
        headers = {"Content-Length": str(len(picture)), "ETag": tag}
        answer = web.StreamResponse(headers=headers)
        await answer.prepare(request)
        await answer.write(picture[:3_000_000])
        assert request.transport is not None
        request.transport.close()
        return answer

    async def main() -> None:
        async with server(breaking) as url, rh.Session("k", base_url=url, **FAST) as session:
            output = rh.Output(f"{url}/x.png", "png")
            await session.download(output, tmp_path / "x.png")

    asyncio.run(main())
    first, second = asked
    assert first is None
    assert second is not None
    assert 0 < int(second.removeprefix("bytes=").removesuffix("-")) <= 3_000_000
    assert (tmp_path / "x.png").read_bytes() == picture


def test_an_endless_body_is_cut_off(tmp_path: Path) -> None:
    """No Content-Length, no end: the bound holds and nothing is left behind."""
    sent = 0

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        nonlocal sent
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(PNG * 50)
            sent += len(PNG) * 50

    async def main() -> None:
        async with server(endless) as url, rh.Session("k", base_url=url) as session:
            with pytest.raises(rh.ResultTooLarge, match="more than 3000000 bytes"):
                output = rh.Output(f"{url}/x.png", "png")
                await session.download(output, tmp_path / "x.png", max_bytes=3_000_000)

    asyncio.run(main())
    assert files(tmp_path) == []
    assert sent < 60_000_000


def test_an_endless_answer_of_the_api_is_cut_off() -> None:
    """A submit answered without end is a submit of unknown outcome, not a full memory."""

    async def endless(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        while True:
            await answer.write(b" " * 2**16)

    async def main() -> None:
        async with server(endless) as url, rh.Session("k", base_url=url) as session:
            with pytest.raises(rh.SubmitUnknown, match="longer than"):
                await session.submit(POSTER)

    asyncio.run(main())


def test_redirects_of_the_api_are_not_followed() -> None:
    """The key would go along; the answer is an error instead."""

    async def elsewhere(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/steal"})

    async def main() -> None:
        async with server(elsewhere) as url, rh.Session("k", base_url=url) as session:
            with pytest.raises(rh.BlockedError, match="HTTP 307"):
                await session.query("7")

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["half", "reset", "drop", "status", "garbage"])
def test_the_emulators_faults_on_results_are_lived_through(tmp_path: Path, kind: Any) -> None:
    """Twice in trouble, then whole."""

    async def main() -> None:
        faults = [Fault(on="result", kind=kind, times=2)]
        async with (
            Emulator(duration=0, faults=faults) as emulator,
            rh.Session("k", base_url=emulator.url, **FAST) as session,
        ):
            (output,) = (await session.run(POSTER)).outputs
            download = await session.download(output, tmp_path / "x.png")
            assert download.image_type == "png"
            assert emulator.stats.downloads == 3

    asyncio.run(main())
    assert files(tmp_path) == ["x.png"]


def test_cancelling_a_download_leaves_nothing(tmp_path: Path) -> None:
    """Neither a part nor a warning."""

    async def slow(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": "99999999"})
        await answer.prepare(request)
        await answer.write(PNG)
        started.set()
        await asyncio.sleep(60)
        return answer

    started = asyncio.Event()

    async def main() -> None:
        async with server(slow) as url, rh.Session("k", base_url=url) as session:
            output = rh.Output(f"{url}/x.png", "png")
            task = asyncio.ensure_future(session.download(output, tmp_path / "x.png"))
            await started.wait()
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(main())
    assert files(tmp_path) == []
