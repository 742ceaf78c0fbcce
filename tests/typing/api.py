"""How the package is used, for the type checkers; never run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Literal, assert_type

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault, Stats
from runninghub_async.testing import MockTransport, json_response, run


async def prompts() -> AsyncIterator[rh.SeedreamV5Lite]:
    yield rh.SeedreamV5Lite("a poster", 2048, 2048, resolution="2k", max_images=1)


async def use(session: rh.Session) -> None:
    task = await session.run(rh.SeedreamV45("a poster", image_urls=["https://x/a.png"]))
    assert_type(task, rh.Task)
    pro = rh.SeedreamV5Pro("a poster", 1024, 768, output_format="png")
    assert_type(pro.output_format, Literal["jpeg", "png"] | None)
    assert_type(pro.price(), rh.Money | None)
    assert_type(await session.submit(pro), rh.Task)
    assert_type(await session.workflows.duplicate("1"), str)
    assert_type(await session.submit(rh.ModelRequest("a/b", {"prompt": "x"})), rh.Task)
    assert_type(await session.submit_many([rh.SeedreamV4("a poster")]), list[rh.Task])
    assert_type(await session.wait(task.id, timeout=3), rh.Task)
    assert_type(await session.download(task.outputs[0], "x.png"), rh.Download)
    async for ended in session.as_completed([task.id]):
        assert_type(ended, rh.Task)
    async with session.stream(prompts(), ordered=True, on_cancel="cancel") as stream:
        assert_type(stream.statistics(), rh.Statistics)
        async for outcome in stream:
            match outcome:
                case rh.Succeeded(task=done):
                    assert_type(done, rh.Task)
                case rh.Failed(error=error):
                    assert_type(error, rh.RunningHubError)
                case rh.Cancelled(task=gone):
                    assert_type(gone, rh.Task)
                case rh.Unknown(error=unknown):
                    assert_type(unknown, rh.SubmitUnknown)


class FixedPolling:
    def delay(self, looks: int, u: float) -> float:
        return 5.0 + looks + u


async def main() -> Stats:
    transport: rh.Transport = MockTransport(lambda request: json_response({"taskId": "1"}))
    async with rh.Session(
        "key",
        base_url="https://www.runninghub.cn",
        limits=rh.Limits(10, None, 5.0),
        polling=FixedPolling(),
        retry=rh.RetryPolicy(attempts=None),
        transport=transport,
    ) as session:
        await use(session)
    async with Emulator(faults=[Fault(on="submit", kind="refuse", code="421")]) as emulator:
        return emulator.stats


assert_type(run(main), Stats)
