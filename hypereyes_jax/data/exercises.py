"""Exercises in deciding what fits: the last turn of an episode, without the episode.

An episode of five hundred tokens decides a handful of times (which number is larger, which region is the same), too
rarely for a small model to learn it. These exercises give the question and what was read, and leave only the marks and
the answer to the model: some forty times as many decisions a token.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from hypereyes_jax.data.base_corpus import BaseCorpusConfig, seen_world
from hypereyes_jax.data.question_kinds import FITS, LESS, MORE
from hypereyes_jax.data.questions import draw_question
from hypereyes_jax.data.searcher import answer_turn
from hypereyes_jax.data.types import CONCLUSION

# Nothing is decided for an attribute, and who borders what is decided by results, which these exercises leave out.
_NOT_DECIDED = ("attribute", "border")
_DECISION = re.compile(rf"(?:{MORE}|{LESS})?(?:{FITS})?[;,.](?= )|{re.escape(CONCLUSION)}.*$", re.DOTALL)


@dataclass(frozen=True)
class Exercise:
    """A question with what was read, and the turn that answers it."""

    question: str
    turn: tuple[tuple[str, bool], ...]  # its text in pieces, and which of them decide something


def exercises(config: BaseCorpusConfig, seed: int) -> Iterator[Exercise]:
    """Endless, in varied worlds; the same for the same arguments."""
    rng = np.random.default_rng(seed)
    real = seen_world()
    kinds = tuple(kind for kind in config.synthesis.kinds if kind not in _NOT_DECIDED)
    synthesis = replace(config.synthesis, kinds=kinds)
    while True:
        world = real.varied(rng)
        for _ in range(config.questions_a_world):
            synth = draw_question(world, rng, synthesis)
            reasoning = synth.oracle.reasoning_from(synth.oracle.true_names)
            yield Exercise(synth.question.text, pieces(answer_turn(reasoning, synth.question.answers[0])))


def pieces(turn: str) -> tuple[tuple[str, bool], ...]:
    """A last turn cut into what was read and what is decided: the marks, or that there is none, and the conclusion."""
    out, end = [], 0
    for decision in _DECISION.finditer(turn):
        out += [(turn[end : decision.start()], False), (decision[0], True)]
        end = decision.end()
    out.append((turn[end:], False))
    return tuple((text, decides) for text, decides in out if text)
