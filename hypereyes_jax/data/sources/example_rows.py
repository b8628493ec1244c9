"""Rows to demonstrations: ours, and conversations whose tool calls are written as ours."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, replace

from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.native_format import native_system, native_turn
from hypereyes_jax.data.sources.call_pairs import check_pairs
from hypereyes_jax.data.sources.columns import Fields
from hypereyes_jax.data.sources.conversation_marks import refuse_unwanted
from hypereyes_jax.data.sources.conversations import Conversation, SourceMessage, conversation
from hypereyes_jax.data.sources.fields import id_of
from hypereyes_jax.data.sources.media import Clip, Media, Picture, picture
from hypereyes_jax.data.sources.tool_calls import ShownImages, ToolCalls
from hypereyes_jax.data.sources.turn_checks import CALL_WITHOUT_RESULT, check_text, check_turns
from hypereyes_jax.data.sources.types import BadRow, Row, SourceOptions, SourceReport
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.prompts import system_prompt
from hypereyes_jax.env.types import Part

OURS = "ours"  # the shape of rows as this project writes them
_MANY = 1_000_000  # images of a video, whose frames are not counted


@dataclass(frozen=True)
class ExampleRow:
    """A demonstration whose pictures are not opened yet."""

    id: str
    system: str
    observations: tuple[tuple[str | Picture | Clip, ...], ...]
    turns: tuple[str, ...]
    shape: str = ""  # which of the known shapes the row had

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All of them, in the order in which they are shown."""
        return tuple(part for parts in self.observations for part in parts if isinstance(part, Picture))

    @property
    def clips(self) -> tuple[Clip, ...]:
        """The videos of the row, in the order in which they are shown."""
        return tuple(part for parts in self.observations for part in parts if isinstance(part, Clip))

    def decode(self, media: Media) -> Example:
        """Opens the pictures; one shown twice is one image. Raises BadRow."""
        images: dict[Picture, Part] = {}
        observations = []
        for parts in self.observations:
            content: list[Part] = []
            for part in parts:
                if isinstance(part, Picture):
                    key = part if isinstance(part.value, str) else None
                    image = images.get(key) if key is not None else None
                    image = media.open(part) if image is None else image
                    if key is not None:
                        images[key] = image
                    content.append(image)
                elif isinstance(part, Clip):
                    frames = media.frames(part)
                    for caption, frame in zip(frames.captions, frames.images, strict=True):
                        content += [caption, frame] if caption else [frame]
                else:
                    content.append(part)
            observations.append(tuple(content))
        return Example(self.id, self.system, tuple(observations), self.turns)

    def check(self, media: Media) -> None:
        """Raises BadRow for a picture that cannot be there."""
        for part in (*self.pictures, *(clip.file for clip in self.clips)):
            media.check(part)


def example_row(
    row: Row, fields: Fields, default_id: str, media: Media, options: SourceOptions, report: SourceReport
) -> ExampleRow:
    """The demonstration of a row; tool calls are mapped, and counted in `report`. Raises BadRow."""
    if "turns" in row or "observations" in row:
        result = our_example(row)
        for number, turn in enumerate(result.turns, start=1):
            check_text(turn, last=number == len(result.turns))
    else:
        layout = fields.layout(row)
        refuse_unwanted(row)
        talk = conversation(row, layout)
        result = _foreign(talk, id_of(layout.get(row, "id"), default_id), media, options, report)
    units = options.box_units if result.shape == OURS else "unit"
    check_turns(result.observations, result.turns, media, units)
    if options.turn_format == "tags":
        return result
    system = native_system() if options.system is None else options.system
    return replace(result, system=system, turns=tuple(native_turn(turn) for turn in result.turns))


def our_example(row: Row) -> ExampleRow:
    """A demonstration as this project writes it. Raises BadRow."""
    turns, observations = row.get("turns"), row.get("observations")
    system = row.get("system")
    if not isinstance(system, str):
        raise BadRow("no system prompt", "it needs 'system', a string")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise BadRow("no turns", "'turns' must be a list of strings")
    if not isinstance(observations, list):
        raise BadRow("no observations", "it needs 'observations', a list")
    content = tuple(_parts(parts) for parts in observations)
    if not turns or len(turns) != len(content):
        raise BadRow("no turns", f"{len(content)} user messages need as many turns, found {len(turns)}")
    name = row.get("id")
    if name is None:
        raise BadRow("no id", "it needs 'id', a string")
    return ExampleRow(id_of(name, ""), system, content, tuple(turns), OURS)


def _parts(parts: object) -> tuple[str | Picture | Clip, ...]:
    """A text is a text; a picture is an object with an image. A table has an object a part, with one of them in it."""
    problem = BadRow("no observations", "each of 'observations' must be a list of strings and objects with an 'image'")
    if not isinstance(parts, list):
        raise problem
    out: list[str | Picture | Clip] = []
    for part in parts:
        if isinstance(part, str):
            out.append(part)
        elif isinstance(part, dict) and "image" in part and part.get("text") is None:
            out.append(picture(part["image"]))
        elif isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("image") is None:
            out.append(part["text"])
        else:
            raise problem
    return tuple(out)


def _foreign(talk: Conversation, name: str, media: Media, options: SourceOptions, report: SourceReport) -> ExampleRow:
    check_pairs(talk.messages)
    system, observations, turns = _grouped(talk.messages)
    pictures = [part for parts in observations for part in parts if isinstance(part, Picture)]

    def size_of(number: int) -> tuple[int, int]:
        if number >= len(pictures):
            raise BadRow(
                "no such image", f"a box in it is in pixels of img_{number}, and it shows {len(pictures)} images"
            )
        return media.size(pictures[number])

    mappings: Counter[tuple[str, str]] = Counter()
    image_counts = _shown_images(observations)
    calls = ToolCalls(options.box_units, options.tools, image_counts, size_of, mappings, report.unmapped)
    texts = ["\n".join(filter(None, (message.text for message in turn))) for turn in turns]
    texts_of_turns = calls.turns(texts, [[call for m in turn for call in m.calls] for turn in turns])
    report.mapped.update(mappings)
    if calls.boxes is not None:
        report.add_boxes(*calls.boxes)
    if options.system is not None:
        system = options.system
    elif mappings or not system:
        # Their system prompt would describe tools that the turns no longer call.
        config = EpisodeConfig()
        if system:
            report.mapped["their system prompt", "our system prompt"] += 1
        system = system_prompt(config.prompt_style, "unit", config.max_rounds)
    return ExampleRow(name, system, tuple(map(tuple, observations)), texts_of_turns, talk.shape)


def _shown_images(observations: list[list[str | Picture | Clip]]) -> ShownImages:
    counts = list(itertools.accumulate(sum(map(_images_in, parts)) for parts in observations))
    pictures = [part for parts in observations for part in parts if isinstance(part, Picture)]
    paths = [str(part.value) if part.form in ("path", "url") else "" for part in pictures]
    return ShownImages(tuple(counts), tuple(paths))


def _images_in(part: str | Picture | Clip) -> int:
    return 0 if isinstance(part, str) else _MANY if isinstance(part, Clip) else 1


def _grouped(
    messages: tuple[SourceMessage, ...],
) -> tuple[str, list[list[str | Picture | Clip]], list[list[SourceMessage]]]:
    """System prompt, what the model is shown before each turn, and the messages of each turn. Raises BadRow."""
    begun = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    system = "\n".join(part for m in messages[:begun] for part in m.parts if isinstance(part, str))
    observations: list[list[str | Picture | Clip]] = []
    turns: list[list[SourceMessage]] = []
    for message in messages[begun:]:  # what the system says later is shown where it says it
        if message.role == "assistant":
            if not observations:
                raise BadRow("no prompt", "its conversation begins with a turn of the model")
            if len(turns) < len(observations):
                turns.append([])
            if _says(message) and any(map(_calls, turns[-1])):
                raise BadRow(
                    CALL_WITHOUT_RESULT, "the model says something after its tool call, before any result of it"
                )
            turns[-1].append(message)
            continue
        if len(observations) == len(turns):
            observations.append([])
        _append(observations[-1], _shown(message))
        if not any(not isinstance(part, str) or part.strip() for part in observations[-1]):
            raise BadRow("no prompt", "a message to the model in it is empty")
    if not turns or len(turns) != len(observations):
        raise BadRow("no last turn", "its conversation must end with a turn of the model")
    return system, observations, turns


def _says(message: SourceMessage) -> bool:
    text = message.text.strip()
    return bool(text) and not text.startswith("<tool_call>")


def _calls(message: SourceMessage) -> bool:
    return bool(message.calls) or any(isinstance(part, str) and "</tool_call>" in part for part in message.parts)


def _shown(message: SourceMessage) -> list[str | Picture | Clip]:
    """A message's parts; the text of a tool's result stands in <tool_response>, after the pictures it came with."""
    if message.role != "tool":
        return list(message.parts)
    text = message.text.strip()
    if "<tool_response>" not in text:
        text = f"<tool_response>\n{text}\n</tool_response>"
    return [*(part for part in message.parts if not isinstance(part, str)), text]


def _append(parts: list[str | Picture | Clip], more: list[str | Picture | Clip]) -> None:
    for number, part in enumerate(more):
        if isinstance(part, str) and parts and isinstance(parts[-1], str):
            parts[-1] = f"{parts[-1]}{'' if number else chr(10)}{part}"
        else:
            parts.append(part)
