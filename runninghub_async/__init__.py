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

from ._catalogue import Catalogue, ModelSpec, ParamSpec, Price, PriceRule, PriceSpec
from ._download import Download
from ._exceptions import (
    APIError,
    AuthenticationError,
    CapacityError,
    ConnectError,
    ContentPolicyError,
    DownloadError,
    InsufficientBalanceError,
    InvalidRequestError,
    NotFoundError,
    PayloadError,
    PlanError,
    ProtocolError,
    RateLimitError,
    ReadError,
    ReadTimeout,
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
from ._feed import Statistics
from ._limits import Limits
from ._models import ErrorInfo, Output, Request, Response, Task, TaskStatus, Usage
from ._outcomes import Cancelled, Failed, Outcome, Succeeded, Unfinished, Unknown
from ._pacing import RateLimiter
from ._polling import ExponentialPolling, Polling
from ._retry import RetryPolicy
from ._seedream import (
    GenerationRequest,
    ModelRequest,
    SeedreamRequest,
    SeedreamV4,
    SeedreamV5Lite,
    SeedreamV45,
)
from ._session import Session
from ._stream import JobStream, OnLeave, TaskStream
from ._transport import AiohttpTransport, StreamedResponse, StreamingTransport, Transport

__version__ = "0.1.0"

__all__ = [
    "APIError",
    "AiohttpTransport",
    "AuthenticationError",
    "Cancelled",
    "CapacityError",
    "Catalogue",
    "ConnectError",
    "ContentPolicyError",
    "Download",
    "DownloadError",
    "ErrorInfo",
    "ExponentialPolling",
    "Failed",
    "GenerationRequest",
    "InsufficientBalanceError",
    "InvalidRequestError",
    "JobStream",
    "Limits",
    "ModelRequest",
    "ModelSpec",
    "NotFoundError",
    "OnLeave",
    "Outcome",
    "Output",
    "ParamSpec",
    "PayloadError",
    "PlanError",
    "Polling",
    "Price",
    "PriceRule",
    "PriceSpec",
    "ProtocolError",
    "RateLimitError",
    "RateLimiter",
    "ReadError",
    "ReadTimeout",
    "Request",
    "Response",
    "RetryPolicy",
    "RunningHubError",
    "SeedreamRequest",
    "SeedreamV4",
    "SeedreamV5Lite",
    "SeedreamV45",
    "ServerError",
    "Session",
    "SessionError",
    "Statistics",
    "StreamedResponse",
    "StreamingTransport",
    "SubmitManyError",
    "SubmitUnknown",
    "Succeeded",
    "Task",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskStatus",
    "TaskStream",
    "Transport",
    "TransportError",
    "Unfinished",
    "Unknown",
    "Usage",
    "WaitTimeout",
    "__version__",
]
