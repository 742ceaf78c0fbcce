"""The older envelope, `{"code": 0, "msg": …, "data": …}`, as far as it is needed: cancelling.

Source: the service's documentation, "Cancel ComfyUI Task" (`POST /task/openapi/cancel`). It is
documented for workflow tasks only; for standard models it is best effort.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ._models import Request, Response
from ._protocol import QUERY_TIMEOUT, api_error, json_object

__all__ = ["build_cancel", "parse_cancel"]


def build_cancel(base_url: str, headers: Mapping[str, str], api_key: str, task_id: str) -> Request:
    """`POST /task/openapi/cancel`; this family wants the key in the body as well."""
    body = json.dumps({"apiKey": api_key, "taskId": task_id}).encode()
    return Request("POST", f"{base_url}/task/openapi/cancel", headers, body, QUERY_TIMEOUT)


def parse_cancel(response: Response) -> None:
    """Return if the service took the request; raise its `APIError` or a `ProtocolError`."""
    error = api_error(json_object(response), response)
    if error is not None:
        raise error
