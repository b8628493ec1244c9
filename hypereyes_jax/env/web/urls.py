"""Fetching a URL that a search result or a model named: public addresses only, only so much, only so long."""

from __future__ import annotations

import asyncio
import ipaddress
import socket

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from hypereyes_jax.env.web.untrusted import one_line

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
# What IANA's registries leave of the public internet: an address of no range known to be public is not public.
_PUBLIC_V6 = ipaddress.ip_network("2000::/3")
_SPECIAL_V6 = [ipaddress.ip_network(text) for text in ("2001::/23", "2001:db8::/32", "3fff::/20")]
# 168.63.129.16 serves each machine of Azure its own secrets, although it lies in a public range.
_SPECIAL_V4 = [
    ipaddress.ip_network(text) for text in ("192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/3", "168.63.129.16/32")
]
_SHOWN = 100  # characters of a host in a message, which a model or a terminal is shown


class UrlError(Exception):
    """A URL that is not fetched, or whose fetch failed; the message says why and never holds the query string."""


class UrlGuard:
    """Fetches bytes from untrusted URLs.

    Every address is checked when the connection is made, not before, so a name that resolves anew to a private address
    (DNS rebinding) is refused, too; each redirect is a new URL and is checked as one. The URL is read once, by the
    parser of the client that connects: what another parser takes for a name may be an address to it ("①②⑦.0.0.1").
    Proxies of the environment are not used: they would connect out of our sight.

    Args:
      allow_private: allow loopback and private networks: for tests and local servers only.
      ports: allowed ports; None = any.
      max_bytes, seconds, max_redirects: of one fetch, redirects included.
    """

    def __init__(
        self,
        *,
        allow_private: bool = False,
        ports: frozenset[int] | None = frozenset({80, 443}),
        max_bytes: int = 32 << 20,
        seconds: float = 20.0,
        max_redirects: int = 3,
        resolver: AbstractResolver | None = None,
    ):
        self._allow_private, self._ports = allow_private, ports
        self._max_bytes, self._seconds, self._max_redirects = max_bytes, seconds, max_redirects
        self._resolver = resolver

    async def fetch(self, url: str) -> bytes:
        """The body of a 200 reply. Raises UrlError."""
        try:
            async with asyncio.timeout(self._seconds):
                return await self._follow(url)
        except TimeoutError:
            raise UrlError(f"{_host(url)} did not answer within {self._seconds:g} s") from None

    async def _follow(self, url: str) -> bytes:
        resolver: AbstractResolver = self._resolver or ThreadedResolver()
        if not self._allow_private:
            resolver = _PublicOnly(resolver)
        sockets = getattr(resolver, "open_socket", None)
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False, socket_factory=sockets)
        # Compressed bodies are not asked for and not unpacked: the size cap is on what arrives.
        headers = {"Accept-Encoding": "identity"}
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False, headers=headers) as session:
            for _ in range(self._max_redirects + 1):
                target = self.check(url)
                try:
                    async with session.get(target, allow_redirects=False) as response:
                        if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                            url = str(target.join(URL(response.headers["Location"])))
                            continue
                        if response.status != 200:
                            raise UrlError(f"{_host(url)} answered HTTP {response.status}")
                        return await self._read(response, url)
                except (aiohttp.ClientError, OSError, ValueError) as error:
                    raise UrlError(f"{_host(url)} could not be fetched ({type(error).__name__})") from None
            raise UrlError(f"more than {self._max_redirects} redirects")

    async def _read(self, response: aiohttp.ClientResponse, url: str) -> bytes:
        if (response.content_length or 0) > self._max_bytes:
            raise UrlError(f"{_host(url)} offers more than {self._max_bytes:,} bytes")
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > self._max_bytes:
                raise UrlError(f"{_host(url)} sent more than {self._max_bytes:,} bytes")
        return bytes(body)

    def check(self, url: str) -> URL:
        """The URL as it is connected to. Names are checked again when they are resolved.

        Raises:
          UrlError: its form alone forbids it.
        """
        try:
            target = URL(url)
            host, port = target.host, target.port
        except ValueError:
            raise UrlError("not a valid URL") from None
        if target.scheme not in ("http", "https"):
            raise UrlError(f"only http and https are fetched, not {target.scheme[:20] or 'a bare path'!r}")
        if not host or target.user is not None or target.password is not None:
            raise UrlError("a URL needs a host and must not carry a login")
        if self._ports is not None and port not in self._ports:
            raise UrlError(f"port {port} is not allowed")
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return target  # a name
        if not self._allow_private and not is_public(address):
            raise UrlError(f"{_host(url)} is not a public address")
        return target


class _PublicOnly(AbstractResolver):
    def __init__(self, inner: AbstractResolver):
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        addresses = await self._inner.resolve(host, port, family)
        if not addresses or not all(is_public(ipaddress.ip_address(result["host"])) for result in addresses):
            raise UrlError(f"{one_line(host, _SHOWN)} is not a public address")
        return addresses

    def open_socket(self, address: tuple[int, int, int, str, tuple]) -> socket.socket:
        """The socket for a connection to `address`, as `getaddrinfo` gives it: what is really connected."""
        family, kind, protocol, _, place = address
        if not is_public(ipaddress.ip_address(str(place[0]).partition("%")[0])):
            raise PermissionError(f"{place[0]} is not a public address")
        return socket.socket(family, kind, protocol)

    async def close(self) -> None:
        await self._inner.close()


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is in a range known to be public, also when an IPv6 form wraps an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        return address in _PUBLIC_V6 and address.is_global and not any(address in net for net in _SPECIAL_V6)
    return address.is_global and not any(address in network for network in _SPECIAL_V4)


def _host(url: str) -> str:
    try:
        return one_line(URL(url).host or "the URL", _SHOWN)
    except ValueError:
        return "the URL"
