"""An asyncio-native client for RunningHub's generation API.

    import runninghub_async as rh

    async with rh.Session() as session:
        async for outcome in session.stream(rh.SeedreamV5Lite(prompt=line) for line in lines):
            match outcome:
                case rh.Succeeded(task=task): ...
                case rh.Failed(error=error): ...

`runninghub_async.emulator` stands in for the service, `runninghub_async.testing` for network and
time; neither is imported here.
"""

from ._apps import App, AppInput
from ._catalogue import Catalogue, ModelSpec, ParamSpec, PriceRule, PriceSpec
from ._exceptions import (
    APIError,
    AuthenticationError,
    BudgetError,
    CapacityError,
    ConnectError,
    ContentPolicyError,
    DownloadError,
    GraphError,
    InsufficientBalanceError,
    InvalidRequestError,
    JournalBusy,
    JournalError,
    NotFoundError,
    PayloadError,
    PlanError,
    ProtocolError,
    RateLimitError,
    ReadError,
    ReadTimeout,
    ResultBroken,
    ResultGone,
    ResultIncomplete,
    ResultTooLarge,
    ResultUnsafe,
    RunningHubError,
    ServerError,
    SessionError,
    SubmitManyError,
    SubmitUnknown,
    TaskCancelled,
    TaskError,
    TaskFailed,
    TransportError,
    WaitTimeout,
)
from ._families import (
    Account,
    Apps,
    AssetGroups,
    Assets,
    ComfyUI,
    Older,
    Pages,
    QuickCreate,
    Resources,
    TaskProgress,
    WebhookEvents,
    Workflows,
)
from ._feed import OnCancel, Statistics
from ._journal import Begun, Content, JobFacts, JobRecord, KeptFile, Moved, StoredRequest
from ._limits import Limits
from ._models import (
    ErrorInfo,
    FileBody,
    Output,
    Request,
    Response,
    Task,
    TaskPart,
    TaskStatus,
    Usage,
)
from ._money import Money
from ._nodes import NodeError
from ._outcomes import Cancelled, Failed, Outcome, Succeeded, Unfinished, Unknown
from ._pacing import RateLimiter
from ._plain import structure, unstructure
from ._polling import ExponentialPolling, Polling
from ._progress import (
    NodeDone,
    NodeProgress,
    NodesCached,
    NodeStarted,
    OtherEvent,
    Preview,
    ProgressEvent,
    QueueLength,
    RunEnded,
    RunStarted,
)
from ._reader import JournalReader, JournalSummary
from ._records import (
    AccountStatus,
    AppSummary,
    KeyInfo,
    Lora,
    Page,
    PricePreview,
    QueueStatus,
    Resource,
    Style,
    Upload,
    WebhookDetail,
)
from ._retry import RetryPolicy
from ._retrying import Retried
from ._runs import AppRequest, QuickCreateRequest, Workflow, WorkflowRequest
from ._saved import Download
from ._seedream import (
    GenerationRequest,
    ModelRequest,
    SeedreamRequest,
    SeedreamV4,
    SeedreamV5Lite,
    SeedreamV45,
)
from ._session import Session
from ._sqlite import SqliteJobStore
from ._states import MOVES, JobState
from ._store import AssumingStore, JobStore, MatchingStore
from ._stream import JobStream, TaskStream
from ._transport import (
    AiohttpTransport,
    SocketTransport,
    StreamedResponse,
    StreamingTransport,
    Transport,
)
from ._typed import models
from .webhooks import TaskEvent, Webhooks

__version__ = "0.1.0"

__all__ = [
    "JournalReader",
    "JournalSummary",
    "JournalError",
    "JournalBusy",
    "BudgetError",
    "SqliteJobStore",
    "StoredRequest",
    "Moved",
    "MOVES",
    "KeptFile",
    "AssumingStore",
    "JobStore",
    "MatchingStore",
    "JobState",
    "JobFacts",
    "JobRecord",
    "Begun",
    "APIError",
    "Account",
    "AccountStatus",
    "AiohttpTransport",
    "App",
    "AppInput",
    "AppRequest",
    "AppSummary",
    "Apps",
    "AssetGroups",
    "Assets",
    "AuthenticationError",
    "Cancelled",
    "CapacityError",
    "Catalogue",
    "ComfyUI",
    "ConnectError",
    "Content",
    "ContentPolicyError",
    "Download",
    "DownloadError",
    "ErrorInfo",
    "ExponentialPolling",
    "Failed",
    "FileBody",
    "GenerationRequest",
    "GraphError",
    "InsufficientBalanceError",
    "InvalidRequestError",
    "JobStream",
    "KeyInfo",
    "Limits",
    "Lora",
    "ModelRequest",
    "ModelSpec",
    "Money",
    "NodeDone",
    "NodeError",
    "NodeProgress",
    "NodeStarted",
    "NodesCached",
    "NotFoundError",
    "Older",
    "OnCancel",
    "OtherEvent",
    "Outcome",
    "Output",
    "Page",
    "Pages",
    "ParamSpec",
    "PayloadError",
    "PlanError",
    "Polling",
    "Preview",
    "PricePreview",
    "PriceRule",
    "PriceSpec",
    "ProgressEvent",
    "ProtocolError",
    "QueueLength",
    "QueueStatus",
    "QuickCreate",
    "QuickCreateRequest",
    "RateLimitError",
    "RateLimiter",
    "ReadError",
    "ReadTimeout",
    "Request",
    "Resource",
    "Resources",
    "Response",
    "ResultBroken",
    "ResultGone",
    "ResultIncomplete",
    "ResultTooLarge",
    "ResultUnsafe",
    "Retried",
    "RetryPolicy",
    "RunEnded",
    "RunStarted",
    "RunningHubError",
    "SeedreamRequest",
    "SeedreamV4",
    "SeedreamV45",
    "SeedreamV5Lite",
    "ServerError",
    "Session",
    "SessionError",
    "SocketTransport",
    "Statistics",
    "StreamedResponse",
    "StreamingTransport",
    "Style",
    "SubmitManyError",
    "SubmitUnknown",
    "Succeeded",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskEvent",
    "TaskFailed",
    "TaskPart",
    "TaskProgress",
    "TaskStatus",
    "TaskStream",
    "Transport",
    "TransportError",
    "Unfinished",
    "Unknown",
    "Upload",
    "Usage",
    "WaitTimeout",
    "WebhookDetail",
    "WebhookEvents",
    "Webhooks",
    "Workflow",
    "WorkflowRequest",
    "Workflows",
    "__version__",
    "models",
    "structure",
    "unstructure",
]
