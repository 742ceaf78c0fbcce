"""The emulator, asked by clients that are not ours: bare aiohttp and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import struct
import subprocess
import zlib
from typing import Any

import aiohttp
import pytest

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault, FaultScript, Stats
from runninghub_async.testing import run as run_virtual

SUBMIT = "/openapi/v2/seedream-v5-lite/text-to-image"
QUERY = "/openapi/v2/query"
KEY = {"Authorization": "Bearer any-key"}
BODY = {"prompt": "a poster of a paper boat", "width": 1600, "height": 1344}


class Client:
    """Bare requests to an emulator."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url, self.http = url, http

    async def post(self, path: str, body: Any = None, headers: Any = None) -> Any:
        async with self.http.post(self.url + path, json=body, headers=headers or KEY) as answer:
            return await answer.json()

    async def get(self, path: str) -> Any:
        async with self.http.get(self.url + path, headers=KEY) as answer:
            return await answer.json()

    async def submit(self, **fields: Any) -> Any:
        return await self.post(SUBMIT, {**BODY, **fields})

    async def result(self, task_id: str) -> Any:
        while (task := await self.post(QUERY, {"taskId": task_id}))["status"] in (
            "QUEUED",
            "RUNNING",
        ):
            await asyncio.sleep(0.5)
        return task


def emulated(use: Any, *, drawing: bool = False, **options: Any) -> Stats:
    """Run `use(client)` against an emulator, on a virtual clock unless pictures are drawn, which
    happens in a thread."""

    async def main() -> Stats:
        async with Emulator(**options) as emulator, aiohttp.ClientSession() as http:
            await use(Client(emulator.url, http))
            stats = await Client(emulator.url, http).get("/_emulator/stats")
            assert Stats(**stats) == emulator.stats
            return emulator.stats

    return asyncio.run(main()) if drawing else run_virtual(main)


def test_a_task_is_queued_runs_and_succeeds_in_the_services_words() -> None:
    """All documented fields, of the documented types, in each state."""

    async def use(client: Client) -> None:
        task = await client.submit()
        assert list(task) == [
            "taskId", "status", "errorCode", "errorMessage", "results", "clientId", "promptTips",
        ]  # fmt: skip
        assert len(task["taskId"]) == 19
        assert (task["status"], task["errorCode"], task["results"]) == ("QUEUED", "", None)
        queued = await client.post(QUERY, {"taskId": task["taskId"]})
        assert (queued["status"], queued["results"]) == ("QUEUED", None)
        assert json.loads(task["promptTips"])["node_errors"] == {}
        await asyncio.sleep(3)
        asked = await client.post(QUERY, {"taskId": task["taskId"]})
        assert (asked["status"], asked["usage"], asked["results"]) == ("RUNNING", None, None)
        assert asked["failedReason"] == {}
        done = await client.result(task["taskId"])
        assert done["status"] == "SUCCESS"
        assert done["usage"]["thirdPartyConsumeMoney"] == "0.22"
        assert isinstance(done["usage"]["taskCostTime"], str)
        (result,) = done["results"]
        assert (result["outputType"], result["text"]) == ("png", None)
        assert "?sign=" in result["url"]

    stats = emulated(use, duration=10.0, queue=1.0)
    assert (stats.submits, stats.accepted, stats.billed, stats.money) == (1, 1, 1, "0.22")


def test_a_model_that_starts_at_once_is_answered_running() -> None:
    """As in every sample of the documentation; QUEUED is what waits for a machine."""

    async def use(client: Client) -> None:
        assert (await client.submit())["status"] == "RUNNING"
        status = (await client.get("/openapi/v2/queue/status"))["data"]
        assert (status["runningCount"], status["queuedCount"]) == ("1", "0")

    emulated(use)


def test_forms_that_nothing_shows_to_be_refused_are_taken() -> None:
    """Numbers as text, choices as numbers, one picture without its list, an optional null."""

    async def use(client: Client) -> None:
        assert (await client.submit(width="1600", height="1344", resolution=None))["taskId"]
        edit = "/openapi/v2/seedream-v5-lite/image-to-image"
        picture = "https://media.example/a.png"
        assert (await client.post(edit, {**BODY, "imageUrls": picture}))["taskId"]
        video = "/openapi/v2/alibaba/happyhorse-1.0/text-to-video"
        spec = {"prompt": "a boat", "resolution": "720p", "duration": 5}
        preview = "/openapi/v2/price-preview" + video.removeprefix("/openapi/v2")
        number = await client.post(preview, spec)
        text = await client.post(preview, {**spec, "duration": "5"})
        assert number["estimatedPrice"] == text["estimatedPrice"]
        assert (await client.post(video, spec))["taskId"]

    assert emulated(use).refused == 0


def test_a_switch_may_be_text() -> None:
    """It costs what it costs as a boolean."""

    async def use(client: Client) -> None:
        preview = "/openapi/v2/price-preview/youchuan/text-to-image-v82"
        prices: dict[str, list[Any]] = {}
        for hd in (True, False, "true", "false", "1", "0"):
            told = await client.post(preview, {"prompt": "a paper boat", "hd": hd})
            prices.setdefault(told["estimatedPrice"], []).append(hd)
        assert [[str(hd) for hd in same] for same in prices.values()] == [
            ["True", "true", "1"],
            ["False", "false", "0"],
        ]

    emulated(use)


def test_more_pictures_than_a_model_takes_are_refused() -> None:
    """With the number that it takes."""

    async def use(client: Client) -> None:
        edit = "/openapi/v2/seedream-v5-lite/image-to-image"
        most = rh.Catalogue.load().find("seedream-v5-lite/image-to-image").param("imageUrls")
        assert most is not None
        assert most.max_items is not None
        for more, code in ((0, ""), (1, "1007")):
            urls = ["https://media.example/a.png"] * (most.max_items + more)
            answer = await client.post(edit, {**BODY, "imageUrls": urls})
            assert answer["errorCode"] == code
        assert f"imageUrls exceeds {most.max_items} items" in answer["errorMessage"]

    emulated(use)


@pytest.mark.parametrize(
    ("task_id", "code"),
    [("2100773838112505858", "1004"), ("0", "1007"), ("abc", "1007"), (None, "1007")],
)
def test_ids_that_are_none_get_the_documented_codes(task_id: Any, code: str) -> None:
    """1004 for one that never was, 1007 for what is no id; always HTTP 200, status empty."""

    async def use(client: Client) -> None:
        answer = await client.post(QUERY, {"taskId": task_id})
        assert (answer["status"], answer["errorCode"]) == ("", code)
        assert "|" in answer["errorMessage"]

    emulated(use)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "prompt must not be null"),
        ({"prompt": "abc"}, "prompt is invalid"),
        ({**BODY, "width": 5}, "width is invalid"),
        ({**BODY, "width": "1599"}, "width is invalid"),
        ({**BODY, "width": "wide"}, "width is invalid"),
        ({**BODY, "width": 1600.5}, "width is invalid"),
        ({**BODY, "resolution": "9k"}, "resolution is invalid"),
        ({**BODY, "resolution": True}, "resolution is invalid"),
        ({**BODY, "maxImages": True}, "maxImages is invalid"),
        ([1], "JSON object"),
    ],
)
def test_wrong_parameters_are_1007_and_cost_nothing(body: Any, word: str) -> None:
    """As the documentation says; fields the model does not have are ignored."""

    async def use(client: Client) -> None:
        answer = await client.post(SUBMIT, body)
        assert list(answer) == ["errorCode", "errorMessage"]
        assert answer["errorCode"] == "1007"
        assert word in answer["errorMessage"]
        assert (await client.submit(unheardOf=1))["taskId"]

    stats = emulated(use)
    assert (stats.submits, stats.accepted, stats.refused) == (2, 1, 1)


def test_wrong_path_method_and_key_have_their_codes() -> None:
    """1001, 1009 and 806, each with HTTP 200."""

    async def use(client: Client) -> None:
        secret = {"Authorization": "Bearer secret"}
        absent = await client.post("/openapi/v2/no/such-model", BODY, secret)
        assert absent["errorCode"] == "1001"
        assert (await client.post("/somewhere", BODY))["errorCode"] == "1001"
        assert (await client.get(SUBMIT))["errorCode"] == "1009"
        for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": "secret"}, {"X": "y"}):
            assert (await client.post(SUBMIT, BODY, headers))["errorCode"] == "806"
        assert (await client.post(SUBMIT, BODY, secret))["taskId"]

    emulated(use, api_key="secret")


def test_the_concurrency_cap_answers_421_until_a_task_ends() -> None:
    """No queue beyond the cap: the submit is refused and no task exists."""

    async def use(client: Client) -> None:
        tasks = [await client.submit() for _ in range(3)]
        assert [t.get("errorCode") for t in tasks] == ["", "", "421"]
        status = (await client.get("/openapi/v2/queue/status"))["data"]
        assert (status["concurrentLimit"], status["totalCurrentTasks"]) == (2, "2")
        await client.result(tasks[0]["taskId"])
        await client.result(tasks[1]["taskId"])
        assert (await client.submit())["errorCode"] == ""

    stats = emulated(use, max_concurrency=2, duration=5.0)
    assert (stats.accepted, stats.refused) == (3, 1)


def test_the_rate_cap_answers_1003() -> None:
    """More than `rate` requests within a second; a second later there is room again."""

    async def use(client: Client) -> None:
        codes = [(await client.submit())["errorCode"] for _ in range(5)]
        assert codes == ["", "", "", "1003", "1003"]
        await asyncio.sleep(1.1)
        assert (await client.submit())["errorCode"] == ""

    emulated(use, rate=3.0)


def test_cancelling_ends_a_task_and_frees_its_slot() -> None:
    """The older envelope; a finished task cannot be cancelled, an unknown one is 807."""

    async def use(client: Client) -> None:
        task_id = (await client.submit())["taskId"]
        cancel = {"apiKey": "k", "taskId": task_id}
        assert (await client.post("/task/openapi/cancel", cancel))["code"] == 0
        assert (await client.post(QUERY, {"taskId": task_id}))["status"] == "CANCEL"
        assert (await client.post("/task/openapi/cancel", cancel))["msg"] == "task cannot cancel"
        assert (await client.submit())["errorCode"] == ""
        unknown = await client.post("/task/openapi/cancel", {"apiKey": "k", "taskId": "5"})
        assert unknown["code"] == 807

    emulated(use, max_concurrency=1)


def test_pictures_may_come_as_data_uris() -> None:
    """Three megabytes of one in the body are taken, as the documentation allows."""

    async def use(client: Client) -> None:
        image = "data:image/png;base64," + "A" * 3_000_000
        body = {"prompt": "a poster of a boat", "imageUrls": [image]}
        async with rh.Session("k", base_url=client.url) as session:
            assert (await session.submit(rh.ModelRequest("seedream-v4.5/image-to-image", body))).id

    emulated(use)


def test_an_upload_can_be_fetched_and_is_limited() -> None:
    """The documented envelope: `message`, a size that is text, a URL; 809 beyond the limit."""

    async def use(client: Client) -> None:
        async def upload(data: bytes) -> Any:
            form = aiohttp.FormData()
            form.add_field("file", data, filename="boat.png")
            url = client.url + "/openapi/v2/media/upload/binary"
            async with client.http.post(url, data=form, headers=KEY) as answer:
                return await answer.json()

        answer = await upload(b"x" * 1000)
        data = answer["data"]
        assert (answer["code"], answer["message"]) == (0, "success")
        assert (data["type"], data["size"]) == ("image", "1000")
        assert data["fileName"].startswith("openapi/")
        async with client.http.get(data["download_url"]) as stored:
            assert await stored.read() == b"x" * 1000
        assert (await upload(b"x" * 3000))["code"] == 809

    assert emulated(use, upload_limit=2000).uploads == 2


def decode(png: bytes) -> tuple[int, int, bytes]:
    """Width, height and the unpacked rows of a PNG, with every checksum looked at."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, data = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert zlib.crc32(kind + data) == checksum
        chunks[kind] = data
        at += 12 + length
    assert next(iter(chunks)) == b"IHDR"
    assert list(chunks)[-1] == b"IEND"
    width, height = struct.unpack(">II", chunks[b"IHDR"][:8])
    return width, height, zlib.decompress(chunks[b"IDAT"])


@pytest.mark.parametrize(
    ("fields", "size"),
    [
        ({"width": 1601, "height": 1347}, (1601, 1347)),
        ({"resolution": "3k"}, (3072, 3072)),
        ({"width": 2000, "height": 2000, "resolution": "2k"}, (2048, 2048)),
    ],
)
def test_pictures_are_real_pngs_of_the_size_asked_for(
    fields: dict[str, Any], size: tuple[int, int]
) -> None:
    """Whole and decodable, whatever the size; resolution overrides width and height."""

    async def use(client: Client) -> None:
        task = await client.result((await client.submit(**fields))["taskId"])
        async with client.http.get(task["results"][0]["url"]) as answer:
            assert answer.content_type == "image/png"
            width, height, rows = decode(await answer.read())
        assert (width, height) == size
        assert len(rows) == height * (1 + -(-width * 2 // 8))

    assert emulated(use, drawing=True, duration=0).downloads == 1


def test_several_pictures_come_as_several_results_and_bills() -> None:
    """`sequentialImageGeneration: auto` makes one to maxImages, each its own and billed."""

    async def use(client: Client) -> None:
        task = await client.submit(sequentialImageGeneration="auto", maxImages=6)
        done = await client.result(task["taskId"])
        pictures = set()
        for result in done["results"]:
            async with client.http.get(result["url"]) as answer:
                pictures.add(await answer.read())
        assert 1 < len(pictures) == len(done["results"]) <= 6
        assert float(done["usage"]["thirdPartyConsumeMoney"]) == pytest.approx(0.22 * len(pictures))

    emulated(use, drawing=True, duration=0, seed=3)


def test_a_result_without_its_signature_is_refused() -> None:
    """As an object store would: HTTP 403 and XML."""

    async def use(client: Client) -> None:
        task = await client.result((await client.submit())["taskId"])
        url = task["results"][0]["url"]
        for wrong in (url.split("?")[0], url[:-1] + "x", url.replace("/0.png", "/1.png")):
            async with client.http.get(wrong) as answer:
                assert answer.status == 403
                assert b"AccessDenied" in await answer.read()

    emulated(use, duration=0)


@pytest.mark.parametrize(
    ("model", "body", "kind", "start"),
    [
        ("minimax/music-2.6", {}, "mp3", b"\xff\xfb"),
        ("minimax/music-2.6", {"format": "wav"}, "wav", b"RIFF"),
        ("alibaba/happyhorse-1.0/text-to-video",
         {"prompt": "a", "resolution": "720p", "duration": "5"}, "mp4", b"\0\0\0\x20ftyp"),
    ],
)  # fmt: skip
def test_other_models_give_files_of_their_kind(
    model: str, body: dict[str, Any], kind: str, start: bytes
) -> None:
    """The extension and the first bytes fit each other."""

    async def use(client: Client) -> None:
        task = await client.post(f"/openapi/v2/{model}", body)
        if task.get("errorCode") == "1007":
            pytest.fail(task["errorMessage"])
        (result,) = (await client.result(task["taskId"]))["results"]
        assert result["outputType"] == kind
        async with client.http.get(result["url"]) as answer:
            assert (await answer.read()).startswith(start)

    emulated(use, drawing=True, duration=0)


def test_faults_strike_as_the_script_says() -> None:
    """Each kind once, in its place; what was created is billed."""

    async def use(client: Client) -> None:
        for wanted in ("refuse", "rate", "status", "garbage", "half", "reset", "drop"):
            try:
                async with client.http.post(client.url + SUBMIT, json=BODY, headers=KEY) as answer:
                    body = await answer.read()
                    got = {
                        "refuse": body.startswith(b'{"errorCode": "1011"'),
                        "rate": answer.status == 429 and answer.headers["Retry-After"] == "7",
                        "status": answer.status == 503,
                        "garbage": b"<html>" in body,
                        "half": body.startswith(b'{"taskId"') and not body.endswith(b"}"),
                    }
                    assert got[wanted], (wanted, body)
            except aiohttp.ClientConnectionError:
                assert wanted in ("reset", "drop")
        assert (await client.submit())["errorCode"] == ""

    script = [
        {"on": "submit", "kind": "refuse", "code": "1011", "times": 1},
        {"on": "submit", "kind": "rate", "seconds": 7, "times": 1},
        {"on": "submit", "kind": "status", "times": 1},
        {"on": "submit", "kind": "garbage", "times": 1},
        {"on": "submit", "kind": "half", "times": 1},
        Fault(on="submit", kind="reset", times=1),
        Fault(on="submit", kind="drop", times=1),
    ]
    stats = emulated(use, faults=script)
    assert (stats.submits, stats.accepted, stats.refused) == (8, 5, 2)


def test_a_doomed_task_fails_and_stale_text_does_not_mean_so() -> None:
    """`fail` by prompt ends FAILED with its code and no bill; `stale` decorates RUNNING."""

    async def use(client: Client) -> None:
        fine, bad = await client.submit(), await client.submit(prompt="something forbidden")
        running = await client.post(QUERY, {"taskId": fine["taskId"]})
        assert running["status"] in ("QUEUED", "RUNNING")
        assert running["errorCode"] == "1011"
        done = await client.result(bad["taskId"])
        assert (done["status"], done["errorCode"], done["results"]) == ("FAILED", "1501", None)

    stats = emulated(
        use,
        faults=[
            Fault(on="task", kind="fail", code="1501", match="forbidden"),
            Fault(on="query", kind="stale", times=1),
        ],
    )
    assert (stats.accepted, stats.billed) == (2, 1)


@pytest.mark.parametrize(
    "rule",
    [
        {"on": "nowhere", "kind": "refuse"},
        {"on": "task", "kind": "refuse"},
        {"on": "submit", "kind": "refuse", "share": 2},
        {"on": "submit", "kind": "refuse", "shrae": 0.5},
        {"on": "submit"},
    ],
)
def test_a_rule_that_makes_no_sense_is_named(rule: dict[str, Any]) -> None:
    """The error shows the rule."""
    with pytest.raises(ValueError, match=rule["on"]):
        Emulator(faults=[rule])
    with pytest.raises(ValueError, match="list"):
        FaultScript.parse(json.dumps(rule), __import__("random").Random(0))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Emulator(duration=-1), "duration must not be negative"),
        (lambda: Emulator(queue=-0.5), "queue must not be negative"),
        (lambda: Fault(on="nowhere", kind="drop"), "on: expected one of submit"),  # type: ignore[arg-type]
        (lambda: Emulator(faults=["drop"]), "rule 'drop': expected an object"),  # type: ignore[list-item]
    ],
)
def test_an_option_that_makes_no_sense_is_named(make: Any, told: str) -> None:
    """Before anything is served."""
    with pytest.raises(ValueError, match=told):
        make()


def test_a_request_can_be_held_up() -> None:
    """Nothing is done before the delay is over."""

    async def use(client: Client) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        waiting = asyncio.ensure_future(client.submit())
        await asyncio.sleep(20)
        assert (await client.get("/_emulator/stats"))["accepted"] == 0
        assert (await waiting)["taskId"]
        assert 30 <= loop.time() - began < 40

    emulated(use, faults=[Fault(on="submit", kind="delay", seconds=30)])


def test_a_task_is_forgotten_after_its_retention() -> None:
    """Then it is 1004, as one that never was, and its slot is free, once."""

    async def use(client: Client) -> None:
        ids = [(await client.submit())["taskId"] for _ in range(3)]
        body = {"apiKey": "any-key", "taskId": ids[1]}
        assert (await client.post("/task/openapi/cancel", body))["code"] == 0
        await asyncio.sleep(40)
        assert (await client.post(QUERY, {"taskId": ids[0]}))["status"] == "SUCCESS"
        await asyncio.sleep(40)
        for _ in range(3):
            assert (await client.submit())["taskId"]
        assert (await client.submit())["errorCode"] == "421"
        told = [(await client.post(QUERY, {"taskId": each}))["errorCode"] for each in ids]
        assert told == ["1004"] * 3

    emulated(use, duration=10.0, retention=60.0, max_concurrency=3)


def test_a_picture_of_one_endless_word_is_drawn() -> None:
    """However long: it is cut into lines, which comes to an end."""

    async def use(client: Client) -> None:
        task = await client.result(
            (await client.submit(prompt="a poster of " + "o" * 400))["taskId"]
        )
        async with client.http.get(task["results"][0]["url"]) as answer:
            assert decode(await answer.read())[:2] == (1600, 1344)

    emulated(use, drawing=True, duration=0)


def test_the_same_seed_gives_the_same_service() -> None:
    """Ids, durations and faults repeat."""

    def story(seed: int) -> list[Any]:
        told: list[Any] = []

        async def use(client: Client) -> None:
            for _ in range(20):
                told.append((await client.submit()).get("taskId"))

        emulated(use, seed=seed, faults=[Fault(on="submit", kind="refuse", share=0.5)])
        return told

    assert story(1) == story(1) != story(2)


def test_plain_curl_works_unchanged_but_for_the_host() -> None:
    """As the documentation's page generates it: Host pinned, Authorization twice."""
    curl = shutil.which("curl")
    assert curl, "this test needs curl"

    async def main() -> None:
        async with Emulator(duration=0) as emulator:
            command = [
                curl, "--silent", "--location", "--request", "POST", emulator.url + SUBMIT,
                "--header", "Host: www.runninghub.ai",
                "--header", "Authorization: Bearer 0123456789abcdef0123456789abcdef",
                "--header", "Authorization: Bearer ",
                "--header", "Content-Type: application/json",
                "--data-raw", json.dumps({**BODY, "toolsType": "web_search"}),
            ]  # fmt: skip

            def call(*words: str) -> Any:
                return json.loads(subprocess.run(words, capture_output=True, check=True).stdout)

            task = await asyncio.to_thread(call, *command)
            assert task["taskId"]
            command[5], command[-1] = emulator.url + QUERY, json.dumps({"taskId": task["taskId"]})
            done = await asyncio.to_thread(call, *command)
            assert done["results"][0]["url"].startswith(emulator.url)

    asyncio.run(main())
