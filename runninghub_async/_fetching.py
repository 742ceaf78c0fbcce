"""The fetching of one result to its end: attempts, waits, and fresh URLs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from ._addresses import encoded, host_of
from ._caller import Caller
from ._download import ANSWER_TIME, ANSWER_TIME_IN_A_CROWD, PASSING, Fetch, TooSlow
from ._exceptions import (
    DownloadError,
    ResultBroken,
    ResultIncomplete,
    ResultTooLarge,
    ResultUnsafe,
    TransportError,
)
from ._log import logger_of
from ._models import Output, Task
from ._renewal import matched
from ._saved import Download
from ._turns import Turn, Turns

__all__ = ["MAX_BYTES", "Fetching", "FreshUrls", "host_key"]

logger = logger_of("runninghub_async")

#: How long a result may be unless the caller says otherwise.
MAX_BYTES: Final = 2**30

#: How long after the end of a task HTTP 404 may mean "not there yet", in seconds: results are
#: replicated between stores, and the service's answer may be ahead of that.
REPLICATION: Final = 60.0

#: The longest pause between two looks meanwhile, and the first one at most, in seconds.
_LONGEST: Final = 10.0
_FIRST: Final = 1.0

#: Statuses that a fresh URL does not change; any other refusal may concern the signature.
_NOT_THE_URL: Final = (ResultBroken, ResultIncomplete, ResultTooLarge)

#: A host that breaks each transfer off is asked again as long as so much of the file came in as
#: many attempts as a call has.
_SHARE: Final = 0.1

#: How long the service's answer about the URLs of a task is used for its other outputs.
_FRESH: Final = 60.0


def host_key(output: Output) -> str:
    """The host and port of a result, for telling hosts apart; empty without a URL."""
    try:
        return urlsplit(encoded(output.url or "")).netloc.lower()
    except ValueError:
        return ""


class FreshUrls:
    """Fresh URLs of one task's outputs: one query for all of them.

    `outputs`: as they were given first, or those of them that are known.
    """

    def __init__(self, outputs: Sequence[Output], query: Callable[[str], Awaitable[Task]]) -> None:
        self._outputs = outputs
        self._query = query
        self._lock = asyncio.Lock()
        self._asked_at: float | None = None
        self._found: Mapping[int, Output] = {}

    async def of(self, output: Output) -> Output | None:
        """The same output with a fresh URL; None if it cannot be identified or has no URL. Raises
        what `query` raises."""
        if not output.task_id or output not in self._outputs:
            return None
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if self._asked_at is None or now > self._asked_at + _FRESH:
                task = await self._query(output.task_id)
                self._found = matched(self._outputs, task.outputs)
                self._asked_at = now
        found = self._found.get(self._outputs.index(output))
        return found if found is not None and found.url else None


class Fetching:
    """Fetches the results of one session. `query` gives a task as it is now."""

    def __init__(self, caller: Caller, home: str, query: Callable[[str], Awaitable[Task]]) -> None:
        self._caller = caller
        self._home = home
        self._query = query

    def fresh_urls(self, outputs: Sequence[Output]) -> FreshUrls:
        """For the outputs of one task."""
        return FreshUrls(outputs, self._query)

    async def task_now(self, task_id: str) -> Task:
        """The task as it is now."""
        return await self._query(task_id)

    async def fetch(
        self,
        output: Output,
        path: Path,
        temporary: Path | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        fresh: FreshUrls | None = None,
        turns: Turns | None = None,
        place: Callable[[str], Awaitable[Path]] | None = None,
    ) -> Download:
        """Fetch `output` into the file `path`, by way of `temporary` if that is given.

        Failed attempts are repeated as `RetryPolicy` says. HTTP 404 within `REPLICATION` seconds
        after the end of a task that this session has seen running is waited for. For any other
        refused URL, such as an expired one, the service is asked for a fresh one once. `fresh`:
        shared by the outputs of a task. `turns`: each attempt waits for its turn. `place`: see
        `Fetch`.
        """
        host = host_key(output)
        turn: Turn | None = None

        def on_slow() -> None:
            if turn is not None:
                turn.slow()

        async with Fetch(
            self._caller.transport,
            output,
            path,
            max_bytes=max_bytes,
            home=host_of(self._home),
            temporary=temporary,
            on_slow=on_slow if turns is not None else None,
            place=place,
            answer_time=ANSWER_TIME_IN_A_CROWD if turns is None else ANSWER_TIME,
        ) as fetch:

            async def attempt() -> Download:
                nonlocal turn
                if turns is None:
                    return await fetch.attempt()
                async with turns.turn(host) as turn:
                    return await fetch.attempt()

            fresh = fresh or self.fresh_urls((output,))
            return await self._until_there(fetch, output, attempt, fresh)

    async def _until_there(
        self,
        fetch: Fetch,
        output: Output,
        attempt: Callable[[], Awaitable[Download]],
        fresh: FreshUrls,
    ) -> Download:
        url, asked, waited = output.url, output.url is None, False
        pause = min(_FIRST, self._caller.retry.wait_initial)
        if url is None and output.text is None:
            # The URL may have come a moment after the end of the task.
            renewed = await fresh.of(output)
            if renewed is not None:
                url = renewed.url
                fetch.renew(renewed)
        while True:
            try:
                return await self._while_more_comes(fetch, attempt)
            except DownloadError as error:
                led_astray = isinstance(error, ResultUnsafe) and fetch.status
                if led_astray or isinstance(error, _NOT_THE_URL):
                    raise
                left = self._left(output) if fetch.status == 404 else 0.0
                if not asked and (waited or left <= 0):
                    asked, renewed = True, await fresh.of(output)
                    if renewed is not None and renewed.url != url:
                        logger.info("%s; asked the service for a fresh URL", error)
                        url = renewed.url
                        fetch.renew(renewed)
                        continue
                if left <= 0:
                    raise
            await self._caller.pause(min(pause, left))
            pause, waited = min(2 * pause, _LONGEST), True

    async def _while_more_comes(
        self, fetch: Fetch, attempt: Callable[[], Awaitable[Download]]
    ) -> Download:
        """Make attempts, as many as `RetryPolicy` says, and as many again as long as those brought
        a share of the file that can be resumed."""
        while True:
            had = fetch.collected
            try:
                return await self._caller.repeat(attempt, passing=PASSING)
            except (ResultIncomplete, TransportError) as error:
                share = (fetch.collected - had) / fetch.length if fetch.length else 0.0
                if share < _SHARE or isinstance(error.__cause__, TooSlow):
                    raise

    def _left(self, output: Output) -> float:
        """For how many seconds more HTTP 404 is believed to mean "not there yet"."""
        dispatcher = self._caller.opened()
        ended = dispatcher.ended.get(output.task_id)
        return 0.0 if ended is None else ended + REPLICATION - dispatcher.loop.time()
