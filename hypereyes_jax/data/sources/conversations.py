"""Conversations as OpenAI, ms-swift and LLaMA-Factory (ShareGPT, Alpaca) and veRL write them, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypereyes_jax.data.sources.columns import Layout
from hypereyes_jax.data.sources.conversation_marks import (
    refuse_places_of_objects,
)
from hypereyes_jax.data.sources.fields import (
    clips_of,
    is_blank,
    pictures_of,
    unpacked,
    with_image_ids,
)
from hypereyes_jax.data.sources.media import Clip, Picture
from hypereyes_jax.data.sources.message_shapes import in_usual_shape, system_in
from hypereyes_jax.data.sources.messages import Role, Slot, SourcePart, read_message, words_of
from hypereyes_jax.data.sources.result_order import ids_in, in_order_of_calls
from hypereyes_jax.data.sources.row_messages import messages_of
from hypereyes_jax.data.sources.turn_checks import NOT_TO_LEARN
from hypereyes_jax.data.sources.types import BadRow, Row


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
        return words_of(self.parts)


@dataclass(frozen=True)
class Conversation:
    """The messages of a row, in order."""

    messages: tuple[SourceMessage, ...]
    tools: bool  # whether the row describes tools of its own
    shape: str


def conversation(row: Row, layout: Layout) -> Conversation:
    """The conversation of a row, its pictures at their places. Raises BadRow."""
    if not (is_blank(row.get("audios")) and is_blank(row.get("audio"))):
        raise BadRow("audio", "it has audio, which no model here hears")
    raw, shape = messages_of(row, layout)
    raw, foreign = in_usual_shape(raw)
    shape = foreign or shape
    system = system_in(layout.get(row, "system"))
    messages: list[tuple[Role, list[SourcePart], tuple[Any, ...]]] = []
    if system:
        messages.append(("system", [system], ()))
    raw = in_order_of_calls(raw)
    for number, message in enumerate(raw, start=1):
        messages.append(read_message(message, number))
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


def _place(
    messages: Sequence[tuple[Role, list[SourcePart], tuple[Any, ...]]],
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
        all_slots = [part for _, parts, _ in messages for part in parts if isinstance(part, Slot)]
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
        filled = [_filled(part, media) if isinstance(part, Slot) else part for part in parts]
        if role in ("system", "assistant") and any(isinstance(part, Picture | Clip) for part in filled):
            raise BadRow("image in a turn", f"a message of the {role} holds an image, which only a prompt can")
        if role == "user" and counted:
            filled = [with_image_ids(part, counted) if isinstance(part, str) else part for part in filled]
        if role == "user" and lead:
            filled, lead = [*lead, *filled], []
        out.append(SourceMessage(role, tuple(filled), calls))
    return out


def _filled(slot: Slot, media: Mapping[str, list[Picture | Clip]]) -> Picture | Clip:
    return media[slot.kind].pop(0) if slot.number is None else media[slot.kind][slot.number]
