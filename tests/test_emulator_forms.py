"""Requests in every form that public clients send, and answers that few of them reported."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from test_emulator import BODY, QUERY, SUBMIT, Client, emulated
from test_emulator_families import APP, PROMPT, QUICK, WORKFLOW, create, outputs, upload, v1

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import run as run_virtual

TASK = "/task/openapi/"
V2 = "/openapi/v2/"
KEY = {"apiKey": "any-key"}
BEARER = {"Authorization": "Bearer any-key"}
RAW = {"Authorization": "any-key"}
NUMBER = "2034461796984971265"
NODES = {"nodeInfoList": [PROMPT]}
PLAIN = {"accept": "*/*", "user-agent": "node"}

#: Method, path, body, headers: each path of each public client that was run against the emulator,
#: in the form in which the client sends it.
FORMS: list[tuple[str, str, Any, dict[str, str]]] = [
    # account
    ("POST", "/uc/openapi/accountStatus", {"apikey": "any-key"}, BEARER),
    ("POST", "/uc/openapi/accountStatus", {"apikey": "any-key"}, PLAIN),
    # standard models, their queries and prices
    ("POST", SUBMIT, BODY, BEARER),
    ("POST", SUBMIT, {**BODY, "apiKey": "any-key", "appCode": "comfyui_rh_openapi"}, BEARER),
    ("POST", V2 + "seedream-v5-pro/text-to-image", {"prompt": "a boat", "width": 1024}, BEARER),
    ("POST", V2 + "minimax/hailuo-h3/text-to-video",
     {"prompt": "a paper boat", "resolution": "768P", "duration": 5}, BEARER),
    ("POST", V2 + NUMBER, {"prompt": "a paper boat", "imageUrls": ["https://x.example/a"]}, BEARER),
    ("POST", V2 + "price-preview/seedream-v5-lite/text-to-image", BODY, BEARER),
    ("POST", V2 + "query", {"taskId": "TASK"}, BEARER),
    ("POST", V2 + "query", {"taskId": "TASK", "apiKey": "any-key"}, BEARER),
    # workflows
    ("POST", "/api/openapi/getJsonApiFormat", {**KEY, "workflowId": WORKFLOW}, PLAIN),
    ("POST", "/api/openapi/workflow/duplicate", {**KEY, "workflowId": WORKFLOW}, PLAIN),
    ("POST", TASK + "create", {**KEY, "workflowId": WORKFLOW, **NODES}, PLAIN),
    ("POST", TASK + "create", {**KEY, "workflowId": int(WORKFLOW), **NODES}, BEARER),
    ("POST", TASK + "create", {**KEY, "workflowId": WORKFLOW, "instanceType": "standard"}, PLAIN),
    ("POST", TASK + "create", {**KEY, "workflowId": WORKFLOW, "instanceType": "rtx4090"}, PLAIN),
    ("POST", TASK + "create", {**KEY, "workflowId": WORKFLOW, "usePersonalQueue": "false"}, PLAIN),
    ("POST", TASK + "create", {**KEY, "workflowId": WORKFLOW, "retainSeconds": "60"}, PLAIN),
    ("POST", f"{V2}run/workflow/{WORKFLOW}",
     {**NODES, "instanceType": "standard", "addMetadata": True, "usePersonalQueue": "false"},
     BEARER),
    # apps
    ("GET", f"/api/webapp/apiCallDemo?apiKey=any-key&webappId={APP}", None, PLAIN),
    ("GET", f"/api/webapp/apiCallDemo?webappId={APP}", None, BEARER),
    ("POST", "/api/webapp/detail", {"webappId": APP}, PLAIN),
    ("GET", f"/api/webapp/detail?webappId={APP}", None, PLAIN),
    ("POST", TASK + "ai-app/run", {**KEY, "webappId": APP, **NODES}, PLAIN),
    ("POST", TASK + "ai-app/run", {**KEY, "webappId": int(APP), **NODES}, BEARER),
    ("POST", f"{V2}run/ai-app/{APP}", {**NODES, "instanceType": "default"}, BEARER),
    ("POST", V2 + "aiapp/list", {"current": 1, "size": 50, "sort": "HOTTEST"}, RAW),
    ("POST", V2 + "aiapp/list", {"current": "1", "size": "20", "sort": "NEW"}, BEARER),
    ("POST", "/api/fast/creation/model/params", {"type": 2, "webappId": QUICK}, PLAIN),
    ("POST", TASK + "quick-ai-app/run",
     {**KEY, "webappId": QUICK, "quickCreateCode": "002", "transactionId": "7", **NODES}, PLAIN),
    # tasks of the older kind
    ("POST", TASK + "status", {**KEY, "taskId": "TASK"}, PLAIN),
    ("POST", TASK + "outputs", {**KEY, "taskId": "TASK"}, BEARER),
    ("GET", TASK + "outputs?apiKey=any-key&taskId=TASK", None, PLAIN),
    ("GET", TASK + "outputs?taskId=TASK", None, BEARER),
    ("GET", TASK + "outputs", {**KEY, "taskId": "TASK"}, PLAIN),
    ("POST", TASK + "cancel", {**KEY, "taskId": "TASK"}, PLAIN),
    # lists and pages
    ("GET", V2 + "queue/status", None, BEARER),
    ("GET", V2 + "api-key/list", None, BEARER),
    ("POST", V2 + "resource/list", {"resourceType": "LORA", "current": 1, "size": 20}, BEARER),
    ("POST", "/api/sku/list", {"search": "seedream", "current": 1, "size": 20}, PLAIN),
    ("POST", "/api/sku/list", {}, PLAIN),
    # uploads in two steps
    ("POST", "/api/openapi/getLoraUploadUrl", {**KEY, "loraName": "a", "md5Hex": "0" * 32}, PLAIN),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "headers"),
    FORMS,
    ids=[f"{number} {method} {path}" for number, (method, path, _, _) in enumerate(FORMS)],
)
def test_a_form_that_a_public_client_sends_is_taken(
    method: str, path: str, body: Any, headers: dict[str, str]
) -> None:
    """HTTP 200, and neither an error's code nor a refusal; while a task runs 804 or 813."""

    async def use(client: Client) -> None:
        task_id = (await client.submit())["taskId"]
        text = None if body is None else json.dumps(body).replace("TASK", task_id)
        url = client.url + path.replace("TASK", task_id)
        async with client.http.request(
            method, url, data=text, headers={"Content-Type": "application/json", **headers}
        ) as answer:
            said = await answer.json()
        assert answer.status == 200
        assert said.get("errorCode", "") == ""
        assert said.get("code", 0) in (0, 804)

    # Some of them are answered by a thread, which the virtual clock would not see.
    emulated(use, drawing=True, api_key="any-key")


def test_a_wrong_key_stops_a_stream_whatever_the_family() -> None:
    """806 of the newer endpoints and 301 "user not exist" of the older are the key's fault."""

    async def main() -> None:
        async with Emulator(api_key="right") as emulator:
            async with rh.Session("wrong", base_url=emulator.url) as session:
                for request in (rh.SeedreamV5Lite("a paper boat"), rh.WorkflowRequest(WORKFLOW)):
                    with pytest.raises(rh.AuthenticationError):
                        await session.submit(request)
                    with pytest.raises(rh.AuthenticationError):
                        await session.submit_many([request] * 3)
                with pytest.raises(rh.AuthenticationError):
                    await session.workflows.get(WORKFLOW)
                with pytest.raises(rh.AuthenticationError):
                    await session.account.queue()
            assert emulator.stats.accepted == 0

    run_virtual(main)


def test_an_app_that_is_none_is_not_found_either_way() -> None:
    """Code 1 "webapp not exists" and 901 are one error here, and nothing is created."""

    async def main() -> None:
        async with Emulator() as emulator, rh.Session("k", base_url=emulator.url) as session:
            for api in ("v1", "v2"):
                with pytest.raises(rh.NotFoundError):
                    await session.submit(rh.AppRequest("5", {}, api=api))
            with pytest.raises(rh.NotFoundError):
                await session.apps.get("5")
            outcomes = [o async for o in session.stream([rh.AppRequest("5", {})])]
            assert [type(outcome) for outcome in outcomes] == [rh.Failed]
            assert emulator.stats.accepted == 0

    run_virtual(main)


def test_a_browser_page_of_another_site_may_call() -> None:
    """The preflight is answered and is no call; answers, errors and results carry the headers."""

    async def use(client: Client) -> None:
        preflight = {
            "Origin": "http://page.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type,x-own",
        }
        for path in (SUBMIT, QUERY, TASK + "create", "/results/1/0.png"):
            async with client.http.options(client.url + path, headers=preflight) as answer:
                assert answer.status == 204
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
                assert "POST" in answer.headers["Access-Control-Allow-Methods"]
                assert answer.headers["Access-Control-Allow-Headers"] == (
                    "authorization,content-type,x-own"
                )
        origin = {"Origin": "http://page.example"}
        for path in (SUBMIT, "/openapi/v2/nowhere", "/results/1/0.png"):
            async with client.http.post(client.url + path, headers=origin) as answer:
                assert answer.headers["Access-Control-Allow-Origin"] == "*"
        task = await client.result((await client.submit())["taskId"])
        async with client.http.get(task["results"][0]["url"], headers=origin) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"

    stats = emulated(use, drawing=True, duration=0, api_key="any-key")
    assert (stats.submits, stats.accepted) == (3, 1)


def test_a_public_page_may_call_an_emulator_on_this_machine() -> None:
    """Browsers ask for that separately."""

    async def use(client: Client) -> None:
        asked = {"Origin": "https://page.example", "Access-Control-Request-Private-Network": "true"}
        for headers, allowed in ((asked, "true"), ({"Origin": "https://page.example"}, None)):
            async with client.http.options(client.url + SUBMIT, headers=headers) as answer:
                assert answer.headers.get("Access-Control-Allow-Private-Network") == allowed

    emulated(use)


def test_a_workflow_is_duplicated() -> None:
    """`newWorkflowId` is the caller's own copy: it has the graph and runs; 380 and 301 if not."""

    async def use(client: Client) -> None:
        path = "/api/openapi/workflow/duplicate"
        copy = (await v1(client, path, workflowId=WORKFLOW))["data"]["newWorkflowId"]
        assert copy != WORKFLOW
        graph = "/api/openapi/getJsonApiFormat"
        assert (await v1(client, graph, workflowId=copy))["data"] == (
            await v1(client, graph, workflowId=WORKFLOW)
        )["data"]
        assert (await create(client, workflowId=copy))["code"] == 0
        assert (await v1(client, path, workflowId="5"))["code"] == 380
        assert (await v1(client, path))["code"] == 301

    emulated(use)


def test_uploads_and_the_files_of_apps_can_be_looked_at() -> None:
    """`/task/openapi/view/<fileName>`, without a key; 404 for what is not there."""

    async def use(client: Client) -> None:
        async def view(name: str) -> tuple[int, bytes, str]:
            async with client.http.get(f"{client.url}{TASK}view/{name}") as answer:
                return answer.status, await answer.read(), answer.content_type

        for name in ("a.png", "a.zip"):
            _, said = await upload(client, TASK + "upload", b"of " + name.encode(), name, **KEY)
            stored = said["data"]["fileName"]
            assert (await view(stored))[:2] == (200, b"of " + name.encode())
            assert (await view(stored.replace("/", "%2F")))[0] == 200
        _, said = await upload(client, V2 + "media/upload/binary", b"newer", "b.png")
        assert (await view(said["data"]["fileName"]))[1] == b"newer"
        demo = await client.get(f"/api/webapp/apiCallDemo?apiKey=any-key&webappId={APP}")
        for node in demo["data"]["nodeInfoList"]:
            if node["fieldType"] in ("IMAGE", "VIDEO", "AUDIO"):
                status, body, kind = await view(node["fieldValue"])
                assert (status, kind.partition("/")[0]) == (200, node["fieldType"].lower())
                assert len(body) > 100
        assert (await view("api/nothing.png"))[0] == 404

    emulated(use, drawing=True)


@pytest.mark.parametrize(("site", "code", "key"), [("cn", 0, "fileName"), ("ai", 200, "filename")])
def test_each_site_words_an_upload_in_its_own_way(site: Any, code: int, key: str) -> None:
    """Both are a success for the client, whatever the HTTP status of errors is."""

    async def main() -> None:
        async with Emulator(site=site, error_status=400) as emulator:
            async with aiohttp.ClientSession() as http:
                path = V2 + "media/upload/binary"
                status, said = await upload(Client(emulator.url, http), path, b"x", "a.png")
            assert (status, said["code"]) == (200, code)
            assert said["data"][key].startswith("openapi/")
            async with rh.Session("k", base_url=emulator.url) as session:
                sent = await session.upload(b"\x89PNG\r\n\x1a\n and more", name="a.png")
            assert sent.name.startswith("openapi/")
            assert sent.url

    asyncio.run(main())


def test_wan_27_takes_2048_characters_and_no_more() -> None:
    """Whatever its page says; a related model follows its own page."""

    async def use(client: Client) -> None:
        spicy = {"imageUrl": "https://example.com/a.png", "resolution": "720p", "duration": 5}
        for path, length, code, more in (
            ("alibaba/wan-2.7/text-to-image", 2048, "", {}),
            ("alibaba/wan-2.7/text-to-image", 2049, "1007", {}),
            ("alibaba/wan-2.7/text-to-image-pro", 2049, "1007", {}),
            ("alibaba/wan-2.7-spicy/image-to-video", 2049, "", spicy),
        ):
            said = await client.post(V2 + path, {"prompt": "x" * length, **more})
            assert said["errorCode"] == code

    emulated(use)


def test_a_task_does_not_hold_the_pictures_that_it_was_given() -> None:
    """Data URIs are megabytes each, and a task is remembered for a day."""

    async def use(client: Client) -> None:
        body = {"prompt": "a paper boat", "imageUrls": ["data:image/png;base64," + "A" * 1_000_000]}
        tracemalloc.start()
        try:
            for _ in range(20):
                edit = V2 + "seedream-v5-lite/image-to-image"
                assert (await client.post(edit, body))["taskId"]
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert held < 10_000_000

    emulated(use)


def test_a_model_is_called_by_its_number(tmp_path: Path) -> None:
    """Its parameters are not known, so any pass; local files are uploaded, results are fetched."""
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n and more")

    async def main() -> None:
        async with (
            Emulator(duration=0.05) as emulator,
            rh.Session("k", base_url=emulator.url) as session,
        ):
            params = {"prompt": "a boat", "anything": [1, {"a": None}], "image": tmp_path / "a.png"}
            request = rh.ModelRequest(NUMBER, params)
            assert request.path == NUMBER
            assert request.check() == ()
            assert request.price() is None
            task = await session.run(request)
            assert task.outputs[0].type == "png"
            assert (await session.price(request)).amount is None
            assert emulator.created == {"a boat": 1}
            assert emulator.stats.uploads == 1
            with pytest.raises(rh.PayloadError):
                await session.submit(rh.ModelRequest(NUMBER[:-1], {"prompt": "a boat"}))

    asyncio.run(main())


def test_public_pages_want_no_key() -> None:
    """An app's page shows its inputs and not its workflow; a model's page its path."""

    async def use(client: Client) -> None:
        async def ask(path: str, **body: Any) -> Any:
            async with client.http.post(client.url + path, json=body) as answer:
                return await answer.json()

        page = (await ask("/api/webapp/detail", webappId=APP))["data"]
        assert (page["id"], page["workflowId"]) == (APP, None)
        assert {"nodeId", "fieldName"} <= set(page["inputNodes"][0])
        absent = await ask("/api/webapp/detail", webappId="5")
        assert (absent["code"], absent["msg"]) == (1, "webapp not exists")
        models = (await ask("/api/sku/list", search="seedream-v5-pro", size=50))["data"]
        paths = {record["rhEndpoint"] for record in models["records"]}
        assert "seedream-v5-pro/text-to-image" in paths
        number = models["records"][0]["id"]
        assert len(number) == 19
        for said in (
            await ask("/api/sku/detail", id=number),
            await ask(f"/api/sku/detail?id={number}"),
            await client.get(f"/api/sku/detail?id={number}"),
        ):
            assert said["data"]["rhEndpoint"] == models["records"][0]["rhEndpoint"]
        assert (await ask("/api/sku/detail", id="5"))["code"] == 301

    emulated(use, drawing=True, api_key="secret")


def test_the_layers_of_a_picture_say_where_they_belong() -> None:
    """`z_index` from the bottom up and a bounding box, beside the usual keys, in both envelopes."""

    async def use(client: Client) -> None:
        body = {"imageUrl": "https://media.example/a.png"}
        task = await client.post(V2 + "seedream-v5-pro/layer-decomposition", body)
        results = (await client.result(task["taskId"]))["results"]
        assert len(results) > 1
        assert [each["z_index"] for each in results] == list(range(len(results)))
        for each in results:
            left, top, right, bottom = each["bounding_box"]
            assert left < right
            assert top < bottom
            assert {"url", "nodeId", "outputType", "text"} < set(each)
        older = (await outputs(client, task["taskId"]))["data"]
        assert [each["z_index"] for each in older] == [each["z_index"] for each in results]

    emulated(use, duration=1.0)


def test_forms_that_single_clients_have_reported_can_be_ordered() -> None:
    """Bare URLs as results, a status ERROR, and a reason that is text."""

    async def use(client: Client) -> None:
        bare = await client.result((await client.submit(prompt="this one is bare"))["taskId"])
        assert bare["results"][0].startswith(client.url)
        error = await client.result((await client.submit(prompt="this one errs"))["taskId"])
        assert (error["status"], error["errorCode"]) == ("ERROR", "1015")
        failing = {**PROMPT, "fieldValue": "this one has a reason"}
        made = await create(client, nodeInfoList=[failing])
        said = await outputs(client, made["data"]["taskId"])
        assert json.loads(said["data"]["failedReason"])["node_id"] == "3"
        newer = await client.post(QUERY, {"taskId": made["data"]["taskId"]})
        assert json.loads(newer["failedReason"])["node_id"] == "3"

    faults = [
        Fault(on="task", kind="bare", match="is bare"),
        Fault(on="task", kind="error", code="1015", match="errs"),
        Fault(on="task", kind="reason", code="1000", match="a reason"),
    ]
    assert emulated(use, duration=1.0, faults=faults).billed == 2
