"""The session: one key, one set of limits, one pool of connections, for one call or many."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import anyio

from ._budget import Budget, listed_price
from ._call import Call, waiting_job
from ._caller import Caller
from ._catalogue import Catalogue
from ._dispatcher import Dispatcher
from ._exceptions import (
    JournalError,
    PayloadError,
    PolicyError,
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
from ._feed import WINDOW_BYTES, Feed, OnCancel
from ._fetching import Fetching
from ._job import Accepted, Job, Rules, UnknownPolicy
from ._journal import FAULTY, Begun, JobFacts, JobRecord, Moved, error_text
from ._journaled import FreshFeed, JournaledFeed, ResumedFeed, await_evidence
from ._keeping import Keeper
from ._limits import Limits
from ._log import logger_of
from ._media import FilePath
from ._models import Output, Task
from ._money import Money
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
from ._recorder import Recorder
from ._records import Lora, PricePreview, Upload
from ._recovery import Step, plan
from ._retry import RetryPolicy
from ._retrying import Retried, retry_jobs
from ._saved import Download
from ._scheduler import Entry
from ._seedream import GenerationRequest
from ._shielded import wait_out
from ._sqlite import SqliteJobStore
from ._states import JobState
from ._store import AssumingStore, JobStore
from ._stream import JobStream, TaskStream
from ._threads import run_in_thread
from ._transport import AiohttpTransport, OpeningTransport, Transport
from ._uploads import OnProgress, Uploader
from .webhooks import Webhooks

__all__ = ["Session"]

logger = logger_of("runninghub_async")

DEFAULT_BASE_URL: Final = "https://www.runninghub.ai"

#: How long cancelling the tasks of a stream that was left may take, in seconds, and how many are
#: asked for at once.
_CANCEL_TIME: Final = 10.0
_CANCELLING: Final = 8

#: Requests that are written to the journal at once, and bytes of their parameters: one may hold
#: pictures as data URIs, of megabytes each.
_PAGE: Final = 500
_PAGE_BYTES: Final = 2**22

#: A text of so many characters takes milliseconds to encode and to digest.
_LARGE: Final = 2**18


class Session:
    """A client of the service; use it with `async with`, on one event loop.

    `api_key`: the key; default `RUNNINGHUB_API_KEY`, else `RH_API_KEY`. `base_url`: the service's
    origin, with or without `/openapi/v2`; default `RUNNINGHUB_BASE_URL`, else `RH_API_BASE_URL`,
    else `https://www.runninghub.ai`. A key works only on its own site (.ai or .cn). `limits`,
    `polling`, `retry`: see `Limits`, `ExponentialPolling`, `RetryPolicy`. `transport`: the network,
    or `testing.MockTransport`; the session closes it. `rng`: the source of all chance; seed it for
    a run that repeats. `webhooks`: have the end of tasks announced, see
    `runninghub_async.webhooks`; polling continues at the slower pace of `webhooks.polling`.
    `key_in_body`: send the key in the bodies of the older API's calls as well as in the header, as
    documented. False sends it in the header only, which was reported to be necessary for one kind
    of enterprise key.

    `journal`: a path, or a `JobStore`: a durable record of every job, written before its request
    leaves. A later session with the same journal resumes unfinished jobs instead of submitting them
    again. `budget`: submit only while the money that is spent and under way stays below this
    amount; with a journal, what was spent earlier counts. `unknown`: what to do about a submit
    whose response was lost and for which no webhook arrived: `hold` it, `resubmit` it at the risk
    of a second bill, or a function of the `Unknown` outcome that returns one of the two.
    `on_cancel`: what to do with tasks that still run when their caller leaves or is cancelled, or
    when the session closes. `detach` lets them run and reports them, `cancel` asks the service once
    to cancel them, `wait` waits for them.

    Other calls are grouped in families: `account`, `apps`, `assets`, `comfyui`, `older`,
    `quick_create`, `resources`, `webhook_events` and `workflows`.

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
        journal: str | os.PathLike[str] | JobStore | None = None,
        transport: Transport | None = None,
        rng: random.Random | None = None,
        webhooks: Webhooks | None = None,
        key_in_body: bool = True,
        budget: Money | None = None,
        unknown: UnknownPolicy = "hold",
        on_cancel: OnCancel = "detach",
    ) -> None:
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
        self.budget = budget
        self.on_cancel: OnCancel = _checked_policy("on_cancel", on_cancel)
        if not callable(unknown):
            _checked_policy("unknown", unknown, ("hold", "resubmit"))
        if budget is not None and budget.currency not in (self._site.currency, "coins"):
            raise ValueError(
                f"budget: {self._site.base_url} bills in {self._site.currency} or coins,"
                f" not in {budget.currency}"
            )
        if webhooks is None:
            self._rules = Rules(polling, retry, unknown)
        else:
            self._rules = Rules(webhooks.polling, retry, unknown, webhooks.patience)
        self._store: JobStore | None = _store_of(journal)
        self._journal: Recorder | None = None
        self._transport = transport or AiohttpTransport()
        self._rng = rng or random.Random()
        self._webhooks = webhooks
        #: What this session's jobs are called in the addresses of its webhooks.
        self._name = secrets.token_hex(8)
        self._caller = Caller(self._site, self._transport, retry, self._rng, self._running)
        self._fetching = Fetching(self._caller, self._site.base_url, self.query)
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
        #: Nothing more is submitted: the session closes.
        self._leaving = False
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
        if isinstance(self._transport, OpeningTransport):
            await self._transport.open()
        if not Catalogue.loaded():
            # Read now, in a thread: the first request must not hold the loop for it.
            await run_in_thread(Catalogue.load)
        if self._store is not None:
            self._journal = await self._open_journal(self._store)
        self._dispatcher = Dispatcher(
            self._transport,
            self.limits,
            self._rules,
            self._rng,
            self._preparer.submit,
            self._preparer.submit_with_files,
            lambda task_id: build_query(self._site, task_id),
            self._journal,
            origin=self._site.base_url,
        )
        self._dispatcher.on_crash(self._break)
        if self.budget is not None:
            try:
                self._dispatcher.scheduler.budget = await self._open_budget(self.budget)
            except BaseException:
                await self.aclose()
                raise
        if self._webhooks is not None:
            secret = b"" if self._store is None else self._store.secret
            self._webhooks.attach(
                self._name, self._hint, self._hear, self.query, self._dispatcher.help, secret
            )
        return self

    async def _open_journal(self, store: JobStore) -> Recorder:
        await store.open(self.base_url)
        try:
            currency = self._site.currency if self.budget is None else self.budget.currency
            told = (await store.facts()).get("currency", currency)
            if told == currency:
                await store.put({"currency": currency})
            elif self.budget is not None:
                fault = f"the journal's money is in {told}, the budget in {currency}"
                raise JournalError(fault)  # noqa: TRY301
            recorder = Recorder(store, told)
            recorder.fresh = await store.is_empty()
        except BaseException:
            await store.aclose()
            raise
        self._name = store.identity
        return recorder

    async def _open_budget(self, limit: Money) -> Budget:
        """With a journal, what it has spent counts, and what its jobs may yet be billed."""
        budget = Budget(limit)
        if self._store is not None:
            budget.spent = await self._store.spent() + await _assumed(self._store)
            unpriced = 0
            carried = (JobState.UNKNOWN, JobState.SUBMITTING, JobState.ACCEPTED, JobState.RUNNING)
            async for record in _each_open(self._store, carried):
                listed = listed_price(record.request)
                unpriced += listed is None
                budget.carry(record.key, listed)
            if unpriced:
                logger.warning(
                    "budget: %d jobs of earlier sessions may still be billed, at an unknown price;"
                    " they count as zero",
                    unpriced,
                )
        return budget

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the session: streams and waits end with a `SessionError`, connections close.

        Nothing is submitted from here on, also while tasks are waited for. Tasks that still run at
        the service are treated as `on_cancel` says; their ids are named in a warning. Submits
        under way are given a second to answer, and what is known is written into the journal.
        Raises `JournalError` if it cannot be. Calling it again does nothing.
        """
        if self._closed:
            return
        self._submit_nothing_more()
        try:
            for feed in self._feeds:
                if feed.on_cancel == "wait" and not feed.closed:
                    await feed.drain()
            for call in [call for call in self._calls if call.on_cancel == "wait"]:
                await call.ended()
        finally:
            await self._close()

    def _submit_nothing_more(self) -> None:
        self._leaving = True
        closed = SessionError("the session was closed")
        for feed in self._feeds:
            if not feed.closed:
                complete = feed.on_cancel == "wait" or feed.is_all_submitted
                feed.stop_submitting(None if complete else closed)
        for call in list(self._calls):
            call.stop_submitting(closed)

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        dispatcher, self._dispatcher = self._dispatcher, None
        if self._webhooks is not None:
            self._webhooks.detach(self._name)
        calls = list(self._calls)
        left = [feed for feed in self._feeds if feed.on_cancel == "cancel" and not feed.closed]
        try:
            if dispatcher is not None:
                self._end_all(SessionError("the session was closed"))
                await dispatcher.aclose()
        finally:
            for feed in self._feeds:
                feed.conclude()
            for call in calls:
                call.conclude()
            ids = [job.task_id for feed in left for job in feed.unfinished if job.task_id]
            ids += [call.task_id for call in calls if call.on_cancel == "cancel" and call.task_id]
            last = asyncio.Task(self._let_go(ids), loop=asyncio.get_running_loop())
            await wait_out([last])
            last.result()

    async def _let_go(self, ids: list[str]) -> None:
        """What is left to do once nothing is under way: cancel these tasks, and close."""
        try:
            if ids:
                await self._cancel_all(ids)
            if self._journal is not None:
                await self._journal.store.aclose()
        finally:
            await self._transport.aclose()

    # -- one call -----------------------------------------------------------------------------

    async def submit(self, request: GenerationRequest, *, key: str | None = None) -> Task:
        """Submit one request and return its task, which has usually not ended.

        Waits while the service has no free slot. `key`: the job's in the journal; a job that has
        been submitted under it before is not submitted again. Raises `PayloadError`, an `APIError`,
        `TransportError` if it could not be sent at all, or `SubmitUnknown`.
        """
        call, result = await self._asked(Job(0, request, follow=False), key)
        if result is None:
            result = await self._finish(call)
        if isinstance(result, Accepted):
            if self._store is not None:
                # From now on its caller may rely on it, whatever happens to this process.
                await self._store.flush()
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

        Failed queries do not end the wait, however long they continue, once the service has been
        reached: before that, a wrong key or address ends it. Raises `WaitTimeout` after `timeout`
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

    async def run(
        self,
        request: GenerationRequest,
        *,
        key: str | None = None,
        on_cancel: OnCancel | None = None,
    ) -> Task:
        """Submit one request, wait for its end and return the task, which has succeeded.

        `key`: the job's in the journal, by which a later call finds it again, ended or not.
        Raises what `submit` raises, and `TaskFailed` or `TaskCancelled`. `on_cancel`: what to do
        with a task that exists when the caller is cancelled, by default the session's: `detach`
        lets it run on and names its id in a warning of the logger `runninghub_async`; `cancel`
        asks the service to cancel it; `wait` waits for it before the cancellation takes effect.
        """
        policy = self.on_cancel if on_cancel is None else _checked_policy("on_cancel", on_cancel)
        call, result = await self._asked(Job(0, request), key, policy)
        try:
            if result is not None:
                pass
            elif policy == "wait":
                result = await self._finish_regardless(call)
            else:
                result = await self._finish(call)
        except asyncio.CancelledError:
            if policy == "cancel" and call.task_id:
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

        It is written beside the target under another name, checked (a picture is unpacked; of
        video, audio, archives and models the first bytes have to fit; a web page or an error
        document is refused) and then renamed over the target. The API key is not sent. A transfer
        that fails, or is slower than 1 KiB/s over a minute, is tried five times and resumed where
        it broke off if the host supports that; for a URL that is refused, the service is asked for
        a fresh one once. HTTP 404 in the first 60 seconds after the end of a task that this session
        has seen running is waited for. Results are fetched only from the service's own host and
        from public addresses. `max_bytes`: the largest size, unpacked.

        Raises `ResultGone`, `ResultIncomplete`, `ResultTooLarge` (beyond `max_bytes`),
        `ResultBroken`, `ResultUnsafe` or, for a result that is a text, their base class
        `DownloadError`; `TransportError` when no answer came; `OSError`; and the errors of `query`,
        when the URL has expired.
        """
        return await self._fetching.fetch(output, Path(path), max_bytes=max_bytes)

    # -- many ---------------------------------------------------------------------------------

    async def submit_many(
        self,
        requests: Iterable[GenerationRequest] | AsyncIterable[GenerationRequest],
        *,
        batch: str = "",
        key: Callable[[Any], str] | None = None,
    ) -> list[Task]:
        """Submit all requests and return their tasks in input order.

        `batch`, `key`: see `stream`; what the journal knows is not submitted again. All are
        checked before the first is sent: a `PayloadError` names every faulty item and costs
        nothing. If the service then refuses some, `SubmitManyError` carries the tasks that it
        accepted. The input is read whole; for input without end use `stream`.
        """
        self._open()
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
        # The session may have begun to close meanwhile.
        dispatcher = self._open()
        feed = self._feed(
            self._new_feed(
                dispatcher,
                items,
                batch,
                key,
                reuse=False,
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
                logger.warning("left submit_many with %d submits of unknown outcome", unknown)
            raise
        finally:
            await feed.leave()
        if self._store is not None:
            await self._store.flush()
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
        feed.watch(ids, self._journal)
        feed.start()
        return TaskStream(feed)

    def stream(
        self,
        requests: Iterable[GenerationRequest] | AsyncIterable[GenerationRequest],
        *,
        ordered: bool = False,
        window: int | None = None,
        window_bytes: int | None = WINDOW_BYTES,
        on_cancel: OnCancel | None = None,
        folder: str | os.PathLike[str] | None = None,
        name: Callable[[Succeeded], str] | None = None,
        batch: str = "",
        key: Callable[[Any], str] | None = None,
        reuse: bool = False,
    ) -> JobStream:
        """Submit, follow and hand out: an async iterator of one outcome per request.

        `requests` is any iterable or async iterable, finite or not; give an async one if getting
        the next request takes time. A request is taken only when there is a slot for it, and at
        most `window` (default: the limit on concurrency) are taken and not yet handed out, so a
        slow consumer slows the submits and memory does not grow. `window_bytes` bounds the same in
        bytes, for requests that carry pictures as data URIs; default 32 MiB, None for no bound; one
        request is always taken. `ordered` hands out in input
        order; a wider `window` then keeps slots busy behind a slow task.

        `folder`: save the results in it, a few at once, each as soon as its task has succeeded; an
        outcome then comes with its `files`, and with those outputs that could not be saved as
        `missing`. They are named `00042-slug.png` after place and prompt, or after the text that
        `name(outcome)` returns, without an extension, cut to 200 bytes and with `-` for characters
        that some file system refuses. A task of which nothing could be saved is a `Failed` with the
        task. While nothing can be written, or four tasks in a row gave no result from one host,
        nothing is submitted; a full disk is waited for, anything else for as long as `RetryPolicy`
        tries a submit that cannot be sent (about 5 minutes by default).

        With a journal, a job is known by its request, its place and `batch`, or by what
        `key(request)` gives. What the journal knows is not submitted again: its outcome is
        handed out, once it has one. `reuse`: serve a request with what another one with the same
        content made, at no cost: its files if they are stored and whole, its task if that runs,
        has succeeded or is of unknown outcome. Only content that failed, was refused or never left
        is submitted. Equal requests within the stream share one job.

        A faulty request becomes a `Failed` with a `PayloadError`. A wrong key, an exhausted balance
        or budget, a journal that cannot be read, a plan that forbids the call, results that cannot
        be saved (`DownloadError`), or a `name` that raises or returns no text (`PolicyError`) stop
        further submits. Tasks that run are still handed out, and then that error is raised, once.
        An input that raises has its error raised in the same way. `on_cancel`: see
        `JobStream.aclose`; by default the session's.
        """
        dispatcher = self._open()
        feed = self._new_feed(
            dispatcher,
            requests,
            batch,
            key,
            reuse=reuse,
            ordered=ordered,
            **self._stream_options(dispatcher, window, window_bytes, on_cancel, folder, name),
        )
        self._feed(feed).start()
        return JobStream(feed, self._cancel_all)

    def resume(
        self,
        *,
        window: int | None = None,
        window_bytes: int | None = WINDOW_BYTES,
        on_cancel: OnCancel | None = None,
        folder: str | os.PathLike[str] | None = None,
        name: Callable[[Succeeded], str] | None = None,
        check: bool = True,
    ) -> JobStream:
        """Resume the jobs of the journal that have not ended: an async iterator of outcomes.

        Tasks that exist are followed, and jobs that were never submitted are submitted. With a
        `folder` results are saved; if some are stored already, only the missing ones. Submits of
        unknown outcome are treated as the session's `unknown` says, and handed out. Jobs that have
        ended are not handed out again. With `check`, files that are stored in `folder` are compared
        at the end, and fetched again if they have changed. `outcome.request` is a `StoredRequest`,
        `outcome.index` counts what is handed out. See `stream` for the rest.

        Raises `ValueError` without a journal.
        """
        dispatcher = self._open()
        feed = ResumedFeed(
            dispatcher,
            self._recorder("resume"),
            check=check,
            ordered=False,
            **self._stream_options(dispatcher, window, window_bytes, on_cancel, folder, name),
        )
        self._feed(feed).start()
        return JobStream(feed, self._cancel_all)

    async def retry(
        self, *, state: JobState = JobState.FAILED, code: str | None = None, missing: bool = False
    ) -> Retried:
        """Queue failed jobs of the journal, to be submitted again by `resume`, or by `stream` over
        the same requests.

        `state`: `FAILED`, `CANCELLED` or `UNKNOWN`; the last may cause a second bill. `code`: only
        those that failed with it. The task of a job that failed although the task may still run,
        for example because the service did not know it for a while, is queried first. If the task
        exists, `resume` follows it; if the service says that it failed, the job is submitted again.
        `missing`: also submit again what the service still does not know; it may have been billed.

        Raises `ValueError` without a journal or for another state, and `JournalError`.
        """
        recorder = self._recorder("retry")
        if state not in (JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN):
            raise ValueError(f"state: expected failed, cancelled or unknown, got {state}")
        recorder.fresh = False
        return await retry_jobs(recorder, self.query, state, code, missing=missing)

    async def enlist(
        self,
        requests: Iterable[GenerationRequest] | AsyncIterable[GenerationRequest],
        *,
        batch: str = "",
    ) -> int:
        """Save requests in the journal, to be submitted by `resume`. Returns how many are new.

        A job is known by its request, its place and `batch`. Those saved earlier for the same
        `batch`, never submitted and not among these are removed. A faulty request is saved as
        failed. Raises `ValueError` without a journal, and `JournalError`.
        """
        recorder = self._recorder("enlist")
        recorder.fresh = False
        store = recorder.store
        await store.set_aside(batch)
        count, place, size = 0, 0, 0
        page: list[Begun | tuple[Begun, Moved]] = []
        async for request in _each(requests):
            if _is_large(request):
                item = await run_in_thread(self._listed, recorder, request, place, batch)
            else:
                item = self._listed(recorder, request, place, batch)
            place += 1
            if item is None:
                continue
            page.append(item)
            begun = item if isinstance(item, Begun) else item[0]
            size += len(begun.content.params)
            if len(page) == _PAGE or size >= _PAGE_BYTES:
                count += await store.enlist(page)
                page, size = [], 0
        count += await store.enlist(page)
        await store.drop_set_aside(batch)
        return count

    @staticmethod
    def _listed(
        recorder: Recorder, request: Any, place: int, batch: str
    ) -> Begun | tuple[Begun, Moved] | None:
        row = recorder.row(request, place, batch)
        if row is None or row.content is None:
            return None
        now = time.time()
        begun = Begun(row.key, None, JobState.NEW, now, row.content, place, batch)
        problems = request.check()
        if not problems:
            return begun
        _, text = error_text(PayloadError(problems))
        facts = JobFacts(code=FAULTY, error=text)
        return begun, Moved(row.key, JobState.NEW, JobState.FAILED, now, facts)

    # -- inside -------------------------------------------------------------------------------

    def _open(self) -> Dispatcher:
        """What drives the jobs. Raises `SessionError` unless new ones may come."""
        dispatcher = self._running()
        if self._leaving:
            raise SessionError("the session is being closed")
        return dispatcher

    def _running(self) -> Dispatcher:
        """The same, also while the session waits for what runs."""
        if self._closed:
            raise SessionError("the session is closed")
        if self._dispatcher is None or self._loop is None:
            raise SessionError("the session is not open: use it with `async with`")
        if asyncio.get_running_loop() is not self._loop:
            raise SessionError(
                "the session belongs to another event loop; open one session on each loop"
            )
        if isinstance(self._dispatcher.broken, PolicyError):
            raise self._dispatcher.broken
        return self._dispatcher

    def _feed(self, feed: Feed) -> Feed:
        self._feeds = {known for known in self._feeds if not known.concluded}
        self._feeds.add(feed)
        return feed

    def _recorder(self, call: str) -> Recorder:
        self._open()
        if self._journal is None:
            raise ValueError(f"{call} needs a session with a journal")
        return self._journal

    def _new_feed(
        self,
        dispatcher: Dispatcher,
        requests: Any,
        batch: str,
        key: Callable[[Any], str] | None,
        *,
        reuse: bool,
        **options: Any,
    ) -> Feed:
        if self._journal is None:
            for name, given in (("batch", batch), ("key", key), ("reuse", reuse)):
                if given:
                    raise ValueError(f"{name} needs a session with a journal")
            return Feed(dispatcher, requests, **options)
        if self._journal.fresh and key is None and not reuse:
            return FreshFeed(dispatcher, requests, self._journal, batch, **options)
        return JournaledFeed(
            dispatcher, requests, self._journal, batch, key=key, reuse=reuse, **options
        )

    def _stream_options(
        self,
        dispatcher: Dispatcher,
        window: int | None,
        window_bytes: int | None,
        on_cancel: OnCancel | None,
        folder: str | os.PathLike[str] | None,
        name: Callable[[Succeeded], str] | None,
    ) -> dict[str, Any]:
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, not {window!r}")
        if window_bytes is not None and window_bytes < 1:
            raise ValueError(f"window_bytes must be at least 1 or None, not {window_bytes!r}")
        if name is not None and folder is None:
            raise ValueError("name needs a folder: it names files in one")
        keeper = None
        if folder is not None:
            keeper = Keeper(Path(folder), self._fetching, dispatcher, name, self._rules.retry)
        return {
            "backlog": window,
            "window_bytes": window_bytes,
            "slots": self.limits.max_concurrency,
            "keeper": keeper,
            "on_cancel": self.on_cancel
            if on_cancel is None
            else _checked_policy("on_cancel", on_cancel),
        }

    async def _asked(
        self, job: Job, key: str | None, on_cancel: OnCancel = "detach"
    ) -> tuple[Call, Outcome | Accepted | None]:
        """The call for a request, and what is known of its job if there is nothing left to do."""
        call = Call(self._open(), job, on_cancel)
        if self._journal is None:
            if key is not None:
                raise ValueError("key needs a session with a journal")
            return call, None
        try:
            known = await self._known(self._journal, call, key)
        except BaseException:
            call.drop()
            raise
        if call.entry.gone:
            call.drop()
        return call, known

    async def _known(
        self, journal: Recorder, call: Call, key: str | None
    ) -> Outcome | Accepted | None:
        job = call.entry.job
        journal.fresh = False
        row = call.entry.row = journal.row(job.request, None, "", key)
        if row is None:
            return None
        journal.claim(call.entry)
        if key is None:
            return None
        known, _ = await journal.look_up([row.key])
        record = known.get(row.key)
        if record is None:
            return None
        if not journal.fits(row, record):
            raise PayloadError(
                [f"key: {key!r} is already used for another request in the journal @ $"]
            )
        if record.damage is not None:
            raise record.damage
        row.recorded, row.content, row.params = record.state, None, None
        row.faulted = True
        if not job.follow and record.task is not None:
            call.entry.gone = True
            return Accepted(record.task)
        made = plan(record, 0, job.request, self._open().rules, keeps=False, now=time.time())
        call.entry.job = made.job._replace(follow=job.follow)
        if made.step is Step.SUBMIT:
            journal.again(row)
        elif made.step is Step.AWAIT:
            await_evidence(self._open(), call.entry, made)
        call.entry.gone = made.outcome is not None
        return made.outcome

    async def _call(self, job: Job) -> Outcome | Accepted:
        call = Call(self._open(), job)
        if self._journal is not None:
            call.entry.row = self._journal.row_of(job.task_id)
        return await self._finish(call)

    async def _finish(self, call: Call) -> Outcome | Accepted:
        self._register(call)
        return await self._end_of(call)

    def _register(self, call: Call) -> None:
        """From here on the session ends with `call`. Raises `SessionError` if it closes already:
        preparing the call may have taken a while."""
        try:
            self._open()
        except BaseException:
            call.drop()
            raise
        self._calls.add(call)

    async def _end_of(self, call: Call) -> Outcome | Accepted:
        try:
            return await call.result()
        finally:
            self._calls.discard(call)

    async def _finish_regardless(self, call: Call) -> Outcome | Accepted:
        """Wait for the job's end even when cancelled, unless it has not been submitted yet."""
        self._register(call)
        waiter = asyncio.Task(self._end_of(call), loop=asyncio.get_running_loop())
        try:
            return await asyncio.shield(waiter)
        except asyncio.CancelledError:
            call.withdraw()
            await wait_out([waiter])
            if not waiter.cancelled() and waiter.exception() is None:
                call.tell(waiter.result())
            raise

    async def _cancel_all(self, task_ids: list[str]) -> None:
        """Ask the service once to cancel each of these; who could not be reached is named."""
        left = dict.fromkeys(task_ids)
        limiter = anyio.CapacityLimiter(_CANCELLING)

        async def cancel(task_id: str) -> None:
            body = {"taskId": task_id}
            request = build_v1(self._site, "/task/openapi/cancel", body)
            async with limiter:
                try:
                    parse_done(await self._transport.send(request))
                except RunningHubError as error:
                    logger.warning("task %s could not be cancelled: %s", task_id, error)
            left.pop(task_id)

        with anyio.move_on_after(_CANCEL_TIME, shield=True):
            async with anyio.create_task_group() as group:
                for task_id in task_ids:
                    group.start_soon(cancel, task_id)
        if left:
            logger.warning("no time was left to cancel %d tasks: %s", len(left), " ".join(left))

    def _announced(self, entry: Entry, params: dict[str, Any]) -> dict[str, Any]:
        """`params` with an address of this job's own for its webhook, unless it has one."""
        if self._webhooks is None or self._dispatcher is None or "webhookUrl" in params:
            return params
        name = entry.row.key if entry.row is not None else str(entry.number)
        entry.announced = name
        self._dispatcher.announced[name] = entry
        return params | {"webhookUrl": self._webhooks.session_url(f"~{self._name}.{name}")}

    def _hint(self, name: str, task_id: str) -> None:
        """A webhook said that the task of this job has ended; any thread may bring it."""
        dispatcher = self._dispatcher
        if dispatcher is not None:
            # A closed loop accepts nothing, and then nobody waits for it either.
            with contextlib.suppress(RuntimeError):
                dispatcher.loop.call_soon_threadsafe(dispatcher.hint, name, task_id)

    async def _hear(self, name: str, task_id: str) -> None:
        """The same, from any loop; it is in the journal when this returns."""
        dispatcher = self._dispatcher
        if dispatcher is None:
            raise SessionError("the session was closed")
        work = dispatcher.hear(name, task_id)
        if asyncio.get_running_loop() is dispatcher.loop:
            await work
        else:
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, dispatcher.loop))

    def _break(self, error: BaseException) -> None:
        """A failure that is not the fault of any job: end everything with one error."""
        if isinstance(error, PolicyError) and self._dispatcher is not None:
            running = [entry.job for feed in self._feeds for entry in feed.entries.values()]
            running += [call.entry.job for call in self._calls]
            named = PolicyError(
                error.name, error.fault, sorted({job.task_id for job in running if job.task_id})
            )
            named.__cause__ = error.__cause__
            error = self._dispatcher.broken = named
        self._end_all(error)

    def _end_all(self, error: BaseException) -> None:
        for feed in self._feeds:
            feed.end(error)
        for call in list(self._calls):
            call.fail(error)


def _store_of(journal: str | os.PathLike[str] | JobStore | None) -> JobStore | None:
    if journal is None or isinstance(journal, JobStore):
        return journal
    if isinstance(journal, str | os.PathLike):
        return SqliteJobStore(journal)
    raise TypeError(f"journal: expected a path or a JobStore, got {type(journal).__name__}")


async def _each_open(store: JobStore, states: Sequence[JobState]) -> AsyncIterator[JobRecord]:
    """The jobs of a journal in these states."""
    after = 0
    while page := await store.find_open(states, after, _PAGE):
        for record in page:
            yield record
        after = page[-1].seq


async def _assumed(store: JobStore) -> Decimal:
    """The cost by the catalogue of those jobs of earlier sessions for which the service named
    none."""
    if isinstance(store, AssumingStore):
        return await store.assumed()
    total = Decimal(0)
    paid = (JobState.SUCCEEDED, JobState.PARTLY_STORED, JobState.STORED)
    async for record in _each_open(store, paid):
        listed = listed_price(record.request) if record.cost is None else None
        total += listed.amount if listed is not None else 0
    return total


async def _each(requests: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request


def _is_large(request: Any) -> bool:
    """Whether a request is too large to be checked on the event loop."""
    try:
        values = request.to_params().values()
    except Exception:
        return False
    texts = (text for value in values for text in (value if isinstance(value, list) else (value,)))
    return any(isinstance(text, str) and len(text) >= _LARGE for text in texts)


def _checked_policy(
    name: str, policy: Any, known: tuple[str, ...] = ("detach", "cancel", "wait")
) -> Any:
    if policy not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {policy!r}")
    return policy


def _error_of(outcome: Outcome | Accepted) -> RunningHubError:
    error = getattr(outcome, "error", None)
    assert isinstance(error, RunningHubError)
    return error
