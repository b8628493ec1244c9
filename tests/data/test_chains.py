"""Chains: questions whose depth is stated, and can't be searched away."""

import re

import numpy as np
import pytest

from hypereyes_jax.data.chains import KINDS, Chain, Hop, depth
from hypereyes_jax.data.mosaics import places
from hypereyes_jax.data.questions import SynthesisConfig, draw_question, synthesize
from hypereyes_jax.data.searcher import Habits, demonstrate
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.env.world import World, WorldBackend


@pytest.fixture(scope="module")
def world():
    return World.load(passages=False)


@pytest.fixture(scope="module")
def drawn(world):
    return synthesize(world, 150, seed=4, config=SynthesisConfig(kinds=KINDS, textual_share=0.5))


def test_plans_by_hand(world):
    chain = Chain((Hop("population", True),), "capital", "pt")  # Portugal has one neighbour
    assert chain.answer(world, ()) == "Madrid"
    assert chain.rounds(world, ()) == (("borders of Portugal",), ("population and capital of Spain",))
    two = Chain((Hop("area", True), Hop("population", False)), "", "at")
    first = max(world.country("at").borders, key=lambda key: world.country(key).area)
    second = min(world.country(first).borders, key=lambda key: world.country(key).population)
    assert two.answer(world, ()) == world.country(second).name
    assert "area and borders of Germany" in two.rounds(world, ())[1]
    assert two.rounds(world, ())[2] == tuple(
        f"population of {name}" for name in sorted(world.country(key).name for key in world.country(first).borders)
    )
    flag = Chain((Hop("population", True),))
    assert flag.answer(world, ["Portugal"]) == "Spain"
    assert flag.answer(world, [None]) is None
    assert flag.rounds(world, ["Atlantis"]) == ()


def test_every_depth_from_one_to_four_occurs_and_stands_in_the_question(drawn):
    depths = {}
    for synth in drawn:
        depths.setdefault(synth.question.kind, set()).add(depth(synth))
        assert synth.question.meta["depth"] == depth(synth)
    assert depths == {
        "named_fact": {1},
        "attribute": {2},
        "named_hop": {2},
        "flag_hop": {3},
        "named_two_hops": {3},
        "flag_two_hops": {4},
    }


def walked(world, synth):
    """The answer from the question's words and the unrounded facts, without the plan."""
    text = synth.question.text
    here = None
    if synth.question.images:
        rows, columns = synth.question.meta["layout"]
        spots = [
            (text.index(f"flag is {phrase}"), -len(phrase), key)
            for index, key in enumerate(synth.oracle.entities)
            for phrase in places((rows, columns), index)
            if re.search(rf"flag is {re.escape(phrase)} and go", text)
        ]
        here = world.country(min(spots)[2])
    else:
        here = world.country(synth.oracle.entities[0])
        assert here.name in text
    told, _, end = text.rpartition(". ")
    for clause in told.partition(" and go to its ")[2].split(" and from there to its "):
        near = [world.country(key) for key in here.borders]
        if clause.startswith("neighbor with the"):
            attribute = "population" if "population" in clause else "area"
            size = lambda c, attribute=attribute: getattr(c, attribute)  # noqa: E731
            here = max(near, key=size) if "largest" in clause else min(near, key=size)
        else:
            wanted = re.search(r"currency (.*)|has (.*) as an official|region (.*)", clause)
            value = next(group for group in wanted.groups() if group)
            (here,) = [c for c in near if value in (c.currency, c.region, *c.languages)]
    if "capital" in end:
        return here.capital
    return here.currency if "currency" in end else here.name


def test_the_chain_of_words_leads_to_the_answer(world, drawn):
    for synth in drawn:
        if synth.question.kind in ("flag_hop", "flag_two_hops", "named_hop", "named_two_hops"):
            assert walked(world, synth) == synth.question.answers[0], synth.question.text


async def test_a_perfect_searcher_needs_exactly_the_depth(world, drawn):
    rng, backend, judge = np.random.default_rng(0), WorldBackend(world), ExactJudge()
    right = []
    for synth in drawn[:60]:
        played = await demonstrate(synth, backend, Habits(), rng)
        right.append(await judge.judge(synth.question, played.result.answer))
        assert played.result.rounds == depth(synth)
    assert np.mean(right) >= 0.9


def test_depths_can_be_asked_for(world):
    rng = np.random.default_rng(0)
    rules = SynthesisConfig(kinds=KINDS, textual_share=0.5, depths=(3, 4))
    assert {depth(draw_question(world, rng, rules)) for _ in range(30)} == {3, 4}


def test_the_usual_kinds_have_depth_one_or_two(world):
    usual = synthesize(world, 60, seed=9)
    assert {depth(synth) for synth in usual} == {1, 2}


def test_the_planned_queries_return_every_fact_needed(world, drawn):
    for synth in drawn:
        oracle = synth.oracle
        rounds = oracle.rounds_from(oracle.true_names)
        told = [world.text_search(query, 1)[0] for queries in rounds for query in queries]
        for line in oracle.plan.read(world, oracle.true_names):
            name, fact = line.split(": ", 1)
            assert fact == "unknown" or any(hit.title == name and fact in hit.content for hit in told), line
