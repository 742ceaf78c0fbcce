"""`workflow`: the nodes of a saved ComfyUI workflow, and runs of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._exceptions import APIError, NotFoundError
from .._runs import Workflow, WorkflowRequest
from .._session import Session
from .._threads import run_in_thread
from ._calls import opened, say
from ._prompts import UsageError
from ._runs import carry_out
from ._tables import print_json, table
from ._values import Values, node_values, texts_of_graph

__all__ = ["run_workflow", "show_workflow"]


async def show_workflow(args: argparse.Namespace) -> int:
    """Print the inputs of a workflow's nodes, or its graph as JSON."""
    async with opened(args) as session:
        workflow = await session.workflows.get(args.id)
    if args.json:
        print_json(workflow.graph)
    else:
        print(table(("node", "class", "input", "value"), _rows(workflow.graph)))
    return 0


async def run_workflow(args: argparse.Namespace) -> int:
    """Run a workflow, or the graph of `--graph` in its place."""
    graph = await _read_graph(args.graph) if args.graph else None
    # Read before there is a session: what is no value at all is wrong without asking anybody.
    values = node_values(args.set, texts_of_graph(graph or {}))
    async with opened(args) as session:
        workflow: Workflow | str = args.id
        if graph is not None:
            values = await _upload_all(session, values)
        elif values:
            workflow = await _saved(session, args.id)
            if isinstance(workflow, Workflow):
                values = node_values(args.set, texts_of_graph(workflow.graph))
        request = WorkflowRequest(
            workflow,
            values,
            graph=graph,
            add_metadata=False if args.no_metadata else None,
            instance_type=args.instance_type,
            use_personal_queue=args.use_personal_queue or None,
            retain_seconds=args.retain_seconds,
            access_password=args.access_password,
            webhook_url=args.webhook_url,
            api=args.api,
        )
        return await carry_out(session, request, args)


async def _saved(session: Session, workflow_id: str) -> Workflow | str:
    """The workflow with its graph, which tells text from numbers and knows wrong inputs; its id
    where the service shows no graph, which need not mean that it may not be run."""
    try:
        return await session.workflows.get(workflow_id)
    except NotFoundError:
        raise
    except APIError as error:
        say(f"the inputs are not checked: {error}")
        return workflow_id


async def _read_graph(path: str) -> dict[str, Any]:
    try:
        graph = json.loads(await run_in_thread(Path(path).read_text, "utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--graph {path}: {error}") from None
    if not isinstance(graph, dict):
        raise UsageError(f"--graph {path}: expected node ids to nodes, in ComfyUI's API format")
    return graph


async def _upload_all(session: Session, values: Values) -> Values:
    """`values` with the names of uploaded files: a graph is sent as text and takes no paths."""
    return {
        node: {
            field: (await session.upload(value)).name if isinstance(value, Path) else value
            for field, value in fields.items()
        }
        for node, fields in values.items()
    }


def _rows(graph: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for node_id, node in graph.items():
        facts = node if isinstance(node, Mapping) else {}
        kind, inputs = facts.get("class_type"), facts.get("inputs")
        if not isinstance(inputs, Mapping) or not inputs:
            yield node_id, kind, "", ""
            continue
        for field, value in inputs.items():
            yield node_id, kind, field, _shown(value)


def _shown(value: Any) -> Any:
    if isinstance(value, list) and len(value) == 2 and isinstance(value[0], str):
        return f"from node {value[0]}, output {value[1]}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
