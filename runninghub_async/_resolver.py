"""Resolves names to addresses, in threads of our own."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import aiohttp.abc

from ._addresses import is_public
from ._threads import run_in_thread

__all__ = ["PrivateAddressError", "PublicResolver", "Resolver"]

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class PrivateAddressError(OSError):
    """The name resolves to no public address. An `OSError`, as aiohttp expects of a resolver."""


class Resolver(aiohttp.abc.AbstractResolver):
    """The system's resolver. aiohttp's uses the loop's default executor, which the application
    may have filled with its own work."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """See `aiohttp.abc.AbstractResolver.resolve`."""
        return await run_in_thread(_look_up, host, port, family, kind="names", abandon=True)

    async def close(self) -> None:
        """Nothing to close."""


class PublicResolver(Resolver):
    """The same, without addresses that are neither public nor in `networks`. `exempt()` returns the
    names of proxies, which may have private addresses."""

    def __init__(self, networks: tuple[Network, ...], exempt: Callable[[], frozenset[str]]) -> None:
        self._networks = networks
        self._exempt = exempt

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """Raises `PrivateAddressError` where no address is left."""
        found = await super().resolve(host, port, family)
        if host in self._exempt():
            return found
        public = [each for each in found if self._admits(each["host"])]
        if not public:
            raise PrivateAddressError(
                f"the host {host[:100]!r} resolves to no public address, but to {found[0]['host']}"
            )
        return public

    def _admits(self, address: str) -> bool:
        if is_public(address):
            return True
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._networks)


def _look_up(host: str, port: int, family: int) -> list[aiohttp.abc.ResolveResult]:
    found = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    results: list[aiohttp.abc.ResolveResult] = []
    for its_family, _, proto, _, address in found:
        name, its_port = str(address[0]), int(address[1])
        if its_family == socket.AF_INET6 and len(address) == 4 and address[3]:
            # A link-local address counts only together with its interface.
            name = f"{name.partition('%')[0]}%{address[3]}"
        results.append(
            aiohttp.abc.ResolveResult(
                hostname=host,
                host=name,
                port=its_port,
                family=its_family,
                proto=proto,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
        )
    if not results:
        raise OSError(None, "no address")
    return results
