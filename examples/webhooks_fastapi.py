"""A web service that is told when its tasks end, in place of asking all the time.

python examples/webhooks_fastapi.py                    (pip install fastapi httpx uvicorn)

serves a few users of its own on a free port and ends.

For real, the address must be one that the service reaches:

PUBLIC_URL=https://posters.example.org uvicorn --app-dir examples webhooks_fastapi:app
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

import runninghub_async as rh
from runninghub_async.emulator import Emulator


class Poster(BaseModel):
    prompt: str


class Order(Poster):
    order: str = Field(pattern=r"^\w+$")


async def on_task(key: str, task: rh.Task) -> None:
    """For the orders that nobody waits for: the session has asked, so this is certain."""
    print(f"order {key}: task {task.id} is {task.status}")
    orders[key].set_result(task)


orders: dict[str, asyncio.Future[rh.Task]] = {}
webhooks = rh.Webhooks(
    # With the slash: a mounted application answers `/hooks` by a redirect, which loses the event.
    os.environ.get("PUBLIC_URL", "http://127.0.0.1:8000").rstrip("/") + "/hooks/",
    # The addresses of one process are then good for the next one, too.
    secret=os.environ.get("WEBHOOK_SECRET"),
    on_task=on_task,
)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if os.environ.get("RUNNINGHUB_API_KEY"):
        async with rh.Session(webhooks=webhooks) as app.state.session:
            yield
    else:
        print("RUNNINGHUB_API_KEY is not set: the pictures are drawn by the emulator.")
        async with (
            Emulator(duration=1.0) as emulator,
            rh.Session("emulator", base_url=emulator.url, webhooks=webhooks) as app.state.session,
        ):
            yield
            print(f"{emulator.stats.webhooks} events, {emulator.stats.queries} queries")


app = FastAPI(lifespan=lifespan)
app.mount("/hooks", webhooks.asgi)


@app.exception_handler(rh.RunningHubError)
async def explain(_: Request, error: Exception) -> JSONResponse:
    """`inside_fastapi.py` tells more of them apart."""
    if isinstance(error, rh.PayloadError):
        return JSONResponse({"problems": error.problems}, 422)
    return JSONResponse({"error": type(error).__name__}, 502)


@app.post("/posters")
async def make_poster(poster: Poster, user: Request) -> dict[str, str | None]:
    """Submit and wait: the event ends the wait."""
    session: rh.Session = user.app.state.session
    try:
        async with asyncio.timeout(300):
            task = await session.run(rh.SeedreamV5Lite(poster.prompt))
    except TimeoutError:
        raise HTTPException(504, "not ready yet") from None
    return {"task_id": task.id, "url": task.outputs[0].url if task.outputs else None}


@app.post("/orders", status_code=202)
async def take_order(poster: Order, user: Request) -> dict[str, str]:
    """Submit and answer at once: `on_task` hears of the end."""
    session: rh.Session = user.app.state.session
    if poster.order in orders:
        raise HTTPException(409, "there is such an order")
    address = webhooks.url_for(poster.order)
    orders[poster.order] = asyncio.get_running_loop().create_future()
    try:
        task = await session.submit(rh.SeedreamV5Lite(poster.prompt, webhook_url=address))
    except rh.SubmitUnknown:
        raise  # the event may still come, and brings the task's id
    except rh.RunningHubError:
        del orders[poster.order]
        raise
    return {"order": poster.order, "task_id": task.id}


@app.get("/orders/{order}")
async def look_at_order(order: str) -> dict[str, str | None]:
    if order not in orders:
        raise HTTPException(404, "no such order")
    made = orders[order]
    return {"order": order, "status": made.result().status if made.done() else None}


async def self_test() -> None:
    """The application under uvicorn on a free port, a few users, and the end."""
    listening = socket.create_server(("127.0.0.1", 0))
    here = f"http://127.0.0.1:{listening.getsockname()[1]}"
    webhooks.url = f"{here}/hooks/"
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    serving = asyncio.create_task(server.serve([listening]))
    try:
        async with httpx.AsyncClient(base_url=here, timeout=30, trust_env=False) as user:
            prompts = [f"Travel poster of {what}" for what in ("a pier", "a fox", "tea")]
            made = await asyncio.gather(
                *(user.post("/posters", json={"prompt": prompt}) for prompt in prompts)
            )
            for answer in made:
                print(answer.status_code, answer.raise_for_status().json())

            order = {"prompt": "Travel poster of a lighthouse", "order": "7"}
            print((await user.post("/orders", json=order)).raise_for_status().json())
            await asyncio.wait_for(orders["7"], 20)
            print((await user.get("/orders/7")).raise_for_status().json())

            # Nobody else can make an address, so this is refused.
            forged = await user.post("/hooks/?job=7&sign=0", json={"taskId": "1"})
            print("forged:", forged.status_code)
    finally:
        server.should_exit = True
        await serving


if __name__ == "__main__":
    asyncio.run(self_test())
