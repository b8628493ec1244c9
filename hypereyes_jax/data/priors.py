"""Drops questions whose answer can be had without a tool.

The paper drops what a large model answers without tools (arXiv 2605.07177). Here the blind guesser is explicit: it
knows how answers are distributed for each kind of question, and which countries everybody can name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from hypereyes_jax.data.types import SynthQuestion
from hypereyes_jax.env.world import World
from hypereyes_jax.env.world.text_index import words

_STEM = 4  # letters that a name and the word for its language or money share


def famous_guess(synth: SynthQuestion) -> str | None:
    """What a textual question that asks for a country would be answered blindly: the best known country around.

    Among all neighbours of the countries named, the one with the most neighbours itself (China, Russia, Germany, ...).
    None for a question that shows flags: blind, its countries have no names.
    """
    oracle = synth.oracle
    if oracle.boxes:
        return None
    world: World = oracle.world
    around = {key for entity in oracle.entities for key in world.country(entity).borders} - set(oracle.entities)
    if len(around) < 2:
        return None
    return world.country(max(sorted(around), key=lambda key: len(world.country(key).borders))).name


def leaks(synth: SynthQuestion) -> bool:
    """Whether the question's own words give the answer away: "has Swedish as an official language" -> Sweden."""
    question_words = words(synth.question.text)
    stems = [word[:_STEM] for word in words(synth.question.answers[0]) if len(word) >= _STEM]
    return any(word.startswith(stem) for stem in stems for word in question_words)


def blind(synth: SynthQuestion) -> bool:
    """Whether the question can be answered without a tool."""
    return famous_guess(synth) == synth.question.answers[0] or leaks(synth)


def drop_majorities(questions: Iterable[SynthQuestion], share: float = 0.2, free: int = 2) -> Iterator[SynthQuestion]:
    """Passes on, in order, only so many questions with the same answer that guessing it pays off at most `share` of the
    time among those of its kind and attribute. `free` of an answer always pass: few questions have no majority yet.
    """
    answers: dict[tuple[str, str], Counter[str]] = {}
    for synth in questions:
        counts = answers.setdefault((synth.question.kind, synth.oracle.attribute), Counter())
        answer = synth.question.answers[0]
        if counts[answer] + 1 <= max(free, share * (counts.total() + 1)):
            counts[answer] += 1
            yield synth
