"""Requests on their way to the wire: checked, with their files uploaded, as HTTP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ._catalogue import Catalogue, ParamSpec
from ._exceptions import PayloadError, unforeseen
from ._journal import is_body
from ._models import Request
from ._protocol import FileInBody, Site, build_call, build_submit, submit_as_written
from ._runs import Workflow
from ._scheduler import Entry
from ._seedream import SeedreamRequest
from ._text import faults_of
from ._uploads import Uploader

__all__ = ["Preparer"]


class Preparer:
    """Makes the submits of one session. `announce(entry, params)` gives a job's params with the
    address of its webhook."""

    def __init__(
        self,
        site: Site,
        uploader: Uploader,
        announce: Callable[[Entry, dict[str, Any]], dict[str, Any]],
    ) -> None:
        self._site = site
        self._uploader = uploader
        self._announce = announce

    def submit(self, entry: Entry) -> Request:
        """The submit for `entry`. Raises `PayloadError`, and `FileInBody` for local files."""
        row = entry.row
        path, params = _checked(entry.job.request, None if row is None else row.params)
        sent = self._announce(entry, params)
        if row is not None and sent is params and is_body(row.content):
            # What is sent is what is written down, and is put into words only once.
            return submit_as_written(self._site, path, row.content.params)
        return build_submit(self._site, path, sent)

    async def submit_with_files(self, entry: Entry) -> Request:
        """The same, with its files uploaded first."""
        path, params = _checked(entry.job.request)
        params = await self._fill(entry.job.request, path, params)
        return build_submit(self._site, path, self._announce(entry, params))

    async def look_over(self, request: Any) -> None:
        """Raise `PayloadError` for whatever is wrong with a request, its files included."""
        path, params = _checked(request)
        try:
            build_submit(self._site, path, params)
        except FileInBody:
            problems = await self._uploader.check(params, _media_of(request))
            if problems:
                raise PayloadError(problems) from None

    async def price_preview(self, request: Any) -> Request:
        """The question after the price of a request for a model, its files uploaded first."""
        path, params = _checked(request)
        if path.startswith(_RUNS):
            raise PayloadError(["request: only models have a price beforehand @ $"])
        try:
            return build_call(self._site, f"price-preview/{path}", params)
        except FileInBody:
            params = await self._fill(request, path, params)
        return build_call(self._site, f"price-preview/{path}", params)

    async def _fill(self, request: Any, path: str, params: dict[str, Any]) -> dict[str, Any]:
        urls = _places_of_urls(request, params) if path.startswith(_RUNS) else None
        return await self._uploader.fill(
            params, _media_of(request), by_name=lambda at: urls is not None and at not in urls
        )


#: How the paths of runs begin; those of models do not.
_RUNS = ("/", "run/")


def _checked(request: Any, known: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """The path and the params of a request without a fault; `known` are its params, if they have
    been asked for before."""
    if isinstance(request, SeedreamRequest):
        problems, params = request.checked_params(known)
    else:
        try:
            problems = request.check()
            params = {} if problems else request.to_params()
            # Also for requests of the user's own making.
            problems = problems or faults_of(params)
        except AttributeError:
            raise PayloadError(
                [f"request: expected one such as SeedreamV5Lite, got {request!r:.60} @ $"]
            ) from None
        except PayloadError:
            raise
        except Exception as error:
            raise unforeseen(error) from error
    if problems:
        raise PayloadError(problems)
    return request.path, params


def _places_of_urls(request: Any, params: dict[str, Any]) -> set[str]:
    """Where in the body of a run an uploaded file's URL belongs: models take nothing else, while
    nodes take its name, but for `LoadImageFromUrl` ("About nodeInfoList")."""
    workflow = getattr(request, "workflow", None)
    graph = workflow.graph if isinstance(workflow, Workflow) else {}
    places = set()
    for number, item in enumerate(params.get("nodeInfoList", ())):
        node = graph.get(item["nodeId"])
        kind = node.get("class_type") if isinstance(node, dict) else None
        if kind == "LoadImageFromUrl" or (kind is None and item["fieldName"] == "url"):
            places.add(f"$.nodeInfoList[{number}].fieldValue")
    return places


def _media_of(request: Any) -> Callable[[str], ParamSpec | None]:
    """What the catalogue knows of a request's fields; nothing for requests that are not in it."""
    try:
        return Catalogue.load().find(request.path).param
    except PayloadError:
        return lambda _: None
