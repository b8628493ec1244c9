"""A chat model behind an OpenAI-compatible endpoint: whole replies, or streamed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from PIL import Image
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from hypereyes_jax.env.media.images import data_uri
from hypereyes_jax.env.types import FatalSearchError, Part, SearchError
from hypereyes_jax.env.web.http import HttpLimits, JsonHttp, Reply, check_status
from hypereyes_jax.env.web.per_loop import PerLoop
from hypereyes_jax.env.web.untrusted import parse_json


class ChatError(Exception):
    """The endpoint gave no usable reply; the message holds no key.

    transient: trying again may help. fatal: no later request can work either (the key is refused).
    """

    def __init__(self, message: str, *, transient: bool, fatal: bool = False):
        super().__init__(message)
        self.transient = transient
        self.fatal = fatal


@dataclass(frozen=True)
class ChatEndpoint:
    url: str  # base, such as "http://127.0.0.1:8000/v1"
    model: str
    api_key: str = field(default="", repr=False)
    timeout: float = 120.0  # seconds, one attempt
    attempts: int = 3
    in_flight: int = 64  # requests at a time
    image_side: int = 2048  # pixels; images are scaled down to it before they are sent


@dataclass(frozen=True)
class ChatReply:
    text: str
    finish_reason: str  # "stop", "length", ...
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatClient:
    """Messages are (role, parts) pairs, where parts are texts and images in order."""

    def __init__(self, endpoint: ChatEndpoint, backoff: float = 0.5):
        self.endpoint = endpoint
        self._backoff = backoff
        headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
        self._url = endpoint.url.rstrip("/") + "/chat/completions"
        self._where = urlsplit(self._url).netloc
        self._http = JsonHttp(HttpLimits(total=endpoint.timeout), headers)
        self._slots = PerLoop(lambda: asyncio.Semaphore(endpoint.in_flight))

    async def complete(
        self,
        messages: Sequence[tuple[str, Sequence[Part]]],
        *,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        stop: Sequence[str] = (),
    ) -> ChatReply:
        """One whole reply; transient failures are tried again. Raises ChatError."""
        body = self._body(messages, temperature, max_tokens, stop)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.endpoint.attempts),
            wait=wait_random_exponential(multiplier=self._backoff, max=30),
            retry=retry_if_exception(lambda error: isinstance(error, ChatError) and error.transient),
            reraise=True,
        )
        reply: ChatReply = await retrying(self._ask, body)
        return reply

    async def stream(
        self,
        messages: Sequence[tuple[str, Sequence[Part]]],
        *,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        stop: Sequence[str] = (),
    ) -> AsyncIterator[str | ChatReply]:
        """Yields pieces of text as they are written, then the whole ChatReply. Not tried again. Raises ChatError."""
        body = self._body(messages, temperature, max_tokens, stop)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        pieces: list[str] = []
        finish = ""
        usage: Any = None
        try:
            async with self._http.session().post(self._url, json=body, allow_redirects=False) as response:
                if response.status != 200:
                    check_status(Reply(response.status, None), self._where)
                async for event in _events(response):
                    usage = event.get("usage") or usage
                    for choice in event.get("choices") or []:
                        finish = choice.get("finish_reason") or finish
                        piece = (choice.get("delta") or {}).get("content")
                        if piece:
                            pieces.append(piece)
                            yield piece
        except SearchError as error:
            raise _chat_error(error) from None
        except (aiohttp.ClientError, OSError, ValueError, AttributeError) as error:
            raise ChatError(f"{self._where} broke off its stream ({type(error).__name__})", transient=True) from None
        yield ChatReply("".join(pieces), finish, *_usage(usage))

    async def aclose(self) -> None:
        await self._http.aclose()

    async def _ask(self, body: dict[str, Any]) -> ChatReply:
        try:
            async with self._slots.get():
                data = check_status(await self._http.request("POST", self._url, body=body), self._where)
        except SearchError as error:
            raise _chat_error(error) from None
        try:
            choice = data["choices"][0]
            text, finish = choice["message"]["content"], choice.get("finish_reason")
        except (KeyError, IndexError, TypeError, AttributeError):
            text = None
            finish = None
        if not isinstance(text, str):
            raise ChatError(f"{self._where} sent a reply without a message", transient=True)
        return ChatReply(text, str(finish or ""), *_usage(data.get("usage")))

    def _body(
        self, messages: Sequence[tuple[str, Sequence[Part]]], temperature: float, max_tokens: int, stop: Sequence[str]
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [{"role": role, "content": self._content(parts)} for role, parts in messages],
            "temperature": temperature,
            "max_tokens": max_tokens,
        }
        return body | {"stop": list(stop)} if stop else body

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
    return ChatError(str(error), transient=error.transient, fatal=isinstance(error, FatalSearchError))


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON events of a server-sent stream, up to its [DONE]."""
    async for raw in response.content:
        line = raw.decode("utf-8", "replace").strip()
        if not line.startswith("data:"):
            continue
        payload = line.removeprefix("data:").strip()
        if payload == "[DONE]":
            return
        event = parse_json(payload)
        if not isinstance(event, dict):
            raise ValueError("an event is not an object")
        yield event


def _usage(usage: Any) -> tuple[int, int]:
    usage = usage if isinstance(usage, dict) else {}
    counts = (usage.get("prompt_tokens"), usage.get("completion_tokens"))
    prompt, completion = (count if isinstance(count, int) else 0 for count in counts)
    return prompt, completion
