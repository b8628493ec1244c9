"""What a conversation asks, and what it answers at its end: a question for evaluation and RL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hypereyes_jax.data.sources.call_notations import holds_call
from hypereyes_jax.data.sources.conversations import SourceMessage
from hypereyes_jax.data.sources.fields import (
    answer_in,
    unpacked,
    without_image_tags,
)
from hypereyes_jax.data.sources.media import Clip, Picture
from hypereyes_jax.data.sources.message_shapes import in_usual_shape
from hypereyes_jax.data.sources.messages import Slot, SourcePart, read_message, words_of
from hypereyes_jax.data.sources.row_messages import looks_like_messages
from hypereyes_jax.data.sources.turn_checks import shows_result
from hypereyes_jax.data.sources.types import BadRow, Row

Shown = TypeVar("Shown")


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
    asks = [read_message(message, number) for number, message in enumerate(in_usual_shape(messages)[0], start=1)]
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
        sum(isinstance(part, Slot) and part.kind == "image" for part in parts),
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
        words = words_of(message.parts)
        if message.role == "assistant":
            called = bool(message.calls) or holds_call(words)
        elif message.role == "user" and not called and not shows_result(words):
            why = "its conversation asks again when the model has answered, and only its first question stands alone"
            raise BadRow("several questions", f"{why}: give each that can be asked alone a row with its answer")
    return tuple(_joined(prompts))


def prompt_in(text: Any) -> Prompt | None:
    """The question of messages, of those in JSON in a text, or of a text that holds paths in <img>; None for others."""
    value = unpacked(text)
    if isinstance(value, list) and (value is text or (value and all(isinstance(part, Mapping) for part in value))):
        return prompt_of(value)
    return prompt_of([{"role": "user", "content": text}]) if isinstance(text, str) and "</img>" in text else None


def question_text(parts: Sequence[SourcePart]) -> str:
    """What a message says, as the text of a question whose pictures are shown before it."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        else:
            is_video = isinstance(part, Clip) or (isinstance(part, Slot) and part.kind == "video")
            texts.append("<video>" if is_video else "<image>")
    return without_image_tags("".join(texts))


def final_answer(messages: Sequence[SourceMessage]) -> str | None:
    """What stands in <answer> in the last message of the model; None without it."""
    for message in reversed(messages):
        if message.role == "assistant":
            return answer_in(words_of(message.parts))
    return None


def reply_in(value: Any) -> Any:
    """What the last of messages says, where a column of answers holds messages, as TRL's `completion` does; other
    values as they are. Raises BadRow."""
    if not value or not looks_like_messages(value):
        return value
    _, parts, _ = read_message(value[-1], len(value))
    return words_of(parts)


def follows_others(row: Row) -> bool:
    """Whether a row's question comes after turns that stand in its `history`, as LLaMA-Factory's and ms-swift's have
    it."""
    history = unpacked(row.get("history"))
    return (
        isinstance(history, list | tuple)
        and bool(history)
        and all((isinstance(each, list | tuple) and len(each) == 2) or looks_like_messages([each]) for each in history)
    )


def _joined(messages: Sequence[Sequence[Shown]]) -> list[Shown | str]:
    """The parts of several messages of the user as those of one."""
    parts: list[Shown | str] = []
    for message in messages:
        parts += ["\n", *message] if parts else message
    return parts
