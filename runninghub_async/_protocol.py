"""The v2 wire contract: requests go out of here, answers come in here. No I/O.

Sources: the service's documentation, "Standard Model API", "Query generation result (V2)", "File
upload (new)"; the management calls are known from what official plug-ins and others captured.
Three rules stand above the field names:

- an answer to a submit that carries a task id is accepted, whatever else it says;
- in an answer to a query `status` decides; error fields count only when it is empty or FAILED;
- business errors come with HTTP 200, so the body is read first and the HTTP status second.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import attrs

from ._answers import (
    api_error,
    data_of,
    has_status_field,
    id_in,
    json_object,
    number,
    object_of,
    refusal,
    sole_task,
    task_of,
    text,
    told_task,
    unwrapped,
    whole,
)
from ._exceptions import PayloadError, ProtocolError, RunningHubError
from ._media import content_type, is_file
from ._models import FileBody, Request, Response, Task
from ._records import (
    AppSummary,
    KeyInfo,
    Page,
    PricePreview,
    QueueStatus,
    Resource,
    Upload,
)

__all__ = [
    "FileInBody",
    "Site",
    "build_call",
    "build_query",
    "build_submit",
    "build_upload",
    "check_task_id",
    "encode",
    "multipart",
    "normalize_base_url",
    "parse_apps",
    "parse_keys",
    "parse_price",
    "parse_outputs",
    "parse_query",
    "parse_queue",
    "parse_resources",
    "parse_submit",
    "parse_upload",
    "submit_as_written",
    "with_body",
]

#: The service reads a submit in milliseconds; one that stays silent for a minute is lost.
SUBMIT_TIMEOUT: Final = 60.0
QUERY_TIMEOUT: Final = 30.0
#: From the last byte sent to the answer.
UPLOAD_TIMEOUT: Final = 120.0

#: What parts the fields of an upload; no file of use holds it.
_BOUNDARY: Final = "runninghub-async-4f1d9c02b7a86e35"

_NOT_IN_NAMES: Final = re.compile(r'[\x00-\x1f\x7f"]')

_T = TypeVar("_T")


class FileInBody(Exception):
    """A body that holds a local file, which has to be uploaded before the body can be sent."""


def _not_json(value: Any) -> Any:
    if is_file(value):
        raise FileInBody
    raise TypeError(f"{type(value).__name__} is not JSON")


encode = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=_not_json
).encode


def normalize_base_url(url: str) -> str:
    """The origin of the service from `url`, given with or without `/openapi/v2`.

    Raises `ValueError` unless it is an http(s) URL without user, query or fragment.
    """
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/").removesuffix("/openapi/v2").rstrip("/")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"base_url must be an http(s) origin, not {url!r}")
    try:
        _ = parts.port
        parts.hostname.encode("idna")
    except ValueError:
        raise ValueError(f"base_url has an invalid host or port: {url!r}") from None
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("base_url must not carry a user, a query or a fragment")
    return f"{parts.scheme}://{parts.netloc}{path}"


@attrs.frozen
class Site:
    """Where calls go, and in whose name. The key is nowhere but in what is sent to `base_url`."""

    base_url: str
    api_key: str = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)
    #: What the bodies of the older API begin with.
    credentials: Mapping[str, str] = attrs.field(repr=False)

    @classmethod
    def of(cls, base_url: str, api_key: str, *, key_in_body: bool = True) -> Site:
        """Raises `ValueError` for a URL that is no origin, and a key that no header can carry; an
        empty key is put up with until a session is opened."""
        key = api_key.strip()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("the API key contains invalid characters")
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        credentials = {"apiKey": key} if key_in_body else {}
        return cls(normalize_base_url(base_url), key, headers if key else {}, credentials)

    @property
    def currency(self) -> str:
        """The wallet's currency: USD on the .ai site, CNY on the .cn one, by whose prices
        everything else is reckoned, too."""
        return "USD" if self.base_url.endswith(".ai") else "CNY"


def check_task_id(task_id: str | Task) -> str:
    """The id, of a task or itself. Raises `PayloadError` unless it is a string of digits."""
    if isinstance(task_id, Task):
        task_id = task_id.id
    if not isinstance(task_id, str) or not (task_id.isascii() and task_id.isdigit()):
        raise PayloadError(
            [f"task_id: expected a string of digits, got {task_id!r:.60} @ $.taskId"]
        )
    return task_id


# -- tasks --------------------------------------------------------------------------------------


def build_submit(site: Site, path: str, params: Mapping[str, Any]) -> Request:
    """`POST` of `params`: below `/openapi/v2/`, or, for a path with a leading slash, from the
    origin, in the older API's way, with the key in the body as well.

    Raises `PayloadError` for values that JSON cannot carry, and `FileInBody` for local files.
    """
    if path[:1] == "/":
        params = {**site.credentials, **params}
    return _submit(site, path, _body(params))


def submit_as_written(site: Site, path: str, text: str) -> Request:
    """The same, of params that are JSON already; without local files, and below `/openapi/v2/`."""
    return _submit(site, path, text.encode())


def _submit(site: Site, path: str, body: bytes) -> Request:
    url = _url(site.base_url, path)
    return Request("POST", url, site.headers, body, SUBMIT_TIMEOUT, repeatable=False)


def _body(params: Mapping[str, Any]) -> bytes:
    try:
        return encode(params).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise PayloadError([f"request: cannot be sent as JSON, {error} @ $"]) from None


@functools.lru_cache(maxsize=512)
def _url(base_url: str, path: str) -> str:
    return (
        base_url + quote(path) if path.startswith("/") else f"{base_url}/openapi/v2/{quote(path)}"
    )


def build_query(site: Site, task_id: str) -> Request:
    """`POST /openapi/v2/query`; one task per call, there is no list form."""
    # The service's ids are digits; whatever else it may hand out must still be asked after.
    body = f'{{"taskId":"{task_id}"}}' if task_id.isdigit() else json.dumps({"taskId": task_id})
    return Request("POST", _url(site.base_url, "query"), site.headers, body.encode(), QUERY_TIMEOUT)


def parse_submit(response: Response) -> Task:
    """The task in an answer to a submit, in either envelope.

    An id is also found in an answer that cannot be read as a whole. Raises `APIError` for a
    refusal and `ProtocolError` for an answer with neither a task id nor an error code.
    """
    try:
        answer = json_object(response)
    except RunningHubError:
        task = sole_task(response)
        if task is None:
            raise
        return task
    if task_id := id_in(answer):
        return task_of(answer, task_id)
    data = unwrapped(answer.get("data"))
    if isinstance(data, dict) and (task_id := id_in(data)):
        return task_of(data, task_id)
    error = refusal(answer, response)
    # A refusal may name other tasks, such as those that take up the room.
    says_nothing = isinstance(error, ProtocolError) or (not error.code and response.status >= 500)
    task = sole_task(response) if says_nothing else None
    if task is None:
        raise error
    return task


def parse_query(response: Response, task_id: str) -> Task:
    """The state of task `task_id`, from an answer of any form. One that says that the task has
    ended must name it.

    Raises `APIError` or `ProtocolError` when the answer concerns the request and not the task;
    the task itself is not failed by either.
    """
    return _told(response, task_id, names_it=True)


def parse_outputs(response: Response, task_id: str) -> Task:
    """The same from the older endpoint, whose own form names no task."""
    return _told(response, task_id, names_it=False)


def _told(response: Response, task_id: str, *, names_it: bool) -> Task:
    answer = json_object(response)
    if not 200 <= response.status < 300:
        # A gateway's page or JSON says nothing about a task, whatever its fields are called.
        raise refusal(answer, response)
    task = told_task(answer, task_id)
    if task is None:
        raise refusal(answer, response)
    data = answer.get("data")
    inner = id_in(data) if isinstance(data, dict) else ""
    # The right id in the envelope does not make another task's `data` its own.
    found = inner if inner and not answer.get("status") else id_in(answer) or inner
    if found and found != task_id:
        raise ProtocolError(f"asked for task {task_id}, the answer is about task {found}", response)
    if task.done and not found and (names_it or has_status_field(answer)):
        raise ProtocolError(f"asked for task {task_id}, the answer names no task", response)
    return task


# -- other calls --------------------------------------------------------------------------------


def build_call(
    site: Site, path: str, body: Mapping[str, Any] | None = None, method: str = "POST"
) -> Request:
    """A call below `/openapi/v2/`, or, with a leading slash, from the origin. Raises
    `PayloadError` for a body that JSON cannot carry."""
    data = None if body is None else _body(body)
    return Request(method, _url(site.base_url, path), site.headers, data, QUERY_TIMEOUT)


def parse_price(response: Response) -> PricePreview:
    """The answer to `POST /openapi/v2/price-preview/<path>`."""
    answer = json_object(response)
    error = api_error(answer, response)
    if error is not None:
        raise error
    data = answer.get("data")
    facts = data if isinstance(data, dict) else answer
    if not {"estimatedPrice", "priceText", "isFreeThisCall"} & facts.keys():
        raise ProtocolError("no price in the answer", response)
    left = facts.get("remainingFreeLimitCount")
    return PricePreview(
        number(facts.get("estimatedPrice")),
        text(facts.get("currency")),
        text(facts.get("priceTextEn")) or text(facts.get("priceText")),
        facts.get("isFreeThisCall") in (True, "true", 1),
        None if left is None else whole(left),
    )


def parse_queue(response: Response) -> QueueStatus:
    """The answer to `GET /openapi/v2/queue/status`."""
    data = object_of(response)
    instances = data.get("instanceCount")
    return QueueStatus(
        whole(data.get("concurrentLimit")),
        whole(data.get("runningCount")),
        whole(data.get("queuedCount")),
        whole(data.get("totalCurrentTasks")),
        text(data.get("apiKeyType")),
        None if instances is None else whole(instances),
    )


def parse_keys(response: Response) -> list[KeyInfo]:
    """The answer to `GET /openapi/v2/api-key/list`."""
    data = data_of(response)
    return [
        KeyInfo(
            text(item.get("key")),
            text(item.get("apiKeyName")),
            whole(item.get("status")),
            number(item.get("quotaLimit")),
            number(item.get("quotaUsed")),
            item["visible"] if isinstance(item.get("visible"), bool) else None,
            str(item.get("expireAt") or ""),
            str(item.get("createdAt") or ""),
        )
        for item in _list(data, response)
    ]


def parse_resources(response: Response) -> Page[Resource]:
    """The answer to `POST /openapi/v2/resource/list`."""
    return _page(response, lambda item: Resource(text(item.get("nodeModelName")), item))


#: Where an example call of the list shows which app it runs.
_APP_ID: Final = re.compile(r"(?:run/ai-app/|webappId\W{1,8})(\d{6,20})")


def parse_apps(response: Response) -> Page[AppSummary]:
    """The answer to `POST /openapi/v2/aiapp/list`."""

    def summary(item: dict[str, Any]) -> AppSummary:
        example = item.get("invokeExample")
        shown = _APP_ID.search(example if isinstance(example, str) else json.dumps(example))
        own = next((str(item[k]) for k in ("webappId", "id") if item.get(k)), "")
        return AppSummary(
            own or (shown[1] if shown else ""),
            text(item.get("title")),
            text(item.get("description")),
            text(item.get("cover")),
            item,
        )

    return _page(response, summary)


def _page(response: Response, read: Callable[[dict[str, Any]], _T]) -> Page[_T]:
    data = object_of(response)
    items = tuple(read(item) for item in _list(data.get("records"), response))
    number_, size, total = (whole(data.get(key)) for key in ("current", "size", "total"))
    more = data.get("hasNext")
    if not isinstance(more, bool):
        more = bool(items) and number_ * size < total
    return Page(items, number_, size, total, more)


def _list(data: Any, response: Response) -> list[dict[str, Any]]:
    if data is None:
        return []
    if not isinstance(data, list):
        raise ProtocolError("the answer's list is no list", response)
    return [item for item in data if isinstance(item, dict)]


# -- uploads ------------------------------------------------------------------------------------


def build_upload(site: Site, name: str, kind: str, body: bytes | FileBody) -> Request:
    """`POST /openapi/v2/media/upload/binary`: one field, `file`."""
    return multipart(site, "media/upload/binary", {}, name, kind, body)


def multipart(
    site: Site,
    path: str,
    fields: Mapping[str, str],
    name: str,
    kind: str,
    body: bytes | FileBody,
) -> Request:
    """A form with plain `fields` and one `file`, called `name`, of type `kind`."""
    # As browsers write a file name: what would end it is percent-encoded, and so is every control
    # character, since no header may hold one.
    shown = _NOT_IN_NAMES.sub(lambda found: f"%{ord(found[0]):02X}", name)
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    parts.append(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{shown}"\r\n'
        f"Content-Type: {content_type(kind)}\r\n\r\n"
    )
    head = "".join(parts).encode(errors="replace")
    tail = f"\r\n--{_BOUNDARY}--\r\n".encode()
    form = f"multipart/form-data; boundary={_BOUNDARY}"
    return attrs.evolve(
        with_body(body, head, tail),
        method="POST",
        url=_url(site.base_url, path),
        headers={**site.headers, "Content-Type": form},
    )


def with_body(body: bytes | FileBody, head: bytes = b"", tail: bytes = b"") -> Request:
    """The beginnings of an upload: a request whose body is `head`, `body` and `tail`."""
    if isinstance(body, FileBody):
        file = attrs.evolve(body, head=head, tail=tail)
        return Request("PUT", "", read_timeout=UPLOAD_TIMEOUT, file=file)
    # `join` lets other threads run while it copies much; `+` does not.
    whole = b"".join((head, body, tail)) if head or tail else body
    return Request("PUT", "", body=whole, read_timeout=UPLOAD_TIMEOUT)


def parse_upload(response: Response) -> Upload:
    """The answer to either upload; `name` is always there."""
    data = object_of(response)
    name = text(data.get("fileName")) or text(data.get("filename"))
    url = text(data.get("download_url")) or None
    if not name and not url:
        raise ProtocolError("neither a name nor a URL for what was uploaded", response)
    kind = text(data.get("type")) or text(data.get("fileType"))
    return Upload(name, url, kind, whole(data.get("size")))
