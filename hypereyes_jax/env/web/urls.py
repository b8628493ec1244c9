"""Fetching a URL that a search result or a model named: public addresses only, only so much, only so long."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class UrlError(Exception):
    """A URL that is not fetched, or whose fetch failed; the message says why and never holds the query string."""


class UrlGuard:
    """Fetches bytes from untrusted URLs.

    Every address is checked when the connection is made, not before, so a name that resolves anew to a private address
    (DNS rebinding) is refused, too; each redirect is a new URL and is checked as one.

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
        connector = aiohttp.TCPConnector(resolver=resolver, use_dns_cache=False)
        # Compressed bodies are not asked for and not unpacked: the size cap is on what arrives.
        headers = {"Accept-Encoding": "identity"}
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False, headers=headers) as session:
            for _ in range(self._max_redirects + 1):
                self.check(url)
                try:
                    async with session.get(url, allow_redirects=False) as response:
                        if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                            url = urljoin(url, response.headers["Location"])
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

    def check(self, url: str) -> None:
        """Raises UrlError for a URL whose form alone forbids it. Names are checked again when they are resolved."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError:
            raise UrlError("not a valid URL") from None
        if parts.scheme not in ("http", "https"):
            raise UrlError(f"only http and https are fetched, not {parts.scheme[:20] or 'a bare path'!r}")
        if not parts.hostname or parts.username is not None or parts.password is not None:
            raise UrlError("a URL needs a host and must not carry a login")
        if self._ports is not None and port not in self._ports:
            raise UrlError(f"port {port} is not allowed")
        try:
            address = ipaddress.ip_address(parts.hostname)
        except ValueError:
            return  # a name
        if not self._allow_private and not is_public(address):
            raise UrlError(f"{parts.hostname} is not a public address")


class _PublicOnly(AbstractResolver):
    def __init__(self, inner: AbstractResolver):
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await self._inner.resolve(host, port, family)
        if not found or not all(is_public(ipaddress.ip_address(result["host"])) for result in found):
            raise UrlError(f"{host} is not a public address")
        return found

    async def close(self) -> None:
        await self._inner.close()


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is on the public internet, also when an IPv6 form wraps an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or "the URL"
    except ValueError:
        return "the URL"
