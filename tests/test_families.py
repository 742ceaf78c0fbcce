"""Every family of calls against the emulator, which was written from the documents alone."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import runninghub_async as rh
from runninghub_async.emulator import Emulator, Fault
from runninghub_async.testing import MockTransport, json_response, run

WORKFLOW = "1904136902449209346"
APP = "1937084629516193794"
QUICK = "1957344152277151746"
QUICKLY = rh.ExponentialPolling(initial=0.02, factor=1.0, maximum=0.02, jitter=0.0)
FREELY = rh.Limits(50, None, None)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


def emulated(use: Callable[[rh.Session, Emulator], Awaitable[Any]], **options: Any) -> Any:
    """What `use(session, emulator)` gives; tasks take a moment."""
    retry = rh.RetryPolicy(wait_initial=0.01, wait_max=0.05)

    async def main() -> Any:
        async with (
            Emulator(**{"duration": 0.05, **options}) as emulator,
            rh.Session(
                "a-key", base_url=emulator.url, polling=QUICKLY, retry=retry, limits=FREELY
            ) as session,
        ):
            return await use(session, emulator)

    return asyncio.run(main())


RUNS = {
    "a saved workflow": rh.WorkflowRequest(WORKFLOW),
    "node values": rh.WorkflowRequest(WORKFLOW, {"6": {"text": "a boat"}, 3: {"seed": 7}}),
    "every option": rh.WorkflowRequest(
        WORKFLOW, add_metadata=False, instance_type="plus", use_personal_queue=False,
        retain_seconds=10, webhook_url="http://127.0.0.1:9/none",
    ),
    "a workflow by v2": rh.WorkflowRequest(WORKFLOW, {"6": {"text": "a boat"}}, api="v2"),
    "an app": rh.AppRequest(APP, {"6": {"text": "a boat"}}),
    "an app by v2": rh.AppRequest(APP, {"6": {"text": "a boat"}}, retain_seconds=20, api="v2"),
    "a quick create": rh.QuickCreateRequest(QUICK, "002"),
    "a model": rh.models["seedream-v4/text-to-image"](prompt="a boat at sea"),
}  # fmt: skip


@pytest.mark.parametrize("request_", RUNS.values(), ids=RUNS)
def test_every_run_is_a_request_like_any_other(request_: Any, tmp_path: Path) -> None:
    """`run`, `submit_many`, `stream` and `download` take it; each run is billed once."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        task = await session.run(request_)
        (output, *_) = task.outputs
        assert (await session.download(output, tmp_path / "x.png")).image_type == "png"
        tasks = await session.submit_many([request_, request_])
        assert {task.id async for task in session.as_completed([t.id for t in tasks])} == {
            t.id for t in tasks
        }
        outcomes = [outcome async for outcome in session.stream([request_] * 3)]
        assert [outcome.ok for outcome in outcomes] == [True] * 3
        assert emulator.stats.accepted == 6

    emulated(use)


def test_a_whole_graph_runs_in_place_of_the_saved_one() -> None:
    """With values for its nodes put into it; the saved workflow is only named."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        workflow = await session.workflows.get(WORKFLOW)
        assert workflow.nodes_of("CLIPTextEncode") == ("6", "7")
        graph = {node: facts for node, facts in workflow.graph.items() if node != "10"}
        request = rh.WorkflowRequest(workflow, {6: {"text": "a boat"}}, graph=graph)
        assert (await session.run(request)).outputs[0].node_id == "9"
        assert workflow.graph["6"]["inputs"]["text"] != "a boat"
        body = next(r.body_start for r in emulator.requests if r.target.endswith("/create"))
        assert b"nodeInfoList" not in body
        assert b"a boat" in body

    emulated(use)


def test_values_are_held_against_the_workflow_before_anything_is_sent() -> None:
    """Nodes and inputs that are not there, links, null; each with its place."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        workflow = await session.workflows.get(WORKFLOW)
        values: dict[str, dict[str, Any]] = {
            "6": {"txt": "a", "text": None},
            "99": {"x": 1},
            "3": {"model": "y"},
        }
        with pytest.raises(rh.PayloadError) as caught:
            await session.submit(rh.WorkflowRequest(workflow, values))
        assert caught.value.problems == (
            "nodes: CLIPTextEncode has no input txt, but text, clip @ $.nodes.6.txt",
            "nodes: the service refuses null; leave it out @ $.nodes.6.text",
            "nodes: the workflow has no node 99 @ $.nodes.99",
            "nodes: KSampler takes model from node 4 @ $.nodes.3.model",
        )
        assert emulator.stats.submits == 0

    emulated(use)


def test_a_refused_node_is_named() -> None:
    """803, as the service words it, becomes an error that knows node and input."""

    async def use(session: rh.Session, _: Emulator) -> None:
        with pytest.raises(rh.GraphError) as caught:
            await session.run(rh.WorkflowRequest(WORKFLOW, {"115": {"aspect_ratio": "1:1"}}))
        (error,) = caught.value.node_errors
        assert (error.node_id, error.field) == ("115", "aspect_ratio")
        assert str(error) == "node 115, aspect_ratio: node not found in workflow"
        assert caught.value.code == "803"

    emulated(use)


def test_a_doomed_run_keeps_its_id_and_fails_with_its_node(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A graph that is at fault gets an id all the same: it is accepted, warned of, followed to
    its end, and the error names the node although only the first answer did."""

    async def use(session: rh.Session, _: Emulator) -> None:
        doomed = rh.WorkflowRequest(WORKFLOW, {"3": {"steps": "many"}})
        task = await session.submit(doomed)
        (error,) = task.node_errors
        assert (error.node_id, error.class_type, error.field) == ("3", "KSampler", "steps")
        with pytest.raises(rh.TaskFailed, match=r"node 3 \(KSampler\), steps") as caught:
            await session.run(doomed)
        assert caught.value.node_errors == (error,)
        # Waiting for the task itself does not forget them either; its bare id knows nothing.
        assert (await session.wait(task)).node_errors == (error,)
        assert (await session.wait(task.id)).node_errors == ()

    emulated(use)
    assert "accepted with faults: node 3 (KSampler), steps" in caplog.text


@pytest.mark.parametrize("kind", ["fail", "reason"])
def test_a_node_that_raised_is_in_the_error(kind: Any) -> None:
    """`failedReason`, as query and outputs tell it: an object, or JSON text of one."""

    async def use(session: rh.Session, _: Emulator) -> None:
        with pytest.raises(rh.TaskFailed) as caught:
            await session.run(rh.WorkflowRequest(WORKFLOW))
        assert caught.value.task is not None
        error = caught.value.task.error
        assert error is not None
        assert error.where.startswith("node ")
        assert error.where in str(caught.value)
        older = await session.older.outputs(caught.value.task_id)
        assert older.status is rh.TaskStatus.FAILED
        assert older.error is not None
        assert older.error.where == error.where

    emulated(use, faults=[Fault(on="task", kind=kind, code="805")])


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (rh.WorkflowRequest("1"), rh.NotFoundError),
        (rh.AppRequest("1"), rh.NotFoundError),
        (rh.AppRequest("1", api="v2"), rh.NotFoundError),
        (rh.WorkflowRequest("1904136902449209347"), rh.InvalidRequestError),
        (rh.WorkflowRequest(WORKFLOW, {"99": {"text": "a boat"}}), rh.GraphError),
    ],
)
def test_what_the_service_refuses_is_not_billed(request_: Any, error: type[rh.APIError]) -> None:
    """No such workflow, no such app, one that was never run, no such node."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        with pytest.raises(error):
            await session.submit(request_)
        assert emulator.stats.billed == 0

    emulated(use)


@pytest.mark.parametrize("machine", ["standard", "rtx4090", "ultra"])
def test_a_machine_may_have_any_name(machine: str) -> None:
    """They come and go, and nothing shows that the service refuses one."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        assert (await session.run(rh.WorkflowRequest(WORKFLOW, instance_type=machine))).outputs
        assert emulator.stats.billed == 1

    emulated(use)


def test_an_apps_inputs_check_its_values() -> None:
    """Types, choices and ranges, before anything is sent; files go by their path."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        app = await session.apps.get(APP)
        kinds = {each.type for each in app.inputs}
        assert kinds == {"STRING", "INT", "FLOAT", "BOOLEAN", "LIST", "SWITCH",
                         "IMAGE", "AUDIO", "VIDEO"}  # fmt: skip
        wrong: dict[str, dict[str, Any]] = {}
        for each in app.inputs:
            wrong.setdefault(each.node_id, {})[each.field] = [] if each.type != "STRING" else 5
        with pytest.raises(rh.PayloadError) as caught:
            await session.submit(rh.AppRequest(app, {**wrong, "77": {"x": 1}}))
        assert len(caught.value.problems) == len(app.inputs) + 1
        assert emulator.stats.submits == 0
        for each in app.inputs:
            good = each.choices or (each.default,)
            assert all(app.check({each.node_id: {each.field: value}}) == () for value in good)

    emulated(use)


def test_a_file_for_an_apps_node_is_uploaded_first(tmp_path: Path) -> None:
    """Its name goes into the node."""
    (picture := tmp_path / "boat.png").write_bytes(PNG)

    async def use(session: rh.Session, emulator: Emulator) -> None:
        app = await session.apps.get(APP)
        spot = next(each for each in app.inputs if each.type == "IMAGE")
        await session.run(rh.AppRequest(app, {spot.node_id: {spot.field: picture}}))
        body = next(r.body_start for r in emulator.requests if r.target.endswith("/ai-app/run"))
        assert b'"openapi/' in body
        assert emulator.stats.uploads == 1

    emulated(use)


def test_lists_come_page_by_page_and_as_one() -> None:
    """A page says whether there is another; the iterator asks for each once."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        page = await session.apps.page(2, size=50)
        assert (page.number, page.size, page.has_next) == (2, 50, True)
        before = len(emulator.requests)
        ids = [app.id async for app in session.apps.list(sort="NEWEST")]
        assert len(ids) == len(set(ids)) == page.total
        assert len(emulator.requests) - before == -(-page.total // 50)
        names = [file.name async for file in session.resources.list("LORA", name="lora-01")]
        assert names
        assert all("lora-01" in name for name in names)

    emulated(use)


def test_a_page_of_apps_can_be_limited_by_their_age() -> None:
    """`days` is sent as it was given, and only then."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        for days in (7, None):
            await session.apps.page(1, size=10, days=days)
            assert json.loads(emulator.requests[-1].body_start).get("days") == days

    emulated(use)


def listed(answer: Callable[[int], dict[str, Any]]) -> tuple[list[str], str, int]:
    """The names that a list gives whose page `n` is `answer(n)`, its error, and its requests."""

    def handle(request: rh.Request) -> rh.Response:
        number = json.loads(request.body or b"")["current"]
        return json_response({"code": 0, "data": answer(number)})

    async def main() -> tuple[list[str], str, int]:
        transport = MockTransport(handle)
        limits = rh.Limits(query_rate=None)
        names = []
        async with rh.Session("a-key", transport=transport, limits=limits) as session:
            pages = session.resources.list("LORA")
            try:
                async for resource in pages:
                    names.append(resource.name)
            except rh.ProtocolError as error:
                # It stays ended.
                assert [resource async for resource in pages] == []
                return names, str(error), len(transport.requests)
        return names, "", len(transport.requests)

    return run(main)


def records(*names: str, **facts: Any) -> dict[str, Any]:
    return {"records": [{"nodeModelName": name, "hits": next(HITS)} for name in names], **facts}


HITS = itertools.count()


@pytest.mark.parametrize(
    ("answer", "names", "requests"),
    [
        # `hasNext` is always true, but `total` is reached.
        (lambda n: records("a", "b", total=2, hasNext=True), "ab", 1),
        (lambda n: records(f"{n}", total="3", hasNext=True), "123", 3),
        # An empty page, whatever is said about it.
        (lambda n: records(*"ab"[n - 1 : n], total=9, hasNext=True), "ab", 3),
        # A total that is none is not believed.
        (lambda n: records(f"{n}", total=-1, hasNext=n < 3), "123", 3),
        (lambda n: records(f"{n}", total="1e400", hasNext=n < 3), "123", 3),
        (lambda n: records(f"{n}", total=0, hasNext=n < 3), "123", 3),
        # The list was changed while it was read: an item comes twice, but the list ends.
        (lambda n: records("a", "b", hasNext=n < 2), "abab", 2),
    ],
)
def test_a_list_ends_where_the_service_says_so(
    answer: Callable[[int], dict[str, Any]], names: str, requests: int
) -> None:
    """By its `total`, an empty page, or `hasNext`, whichever comes first."""
    assert listed(answer) == (list(names), "", requests)


@pytest.mark.parametrize(
    ("answer", "names", "error"),
    [
        # `current` is ignored: the same page again, though its facts may change.
        (lambda n: records("a", "b", total=200, hasNext=True), "ab", "page 2 repeats page 1"),
        (lambda n: records("a", "b", total=200, current=1, size=2), "ab", "page 2 repeats page 1"),
        # Only items of the page before.
        (lambda n: records(*"abc"[n - 1 :], hasNext=True), "abc", "page 2 repeats page 1"),
        # Round in circles.
        (lambda n: records("abc"[n % 3], hasNext=True), "bca", "page 4 repeats page 1"),
    ],
)
def test_a_list_that_repeats_itself_is_an_error(
    answer: Callable[[int], dict[str, Any]], names: str, error: str
) -> None:
    """It is not cut off in silence: what came is returned, and the error says how much."""
    found, reason, _ = listed(answer)
    assert found == list(names)
    assert error in reason
    assert f"{len(names)} items were returned" in reason


def test_a_list_without_an_end_is_an_error() -> None:
    """New items on every page: 10,000 pages are requested, and no more."""
    found, reason, requests = listed(lambda n: records(f"{n}", hasNext=True))
    assert (len(found), requests) == (9_999, 10_000)
    assert "no end after 10000 pages" in reason


def test_the_account_its_slots_and_keys() -> None:
    """What is shown of a key is masked; the limit is the service's."""

    async def use(session: rh.Session, _: Emulator) -> None:
        status, queue = await session.account.status(), await session.account.queue()
        assert (status.key_type, queue.key_type) == ("SHARED", "SHARED")
        assert status.coins is not None
        task = await session.submit(rh.WorkflowRequest(WORKFLOW))
        assert (await session.account.queue()).total == 1
        assert queue.limit == 7
        assert (await session.wait(task.id)).done
        assert all("*" in key.key for key in await session.account.keys())

    emulated(use, max_concurrency=7, duration=0.5)


def test_the_price_is_told_without_a_bill() -> None:
    """The service's preview, and the catalogue's estimate, of the same request."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        request = rh.SeedreamV5Lite("a poster of a paper boat", max_images=1)
        preview = await session.price(request)
        estimate = request.price()
        assert estimate is not None
        assert (preview.amount, preview.currency) == (estimate.amount, estimate.currency)
        with pytest.raises(rh.PayloadError, match="only models"):
            await session.price(rh.WorkflowRequest(WORKFLOW))
        assert emulator.stats.accepted == 0

    emulated(use)


def test_a_consumer_key_may_not_call_models() -> None:
    """1014, for the submit and for its price; workflows are open to it."""

    async def use(session: rh.Session, _: Emulator) -> None:
        request = rh.SeedreamV5Lite("a poster of a paper boat")
        for call in (session.submit, session.price):
            with pytest.raises(rh.PlanError):
                await call(request)
        assert (await session.run(rh.WorkflowRequest(WORKFLOW))).outputs

    emulated(use, key_type="NORMAL")


def test_a_workflow_is_copied_once() -> None:
    """The copy is a workflow like any other; a call whose answer was lost is not repeated."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        copy = await session.workflows.duplicate(WORKFLOW)
        assert copy != WORKFLOW
        assert (await session.workflows.get(copy)).nodes_of("KSampler") == ("3",)
        assert (await session.run(rh.WorkflowRequest(copy))).outputs
        with pytest.raises(rh.NotFoundError):
            await session.workflows.duplicate("5")
        with pytest.raises(rh.PayloadError):
            await session.workflows.duplicate("a workflow")

    async def lost(session: rh.Session, emulator: Emulator) -> None:
        with pytest.raises(rh.TransportError):
            await session.workflows.duplicate(WORKFLOW)
        assert emulator.stats.calls == 1

    emulated(use)
    emulated(lost, faults=[Fault(on="call", kind="reset")])


def test_a_file_of_the_older_upload_can_be_shown() -> None:
    """By what the upload gave, by its name, by the default of an app's input; without a key."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        upload = await session.older.upload(PNG, name="a b.png")
        app = await session.apps.get(APP)
        default = next(entry.default for entry in app.inputs if entry.type == "IMAGE")
        urls = [session.older.view_url(name) for name in (upload, upload.name, str(default))]
        assert urls[0] == urls[1] == f"{emulator.url}/task/openapi/view/{upload.name}"
        async with aiohttp.ClientSession() as http:
            for url in urls:
                assert "a-key" not in url
                async with http.get(url) as answer:
                    assert (answer.status, (await answer.read())[:8]) == (200, PNG[:8])
        assert session.older.view_url("https://x.example/a.png") == "https://x.example/a.png"
        with pytest.raises(rh.PayloadError):
            session.older.view_url("")

    emulated(use)


def test_the_layers_of_a_picture_say_where_they_belong() -> None:
    """Keys of a result that have no field of their own are in `Output.extra`."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        picture = "https://media.example/a.png"
        layers = rh.models["seedream-v5-pro/layer-decomposition"](imageUrl=picture)
        task = await session.run(layers)
        assert len(task.outputs) > 1
        assert [output.extra["z_index"] for output in task.outputs] == [*range(len(task.outputs))]
        assert all(len(output.extra["bounding_box"]) == 4 for output in task.outputs)
        plain = await session.run(rh.models["seedream-v4/text-to-image"](prompt="a boat at sea"))
        assert plain.outputs[0].extra == {}

    emulated(use)


def test_results_that_are_bare_urls_are_outputs(tmp_path: Path) -> None:
    """With the type that the URL shows; they are downloaded like any other."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        task = await session.run(rh.models["seedream-v4/text-to-image"](prompt="a boat at sea"))
        (output,) = task.outputs
        assert (await session.download(output, tmp_path / "x.png")).image_type == "png"

    emulated(use, faults=[Fault(on="task", kind="bare")])


def test_a_status_error_with_a_code_is_a_failed_task() -> None:
    """One client has reported it; the reason is the code's."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        with pytest.raises(rh.TaskFailed) as caught:
            await session.run(rh.models["seedream-v4/text-to-image"](prompt="a boat at sea"))
        assert caught.value.code == "1501"
        assert isinstance(caught.value.reason, rh.ContentPolicyError)

    emulated(use, faults=[Fault(on="task", kind="error", code="1501")])


def test_an_app_lists_its_choices_in_two_ways() -> None:
    """As a list, and as `COMBO` with options; values are held against either."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        app = await session.apps.get(APP)
        scheduler, sampler = app.input(3, "scheduler"), app.input(3, "sampler_name")
        assert scheduler is not None
        assert sampler is not None
        assert (scheduler.type, scheduler.choices) == ("LIST", ("normal", "karras"))
        assert sampler.choices == ("euler", "dpmpp_2m", "ddim")
        assert rh.AppRequest(app, {"3": {"scheduler": "karras"}}).check() == ()
        assert len(rh.AppRequest(app, {"3": {"scheduler": "none"}}).check()) == 1

    emulated(use)


def test_the_older_calls_answer_for_the_same_tasks() -> None:
    """Status and outputs, of a run under way and at its end; a task nobody knows."""

    async def use(session: rh.Session, _: Emulator) -> None:
        task = await session.submit(rh.WorkflowRequest(WORKFLOW))
        assert not (await session.older.outputs(task.id)).done
        assert not (await session.older.status(task.id)).terminal
        newer, older = await session.wait(task.id), await session.older.outputs(task.id)
        assert (await session.older.status(task.id)) is rh.TaskStatus.SUCCESS
        assert [o.node_id for o in older.outputs] == [o.node_id for o in newer.outputs]
        assert older.usage == newer.usage
        with pytest.raises(rh.NotFoundError):
            await session.older.outputs("5")

    emulated(use, duration=0.4)


def test_a_cancelled_run_is_cancelled_in_every_view() -> None:
    """Query says CANCEL, the older outputs 805; a second cancel is refused."""

    async def use(session: rh.Session, _: Emulator) -> None:
        task = await session.submit(rh.WorkflowRequest(WORKFLOW))
        await session.cancel(task.id)
        assert (await session.query(task.id)).status is rh.TaskStatus.CANCEL
        assert (await session.older.outputs(task.id)).status is rh.TaskStatus.FAILED
        with pytest.raises(rh.APIError, match="cannot cancel"):
            await session.cancel(task.id)

    emulated(use, duration=5.0)


def test_assets_are_kept_changed_and_removed() -> None:
    """Alone and in groups; the fields are the service's business."""

    async def use(session: rh.Session, _: Emulator) -> None:
        for library in (session.assets, session.assets.groups):
            made = await library.create({"name": "a face"})
            (kept,) = (await library.list())["records"]
            assert kept["name"] == "a face"
            await library.update({"id": made["id"], "name": "a mask"})
            assert (await library.query({"id": made["id"]}))["name"] == "a mask"
            await library.delete({"id": made["id"]})
            assert (await library.list())["records"] == []

    emulated(use)


def test_the_styles_of_a_quick_create() -> None:
    """With the files and weights behind them."""

    async def use(session: rh.Session, _: Emulator) -> list[rh.Style]:
        return await session.quick_create.styles(QUICK)

    styles: list[rh.Style] = emulated(use)
    assert styles
    assert all(style.name and style.key for style in styles)
    assert any(style.loras for style in styles)


def test_webhook_events_can_be_looked_up_and_sent_again() -> None:
    """The delivery's fate and its text; a task without a webhook has none."""

    async def use(session: rh.Session, _: Emulator) -> None:
        nowhere = "http://127.0.0.1:9/none"
        task = await session.run(rh.WorkflowRequest(WORKFLOW, webhook_url=nowhere))
        detail = await session.webhook_events.get(task.id)
        assert (detail.task_id, detail.url) == (task.id, nowhere)
        assert detail.task is not None
        assert (detail.task.status, len(detail.task.outputs)) == (rh.TaskStatus.SUCCESS, 1)
        assert detail.status in ("FAILED", "PENDING", "RETRYING", "")
        await session.webhook_events.resend(detail.id, url=f"{session.base_url}/none")
        plain = await session.run(rh.WorkflowRequest(WORKFLOW))
        with pytest.raises(rh.APIError, match="not exist"):
            await session.webhook_events.get(plain.id)

    emulated(use, webhook_retries=0)


def test_the_native_proxy_is_reached_or_not() -> None:
    """Its address has the key in it; a host that is no ComfyUI does not count as one."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        assert session.comfyui.url() == f"{emulator.url}/proxy/a-key"
        assert session.comfyui.url(plus=True).endswith("/proxy-plus/a-key")
        assert await session.comfyui.reachable()
        assert await session.comfyui.reachable(plus=True)
        retry = rh.RetryPolicy(call_attempts=1)
        for url in ("http://127.0.0.1:9", f"{emulator.url}/elsewhere"):
            async with rh.Session("a-key", base_url=url, retry=retry) as other:
                assert not await other.comfyui.reachable()

    emulated(use)


@pytest.mark.parametrize("kind", ["refuse", "rate", "drop", "reset", "status"])
def test_a_call_that_faltered_is_repeated(kind: Any) -> None:
    """Reading twice costs nothing: server trouble, limits and lost answers are lived through."""
    faults = [Fault(on="call", kind=kind, code="1005", seconds=0.01, times=2)]

    async def use(session: rh.Session, emulator: Emulator) -> int:
        await session.account.status()
        return len(emulator.requests)

    assert emulated(use, faults=faults) == 3


@pytest.mark.parametrize("kind", ["reset", "status"])
def test_what_may_have_been_done_is_not_done_again(kind: Any) -> None:
    """Making an asset is not repeated once its answer is lost."""
    faults = [Fault(on="call", kind=kind, times=1)]

    async def use(session: rh.Session, emulator: Emulator) -> int:
        with pytest.raises(rh.RunningHubError):
            await session.assets.create({"name": "a face"})
        return len(emulator.requests)

    assert emulated(use, faults=faults) == 1


def test_a_lost_answer_to_a_run_is_unknown_and_never_sent_again() -> None:
    """The money rules hold for runs as they do for models."""
    faults = [Fault(on="submit", kind="reset", share=0.3)]

    async def use(session: rh.Session, emulator: Emulator) -> None:
        requests: list[Any] = [rh.WorkflowRequest(WORKFLOW), rh.AppRequest(APP, api="v2")] * 20
        outcomes = [outcome async for outcome in session.stream(requests)]
        unknown = sum(isinstance(outcome, rh.Unknown) for outcome in outcomes)
        assert 0 < unknown < 40
        assert emulator.stats.submits == emulator.stats.billed == 40

    emulated(use, faults=faults)


def test_a_full_queue_makes_runs_wait_and_not_fail() -> None:
    """421 and 415 are waited out, whatever the family."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        requests: list[Any] = [rh.WorkflowRequest(WORKFLOW), rh.AppRequest(APP, api="v2")] * 6
        outcomes = [outcome async for outcome in session.stream(requests)]
        assert all(outcome.ok for outcome in outcomes)
        assert emulator.stats.refused > 0

    for key in ("SHARED", "EXCLUSIVE"):
        emulated(use, max_concurrency=2, key_type=key)


def test_an_exclusive_key_may_queue_at_the_service() -> None:
    """With `use_personal_queue` nothing is refused."""

    async def use(session: rh.Session, emulator: Emulator) -> None:
        requests = [rh.WorkflowRequest(WORKFLOW, use_personal_queue=True)] * 8
        assert all([outcome.ok async for outcome in session.stream(requests)])
        assert emulator.stats.refused == 0

    emulated(use, max_concurrency=2, key_type="EXCLUSIVE")
