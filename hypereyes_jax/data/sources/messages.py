"""A message of a conversation: whose it is, what it says and shows, and what it calls."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from hypereyes_jax.data.sources.content_blocks import without_blocks
from hypereyes_jax.data.sources.conversation_marks import (
    cut_off,
    refuse_template,
    without_end,
)
from hypereyes_jax.data.sources.fields import (
    call_in,
    first,
    in_our_places,
    plain_value,
)
from hypereyes_jax.data.sources.media import Clip, Picture, picture
from hypereyes_jax.data.sources.result_order import TEXT_PARTS
from hypereyes_jax.data.sources.turn_checks import NOT_TO_LEARN
from hypereyes_jax.data.sources.types import KEY_TWICE, BadRow
from hypereyes_jax.env.web.untrusted import RepeatedKey

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "chatgpt": "assistant",
    "tool": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "tool_output": "tool",
    "function_response": "tool",
    "environment": "tool",
    "observation": "tool",
    "function": "tool",
    "ipython": "tool",
    "tool_call": "assistant",
    "function_call": "assistant",
}
_CALLS = ("tool_call", "function_call")  # roles whose content is a call in JSON
_THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")  # of a turn, beside its content
# Of a turn, as ms-swift, OpenAI's fine-tuning and axolotl name it.
_WEIGHTS = ("loss", "loss_scale", "weight", "train", "training")
_MASKS = ("masked", "mask", "ignore", "no_loss")  # the other way round
_ARGUMENTS = ("arguments", "parameters", "args", "input")  # of a call beside a text
_THOUGHT_BEFORE_CALL = re.compile(r"\s*(<think>.*?</think>)\s*(.*)", re.DOTALL)
# A place of a picture, as the frameworks and Qwen's own template write it, or Qwen-VL's, which holds the path.
_TAG = re.compile(
    r"(?:<(?P<kind>image|video)>|<\|vision_start\|><\|(?P<pad>image|video)_pad\|><\|vision_end\|>"
    r"|<img>(?P<path>[^<>\n]+)</img>)\n?"
)
_PLACE = re.compile(r"<image>|<video>|<\|(?:image|video)_pad\|>")
_UNTYPED = ("text", "image_url", "image", "video")  # what tells the type of a part that names none
_PICTURE_KEYS = ("image", "image_url", "input_image", "url", "path", "bytes", "base64", "data", "source")


@dataclass(frozen=True)
class Slot:
    """Where the next of the row's pictures goes, or of its videos; or the one of a number."""

    kind: str = "image"
    number: int | None = None


SourcePart = str | Picture | Clip | Slot


def read_message(message: Any, number: int) -> tuple[Role, list[SourcePart], tuple[Any, ...]]:
    """Whose a message is, its parts, and its tool calls as JSON values. Raises BadRow, which names it by its number."""
    if not isinstance(message, Mapping):
        raise BadRow("no message", f"message {number} must be an object with a role and a content")
    message = without_blocks(message)
    name = first((message.get("role"), message.get("from")))
    name = name.lower().replace("-", "_") if isinstance(name, str) else name
    role = _ROLES.get(name) if isinstance(name, str) else None
    if name is None:
        listed = ", ".join(map(repr, message))[:200]
        raise BadRow("no role", f"message {number} needs 'role' and 'content', or 'from' and 'value', and has {listed}")
    if role is None:
        raise BadRow("unknown role", f"message {number} has the role {str(name)[:40]!r}; known are {', '.join(_ROLES)}")
    content = first((message.get("content"), message.get("value")))
    if name in _CALLS:
        thoughts: list[SourcePart] = []
        if isinstance(content, str) and (match := _THOUGHT_BEFORE_CALL.fullmatch(content)):
            thoughts, content = [f"{match[1]}\n"], match[2]
        value = json_in(content, f"the tool call of message {number}") if isinstance(content, str) else content
        return role, thoughts, tuple(value) if isinstance(value, list) else (value,)
    if role == "tool":
        content = _result_text(content)
    parts = _parts(content, number, role)
    if role == "assistant" and parts and isinstance(parts[-1], str):
        parts[-1] = without_end(parts[-1])
    for part in parts:
        if isinstance(part, str) and role != "tool":  # pages may hold anything
            refuse_template(part)
    mark = next((key for key in _WEIGHTS if message.get(key) is not None and not message[key]), None)
    mark = mark or next((key for key in _MASKS if message.get(key) is True), None)
    if role == "assistant" and any(isinstance(part, str) and _PLACE.search(part) for part in parts):
        raise BadRow(
            "image in a turn", f"message {number}, of the assistant, has a place of an image: only a prompt can"
        )
    if role == "assistant" and (end := cut_off(message)):
        raise BadRow(NOT_TO_LEARN, f"message {number} was cut off ({end}), and its end would be learnt as one")
    if role == "assistant" and mark is not None:
        why = f"message {number} is marked as not to be learnt ({mark}: {message[mark]}), and every turn is learnt here"
        raise BadRow(NOT_TO_LEARN, f"{why}: remove the mark if it may be")
    thought = first(message.get(name) for name in _THOUGHTS)
    if role == "assistant" and isinstance(thought, str) and thought.strip():
        parts.insert(0, f"<think>{thought.strip()}</think>\n")
    return role, parts, _calls(message, number)


def words_of(parts: Sequence[SourcePart]) -> str:
    """What is said in a message, without what it shows."""
    return "".join(part for part in parts if isinstance(part, str))


def json_in(text: str, what: str) -> Any:
    """The value of JSON in a text. Raises BadRow, which says of what it is."""
    try:
        return call_in(text)
    except RepeatedKey as error:
        raise BadRow(KEY_TWICE, f"{what} can't be read: {error}") from None
    except ValueError:
        raise BadRow("no tool call" if "call" in what else "no conversation", f"{what} is not JSON") from None


def _result_text(content: Any) -> Any:
    """The result of a tool that is a number, an object, or a list of them that are no parts of a message, as JSON in a
    text; of several texts, each on a line."""
    if isinstance(content, bool | int | float):
        return json.dumps(plain_value(content))
    listed = content if isinstance(content, list) else [content]
    if len(listed) > 1 and all(isinstance(part, str) for part in listed):
        return "\n".join(listed)
    if listed and all(isinstance(part, Mapping) and not _is_part(part) for part in listed):
        return json.dumps(plain_value(content), ensure_ascii=False)
    return content


def _is_part(value: Mapping[str, Any]) -> bool:
    return "type" in value or any(value.get(name) for name in _UNTYPED)


def _calls(message: Mapping[str, Any], number: int) -> tuple[Any, ...]:
    calls = message.get("tool_calls") or ()
    if isinstance(calls, str):
        calls = json_in(calls, f"'tool_calls' of message {number}")
    if not isinstance(calls, list | tuple):
        raise BadRow("no tool call", f"'tool_calls' of message {number} must be a list")
    if not calls and message.get("function_call"):  # the older form, which some libraries write besides
        calls = ({"function": message["function_call"]},)
    out = []
    for call in calls:
        inner = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
            raise BadRow("no tool call", f"a tool call of message {number} has no name")
        arguments = next((inner[key] for key in _ARGUMENTS if inner.get(key) is not None), None)
        out.append({"name": inner["name"], "arguments": arguments})
    return tuple(out)


def _parts(content: Any, number: int, role: Role) -> list[SourcePart]:
    def split(text: str) -> list[SourcePart]:
        if role == "tool":  # of which a page may have any tags
            return _split(text)
        return _split(in_our_places(text)) if role == "user" else [text]

    if content is None:
        return []
    if isinstance(content, str):
        return split(content)
    if not isinstance(content, list):
        raise BadRow("no message", f"the content of message {number} must be a string or a list of parts")
    out: list[SourcePart] = []
    for part in content:
        if isinstance(part, str):
            out += split(part)
            continue
        if not isinstance(part, Mapping):
            raise BadRow("no message", f"a part of message {number} must be a string or an object")
        kind = part.get("type") or next((key for key in _UNTYPED if part.get(key)), None)
        if kind in TEXT_PARTS:
            text = part.get("text")
            if not isinstance(text, str):
                raise BadRow("no message", f"a text part of message {number} has no text")
            out += split(text)
        elif kind in ("image", "image_url", "input_image"):
            values = {key: part[key] for key in _PICTURE_KEYS if part.get(key)}
            out.append(picture(values) if values else Slot(number=_number(part, number)))
        elif kind in ("video", "video_url"):
            values = {key: part[key] for key in ("video", "video_url", "url", "path") if part.get(key)}
            out.append(Clip(picture(next(iter(values.values())))) if values else Slot("video"))
        else:
            listed = ", ".join(map(repr, part))[:100]
            of = f"is of the type {str(kind)[:40]!r}" if kind else f"has no 'type'; it has {listed or 'nothing'}"
            raise BadRow("unknown part", f"a part of message {number} {of}")
    return out


def _number(part: Mapping[str, Any], message: int) -> int | None:
    """Which of the row's pictures a part stands for, where it says so, as TRL's data sets do. Raises BadRow."""
    number = part.get("index")
    if number is None:
        return None
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise BadRow("no message", f"the index of an image in message {message} must be a number, from 0")
    return number


def _split(text: str) -> list[SourcePart]:
    out: list[SourcePart] = []
    at = 0
    for tag in _TAG.finditer(text):
        if tag.start() > at:
            out.append(text[at : tag.start()])
        out.append(picture(tag["path"]) if tag["path"] else Slot(tag["kind"] or tag["pad"]))
        at = tag.end()
    return [*out, text[at:]] if text[at:] else out
