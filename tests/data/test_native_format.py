"""Demonstrations as Qwen's own models think, call and answer: the environment reads the same from either format."""

import json

import pytest
from PIL import Image

from hypereyes_jax.data.native_format import native_system, native_turn
from hypereyes_jax.data.sources import SourceOptions, open_examples
from hypereyes_jax.env import Episode, EpisodeConfig, Question, StopReason, parse_turn, tool_call
from hypereyes_jax.env.actions import ImageSearch, TextSearch
from hypereyes_jax.env.media.images import embedded, png_bytes


class Nothing:
    """A backend that finds nothing."""

    async def text_search(self, query, k):
        return []

    async def image_search(self, image, k):
        return []


BOXES = ImageSearch("img_0", ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)))
CALLS = "<reason>Two flags.</reason>" + tool_call(BOXES) + tool_call(TextSearch(("Chad", "Togo")))
ANSWER = "<reason>I know.</reason><answer>Chad</answer>"


def test_a_turn_with_calls_by_hand():
    assert native_turn("<reason>Look.</reason>" + tool_call(TextSearch(("Chad",)))) == (
        "<think>\nLook.\n</think>\n\n<tool_call>\n"
        '{"name": "text_search", "arguments": {"input": ["Chad"]}}\n</tool_call>'
    )
    assert native_turn(ANSWER) == "<think>\nI know.\n</think>\n\nChad"
    assert native_turn("<answer>Chad</answer>") == "Chad"


@pytest.mark.parametrize("turn", [CALLS, ANSWER, "<think>Hm.</think>" + tool_call(BOXES), "<answer>19 m</answer>"])
def test_the_same_is_read_from_both(turn):
    tags, native = parse_turn(turn), parse_turn(native_turn(turn), plain_answers=True)
    assert (native.reason, native.action, native.calls) == (tags.reason, tags.action, tags.calls)


def test_a_call_of_another_tool_stays_as_it_was_written():
    turn = '<reason>Near.</reason><tool_call>{"name": "zoom", "arguments": {"a": 1}}</tool_call>'
    assert native_turn(turn) == (
        '<think>\nNear.\n</think>\n\n<tool_call>{"name": "zoom", "arguments": {"a": 1}}</tool_call>'
    )


async def test_a_demonstration_file_is_read_in_either_format_and_played_natively(tmp_path):
    path = tmp_path / "demonstrations.jsonl"
    image = {"image": embedded(png_bytes(Image.new("RGB", (8, 8))), "PNG")}
    row = {"id": "d", "system": "Search.", "observations": [[image, "Which?"], ["found"]], "turns": [CALLS, ANSWER]}
    path.write_text(json.dumps(row) + "\n")
    with open_examples(path) as tags:
        assert tags[0].turns == (CALLS, ANSWER)
    with open_examples(path, options=SourceOptions(turn_format="native")) as native:
        example = native[0]
    assert example.system == native_system()
    assert '"type": "function"' in example.system
    episode = Episode(Question("q", "Which?", (), ("Chad",)), Nothing(), EpisodeConfig(prompt_style="native"))
    assert episode.system == example.system
    for turn in example.turns:
        await episode.step(turn)
    assert (episode.stop_reason, episode.result().answer) == (StopReason.ANSWERED, "Chad")


def test_a_system_prompt_that_was_asked_for_stays(tmp_path):
    path = tmp_path / "demonstrations.jsonl"
    row = {"id": "d", "system": "Search.", "observations": [["Which?"]], "turns": [ANSWER]}
    path.write_text(json.dumps(row) + "\n")
    with open_examples(path, options=SourceOptions(turn_format="native", system="Mine.")) as native:
        assert native[0].system == "Mine."
