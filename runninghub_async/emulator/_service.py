"""The emulated service without its HTTP: tasks, limits, bills, and the answers it gives.

Written from the service's documentation (Standard Model API, Query V2, error code reference) and
not from this package's client: nothing of the client's protocol code is imported here, so that a
misreading there cannot agree with itself. Only the catalogue's facts are shared.
"""

from __future__ import annotations

import hashlib
import heapq
import hmac
import json
import random
from collections import OrderedDict, deque
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import attrs

from .._catalogue import Catalogue, ModelSpec, ParamSpec
from ._faults import Fault, FaultScript

__all__ = ["Emulated", "Service", "Stats"]

#: The id in the documentation's own example; later ones count up from it.
FIRST_TASK_ID: Final = 2013508786110730241

#: What the service says with each code: English, then Chinese, as it does.
TEXTS: Final = {
    "421": "api queue limit reached, please retry later | API 并发数已达上限，请降低并发或稍后重试",
    "414": "Insufficient coins | RH币不足",
    "416": "Insufficient wallet balance | 钱包余额不足",
    "812": "Insufficient enterprise balance | 企业余额不足",
    "1001": "Invalid URL | 无效的URL",
    "1002": "Invalid API key | 无效的API密钥",
    "1003": "Rate limit exceeded | 请求过于频繁",
    "1004": "Task not found, please check the task ID | 任务不存在或已过期，请检查任务ID",
    "1005": "Internal server error | 服务器内部错误",
    "1007": "Invalid parameters | 参数错误",
    "1008": "File size limit exceeded | 文件大小超限",
    "1009": "HTTP method not supported | 不支持的请求方法",
    "1011": "System busy | 系统繁忙",
    "1014": "Standard models need an enterprise-shared key | 标准模型仅支持企业共享APIKEY",
    "1501": "Content verification failed, please modify the input | 内容审核未通过",
    "1520": "Concurrent task limit reached | 并发任务数已达上限",
}  # fmt: skip

_SIDES: Final = {"1k": 1024, "2k": 2048, "3k": 3072, "4k": 4096}


@attrs.define
class Stats:
    """What the emulator was asked and what it would have billed.

    `submits`: submit requests that arrived. `accepted`: tasks created. `billed`: those that cost
    money. `refused`: submits answered with an error. `queries`, `downloads`, `uploads`: requests
    of that kind. `money`: the sum of the bills, in CNY, as a decimal string.
    """

    submits: int = 0
    accepted: int = 0
    billed: int = 0
    refused: int = 0
    queries: int = 0
    downloads: int = 0
    uploads: int = 0
    money: str = "0"


@attrs.define
class Emulated:
    """One task of the emulated service. Times are the loop's."""

    id: str
    path: str
    params: Mapping[str, Any]
    created: float
    starts: float
    ends: float
    output: str
    pictures: int = 1
    cost: Decimal | None = None
    failure: str = ""
    cancelled: bool = False
    client_id: str = ""

    def status(self, now: float) -> str:
        """The service's word for where the task stands."""
        if self.cancelled:
            return "CANCEL"
        if now < self.ends:
            return "QUEUED" if now < self.starts else "RUNNING"
        return "FAILED" if self.failure else "SUCCESS"


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
    ) -> None:
        self.stats = Stats()
        self.faults = faults
        self.duration = duration
        self.max_concurrency = max_concurrency
        self._rate = rate
        self._rng = rng
        self._retention = retention
        self._tasks: OrderedDict[str, Emulated] = OrderedDict()
        self._ends: list[tuple[float, str]] = []
        self._alive = 0
        self._recent: deque[float] = deque()
        self._money = Decimal(0)
        self._secret = rng.randbytes(16)
        self._next_id = FIRST_TASK_ID

    # -- submit -------------------------------------------------------------------------------

    def submit(self, path: str, params: Any, now: float, *, doomed: Fault | None) -> dict[str, Any]:
        """Answer `POST /openapi/v2/<path>`."""
        if path not in Catalogue.load() or (spec := Catalogue.load().find(path)).path != path:
            return self._refuse("1001")
        if not isinstance(params, dict):
            return self._refuse("1007", "request body must be a JSON object")
        if fault := _fault_in(spec, params):
            return self._refuse("1007", fault)
        if self.max_concurrency is not None and self.alive(now) >= self.max_concurrency:
            return self._refuse("421")
        task = self._create(spec, params, now, doomed)
        answer = self._answer(task.id, "QUEUED" if now < task.starts else "RUNNING")
        answer["clientId"] = task.client_id
        answer["promptTips"] = json.dumps(
            {"result": True, "error": None, "outputs_to_execute": ["4"], "node_errors": {}}
        )
        return {key: answer[key] for key in _SUBMIT_FIELDS}

    def _create(
        self, spec: ModelSpec, params: Mapping[str, Any], now: float, doomed: Fault | None
    ) -> Emulated:
        takes = self.duration * self._rng.uniform(0.5, 1.5)
        task = Emulated(
            id=str(self._next_id),
            path=spec.path,
            params=params,
            created=now,
            starts=now + takes * 0.1,
            ends=now + takes,
            output=spec.output,
            pictures=_pictures(params, self._rng),
            failure=doomed.code if doomed else "",
            client_id=self._rng.randbytes(16).hex(),
        )
        self._next_id += 1 + self._rng.randrange(1000)
        if not task.failure:
            # The bill counts what came back, not what might have.
            price = spec.price_of({**params, "maxImages": task.pictures})
            task.cost = price.amount if price else Decimal(0)
            self._money += task.cost
            self.stats.money = str(self._money)
            self.stats.billed += 1
        self.stats.accepted += 1
        self._tasks[task.id] = task
        heapq.heappush(self._ends, (task.ends, task.id))
        self._alive += 1
        self._forget(now)
        return task

    def alive(self, now: float) -> int:
        """How many tasks have not ended."""
        while self._ends and self._ends[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._ends)[1])
            # A cancelled one was counted out when it was cancelled.
            if task is None or not task.cancelled:
                self._alive -= 1
        return self._alive

    def _forget(self, now: float) -> None:
        while self._tasks:
            oldest = next(iter(self._tasks.values()))
            if oldest.ends + self._retention > now:
                return
            del self._tasks[oldest.id]

    # -- query, cancel, queue -----------------------------------------------------------------

    def query(self, params: Any, now: float, origin: str, *, stale: bool) -> dict[str, Any]:
        """Answer `POST /openapi/v2/query`; `origin` is where results are fetched."""
        task_id = params.get("taskId") if isinstance(params, dict) else None
        if task_id is None:
            return error_answer("1007", "taskId must not be null | 任务ID不能为空")
        if not isinstance(task_id, str | int) or not str(task_id).isdigit() or int(task_id) == 0:
            return error_answer("1007", "taskId must be greater than 0 | 任务ID必须大于0")
        task = self._tasks.get(str(task_id))
        if task is None:
            return {
                **error_answer("1004"),
                "taskId": str(task_id),
                "failedReason": {},
                "usage": None,
            }
        status = task.status(now)
        answer = self._answer(task.id, status)
        if status == "SUCCESS":
            answer["usage"] = {
                "consumeMoney": None,
                "consumeCoins": None,
                "taskCostTime": str(round(task.ends - task.starts)),
                "thirdPartyConsumeMoney": str(task.cost) if task.cost else None,
            }
            answer["results"] = self._results(task, origin)
        elif status == "FAILED":
            answer["errorCode"] = task.failure
            answer["errorMessage"] = TEXTS.get(task.failure, "unknown error")
            answer["usage"] = dict.fromkeys(
                ("consumeMoney", "consumeCoins", "thirdPartyConsumeMoney"), None
            ) | {"taskCostTime": "0"}
        elif stale:
            answer["errorCode"], answer["errorMessage"] = "1011", TEXTS["1011"]
        return answer

    def _results(self, task: Emulated, origin: str) -> list[dict[str, Any]]:
        if task.output == "text":
            prompt = str(task.params.get("prompt", ""))
            text = f"Written by the emulator, not by a model. You asked: {prompt}"
            return [{"url": None, "nodeId": "2", "outputType": "txt", "text": text}]
        kind = {"image": "png", "video": "mp4", "audio": "wav", "3d": "glb"}[task.output]
        return [
            {
                "url": f"{origin}/results/{task.id}/{n}.{kind}?sign={self.sign(task.id, n)}",
                "nodeId": "2",
                "outputType": kind,
                "text": None,
            }
            for n in range(task.pictures)
        ]

    def cancel(self, params: Any, now: float) -> dict[str, Any]:
        """Answer `POST /task/openapi/cancel`."""
        task = self._tasks.get(str(params.get("taskId"))) if isinstance(params, dict) else None
        if task is None:
            return {
                "code": 807,
                "msg": "APIKEY_TASK_NOT_FOUND",
                "errorMessages": None,
                "data": None,
            }
        if task.status(now) not in ("QUEUED", "RUNNING"):
            return {"code": 1, "msg": "task cannot cancel", "errorMessages": None, "data": None}
        task.cancelled = True
        self._alive -= 1
        return {"code": 0, "msg": "success", "errorMessages": None, "data": None}

    def queue_status(self, now: float) -> dict[str, Any]:
        """Answer `GET /openapi/v2/queue/status`: the limit is a number, the counts are strings."""
        total = self.alive(now)
        states = [self._tasks[task_id].status(now) for _, task_id in self._ends]
        return {
            "code": 0,
            "msg": "success",
            "data": {
                "apiKeyType": "SHARED",
                "concurrentLimit": self.max_concurrency or 100000,
                "runningCount": str(states.count("RUNNING")),
                "queuedCount": str(states.count("QUEUED")),
                "totalCurrentTasks": str(total),
            },
        }

    # -- results ------------------------------------------------------------------------------

    def sign(self, task_id: str, number: int) -> str:
        """The signature that a result's URL must carry."""
        text = f"{task_id}/{number}".encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()[:32]

    def result(self, task_id: str, number: int, sign: str, now: float) -> Emulated | None:
        """The task whose result may be fetched with this signature."""
        task = self._tasks.get(task_id)
        if task is None or not hmac.compare_digest(sign, self.sign(task_id, number)):
            return None
        return task if task.status(now) == "SUCCESS" and number < task.pictures else None

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

    def _refuse(self, code: str, text: str = "") -> dict[str, Any]:
        self.stats.refused += 1
        return refusal(code, text)

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


_SUBMIT_FIELDS: Final = (
    "taskId", "status", "errorCode", "errorMessage", "results", "clientId", "promptTips",
)  # fmt: skip


def refusal(code: str, text: str = "") -> dict[str, Any]:
    """How a submit is refused: nothing but a code and its text, with HTTP 200."""
    return {"errorCode": code, "errorMessage": text or TEXTS.get(code, "error")}


def error_answer(code: str, text: str = "") -> dict[str, Any]:
    """How a query fails for its own sake: no task id, an empty status."""
    return {"taskId": "", "status": "", **refusal(code, text), "results": None}


def size_of(params: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of the picture asked for; `resolution` overrides both."""
    side = _SIDES.get(str(params.get("resolution", "")).lower())
    if side:
        return side, side
    return int(params.get("width") or 2048), int(params.get("height") or 2048)


def _pictures(params: Mapping[str, Any], rng: random.Random) -> int:
    if params.get("sequentialImageGeneration") == "auto":
        return rng.randint(1, int(params.get("maxImages", 1)))
    return int(params.get("imageNum", 1) or 1)


def _fault_in(spec: ModelSpec, params: Mapping[str, Any]) -> str:
    """The first parameter that the service would refuse, in its words; unknown ones pass."""
    for param in spec.params:
        given = [key for key in (param.name, param.alias) if key and key in params]
        if not given:
            if param.required:
                return f"{param.name} must not be null | {param.name} 不能为空"
            continue
        value = params[given[0]]
        values = value if param.multiple and isinstance(value, list) else [value]
        if param.multiple and not isinstance(value, list):
            return f"{param.name} must be an array | {param.name} 必须是数组"
        if param.max_items is not None and len(values) > param.max_items:
            return f"{param.name} exceeds {param.max_items} items | {param.name} 数量超限"
        if not all(_takes(param, each) for each in values):
            return f"{param.name} is invalid | {param.name} 无效"
    return ""


def _takes(param: ParamSpec, value: Any) -> bool:
    kind = param.type
    if kind == "boolean":
        return isinstance(value, bool) or value in ("true", "false")
    if kind in ("integer", "number"):
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        low = param.min is None or value >= param.min
        return low and (param.max is None or value <= param.max)
    if kind == "enum":
        return value in param.choices or value in param.alias_choices
    if kind == "string":
        if not isinstance(value, str):
            return False
        short = param.min_length is not None and len(value) < param.min_length
        return not short and (param.max_length is None or len(value) <= param.max_length)
    return True
