"""Requests for workflows, apps and quick creates: what they send, and what they refuse to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import runninghub_async as rh
from runninghub_async.testing import MockTransport, json_response, run

ID = "1904136902449209346"
HOOK = "https://hooks.example/1"


def sent(request: Any, **options: Any) -> tuple[str, dict[str, Any]]:
    """Path and body of the submit."""
    answer = {"code": 0, "msg": "success", "data": {"taskId": 1910246754753896450}}
    transport = MockTransport(lambda _: json_response(answer))

    async def main() -> None:
        async with rh.Session("a-key", transport=transport, **options) as session:
            task = await session.submit(request)
            # An id beyond 2**53, which came as a number.
            assert task.id == "1910246754753896450"

    run(main)
    (request_,) = transport.requests
    return request_.url.removeprefix("https://www.runninghub.ai"), json.loads(request_.body or b"")


ITEM = {"nodeId": "6", "fieldName": "text", "fieldValue": "1 girl in classroom"}
NODES = {"6": {"text": "1 girl in classroom"}}
V1 = {
    "addMetadata": True, "instanceType": "plus", "usePersonalQueue": True, "retainSeconds": 180,
    "accessPassword": "p", "webhookUrl": HOOK,
}  # fmt: skip
V2 = {k: v for k, v in V1.items() if k != "accessPassword"}


@pytest.mark.parametrize(
    ("request_", "path", "body"),
    [
        (rh.WorkflowRequest(ID), "/task/openapi/create", {"apiKey": "a-key", "workflowId": ID}),
        (
            rh.WorkflowRequest(
                ID, NODES, add_metadata=True, instance_type="plus", use_personal_queue=True,
                retain_seconds=180, access_password="p", webhook_url=HOOK,
            ),
            "/task/openapi/create",
            {"apiKey": "a-key", "workflowId": ID, "nodeInfoList": [ITEM], **V1},
        ),
        (
            rh.WorkflowRequest(
                ID, NODES, add_metadata=True, instance_type="plus", use_personal_queue=True,
                retain_seconds=180, webhook_url=HOOK, api="v2",
            ),
            f"/openapi/v2/run/workflow/{ID}",
            {"nodeInfoList": [ITEM], **V2},
        ),
        (rh.WorkflowRequest(ID, api="v2"), f"/openapi/v2/run/workflow/{ID}", {"nodeInfoList": []}),
        (
            rh.AppRequest(
                ID, NODES, instance_type="ultra", access_password="p", quick_create_code="002",
                webhook_url=HOOK,
            ),
            "/task/openapi/ai-app/run",
            {
                "apiKey": "a-key", "webappId": ID, "nodeInfoList": [ITEM], "instanceType": "ultra",
                "accessPassword": "p", "quickCreateCode": "002", "webhookUrl": HOOK,
            },
        ),
        (
            rh.AppRequest(ID, NODES, use_personal_queue=False, retain_seconds=10, api="v2"),
            f"/openapi/v2/run/ai-app/{ID}",
            {"nodeInfoList": [ITEM], "usePersonalQueue": False, "retainSeconds": 10},
        ),
        (
            rh.QuickCreateRequest(ID, "002", NODES, webhook_url=HOOK),
            "/task/openapi/quick-ai-app/run",
            {
                "apiKey": "a-key", "webappId": ID, "quickCreateCode": "002",
                "nodeInfoList": [ITEM], "webhookUrl": HOOK,
            },
        ),
    ],
)  # fmt: skip
def test_a_run_is_sent_as_its_page_says(request_: Any, path: str, body: dict[str, Any]) -> None:
    """Path, key and fields; what was not given is not sent."""
    assert sent(request_) == (path, body)


def test_the_key_can_be_left_out_of_the_body() -> None:
    """For keys that the older API takes by the header alone."""
    assert sent(rh.WorkflowRequest(ID), key_in_body=False)[1] == {"workflowId": ID}


GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["6", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}},
}


def test_a_graph_goes_out_as_text_with_the_values_in_it() -> None:
    """A nodeInfoList beside it would be held against the saved workflow, and refused."""
    _, body = sent(rh.WorkflowRequest(ID, {6: {"text": "b"}}, graph=GRAPH))
    assert set(body) == {"apiKey", "workflowId", "workflow"}
    filled = json.loads(body["workflow"])
    assert filled["6"]["inputs"] == {"text": "b"}
    assert filled["3"] == GRAPH["3"]
    assert GRAPH["6"]["inputs"] == {"text": "a"}


@pytest.mark.parametrize(
    ("request_", "problems"),
    [
        (rh.WorkflowRequest(""), ["workflow"]),
        (rh.WorkflowRequest("0"), ["workflow"]),
        (rh.WorkflowRequest(7), ["workflow"]),  # type: ignore[arg-type]
        (rh.WorkflowRequest(ID, retain_seconds=9), ["retain_seconds"]),
        (rh.WorkflowRequest(ID, retain_seconds=181), ["retain_seconds"]),
        (rh.WorkflowRequest(ID, retain_seconds=True), ["retain_seconds"]),
        (rh.WorkflowRequest(ID, ["6"]), ["nodes"]),  # type: ignore[arg-type]
        (rh.WorkflowRequest(ID, {"6": "text"}), ["nodes.6"]),  # type: ignore[dict-item]
        (rh.WorkflowRequest(ID, {"6": {"text": None}}), ["nodes.6.text"]),
        (rh.WorkflowRequest(ID, graph={}), ["graph"]),
        (rh.WorkflowRequest(ID, graph={"3": {"inputs": {}}}), ["graph.3"]),
        (
            rh.WorkflowRequest(ID, graph={"3": {"class_type": "A", "inputs": {"x": ["9", 0]}}}),
            ["graph.3.x"],
        ),
        (rh.WorkflowRequest(ID, {"9": {"x": 1}}, graph=GRAPH), ["nodes.9"]),
        (rh.WorkflowRequest(ID, {"6": {"y": 1}}, graph=GRAPH), ["nodes.6.y"]),
        (rh.WorkflowRequest(ID, {"3": {"positive": "x"}}, graph=GRAPH), ["nodes.3.positive"]),
        (rh.WorkflowRequest(ID, {"6": {"text": Path("x")}}, graph=GRAPH), ["nodes.6.text"]),
        (
            rh.WorkflowRequest(ID, graph=GRAPH, access_password="p", api="v2"),
            ["graph", "access_password"],
        ),
        (
            rh.WorkflowRequest(ID, graph={"3": {"class_type": "A", "inputs": {"x": Path("y")}}}),
            ["graph.3.x"],
        ),
        (rh.WorkflowRequest(ID, webhook_url="hooks.example"), ["webhook_url"]),
        (rh.AppRequest(ID, webhook_url="ftp://x"), ["webhook_url"]),
        (rh.QuickCreateRequest(ID, "002", webhook_url=""), ["webhook_url"]),
        (rh.SeedreamV4("a poster", webhook_url="hooks"), ["webhookUrl"]),
        (
            rh.ModelRequest(
                "seedream-v4/text-to-image",
                {"prompt": "a boat", "webhookUrl": 5, "retainSeconds": 5000, "instanceType": ""},
            ),
            ["webhookUrl", "retainSeconds", "instanceType"],
        ),
        (
            rh.WorkflowRequest(
                ID,
                use_personal_queue="true",  # type: ignore[arg-type]
                instance_type=5,  # type: ignore[arg-type]
                add_metadata="no",  # type: ignore[arg-type]
                access_password=3,  # type: ignore[arg-type]
            ),
            ["add_metadata", "instance_type", "use_personal_queue", "access_password"],
        ),
        (rh.WorkflowRequest(ID, {"": {"x": 1}}), ["nodes."]),
        (rh.WorkflowRequest(ID, {"6": {"": 1}}), ["nodes.6"]),
        (rh.AppRequest(rh.App(ID, needs_password=True)), ["access_password"]),
        (rh.WorkflowRequest(ID, api="v3"), ["api"]),  # type: ignore[arg-type]
        (rh.AppRequest("x"), ["app"]),
        (rh.AppRequest(ID, retain_seconds=20), ["retain_seconds"]),
        (rh.AppRequest(ID, use_personal_queue=True), ["use_personal_queue"]),
        (
            rh.AppRequest(ID, access_password="p", quick_create_code="1", api="v2"),
            ["access_password", "quick_create_code"],
        ),
        (rh.QuickCreateRequest(ID, ""), ["code"]),
        (rh.QuickCreateRequest("a", "002"), ["app"]),
    ],
)
def test_every_fault_has_its_place(request_: Any, problems: list[str]) -> None:
    """All at once, and before anything is sent."""
    found = [problem.rpartition(" @ $.")[2] for problem in request_.check()]
    assert found == problems
    with pytest.raises(rh.PayloadError):
        sent(request_)


def test_a_password_is_not_shown() -> None:
    """Nor is the address of a webhook, which may hold a digest."""
    request = rh.WorkflowRequest(ID, access_password="hush", webhook_url="https://x/?sign=hush")
    assert "hush" not in repr(request)


_value = st.text() | st.integers() | st.booleans() | st.floats(allow_nan=False)


@given(
    st.dictionaries(st.integers(0, 999), st.dictionaries(st.text(min_size=1), _value, max_size=3))
)
def test_node_values_become_a_list_and_nothing_is_lost(nodes: dict[int, dict[str, Any]]) -> None:
    """One item for each value, its node's id as text."""
    items = rh.WorkflowRequest(ID, nodes, api="v2").to_params()["nodeInfoList"]
    back: dict[int, dict[str, Any]] = {key: {} for key in nodes}
    for item in items:
        assert set(item) == {"nodeId", "fieldName", "fieldValue"}
        back[int(item["nodeId"])][item["fieldName"]] = item["fieldValue"]
    assert back == nodes


def shown_app(**item: Any) -> rh.AppInput:
    """The input of an app whose call example has this one."""
    data = {"webappName": "x", "nodeInfoList": [{"nodeId": "6", "fieldName": "f", **item}]}
    transport = MockTransport(lambda _: json_response({"code": 0, "msg": "", "data": data}))

    async def main() -> rh.App:
        async with rh.Session("a-key", transport=transport) as session:
            return await session.apps.get(ID)

    (spot,) = run(main).inputs
    return spot


@pytest.mark.parametrize(
    ("data", "choices"),
    [
        ('["a", "b"]', ("a", "b")),
        ('[["a", "b"], {"default": "a"}]', ("a", "b")),
        ("[[1, 2.5, true], {}]", ("1", "2.5", "true")),
        ('[{"name": "A", "index": 1}, {"name": "B", "index": 2}]', ("1", "2")),
        ('[{"label": "A", "value": "a"}]', ("a",)),
        ('["COMBO", {"options": ["a", "b"]}]', ("a", "b")),
        ('["COMBO", ["a", "b"]]', ("a", "b")),
        ('["COMBO", {"default": "a"}]', ()),
        ('["COMBO"]', ()),
        ('{"options": ["a"]}', ("a",)),
        (["a", "b"], ("a", "b")),
        ("not json", ()),
        ("", ()),
        (None, ()),
        ("3", ()),
    ],
)
def test_an_inputs_choices_are_read_in_every_shape(data: Any, choices: tuple[str, ...]) -> None:
    """`fieldData` comes as JSON text, in whatever shape the node had; unread, anything passes."""
    spot = shown_app(fieldType="LIST", fieldData=data)
    assert spot.choices == choices
    assert bool(list(spot.check("zzz"))) == bool(choices)
    assert not any(list(spot.check(choice)) for choice in choices)


@pytest.mark.parametrize(
    ("kind", "data", "good", "bad"),
    [
        ("INT", '["INT", {"min": 1, "max": 9}]', [1, "7", 9], [0, 10, 1.5, "x", True, None, "nan"]),
        ("FLOAT", '["FLOAT", {"min": 0}]', [0, 1.5, "2.5"], [-1, "", [], "inf"]),
        ("BOOLEAN", None, [True, "false"], ["yes", 1, None]),
        ("STRING", None, ["", "text"], [1, None, ["x"]]),
        ("IMAGE", None, ["api/x.png", "https://x/y", Path("x.png")], ["", 5, None, Path("x.mp3")]),
        ("SWITCH", "[1, 2]", [1, "2"], [3, "a"]),
        ("COMBO", '["COMBO", {"options": ["a", "b"]}]', ["a", "b"], ["c", 1]),
        ("NEW", None, [object()], []),
    ],
)
def test_an_input_takes_what_its_type_takes(
    kind: str, data: Any, good: list[Any], bad: list[Any]
) -> None:
    """As the service's examples send it: numbers may be text."""
    spot = shown_app(fieldType=kind, fieldData=data)
    assert [value for value in good if list(spot.check(value))] == []
    assert [value for value in bad if not list(spot.check(value))] == []
