"""JSON over HTTP, where every way to fail is a SearchError of a stated kind and no secret reaches a message."""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
from yarl import URL

from hypereyes_jax.env.types import FatalSearchError, SearchError
from hypereyes_jax.env.web.per_loop import PerLoop
from hypereyes_jax.env.web.retries import read_retry_after
from hypereyes_jax.env.web.service_words import (
    WORDS,
    lacks_credit,
    says_of_account,
    service_words,
    throttled,
    unauthorized,
    wait_in_words,
    wrong_key,
)
from hypereyes_jax.env.web.untrusted import one_line, parse_json
from hypereyes_jax.errors import SettingError

_REFUSED = {400, 413, 414, 415, 422, 431}
# 409: a lock that another request holds, which OpenAI's own client tries again, too; 420 and 449: asks to wait of old;
# 421, 423, 424 and 499: what a server behind the one that answers came to.
_TRANSIENT = {408, 409, 420, 421, 423, 424, 425, 429, 449, 499}
_LOGIN = {401, 407, 498, 511}  # of the service, of a proxy; a token that has expired; of a network
_BUSY = {429, 503}  # whose bodies may say when to come back
_IMPOSSIBLE = {501, 505}  # not implemented, no such version of HTTP: the same request is answered the same again
_BODY_BYTES = 65_536  # of a failed reply that is not JSON, in which words are looked for
_FIREWALL = {403, 405, 406, 418, 451}  # with which firewalls answer one request of many
_REFUSALS = 64  # requests in a row that a service may refuse before one has worked, or a firewall later


@dataclass(frozen=True)
class HttpLimits:
    """How long a request may take, and how large its reply may be."""

    connect: float = 16.0  # seconds, the authors' published client's
    idle: float = 300.0  # seconds without a byte of the reply, as theirs
    total: float | None = None  # seconds, first byte sent to last byte read; None = as long as it makes progress
    reply_bytes: int = 16 << 20


@dataclass(frozen=True)
class Reply:
    """The reply of a service, also of one that failed."""

    status: int
    data: Any  # parsed JSON; None where the body was none
    retry_after: float | None = None
    words: str = ""  # what the service said of a failure, one line without secrets
    worked: bool = False  # whether an earlier request to this service has
    failures: int = 0  # replies of this service with this status in a row, this one too


@dataclass(frozen=True)
class Address:
    """A service's URL without the login that it may hold, which goes out as a header and stands nowhere."""

    url: str
    where: str  # host and port, for messages
    headers: Mapping[str, str]

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises SettingError for what is not a URL of http or https, as the client that connects reads it."""
        try:
            parts, target = urlsplit(url), URL(url)
            host = (target.host and target.raw_host) or ""
            if ":" not in host:  # what is not an address is looked up as a name, whose parts have lengths
                host.encode("idna")
        except ValueError as error:
            raise SettingError(f"{url:.200} is not a valid URL ({error})") from None
        if target.scheme not in ("http", "https") or not host:
            raise SettingError(f"{url:.200} is not a valid URL: it needs http:// or https:// and a host")
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
        self._headers = _sendable(headers or {})
        self._sessions = PerLoop(self._open)
        self._worked: set[str] = set()
        self._failures: dict[str, tuple[int, int]] = {}  # address -> (status, replies with it in a row)

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
            return await self.read(response, {**(headers or {}), **(params or {})}, text=text, request=(params, body))

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
        """A response whose body the block reads, piece by piece.

        Raises SearchError as `request` does, and SettingError for a URL or a proxy that is none.
        """
        address = Address.of(url)
        where, opened = address.where, False
        try:
            async with self._sessions.get().request(
                method,
                address.url,
                params=params,
                json=body,
                headers=_sendable({**address.headers, **(headers or {})}),
                allow_redirects=False,
            ) as response:
                opened = True
                yield response
        except ValueError as error:
            if opened:  # of who reads it
                raise
            raise SettingError(
                f"{where} can't be used ({type(error).__name__}): its name is not valid, or HTTP_PROXY or HTTPS_PROXY "
                "is not a URL like http://host:3128"
            ) from None
        except TimeoutError:
            raise SearchError(f"{where} did not answer in time", transient=True, kind="timeout") from None
        except aiohttp.ClientPayloadError:
            raise SearchError(f"{where} broke off its reply", transient=True, kind="bad_reply") from None
        except aiohttp.ClientResponseError as error:  # of HTTP that it does not speak, or an encoding not asked for
            message = f"{where} sent a reply that is not valid HTTP ({type(error).__name__})"
            raise SearchError(message, transient=True, kind="bad_reply") from None
        except (aiohttp.ClientError, OSError) as error:
            message = f"{where} could not be reached ({type(error).__name__})"
            raise SearchError(message, transient=True, kind="connection") from None

    async def read(
        self,
        response: aiohttp.ClientResponse,
        secrets: Mapping[str, str] | None = None,
        text: bool = False,
        request: Any = None,
    ) -> Reply:
        """The whole of a response.

        Args:
          secrets: what was sent with it whose values are struck out of its words.
          request: what else was sent. A model wrote some of it: a service that repeats "insufficient_quota" out of a
            query does not say so of its account.
        """
        where = response.url.authority
        status, wait = response.status, read_retry_after(response.headers.get("Retry-After"))
        raw = await self._bytes(response, where)
        worked = where in self._worked
        request_headers = {**self._headers, **response.request_info.headers, **(secrets or {})}
        try:
            data = parse_json(raw)
        except ValueError:
            data = raw.decode("utf-8", "replace") if text or response.content_type == "text/plain" else None
            if status == 200 and not text:
                words = _without(_words_of_body(raw), request_headers)
                message = f"{where} sent no valid JSON{f': {words}' if words else ''}"
                raise SearchError(message, transient=True, kind="bad_reply") from None
        if says_of_account(data):
            sent = [text for text in _texts_of(request) if says_of_account(text)]
            repeated = re.compile("|".join(map(re.escape, sent)) or "$.", re.IGNORECASE)
            data = _in_words(data, lambda words: repeated.sub("…", words))
        if 200 <= status < 300:
            self._worked.add(where)
            self._failures.pop(where, None)
            if isinstance(data, dict) and service_words(data):  # a failure under HTTP 200, perhaps
                data = _in_words(data, lambda words: _without(words, request_headers))
            return Reply(status, data, worked=worked)
        last, count = self._failures.get(where, (status, 0))
        count = count + 1 if last == status else 1
        self._failures[where] = status, count
        words = _without(service_words(data) or _words_of_body(raw), request_headers)
        if wait is None and status in _BUSY:
            wait = wait_in_words(data)
        return Reply(status, data, wait, words, worked, count)

    def without_keys(self, words: str, response: aiohttp.ClientResponse) -> str:
        """What a service said, without the keys that it was sent."""
        return _without(words, {**self._headers, **response.request_info.headers})

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


def _sendable(headers: Mapping[str, str]) -> dict[str, str]:
    """Headers as they can be sent: without the line's end that a key has which was read from a file.

    Raises SettingError naming a header that holds another control character.
    """
    sendable = {name: value.strip() for name, value in headers.items()}
    for name, value in sendable.items():
        if any(unicodedata.category(char) == "Cc" for char in value):
            raise SettingError(
                f"the header {name} holds a line break or another control character: check the key that it is made of"
            )
    return sendable


def check_status(reply: Reply, where: str) -> Any:
    """The data of a 2xx reply; any other status as the SearchError it means.

    What can never work ends the run, in the service's own words: 401, 402, 407, 498, an account without credit and a
    key that is called wrong whatever the status, and, while no request has worked yet (a firewall may refuse one of
    many), 403, any other status that neither is transient nor refuses a request, and a refusal of every one of the
    first requests. 429 and a 403 that asks to wait, what is busy or locked (408, 409, 423, 425 ...) and most of 5xx are
    transient; 400, 413, 414, 415, 422 and 431, and later a firewall's 403, 405, 406, 418 and 451, refuse this request,
    unless nothing else is answered any more: a key taken back is no firewall. A success without content, or with a part
    of it, is a failure.
    """
    status = reply.status
    if status in (200, 201):
        return reply.data
    if 200 < status < 300:
        message = f"{where} answered without the whole of a result (HTTP {status})"
        raise SearchError(message, transient=True, kind="bad_reply")
    words = f": {reply.words}" if reply.words else ""
    if status == 402 or lacks_credit(reply.data):
        raise FatalSearchError(f"the account at {where} has no credit left (HTTP {status}){words}", kind="no_credit")
    throttles = status == 429 or (
        status == 403 and (throttled(reply.data) or (reply.worked and reply.retry_after is not None))
    )
    of_login = status in _LOGIN or wrong_key(reply.data)
    if of_login or (not reply.worked and not throttles and (status == 403 or unauthorized(reply.data))):
        message = f"{where} refused the key or login (HTTP {status}); check it and run again{words}"
        raise FatalSearchError(message, kind="auth")
    kind = "throttled" if throttles else f"http_{status}"
    refused = status in _REFUSED or (status in _FIREWALL and reply.worked and not throttles)
    transient = throttles or status in _TRANSIENT or (status >= 500 and status not in _IMPOSSIBLE)
    if not reply.worked and not refused and not transient:
        what = "has nothing at this address" if status == 404 else "can't be used at this address"
        if 300 <= status < 400:
            what = "leads to another address, which is not followed; give that one"
        raise FatalSearchError(f"{where} {what} (HTTP {status}){words}", kind=kind)
    for_good = not reply.worked or status in _FIREWALL or unauthorized(reply.data)
    if refused and reply.failures >= _REFUSALS and for_good:
        which = "last" if reply.worked else "first"
        message = f"{where} refused each of the {which} {reply.failures} requests (HTTP {status}){words}"
        raise FatalSearchError(message, kind=kind)
    if refused:
        message = f"the service does not take this request (HTTP {status})"
        raise SearchError(message, transient=False, refused=True, kind=kind)
    raise SearchError(
        f"{where} answered HTTP {status}{words}", transient=transient, kind=kind, retry_after=reply.retry_after
    )


def unusable(data: Any, where: str, why: str) -> SearchError:
    """What it means that a reply under HTTP 200 holds nothing that can be used: `why`, in the service's own words.

    An account without credit and a wrong key are told so, too, by some services, and end the run.
    """
    words = service_words(data)
    words = f": {words}" if words else ""
    if lacks_credit(data):
        return FatalSearchError(f"the account at {where} has no credit left{words}", kind="no_credit")
    if unauthorized(data):
        return FatalSearchError(f"{where} refused the key or login; check it and run again{words}", kind="auth")
    return SearchError(f"{where} {why}{words}", transient=True, kind="bad_reply")


def _words_of_body(raw: bytes) -> str:
    """What the body of a failed reply says where it is not JSON: an event of a stream, or plain text; "" for a page."""
    text = raw[:_BODY_BYTES].decode("utf-8", "replace").strip()
    for line in text.splitlines():
        if line.startswith("data:"):
            try:
                return service_words(parse_json(line.removeprefix("data:")))
            except ValueError:
                return one_line(line.removeprefix("data:"), 300)
    if text[:1] in ("<", "{", "[") or "\0" in text:  # a page; JSON that holds no words, or is broken; no text
        return ""
    return one_line(text, 300)


def _in_words(data: Any, change: Callable[[str], str]) -> Any:
    """A reply with what it says of a failure changed; its other fields may hold results."""
    if isinstance(data, dict):
        return {name: _changed(value, change) if name in WORDS else value for name, value in data.items()}
    return change(data) if isinstance(data, str) else data


def _changed(data: Any, change: Callable[[str], str], depth: int = 16) -> Any:
    """The data with its texts changed, without what nests deeper than words do."""
    if not depth and isinstance(data, dict | list):
        return None
    if isinstance(data, dict):
        return {name: _changed(value, change, depth - 1) for name, value in data.items()}
    if isinstance(data, list):
        return [_changed(value, change, depth - 1) for value in data]
    return change(data) if isinstance(data, str) else data


def _texts_of(data: Any, depth: int = 8) -> Iterator[str]:
    """The texts of what was sent."""
    if isinstance(data, str):
        yield data
    elif depth and isinstance(data, Mapping):
        for value in data.values():
            yield from _texts_of(value, depth - 1)
    elif depth and isinstance(data, list | tuple):
        for value in data:
            yield from _texts_of(value, depth - 1)


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
