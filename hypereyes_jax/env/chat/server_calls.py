"""The tool calls that an endpoint has parsed out of a reply itself."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH, parse_turn
from hypereyes_jax.env.chat.error import ChatError
from hypereyes_jax.env.tag_text import CALL
from hypereyes_jax.env.web.untrusted import encodable, json_or_none, parse_json

_TRIED_PIECES, _TRIED_CHARACTERS = 256, 65_536  # of a call's arguments, after each of which they may be whole
_NAME_CHARACTERS = 1000  # of a function's name, which may come in pieces
_CALL_CHARACTERS = 100  # what a call without arguments counts for in the bound on a reply
_CALLS_END = ("tool_calls", "function_call", "tool_use")  # why a reply ends that holds calls


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
    if "arguments" in function:
        return function
    return {**function, "arguments": function.get("input", function.get("parameters"))}


class ServerCalls:
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
                before = self._calls[self._at[index]]
                if number and number == before.id and "".join(before.pieces) == function["arguments"]:
                    continue  # the whole of a call once more, behind its pieces
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
                if piece and entry.pieces == ["{}"]:  # which stood for arguments to come
                    entry.pieces.clear()
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
