"""The service's error codes, as one table.

In this file: what each documented code means, which error it becomes, and what it says about a
submit that it answers. Not in this file: reading answers, waiting, deciding to repeat.

The codes are those of the service's own tables (v1: 301 to 1520; model API: 1000 to 1505), plus a
few that only clients have reported (401, 403, 414, 605, 1520, 1601, -1). A code without a row is
treated as an `APIError` after which a submit's outcome is unknown. The meaning of two codes, 1 and
301, depends on the text beside them; `look_up` reads that text.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from ._exceptions import (
    APIError,
    AuthenticationError,
    BlockedError,
    CapacityError,
    ContentPolicyError,
    InsufficientBalanceError,
    InvalidRequestError,
    NotFoundError,
    PlanError,
    RateLimitError,
    ServerError,
)

__all__ = ["CODES", "OF_ONE_REQUEST", "Code", "Submit", "code_of_status", "look_up"]


class Submit(enum.Enum):
    """What an answer to a submit says about the task."""

    WAIT = "nothing was created; there will be room later"
    NEVER = "nothing was created; the same request will be refused again"
    OPEN = "a task may or may not have been created"


class Code(NamedTuple):
    """One row: the error a code becomes, what it says of a submit, its meaning in a few words."""

    error: type[APIError]
    submit: Submit
    meaning: str


CODES: Final[dict[str, Code]] = {
    # v1 codes; the service also sends them as v2 `errorCode` strings.
    "-1": Code(AuthenticationError, Submit.NEVER, "API key verification failed"),
    "1": Code(InvalidRequestError, Submit.NEVER, "refused; the text says why"),
    "301": Code(InvalidRequestError, Submit.NEVER, "bad or missing parameter"),
    "380": Code(NotFoundError, Submit.NEVER, "no such workflow"),
    "401": Code(AuthenticationError, Submit.NEVER, "API key missing or invalid"),
    "403": Code(AuthenticationError, Submit.NEVER, "no permission"),
    "412": Code(AuthenticationError, Submit.NEVER, "token invalid; often a misspelt path"),
    "414": Code(InsufficientBalanceError, Submit.NEVER, "not enough coins"),
    "415": Code(CapacityError, Submit.WAIT, "no free exclusive machine"),
    "416": Code(InsufficientBalanceError, Submit.NEVER, "wallet empty"),
    "421": Code(CapacityError, Submit.WAIT, "API concurrency cap reached"),
    "423": Code(NotFoundError, Submit.OPEN, "no such task"),
    "433": Code(InvalidRequestError, Submit.NEVER, "graph validation failed"),
    "435": Code(InvalidRequestError, Submit.NEVER, "no exclusive machine of this class"),
    "436": Code(PlanError, Submit.NEVER, "exclusive membership expired"),
    "500": Code(ServerError, Submit.OPEN, "server error"),
    "605": Code(InsufficientBalanceError, Submit.NEVER, "balance too low"),
    "801": Code(PlanError, Submit.NEVER, "free users may not use the API"),
    "802": Code(AuthenticationError, Submit.NEVER, "API key not authorised"),
    "803": Code(InvalidRequestError, Submit.NEVER, "node values do not fit the workflow"),
    "804": Code(APIError, Submit.OPEN, "task is running"),
    "805": Code(APIError, Submit.OPEN, "task failed or was aborted"),
    "806": Code(AuthenticationError, Submit.NEVER, "no user for this API key"),
    "807": Code(NotFoundError, Submit.OPEN, "no such task"),
    "808": Code(ServerError, Submit.OPEN, "upload failed"),
    "809": Code(InvalidRequestError, Submit.NEVER, "file too big"),
    "810": Code(InvalidRequestError, Submit.NEVER, "save the workflow and run it once by hand"),
    "811": Code(AuthenticationError, Submit.NEVER, "enterprise key invalid"),
    "812": Code(InsufficientBalanceError, Submit.NEVER, "enterprise balance too low"),
    "813": Code(APIError, Submit.OPEN, "task is queued"),
    "814": Code(CapacityError, Submit.WAIT, "personal queue is full"),
    "901": Code(NotFoundError, Submit.NEVER, "no such AI app"),
    # v2 codes.
    "1000": Code(ServerError, Submit.OPEN, "unknown error"),
    "1001": Code(InvalidRequestError, Submit.NEVER, "invalid URL"),
    "1002": Code(AuthenticationError, Submit.NEVER, "invalid API key"),
    "1003": Code(RateLimitError, Submit.WAIT, "rate limit exceeded"),
    "1004": Code(NotFoundError, Submit.OPEN, "task not found or expired"),
    "1005": Code(ServerError, Submit.OPEN, "internal server error"),
    "1006": Code(ServerError, Submit.OPEN, "task execution timed out"),
    "1007": Code(InvalidRequestError, Submit.NEVER, "invalid parameters"),
    "1008": Code(InvalidRequestError, Submit.NEVER, "file size limit exceeded"),
    "1009": Code(InvalidRequestError, Submit.NEVER, "HTTP method not supported"),
    "1010": Code(ServerError, Submit.OPEN, "service unavailable"),
    "1011": Code(ServerError, Submit.OPEN, "system busy"),
    "1012": Code(ServerError, Submit.OPEN, "upstream service exception"),
    "1013": Code(APIError, Submit.OPEN, "file processing failed"),
    "1014": Code(PlanError, Submit.NEVER, "standard models need an enterprise-shared key"),
    "1015": Code(APIError, Submit.OPEN, "generation failed"),
    "1101": Code(
        InvalidRequestError, Submit.NEVER, "node info error: node data could not be parsed"
    ),
    "1501": Code(ContentPolicyError, Submit.NEVER, "content verification failed"),
    "1504": Code(ServerError, Submit.OPEN, "model response timed out"),
    "1505": Code(ContentPolicyError, Submit.NEVER, "photorealistic real people are prohibited"),
    "1520": Code(CapacityError, Submit.WAIT, "per-user concurrent task limit"),
    "1601": Code(AuthenticationError, Submit.NEVER, "API key verification failed"),
}

_UNLISTED: Final = Code(APIError, Submit.OPEN, "undocumented code")
#: Code 1 about something that does not exist. Nothing was created, whatever it is.
_NOT_THERE: Final = Code(NotFoundError, Submit.NEVER, "what the call asked for does not exist")


#: What the older API says about a wrong key: no user has it. In lower
#: case and without spaces, as `look_up` compares.
_NO_USER: Final = (
    "usernotexist", "usernotfound", "userdoesnotexist", "userdoesn'texist", "usernotexists",
    "用户不存在",
)  # fmt: skip
#: Words about the key itself.
_KEY: Final = ("apikey", "api_key", "api密钥")
#: Words for what is not there.
_ABSENT: Final = ("notexist", "notfound", "doesnotexist", "不存在")


def look_up(code: str, words: str = "") -> Code:
    """The row of `code`; if there is none, a row that decides nothing.

    `words` is the text of the answer. The service uses code 301 for a wrong parameter and also
    for a wrong key ("user not exist"), and code 1 for whatever an endpoint refuses: a wrong key,
    or something that does not exist ("webapp not exists").
    """
    if code not in ("1", "301"):
        return CODES.get(code, _UNLISTED)
    said = words.lower().replace(" ", "")
    if any(each in said for each in _NO_USER):
        return CODES["806"]
    if code == "1" and any(each in said for each in _KEY):
        return CODES["401"]
    if code == "1" and any(each in said for each in _ABSENT):
        return _NOT_THERE
    return CODES[code]


_IN_FRONT = "something in front of the service refused the request"
_ORIGIN = "this is not the address of the service, check base_url"

#: HTTP statuses of answers without a code of the service. The service answers most refusals with
#: HTTP 200, so these come from a gateway, a firewall or a proxy in front of it, or from another
#: server.
_STATUSES: Final[dict[int, Code]] = {
    401: Code(BlockedError, Submit.NEVER, _IN_FRONT),
    403: Code(BlockedError, Submit.NEVER, _IN_FRONT),
    404: Code(BlockedError, Submit.NEVER, _ORIGIN),
    405: Code(BlockedError, Submit.NEVER, _ORIGIN),
    407: Code(BlockedError, Submit.NEVER, "the proxy wants credentials"),
    408: CODES["500"],
    413: Code(BlockedError, Submit.NEVER, "the request is too large for the server"),
    414: Code(BlockedError, Submit.NEVER, "the URL is too long for the server"),
    415: Code(BlockedError, Submit.NEVER, "the server does not take this kind of request"),
    429: CODES["1003"],
    431: Code(BlockedError, Submit.NEVER, "the headers are too large for the server"),
}
_REDIRECT = Code(BlockedError, Submit.NEVER, _ORIGIN)

#: Statuses that concern one request alone; the others concern every request.
OF_ONE_REQUEST: Final = frozenset({413, 414, 415, 431})


def code_of_status(status: int) -> Code | None:
    """The row for the HTTP status of an answer without a code; None if it is not an error.

    401 and 403 concern the key only in the service's own JSON, with a code. Without one they come
    from a firewall or a portal, and may concern a single prompt.
    """
    row = _STATUSES.get(status)
    if row is not None:
        return row
    if status >= 500:
        return CODES["500"]
    if 300 <= status < 400:
        return _REDIRECT
    return _UNLISTED if status >= 300 else None
