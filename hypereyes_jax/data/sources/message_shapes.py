"""Messages as Gemini, LangChain and OpenAI's Responses and Harmony have them, in the form of OpenAI's chat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypereyes_jax.data.sources.fields import plain_value
from hypereyes_jax.data.sources.types import BadRow

_LANGCHAIN_TYPES = ("human", "ai", "system", "tool", "function")
_KINDS_OF_MEDIA = ("image", "video")  # that a prompt may show, by the first part of a MIME type
_CALL_BESIDE = "additional_kwargs"  # of LangChain's messages: what a provider sent that has no field of its own


def in_usual_shape(messages: Sequence[Any]) -> tuple[list[Any], str]:
    """(messages with a role and a content each, the name of the shape they had); "" where they are as they were.

    Raises BadRow for a message or a part of these shapes that has no counterpart.
    """
    listed = [_from_harmony(message) for message in messages]
    if any(new is not old for new, old in zip(listed, messages, strict=True)):
        return listed, "Harmony"
    listed = [_from_langchain(message) for message in messages]
    if any(new is not old for new, old in zip(listed, messages, strict=True)):
        return listed, "LangChain"
    if any(_is_gemini(message) for message in messages):
        return [new for i, message in enumerate(messages, 1) for new in _from_gemini(message, i)], "Gemini"
    if any(_is_item(message) for message in messages):
        return _from_items(messages), "Responses"
    return list(messages), ""


def looks_like_items(value: Any) -> bool:
    """Whether it is what OpenAI's Responses give as `output`."""
    return isinstance(value, list) and any(_is_item(part) for part in value)


def system_in(value: Any) -> str:
    """The text of a system prompt, as text or in Gemini's parts; "" for anything else."""
    if isinstance(value, Mapping) and isinstance(value.get("parts"), list | Mapping):
        parts = value["parts"] if isinstance(value["parts"], list) else [value["parts"]]
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
        return "\n".join(text for text in texts if isinstance(text, str))
    return value if isinstance(value, str) else ""


def _from_harmony(message: Any) -> Any:
    """A message of a channel as OpenAI's Harmony has it: thoughts in `analysis`, calls to a recipient, answers in
    `final`; any other one as it is."""
    if not isinstance(message, Mapping) or message.get("role") != "assistant":
        return message
    channel, content, recipient = message.get("channel"), message.get("content"), message.get("recipient")
    text = "".join(_texts(content))
    if isinstance(recipient, str) and recipient not in ("", "all"):
        return {"role": "assistant", "content": None, "tool_calls": [{"name": recipient, "arguments": text}]}
    if channel == "analysis":
        return {"role": "assistant", "content": None, "reasoning_content": text}
    return message


def _from_langchain(message: Any) -> Any:
    """A message of LangChain as `messages_to_dict`, `dumpd` and `model_dump` write it; any other one as it is."""
    if not isinstance(message, Mapping) or message.get("role") is not None or message.get("from") is not None:
        return message
    kind, inner = message.get("type"), message
    if isinstance(message.get("kwargs"), Mapping):
        name = message["id"][-1] if isinstance(message.get("id"), list) and message["id"] else None
        kind, inner = str(name).removesuffix("Chunk").removesuffix("Message").lower(), message["kwargs"]
    elif isinstance(message.get("data"), Mapping):
        inner = message["data"]
    elif "content" not in message:  # a table has the fields of all messages in each
        return message
    kind = str(kind).removesuffix("MessageChunk").lower()
    if kind not in _LANGCHAIN_TYPES:
        return message
    beside = inner.get(_CALL_BESIDE)
    beside = beside if isinstance(beside, Mapping) else {}
    fields = {key: value for key, value in inner.items() if key not in ("type", "id", _CALL_BESIDE)}
    for key in ("tool_calls", "function_call", "reasoning_content"):
        if not fields.get(key) and beside.get(key):
            fields[key] = beside[key]
    return {**fields, "role": kind}


def _is_gemini(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("parts") is not None and message.get("content") is None


def _from_gemini(message: Any, number: int) -> list[Any]:
    if not _is_gemini(message):
        return [message]
    parts = message["parts"] if isinstance(message["parts"], list | tuple) else [message["parts"]]
    content: list[Any] = []
    calls: list[Any] = []
    results: list[Any] = []
    for part in parts:
        if isinstance(part, str):
            content.append({"type": "text", "text": part})
            continue
        if not isinstance(part, Mapping):
            raise BadRow("no message", f"a part of message {number} must be a string or an object")
        fields = {_snake(key): value for key, value in part.items() if value is not None}
        if isinstance(fields.get("text"), str):
            kind = "thinking" if fields.get("thought") is True else "text"
            content.append({"type": kind, kind: fields["text"]})
        elif isinstance(call := fields.get("function_call"), Mapping):
            calls.append({"name": call.get("name"), "arguments": call.get("args") or {}, "id": call.get("id")})
        elif isinstance(answer := fields.get("function_response"), Mapping):
            results.append({"role": "tool", "content": _response(answer), "tool_call_id": answer.get("id")})
        elif isinstance(media := fields.get("inline_data") or fields.get("file_data"), Mapping):
            content.append(_medium(media, number))
        else:
            listed = ", ".join(map(repr, part))[:100]
            raise BadRow("unknown part", f"a part of message {number} has {listed or 'nothing'}, which is not read")
    role = message.get("role") or "user"
    out: list[Any] = results
    if content or calls or not results:
        out = [*results, {"role": role, "content": content} | ({"tool_calls": calls} if calls else {})]
    return out


def _response(answer: Mapping[str, Any]) -> str:
    """What a function gave: the one text of its object, or all of it as JSON."""
    value = answer.get("response")
    if isinstance(value, Mapping) and len(value) == 1:
        (value,) = value.values()
    return value if isinstance(value, str) else json.dumps(plain_value(value), ensure_ascii=False)


def _medium(media: Mapping[str, Any], number: int) -> dict[str, Any]:
    fields = {_snake(key): value for key, value in media.items()}
    mime = str(fields.get("mime_type") or "image/")
    kind = mime.partition("/")[0]
    where = fields.get("data") or fields.get("file_uri")
    if kind not in _KINDS_OF_MEDIA or not isinstance(where, str):
        raise BadRow("unknown part", f"a part of message {number} is of the type {mime[:40]!r}, which is not read")
    return {"type": kind, "path" if kind == "video" else "url": where}


def _snake(name: Any) -> str:
    """`inlineData` of the API's JSON as `inline_data`, which its libraries write."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in str(name))


def _is_item(message: Any) -> bool:
    if not isinstance(message, Mapping) or message.get("from") is not None:
        return False
    kind = message.get("type")
    return kind == "message" or (
        message.get("role") is None
        and isinstance(kind, str)
        and (kind == "reasoning" or kind.endswith(("_call", "_call_output")))
    )


def _from_items(items: Sequence[Any]) -> list[Any]:
    """Items of Responses: thoughts, words and calls in a row are one turn."""
    out: list[Any] = []
    turn: dict[str, Any] = {}

    def end_turn() -> None:
        if turn:
            out.append({"role": "assistant", "content": None} | turn)
            turn.clear()

    for number, item in enumerate(items, start=1):
        if not isinstance(item, Mapping):
            raise BadRow("no message", f"item {number} must be an object")
        kind, role = item.get("type") or "message", item.get("role")
        if kind == "reasoning":
            if "content" in turn or "tool_calls" in turn:
                end_turn()
            thoughts = [text for name in ("content", "summary") for text in _texts(item.get(name))]
            turn["reasoning_content"] = "\n".join([*_texts(turn.get("reasoning_content")), *thoughts])
        elif kind == "function_call":
            call = {"name": item.get("name"), "arguments": item.get("arguments"), "id": item.get("call_id")}
            turn["tool_calls"] = [*turn.get("tool_calls", ()), call]
        elif kind == "function_call_output":
            end_turn()
            out.append({"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")})
        elif kind == "message" and role == "assistant":
            if "content" in turn or "tool_calls" in turn:
                end_turn()
            turn["content"] = item.get("content")
        elif kind == "message":
            end_turn()
            out.append({key: value for key, value in item.items() if key != "type"})
        else:
            why = f"item {number} is of the type {str(kind)[:40]!r}, whose results are not there to learn from"
            raise BadRow("unknown item", f"{why}: record the calls as functions of your own")
    end_turn()
    return out


def _texts(value: Any) -> list[str]:
    """The texts of a list of parts, or a text alone."""
    if isinstance(value, str):
        return [value]
    parts = value if isinstance(value, list) else []
    return [part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
