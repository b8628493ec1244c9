"""Reading a stream of server-sent events, and what servers send in place of one or between its events."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.env.chat.error import ChatError
from hypereyes_jax.env.web.untrusted import one_line, parse_json

_EVENT_BYTES = 8 << 20
_TRIED_LINES = 64  # of an event, after each of which it may be whole; a longer one is read at its empty line
_STRAY_BYTES = 65_536  # of a stream that are kept of lines between its events
_PARTIAL, _DONE = object(), object()
_FIELD = re.compile(rb":|(?:data|event|id|retry)(?::|$)")  # how a line of a stream of events begins


@dataclass(frozen=True)
class WholeReply:
    """The JSON that a server sent in one piece where a stream of events was asked for."""

    data: Any


@dataclass(frozen=True)
class Stray:
    """Words in a stream of events that are of none of them."""

    words: str


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
    stray, is_error = _Stray(), False
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
            if (unpadded := text.lstrip(b" \t\0")).startswith(b"data:"):
                text = unpadded
            is_stream = is_stream or _FIELD.match(text) is not None
            if not is_stream:
                plain += text + b"\n"
            if text.startswith(b"event:"):
                is_error = text.removeprefix(b"event:").strip() == b"error"
            if is_stream and text.startswith(b"error:"):
                failure = text.removeprefix(b"error:").strip()
                value, is_error = _value([failure]), True
                value = {"error": one_line(failure.decode("utf-8", "replace"), 200)} if value is _PARTIAL else value
            elif text.startswith(b"data:"):
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
                yield _event(_failure(value) if is_error else value, where)
                is_error = False
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


def _whole(body: bytes, where: str) -> WholeReply:
    try:
        return WholeReply(parse_json(body))
    except ValueError:
        words = one_line(body[:2000].decode("utf-8", "replace"), 200)
        raise ChatError(f"{where} sent neither a stream of events nor JSON: {words}", transient=True) from None


def _failure(value: Any) -> Any:
    """What an event named "error" holds, as one that says so in its data, too."""
    return value if isinstance(value, dict) and value.get("error") else {"error": value or "it did not say what"}


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
