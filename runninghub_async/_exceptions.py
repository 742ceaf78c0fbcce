"""Every error the package raises, each with the facts a handler needs.

RunningHubError
    PayloadError                before any I/O: the request itself is at fault
    SessionError                the session is not open, or belongs to another event loop
    TransportError              no answer came
        ConnectError              certainly not sent
        ReadError                 perhaps sent
        ReadTimeout               perhaps sent
    ProtocolError               an answer that breaks the contract
    APIError                    the service said no
        AuthenticationError       the key is wrong
        PlanError                 the key's plan does not allow the call
        InsufficientBalanceError  the wallet is empty
        InvalidRequestError       the service does not take these parameters
          GraphError                nor this workflow; it says which nodes
        ContentPolicyError        the service does not take this content
        NotFoundError             no such task, app or workflow
        CapacityError             no slot is free; nothing was created
        RateLimitError            too many requests; nothing was created
        ServerError               the service itself is in trouble
        BlockedError              a gateway, firewall, proxy or another server answered instead
    OutageError                 submitting stopped: submits no longer get a useful answer
    PolicyError                 a policy or callable of the user raised, or returned nonsense
    TaskError                   the calls worked, the task did not
        TaskFailed
        ResultsMissing            it succeeded, and the service shows no results
        TaskCancelled
        WaitTimeout               it still runs at the service
    SubmitUnknown               may or may not exist at the service, and may have been billed
    SubmitManyError             some of many submits were not accepted
    BudgetError                 one more submit would pass the budget
    JournalError                the journal cannot be opened, read or written
        JournalBusy               another living process has it
    DownloadError               a result could not be fetched whole
        ResultGone                its URL has expired
        ResultIncomplete          the host or the connection faltered
        ResultTooLarge            more bytes than allowed, on disk or unpacked
        ResultBroken              not what was announced, or not all of it
        ResultUnsafe              its address must not be fetched from
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ._models import Output, Response, Task
    from ._money import Money
    from ._nodes import NodeError

__all__ = [
    "APIError",
    "AuthenticationError",
    "BlockedError",
    "BudgetError",
    "CapacityError",
    "ConnectError",
    "ContentPolicyError",
    "DownloadError",
    "GraphError",
    "InsufficientBalanceError",
    "InvalidRequestError",
    "JournalBusy",
    "JournalError",
    "NotFoundError",
    "OutageError",
    "PayloadError",
    "PlanError",
    "PolicyError",
    "ProtocolError",
    "RateLimitError",
    "ReadError",
    "ReadTimeout",
    "ResultBroken",
    "ResultGone",
    "ResultIncomplete",
    "ResultTooLarge",
    "ResultUnsafe",
    "ResultsMissing",
    "RunningHubError",
    "ServerError",
    "SessionError",
    "SubmitManyError",
    "SubmitUnknown",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TransportError",
    "WaitTimeout",
]


def _rebuild(cls: type[RunningHubError], args: tuple[Any, ...], facts: dict[str, Any]) -> Any:
    error = cls.__new__(cls, *args)
    error.__dict__.update(facts)
    return error


class RunningHubError(Exception):
    """The root: `except RunningHubError` catches whatever this package raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Keyword-only facts would be lost by the default, which replays `args` alone.
        return _rebuild, (type(self), self.args, self.__dict__)


class PayloadError(RunningHubError, ValueError):
    """A request that the service would refuse, found before anything was sent.

    `problems` holds every fault, each as `description @ $.path`.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems: tuple[str, ...] = tuple(problems)
        super().__init__("; ".join(self.problems))


def unforeseen(error: Exception) -> PayloadError:
    """Anything may stand in a request, even what breaks when it is looked at."""
    fault = PayloadError([f"request: {type(error).__name__} while checking it @ $"])
    fault.__cause__ = error
    return fault


class SessionError(RunningHubError, RuntimeError):
    """The session cannot be used here: not open yet, closed, or opened on another event loop."""


class BudgetError(RunningHubError):
    """One more submit would pass the budget: `budget`, `spent` and `expected`, of that submit, are
    `Money`; `expected` is None where nobody knows."""

    def __init__(self, budget: Money, spent: Money, expected: Money | None) -> None:
        dear = f"the next request costs {expected}" if expected else "its price is not known"
        super().__init__(f"the budget of {budget} is used up: {spent} are spent, and {dear}")
        self.budget = budget
        self.spent = spent
        self.expected = expected


class JournalError(RunningHubError):
    """The journal cannot be opened, read or written; `path` is where it is, as text. For a damaged
    row, `seq`, `key` and `column` say which row and which part of it."""

    def __init__(
        self,
        message: str,
        path: str = "",
        *,
        seq: int | None = None,
        key: str = "",
        column: str = "",
    ) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.seq = seq
        self.key = key
        self.column = column


class JournalBusy(JournalError):
    """Another living process has the journal; it is named in the message."""


class TransportError(RunningHubError):
    """No whole answer came. The original exception is the `__cause__`.

    `response` is what had arrived of the answer when it broke off; None if nothing had.
    `permanent`: no later try of this session can do better.
    """

    response: Response | None = None
    permanent: bool = False


class ConnectError(TransportError):
    """The request certainly did not leave: name, connection, proxy or TLS failed, or no
    connection was free in time.
    """


class ReadError(TransportError):
    """The connection broke after the request may have left."""


class ReadTimeout(TransportError):
    """The service stayed silent for longer than the read time-out."""


class ProtocolError(RunningHubError):
    """An answer that breaks the contract: not JSON, not an object, neither id nor error code.

    `response` is the answer itself.
    """

    def __init__(self, message: str, response: Response) -> None:
        super().__init__(message)
        self.response = response


class APIError(RunningHubError):
    """The service said no.

    `code` is the service's code as a string (`""` when only the HTTP status speaks), `status`
    the HTTP status, `message` the service's own text, `retry_after` seconds to wait where the
    answer named them.
    """

    #: What to do about it, for errors that no repetition mends.
    advice = ""

    #: The answer itself, where it is not the service's own.
    response: Response | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str = "",
        status: int = 200,
        retry_after: float | None = None,
    ) -> None:
        text = f"[{code or f'HTTP {status}'}] {message}"
        super().__init__(f"{text} ({self.advice})" if self.advice else text)
        self.message = message
        self.code = code
        self.status = status
        self.retry_after = retry_after


class AuthenticationError(APIError):
    """The API key is missing, wrong, disabled, or belongs to the service's other site."""

    advice = (
        "check the API key, and that it is a key of this site: "
        "keys of runninghub.cn and runninghub.ai are not interchangeable"
    )


class PlanError(APIError):
    """The key is valid but its plan forbids the call (free, consumer or expired)."""

    advice = (
        "the site's enterprise API page shows the key's type and plan; "
        "standard models need an enterprise-shared key"
    )


class InsufficientBalanceError(APIError):
    """The wallet or the coins do not cover the call."""

    advice = "top up the account's wallet or coins, then submit what is left"


class InvalidRequestError(APIError):
    """The service does not take these parameters, this path or this file."""


class GraphError(InvalidRequestError):
    """The service does not take this workflow, or these values for its nodes.

    `node_errors` has what it says of each node.
    """

    node_errors: tuple[NodeError, ...] = ()


class ContentPolicyError(APIError):
    """The service does not take this content; the same input will be refused again."""


class NotFoundError(APIError):
    """There is no such task, app or workflow, or no longer."""


class CapacityError(APIError):
    """No slot is free. Nothing was created and nothing billed: wait for one and submit again."""


class RateLimitError(APIError):
    """Too many requests. Nothing was created: slow down."""


class ServerError(APIError):
    """The service is in trouble. After a submit, whether a task exists is not known."""


class BlockedError(APIError):
    """The answer is not the service's: a gateway, a firewall, a login portal, a proxy or another
    server refused the request. Nothing was created.

    `status` is the HTTP status; the message names the page or where it redirects to.
    """

    advice = "nothing was created"


class OutageError(RunningHubError):
    """Submitting stopped, because submits no longer got a useful answer.

    `seen` says what they got instead, `since` when that began (Unix time in seconds), `running`
    how many tasks still run at the service. The last error is the `__cause__`. What was not
    submitted was not billed: submit it later, or resume the journal.
    """

    def __init__(self, message: str, *, seen: str, since: float, running: int) -> None:
        super().__init__(message)
        self.seen = seen
        self.since = since
        self.running = running


class PolicyError(RunningHubError):
    """A policy or a callable given by the user raised, or returned something invalid.

    `name` is the callable's (`polling.delay`, `rng.random`, `unknown`, `key`, `name`,
    `progress`), `task_ids` the
    tasks that were running when the session ended because of it. The exception that it raised is
    the `__cause__`.
    """

    def __init__(self, name: str, fault: str, task_ids: Sequence[str] = ()) -> None:
        running = f"; tasks that still run: {' '.join(task_ids)}" if task_ids else ""
        super().__init__(f"{name} {fault}{running}")
        self.name = name
        self.fault = fault
        self.task_ids: tuple[str, ...] = tuple(task_ids)


class TaskError(RunningHubError):
    """The calls worked, the task did not. `task_id` is always set."""

    task_id: str

    @property
    def task(self) -> Task | None:
        """The task as last seen; None where it was never seen."""
        task: Task | None = self.__dict__.get("_task")
        return task

    @classmethod
    def from_task(cls, task: Task) -> Self:
        """The error for `task`, which it then carries."""
        why = task.error
        silent = why is None or not (why.code or why.message or why.reason)
        told = [str(task.status if silent else why), *map(str, task.node_errors)]
        error = cls(f"task {task.id}: {'; '.join(told)}")
        error.task_id = task.id
        error.__dict__["_task"] = task
        return error


class TaskFailed(TaskError):
    """The service gave the task up; `task.error` says why, and `reason` in what class of errors
    that falls."""

    @property
    def code(self) -> str:
        """The service's code, e.g. `1501` for a content refusal; empty when it gave none."""
        return self.task.error.code if self.task and self.task.error else ""

    @property
    def reason(self) -> APIError | None:
        """The error that its code stands for (`ContentPolicyError` for 1501, …), for telling
        failures apart; also the `__cause__`. None without a code."""
        return self.__cause__ if isinstance(self.__cause__, APIError) else None

    @property
    def node_errors(self) -> tuple[NodeError, ...]:
        """What the service had found wrong with the nodes of the graph, if it said so."""
        return self.task.node_errors if self.task else ()


class ResultsMissing(TaskError):
    """The service says that the task succeeded, but shows no results, although it was queried again
    for a while. The task was billed; `Session.wait` or a resumed run asks once more."""


class TaskCancelled(TaskError):
    """Somebody cancelled the task."""


class WaitTimeout(TaskError, TimeoutError):
    """The wait ran out; the task still runs at the service and can be waited for again."""

    def __init__(self, message: str, task_id: str = "") -> None:
        super().__init__(message)
        self.task_id = task_id


class SubmitUnknown(RunningHubError):
    """A submit whose answer was lost or unreadable: the task may exist and may be billed.

    `request` is what was submitted. It is never sent again unless `Session(unknown=...)` says
    so. The `__cause__` says what happened; look for the task in the site's call records.
    """

    def __init__(self, message: str, request: Any) -> None:
        super().__init__(message)
        self.request = request


class SubmitManyError(RunningHubError):
    """Some of many submits were not accepted; those that were must not be lost.

    `tasks` has the accepted task, or None, for each request in input order; `errors` what
    happened to the others, by their place in the input.
    """

    def __init__(self, tasks: Sequence[Task | None], errors: Mapping[int, RunningHubError]) -> None:
        first = min(errors)
        super().__init__(
            f"{len(errors)} of {len(tasks)} requests were not accepted;"
            f" request {first}: {errors[first]}"
        )
        self.tasks: tuple[Task | None, ...] = tuple(tasks)
        self.errors: dict[int, RunningHubError] = dict(errors)


class DownloadError(RunningHubError):
    """A result could not be fetched whole. Nothing was left at the target path.

    `output` is the result; its URL can be tried again as long as it lives (about 24 hours).
    """

    def __init__(self, message: str, output: Output) -> None:
        super().__init__(message)
        self.output = output


class ResultGone(DownloadError):
    """The host answered HTTP 403, 404 or 410: the URL has expired or never existed, and there is no
    fresh one. A retry will not help."""


class ResultIncomplete(DownloadError):
    """The host or the connection faltered, fewer bytes came than were announced, or a packed body
    without its end: trying again may help."""


class ResultTooLarge(DownloadError):
    """More than `max_bytes`, announced or met; or a picture of so many pixels that unpacking it
    would fill the memory."""


class ResultBroken(DownloadError):
    """What came is not what was announced (a web page in place of a picture), a picture that is
    not whole (cut off, a wrong checksum, too few pixels), or packed so that it cannot be unpacked.
    Trying again may help if the fault is the transfer's."""


class ResultUnsafe(DownloadError):
    """The result's URL, or one it was redirected to, must not be followed: it is not http(s), goes
    from https to http or round in circles, or leads into a private network."""
