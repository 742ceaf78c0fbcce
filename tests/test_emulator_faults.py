"""What the emulator does wrong on purpose, met by clients that are not ours."""

from __future__ import annotations

import asyncio
import json
import struct
import tracemalloc
import urllib.error
import urllib.request
import zlib
from argparse import Namespace
from collections.abc import Awaitable, Callable
from importlib import resources
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import pytest
from test_cli import emulator as command
from test_emulator import BODY, KEY, QUERY, SUBMIT, Client, decode
from test_emulator_families import APP, MEDIA_APP, PROMPT, V2, WORKFLOW, create, receiver, v1

from runninghub_async._cli._emulate import emulate
from runninghub_async._cli._prompts import UsageError
from runninghub_async.emulator import Emulator, Fault, _service
from runninghub_async.emulator._storms import STORMS, storm
from runninghub_async.testing import run as run_virtual

Use = Callable[[Emulator, Client], Awaitable[None]]
Got = tuple[int, bytes, Any]


async def served(use: Use, **options: Any) -> None:
    """Run `use` against an emulator whose tasks are done at once."""
    async with (
        Emulator(**{"duration": 0, **options}) as emulator,
        aiohttp.ClientSession() as http,
    ):
        await use(emulator, Client(emulator.url, http))


async def drawn(client: Client, **fields: Any) -> str:
    """The URL of a new picture."""
    task = await client.result((await client.submit(**fields))["taskId"])
    return str(task["results"][0]["url"])


async def fetch(url: str, method: str = "GET", **headers: str) -> Got:
    """Status, body and headers; no redirect is followed."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    async with (
        aiohttp.ClientSession() as http,
        http.request(method, url, headers=named, allow_redirects=False) as answer,
    ):
        return answer.status, await answer.read(), answer.headers


async def spoilt(kind: Any, check: Callable[[str, bytes], Awaitable[None]], **fields: Any) -> None:
    """Run `check(url, picture)` where every download but the first is met by a fault."""

    async def use(emulator: Emulator, client: Client) -> None:
        url = await drawn(client)
        _, picture, _ = await fetch(url)
        await check(url, picture)

    await served(use, faults=[Fault(on="result", kind=kind, after=1, **fields)])


async def raw(url: str) -> tuple[int, bytes]:
    """The length that is announced, and all that comes until the connection is closed."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    writer.write(f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    (length,) = (
        int(line.partition(b":")[2])
        for line in head.splitlines()
        if line.lower().startswith(b"content-length:")
    )
    return length, body


# -- ranges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-", 0, None),
        ("bytes=100-", 100, None),
        ("bytes=100-199", 100, 199),
        ("bytes=100-100", 100, 100),
        ("bytes=100-99999999", 100, None),
        ("Bytes=-10", -10, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_a_range_of_a_result_is_answered_206(asked: str, first: int, last: int | None) -> None:
    """Exactly those bytes, and where they are in the whole."""

    async def use(emulator: Emulator, client: Client) -> None:
        url = await drawn(client)
        _, whole, full = await fetch(url)
        status, part, headers = await fetch(url, Range=asked)
        start = first % len(whole)
        stop = len(whole) if last is None else last + 1
        assert (status, part) == (206, whole[start:stop])
        assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{len(whole)}"
        assert headers["ETag"] == full["ETag"]
        assert (full["Accept-Ranges"], headers["Content-Type"]) == ("bytes", "image/png")

    asyncio.run(served(use))


@pytest.mark.parametrize(
    "asked",
    ["bytes=0-9,20-29", "bytes=9-5", "bytes=-", "bytes=a-b", "lines=0-9", "0-9",
     f"bytes={'9' * 5000}-", ""],
)  # fmt: skip
def test_several_ranges_or_nonsense_get_the_whole(asked: str) -> None:
    """With 200."""

    async def use(emulator: Emulator, client: Client) -> None:
        url = await drawn(client)
        _, whole, _ = await fetch(url)
        status, part, headers = await fetch(url, Range=asked)
        assert (status, part) == (200, whole)
        assert "Content-Range" not in headers

    asyncio.run(served(use))


def test_a_range_behind_the_end_is_416_with_the_length() -> None:
    """Also the last no bytes."""

    async def use(emulator: Emulator, client: Client) -> None:
        url = await drawn(client)
        _, whole, _ = await fetch(url)
        for asked in (f"bytes={len(whole)}-", f"bytes={len(whole)}-{len(whole) + 5}", "bytes=-0"):
            status, _, headers = await fetch(url, Range=asked)
            assert (status, headers["Content-Range"]) == (416, f"bytes */{len(whole)}")

    asyncio.run(served(use))


def test_if_range_tells_one_picture_from_another() -> None:
    """With its own ETag a part, with any other, or a date, the whole."""

    async def use(emulator: Emulator, client: Client) -> None:
        url = await drawn(client)
        _, whole, headers = await fetch(url)
        _, _, other = await fetch(await drawn(client, prompt="another poster"))
        assert headers["ETag"] != other["ETag"]
        own = await fetch(url, Range="bytes=5-", If_Range=headers["ETag"])
        assert own[:2] == (206, whole[5:])
        for wrong in (other["ETag"], f"W/{headers['ETag']}", "Thu, 01 Jan 2026 00:00:00 GMT"):
            assert (await fetch(url, Range="bytes=5-", If_Range=wrong))[:2] == (200, whole)

    asyncio.run(served(use))


def test_head_tells_the_length_without_the_picture() -> None:
    """And the same ETag; a range does not matter there."""

    async def use(emulator: Emulator, client: Client) -> None:
        url = await drawn(client)
        _, whole, full = await fetch(url)
        status, body, headers = await fetch(url, "HEAD", Range="bytes=5-")
        assert (status, body) == (200, b"")
        assert headers["Content-Length"] == str(len(whole))
        assert headers["ETag"] == full["ETag"]

    asyncio.run(served(use))


def test_a_download_that_breaks_off_every_time_ends_by_ranges() -> None:
    """Each try brings half of what is still missing, and announces all of it."""

    async def check(url: str, picture: bytes) -> None:
        held, lengths = b"", []
        async with aiohttp.ClientSession() as http:
            while len(held) < len(picture):
                missing, before = len(picture) - len(held), len(held)
                async with http.get(url, headers={"Range": f"bytes={before}-"}) as answer:
                    assert answer.status == 206
                    assert answer.headers["Content-Length"] == str(missing)
                    try:
                        async for piece in answer.content.iter_any():
                            held += piece
                    except aiohttp.ClientPayloadError:
                        lengths.append(missing)
                assert len(held) - before == -(-missing // 2)
        assert held == picture
        assert len(lengths) >= 10

    asyncio.run(spoilt("half", check))


def test_a_ranged_download_may_be_reset() -> None:
    """No answer at all, and later the part that was asked for."""

    async def check(url: str, picture: bytes) -> None:
        with pytest.raises(aiohttp.ClientConnectionError):
            await fetch(url, Range="bytes=7-")
        assert (await fetch(url, Range="bytes=7-"))[:2] == (206, picture[7:])

    # What is safe to ask twice aiohttp asks twice by itself.
    asyncio.run(spoilt("reset", check, times=2))


# -- a hostile host -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["file:///etc/hosts", "http://127.0.0.1:1/x", ""])
def test_a_result_may_lead_elsewhere_or_in_circles(target: str) -> None:
    """302 to the rule's URL, or to where it was asked."""

    async def check(url: str, picture: bytes) -> None:
        parts = urlsplit(url)
        status, _, headers = await fetch(url)
        assert status == 302
        assert headers["Location"] == (target or f"{parts.path}?{parts.query}")

    asyncio.run(spoilt("redirect", check, url=target))


def test_a_page_may_stand_where_the_picture_was() -> None:
    """200 and text/html."""

    async def check(url: str, picture: bytes) -> None:
        status, page, headers = await fetch(url)
        assert (status, headers["Content-Type"][:9]) == (200, "text/html")
        assert b"<!doctype html>" in page

    asyncio.run(spoilt("html", check))


def test_a_result_may_never_end() -> None:
    """It begins as the picture, is not kept in memory, and stops when the reader has left."""

    async def check(url: str, picture: bytes) -> None:
        before, size, head = asyncio.all_tasks(), 0, b""
        tracemalloc.start()
        try:
            async with aiohttp.ClientSession() as http, http.get(url) as answer:
                assert (answer.status, answer.content_type) == (200, "image/png")
                assert "Content-Length" not in answer.headers
                async for piece in answer.content.iter_any():
                    head = head or piece
                    size += len(piece)
                    if size > 2**25:
                        break
                sending = asyncio.all_tasks() - before
                answer.close()
            assert tracemalloc.get_traced_memory()[1] < 2**23
        finally:
            tracemalloc.stop()
        assert head.startswith(picture[: len(picture) // 2][: len(head)])
        assert sending
        await asyncio.wait(sending)

    asyncio.run(spoilt("endless", check))


def test_more_may_be_announced_than_comes() -> None:
    """The whole picture, twice its length announced, and the end of the connection."""

    async def check(url: str, picture: bytes) -> None:
        assert await raw(url) == (2 * len(picture), picture)
        with pytest.raises(aiohttp.ClientPayloadError):
            await fetch(url)

    asyncio.run(spoilt("longer", check))


def test_more_may_come_than_is_announced() -> None:
    """The whole picture, and half its length announced."""

    async def check(url: str, picture: bytes) -> None:
        assert await raw(url) == (len(picture) // 2, picture)

    asyncio.run(spoilt("shorter", check))


def test_a_bomb_is_small_valid_and_huge() -> None:
    """Less than 2 MB, 60,000 x 60,000 pixels, rows that unpack; by range like any file."""

    async def check(url: str, picture: bytes) -> None:
        status, bomb, headers = await fetch(url)
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert len(bomb) < 2_000_000
        assert bomb.startswith(b"\x89PNG\r\n\x1a\n")
        assert struct.unpack(">II", bomb[16:24]) == (60_000, 60_000)
        at = bomb.index(b"IDAT")
        (length,) = struct.unpack(">I", bomb[at - 4 : at])
        (checksum,) = struct.unpack(">I", bomb[at + 4 + length : at + 8 + length])
        assert zlib.crc32(bomb[at : at + 4 + length]) == checksum
        unpacked = zlib.decompressobj().decompress(bomb[at + 4 : at + 4 + length], 2**26)
        assert unpacked == bytes(2**26)
        # To unpack all of it takes seconds; the checksum at its end is that of so many zeros.
        assert bomb[at : at + 4 + length].endswith(
            struct.pack(">HH", 60_000 * (1 + 60_000 // 2) % 65521, 1)
        )
        assert (await fetch(url, Range="bytes=1000000-"))[:2] == (206, bomb[1_000_000:])

    asyncio.run(spoilt("bomb", check))


def test_a_flipped_picture_has_its_length_and_etag_but_not_its_bytes() -> None:
    """Its checksum tells."""

    async def check(url: str, picture: bytes) -> None:
        _, other, flipped = await fetch(url)
        assert sum(a != b for a, b in zip(other, picture, strict=True)) == 4
        with pytest.raises(AssertionError):
            decode(other)
        _, same, headers = await fetch(url)
        assert same == picture
        assert flipped["ETag"] == headers["ETag"]

    asyncio.run(spoilt("flipped", check, times=1))


def test_a_cut_picture_looks_whole_to_http() -> None:
    """Its length is announced and comes; only the picture ends in the middle."""

    async def check(url: str, picture: bytes) -> None:
        status, part, headers = await fetch(url)
        assert (status, headers["Content-Length"]) == (200, str(len(part)))
        assert picture.startswith(part)
        assert picture.index(b"IDAT") < len(part) < len(picture) - 20

    asyncio.run(spoilt("cut", check))


def test_a_host_may_take_no_notice_of_ranges() -> None:
    """200 and the whole."""

    async def check(url: str, picture: bytes) -> None:
        assert (await fetch(url, Range="bytes=5-"))[:2] == (200, picture)

    asyncio.run(spoilt("whole", check))


def test_a_host_may_name_the_file_as_a_path() -> None:
    """In Content-Disposition; the picture is right."""

    async def check(url: str, picture: bytes) -> None:
        status, same, headers = await fetch(url)
        assert (status, same) == (200, picture)
        assert headers["Content-Disposition"] == 'attachment; filename="../../x"'

    asyncio.run(spoilt("name", check))


def test_a_tasks_files_may_have_a_path_for_a_type() -> None:
    """In newer and older answers; the URL is quoted, and leads to the picture all the same."""

    async def use(emulator: Emulator, client: Client) -> None:
        task = await client.result((await client.submit())["taskId"])
        (result,) = task["results"]
        assert result["outputType"] == "../../x"
        path = urlsplit(result["url"]).path
        assert PurePosixPath(path).name == "0...%2F..%2Fx"
        assert unquote(path).endswith("/0.../../x")
        status, picture, headers = await fetch(result["url"])
        assert (status, headers["Content-Type"]) == (200, "image/png")
        assert decode(picture)[:2] == (1600, 1344)
        older = await v1(client, "/task/openapi/outputs", taskId=task["taskId"])
        assert older["data"][0]["fileType"] == "../../x"

    asyncio.run(served(use, faults=[Fault(on="task", kind="name")]))


def test_a_text_has_no_name_to_be_a_path() -> None:
    """It comes in the answer; the files beside it have one."""

    async def use(emulator: Emulator, client: Client) -> None:
        task = await client.post(f"{V2}run/ai-app/{MEDIA_APP}", {"nodeInfoList": []})
        told = (await client.result(task["taskId"]))["results"]
        assert sorted(result["outputType"] for result in told) == ["../../x"] * 3 + ["txt"]
        assert [bool(result["text"]) for result in told if result["outputType"] == "txt"] == [True]

    asyncio.run(served(use, faults=[Fault(on="task", kind="name")]))


def test_downloads_and_queries_have_their_tasks_prompt() -> None:
    """So a rule strikes those of some tasks only."""

    async def use(emulator: Emulator, client: Client) -> None:
        fine = await drawn(client, prompt="a poster of a lantern")
        poor = await drawn(client, prompt="a poster of a kite")
        assert [(await fetch(url))[0] for url in (fine, poor, fine)] == [200, 404, 200]
        task_id = (await client.submit(prompt="a poster of a drum"))["taskId"]
        assert (await client.post(QUERY, {"taskId": task_id}))["errorCode"] == "1011"

    faults = [
        Fault(on="result", kind="status", status=404, match="kite"),
        Fault(on="query", kind="refuse", code="1011", match="drum"),
    ]
    asyncio.run(served(use, faults=faults))


# -- scripts with a name --------------------------------------------------------------------------


def test_every_storm_has_a_name_a_file_and_sound_rules() -> None:
    """Neither a file without a name nor a name without a file."""
    folder = resources.files("runninghub_async").joinpath("emulator/faults")
    assert sorted(file.name.removesuffix(".json") for file in folder.iterdir()) == sorted(STORMS)
    for name in STORMS:
        rules = storm(name)
        assert rules
        Emulator(faults=rules)
        assert all(0 < rule["share"] < 1 for rule in rules)


def test_hostile_results_has_every_kind_of_hostility() -> None:
    """Each kind that only a result has, and that of a task."""
    from runninghub_async.emulator import _faults

    known = _faults._KINDS["result"] - _faults._KINDS["upload"]
    rules = storm("hostile-results")
    assert {rule["kind"] for rule in rules if rule["on"] == "result"} == known | {"garbage"}
    assert {"on": "task", "kind": "name", "share": 0.03} in rules


def test_bad_weather_ruins_nothing() -> None:
    """No task fails, and no submit is answered so that its task is not known."""
    rules = storm("bad-weather")
    assert {rule["on"] for rule in rules} == {"submit", "task", "query", "upload", "result"}
    assert {rule["kind"] for rule in rules if rule["on"] == "task"} == {"hidden"}
    assert {rule["kind"] for rule in rules if rule["on"] == "submit"} == {
        "refuse", "rate", "delay", "late",
    }  # fmt: skip


def test_an_unknown_storm_is_told_with_those_there_are() -> None:
    """A name that is none, before anything is opened."""
    with pytest.raises(ValueError, match=r"lost-answers, lost-answers-and-events.*'sunshine'"):
        Emulator(faults="sunshine")


def test_a_storm_strikes_by_its_name() -> None:
    """Some answers are lost, and no task of those."""
    lost: list[int] = []

    async def use(emulator: Emulator, client: Client) -> None:
        for n in range(60):
            try:
                await client.submit(prompt=f"a poster of the number {n}")
            except aiohttp.ClientConnectionError:
                lost.append(n)
        assert set(emulator.created.values()) == {1}
        assert len(emulator.created) == emulator.stats.accepted == 60

    run_virtual(lambda: served(use, faults="lost-answers"))
    assert 5 < len(lost) < 25


def test_the_command_line_takes_a_storms_name() -> None:
    """As it takes a file."""
    body = json.dumps(BODY).encode()
    refused = 0
    with command("--faults", "refusals", "--duration", "0") as url:
        for _ in range(40):
            request = urllib.request.Request(url + SUBMIT, body, headers=KEY)
            try:
                with urllib.request.urlopen(request) as answer:
                    refused += bool(json.load(answer)["errorCode"])
            except urllib.error.HTTPError as error:
                refused += error.code == 429
                error.close()
    assert 5 < refused < 30


def test_the_command_line_names_the_storms_there_are() -> None:
    """Where there is neither a file nor a script of that name."""
    with pytest.raises(
        UsageError, match="--faults sunshine: neither a file nor one of bad-weather"
    ):
        asyncio.run(emulate(Namespace(faults="sunshine")))


# -- what was created, and what is said about it -------------------------------------------------


def test_tasks_are_counted_by_prompt_in_every_family() -> None:
    """As `match` sees it; what was refused is not among them; the same over HTTP."""

    async def use(emulator: Emulator, client: Client) -> None:
        for prompt in ("a poster of a lantern", "a poster of a kite", "a poster of a kite"):
            await client.submit(prompt=prompt)
        assert (await client.submit(prompt="a poster that is barred"))["errorCode"] == "1501"
        said = {"nodeInfoList": [PROMPT]}
        await create(client, **said)
        await client.post(f"{V2}run/workflow/{WORKFLOW}", said)
        await client.post(f"{V2}run/ai-app/{APP}", {"nodeInfoList": []})
        counts = emulator.created
        assert counts.pop(next(key for key in counts if "poster" not in key)) == 1
        assert counts == {
            "a poster of a lantern": 1,
            "a poster of a kite": 2,
            "a poster of a paper boat": 2,
        }
        assert await client.get("/_emulator/created") == emulator.created
        assert emulator.created.total() == emulator.stats.accepted == 6

    faults = [Fault(on="submit", kind="refuse", code="1501", match="barred")]
    asyncio.run(served(use, faults=faults))


def test_the_count_by_prompt_forgets_the_first_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endless run does not fill the memory."""
    monkeypatch.setattr(_service, "_PROMPTS", 3)

    async def use(emulator: Emulator, client: Client) -> None:
        for n in (0, 1, 2, 0, 3, 4):
            await client.submit(prompt=f"a poster of the number {n}")
        assert emulator.created == {f"a poster of the number {n}": 1 for n in (2, 3, 4)}

    asyncio.run(served(use))


def test_what_is_read_of_the_count_is_a_copy() -> None:
    """It does not change under its reader."""

    async def use(emulator: Emulator, client: Client) -> None:
        before = emulator.created
        await client.submit()
        assert (before.total(), emulator.created.total()) == (0, 1)

    asyncio.run(served(use))


def test_the_event_of_a_task_whose_submit_was_reset_is_sent() -> None:
    """The only way to learn of that task; it may be sent twice, and late."""

    async def use(emulator: Emulator, client: Client) -> None:
        async with receiver() as (url, got):
            for prompt in ("a poster of a lantern", "one that is doubled", "one that is late"):
                with pytest.raises(aiohttp.ClientConnectionError):
                    await client.submit(prompt=prompt, webhookUrl=url)
            events = [json.loads(await got.get()) for _ in range(4)]
        tasks = [event["taskId"] for event in events]
        assert sorted(tasks.count(each) for each in set(tasks)) == [1, 1, 2]
        assert {event["eventData"]["status"] for event in events} == {"SUCCESS"}
        assert emulator.stats.webhooks == 4

    faults = [
        Fault(on="submit", kind="reset"),
        Fault(on="webhook", kind="duplicate", match="doubled"),
        Fault(on="webhook", kind="delay", match="late", seconds=50),
    ]
    run_virtual(lambda: served(use, faults=faults))


def test_the_event_may_come_before_the_answer_to_the_submit() -> None:
    """A late answer is that of a task which was created, run and told of at once."""

    async def use(emulator: Emulator, client: Client) -> None:
        async with receiver() as (url, got):
            submit = asyncio.ensure_future(client.submit(webhookUrl=url))
            event = json.loads(await got.get())
            assert not submit.done()
            assert event["taskId"] == (await submit)["taskId"]

    run_virtual(lambda: served(use, faults=[Fault(on="submit", kind="late", seconds=60)]))
