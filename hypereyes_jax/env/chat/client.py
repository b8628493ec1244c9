"""A chat model behind an OpenAI-compatible endpoint: whole replies, or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from hypereyes_jax.env.chat.error import ChatError
from hypereyes_jax.env.chat.event_stream import WholeReply, events
from hypereyes_jax.env.chat.replies import ChatReply, StreamReader, read_reply
from hypereyes_jax.env.media.images import data_uri
from hypereyes_jax.env.types import FatalSearchError, Part, SearchError
from hypereyes_jax.env.web.http import Address, HttpLimits, JsonHttp, Reply, check_status
from hypereyes_jax.env.web.per_loop import PerLoop
from hypereyes_jax.env.web.retries import RetryPolicy, retrying
from hypereyes_jax.env.web.service_words import lacks_credit, wrong_key

__all__ = ["ChatClient", "ChatEndpoint", "ChatError", "ChatReply"]


@dataclass(frozen=True)
class ChatEndpoint:
    """An OpenAI-compatible endpoint, and how it is asked."""

    url: str  # base, such as "http://127.0.0.1:8000/v1"
    model: str
    api_key: str = field(default="", repr=False)
    timeout: float = 300.0  # seconds without a byte of the reply; what makes progress may take any time
    attempts: int = 3
    in_flight: int = 64  # requests at a time
    image_side: int = 2048  # pixels; images are scaled down to it before they are sent


@dataclass(frozen=True)
class _Sampling:
    temperature: float
    max_tokens: int
    stop: tuple[str, ...]
    top_p: float | None


class ChatClient:
    """Messages are (role, parts) pairs, where parts are texts and images in order.

    Args:
      backoff: scale of the waits before a request is tried again, against those of `RetryPolicy`.
    """

    def __init__(self, endpoint: ChatEndpoint, backoff: float = 1.0):
        address = Address.of(endpoint.url.rstrip("/") + "/chat/completions")
        self.endpoint = replace(endpoint, url=Address.of(endpoint.url).url)
        standard = RetryPolicy()
        low, high = standard.backoff
        self._policy = replace(standard, attempts=endpoint.attempts, backoff=(low * backoff, high * backoff))
        self._url, self._where = address.url, address.where
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else dict(address.headers)
        self._http = JsonHttp(HttpLimits(idle=endpoint.timeout), headers)
        self._slots = PerLoop(lambda: asyncio.Semaphore(endpoint.in_flight))
        self._limit_name = "max_tokens"
        self._sends_temperature = True

    async def complete(
        self,
        messages: Sequence[tuple[str, Sequence[Part]]],
        *,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        stop: Sequence[str] = (),
        top_p: float | None = None,
    ) -> ChatReply:
        """One whole reply; transient failures are tried again. Raises ChatError."""
        try:
            reply: ChatReply = await retrying(self._policy)(
                self._ask, messages, _Sampling(temperature, max_tokens, tuple(stop), top_p)
            )
        except SearchError as error:
            raise _chat_error(error) from None
        return reply

    async def stream(
        self,
        messages: Sequence[tuple[str, Sequence[Part]]],
        *,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        stop: Sequence[str] = (),
        top_p: float | None = None,
    ) -> AsyncIterator[str | ChatReply]:
        """Yields pieces of text as they are written, then the whole ChatReply. Not tried again. Raises ChatError."""
        body = self._body(messages, _Sampling(temperature, max_tokens, tuple(stop), top_p))
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        reader = StreamReader(self._where)
        try:
            async with self._slots.get(), self._http.open("POST", self._url, body=body) as response:
                if response.status != 200:
                    self._check(await self._http.read(response))
                try:
                    async for event in events(response.content.iter_any(), self._where):
                        if event is None:
                            reader.end()
                            break
                        if isinstance(event, WholeReply):  # of a server that does not stream
                            reply = read_reply(event.data, self._where)
                            yield reply.text
                            yield reply
                            return
                        if piece := reader.feed(event):
                            yield piece
                except ChatError as error:
                    raise error.saying(self._http.without_keys(str(error), response)) from None
        except SearchError as error:
            raise _chat_error(error) from None
        if calls := reader.calls():
            yield calls
        yield reader.reply()

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _ask(self, messages: Sequence[tuple[str, Sequence[Part]]], sampling: _Sampling) -> ChatReply:
        while True:
            body = self._body(messages, sampling)
            async with self._slots.get():
                reply = await self._http.request("POST", self._url, body=body)
            if not self._adapts_to(reply, body):
                return read_reply(self._check(reply), self._where)

    def _check(self, reply: Reply) -> Any:
        """Does what `check_status` does; but a model that is not there, or takes no request, never will reply."""
        words = f": {reply.words}" if reply.words else ""
        of_account = lacks_credit(reply.data) or wrong_key(reply.data)
        if (reply.status in (404, 410) or (reply.status == 400 and not reply.worked)) and not of_account:
            raise ChatError(f"{self._where} answered HTTP {reply.status}{words}", transient=False, fatal=True)
        if reply.status in (400, 413, 414, 415, 422) and not of_account:
            message = f"{self._where} does not take this request (HTTP {reply.status}){words}"
            raise ChatError(message, transient=False)
        return check_status(reply, self._where)

    def _adapts_to(self, reply: Reply, body: dict[str, Any]) -> bool:
        """Whether a refusal names a field that newer models take otherwise or not at all; the next body heeds it."""
        if reply.status not in (400, 422):
            return False
        if "max_completion_tokens" in reply.words and "max_tokens" in body:
            self._limit_name = "max_completion_tokens"
            return True
        if (
            ("temperature" in reply.words or "top_p" in reply.words)
            and "support" in reply.words
            and "temperature" in body
        ):
            self._sends_temperature = False
            return True
        return False

    def _body(self, messages: Sequence[tuple[str, Sequence[Part]]], sampling: _Sampling) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [{"role": role, "content": self._content(parts)} for role, parts in messages],
            self._limit_name: sampling.max_tokens,
        }
        if self._sends_temperature:  # models that take the one at its default only take the other so, too
            body["temperature"] = sampling.temperature
            if sampling.top_p is not None:
                body["top_p"] = sampling.top_p
        return body | {"stop": list(sampling.stop)} if sampling.stop else body

    def _content(self, parts: Sequence[Part]) -> str | list[dict[str, Any]]:
        if all(isinstance(part, str) for part in parts):
            return "".join(part for part in parts if isinstance(part, str))
        return [
            {"type": "image_url", "image_url": {"url": data_uri(part, "JPEG", self.endpoint.image_side)}}
            if isinstance(part, Image.Image)
            else {"type": "text", "text": part}
            for part in parts
        ]


def _chat_error(error: SearchError) -> ChatError:
    fatal = isinstance(error, FatalSearchError)
    return ChatError(str(error), transient=error.transient, fatal=fatal, retry_after=error.retry_after)
