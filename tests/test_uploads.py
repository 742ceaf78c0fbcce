"""Files on their way to the service: looked at, sent from disk, once per content."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import itertools
import json
import os
import random
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from support import FIRST_ID

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import MockTransport, json_response, run

PNG = b"\x89PNG\r\n\x1a\n" + b"a picture" * 5
MODEL = "seedream-v5-lite/image-to-image"


class Host:
    """A service that stores what it is sent, and says where."""

    def __init__(self, *troubles: rh.Response | Exception) -> None:
        self.troubles = list(troubles)
        self.uploads: list[bytes] = []
        self.submits: list[dict[str, Any]] = []
        self.transport = MockTransport(self.answer)

    def session(self, **options: Any) -> rh.Session:
        options.setdefault("limits", rh.Limits(submit_rate=None))
        options.setdefault("polling", rh.ExponentialPolling(initial=0.01, maximum=0.01))
        return rh.Session("a-key", transport=self.transport, **options)

    async def answer(self, request: rh.Request) -> rh.Response:
        if request.url.endswith("/query"):
            asked = json.loads(request.body or b"")["taskId"]
            results = [{"url": "https://files.example/result.png", "outputType": "png"}]
            return json_response({"taskId": asked, "status": "SUCCESS", "results": results})
        if "upload" not in request.url:
            self.submits.append(json.loads(request.body or b""))
            return json_response({"taskId": str(FIRST_ID + len(self.submits)), "status": "RUNNING"})
        if self.troubles:
            trouble = self.troubles.pop(0)
            if isinstance(trouble, Exception):
                raise trouble
            return trouble
        self.uploads.append(await asyncio.to_thread(_content, request))
        number = len(self.uploads)
        return json_response(
            {"code": 0, "data": {"download_url": f"https://files.example/{number}.png",
                                 "fileName": f"openapi/{number}.png", "size": "1"}}
        )  # fmt: skip


class Holding(Host):
    """Uploads wait until `released` is set, and then fail if `fails`."""

    def __init__(self, *, fails: bool) -> None:
        super().__init__()
        self.uploading, self.released = asyncio.Event(), asyncio.Event()
        self._fails = fails

    async def answer(self, request: rh.Request) -> rh.Response:
        if "upload" in request.url:
            self.uploading.set()
            await self.released.wait()
            if self._fails:
                raise rh.ReadError("reset")
        return await super().answer(request)


def _content(request: rh.Request) -> bytes:
    """The file in a form, as it would arrive."""
    if request.file is None:
        body = request.body or b""
        return body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0]
    with open(request.file.path, "rb") as file:  # noqa: PTH123
        return file.read(request.file.size)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "boat.png"
    path.write_bytes(PNG)
    return path


def image_to_image(*pictures: Any) -> rh.ModelRequest:
    return rh.ModelRequest(MODEL, {"prompt": "the same in blue", "imageUrls": list(pictures)})


def test_a_path_in_a_media_field_is_uploaded_first(picture: Path) -> None:
    """What is submitted is the URL that the service gave for it."""
    host = Host()

    async def main() -> None:
        async with host.session() as session:
            await session.run(image_to_image("https://x/a.png", picture))
            await session.run(rh.SeedreamV5Lite("the same in blue", image_urls=picture))

    asyncio.run(main())
    urls = [submit["imageUrls"] for submit in host.submits]
    assert urls == [["https://x/a.png", "https://files.example/1.png"],
                    ["https://files.example/1.png"]]  # fmt: skip
    assert host.uploads == [PNG]


def test_a_file_is_recorded_by_its_path_and_uploaded_when_it_is_submitted(
    picture: Path, tmp_path: Path
) -> None:
    """By a later session that has nothing but the journal; and the request is known by its path."""
    host, journal = Host(), tmp_path / "run.db"
    requests: list[Any] = [
        image_to_image("https://x/a.png", picture),
        rh.WorkflowRequest("1904136902449209346", {"10": {"image": picture}}),
    ]

    async def main() -> list[str]:
        async with host.session(journal=journal) as session:
            assert await session.enlist(requests) == 2
        assert host.uploads == []
        tasks = []
        for again in (False, True):
            async with host.session(journal=journal) as session:
                stream = session.stream(requests, ordered=True) if again else session.resume()
                outcomes = [outcome async for outcome in stream]
                tasks.append(sorted(outcome.task.id for outcome in outcomes if outcome.task))
        assert tasks[0] == tasks[1]
        return tasks[0]

    assert len(asyncio.run(main())) == 2
    assert host.uploads == [PNG]
    model, workflow = sorted(host.submits, key=lambda submit: "imageUrls" not in submit)
    assert model["imageUrls"] == ["https://x/a.png", "https://files.example/1.png"]
    assert "openapi/1.png" in json.dumps(workflow)
    with rh.JournalReader(journal) as reader:
        recorded = [job.request.params for job in reader.jobs()]
    assert [os.fspath(recorded[0]["imageUrls"][1])] == [str(picture)]


def test_the_same_content_is_uploaded_once(picture: Path, tmp_path: Path) -> None:
    """By fifty requests at once, and under another name; a changed file is sent anew."""
    host = Host()
    copy = tmp_path / "copy.png"
    copy.write_bytes(PNG)

    async def main() -> None:
        async with host.session() as session:
            requests = [image_to_image(path) for path in [picture, copy] * 25]
            async for outcome in session.stream(requests):
                assert outcome.ok
            assert len(host.uploads) == 1
            await asyncio.to_thread(picture.write_bytes, PNG + b"!")
            await session.run(image_to_image(picture))

    asyncio.run(main())
    assert host.uploads == [PNG, PNG + b"!"]
    assert len(host.submits) == 51


def test_nodes_take_the_name_of_an_uploaded_file(picture: Path) -> None:
    """Workflows and apps load files by name, models by URL."""
    host = Host()
    requests = (
        rh.WorkflowRequest("1904136902449209346", {"10": {"image": picture}}),
        rh.AppRequest("1937084629516193794", {10: {"image": picture}}, api="v2"),
    )

    async def main() -> None:
        async with host.session() as session:
            for request in requests:
                await session.submit(request)

    asyncio.run(main())
    for submit in host.submits:
        (item,) = submit["nodeInfoList"]
        assert item == {"nodeId": "10", "fieldName": "image", "fieldValue": "openapi/1.png"}


def test_a_node_that_loads_from_a_url_gets_the_url(picture: Path) -> None:
    """Known by its class, or by its input's name where the graph is not known."""
    host = Host()
    graph = {"4": {"class_type": "LoadImageFromUrl", "inputs": {"url": "https://x/y"}},
             "5": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}  # fmt: skip
    nodes = {"4": {"url": picture}, "5": {"image": picture}}

    async def main() -> None:
        async with host.session() as session:
            for workflow in (rh.Workflow("1904136902449209346", graph), "1904136902449209346"):
                await session.submit(rh.WorkflowRequest(workflow, nodes))

    asyncio.run(main())
    for submit in host.submits:
        values = [item["fieldValue"] for item in submit["nodeInfoList"]]
        assert values == ["https://files.example/1.png", "openapi/1.png"]


def test_a_file_that_does_not_fit_costs_nothing(tmp_path: Path, picture: Path) -> None:
    """Not there, empty, of another kind, or too big: every fault with its place, nothing sent."""
    (empty := tmp_path / "empty.png").touch()
    (text := tmp_path / "notes.txt").write_text("no picture")
    big = tmp_path / "big.png"
    with big.open("wb") as file:
        file.write(PNG)
        file.truncate(60 * 2**20)
    host = Host()

    async def main() -> list[rh.Outcome]:
        async with host.session() as session:
            bad = [tmp_path / "none.png", empty, text, big]
            with pytest.raises(rh.PayloadError) as caught:
                await session.submit_many([image_to_image(picture), image_to_image(*bad)])
            assert [p.partition(": ")[0] for p in caught.value.problems] == ["item 1"] * 4
            return [outcome async for outcome in session.stream([image_to_image(*bad)])]

    (outcome,) = asyncio.run(main())
    assert isinstance(outcome, rh.Failed)
    assert isinstance(outcome.error, rh.PayloadError)
    found = [re.sub(r".*/", "", problem) for problem in outcome.error.problems]
    assert found == [
        "none.png: No such file or directory @ $.imageUrls[0]",
        "empty.png is empty @ $.imageUrls[1]",
        "notes.txt is a txt file, not an image @ $.imageUrls[2]",
        "big.png has 60 MB; at most 10 MB are taken @ $.imageUrls[3]",
    ]
    assert host.transport.requests == []


@pytest.mark.parametrize(
    "trouble",
    [
        rh.ReadError("reset"),
        rh.Response(503),
        json_response({"code": 808, "msg": "APIKEY_UPLOAD_FAILED"}),
        json_response({"code": -1, "msg": "ApiKey verification failed"}, 401),
        json_response({"errorCode": "1003"}, 429, {"retry-after": "0"}),
    ],
)
def test_an_upload_that_faltered_is_repeated(trouble: Any, picture: Path) -> None:
    """It costs nothing; even a refused key is not believed at once, as a good one was refused."""
    host = Host(trouble)
    retry = rh.RetryPolicy(wait_initial=0.01)

    async def main() -> rh.Upload:
        async with host.session(retry=retry) as session:
            return await session.upload(picture)

    assert asyncio.run(main()).url == "https://files.example/1.png"
    assert len(host.transport.requests) == 2


class Picky(Host):
    """Stores everything but one file."""

    def __init__(self, bad: bytes) -> None:
        super().__init__()
        self.bad = bad

    async def answer(self, request: rh.Request) -> rh.Response:
        if "upload" in request.url and self.bad in await asyncio.to_thread(_content, request):
            return rh.Response(503)
        return await super().answer(request)


def test_an_upload_that_keeps_failing_fails_its_request_alone(tmp_path: Path) -> None:
    """The job ends with the error and without a submit, as those of others are answered."""
    picture = tmp_path / "7.png"
    picture.write_bytes(PNG + b"number 7 ")
    host = Picky(b"number 7 ")
    retry = rh.RetryPolicy(call_attempts=2)
    ended: list[rh.Outcome] = []

    def requests() -> Iterator[Any]:
        yield image_to_image(picture)
        while all(outcome.ok for outcome in ended):
            yield rh.SeedreamV5Lite("a poster of a paper boat")

    async def main() -> None:
        async with host.session(retry=retry, limits=rh.Limits()) as session:
            async for outcome in session.stream(requests()):
                ended.append(outcome)

    run(main)
    (failed,) = (outcome for outcome in ended if not outcome.ok)
    assert isinstance(failed, rh.Failed)
    assert failed.index == 0
    assert isinstance(failed.error, rh.ServerError)
    assert failed.attempts == 0
    assert len(host.submits) == len(ended) - 1


@pytest.mark.parametrize(
    "trouble",
    [
        rh.Response(502, b"<html>502 Bad Gateway</html>"),
        rh.Response(200, b"<html>We will be back soon</html>"),
        rh.Response(403, b"<html>Access denied</html>"),
        rh.Response(429, b"slow down"),
        json_response({"code": 500, "msg": "server error"}),
        rh.ReadError("Connection reset by peer"),
        rh.ConnectError("Connection refused"),
        json_response({"code": 421, "msg": "API_KEY_TASK_QUEUE_MAXED"}),
    ],
    ids=["502", "page", "403", "429", "code 500", "reset", "refused", "no room"],
)
def test_an_outage_does_not_use_up_requests_with_files(trouble: Any, tmp_path: Path) -> None:
    """Files that nobody can upload for a minute are no job's own fault: all of them wait, and are
    not sent again and again meanwhile."""
    pictures = [tmp_path / f"{number}.png" for number in range(60)]
    for number, path in enumerate(pictures):
        path.write_bytes(PNG + str(number).encode())

    class Away(Host):
        until = 0.0

        async def answer(self, request: rh.Request) -> rh.Response:
            now = asyncio.get_running_loop().time()
            if not self.until and len(self.submits) == 10:
                self.until = now + 60.0
            if "upload" in request.url and now < self.until:
                if isinstance(trouble, Exception):
                    raise trouble
                assert isinstance(trouble, rh.Response)
                return trouble
            return await super().answer(request)

    host = Away()

    async def main() -> list[rh.Outcome]:
        async with host.session(limits=rh.Limits()) as session:
            stream = session.stream(image_to_image(each) for each in pictures)
            return [outcome async for outcome in stream]

    outcomes = run(main)
    assert [outcome.error for outcome in outcomes if not outcome.ok] == []
    assert len(host.submits) == 60
    # 180 of them are of the jobs themselves.
    assert len(host.transport.requests) < 1500


class Down(Host):
    """Out of reach for `seconds` from its first upload on, in every call."""

    def __init__(self, how: str, seconds: float) -> None:
        super().__init__()
        self.how = how
        self.seconds = seconds
        self.until = 0.0
        self.missed: list[str] = []

    async def answer(self, request: rh.Request) -> rh.Response:
        now = asyncio.get_running_loop().time()
        if not self.until and "upload" in request.url:
            self.until = now + self.seconds
        if now >= self.until:
            return await super().answer(request)
        self.missed.append(request.url)
        if self.how == "502":
            return rh.Response(502, b"<html>502 Bad Gateway</html>")
        if self.how == "reset":
            raise rh.ReadError("Connection reset by peer")
        if self.how == "refused":
            raise rh.ConnectError("Connection refused")
        await asyncio.sleep(request.read_timeout)
        raise rh.ReadTimeout("no answer")


@pytest.mark.parametrize(
    ("how", "seconds"), [("502", 1200), ("reset", 1200), ("silence", 1200), ("refused", 120)]
)
def test_a_service_that_is_down_during_the_uploads_costs_no_job(
    how: str, seconds: float, tmp_path: Path
) -> None:
    """Every job succeeds once the service is back, and none was submitted twice."""
    host = Down(how, seconds)
    pictures = [[tmp_path / f"{n}-{part}.png" for part in range(2)] for n in range(30)]
    for path in itertools.chain.from_iterable(pictures):
        path.write_bytes(PNG + path.name.encode())
    requests = [
        rh.ModelRequest(MODEL, {"prompt": f"number {n} in blue", "imageUrls": paths})
        for n, paths in enumerate(pictures)
    ]

    async def main() -> tuple[list[rh.Outcome], tuple[rh.Unfinished, ...]]:
        async with host.session(limits=rh.Limits()) as session:
            # The service has answered before: what is wrong from the start is reported soon.
            await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))
            stream = session.stream(requests)
            return [outcome async for outcome in stream], stream.unfinished

    outcomes, unfinished = run(main)
    assert [outcome.error for outcome in outcomes if not outcome.ok] == []
    assert unfinished == ()
    assert host.missed
    submitted = [submit["prompt"] for submit in host.submits[1:]]
    assert sorted(submitted) == sorted(request.params["prompt"] for request in requests)
    urls = [url for submit in host.submits[1:] for url in submit["imageUrls"]]
    assert len(set(urls)) == 60


def test_a_key_that_is_refused_for_an_upload_stops_the_stream(picture: Path) -> None:
    """As it would for a submit: nothing more is taken from an endless input."""
    wrong = json_response({"code": 401, "message": "ApiKey verification failed"})
    host = Host(*[wrong] * 1000)
    retry = rh.RetryPolicy(wait_initial=0.01, call_attempts=2)

    async def main() -> rh.Statistics:
        async with host.session(retry=retry) as session:
            stream = session.stream(image_to_image(picture) for _ in itertools.count())
            with pytest.raises(rh.AuthenticationError):
                async for outcome in stream:
                    raise AssertionError(outcome)
            return stream.statistics()

    assert asyncio.run(main()).pulled <= 50
    assert host.submits == []


def test_without_a_network_the_input_is_not_used_up(picture: Path) -> None:
    """As with requests that hold no file: the stream stops with the error."""
    host = Host(*[rh.ConnectError("no route")] * 1000)
    retry = rh.RetryPolicy(wait_initial=0.01, call_attempts=2)

    async def main() -> rh.Statistics:
        async with host.session(retry=retry) as session:
            stream = session.stream(image_to_image(picture) for _ in itertools.count())
            with pytest.raises(rh.ConnectError):
                async for outcome in stream:
                    raise AssertionError(outcome)
            return stream.statistics()

    assert asyncio.run(main()).pulled <= 50


def test_a_file_that_changes_on_its_way_is_not_submitted(tmp_path: Path) -> None:
    """What was looked at is what is sent, or nothing; the next request sends it as it is then."""
    (picture := tmp_path / "boat.png").write_bytes(PNG)

    async def main() -> None:
        async with Emulator(duration=0.0) as emulator:
            inner = rh.AiohttpTransport()
            changed: list[bytes] = [PNG + b"longer", PNG[:-4], PNG.replace(b"a", b"b")]

            class Slow:
                async def send(self, request: rh.Request) -> rh.Response:
                    if request.file is not None and changed:
                        await asyncio.to_thread(picture.write_bytes, changed.pop())
                    return await inner.send(request)

                async def aclose(self) -> None:
                    await inner.aclose()

            async with rh.Session("a-key", base_url=emulator.url, transport=Slow()) as session:
                for _ in range(3):
                    with pytest.raises(
                        rh.PayloadError, match=r"was changed while .* @ \$\.imageUrls\[0\]"
                    ):
                        await session.submit(image_to_image(picture))
                await session.submit(image_to_image(picture))
            assert emulator.stats.billed == 1

    asyncio.run(main())


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a folder, a device: none is opened."""
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    host = Host()

    async def main() -> None:
        async with host.session() as session:
            for path in (pipe, tmp_path, Path("/dev/zero")):
                with pytest.raises(rh.PayloadError, match="not a regular file"):
                    await session.submit(image_to_image(path))

    asyncio.run(main())


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    """Not even where it takes the file's name after that was looked at."""
    (picture := tmp_path / "boat.png").write_bytes(PNG)

    def replace() -> None:
        picture.unlink()
        os.mkfifo(picture)

    async def main() -> None:
        async with Emulator() as emulator:
            inner = rh.AiohttpTransport()

            class Slow:
                async def send(self, request: rh.Request) -> rh.Response:
                    await asyncio.to_thread(replace)
                    return await inner.send(request)

                async def aclose(self) -> None:
                    await inner.aclose()

            async with (
                asyncio.timeout(30),
                rh.Session("a-key", base_url=emulator.url, transport=Slow()) as session,
            ):
                with pytest.raises(rh.PayloadError, match=r"boat\.png: was changed while"):
                    await session.upload(picture)

    asyncio.run(main())


def test_links_are_followed_to_files_only(tmp_path: Path, picture: Path) -> None:
    """A link to a file is sent as that file; one to nothing, to itself or to a folder is named."""
    host = Host()
    (good := tmp_path / "good.png").symlink_to(picture)
    (gone := tmp_path / "gone.png").symlink_to(tmp_path / "none")
    (loop := tmp_path / "loop.png").symlink_to("loop.png")
    (folder := tmp_path / "folder.png").symlink_to(tmp_path)

    async def main() -> None:
        async with host.session() as session:
            assert (await session.upload(good)).size == len(PNG)
            for bad in (gone, loop, folder):
                with pytest.raises(rh.PayloadError, match=bad.name):
                    await session.upload(bad)

    asyncio.run(main())
    assert host.uploads == [PNG]


def test_an_upload_under_way_when_the_session_closes_says_so(picture: Path) -> None:
    """To whoever waits for it, from whichever call."""
    uploading = asyncio.Event()

    async def hold(request: rh.Request) -> rh.Response:
        uploading.set()
        await asyncio.sleep(3600)
        raise AssertionError

    async def main() -> None:
        session = rh.Session("a-key", transport=MockTransport(hold))
        await session.__aenter__()
        waiting = [
            asyncio.create_task(session.price(image_to_image(picture))),
            asyncio.create_task(session.submit(image_to_image(picture))),
        ]
        await uploading.wait()
        await session.aclose()
        for call in waiting:
            with pytest.raises(rh.SessionError):
                await asyncio.wait_for(call, 20)

    asyncio.run(main())


def test_an_odd_answer_to_an_upload_hurts_nobody_else(picture: Path) -> None:
    """A number beyond all bounds, once."""
    odd = {"code": 0, "data": {"fileName": "x", "download_url": "https://x/y", "size": "1e999999"}}
    host = Host(json_response(odd))

    async def main() -> list[bool]:
        async with host.session() as session:
            stream = session.stream([image_to_image(picture), image_to_image("https://x/a.png")])
            return [outcome.ok async for outcome in stream]

    assert asyncio.run(main()) == [True, True]


class Stop(BaseException):
    """No `Exception`, like those by which frameworks stop a task."""


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError, OSError, TimeoutError, StopIteration, StopAsyncIteration,
     asyncio.CancelledError, GeneratorExit, Stop],
)  # fmt: skip
def test_progress_that_raises_ends_its_upload(error: type[BaseException], picture: Path) -> None:
    """One error names it, whatever it raises, and the file is not sent again."""
    called: list[int] = []

    def complain(sent: int, _: int) -> None:
        called.append(sent)
        raise error

    async def main() -> int:
        async with Emulator() as emulator, rh.Session("a-key", base_url=emulator.url) as session:
            with pytest.raises(rh.PolicyError, match=f"progress raised {error.__name__}") as caught:
                await session.upload(picture, progress=complain)
            assert caught.value.name == "progress"
            assert type(caught.value.__cause__) is error
            # The next upload works.
            assert (await session.upload(picture)).url
            return emulator.stats.uploads

    assert asyncio.run(main()) <= 2
    assert len(called) == 1


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("hidden", [False, True])
def test_progress_that_is_async_is_refused(picture: Path, *, hidden: bool) -> None:
    """An async function, and a plain one that returns a coroutine, which is closed."""

    async def report(*_: int) -> None:
        raise AssertionError

    def plain(*sent: int) -> object:
        return report(*sent)

    async def main() -> None:
        async with Emulator() as emulator, rh.Session("a-key", base_url=emulator.url) as session:
            progress = plain if hidden else report
            with pytest.raises(rh.PolicyError, match=r"progress .* would not be awaited"):
                await session.upload(picture, progress=progress)
            assert emulator.stats.uploads == 0

    asyncio.run(main())
    gc.collect()


def test_an_upload_that_is_cancelled_while_it_reports_is_cancelled(picture: Path) -> None:
    """Its own task is cancelled by the callable: a cancellation, not a fault of it."""

    async def main() -> None:
        async with Emulator() as emulator, rh.Session("a-key", base_url=emulator.url) as session:
            upload = asyncio.ensure_future(
                session.upload(picture, progress=lambda *_: upload.cancel())
            )
            await asyncio.wait([upload])
            assert upload.cancelled()

    asyncio.run(main())


@pytest.mark.parametrize("fails", [False, True])
def test_a_session_that_waits_for_its_tasks_does_not_submit_what_is_being_uploaded(
    picture: Path, *, fails: bool
) -> None:
    """`on_cancel="wait"`, and the upload ends after the session began to close."""
    host = Holding(fails=fails)

    async def main() -> tuple[rh.Unfinished, ...]:
        session = rh.Session("a-key", transport=MockTransport(host.answer), on_cancel="wait")
        await session.__aenter__()
        stream = session.stream([image_to_image(picture)])
        call = asyncio.ensure_future(session.run(image_to_image(picture)))
        await host.uploading.wait()
        closing = asyncio.ensure_future(session.aclose())
        await asyncio.sleep(0)
        host.released.set()
        await closing
        with pytest.raises(rh.SessionError):
            await call
        return stream.unfinished

    (left,) = asyncio.run(main())
    assert (left.state, left.task_id) == ("not_submitted", None)
    assert host.submits == []


@pytest.mark.parametrize("fails", [False, True])
def test_a_stream_left_during_an_upload_submits_nothing(picture: Path, *, fails: bool) -> None:
    """Not even once the upload is through, or has failed; the slot is free for the next stream."""
    host = Holding(fails=fails)

    async def main() -> tuple[rh.Unfinished, ...]:
        transport = MockTransport(host.answer)
        options: dict[str, Any] = {
            "limits": rh.Limits(1, None, None),
            "retry": rh.RetryPolicy(call_attempts=1),
            "polling": rh.ExponentialPolling(initial=0.01, maximum=0.01),
        }
        async with rh.Session("a-key", transport=transport, **options) as session:
            async with session.stream([image_to_image(picture)]) as stream:
                waiting = asyncio.ensure_future(anext(stream))
                await host.uploading.wait()
                waiting.cancel()
            host.released.set()
            other = rh.ModelRequest(MODEL, {"prompt": "another", "imageUrls": ["https://x/a.png"]})
            async with asyncio.timeout(20):
                assert [outcome.ok async for outcome in session.stream([other])] == [True]
            return stream.unfinished

    (left,) = asyncio.run(main())
    assert (left.state, left.task_id) == ("not_submitted", None)
    assert [submit["prompt"] for submit in host.submits] == ["another"]


def test_an_upload_that_gives_no_url_fails_its_request_alone(picture: Path) -> None:
    """A model takes a URL: without one nothing is submitted, and the place is named."""
    answer = {"code": 0, "data": {"fileName": "openapi/x.png", "size": "1"}}
    host = Host(json_response(answer))

    async def main() -> list[rh.Outcome]:
        async with host.session() as session:
            requests = [image_to_image(picture), image_to_image("https://x/a.png")]
            return [outcome async for outcome in session.stream(requests, ordered=True)]

    failed, other = asyncio.run(main())
    assert isinstance(failed, rh.Failed)
    assert isinstance(failed.error, rh.PayloadError)
    assert re.search(r"got no URL @ \$\.imageUrls\[0\]", str(failed.error))
    assert other.ok
    assert len(host.submits) == 1


def test_a_lost_submit_stays_unknown_although_its_file_is_gone(picture: Path) -> None:
    """It was to be sent again, which its file now forbids: its first submit may have created a
    task all the same."""

    class Losing(Host):
        async def answer(self, request: rh.Request) -> rh.Response:
            answer = await super().answer(request)
            if "upload" not in request.url:
                await asyncio.to_thread(picture.unlink)
                raise rh.ReadError("cut")
            return answer

    host = Losing()

    async def main() -> list[rh.Outcome]:
        retry = rh.RetryPolicy(wait_initial=0.01)
        async with host.session(unknown="resubmit", retry=retry) as session:
            return [outcome async for outcome in session.stream([image_to_image(picture)])]

    (outcome,) = asyncio.run(main())
    assert isinstance(outcome, rh.Unknown)
    assert "No such file" in str(outcome.error)
    assert len(host.submits) == outcome.attempts == 1


@pytest.mark.parametrize("always", [False, True])
def test_uploads_that_take_longer_than_their_urls_live_are_begun_anew(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, always: bool
) -> None:
    """The first of two has expired when the second is through: it is sent again. If that happens
    each time, the request fails and is not submitted with a URL that leads nowhere."""
    slept = 0.0
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + slept)
    (other := tmp_path / "other.png").write_bytes(PNG + b"other")

    class Slow(Host):
        async def answer(self, request: rh.Request) -> rh.Response:
            nonlocal slept
            answer = await super().answer(request)
            if "upload" in request.url and (always or len(self.uploads) == 2):
                slept += 30 * 3600
            return answer

    host = Slow()

    async def main() -> None:
        async with host.session() as session:
            await session.submit(image_to_image(picture, other))

    if always:
        with pytest.raises(rh.PayloadError, match="take longer than their URLs live"):
            asyncio.run(main())
        assert host.submits == []
        return
    asyncio.run(main())
    (submit,) = host.submits
    # Both had been sent before the clock moved on.
    assert submit["imageUrls"] == [f"https://files.example/{n}.png" for n in (3, 4)]
    assert host.uploads == [PNG, PNG + b"other"] * 2


def test_what_is_no_file_of_the_service_is_named(tmp_path: Path) -> None:
    """A file that is not there, and bytes that are none."""
    host = Host()

    async def main() -> None:
        async with host.session() as session:
            with pytest.raises(rh.PayloadError, match="No such file"):
                await session.upload(tmp_path / "none.png")
            with pytest.raises(rh.PayloadError, match="empty"):
                await session.upload(b"")
            with pytest.raises(rh.PayloadError, match="directory"):
                await session.upload(tmp_path)

    asyncio.run(main())
    assert host.transport.requests == []


def test_a_name_cannot_break_out_of_its_place(tmp_path: Path) -> None:
    """Neither out of the form's header nor, for a LoRA, into the request."""
    host = Host()
    (path := tmp_path / "style\x1b.safetensors").write_bytes(b"weights")

    async def main() -> None:
        async with host.session() as session:
            await session.upload(PNG, name='a\0b\x1b[31m"\r\n.png')
            for name in ("a\0b", "a\x1b[31m", "\ud800", None):
                with pytest.raises(rh.PayloadError, match=r"@ \$\.name"):
                    await session.upload_lora(path, name=name)

    asyncio.run(main())
    (request,) = host.transport.requests
    head = (request.body or b"").partition(b"\r\n\r\n")[0]
    assert b'filename="a%00b%1B[31m%22%0D%0A.png"' in head


def test_an_upload_over_http_arrives_byte_for_byte(tmp_path: Path) -> None:
    """Both uploads, from disk and from memory, with odd names; told of on the way."""
    told: list[tuple[int, int]] = []
    film = tmp_path / 'a "film"\r\nof boats.mp4'
    content = b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 8000
    film.write_bytes(content)

    async def main() -> None:
        async with Emulator() as emulator, rh.Session("a-key", base_url=emulator.url) as session:
            upload = await session.upload(film, progress=lambda *sent: told.append(sent))
            assert (upload.type, upload.size, upload.name[-4:]) == ("video", len(content), ".mp4")
            path = tmp_path / "back.mp4"
            back = await session.download(rh.Output(upload.url, "mp4"), path)
            assert back.sha256 == upload.sha256
            assert (await session.upload(content, name="b.mp4")).sha256 == upload.sha256
            older = await session.older.upload(film)
            assert older.name.startswith("api/")
            assert older.url is None

    asyncio.run(main())
    assert told[-1] == (len(content), len(content))
    assert [sent for sent, _ in told] == sorted(sent for sent, _ in told)


def test_a_lora_is_put_where_the_service_says(tmp_path: Path) -> None:
    """Through the presigned URL, without the key; the same bytes are not sent again."""
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"weights" * 1000)

    async def main() -> None:
        async with Emulator() as emulator, rh.Session("a-key", base_url=emulator.url) as session:
            first = await session.upload_lora(path)
            again = await session.upload_lora(path, name="another")
            puts = [request for request in emulator.requests if request.method == "PUT"]
            assert (first.stored, again.stored, len(puts)) == (True, False, 1)
            assert first.name == f"api-lora-cn/{first.md5}.safetensors"
            assert "a-key" not in str(puts[0])

    asyncio.run(main())


REFUSED = {
    "http://storage.example/x": "not https",
    "https://169.254.169.254/latest/api/token": "not a public one",
    "https://10.0.0.1/x": "not a public one",
    "https://[::1]/x": "not a public one",
    "https://localhost/x": "not a public one",
    "https://metadata.google.internal/x": "not a public one",
    "https://2130706433/x": "not a public one",
    "https://u:p@storage.example/x": "control characters or a user name",
    "https://storage.example/a\r\nX-Evil: 1": "control characters or a user name",
    "https://storage.example/a\x00": "control characters or a user name",
    "file:///etc/passwd": "not http(s)",
    "ftp://storage.example/x": "not http(s)",
    "https://[broken/x": "cannot be read",
    # The service's own host by another name, scheme, port or user.
    "http://service.example/x": "not https",
    "http://u:p@127.0.0.1:{port}/x": "control characters or a user name",
    "http://127.0.0.1:{port}/a\r\nX-Evil: 1": "control characters or a user name",
    "https://127.0.0.1:{port}/x": "not a public one",
    "http://localhost:{port}/x": "not a public one",
    "http://127.0.0.1:{other}/x": "not a public one",
}


@pytest.mark.parametrize("url", REFUSED)
def test_a_lora_goes_to_no_place_that_only_this_machine_can_reach(tmp_path: Path, url: str) -> None:
    """Nothing is sent, the error says why, and it is not tried again. The session's own server is
    at {port}, another one of this machine at {other}."""
    (path := tmp_path / "style.safetensors").write_bytes(b"weights" * 1000)
    arrived: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append("connected")
        writer.close()

    async def main() -> None:
        other = await asyncio.start_server(listen, "127.0.0.1", 0)
        async with other:
            service = "http://127.0.0.1:8"
            target = url.format(port=8, other=other.sockets[0].getsockname()[1])
            place = json_response({"code": 0, "data": {"fileName": "api/x", "url": target}})
            transport = MockTransport(lambda _: place)
            async with rh.Session("a-key", base_url=service, transport=transport) as session:
                with pytest.raises(rh.ProtocolError, match="LoRA was not sent") as caught:
                    await session.upload_lora(path)
            assert REFUSED[url] in str(caught.value)
            assert [request.method for request in transport.requests] == ["POST"]

    asyncio.run(main())
    assert arrived == []


def test_a_lora_goes_to_the_services_origin_and_to_public_hosts(tmp_path: Path) -> None:
    """For any other name the transport has to check the address that it resolves to."""
    (path := tmp_path / "style.safetensors").write_bytes(b"weights" * 1000)

    def put(base: str, url: str) -> list[tuple[str, bool]]:
        def handle(request: rh.Request) -> rh.Response:
            return json_response({"code": 0, "data": {"fileName": "api/x", "url": url}})

        async def main() -> None:
            async with rh.Session("a-key", base_url=base, transport=transport) as session:
                await session.upload_lora(path)

        transport = MockTransport(handle)
        run(main)
        return [(request.url, request.public_only) for request in transport.requests[1:]]

    home = "http://service.internal:8080"
    assert put(home, f"{home}/x?sign=a%2Fb") == [(f"{home}/x?sign=a%2Fb", False)]
    assert put("https://service.example", "https://service.example:443/x")[0][1] is False
    assert put("https://service.example", "https://service.example:8443/x")[0][1] is True
    assert put(home, "https://bucket.storage.example/x?sign=a%2Fb")[0][1] is True


def test_a_storage_host_whose_name_leads_home_gets_no_lora(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is judged when the name is resolved, and nothing is connected to."""
    (path := tmp_path / "style.safetensors").write_bytes(b"weights" * 1000)
    resolve = socket.getaddrinfo

    def lead_home(host: Any, *rest: Any, **options: Any) -> Any:
        home = host in ("bucket.storage.example", b"bucket.storage.example")
        return resolve("127.0.0.1" if home else host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", lead_home)
    arrived: list[str] = []

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.append("connected")
        writer.close()

    async def main() -> None:
        async with await asyncio.start_server(listen, "127.0.0.1", 0) as storage:
            port = storage.sockets[0].getsockname()[1]
            place = f"https://bucket.storage.example:{port}/x?sign=secret"

            async def tell(_: web.BaseRequest) -> web.Response:
                return web.json_response({"code": 0, "data": {"fileName": "api/x", "url": place}})

            runner = web.ServerRunner(web.Server(tell))
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            async with rh.Session("a-key", base_url=url) as session:
                with pytest.raises(rh.ProtocolError, match=r"bucket\.storage\.example") as caught:
                    await session.upload_lora(path)
            assert "secret" not in str(caught.value)
            await runner.cleanup()

    asyncio.run(main())
    assert arrived == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_lora_follows_no_redirect(tmp_path: Path, status: int) -> None:
    """The bytes go to the address that the service named, or nowhere."""
    (path := tmp_path / "style.safetensors").write_bytes(b"weights" * 1000)
    place = {"code": 0, "data": {"fileName": "api/x", "url": "https://storage.example/x"}}
    answers = iter([json_response(place), rh.Response(status, b"", {"location": "https://a.b/"})])
    transport = MockTransport(lambda _: next(answers))

    async def main() -> None:
        async with rh.Session("a-key", transport=transport) as session:
            with pytest.raises(rh.APIError, match="did not take the LoRA"):
                await session.upload_lora(path)

    run(main)
    assert len(transport.requests) == 2


def test_an_upload_is_not_used_beyond_its_life(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the wall clock: a machine that slept for a day uploads anew, and a job that was refused
    before it slept is filled with the new URL."""
    slept = 0.0
    wall = time.time
    monkeypatch.setattr(time, "time", lambda: wall() + slept)
    host = Host()
    refused: list[Any] = []

    async def answer(request: rh.Request) -> rh.Response:
        nonlocal slept
        if "upload" not in request.url and "/query" not in request.url and len(refused) < 1:
            refused.append(json.loads(request.body or b"")["imageUrls"])
            slept += 30 * 3600
            return json_response({"errorCode": "421", "errorMessage": "full"})
        return await host.answer(request)

    async def main() -> None:
        nonlocal slept
        transport = MockTransport(answer)
        retry = rh.RetryPolicy(wait_initial=0.01, capacity_wait_max=0.01)
        async with rh.Session("a-key", transport=transport, retry=retry) as session:
            await session.submit(image_to_image(picture))
            await session.submit(image_to_image(picture))
            slept += 19 * 3600
            await session.submit(image_to_image(picture))
            slept += 2 * 3600
            await session.submit(image_to_image(picture))
            # The clock was set back: the age of the upload is not known.
            slept -= 10 * 3600
            await session.submit(image_to_image(picture))

    asyncio.run(main())
    urls = [url for urls in [*refused, *(s["imageUrls"] for s in host.submits)] for url in urls]
    numbers = [int(re.sub(r"\D", "", url)) for url in urls]
    assert numbers == [1, 2, 2, 2, 3, 4]


def test_large_bytes_are_uploaded_without_holding_the_loop() -> None:
    """Neither are they copied on the loop, nor read by its default executor, which an application
    may have filled with its own calls."""
    content = b"\0\0\0\x18ftypmp42" + random.Random(0).randbytes(8 * 2**20)
    release = threading.Event()
    sizes: list[int] = []
    reported: list[tuple[int, int]] = []

    async def take(request: web.BaseRequest) -> web.Response:
        body = bytearray()
        async for chunk in request.content.iter_any():
            body += chunk
        assert request.headers["Content-Length"] == str(len(body))
        assert content in body
        sizes.append(len(body))
        return web.json_response({"code": 0, "data": {"fileName": "x"}})

    async def main() -> None:
        loop = asyncio.get_running_loop()
        runner = web.ServerRunner(web.Server(take))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        loop.set_default_executor(ThreadPoolExecutor(1))
        busy = loop.run_in_executor(None, release.wait)
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            async with asyncio.timeout(60), rh.Session("a-key", base_url=url) as session:
                upload = await session.upload(content, progress=lambda *sent: reported.append(sent))
                assert upload.sha256 == hashlib.sha256(content).hexdigest()
                assert reported[-1] == (len(content), len(content))
                await session.older.upload(content)
        finally:
            release.set()
            await busy
            await runner.cleanup()

    asyncio.run(main())
    assert len(sizes) == 2


def test_a_transport_of_ones_own_gets_large_bytes_as_a_body() -> None:
    """As it always did; only a transport that says so is given them in pieces."""
    content = PNG + bytes(2 * 2**20)
    host = Host()

    async def main() -> None:
        async with host.session() as session:
            await session.upload(content)

    asyncio.run(main())
    (request,) = host.transport.requests
    assert request.file is None
    assert host.uploads == [content]


def test_a_dropped_upload_is_sent_again_over_http(picture: Path) -> None:
    """The connection breaks twice; the third try counts, and one file is there."""
    faults = [Fault(on="upload", kind="drop", times=2)]
    retry = rh.RetryPolicy(wait_initial=0.01)

    async def main() -> int:
        async with (
            Emulator(faults=faults) as emulator,
            rh.Session("a-key", base_url=emulator.url, retry=retry) as session,
        ):
            await session.upload(picture)
            return emulator.stats.uploads

    assert asyncio.run(main()) == 3


_UPLOAD = """
    import asyncio, sys
    import runninghub_async as rh

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096

    async def main(url, small, big):
        async with rh.Session("a-key", base_url=url) as session:
            await session.upload(small)
            before = resident()
            most = []
            await session.upload(big, progress=lambda *_: most.append(resident()))
            print(max(most) - before)

    asyncio.run(main(*sys.argv[1:]))
"""


def test_a_large_file_never_is_in_memory(tmp_path: Path) -> None:
    """200 MB sent from another process: its resident memory grows by less than 20 MB."""
    small, big = tmp_path / "small.mp4", tmp_path / "big.mp4"
    for path, size in ((small, 2**20), (big, 200 * 2**20)):
        with path.open("wb") as file:
            file.write(b"\0\0\0\x18ftypmp42")
            file.truncate(size)
    arrived: list[int] = []

    async def take(request: web.BaseRequest) -> web.Response:
        count = 0
        async for chunk in request.content.iter_any():
            count += len(chunk)
        arrived.append(count)
        return web.json_response({"code": 0, "data": {"fileName": "x"}})

    async def main() -> str:
        runner = web.ServerRunner(web.Server(take))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", textwrap.dedent(_UPLOAD),
            f"http://127.0.0.1:{port}", str(small), str(big),
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        out, _ = await process.communicate()
        await runner.cleanup()
        return out.decode()

    grown = int(asyncio.run(main()))
    assert arrived[1] > 200 * 2**20
    assert grown <= 20 * 2**20
