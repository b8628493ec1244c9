"""Conversations as OpenAI, ms-swift and LLaMA-Factory (ShareGPT, Alpaca) and veRL write them, in one form."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

from hypereyes_jax.data.sources.call_notations import holds_call
from hypereyes_jax.data.sources.columns import Layout
from hypereyes_jax.data.sources.content_blocks import without_blocks
from hypereyes_jax.data.sources.conversation_marks import (
    cut_off,
    refuse_places_of_objects,
    refuse_template,
    without_end,
)
from hypereyes_jax.data.sources.fields import (
    answer_in,
    call_in,
    clips_of,
    first,
    in_our_places,
    is_blank,
    pictures_of,
    plain_value,
    unpacked,
    with_image_ids,
    without_image_tags,
)
from hypereyes_jax.data.sources.media import Clip, Picture, picture
from hypereyes_jax.data.sources.message_shapes import in_usual_shape, looks_like_items, system_in
from hypereyes_jax.data.sources.result_order import TEXT_PARTS, ids_in, in_order_of_calls
from hypereyes_jax.data.sources.turn_checks import NOT_TO_LEARN, shows_result
from hypereyes_jax.data.sources.types import KEY_TWICE, BadRow, Row
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
_PAIRS = (("instruction", "output"), ("query", "response"), ("prompt", "completion"), ("prompt", "response"))
_SIDES = (("user", "assistant"), ("human", "assistant"))
_SHAPES = {"instruction": "Alpaca", "query": "ms-swift", "prompt": "prompt and reply"}


@dataclass(frozen=True)
class SourceMessage:
    """A message of a row in any of the known shapes."""

    role: Role
    parts: tuple[str | Picture | Clip, ...]
    calls: tuple[Any, ...] = ()  # tool calls beside the text, as JSON values: {"name": ..., "arguments": ...}
    ids: tuple[str, ...] = ()  # of its calls, or of those whose results it holds; none where not each has one

    @property
    def text(self) -> str:
        """What it says."""
        return _words_of(self.parts)


@dataclass(frozen=True)
class Conversation:
    """The messages of a row, in order."""

    messages: tuple[SourceMessage, ...]
    tools: bool  # whether the row describes tools of its own
    shape: str


@dataclass(frozen=True)
class _Slot:
    """Where the next of the row's pictures goes, or of its videos; or the one of a number."""

    kind: str = "image"
    number: int | None = None


_Part = str | Picture | Clip | _Slot
Shown = TypeVar("Shown")


def conversation(row: Row, layout: Layout) -> Conversation:
    """The conversation of a row, its pictures at their places. Raises BadRow."""
    if not (is_blank(row.get("audios")) and is_blank(row.get("audio"))):
        raise BadRow("audio", "it has audio, which no model here hears")
    raw, shape = _messages(row, layout)
    raw, foreign = in_usual_shape(raw)
    shape = foreign or shape
    system = system_in(layout.get(row, "system"))
    messages: list[tuple[Role, list[_Part], tuple[Any, ...]]] = []
    if system:
        messages.append(("system", [system], ()))
    raw = in_order_of_calls(raw)
    for number, message in enumerate(raw, start=1):
        messages.append(_read(message, number))
    mask = unpacked(row.get("loss_mask"))
    if isinstance(mask, list) and len(mask) == len(raw) == len(messages) - bool(system):
        turns = [number for number, (role, *_) in enumerate(messages[bool(system) :]) if role == "assistant"]
        if any(not mask[number] for number in turns):
            raise BadRow(NOT_TO_LEARN, "its loss_mask leaves turns of the model out, and every turn is learnt here")
    if isinstance(row.get("objects"), Mapping):
        refuse_places_of_objects(part for _, parts, _ in messages for part in parts if isinstance(part, str))
    messages_with_media = _place(messages, pictures_of(row, layout), clips_of(row, layout))
    for number, message in enumerate(raw, start=len(messages) - len(raw)):
        if ids := ids_in(message):
            messages_with_media[number] = replace(messages_with_media[number], ids=ids)
    return Conversation(tuple(messages_with_media), bool(row.get("tools")), shape)


@dataclass(frozen=True)
class Prompt:
    """What the messages of a question ask."""

    text: str
    pictures: tuple[Picture, ...] = ()  # those that stand in the message itself
    clips: tuple[Clip, ...] = ()
    places: int = 0  # of pictures that stand elsewhere
    alone: bool = True  # no turn of a model comes before it

    def question(self) -> str:
        """The text, where it can be asked without what came before. Raises BadRow."""
        if not self.alone:
            why = "its 'prompt' is a conversation, and its last question can't be used without the turns before it"
            raise BadRow("turns before the question", why)
        return self.text


def prompt_of(messages: Any) -> Prompt:
    """The message of the user in a list of them; what veRL's `prompt` asks. Raises BadRow."""
    if not isinstance(messages, list):
        raise BadRow("no question", "'prompt' must be a string or a list of messages")
    asks = [_read(message, number) for number, message in enumerate(in_usual_shape(messages)[0], start=1)]
    roles = [role for role, *_ in asks]
    if "user" not in roles:
        raise BadRow("no question", "its 'prompt' has no message of the user")
    last = len(roles) - 1 - roles[::-1].index("user")
    alone = "assistant" not in roles[:last]
    parts = _joined([parts for role, parts, _ in asks if role == "user"]) if alone else asks[last][1]
    return Prompt(
        question_text(parts),
        tuple(part for part in parts if isinstance(part, Picture)),
        tuple(part for part in parts if isinstance(part, Clip)),
        sum(isinstance(part, _Slot) and part.kind == "image" for part in parts),
        alone,
    )


def first_prompt(messages: Sequence[SourceMessage]) -> tuple[str | Picture | Clip, ...]:
    """What a conversation asks: all that the user says before the first turn of the model.

    Raises BadRow for a conversation without a question, and for one that asks another when the model has answered: the
    answer at its end is not that of the first, and the others can't be asked without the turns before them.
    """
    first_turn = next((i for i, message in enumerate(messages) if message.role == "assistant"), len(messages))
    prompts = [message.parts for message in messages[:first_turn] if message.role == "user"]
    if not prompts:
        raise BadRow("no question", "its conversation has no message of the user before the model's first")
    called = False
    for message in messages[first_turn:]:
        words = _words_of(message.parts)
        if message.role == "assistant":
            called = bool(message.calls) or holds_call(words)
        elif message.role == "user" and not called and not shows_result(words):
            why = "its conversation asks again when the model has answered, and only its first question stands alone"
            raise BadRow("several questions", f"{why}: give each that can be asked alone a row with its answer")
    return tuple(_joined(prompts))


def _joined(messages: Sequence[Sequence[Shown]]) -> list[Shown | str]:
    """The parts of several messages of the user as those of one."""
    parts: list[Shown | str] = []
    for message in messages:
        parts += ["\n", *message] if parts else message
    return parts


def follows_others(row: Row) -> bool:
    """Whether a row's question comes after turns that stand in its `history`, as LLaMA-Factory's and ms-swift's have
    it."""
    history = unpacked(row.get("history"))
    return (
        isinstance(history, list | tuple)
        and bool(history)
        and all((isinstance(each, list | tuple) and len(each) == 2) or _looks_like_messages([each]) for each in history)
    )


def question_text(parts: Sequence[_Part]) -> str:
    """What a message says, as the text of a question whose pictures are shown before it."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        else:
            is_video = isinstance(part, Clip) or (isinstance(part, _Slot) and part.kind == "video")
            texts.append("<video>" if is_video else "<image>")
    return without_image_tags("".join(texts))


def prompt_in(text: Any) -> Prompt | None:
    """The question of messages, of those in JSON in a text, or of a text that holds paths in <img>; None for others."""
    value = unpacked(text)
    if isinstance(value, list) and (value is text or (value and all(isinstance(part, Mapping) for part in value))):
        return prompt_of(value)
    return prompt_of([{"role": "user", "content": text}]) if isinstance(text, str) and "</img>" in text else None


def final_answer(messages: Sequence[SourceMessage]) -> str | None:
    """What stands in <answer> in the last message of the model; None without it."""
    for message in reversed(messages):
        if message.role == "assistant":
            return answer_in(_words_of(message.parts))
    return None


def holds_conversation(row: Row, layout: Layout) -> bool:
    """Whether a row has messages, or the items of OpenAI's Responses, which end with a reply."""
    if messages_in(layout.get(row, "messages")) is not None:
        return True
    return looks_like_items(row.get("output")) and isinstance(row.get("input"), str | list)


def reply_in(value: Any) -> Any:
    """What the last of messages says, where a column of answers holds messages, as TRL's `completion` does; other
    values as they are. Raises BadRow."""
    if not value or not _looks_like_messages(value):
        return value
    _, parts, _ = _read(value[-1], len(value))
    return _words_of(parts)


def _words_of(parts: Sequence[_Part]) -> str:
    return "".join(part for part in parts if isinstance(part, str))


def messages_in(value: Any) -> list[Any] | None:
    """The messages that a column holds: a list, one in JSON in a text, or a list for each of their fields, as
    `datasets` saves a `Sequence` of objects; None for anything else. Raises BadRow for a text that is not JSON."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _json(value, "its conversation")
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        columns = [part for part in value.values() if isinstance(part, list)]
        if len(columns) == len(value) and len({len(column) for column in columns}) == 1:
            return [dict(zip(value, parts, strict=True)) for parts in zip(*columns, strict=True)]
    if isinstance(value, list) and value and all(isinstance(part, Mapping) and _sides(part) for part in value):
        return [
            {"role": role, "content": part[name]}
            for part in value
            for role, name in zip(("user", "assistant"), _sides(part), strict=True)
        ]
    return value if isinstance(value, list) else None


def _sides(part: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which an exchange holds what was asked and what was said, as The Cauldron has them; () in
    another object."""
    return next((names for names in _SIDES if all(isinstance(part.get(name), str) for name in names)), ())


def _messages(row: Row, layout: Layout) -> tuple[list[Any], str]:
    value = messages_in(layout.get(row, "messages"))
    if value is not None:
        keys = value[0] if value and isinstance(value[0], Mapping) else {}
        if "from" in keys:
            return value, "ShareGPT"
        if any(isinstance(m, Mapping) and m.get("role") in ("tool_call", "tool_response") for m in value):
            return value, "ms-swift"
        return value, "messages"
    for reply, shape in (("response", "veRL"), ("completion", "TRL")):
        said = row.get(reply)
        if isinstance(row.get("prompt"), list) and isinstance(said, str | list):
            said = [{"role": "assistant", "content": said}] if isinstance(said, str) else said
            return [*row["prompt"], *said], shape
    if looks_like_items(row.get("output")) and isinstance(row.get("input"), str | list):
        prompt = [{"role": "user", "content": row["input"]}] if isinstance(row["input"], str) else row["input"]
        return [*prompt, *row["output"]], "Responses"
    for question, reply in _PAIRS:
        if isinstance(row.get(question), str) and isinstance(row.get(reply), str):
            text = "\n".join(part for part in (row[question], row.get("input")) if isinstance(part, str) and part)
            talk: list[Any] = []
            history = unpacked(row.get("history"))
            history = [] if is_blank(history) else history
            if not isinstance(history, list | tuple) or any(
                not isinstance(pair, list | tuple) or len(pair) != 2 for pair in history
            ):
                raise BadRow("no conversation", "'history' must be a list of pairs: what was asked, what was said")
            for instruction, said in history:
                talk += [{"role": "user", "content": instruction}, {"role": "assistant", "content": said}]
            return [
                *talk,
                {"role": "user", "content": text},
                {"role": "assistant", "content": row[reply]},
            ], _SHAPES[question]
    named = next((path for name, value in row.items() for path in _paths_of_messages(name, value)), None)
    cure = f": name the right one by --columns messages={named}" if named else ""
    raise BadRow(
        "no conversation",
        "it has no conversation to learn from ('messages', or 'observations' and 'turns'); its columns are "
        f"{', '.join(map(repr, row))[:300]}{cure}",
    )


def _paths_of_messages(name: str, value: Any) -> list[str]:
    """A column that seems to hold messages, or the parts of it that do."""
    if _looks_like_messages(value):
        return [name]
    parts = value.items() if isinstance(value, Mapping) else ()
    return [f"{name}.{part}" for part, inner in parts if _looks_like_messages(inner)]


def _looks_like_messages(value: Any) -> bool:
    parts = value if isinstance(value, list) else [None]
    return bool(parts) and all(isinstance(part, Mapping) and ("role" in part or "from" in part) for part in parts)


def _read(message: Any, number: int) -> tuple[Role, list[_Part], tuple[Any, ...]]:
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
        thoughts: list[_Part] = []
        if isinstance(content, str) and (match := _THOUGHT_BEFORE_CALL.fullmatch(content)):
            thoughts, content = [f"{match[1]}\n"], match[2]
        value = _json(content, f"the tool call of message {number}") if isinstance(content, str) else content
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
        calls = _json(calls, f"'tool_calls' of message {number}")
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


def _parts(content: Any, number: int, role: Role) -> list[_Part]:
    def split(text: str) -> list[_Part]:
        if role == "tool":  # of which a page may have any tags
            return _split(text)
        return _split(in_our_places(text)) if role == "user" else [text]

    if content is None:
        return []
    if isinstance(content, str):
        return split(content)
    if not isinstance(content, list):
        raise BadRow("no message", f"the content of message {number} must be a string or a list of parts")
    out: list[_Part] = []
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
            out.append(picture(values) if values else _Slot(number=_number(part, number)))
        elif kind in ("video", "video_url"):
            values = {key: part[key] for key in ("video", "video_url", "url", "path") if part.get(key)}
            out.append(Clip(picture(next(iter(values.values())))) if values else _Slot("video"))
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


def _split(text: str) -> list[_Part]:
    out: list[_Part] = []
    at = 0
    for tag in _TAG.finditer(text):
        if tag.start() > at:
            out.append(text[at : tag.start()])
        out.append(picture(tag["path"]) if tag["path"] else _Slot(tag["kind"] or tag["pad"]))
        at = tag.end()
    return [*out, text[at:]] if text[at:] else out


def _place(
    messages: Sequence[tuple[Role, list[_Part], tuple[Any, ...]]],
    pictures: Sequence[Picture],
    clips: Sequence[Clip],
) -> list[SourceMessage]:
    """The n-th <image> of the whole conversation is the n-th picture; without any, all come before the question, in
    which their ids take places that count them (<image_2>).

    So it is with <video> and the videos.
    """
    media: dict[str, list[Picture | Clip]] = {"image": list(pictures), "video": list(clips)}
    lead: list[Picture | Clip] = []
    counted = 0  # pictures that come before the question, which places that count them may name
    for kind, rest in media.items():
        all_slots = [part for _, parts, _ in messages for part in parts if isinstance(part, _Slot)]
        slots = sum(slot.kind == kind and slot.number is None for slot in all_slots)
        numbers = [slot.number for slot in all_slots if slot.kind == kind and slot.number is not None]
        if numbers and (slots or max(numbers) >= len(rest)):
            raise BadRow(
                f"{kind}s and places differ",
                f"its parts name the {kind}s {numbers[:10]}, and it has {len(rest)}, each of which must be named",
            )
        there = Picture if kind == "image" else Clip
        inside = any(isinstance(part, there) for _, parts, _ in messages for part in parts)
        if slots and slots != len(rest):
            raise BadRow(f"{kind}s and tags differ", f"it has {slots} <{kind}> tags and {len(rest)} {kind}s")
        if not (slots or numbers or inside):
            lead += rest
            counted = len(rest) if kind == "image" else counted
    out = []
    for role, parts, calls in messages:
        filled = [_filled(part, media) if isinstance(part, _Slot) else part for part in parts]
        if role in ("system", "assistant") and any(isinstance(part, Picture | Clip) for part in filled):
            raise BadRow("image in a turn", f"a message of the {role} holds an image, which only a prompt can")
        if role == "user" and counted:
            filled = [with_image_ids(part, counted) if isinstance(part, str) else part for part in filled]
        if role == "user" and lead:
            filled, lead = [*lead, *filled], []
        out.append(SourceMessage(role, tuple(filled), calls))
    return out


def _filled(slot: _Slot, media: Mapping[str, list[Picture | Clip]]) -> Picture | Clip:
    return media[slot.kind].pop(0) if slot.number is None else media[slot.kind][slot.number]


def _json(text: str, what: str) -> Any:
    try:
        return call_in(text)
    except RepeatedKey as error:
        raise BadRow(KEY_TWICE, f"{what} can't be read: {error}") from None
    except ValueError:
        raise BadRow("no tool call" if "call" in what else "no conversation", f"{what} is not JSON") from None
