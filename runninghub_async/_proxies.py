"""Which proxy a request goes through, as the environment says.

The variables are those that curl and urllib read: `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and
`NO_PROXY`, in either case; on macOS and Windows the system's settings where no variable is set.
They are read once, when a transport first needs them. aiohttp's own `trust_env` is not used: it
also reads `~/.netrc`, in the loop's default executor, and its credentials would collide with the
API key.
"""

from __future__ import annotations

import base64
import urllib.request
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import attrs
import yarl

from ._bounded import Bounded
from ._exceptions import ConnectError
from ._threads import run_in_thread

__all__ = ["Proxies", "Proxy"]

#: Hosts whose proxy is remembered. Results come from few hosts.
_HOSTS: Final = 256


@attrs.frozen
class Proxy:
    """A proxy's address without credentials, and the header that carries them."""

    url: yarl.URL
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)


class Proxies:
    """The proxies of the environment, or none where `trusted` is False."""

    def __init__(self, *, trusted: bool) -> None:
        self._named: Mapping[str, str] = {}
        self._read = not trusted
        self._known: Bounded[tuple[str, str], Proxy | None] = Bounded(_HOSTS)

    @property
    def hosts(self) -> frozenset[str]:
        """The host names of all proxies; they may resolve to private addresses."""
        return frozenset(urlsplit(url).hostname or "" for url in self._named.values())

    @property
    def none(self) -> bool:
        """Whether it is known by now that there is no proxy at all."""
        return self._read and not self._named

    async def find(self, scheme: str, host: str) -> Proxy | None:
        """The proxy for a URL with this scheme (`http` or `https`) and `host`, written
        `name:port`; None to connect directly.

        Raises `ConnectError` for a proxy that aiohttp cannot use, such as a SOCKS proxy.
        """
        if not self._read:
            self._named = await run_in_thread(_from_environment, kind="names")
            self._read = True
        if not self._named:
            return None
        key = scheme, host
        if key not in self._known:
            address = self._named.get(scheme) or self._named.get("all")
            if address and await run_in_thread(urllib.request.proxy_bypass, host, kind="names"):
                address = None
            self._known[key] = _parsed(address) if address else None
        return self._known[key]


def _from_environment() -> dict[str, str]:
    # Some systems set these variables to an empty text to say that there is no proxy.
    return {name: url for name, url in urllib.request.getproxies().items() if url.strip()}


def _parsed(address: str) -> Proxy:
    address = address.strip()
    try:
        url = yarl.URL(address if "://" in address else f"http://{address}")
    except ValueError:
        raise ConnectError("the proxy of the environment is not a URL") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ConnectError(
            f"the environment names a {url.scheme} proxy, and only http and https proxies are"
            " supported: change HTTPS_PROXY or ALL_PROXY, or list the host in NO_PROXY"
        )
    if url.user is None:
        return Proxy(url)
    credentials = f"{url.user}:{url.password or ''}".encode()
    header = f"Basic {base64.b64encode(credentials).decode()}"
    return Proxy(url.with_user(None), {"Proxy-Authorization": header})
