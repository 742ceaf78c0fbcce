"""The session: one key, one set of limits, one pool of connections, for one call or many."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import secrets
from collections.abc import AsyncIterable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio
import anyio.to_thread

from ._call import Call, waiting_job
from ._caller import Caller
from ._catalogue import Catalogue
from ._dispatcher import Dispatcher, wait_out
from ._download import Download, Gone, Incomplete, download_once
from ._exceptions import (
    PayloadError,
    RunningHubError,
    SessionError,
    SubmitManyError,
    SubmitUnknown,
    WaitTimeout,
)
from ._families import (
    Account,
    Apps,
    Assets,
    ComfyUI,
    Older,
    QuickCreate,
    Resources,
    TaskProgress,
    WebhookEvents,
    Workflows,
)
from ._feed import Feed
from ._job import Accepted, Job, Rules
from ._limits import Limits
from ._media import FilePath
from ._models import Output, Task
from ._outcomes import Outcome, Succeeded
from ._polling import ExponentialPolling, Polling
from ._prepare import Preparer
from ._protocol import (
    Site,
    build_query,
    check_task_id,
    parse_price,
    parse_query,
)
from ._protocol_v1 import build_v1, parse_done
from ._records import Lora, PricePreview, Upload
from ._retry import RetryPolicy
from ._scheduler import Entry
from ._seedream import GenerationRequest
from ._stream import JobStream, OnLeave, TaskStream
from ._transport import AiohttpTransport, Transport
from ._uploads import OnProgress, Uploader
from .webhooks import Webhooks

__all__ = ["Session"]

logger = logging.getLogger("runninghub_async")

DEFAULT_BASE_URL: Final = "https://www.runninghub.ai"

#: How long cancelling the tasks of a stream that was left may take, in seconds.
_CANCEL_TIME: Final = 10.0


class Session:
    """A client of the service; use it with `async with`, on one event loop.

    `api_key`: the key; default `RUNNINGHUB_API_KEY`, else `RH_API_KEY`. `base_url`: the service's
    origin, with or without `/openapi/v2`; default `RUNNINGHUB_BASE_URL`, else `RH_API_BASE_URL`,
    else `https://www.runninghub.ai`. A key works only on its own site (.ai or .cn). `limits`,
    `polling`, `retry`: see `Limits`, `ExponentialPolling`, `RetryPolicy`. `transport`: the
    network, or `testing.MockTransport`; the session closes it. `rng`: the source of all chance;
    seed it for a run that repeats. `webhooks`: have the end of tasks announced, see
    `runninghub_async.webhooks`; polling then goes on beneath, as `webhooks.polling` says.
    `key_in_body`: send the key in the bodies of the older API's calls as well as in the header,
    as it documents; False for a key that it refuses so and takes by the header alone, which was
    reported of one kind of enterprise key.
    `journal` is reserved for a durable record of runs, which does
    not exist yet: anything but None raises `TypeError`.

    Beside the main job: `account`, `apps`, `assets`, `comfyui`, `older`, `quick_create`,
    `resources`, `webhook_events` and `workflows` hold the calls of a family each.

    Raises `ValueError` for a base URL or key that cannot be one, and `SessionError` on entering
    without a key.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        limits: Limits = Limits(),  # noqa: B008 - a frozen value
        polling: Polling = ExponentialPolling(),  # noqa: B008 - likewise
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - likewise
        journal: None = None,
        transport: Transport | None = None,
        rng: random.Random | None = None,
        webhooks: Webhooks | None = None,
        key_in_body: bool = True,
    ) -> None:
        if journal is not None:
            raise TypeError("journal: there is no journal yet; leave it None")
        env = os.environ
        key = api_key or env.get("RUNNINGHUB_API_KEY") or env.get("RH_API_KEY") or ""
        self._site = Site.of(
            base_url
            or env.get("RUNNINGHUB_BASE_URL")
            or env.get("RH_API_BASE_URL")
            or DEFAULT_BASE_URL,
            key,
            key_in_body=key_in_body,
        )
        self.limits = limits
        self._rules = Rules(webhooks.polling if webhooks is not None else polling, retry)
        self._transport = transport or AiohttpTransport()
        self._rng = rng or random.Random()
        self._webhooks = webhooks
        #: What this session's jobs are called in the addresses of its webhooks.
        self._name = secrets.token_hex(8)
        self._caller = Caller(self._site, self._transport, retry, self._rng, self._open)
        self._uploader = Uploader(self._caller)
        self._preparer = Preparer(self._site, self._uploader, self._announced)
        self.account = Account(self._caller)
        self.apps = Apps(self._caller)
        self.assets = Assets(self._caller)
        self.comfyui = ComfyUI(self._caller)
        self.older = Older(self._caller, self._uploader)
        self.quick_create = QuickCreate(self._caller)
        self.resources = Resources(self._caller)
        self.webhook_events = WebhookEvents(self._caller)
        self.workflows = Workflows(self._caller)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._dispatcher: Dispatcher | None = None
        self._closed = False
        self._feeds: set[Feed] = set()
        self._calls: set[Call] = set()

    @property
    def base_url(self) -> str:
        """The origin of the service."""
        return self._site.base_url

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open" if self._dispatcher else "not open"
        return f"<Session {self.base_url} {state}>"

    async def __aenter__(self) -> Self:
        if self._loop is not None or self._closed:
            raise SessionError("a session is opened once; make a new one")
        if not self._site.api_key:
            raise SessionError(
                "no API key: pass api_key=..., or set RUNNINGHUB_API_KEY (or RH_API_KEY); "
                "without one, the package's emulator stands in for the service"
            )
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise SessionError("a session needs an asyncio event loop") from None
        if not Catalogue.loaded():
            # Read now, in a thread: the first request must not hold the loop for it.
            await anyio.to_thread.run_sync(Catalogue.load)
        self._dispatcher = Dispatcher(
            self._transport,
            self.limits,
            self._rules,
            self._rng,
            self._preparer.submit,
            self._preparer.submit_with_files,
            lambda task_id: build_query(self._site, task_id),
        )
        self._dispatcher.on_crash(self._end_all)
        if self._webhooks is not None:
            self._webhooks.attach(self._name, self._hint, self.query, self._dispatcher.help)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the session: streams and waits end with a `SessionError`, connections close.

        Tasks that still run at the service run on; their ids are named in a warning. Submits
        under way are given a second to answer. Calling it again does nothing.
        """
        if self._closed:
            return
        self._closed = True
        dispatcher, self._dispatcher = self._dispatcher, None
        if self._webhooks is not None:
            self._webhooks.detach(self._name)
        calls = list(self._calls)
        try:
            if dispatcher is not None:
                self._end_all(SessionError("the session was closed"))
                await dispatcher.aclose()
        finally:
            for feed in self._feeds:
                feed.conclude()
            for call in calls:
                call.conclude()
            await wait_out([asyncio.ensure_future(self._transport.aclose())])

    # -- one call -----------------------------------------------------------------------------

    async def submit(self, request: GenerationRequest) -> Task:
        """Submit one request and return its task, which has usually not ended.

        Waits while the service has no free slot. Raises `PayloadError`, an `APIError`,
        `TransportError` if it could not be sent at all, or `SubmitUnknown`.
        """
        result = await self._call(Job(0, request, follow=False))
        if isinstance(result, Accepted):
            return result.task
        raise _error_of(result)

    async def query(self, task_id: str | Task) -> Task:
        """How a task of any family stands now.

        Raises `PayloadError`, `APIError`, `ProtocolError` or `TransportError`, none of which says
        that the task failed.
        """
        asked = check_task_id(task_id)
        request = build_query(self._site, asked)
        return await self._caller.call(request, lambda answer: parse_query(answer, asked))

    async def wait(self, task_id: str | Task, *, timeout: float | None = None) -> Task:
        """Wait until a task, given by its id or as `submit` gave it, has ended, well or badly,
        and return it.

        Queries may fail meanwhile for as long as they like. Raises `WaitTimeout` after `timeout`
        seconds (the task runs on and can be waited for again) and `NotFoundError` once the
        service has said several times in a row that there is no such task.
        """
        # What the submit's answer said of the graph is said only once: a task brings it along.
        tips = ""
        if isinstance(task_id, Task):
            tips = task_id.prompt_tips if task_id.node_errors else ""
        task_id = check_task_id(task_id)
        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                result = await self._call(waiting_job(task_id, tips=tips))
        except TimeoutError:
            if not scope.expired():
                raise
            raise WaitTimeout(
                f"task {task_id} still runs after {timeout:g} s; wait for it again", task_id
            ) from None
        assert not isinstance(result, Accepted)
        if result.task is not None and result.task.done:
            return result.task
        raise _error_of(result)

    async def run(self, request: GenerationRequest, *, on_leave: OnLeave = "detach") -> Task:
        """Submit one request, wait for its end and return the task, which has succeeded.

        Raises what `submit` raises, and `TaskFailed` or `TaskCancelled`. If the caller is
        cancelled meanwhile, a task that exists runs on and its id is named in a warning of the
        logger `runninghub_async`; with `on_leave="cancel"` the service is asked to cancel it,
        with `on_leave="wait"` it is waited for before the cancellation takes effect.
        """
        dispatcher = self._open()
        call = Call(dispatcher, Job(0, request))
        try:
            if on_leave == "wait":
                result = await self._finish_regardless(call)
            else:
                result = await self._finish(call)
        except asyncio.CancelledError:
            if on_leave == "cancel" and call.task_id:
                with anyio.CancelScope(shield=True):
                    await self._cancel_all([call.task_id])
            raise
        if isinstance(result, Succeeded):
            return result.task
        raise _error_of(result)

    async def cancel(self, task_id: str | Task) -> None:
        """Ask the service to cancel a task; time it has run may be billed.

        The service documents this for workflow tasks only; for standard models it is best
        effort, and its refusal is raised as an `APIError`.
        """
        body = {"taskId": check_task_id(task_id)}
        request = build_v1(self._site, "/task/openapi/cancel", body)
        await self._caller.call(request, parse_done)

    async def price(self, request: GenerationRequest) -> PricePreview:
        """What the service would charge for a request for a model, without submitting it.

        `request.price()` tells as much from the catalogue, without asking. Local files in the
        request are uploaded first. Raises `PayloadError`, `PlanError` for a key that may not call
        models, another `APIError`, `ProtocolError` or `TransportError`.
        """
        asked = await self._preparer.price_preview(request)
        return await self._caller.call(asked, parse_price)

    async def upload(
        self,
        source: FilePath | str | bytes,
        *,
        name: str | None = None,
        progress: OnProgress | None = None,
    ) -> Upload:
        """Upload a file, a path or bytes, and return where the service keeps it ("File upload").

        It is read from disk while it is sent. `name`: what to call it; the ending tells its type
        where its first bytes do not. `progress(sent, total)` is called on the way, with bytes;
        after an interruption it begins anew. Repeated as `RetryPolicy` says: an upload costs
        nothing. Files over 30 MB are sent with a warning. In a request, give the path itself:
        it is then uploaded once, however many requests name it.

        Raises `PayloadError` for a file that is not there or empty, `APIError`, `ProtocolError`
        or `TransportError`.
        """
        return await self._uploader.upload(source, name, progress)

    async def upload_lora(
        self,
        source: FilePath | str,
        *,
        name: str | None = None,
        progress: OnProgress | None = None,
    ) -> Lora:
        """Upload a LoRA for `RHLoraLoader` nodes ("Upload Lora"), unless the service has the
        same bytes already. `name`: default the file's, without its ending. Raises like `upload`.
        """
        return await self._uploader.upload_lora(source, name, progress)

    def progress(self, task: Task | str) -> TaskProgress:
        """What a workflow or app is doing, as an async iterator of events.

        Waits for the run to begin, and ends with the socket. The service calls the socket
        unstable: show it, and let `wait` decide when the task is done. Iterating raises
        `APIError`, `ProtocolError` for a socket that is not the service's, or `TransportError`.
        """
        return TaskProgress(self._caller, task)

    async def download(
        self, output: Output, path: str | os.PathLike[str], *, max_bytes: int = 2**30
    ) -> Download:
        """Fetch a result into the file `path`, whole or not at all.

        It is written beside the target under another name, checked for its length and, if it is
        announced as an image, for an image's first bytes, and then renamed over the target. The
        API key is not sent along. What falters is tried five times; a URL that has expired is
        asked for again once. Raises `DownloadError` for a result that is no file, is longer than
        `max_bytes` or is not what it was announced as, `TransportError`, or `OSError`.
        """
        target = Path(path)

        async def attempt() -> Download:
            return await download_once(self._transport, output, target, max_bytes)

        try:
            return await self._caller.repeat(attempt, passing=(Incomplete,))
        except Gone as error:
            fresh = await self._fresh_url(output)
            if fresh is None:
                raise
            logger.info("%s; asked the service for a fresh URL", error)
            output = fresh
        return await self._caller.repeat(attempt, passing=(Incomplete,))

    # -- many ---------------------------------------------------------------------------------

    async def submit_many(
        self, requests: Iterable[GenerationRequest] | AsyncIterable[GenerationRequest]
    ) -> list[Task]:
        """Submit all requests and return their tasks in input order.

        All are checked before the first is sent: a `PayloadError` names every faulty item and
        costs nothing. If the service then refuses some, `SubmitManyError` carries the tasks that
        it accepted. The input is read whole; for input without end use `stream`.
        """
        dispatcher = self._open()
        if isinstance(requests, AsyncIterable):
            items = [request async for request in requests]
        else:
            items = list(requests)
        problems: list[str] = []
        for index, request in enumerate(items):
            try:
                await self._preparer.look_over(request)
            except PayloadError as error:
                problems.extend(f"item {index}: {problem}" for problem in error.problems)
        if problems:
            raise PayloadError(problems)
        feed = self._feed(
            Feed(
                dispatcher,
                items,
                ordered=False,
                backlog=max(1, len(items)),
                slots=None,
                follow=False,
            )
        )
        feed.start()
        tasks: list[Task | None] = [None] * len(items)
        errors: dict[int, RunningHubError] = {}
        try:
            while True:
                try:
                    index, result = await feed.next_indexed()
                except StopAsyncIteration:
                    break
                if isinstance(result, Accepted):
                    tasks[index] = result.task
                else:
                    errors[index] = _error_of(result)
        except RunningHubError as error:
            if not any(tasks) and not errors:
                raise
            not_sent = (index for index, task in enumerate(tasks) if task is None)
            errors = {**dict.fromkeys(not_sent, error), **errors}
        except asyncio.CancelledError:
            ids = [task.id for task in tasks if task is not None]
            if ids:
                logger.warning("left submit_many with %d tasks: %s", len(ids), " ".join(ids))
            unknown = sum(isinstance(error, SubmitUnknown) for error in errors.values())
            if unknown:
                logger.warning("left submit_many with %d submits of unknown fate", unknown)
            raise
        finally:
            await feed.leave()
        if errors:
            raise SubmitManyError(tasks, errors)
        return [task for task in tasks if task is not None]

    def as_completed(self, task_ids: Iterable[str | Task]) -> TaskStream:
        """The tasks with these ids, or as `submit_many` gave them, each as it ends, well or badly.

        The ids are read at once. A task the service no longer knows comes with the status
        UNKNOWN and its error. Raises `PayloadError` for what is not an id.
        """
        dispatcher = self._open()
        ids = [check_task_id(task_id) for task_id in task_ids]
        feed = self._feed(Feed(dispatcher, (), ordered=False, backlog=None, slots=None))
        feed.watch(ids)
        feed.start()
        return TaskStream(feed)

    def stream(
        self,
        requests: Iterable[GenerationRequest] | AsyncIterable[GenerationRequest],
        *,
        ordered: bool = False,
        window: int | None = None,
        on_leave: OnLeave = "detach",
    ) -> JobStream:
        """Submit, follow and hand out: an async iterator of one outcome per request.

        `requests` is any iterable or async iterable, finite or not; give an async one if getting
        the next request takes time. A request is taken only when there is a slot for it, and at
        most `window` (default: the limit on concurrency) are taken and not yet handed out, so a
        slow consumer slows the submits and memory does not grow. `ordered` hands out in input
        order; a wider `window` then keeps slots busy behind a slow task.

        A faulty request becomes a `Failed` with a `PayloadError`. A wrong key, an exhausted
        balance or a plan that forbids the call stops the submitting; what runs is still handed
        out, and then that error is raised, once. An input that raises has its error raised in
        the same way. `on_leave`: see `JobStream.aclose`; the default is `detach`.
        """
        dispatcher = self._open()
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, not {window!r}")
        feed = Feed(
            dispatcher,
            requests,
            ordered=ordered,
            backlog=window,
            slots=self.limits.max_concurrency,
        )
        self._feed(feed).start()
        return JobStream(feed, on_leave, self._cancel_all)

    # -- inside -------------------------------------------------------------------------------

    def _open(self) -> Dispatcher:
        if self._closed:
            raise SessionError("the session is closed")
        if self._dispatcher is None or self._loop is None:
            raise SessionError("the session is not open: use it with `async with`")
        if asyncio.get_running_loop() is not self._loop:
            raise SessionError(
                "the session belongs to another event loop; open one session on each loop"
            )
        return self._dispatcher

    def _feed(self, feed: Feed) -> Feed:
        self._feeds = {known for known in self._feeds if not known.concluded}
        self._feeds.add(feed)
        return feed

    async def _call(self, job: Job) -> Outcome | Accepted:
        return await self._finish(Call(self._open(), job))

    async def _finish(self, call: Call) -> Outcome | Accepted:
        self._calls.add(call)
        try:
            return await call.result()
        finally:
            self._calls.discard(call)

    async def _finish_regardless(self, call: Call) -> Outcome | Accepted:
        """Wait for the job's end even when cancelled, unless it has not been submitted yet."""
        waiter = asyncio.ensure_future(self._finish(call))
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            call.withdraw()
            await wait_out([waiter])
            if not waiter.cancelled() and waiter.exception() is None:
                call.tell(waiter.result())
            raise

    async def _cancel_all(self, task_ids: list[str]) -> None:
        with anyio.move_on_after(_CANCEL_TIME, shield=True):
            for task_id in task_ids:
                try:
                    await self.cancel(task_id)
                except RunningHubError as error:
                    logger.warning("task %s could not be cancelled: %s", task_id, error)

    async def _fresh_url(self, output: Output) -> Output | None:
        """The same output of the same task, as the service tells it now."""
        if not output.task_id:
            return None
        task = await self.query(output.task_id)
        # The order of outputs is not documented, so it counts only among those of one node.
        same = [o for o in task.outputs if (o.node_id, o.type) == (output.node_id, output.type)]
        moved = [o for o in same if o.url and o.url != output.url]
        return moved[0] if len(same) == 1 and moved else None

    def _announced(self, entry: Entry, params: dict[str, Any]) -> dict[str, Any]:
        """`params` with an address of this job's own for its webhook, unless it has one."""
        if self._webhooks is None or self._dispatcher is None or "webhookUrl" in params:
            return params
        self._dispatcher.announced[entry.number] = entry
        return params | {"webhookUrl": self._webhooks.session_url(f"~{self._name}.{entry.number}")}

    def _hint(self, number: int, task_id: str) -> None:
        """A webhook said that the task of this entry has ended; any thread may bring it."""
        dispatcher = self._dispatcher
        if dispatcher is not None:
            dispatcher.loop.call_soon_threadsafe(dispatcher.hint, number, task_id)

    def _end_all(self, error: BaseException) -> None:
        for feed in self._feeds:
            feed.end(error)
        for call in list(self._calls):
            call.fail(error)


def _error_of(outcome: Outcome | Accepted) -> RunningHubError:
    error = getattr(outcome, "error", None)
    assert isinstance(error, RunningHubError)
    return error
