"""Quick create: ready-made apps of the platform with style models."""

from __future__ import annotations

from .._caller import Caller
from .._protocol_v1 import build_styles, parse_styles
from .._records import Style
from ._workflows import check_number

__all__ = ["QuickCreate"]


class QuickCreate:
    """`session.quick_create`. To run one, submit a `QuickCreateRequest`."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def styles(self, app_id: str, *, kind: int = 2) -> list[Style]:
        """The style models of an app ("Obtain quick create parameter data"); `kind` is the page's
        `type`. Raises `PayloadError`, `APIError`, `ProtocolError` or `TransportError`."""
        request = build_styles(self._caller.site, check_number("app_id", app_id), kind)
        return await self._caller.call(request, parse_styles)
