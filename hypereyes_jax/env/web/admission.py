"""Who may use a local server: who has its key, and no stranger's web page in a browser on the same machine."""

from __future__ import annotations

import base64
import contextlib
import hmac
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Middleware
from yarl import URL

from hypereyes_jax.env.web.loopback import is_loopback

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Refusal = Callable[[str, int, str], web.StreamResponse]  # (message, HTTP status, code) -> the reply


@dataclass(frozen=True)
class Admission:
    """Whom a server answers.

    A page that a browser shows may send requests to this machine. Its Origin tells it from the server's own, or where
    it asks as for a picture, or by a link, which have none, Sec-Fetch-Site; a name of its own that it makes resolve to
    loopback (DNS rebinding) stands in Host. Programs send neither.
    """

    host: str  # what the server listens on
    api_key: str = ""  # comes with every request: `keys`; "" = none is needed
    origins: tuple[str, ...] = ()  # whose pages may ask from a browser, beside the server's own; they get CORS headers
    open_paths: tuple[str, ...] = ()  # answered without the key

    def middleware(self, refusal: Refusal | None = None) -> Middleware:
        """Answers 403 or 401 before anything else looks at a request, in the form of `refusal`: {"error": message}."""
        refuse = refusal or _refusal

        @web.middleware
        async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
            host, origin = request.headers.get("Host", ""), request.headers.get("Origin")
            if is_loopback(self.host) and not is_loopback(_host(f"//{host}")):
                return refuse(f"this server does not answer to the name {host[:100]!r}", 403, "forbidden_host")
            if _is_strange(origin, request.headers.get("Sec-Fetch-Site", ""), host, self.origins):
                return refuse("this server does not answer pages of this origin", 403, "forbidden_origin")
            if request.method == "OPTIONS" and origin in self.origins:  # what a browser asks before it sends a request
                response: web.StreamResponse = web.Response(status=204)
            elif request.path in self.open_paths or self._has_key(request):
                response = await handler(request)
            else:
                response = refuse("Invalid API key.", 401, "invalid_api_key")
                response.headers["WWW-Authenticate"] = "Bearer"
            if not response.prepared:  # a stream has sent its headers by itself
                response.headers.update(self.cors_headers(origin))
            return response

        return admit

    def cors_headers(self, origin: str | None) -> dict[str, str]:
        """What lets pages of `origin` read a reply, if it is one of those that may."""
        if origin is None or origin not in self.origins:
            return {}
        return {
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Headers": "Authorization, Content-Type",
            "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
            "Vary": "Origin",
        }

    def _has_key(self, request: web.Request) -> bool:
        return not self.api_key or any(
            hmac.compare_digest(self.api_key.encode(), key.encode("utf-8", "surrogateescape")) for key in keys(request)
        )


def _is_strange(origin: str | None, site: str, host: str, origins: Collection[str]) -> bool:
    """Whether a page asks that is neither the server's own nor one of those that may."""
    if origin is None:
        return site.strip().lower() in ("cross-site", "same-site")
    return origin not in origins and _authority(origin) != host.lower()


def keys(request: web.Request) -> list[str]:
    """The keys that a request gives.

    They stand in a bearer token, in `X-API-Key`, as the password of a basic login, or in the parameter `api_key`.
    """
    kind, _, token = request.headers.get("Authorization", "").partition(" ")
    offers = [request.headers.get("X-API-Key", ""), request.query.get("api_key", "")]
    if kind.lower() == "bearer":
        offers.append(token.strip())
    elif kind.lower() == "basic":
        with contextlib.suppress(ValueError):  # of base64, and of letters that are not ASCII
            offers.append(base64.b64decode(token).decode("utf-8", "replace").partition(":")[2])
    return offers


def _refusal(message: str, status: int, code: str) -> web.StreamResponse:
    return web.json_response({"error": message}, status=status)


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
