"""Exercises in deciding what fits."""

from __future__ import annotations

from itertools import islice

import pytest

from hypereyes_jax.data.base_corpus import BaseCorpusConfig
from hypereyes_jax.data.exercises import exercises, pieces
from hypereyes_jax.data.question_kinds import FITS, LESS, MORE
from hypereyes_jax.data.searcher import answer_turn


def decided(reasoning, answer):
    return [text for text, decides in pieces(answer_turn(reasoning, answer)) if decides]


def test_marks_and_their_absence_are_decided_and_numbers_are_not():
    reasoning = "I read Chad: 1,280,000 sq km; Sao Tome: 1.5 million less fits; Peru, the: a, b. So the answer is Chad."
    end = " So the answer is Chad.</reason><answer> Chad</answer>"
    assert decided(reasoning, "Chad") == [";", " less fits;", ",", ",", ".", end]
    assert decided("I read Oman: Yemen fits, Qatar. So the answer is Yemen.", "Yemen")[:2] == [" fits,", "."]


def test_pieces_put_together_are_the_turn():
    for exercise in islice(exercises(BaseCorpusConfig(), 0), 100):
        turn = "".join(text for text, _ in exercise.turn)
        assert "".join(text for text, _ in pieces(turn)) == turn
        assert not any(text.endswith((FITS, MORE, LESS)) for text, decides in exercise.turn if not decides)
        assert exercise.turn[-1][1]  # the answer is the model's


def test_every_kind_of_decision_comes_up_and_questions_without_one_do_not():
    turns = ["".join(text for text, _ in exercise.turn) for exercise in islice(exercises(BaseCorpusConfig(), 1), 200)]
    for mark in (FITS, MORE, LESS):
        assert sum(mark in turn for turn in turns) > 20
    assert all(";" in turn or FITS in turn for turn in turns)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_exercises(seed):
    one, two = (list(islice(exercises(BaseCorpusConfig(), seed), 20)) for _ in range(2))
    assert one == two
    assert one != list(islice(exercises(BaseCorpusConfig(), seed + 2), 20))
