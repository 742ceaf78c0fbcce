"""The asset library, which some video models draw on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._answers import data_of
from .._caller import Caller
from .._protocol import build_call

__all__ = ["AssetGroups", "Assets"]


class _Library:
    """Five calls alike. Their fields are not documented anywhere, so `fields` goes out as it is,
    and what is given back is the `data` of the answer."""

    _path = ""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def create(self, fields: Mapping[str, Any]) -> Any:
        """Make one. Not repeated once it may have been done."""
        return await self._call("create", fields, safe=False)

    async def list(self, fields: Mapping[str, Any] | None = None) -> Any:
        """Those there are."""
        return await self._call("list", fields or {})

    async def query(self, fields: Mapping[str, Any]) -> Any:
        """One of them."""
        return await self._call("query", fields)

    async def update(self, fields: Mapping[str, Any]) -> Any:
        """Change one."""
        return await self._call("update", fields)

    async def delete(self, fields: Mapping[str, Any]) -> Any:
        """Remove one. Not repeated once it may have been done."""
        return await self._call("delete", fields, safe=False)

    async def _call(self, verb: str, fields: Mapping[str, Any], *, safe: bool = True) -> Any:
        request = build_call(self._caller.site, f"{self._path}/{verb}", fields)
        return await self._caller.call(request, data_of, safe=safe)


class AssetGroups(_Library):
    """`session.assets.groups` (`/openapi/v2/assets/groups/…`)."""

    _path = "assets/groups"


class Assets(_Library):
    """`session.assets` (`/openapi/v2/assets/…`)."""

    _path = "assets"

    def __init__(self, caller: Caller) -> None:
        super().__init__(caller)
        self.groups = AssetGroups(caller)
