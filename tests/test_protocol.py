"""The wire contract, held against the service's own examples."""

from __future__ import annotations

import contextlib
import json
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support import FIRST_ID, refusal, sample

import runninghub_async as rh
from runninghub_async.testing import MockTransport, json_response, run

REQUEST = rh.SeedreamV5Lite("a poster of a paper boat")


def ask(answer: rh.Response | bytes, call: str = "submit", argument: Any = REQUEST) -> Any:
    """What `call` makes of `answer`."""
    response = answer if isinstance(answer, rh.Response) else rh.Response(200, answer)

    async def main() -> Any:
        transport = MockTransport(lambda _: response)
        retry = rh.RetryPolicy(attempts=1)
        async with rh.Session("a-key", transport=transport, retry=retry) as session:
            return await getattr(session, call)(argument)

    return run(main)


def query(answer: rh.Response | bytes) -> Any:
    return ask(answer, "query", str(FIRST_ID))


def sent_by(call: str, argument: Any, **options: Any) -> rh.Request:
    """The request that `call` sends."""
    answer = rh.Response(200, sample("submit_running"))
    transport = MockTransport(lambda _: answer)

    async def main() -> None:
        async with rh.Session("a-key", transport=transport, **options) as session:
            with contextlib.suppress(rh.ProtocolError):
                await getattr(session, call)(argument)

    run(main)
    return transport.requests[0]


def test_the_documented_example_goes_out_as_its_page_shows_it() -> None:
    """The body of the page's example, every byte of every value, with the page's headers."""
    wanted = sample("submit_request").strip()
    request = sent_by("submit", rh.SeedreamV5Lite("海报：一只纸船驶过雨后的街道"))
    assert request.method == "POST"
    assert request.url == ("https://www.runninghub.ai/openapi/v2/seedream-v5-lite/text-to-image")
    assert request.headers == {
        "Authorization": "Bearer a-key",
        "Content-Type": "application/json",
    }
    assert request.body is not None
    assert sorted(request.body.strip(b"{}").split(b",")) == sorted(wanted.strip(b"{}").split(b","))


def test_the_documented_answer_comes_in_as_a_task() -> None:
    """The page's answer to a submit is a running task with the page's id."""
    task = ask(sample("submit_running"))
    assert task.id == "2013508786110730241"
    assert task.status is rh.TaskStatus.RUNNING
    assert task.outputs == ()
    assert json.loads(task.prompt_tips)["outputs_to_execute"] == ["4"]


def test_a_query_is_one_id_in_the_body() -> None:
    """Query V2 takes one task id, as a string."""
    request = sent_by("query", str(FIRST_ID))
    assert request.url == "https://www.runninghub.ai/openapi/v2/query"
    assert json.loads(request.body or b"") == {"taskId": "2013508786110730241"}


def test_a_finished_task_has_its_outputs_and_usage() -> None:
    """The documented SUCCESS answer."""
    task = query(sample("query_success"))
    assert task.status is rh.TaskStatus.SUCCESS
    assert task.outputs == (
        rh.Output("https://example.com/output.png", "png", None, "2", str(FIRST_ID)),
    )
    assert task.usage == rh.Usage(seconds=Decimal(0))
    assert task.usage.total_money is None
    assert task.error is None


def test_a_failed_task_says_why() -> None:
    """The node exception of the documented FAILED answer is kept whole."""
    task = query(sample("query_failed_node"))
    assert task.status is rh.TaskStatus.FAILED
    assert (task.error.code, task.error.message) == ("1000", "unknown error")
    assert task.error.reason["node_name"] == "SONIC_PreData"


def test_an_unknown_id_is_not_found() -> None:
    """1004 with an empty status is an error of the query."""
    with pytest.raises(rh.NotFoundError) as caught:
        query(sample("query_1004"))
    assert caught.value.code == "1004"


def test_stale_error_text_does_not_fail_a_running_task() -> None:
    """While the status says RUNNING, errorCode and errorMessage count for nothing."""
    task = query(json_response({"status": "RUNNING", "errorCode": "1011", "errorMessage": "busy"}))
    assert task.status is rh.TaskStatus.RUNNING
    assert task.error is None


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("CANCELLED", rh.TaskStatus.CANCEL),
        ("CANCELED", rh.TaskStatus.CANCEL),
        ("CANCEL", rh.TaskStatus.CANCEL),
        ("PENDING", rh.TaskStatus.QUEUED),
        ("PROCESSING", rh.TaskStatus.RUNNING),
        ("create", rh.TaskStatus.CREATE),
        ("WARMING_UP", rh.TaskStatus.UNKNOWN),
    ],
)
def test_every_spelling_of_a_status_is_known(word: str, status: rh.TaskStatus) -> None:
    """Other spellings fold into the documented ones; a new word is unknown and not an end."""
    assert query(json_response({"taskId": str(FIRST_ID), "status": word})).status is status
    assert not rh.TaskStatus.UNKNOWN.terminal


@pytest.mark.parametrize(
    "answer",
    [
        {"taskId": FIRST_ID, "status": "RUNNING"},
        {"task_id": str(FIRST_ID)},
        {"code": 0, "data": {"taskId": str(FIRST_ID), "taskStatus": "QUEUED"}},
        {"taskId": str(FIRST_ID), "errorCode": "421", "errorMessage": "full"},
        {"taskId": str(FIRST_ID), "status": "RUNNING", "errorCode": "1005"},
    ],
)
@pytest.mark.parametrize("http", [200, 429, 500])
def test_an_answer_with_a_task_id_is_accepted(answer: dict[str, Any], http: int) -> None:
    """Whatever else it says: the task exists and may be billed."""
    assert ask(json_response(answer, http)).id == str(FIRST_ID)


@pytest.mark.parametrize("answer", [{"taskId": 2.013e18}, {"taskId": True}, {"taskId": ""}, {}])
def test_no_id_and_no_code_is_an_unknown_submit(answer: dict[str, Any]) -> None:
    """Such an answer says nothing of the task, so the submit's fate is unknown."""
    with pytest.raises(rh.SubmitUnknown) as caught:
        ask(json_response(answer))
    assert isinstance(caught.value.__cause__, rh.ProtocolError)
    assert caught.value.request is REQUEST


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("1002", rh.AuthenticationError),
        ("802", rh.AuthenticationError),
        ("1601", rh.AuthenticationError),
        ("1014", rh.PlanError),
        ("801", rh.PlanError),
        ("416", rh.InsufficientBalanceError),
        ("812", rh.InsufficientBalanceError),
        ("1007", rh.InvalidRequestError),
        ("1001", rh.InvalidRequestError),
        ("1501", rh.ContentPolicyError),
        ("1505", rh.ContentPolicyError),
    ],
)
def test_each_refusal_has_its_class(code: str, error: type[rh.APIError]) -> None:
    """The table of codes, as its users see it; the code itself is kept."""
    with pytest.raises(error) as caught:
        ask(refusal(code))
    assert caught.value.code == code


@pytest.mark.parametrize("code", ["500", "1000", "1005", "1010", "1011", "1012", "1516", "77777"])
def test_a_code_that_leaves_it_open_makes_the_submit_unknown(code: str) -> None:
    """Server trouble and undocumented codes: the task may exist."""
    with pytest.raises(rh.SubmitUnknown):
        ask(refusal(code))


def test_a_bad_key_may_come_as_http_401() -> None:
    """`{"code": -1}` with HTTP 401, as seen in the field, speaks of the key; a page does not."""
    with pytest.raises(rh.AuthenticationError, match="not interchangeable"):
        ask(json_response({"code": -1, "msg": "ApiKey verification failed"}, 401))
    with pytest.raises(rh.BlockedError, match="Sign in"):
        ask(rh.Response(401, b"<html><title>Sign in</title>"))


def test_an_answer_about_another_task_is_not_taken() -> None:
    """A result must not be handed to the wrong prompt."""
    with pytest.raises(rh.ProtocolError, match="is about task 5"):
        query(json_response({"taskId": "5", "status": "SUCCESS"}))


@given(st.binary(max_size=200), st.sampled_from([200, 302, 400, 404, 429, 500, 503]))
def test_no_bytes_break_the_reading_of_an_answer(body: bytes, status: int) -> None:
    """Whatever comes, it is a task or one of this package's errors."""
    with pytest.raises(rh.RunningHubError):
        query(rh.Response(status, body))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["taskId", "status", "errorCode", "errorMessage", "results", "usage", "failedReason",
             "promptTips", "data", "code", "msg"]
        ),
        _json | st.sampled_from(["SUCCESS", "FAILED", "1004"]),
    ),
)  # fmt: skip
def test_no_json_breaks_the_reading_of_an_answer(answer: dict[str, Any]) -> None:
    """Fields of any type at any place give a task or one of this package's errors."""
    try:
        task = query(json_response(answer))
    except rh.RunningHubError:
        return
    assert task.id == str(FIRST_ID)
    assert all(isinstance(output, rh.Output) for output in task.outputs)


@pytest.mark.parametrize(
    ("given_url", "origin"),
    [
        ("https://www.runninghub.cn", "https://www.runninghub.cn"),
        ("https://www.runninghub.cn/", "https://www.runninghub.cn"),
        ("https://www.runninghub.cn/openapi/v2", "https://www.runninghub.cn"),
        ("http://127.0.0.1:8000/openapi/v2/", "http://127.0.0.1:8000"),
        ("https://proxy.example/rh/openapi/v2", "https://proxy.example/rh"),
    ],
)
def test_the_base_url_may_carry_the_path(given_url: str, origin: str) -> None:
    """An origin, with or without `/openapi/v2`."""
    request = sent_by("query", str(FIRST_ID), base_url=given_url)
    assert request.url == f"{origin}/openapi/v2/query"


@pytest.mark.parametrize("url", ["ftp://x", "runninghub.ai", "https://u:p@x", "https://x/?a=b", ""])
def test_a_base_url_that_cannot_be_one_is_refused(url: str) -> None:
    """Before anything is sent anywhere (the empty one means the default)."""
    if not url:
        assert rh.Session("a-key", base_url=url).base_url == "https://www.runninghub.ai"
        return
    with pytest.raises(ValueError, match="base_url"):
        rh.Session("a-key", base_url=url)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "soon"}, None),
        (
            {
                "retry-after": "Wed, 21 Oct 2026 07:28:30 GMT",
                "date": "Wed, 21 Oct 2026 07:28:00 GMT",
            },
            30.0,
        ),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:30 GMT"}, None),
    ],
)
def test_retry_after_is_read_in_both_forms(header: dict[str, str], seconds: float | None) -> None:
    """Seconds, or a date held against the answer's own; anything else is none."""
    with pytest.raises(rh.RateLimitError) as caught:
        query(json_response({"errorCode": "1003"}, 429, header))
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize("task_id", ["", "abc", "12 3", "١٢", 5, None])
def test_what_is_no_id_is_refused_before_it_is_sent(task_id: Any) -> None:
    """An id is a string of digits; the error names the field."""
    with pytest.raises(rh.PayloadError, match=r"task_id: .* @ \$\.taskId"):
        ask(b"", "query", task_id)


def test_cancel_speaks_the_older_envelope() -> None:
    """The key goes in the body as well; a refusal is an APIError."""
    transport = MockTransport(
        lambda request: json_response(
            {"code": 0, "msg": "success"}
            if b"730241" in (request.body or b"")
            else {"code": 807, "msg": "APIKEY_TASK_NOT_FOUND"}
        )
    )

    async def main() -> None:
        async with rh.Session("a-key", transport=transport) as session:
            await session.cancel(str(FIRST_ID))
            with pytest.raises(rh.NotFoundError):
                await session.cancel("5")

    run(main)
    assert transport.requests[0].url.endswith("/task/openapi/cancel")
    assert json.loads(transport.requests[0].body or b"") == {
        "apiKey": "a-key",
        "taskId": str(FIRST_ID),
    }
