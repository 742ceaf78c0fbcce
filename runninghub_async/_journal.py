"""What a journal keeps of each job. Values, and their way to text and back; no I/O.

A job is known by its key: the digest of its request and its place in the input, or the user's
own.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypedDict, TypeGuard

import attrs

from ._answers import number
from ._catalogue import Catalogue
from ._codes import look_up
from ._exceptions import JournalError, PayloadError, RunningHubError, SubmitUnknown, TaskCancelled
from ._job import task_failed
from ._media import is_file
from ._models import ErrorInfo, Output, Task, TaskStatus, Usage
from ._money import Money
from ._states import JobState

__all__ = [
    "FAULTY",
    "Begun",
    "Content",
    "JobFacts",
    "JobRecord",
    "KeptFile",
    "Moved",
    "StoredRequest",
    "amount_of",
    "content_of",
    "error_in",
    "error_text",
    "files_in",
    "files_text",
    "is_body",
    "is_key_of",
    "key_of",
    "nano_of",
    "numbered",
    "params_in",
    "place_in",
    "task_in",
    "task_text",
]

#: The code of a request that was saved although it is at fault: it is not submitted as it is.
FAULTY: Final = "faulty"

#: Amounts are kept as whole billionths, so that a data base can add them up without rounding.
NANO: Final = Decimal(10) ** 9


class Content(NamedTuple):
    """A request as it is kept: its path, its parameters as JSON, and the digest of both."""

    path: str
    params: str
    digest: str


class Begun(NamedTuple):
    """The row of a job whose submit is about to leave, or that is recorded to be submitted later
    (`state` new); `old` is None where there was no row. Times are Unix time, in seconds."""

    key: str
    old: JobState | None
    state: JobState
    at: float
    content: Content
    place: int | None = None
    batch: str = ""
    attempts: int = 0


class JobFacts(TypedDict, total=False):
    """What a move says about a job. `task` and `files` are texts that `task_text` and
    `files_text` made, `cost` is in billionths; of a task that ended, no `cost` means that
    the service named none."""

    task_id: str
    task: str
    cost: int
    code: str
    error: str
    files: str


class Moved(NamedTuple):
    """A job that went from `old` to `state`; what it does not tell of stays as it was."""

    key: str
    old: JobState
    state: JobState
    at: float
    facts: JobFacts = JobFacts()


@attrs.frozen
class StoredRequest:
    """A request as the journal gave it back: what is submitted is what was asked for then.

    `key` and `place` are the job's. It was checked before it was written down.
    """

    path: str
    params: Mapping[str, Any] = attrs.field(repr=False)
    key: str = ""
    place: int | None = None

    def to_params(self) -> dict[str, Any]:
        """The JSON body."""
        return dict(self.params)

    def check(self) -> tuple[str, ...]:
        """Nothing: see above."""
        return ()

    def price(self) -> Money | None:
        """What it costs at most, by the catalogue; None where no rule tells."""
        catalogue = Catalogue.load()
        if self.path not in catalogue:
            return None
        return catalogue.find(self.path).price_of(self.params)


class KeptFile(NamedTuple):
    """A result on disk: its name below the folder of the run, its size in bytes, the SHA-256 of
    its bytes in hex, and the type of picture it is, empty for other kinds. `output`: its place
    among `task.outputs`, from 0; None where the files of a job are those of all outputs, in their
    order, as in rows of earlier versions."""

    name: str
    size: int
    sha256: str
    image_type: str = ""
    output: int | None = None


@attrs.frozen(kw_only=True)
class JobRecord:
    """One job as the journal knows it.

    `seq` counts the rows. `place` is the request's place in its input, from 0, None for a single
    call; `batch` is what the stream was called. `task` is the task as last recorded, None while
    there is none. `attempts`: submits that left. `sent_at`, `accepted_at` and `ended_at`: Unix time
    in seconds, of the last submit, of its answer and of the end. `cost`: what the service billed.
    `assumed`: what it counts as having cost in addition, at the catalogue's price, if the service
    named no cost. `code` and `error`: why it failed, or how the response was lost. `files`: the
    results on disk. `damage`: what is wrong with the row; the other fields then hold what could be
    read, and the job is not submitted again.
    """

    seq: int
    key: str
    state: JobState
    request: StoredRequest
    content: str = ""
    batch: str = ""
    task: Task | None = None
    attempts: int = 0
    sent_at: float | None = None
    accepted_at: float | None = None
    ended_at: float | None = None
    cost: Decimal | None = None
    code: str = ""
    error: str = ""
    files: tuple[KeptFile, ...] = ()
    assumed: Decimal = Decimal(0)
    damage: JournalError | None = None

    @property
    def place(self) -> int | None:
        """The request's place in its input."""
        return self.request.place


# -- what a job is known by ---------------------------------------------------------------------

#: The key under which a local file stands in a request that is kept.
_FILE: Final = "$file"


def _as_file(value: Any) -> Any:
    if is_file(value):
        return {_FILE: value.__fspath__()}
    raise TypeError(f"{type(value).__name__} is not JSON")


_encode = json.JSONEncoder(
    ensure_ascii=True, separators=(",", ":"), sort_keys=True, allow_nan=False, default=_as_file
).encode


def content_of(path: str, params: Mapping[str, Any]) -> Content:
    """A request as it is kept. Raises `TypeError` or `ValueError` for what is not JSON."""
    text = _encode(params)
    return Content(path, text, blake2b(f"{path}\n{text}".encode(), digest_size=16).hexdigest())


def is_body(content: Content | None) -> TypeGuard[Content]:
    """Whether what is kept of a request is also what is sent: without local files, and without
    the key that bodies of the older API carry."""
    return content is not None and content.path[:1] != "/" and _FILE not in content.params


def key_of(content: Content, place: int | None, batch: str, own: str | None = None) -> str:
    """The job's key: the user's own, else batch, place and content, hashed but for the place.

    So the keys of a batch sort as its input does, and its rows lie side by side in the index.
    """
    if own is not None:
        return own
    return f"{_batch_digest(batch)}{place or 0:08x}{content.digest[:20]}"


#: The length of a key that `key_of` makes.
_KEY_LENGTH: Final = 40


def place_in(key: str) -> int:
    """The place in a key that `key_of` made; any number for a key of a user's own."""
    try:
        return int(key[12:20], 16)
    except ValueError:
        return 0


@functools.lru_cache(maxsize=64)
def _batch_digest(batch: str) -> str:
    return blake2b(batch.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest()


def params_in(text: str) -> dict[str, Any]:
    """The parameters in a text of `content_of`. Raises `ValueError` or `TypeError` for any other
    text."""
    hook = _with_files if _FILE in text else None
    params: Any = json.loads(text, object_hook=hook, parse_constant=_refuse, parse_float=_finite)
    if not isinstance(params, dict):
        raise TypeError("expected a JSON object")
    return params


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    """A number of JSON. `1e999` would be infinite, which JSON has no word for."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.40} is out of range")
    return value


@attrs.frozen
class _File:
    """A local file in a request that was kept."""

    path: str

    def __fspath__(self) -> str:
        return self.path


def _with_files(value: dict[str, Any]) -> Any:
    if value.keys() != {_FILE}:
        return value
    if not isinstance(value[_FILE], str):
        raise TypeError(f"{_FILE}: expected a path")
    return _File(value[_FILE])


# -- tasks, errors and files as text ------------------------------------------------------------


def task_text(task: Task) -> str:
    """What is worth keeping of a task, as JSON."""
    kept: dict[str, Any] = {"status": task.status}
    if task.outputs:
        kept["outputs"] = [
            [o.url, o.type, o.text, o.node_id, *([o.extra] if o.extra else [])]
            for o in task.outputs
        ]
    if task.usage is not None:
        usage = task.usage
        kept["usage"] = [usage.money, usage.coins, usage.third_party_money, usage.seconds]
    if task.error is not None:
        kept["error"] = [task.error.code, task.error.message, task.error.reason]
    if task.prompt_tips and task.node_errors:
        kept["tips"] = task.prompt_tips
    text = _plain(kept)
    if "Infinity" in text or "NaN" in text:
        # Numbers that JSON does not have: kept as texts, or the row would count as damaged.
        text = _plain(json.loads(text, parse_constant=str))
    return text


_plain = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


def task_in(task_id: str, text: str | None) -> Task:
    """The task in a text of `task_text`. Raises `ValueError` or `TypeError` for any other text."""
    if not text:
        return Task(task_id)
    kept = json.loads(text, parse_constant=_refuse, parse_float=_finite)
    if not isinstance(kept, dict):
        raise TypeError("expected a JSON object")
    error, usage, tips = kept.get("error"), kept.get("usage"), kept.get("tips", "")
    if not isinstance(tips, str):
        raise TypeError("tips: expected a text")
    return Task(
        task_id,
        TaskStatus(str(kept.get("status"))),
        tuple(_output_in(task_id, output) for output in _list(kept.get("outputs", []))),
        None if error is None else _error_info_in(error),
        None if usage is None else Usage(*map(_amount_in, _list(usage, 4))),
        tips,
    )


def _output_in(task_id: str, kept: Any) -> Output:
    url, kind, text, node_id, *rest = _list(kept)
    told = (url or "", kind, text or "", node_id or "")
    if not all(isinstance(value, str) for value in told) or len(rest) > 1:
        raise TypeError("outputs: expected lists of texts")
    if rest and not isinstance(rest[0], dict):
        raise TypeError("outputs: expected an object")
    return Output(url, kind, text, node_id, task_id, *rest)


def _amount_in(value: Any) -> Decimal | None:
    if value is None:
        return None
    amount = number(value) if isinstance(value, str | int) else None
    if amount is None:
        raise ValueError(f"usage: {value!r:.40} is not an amount")
    return amount


def _list(value: Any, length: int | None = None) -> list[Any]:
    if not isinstance(value, list) or (length is not None and len(value) != length):
        raise TypeError(f"expected a list, got {value!r:.40}")
    return value


def is_key_of(key: str, content: str, place: int | None, batch: str) -> bool:
    """Whether `key` may be the key of a job of this content, place and batch: a key of a user's
    own, or the one that `key_of` made, and not one of which a part is wrong."""
    parts = (
        key.startswith(_batch_digest(batch)),
        key[12:20] == f"{place or 0:08x}",
        key[20:] == content[:20],
    )
    return len(key) != _KEY_LENGTH or all(parts) or sum(parts) < len(parts) - 1


def _error_info_in(kept: Any) -> ErrorInfo:
    code, message, reason = _list(kept, 3)
    if not isinstance(code, str) or not isinstance(message, str):
        raise TypeError("error: expected a code and a message")
    if not isinstance(reason, str | dict | None):
        raise TypeError("error: expected a text or an object")
    return ErrorInfo(code, message, reason)


def files_text(files: Sequence[KeptFile]) -> str:
    """Files on disk as JSON. The places of their outputs are left out where they are the order of
    the files, so that earlier versions can read nearly all rows."""
    places = [number if file.output is None else file.output for number, file in enumerate(files)]
    if places == list(range(len(files))):
        return _plain([file[:4] for file in files])
    return _plain([(*file[:4], place) for file, place in zip(files, places, strict=True)])


def files_in(text: str | None) -> tuple[KeptFile, ...]:
    """The files in a text of `files_text`. Raises `ValueError` or `TypeError` for any other
    text."""
    return tuple(map(_file_in, _list(json.loads(text)))) if text else ()


def _file_in(kept: Any) -> KeptFile:
    name, size, sha256, *rest = _list(kept)
    image_type = rest[0] if rest else ""
    output = rest[1] if len(rest) > 1 else None
    if len(rest) > 2:
        raise TypeError(f"files: {kept!r:.40}")
    texts = (name, sha256, image_type)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError(f"files: {kept!r:.40}")
    if output is not None and (type(output) is not int or output < 0):
        raise TypeError(f"files: {kept!r:.40}")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0 or _leads_out(name):
        raise ValueError(f"files: {kept!r:.40}")
    return KeptFile(name, size, sha256, image_type, output)


def _leads_out(name: str) -> bool:
    """Whether a file of this name would lie outside its folder."""
    return not name or name in (".", "..") or bool(set(name) & set("/\\\0"))


def numbered(files: Sequence[KeptFile]) -> dict[int, KeptFile]:
    """Files by the places of their outputs."""
    return {n if file.output is None else file.output: file for n, file in enumerate(files)}


def amount_of(nano: int) -> Decimal:
    """What `nano_of` made billionths of."""
    return Decimal(nano) / NANO if nano else Decimal(0)


def nano_of(amount: Decimal | None) -> int | None:
    """An amount in billionths."""
    if amount is None:
        return None
    nano = int((amount * NANO).to_integral_value())
    # No bill is that high, and no data base takes more.
    return nano if abs(nano) < 2**63 else None


def error_text(error: RunningHubError) -> tuple[str, str]:
    """The code and the text that are kept of an error."""
    if isinstance(error, SubmitUnknown) and isinstance(error.__cause__, RunningHubError):
        error = error.__cause__
    code, text = str(getattr(error, "code", "") or ""), f"{type(error).__name__}: {error}"
    # Half of a surrogate pair is no text to a data base.
    return tuple(told.encode("utf-8", "replace").decode() for told in (code, text))  # type: ignore[return-value]


def error_in(record: JobRecord) -> RunningHubError:
    """The error of a job that ended badly, as far as what was kept tells."""
    if record.damage is not None:
        return record.damage
    task = record.task
    if record.state is JobState.UNKNOWN:
        return SubmitUnknown(
            f"the submit may or may not have created a task: {record.error}", record.request
        )
    if task is not None and task.status is TaskStatus.CANCEL:
        return TaskCancelled.from_task(task)
    if task is not None and task.status is TaskStatus.FAILED:
        return task_failed(task)
    if record.code == FAULTY:
        return PayloadError(record.error.partition(": ")[2].split("; "))
    if record.code:
        # What was kept is the whole text of the error, in which code and advice stand already.
        message = record.error.partition(": ")[2].removeprefix(f"[{record.code}] ")
        kind = look_up(record.code, message).error
        if kind.advice:
            message = message.removesuffix(f" ({kind.advice})")
        return kind(message, code=record.code)
    return RunningHubError(record.error or "failed in an earlier run")
