"""Runs of ComfyUI workflows, AI apps and quick-create apps: requests like those for models.

Sources: the service's documentation, "Start ComfyUI Task" 1 and 2, "Start AI App Task",
"Initiate Quick Create Task" and "About nodeInfoList". The run endpoints of v2 are known from
captures only, so the documented ones of v1 are what a request uses unless told otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import attrs

from ._apps import App
from ._catalogue import check_option
from ._media import is_file
from ._nodes import NO_PATHS, Nodes, check_graph, check_nodes, fill_graph, node_info_list
from ._text import text_faults

__all__ = ["AppRequest", "QuickCreateRequest", "Workflow", "WorkflowRequest"]


@attrs.frozen
class Workflow:
    """A saved workflow: its id and its graph in ComfyUI's API format, node ids to nodes."""

    id: str
    graph: Mapping[str, Any] = attrs.field(factory=dict, repr=False)

    def nodes_of(self, class_type: str) -> tuple[str, ...]:
        """The ids of the nodes of this class, e.g. `CLIPTextEncode`."""
        return tuple(
            node_id
            for node_id, node in self.graph.items()
            if isinstance(node, Mapping) and node.get("class_type") == class_type
        )


@attrs.frozen
class WorkflowRequest:
    """A run of the saved workflow `workflow`: its id, or the `Workflow` that
    `session.workflows.get` gave, against whose graph `nodes` is then checked.

    `nodes`: values for inputs, `{"6": {"text": "a boat"}}`; a `Path` is uploaded first. Seeds
    are drawn anew on each run unless given here. `graph`: a whole graph to run in place of the
    saved one, which still has to be named; `nodes` are then put into it. `add_metadata`: False
    keeps the prompt out of the pictures. `instance_type`: `default` (24 GB), `plus` (48 GB) or
    `ultra`. `use_personal_queue`: wait in the queue of an exclusive key. `retain_seconds`: keep
    the machine for 10 to 180 s after the run, billed; enterprise-shared keys only.
    `access_password`: of a protected workflow. `webhook_url` is called when the task ends.
    What is None is left out. The workflow must have been saved and run once on the site.
    """

    workflow: str | Workflow
    nodes: Nodes = attrs.field(factory=dict)
    graph: Mapping[str, Any] | None = attrs.field(default=None, kw_only=True)
    add_metadata: bool | None = attrs.field(default=None, kw_only=True)
    instance_type: str | None = attrs.field(default=None, kw_only=True)
    use_personal_queue: bool | None = attrs.field(default=None, kw_only=True)
    retain_seconds: int | None = attrs.field(default=None, kw_only=True)
    access_password: str | None = attrs.field(default=None, kw_only=True, repr=False)
    webhook_url: str | None = attrs.field(default=None, kw_only=True, repr=False)
    api: Literal["v1", "v2"] = attrs.field(default="v1", kw_only=True)

    @property
    def workflow_id(self) -> str:
        """The id of the workflow."""
        return self.workflow.id if isinstance(self.workflow, Workflow) else self.workflow

    @property
    def path(self) -> str:
        """`/task/openapi/create`, or `run/workflow/ID` of v2."""
        return "/task/openapi/create" if self.api == "v1" else f"run/workflow/{self.workflow_id}"

    def to_params(self) -> dict[str, Any]:
        """The JSON body, without the key."""
        params: dict[str, Any] = {"workflowId": self.workflow_id} if self.api == "v1" else {}
        if self.graph is not None:
            # A nodeInfoList beside a graph is held against the saved graph, and refused.
            filled = fill_graph(self.graph, self.nodes)
            params["workflow"] = json.dumps(filled, ensure_ascii=False)
        elif self.nodes or self.api == "v2":
            params["nodeInfoList"] = node_info_list(self.nodes)
        return params | _given(
            addMetadata=self.add_metadata,
            instanceType=self.instance_type,
            usePersonalQueue=self.use_personal_queue,
            retainSeconds=self.retain_seconds,
            accessPassword=self.access_password,
            webhookUrl=self.webhook_url,
        )

    def check(self) -> tuple[str, ...]:
        """Every fault, each as `description @ $.path`."""
        return tuple(self._faults())

    def _faults(self) -> Iterator[str]:
        yield from _check_id("workflow", self.workflow_id)
        yield from _check_api(self.api)
        graph: Any = self.graph
        if graph is not None:
            yield from (faults := tuple(check_graph(graph)))
            if faults:
                return
            graph = {str(node_id): node for node_id, node in graph.items()}
            yield from _check_no_files(self.nodes)
        elif isinstance(self.workflow, Workflow):
            graph = self.workflow.graph or None
        yield from check_nodes(self.nodes, graph)
        if self.api == "v2":
            yield from _not_in_v2(graph=self.graph, access_password=self.access_password)
        yield from _check_options(self)


@attrs.frozen
class AppRequest:
    """A run of the AI app `app`: its id, or the `App` that `session.apps.get` gave, against whose
    inputs `nodes` is then checked.

    `nodes`: values for the app's inputs, `{"6": {"text": "a boat"}}`; what is left out keeps
    its saved value, and a `Path` is uploaded first. `quick_create_code`: for a quick-create
    module of the app. The other fields are those of `WorkflowRequest`; `use_personal_queue`
    and `retain_seconds` are taken by `api="v2"` only, `access_password` and
    `quick_create_code` by v1 only. The app must have been run once on the site.
    """

    app: str | App
    nodes: Nodes = attrs.field(factory=dict)
    instance_type: str | None = attrs.field(default=None, kw_only=True)
    use_personal_queue: bool | None = attrs.field(default=None, kw_only=True)
    retain_seconds: int | None = attrs.field(default=None, kw_only=True)
    access_password: str | None = attrs.field(default=None, kw_only=True, repr=False)
    quick_create_code: str | None = attrs.field(default=None, kw_only=True)
    webhook_url: str | None = attrs.field(default=None, kw_only=True, repr=False)
    api: Literal["v1", "v2"] = attrs.field(default="v1", kw_only=True)

    @property
    def app_id(self) -> str:
        """The id of the app."""
        return self.app.id if isinstance(self.app, App) else self.app

    @property
    def path(self) -> str:
        """`/task/openapi/ai-app/run`, or `run/ai-app/ID` of v2."""
        return "/task/openapi/ai-app/run" if self.api == "v1" else f"run/ai-app/{self.app_id}"

    def to_params(self) -> dict[str, Any]:
        """The JSON body, without the key."""
        params: dict[str, Any] = {"webappId": self.app_id} if self.api == "v1" else {}
        params["nodeInfoList"] = node_info_list(self.nodes)
        return params | _given(
            instanceType=self.instance_type,
            usePersonalQueue=self.use_personal_queue,
            retainSeconds=self.retain_seconds,
            accessPassword=self.access_password,
            quickCreateCode=self.quick_create_code,
            webhookUrl=self.webhook_url,
        )

    def check(self) -> tuple[str, ...]:
        """Every fault, each as `description @ $.path`."""
        return tuple(self._faults())

    def _faults(self) -> Iterator[str]:
        yield from _check_id("app", self.app_id)
        yield from _check_api(self.api)
        yield from (faults := tuple(check_nodes(self.nodes)))
        if isinstance(self.app, App) and not faults:
            yield from self.app.check(self.nodes)
            if self.app.needs_password and self.access_password is None:
                yield "access_password: the app is protected by one @ $.access_password"
        if self.api == "v2":
            yield from _not_in_v2(
                access_password=self.access_password, quick_create_code=self.quick_create_code
            )
        else:
            for name in ("use_personal_queue", "retain_seconds"):
                if getattr(self, name) is not None:
                    yield f'{name}: taken by api="v2" only @ $.{name}'
        yield from _check_options(self)


@attrs.frozen
class QuickCreateRequest:
    """A run of a quick-create module: the platform's app `app` under the code its page shows,
    such as `002`. `nodes`: values for its inputs, as in `AppRequest`."""

    app: str
    code: str
    nodes: Nodes = attrs.field(factory=dict)
    webhook_url: str | None = attrs.field(default=None, kw_only=True, repr=False)

    @property
    def path(self) -> str:
        """`/task/openapi/quick-ai-app/run`."""
        return "/task/openapi/quick-ai-app/run"

    def to_params(self) -> dict[str, Any]:
        """The JSON body, without the key."""
        return {
            "webappId": self.app,
            "quickCreateCode": self.code,
            "nodeInfoList": node_info_list(self.nodes),
        } | _given(webhookUrl=self.webhook_url)

    def check(self) -> tuple[str, ...]:
        """Every fault, each as `description @ $.path`."""
        problems = [*_check_id("app", self.app), *check_nodes(self.nodes)]
        problems.extend(_check_options(self))
        if not isinstance(self.code, str) or not self.code.strip():
            problems.append(f"code: expected text such as 002, got {self.code!r:.60} @ $.code")
        else:
            problems.extend(text_faults(self.code, "code", "$.code"))
        return tuple(problems)


def _given(**params: Any) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def _check_id(name: str, value: Any) -> Iterator[str]:
    fine = isinstance(value, str) and value.isascii() and value.isdigit() and int(value) > 0
    if not fine:
        yield (
            f"{name}: expected the digits of its page's address, as text,"
            f" got {value!r:.60} @ $.{name}"
        )


def _check_api(api: Any) -> Iterator[str]:
    if api not in ("v1", "v2"):
        yield f"api: expected v1 or v2, got {api!r:.60} @ $.api"


#: The options of a run, by the field's name, and what they are called in the body.
_OPTIONS = {
    "add_metadata": "addMetadata",
    "instance_type": "instanceType",
    "use_personal_queue": "usePersonalQueue",
    "retain_seconds": "retainSeconds",
    "access_password": "accessPassword",
    "quick_create_code": "quickCreateCode",
    "webhook_url": "webhookUrl",
}


def _check_options(request: Any) -> Iterator[str]:
    for name, key in _OPTIONS.items():
        value = getattr(request, name, None)
        fault = None if value is None else check_option(key, value)
        if fault:
            yield f"{name}: {fault} @ $.{name}"


def _not_in_v2(**options: Any) -> Iterator[str]:
    for name in _given(**options):
        yield f'{name}: taken by api="v1" only @ $.{name}'


def _check_no_files(nodes: Nodes) -> Iterator[str]:
    for node_id, fields in nodes.items():
        for field, value in fields.items() if isinstance(fields, Mapping) else ():
            if is_file(value):
                yield f"nodes: {NO_PATHS} @ $.nodes.{node_id}.{field}"
