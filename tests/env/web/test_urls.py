import asyncio
import ipaddress
import socket

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver
from aiohttp.test_utils import TestServer

from hypereyes_jax.env.web import urls
from hypereyes_jax.env.web.urls import UrlError, UrlGuard, is_public


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.0.1",
        "172.16.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "ff02::1",
        "fec0::1",
        "::127.0.0.1",
        "64:ff9b:1::1",
        "64:ff9b::a00:1",
        "3fff::1",
        "2001:db8::1",
        "2001::1",
        "5f00::1",
        "4000::1",
        "100::1",
        "198.18.0.1",
        "192.0.0.8",
        "192.0.2.1",
        "192.88.99.1",
        "240.0.0.1",
        "239.255.255.250",
        "168.63.129.16",
        "100.100.100.200",
        "192.0.0.192",
        "fd00:ec2::254",
        "::ffff:0:127.0.0.1",
        "2001:0:7f00:1::",
        "2002:a9fe:a9fe::1",
    ],
)
def test_private_addresses(address):
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public_addresses(address):
    assert is_public(ipaddress.ip_address(address))


def test_a_public_address_may_be_wrapped_for_networks_without_ipv4():
    assert is_public(ipaddress.ip_address("64:ff9b::101:101"))


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://example.org/x",
        "gopher://example.org",
        "data:text/html,x",
        "javascript:alert(1)",
        "//example.org/x",
        "example.org",
        "http://",
        "http://user:pw@example.org/",
        "http://example.org:22/",
        "http://example.org:99999/",
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://[::ffff:10.0.0.1]/",
        "http://[bad/",
        "http://[fe80::1%25" + "a" * 1000 + "]/",
    ],
)
def test_urls_refused_by_their_form(url):
    with pytest.raises(UrlError) as raised:
        UrlGuard().check(url)
    assert len(str(raised.value)) < 200


async def test_a_message_shows_only_so_much_of_a_host():
    with pytest.raises(UrlError) as raised:
        await UrlGuard().fetch(f"http://{'a.' * 5000}example/")
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    "url", ["http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://localhost/", "http://localhost./"]
)
async def test_other_spellings_of_loopback_are_refused_when_resolved(url):
    with pytest.raises(UrlError):
        await UrlGuard(seconds=5).fetch(url)


class Names(AbstractResolver):
    """Resolves every name to the addresses given, in turn."""

    def __init__(self, *addresses):
        self.addresses, self.asked = list(addresses), 0

    async def resolve(self, host, port=0, family=socket.AF_INET):
        address = self.addresses[min(self.asked, len(self.addresses) - 1)]
        self.asked += 1
        return [{"hostname": host, "host": address, "port": port, "family": socket.AF_INET, "proto": 0, "flags": 0}]

    async def close(self):
        pass


async def test_a_name_that_resolves_to_a_private_address_is_refused():
    guard = UrlGuard(resolver=Names("10.0.0.7"))
    with pytest.raises(UrlError, match="not a public address"):
        await guard.fetch("http://innocent.example/")


@pytest.fixture
async def server():
    async def body(request):
        return web.Response(body=b"x" * int(request.query["size"]))

    async def redirect(request):
        raise web.HTTPFound(request.query["to"])

    async def loop(request):
        raise web.HTTPFound("/loop")

    async def endless(request):
        stream = web.StreamResponse()
        await stream.prepare(request)
        while True:
            await stream.write(b"x" * 1000)
            await asyncio.sleep(0.01)

    app = web.Application()
    app.router.add_get("/body", body)
    app.router.add_get("/redirect", redirect)
    app.router.add_get("/loop", loop)
    app.router.add_get("/endless", endless)
    server = TestServer(app)
    await server.start_server()
    yield str(server.make_url("")).rstrip("/")
    await server.close()


LOCAL = {"allow_private": True, "ports": None}


async def test_a_good_url_is_fetched(server):
    assert await UrlGuard(**LOCAL).fetch(f"{server}/body?size=5") == b"xxxxx"
    assert await UrlGuard(**LOCAL).fetch(f"{server}/redirect?to=/body%3Fsize=3") == b"xxx"


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://u:p@127.0.0.1/", "ftp://example.org/"])
async def test_a_redirect_is_checked_like_any_url(server, target):
    with pytest.raises(UrlError):
        await UrlGuard(**LOCAL).fetch(f"{server}/redirect?to={target}")


async def test_a_redirect_into_the_private_network_is_refused(server, monkeypatch):
    monkeypatch.setattr(urls, "_PublicOnly", lambda resolver: resolver)  # lets the first hop, a name, pass as public
    guard, port = UrlGuard(ports=None, resolver=Names("127.0.0.1")), server.rsplit(":", 1)[1]
    assert await guard.fetch(f"http://first.example:{port}/body?size=1") == b"x"
    for host in ("127.0.0.1", "①②⑦.0.0.1"):
        with pytest.raises(UrlError, match=r"127\.0\.0\.1 is not a public address"):
            await guard.fetch(f"http://first.example:{port}/redirect?to=http://{host}:{port}/body%3Fsize=1")


async def test_caps_on_size_redirects_and_time(server):
    with pytest.raises(UrlError, match="more than 100 bytes"):
        await UrlGuard(**LOCAL, max_bytes=100).fetch(f"{server}/body?size=101")
    with pytest.raises(UrlError, match="more than 3,000 bytes"):
        await UrlGuard(**LOCAL, max_bytes=3000).fetch(f"{server}/endless")
    with pytest.raises(UrlError, match="redirects"):
        await UrlGuard(**LOCAL).fetch(f"{server}/loop")
    with pytest.raises(UrlError, match=r"within 0\.2 s"):
        await UrlGuard(**LOCAL, seconds=0.2).fetch(f"{server}/endless")


DIGITS = [
    "①②⑦.⓪.⓪.①", "①②⑦.0.0.1", "１２７.0.0.1", "127。0。0。1", "127.0.0.1.", "⑯⑨.254.①⑥9.254", "𝟏𝟐𝟕.𝟎.𝟎.𝟏", "１０.0.0.1",
    "¹²⁷.0.0.1",
]  # fmt: skip
NUMBERS = ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1", "017700000001", "127.0.1", "0"]
SIXES = [
    "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[fe80::1%25eth0]", "[fc00::1]", "[64:ff9b::7f00:1]",
    "[fec0::1]",
]  # fmt: skip
NAMES = ["localhost", "LOCALHOST", "localhost.", "ｌｏｃａｌｈｏｓｔ", "ip6-localhost", "127.0.0.1.invalid"]
FORMS = [
    "http://{}/", "https://{}/", "HTTP://{}/", "http://{}:80/x", "http://{}#@example.org/", "http://{}?x=example.org",
    "http://example.org@{}/", "http:\\\\{}\\", " http://{}/",
]  # fmt: skip


async def test_200_spellings_of_private_addresses_are_refused_and_nothing_is_connected(monkeypatch):
    opened = []

    async def connect(loop, sock, address):
        opened.append(address)
        raise OSError("not allowed in this test")

    class LocalNames(Names):
        async def resolve(self, host, port=0, family=socket.AF_INET):
            literal = host.strip("[]").partition("%")[0]
            try:  # as getaddrinfo does with what is an address in some spelling
                packed = socket.inet_ntoa(socket.inet_aton(literal))
            except OSError:
                packed = "127.0.0.1"
            self.addresses = [packed]
            return await super().resolve(host, port, family)

    monkeypatch.setattr(asyncio.selector_events.BaseSelectorEventLoop, "sock_connect", connect)
    tried = [form.format(host) for form in FORMS for host in [*DIGITS, *NUMBERS, *SIXES, *NAMES]]
    assert len(tried) >= 200
    for url in tried:
        with pytest.raises(UrlError):
            await UrlGuard(resolver=LocalNames("127.0.0.1")).fetch(url)
    assert opened == []


async def test_the_address_that_is_connected_is_judged_even_where_no_name_was_resolved(monkeypatch, server):
    monkeypatch.setattr(UrlGuard, "check", lambda self, url: urls.URL(url))  # a parser that was fooled
    with pytest.raises(UrlError, match="could not be fetched"):
        await UrlGuard(ports=None).fetch(f"{server}/body?size=1")
