"""Renders the messages of a request to one chunk of tokens, and reads tool calls out of what the model wrote."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from hypereyes_jax.env.types import Part
from hypereyes_jax.env.web.untrusted import parse_json
from hypereyes_jax.processing import ChatFormat, ContextChunk
from hypereyes_jax.rollout.openai_api.requests import BadRequest, ChatMessage, ChatToolCall, ImageUrl

# Wording of Qwen3's own chat template: the model was trained on it.
_TOOLS = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{signatures}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""

CALL = "<tool_call>"
_CALLS = re.compile(r"<tool_call>(.*?)</tool_call>", re.DOTALL)


def render(chat: ChatFormat, messages: Sequence[ChatMessage], tools: Sequence[dict[str, Any]] = ()) -> ContextChunk:
    """All of a conversation up to the opening of the model's turn, as Qwen3-VL's chat template renders it.

    Messages of the same role that follow each other are joined. Images must have been read.

    Raises:
      BadRequest: the conversation does not begin with the user, or does not end with the user or a tool.
    """
    system = "\n\n".join(_plain(message.parts) for message in messages if message.role == "system")
    if tools:
        signatures = "\n".join(json.dumps({"type": "function", "function": tool}) for tool in tools)
        system = "\n\n".join(text for text in (system, _TOOLS.format(signatures=signatures)) if text)
    turns = _turns(messages)
    if not turns or turns[0][0] != "user":
        raise BadRequest("the first message after the system's must be the user's", "messages")
    if turns[-1][0] != "user":
        raise BadRequest("the last message must be the user's or a tool's; a turn can't be continued", "messages")
    chunks = [chat.prompt(system, turns[0][1])]
    tokens = [chunks[0].tokens]
    for role, parts in turns[1:]:
        if role == "assistant":
            tokens.append(chat.turn(_plain(parts)))
        else:
            chunks.append(chat.observation(parts))
            tokens.append(chunks[-1].tokens)
    images = tuple(image for chunk in chunks for image in chunk.images)
    return ContextChunk(np.concatenate(tokens).astype(np.int32), images)


def tool_calls(text: str) -> tuple[str, list[ChatToolCall]]:
    """What the model wrote beside its calls, and the calls. One that can't be read stays in the text."""
    calls: list[ChatToolCall] = []

    def take(match: re.Match[str]) -> str:
        try:
            call = parse_json(match[1].strip())
        except ValueError:
            return match[0]
        if not isinstance(call, dict) or not isinstance(call.get("name"), str):
            return match[0]
        arguments = call.get("arguments", {})
        calls.append(ChatToolCall(call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments)))
        return ""

    rest = _CALLS.sub(take, text)
    return (rest.rstrip() if calls else rest), calls


def _turns(messages: Sequence[ChatMessage]) -> list[tuple[str, tuple[Part, ...]]]:
    """(role, parts), user and assistant in turns; what tools gave is the user's, as in the template."""
    turns: list[tuple[str, tuple[Part, ...]]] = []
    for message in messages:
        if message.role == "system":
            continue
        parts = tuple(part for part in message.parts if not isinstance(part, ImageUrl))
        role = "assistant" if message.role == "assistant" else "user"
        if message.role == "tool":
            parts = ("<tool_response>\n", *parts, "\n</tool_response>")
        for call in message.calls:
            before = "\n" if any(isinstance(part, str) and part for part in parts) else ""
            body = f'{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}'
            parts = (*parts, f"{before}{CALL}\n{body}\n</tool_call>")
        if turns and turns[-1][0] == role:
            parts = (*turns.pop()[1], "\n", *parts)
        turns.append((role, parts))
    return turns


def _plain(parts: Sequence[Part | ImageUrl]) -> str:
    return "".join(part for part in parts if isinstance(part, str))
