"""The service's documented examples and its table of codes, read through the public calls."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from routes import FILE, ID, ROUTES
from support import SAMPLES

import runninghub_async as rh
from runninghub_async import webhooks
from runninghub_async.testing import MockTransport, json_response, run

EXAMPLES: dict[str, Any] = json.loads((SAMPLES / "documented.json").read_text("utf-8"))


def read(route: str, answer: Any) -> Any:
    """What the call `route` makes of `answer`."""
    if route == "webhook":
        return webhooks.parse(json.dumps(answer).encode())

    async def main() -> Any:
        transport = MockTransport(lambda _: json_response(answer))
        retry = rh.RetryPolicy(attempts=1, call_attempts=1)
        # An answer may show another id than the one asked for.
        async with rh.Session("a-key", transport=transport, retry=retry) as session:
            asked = answer.get("taskId") if route == "query" else None
            return await (
                session.query(asked) if asked and asked.isdigit() else ROUTES[route](session)
            )

    return run(main)


def example(name: str) -> Any:
    return read(EXAMPLES[name]["read"], EXAMPLES[name]["answer"])


@pytest.mark.parametrize("name", [n for n, e in EXAMPLES.items() if "error" not in e])
def test_a_documented_example_is_a_value_and_plain_data_again(name: str) -> None:
    """Each is read; the value becomes JSON and, from there, the same value."""
    answer = EXAMPLES[name]["answer"]
    if EXAMPLES[name]["read"] == "query":
        answer["taskId"] = answer["taskId"] if answer["taskId"].isdigit() else ID
    value = read(EXAMPLES[name]["read"], answer)
    for each in value if isinstance(value, list) else [value]:
        plain = json.loads(json.dumps(rh.unstructure(each)))
        if each is None:
            assert plain is None
        elif isinstance(each, rh.Page):
            kind: Any = rh.Page[type(each.items[0])]  # type: ignore[misc]
            assert rh.structure(plain, kind) == each
        elif isinstance(each, rh.Task):
            # But for the one field that is a credential.
            assert rh.structure(plain, rh.Task) == attrs.evolve(each, progress_url="")
        else:
            assert rh.structure(plain, type(each)) == each


@pytest.mark.parametrize("name", [n for n, e in EXAMPLES.items() if "error" in e])
def test_a_documented_refusal_is_its_error(name: str) -> None:
    """The examples that say no."""
    with pytest.raises(getattr(rh, EXAMPLES[name]["error"])):
        read(EXAMPLES[name]["read"], EXAMPLES[name]["answer"])


def test_a_workflows_answer_is_a_task_like_any_other() -> None:
    """Id, status and client of the older envelope, and no node at fault."""
    task = example("5.1 create")
    assert (task.id, task.status) == ("1910246754753896450", rh.TaskStatus.QUEUED)
    assert (task.client_id, task.node_errors) == ("e825290b08ca2015b8f62f0bbdb5f5f6", ())


def test_the_older_outputs_tell_the_status_by_their_code() -> None:
    """0, 804, 813 and 805, with what belongs to each."""
    done, running = example("5.5 outputs, done"), example("5.5 outputs, running")
    queued, failed = example("5.5 outputs, queued"), example("5.5 outputs, failed")
    assert done.status is rh.TaskStatus.SUCCESS
    assert (done.outputs[0].type, done.outputs[0].node_id) == ("png", "9")
    assert done.usage == rh.Usage(coins=Decimal(17), seconds=Decimal(83))
    assert (running.status, queued.status) == (rh.TaskStatus.RUNNING, rh.TaskStatus.QUEUED)
    assert running.progress_url.startswith("wss://www.runninghub.cn:443/ws/c_instance")
    assert "Rh-Comfy-Auth" not in repr(running)
    assert failed.error.where == "node 276 (SONIC_PreData): TypeError: …"
    assert read("outputs", {"code": 0, "data": None}).status is rh.TaskStatus.RUNNING
    assert read("outputs", {"code": 0, "data": []}).status is rh.TaskStatus.SUCCESS


def test_counts_and_amounts_may_be_text() -> None:
    """The service writes numbers as strings, and leaves wallets null."""
    assert example("5.10 account") == rh.AccountStatus(Decimal(177814), key_type="NORMAL")
    assert example("3.6 queue status") == rh.QueueStatus(30, 1, 2, 3, "SHARED")
    assert example("3.4 price preview") == rh.PricePreview(
        Decimal("0.22"), "CNY", "0.22 CNY", free=False, free_left=0
    )
    assert example("7.1 upload").size == len(FILE)  # what was sent, not what the answer says


def test_an_app_of_the_list_knows_its_id() -> None:
    """Only its example call shows it."""
    assert example("3.6 apps").items[0].id == "1937084629516193794"
    assert example("3.6 apps").has_next


def test_an_apps_inputs_have_types_and_choices() -> None:
    """From the JSON texts of its call example."""
    text, ratio = example("5.8 an app").inputs
    assert (text.type, text.default, text.description) == ("STRING", "a boat", "prompt")
    assert (ratio.type, ratio.choices) == ("LIST", ("1:1", "16:9"))


@pytest.mark.parametrize("form", ["A", "B", "C", "D"])
def test_every_form_of_an_event_names_its_task(form: str) -> None:
    """Whatever holds the id, and however the status is given."""
    event = example(f"6.1 event, form {form}")
    assert event.task.id in ("1904163390028185602", "2015810049043947521")
    assert event.task.done
    assert event.name == ("" if form == "D" else "TASK_END")
    if form != "B":
        assert event.task.outputs[0].type == "png"


def test_code_1_speaks_of_the_key_in_words() -> None:
    """It stands for many things; a wrong key stops a stream whatever its code."""
    for words in ("API Key不存在", "ApiKey verification failed"):
        with pytest.raises(rh.AuthenticationError):
            read("upload", {"code": 1, "msg": words, "data": None})
    with pytest.raises(rh.InvalidRequestError):
        read("done", {"code": 1, "msg": "task cannot cancel"})


@pytest.mark.parametrize(
    ("code", "words", "error"),
    [
        (301, "user not exist", rh.AuthenticationError),
        (301, "User does not exist", rh.AuthenticationError),
        (301, "用户不存在", rh.AuthenticationError),
        (301, "PARAMS_INVALID", rh.InvalidRequestError),
        (301, "workflowId must be greater than 0", rh.InvalidRequestError),
        (301, "apiKey must not be null", rh.InvalidRequestError),
        (1, "webapp not exists", rh.NotFoundError),
        (1, "webhook event not exists", rh.NotFoundError),
        (1, "user not exist", rh.AuthenticationError),
        (1, "API Key不存在", rh.AuthenticationError),
        (806, "webapp not exists", rh.AuthenticationError),
    ],
)
@pytest.mark.parametrize("envelope", ["v1", "v2"])
def test_two_codes_are_told_apart_by_their_text(
    code: int, words: str, error: type[rh.APIError], envelope: str
) -> None:
    """301 and 1; in either envelope, for a submit as for a call, and nothing is sent again."""
    answer: dict[str, Any] = {"code": code, "msg": words, "data": None}
    if envelope == "v2":
        answer = {"errorCode": str(code), "errorMessage": words}
    transport = MockTransport(lambda _: json_response(answer))

    async def main() -> None:
        async with rh.Session("a-key", transport=transport) as session:
            await session.submit(rh.WorkflowRequest(ID))

    with pytest.raises(error) as caught:
        run(main)
    assert type(caught.value) is error
    assert (caught.value.code, len(transport.requests)) == (str(code), 1)
    with pytest.raises(error) as caught:
        read("workflow", answer)
    assert type(caught.value) is error


@pytest.mark.parametrize("size", ["1e999999", "9" * 400, "-1e400", 10**40, float("inf"), "NaN"])
def test_a_number_beyond_all_bounds_is_none(size: Any) -> None:
    """Neither counts nor amounts can be made of it, and nothing breaks."""
    data = {"remainCoins": size, "currentTaskCounts": size}
    assert read("account", {"code": 0, "data": data}) == rh.AccountStatus()
    usage = {"consumeMoney": size, "thirdPartyConsumeMoney": "1.5"}
    task = read("query", {"taskId": ID, "status": "SUCCESS", "usage": usage})
    assert task.usage.total_money == Decimal("1.5")


@pytest.mark.parametrize(
    "data", [None, 5, "x", [], {"id": 5, "x": 1}, {"status": "GONE", "id": "1"}]
)
def test_what_is_no_value_is_refused_by_name(data: Any) -> None:
    """One kind of error, whatever was given."""
    with pytest.raises(ValueError, match=r"."):
        rh.structure(data, rh.Task)


def test_outcomes_and_events_become_plain_data_too() -> None:
    """Pictures as base64 and back; errors by class and text; paths as text."""
    preview = rh.Preview("png", b"\x89PNG")
    assert rh.structure(json.loads(json.dumps(rh.unstructure(preview))), rh.Preview) == preview
    request = rh.SeedreamV5Lite("a boat", image_urls=Path("a.png"))
    failed = rh.Failed(index=0, request=request, error=rh.PayloadError(["prompt: no @ $"]))
    plain = json.loads(json.dumps(rh.unstructure(failed)))
    assert plain["error"] == {"type": "PayloadError", "message": "prompt: no @ $"}
    assert plain["request"]["image_urls"] == ["a.png"]


# -- codes --------------------------------------------------------------------------------------

NEVER, WAIT, OPEN = "refused", "waited for", "unknown"

#: Code, class of its error, what a submit that is answered with it comes to.
CODES = [
    ("-1", rh.AuthenticationError, NEVER), ("1", rh.InvalidRequestError, NEVER),
    ("301", rh.InvalidRequestError, NEVER), ("380", rh.NotFoundError, NEVER),
    ("401", rh.AuthenticationError, NEVER), ("403", rh.AuthenticationError, NEVER),
    ("412", rh.AuthenticationError, NEVER), ("414", rh.InsufficientBalanceError, NEVER),
    ("415", rh.CapacityError, WAIT), ("416", rh.InsufficientBalanceError, NEVER),
    ("421", rh.CapacityError, WAIT), ("423", rh.NotFoundError, OPEN),
    ("433", rh.InvalidRequestError, NEVER), ("435", rh.InvalidRequestError, NEVER),
    ("436", rh.PlanError, NEVER), ("500", rh.ServerError, OPEN),
    ("605", rh.InsufficientBalanceError, NEVER),
    ("801", rh.PlanError, NEVER), ("802", rh.AuthenticationError, NEVER),
    ("803", rh.InvalidRequestError, NEVER), ("804", rh.APIError, OPEN),
    ("805", rh.APIError, OPEN), ("806", rh.AuthenticationError, NEVER),
    ("807", rh.NotFoundError, OPEN), ("808", rh.ServerError, OPEN),
    ("809", rh.InvalidRequestError, NEVER), ("810", rh.InvalidRequestError, NEVER),
    ("811", rh.AuthenticationError, NEVER), ("812", rh.InsufficientBalanceError, NEVER),
    ("813", rh.APIError, OPEN), ("814", rh.CapacityError, WAIT),
    ("901", rh.NotFoundError, NEVER),
    ("1000", rh.ServerError, OPEN), ("1001", rh.InvalidRequestError, NEVER),
    ("1002", rh.AuthenticationError, NEVER), ("1003", rh.RateLimitError, WAIT),
    ("1004", rh.NotFoundError, OPEN), ("1005", rh.ServerError, OPEN),
    ("1006", rh.ServerError, OPEN), ("1007", rh.InvalidRequestError, NEVER),
    ("1008", rh.InvalidRequestError, NEVER), ("1009", rh.InvalidRequestError, NEVER),
    ("1010", rh.ServerError, OPEN), ("1011", rh.ServerError, OPEN),
    ("1012", rh.ServerError, OPEN), ("1013", rh.APIError, OPEN),
    ("1014", rh.PlanError, NEVER), ("1015", rh.APIError, OPEN),
    ("1101", rh.InvalidRequestError, NEVER), ("1501", rh.ContentPolicyError, NEVER),
    ("1502", rh.APIError, OPEN), ("1503", rh.APIError, OPEN), ("1504", rh.ServerError, OPEN),
    ("1505", rh.ContentPolicyError, NEVER), ("1506", rh.APIError, OPEN),
    *((str(code), rh.APIError, OPEN) for code in range(1507, 1516)),
    ("1516", rh.APIError, OPEN), ("1517", rh.APIError, OPEN), ("1518", rh.APIError, OPEN),
    ("1519", rh.APIError, OPEN), ("1520", rh.CapacityError, WAIT),
    ("1601", rh.AuthenticationError, NEVER),
]  # fmt: skip


@pytest.mark.parametrize(("code", "error", "fate"), CODES)
@pytest.mark.parametrize("envelope", ["errorCode", "code"])
def test_every_code_has_its_class_wherever_it_stands(
    code: str, error: type[rh.APIError], fate: str, envelope: str
) -> None:
    """In a submit of either envelope, a query without a status, and a FAILED task."""
    answers = iter(
        [
            {
                envelope: code if envelope == "errorCode" else int(code),
                "msg": "m",
                "errorMessage": "m",
            }
        ]
    )
    accepted = {"taskId": ID, "status": "RUNNING"}
    transport = MockTransport(lambda _: json_response(next(answers, accepted)))

    async def submit() -> None:
        async with rh.Session("a-key", transport=transport) as session:
            await session.submit(rh.SeedreamV5Lite("a poster of a paper boat"))

    if fate == WAIT:
        run(submit)
        assert len(transport.requests) == 2
    else:
        with pytest.raises(error if fate == NEVER else rh.SubmitUnknown) as caught:
            run(submit)
        assert len(transport.requests) == 1
        told = caught.value if fate == NEVER else caught.value.__cause__
        assert type(told) is error
        assert told.code == code


@pytest.mark.parametrize(("code", "error", "_fate"), CODES)
def test_every_code_has_its_class_in_a_query_and_in_a_failed_task(
    code: str, error: type[rh.APIError], _fate: str
) -> None:
    """Without a status the query has failed; with FAILED the task has, for this reason."""
    with pytest.raises(error) as caught:
        read("query", {"status": "", "errorCode": code, "errorMessage": "m"})
    assert type(caught.value) is error
    failed = {"taskId": ID, "status": "FAILED", "errorCode": code, "errorMessage": "m"}
    transport = MockTransport(
        lambda request: json_response(
            failed if request.url.endswith("/query") else {"taskId": ID, "status": "RUNNING"}
        )
    )

    async def main() -> None:
        async with rh.Session("a-key", transport=transport) as session:
            await session.run(rh.SeedreamV5Lite("a poster of a paper boat"))

    with pytest.raises(rh.TaskFailed) as ended:
        run(main)
    assert ended.value.code == code
    assert type(ended.value.reason) is error
