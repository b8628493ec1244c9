"""Results of parallel tool calls in the order of the calls: there they name the call that they are of, here they don't.

OpenAI's and Anthropic's messages give each call an id, and results may come in any order. Our observations have no ids,
so that which result is of which call is told by their order alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hypereyes_jax.data.sources.fields import unpacked
from hypereyes_jax.data.sources.turn_checks import RESULTS_OUT_OF_ORDER
from hypereyes_jax.data.sources.types import BadRow

TEXT_PARTS = ("text", "input_text", "output_text")  # types of a content's parts that are a text
_PLACES = ("<image>", "<video>", "<|image_pad|>", "<|video_pad|>", "<img>")


def in_order_of_calls(messages: Sequence[Any]) -> list[Any]:
    """The messages, with results that name their calls by unique ids in the order of these; others as they are.

    Raises BadRow where images of results would change their places.
    """
    out = list(messages)
    calls: list[str] = []
    at = 0
    while at < len(out):
        message = out[at]
        ids = _ids_of_calls(message)
        if ids:
            calls += ids
        elif _is_result(message):
            end = next((i for i in range(at, len(out)) if not _is_result(out[i])), len(out))
            out[at:end] = _in_order(out[at:end], "tool_call_id", calls)
            at, calls = end, []
            continue
        elif blocks := _result_blocks(message):
            content = list(message["content"])
            for place, block in zip(blocks, _in_order([content[i] for i in blocks], "tool_use_id", calls), strict=True):
                content[place] = block
            out[at], calls = {**message, "content": content}, []
        elif isinstance(message, Mapping) and message.get("role") != "assistant":
            calls = []
        at += 1
    return out


def ids_in(message: Any) -> tuple[str, ...]:
    """Ids of a message's calls, or of the calls whose results it holds; none where not each has one."""
    calls = _calls_of(message)
    if calls:
        ids = _ids_of_calls(message)
        return tuple(ids) if len(ids) == len(calls) else ()
    if _is_result(message):
        return (message["tool_call_id"],) if message["tool_call_id"] else ()
    return tuple(message["content"][place]["tool_use_id"] for place in _result_blocks(message))


def _in_order(results: list[Any], name: str, calls: list[str]) -> list[Any]:
    """The results in the order of their calls, if each is of one and no two are of the same."""
    ids = [result.get(name) for result in results]
    if len(set(calls)) != len(calls) or len(set(ids)) != len(ids) or not set(ids) <= set(calls):
        return results
    in_order = sorted(results, key=lambda result: calls.index(result[name]))
    if in_order != results and any(_holds_pictures(result.get("content")) for result in results):
        raise BadRow(
            RESULTS_OUT_OF_ORDER,
            "its tool results come in another order than the calls they are of, and hold images, whose numbers would "
            "change: write them in the order of the calls",
        )
    return in_order


def _calls_of(message: Any) -> list[Any]:
    if not isinstance(message, Mapping):
        return []
    calls = unpacked(message.get("tool_calls"))
    if not calls and isinstance(content := message.get("content"), list):  # LangChain writes them in both places
        calls = [part for part in content if _type(part) in ("tool_use", "tool_call")]
    return calls if isinstance(calls, list) else []


def _ids_of_calls(message: Any) -> list[str]:
    ids = [call.get("id") for call in _calls_of(message) if isinstance(call, Mapping)]
    return [each for each in ids if isinstance(each, str) and each]


def _is_result(message: Any) -> bool:
    return isinstance(message, Mapping) and isinstance(message.get("tool_call_id"), str)


def _result_blocks(message: Any) -> list[int]:
    """Places of the results among the parts of a message, where each names its call."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return []
    return [
        place
        for place, part in enumerate(content)
        if _type(part) == "tool_result" and isinstance(part.get("tool_use_id"), str)
    ]


def _holds_pictures(content: Any) -> bool:
    if isinstance(content, str):
        return any(place in content for place in _PLACES)
    if isinstance(content, list):
        return any(_type(part) not in (None, *TEXT_PARTS) or _holds_pictures(_text(part)) for part in content)
    return False


def _text(part: Any) -> Any:
    return part.get("text") if isinstance(part, Mapping) else part


def _type(part: Any) -> Any:
    return part.get("type") if isinstance(part, Mapping) else None
