"""Model files that workflows can load."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from .._caller import Caller
from .._protocol import build_call, parse_resources
from .._records import Page, Resource
from ._pages import Pages

__all__ = ["ResourceType", "Resources"]

ResourceType = Literal["UNET", "CHECKPOINT", "LORA", "GGUF"]


class Resources:
    """`session.resources` (`POST /openapi/v2/resource/list`)."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def page(
        self,
        kind: ResourceType,
        number: int = 1,
        *,
        size: int = 50,
        name: str = "",
        base_models: Sequence[str] = (),
        tags: Sequence[str] = (),
    ) -> Page[Resource]:
        """One page of the files of a kind, at most 50 to a page; `name` is a part of theirs."""
        body: dict[str, Any] = {
            "resourceType": kind,
            "resourceName": name,
            "baseModels": list(base_models),
            "tags": list(tags),
            "current": number,
            "size": size,
        }
        return await self._caller.call(
            build_call(self._caller.site, "resource/list", body), parse_resources
        )

    def list(
        self,
        kind: ResourceType,
        *,
        name: str = "",
        base_models: Sequence[str] = (),
        tags: Sequence[str] = (),
    ) -> Pages[Resource]:
        """All files of a kind, as an async iterator."""
        return Pages(
            lambda number: self.page(kind, number, name=name, base_models=base_models, tags=tags),
            key=lambda resource: resource.name or repr(resource.facts),
        )
