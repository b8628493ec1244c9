"""The drop-one check, and the kinds of questions that pass it."""

import re
from collections import Counter

import numpy as np
import pytest

from hypereyes_jax.data import aggregation, visual
from hypereyes_jax.data.aggregation import EachInTurn, Median, Ranking, Total, in_words
from hypereyes_jax.data.necessity import all_needed, superfluous
from hypereyes_jax.data.question_kinds import Extreme
from hypereyes_jax.data.questions import SynthesisConfig, draw_question, synthesize
from hypereyes_jax.data.searcher import Habits, demonstrate
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.env.world import World, WorldBackend

KINDS = tuple(aggregation.TEMPLATES)


@pytest.fixture(scope="module")
def world():
    return World.load(passages=False)


@pytest.fixture(scope="module")
def needed(world):
    return synthesize(world, 120, seed=3, config=SynthesisConfig(kinds=KINDS, textual_share=0, drop_one=True))


def names(*countries):
    return list(countries)


def test_plans_by_hand(world):
    # The cards: Chad 20.3 million or so, whatever the edition; so only the order and the sum are stated here.
    three = names("France", "Malta", "India")
    assert Ranking("population", True).answer(world, three) == "India, France, Malta"
    assert Ranking("area", False).answer(world, three) == "Malta, France, India"
    assert Median("area").answer(world, three) == "France"
    assert Median("area").answer(world, three[:2]) is None
    assert EachInTurn("capital").answer(world, three) == "Paris, Valletta, New Delhi"
    assert Ranking("population", True).answer(world, [None, "Atlantis"]) is None
    amounts = [world.find(n).facts["area"].removesuffix(" sq km").replace(",", "") for n in three[:2]]
    assert Total("area").answer(world, three[:2]) == f"{sum(map(float, amounts)):,.0f} sq km"


@pytest.mark.parametrize(
    ("amount", "attribute", "expected"),
    [
        (19_750_000, "population", "19.75 million"),
        (1_412_345_000, "population", "1.412345 billion"),
        (98_765, "population", "98,765"),
        (643_801, "area", "643,801 sq km"),
        (2.46, "area", "2.46 sq km"),
    ],
)
def test_sums_keep_their_digits(amount, attribute, expected):
    assert in_words(amount, attribute) == expected


def test_the_loser_of_a_comparison_and_an_idle_picture_are_superfluous(world):
    rng = np.random.default_rng(0)
    one = draw_question(world, rng, SynthesisConfig(kinds=("extreme",), max_entities=4))
    winner = next(i for i, n in enumerate(one.oracle.true_names) if n == one.question.answers[0])
    assert isinstance(one.oracle.plan, Extreme)
    assert set(superfluous(one)) == set(range(len(one.oracle.entities))) - {one.oracle.matter[winner]}
    pair = draw_question(world, rng, SynthesisConfig(kinds=("compare",)))
    assert set(superfluous(pair)) >= set(range(len(pair.oracle.entities))) - set(pair.oracle.matter)


def test_none_of_the_other_kinds_needs_every_picture(world):
    """What docs/paper_index.md says of them."""
    drawn = synthesize(world, 100, seed=1, config=SynthesisConfig(kinds=tuple(visual.TEMPLATES), textual_share=0))
    assert not any(all_needed(synth) for synth in drawn if len(synth.oracle.entities) > 2)


def test_every_picture_is_needed_and_every_kind_occurs(needed):
    assert all(all_needed(synth) for synth in needed)
    assert set(Counter(synth.question.kind for synth in needed)) == set(KINDS)
    assert {len(synth.oracle.entities) for synth in needed} == {2, 3, 4, 6, 8}


def raw(country, attribute):
    return {"population": country.population, "area": country.area, "independence": country.independence_year}[
        attribute
    ]


def test_answers_agree_with_the_unrounded_facts_read_from_the_question_alone(world, needed):
    for synth in needed:
        text, answer = synth.question.text, synth.question.answers[0]
        shown = [world.country(key) for key in synth.oracle.entities]
        attribute = next(
            a
            for a, words in {
                "population": "popul|people",
                "area": "area|large",
                "independence": "independen",
                "capital": "capital",
                "currency": "currency",
                "region": "region",
            }.items()
            if re.search(words, text)
        )
        if synth.question.kind == "each_in_turn":
            assert answer == ", ".join(getattr(c, attribute) for c in shown)
        elif synth.question.kind == "total":
            exact = sum(raw(c, attribute) for c in shown)
            number, *scale = answer.removesuffix(" sq km").split()
            told = float(number.replace(",", "")) * {"million": 1e6, "billion": 1e9}.get("".join(scale), 1)
            assert told == pytest.approx(exact, rel=0.005)  # three digits of each
        else:
            ordered = sorted(shown, key=lambda c: raw(c, attribute))
            if re.search("most to the least|largest to the smallest|latest first", text):
                ordered.reverse()
            if synth.question.kind == "median":
                assert answer == ordered[len(ordered) // 2].name
            else:
                assert answer == ", ".join(c.name for c in ordered)


async def test_a_searcher_that_looks_at_everything_is_right_and_one_that_skips_a_picture_is_not(world, needed):
    judge, rng, backend = ExactJudge(), np.random.default_rng(0), WorldBackend(world)
    right = []
    for synth in needed[:40]:
        played = await demonstrate(synth, backend, Habits(), rng)
        right.append(await judge.judge(synth.question, played.result.answer))
        skipping = synth.oracle.answer_from([None, *synth.oracle.true_names[1:]])
        assert not await judge.judge(synth.question, skipping)
    assert np.mean(right) >= 0.9  # the image search misses one crop in a hundred


def test_a_rule_that_no_kind_can_meet_is_refused():
    with pytest.raises(ValueError, match="ranking"):
        SynthesisConfig(kinds=("extreme", "compare"), drop_one=True)
