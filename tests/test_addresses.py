"""Where results may be fetched from: the service's own host, and public ones."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.abc
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from support import png

import runninghub_async as rh
from runninghub_async._addresses import is_public, why_not
from runninghub_async.testing import MockTransport, run

HOME = "service.example"

REFUSED = [
    # Not http, or not readable.
    "", "file:///etc/passwd", "ftp://x.example/y", "javascript:1", "https://", "http://[::1",
    "http://x.example:port/", "data:image/png;base64,AA", "//x.example/y", "http://[x]/",
    # Forged.
    "http://user@x.example/", "http://service.example@127.0.0.1/", "http://x.example\\@127.0.0.1/",
    "http://127.0.0.1\\@x.example/", "http://x.example/\r\nHost: y", "http://\tx.example/",
    "http://x example/", "http://%31%32%37.0.0.1/", "http://x.example%2f@127.0.0.1/",
    # This machine and its networks.
    "http://127.0.0.1/", "https://127.8.9.1/", "http://0.0.0.0/", "http://10.0.0.1/",
    "http://172.16.0.1/", "http://192.168.1.1:8080/", "http://100.64.0.1/", "http://169.254.1.1/",
    "http://198.18.0.1/", "http://192.0.2.1/", "http://224.0.0.1/", "http://240.0.0.1/",
    "http://255.255.255.255/", "http://127.0.0.1./",
    "http://[::1]/", "http://[::]/", "http://[fe80::1]/", "http://[fe80::1%25eth0]/",
    "http://[fc00::1]/", "http://[ff02::1]/", "http://[2001:db8::1]/", "http://[4000::1]/",
    # A cloud's metadata.
    "http://169.254.169.254/latest/meta-data/", "http://[fd00:ec2::254]/",
    "http://100.100.100.200/", "http://168.63.129.16/", "http://metadata/",
    "http://metadata.google.internal/",
    # IPv4 inside IPv6.
    "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/", "http://[::127.0.0.1]/",
    "http://[64:ff9b::127.0.0.1]/", "http://[64:ff9b::a9fe:a9fe]/", "http://[64:ff9b:1::808:808]/",
    "http://[2002:7f00:1::]/", "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:808:808:0:0:80ff:fffe]/",
    # Spellings of 127.0.0.1 that some resolvers take.
    "http://2130706433/", "http://0x7f.1/", "http://017700000001/", "http://127.1/",
    "http://0x7f000001/", "http://0177.0.0.1/", "http://127.0.0.01/", "http://0x7f.0x0.0x0.0x1/",
    "http://1.2.3.4.5/", "http://256.1.1.1/", "http://0x/", "http://１２７.0.0.1/",
    "http://127。0。0。1/", "http://①.example/",
    # Names that lead home.
    "http://localhost/", "http://LOCALHOST:99/", "http://localhost./", "http://x.localhost/",
    "http://printer.local/", "http://db.internal/", "http://localhost.localdomain/",
    "http://ip6-loopback/", "http://nas.home.arpa/",
]  # fmt: skip

ALLOWED = [
    "https://x.example/y.png?sign=a%2Fb", "http://x.example:8080/", "https://8.8.8.8/",
    "http://service.example/x", "http://SERVICE.example:1/", "http://service.example./",
    "http://[2606:4700::1]/", "http://[64:ff9b::8.8.8.8]/", "http://[::ffff:8.8.8.8]/",
    "https://x_y.example/输出.png", "https://10.example/", "https://localhost.example/",
    "https://0x.example/", "https://x.example/@y", "https://xn--bcher-kva.example/",
]  # fmt: skip


@pytest.mark.parametrize("url", REFUSED)
def test_refused(url: str) -> None:
    """With a reason."""
    assert why_not(url, HOME)


@pytest.mark.parametrize("url", ALLOWED)
def test_allowed(url: str) -> None:
    """A name only until it has been resolved."""
    assert why_not(url, HOME) == ""


@pytest.mark.parametrize("home", ["127.0.0.1", "::1", "localhost", "LOCALHOST", "service.local"])
def test_the_services_own_host_is_allowed_whatever_it_is(home: str) -> None:
    """And no other like it."""
    shown = f"[{home}]" if ":" in home else home
    assert why_not(f"http://{shown}:8080/x", home) == ""
    assert why_not("http://127.0.0.2/x", home)
    assert why_not(f"http://user@{shown}/x", home)


@given(st.ip_addresses())
def test_what_is_public_is_global_and_no_way_into_ipv4(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """A second opinion, from the standard library."""
    if is_public(str(ip)):
        assert not ip.is_loopback
        assert not ip.is_link_local
        assert not ip.is_multicast
        assert not ip.is_private or getattr(ip, "ipv4_mapped", None)


@given(st.ip_addresses(v=4))
def test_an_embedded_address_is_judged_by_itself(ip: ipaddress.IPv4Address) -> None:
    """Mapped, translated and tunnelled ones are no more public than they are."""
    public = is_public(str(ip))
    number = int(ip)
    assert is_public(str(ipaddress.IPv6Address((0xFFFF << 32) + number))) == public
    assert is_public(str(ipaddress.IPv6Address((0x64FF9B << 96) + number))) == public
    assert public or not is_public(str(ipaddress.IPv6Address((0x2002 << 112) + (number << 80))))


@given(st.text(max_size=30))
def test_no_text_breaks_the_judge(text: str) -> None:
    """Whatever the service names."""
    assert isinstance(why_not(text, HOME), str)
    assert isinstance(why_not(f"http://{text}/x", HOME), str)


# -- over real HTTP ---------------------------------------------------------------------------


@asynccontextmanager
async def server(answer: web.Response, address: str = "127.0.0.1") -> AsyncIterator[Any]:
    """A host, with the paths that it was asked for."""
    asked: list[str] = []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        asked.append(request.raw_path)
        return answer

    runner = web.ServerRunner(web.Server(handle, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, address, 0).start()
    try:
        yield runner.addresses[0][1], asked
    finally:
        await runner.cleanup()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    usual = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if str(host).endswith((".example", ".internal")):
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]
        return usual(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_into_a_private_network_is_followed(tmp_path: Path, status: int) -> None:
    """From the service's own host to 127.0.0.2, which is never connected to."""

    async def main() -> None:
        async with server(web.Response(body=png()), "127.0.0.2") as (port, asked):
            away = {"Location": f"http://127.0.0.2:{port}/x.png"}
            async with server(web.Response(status=status, headers=away)) as (home, at_home):
                url = f"http://127.0.0.1:{home}"
                async with rh.Session("a-key", base_url=url) as session:
                    output = rh.Output(f"{url}/x.png", "png")
                    with pytest.raises(rh.ResultUnsafe, match=r"127\.0\.0\.2"):
                        await session.download(output, tmp_path / "x.png")
            assert (asked, at_home) == ([], ["/x.png"])

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("addresses", [("127.0.0.1",), ("10.0.0.1", "::1", "169.254.169.254")])
def test_a_name_that_leads_home_is_refused_when_it_is_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, ...]
) -> None:
    """At once, and nothing is connected to."""
    resolve_to(monkeypatch, *addresses)

    async def main() -> None:
        async with (
            server(web.Response(body=png())) as (port, asked),
            rh.Session("a-key", base_url="https://service.example") as session,
        ):
            output = rh.Output(f"http://results.example:{port}/x.png?sign=secret", "png")
            with pytest.raises(rh.ResultUnsafe, match=r"results\.example") as caught:
                await session.download(output, tmp_path / "x.png")
            assert "sign" not in str(caught.value)
            assert asked == []

    asyncio.run(main())
    assert list(tmp_path.iterdir()) == []


def test_private_addresses_of_a_name_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in a network that the user named remains; the others are not even tried."""
    resolve_to(monkeypatch, "127.0.0.2", "127.0.0.1")
    tried: list[int] = []

    async def main(*networks: str) -> bytes:
        async with server(web.Response(body=b"picture")) as (port, _):
            other = await asyncio.start_server(lambda *_: tried.append(port), "127.0.0.2", port)
            transport = rh.AiohttpTransport(result_networks=networks)
            url = f"http://results.example:{port}/x.png"
            try:
                answer = await transport.send(rh.Request("GET", url, public_only=True))
            finally:
                await transport.aclose()
                other.close()
            return answer.body

    assert asyncio.run(main("127.0.0.1/32")) == b"picture"
    with pytest.raises(rh.ConnectError, match="no public address"):
        asyncio.run(main("198.18.0.0/15"))
    assert not tried


def test_what_a_name_leads_to_has_to_be_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a resolver answers: nothing is connected to, with networks of the user's, too."""
    resolve_to(monkeypatch, "nonsense", "10.0.0.1")

    async def main() -> None:
        transport = rh.AiohttpTransport(result_networks=["192.168.0.0/16"])
        try:
            with pytest.raises(rh.ConnectError, match="no public address, but to nonsense"):
                request = rh.Request("GET", "http://results.example/x.png", public_only=True)
                await transport.send(request)
        finally:
            await transport.aclose()

    asyncio.run(main())


def test_a_name_without_an_address_is_an_error_before_anything_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A resolver that answers with nothing."""
    resolve_to(monkeypatch)

    async def main() -> None:
        transport = rh.AiohttpTransport()
        try:
            with pytest.raises(rh.ConnectError, match="no address"):
                await transport.send(rh.Request("GET", "http://service.internal/x"))
        finally:
            await transport.aclose()

    asyncio.run(main())


def test_a_proxy_of_the_environment_may_be_private(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands between; with `trust_env` only."""
    resolve_to(monkeypatch, "127.0.0.1")

    async def main(*, trust_env: bool) -> list[str]:
        async with server(web.Response(body=b"by proxy")) as (port, asked):
            monkeypatch.setenv("http_proxy", f"http://proxy.example:{port}")
            transport = rh.AiohttpTransport(trust_env=trust_env)
            request = rh.Request("GET", "http://results.example/x.png", public_only=True)
            try:
                await transport.send(request)
            finally:
                await transport.aclose()
        return list(asked)

    assert asyncio.run(main(trust_env=True)) == ["http://results.example/x.png"]
    with pytest.raises(rh.ConnectError, match="no public address"):
        asyncio.run(main(trust_env=False))


def test_the_services_own_host_may_be_a_private_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base URL is the user's own word."""
    resolve_to(monkeypatch, "127.0.0.1")

    async def main() -> None:
        async with server(web.Response(body=png())) as (port, asked):
            url = f"http://service.internal:{port}"
            async with rh.Session("a-key", base_url=url) as session:
                await session.download(rh.Output(f"{url}/x.png", "png"), tmp_path / "x.png")
            assert asked == ["/x.png"]

    asyncio.run(main())


class Home(aiohttp.abc.AbstractResolver):
    """A resolver of the user's own, by which every name leads to this machine."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        return [
            aiohttp.abc.ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        pass


def test_a_session_that_was_brought_resolves_names_its_own_way(tmp_path: Path) -> None:
    """But a literal address is refused all the same."""

    async def main() -> None:
        connector = aiohttp.TCPConnector(resolver=Home(), family=socket.AF_INET)
        async with (
            server(web.Response(body=png())) as (port, asked),
            aiohttp.ClientSession(connector=connector) as brought,
            rh.Session(
                "a-key",
                base_url="https://service.example",
                transport=rh.AiohttpTransport(session=brought),
            ) as session,
        ):
            output = rh.Output(f"http://results.example:{port}/x.png", "png")
            await session.download(output, tmp_path / "x.png")
            with pytest.raises(rh.ResultUnsafe):
                output = rh.Output(f"http://127.0.0.1:{port}/y.png", "png")
                await session.download(output, tmp_path / "y.png")
            assert asked == ["/x.png"]

    asyncio.run(main())


def test_every_host_but_the_services_own_has_to_be_public(tmp_path: Path) -> None:
    """The request says so, for the first address and for each it is redirected to."""

    def handle(request: rh.Request) -> rh.Response:
        if "results" in request.url:
            return rh.Response(302, b"", {"location": "https://service.example/x.png"})
        return rh.Response(200, png())

    transport = MockTransport(handle)

    async def main() -> None:
        async with rh.Session("k", base_url="https://service.example", transport=transport) as s:
            output = rh.Output("https://results.example/x.png", "png")
            await s.download(output, tmp_path / "x.png")

    run(main)
    assert [request.public_only for request in transport.requests] == [True, False]
