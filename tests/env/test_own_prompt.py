"""A user's own system prompt: text, file, function."""

import pytest

from hypereyes_jax.env import Episode, EpisodeConfig, Question
from hypereyes_jax.env.own_prompt import check_prompt, prompt_object
from hypereyes_jax.errors import UserError

QUESTION = Question("q", "Which?", (), ("a",))


class Nothing:
    async def text_search(self, query, k):
        return []

    async def image_search(self, image, k):
        return []


def prompt(system, **rules):
    return Episode(QUESTION, Nothing(), EpisodeConfig(system=system, **rules)).system


def test_place_holders_of_a_text_are_filled_in():
    text = prompt('At most {rounds} rounds; boxes in {boxes}. {"a": 1} {{rounds}}\n{tools}\n{schemas}', max_rounds=3)
    assert text.startswith("At most 3 rounds; boxes in fractions of the width")
    assert '{"a": 1} {rounds}\n1. image_search:' in text
    assert text.count('"type": "function"') == 2


def test_tools_that_a_setting_names_stand_in_the_list():
    assert "3. zoom: shows regions" in prompt("{tools}", tools=("zoom",))


@pytest.mark.parametrize("rules", [{"system": "Search."}, {"system": "{rounds}"}, {"prompt_style": "compact"}])
def test_a_tool_that_a_prompt_says_nothing_of_is_listed_at_its_end(rules):
    bare = Episode(QUESTION, Nothing(), EpisodeConfig(**rules)).system
    told = Episode(QUESTION, Nothing(), EpisodeConfig(**rules, tools=("zoom",), delegate_rounds=2)).system
    assert told.startswith(bare)
    assert "delegate: hands a sub-question" in told[len(bare) :]
    assert '<tool_call>{"name": "zoom"' in told[len(bare) :]
    assert "image_search:" not in told[len(bare) :]


def test_tools_that_a_prompt_describes_itself_are_not_listed_again():
    assert prompt("Search, or zoom.", tools=("zoom",)) == "Search, or zoom."
    assert prompt("{schemas}", tools=("zoom",)).count('"name": "zoom"') == 1
    assert Episode(QUESTION, Nothing(), EpisodeConfig(tools=("zoom",)), prompt=lambda facts: "x").system == "x"
    assert "zoom: " in prompt("Zooming is a tool.", tools=("zoom",))  # another word


def test_a_file_is_read_once_and_known_by_its_hash(tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text("You have {rounds} rounds.")
    assert prompt(f"@{path}") == "You have 8 rounds."
    kept = prompt_object(f"@{path}")
    assert (kept.name, kept.file, len(kept.sha256)) == (f"@{path}", str(path), 64)
    path.write_text("Other.")
    assert prompt(f"@{path}") == "You have 8 rounds."
    assert prompt_object(f"@{path}").sha256 != kept.sha256
    assert prompt_object("a string") is None


def test_a_function_is_told_the_question_and_the_tools(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "def write(facts):\n    return facts.question.text + ' ' + ', '.join(t.name for t in facts.tools)\n"
    )
    assert prompt(f"@{path}:write") == "Which? image_search, text_search"
    episode = Episode(QUESTION, Nothing(), prompt=lambda facts: f"{facts.config.max_rounds}")
    assert episode.system == "8"


@pytest.mark.parametrize(
    ("system", "why"),
    [
        ("{tool}", "place-holder {tool}; there are {tools}"),
        ("@gone.txt", "can't be read"),
        ("@gone.py:write", "there is no file"),
        (lambda: "x", "failed on a made-up question"),
        (lambda facts: 3, "gave a int"),
    ],
)
def test_what_is_no_prompt_is_told_at_the_start(system, why):
    with pytest.raises(UserError, match=why.replace("{", r"\{")):
        check_prompt(system, EpisodeConfig())
