"""Demonstrations in the format in which Qwen's own models think (<think>), call functions, and answer without a tag."""

from __future__ import annotations

from hypereyes_jax.env.actions import Answer, Malformed, parse_turn, tool_call
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.prompts import system_prompt

_CALL, _END = "<tool_call>", "</tool_call>"


def native_turn(text: str) -> str:
    """A turn in the paper's tags as a native one; `env.parse_turn(..., plain_answers=True)` reads the same from it.

    A turn with a call that can't be read, or with one of another tool, keeps its calls letter by letter.
    """
    turn = parse_turn(text)
    thinking = f"<think>\n{turn.reason}\n</think>\n\n" if turn.reason else ""
    if isinstance(turn.action, Answer):
        return thinking + turn.action.text
    if any(isinstance(call, Malformed) for call in turn.calls) or not turn.calls:
        return text.replace("<reason>", "<think>\n").replace("</reason>", "\n</think>\n\n")
    calls = (tool_call(call) for call in turn.calls if not isinstance(call, Malformed))
    bodies = (call.removeprefix(_CALL).removesuffix(_END) for call in calls)
    return thinking + "\n".join(f"{_CALL}\n{body}\n{_END}" for body in bodies)


def native_system() -> str:
    """The system prompt that goes with native turns, whose tools are the two searches."""
    config = EpisodeConfig()
    return system_prompt("native", config.box_units, config.max_rounds)
