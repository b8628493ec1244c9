"""JSON over HTTP, where every way to fail is a SearchError of a stated kind and no secret reaches a message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from hypereyes_jax.env.types import FatalSearchError, SearchError
from hypereyes_jax.env.web.per_loop import PerLoop
from hypereyes_jax.env.web.untrusted import parse_json

_REFUSED = {400, 413, 414, 415, 422}
_TRANSIENT = {408, 425, 429}


@dataclass(frozen=True)
class HttpLimits:
    connect: float = 16.0  # seconds; with `total`, the authors' published client settings
    total: float = 300.0  # seconds, first byte sent to last byte read
    reply_bytes: int = 16 << 20


@dataclass(frozen=True)
class Reply:
    status: int
    data: Any  # parsed JSON; None where the body was none
    retry_after: float | None = None


class JsonHttp:
    """A client for JSON services: one connection pool for each event loop, opened at the first request.

    Error messages name the host and what happened. They never hold the URL, its query or a header, since those carry
    keys; the original exceptions are cut off (`from None`) for the same reason.
    """

    def __init__(self, limits: HttpLimits | None = None, headers: Mapping[str, str] | None = None):
        self._limits = limits or HttpLimits()
        self._headers = dict(headers or {})
        self._sessions = PerLoop(self._open)

    def session(self) -> aiohttp.ClientSession:
        """The running event loop's session, for replies that are not one JSON text."""
        return self._sessions.get()

    def _open(self) -> aiohttp.ClientSession:
        timeout = aiohttp.ClientTimeout(total=self._limits.total, sock_connect=self._limits.connect)
        # No limit here: how many calls are in flight is the policy's business, in one place.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers)

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Sends a request and reads its JSON reply, whatever the status.

        Raises:
          SearchError: of kind "timeout", "connection" or "bad_reply" (no JSON, or too long), all transient.
        """
        where = urlsplit(url).netloc.rpartition("@")[2]
        session = self.session()
        try:
            async with session.request(
                method, url, params=params, json=body, headers=headers, allow_redirects=False
            ) as response:
                raw = await self._read(response)
                status, wait = response.status, _seconds(response.headers.get("Retry-After"))
        except TimeoutError:
            raise SearchError(f"{where} did not answer in time", transient=True, kind="timeout") from None
        except aiohttp.ClientPayloadError:
            raise SearchError(f"{where} broke off its reply", transient=True, kind="bad_reply") from None
        except (aiohttp.ClientError, OSError) as error:
            message = f"{where} could not be reached ({type(error).__name__})"
            raise SearchError(message, transient=True, kind="connection") from None
        try:
            return Reply(status, parse_json(raw), wait)
        except ValueError:
            if status == 200:
                raise SearchError(f"{where} sent no valid JSON", transient=True, kind="bad_reply") from None
            return Reply(status, None, wait)

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > self._limits.reply_bytes:
                response.close()
                raise SearchError("the reply is too long", transient=False, refused=True, kind="bad_reply")
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        session = self._sessions.pop()
        if session is not None:
            await session.close()


def check_status(reply: Reply, where: str) -> Any:
    """The data of a 2xx reply; any other status as the SearchError it means.

    408, 425, 429 and 5xx are transient; 400, 413, 414, 415 and 422 refuse this request; 401 and 403 end the run.
    """
    status = reply.status
    if 200 <= status < 300:
        return reply.data
    if status in (401, 403):
        raise FatalSearchError(f"{where} refused the key or login (HTTP {status}); check it and run again", kind="auth")
    kind = "throttled" if status == 429 else f"http_{status}"
    if status in _REFUSED:
        message = f"the service does not take this request (HTTP {status})"
        raise SearchError(message, transient=False, refused=True, kind=kind)
    raise SearchError(
        f"{where} answered HTTP {status}",
        transient=status in _TRANSIENT or status >= 500,
        kind=kind,
        retry_after=reply.retry_after,
    )


def _seconds(header: str | None) -> float | None:
    # The date form of Retry-After is not read: no search service is known to send it.
    try:
        value = float(header or "")
    except ValueError:
        return None
    return value if 0 <= value < 86_400 else None
