"""Where the reasoning of a turn begins and ends: the tags of many models, and what stands within them.

Part of the parser of turns (`actions`).
"""

from __future__ import annotations

import re

from hypereyes_jax.env.tag_text import (
    ANSWER,
    ANSWER_END,
    CALL,
    CALL_END,
    JSON,
    MOST_CALL_CHARACTERS,
    MOST_TAGS,
    OPENINGS,
    REASONS,
    TagText,
    skip_space,
)

_MOST_RESPELT = 2048  # tags of reasoning that are spelt in another way, of a turn
_LONGEST_FIRST = sorted((tag.strip("<>") for tag in REASONS), key=len, reverse=True)
_NAMES = rf"(?>(?i:{'|'.join(_LONGEST_FIRST)}))"
# A megabyte of "<" or of half a tag is read in a few hundredths of a second: letters looked for first, no way back.
# White space may stand where <cot> ends.
_LETTERS = ({tag[at] for tag in REASONS} for at in range(1, 5))
_BEGIN = "".join(rf"[{''.join(sorted(each | {letter.upper() for letter in each}))}\s]" for each in _LETTERS)
_ATTRIBUTES = r"\s[^<>]{0,200}+"
# With spaces or attributes: <think >, </ think>, <think type="draft">.
_SPACED_TAG = re.compile(
    rf"<(/?+)(?= ?+{_BEGIN})(?:({_NAMES}){_ATTRIBUTES}| ({_NAMES})(?:{_ATTRIBUTES})?+)(?<!/)>", re.ASCII
)
_CAPITAL_TAG = re.compile(rf"</?+(?={_BEGIN})(?=[a-z:_]*+[A-Z]){_NAMES}>", re.ASCII)
# Magistral's and Kimi's, as long as ours.
_OTHER_MARKS = {"[THINK]": "<think>", "[/THINK]": "</think>", "◁think▷": "<think>", "◁/think▷": "</think>"}
# Those of Cohere's models, of OpenThinker's, and gpt-oss's channel of thoughts, which are of other lengths.
_TOKENS = (
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|end|>"),
)


def turn_of(text: str) -> TagText:
    """A turn in which the tags of reasoning are looked up as they are usually spelt, each at its place."""
    for opening, closing in _TOKENS:
        if opening in text:
            text = text.replace(opening, "<think>").replace(closing, "</think>")
    text = _SPACED_TAG.sub(r"<\1\2\3>", text, _MOST_RESPELT)
    marks = _CAPITAL_TAG.sub(lambda tag: tag.group().lower(), text, _MOST_RESPELT)
    for other, usual in _OTHER_MARKS.items():
        marks = marks.replace(other, usual)
    return TagText(text, marks)


def open_thought(turn: TagText, plain_answers: bool) -> tuple[str, int]:
    """Reads reasoning without its opening tag, which chat templates of models that think write themselves.

    A </think> that a closed <reason> or <answer> holds ends no reasoning. Where answers have tags, a lone one within a
    call, or in front of no tag at all, ends none either.
    """
    text = turn.marks
    end, start = text.find("</think>"), text.find("<think>")
    if end < 0 or 0 <= start < end:
        return "", 0
    after = end + len("</think>")
    if not plain_answers:
        begun = text.rfind(CALL, 0, end)
        within = begun >= 0 and text.find(CALL_END, begun, end) < 0
        if (
            (within and text.startswith("{", skip_space(text, begun + len(CALL))))
            or (text.find(CALL, after) < 0 and text.find(ANSWER, after) < 0)
            or any(_holds(text, tag, end) for tag in ("<reason>", ANSWER))
        ):
            return "", 0
    return turn.text[:end].strip(), after


def _holds(text: str, tag: str, position: int) -> bool:
    """Whether a pair of a tag and its closing tag has a position between them."""
    closing = tag.replace("<", "</")
    begun = text.rfind(tag, 0, position)
    if begun < 0 or text.find(closing, begun, position) >= 0:
        return False
    end, again = text.find(closing, position), text.find(tag, position)
    return end >= 0 and not 0 <= again < end


def read_reason(turn: TagText, tag: str, body: int) -> tuple[str, int]:
    """Reads reasoning whose `tag` ends at `body`: to its closing tag, or, if it has none, to the next opening tag."""
    closing = tag.replace("<", "</")
    end, again = turn.find(closing, body), turn.find(tag, body)
    if end is not None and again is not None and again < end:
        end = turn.closing(tag, body)
    if end is not None and (after := _call_end(turn, body, end)) is not None:
        end = turn.find(closing, after)
    if end is None:
        end, closing = _other_closing(turn, tag, body)
    if end is not None:
        return turn.text[body:end].strip(), end + len(closing)
    following = turn.first(OPENINGS, body)
    stop = len(turn.text) if following is None else following[0]
    return turn.text[body:stop].strip(), stop


def _call_end(turn: TagText, start: int, position: int) -> int | None:
    """Where the JSON of the first call behind `start` ends, if it holds `position`: a mark there is part of a query."""
    begun = turn.find(CALL, start)
    if begun is None or begun >= position:
        return None
    begun += len(CALL)
    window = turn.text[begun : begun + MOST_CALL_CHARACTERS]
    try:
        end = begun + JSON.raw_decode(window, skip_space(window, 0))[1]
    except (ValueError, RecursionError):
        return None
    return end if end > position else None


def _other_closing(turn: TagText, tag: str, body: int) -> tuple[int | None, str]:
    """The closing mark of another tag of reasoning that ends the `tag` without one: (where it begins, the mark).

    As of a lone </think>, a call or an answer must follow.
    """
    ends = list[tuple[int, str]]()
    for other in REASONS:
        closing = other.replace("<", "</")
        end, again = (None, None) if other == tag else (turn.find(closing, body), turn.find(other, body))
        if end is not None and (again is None or end < again):
            ends.append((end, closing))
    end, closing = min(ends, default=(None, ""))
    if end is None or end > max(turn.last(CALL), turn.last(ANSWER)) or _call_end(turn, body, end) is not None:
        return None, ""
    return end, closing


def read_leading_reasons(turn: TagText, body: int) -> tuple[str, int]:
    """Reads the closed reasoning with which an answer begins. Returns the first of it and where the answer goes on."""
    reason = ""
    for _ in range(MOST_TAGS):
        start = turn.first(REASONS, body)
        if start is None or skip_space(turn.text, body) != start[0]:
            break
        tag = start[1]
        closing, after = tag.replace("<", "</"), start[0] + len(tag)
        end = None if turn.find(ANSWER_END, body) is None else turn.find(closing, after)
        if end is None or turn.find(ANSWER_END, end) is None:
            break
        reason = reason or turn.text[after:end].strip()
        body = end + len(closing)
    return reason, body
