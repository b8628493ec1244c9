"""Reading what OpenAI-compatible endpoints send: whole replies and streams of them, in the shapes that are in use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.env.chat.error import ChatError
from hypereyes_jax.env.chat.event_stream import Stray
from hypereyes_jax.env.chat.server_calls import ServerCalls
from hypereyes_jax.env.web.service_words import lacks_credit, service_words, wrong_key
from hypereyes_jax.env.web.untrusted import encodable, one_line

_MOST_TOKENS = 2**48  # of a reply: whatever counts more counts something else
_REPLY_CHARACTERS = 16 << 20  # far beyond any limit on a turn's tokens: a server that never ends is not a model
# Names that servers give the end of a reply that was not written to its end, or that was taken away by a filter.
_BROKEN = re.compile(
    r"error|abort|cancel|time_?out|fail|incomplete|resource|malformed|unexpected|interrupt|overload", re.IGNORECASE
)
_FILTERED = re.compile(r"filter|refusal|safety|recitation|blocklist|prohibited|sensitive|spii|guardrail", re.IGNORECASE)
_CUT_OFF = re.compile(
    r"(?:\w+_)?length(?:_limit|_exceeded)?|max_(?:\w+_)?tokens|\w*context_window_exceeded|token_limit|truncated",
    re.IGNORECASE,
)
_TEXT_PARTS = ("text", "output_text")
_CALL_PARTS = ("tool_use", "tool_call", "function_call")


@dataclass(frozen=True)
class ChatReply:
    """The reply of a chat model."""

    text: str
    finish_reason: str  # "stop", "length", ...
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning: str = ""  # what the server keeps apart from the text


def read_reply(data: Any, where: str) -> ChatReply:
    """A whole reply. Calls that the server has parsed itself become the tags that `parse_turn` reads.

    Raises:
      ChatError: it holds no message, or an error under HTTP 200.
    """
    body = data[0] if isinstance(data, list) and data else data  # Google's kin put their errors into a list
    if isinstance(body, dict) and _tells_failure(body):
        raise error_of(body, where)
    choice = _first_choice(data)
    if choice.get("error"):
        raise error_of(choice, where)
    message = choice.get("message") or choice.get("delta") or {"content": choice.get("text")}
    if not isinstance(message, dict):
        raise ChatError(f"{where} sent a reply without a message", transient=True)
    text = text_of(message.get("content")) or ""
    calls = ServerCalls()
    calls.add(message.get("tool_calls"), whole=True)
    calls.add(_call_parts(message.get("content")), whole=True)
    if not calls:  # some servers give the one call in both forms
        calls.add_only(message.get("function_call"))
    reasoning = text_of(message.get("reasoning_content") or message.get("reasoning")) or ""
    finish = _finish(choice.get("finish_reason"))
    _check_end(finish, _refusal_of(message) if not text and not calls else "", where)
    calls.check(text, finish, where)
    if not text and not calls and not reasoning and isinstance(body, dict) and service_words(body):
        raise error_of(body, where)
    is_empty = text_of(message.get("content")) is None or not (text or finish)
    if is_empty and not calls and not reasoning and finish != "length":
        raise ChatError(f"{where} sent a reply without a message", transient=True)
    return ChatReply(text + calls.tags(text), finish, *usage_of(data.get("usage")), reasoning=reasoning)


def _tells_failure(data: Mapping[str, Any]) -> bool:
    """Whether a reply or an event is one of a failure, whatever its status was."""
    is_error = bool(data.get("error")) or data.get("object") == "error"
    return is_error or (not data.get("choices") and "usage" not in data and bool(service_words(data)))


def _first_choice(data: Any) -> Mapping[str, Any]:
    """The choice of index 0; an empty one where there is none."""
    choices = data.get("choices") if isinstance(data, dict) else None
    rows = [row for row in choices if isinstance(row, dict)] if isinstance(choices, list) else []
    return next((row for row in rows if row.get("index", 0) in (0, None)), {})


class StreamReader:
    """Puts the events of a stream together. Feed it each event, then ask for the `reply`."""

    def __init__(self, where: str):
        self._where = where
        self._pieces: list[str] = []
        self._reasoning: list[str] = []
        self._characters = 0
        self._refusal: list[str] = []
        self._calls = ServerCalls()
        self._finish = ""
        self._usage: Any = None
        self._stray = ""
        self._done = False

    def end(self) -> None:
        """The server said that the stream is complete."""
        self._done = True

    def feed(self, event: Any) -> str:
        """The text that an event adds. Raises ChatError for an event that tells of a failure or is none."""
        if isinstance(event, Stray):
            self._stray = event.words
            return ""
        if not isinstance(event, dict):
            raise ChatError(f"{self._where} sent an event that is not an object", transient=True)
        if _tells_failure(event):
            raise error_of(event, self._where)
        self._usage = event.get("usage") or self._usage
        choices = event.get("choices")
        text = ""
        for choice in choices if isinstance(choices, list) else []:
            if not isinstance(choice, dict) or choice.get("index", 0) not in (0, None):
                continue
            if choice.get("error"):
                raise error_of(choice, self._where)
            self._finish = _finish(choice.get("finish_reason")) or self._finish
            delta = choice.get("delta")
            if delta is None and not any(self._pieces):  # the whole of it once more ends some streams
                delta = choice.get("message")
            if delta is None and isinstance(choice.get("text"), str):  # of completions
                delta = {"content": choice["text"]}
            if not isinstance(delta, dict):
                continue
            text += text_of(delta.get("content")) or ""
            self._reasoning.append(text_of(delta.get("reasoning_content") or delta.get("reasoning")) or "")
            self._characters += len(self._reasoning[-1])
            self._refusal.append(_refusal_of(delta))
            self._characters += len(self._refusal[-1])
            self._calls.add(delta.get("tool_calls"))
            self._calls.add(_call_parts(delta.get("content")))
            if not delta.get("tool_calls"):
                self._calls.add_only(delta.get("function_call"))
        self._pieces.append(text)
        self._characters += len(text)
        if self._characters + self._calls.characters > _REPLY_CHARACTERS:
            message = f"{self._where} sent a reply of more than {_REPLY_CHARACTERS:,} characters"
            raise ChatError(message, transient=False)
        return text

    def calls(self) -> str:
        """The calls that the server has parsed itself, as tags, without those of the text; "" where there are none."""
        return self._calls.tags("".join(self._pieces))

    def reply(self) -> ChatReply:
        """The whole reply.

        Raises:
          ChatError: the stream broke off (neither a reason for its end nor a closing mark came), ended with an error
            or by a filter, or held a refusal or nothing.
        """
        refusal = "" if any(self._pieces) or self._calls else "".join(self._refusal)
        _check_end(self._finish, refusal, self._where)
        if not self._finish and not self._done:
            words = f": {self._stray}" if self._stray else ""
            raise ChatError(f"{self._where} broke off its stream{words}", transient=True)
        self._calls.check("".join(self._pieces), self._finish, self._where)
        text, reasoning = "".join(self._pieces) + self.calls(), "".join(self._reasoning)
        if not text and not reasoning and self._finish != "length":
            raise ChatError(f"{self._where} sent an empty stream", transient=True)
        return ChatReply(text, self._finish, *usage_of(self._usage), reasoning=reasoning)


def _check_end(finish: str, refusal: str | None, where: str) -> None:
    """Raises ChatError for a reply that was not written to its end, and for one that only refuses."""
    if _BROKEN.search(finish):
        raise ChatError(f"{where} ended its reply with an error ({one_line(finish, 40)})", transient=True)
    if _FILTERED.search(finish):
        raise ChatError(f"{where} cut its reply off by a content filter", transient=False)
    if refusal:
        raise ChatError(f"the model at {where} refused: {one_line(refusal, 200)}", transient=False)


def _finish(value: Any) -> str:
    """Why a reply ended, "length" for each of the names of its limit."""
    value = value.get("type") if isinstance(value, dict) else value  # of SGLang's own replies
    name = value if isinstance(value, str) and value.lower() not in ("null", "none") else ""
    return "length" if _CUT_OFF.fullmatch(name) else name


def error_of(data: Mapping[str, Any], where: str) -> ChatError:
    """What a reply or an event says went wrong."""
    error = data.get("error")
    code = error.get("code") if isinstance(error, dict) else data.get("code")
    fatal = lacks_credit(data) or wrong_key(data) or str(code) in ("401", "402", "404")
    words = service_words(data) or "it did not say what"
    return ChatError(f"{where} failed: {words}", transient=not fatal, fatal=fatal)


def text_of(content: Any) -> str | None:
    """Text of a message, given as one string, one part or a list of parts; None for anything else.

    A part of no stated kind is text if it has one; parts of other kinds, such as reasoning, are left out. What has
    neither kind nor text is no part.
    """
    if isinstance(content, str):
        return encodable(content)
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    texts, is_known = [], not content
    for part in content:
        is_known |= isinstance(part, str) or (isinstance(part, dict) and ("type" in part or "text" in part))
        if isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS and part.get("thought") is not True:
            part = part.get("text")
            part = part.get("value") if isinstance(part, dict) else part
        if isinstance(part, str):
            texts.append(part)
    return encodable("".join(texts)) if is_known else None


def _call_parts(content: Any) -> list[Any]:
    """The parts of a message that are calls, as Anthropic's and Gemini's kin have them."""
    parts = content if isinstance(content, list) else [content]
    return [
        part for part in parts if isinstance(part, dict) and ("functionCall" in part or part.get("type") in _CALL_PARTS)
    ]


def _refusal_of(message: Mapping[str, Any]) -> str:
    """The words with which a message refuses, told in a field or in a part of its content."""
    content = message.get("content")
    parts = [message, *(content if isinstance(content, list) else [content])]
    texts = (text_of(part.get("refusal")) for part in parts if isinstance(part, dict))
    return "".join(text for text in texts if text)


def usage_of(usage: Any) -> tuple[int, int]:
    """(prompt tokens, completion tokens), 0 where they are not told, or are no number that a reply can have.

    Tokens of thoughts are completion tokens, which are paid for: Gemini's endpoint has them in the total alone.
    """
    usage = usage if isinstance(usage, dict) else {}
    counts = [usage.get(f"{name}_tokens") for name in ("prompt", "completion", "total")]
    prompt, completion, total = (count if type(count) is int and 0 <= count <= _MOST_TOKENS else 0 for count in counts)
    return prompt, max(completion, total - prompt if prompt else 0)
