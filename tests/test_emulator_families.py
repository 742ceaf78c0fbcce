"""Every family of the service, asked of the emulator by a bare client that is not ours."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import struct
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from test_emulator import BODY, QUERY, SUBMIT, Client, decode, emulated

from runninghub_async.emulator import App, Emulator, Fault, Stats, Workflow
from runninghub_async.testing import run as run_virtual

WORKFLOW = "1904136902449209346"
NEVER_RUN = "1904136902449209347"
LOCKED = "1904136902449209348"
APP = "1937084629516193794"
MEDIA_APP = "1937084629516193795"
QUICK = "1957344152277151746"
PROMPT = {"nodeId": "6", "fieldName": "text", "fieldValue": "a poster of a paper boat"}
TASK = "/task/openapi/"
V2 = "/openapi/v2/"


async def v1(client: Client, path: str, **fields: Any) -> Any:
    """A call of the older kind: the key is in the body and nowhere else."""
    body = {"apiKey": "any-key", **fields}
    async with client.http.post(client.url + path, json=body) as answer:
        assert answer.status == 200
        told = await answer.json()
    assert {"code", "msg"} <= set(told)
    return told


async def create(client: Client, **fields: Any) -> Any:
    return await v1(client, TASK + "create", **{"workflowId": WORKFLOW, **fields})


async def outputs(client: Client, task_id: str) -> Any:
    """What `outputs` says at last."""
    while True:
        told = await v1(client, TASK + "outputs", taskId=task_id)
        if told["code"] not in (804, 813):
            return told
        await asyncio.sleep(0.5)


async def fetch(client: Client, url: str) -> tuple[int, bytes, str]:
    async with client.http.get(url) as answer:
        return answer.status, await answer.read(), answer.content_type


# -- the older endpoints --------------------------------------------------------------------------


def test_a_saved_workflow_is_queued_runs_and_gives_outputs() -> None:
    """813, 804 with the progress URL, then 0; identifiers and types as documented."""

    async def use(client: Client) -> None:
        made = await create(client, nodeInfoList=[PROMPT], addMetadata=True, retainSeconds=10)
        assert (made["code"], made["msg"], made["errorMessages"]) == (0, "success", None)
        data = made["data"]
        assert list(data) == ["netWssUrl", "taskId", "clientId", "taskStatus", "promptTips"]
        assert (data["netWssUrl"], data["taskStatus"]) == (None, "QUEUED")
        tips = json.loads(data["promptTips"])
        assert (tips["result"], tips["outputs_to_execute"], tips["node_errors"]) == (
            True, ["9"], {},
        )  # fmt: skip
        task_id = data["taskId"]
        assert isinstance(task_id, str)
        queued = await v1(client, TASK + "outputs", taskId=task_id)
        assert (queued["code"], queued["msg"], queued["data"]) == (
            813, "APIKEY_TASK_IS_QUEUED", None,
        )  # fmt: skip
        assert (await v1(client, TASK + "status", taskId=task_id))["data"] == "QUEUED"
        await asyncio.sleep(3)
        running = await v1(client, TASK + "outputs", taskId=int(task_id))
        assert (running["code"], running["msg"]) == (804, "APIKEY_TASK_IS_RUNNING")
        assert running["data"]["netWssUrl"].startswith("ws://127.0.0.1:")
        assert (await v1(client, TASK + "status", taskId=task_id))["data"] == "RUNNING"
        done = await outputs(client, task_id)
        (item,) = done["data"]
        assert list(item) == [
            "fileUrl", "fileType", "taskCostTime", "nodeId", "thirdPartyConsumeMoney",
            "consumeMoney", "consumeCoins", "storageType", "bucket", "objectKey",
        ]  # fmt: skip
        assert (item["fileType"], item["nodeId"], item["consumeCoins"]) == ("png", "9", None)
        assert isinstance(item["taskCostTime"], str)
        assert isinstance(item["consumeMoney"], str)
        assert (await v1(client, TASK + "status", taskId=task_id))["data"] == "SUCCESS"
        newer = await client.post(QUERY, {"taskId": task_id})
        assert newer["status"] == "SUCCESS"
        assert newer["usage"]["consumeMoney"] == item["consumeMoney"]
        assert newer["usage"]["thirdPartyConsumeMoney"] is None
        assert newer["results"][0]["nodeId"] == "9"

    stats = emulated(use, duration=10.0)
    assert (stats.submits, stats.accepted, stats.billed) == (1, 1, 1)
    assert stats.queries > 5


def test_a_consumer_pays_in_coins_that_are_text() -> None:
    """`consumeCoins` where the key is NORMAL, and the purse shrinks by it."""

    async def use(client: Client) -> None:
        made = await create(client, instanceType="plus")
        (item,) = (await outputs(client, made["data"]["taskId"]))["data"]
        assert int(item["consumeCoins"]) > 0
        assert item["consumeMoney"] is None
        account = await client.post("/uc/openapi/accountStatus", {"apikey": "any-key"})
        assert account["data"] == {
            "remainCoins": str(177814 - int(item["consumeCoins"])), "currentTaskCounts": "0",
            "remainMoney": None, "currency": None, "apiType": "NORMAL",
        }  # fmt: skip

    emulated(use, duration=60.0, key_type="NORMAL")


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"workflowId": ""}, 301, "must not be null"),
        ({"workflowId": "0"}, 301, "greater than 0"),
        ({"workflowId": "1904136902449200000"}, 380, "WORKFLOW_NOT_EXISTS"),
        ({"workflowId": NEVER_RUN}, 810, "WORKFLOW_NOT_SAVED_OR_NOT_RUNNING"),
        ({"workflowId": LOCKED}, 301, "accessPassword"),
        ({"retainSeconds": 9}, 301, "retainSeconds"),
        ({"retainSeconds": 181}, 301, "retainSeconds"),
        ({"instanceType": 24}, 301, "instanceType"),
        ({"workflow": "{"}, 433, "VALIDATE_PROMPT_FAILED"),
        ({"nodeInfoList": [{**PROMPT, "nodeId": "115"}]}, 803,
         "NODE_INFO_MISMATCH(nodeId=115, fieldName=text, reason=node_not_found_in_workflow)"),
        ({"nodeInfoList": [{**PROMPT, "fieldName": "txet"}]}, 803,
         "reason=field_not_found_in_node_inputs)"),
        ({"nodeInfoList": [{**PROMPT, "fieldValue": None}]}, 803, "reason=field_value_is_null"),
        ({"nodeInfoList": [{**PROMPT, "fieldName": "clip"}]}, 803, "reason=field_is_a_link"),
        ({"workflow": '{"1": {"class_type": "SaveImage", "inputs": {}}}',
          "nodeInfoList": [{"nodeId": "1", "fieldName": "a", "fieldValue": 1}]}, 803,
         "NODE_INFO_MISMATCH(nodeId=1"),
    ],
)  # fmt: skip
def test_a_workflow_that_cannot_be_started_says_why(
    fields: dict[str, Any], code: int, word: str
) -> None:
    """In either envelope the same code; an own graph does not excuse the placeholder's list."""

    async def use(client: Client) -> None:
        told = await create(client, **fields)
        assert (told["code"], told["data"]) == (code, None)
        assert word in told["msg"]
        key = fields.get("workflowId", WORKFLOW)
        if key:
            told = await client.post(f"{V2}run/workflow/{key}", fields)
            assert told["errorCode"] == str(code)
            assert "taskId" not in told

    stats = emulated(use)
    assert (stats.accepted, stats.refused) == (0, stats.submits)


def test_a_password_opens_a_workflow_and_its_graph_comes_twice_encoded() -> None:
    """With `accessPassword`; the `__value__` wrapper is in the graph."""

    async def use(client: Client) -> None:
        made = await create(client, workflowId=LOCKED, accessPassword="open-sesame")
        assert made["code"] == 0
        told = await v1(client, "/api/openapi/getJsonApiFormat", workflowId=LOCKED)
        graph = json.loads(json.loads(told["data"]["prompt"]))
        assert graph["9"]["inputs"]["with_metadata"] == {"__value__": [False, True]}
        told = await v1(client, "/api/openapi/getJsonApiFormat", workflowId=WORKFLOW)
        assert set(json.loads(told["data"]["prompt"])) == {str(n) for n in range(3, 11)}
        missing = await v1(client, "/api/openapi/getJsonApiFormat", workflowId="5")
        assert missing["code"] == 380

    emulated(use)


def test_an_own_graph_replaces_the_saved_one_and_is_validated() -> None:
    """Node errors come with an id; where nothing can run, that task fails."""

    async def use(client: Client) -> None:
        graph: dict[str, Any] = {
            "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["77", 0]}},
            "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
        }
        made = await create(client, workflow=json.dumps(graph))
        tips = json.loads(made["data"]["promptTips"])
        assert (tips["result"], tips["outputs_to_execute"]) == (False, [])
        assert tips["node_errors"]["1"]["dependent_outputs"] == ["2"]
        done = await outputs(client, made["data"]["taskId"])
        assert (done["code"], done["msg"]) == (805, "APIKEY_TASK_STATUS_ERROR")
        graph["3"] = {"class_type": "SaveAudioMP3", "inputs": {}}
        made = await create(client, workflow=json.dumps(graph))
        tips = json.loads(made["data"]["promptTips"])
        assert (tips["result"], tips["outputs_to_execute"]) == (True, ["3"])
        (item,) = (await outputs(client, made["data"]["taskId"]))["data"]
        assert (item["nodeId"], item["fileType"]) == ("3", "mp3")
        steps = {"nodeId": "3", "fieldName": "steps", "fieldValue": "many"}
        made = await create(client, nodeInfoList=[steps])
        assert "3" in json.loads(made["data"]["promptTips"])["node_errors"]
        fine = await create(client, nodeInfoList=[{**steps, "fieldValue": "12"}])
        assert json.loads(fine["data"]["promptTips"])["node_errors"] == {}

    emulated(use, duration=1.0)


def test_the_pictures_of_a_workflow_have_its_size_and_number() -> None:
    """`batch_size` many, as large as the empty latent, each with the words in the nodes."""

    async def use(client: Client) -> None:
        def latent(field: str, value: Any) -> dict[str, Any]:
            return {"nodeId": "5", "fieldName": field, "fieldValue": value}

        changes = [latent("width", "640"), latent("height", 320), latent("batch_size", 2)]
        pictures = set()
        for text in ("a boat", "a lake"):
            said = {**PROMPT, "fieldValue": text}
            made = await create(client, nodeInfoList=[*changes, said])
            items = (await outputs(client, made["data"]["taskId"]))["data"]
            assert [item["nodeId"] for item in items] == ["9", "9"]
            for item in items:
                _, body, _ = await fetch(client, item["fileUrl"])
                assert decode(body)[:2] == (640, 320)
                pictures.add(body)
        assert len(pictures) == 4

    emulated(use, drawing=True, duration=0)


def test_a_task_is_about_the_text_in_its_nodes() -> None:
    """What was written into them; else what stands there, for a fault's `match` as for pictures."""

    async def use(client: Client) -> None:
        written = await create(client, nodeInfoList=[PROMPT])
        assert (await outputs(client, written["data"]["taskId"]))["code"] == 0
        seed = {"nodeId": "3", "fieldName": "seed", "fieldValue": "1231231"}
        as_it_was = await create(client, nodeInfoList=[seed])
        assert (await outputs(client, as_it_was["data"]["taskId"]))["code"] == 805

    faults = [Fault(on="task", kind="fail", match="a paper boat on a lake")]
    emulated(use, duration=1.0, faults=faults)


def test_an_ai_app_is_described_and_run() -> None:
    """`apiCallDemo` lists inputs of every type; the id may be a number or text. What is no app is
    code 1 for the older endpoints and 901 for the newer."""

    async def use(client: Client) -> None:
        demo = (await client.get(f"/api/webapp/apiCallDemo?apiKey=any-key&webappId={APP}"))["data"]
        nodes = demo["nodeInfoList"]
        assert {node["fieldType"] for node in nodes} == {
            "STRING", "INT", "FLOAT", "BOOLEAN", "LIST", "SWITCH", "IMAGE", "AUDIO", "VIDEO",
        }  # fmt: skip
        data = {n["fieldType"]: json.loads(n["fieldData"]) for n in nodes if n["fieldData"]}
        assert data["LIST"] == [["euler", "dpmpp_2m", "ddim"], {"default": "euler"}]
        combo = [json.loads(n["fieldData"]) for n in nodes if n["fieldName"] == "scheduler"]
        assert combo == [["COMBO", {"options": ["normal", "karras"], "default": "normal"}]]
        assert data["SWITCH"] == ["1", "2", "3"]
        assert isinstance(demo["statisticsInfo"]["likeCount"], str)
        with pytest.raises(json.JSONDecodeError):
            json.loads(demo["curl"].partition(" -d ")[2].strip("'"))
        for webapp in (APP, int(APP)):
            run = await v1(client, TASK + "ai-app/run", webappId=webapp, nodeInfoList=nodes)
            assert (run["code"], run["data"]["taskStatus"]) == (0, "QUEUED")
        for path, fields, code in (
            ("ai-app/run", {"webappId": "5", "nodeInfoList": []}, 1),
            ("ai-app/run", {"webappId": APP}, 301),
            ("ai-app/run", {"webappId": APP, "nodeInfoList": [{**PROMPT, "nodeId": "99"}]}, 803),
        ):
            assert (await v1(client, TASK + path, **fields))["code"] == code
        absent = await client.get("/api/webapp/apiCallDemo?apiKey=k&webappId=5")
        assert (absent["code"], absent["msg"]) == (1, "webapp not exists")
        newer = await client.post(f"{V2}run/ai-app/{APP}", {"nodeInfoList": [PROMPT]})
        assert (newer["status"], newer["errorCode"]) == ("QUEUED", "")
        assert (await client.post(f"{V2}run/ai-app/5", {}))["errorCode"] == "901"

    emulated(use)


def test_quick_create_has_styles_and_takes_any_code() -> None:
    """Parameter data by type, with the API's own spelling; its tasks are composite."""

    async def use(client: Client) -> None:
        params = {"type": 2, "webappId": QUICK}
        async with client.http.post(
            client.url + "/api/fast/creation/model/params", json=params
        ) as answer:
            styles = (await answer.json())["data"]
        assert len(styles) == 3
        assert all(s["type"] == 2 and s["modelKey"] == "input1" for s in styles)
        assert "modelLoar1FileName" in styles[0]
        fields = {"webappId": QUICK, "nodeInfoList": [PROMPT]}
        run = await v1(client, TASK + "quick-ai-app/run", quickCreateCode="002", **fields)
        assert run["code"] == 0
        asked = await client.post(QUERY, {"taskId": run["data"]["taskId"]})
        assert asked["taskUsageList"][0]["parentTaskId"] == asked["parentTaskId"]
        assert (await v1(client, TASK + "quick-ai-app/run", **fields))["code"] == 301

    emulated(use)


def test_cancelling_a_workflow_bills_what_it_ran() -> None:
    """Query says CANCEL, status FAILED, outputs 805; the rest of the money comes back."""

    async def use(client: Client) -> None:
        task_id = (await create(client))["data"]["taskId"]
        whole = float((await client.get("/_emulator/stats"))["money"])
        await asyncio.sleep(20)
        assert (await v1(client, TASK + "cancel", taskId=task_id))["data"] is None
        assert 0 < float((await client.get("/_emulator/stats"))["money"]) < whole / 2
        assert (await v1(client, TASK + "status", taskId=task_id))["data"] == "FAILED"
        assert (await v1(client, TASK + "outputs", taskId=task_id))["code"] == 805
        assert (await client.post(QUERY, {"taskId": task_id}))["status"] == "CANCEL"
        assert (await v1(client, TASK + "cancel", taskId=task_id))["code"] == 1

    emulated(use, duration=100.0)


def test_a_failed_workflow_tells_of_its_node() -> None:
    """The traceback is a list within a string, in both envelopes; models have no such thing."""

    async def use(client: Client) -> None:
        task_id = (await create(client))["data"]["taskId"]
        told = await outputs(client, task_id)
        assert told["code"] == 805
        reason = told["data"]["failedReason"]
        assert set(reason) == {
            "current_outputs", "exception_type", "node_name", "current_inputs", "traceback",
            "node_id", "exception_message",
        }  # fmt: skip
        assert isinstance(json.loads(reason["traceback"]), list)
        newer = await client.post(QUERY, {"taskId": task_id})
        assert (newer["status"], newer["errorCode"]) == ("FAILED", "1000")
        assert newer["failedReason"] == reason
        model = await client.submit()
        assert (await client.result(model["taskId"]))["failedReason"] == {}

    emulated(use, duration=1.0, faults=[Fault(on="task", kind="fail", code="1000")])


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("POST", TASK + "creat", 412),
        ("POST", "/uc/openapi/nothing", 412),
        ("GET", TASK + "create", 1009),
    ],
)
def test_older_paths_that_are_none(method: str, path: str, code: int) -> None:
    """A mis-spelt path falls to the route for login tokens."""

    async def use(client: Client) -> None:
        async with client.http.request(method, client.url + path) as answer:
            assert (await answer.json())["code"] == code

    emulated(use)


@pytest.mark.parametrize("task_id", [None, "", ["5"], {}])
def test_what_is_no_task_id_is_a_wrong_parameter(task_id: Any) -> None:
    """301 in the older envelope, 1007 in the newer; lists of ids included. Unknown is 807."""

    async def use(client: Client) -> None:
        for path in ("status", "outputs", "cancel"):
            assert (await v1(client, TASK + path, taskId=task_id))["code"] == 301
            assert (await v1(client, TASK + path, taskId="5"))["code"] == 807
        assert (await client.post(QUERY, {"taskId": task_id}))["errorCode"] == "1007"
        assert (await client.post(QUERY, {"taskIds": ["5", "6"]}))["errorCode"] == "1007"

    emulated(use)


# -- keys and limits ------------------------------------------------------------------------------

OLDER = [
    TASK + path for path in ("create", "ai-app/run", "quick-ai-app/run", "status", "outputs",
                             "cancel", "getWebhookDetail", "retryWebhook")
] + ["/api/openapi/getJsonApiFormat", "/api/openapi/getLoraUploadUrl"]  # fmt: skip


@pytest.mark.parametrize("path", OLDER)
def test_older_endpoints_take_the_key_in_the_body_or_as_bearer(path: str) -> None:
    """301 "user not exist" without a good one in either place; 802 where that was chosen."""

    async def use(client: Client) -> None:
        for body, headers, good in (
            ({"apiKey": "secret"}, {}, True),
            ({}, {"Authorization": "Bearer secret"}, True),
            ({"apiKey": "wrong"}, {}, False),
            ({"apikey": "secret"}, {}, False),
            ({}, {"Authorization": "secret"}, False),
        ):
            async with client.http.post(client.url + path, json=body, headers=headers) as answer:
                told = await answer.json()
            assert ((told["code"], told["msg"]) != refusal) == good

    refusal: tuple[int, str] = (301, "user not exist")
    emulated(use, api_key="secret")
    refusal = (802, "APIKEY_UNAUTHORIZED")
    emulated(use, api_key="secret", bad_key="802")


def test_the_account_wants_its_key_in_lower_case() -> None:
    """806 for a wrong one; money is text, in the site's currency."""

    async def use(client: Client) -> None:
        async def ask(body: dict[str, str]) -> Any:
            async with client.http.post(
                client.url + "/uc/openapi/accountStatus", json=body
            ) as answer:
                return await answer.json()

        wrong = await ask({"apiKey": "secret"})
        assert (wrong["code"], wrong["msg"]) == (806, "APIKEY_USER_NOT_FOUND")
        data = (await ask({"apikey": "secret"}))["data"]
        assert (data["remainMoney"], data["currency"], data["apiType"]) == ("999", "USD", "SHARED")

    emulated(use, api_key="secret", site="ai")


@pytest.mark.parametrize(
    ("bad_key", "status", "told"),
    [("806", 200, {"errorCode": "806"}), ("1002", 200, {"errorCode": "1002"}),
     ("1601", 200, {"errorCode": "1601"}), ("802", 200, {"errorCode": "802"}),
     ("401", 401, {"code": -1, "msg": "ApiKey verification failed"})],
)  # fmt: skip
def test_a_bad_key_is_answered_as_ordered(bad_key: Any, status: int, told: dict[str, Any]) -> None:
    """On submits, queries and price previews of the newer kind."""

    async def use(client: Client) -> None:
        for path in (SUBMIT, QUERY, V2 + "price-preview/seedream-v5-lite/text-to-image"):
            async with client.http.post(
                client.url + path, json=BODY, headers={"Authorization": "Bearer x"}
            ) as answer:
                assert answer.status == status
                assert told.items() <= (await answer.json()).items()

        async with client.http.post(client.url + TASK + "create", json={"apiKey": "x"}) as answer:
            assert answer.status == status
            older = {"401": -1, "802": 802}.get(bad_key, 301)
            assert (await answer.json())["code"] == older

    emulated(use, api_key="secret", bad_key=bad_key)


def test_a_task_id_that_is_none_is_judged_before_the_key() -> None:
    """1007 with a wrong key too; an id that might be one is 806 with a wrong key, else 1004."""

    async def use(client: Client) -> None:
        wrong = {"Authorization": "Bearer x"}
        right = {"Authorization": "Bearer secret"}
        for task_id, headers, code in (
            ("0", wrong, "1007"), ("0", right, "1007"), ("abc", wrong, "1007"),
            ("2100773838112505858", wrong, "806"), ("2100773838112505858", right, "1004"),
        ):  # fmt: skip
            told = await client.post(QUERY, {"taskId": task_id}, headers)
            assert (told["errorCode"], told["status"]) == (code, "")

    emulated(use, api_key="secret")


def test_only_shared_keys_may_call_models() -> None:
    """1014 for a submit and for a price, while workflows go on."""

    async def use(client: Client) -> None:
        assert (await client.submit())["errorCode"] == "1014"
        price = await client.post(V2 + "price-preview/seedream-v5-lite/text-to-image", BODY)
        assert price["errorCode"] == "1014"
        assert (await create(client))["code"] == 0
        assert (await client.get(V2 + "queue/status"))["data"]["apiKeyType"] == "EXCLUSIVE"

    emulated(use, key_type="EXCLUSIVE")


def test_all_families_share_one_cap() -> None:
    """421 with the family's words, until a task ends."""

    async def use(client: Client) -> None:
        first = await create(client)
        await client.submit()
        told = await create(client)
        assert (told["code"], told["msg"], told["data"]) == (421, "TASK_QUEUE_MAXED", None)
        assert (await client.post(f"{V2}run/workflow/{WORKFLOW}", {}))["errorCode"] == "421"
        assert (await client.submit())["errorCode"] == "421"
        account = await client.post("/uc/openapi/accountStatus", {"apikey": "k"})
        assert account["data"]["currentTaskCounts"] == "2"
        await v1(client, TASK + "cancel", taskId=first["data"]["taskId"])
        assert (await create(client))["code"] == 0

    emulated(use, max_concurrency=2)


def test_an_exclusive_key_has_a_queue_of_its_own() -> None:
    """415 without `usePersonalQueue`; with it tasks wait their turn, and the 1001st gets 814."""

    async def use(client: Client) -> None:
        running = (await create(client))["data"]["taskId"]
        assert (await create(client))["code"] == 415
        queued = [
            (await create(client, usePersonalQueue=use))["data"]["taskId"] for use in (True, "true")
        ]
        seen = []
        for task_id in (running, *queued):
            while (await v1(client, TASK + "status", taskId=task_id))["data"] != "SUCCESS":
                await asyncio.sleep(20)
            seen.append([(await v1(client, TASK + "status", taskId=t))["data"] for t in queued])
        assert [first == "SUCCESS" for first, _ in seen] == [False, True, True]
        assert seen[0][1] == "QUEUED"
        assert [second == "SUCCESS" for _, second in seen] == [False, False, True]
        codes = [(await create(client, usePersonalQueue=True))["code"] for _ in range(1002)]
        assert codes == [0] * 1001 + [814]

    emulated(use, key_type="EXCLUSIVE", max_concurrency=1, duration=1000.0)


# -- the newer endpoints --------------------------------------------------------------------------


def test_a_price_preview_costs_nothing_and_makes_no_task() -> None:
    """All documented fields; the catalogue's figure in the site's currency; 1001 and 1007."""

    async def use(client: Client) -> None:
        path = V2 + "price-preview/seedream-v5-lite/text-to-image"
        price = await client.post(path, BODY)
        assert list(price) == [
            "errorCode", "errorMessage", "estimatedPrice", "currency", "priceText", "priceTextEn",
            "freeLimit", "freeLimitCount", "remainingFreeLimitCount", "isFreeThisCall",
        ]  # fmt: skip
        assert (price["estimatedPrice"], price["currency"]) == ("0.22", "CNY")
        assert (await client.post(path, {}))["errorCode"] == "1007"
        assert (await client.post(V2 + "price-preview/no/model", {}))["errorCode"] == "1001"

    stats = emulated(use)
    assert (stats.submits, stats.calls, stats.accepted, stats.money) == (0, 3, 0, "0")


def test_lists_come_in_pages_of_fifty_at_most() -> None:
    """Resources of every kind and apps, 120 each; a raw key will do for apps."""

    async def use(client: Client) -> None:
        for kind, ending in (("UNET", ".safetensors"), ("CHECKPOINT", ".safetensors"),
                             ("LORA", ".safetensors"), ("GGUF", ".gguf")):  # fmt: skip
            names = set()
            for page in (1, 2, 3):
                body = {"resourceType": kind, "current": page, "size": 50}
                data = (await client.post(V2 + "resource/list", body))["data"]
                assert (data["total"], data["pages"], data["hasNext"]) == (120, 3, page < 3)
                names |= {record["nodeModelName"] for record in data["records"]}
            assert len(names) == 120
            assert all(name.endswith(ending) for name in names)
        few = {"resourceType": "LORA", "resourceName": "-01", "baseModels": ["FLUX.1"]}
        found = (await client.post(V2 + "resource/list", few))["data"]["records"]
        assert found
        assert all("-01" in r["resourceName"] and r["baseModel"] == "FLUX.1" for r in found)
        body = {"resourceType": "LORA", "size": 51}
        assert (await client.post(V2 + "resource/list", body))["code"] == 301
        raw = {"Authorization": "any-key"}
        apps = await client.post(V2 + "aiapp/list", {"current": 3, "size": 50}, raw)
        assert len(apps["data"]["records"]) == 20
        assert {"title", "description", "cover", "invokeExample"} <= set(apps["data"]["records"][0])
        assert (await fetch(client, apps["data"]["records"][0]["cover"]))[2] == "image/png"
        newest = await client.post(V2 + "aiapp/list", {"sort": "NEWEST"})
        assert newest["data"]["records"][0]["title"] == "Emulated app 120"

    emulated(use)


def test_keys_are_listed_masked() -> None:
    """Never the whole key."""

    async def use(client: Client) -> None:
        headers = {"Authorization": "Bearer 46eb0123456789abcdef0123456e6340"}
        async with client.http.get(client.url + V2 + "api-key/list", headers=headers) as answer:
            (key,) = (await answer.json())["data"]
        assert key["key"] == "46eb0********e6340"
        assert (key["status"], key["quotaLimit"]) == (1, None)

    emulated(use)


@pytest.mark.parametrize("shelf", ["assets/", "assets/groups/"])
def test_assets_and_their_groups_are_kept(shelf: str) -> None:
    """Created, listed, changed, deleted; what is not there is 301, another verb 1001."""

    async def use(client: Client) -> None:
        async def ask(verb: str, **fields: Any) -> Any:
            return await client.post(V2 + shelf + verb, fields)

        made = (await ask("create", name="hero"))["data"]
        assert made["name"] == "hero"
        await ask("update", id=made["id"], name="villain")
        assert (await ask("query", id=made["id"]))["data"]["name"] == "villain"
        assert (await ask("query", ids=[made["id"]]))["data"][0]["id"] == made["id"]
        assert (await ask("list", current=1, size=10))["data"]["total"] == 1
        assert (await ask("delete", id=made["id"]))["code"] == 0
        assert (await ask("query", id=made["id"]))["code"] == 301
        assert (await ask("list"))["data"]["records"] == []
        assert (await ask("burn"))["errorCode"] == "1001"

    emulated(use)


def test_own_workflows_and_apps_can_be_added() -> None:
    """As a plain graph or list of inputs, or with all their properties."""
    graph = {"1": {"class_type": "SaveVideo", "inputs": {"fps": 24}}}
    workflows = {"5": graph, "6": Workflow(graph, password="p")}
    locked = App("Locked", (PROMPT,), (("2", "png"),), password="p")
    apps: dict[str, Any] = {"7": [{**PROMPT, "fieldType": "STRING"}],
                            "8": App("Sound", (PROMPT,), (("2", "wav"),)),
                            "9": locked}  # fmt: skip

    async def use(client: Client) -> None:
        made = await create(client, workflowId="5")
        done = await outputs(client, made["data"]["taskId"])
        assert [item["fileType"] for item in done["data"]] == ["mp4"]
        assert (await create(client, workflowId="6"))["code"] == 301
        for password, code in (("q", 301), ("p", 0)):
            fields = {"webappId": "9", "nodeInfoList": [PROMPT], "accessPassword": password}
            assert (await v1(client, TASK + "ai-app/run", **fields))["code"] == code
        for webapp, kind in (("7", "png"), ("8", "wav")):
            run = await client.post(f"{V2}run/ai-app/{webapp}", {"nodeInfoList": [PROMPT]})
            results = (await client.result(run["taskId"]))["results"]
            assert [result["outputType"] for result in results] == [kind]

    emulated(use, duration=1.0, workflows=workflows, apps=apps)
    with pytest.raises(ValueError, match="workflows"):
        Emulator(workflows={"5": {"nodes": []}})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="key_type"):
        Emulator(key_type="shared")  # type: ignore[arg-type]


# -- files ----------------------------------------------------------------------------------------


def boxes(data: bytes, start: int = 0) -> dict[bytes, tuple[int, bytes]]:
    """The boxes of an MP4 at one level, each with where its content starts."""
    found, at = {}, 0
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        assert 8 <= size <= len(data) - at
        found[kind] = (start + at + 8, data[at + 8 : at + size])
        at += size
    return found


def check_mp4(body: bytes) -> None:
    """One video track of H.264, every sample of which is in the file; the index comes first."""
    top = boxes(body)
    assert list(top)[:2] == [b"ftyp", b"moov"]
    mdia = boxes(boxes(boxes(top[b"moov"][1])[b"trak"][1])[b"mdia"][1])
    assert mdia[b"hdlr"][1][8:12] == b"vide"
    stbl = boxes(boxes(mdia[b"minf"][1])[b"stbl"][1])
    sizes = struct.unpack(">12I", stbl[b"stsz"][1][12:])
    (offset,) = struct.unpack(">I", stbl[b"stco"][1][8:12])
    assert offset >= top[b"mdat"][0]
    assert offset + sum(sizes) == top[b"mdat"][0] + len(top[b"mdat"][1])
    entry = boxes(stbl[b"stsd"][1][8:])[b"avc1"][1]
    assert struct.unpack(">2H", entry[24:28]) == (480, 270)
    assert b"avcC" in boxes(entry[78:])


def check_mp3(body: bytes) -> None:
    """Frame after frame of MPEG-1 layer III, without a byte between them."""
    at = frames = 0
    while at < len(body):
        sync, layer, rate = body[at], body[at + 1], body[at + 2]
        assert (sync, layer, rate) == (0xFF, 0xFB, 0x10)
        at += 144 * 32000 // 44100
        frames += 1
    assert (at, frames) == (len(body), 38)


def check_glb(body: bytes) -> None:
    """The header's length is the file's, and its scene is JSON."""
    magic, version, length = struct.unpack("<4sII", body[:12])
    assert (magic, version, length) == (b"glTF", 2, len(body))
    size, kind = struct.unpack("<I4s", body[12:20])
    assert kind == b"JSON"
    assert json.loads(body[20 : 20 + size])["asset"]["version"] == "2.0"


def check_wav(body: bytes) -> None:
    """A second of sound, or of its absence."""
    with wave.open(io.BytesIO(body)) as sound:
        assert sound.getnframes() == sound.getframerate()


def test_every_kind_of_file_is_whole() -> None:
    """MP4, MP3, GLB and text from one app; text has no URL in newer answers, a file in older."""

    async def use(client: Client) -> None:
        run = await client.post(f"{V2}run/ai-app/{MEDIA_APP}", {"nodeInfoList": [PROMPT]})
        results = (await client.result(run["taskId"]))["results"]
        kinds = {"mp4": ("video/mp4", check_mp4), "mp3": ("audio/mpeg", check_mp3),
                 "glb": ("model/gltf-binary", check_glb)}  # fmt: skip
        assert [result["outputType"] for result in results] == [*kinds, "txt"]
        for result in results[:3]:
            status, body, kind = await fetch(client, result["url"])
            wanted, check = kinds[result["outputType"]]
            assert (status, kind) == (200, wanted)
            check(body)
        assert results[3]["url"] is None
        assert "paper boat" in results[3]["text"]
        text = (await outputs(client, run["taskId"]))["data"][3]
        assert (await fetch(client, text["fileUrl"]))[1].decode() == results[3]["text"]

    emulated(use, drawing=True, duration=0)


def test_sound_is_wav_where_that_is_asked_for() -> None:
    """By a model's `format`, and by a node's."""

    async def use(client: Client) -> None:
        task = await client.post(V2 + "minimax/music-2.6", {"format": "wav"})
        (result,) = (await client.result(task["taskId"]))["results"]
        check_wav((await fetch(client, result["url"]))[1])
        graph = {"1": {"class_type": "SaveAudio", "inputs": {"format": "wav"}}}
        made = await create(client, workflow=json.dumps(graph))
        (item,) = (await outputs(client, made["data"]["taskId"]))["data"]
        assert item["fileType"] == "wav"
        check_wav((await fetch(client, item["fileUrl"]))[1])

    emulated(use, drawing=True, duration=0)


def test_result_urls_run_out_and_a_query_gives_fresh_ones() -> None:
    """403 after `url_lifetime` seconds."""

    async def use(client: Client) -> None:
        task = await client.result((await client.submit())["taskId"])
        old = task["results"][0]["url"]
        await asyncio.sleep(61)
        assert (await fetch(client, old))[0] == 403
        fresh = (await client.post(QUERY, {"taskId": task["taskId"]}))["results"][0]["url"]
        assert fresh != old
        assert await fetch(client, fresh) == (200, b"<html>not a picture</html>", "image/png")

    # Drawing takes a thread, which the virtual clock would not see.
    faults = [Fault(on="result", kind="garbage")]
    emulated(use, duration=1.0, url_lifetime=60.0, faults=faults)


# -- uploads --------------------------------------------------------------------------------------


async def upload(client: Client, path: str, data: bytes, name: str, **fields: str) -> Any:
    form = aiohttp.FormData()
    for key, value in fields.items():
        form.add_field(key, value)
    form.add_field("file", data, filename=name)
    headers = {} if fields else {"Authorization": "Bearer any-key"}
    async with client.http.post(client.url + path, data=form, headers=headers) as answer:
        return answer.status, await answer.json()


def test_the_older_upload_wants_the_key_in_the_form() -> None:
    """`api/<sha256>.png`; an archive's name is bare; 809 above the limit; 301 without a key."""

    async def use(client: Client) -> None:
        path = TASK + "upload"
        data = b"--x\r\n\r\n" * 100
        digest = hashlib.sha256(data).hexdigest()
        status, told = await upload(client, path, data, "a.png", apiKey="k", fileType="input")
        assert (status, told["code"]) == (200, 0)
        assert told["data"] == {"fileName": f"api/{digest}.png", "fileType": "input"}
        _, told = await upload(client, path, data, "a.zip", apiKey="k")
        assert told["data"]["fileName"] == f"api/{digest}"
        _, told = await upload(client, path, b"x" * 100_000, "a.png", apiKey="k")
        assert (told["code"], told["msg"]) == (809, "APIKEY_FILE_SIZE_EXCEEDED")
        _, told = await upload(client, path, data, "a.png", fileType="input")
        assert (told["code"], told["msg"]) == (301, "user not exist")

    assert emulated(use, upload_limit=2000).uploads == 4


def test_an_upload_may_be_refused_for_a_moment_with_a_good_key() -> None:
    """HTTP 401 and code -1, then as if nothing had been; the newer one in its own envelope."""

    async def use(client: Client) -> None:
        path = TASK + "upload"
        status, told = await upload(client, path, b"x", "a.png", apiKey="k")
        assert (status, told) == (401, {"code": -1, "msg": "ApiKey verification failed"})
        assert (await upload(client, path, b"x", "a.png", apiKey="k"))[1]["code"] == 0
        _, told = await upload(client, V2 + "media/upload/binary", b"x", "a.png")
        assert told == {"code": 808, "message": "APIKEY_UPLOAD_FAILED", "data": None}

    faults = [
        Fault(on="upload", kind="refuse", code="-1", times=1),
        Fault(on="upload", kind="refuse", code="808", after=1),
    ]
    emulated(use, faults=faults)


def test_only_so_many_uploads_are_kept() -> None:
    """The first one goes when the 65th comes: its URL is 404."""

    async def use(client: Client) -> None:
        urls = []
        for number in range(65):
            data = b"picture %d" % number
            _, told = await upload(client, V2 + "media/upload/binary", data, "a.png")
            urls.append(told["data"]["download_url"])
        assert (await fetch(client, urls[0]))[0] == 404
        for number in (1, 64):
            assert (await fetch(client, urls[number]))[:2] == (200, b"picture %d" % number)

    emulated(use)


def test_a_lora_is_put_where_it_was_told_to_and_once() -> None:
    """The digest must fit, the URL runs out after an hour, and is missing for what is there."""

    async def use(client: Client) -> None:
        data = b"weights" * 10_000
        md5 = hashlib.md5(data).hexdigest()

        async def place() -> Any:
            told = await v1(client, "/api/openapi/getLoraUploadUrl", loraName="boat", md5Hex=md5)
            return told["data"]

        async def put(url: str, body: bytes) -> int:
            headers = {"Content-Type": "application/octet-stream"}
            async with client.http.put(url, data=body, headers=headers) as answer:
                return answer.status

        told = await place()
        assert told["fileName"] == f"api-lora-cn/{md5}.safetensors"
        assert await put(told["url"], b"other") == 400
        assert await put(told["url"] + "0", data) == 403
        await asyncio.sleep(3700)
        assert await put(told["url"], data) == 403
        assert await put((await place())["url"], data) == 200
        assert list(await place()) == ["fileName"]
        assert (await v1(client, "/api/openapi/getLoraUploadUrl", loraName="x"))["code"] == 301

    assert emulated(use).uploads == 4


def test_the_storage_of_loras_may_refuse_one_for_a_moment() -> None:
    """HTTP 403, as of a storage; then a large one arrives whole."""

    async def use(client: Client) -> None:
        data = b"weights" * 200_000
        md5 = hashlib.md5(data).hexdigest()
        told = await v1(client, "/api/openapi/getLoraUploadUrl", loraName="boat", md5Hex=md5)
        for status in (403, 200):
            async with client.http.put(told["data"]["url"], data=io.BytesIO(data)) as answer:
                assert answer.status == status
        again = await v1(client, "/api/openapi/getLoraUploadUrl", loraName="boat", md5Hex=md5)
        assert list(again["data"]) == ["fileName"]

    emulated(use, drawing=True, faults=[Fault(on="upload", kind="refuse", times=1)])


# -- webhooks -------------------------------------------------------------------------------------


@asynccontextmanager
async def receiver(
    answer: Callable[[int], Awaitable[web.Response]] | None = None,
) -> AsyncIterator[tuple[str, asyncio.Queue[bytes]]]:
    """Somebody who waits to be told: its URL, and the bodies that came."""
    got: asyncio.Queue[bytes] = asyncio.Queue()
    count = 0

    async def handle(request: web.BaseRequest) -> web.Response:
        nonlocal count
        assert request.content_type == "application/json"
        body = await request.read()
        count += 1
        answered = await answer(count) if answer is not None else web.Response(text="thanks")
        got.put_nowait(body)
        return answered

    runner = web.ServerRunner(web.Server(handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    try:
        yield f"http://{host}:{port}/hook?secret=s", got
    finally:
        await runner.cleanup()


def check_a(event: Any, task_id: str) -> None:
    told = json.loads(event["eventData"])
    assert (told["code"], told["data"][0]["fileType"]) == (0, "png")


def check_b(event: Any, task_id: str) -> None:
    told = event["eventData"]
    assert (told["taskId"], told["status"]) == (task_id, "SUCCESS")
    assert told["results"][0]["outputType"] == "png"


def check_c(event: Any, task_id: str) -> None:
    told = event["eventData"]
    assert (told["code"], told["data"]["status"]) == (0, "SUCCESS")


def check_d(event: Any, task_id: str) -> None:
    assert event["status"] == "SUCCESS"
    assert "event" not in event


@pytest.mark.parametrize(
    ("form", "older", "check"),
    [
        ("auto", True, check_a), ("auto", False, check_b), ("A", False, check_a),
        ("B", True, check_b), ("C", True, check_c), ("D", False, check_d),
    ],
)  # fmt: skip
def test_a_webhook_comes_in_each_form(form: Any, older: bool, check: Any) -> None:
    """Text within JSON for older endpoints, objects for newer ones, others on request."""

    async def use(client: Client) -> None:
        async with receiver() as (url, got):
            if older:
                task_id = (await create(client, webhookUrl=url))["data"]["taskId"]
            else:
                task_id = (await client.submit(webhookUrl=url))["taskId"]
            event = json.loads(await got.get())
            assert event["taskId"] == task_id
            assert event.get("event", "TASK_END") == "TASK_END"
            check(event, task_id)

    assert emulated(use, duration=5.0, webhook_form=form).webhooks == 1


def test_a_delivery_is_repeated_until_it_is_taken() -> None:
    """Three times, `webhook_gap` apart; a redirect is not followed; the record tells of it."""

    async def use(client: Client) -> None:
        async def answer(count: int) -> web.Response:
            if count == 1:
                return web.Response(status=500, text="not now")
            if count == 2:
                return web.Response(status=302, headers={"Location": client.url})
            if count == 3:
                await asyncio.sleep(30)
            return web.Response(text="thanks")

        async with receiver(answer) as (url, got):
            task_id = (await create(client, webhookUrl=url))["data"]["taskId"]
            early = await v1(client, TASK + "getWebhookDetail", taskId=task_id)
            assert (early["code"], early["msg"]) == (1, "webhook event not exists")
            bodies = {await got.get() for _ in range(3)}
            assert len(bodies) == 1
            for _ in range(50):
                detail = (await v1(client, TASK + "getWebhookDetail", taskId=task_id))["data"]
                if detail["callbackStatus"] == "SUCCESS":
                    break
                await asyncio.sleep(10)
            assert set(detail) == {
                "id", "userApiKey", "taskId", "webhookUrl", "eventData", "callbackStatus",
                "callbackResponse", "retryCount", "createTime", "updateTime",
            }  # fmt: skip
            assert (detail["callbackResponse"], detail["retryCount"]) == ("thanks", 3)
            assert (detail["webhookUrl"], detail["userApiKey"]) == (url, "********")
            assert isinstance(detail["eventData"], str)
            assert detail["createTime"] < detail["updateTime"]
            while not got.empty():
                got.get_nowait()
            again = await v1(client, TASK + "retryWebhook", webhookId=detail["id"])
            assert (again["code"], again["msg"], again["data"]) == (0, "", None)
            assert await got.get() in bodies
            assert (await v1(client, TASK + "retryWebhook", webhookId="5"))["code"] == 1

    assert emulated(use, duration=5.0).webhooks == 5


def test_an_event_can_be_sent_elsewhere_when_nobody_took_it() -> None:
    """FAILED after the last retry; `retryWebhook` with a new URL."""

    async def use(client: Client) -> None:
        task_id = (await create(client, webhookUrl="http://127.0.0.1:1/nobody"))["data"]["taskId"]
        await asyncio.sleep(200)
        detail = (await v1(client, TASK + "getWebhookDetail", taskId=task_id))["data"]
        assert (detail["callbackStatus"], detail["retryCount"]) == ("FAILED", 2)
        async with receiver() as (url, got):
            fields = {"webhookId": detail["id"], "webhookUrl": url}
            await v1(client, TASK + "retryWebhook", **fields)
            assert json.loads(await got.get())["taskId"] == task_id

    emulated(use, duration=5.0, webhook_retries=2)


def test_cancelled_and_failed_tasks_are_told_of_too() -> None:
    """CANCEL at once, and 805 with the node's failure."""

    async def use(client: Client) -> None:
        async with receiver() as (url, got):
            run = await client.post(f"{V2}run/workflow/{WORKFLOW}", {"webhookUrl": url})
            await v1(client, TASK + "cancel", taskId=run["taskId"])
            assert json.loads(await got.get())["eventData"]["status"] == "CANCEL"
            failing = {**PROMPT, "fieldValue": "something forbidden"}
            await create(client, webhookUrl=url, nodeInfoList=[failing])
            told = json.loads(json.loads(await got.get())["eventData"])
            assert (told["code"], told["data"]["failedReason"]["node_id"]) == (805, "3")

    faults = [Fault(on="task", kind="fail", match="forbidden")]
    assert emulated(use, faults=faults).webhooks == 2


def test_webhooks_get_lost_doubled_late_and_garbled_as_ordered() -> None:
    """By the prompt, so that each task has its own fate."""

    async def use(client: Client) -> None:
        async with receiver() as (url, got):

            async def fate(kind: str) -> str:
                said = {**PROMPT, "fieldValue": f"this one is {kind}"}
                made = await create(client, webhookUrl=url, nodeInfoList=[said])
                return str(made["data"]["taskId"])

            double = await fate("doubled")
            assert [json.loads(await got.get())["taskId"] for _ in range(3)] == [double] * 3
            await fate("garbled")
            assert (await got.get()).startswith(b"<html>")
            lost, late = await fate("lost"), await fate("late")
            before = asyncio.get_running_loop().time()
            assert json.loads(await got.get())["taskId"] == late
            assert asyncio.get_running_loop().time() - before > 500
            detail = (await v1(client, TASK + "getWebhookDetail", taskId=lost))["data"]
            assert detail["callbackStatus"] == "FAILED"

    faults = [
        Fault(on="webhook", kind="duplicate", match="doubled", times_each=2),
        Fault(on="webhook", kind="garbage", match="garbled"),
        Fault(on="webhook", kind="lost", match="is lost"),
        Fault(on="webhook", kind="delay", match="late", seconds=500),
    ]
    assert emulated(use, duration=2.0, faults=faults).webhooks == 5


def test_leaving_the_emulator_ends_deliveries_under_way() -> None:
    """Neither timers nor retries outlive it."""

    async def main() -> int:
        async with receiver() as (url, got):
            async with Emulator(duration=5.0) as emulator, aiohttp.ClientSession() as http:
                client = Client(emulator.url, http)
                await create(client, webhookUrl="http://127.0.0.1:1/nobody")
                await asyncio.sleep(20)
                await create(client, webhookUrl=url)
            await asyncio.sleep(1000)
            assert emulator.stats.webhooks == 1
            assert len(asyncio.all_tasks()) == 1
            return got.qsize()

    assert run_virtual(main) == 0


# -- sockets --------------------------------------------------------------------------------------


async def hear(socket: aiohttp.ClientWebSocketResponse) -> tuple[list[Any], list[bytes]]:
    texts, binaries = [], []
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            texts.append(json.loads(message.data))
        else:
            binaries.append(message.data)
    return texts, binaries


async def progress_url(client: Client, task_id: str) -> str:
    while (told := await v1(client, TASK + "outputs", taskId=task_id))["code"] == 813:
        await asyncio.sleep(0.5)
    return str(told["data"]["netWssUrl"])


def test_progress_is_told_in_comfyuis_messages() -> None:
    """Status, start, cached, every node in its order, one preview, success; then it closes."""

    async def use(client: Client) -> None:
        task_id = (await create(client))["data"]["taskId"]
        url = await progress_url(client, task_id)
        for part in ("c_host=", "c_port=", "clientId=", f"workflowId={WORKFLOW}", "Rh-Comfy-Auth="):
            assert part in url
        async with client.http.ws_connect(url) as socket:
            texts, binaries = await hear(socket)
        kinds = [text["type"] for text in texts]
        assert kinds[:3] == ["status", "execution_start", "execution_cached"]
        assert kinds[-3:] == ["executed", "executing", "execution_success"]
        nodes = [text["data"]["node"] for text in texts if text["type"] == "executing"]
        assert nodes[-2:] == ["9", None]
        assert set(nodes) == {"3", "4", "5", "6", "7", "8", "9", None}
        assert nodes.index("4") < nodes.index("6") < nodes.index("3") < nodes.index("8")
        progress = [text["data"] for text in texts if text["type"] == "progress"]
        assert {"value", "max", "node", "prompt_id"} == set(progress[0])
        assert all(each["prompt_id"] == task_id for each in progress)
        (preview,) = binaries
        assert preview[:8] == struct.pack(">II", 1, 2)
        assert decode(preview[8:])[:2] == (64, 64)
        assert (await v1(client, TASK + "outputs", taskId=task_id))["code"] == 0

    emulated(use, duration=60.0)


@pytest.mark.parametrize("end", ["execution_error", "execution_interrupted"])
def test_progress_breaks_off_when_a_run_does(end: str) -> None:
    """With the node's failure, or because somebody cancelled it."""

    async def use(client: Client) -> None:
        task_id = (await create(client))["data"]["taskId"]
        async with client.http.ws_connect(await progress_url(client, task_id)) as socket:
            if end == "execution_interrupted":
                await v1(client, TASK + "cancel", taskId=task_id)
            texts, _ = await hear(socket)
        assert texts[-1]["type"] == end
        assert "execution_success" not in [text["type"] for text in texts]

    faults = [Fault(on="task", kind="fail")] if end == "execution_error" else []
    emulated(use, duration=60.0, faults=faults)


def test_progress_wants_its_token() -> None:
    """403 for a wrong one."""

    async def use(client: Client) -> None:
        task_id = (await create(client))["data"]["taskId"]
        url = await progress_url(client, task_id)
        for wrong in (url + "0", url.partition("&Rh-Comfy-Auth")[0]):
            with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
                await client.http.ws_connect(wrong)
            assert caught.value.status == 403

    emulated(use, duration=60.0)


@pytest.mark.parametrize("base", ["/proxy/any-key", "/proxy-plus/any-key"])
def test_comfyuis_own_interface_runs_a_prompt(base: str) -> None:
    """Queue, upload, prompt, socket, history and view, without any envelope."""

    async def use(client: Client) -> None:
        async def get(path: str) -> Any:
            async with client.http.get(client.url + base + path) as answer:
                return await answer.json()

        assert (await get("/prompt"))["exec_info"] == {"queue_remaining": 0}
        form = aiohttp.FormData()
        form.add_field("image", b"png", filename="mine.png")
        async with client.http.post(f"{client.url}{base}/upload/image", data=form) as answer:
            assert await answer.json() == {"name": "mine.png", "subfolder": "", "type": "input"}
        assert (await fetch(client, f"{client.url}{base}/view?filename=mine.png"))[1] == b"png"
        info = await get("/object_info")
        assert "KSampler" in info
        told = await v1(client, "/api/openapi/getJsonApiFormat", workflowId=WORKFLOW)
        graph = json.loads(told["data"]["prompt"])
        async with client.http.ws_connect(f"{client.url}{base}/ws?clientId=me") as socket:
            assert (await socket.receive_json())["type"] == "status"
            body = {"prompt": graph, "client_id": "me"}
            async with client.http.post(f"{client.url}{base}/prompt", json=body) as answer:
                made = await answer.json()
            assert list(made) == ["prompt_id", "number", "node_errors"]
            assert await get(f"/history/{made['prompt_id']}") == {}
            kinds = []
            while "execution_success" not in kinds:
                message = await socket.receive()
                if message.type is WSMsgType.TEXT:
                    kinds.append(json.loads(message.data)["type"])
        history = (await get(f"/history/{made['prompt_id']}"))[made["prompt_id"]]
        assert history["status"]["completed"] is True
        (image,) = history["outputs"]["9"]["images"]
        query = f"filename={image['filename']}&subfolder=&type=output"
        status, picture, _ = await fetch(client, f"{client.url}{base}/view?{query}")
        assert status == 200
        assert decode(picture)[:2] == (512, 512)

    stats = emulated(use, drawing=True, duration=0.05)
    assert (stats.submits, stats.accepted) == (1, 1)


def test_a_prompt_needs_no_socket_and_a_slot() -> None:
    """Nobody has to listen; 421 beyond the limit; 400 for an upload without a file; a path that is
    none is an error in the newer form."""

    async def use(client: Client) -> None:
        base = client.url + "/proxy/any-key"
        told = await v1(client, "/api/openapi/getJsonApiFormat", workflowId=WORKFLOW)
        body = {"prompt": json.loads(told["data"]["prompt"]), "client_id": "nobody"}
        async with client.http.post(f"{base}/prompt", json=body) as answer:
            assert list(await answer.json()) == ["prompt_id", "number", "node_errors"]
        async with client.http.post(f"{base}/prompt", json=body) as answer:
            assert (await answer.json())["code"] == 421
        async with client.http.post(f"{base}/upload/image", data={"x": "y"}) as answer:
            assert answer.status == 400
        async with client.http.get(f"{base}/nowhere") as answer:
            assert (await answer.json())["errorCode"] == "1001"

    stats = emulated(use, max_concurrency=1, duration=100.0)
    assert (stats.accepted, stats.refused) == (1, 1)


def test_a_client_that_connects_again_is_told_on_its_new_socket() -> None:
    """Also where the old one is closed only afterwards, as after a lost network."""

    async def use(client: Client) -> None:
        base = client.url + "/proxy/any-key"
        told = await v1(client, "/api/openapi/getJsonApiFormat", workflowId=WORKFLOW)
        body = {"prompt": json.loads(told["data"]["prompt"]), "client_id": "me"}
        old = await client.http.ws_connect(f"{base}/ws?clientId=me")
        assert (await old.receive_json())["type"] == "status"
        async with client.http.ws_connect(f"{base}/ws?clientId=me") as new:
            assert (await new.receive_json())["type"] == "status"
            await old.close()
            async with client.http.post(f"{base}/prompt", json=body) as answer:
                made = await answer.json()
            while (told := await new.receive_json())["type"] != "execution_start":
                pass
            assert told["data"]["prompt_id"] == made["prompt_id"]

    emulated(use, drawing=True, duration=0.05)


def test_the_proxys_key_is_in_its_path_and_object_info_looks_at_none() -> None:
    """Any key lists the nodes; a wrong one gets nowhere else; a bad graph is HTTP 400."""

    async def use(client: Client) -> None:
        assert (await fetch(client, client.url + "/proxy/INVALID/object_info"))[0] == 200
        status, body, _ = await fetch(client, client.url + "/proxy/INVALID/prompt")
        assert (status, json.loads(body)["code"]) == (401, -1)
        for prompt in ({}, {"1": {"class_type": "KSampler", "inputs": {}}}):
            async with client.http.post(
                client.url + "/proxy/secret/prompt", json={"prompt": prompt}
            ) as answer:
                assert answer.status == 400
                assert "node_errors" in await answer.json()

    emulated(use, api_key="secret")


# -- faults ---------------------------------------------------------------------------------------

OLD_CODES = [
    1, 301, 380, 401, 403, 412, 414, 415, 416, 421, 423, 433, 435, 436, 500, 801, 802, 803, 804,
    805, 806, 807, 808, 809, 810, 811, 812, 813, 814, 901,
]  # fmt: skip
NEW_CODES = [
    *range(1000, 1016), 1101, 1501, 1502, 1503, *range(1504, 1521), 1601,
    421, 433, 414, 415, 416, 805, 812,
]  # fmt: skip


@pytest.mark.parametrize("code", sorted({*OLD_CODES, *NEW_CODES}))
def test_every_code_can_be_had_from_every_family(code: int) -> None:
    """A number with its word in older envelopes, text in newer ones, and no task."""

    async def use(client: Client) -> None:
        for told in (
            await create(client),
            await v1(client, TASK + "ai-app/run", webappId=APP, nodeInfoList=[]),
            await v1(client, TASK + "outputs", taskId="5"),
            await v1(client, TASK + "status", taskId="5"),
            await v1(client, TASK + "cancel", taskId="5"),
        ):
            assert (told["code"], told["data"]) == (code, None)
            assert told["msg"]
        for path in (SUBMIT, f"{V2}run/workflow/{WORKFLOW}", f"{V2}run/ai-app/{APP}"):
            told = await client.post(path, BODY)
            assert list(told) == ["errorCode", "errorMessage"]
            assert told["errorCode"] == str(code)
            assert told["errorMessage"]
        told = await client.post(QUERY, {"taskId": "5"})
        assert (told["status"], told["errorCode"], told["taskId"]) == ("", str(code), "")
        told = await client.get(V2 + "queue/status")
        assert told["code"] == code
        assert told["msg"]

    faults = [Fault(on=on, kind="refuse", code=str(code)) for on in ("submit", "query", "call")]
    stats = emulated(use, faults=faults)
    assert (stats.submits, stats.refused, stats.queries, stats.calls) == (5, 5, 3, 2)


def test_minus_one_is_http_401_everywhere() -> None:
    """As the gateway refuses, whoever was asked."""

    async def use(client: Client) -> None:
        for path in (TASK + "create", SUBMIT, QUERY, "/uc/openapi/accountStatus"):
            headers = {"Authorization": "Bearer k"}
            async with client.http.post(client.url + path, json={}, headers=headers) as answer:
                assert answer.status == 401
                assert (await answer.json())["code"] == -1

    faults = [Fault(on=on, kind="refuse", code="-1") for on in ("submit", "query", "call")]
    emulated(use, faults=faults)


@pytest.mark.parametrize("status", [200, 400])
def test_the_http_status_of_newer_errors_can_be_chosen(status: int) -> None:
    """Only of requests that went wrong, not of tasks that did."""

    async def use(client: Client) -> None:
        headers = {"Authorization": "Bearer k"}
        for path, body, wanted in (
            (SUBMIT, {}, status), (QUERY, {"taskId": "0"}, status), (SUBMIT, BODY, 200),
            (V2 + "resource/list", {}, status), (TASK + "create", {}, 200),
        ):  # fmt: skip
            async with client.http.post(client.url + path, json=body, headers=headers) as answer:
                assert answer.status == wanted
                told = await answer.json()
        task_id = (await client.submit())["taskId"]
        await asyncio.sleep(60)
        async with client.http.post(
            client.url + QUERY, json={"taskId": task_id}, headers=headers
        ) as answer:
            assert answer.status == 200
            told = await answer.json()
        assert told["status"] == "FAILED"

    emulated(use, error_status=status, faults=[Fault(on="task", kind="fail", code="1501")])


def test_an_error_can_come_with_a_task() -> None:
    """421 together with an id; the task is there and is billed."""

    async def use(client: Client) -> None:
        told = await client.submit()
        assert (told["errorCode"], told["status"]) == ("421", "RUNNING")
        assert (await client.result(told["taskId"]))["status"] == "SUCCESS"
        older = await create(client)
        assert (older["code"], older["msg"]) == (421, "TASK_QUEUE_MAXED")
        assert (await outputs(client, older["data"]["taskId"]))["code"] == 0

    stats = emulated(use, faults=[Fault(on="submit", kind="both", code="421")])
    assert (stats.accepted, stats.refused, stats.billed) == (2, 0, 2)


def test_a_fresh_task_can_be_unknown_at_first() -> None:
    """1004 and 807 for its first seconds."""

    async def use(client: Client) -> None:
        task_id = (await client.submit())["taskId"]
        assert (await client.post(QUERY, {"taskId": task_id}))["errorCode"] == "1004"
        assert (await v1(client, TASK + "status", taskId=task_id))["code"] == 807
        await asyncio.sleep(2.1)
        assert (await client.post(QUERY, {"taskId": task_id}))["errorCode"] == ""

    emulated(use, faults=[Fault(on="task", kind="hidden", seconds=2)])


def test_a_task_can_succeed_without_results() -> None:
    """Null in the newer answer, an empty list in the older."""

    async def use(client: Client) -> None:
        task = await client.result((await client.submit())["taskId"])
        assert (task["status"], task["results"]) == ("SUCCESS", None)
        assert (await outputs(client, task["taskId"]))["data"] == []

    emulated(use, faults=[Fault(on="task", kind="empty")])


def test_results_can_come_in_another_order() -> None:
    """Nobody promised one."""

    async def use(client: Client) -> None:
        run = await client.post(f"{V2}run/ai-app/{MEDIA_APP}", {})
        results = (await client.result(run["taskId"]))["results"]
        assert [each["outputType"] for each in results] == ["txt", "glb", "mp3", "mp4"]

    emulated(use, faults=[Fault(on="task", kind="reorder")])


def test_outputs_can_be_there_before_their_data() -> None:
    """Code 0 with null while it runs, CREATE in the newer answer; stale text is another matter."""

    async def use(client: Client) -> None:
        task_id = (await create(client))["data"]["taskId"]
        told = await v1(client, TASK + "outputs", taskId=task_id)
        assert (told["code"], told["data"]) == (0, None)
        assert (await client.post(QUERY, {"taskId": task_id}))["status"] == "CREATE"
        assert (await client.post(QUERY, {"taskId": task_id}))["status"] == "QUEUED"

    emulated(use, faults=[Fault(on="query", kind="unready", times=2)])


@pytest.mark.parametrize("path", [TASK + "create", TASK + "outputs", "/uc/openapi/accountStatus"])
@pytest.mark.parametrize("kind", ["rate", "status", "garbage", "half", "drop", "reset"])
def test_faults_strike_the_older_endpoints_too(path: str, kind: Any) -> None:
    """Each kind in each place."""

    async def use(client: Client) -> None:
        body = {"apiKey": "k", "apikey": "k", "workflowId": WORKFLOW, "taskId": "5"}
        try:
            async with client.http.post(client.url + path, json=body) as answer:
                text = await answer.read()
        except aiohttp.ClientConnectionError:
            assert kind in ("drop", "reset")
        else:
            assert (answer.status, answer.headers.get("Retry-After")) == {
                "rate": (429, "7"), "status": (503, None),
            }.get(kind, (200, None))  # fmt: skip
            if kind in ("garbage", "half"):
                with pytest.raises(ValueError, match=r"."):
                    json.loads(text)
        if path.endswith("create"):
            made = (await client.get("/_emulator/stats"))["accepted"]
            assert made == (kind not in ("rate", "drop"))

    faults = [Fault(on=on, kind=kind, seconds=7) for on in ("submit", "query", "call")]
    emulated(use, faults=faults)


@pytest.mark.parametrize("kind", ["status", "garbage", "half"])
def test_nothing_is_created_where_that_is_ordered(kind: Any) -> None:
    """`created` False: the answer is spoilt before anything was done."""

    async def use(client: Client) -> None:
        headers = {"Authorization": "Bearer k"}
        async with client.http.post(client.url + SUBMIT, json=BODY, headers=headers) as answer:
            assert (answer.status, b"taskId" in await answer.read()) == (
                503 if kind == "status" else 200, False,
            )  # fmt: skip

    stats = emulated(use, faults=[Fault(on="submit", kind=kind, created=False)])
    assert (stats.submits, stats.accepted, stats.refused) == (1, 0, 1)


# -- the record -----------------------------------------------------------------------------------


def test_what_arrived_can_be_looked_at() -> None:
    """Method, target, headers in lower case and the start of the body, of every request."""

    async def main() -> tuple[Emulator, Stats]:
        async with Emulator(duration=0) as emulator, aiohttp.ClientSession() as http:
            client = Client(emulator.url, http)
            await client.submit(prompt="x" * 5000)
            await client.get("/_emulator/stats?a=1")
            await upload(client, TASK + "upload", b"y" * 9000, "a.png", apiKey="in-the-form")
        return emulator, emulator.stats

    emulator, stats = run_virtual(main)
    submit, asked, sent = emulator.requests
    assert (submit.method, submit.target) == ("POST", SUBMIT)
    assert submit.headers["authorization"] == "Bearer any-key"
    assert submit.body_start.startswith(b'{"prompt": "xxx')
    assert len(submit.body_start) == 2048
    assert (asked.method, asked.target, asked.body_start) == (
        "GET", "/_emulator/stats?a=1", b"",
    )  # fmt: skip
    assert b"in-the-form" in sent.body_start
    assert emulator.requests.maxlen == 10_000
    assert (stats.submits, stats.uploads, stats.calls) == (1, 1, 0)


ODD: list[Any] = [
       None, True, 0, -1, 1e308, "", "0", "²", "9" * 5000, "\ud800", [], [[]], {}, {"a": 1},
       [{"nodeId": "6", "fieldName": "text", "fieldValue": "\ud800"}],
       [{"nodeId": [], "fieldName": {}, "fieldValue": []}],
       '{"1": {"class_type": "SaveImage", "inputs": {"batch_size": Infinity, "a": ["1", 0]}}}',
       '{"1": {"class_type": "SaveImage", "inputs": {"width": NaN, "height": -5}}}']  # fmt: skip
FIELDS = ["taskId", "workflowId", "webappId", "nodeInfoList", "workflow", "retainSeconds", "size",
          "current", "baseModels", "resourceType", "quickCreateCode", "md5Hex", "loraName", "type",
          "instanceType", "webhookId", "prompt", "id", "ids", "width", "sort"]  # fmt: skip
EVERYWHERE = [
    *OLDER, "/api/fast/creation/model/params", "/uc/openapi/accountStatus", QUERY, SUBMIT,
    V2 + "resource/list", V2 + "aiapp/list", V2 + "assets/query", V2 + "assets/update",
    V2 + "assets/list", f"{V2}run/workflow/{WORKFLOW}", f"{V2}run/ai-app/{APP}",
    f"{V2}run/ai-app/\u00b2", V2 + "media/upload/binary", TASK + "upload", "/proxy/k/prompt",
    V2 + "price-preview/seedream-v5-lite/text-to-image",
]  # fmt: skip


@pytest.mark.parametrize("path", EVERYWHERE)
def test_odd_input_is_answered_and_not_stumbled_over(path: str) -> None:
    """Any JSON in any field, and bodies that are no objects: never HTTP 500."""

    async def use(client: Client) -> None:
        fine = {"apiKey": "k", "apikey": "k", "workflowId": WORKFLOW, "webappId": APP,
                "resourceType": "LORA", "quickCreateCode": "002", "nodeInfoList": []}  # fmt: skip
        bodies = [{**fine, field: value} for field in FIELDS for value in ODD]
        headers = {"Authorization": "Bearer k"}
        for body in (*bodies, *ODD):
            text = json.dumps(body)
            async with client.http.post(client.url + path, data=text, headers=headers) as answer:
                assert answer.status in (200, 400), text
                json.loads(await answer.read())

    emulated(use, max_concurrency=None)
