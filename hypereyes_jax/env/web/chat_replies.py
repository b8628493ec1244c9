"""Reading what OpenAI-compatible endpoints send: whole replies and event streams, in the shapes that are in use."""

from __future__ import annotations

import contextlib
import json
import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH, parse_turn
from hypereyes_jax.env.tag_text import CALL
from hypereyes_jax.env.web.service_words import lacks_credit, service_words
from hypereyes_jax.env.web.untrusted import encodable, json_or_none, one_line, parse_json

_EVENT_BYTES = 8 << 20
_TRIED_LINES = 64  # of an event, after each of which it may be whole; a longer one is read at its empty line
_TRIED_PIECES, _TRIED_CHARACTERS = 256, 65_536  # of a call's arguments, after each of which they may be whole
_MOST_TOKENS = 2**48  # of a reply: whatever counts more counts something else
_STRAY_BYTES = 65_536  # of a stream that are kept of lines between its events
_REPLY_CHARACTERS = 16 << 20  # far beyond any limit on a turn's tokens: a server that never ends is not a model
# Names that servers give the end of a reply that was not written to its end, or that was taken away by a filter.
_BROKEN = re.compile(
    r"error|abort|cancel|time_?out|fail|incomplete|resource|malformed|unexpected|interrupt|overload", re.IGNORECASE
)
_FILTERED = re.compile(r"filter|safety|recitation|blocklist|prohibited|sensitive|spii|guardrail", re.IGNORECASE)
_NAME_CHARACTERS = 1000  # of a function's name, which may come in pieces
_CALL_CHARACTERS = 100  # what a call without arguments counts for in the bound on a reply
_CUT_OFF = re.compile(
    r"(?:\w+_)?length(?:_limit|_exceeded)?|max_(?:\w+_)?tokens|\w*context_window_exceeded|token_limit|truncated",
    re.IGNORECASE,
)
_CALLS_END = ("tool_calls", "function_call", "tool_use")  # why a reply ends that holds calls
_TEXT_PARTS = ("text", "output_text")


class ChatError(Exception):
    """The endpoint gave no usable reply; the message holds no key.

    transient: trying again may help. fatal: no later request can work either (the key is refused). tokens: (read,
    written) by the replies before it, where an episode failed in the middle.
    """

    def __init__(self, message: str, *, transient: bool, fatal: bool = False, retry_after: float | None = None):
        super().__init__(message)
        self.transient = transient
        self.fatal = fatal
        self.retry_after = retry_after
        self.tokens = (0, 0)

    def saying(self, message: str) -> ChatError:
        """The same failure in other words."""
        return ChatError(message, transient=self.transient, fatal=self.fatal, retry_after=self.retry_after)


@dataclass(frozen=True)
class WholeReply:
    """The JSON that a server sent in one piece where a stream of events was asked for."""

    data: Any


@dataclass(frozen=True)
class Stray:
    """Words in a stream of events that are of none of them."""

    words: str


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
    calls = _Calls()
    calls.add(message.get("tool_calls"), whole=True)
    if not calls:  # some servers give the one call in both forms
        calls.add_only(message.get("function_call"))
    reasoning = text_of(message.get("reasoning_content") or message.get("reasoning")) or ""
    finish = _finish(choice.get("finish_reason"))
    _check_end(finish, _refusal_of(message) if not text and not calls else "", where)
    calls.check(text, finish, where)
    if text_of(message.get("content")) is None and not calls and not reasoning and finish != "length":
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
        self._calls = _Calls()
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
    name = value if isinstance(value, str) else ""
    return "length" if _CUT_OFF.fullmatch(name) else name


def error_of(data: Mapping[str, Any], where: str) -> ChatError:
    """What a reply or an event says went wrong."""
    error = data.get("error")
    code = error.get("code") if isinstance(error, dict) else data.get("code")
    fatal = lacks_credit(data) or str(code) in ("401", "402", "404")
    words = service_words(data) or "it did not say what"
    return ChatError(f"{where} failed: {words}", transient=not fatal, fatal=fatal)


def text_of(content: Any) -> str | None:
    """Text of a message, given as one string, one part or a list of parts; None for anything else.

    A part of no stated kind is text if it has one; parts of other kinds, such as reasoning, are left out.
    """
    if isinstance(content, str):
        return encodable(content)
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        if isinstance(part, dict) and part.get("type", "text") in _TEXT_PARTS:
            part = part.get("text")
            part = part.get("value") if isinstance(part, dict) else part
        if isinstance(part, str):
            texts.append(part)
    return encodable("".join(texts))


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


async def events(chunks: AsyncIterator[bytes], where: str) -> AsyncIterator[Any]:
    """The JSON values of a server-sent stream, then `None` for its [DONE].

    What is no stream of events from its first line on is one `WholeReply`. JSON between the events, as a proxy writes
    its error into a stream that has begun, is an event, too; other words there are `Stray`. Raises ChatError for what
    is not JSON.
    """
    line = _Line()
    half, begun = b"", False
    data: list[bytes] = []
    waiting_bytes = 0  # bytes of `data`
    plain, is_stream = bytearray(), False  # the lines before the first that a stream of events may have
    stray = _Stray()
    async for chunk in chunks:
        chunk = half + chunk
        if not begun and (len(chunk) >= len(BOM_UTF8) or not BOM_UTF8.startswith(chunk)):
            chunk, begun = chunk.removeprefix(BOM_UTF8), True
        elif not begun:  # a part of the mark, perhaps
            half = chunk
            continue
        half = chunk[-1:] if chunk.endswith(b"\r") else b""  # half of a line's end, perhaps
        lines = line.add(chunk[: len(chunk) - len(half)].replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
        if len(chunk) + line.size + waiting_bytes + len(plain) > _EVENT_BYTES:
            raise ChatError(f"{where} sent an event of more than {_EVENT_BYTES:,} bytes", transient=False)
        for text in lines:
            is_stream = is_stream or _FIELD.match(text) is not None
            if not is_stream:
                plain += text + b"\n"
            if text.startswith(b"data:"):
                # Servers send one line an event; a text cut over several lines is one event until an empty line.
                data.append(text.removeprefix(b"data:").strip())
                waiting_bytes += len(data[-1])
                value = _value(data) if len(data) <= _TRIED_LINES else _PARTIAL
            elif not text.strip() and data:
                payload = b"\n".join(data)
                if not payload.strip():  # an event without data keeps a connection open
                    data, waiting_bytes = [], 0
                    continue
                if (value := _value(data)) is _PARTIAL:
                    words = "" if payload[:1] in b"{[" else f": {one_line(payload.decode('utf-8', 'replace'), 200)}"
                    raise ChatError(f"{where} sent an event that is not JSON{words}", transient=True)
            elif is_stream and text.strip() and not _FIELD.match(text):
                value = stray.add(text)
            else:
                continue
            if value is _DONE:
                yield None
                return
            if value is not _PARTIAL:
                data, waiting_bytes = [], 0
                yield _event(value, where)
    rest = line.rest() if begun else half
    if is_stream and rest.strip() and not _FIELD.match(rest) and (value := stray.add(rest)) is not _PARTIAL:
        yield _event(value, where)
    if not is_stream and not _FIELD.match(rest) and (body := bytes(plain + rest).strip()):
        yield _whole(body, where)
    elif rest.startswith(b"data:"):
        data.append(rest.removeprefix(b"data:").strip())
    if data and (value := _value(data)) is not _PARTIAL:
        yield None if value is _DONE else _event(value, where)
    if words := stray.words():
        yield Stray(words)


class _Stray:
    """Lines of a stream that belong to none of its events."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, line: bytes) -> Any:
        """The JSON value that ends with a line; _PARTIAL where none does. What goes beyond a bound is left out."""
        if self._size + len(line) > _STRAY_BYTES or len(self._lines) == _TRIED_LINES:
            return _PARTIAL
        self._lines.append(line)
        self._size += len(line)
        if not self._lines[0].lstrip().startswith((b"{", b"[")):
            return _PARTIAL
        value = _value(self._lines)
        if not isinstance(value, dict | list):
            return _PARTIAL
        self._lines, self._size = [], 0
        return value[0] if isinstance(value, list) and value else value

    def words(self) -> str:
        """What is left in words; "" for a page, and for JSON without an end."""
        text = b"\n".join(self._lines).decode("utf-8", "replace").strip()
        return "" if text[:1] in ("<", "{", "[") else one_line(text, 200)


class _Line:
    """Puts lines together from pieces, in time linear in their length however small the pieces are."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.size = 0  # bytes of the line whose end has not come

    def add(self, piece: bytes) -> list[bytes]:
        """The lines that a piece completes, without their ends."""
        *lines, rest = piece.split(b"\n")
        if lines:
            lines[0] = self.rest() + lines[0]
            self._pieces, self.size = [], 0
        self._pieces.append(rest)
        self.size += len(rest)
        return lines

    def rest(self) -> bytes:
        return b"".join(self._pieces)


_PARTIAL, _DONE = object(), object()
_FIELD = re.compile(rb":|(?:data|event|id|retry)(?::|$)")  # how a line of a stream of events begins


def _whole(body: bytes, where: str) -> WholeReply:
    try:
        return WholeReply(parse_json(body))
    except ValueError:
        words = one_line(body[:2000].decode("utf-8", "replace"), 200)
        raise ChatError(f"{where} sent neither a stream of events nor JSON: {words}", transient=True) from None


def _event(value: Any, where: str) -> Any:
    if value is None:
        raise ChatError(f"{where} sent an event that is not an object", transient=True)
    return value


def _value(data: list[bytes]) -> Any:
    payload = b"\n".join(data)
    if payload == b"[DONE]":
        return _DONE
    try:
        return parse_json(payload)
    except ValueError:
        return _PARTIAL


@dataclass
class _ServerCall:
    """A function call as a server sends it, piece by piece."""

    id: str
    name: str = ""
    pieces: list[str] = field(default_factory=list)  # of its arguments

    @property
    def is_whole(self) -> bool:
        """Whether its arguments are an object that has ended; of long ones that is not found out."""
        if not self.pieces or len(self.pieces) > _TRIED_PIECES or not self.pieces[-1].rstrip().endswith("}"):
            return False
        return sum(map(len, self.pieces)) <= _TRIED_CHARACTERS and isinstance(json_or_none("".join(self.pieces)), dict)


def _function_of(call: Any) -> Mapping[str, Any] | None:
    """The name and arguments of a call in OpenAI's form, or as others write them; None for what is no call."""
    if not isinstance(call, dict):
        return None
    function = call.get("function", call.get("custom"))
    if function is None and ("name" in call or "arguments" in call):
        function = call
    if not isinstance(function, dict):
        return None
    return function if "arguments" in function else {**function, "arguments": function.get("input")}


class _Calls:
    """Function calls that a server sends apart from the text, whole or piece by piece."""

    def __init__(self) -> None:
        self._calls: list[_ServerCall] = []
        self._at: dict[int, int] = {}  # index of a call, as the server counts -> its place here
        self._unread = False  # whether there was one in a form that is not known
        self.characters = 0  # of all that is kept here

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, calls: Any, whole: bool = False) -> None:
        for place, call in enumerate(calls if isinstance(calls, list) else [calls] if calls else []):
            function = _function_of(call)
            if function is None:
                self._unread |= bool(call) and not (isinstance(call, dict) and call.keys() <= {"index", "id", "type"})
                continue
            index = call.get("index", place)
            index = place if whole or not isinstance(index, int) else index
            number = call.get("id")
            name = function.get("name")
            if name and function.get("arguments") and index in self._at and self._calls[self._at[index]].is_whole:
                del self._at[index]  # a server that numbers nothing begins its next call
            entry = self._entry(index, str(number) if isinstance(number, str | int) and number else "")
            if isinstance(name, str) and encodable(name) != entry.name:  # some servers repeat it in each piece
                entry.name = (entry.name + encodable(name[:_NAME_CHARACTERS]))[:_NAME_CHARACTERS]
            piece = function.get("arguments")
            if isinstance(piece, dict):
                try:
                    piece = json.dumps(piece)
                except RecursionError:
                    piece = "{"  # what nests so deep is no call; the parser says so
            if isinstance(piece, str):
                entry.pieces.append(encodable(piece))
                self.characters += len(piece)

    def _entry(self, index: int, name: str) -> _ServerCall:
        """The call that a piece belongs to: a new one where another id comes, even under an index that was used."""
        entry = self._calls[self._at[index]] if index in self._at else None
        if entry is None or (name and entry.id and entry.id != name):
            self._at[index] = len(self._calls)
            entry = _ServerCall(name)
            self._calls.append(entry)
            self.characters += _CALL_CHARACTERS
        entry.id = entry.id or name
        return entry

    def add_only(self, function: Any) -> None:
        """The one call of the older form, beside which there is no other."""
        if isinstance(function, dict):
            self.add([{"index": 0, "function": function}])

    def check(self, text: str, finish: str, where: str) -> None:
        """Raises ChatError for calls that were sent in an unknown form, or that were to be there and are not.

        Args:
          text: what stands beside them, which may hold them.
        """
        if self._unread:
            raise ChatError(f"{where} sent a tool call in a form that is not known here", transient=False)
        if finish.lower() in _CALLS_END and not self._calls and CALL not in text:
            raise ChatError(f"{where} ended its reply with a tool call ({finish}) that it did not send", transient=True)

    def tags(self, text: str) -> str:
        """The calls as <tool_call> tags; arguments that are not JSON are for the parser to find wrong.

        Args:
          text: what stands beside them. A call that a server parses and leaves in the text, too, is one call.
        """
        tools = {call.name: False for call in self._calls if call.name not in (IMAGE_SEARCH, TEXT_SEARCH)}
        in_text = list(parse_turn(text, tools=tools).calls)
        out = []
        for call in self._calls:
            body = "".join(call.pieces)
            with contextlib.suppress(ValueError, RecursionError):  # then it goes as it came
                body = json.dumps({"name": call.name, "arguments": parse_json(body or "{}")})
            tag = f"<tool_call>{body}</tool_call>"
            action = next(iter(parse_turn(tag, tools=tools).calls), None)
            if action in in_text:
                in_text.remove(action)
            else:
                out.append(tag)
        return "".join(out)
