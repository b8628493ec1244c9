"""JSON over HTTP, where every way to fail is a SearchError of a stated kind and no secret reaches a message."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from hypereyes_jax.env.types import FatalSearchError, SearchError
from hypereyes_jax.env.web.per_loop import PerLoop
from hypereyes_jax.env.web.retries import read_retry_after
from hypereyes_jax.env.web.untrusted import encodable, one_line, parse_json

_REFUSED = {400, 413, 414, 415, 422}
_TRANSIENT = {408, 425, 429}
# What services say of an account that waiting will not fill. The first three are OpenAI's codes, the next SerpApi's.
_NO_CREDIT = (
    "insufficient_quota", "billing_hard_limit", "billing_not_active", "run out of searches", "insufficient balance",
    "insufficient credit", "not enough credits", "exceeded your current quota",
)  # fmt: skip


@dataclass(frozen=True)
class HttpLimits:
    connect: float = 16.0  # seconds, the authors' published client's
    idle: float = 300.0  # seconds without a byte of the reply, as theirs
    total: float | None = None  # seconds, first byte sent to last byte read; None = as long as it makes progress
    reply_bytes: int = 16 << 20


@dataclass(frozen=True)
class Reply:
    status: int
    data: Any  # parsed JSON; None where the body was none
    retry_after: float | None = None
    words: str = ""  # what the service said of a failure, one line without secrets
    worked: bool = False  # whether an earlier request to this service has


@dataclass(frozen=True)
class Address:
    """A service's URL without the login that it may hold, which goes out as a header and stands nowhere."""

    url: str
    where: str  # host and port, for messages
    headers: Mapping[str, str]

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises ValueError for what is no URL."""
        parts = urlsplit(url)
        login, _, where = parts.netloc.rpartition("@")
        if not login:
            return cls(url, where, {})
        user, _, password = (unquote(part) for part in login.partition(":"))
        token = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        return cls(parts._replace(netloc=where).geturl(), where, {"Authorization": f"Basic {token}"})


class JsonHttp:
    """A client for JSON services: one connection pool for each event loop, opened at the first request.

    Proxies are those of the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY). Error messages name the host and what
    happened. They never hold the URL, its query or a header, since those carry keys; the original exceptions are cut
    off (`from None`) for the same reason, and keys are struck out of what a service says.
    """

    def __init__(self, limits: HttpLimits | None = None, headers: Mapping[str, str] | None = None):
        self._limits = limits or HttpLimits()
        self._headers = dict(headers or {})
        self._sessions = PerLoop(self._open)
        self._worked: set[str] = set()

    def _open(self) -> aiohttp.ClientSession:
        limits = self._limits
        timeout = aiohttp.ClientTimeout(total=limits.total, sock_connect=limits.connect, sock_read=limits.idle)
        # No limit here: how many calls are in flight is the policy's business, in one place.
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        return aiohttp.ClientSession(connector=connector, timeout=timeout, headers=self._headers, trust_env=True)

    async def request(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        text: bool = False,
    ) -> Reply:
        """Sends a request and reads its JSON reply, whatever the status.

        Args:
          text: a reply that works need not be JSON; its data is then its text.

        Raises:
          SearchError: of kind "timeout", "connection" or "bad_reply" (no JSON, or too long); the last is not transient.
        """
        async with self.open(method, url, params=params, body=body, headers=headers) as response:
            return await self.read(response, {**(headers or {}), **(params or {})}, text=text)

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response whose body the block reads, piece by piece. Raises SearchError as `request` does."""
        address = Address.of(url)
        where = address.where
        try:
            async with self._sessions.get().request(
                method,
                address.url,
                params=params,
                json=body,
                headers={**address.headers, **(headers or {})},
                allow_redirects=False,
            ) as response:
                yield response
        except TimeoutError:
            raise SearchError(f"{where} did not answer in time", transient=True, kind="timeout") from None
        except aiohttp.ClientPayloadError:
            raise SearchError(f"{where} broke off its reply", transient=True, kind="bad_reply") from None
        except (aiohttp.ClientError, OSError) as error:
            message = f"{where} could not be reached ({type(error).__name__})"
            raise SearchError(message, transient=True, kind="connection") from None

    async def read(
        self, response: aiohttp.ClientResponse, secrets: Mapping[str, str] | None = None, text: bool = False
    ) -> Reply:
        """The whole of a response. `secrets`: what was sent with it whose values are struck out of its words."""
        where = response.url.authority
        status, wait = response.status, read_retry_after(response.headers.get("Retry-After"))
        raw = await self._bytes(response, where)
        worked = where in self._worked
        try:
            data = parse_json(raw)
        except ValueError:
            data = raw.decode("utf-8", "replace") if text or response.content_type == "text/plain" else None
            if status == 200 and not text:
                raise SearchError(f"{where} sent no valid JSON", transient=True, kind="bad_reply") from None
        if 200 <= status < 300:
            self._worked.add(where)
            return Reply(status, data, worked=worked)
        request_headers = {**self._headers, **response.request_info.headers, **(secrets or {})}
        return Reply(status, data, wait, _without(service_words(data), request_headers), worked)

    async def _bytes(self, response: aiohttp.ClientResponse, where: str) -> bytes:
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > self._limits.reply_bytes:
                response.close()
                message = f"the reply of {where} has more than {self._limits.reply_bytes:,} bytes"
                raise SearchError(message, transient=False, refused=True, kind="bad_reply")
        return b"".join(chunks)

    async def aclose(self) -> None:
        """Closes the connections of the running event loop."""
        session = self._sessions.pop()
        if session is not None:
            await session.close()


def check_status(reply: Reply, where: str) -> Any:
    """The data of a 2xx reply; any other status as the SearchError it means.

    What can never work ends the run, in the service's own words: 401, 402, an account without credit whatever the
    status, and 403 or 404 if no request has worked yet (a firewall may refuse one of many). 408, 425, 429 and 5xx are
    transient; 400, 413, 414, 415 and 422, and a later 403, refuse this request.
    """
    status = reply.status
    if 200 <= status < 300:
        return reply.data
    words = f": {reply.words}" if reply.words else ""
    if status == 402 or lacks_credit(reply.data):
        raise FatalSearchError(f"the account at {where} has no credit left (HTTP {status}){words}", kind="no_credit")
    if status == 401 or (status == 403 and not reply.worked):
        message = f"{where} refused the key or login (HTTP {status}); check it and run again{words}"
        raise FatalSearchError(message, kind="auth")
    if status == 404 and not reply.worked:
        raise FatalSearchError(f"{where} has nothing at this address (HTTP 404){words}", kind="http_404")
    kind = "throttled" if status == 429 else f"http_{status}"
    if status in _REFUSED or status == 403:
        message = f"the service does not take this request (HTTP {status})"
        raise SearchError(message, transient=False, refused=True, kind=kind)
    raise SearchError(
        f"{where} answered HTTP {status}{words}",
        transient=status in _TRANSIENT or status >= 500,
        kind=kind,
        retry_after=reply.retry_after,
    )


def lacks_credit(data: Any) -> bool:
    """Whether a failed reply says that the account is empty, which no waiting cures."""
    error = data.get("error", data) if isinstance(data, dict) else None
    if isinstance(error, dict):
        text = " ".join(str(error.get(name) or "") for name in ("code", "type", "message"))
    else:
        text = error if isinstance(error, str) else ""
    return any(words in text[:4000].lower() for words in _NO_CREDIT)


def service_words(data: Any) -> str:
    """What a service says went wrong, as one short line: the fields that OpenAI's, SerpApi's and FastAPI's kin use."""
    for _ in range(4):
        if not isinstance(data, dict):
            break
        data = next((data[name] for name in ("error", "message", "detail", "msg") if data.get(name)), None)
    if isinstance(data, list) and data:
        return service_words(data[0])
    return one_line(encodable(data), 300) if isinstance(data, str) else ""


def _without(words: str, headers: Mapping[str, str]) -> str:
    """The words with every header's and parameter's value that could be a key struck out."""
    for name, value in headers.items():
        if not any(part in name.lower() for part in ("key", "auth", "token", "secret", "cookie")):
            continue
        kind, _, token = value.partition(" ")
        secrets = [value, token]
        if kind == "Basic":
            login = base64.b64decode(token).decode("utf-8", "replace")
            secrets += [login, *login.split(":", 1)]
        for secret in secrets:
            if len(secret) >= 4:
                words = words.replace(secret, "***")
    return words
