"""Saved ComfyUI workflows."""

from __future__ import annotations

from .._caller import Caller
from .._exceptions import PayloadError
from .._protocol_v1 import build_v1, parse_duplicate, parse_workflow
from .._runs import Workflow

__all__ = ["Workflows", "check_number"]


def check_number(name: str, value: str) -> str:
    """`value` itself. Raises `PayloadError` unless it is text of digits."""
    if not isinstance(value, str) or not (value.isascii() and value.isdigit()):
        raise PayloadError([f"{name}: expected the digits of its page's address @ $.{name}"])
    return value


class Workflows:
    """`session.workflows`. To run one, submit a `WorkflowRequest`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def get(self, workflow_id: str) -> Workflow:
        """A saved workflow with its graph in ComfyUI's API format ("Get Workflow JSON"). Given to
        `WorkflowRequest` in place of the id, it lets `check` hold node values against the graph.

        Raises `PayloadError`, `NotFoundError` (code 380) or another `APIError`, `ProtocolError`
        or `TransportError`.
        """
        body = {"workflowId": check_number("workflow_id", workflow_id)}
        request = build_v1(self._caller.site, "/api/openapi/getJsonApiFormat", body)
        return await self._caller.call(request, lambda answer: parse_workflow(answer, workflow_id))

    async def duplicate(self, workflow_id: str) -> str:
        """Copy a workflow, such as a public one of another user, into this account; gives the id
        of the copy (`POST /api/openapi/workflow/duplicate`).

        Every call makes a new copy, so it is not repeated if it may have succeeded: after a
        `TransportError` check the account before you call it again. It costs nothing. The service
        may require the copy to be saved and run once on its web page (code 810).

        Raises `PayloadError`, `NotFoundError` (code 380) or another `APIError`, `ProtocolError`
        or `TransportError`.
        """
        body = {"workflowId": check_number("workflow_id", workflow_id)}
        request = build_v1(self._caller.site, "/api/openapi/workflow/duplicate", body)
        return await self._caller.call(request, parse_duplicate, safe=False)
