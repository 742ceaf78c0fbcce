"""Events on their way: what is POSTed when a task ends, how often, and what is known of it later.

The documentation says neither how often a delivery is repeated nor how long it may take; here
that is `retries`, `gap` and `PATIENCE`.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final, Literal

import aiohttp
import attrs

from ._faults import Fault
from ._service import Emulated, Service
from ._v1 import ended

__all__ = ["Event", "Form", "Webhooks", "event_body"]

Form = Literal["auto", "A", "B", "C", "D"]

#: Seconds after which a receiver that has not answered counts as one that has not got it.
PATIENCE: Final = 10.0

#: Of what a receiver answers, no more than this is kept.
_KEPT: Final = 2048

_CHINA: Final = timezone(timedelta(hours=8))


@attrs.define
class Event:
    """An event and its delivery, as `getWebhookDetail` shows them. Times are the loop's."""

    id: str
    task_id: str
    url: str
    body: dict[str, Any]
    created: float
    updated: float
    status: Literal["SUCCESS", "FAILED"] = "FAILED"
    response: str = ""
    retries: int = 0


def event_body(
    form: Form, service: Service, task: Emulated, now: float, origin: str
) -> dict[str, Any]:
    """What is sent. Forms A and B are the documented ones, of the older endpoints and the newer;
    C and D have been met by others."""
    if form == "auto":
        form = "A" if task.work.older else "B"
    if form == "A":
        data: Any = json.dumps(ended(service, task, now, origin), ensure_ascii=False)
    else:
        data = service.shown(task, now, origin)
    if form == "D":
        return dict(data)
    if form == "C":
        good = data["status"] == "SUCCESS"
        data = {"code": 0 if good else 805, "msg": "success" if good else "failed", "data": data}
    return {"event": "TASK_END", "taskId": task.id, "eventData": data}


class Webhooks:
    """The deliveries of one emulator. Use within its loop; `aclose` ends what is under way."""

    def __init__(
        self, service: Service, origin: str, *, form: Form, retries: int, gap: float
    ) -> None:
        self._service = service
        self._origin = origin
        self._form: Form = form
        self._retries = retries
        self._gap = gap
        self._http: aiohttp.ClientSession | None = None
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._under_way: set[asyncio.Task[None]] = set()
        self._events: dict[str, Event] = {}
        self._wall = datetime.now(UTC)
        self._began = asyncio.get_running_loop().time()

    def watch(self, task: Emulated) -> None:
        """Send an event when this task ends, if it has a webhook."""
        if task.work.webhook:
            loop = asyncio.get_running_loop()
            self._timers[task.id] = loop.call_at(task.ends, self._end, task)

    def ended(self, task: Emulated) -> None:
        """It was cancelled: its event is sent now."""
        timer = self._timers.get(task.id)
        if timer is not None:
            timer.cancel()
            self._end(task)

    def detail(self, task_id: str) -> Event | None:
        """The event of this task, once there is one."""
        return self._events.get(_event_id(task_id)) if task_id.isdecimal() else None

    def send_again(self, event_id: str, url: str) -> bool:
        """Deliver once more, to a new place if one is given; False for an unknown event."""
        event = self._events.get(event_id)
        if event is None:
            return False
        event.url = url or event.url
        self._start(event, None)
        return True

    def shown(self, event: Event) -> dict[str, Any]:
        """An event as the service's own record shows it."""
        data = event.body.get("eventData", event.body)
        text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
        return {
            "id": event.id,
            "taskId": event.task_id,
            "webhookUrl": event.url,
            "eventData": text,
            "callbackStatus": event.status,
            "callbackResponse": event.response,
            "retryCount": event.retries,
            "createTime": self._clock(event.created),
            "updateTime": self._clock(event.updated),
        }

    async def aclose(self) -> None:
        """Stop the deliveries, and wait until those under way have ended."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    # -- one delivery -------------------------------------------------------------------------

    def _end(self, task: Emulated) -> None:
        self._timers.pop(task.id, None)
        # The timer may be a rounding error early.
        now = max(asyncio.get_running_loop().time(), task.ends if task.cancelled is None else 0)
        body = event_body(self._form, self._service, task, now, self._origin)
        event = Event(_event_id(task.id), task.id, task.work.webhook, body, now, now)
        self._events[event.id] = event
        while len(self._events) > 10_000:
            del self._events[next(iter(self._events))]
        self._start(event, self._service.faults.strike("webhook", task.prompt))

    def _start(self, event: Event, fault: Fault | None) -> None:
        job = asyncio.get_running_loop().create_task(self._deliver(event, fault))
        self._under_way.add(job)
        job.add_done_callback(self._under_way.discard)

    async def _deliver(self, event: Event, fault: Fault | None) -> None:
        kind = fault.kind if fault is not None else ""
        if kind == "lost":
            return
        if fault is not None and kind == "delay":
            await asyncio.sleep(fault.seconds or 0)
        garbage = kind == "garbage"
        event.retries = 0
        while not await self._post(event, garbage=garbage) and event.retries < self._retries:
            await asyncio.sleep(self._gap)
            event.retries += 1
        if fault is not None and kind == "duplicate":
            for _ in range(fault.times_each):
                await self._post(event, garbage=False)

    async def _post(self, event: Event, *, garbage: bool) -> bool:
        http = self._http
        if http is None:
            timeout = aiohttp.ClientTimeout(total=PATIENCE)
            http = self._http = aiohttp.ClientSession(timeout=timeout)
        text = "<html>502" if garbage else json.dumps(event.body, ensure_ascii=False)
        self._service.stats.webhooks += 1
        try:
            async with http.post(
                event.url,
                data=text.encode("utf-8", "backslashreplace"),
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as answer:
                good = 200 <= answer.status < 300
                event.response = (await answer.content.read(_KEPT)).decode("utf-8", "replace")
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            good, event.response = False, type(error).__name__
        event.status = "SUCCESS" if good else "FAILED"
        event.updated = asyncio.get_running_loop().time()
        return good

    def _clock(self, at: float) -> str:
        said = self._wall + timedelta(seconds=at - self._began)
        return said.astimezone(_CHINA).strftime("%Y-%m-%dT%H:%M:%S")


def _event_id(task_id: str) -> str:
    return f"1{task_id[1:]}"
