"""The native proxy: the service in place of a ComfyUI server."""

from __future__ import annotations

from .._answers import json_object
from .._caller import Caller
from .._exceptions import APIError, ProtocolError, TransportError
from .._models import Request, Response
from .._protocol import QUERY_TIMEOUT

__all__ = ["ComfyUI"]


class ComfyUI:
    """`session.comfyui` ("Native ComfyUI API Integration Guide")."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def url(self, *, plus: bool = False) -> str:
        """What a ComfyUI client takes in place of `http://127.0.0.1:8188`; `plus` for 48 GB.

        It **contains the API key**: do not log it. One run at a time, one picture a run; the
        models must be among the account's favourites.
        """
        site = self._caller.site
        return f"{site.base_url}/proxy{'-plus' if plus else ''}/{site.api_key}"

    async def reachable(self, *, plus: bool = False) -> bool:
        """Whether a ComfyUI server answers there.

        It asks `/prompt` for the length of the queue. That is no check of the key: the proxy
        was seen to answer to wrong ones, too. It asks once. Raises `SessionError` only.
        """
        request = Request("GET", f"{self.url(plus=plus)}/prompt", read_timeout=QUERY_TIMEOUT)
        try:
            return await self._caller.once(request, _is_comfyui)
        except (APIError, ProtocolError, TransportError):
            return False


def _is_comfyui(response: Response) -> bool:
    return response.status == 200 and isinstance(json_object(response).get("exec_info"), dict)
