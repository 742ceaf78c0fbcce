"""Where a result may be fetched from: from the service's own host, and from public ones. No I/O.

A result's address comes from outside, and so does every redirect. What they may not do is make
this process ask something that only it can reach: itself, its network, its cloud's metadata.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

__all__ = ["host_of", "is_public", "why_not"]

#: Names that lead home wherever they are asked for.
_PRIVATE_NAMES: Final = frozenset({"localhost", "ip6-localhost", "ip6-loopback", "metadata"})
_PRIVATE_ENDINGS: Final = (".localhost", ".localdomain", ".local", ".internal", ".home.arpa")

_NAME: Final = re.compile(r"[a-z0-9_.-]+")

#: With such a last label a host is meant as an IPv4 address, as resolvers read them.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

#: Public by number, but answered by the machine's own cloud (Azure's wire server).
_METADATA: Final = ipaddress.IPv4Address("168.63.129.16")

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")


def host_of(url: str) -> str:
    """The host of `url` in lower case, without brackets; empty if it has none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def why_not(url: str, home: str) -> str:
    """Why `url` must not be fetched; empty if it may be.

    `home` is the service's own host, which may be fetched from whatever it is. Any other name is
    allowed here unless it is known to be private, and has to be judged again by `is_public` when
    it has been resolved.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return "the URL cannot be read"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "the URL is not http(s)"
    if _CONTROL.search(url) or "@" in parts.netloc:
        return "the URL holds what only a forged one does"
    host = parts.hostname.rstrip(".")
    if host == home.lower().rstrip("."):
        return ""
    return "" if _allowed(parts, host) else f"the host {host[:100]!r} is not a public one"


def _allowed(parts: SplitResult, host: str) -> bool:
    if "[" in parts.netloc or ":" in host:
        return is_public(host)
    if not _NAME.fullmatch(host):
        return False
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        return is_public(host)
    return host not in _PRIVATE_NAMES and not host.endswith(_PRIVATE_ENDINGS)


def is_public(address: str) -> bool:
    """Whether `address`, an IP address in its usual spelling, is one of the public internet.
    Anything else is not: neither a name nor an odd spelling (`0x7f.1`, `2130706433`)."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return _public_v4(ip)
    if ip.ipv4_mapped is not None:
        return _public_v4(ip.ipv4_mapped)
    if ip in _NAT64:
        return _public_v4(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    inner = [ip.sixtofour] if ip.sixtofour is not None else [*(ip.teredo or ())]
    return (
        ip in _UNICAST
        and ip.is_global
        and ip.scope_id is None
        and all(_public_v4(each) for each in inner)
    )


def _public_v4(ip: ipaddress.IPv4Address) -> bool:
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip != _METADATA
