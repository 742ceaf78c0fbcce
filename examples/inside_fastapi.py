"""A web service that makes posters: one session for all its users.

python examples/inside_fastapi.py --self-test        (pip install fastapi httpx uvicorn)
"""

import asyncio
import logging
import math
import os
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

import runninghub_async as rh
from runninghub_async.emulator import Emulator

logger = logging.getLogger(__name__)


class Poster(BaseModel):
    prompt: str
    width: int = 1728
    height: int = 2304


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    if os.environ.get("RUNNINGHUB_API_KEY"):
        async with rh.Session() as app.state.session:
            yield
    else:
        print("RUNNINGHUB_API_KEY is not set: the pictures are drawn by the emulator.")
        quick = rh.ExponentialPolling(initial=0.5, maximum=1.0)
        async with (
            Emulator(duration=1.5) as emulator,
            rh.Session("emulator", base_url=emulator.url, polling=quick) as app.state.session,
        ):
            yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(rh.RunningHubError)
async def explain(_: Request, error: Exception) -> JSONResponse:
    match error:
        case rh.PayloadError(problems=problems):
            return JSONResponse({"problems": problems}, 422)
        case rh.CapacityError() | rh.RateLimitError():
            pause = math.ceil(error.retry_after or 10)
            return JSONResponse({"error": "busy"}, 503, {"Retry-After": str(pause)})
        case rh.NotFoundError():
            return JSONResponse({"error": "no such poster"}, 404)
        case rh.WaitTimeout(task_id=task_id):
            return JSONResponse({"error": "not ready yet", "task_id": task_id}, 504)
        case rh.TaskFailed(task_id=task_id, code=code):
            return JSONResponse({"error": "failed", "task_id": task_id, "code": code}, 502)
        case _:
            # Its text may speak of the key or the wallet, which is no business of the user.
            logger.error("%s", error)
            return JSONResponse({"error": type(error).__name__}, 502)


def answer(task: rh.Task) -> dict[str, str | None]:
    url = task.outputs[0].url if task.outputs else None
    return {"task_id": task.id, "status": task.status, "url": url}


async def make(session: rh.Session, poster: Poster) -> rh.Task:
    request = rh.SeedreamV5Lite(poster.prompt, poster.width, poster.height)
    try:
        # submit() waits while no slot is free, so limit the wait.
        async with asyncio.timeout(20):
            task = await session.submit(request)
    except TimeoutError:
        raise HTTPException(503, "no slot is free", {"Retry-After": "10"}) from None
    try:
        task = await session.wait(task.id, timeout=120)
    except asyncio.CancelledError:
        logger.warning("the user left; task %s runs on", task.id)
        raise
    if task.status is not rh.TaskStatus.SUCCESS:
        raise rh.TaskFailed.from_task(task)
    return task


async def while_there(user: Request, work: Coroutine[None, None, rh.Task]) -> rh.Task:
    """The result of `work`, which is given up when the user leaves."""
    # The body has been read, so all there is to receive is the disconnect.
    working, leaving = asyncio.create_task(work), asyncio.ensure_future(user.receive())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise HTTPException(499, "the user left")
    finally:
        leaving.cancel()
        working.cancel()


@app.post("/posters")
async def make_poster(poster: Poster, user: Request) -> dict[str, str | None]:
    return answer(await while_there(user, make(user.app.state.session, poster)))


@app.get("/posters/{task_id}")
async def look_at_poster(task_id: str, user: Request) -> dict[str, str | None]:
    return answer(await user.app.state.session.query(task_id))


async def self_test() -> None:
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://app") as user:
        posters = [{"prompt": f"Travel poster of {what}"} for what in ("a pier", "a fox", "tea")]
        for made in await asyncio.gather(*(user.post("/posters", json=it) for it in posters)):
            print(made.status_code, made.raise_for_status().json())
        asked = await user.get(f"/posters/{made.json()['task_id']}")
        print(asked.status_code, asked.raise_for_status().json())


if __name__ == "__main__":
    if "--self-test" in sys.argv:
        asyncio.run(self_test())
    else:
        print("uvicorn --app-dir examples inside_fastapi:app")
