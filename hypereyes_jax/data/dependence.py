"""How many rounds a trajectory's searches needed: the longest chain in which each search needs an earlier result.

A search needs a result if its query holds a name or number that was first read there, if it searches a crop that was
cut there, or if it tries again what failed there. Everything else could have been asked at once, whatever tool it uses
and in whatever order it was asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypereyes_jax.data.claims import content_words, figures, fold, names
from hypereyes_jax.env.actions import IMAGE_SEARCH
from hypereyes_jax.env.types import Box, EpisodeResult, Invocation

_SAME_REGION = 0.5  # intersection over union of two boxes that mean the same thing
_SAME_SUBJECT = 0.5  # share of words that two queries for the same thing have in common
_SMALLEST_NUMBER = 100  # of those that a query can have learnt; smaller ones stand everywhere


def rounds_made(result: EpisodeResult) -> int:
    """Turns that called a tool which counts as a search, whether or not it could be sent."""
    return sum(any(call.sent or call.error for call in turn.invocations) for turn in result.turns)


def rounds_needed(result: EpisodeResult) -> int:
    """The rounds that a policy would have needed that asks everything as soon as it can; 0 without searches."""
    level_of_word = {
        word: 0 for word in content_words(result.question.text)
    }  # word -> the level that it is known after
    crops: dict[str, int] = {}  # crop id -> level of the search that cut it
    past: list[tuple[Invocation, int]] = []
    deepest = 0
    for turn in result.turns:
        levelled = [(call, _level(call, level_of_word, crops, past)) for call in turn.invocations]
        for call, level in levelled:  # a word that the policy used by itself was not learnt from what came back
            _learn(level_of_word, content_words(call.query) if call.tool != IMAGE_SEARCH else [], level - 1)
        for call, level in levelled:
            if call.crop_id:
                crops[call.crop_id] = level
            _learn(level_of_word, _result_words(call), level)
            deepest = max(deepest, level)
        past += levelled
    return deepest


def same_region(one: Box | None, other: Box | None, least: float = _SAME_REGION) -> bool:
    """Whether two boxes overlap by at least `least` of their union; no box is the whole image."""
    a, b = one or (0.0, 0.0, 1.0, 1.0), other or (0.0, 0.0, 1.0, 1.0)
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return False
    common = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common >= least * union


def _level(
    call: Invocation, level_of_word: dict[str, int], crops: dict[str, int], past: Sequence[tuple[Invocation, int]]
) -> int:
    """1 for a search that needs no result, else one more than the deepest search whose result it needs."""
    again = max((level for other, level in past if _retries(call, other)), default=0)
    if call.tool == IMAGE_SEARCH:
        origin = max((level for other, level in past if call.source in other.text.replace(",", " ").split()), default=0)
        return 1 + max(again, crops.get(call.source, 0), origin)
    return 1 + max([again, *(level_of_word.get(word, 0) for word in content_words(call.query))])


def _retries(call: Invocation, other: Invocation) -> bool:
    if call.tool != other.tool:
        return False
    if call.tool == IMAGE_SEARCH:
        return call.source == other.source and same_region(call.box, other.box)
    if other.hits:
        return False
    mine, its = set(content_words(call.query)), set(content_words(other.query))
    return bool(mine & its) and len(mine & its) >= _SAME_SUBJECT * min(len(mine), len(its))


def _result_words(call: Invocation) -> list[str]:
    """The words of a call's results that a query can have been made of: titles, names and larger numbers."""
    terms = []
    for hit in call.hits:
        terms += content_words(hit.title)
        terms += [word for name in names(hit.content) for word in content_words(name)]
        terms += _numbers(hit.content)
    return terms + [word for name in names(call.text) for word in content_words(name)] + _numbers(call.text)


def _numbers(text: str) -> list[str]:
    return [fold(f"{f.value:.0f}") for f in figures(text) if f.value >= _SMALLEST_NUMBER and not f.rounded]


def _learn(level_of_word: dict[str, int], words: Sequence[str], level: int) -> None:
    for word in words:
        level_of_word[word] = min(level, level_of_word.get(word, level))
