"""The emulated service without its HTTP: tasks, limits, bills, and the newer answers.

Written from the service's documentation (Standard Model API, Query V2, error code reference) and
not from this package's client: nothing of the client's protocol code is imported here, so that a
misreading there cannot agree with itself. Only the catalogue's facts are shared.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import json
import math
import random
import re
import uuid
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, Literal
from urllib.parse import quote

import attrs

from .._catalogue import Catalogue, ModelSpec, ParamSpec
from ._codes import refusal, says, text_of
from ._faults import Fault, FaultScript
from ._graphs import Graph

__all__ = [
    "Emulated", "KeyType", "Service", "Stats", "Work", "failed_reason", "is_id", "query_fault",
    "size_of", "whole", "written",
]  # fmt: skip

KeyType = Literal["SHARED", "NORMAL", "EXCLUSIVE"]

#: The id in the documentation's own example; later ones count up from it.
FIRST_TASK_ID: Final = 2013508786110730241

#: Beyond this many in an exclusive key's own queue a task is refused with 814.
PERSONAL_QUEUE: Final = 1000

#: RH coins per second by machine; the documentation has the first two. The emulator reckons a
#: hundred of them to a unit of money.
_COINS: Final = {"default": Decimal("0.2"), "plus": Decimal("0.4"), "ultra": Decimal("0.8")}
_COINS_PER_MONEY: Final = 100

#: Prompts of which it is known how many tasks there were; the first ones are forgotten.
_PROMPTS: Final = 100_000

_WALLET: Final = Decimal(999)
_PURSE: Final = 177814

#: How a model that has no path is addressed: by a number of the site. Nothing is known of the
#: parameters of such models, so any are taken.
_BY_NUMBER: Final = re.compile(r"[1-9]\d{18}")

#: Longest prompts, in characters, of models that refused shorter ones than their page allows.
_PROMPT_LIMITS: Final = (("alibaba/wan-2.7/", 2048),)

_LAYERS: Final = "seedream-v5-pro/layer-decomposition"

#: What a result is drawn from.
_DRAWN: Final = ("prompt", "width", "height", "resolution")

_SIDES: Final = {"1k": 1024, "2k": 2048, "3k": 3072, "4k": 4096}

_FINE: Final = json.dumps(
    {"result": True, "error": None, "outputs_to_execute": ["4"], "node_errors": {}}
)


@attrs.define
class Stats:
    """What the emulator was asked and what it would have billed.

    `submits`: requests for a new task that arrived, of every family. `accepted`: tasks created.
    `billed`: those that cost money or coins. `refused`: submits answered with an error.
    `queries`, `downloads`, `uploads`: requests of that kind. `calls`: of every other kind.
    `webhooks`: deliveries attempted. `money`: the sum of the bills, as a decimal string,
    in USD on the site "ai" and in CNY on "cn".
    """

    submits: int = 0
    accepted: int = 0
    billed: int = 0
    refused: int = 0
    queries: int = 0
    downloads: int = 0
    uploads: int = 0
    money: str = "0"
    webhooks: int = 0
    calls: int = 0


@attrs.frozen(kw_only=True)
class Work:
    """What a new task is to do.

    `path`: a model's path, or the id of a workflow or an app. `params`: what its files are drawn
    from. `files`: node id and extension of each result. `price`: None for what is billed by
    machine time. `older`: whether it came by a v1 endpoint, which decides its webhook's form.
    `unsound`: whether validation left nothing to run, so that it will fail.
    """

    family: Literal["model", "workflow", "app", "quick", "proxy"]
    path: str
    params: Mapping[str, Any]
    files: tuple[tuple[str, str], ...]
    price: Decimal | None = None
    tips: str = _FINE
    graph: Graph = attrs.field(factory=dict)
    older: bool = False
    unsound: bool = False
    #: For each of `files` that has them: keys of its result beside the usual ones.
    extra: tuple[Mapping[str, Any], ...] = ()
    webhook: str = ""
    instance: str = "default"
    retain: int = 0
    personal: bool = False
    client_id: str = ""


@attrs.define
class Emulated:
    """One task of the emulated service. Times are the loop's."""

    id: str
    work: Work
    starts: float
    ends: float
    client_id: str
    visible: float = 0.0
    money: Decimal | None = None
    coins: Decimal | None = None
    failure: str = ""
    quirk: str = ""
    cancelled: float | None = None
    prompt_id: str = ""

    @property
    def prompt(self) -> str:
        """The text it is about, as a fault's `match` sees it."""
        prompt = self.work.params.get("prompt")
        return "" if prompt is None else str(prompt)

    def status(self, now: float) -> str:
        """The service's word for where the task stands."""
        if self.cancelled is not None:
            return "CANCEL"
        if now < self.ends:
            return "QUEUED" if now < self.starts else "RUNNING"
        return "FAILED" if self.failure else "SUCCESS"

    @property
    def ran(self) -> float:
        """Seconds on a machine, when it has ended."""
        end = self.ends if self.cancelled is None else min(self.cancelled, self.ends)
        return max(0.0, end - self.starts)


class Service:
    """The state of the emulated service and the JSON it answers."""

    def __init__(
        self,
        *,
        duration: float,
        max_concurrency: int | None,
        rate: float | None,
        faults: FaultScript,
        rng: random.Random,
        retention: float,
        key_type: KeyType = "SHARED",
        currency: str = "CNY",
        url_lifetime: float = 86400.0,
        queue: float | None = None,
    ) -> None:
        self.stats = Stats()
        #: How many tasks were created for each prompt.
        self.begun: Counter[str] = Counter()
        self.faults = faults
        self.duration = duration
        self.max_concurrency = max_concurrency
        self.key_type = key_type
        self.currency = currency
        self._rate = rate
        self._rng = rng
        self._retention = retention
        self._url_lifetime = url_lifetime
        self._queue = queue
        self._tasks: OrderedDict[str, Emulated] = OrderedDict()
        self._prompts: dict[str, str] = {}
        self._first: deque[str] = deque()
        self._ends: list[tuple[float, str]] = []
        self._alive = 0
        self._recent: deque[float] = deque()
        self._money = Decimal(0)
        self._coins = Decimal(0)
        self._secret = rng.randbytes(16)
        self._next_id = FIRST_TASK_ID
        #: Called with each new task that has a webhook.
        self.on_webhook: Callable[[Emulated], None] | None = None

    # -- submit -------------------------------------------------------------------------------

    def submit(self, path: str, params: Any, now: float, *, doomed: Fault | None) -> dict[str, Any]:
        """Answer `POST /openapi/v2/<path>` for a standard model."""
        spec = self._called(path, params)
        if isinstance(spec, dict):
            return spec
        if code := self.full(now, personal=False):
            return refusal(code)
        task = self.create(self._model_work(spec, params), now, doomed)
        return self.created(task, now)

    def _called(self, path: str, params: Any) -> ModelSpec | dict[str, Any]:
        """The model that is called with `params`, or how the call is refused."""
        spec = _model(path)
        if spec is None:
            return refusal("1001")
        if self.key_type != "SHARED":
            return refusal("1014")
        if not isinstance(params, dict):
            return refusal("1007", "request body must be a JSON object")
        if fault := _fault_in(spec, params):
            return refusal("1007", fault)
        return spec

    def created(self, task: Emulated, now: float) -> dict[str, Any]:
        """How a v2 submit is answered when there is a task."""
        answer = self._answer(task.id, "QUEUED" if now < task.starts else "RUNNING")
        answer["clientId"] = task.client_id
        answer["promptTips"] = task.work.tips
        return {key: answer[key] for key in _SUBMIT_FIELDS}

    def preview(self, path: str, params: Any) -> dict[str, Any]:
        """Answer `POST /openapi/v2/price-preview/<path>`: a price, and no task."""
        spec = self._called(path, params)
        if isinstance(spec, dict):
            return spec
        price = spec.price_of(_as_documented(spec, params))
        amount = f"{price.amount:f}" if price else None
        return {
            "errorCode": "",
            "errorMessage": "",
            "estimatedPrice": amount,
            "currency": self.currency,
            "priceText": f"{amount} {self.currency}/次" if amount else "",
            "priceTextEn": f"{amount} {self.currency} per call" if amount else "",
            "freeLimit": False,
            "freeLimitCount": 0,
            "remainingFreeLimitCount": 0,
            "isFreeThisCall": False,
        }

    def full(self, now: float, *, personal: bool) -> str:
        """The code that refuses a new task for lack of a free slot; empty if there is one."""
        if self.max_concurrency is None or self.alive(now) < self.max_concurrency:
            return ""
        if self.key_type != "EXCLUSIVE":
            return "421"
        if not personal:
            return "415"
        queued = self.alive(now) - self.max_concurrency
        return "814" if queued >= PERSONAL_QUEUE else ""

    def create(self, work: Work, now: float, doomed: Fault | None) -> Emulated:
        """A new task. Whether there is room for it is `full`'s business."""
        takes = self.duration * self._rng.uniform(0.5, 1.5)
        free = self._free(now)
        # A model's own machines are ready; a machine for a graph has to start first.
        waits = 0.0 if work.family == "model" else takes * 0.1
        starts = free + (waits if self._queue is None else self._queue)
        task = Emulated(
            str(self._next_id),
            work,
            starts=starts,
            ends=starts + takes if self._queue is not None else free + takes,
            client_id=work.client_id or self._rng.randbytes(16).hex(),
        )
        self._next_id += 1 + self._rng.randrange(1000)
        if doomed is not None:
            _doom(task, doomed, now)
        if work.unsound:
            task.failure = "433"
        self._bill(task)
        self.stats.accepted += 1
        self._count(task.prompt)
        self._tasks[task.id] = task
        if work.family == "proxy":
            task.prompt_id = str(uuid.UUID(bytes=self._rng.randbytes(16), version=4))
            self._prompts[task.prompt_id] = task.id
        heapq.heappush(self._ends, (task.ends, task.id))
        self._alive += 1
        self._forget(now)
        if work.webhook and self.on_webhook is not None:
            self.on_webhook(task)
        return task

    def _count(self, prompt: str) -> None:
        if prompt not in self.begun:
            self._first.append(prompt)
        self.begun[prompt] += 1
        if len(self._first) > _PROMPTS:
            del self.begun[self._first.popleft()]

    def _model_work(self, spec: ModelSpec, params: Mapping[str, Any]) -> Work:
        count = _pictures(params, self._rng)
        extra: tuple[Mapping[str, Any], ...] = ()
        if spec.path == _LAYERS:
            extra = tuple(_layer(n, self._rng) for n in range(self._rng.randint(2, 5)))
            count = len(extra)
        # The bill counts what came back, not what might have.
        price = spec.price_of({**_as_documented(spec, params), "maxImages": count})
        return Work(
            family="model",
            path=spec.path,
            # The rest may be pictures as data URIs, of which a task would hold megabytes for a day.
            params={key: params[key] for key in _DRAWN if key in params},
            files=(("2", _kind(spec, params)),) * count,
            extra=extra,
            price=price.amount if price else Decimal(0),
            webhook=_webhook(params),
        )

    def _free(self, now: float) -> float:
        """When a machine is free: at once, but for those in an exclusive key's own queue.

        Each waits for the place it was given; one that a cancelled task leaves goes to the
        next.
        """
        machines = self.max_concurrency
        if self.key_type != "EXCLUSIVE" or machines is None or self.alive(now) < machines:
            return now
        alive = (t for _, key in self._ends if (t := self._tasks.get(key)) and t.cancelled is None)
        return heapq.nlargest(machines, (task.ends for task in alive))[-1]

    def _bill(self, task: Emulated) -> None:
        """Models cost their price if they succeed, machines the time they ran in any case."""
        before = task.money or Decimal(0), task.coins or Decimal(0)
        task.money = task.coins = None
        if task.work.family == "model":
            task.money = None if task.failure else task.work.price
        else:
            seconds = Decimal(str(round(task.ran, 3)))
            if self.key_type == "NORMAL":
                task.coins = Decimal(round(_coins(task.work.instance) * seconds))
            elif self.key_type == "SHARED":
                seconds += task.work.retain
                task.money = round(_coins(task.work.instance) * seconds / _COINS_PER_MONEY, 4)
        after = task.money or Decimal(0), task.coins or Decimal(0)
        self._money += after[0] - before[0]
        self._coins += after[1] - before[1]
        self.stats.money = str(self._money)
        if task.cancelled is None and (task.money is not None or task.coins is not None):
            self.stats.billed += 1

    def alive(self, now: float) -> int:
        """How many tasks have not ended."""
        while self._ends and self._ends[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._ends)[1])
            # A cancelled one was counted out when it was cancelled.
            if task is None or task.cancelled is None:
                self._alive -= 1
        return self._alive

    def _forget(self, now: float) -> None:
        while self._tasks:
            oldest = next(iter(self._tasks.values()))
            if oldest.ends + self._retention > now:
                return
            self.alive(now)
            del self._tasks[oldest.id]
            self._prompts.pop(oldest.prompt_id, None)

    # -- query, cancel, queue, account --------------------------------------------------------

    def find(self, task_id: Any, now: float) -> Emulated | None:
        """The task with this id, once it can be seen."""
        task = self._tasks.get(str(task_id))
        return task if task is not None and task.visible <= now else None

    def prompt_of(self, task_id: str) -> str:
        """The prompt of a task, whether it can be seen or not; empty if there is none such."""
        task = self._tasks.get(task_id)
        return "" if task is None else task.prompt

    def prompted(self, prompt_id: str) -> Emulated | None:
        """The task that ComfyUI would know by this id."""
        return self._tasks.get(self._prompts.get(prompt_id, ""))

    def query(self, params: Any, now: float, origin: str, *, quirk: str = "") -> dict[str, Any]:
        """Answer `POST /openapi/v2/query`; `origin` is where results are fetched."""
        if fault := query_fault(params):
            return fault
        task_id = params.get("taskId") if isinstance(params, dict) else None
        if task_id is None:
            return says("query", "1007", "taskId must not be null | 任务ID不能为空")[0]
        task = self.find(task_id, now)
        if task is None:
            return {
                **says("query", "1004")[0],
                "taskId": str(task_id),
                "failedReason": {},
                "usage": None,
            }
        return self.shown(task, now, origin, quirk=quirk)

    def shown(self, task: Emulated, now: float, origin: str, *, quirk: str = "") -> dict[str, Any]:
        """A task in the words of Query V2."""
        status = task.status(now)
        answer = self._answer(task.id, status)
        if status == "SUCCESS":
            answer["usage"] = _usage(task)
            answer["results"] = self._results(task, now, origin)
        elif status == "FAILED":
            answer["errorCode"] = task.failure
            answer["errorMessage"] = text_of(task.failure)
            answer["failedReason"] = failed_reason(task)
            answer["usage"] = _usage(task)
            if task.quirk == "error":
                answer["status"] = "ERROR"
            elif task.quirk == "reason":
                answer["failedReason"] = json.dumps(answer["failedReason"])
        elif quirk == "stale" and status != "CANCEL":
            answer["errorCode"], answer["errorMessage"] = "1011", text_of("1011")
        elif quirk == "unready" and status != "CANCEL":
            answer["status"] = "CREATE"
        if task.work.family == "quick":
            # What quick-create starts is the one kind of task here that has another one within.
            part = {"taskId": str(int(task.id) + 1), "parentTaskId": task.id}
            answer["parentTaskId"] = task.id
            answer["taskUsageList"] = [{**part, "taskStatus": status, "usage": answer["usage"]}]
        return answer

    def _results(self, task: Emulated, now: float, origin: str) -> list[Any] | None:
        if task.quirk == "empty":
            return None
        files = self.files(task, now, origin)
        if task.quirk == "bare":
            return [url for _, _, url, _ in files]
        return [
            {"url": None, "nodeId": node, "outputType": kind, "text": written(task.work.params)}
            if kind == "txt"
            else {"url": url, "nodeId": node, "outputType": kind, "text": None, **extra}
            for node, kind, url, extra in files
        ]

    def files(
        self, task: Emulated, now: float, origin: str
    ) -> list[tuple[str, str, str, Mapping[str, Any]]]:
        """Node id, extension and URL of each result, and its further keys; the URLs are good from
        now on."""
        if task.quirk == "empty":
            return []
        found = []
        for n, (node, kind) in enumerate(task.work.files):
            said = _STRAY if task.quirk == "name" and kind != "txt" else kind
            place = f"{origin}/results/{task.id}/{n}.{quote(said, safe='')}"
            extra = task.work.extra[n] if n < len(task.work.extra) else {}
            found.append((node, said, f"{place}?sign={self.sign(task.id, n, now)}", extra))
        return found[::-1] if task.quirk == "reorder" else found

    def cancel(self, task: Emulated, now: float) -> bool:
        """End a task if it has not ended yet; what it ran until now stays billed."""
        if task.status(now) not in ("QUEUED", "RUNNING"):
            return False
        self.alive(now)
        task.cancelled = now
        self._alive -= 1
        if task.work.family != "model":
            self._bill(task)
        return True

    def queue_status(self, now: float) -> dict[str, Any]:
        """Answer `GET /openapi/v2/queue/status`: the limit is a number, the counts are strings."""
        total = self.alive(now)
        tasks = [self._tasks[task_id] for _, task_id in self._ends if task_id in self._tasks]
        states = [task.status(now) for task in tasks]
        data = {
            "apiKeyType": self.key_type,
            "concurrentLimit": self.max_concurrency or 100000,
            "runningCount": str(states.count("RUNNING")),
            "queuedCount": str(states.count("QUEUED")),
            "totalCurrentTasks": str(total),
        }
        if self.key_type == "EXCLUSIVE":
            data["instanceCount"] = self.max_concurrency or 100000
        return {"code": 0, "msg": "success", "data": data}

    def account(self, now: float) -> dict[str, Any]:
        """The data of `POST /uc/openapi/accountStatus`: every number is a string."""
        wallet = self.key_type != "NORMAL"
        return {
            "remainCoins": str(max(0, _PURSE - round(self._coins))),
            "currentTaskCounts": str(self.alive(now)),
            "remainMoney": str(max(Decimal(0), _WALLET - self._money)) if wallet else None,
            "currency": self.currency if wallet else None,
            "apiType": self.key_type,
        }

    # -- results ------------------------------------------------------------------------------

    def sign(self, name: str, number: int, now: float, lifetime: float | None = None) -> str:
        """The signature that a URL given now must carry: until when it holds, and a digest."""
        until = now + (self._url_lifetime if lifetime is None else lifetime)
        return self._sign(name, number, f"{int(until * 1000):x}")

    def signed(self, name: str, number: int, sign: str, now: float) -> bool:
        """Whether a URL with this signature may still be fetched."""
        until, _, _ = sign.partition("-")
        given, known = sign.encode("utf-8", "replace"), self._sign(name, number, until)
        if not hmac.compare_digest(given, known.encode("utf-8", "replace")):
            return False
        return now * 1000 <= int(until, 16)

    def _sign(self, name: str, number: int, until: str) -> str:
        text = f"{name}/{number}/{until}".encode("utf-8", "replace")
        return f"{until}-{hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]}"

    def result(self, task_id: str, number: int, sign: str, now: float) -> Emulated | None:
        """The task whose result may be fetched with this signature."""
        task = self._tasks.get(task_id)
        if task is None or not self.signed(task_id, number, sign, now):
            return None
        return task if task.status(now) == "SUCCESS" and number < len(task.work.files) else None

    # -- limits and envelopes -----------------------------------------------------------------

    def too_fast(self, now: float) -> bool:
        """Whether this request is one too many within the last second."""
        if self._rate is None:
            return False
        while self._recent and self._recent[0] <= now - 1.0:
            self._recent.popleft()
        if len(self._recent) >= self._rate:
            return True
        self._recent.append(now)
        return False

    @staticmethod
    def _answer(task_id: str, status: str) -> dict[str, Any]:
        return {
            "taskId": task_id,
            "status": status,
            "errorCode": "",
            "errorMessage": "",
            "failedReason": {},
            "usage": None,
            "results": None,
            "clientId": "",
            "promptTips": "",
        }


#: A type that is a path out of wherever it is made a file name's ending.
_STRAY: Final = "../../x"

_SUBMIT_FIELDS: Final = (
    "taskId", "status", "errorCode", "errorMessage", "results", "clientId", "promptTips",
)  # fmt: skip


def size_of(params: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of the picture asked for; `resolution` overrides both."""
    side = _SIDES.get(str(params.get("resolution", "")).lower())
    if side:
        return side, side
    return whole(params.get("width"), 2048, 16, 8192), whole(params.get("height"), 2048, 16, 8192)


def is_id(value: Any) -> bool:
    """Whether this is a number above 0, as text or not; of any length, so it is not converted."""
    text = str(value)
    return text.isdecimal() and bool(text.strip("0"))


def query_fault(params: Any) -> dict[str, Any] | None:
    """The answer of Query V2 to a task id that cannot be one; None if it can, or if there is
    none. The service looks at this before it looks at the key."""
    task_id = params.get("taskId") if isinstance(params, dict) else None
    if task_id is None or (isinstance(task_id, str | int) and is_id(task_id)):
        return None
    return says("query", "1007", "taskId must be greater than 0 | 任务ID必须大于0")[0]


def whole(value: Any, default: int, low: int, high: int) -> int:
    """`value` as a whole number within bounds, where parameters may be anything."""
    try:
        number = int(value or default)
    except (TypeError, ValueError, OverflowError):
        number = default
    return max(low, min(high, number))


def written(params: Mapping[str, Any]) -> str:
    """The text of a task that gives text."""
    prompt = str(params.get("prompt", ""))
    return f"Written by the emulator, not by a model. You asked: {prompt}"


def failed_reason(task: Emulated) -> dict[str, str]:
    """How ComfyUI tells of a failure, the traceback being a list in a string; models have none,
    nor has a graph that was not even begun."""
    if task.work.family == "model" or task.failure in ("", "433"):
        return {}
    node, name = next(
        ((key, str(n.get("class_type"))) for key, n in task.work.graph.items()), ("3", "KSampler")
    )
    trace = ['  File "/workspace/ComfyUI/execution.py", line 361, in execute\n',
             "RuntimeError: the fault script says that this task fails\n"]  # fmt: skip
    return {
        "current_outputs": "{}",
        "exception_type": "RuntimeError",
        "node_name": name,
        "current_inputs": "{}",
        "traceback": json.dumps(trace),
        "node_id": node,
        "exception_message": "the fault script says that this task fails",
    }


def _doom(task: Emulated, fault: Fault, now: float) -> None:
    if fault.kind in ("fail", "error", "reason"):
        task.failure = fault.code
        task.quirk = fault.kind if fault.kind != "fail" else ""
    elif fault.kind == "hidden":
        task.visible = now + (3.0 if fault.seconds is None else fault.seconds)
    else:
        task.quirk = fault.kind


def _usage(task: Emulated) -> dict[str, str | None]:
    model, spent = task.work.family == "model", str(task.money) if task.money else None
    return {
        "consumeMoney": None if model else spent,
        "consumeCoins": None if task.coins is None else str(task.coins),
        "taskCostTime": "0" if task.failure and model else str(round(task.ran)),
        "thirdPartyConsumeMoney": spent if model else None,
    }


def _webhook(params: Mapping[str, Any]) -> str:
    return str(params.get("webhookUrl") or "")


def _kind(spec: ModelSpec, params: Mapping[str, Any]) -> str:
    if spec.output == "audio":
        return "wav" if str(params.get("format", "")).lower() == "wav" else "mp3"
    return {"image": "png", "video": "mp4", "3d": "glb", "text": "txt"}[spec.output]


def _pictures(params: Mapping[str, Any], rng: random.Random) -> int:
    if params.get("sequentialImageGeneration") == "auto":
        return rng.randint(1, whole(params.get("maxImages"), 1, 1, 100))
    return whole(params.get("imageNum"), 1, 1, 100)


def _model(path: str) -> ModelSpec | None:
    """The model with this path; None if there is none."""
    catalogue = Catalogue.load()
    if path in catalogue:
        spec = catalogue.find(path)
        # A name of the documentation is no path.
        return spec if spec.path == path else None
    if _BY_NUMBER.fullmatch(path):
        return ModelSpec(path, path, "", "image", "", (), incomplete=True)
    return None


def _layer(number: int, rng: random.Random) -> dict[str, Any]:
    """The further keys of a layer's result: its place in the pile, 0 at the bottom, and left, top,
    right and bottom of its content."""
    left, top = (0, 0) if number == 0 else (rng.randrange(0, 900), rng.randrange(0, 900))
    right = 2048 if number == 0 else left + rng.randrange(100, 1100)
    bottom = 2048 if number == 0 else top + rng.randrange(100, 1100)
    return {"z_index": number, "bounding_box": [left, top, right, bottom]}


def _coins(instance: str) -> Decimal:
    """Coins per second of a machine of this name; an unknown one costs as much as the default."""
    return _COINS.get(instance, _COINS["default"])


def _as_documented(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """`params` with choices as text and switches as booleans, as in the catalogue's rules."""
    found = dict(params)
    for key, value in params.items():
        kind = param.type if (param := spec.param(key)) is not None else ""
        if kind == "enum":
            found[key] = _word(value)
        elif kind == "boolean" and not isinstance(value, bool):
            found[key] = str(value).lower() in ("true", "1")
    return found


def _fault_in(spec: ModelSpec, params: Mapping[str, Any]) -> str:
    """The first parameter that the service would refuse, in its words; unknown ones pass.

    Only what a model's page rules out is refused: numbers may come as text, choices as numbers, and
    a single item without its list.
    """
    for param in spec.params:
        given = [key for key in (param.name, param.alias) if key and params.get(key) is not None]
        if not given:
            if param.required:
                return f"{param.name} must not be null | {param.name} 不能为空"
            continue
        value = params[given[0]]
        values: Sequence[Any] = value if param.multiple and isinstance(value, list) else [value]
        if param.max_items is not None and len(values) > param.max_items:
            return f"{param.name} exceeds {param.max_items} items | {param.name} 数量超限"
        if not all(_takes(param, each) for each in values):
            return f"{param.name} is invalid | {param.name} 无效"
    prompt = params.get("prompt")
    for start, most in _PROMPT_LIMITS:
        if spec.path.startswith(start) and isinstance(prompt, str) and len(prompt) > most:
            return f"prompt exceeds {most} characters | prompt 超过{most}个字符"
    return ""


def _takes(param: ParamSpec, value: Any) -> bool:
    kind = param.type
    if kind == "boolean":
        return isinstance(value, bool) or str(value).lower() in ("true", "false", "0", "1")
    if kind in ("integer", "number"):
        number = _number(value)
        if number is None or (kind == "integer" and not number.is_integer()):
            return False
        low = param.min is None or number >= param.min
        return low and (param.max is None or number <= param.max)
    if kind == "enum":
        word = _word(value)
        return word in param.choices or word in param.alias_choices
    if kind == "string":
        if not isinstance(value, str):
            return False
        short = param.min_length is not None and len(value) < param.min_length
        return not short and (param.max_length is None or len(value) <= param.max_length)
    return True


def _number(value: Any) -> float | None:
    """A number, or the number that a text holds; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _word(value: Any) -> Any:
    """A choice as the text that the catalogue has it as."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, int | float) else value
