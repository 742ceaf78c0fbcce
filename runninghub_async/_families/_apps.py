"""AI apps: the public list, and what one of them takes."""

from __future__ import annotations

from typing import Any, Literal

from .._apps import App
from .._caller import Caller
from .._protocol import build_call, parse_apps
from .._protocol_v1 import build_app, parse_app
from .._records import AppSummary, Page
from ._pages import Pages
from ._workflows import check_number

__all__ = ["Apps"]


class Apps:
    """`session.apps`. To run one, submit an `AppRequest`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def get(self, app_id: str) -> App:
        """An app with its inputs, their types and choices ("Get API call examples for AI
        application"). Given to `AppRequest` in place of the id, it lets `check` look at values.

        Raises `PayloadError`, `NotFoundError` (code 1 or 901) or another `APIError`,
        `ProtocolError` or `TransportError`.
        """
        request = build_app(self._caller.site, check_number("app_id", app_id))
        return await self._caller.call(request, lambda answer: parse_app(answer, app_id))

    async def page(
        self,
        number: int = 1,
        *,
        size: int = 50,
        sort: Literal["RECOMMEND", "HOTTEST", "NEWEST"] = "RECOMMEND",
        days: int | None = None,
    ) -> Page[AppSummary]:
        """One page of the public apps, at most 50 to a page; `days` limits their age."""
        body: dict[str, Any] = {"current": number, "size": size, "sort": sort}
        if days is not None:
            body["days"] = days
        request = build_call(self._caller.site, "aiapp/list", body)
        return await self._caller.call(request, parse_apps)

    def list(
        self,
        *,
        sort: Literal["RECOMMEND", "HOTTEST", "NEWEST"] = "RECOMMEND",
        days: int | None = None,
    ) -> Pages[AppSummary]:
        """All public apps, as an async iterator."""
        return Pages(
            lambda number: self.page(number, sort=sort, days=days),
            key=lambda app: app.id or (app.title, repr(app.facts)),
        )
