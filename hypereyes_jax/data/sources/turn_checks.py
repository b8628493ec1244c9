"""Turns of demonstrations that no episode can have run as they stand, and that SFT must therefore not learn."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypereyes_jax.data.sources.media import Clip, Media, Picture
from hypereyes_jax.data.sources.types import BadRow
from hypereyes_jax.env.actions import (
    IMAGE_SEARCH,
    TEXT_SEARCH,
    Answer,
    Call,
    ImageSearch,
    Malformed,
    TextSearch,
    parse_turn,
)
from hypereyes_jax.env.media.crops import BoxUnits, to_fractions
from hypereyes_jax.env.types import Box, finite_box
from hypereyes_jax.env.web.untrusted import THOUGHT_TAGS

# Kinds of bad rows.
NO_SUCH_IMAGE, NO_BOX, EMPTY_BOX, NO_CALL = "no such image", "no box", "empty box", "no tool call"
TWO_UNITS = "boxes in two units"
NOT_CLOSED, NO_ANSWER, EMPTY_TURN, NO_QUERY = "tag not closed", "no answer", "empty turn", "no query"
OTHER_NOTATION, RESULT_IN_TURN = "call in another notation", "result in a turn"
RESULT_WITHOUT_CALL, CALL_WITHOUT_RESULT = "result without a call", "call without a result"
CALL_BESIDE_ANSWER = "call beside an answer"
UNKNOWN_TOOL = "unknown tool"  # with its name
NOT_TO_LEARN, RESULTS_OUT_OF_ORDER = "turn not to be learnt", "results out of order"
# Of these, the ones that only demonstrations are of.
OF_TURNS = frozenset(
    (
        NO_SUCH_IMAGE,
        NO_BOX,
        EMPTY_BOX,
        TWO_UNITS,
        NO_CALL,
        NOT_CLOSED,
        OTHER_NOTATION,
        RESULT_IN_TURN,
        RESULT_WITHOUT_CALL,
        CALL_WITHOUT_RESULT,
        NOT_TO_LEARN,
        RESULTS_OUT_OF_ORDER,
    )
)

REASONS = ("reason", *THOUGHT_TAGS)  # tags of reasoning, ours first
_OPENED = re.compile(rf"<({'|'.join(REASONS)}|tool_call|function_call|answer|search|text_search)>")
_RESULTS = re.compile(
    r"<(?:tool_response|tool_result|tool_results|function_response|information|observation|documents|search_results?"
    r"|result|results|output|interpreter)>"
)
_OBSERVATION = re.compile(r"^[ \t]*Observation[ \t]*\d*[ \t]*:[ \t]*\S", re.MULTILINE)
_SHOWN_RESULT = re.compile(r"\s*(<(tool_response|tool_result|function_response|information|result)>|Observation\s*:)")
# Calls as other agents write them: code, ReAct, and the tags of models whose templates differ from Qwen's.
_CALLS = re.compile(
    r"<(?:code|execute|tool_code|functions?|function_calls?|invoke|tools?)(?:\s[^<>]*|=[^<>]*)?>"
    r"|<\|(?!im_start|im_end|endoftext|begin_of_box|end_of_box)\w+\|>|<｜tool|\[TOOL_CALLS\]|\[TOOL_REQUEST\]"
    r"|^[ \t]*Action[ \t]*\d*[ \t]*:[ \t]*\w+[ \t]*\[|^[ \t]*Action Input[ \t]*\d*[ \t]*:",
    re.MULTILINE,
)
# What is a call in front of a message to the model, and may be part of an answer in a last turn.
_CALLS_BEFORE_RESULTS = re.compile(
    r"<(?:python|actions?|crop|zoom|visit|browse|click|bbox|box|image_search|img_search|web_search|search_query"
    r"|search_image|retrieve|query)(?:\s[^<>]*|=[^<>]*)?>"
    r"|^```(?:python|tool_code|tool_call)\b|^[ \t]*Action[ \t]*\d*[ \t]*:",
    re.MULTILINE,
)
_OPENED_CALL = re.compile(r"<(?:tool_call|function_call|search|text_search)>|^\s*\{\s*\"name\"\s*:")
_ACTION = re.compile(r"^[ \t]*Action[ \t]*\d*[ \t]*:", re.MULTILINE)
_TOOL_NAME = re.compile(r'"name"\s*:\s*"([^"\\]*)"')
_MOST_FRACTION = 1.05  # a coordinate of a box that sticks out of its image a little
_IMAGE_ID = re.compile(r"img_(\d{1,6})")


def check_text(text: str, last: bool) -> None:
    """Raises BadRow for a turn, as its author wrote it, with a tag that is not closed, an empty answer, a call in a
    notation that is not read here, or the result of one.

    Args:
      last: no message to the model follows.
    """
    outside = _outside(text)
    result = _RESULTS.search(outside) or (_ACTION.search(outside) and _OBSERVATION.search(outside))
    if result is not None:
        raise BadRow(
            RESULT_IN_TURN,
            f"a turn of the model in it holds the result of a tool ({result[0].strip()[:40]}), which a model must not "
            "learn to write: make it a message of its own with the role tool",
        )
    call = _CALLS.search(outside) or (None if last else _CALLS_BEFORE_RESULTS.search(outside))
    if call is not None:
        raise BadRow(
            OTHER_NOTATION,
            f"a turn of the model in it calls a tool in a notation that is not read here ({call[0].strip()[:40]}): "
            'write it as "tool_calls" of the message, or as <tool_call>{"name": ..., "arguments": {...}}</tool_call>',
        )


def _outside(text: str) -> str:
    """What stands outside of reasoning, calls and answers. Raises BadRow for a tag that is not closed, and for an
    answer that says nothing."""
    parts, at, answers = [], 0, list[str]()
    for name in REASONS:  # whose opening a template wrote
        if (end := text.find(f"</{name}>")) >= 0 and f"<{name}>" not in text[:end]:
            at = max(at, end + len(name) + 3)
    while (tag := _OPENED.search(text, at)) is not None:
        parts.append(text[at : tag.start()])
        end = text.find(f"</{tag[1]}>", tag.end())
        if end < 0:
            why = f"a <{tag[1]}> in it is not closed by </{tag[1]}>"
            raise BadRow(NO_CALL if tag[1] == "tool_call" else NOT_CLOSED, why)
        if tag[1] == "answer":
            answers.append(text[tag.end() : end].strip())
        at = end + len(tag[1]) + 3
    if answers and not any(answers):
        raise BadRow(NO_ANSWER, "an <answer> in it is empty")
    if len(set(answers)) > 1:
        raise BadRow("several answers", "a turn in it has several answers, of which the first would end the episode")
    return "".join((*parts, text[at:]))


def calls_something(text: str) -> bool:
    """Whether a turn of the model holds a tag or a label of a call."""
    return any(pattern.search(text) for pattern in (_OPENED_CALL, _CALLS, _CALLS_BEFORE_RESULTS))


def shows_result(text: str) -> bool:
    """Whether a message to the model begins as the result of a tool."""
    return _SHOWN_RESULT.match(text) is not None


def check_turns(
    observations: Sequence[Sequence[str | Picture | Clip]], turns: Sequence[str], media: Media, units: BoxUnits
) -> None:
    """Raises BadRow for turns, written as ours, whose calls the environment would have refused.

    Args:
      observations: what the model is shown before each turn.
      units: of the boxes; "auto" = told by the largest of them.
    """
    # Tools of a user's own are not known here, and their calls are left alone.
    names = {name for text in turns for name in _TOOL_NAME.findall(text)} - {IMAGE_SEARCH, TEXT_SEARCH}
    parsed = [parse_turn(text, tools=dict.fromkeys(names, False)) for text in turns]
    calls = [call for turn in parsed for call in turn.calls]
    units = _units(calls, units)
    images = crops = 0
    for number, (parts, text, turn) in enumerate(zip(observations, turns, parsed, strict=True)):
        if not text.strip():
            raise BadRow(EMPTY_TURN, "a turn of the model in it is empty: it says nothing and calls nothing")
        images += sum(not isinstance(part, str) for part in parts)
        crops = max(crops, images)
        if isinstance(turn.action, Answer) and turn.calls:
            raise BadRow(CALL_BESIDE_ANSWER, "a turn in it answers and calls a tool, and an answer ends the episode")
        if not turn.calls and number + 1 < len(turns) and _is_result(observations[number + 1]):
            why = "the result of a tool in it follows a turn of the model that holds no call that is read here"
            raise BadRow(RESULT_WITHOUT_CALL, f'{why}: write it as "tool_calls" of the message')
        for call in turn.calls:
            _check_call(call, units)
            if isinstance(call, ImageSearch):
                _check_images(call, crops, observations[: number + 1], media)
        # The crops of a turn have ids from the next turn on, whether or not they are shown.
        searches = [call for call in turn.calls if isinstance(call, ImageSearch)]
        crops += sum(len(call.image_ids) * len(call.boxes) for call in searches)


def _is_result(parts: Sequence[str | Picture | Clip]) -> bool:
    text = next((part for part in parts if isinstance(part, str) and part.strip()), "")
    return shows_result(text)


def _units(calls: Sequence[Call], units: BoxUnits) -> BoxUnits:
    if units != "auto":
        return units
    boxes = [box for call in calls if isinstance(call, ImageSearch) for box in call.boxes if box is not None]
    refuse_two_units(boxes)
    most = max((abs(value) for box in boxes for value in box), default=0.0)
    return "unit" if most <= 1.5 else "permille" if most <= 1000 else "pixel"


def refuse_two_units(boxes: Sequence[Box]) -> None:
    """Raises BadRow for boxes of one conversation of which some are fractions and others can't be."""
    numbers = [box for box in boxes if finite_box(box) is not None]
    fractions = [box for box in numbers if max(map(abs, box)) <= _MOST_FRACTION]
    others = [box for box in numbers if max(box) > 2]
    if fractions and others:
        why = (
            f"its boxes are in two units: {_written(fractions[0])} in fractions and {_written(others[0])}, which isn't"
        )
        raise BadRow(TWO_UNITS, f"{why}: write all of a conversation in one")


def _check_call(call: Call, units: BoxUnits) -> None:
    if isinstance(call, Malformed):
        raise BadRow(NO_CALL, f"a tool call in it can't be read: {call.why}")
    if isinstance(call, TextSearch) and (call.unusable or not call.queries):
        raise BadRow(NO_QUERY, "a text_search in it has no query, or one that is not a string")
    if isinstance(call, ImageSearch):
        for box in call.boxes:
            _check_box(box, units)


def _check_box(box: Box | None, units: BoxUnits) -> None:
    if box is None or finite_box(box) is None:
        raise BadRow(EMPTY_BOX, "a box in it is not four numbers")
    if box[2] <= box[0] or box[3] <= box[1]:
        why = "which is empty: a box is [left, top, right, bottom]"
        raise BadRow(EMPTY_BOX, f"it searches the box {_written(box)}, {why}")
    # The sizes of images are not asked for, and boxes in pixels may be anywhere.
    inside = box if units == "pixel" else to_fractions(box, (1, 1), units)
    if inside is None or min(inside[2:]) <= 0 or (units != "pixel" and max(inside[:2]) >= 1):
        raise BadRow(EMPTY_BOX, f"it searches the box {_written(box)}, which lies outside of the image")


def _written(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"


def _check_images(
    call: ImageSearch, there: int, observations: Sequence[Sequence[str | Picture | Clip]], media: Media
) -> None:
    """Raises BadRow for an image of a call that there is not.

    Args:
      there: images so far, with a video for one.
    """
    numbers = [int(match[1]) if (match := _IMAGE_ID.fullmatch(name)) else -1 for name in call.image_ids]
    clips = [part for parts in observations for part in parts if isinstance(part, Clip)]
    if clips and max(numbers) >= there:  # each frame is an image
        there += sum(media.video_shape(clip)[0] - 1 for clip in clips)
    for name, number in zip(call.image_ids, numbers, strict=True):
        if not 0 <= number < there:
            choices = f"there are {there} images, from img_0 on" if there > 1 else "there is img_0 alone"
            raise BadRow(NO_SUCH_IMAGE, f"it searches {name[:40]!r}, and {choices if there else 'there is no image'}")
