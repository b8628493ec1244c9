"""Reads chat-completion requests. A client is untrusted: kind, size and number of everything is checked here, once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.env.media.images import ImageError, ImageLimits, decode_image, read_base64_image
from hypereyes_jax.env.types import Part
from hypereyes_jax.env.web.urls import UrlError, UrlGuard

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}
_MOST_STOPS = 4
_LONGEST_STOP = 200  # characters

# Fields that change the reply and that this server does not have: a client must not believe that they took effect.
_UNSUPPORTED: dict[str, Any] = {
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "top_logprobs": 0,
    "best_of": 1,
    "echo": False,
    "functions": [],
    "function_call": "none",
    "audio": {},
    "modalities": ["text"],
    "prediction": {},
    "web_search_options": {},
    "parallel_tool_calls": True,
    "repetition_penalty": 1,
    "min_tokens": 0,
    "stop_token_ids": [],
    "ignore_eos": False,
    "length_penalty": 1,
    "use_beam_search": False,
    "bad_words": [],
    "include_stop_str_in_output": False,
    "add_generation_prompt": True,
    "continue_final_message": False,
    "reasoning_effort": "none",
    "verbosity": "medium",
    # what vLLM, SGLang, llama.cpp, OpenRouter, Anthropic and OpenAI's Responses name otherwise or have besides
    "typical_p": 1,
    "top_a": 0,
    "tfs_z": 1,
    "mirostat": 0,
    "dry_multiplier": 0,
    "repeat_penalty": 1,
    "thinking": {"type": "disabled"},
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    **dict.fromkeys(("no_stop_trim", "return_token_ids"), False),
    **{name: [] for name in ("stop_sequences", "documents", "plugins", "logits_processors")},
    **{name: {} for name in ("reasoning", "mm_processor_kwargs", "extra_body", "sampling_params", "generation_config")},
    **dict.fromkeys(("max_output_tokens", "max_new_tokens", "system", "instructions", "lora_path", "grammar")),
    **dict.fromkeys(("regex", "json_schema", "ebnf", "structural_tag", "guided_whitespace_pattern")),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")),
    **dict.fromkeys(("prompt_logprobs", "allowed_token_ids", "truncate_prompt_tokens", "chat_template", "stop_regex")),
}


class BadRequest(Exception):
    """What is wrong with a request, for its sender; `param` names the field, `code` the kind of fault."""

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str = "invalid_value"):
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


@dataclass(frozen=True)
class RequestLimits:
    """Bounds on one request."""

    choices: int = 16  # `n`
    messages: int = 512
    images: int = 50  # the paper's limit for an episode
    pixels: int = 150_000_000  # of all images; decoded, they take 450 MB
    characters: int = 16 * 16_384  # of all texts and tools; no text has tokens of 16 characters on average
    tools: int = 128
    new_tokens: int = 8192  # `max_tokens`; more are asked for in vain, since a slot ends


@dataclass(frozen=True)
class ImageUrl:
    """An image that a request names and that is not here yet."""

    url: str


@dataclass(frozen=True)
class ChatToolCall:
    """A call of one of the client's tools."""

    name: str
    arguments: str  # JSON, as the model wrote it
    id: str = field(default="", compare=False)


@dataclass(frozen=True)
class ChatMessage:
    """A message of a request."""

    role: str  # "system", "user", "assistant" or "tool"
    parts: tuple[Part | ImageUrl, ...]
    calls: tuple[ChatToolCall, ...] = ()  # of an assistant
    result_of: str = ""  # of a tool: the id of the call


@dataclass(frozen=True)
class ChatRequest:
    """A checked request for a chat completion."""

    messages: tuple[ChatMessage, ...]
    sampling: SamplingConfig
    model: str = ""
    n: int = 1
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False
    tools: tuple[dict[str, Any], ...] = ()  # functions: name, description, parameters


def read_request(
    body: Any, sampling: SamplingConfig, limits: RequestLimits | None = None, *, thinks: bool = False
) -> ChatRequest:
    """A request of POST /v1/chat/completions.

    Args:
      body: parsed JSON.
      sampling: what a field that is missing stands for.
      thinks: whether the model's template opens its turns with reasoning; no request can change that.

    Raises:
      BadRequest: it is not such a request, is too large, or asks for what this server does not have.
    """
    limits = limits or RequestLimits()
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    for name, inert in _UNSUPPORTED.items():
        if body.get(name) not in (None, inert):
            raise BadRequest(f"`{name}` is not supported by this server; leave it out", name, code="unsupported")
    _check_thinking(body, thinks)
    if body.get("response_format") not in (None, {}, {"type": "text"}):
        raise BadRequest("`response_format` must be text: replies are not constrained to JSON", "response_format")
    tools = _tools(body, limits)
    messages = _messages(body.get("messages"), limits)
    size = sum(map(_characters, messages)) + sum(len(json.dumps(tool)) for tool in tools)
    if size > limits.characters:  # before the tokenizer, which would take minutes for megabytes
        raise BadRequest(f"{size:,} characters exceed the {limits.characters:,} that fit this server", "messages")
    return ChatRequest(
        messages=messages,
        sampling=_sampling(body, sampling, limits),
        model=_text(body, "model"),
        n=_integer(body, "n", 1, 1, limits.choices),
        seed=None if body.get("seed") is None else _integer(body, "seed", 0, -(2**63), 2**63 - 1) % 2**63,
        stop=_stop(body.get("stop")),
        stream=_flag(body, "stream"),
        include_usage=_include_usage(body),
        logprobs=_flag(body, "logprobs"),
        tools=tools,
    )


def _check_thinking(body: Mapping[str, Any], thinks: bool) -> None:
    """DashScope's `enable_thinking`, and what vLLM and SGLang hand to the template, may say what is so anyway."""
    template = body.get("chat_template_kwargs") or {}
    fields = template.items() if isinstance(template, dict) else [("", template)]
    so = {"enable_thinking": thinks, "thinking": thinks}
    for name, value in [("enable_thinking", body.get("enable_thinking")), *fields]:
        if value is not None and (name not in so or value is not so[name]):
            always = f"; this model {'always thinks' if thinks else 'has no thinking mode'}" if name in so else ""
            field = "enable_thinking" if name in so else "chat_template_kwargs"
            raise BadRequest(f"`{field}` can't be set on this server{always}; leave it out", field, code="unsupported")


async def with_images(request: ChatRequest, guard: UrlGuard | None, limits: RequestLimits | None = None) -> ChatRequest:
    """The request with its images read: data URIs decoded, URLs fetched.

    Args:
      guard: fetches http(s) URLs, from the public internet only; None = such URLs are refused.

    Raises:
      BadRequest: an image can't be read, or all together have too many pixels.
    """
    room = (limits or RequestLimits()).pixels
    images: dict[str, Image.Image] = {}
    messages = []
    for message in request.messages:
        parts: list[Part | ImageUrl] = []
        for part in message.parts:
            if isinstance(part, ImageUrl):
                if part.url not in images:
                    images[part.url] = await _image(part.url, guard, room)
                    room -= math.prod(images[part.url].size)
                part = images[part.url]
            parts.append(part)
        messages.append(replace(message, parts=tuple(parts)))
    return replace(request, messages=tuple(messages))


async def _image(url: str, guard: UrlGuard | None, room: int) -> Image.Image:
    """An image of at most `room` pixels."""
    limits = ImageLimits(max_pixels=min(room, ImageLimits.max_pixels))
    try:
        if url.startswith("data:"):
            return read_base64_image(url, limits)
        if guard is None:
            raise BadRequest("images by URL are switched off here; send them as data URIs", "messages")
        return decode_image(await guard.fetch(url), limits)
    except (ImageError, UrlError) as error:
        short = "" if room >= ImageLimits.max_pixels else f" (the images before it leave room for {room:,} pixels)"
        raise BadRequest(f"an image can't be read: {error}{short}", "messages") from None


def _messages(value: Any, limits: RequestLimits) -> tuple[ChatMessage, ...]:
    if not isinstance(value, list) or not value:
        raise BadRequest("`messages` must be a list with at least one message", "messages")
    if len(value) > limits.messages:
        raise BadRequest(f"{len(value)} messages exceed this server's {limits.messages}", "messages")
    messages = _in_order_of_calls([_message(number, message) for number, message in enumerate(value)])
    images = sum(isinstance(part, ImageUrl) for message in messages for part in message.parts)
    if images > limits.images:
        raise BadRequest(f"{images} images exceed this server's {limits.images} in a conversation", "messages")
    return tuple(messages)


def _in_order_of_calls(messages: list[ChatMessage]) -> list[ChatMessage]:
    """The messages with the results of parallel calls in the order of the calls, which is all that a template tells of.

    Raises BadRequest for a result of a call that the turn before it did not make.
    """
    sequence, at = list[ChatMessage](), 0
    for message in messages:
        ids = [call.id for call in sequence[at].calls if call.id] if sequence else []
        if message.role == "tool":
            if ids and message.result_of and message.result_of not in ids:
                raise BadRequest(f"no call before it has the tool_call_id {message.result_of[:60]!r}", "messages")
        else:
            sequence[at + 1 :] = _by_call(sequence[at:])
            at = len(sequence)
        sequence.append(message)
    sequence[at + 1 :] = _by_call(sequence[at:])
    return sequence


def _by_call(turn: list[ChatMessage]) -> list[ChatMessage]:
    """The results that stand behind the first message of a turn, in the order of its calls."""
    if not turn:
        return []
    places = {call.id: place for place, call in enumerate(turn[0].calls) if call.id}
    return sorted(turn[1:], key=lambda message: places.get(message.result_of, len(places)))


def _message(number: int, message: Any) -> ChatMessage:
    place = f"messages[{number}]"
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRequest(f"{place} needs a role, one of {', '.join(_ROLES)}", place)
    listed_calls = message.get("tool_calls") or []
    if not isinstance(listed_calls, list):
        raise BadRequest(f"{place}.tool_calls must be a list", place)
    if role == "assistant" and not listed_calls and message.get("function_call"):  # of the older form
        listed_calls = [{"function": message["function_call"]}]
    calls = tuple(_call(place, call) for call in listed_calls)
    if calls and role != "assistant":
        raise BadRequest(f"{place}: only an assistant's message has tool_calls", place)
    content = message.get("content")
    if content is None and role == "assistant":
        content = message["refusal"] if isinstance(message.get("refusal"), str) else ""
    parts = (content,) if isinstance(content, str) else tuple(_part(place, part) for part in _listed(place, content))
    if role not in ("user", "tool") and any(isinstance(part, ImageUrl) for part in parts):
        raise BadRequest(f"{place}: images belong into messages of the user or of a tool", place)
    result_of = message.get("tool_call_id")
    return ChatMessage(_ROLES[role], parts, calls, result_of if isinstance(result_of, str) else "")


def _characters(message: ChatMessage) -> int:
    texts = sum(len(part) for part in message.parts if isinstance(part, str))
    return texts + sum(len(call.name) + len(call.arguments) for call in message.calls)


def _listed(place: str, content: Any) -> list[Any]:
    if not isinstance(content, list):
        raise BadRequest(f"{place}.content must be a string or a list of parts", place)
    return content


def _part(place: str, part: Any) -> str | ImageUrl:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("text", "input_text") and isinstance(part.get("text"), str):
        return part["text"]
    if kind == "refusal" and isinstance(part.get("refusal"), str):  # of an assistant's earlier turn
        return part["refusal"]
    if kind in ("image_url", "input_image"):
        url = part.get("image_url")
        url = url.get("url") if isinstance(url, dict) else url
        if isinstance(url, str) and url.startswith(("data:", "http://", "https://")):
            return ImageUrl(url)
        raise BadRequest(f"{place}: image_url must be a data URI or an http(s) URL", place)
    raise BadRequest(f"{place}: parts must be of type text or image_url, got {kind!r}", place)


def _call(place: str, call: Any) -> ChatToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise BadRequest(f"{place}: tool_calls must hold functions with a name and arguments", place)
    arguments = function.get("arguments", "{}")
    written = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return ChatToolCall(function["name"], written, number if isinstance(number := call.get("id"), str) else "")


def _tools(body: Mapping[str, Any], limits: RequestLimits) -> tuple[dict[str, Any], ...]:
    listed_tools = body.get("tools") or []
    choice = body.get("tool_choice", "auto")
    if choice == "none":
        return ()
    if choice not in (None, "auto"):
        raise BadRequest("`tool_choice` must be auto or none: this server can't force a call", "tool_choice")
    if not isinstance(listed_tools, list) or len(listed_tools) > limits.tools:
        raise BadRequest(f"`tools` must be a list of at most {limits.tools}", "tools")
    tools = []
    for number, tool in enumerate(listed_tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise BadRequest(f"tools[{number}] must be of type function, with a name", "tools")
        tools.append(function)
    return tuple(tools)


def _sampling(body: Mapping[str, Any], default: SamplingConfig, limits: RequestLimits) -> SamplingConfig:
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    return SamplingConfig(
        temperature=_number(body, "temperature", default.temperature, 0, 2),
        top_p=_number(body, "top_p", default.top_p, 1e-6, 1),
        top_k=max(0, _integer(body, "top_k", default.top_k, -1, 2**31 - 1)),
        min_p=_number(body, "min_p", default.min_p, 0, 1),
        max_new_tokens=min(_integer(body, name, default.max_new_tokens, 1, 2**31 - 1), limits.new_tokens),
    )


def _include_usage(body: Mapping[str, Any]) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict) or options.get("continuous_usage_stats") not in (None, False):
        raise BadRequest("`stream_options` must be an object with `include_usage`, true or false", "stream_options")
    return _flag(options, "include_usage")


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise BadRequest("`stop` must be a string or a list of strings", "stop")
    stops = [stop for stop in stops if stop]
    if len(stops) > _MOST_STOPS or any(len(stop) > _LONGEST_STOP for stop in stops):
        raise BadRequest(f"`stop` takes {_MOST_STOPS} texts of {_LONGEST_STOP} characters at most", "stop")
    return tuple(stops)


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"`{name}` must be a string", name)
    return value or ""


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value not in (None, True, False):
        raise BadRequest(f"`{name}` must be true or false", name)
    return bool(value)


def _integer(body: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadRequest(f"`{name}` must be a whole number from {low} to {high}", name)
    return value


def _number(body: Mapping[str, Any], name: str, default: float, low: float, high: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or (isinstance(value, float) and not math.isfinite(value)):
        raise BadRequest(f"`{name}` must be a number", name)
    if not low <= value <= high:
        raise BadRequest(f"`{name}` must lie between {low:g} and {high:g}", name)
    return float(value)
