"""A saved workflow: look at its nodes, set some, run it, watch it, save the picture.

python examples/workflow.py [WORKFLOW_ID] ["a prompt"] [workflow.png]
"""

import asyncio
import contextlib
import os
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import runninghub_async as rh
from runninghub_async.emulator import Emulator

WORKFLOW = "1904136902449209346"  # the emulator's; with a key, name one of yours that has been run
PROMPT = "a paper boat between icebergs, linocut"


@asynccontextmanager
async def open_session() -> AsyncIterator[rh.Session]:
    if os.environ.get("RUNNINGHUB_API_KEY"):
        async with rh.Session() as session:
            yield session
    else:
        print("RUNNINGHUB_API_KEY is not set: the picture is drawn by the emulator.")
        quick = rh.ExponentialPolling(initial=0.2, maximum=1.0)
        async with (
            Emulator(duration=2.0) as emulator,
            rh.Session("emulator", base_url=emulator.url, polling=quick) as session,
        ):
            yield session


def values_for(workflow: rh.Workflow, prompt: str) -> dict[str, dict[str, object]]:
    """The prompt for the sampler's positive text, and a seed of our own."""
    (sampler, *_) = workflow.nodes_of("KSampler")
    positive, _ = workflow.graph[sampler]["inputs"]["positive"]  # a link: node id, output number
    # Seeds are drawn anew unless they are given: keep this one, and the run can be repeated.
    return {positive: {"text": prompt}, sampler: {"seed": random.randrange(2**32)}}


async def show(session: rh.Session, task: rh.Task, workflow: rh.Workflow) -> None:
    async with session.progress(task) as events:
        async for event in events:
            match event:
                case rh.NodeStarted(node_id=node):
                    print(f"  node {node}: {workflow.graph.get(node, {}).get('class_type')}")
                case rh.NodeProgress(node_id=node, fraction=fraction):
                    print(f"  node {node}: {fraction:.0%}")
                case rh.RunEnded(ok=False, node_id=node, message=message):
                    print(f"  broke off at node {node}: {message}")


async def main(
    workflow_id: str = WORKFLOW, prompt: str = PROMPT, path: str = "workflow.png"
) -> None:
    async with open_session() as session:
        workflow = await session.workflows.get(workflow_id)
        for node_id, node in workflow.graph.items():
            print(f"{node_id:>4}  {node['class_type']}: {', '.join(node['inputs'])}")
        request = rh.WorkflowRequest(workflow, values_for(workflow, prompt))
        task = await session.submit(request)
        print(f"task {task.id}, with {dict(request.nodes)}")  # the id first: it is paid for
        for error in task.node_errors:
            print(f"  {error}")
        showing = asyncio.create_task(show(session, task, workflow))
        try:
            # The socket only shows; whether the task is done is for the service to say.
            ended = await session.wait(task.id, timeout=1800)
        finally:
            showing.cancel()
            with contextlib.suppress(asyncio.CancelledError, rh.RunningHubError):
                await showing
        if ended.status is not rh.TaskStatus.SUCCESS:
            raise rh.TaskFailed.from_task(ended)
        pictures = [o for o in ended.outputs if o.type in ("png", "jpg", "jpeg", "webp")]
        if not pictures:
            sys.exit(f"task {ended.id} ended well, but made no picture")
        saved = await session.download(pictures[0], path)
        print(f"{saved.path}: {saved.size} bytes")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:4]))
    except (rh.RunningHubError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
