"""Results are saved one by one: everything that can be fetched is saved, no wrong file is kept, and
nothing is submitted while nothing can be saved."""

from __future__ import annotations

import asyncio
import errno
import gzip
import itertools
import json
import logging
import os
import re
import stat
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import attrs
import pytest
from aiohttp import web
from support import png
from test_addresses import resolve_to
from test_journal_damage import edit
from test_journal_owner import hearing

import runninghub_async as rh
from runninghub_async._addresses import encoded, why_not
from runninghub_async._hold import FolderHold, HostHold
from runninghub_async._journal import files_in, files_text
from runninghub_async._names import comparable, usable_stem
from runninghub_async._renewal import matched
from runninghub_async._turns import Turn, Turns
from runninghub_async.testing import MockTransport, json_response, run

PNG = png(24, 24)
PAGE = b"<!DOCTYPE html><html><title>Sign in</title></html>"
FAST: dict[str, Any] = {
    "polling": rh.ExponentialPolling(0.01, 1, 0.01),
    "retry": rh.RetryPolicy(wait_initial=0.01, wait_max=0.02, query_wait_max=0.05),
    "limits": rh.Limits(20, None, None),
}

Reply = Callable[[web.BaseRequest], Coroutine[Any, Any, web.StreamResponse]]


def posters(count: int) -> list[rh.SeedreamV5Lite]:
    return [rh.SeedreamV5Lite(f"a poster of the number {n}", 1600, 1344) for n in range(count)]


async def picture(_: web.BaseRequest) -> web.StreamResponse:
    return web.Response(body=PNG, content_type="image/png")


class Site:
    """The service and the host of its results, over real HTTP.

    A task has `outputs` results. `replies` has, for a path, what the host does each time it is
    asked, the last one again and again; a picture for any other path. `result(task, n, look)`
    may give another entry for a result than the usual one.
    """

    def __init__(self, outputs: int = 1, *, runs: int = 1) -> None:
        self.outputs = outputs
        self.replies: dict[str, list[Reply]] = {}
        self.asked: Counter[str] = Counter()
        self.queries: Counter[str] = Counter()
        self.created: list[str] = []
        self.result: Callable[[str, int, int], Any] = lambda _task, _n, _look: None
        self.url = ""
        self._runs = runs
        self._ids = itertools.count(2013508786110730241)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        runner = web.ServerRunner(
            web.Server(self._handle, access_log=None),
            shutdown_timeout=0.1,
        )
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield self.url
        finally:
            await runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith("/query"):
            return self._query((await request.json())["taskId"])
        if request.path.startswith("/openapi/"):
            self.created.append(str(next(self._ids)))
            return web.json_response({"taskId": self.created[-1], "status": "RUNNING"})
        path = request.raw_path.partition("?")[0]
        self.asked[path] += 1
        replies = self.replies.get(path, [picture])
        reply = replies[min(self.asked[path], len(replies)) - 1]
        return await reply(request)

    def _query(self, task: str) -> web.Response:
        self.queries[task] += 1
        look = self.queries[task]
        if look <= self._runs:
            return web.json_response({"taskId": task, "status": "RUNNING"})
        results = [
            self.result(task, n, look - self._runs)
            or {"url": f"{self.url}/{task}/{n}.png?s={look}", "outputType": "png", "nodeId": "9"}
            for n in range(self.outputs)
        ]
        usage = {"thirdPartyConsumeMoney": "0.22"}
        body = {"taskId": task, "status": "SUCCESS", "results": results, "usage": usage}
        return web.json_response(body)


def status(code: int, body: bytes = b"", **headers: str) -> Reply:
    async def reply(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=code, body=body, headers=headers)

    return reply


async def collect(stream: Any) -> list[Any]:
    async with stream:
        return [outcome async for outcome in stream]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def states(journal: Path) -> dict[str, int]:
    with rh.JournalReader(journal) as reader:
        return {s.value: n for s, n in reader.summary().states.items() if n}


def stream_from(site: Site, folder: Path, count: int = 1, **options: Any) -> list[Any]:
    """The outcomes of a stream of posters that are saved in `folder`."""

    async def main() -> list[Any]:
        async with site.serve() as url, rh.Session("a-key", base_url=url, **FAST) as session:
            return await collect(session.stream(posters(count), folder=folder, **options))

    return asyncio.run(main())


# -- each result by itself ----------------------------------------------------------------------

UNSAFE = {"url": "http://10.0.0.7/x.png", "outputType": "png", "nodeId": "9"}
REFUSED = {"outputType": "png", "nodeId": "9", "error": {"code": "SensitiveContent"}}


@pytest.mark.parametrize("bad", ["gone", "page", "refused", "unsafe", "broken", "status"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_one_result_that_cannot_be_had_loses_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, bad: str, place: int
) -> None:
    """Three are saved, handed out and in the journal; one is named as missing. A resumed run asks
    for that one alone, and with it the job is stored."""
    site, mended = Site(4), False
    replies = {
        "gone": status(410), "page": status(200, PAGE, **{"Content-Type": "text/html"}),
        "broken": status(200, PNG[:-9]), "status": status(418),
    }  # fmt: skip

    def result(_task: str, n: int, _look: int) -> Any:
        entries = {"refused": REFUSED, "unsafe": UNSAFE}
        return entries.get(bad) if n == place and not mended else None

    site.result = result

    async def bad_reply(request: web.BaseRequest) -> web.StreamResponse:
        return await (picture if mended else replies[bad])(request)

    out, journal = tmp_path / "out", tmp_path / "run.db"

    async def session_of(url: str, *, again: bool) -> list[Any]:
        async with rh.Session("a-key", base_url=url, journal=journal, **FAST) as session:
            if again:
                return await collect(session.resume(folder=out))
            return await collect(session.stream(posters(1), folder=out))

    async def main() -> tuple[Any, Any, Counter[str]]:
        nonlocal mended
        async with site.serve() as url:
            if bad in replies:
                site.replies[f"/2013508786110730241/{place}.png"] = [bad_reply]
            (first,) = await session_of(url, again=False)
            (second,) = await session_of(url, again=True)
            assert await asyncio.to_thread(states, journal) == {"partly_stored": 1}
            mended = True
            site.asked.clear()
            (third,) = await session_of(url, again=True)
            assert await session_of(url, again=True) == []
        for outcome in (first, second):
            assert outcome.ok
            assert [o.task_id for o in outcome.missing] == [outcome.task.id]
            assert outcome.missing == (outcome.task.outputs[place],)
            assert len(outcome.files) == 3
        return second, third, site.asked

    second, third, asked = asyncio.run(main())
    stem = "00000-a-poster-of-the-number-0"
    all_names = [f"{stem}{f'-{n + 1}' if n else ''}.png" for n in range(4)]
    assert [f.path.name for f in third.files] == all_names
    assert {f.path.name for f in second.files} == {*all_names} - {all_names[place]}
    assert third.missing == ()
    assert set(asked) == {f"/2013508786110730241/{place}.png"}
    assert names(out) == sorted(all_names)
    assert states(journal) == {"stored": 1}
    with rh.JournalReader(journal) as reader:
        assert reader.summary().spent.amount == rh.Money("0.22", "CNY").amount
        assert not any(job.error for job in reader.jobs(rh.JobState.STORED))
    told = [r.getMessage() for r in caplog.records if r.name == "runninghub_async.trouble"]
    assert any(f"result {place + 1} of 4" in text for text in told)


def test_a_task_of_which_nothing_can_be_had_fails_with_the_task(tmp_path: Path) -> None:
    """The journal keeps it as succeeded, and a resumed run has all of it."""
    site, mended = Site(3), False
    told: list[dict[str, int]] = []

    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        return await (picture if mended else status(410))(request)

    async def main() -> tuple[Any, Any]:
        nonlocal mended
        async with site.serve() as url:
            for n in range(3):
                site.replies[f"/2013508786110730241/{n}.png"] = [reply]
            found: list[Any] = []
            for again in (False, True):
                async with rh.Session(
                    "a-key", base_url=url, journal=tmp_path / "run.db", **FAST
                ) as session:
                    stream = (
                        session.resume(folder=tmp_path / "out")
                        if again
                        else session.stream(posters(1), folder=tmp_path / "out")
                    )
                    found += await collect(stream)
                told.append(await asyncio.to_thread(states, tmp_path / "run.db"))
                mended = True
        return found[0], found[1]

    first, second = asyncio.run(main())
    assert isinstance(first, rh.Failed)
    assert isinstance(first.error, rh.ResultGone)
    assert first.task is not None
    assert len(first.task.outputs) == 3
    assert len(second.files) == 3
    assert told == [{"succeeded": 1}, {"stored": 1}]


@pytest.mark.parametrize("early", [None, [], [{"url": "", "outputType": "png"}]])
def test_success_before_its_results_is_looked_at_again(tmp_path: Path, early: Any) -> None:
    """Never `stored` without a file; a task that stays empty fails with itself."""
    looks: Counter[str] = Counter()

    def handle(stays: bool) -> Callable[[rh.Request], rh.Response]:
        def answer(request: rh.Request) -> rh.Response:
            if request.url.endswith("/query"):
                looks["query"] += 1
                results = [{"url": "https://x.example/1.png", "outputType": "png", "nodeId": "1"}]
                told = early if stays or looks["query"] < 3 else results
                return json_response({"taskId": "7", "status": "SUCCESS", "results": told})
            if request.url.startswith("https://x.example"):
                return rh.Response(200, PNG)
            return json_response({"taskId": "7", "status": "RUNNING"})

        return answer

    async def main(stays: bool) -> Any:
        looks.clear()
        async with rh.Session(
            "a-key", transport=MockTransport(handle(stays)), journal=tmp_path / f"{stays}.db"
        ) as session:
            found = await collect(session.stream(posters(1), folder=tmp_path / f"{stays}"))
            found += await collect(session.resume(folder=tmp_path / f"{stays}"))
        return found

    found = run(main, True)
    assert [type(outcome) for outcome in found] == [rh.Failed, rh.Failed]
    assert all(outcome.task is not None for outcome in found)
    # It stays running, so that a resumed run asks for its results again.
    assert states(tmp_path / "True.db") == {"running": 1}
    assert [o.ok for o in run(main, False)][-1:] == [True]
    assert states(tmp_path / "False.db") == {"stored": 1}


def test_a_result_that_is_a_text_is_saved_as_one(tmp_path: Path) -> None:
    """Beside a picture of the same task, under the same name; with its hash in the journal."""
    site, journal = Site(2), tmp_path / "run.db"
    site.result = lambda _task, n, _look: {"text": "a boat ⛵", "outputType": "txt"} if n else None

    async def main() -> list[Any]:
        async with site.serve() as url:
            async with rh.Session("a-key", base_url=url, journal=journal, **FAST) as session:
                return await collect(session.stream(posters(1), folder=tmp_path / "out"))

    (outcome,) = asyncio.run(main())
    stem = "00000-a-poster-of-the-number-0"
    assert [file.path.name for file in outcome.files] == [f"{stem}.png", f"{stem}-2.txt"]
    assert outcome.files[1].path.read_text("utf-8") == "a boat ⛵"
    assert names(tmp_path / "out") == sorted(file.path.name for file in outcome.files)
    with rh.JournalReader(journal) as reader:
        (job,) = reader.jobs()
    assert [file.sha256 for file in job.files] == [file.sha256 for file in outcome.files]


def test_a_url_that_is_none_loses_no_other_result(tmp_path: Path) -> None:
    """It is refused as unsafe, and named as missing."""
    site = Site(2)
    bad = {"url": "https://[x/1.png", "outputType": "png", "nodeId": "9"}
    site.result = lambda _task, n, _look: bad if n else None
    (outcome,) = stream_from(site, tmp_path)
    assert outcome.ok
    assert len(outcome.files) == 1
    assert [output.url for output in outcome.missing] == [bad["url"]]
    site.result = lambda _task, _n, _look: bad
    (outcome,) = stream_from(site, tmp_path)
    assert isinstance(outcome.error, rh.ResultUnsafe)


@pytest.mark.parametrize("there", [True, False])
def test_a_success_that_was_recorded_without_results_is_asked_for_them(
    there: bool, tmp_path: Path
) -> None:
    """By a resumed run, with a query that costs nothing; if there are none, the job stays open."""
    site, journal = Site(2), tmp_path / "run.db"

    async def main() -> list[Any]:
        async with site.serve() as url:
            async with rh.Session("a-key", base_url=url, journal=journal, **FAST) as session:
                await collect(session.stream(posters(1)))
            text = 'UPDATE jobs SET task = \'{"status":"SUCCESS"}\''
            await asyncio.to_thread(edit, journal, text)
            if not there:
                site.outputs = 0
            async with rh.Session("a-key", base_url=url, journal=journal, **FAST) as session:
                return await collect(session.resume(folder=tmp_path / "out"))

    (outcome,) = asyncio.run(main())
    assert outcome.ok is there
    assert outcome.task.id == site.created[0]
    if there:
        assert len(outcome.files) == 2
        assert states(journal) == {"stored": 1}
    else:
        assert isinstance(outcome.error, rh.DownloadError)
        assert "the service names no results of it" in str(outcome.error)
        assert states(journal) == {"succeeded": 1}


def test_rows_of_earlier_versions_and_places_of_outputs_are_read() -> None:
    """Files in the order of all outputs are written as they always were."""
    old = '[["a.png",1,"00","png"],["b.png",2,"01","png"]]'
    assert files_text(files_in(old)) == old
    assert [file.output for file in files_in(old)] == [None, None]
    ordered = [rh.KeptFile("a.png", 1, "00", "png", 0), rh.KeptFile("b.png", 2, "01", "png", 1)]
    assert files_text(ordered) == old
    gap = (rh.KeptFile("a.png", 1, "00", "png", 0), rh.KeptFile("c.png", 2, "01", "png", 2))
    assert files_in(files_text(gap)) == gap


# -- fresh URLs ---------------------------------------------------------------------------------


def test_one_query_renews_all_results_of_a_task(tmp_path: Path) -> None:
    """All have expired; they come in another order, at another host, with another signature."""
    site = Site(4)

    def result(task: str, n: int, look: int) -> Any:
        n = n if look == 1 else 3 - n
        host = site.url if look == 1 else site.url.replace("127.0.0.1", "localhost")
        return {"url": f"{host}/{task}/{n}.png?sign={look}", "outputType": "png", "nodeId": str(n)}

    site.result = result
    bodies = [png(10 + n, 10) for n in range(4)]

    def reply(n: int) -> Reply:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            if request.query["sign"] == "1":
                return web.Response(status=403)
            return web.Response(body=bodies[n])

        return answer

    for n in range(4):
        site.replies[f"/2013508786110730241/{n}.png"] = [reply(n)]

    async def main() -> Any:
        async with site.serve() as url:
            site.url = url.replace("127.0.0.1", "localhost")
            async with rh.Session("a-key", base_url=site.url, **FAST) as session:
                (outcome,) = await collect(session.stream(posters(1), folder=tmp_path))
        return outcome

    outcome = asyncio.run(main())
    assert [f.path.read_bytes() for f in outcome.files] == bodies
    # Once while it ran, once at its end, and once for fresh URLs.
    assert site.queries["2013508786110730241"] == 3


def out(url: str | None, kind: str = "png", node: str = "9") -> rh.Output:
    return rh.Output(url, kind, node_id=node, task_id="7")


def test_fresh_urls_are_matched_by_path_then_by_node_type_and_place() -> None:
    """Never one for two, and none where it is not certain."""
    old = [out("https://a/1.png?s=1"), out("https://a/2.png?s=1"), out("https://a/3.png", "mp4")]
    fresh = [out("https://b/3.png?s=2", "mp4"), out("https://b/2.png"), out("https://b/1.png")]
    assert matched(old, fresh) == {0: fresh[2], 1: fresh[1], 2: fresh[0]}
    renamed = [out("https://b/x.png"), out("https://b/y.png"), out("https://b/z.mp4", "mp4")]
    assert matched(old, renamed) == dict(enumerate(renamed))
    # One by its path, the other one because nothing else is left.
    assert matched(old[:2], [out("https://b/y.png"), out("https://b/1.png")]) == {
        0: out("https://b/1.png"),
        1: out("https://b/y.png"),
    }
    # Fewer than before, of one node: nobody knows which.
    assert matched(old[:2], [out("https://b/y.png")]) == {}
    assert matched(old[:1], renamed[:2]) == {}
    # Two that have one path are kept apart by their nodes.
    same = [out("https://a/x.png?id=1", node="1"), out("https://a/x.png?id=2", node="2")]
    assert matched(same, same[::-1]) == dict(enumerate(same))
    assert matched([out(None)], [out("https://a/1.png", node="")]) == {
        0: out("https://a/1.png", node="")
    }
    # Only these two are left, and are of different kinds.
    assert matched(old[:1], [out("https://b/y.mp4", "mp4", "1")]) == {}
    assert matched([], fresh) == {}
    # An answer that names one URL twice leaves one of them out.
    assert matched(old[:2], [out("https://b/y.png")] * 2) == {0: out("https://b/y.png")}


def test_a_result_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """HTTP 404 in the first minute after the end; by a stream and by a download, also where the
    first look finds the task done."""
    site = Site(2, runs=0)
    for task, n in itertools.product(("2013508786110730241", "2013508786110730242"), range(2)):
        site.replies[f"/{task}/{n}.png"] = [status(404)] * 5 + [picture]

    async def main() -> Any:
        async with site.serve() as url, rh.Session("a-key", base_url=url, **FAST) as session:
            (outcome,) = await collect(session.stream(posters(1), folder=tmp_path / "out"))
            task = await session.wait(await session.submit(posters(1)[0]))
            await session.download(task.outputs[0], tmp_path / "x.png")
        return outcome

    outcome = asyncio.run(main())
    assert len(outcome.files) == 2
    assert outcome.missing == ()
    assert (tmp_path / "x.png").read_bytes() == PNG


def test_an_early_end_in_the_journal_is_known_to_a_resumed_run(tmp_path: Path) -> None:
    """A process that ended before the results were there is followed by another one at once."""
    site = Site()
    site.replies["/2013508786110730241/0.png"] = [status(404)] * 3 + [picture]

    async def main() -> Any:
        async with site.serve() as url:
            options = FAST | {"journal": tmp_path / "run.db"}
            async with rh.Session("a-key", base_url=url, **options) as session:
                await collect(session.stream(posters(1)))
            async with rh.Session("a-key", base_url=url, **options) as session:
                return await collect(session.resume(folder=tmp_path / "out"))

    (outcome,) = asyncio.run(main())
    assert len(outcome.files) == 1


def test_how_long_it_is_waited_for_depends_on_what_is_known(tmp_path: Path) -> None:
    """A minute after an end that was seen; not at all for a task of which nothing is known."""
    asked: list[float] = []

    def handle(request: rh.Request) -> rh.Response:
        if request.url.endswith("/query"):
            looks.append(request.url)
            ended = "SUCCESS" if len(looks) > 1 or not seen else "RUNNING"
            results = [{"url": "https://x.example/1.png", "outputType": "png"}]
            return json_response({"taskId": "7", "status": ended, "results": results})
        if request.url.startswith("https://x.example"):
            asked.append(asyncio.get_running_loop().time())
            return rh.Response(404)
        return json_response({"taskId": "7", "status": "RUNNING"})

    async def main() -> tuple[float, int]:
        asked.clear()
        looks.clear()
        async with rh.Session("a-key", transport=MockTransport(handle)) as session:
            task = await (session.run(posters(1)[0]) if seen else session.wait("7"))
            begun = asyncio.get_running_loop().time()
            with pytest.raises(rh.ResultGone, match="404"):
                await session.download(task.outputs[0], tmp_path / "x.png")
            return asyncio.get_running_loop().time() - begun, len(looks)

    looks: list[str] = []
    seen = True
    waited, queries = run(main)
    assert 55 < waited < 65
    assert 8 <= len(asked) <= 16
    # The fresh URL is asked for once: it may be another one.
    assert queries == 3
    seen = False
    waited, queries = run(main)
    assert waited < 1
    assert (len(asked), queries) == (1, 2)


# -- slow hosts ---------------------------------------------------------------------------------


@attrs.frozen
class Drip:
    """A body that comes in pieces, `pause` seconds apart on the virtual clock."""

    body: bytes
    piece: int
    pause: float


class SlowHosts(MockTransport):
    """A service whose results come from several hosts, as `bodies` says."""

    def __init__(self, bodies: Callable[[str], Drip], results: Callable[[int], str]) -> None:
        super().__init__(self._answer)
        self.ranges: list[tuple[str, str | None]] = []
        self.ended: dict[str, float] = {}
        self._bodies = bodies
        self._results = results
        self._ids = itertools.count(1)

    def _answer(self, request: rh.Request) -> rh.Response:
        if not request.url.endswith("/query"):
            return json_response({"taskId": str(next(self._ids)), "status": "RUNNING"})
        task = body_of(request)["taskId"]
        results = [{"url": self._results(int(task)), "outputType": "png"}]
        return json_response({"taskId": task, "status": "SUCCESS", "results": results})

    @asynccontextmanager
    async def stream(self, request: rh.Request) -> AsyncIterator[rh.StreamedResponse]:
        drip = self._bodies(request.url)
        wanted = request.headers.get("Range")
        self.ranges.append((request.url, wanted))
        at = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        total = len(drip.body)
        headers = {"etag": '"1"', "content-length": str(total - at)}
        if at:
            headers["content-range"] = f"bytes {at}-{total - 1}/{total}"

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(at, total, drip.piece):
                await asyncio.sleep(drip.pause)
                yield drip.body[start : start + drip.piece]
            self.ended[request.url] = asyncio.get_running_loop().time()

        yield rh.StreamedResponse(206 if at else 200, headers, chunks())


def body_of(request: rh.Request) -> Any:
    return json.loads(request.body or b"{}")


def test_a_transfer_below_the_lowest_speed_is_tried_again_from_where_it_was(
    tmp_path: Path,
) -> None:
    """8 bytes a second without end: broken off each minute, resumed by a range, and given up."""
    host = SlowHosts(lambda _: Drip(PNG * 9, 4, 0.5), lambda n: f"https://x.example/{n}.png")

    async def main() -> float:
        async with rh.Session("a-key", transport=host) as session:
            with pytest.raises(rh.ResultIncomplete, match="too slow"):
                await session.download(rh.Output("https://x.example/1.png", "png"), tmp_path / "x")
            return asyncio.get_running_loop().time()

    assert 300 < run(main) < 400
    ranges = [wanted for _, wanted in host.ranges]
    assert ranges == [None, *(f"bytes={480 * n}-" for n in range(1, 5))]
    assert names(tmp_path) == []


def test_a_transfer_just_above_the_lowest_speed_is_left_alone(tmp_path: Path) -> None:
    """2 KiB a second, for four minutes."""
    body = png(400, 400)
    host = SlowHosts(lambda _: Drip(body, 2048, 1.0), lambda n: f"https://x.example/{n}.png")

    async def main() -> None:
        async with rh.Session("a-key", transport=host) as session:
            await session.download(rh.Output("https://x.example/1.png", "png"), tmp_path / "x.png")

    run(main)
    assert len(host.ranges) == 1
    assert (tmp_path / "x.png").read_bytes() == body


def test_a_host_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """Also a host whose headers never end: the transport shows no answer."""

    class Silent(MockTransport):
        @asynccontextmanager
        async def stream(self, request: rh.Request) -> AsyncIterator[rh.StreamedResponse]:
            self.requests.append(request)
            await asyncio.sleep(1e9)
            pytest.fail("it answered")
            yield

    host = Silent(lambda _: rh.Response(500))

    async def main() -> float:
        async with rh.Session("a-key", transport=host) as session:
            with pytest.raises(rh.ResultIncomplete, match="no answer within"):
                await session.download(rh.Output("https://x.example/1.png", "png"), tmp_path / "x")
            return asyncio.get_running_loop().time()

    assert run(main) < 4000
    assert len(host.requests) == 5


def test_a_transfer_that_stalls_is_given_up(tmp_path: Path) -> None:
    """No byte for half a minute, each time: the error says so, and nothing is left behind."""
    host = SlowHosts(lambda _: Drip(PNG, 100, 1e6), lambda n: f"https://x.example/{n}.png")

    async def main() -> float:
        async with rh.Session("a-key", transport=host) as session:
            with pytest.raises(rh.ResultIncomplete, match="bytes arrived") as caught:
                await session.download(rh.Output("https://x.example/1.png", "png"), tmp_path / "x")
            assert isinstance(caught.value.__cause__, rh.ReadTimeout)
            assert "no byte within" in str(caught.value.__cause__)
            return asyncio.get_running_loop().time()

    assert run(main) < 4000
    assert names(tmp_path) == []


def test_slow_transfers_leave_turns_to_others() -> None:
    """Eight slow ones hold four of eight slots; a fast host alone holds all eight, and no more."""

    async def main() -> None:
        turns, begun = Turns(8), Counter[str]()
        running: list[Turn] = []
        end = asyncio.Event()

        async def transfer(host: str) -> None:
            async with turns.turn(host) as turn:
                begun[host] += 1
                running.append(turn)
                await end.wait()

        async def settle() -> None:
            for _ in range(5):
                await asyncio.sleep(0)

        tasks = [asyncio.create_task(transfer("slow")) for _ in range(12)]
        tasks += [asyncio.create_task(transfer("fast")) for _ in range(20)]
        await settle()
        assert dict(begun) == {"slow": 8}
        for turn in running[:]:
            turn.slow()
        await settle()
        # Others of the slow host are first in line, and have their half already.
        assert dict(begun) == {"slow": 8, "fast": 4}
        for turn in running[8:]:
            turn.slow()
        await settle()
        assert begun.total() == 12
        # Those that are cancelled while they wait, or while they run, leave no hole.
        for task in (tasks[11], *tasks[:8]):
            task.cancel()
        await settle()
        assert begun.total() == 12 + 4
        end.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert dict(begun) == {"slow": 11, "fast": 20}

    asyncio.run(main())


def test_a_turn_that_comes_to_one_who_has_left_goes_to_the_next() -> None:
    """Cancelled in the moment in which its turn came, or just before."""

    async def main() -> None:
        turns, begun = Turns(1), Counter[int]()

        async def transfer(number: int, end: asyncio.Event) -> None:
            async with turns.turn("x.example"):
                begun[number] += 1
                await end.wait()

        ends = [asyncio.Event() for _ in range(5)]
        tasks = [asyncio.create_task(transfer(number, end)) for number, end in enumerate(ends)]
        for _ in range(3):
            await asyncio.sleep(0)
        assert set(begun) == {0}
        # The first ends, and gives its turn to the third, which leaves before it has seen that.
        ends[0].set()
        tasks[1].cancel()
        asyncio.get_running_loop().call_soon(tasks[2].cancel)
        await asyncio.wait(tasks[:3])
        ends[3].set()
        ends[4].set()
        await asyncio.gather(*tasks[3:])
        assert set(begun) == {0, 3, 4}

    asyncio.run(main())


@pytest.mark.parametrize("good", ["good", "slow"])
def test_good_results_are_fetched_beside_trickles(tmp_path: Path, good: str) -> None:
    """Sixteen trickles come first, from another host or the same; the others are all there
    while those still come."""

    def results(n: int) -> str:
        return f"https://{'slow' if n <= 16 else good}.example/{n}.png"

    def bodies(url: str) -> Drip:
        trickles = int(url.rpartition("/")[2].partition(".")[0]) <= 16
        return Drip(PNG * 50, 1, 1.0) if trickles else Drip(PNG, 2**18, 0.1)

    host = SlowHosts(bodies, results)

    async def main() -> list[Any]:
        async with rh.Session(
            "a-key",
            transport=host,
            limits=rh.Limits(60, None, None),
            polling=rh.ExponentialPolling(1, 1, 1),
            # The clock runs while files are written: trickles must not be given up meanwhile.
            retry=rh.RetryPolicy(call_attempts=1000),
        ) as session:
            found: list[Any] = []
            async with session.stream(posters(60), folder=tmp_path) as stream:
                while len(found) < 44:
                    found.append(await anext(stream))
            return found

    found = run(main)
    assert all(outcome.ok for outcome in found)
    assert {int(outcome.task.id) for outcome in found} == {*range(17, 61)}


# -- what is kept -------------------------------------------------------------------------------

TYPES = ["png", "mp4", "mp3", "zip", "glb", "obj", "fbx", "stl", "ply", "usdz", "gltf", "svg",
         "json", "srt", "vtt", "csv", "psd", "exr", "pdf", "safetensors", "bin", "xyz", "", "file",
         "image", "video"]  # fmt: skip

WRONG = {
    "html": PAGE,
    "html with blanks": b"\xef\xbb\xbf\r\n <!-- proxy --> <HTML><body>Sign in",
    "html with a drawing": b"<html><body><svg width='9'></svg>Sign in",
    "html fragment": b"<script>location='/login'</script>",
    "html in utf-16": "\ufeff<html><body>".encode("utf-16-le"),
    "packed html": gzip.compress(PAGE),
    "json error": b'{"code": 401, "msg": "token expired", "data": null}',
    "json error of another kind": b' {"error": {"message": "not found"}}',
    "json error that was cut off": b'{"errorCode": 1007, "errorMessage": "the file is',
    "xml error": b'<?xml version="1.0"?>\n<Error><Code>AccessDenied</Code></Error>',
}


def kept_of(folder: Path, kind: str, body: bytes, content_type: str, name: str = "1") -> Any:
    """What a download makes of such a body under such an announcement."""
    headers = {"content-type": content_type} if content_type else {}
    transport = MockTransport(lambda _: rh.Response(200, body, headers))

    async def main() -> rh.Download:
        async with rh.Session(
            "a-key", transport=transport, retry=rh.RetryPolicy(call_attempts=1)
        ) as session:
            output = rh.Output(f"https://results.example/{name}", kind)
            return await session.download(output, folder / "x")

    try:
        return run(main)
    except rh.DownloadError as error:
        assert names(folder) == []
        return error


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("what", WRONG)
def test_a_page_or_an_error_document_is_never_kept(tmp_path: Path, kind: str, what: str) -> None:
    """Whatever its `Content-Type` says, and whatever was announced."""
    if kind == "json" and what.startswith("json"):
        return
    for content_type in ("text/html; charset=utf-8", "application/octet-stream", "image/png"):
        assert isinstance(kept_of(tmp_path, kind, WRONG[what], content_type), rh.ResultBroken)


@pytest.mark.parametrize(
    ("kind", "body", "content_type"),
    [
        ("html", PAGE, "text/html"), ("txt", PAGE, "text/html"), ("md", PAGE, ""),
        ("json", b'{"code": 0, "msg": "a subtitle"}', "application/json"),
        ("xml", b"<Error><Code>x</Code></Error>", "application/xml"),
        ("obj", b"# a cube\nv 0 0 0\n", "text/plain"), ("stl", b"solid cube\n", ""),
        ("stl", bytes(80) + b"\1\0\0\0" + bytes(50), "application/octet-stream"),
        ("svg", b'<?xml version="1.0"?><svg xmlns="x"/>', "image/svg+xml"),
        ("gltf", b'{"asset": {"version": "2.0"}}', "model/gltf+json"),
        ("srt", b"1\n00:00:00,000 --> 00:00:01,000\n<i>A boat</i>\n", "text/html; charset=utf-8"),
        ("csv", b"a,b\n", "text/csv"), ("png", PNG, "text/html"), ("", PNG, "text/html"),
        ("", b'{"frames": [], "error_rate": 1}', "application/json"),
        ("safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "text/html"),
        ("fbx", b"Kaydara FBX Binary  \0", ""), ("usdz", b"PK\x03\x04", ""),
        ("tar", bytes(257) + b"ustar" + bytes(250), ""),
        ("xyz", b"\x1f\x8b\x08 and no more of a packed page", ""),
    ],
)  # fmt: skip
def test_what_was_announced_is_kept(
    tmp_path: Path, kind: str, body: bytes, content_type: str
) -> None:
    """Content first: a wrong header alone spoils no file that shows what it is."""
    kept = kept_of(tmp_path, kind, body, content_type)
    if kind == "srt":
        # A text with the header of a page: nothing shows that it is none.
        assert isinstance(kept, rh.ResultBroken)
    else:
        assert kept.size == len(body)


@pytest.mark.parametrize("date", ["Mon, 01 Jan 99999999999999999999 00:00:00 GMT", "soon", "\0"])
def test_an_odd_date_of_a_file_does_not_spoil_it(tmp_path: Path, date: str) -> None:
    """It only means that a transfer that broke off could not be resumed."""
    headers = {"content-type": "image/png", "last-modified": date, "date": date}
    transport = MockTransport(lambda _: rh.Response(200, PNG, headers))

    async def main() -> rh.Download:
        async with rh.Session("a-key", transport=transport) as session:
            output = rh.Output("https://results.example/1.png", "png")
            return await session.download(output, tmp_path / "x.png")

    assert run(main).path.read_bytes() == PNG


@pytest.mark.parametrize(("name", "kind"), [("1", "zip"), ("1.dat", "zip"), ("1.cbz", "zip")])
def test_first_bytes_name_a_file_of_which_nothing_else_tells(
    tmp_path: Path, name: str, kind: str
) -> None:
    """Neither the service nor the end of the URL says what it is."""
    site = Site()
    site.result = lambda _t, _n, _l: {"url": f"{site.url}/{name}", "outputType": ""}
    site.replies[f"/{name}"] = [dripping(b"PK\x05\x06" + bytes(18))]
    (outcome,) = stream_from(site, tmp_path)
    assert [file.path.suffix for file in outcome.files] == [f".{kind}"]


@pytest.mark.parametrize(
    ("kind", "body", "content_type"),
    [
        ("safetensors", b"the model is gone", "text/plain; charset=utf-8"),
        ("onnx", b"[]", "application/json"),
        ("tar", bytes(600), "application/x-tar"),
    ],
)
def test_what_is_not_what_was_announced_is_refused(
    tmp_path: Path, kind: str, body: bytes, content_type: str
) -> None:
    """By the header of a text where the type has no beginning of its own."""
    refused = kept_of(tmp_path, kind, body, content_type)
    assert isinstance(refused, rh.ResultBroken)
    assert f"announced as {kind}" in str(refused)


def test_content_and_url_together_outvote_the_announced_type(tmp_path: Path) -> None:
    """And a picture in place of a video is refused, as is a text in place of an archive."""
    movie = b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom"
    assert kept_of(tmp_path, "png", movie, "video/mp4", "1.mp4").size == len(movie)
    (tmp_path / "x").unlink()
    assert isinstance(kept_of(tmp_path, "mp4", PNG, "video/mp4", "1.mp4"), rh.ResultBroken)
    assert isinstance(kept_of(tmp_path, "zip", b"Not Found", "", "1.zip"), rh.ResultBroken)
    assert isinstance(kept_of(tmp_path, "", b"Not Found", "", "1.glb"), rh.ResultBroken)


@pytest.mark.parametrize(
    ("kind", "url", "ending"),
    [("png", "1", "png"), ("", "1.png", "png"), ("", "1", "png"), ("image", "1.jpg", "png"),
     ("image/png", "1", "png"), ("jpg", "1", "png"), ("png", "1.jpeg", "png"),
     ("../../x", "1", "png")],
)  # fmt: skip
def test_a_file_has_the_ending_of_what_it_is(
    tmp_path: Path, kind: str, url: str, ending: str
) -> None:
    """Content first, then the URL, then the service's type."""
    site = Site()
    site.result = lambda _t, _n, _l: {"url": f"{site.url}/{url}", "outputType": kind}
    (outcome,) = stream_from(site, tmp_path)
    assert [file.path.suffix for file in outcome.files] == [f".{ending}"]
    assert len(names(tmp_path)) == 1


# -- URLs ---------------------------------------------------------------------------------------

URLS = {
    "plain.png?sign=a%2Fb+c==": "plain.png?sign=a%2Fb+c==", "a%20b.png": "a%20b.png",
    "a b.png": "a%20b.png", "海报.png": "%E6%B5%B7%E6%8A%A5.png", "100%.png": "100%25.png",
    "poster #1.png": "poster%20%231.png", "a#1.png?sign=x": "a%231.png?sign=x",
    'a[1]|"\\^`{}<>.png': "a%5B1%5D%7C%22%5C%5E%60%7B%7D%3C%3E.png", "50%25.png": "50%25.png",
    "a.png#t=0.5": "a.png", "a.png?x=%zz&y=é": "a.png?x=%zz&y=%C3%A9", "a.png?x=1#top": "a.png?x=1",
    "a.png?name=poster #1.png&sign=x": "a.png?name=poster%20%231.png&sign=x",
    "a\ud800.png": "a%3F.png",
}  # fmt: skip


@pytest.mark.parametrize("name", URLS)
def test_a_url_is_sent_as_a_url_can_be(name: str) -> None:
    """Twice is once; escapes and the query stay."""
    url = f"https://h.example/f/{name}"
    assert encoded(url) == f"https://h.example/f/{URLS[name]}"
    assert encoded(encoded(url)) == encoded(url)
    assert why_not(encoded(url), "") == ""


def test_the_host_of_a_url_is_sent_in_ascii_and_judged_so() -> None:
    """Control characters are not mended; blanks around it are."""
    assert encoded(" https://bücher.example/a\n") == "https://xn--bcher-kva.example/a"
    assert why_not(encoded("http://127。0。0。1/"), "")
    assert why_not(encoded("https://x.example/a\r\nHost: y"), "")
    assert why_not(encoded("http://x.example\\@127.0.0.1/"), "")
    # No name that the wire could carry: it stays, and is nobody's.
    long = f"https://{'ü' * 100}.example/a"
    assert encoded(long) == long


@pytest.mark.parametrize(
    "name", ["a b.png", "海报.png", "poster #1.png", "100%.png", '[1]|"\\.png']
)
@pytest.mark.parametrize("moved", [False, True])
def test_a_result_of_any_name_is_fetched(tmp_path: Path, name: str, *, moved: bool) -> None:
    """Over real HTTP, from the result's URL and from a `Location`."""
    site, seen = Site(), []
    site.result = lambda _t, _n, _l: {
        "url": f"{site.url}/{'moved' if moved else name}",
        "outputType": "png",
    }

    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: /" + name.encode()
        assert request.transport is not None
        request.transport.write(answer + b"\r\n\r\n")
        request.transport.close()
        return web.Response()

    async def file(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        return await picture(request)

    site.replies["/moved"] = [elsewhere]
    site.replies[encoded(f"/{name}")] = [file]
    (outcome,) = stream_from(site, tmp_path)
    assert outcome.ok
    assert seen == [f"/{name}"]


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "stem"),
    [
        ("海" * 100, "海" * 66), ("x" * 300, "x" * 200), ("é" * 120, "é" * 100), ("a/b", "a-b"),
        ("../x", "---x"), (".hidden", "-hidden"), ("CON", "CON-"), ("nul.txt", "nul-.txt"),
        ("com1 ", "com1-"), ('a<b>:"c|?*', "a-b---c---"), ("end. ", "end--"),
        ("a\x00\x1fb", "a--b"), ("a\ud800b", "a-b"), ("v1.0", "v1.0"), ("console", "console"),
    ],
)  # fmt: skip
def test_a_name_is_made_to_fit_every_file_system(tmp_path: Path, given: str, stem: str) -> None:
    """In bytes, at a character; the result is saved."""
    assert usable_stem(given) == stem
    (outcome,) = stream_from(Site(2), tmp_path, name=lambda _: given)
    assert [f.path.name for f in outcome.files] == [f"{stem}.png", f"{stem}-2.png"]


def test_the_default_name_holds_the_beginning_of_the_prompt(tmp_path: Path) -> None:
    """Up to 60 bytes of it, cut at a character."""
    site = Site()

    async def main() -> list[Any]:
        async with site.serve() as url, rh.Session("a-key", base_url=url, **FAST) as session:
            requests = [rh.SeedreamV5Lite(prompt) for prompt in ("纸船的海报" * 9, "a boat " * 20)]
            return await collect(session.stream(requests, folder=tmp_path))

    assert all(outcome.ok for outcome in asyncio.run(main()))
    assert names(tmp_path) == [
        f"00000-{('纸船的海报' * 9)[:20]}.png",
        f"00001-{('a-boat-' * 20)[:60].strip('-')}.png",
    ]


def test_a_name_that_is_too_long_where_it_is_saved_is_cut_again(tmp_path: Path) -> None:
    """A deep folder leaves less room than other places."""
    folder = tmp_path
    while len(str(folder)) < 3800:
        folder /= "d" * 100
    folder /= "d" * (3970 - len(str(folder)))
    (outcome,) = stream_from(Site(), folder, name=lambda _: "x" * 190)
    assert [file.path.name for file in outcome.files] == [f"{'x' * 50}.png"]


def test_a_result_that_fits_nowhere_in_its_folder_keeps_its_task(tmp_path: Path) -> None:
    """The folder is so deep that no name is short enough: the task is not lost, and the reason is
    the system's."""
    folder = tmp_path
    while len(str(folder)) < 3900:
        folder /= "d" * 100
    folder /= "d" * (4085 - len(str(folder)))
    site = Site()
    (outcome,) = stream_from(site, folder)
    assert isinstance(outcome, rh.Failed)
    assert outcome.task is not None
    assert [outcome.task.id] == site.created
    assert isinstance(outcome.error, rh.DownloadError)
    assert "cannot be written" in str(outcome.error)
    assert isinstance(outcome.error.__cause__, OSError)


def test_names_that_some_file_systems_take_for_one_are_kept_apart(tmp_path: Path) -> None:
    """By case, and by the form of an accent."""
    given = ["Café", "café", "cafe\u0301", "CAFÉ"]
    found = stream_from(Site(), tmp_path, 4, name=lambda o: given[o.index])
    shapes = {comparable(outcome.files[0].path.name) for outcome in found}
    assert len(shapes) == 4


def raising(_: rh.Succeeded) -> str:
    raise KeyError("title")


def cancelling(_: rh.Succeeded) -> str:
    raise asyncio.CancelledError


@pytest.mark.parametrize("name", [raising, cancelling, lambda _: "", lambda _: " ", lambda _: 7])
def test_a_name_that_fails_stops_the_submitting_and_loses_nothing(
    tmp_path: Path, name: Any
) -> None:
    """One error that names it and the tasks; the results have the default names."""
    site = Site()

    async def main() -> tuple[list[Any], rh.PolicyError]:
        found = []
        options = FAST | {"limits": rh.Limits(3, None, None)}
        async with site.serve() as url, rh.Session("a-key", base_url=url, **options) as session:
            stream = session.stream(posters(30), folder=tmp_path, name=name)
            with pytest.raises(rh.PolicyError, match=r"^name (raised|returned)") as caught:
                async for outcome in stream:
                    found.append(outcome)
        return found, caught.value

    found, error = asyncio.run(main())
    assert all(outcome.ok for outcome in found)
    assert len(found) == len(site.created) < 10
    assert error.name == "name"
    assert error.task_ids
    assert {*error.task_ids} <= {*site.created}
    assert all(task in str(error) for task in error.task_ids)
    assert isinstance(error.__cause__, KeyError) == (name is raising)
    assert names(tmp_path) == [f"{n:05}-a-poster-of-the-number-{n}.png" for n in range(len(found))]


# -- while nothing can be saved -----------------------------------------------------------------


def taken_away(folder: Path) -> None:
    folder.rename(folder.with_name("away"))
    folder.write_bytes(b"")


def given_back(folder: Path) -> None:
    folder.unlink()
    folder.with_name("away").rename(folder)


def trouble(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "runninghub_async.trouble"]


def test_while_the_folder_is_away_nothing_is_submitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When there is room, the run continues: no result is lost, and none is billed twice."""
    site, out = Site(), tmp_path / "out"
    told = asyncio.Event()

    class Told(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "nothing is submitted until" in record.getMessage():
                told.set()

    async def main() -> tuple[list[Any], int]:
        found = []
        options = FAST | {"limits": rh.Limits(4, None, None)}
        async with site.serve() as url, rh.Session("a-key", base_url=url, **options) as session:
            async for outcome in session.stream(posters(30), folder=out):
                found.append(outcome)
                if len(found) == 6:
                    await asyncio.to_thread(taken_away, out)
                    await told.wait()
                    # What is under way may still come up.
                    while session._dispatcher.scheduler.alive:  # type: ignore[union-attr]
                        await asyncio.sleep(0.01)
                    before = len(site.created)
                    await asyncio.sleep(0.2)
                    assert len(site.created) == before
                    await asyncio.to_thread(given_back, out)
        return found, before

    handler = Told()
    logging.getLogger("runninghub_async.trouble").addHandler(handler)
    try:
        found, before = asyncio.run(main())
    finally:
        logging.getLogger("runninghub_async.trouble").removeHandler(handler)
    assert before < 25
    assert all(outcome.ok for outcome in found)
    assert len(site.created) == len(found) == len(list(out.glob("*.png"))) == 30
    assert any("results can be saved again" in text for text in trouble(caplog))


def fail_once(
    monkeypatch: pytest.MonkeyPatch, kind: Callable[[int], bool], after: int = 0
) -> list[str]:
    """The disk fails once, when a file of this kind is synchronised; tells of all of them."""
    synchronise = os.fsync
    told: list[str] = []

    def fsync(handle: int) -> None:
        if kind(os.fstat(handle).st_mode):
            told.append("failed" if len(told) == after else "")
            if told[-1]:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        synchronise(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return told


def test_equal_results_of_two_jobs_stay_two_files_whatever_the_disk_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the same name by `name=`, and the second one fails to be written at first."""
    told = fail_once(monkeypatch, stat.S_ISREG, after=1)
    texts = [{"text": "yes", "outputType": "txt"}]
    ids = itertools.count(2013508786110730241)

    def answer(request: rh.Request) -> rh.Response:
        if not request.url.endswith("/query"):
            return json_response({"taskId": str(next(ids)), "status": "QUEUED"})
        asked = json.loads(request.body or b"")["taskId"]
        return json_response({"taskId": asked, "status": "SUCCESS", "results": texts})

    async def main() -> list[Any]:
        options = FAST | {"transport": MockTransport(answer), "limits": rh.Limits(1, None, None)}
        async with rh.Session("a-key", **options) as session:
            stream = session.stream(posters(2), folder=tmp_path, name=lambda _: "answer")
            return [outcome.files[0].path.name async for outcome in stream]  # type: ignore[union-attr]

    assert asyncio.run(main()) == ["answer.txt", "answer-2.txt"]
    assert "failed" in told
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answer-2.txt", "answer.txt"]


def test_a_disk_that_fails_when_a_file_is_in_place_leaves_no_second_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result is fetched again, and found to be there already."""
    site, out = Site(), tmp_path / "out"
    failed = fail_once(monkeypatch, stat.S_ISDIR)

    async def main() -> list[Any]:
        async with site.serve() as url, rh.Session("a-key", base_url=url, **FAST) as session:
            return [outcome async for outcome in session.stream(posters(1), folder=out)]

    (outcome,) = asyncio.run(main())
    assert "failed" in failed
    assert [file.path for file in outcome.files] == list(out.iterdir())


def failing_service(
    result: Callable[[rh.Request], rh.Response], created: list[str]
) -> MockTransport:
    """A service on the virtual clock whose tasks take two seconds."""
    ends: dict[str, float] = {}

    async def handle(request: rh.Request) -> rh.Response:
        await asyncio.sleep(0.05)
        now = asyncio.get_running_loop().time()
        if request.url.endswith("/query"):
            task = body_of(request)["taskId"]
            if now < ends[task]:
                return json_response({"taskId": task, "status": "RUNNING"})
            results = [{"url": f"https://x.example/{task}.png", "outputType": "png"}]
            return json_response({"taskId": task, "status": "SUCCESS", "results": results})
        if request.url.startswith("https://x.example"):
            return result(request)
        created.append(str(len(created) + 1))
        ends[created[-1]] = now + 2
        return json_response({"taskId": created[-1], "status": "RUNNING"})

    return MockTransport(handle)


FAULTS: dict[str, Any] = {
    "refused": rh.ConnectError("connection refused"),
    "busy": rh.Response(503),
    "forbidden": rh.Response(403),
    "page": rh.Response(200, PAGE),
    "unsafe": rh.Response(302, b"", {"location": "https://10.0.0.1/"}),
    "teapot": rh.Response(418),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("heals", [False, True])
def test_while_a_host_gives_no_results_nothing_is_submitted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, fault: str, *, heals: bool
) -> None:
    """After four in a row. The run continues when the host is back, or stops with one error. No
    task is lost: a resumed run fetches what is missing."""
    created: list[str] = []
    broken = True

    def result(_: rh.Request) -> rh.Response:
        if not broken or (heals and asyncio.get_running_loop().time() > 120):
            return rh.Response(200, PNG)
        if isinstance(FAULTS[fault], Exception):
            raise FAULTS[fault]
        answer: rh.Response = FAULTS[fault]
        return answer

    journal = tmp_path / "run.db"

    async def main() -> tuple[list[Any], BaseException | None]:
        found: list[Any] = []
        transport = failing_service(result, created)
        async with rh.Session(
            "a-key", transport=transport, journal=journal, limits=rh.Limits(4, None, None)
        ) as session:
            try:
                async for outcome in session.stream(posters(60), folder=tmp_path / "out"):
                    found.append(outcome)
            except rh.DownloadError as error:
                return found, error
            return found, None

    async def again() -> list[Any]:
        transport = failing_service(result, created)
        async with rh.Session("a-key", transport=transport, journal=journal) as session:
            return await collect(session.resume(folder=tmp_path / "out"))

    found, error = run(main)
    lost = [outcome for outcome in found if not outcome.ok]
    assert all(outcome.task.status is rh.TaskStatus.SUCCESS for outcome in lost)
    said = trouble(caplog)
    assert any("nothing is submitted until a result comes" in text for text in said)
    if heals:
        assert error is None
        assert len(found) == len(created) == 60
        assert len(lost) <= 3
        assert any("results come again" in text for text in said)
        assert states(journal) == {
            "stored": 60 - len(lost),
            **({"succeeded": len(lost)} if lost else {}),
        }
    else:
        assert "x.example" in str(error)
        assert "resume" in str(error)
        assert len(lost) == len(found) == len(created) <= 12
        assert len(said) < 12
    broken = False
    # Some may have been recorded, and never sent.
    paid, unsent = len(created), states(journal).get("new", 0)
    resumed = run(again)
    assert all(outcome.ok for outcome in resumed)
    assert len(created) == paid + unsent
    assert states(journal) == {"stored": len(created)}
    assert len(names(tmp_path / "out")) == len(created)


def test_a_hold_that_lasts_is_reported_ever_less_often_and_ends_with_those_in_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without a limit if the policy has none; a hold in which nobody waits is over."""
    times: list[float] = []
    stopped: list[rh.RunningHubError] = []

    async def main() -> None:
        clock = asyncio.get_running_loop().time

        class Times(logging.Handler):
            def emit(self, _: logging.LogRecord) -> None:
                times.append(clock())

        transport = MockTransport(lambda _: rh.Response(500))
        async with rh.Session("a-key", transport=transport) as session:
            dispatcher = session._dispatcher
            assert dispatcher is not None
            policy = rh.RetryPolicy(attempts=None)
            hold = HostHold(dispatcher, policy, "results from x.example")
            good_at = 20_000.0

            async def attempt() -> str:
                if clock() < good_at:
                    raise rh.ResultIncomplete("HTTP 503", rh.Output())
                return "saved"

            def waiting(number: int) -> asyncio.Task[str]:
                output = rh.Output(task_id=str(number))
                return asyncio.create_task(hold.through(attempt, output, stopped.append))

            logger, handler = logging.getLogger("runninghub_async.trouble"), Times()
            logger.addHandler(handler)
            try:
                failed = await asyncio.gather(*map(waiting, range(3)), return_exceptions=True)
                assert all(isinstance(each, rh.ResultIncomplete) for each in failed)
                assert dispatcher.scheduler.paused == 0
                jobs = [waiting(number) for number in range(3, 9)]
                await asyncio.sleep(1)
                assert dispatcher.scheduler.paused == 1
                assert await asyncio.gather(*jobs) == ["saved"] * 6
                assert dispatcher.scheduler.paused == 0
                good_at = 1e9
                failed = await asyncio.gather(*map(waiting, range(3)), return_exceptions=True)
                jobs = [waiting(number) for number in range(3, 9)]
                await asyncio.sleep(50)
                for job in jobs:
                    job.cancel()
                await asyncio.wait(jobs)
                assert dispatcher.scheduler.paused == 0
            finally:
                logger.removeHandler(handler)

    run(main)
    first = [at for at in times if at < 20_000]
    # The clock creeps a little with each turn of the loop.
    gaps = [round(after - before, 3) for before, after in itertools.pairwise(first)]
    assert gaps == sorted(gaps)
    assert 5 < len(first) < 16
    assert stopped == []
    assert any("for 31 s now" in text or "for 30 s now" in text for text in trouble(caplog))


def saved(
    folder: Path, created: list[str], attempts: int | None = 9, **options: Any
) -> tuple[list[Any], Exception | None]:
    """The outcomes of a stream on the virtual clock, and the error with which it ended."""

    async def main() -> tuple[list[Any], Exception | None]:
        found: list[Any] = []
        transport = failing_service(lambda _: rh.Response(200, PNG), created)
        retry, limits = rh.RetryPolicy(attempts=attempts), rh.Limits(4, None, None)
        async with rh.Session("a-key", transport=transport, retry=retry, limits=limits) as session:
            try:
                async for outcome in session.stream(posters(30), folder=folder, **options):
                    found.append(outcome)
            except rh.DownloadError as error:
                return found, error
        return found, None

    return run(main)


def test_a_folder_that_cannot_be_stops_the_submitting(tmp_path: Path) -> None:
    """A name that no system takes is no fault of the results: after twenty seconds, however few
    attempts a submit has, the stream ends with one error, and each task is in an outcome."""
    created: list[str] = []
    found, error = saved(tmp_path / "out\0put", created, attempts=2)
    assert isinstance(error, rh.DownloadError)
    told = re.search(r"null .*, for (\d+) s; nothing more is submitted", str(error))
    assert told is not None
    assert int(told[1]) >= 20
    assert 0 < len(created) < 30
    assert sorted(outcome.task.id for outcome in found) == sorted(created)
    assert all(isinstance(outcome.error, rh.DownloadError) for outcome in found)


def test_a_place_too_deep_for_any_name_fails_its_jobs_one_by_one(tmp_path: Path) -> None:
    """With their tasks. The names are at fault, so that others are tried."""
    folder = tmp_path
    while len(str(folder)) < 3900:
        folder /= "d" * 100
    folder /= "d" * (4063 - len(str(folder)))
    created: list[str] = []
    found, error = saved(folder, created, name=lambda o: "short" if o.index == 7 else "x" * 50)
    assert error is None
    assert len(found) == len(created) == 30
    assert [outcome.index for outcome in found if outcome.ok] == [7]
    assert all("too long" in str(outcome.error) for outcome in found if not outcome.ok)


def test_a_full_disk_is_waited_for_without_a_limit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Room can be made: then the run goes on, and no result was lost."""
    resource = pytest.importorskip("resource")
    created: list[str] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    async def make_room(full: asyncio.Event) -> int:
        await full.wait()
        # Far longer than the submitting is held up for any other reason.
        await asyncio.sleep(3600)
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        return len(created)

    async def main() -> tuple[list[Any], int]:
        transport = failing_service(lambda _: rh.Response(200, PNG), created)
        limits = rh.Limits(4, None, None)
        async with (
            hearing("nothing is submitted until there is room") as full,
            rh.Session("a-key", transport=transport, limits=limits) as session,
        ):
            making = asyncio.ensure_future(make_room(full))
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
            found = await collect(session.stream(posters(30), folder=tmp_path))
            return found, await making

    try:
        found, before = run(main)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert before < 30
    assert len(found) == len(created) == len(names(tmp_path)) == 30
    assert all(outcome.ok for outcome in found)
    assert any("there is room again" in text for text in trouble(caplog))


@pytest.mark.parametrize("policy", ["detach", "wait"])
def test_a_session_that_closes_while_nothing_can_be_saved_ends(
    tmp_path: Path, policy: rh.OnCancel
) -> None:
    """Its tasks are named, and are in the journal; a resumed run has all results."""
    created: list[str] = []
    out, journal = tmp_path / "out", tmp_path / "run.db"
    out.write_bytes(b"a file in the way")
    service = failing_service(lambda _: rh.Response(200, PNG), created)

    async def main() -> rh.JobStream:
        async with (
            hearing("nothing is submitted until results can be saved") as held,
            rh.Session("a-key", transport=service, journal=journal) as session,
        ):
            stream = session.stream(posters(3), folder=out, on_cancel=policy)
            await held.wait()
            while stream.statistics().submitted < 3:
                await asyncio.sleep(0.1)
        return stream

    async def again() -> list[Any]:
        async with rh.Session("a-key", transport=service, journal=journal) as session:
            return await collect(session.resume(folder=out))

    stream = run(main)
    succeeded = [outcome.task.id for outcome in stream.undelivered if outcome.task]
    running = [job.task_id for job in stream.unfinished if job.task_id]
    assert sorted(succeeded + running) == sorted(created)
    assert succeeded
    assert states(journal)["succeeded"] == len(succeeded)
    out.unlink()
    assert all(outcome.ok for outcome in run(again))
    assert len(created) == len(names(out)) == 3


def test_a_resumed_job_leaves_the_file_that_has_its_name_alone(tmp_path: Path) -> None:
    """It is somebody else's, unless its bytes are those of the result."""
    site, journal, out = Site(), tmp_path / "run.db", tmp_path / "out"
    stem = "00000-a-poster-of-the-number-0"

    async def main() -> list[Any]:
        found = []
        async with site.serve() as url:
            for batch, body in (("a", b"of somebody else"), ("b", PNG)):
                async with rh.Session("a-key", base_url=url, journal=journal, **FAST) as session:
                    await collect(session.stream(posters(1), batch=batch))
                await asyncio.to_thread((out / f"{stem}.png").write_bytes, body)
                async with rh.Session("a-key", base_url=url, journal=journal, **FAST) as session:
                    found += await collect(session.resume(folder=out))
                    there.append(await asyncio.to_thread(names, out))
        return found

    out.mkdir()
    there: list[list[str]] = []
    beside, merged = asyncio.run(main())
    (second_name,) = {*there[0]} - {f"{stem}.png"}
    assert [file.path.name for file in beside.files] == [second_name]
    assert second_name.startswith(f"{stem}-")
    # What a process that was killed left is its own.
    assert [file.path.name for file in merged.files] == [f"{stem}.png"]
    assert there[1] == there[0]


@pytest.mark.parametrize("left", ["stream", "session"])
@pytest.mark.parametrize("turns", range(4))
def test_whoever_leaves_just_when_a_task_has_succeeded_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, turns: int, left: str
) -> None:
    """Before anything of its result was fetched, or even begun to be: the stream has its outcome,
    a session that closes names at least its task, and a resumed run fetches the file."""
    created: list[str] = []
    journal, out = tmp_path / "run.db", tmp_path / "out"
    service = failing_service(lambda _: rh.Response(200, PNG), created)

    async def main() -> tuple[tuple[rh.Outcome, ...], tuple[rh.Unfinished, ...]]:
        succeeded = asyncio.Event()

        async def answer(request: rh.Request) -> rh.Response:
            told = await service.send(request)
            if b'"SUCCESS"' in told.body:
                succeeded.set()
            return told

        transport = MockTransport(answer)
        async with rh.Session("a-key", transport=transport, journal=journal) as session:
            stream = session.stream(posters(1), folder=out)
            await succeeded.wait()
            for _ in range(turns):
                await asyncio.sleep(0)
            if left == "stream":
                await stream.aclose()
        return stream.undelivered, stream.unfinished

    async def again() -> list[Any]:
        async with rh.Session("a-key", transport=service, journal=journal) as session:
            return await collect(session.resume(folder=out))

    undelivered, unfinished = run(main)
    named = [outcome.task.id for outcome in undelivered if isinstance(outcome, rh.Succeeded)]
    named += [job.task_id for job in unfinished if job.task_id]
    assert named == created
    assert len(undelivered) == 1 or left == "session"
    assert created[0] in caplog.text
    assert states(journal) == {"succeeded": 1}
    (outcome,) = run(again)
    assert (outcome.task.id, len(created)) == (created[0], 1)
    assert [file.path.read_bytes() for file in outcome.files] == [PNG]
    assert states(journal) == {"stored": 1}


def test_one_task_that_is_gone_holds_nothing_up(tmp_path: Path) -> None:
    """Four in a row are four tasks, with nothing good in between."""
    created: list[str] = []

    def result(request: rh.Request) -> rh.Response:
        bad = int(request.url.rpartition("/")[2].partition(".")[0]) % 4
        return rh.Response(418 if bad else 200, b"" if bad else PNG)

    async def main() -> list[Any]:
        transport = failing_service(result, created)
        async with rh.Session("a-key", transport=transport, limits=rh.Limits(1)) as session:
            return await collect(session.stream(posters(12), folder=tmp_path))

    assert Counter(outcome.ok for outcome in run(main)) == {True: 3, False: 9}


def test_an_address_that_is_refused_says_how_to_allow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a name that resolves to a private network."""
    resolve_to(monkeypatch, "198.18.0.17")

    async def main() -> None:
        async with rh.Session("a-key", base_url="https://service.example") as session:
            with pytest.raises(rh.ResultUnsafe, match=r"result_networks.*--result-network"):
                await session.download(
                    rh.Output("https://results.example/x.png", "png"), tmp_path / "x.png"
                )

    asyncio.run(main())


# -- threads ------------------------------------------------------------------------------------


def test_all_of_anyios_threads_may_wait_for_a_download(tmp_path: Path) -> None:
    """As those of sync endpoints do; files are written in threads of our own."""
    site = Site()

    async def main() -> None:
        async with site.serve() as url, rh.Session("a-key", base_url=url, **FAST) as session:
            task = await session.run(posters(1)[0])

            async def by_stream(number: int) -> None:
                folder = tmp_path / f"folder{number}"
                assert all(o.ok for o in await collect(session.stream(posters(1), folder=folder)))

            def endpoint(number: int) -> None:
                if number % 9:
                    path = tmp_path / f"{number}.png"
                    anyio.from_thread.run(session.download, task.outputs[0], path)
                else:
                    anyio.from_thread.run(by_stream, number)

            limiter = anyio.to_thread.current_default_thread_limiter()
            with anyio.fail_after(30):
                async with anyio.create_task_group() as group:
                    for number in range(int(limiter.total_tokens) + 5):
                        group.start_soon(anyio.to_thread.run_sync, endpoint, number)

    asyncio.run(main())
    assert len(names(tmp_path)) == 45


# -- over real HTTP, of one to four results -----------------------------------------------------


def dripping(body: bytes, pieces: int = 20) -> Reply:
    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await answer.prepare(request)
        size = -(-len(body) // pieces)
        for start in range(0, len(body), size):
            await answer.write(body[start : start + size])
            await asyncio.sleep(0.001)
        return answer

    return reply


def cut(body: bytes) -> Reply:
    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Length": str(len(body))})
        await answer.prepare(request)
        await answer.write(body[: len(body) // 2])
        assert request.transport is not None
        request.transport.close()
        return answer

    return reply


def packed(body: bytes) -> Reply:
    return status(200, gzip.compress(body), **{"Content-Encoding": "gzip"})


def moved(code: int) -> Reply:
    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=code, headers={"Location": f"/moved{request.path}"})

    return reply


def raw(data: bytes) -> Reply:
    """Bytes as they are, and the end of the connection."""

    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(data)
        request.transport.close()
        return web.Response()

    return reply


def in_chunks(encoding: str = "", body: bytes = PNG) -> Reply:
    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Encoding": encoding} if encoding else {})
        answer.enable_chunked_encoding()
        await answer.prepare(request)
        await answer.write(zlib.compress(body) if encoding else body)
        await answer.write_eof()
        return answer

    return reply


def by_ranges(request_of: list[str | None]) -> Reply:
    """Half of it, and then the requested rest."""

    async def reply(request: web.BaseRequest) -> web.StreamResponse:
        wanted = request.headers.get("Range")
        request_of.append(wanted)
        if wanted is None:
            headers = {"Content-Length": str(len(PNG)), "ETag": '"1"'}
            answer = web.StreamResponse(headers=headers)
            await answer.prepare(request)
            await answer.write(PNG[: len(PNG) // 2])
            assert request.transport is not None
            request.transport.close()
            return answer
        at = int(wanted.removeprefix("bytes=").removesuffix("-"))
        headers = {"Content-Range": f"bytes {at}-{len(PNG) - 1}/{len(PNG)}", "ETag": '"1"'}
        return web.Response(status=206, body=PNG[at:], headers=headers)

    return reply


async def few_at_a_time(request: web.BaseRequest) -> web.StreamResponse:
    """A ninth of it, from where it is asked for, however much is asked for."""
    wanted = request.headers.get("Range")
    at = 0 if wanted is None else int(wanted.removeprefix("bytes=").removesuffix("-"))
    part = PNG[at : at + len(PNG) // 9 + 1]
    headers = {"ETag": '"1"', "Content-Length": str(len(PNG))}
    if wanted is not None:
        headers["Content-Length"] = str(len(part))
        headers["Content-Range"] = f"bytes {at}-{at + len(part) - 1}/{len(PNG)}"
    answer = web.StreamResponse(status=206 if wanted else 200, headers=headers)
    await answer.prepare(request)
    await answer.write(part)
    if wanted is None:
        assert request.transport is not None
        request.transport.close()
    return answer


HOSTS: dict[str, tuple[list[Reply], bool]] = {
    "404 first": ([status(404), status(404), picture], True),
    "dripping": ([dripping(PNG)], True),
    "cut once": ([cut(PNG), cut(PNG), picture], True),
    "cut always": ([cut(PNG)], False),
    "packed": ([packed(PNG)], True),
    "wrong type": ([status(200, PNG, **{"Content-Type": "text/html"})], True),
    "page": ([status(200, PAGE, **{"Content-Type": "image/png"})], False),
    "page first": ([status(200, PAGE), picture], True),
    "expired": ([status(403)], False),
    "expired once": ([status(403), picture], True),
    "moved": ([moved(302)], True),
    "moved forever": ([moved(308)], True),
    "busy": ([status(503), status(429), status(502), picture], True),
    "teapot": ([status(418)], False),
    "empty": ([status(200)], False),
    "empty first": ([status(200), picture], True),
    "no content": ([status(204)], False),
    "no content at first": ([status(204), picture], True),
    "a part that nobody asked for": ([status(206, PNG)], False),
    "a part that nobody asked for at first": ([status(206, PNG), picture], True),
    "a few bytes at a time": ([few_at_a_time], True),
    "chunked": ([in_chunks()], True),
    "deflated": ([in_chunks("deflate")], True),
    "deflated page": ([in_chunks("deflate", PAGE)], False),
    "packed page": ([packed(PAGE)], False),
    "without a length": ([raw(b"HTTP/1.0 200 OK\r\n\r\n" + PNG)], True),
    "without a length, cut": ([raw(b"HTTP/1.0 200 OK\r\n\r\n" + PNG[:-9])], False),
    "shorter than it says": (
        [raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n" + PNG)],
        False,
    ),
    "reset": ([raw(b""), raw(b""), picture], True),
    "garbage": ([raw(b"SSH-2.0-OpenSSH\r\n"), picture], True),
    "garbage always": ([raw(b"\x15\x03\x01\0\x02\x02\x16")], False),
    "resumed": ([by_ranges([])], True),
    "moved in circles": ([status(302, Location="?again")], False),
    "moved nowhere": ([status(302)], False),
    "moved into a private network": ([status(301, Location="http://10.0.0.1/x.png")], False),
    "moved to another scheme": ([status(307, Location="ftp://x.example/x.png")], False),
    "sign-in": ([status(401, PAGE)], False),
    "sign-in by redirect": ([status(302, Location="/sign-in")], False),
    "forbidden with a document": (
        [status(403, b"<Error><Code>AccessDenied</Code></Error>")],
        False,
    ),
    "json with 200": ([status(200, b'{"code": 404, "msg": "not found"}')], False),
    "too many": ([status(429), status(429), picture], True),
    "unavailable": ([status(503)], False),
    "time-out of a gateway": ([status(504), status(524), picture], True),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("outputs", [1, 2, 3, 4])
def test_all_that_can_be_had_is_had(tmp_path: Path, host: str, outputs: int) -> None:
    """The last result of each task is in trouble, the others are not."""
    replies, had = HOSTS[host]
    site = Site(outputs)
    site.replies[f"/2013508786110730241/{outputs - 1}.png"] = replies
    site.replies["/sign-in"] = [status(200, PAGE)]
    (outcome,) = stream_from(site, tmp_path)
    good = outputs if had else outputs - 1
    assert len(getattr(outcome, "files", ())) == good
    assert outcome.ok == (good > 0)
    if outcome.ok:
        assert len(outcome.missing) == outputs - good
    assert len(names(tmp_path)) == good
    assert all(path.read_bytes() == PNG for path in tmp_path.iterdir())


def test_what_is_bounded_is_unpacked(tmp_path: Path) -> None:
    """A small body that unpacks to more than is allowed."""
    site = Site()
    site.replies["/x.bin"] = [packed(bytes(50_000_000))]

    async def main() -> None:
        async with site.serve() as url, rh.Session("a-key", base_url=url, **FAST) as session:
            with pytest.raises(rh.ResultTooLarge, match="more than 3000000 bytes"):
                output = rh.Output(f"{url}/x.bin", "bin")
                await session.download(output, tmp_path / "x", max_bytes=3_000_000)

    asyncio.run(main())
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EIO, errno.EMFILE])
def test_whatever_the_system_says_of_writing_counts(code: int) -> None:
    """Except faults of one file name, and faults that are not the system's."""

    async def main() -> None:
        async with rh.Session("a-key", transport=MockTransport(lambda _: PNG)) as session:  # type: ignore[arg-type, return-value]
            assert session._dispatcher is not None
            hold = FolderHold(session._dispatcher, rh.RetryPolicy(), "/x/out")
            output = rh.Output()
            assert hold.blames(OSError(code, os.strerror(code), "/x/out/a.png"), output)
            assert hold.blames(MemoryError(), output)
            assert hold.blames(RuntimeError("can't start new thread"), output)
            assert not hold.blames(OSError(errno.ENAMETOOLONG, "", "/x/out/a.png"), output)
            assert hold.blames(OSError(errno.ENAMETOOLONG, "", "/x/out"), output)
            assert not hold.blames(ValueError(), output)

    run(main)
