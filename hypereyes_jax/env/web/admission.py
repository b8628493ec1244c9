"""Who may use a local server: its own key on every path, and no web page in a browser on the same machine."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens on `host`."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def admission(api_key: str, host: str) -> Middleware:
    """Middleware that answers 403 or 401 before anything else looks at the request.

    A page that a browser shows may send requests to this machine. Its Origin tells it from the server's own; a name of
    its own that it makes resolve to loopback (DNS rebinding) stands in Host.

    Args:
      api_key: must come with every request: as a bearer token, as `X-API-Key`, as the password of a basic login, or as
        the parameter `api_key`; "" = none is needed.
      host: what the server listens on.
    """

    @web.middleware
    async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
        if is_loopback(host) and not is_loopback(_host(f"//{request.headers.get('Host', '')}")):
            return web.json_response({"error": "this server answers requests to this machine's own names"}, status=403)
        origin = request.headers.get("Origin")
        if origin is not None and _authority(origin) != request.headers.get("Host", "").lower():
            return web.json_response({"error": "this server does not answer other sites' pages"}, status=403)
        if api_key and not any(hmac.compare_digest(api_key.encode(), key.encode()) for key in _keys(request)):
            return web.json_response({"error": "Invalid API key."}, status=401, headers={"WWW-Authenticate": "Bearer"})
        return await handler(request)

    return admit


def _keys(request: web.Request) -> list[str]:
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    keys = [request.headers.get("X-API-Key", ""), request.query.get("api_key", "")]
    if kind.lower() == "bearer":
        keys.append(token.strip())
    elif kind.lower() == "basic":
        with contextlib.suppress(binascii.Error):
            keys.append(base64.b64decode(token).decode("utf-8", "replace").partition(":")[2])
    return keys


def _host(url: str) -> str:
    try:
        return URL(url).host or ""
    except ValueError:
        return ""


def _authority(origin: str) -> str:
    try:
        return URL(origin).authority.lower()
    except ValueError:
        return ""
