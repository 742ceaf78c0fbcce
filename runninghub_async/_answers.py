"""What the service's answers hold, whichever of its envelopes they come in. No I/O.

    v1          {"code": 0, "msg": …, "data": …}          /task, /api, /uc
    v2 tasks    {"taskId": …, "status": …, "errorCode": ""}
    v2 others   {"code": 0, "message" or "msg": …, "data": …}

Sources: the service's documentation, "API Error Code Reference" and "Query generation result
(V2)"; numbers come as strings and strings as null, so everything is read leniently.
"""

from __future__ import annotations

import codecs
import email.utils
import json
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import attrs

from ._codes import Code, Submit, code_of_status, look_up
from ._exceptions import (
    APIError,
    BlockedError,
    GraphError,
    InvalidRequestError,
    ProtocolError,
    RateLimitError,
)
from ._models import ErrorInfo, Output, Response, Task, TaskPart, TaskStatus, Usage, shown_url
from ._nodes import NodeError, node_errors_in

__all__ = [
    "api_error",
    "data_of",
    "has_status_field",
    "id_in",
    "json_object",
    "loads",
    "number",
    "object_of",
    "refusal",
    "sole_task",
    "status_of",
    "task_of",
    "text",
    "told_task",
    "unwrapped",
    "usage_of",
    "whole",
]

#: Other spellings of a status that clients have met (unverified, but harmless to know).
_SPELLINGS: Final[dict[str, TaskStatus]] = {
    **{status.value: status for status in TaskStatus},
    "CANCELED": TaskStatus.CANCEL,
    "CANCELLED": TaskStatus.CANCEL,
    "PENDING": TaskStatus.QUEUED,
    "PROCESSING": TaskStatus.RUNNING,
}

#: What a program in Java, Python or JavaScript makes of a missing id, without the signs around it:
#: also `(null)`, `[]`, `N/A` and `-1`.
_NO_IDS: Final = frozenset(
    {"", "null", "none", "nil", "undefined", "nan", "na", "false", "true"}
)  # fmt: skip
_SIGNS: Final = re.compile(r"[\W_]+", re.ASCII)
_NEGATIVE: Final = re.compile(r"-[0-9.]+")

_FAILED: Final = frozenset({TaskStatus.FAILED, TaskStatus.CANCEL})

_NO_ERROR: Final = frozenset({"", "0", "None"})


#: How much JSON is read at once: more objects, keys or values would hold the event loop for over
#: 50 ms. The longest answer of use, a large workflow, has a tenth of it. Text may be as long as it
#: likes.
_MOST_CONTAINERS: Final = 15_000
_MOST_KEYS: Final = 30_000
_MOST_VALUES: Final = 120_000

_decoder: Final = json.JSONDecoder(strict=False)

#: A prefix that some servers put before their JSON so that no browser runs it.
_PREFIX: Final = re.compile(r"[\s\ufeff]*(?:\)\]\}',?|while\(1\);|for\(;;\);)?\s*")


def loads(text: str | bytes) -> Any:
    """The value of the JSON in `text`; None if it is not JSON, or would block the loop.

    A byte that is not UTF-8, a raw line break within a string or text after the end is tolerated,
    so that the fields that count are not lost.
    """
    if _too_much(text):
        return None
    if isinstance(text, str):
        return _read(text)
    # Decoded here, since json would first try to guess the encoding.
    if b"\0" in text[:4]:
        return _read(text.decode(json.detect_encoding(text), errors="replace"))
    text = text.removeprefix(codecs.BOM_UTF8)
    found = _read(text.decode(errors="replace"))
    if found is None and not text.isascii():
        # The last byte of a Chinese character in GBK may be a backslash, which ends no string.
        found = _read(text.decode("gb18030", errors="replace"))
    return found


def _read(text: str) -> Any:
    start = _PREFIX.match(text)
    try:
        return _decoder.raw_decode(text, start.end() if start else 0)[0]
    except (ValueError, RecursionError):
        return None


def _too_much(text: str | bytes) -> bool:
    if len(text) < _MOST_CONTAINERS:
        return False
    braces: tuple[Any, ...] = ("{", "[", ":", ",")
    if isinstance(text, bytes):
        braces = (b"{", b"[", b":", b",")
    objects, lists, keys, values = map(text.count, braces)
    return objects + lists > _MOST_CONTAINERS or keys > _MOST_KEYS or values > _MOST_VALUES


#: How far into an answer an id is looked for, in bytes.
_ID_WITHIN: Final = 2**20

#: A task's id in what cannot be read as JSON, also where the JSON is text within JSON.
_ID: Final = re.compile(
    rb"""(?:["']|&quot;)[tT]ask_?(?:[iI]d|ID)\\{0,3}(?:["']|&quot;)\s*:\s*"""
    rb"""\\{0,3}(?:["']|&quot;)?([0-9]{6,32})(?=[^0-9])"""
)


def sole_task(response: Response) -> Task | None:
    """The task of an answer that names one, wherever, and no other one: of an answer of an unknown
    form, that cannot be read as a whole, or that broke off.

    An id must be followed by something: one that was cut off is another one.
    """
    # In UTF-16, each character of an id is beside a zero byte.
    body = response.body[:_ID_WITHIN].replace(b"\0", b"")
    found = {each[1] for each in _ID.finditer(body)}
    return Task(found.pop().decode()) if len(found) == 1 else None


def has_status_field(answer: Mapping[str, Any]) -> bool:
    """Whether an answer is of the form that names its task: v2's, flat or in `data`."""
    if _word(answer, "status"):
        return True
    data = answer.get("data")
    return isinstance(data, dict) and (_word(data, "status") or _word(data, "taskStatus"))


def unwrapped(value: Any) -> Any:
    """`value`, or what it holds if it is JSON text, or text within text, as the service nests
    graphs and events; None for text that is no JSON."""
    for _ in range(2):
        value = loads(value) if isinstance(value, str) else value
    return value


def json_object(response: Response) -> dict[str, Any]:
    """The JSON object in `response`.

    Where there is none, raises `APIError` if the HTTP status says enough, else `ProtocolError`.
    """
    answer = loads(response.body)
    if isinstance(answer, dict):
        return answer
    row = code_of_status(response.status)
    if row is None or row.error is APIError:
        raise ProtocolError(
            f"HTTP {response.status} with no JSON object but {_shown(response)}", response
        )
    raise _by_status(row, response)


def _by_status(row: Code, response: Response) -> APIError:
    """The error for an answer without a code, from its HTTP status alone."""
    error = row.error(
        f"{row.meaning}: {_shown(response)}",
        status=response.status,
        retry_after=_retry_after(response.headers),
    )
    error.response = response
    return error


_TITLE: Final = re.compile(rb"<title[^>]*>\s*([^<]{1,200})", re.IGNORECASE)


def _shown(response: Response) -> str:
    """A short description of an answer that is not the service's: its redirect target, its title or
    its first bytes."""
    location = response.headers.get("location")
    if 300 <= response.status < 400 and location:
        # Its query may quote ours, which may hold the key.
        return f"a redirect to {shown_url(location)[:200]!r}"
    title = _TITLE.search(response.body[:4096])
    if title is not None:
        return f"the page {title[1].strip().decode(errors='replace')!r}"
    return repr(response.body[:80]) if response.body else "an empty body"


def api_error(answer: Mapping[str, Any], response: Response) -> APIError | None:
    """The error that the fields of any envelope tell of; None if they tell of none."""
    # v2 has errorCode/errorMessage; the older and the management envelopes code and msg/message.
    code = next((str(answer[k]) for k in ("errorCode", "code") if answer.get(k) is not None), "")
    words = next(
        (str(answer[k]) for k in ("errorMessage", "msg", "message") if answer.get(k)), "no message"
    )
    if code in _NO_ERROR or (code == "200" and "errorCode" not in answer):
        row = code_of_status(response.status)
        if row is not None and row.error is BlockedError:
            return _by_status(row, response)
        code = ""
    else:
        row = look_up(code, words)
        by_status = code_of_status(response.status)
        if row.submit is Submit.OPEN and by_status and by_status.error is RateLimitError:
            row = by_status
    if row is None:
        return None
    kind = row.error
    nodes = _nodes_at_fault(answer) if kind is InvalidRequestError else ()
    error = (GraphError if nodes else kind)(
        words, code=code, status=response.status, retry_after=_retry_after(response.headers)
    )
    if isinstance(error, GraphError):
        error.node_errors = nodes
    return error


def _nodes_at_fault(answer: Mapping[str, Any]) -> tuple[NodeError, ...]:
    """What a refusal says of single nodes, wherever it says so."""
    data = answer.get("data")
    told = [answer.get(key) for key in ("promptTips", "errorMessage", "msg", "errorMessages")]
    told.append(data.get("promptTips") if isinstance(data, dict) else None)
    for words in told:
        if found := node_errors_in(words if isinstance(words, str) else json.dumps(words)):
            return found
    return ()


def data_of(response: Response) -> Any:
    """The `data` of an answer in one of the envelopes that have one; may be None.

    Raises the `APIError` that it tells of, or `ProtocolError` when it is no such envelope.
    """
    answer = json_object(response)
    error = api_error(answer, response)
    if error is not None:
        raise error
    if "data" not in answer and "code" not in answer:
        raise ProtocolError("neither data nor a code in the answer", response)
    return answer.get("data")


def object_of(response: Response) -> dict[str, Any]:
    """The object in the `data` of an answer. Raises like `data_of`."""
    data = data_of(response)
    if not isinstance(data, dict):
        raise ProtocolError("data is no object", response)
    return data


def refusal(answer: Mapping[str, Any], response: Response) -> APIError | ProtocolError:
    """The error for an answer that should have told of a task and does not."""
    error = api_error(answer, response)
    if error is not None:
        return error
    words = _words_in(answer)
    said = f"; it says: {words}" if words else ""
    return ProtocolError(f"neither a task id nor an error code in the answer{said}", response)


def _words_in(answer: Mapping[str, Any]) -> str:
    """The message in an answer of an unknown form, wherever it stands."""
    inner = answer.get("error")
    holders = [answer, *([inner] if isinstance(inner, dict) else [])]
    names = ("errorMessage", "msg", "message", "error", "detail", "reason", "code", "status")
    found = (holder.get(name) for name in names for holder in holders)
    return next((each[:300] for each in found if isinstance(each, str) and each.strip()), "")


def told_task(answer: Mapping[str, Any], task_id: str) -> Task | None:
    """How task `task_id` stands, by an answer of any form; None if the answer tells of none.

    The forms: v2's flat one; the same inside `data`; the older outputs, where `code` is the
    status and `data` the results, and the older status, where `data` is the word.
    """
    if _word(answer, "status"):
        return task_of(answer, task_id)
    if "code" not in answer or answer.get("errorCode"):
        return None
    code, data = str(answer["code"]), answer.get("data")
    if code in _STATES:
        return _task_by_code(_STATES[code], answer, task_id)
    if code not in _NO_ERROR:
        return None
    if isinstance(data, list):
        return task_of({"status": "SUCCESS", "results": data, "usage": _usage_in(data)}, task_id)
    if isinstance(data, str) and data:
        return Task(task_id, status_of(data))
    if isinstance(data, dict) and (_word(data, "status") or _word(data, "taskStatus")):
        return task_of(data, task_id)
    # Finished without a file is an empty list; null is what a task shows that is not ready.
    return Task(task_id, TaskStatus.RUNNING) if data is None and "data" in answer else None


#: Codes of the older outputs that are no errors but say how the task stands.
_STATES: Final = {
    "804": TaskStatus.RUNNING,
    "813": TaskStatus.QUEUED,
    "805": TaskStatus.FAILED,
}


def _task_by_code(status: TaskStatus, answer: Mapping[str, Any], task_id: str) -> Task:
    data = answer.get("data")
    facts = data if isinstance(data, dict) else {}
    if status is TaskStatus.FAILED:
        reason = facts.get("failedReason")
        info = ErrorInfo(str(answer["code"]), text(answer.get("msg")), _reason(reason))
        return Task(task_id, status, error=info)
    return Task(task_id, status, progress_url=text(facts.get("netWssUrl")))


def _word(holder: Mapping[str, Any], key: str) -> bool:
    value = holder.get(key)
    return isinstance(value, str) and value != ""


def _usage_in(results: list[Any]) -> Any:
    """The older outputs repeat the task's cost beside each of its files."""
    return next((item for item in results if isinstance(item, dict)), None)


#: Fields that few tasks have.
_RARE: Final = frozenset({"netWssUrl", "parentTaskId", "taskUsageList"})


def task_of(answer: Mapping[str, Any], task_id: str) -> Task:
    """The task that v2's flat fields, or a v1 `data`, describe."""
    word = answer.get("status") or answer.get("taskStatus")
    status = status_of(word)
    results = answer.get("results")
    usage = answer.get("usage")
    tips, client = answer.get("promptTips"), answer.get("clientId")
    outputs = (
        tuple([_output(item, task_id) for item in results if isinstance(item, dict | str)])
        if isinstance(results, list)
        else ()
    )
    if status is TaskStatus.UNKNOWN:
        # An undocumented status ends the task if results or an error code come with it.
        if any(output.there for output in outputs):
            status = TaskStatus.SUCCESS
        elif str(answer.get("errorCode") or "") not in _NO_ERROR:
            status = TaskStatus.FAILED
    task = Task(
        task_id,
        status,
        outputs,
        _error_info(answer) if status in _FAILED else None,
        usage_of(usage) if isinstance(usage, dict) else None,
        tips if isinstance(tips, str) else "",
        client if isinstance(client, str) else "",
    )
    if status is TaskStatus.UNKNOWN and isinstance(word, str):
        task = attrs.evolve(task, status_word=word)
    if _RARE.isdisjoint(answer):
        return task
    return attrs.evolve(
        task,
        progress_url=text(answer.get("netWssUrl")),
        parent_id=text(answer.get("parentTaskId")),
        parts=_parts(answer.get("taskUsageList")),
    )


def _parts(listed: Any) -> tuple[TaskPart, ...]:
    return tuple(
        TaskPart(
            id_in(item),
            text(item.get("parentTaskId")),
            status_of(item.get("taskStatus")),
            usage_of(item["usage"]) if isinstance(item.get("usage"), dict) else None,
        )
        for item in (listed if isinstance(listed, list) else ())
        if isinstance(item, dict)
    )


def status_of(word: Any) -> TaskStatus:
    """The status that a word of the service means."""
    if not isinstance(word, str):
        return TaskStatus.UNKNOWN
    return _SPELLINGS.get(word) or _SPELLINGS.get(word.upper(), TaskStatus.UNKNOWN)


def _is_id(value: str) -> bool:
    if value.isascii() and value.isdigit():
        return value.strip("0") != ""
    core = _SIGNS.sub("", value).lower()
    return core.strip("0") not in _NO_IDS and not _NEGATIVE.fullmatch(value)


def id_in(holder: Mapping[str, Any]) -> str:
    """The task id in `holder`, under either of its names; empty if there is none."""
    for key in ("taskId", "task_id"):
        value = holder.get(key)
        if isinstance(value, str) and _is_id(value := value.strip()):
            return value
        # A number beyond 2**53 is exact in Python; a float is not an exact id.
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return str(value)
    return ""


#: The keys of a result that have a field of their own.
_OUTPUT_KEYS: Final = frozenset(
    {
        "url", "outputUrl", "fileUrl", "text", "content", "output", "outputType", "fileType",
        "nodeId", "taskCostTime", "consumeMoney", "consumeCoins", "thirdPartyConsumeMoney",
    }
)  # fmt: skip


def _output(item: Mapping[str, Any] | str, task_id: str) -> Output:
    if isinstance(item, str):
        return Output(item or None, task_id=task_id)
    url = item.get("url") or item.get("outputUrl") or item.get("fileUrl")
    text = item.get("text")
    if text is None:
        text = item.get("content") or item.get("output")
    kind = item.get("outputType") or item.get("fileType") or ""
    return Output(
        url if isinstance(url, str) and url else None,
        str(kind).lower().lstrip("."),
        text if isinstance(text, str) else None,
        str(item.get("nodeId") or ""),
        task_id,
        {} if _OUTPUT_KEYS.issuperset(item) else
        {key: value for key, value in item.items() if key not in _OUTPUT_KEYS},
    )  # fmt: skip


def _error_info(answer: Mapping[str, Any]) -> ErrorInfo:
    code = answer.get("errorCode")
    reason = answer.get("failedReason")
    return ErrorInfo(
        "" if code is None or str(code) in _NO_ERROR else str(code),
        str(answer.get("errorMessage") or ""),
        _reason(reason),
    )


def _reason(reason: Any) -> dict[str, Any] | str | None:
    """Some answers hold the object as JSON in a string."""
    if isinstance(reason, str) and reason.lstrip().startswith("{"):
        found = loads(reason)
        reason = found if isinstance(found, dict) else reason
    return reason if isinstance(reason, dict | str) and reason else None


def usage_of(usage: Mapping[str, Any]) -> Usage:
    """What a task cost, from the four fields the service names."""
    money, coins = usage.get("consumeMoney"), usage.get("consumeCoins")
    third, seconds = usage.get("thirdPartyConsumeMoney"), usage.get("taskCostTime")
    return Usage(
        None if money is None else number(money),
        None if coins is None else number(coins),
        None if third is None else number(third),
        None if seconds is None else number(seconds),
    )


def text(value: Any) -> str:
    """`value` if it is text, else nothing."""
    return value if isinstance(value, str) else ""


def whole(value: Any, default: int = 0) -> int:
    """A count that may be a number or a string."""
    found = number(value)
    # A count beyond this is none, and would take long to write out.
    return int(found) if found is not None and found.adjusted() < 18 else default


def number(value: Any) -> Decimal | None:
    """An amount that may be a number, a string or null."""
    if value is None or isinstance(value, bool):
        return None
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        return None
    # Nobody's account goes beyond this; arithmetic with what does could fail.
    return number if number.is_finite() and -30 < number.adjusted() < 30 else None


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
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
