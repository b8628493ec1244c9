"""IMEB-mini: what it promises of every question."""

import re
from collections import Counter

import pytest

from hypereyes_jax.data.benchmarks import open_benchmark
from hypereyes_jax.data.benchmarks.imeb_mini import DOMAINS, agrees, derive, imeb_mini, write_imeb
from hypereyes_jax.data.necessity import all_needed
from hypereyes_jax.data.types import SynthQuestion
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World


@pytest.fixture(scope="module")
def world():
    return World.load(passages=False)


@pytest.fixture(scope="module")
def questions(world):
    return imeb_mini(world)


def test_it_has_300_questions_of_4_6_entities_that_are_all_needed(questions):
    assert len({synth.question.id for synth in questions}) == len(questions) == 300
    counts = [len(synth.oracle.entities) for synth in questions]
    assert sum(counts) / len(counts) == pytest.approx(4.6)
    assert (min(counts), max(counts)) == (3, 8)
    assert all(all_needed(synth) for synth in questions)
    assert all(synth.question.meta["held_out"] for synth in questions)


def test_its_domains_are_imebs(questions):
    domains = Counter(synth.question.kind for synth in questions)
    assert set(domains) == set(DOMAINS.values())
    assert min(domains.values()) >= 20


def test_two_derivations_agree_on_every_answer(questions):
    assert all(agrees(synth) for synth in questions)


def test_the_second_derivation_notices_a_wrong_answer(questions):
    for synth in questions[:40]:
        q = synth.question
        wrong = Question(q.id, q.text, q.images, (synth.oracle.distractors[0],), q.kind, q.meta)
        assert not agrees(SynthQuestion(wrong, synth.oracle))


def test_the_second_derivation_by_hand(world):
    shown = [world.find(name) for name in ("France", "Malta", "India")]
    assert derive("List all countries whose flags are shown from the least to the most populous.", shown) == (
        "Malta, France, India"
    )
    assert derive("Of the 3 countries in the picture, which is the middle one by area?", shown) == "France"
    assert derive("What is the capital of each country in the picture, in reading order?", shown) == (
        "Paris, Valletta, New Delhi"
    )
    assert derive("Who won?", shown) is None


def test_it_is_the_same_each_time_and_survives_its_file(world, questions, tmp_path):
    again = imeb_mini(world, share=0.05)
    assert [s.question.text for s in imeb_mini(world, share=0.05)] == [s.question.text for s in again]
    path = tmp_path / "imeb_mini.parquet"
    write_imeb(path, [synth.question for synth in questions])
    read = open_benchmark("imeb", path)
    assert len(read) == 300
    for index in (0, 150, 299):
        ours, theirs = questions[index].question, read[index]
        assert (theirs.id, theirs.text, theirs.answers, theirs.kind) == (ours.id, ours.text, ours.answers, ours.kind)
        assert theirs.images[0].tobytes() == ours.images[0].tobytes()
        assert theirs.meta["num_entities"] == ours.meta["num_entities"]
    assert re.fullmatch(r"imeb-mini-\d{3}", read.ids[0])
