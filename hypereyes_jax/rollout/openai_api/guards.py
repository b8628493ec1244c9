"""Who may ask: keys, hosts and origins of a server that listens on this machine."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from hypereyes_jax.env.web.admission import is_loopback


def error_response(message: str, status: int, code: str, param: str | None = None) -> web.Response:
    """An error in the shape of the API."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    headers = {"Retry-After": "1"} if status in (429, 503) else {}
    return web.json_response(body, status=status, headers=headers)


def key_guard(api_key: str) -> Middleware:
    """Refuses requests without the key; health alone is open."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if api_key and request.path != "/health" and request.method != "OPTIONS":
            given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
            if not hmac.compare_digest(given.encode(), api_key.encode()):
                return error_response("the API key is missing or wrong", 401, "invalid_api_key")
        return await handler(request)

    return guard


def origin_guard(host: str, origins: tuple[str, ...]) -> Middleware:
    """Refuses what a web page of a stranger makes a browser send.

    On loopback the Host header must name this machine too: else a page whose own name was pointed at 127.0.0.1 could
    ask. Requests without an Origin header (programs) pass.

    Args:
      host: address that the server listens on.
      origins: whose pages may ask; they get CORS headers. Empty = none but pages served from this host.
    """
    local = is_loopback(host)

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        named = urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
        if local and not is_loopback(named):
            return error_response(f"this server does not answer to the name {named[:100]!r}", 403, "forbidden_host")
        origin = request.headers.get("Origin")
        allowed = origin is None or origin in origins or urlsplit(origin).netloc == request.headers.get("Host", "")
        if not allowed:
            return error_response("pages of this origin may not ask; see --cors-origins", 403, "forbidden_origin")
        if request.method == "OPTIONS":
            response: web.StreamResponse = web.Response(status=204)
        else:
            response = await handler(request)
        if not response.prepared:  # a stream has sent its headers by itself
            response.headers.update(cors_headers(origin, origins))
        return response

    return guard


def cors_headers(origin: str | None, origins: tuple[str, ...]) -> dict[str, str]:
    """What lets pages of `origin` read a reply, if it is one of those that may."""
    if origin is None or origin not in origins:
        return {}
    return {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Headers": "Authorization, Content-Type",
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Vary": "Origin",
    }
