"""The v2 wire contract: requests go out of here, answers come in here. No I/O.

Sources: the service's documentation, "Standard Model API", "Query generation result (V2)" and
"API Error Code Reference". Three rules stand above the field names:

- an answer to a submit that carries a task id is accepted, whatever else it says;
- in an answer to a query `status` decides; error fields count only when it is empty or FAILED;
- business errors come with HTTP 200, so the body is read first and the HTTP status second.
"""

from __future__ import annotations

import email.utils
import functools
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote, urlsplit

from ._codes import Submit, code_of_status, look_up
from ._exceptions import APIError, PayloadError, ProtocolError, RateLimitError
from ._models import ErrorInfo, Output, Request, Response, Task, TaskStatus, Usage

__all__ = [
    "api_error",
    "authorization",
    "build_query",
    "build_submit",
    "check_task_id",
    "json_object",
    "normalize_base_url",
    "parse_query",
    "parse_submit",
]

#: Other spellings of a status that clients have met (unverified, but harmless to know).
_SPELLINGS: Final[dict[str, TaskStatus]] = {
    **{status.value: status for status in TaskStatus},
    "CANCELED": TaskStatus.CANCEL,
    "CANCELLED": TaskStatus.CANCEL,
    "PENDING": TaskStatus.QUEUED,
    "PROCESSING": TaskStatus.RUNNING,
}

_FAILED: Final = frozenset({TaskStatus.FAILED, TaskStatus.CANCEL})

_NO_ERROR: Final = frozenset({"", "0", "None"})

#: The service reads a submit in milliseconds; one that stays silent for a minute is lost.
SUBMIT_TIMEOUT: Final = 60.0
QUERY_TIMEOUT: Final = 30.0

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode


def normalize_base_url(url: str) -> str:
    """The origin of the service from `url`, given with or without `/openapi/v2`.

    Raises `ValueError` unless it is an http(s) URL without user, query or fragment.
    """
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/").removesuffix("/openapi/v2").rstrip("/")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must be an http(s) origin, not {url!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("base_url must not carry a user, a query or a fragment")
    return f"{parts.scheme}://{parts.netloc}{path}"


def authorization(api_key: str) -> dict[str, str]:
    """The headers of a JSON call. Raises `ValueError` for a key that no header can carry."""
    key = api_key.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("the API key is empty or has characters that no API key has")
    return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}


def check_task_id(task_id: str) -> str:
    """`task_id` itself. Raises `PayloadError` unless it is a string of digits."""
    if not isinstance(task_id, str) or not (task_id.isascii() and task_id.isdigit()):
        raise PayloadError(
            [f"task_id: expected a string of digits, got {task_id!r:.60} @ $.taskId"]
        )
    return task_id


def build_submit(
    base_url: str, headers: Mapping[str, str], path: str, params: Mapping[str, Any]
) -> Request:
    """`POST /openapi/v2/<path>` with the model's own fields, flat.

    Raises `PayloadError` for values that JSON cannot carry.
    """
    try:
        body = _encode(params).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError([f"request: cannot be sent as JSON, {error} @ $"]) from None
    return Request("POST", _submit_url(base_url, path), headers, body, SUBMIT_TIMEOUT)


@functools.lru_cache(maxsize=512)
def _submit_url(base_url: str, path: str) -> str:
    return f"{base_url}/openapi/v2/{quote(path)}"


def build_query(base_url: str, headers: Mapping[str, str], task_id: str) -> Request:
    """`POST /openapi/v2/query`; one task per call, there is no list form."""
    # The service's ids are digits; whatever else it may hand out must still be asked after.
    body = f'{{"taskId":"{task_id}"}}' if task_id.isdigit() else json.dumps({"taskId": task_id})
    return Request("POST", f"{base_url}/openapi/v2/query", headers, body.encode(), QUERY_TIMEOUT)


def parse_submit(response: Response) -> Task:
    """The task that an answer to a submit tells of.

    Raises `APIError` for a refusal and `ProtocolError` for an answer with neither a task id nor
    an error code.
    """
    answer = json_object(response)
    if task_id := _task_id(answer):
        return _task(answer, task_id)
    data = answer.get("data")
    if isinstance(data, dict) and (task_id := _task_id(data)):
        return _task(data, task_id)
    raise _refusal(answer, response)


def parse_query(response: Response, task_id: str) -> Task:
    """The state of task `task_id`.

    Raises `APIError` or `ProtocolError` when the answer concerns the request and not the task;
    the task itself is not failed by either.
    """
    answer = json_object(response)
    status = answer.get("status")
    if not isinstance(status, str) or not status:
        raise _refusal(answer, response)
    told = _task_id(answer)
    if told and told != task_id:
        raise ProtocolError(f"asked for task {task_id}, was told of task {told}", response)
    return _task(answer, task_id)


def json_object(response: Response) -> dict[str, Any]:
    """The JSON object in `response`.

    Where there is none, raises `APIError` if the HTTP status says enough, else `ProtocolError`.
    """
    try:
        # Decoded here, since json would first try to guess the encoding.
        answer = json.loads(response.body.decode().lstrip("\ufeff"))
    except (ValueError, RecursionError):
        answer = None
    if isinstance(answer, dict):
        return answer
    row = code_of_status(response.status)
    if row is None or row.error is APIError:
        raise ProtocolError(
            f"HTTP {response.status} with no JSON object: {response.body[:80]!r}", response
        )
    raise row.error(row.meaning, status=response.status, retry_after=_retry_after(response.headers))


def api_error(answer: Mapping[str, Any], response: Response) -> APIError | None:
    """The error that the fields of any envelope tell of; None if they tell of none."""
    # v2 has errorCode/errorMessage; the older and the management envelopes code and msg/message.
    code = next((str(answer[k]) for k in ("errorCode", "code") if answer.get(k) is not None), "")
    text = next(
        (str(answer[k]) for k in ("errorMessage", "msg", "message") if answer.get(k)), "no message"
    )
    if code in _NO_ERROR or (code == "200" and "errorCode" not in answer):
        row = code_of_status(response.status)
        code = ""
    else:
        row = look_up(code)
        by_status = code_of_status(response.status)
        if row.submit is Submit.OPEN and by_status and by_status.error is RateLimitError:
            row = by_status
    if row is None:
        return None
    return row.error(
        text, code=code, status=response.status, retry_after=_retry_after(response.headers)
    )


def _refusal(answer: Mapping[str, Any], response: Response) -> APIError | ProtocolError:
    error = api_error(answer, response)
    if error is None:
        return ProtocolError("neither a task id nor an error code in the answer", response)
    return error


def _task(answer: Mapping[str, Any], task_id: str) -> Task:
    status = _status(answer.get("status") or answer.get("taskStatus"))
    results = answer.get("results")
    usage = answer.get("usage")
    tips = answer.get("promptTips")
    return Task(
        task_id,
        status,
        tuple([_output(item, task_id) for item in results if isinstance(item, dict)])
        if isinstance(results, list)
        else (),
        _error_info(answer) if status in _FAILED else None,
        _usage(usage) if isinstance(usage, dict) else None,
        tips if isinstance(tips, str) else "",
    )


def _status(word: Any) -> TaskStatus:
    if not isinstance(word, str):
        return TaskStatus.UNKNOWN
    return _SPELLINGS.get(word) or _SPELLINGS.get(word.upper(), TaskStatus.UNKNOWN)


def _task_id(holder: Mapping[str, Any]) -> str:
    for key in ("taskId", "task_id"):
        value = holder.get(key)
        if isinstance(value, str) and value.strip(" 0"):
            return value
        # A number beyond 2**53 is exact in Python; a float is not an id any more.
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return str(value)
    return ""


def _output(item: Mapping[str, Any], task_id: str) -> Output:
    url = item.get("url") or item.get("outputUrl") or item.get("fileUrl")
    text = item.get("text")
    if text is None:
        text = item.get("content") or item.get("output")
    kind = item.get("outputType") or item.get("fileType") or ""
    return Output(
        url if isinstance(url, str) else None,
        str(kind).lower().lstrip("."),
        text if isinstance(text, str) else None,
        str(item.get("nodeId") or ""),
        task_id,
    )


def _error_info(answer: Mapping[str, Any]) -> ErrorInfo:
    code = answer.get("errorCode")
    reason = answer.get("failedReason")
    return ErrorInfo(
        "" if code is None or str(code) in _NO_ERROR else str(code),
        str(answer.get("errorMessage") or ""),
        reason if isinstance(reason, dict | str) and reason else None,
    )


def _usage(usage: Mapping[str, Any]) -> Usage:
    money, coins = usage.get("consumeMoney"), usage.get("consumeCoins")
    third, seconds = usage.get("thirdPartyConsumeMoney"), usage.get("taskCostTime")
    return Usage(
        None if money is None else _decimal(money),
        None if coins is None else _decimal(coins),
        None if third is None else _decimal(third),
        None if seconds is None else _decimal(seconds),
    )


def _decimal(value: Any) -> Decimal | None:
    if isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        return None
    return number if number.is_finite() else None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from a `Retry-After` header: a number, or a date held against the answer's own."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(value)
        since = email.utils.parsedate_to_datetime(headers["date"])
        return max(0.0, (until - since).total_seconds())
    except (KeyError, TypeError, ValueError):
        return None
