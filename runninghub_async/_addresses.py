"""Where a result may be fetched from: from the service's own host, and from public ones. No I/O.

A result's address comes from outside, and so does every redirect. What they may not do is make this
process ask something that only it can reach: itself, its network, its cloud's metadata. They also
cannot be sent unchanged: object stores write file names into them with characters that no URL can
hold.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["ascii_host", "encoded", "host_of", "is_public", "path_of", "suffix_of", "why_not"]

#: Names that lead home wherever they are asked for.
_PRIVATE_NAMES: Final = frozenset({"localhost", "ip6-localhost", "ip6-loopback", "metadata"})
_PRIVATE_ENDINGS: Final = (".localhost", ".localdomain", ".local", ".internal", ".home.arpa")

_NAME: Final = re.compile(r"[a-z0-9_.-]+")

#: With such a last label a host is meant as an IPv4 address, as resolvers read them.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

#: Public by number, but answered by the machine's own cloud (Azure's wire server).
_METADATA: Final = ipaddress.IPv4Address("168.63.129.16")

#: Scheme and authority, and the rest. A backslash stays in the authority, where it is refused.
_PARTS: Final = re.compile(r"((?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*)?(.*)", re.DOTALL)

#: What surrounds a URL that was copied from a text.
_AROUND: Final = "".join(map(chr, range(0x21)))

#: Characters that a path cannot hold; `%` only where it begins no escape. Control characters stay,
#: so that they are refused later: no file name has them, but a forged URL may.
_NOT_IN_PATH: Final = re.compile(r"""[ "#<>?\\^`{|}\[\]]|%(?![0-9A-Fa-f]{2})|[^\x00-\x7f]+""")

#: The same for a query. It may be signed, so it is changed only where it could not be sent at all.
_NOT_IN_QUERY: Final = re.compile(r"""[ "#<>\\^`{|}]|[^\x00-\x7f]+""")

#: The extension at the end of a file's name.
_EXTENSION: Final = re.compile(r"\.([0-9]?[A-Za-z][A-Za-z0-9]{0,10})$")

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_UNICAST: Final = ipaddress.IPv6Network("2000::/3")


def host_of(url: str) -> str:
    """The host of `url` in lower case, without brackets; empty if it has none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def ascii_host(host: str) -> str:
    """`host` as it goes over the wire: an international name in its ASCII form. What cannot be
    encoded stays as it is."""
    if host.isascii():
        return host.lower()
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return host


def encoded(url: str) -> str:
    """`url`, or a reference in a `Location` header, as it can be sent: what no URL may hold is
    percent-encoded, an international host name is put into its ASCII form, a fragment is removed.

    Escapes and the query stay byte for byte; a query may be signed. A `#` counts as part of the
    file's name unless a whole file name stands before it and none after it. Control characters
    stay, and `why_not` refuses them.
    """
    origin, rest = _split(url.strip(_AROUND))
    path, mark, query = _without_fragment(rest).partition("?")
    path = _NOT_IN_PATH.sub(_escape, path)
    return _with_ascii_host(origin) + path + mark + _NOT_IN_QUERY.sub(_escape, query)


def path_of(url: str) -> str:
    """The path of `url`, decoded. It stays the same when the URL is signed again."""
    return unquote(_split(encoded(url))[1].partition("?")[0])


def suffix_of(url: str) -> str:
    """The extension of the file that `url` names, in lower case without its dot; else empty."""
    found = _EXTENSION.search(path_of(url))
    return found[1].lower() if found else ""


def _split(url: str) -> tuple[str, str]:
    match = _PARTS.match(url)
    assert match is not None
    return match[1] or "", match[2]


def _without_fragment(rest: str) -> str:
    before, mark, after = rest.partition("#")
    if not mark:
        return rest
    if "?" in before:
        # A parameter may hold a file name, too; what signs the URL often follows it.
        return rest if "&" in after else before
    whole = _EXTENSION.search(before) is not None
    part_of_name = "?" in after or "/" in after or _EXTENSION.search(after) is not None
    return rest if part_of_name or not whole else before


def _with_ascii_host(origin: str) -> str:
    if origin.isascii():
        return origin
    start, _, authority = origin.partition("//")
    host, colon, port = authority.partition(":")
    return f"{start}//{ascii_host(host)}{colon}{port}"


def _escape(match: re.Match[str]) -> str:
    try:
        # Headers are read as UTF-8; invalid bytes become surrogates.
        data = match[0].encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        data = match[0].encode("utf-8", "replace")
    return "".join(f"%{byte:02X}" for byte in data)


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
        return "the URL contains control characters or a user name"
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
