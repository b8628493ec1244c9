"""The second domain: pictures that are found by their crops, pages that tell facts, questions with one answer."""

import numpy as np
import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.data.files import read_questions
from hypereyes_jax.data.nature_questions import nature_questions
from hypereyes_jax.env.media.crops import crop
from hypereyes_jax.env.nature import Nature
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.search.services import connected


@pytest.fixture(scope="module")
def world():
    return Nature.load()


@pytest.fixture(scope="module")
def questions(world):
    return nature_questions(world, world.split()[1], 80, 0, crowding=-1.5, prefix="t")


def test_a_picture_is_found_by_a_crop_of_it(world):
    rng = np.random.default_rng(0)
    picked = [str(key) for key in rng.choice(world.keys, 30, replace=False)]
    exact = loose = 0
    for key in picked:
        picture = world.picture(key)
        exact += world.image_search(picture, 1)[0].title == world.entity(key).name
        cut = crop(picture, (0.05, 0.05, 0.95, 0.95))
        loose += world.image_search(cut, 1)[0].title == world.entity(key).name
    assert exact == 30
    assert loose >= 28


def test_a_page_tells_the_facts_that_a_query_asks_for(world):
    (hit,) = world.text_search("group of Lion", 3)
    assert (hit.title, hit.content) == ("Lion", "Group: carnivore.")
    assert hit.score > 0.6
    assert world.text_search("kind and kinds of lion", 1)[0].content == "Kind: big cat. Number of kinds: 3."
    assert "feline" in world.text_search("Panthera leo", 1)[0].content  # by an alias, the definition
    assert world.text_search("capital of Chad", 3) == []


def test_seen_and_held_out_entities_are_apart(world):
    seen, held_out = world.split()
    assert not set(seen) & set(held_out)
    assert len(seen) + len(held_out) == len(world.keys) == 181
    assert len(held_out) == 61


def test_each_answer_follows_from_the_facts_of_what_is_shown(world, questions):
    """Worked out anew from the meta data, for each kind of question."""
    for question in questions:
        shown = [world.entity(key) for key in question.meta["entities"]]
        matter = [shown[place] for place in question.meta["matter"]]
        groups = [entity.group for entity in shown]
        if question.kind == "attribute":
            right = {matter[0].fact(question.meta["attribute"])}
        elif question.kind in ("compare", "extreme"):
            most = max(entity.kinds for entity in matter)
            right = {entity.name for entity in matter if entity.kinds == most}
        elif question.kind == "only_one":
            (right,) = [{e.name} for e in shown if f"group {e.group}. " in question.text and groups.count(e.group) == 1]
        else:
            right = {group for group in groups if groups.count(group) == 2}
        assert right == {question.answers[0]}, question.text
    assert {question.kind for question in questions} == {"attribute", "compare", "extreme", "only_one", "shared"}


async def test_it_is_a_search_service(world):
    async with connected(SearchConfig(service="nature")) as (backend, _):
        assert (await backend.text_search("group of Lion", 1))[0].content == "Group: carnivore."
        assert (await backend.image_search(world.picture("lion"), 1))[0].title == "Lion"


def test_synth_makes_candidates_and_questions_about_other_entities(tmp_path, world):
    out = tmp_path / "nature"
    sizes = ["--rl-candidates", "6", "--eval-questions", "4"]
    assert cli.main(["synth", "--domain", "nature", "--out", str(out), *sizes]) == 0
    trained = {key for q in read_questions(out / "rl_candidates.jsonl") for key in q.meta["entities"]}
    asked = {key for q in read_questions(out / "heldout.jsonl") for key in q.meta["entities"]}
    assert not trained & asked
    assert cli.main(["synth", "--domain", "nature", "--depths", "1", "--out", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()
