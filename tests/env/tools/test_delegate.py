"""Sub-questions handed to copies of the policy: at once, with a budget of their own, one level deep."""

import asyncio
import json

import pytest
from PIL import Image

from hypereyes_jax.env import Episode, EpisodeConfig, Question, StopReason
from hypereyes_jax.env.chat.client import ChatReply
from hypereyes_jax.env.chat.policy import play

FLAGS = Image.new("RGB", (400, 200), "red")
FLAGS.paste("blue", (200, 0, 400, 200))
QUESTION = Question("q", "Which has more people?", (FLAGS,), ("Togo",))
RULES = EpisodeConfig(delegate_rounds=1)


def delegate(**arguments):
    return f"<tool_call>{json.dumps({'name': 'delegate', 'arguments': arguments})}</tool_call>"


WHOLE = '<tool_call>{"name": "image_search", "arguments": {"image_id": "img_0"}}</tool_call>'


class Script:
    """A chat model: the orchestrator hands out both halves, each copy searches its image, then answers its colour."""

    def __init__(self):
        self.under_way = self.most = 0
        self.systems = []

    async def complete(self, messages, **_):
        (_, (system,)), (_, asked), *rest = messages
        self.systems.append(system)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.01)
        self.under_way -= 1
        if asked[-1] == QUESTION.text:
            halves = [[[0, 0, 0.5, 1]], [[0.5, 0, 1, 1]]]
            first = "".join(delegate(question="Which?", image_id="img_0", area=half) for half in halves)
            text = first if not rest else "<answer>Togo</answer>"
        else:
            colour = "red" if asked[0].getpixel((0, 0))[0] > 128 else "blue"
            text = WHOLE if not rest else f"<answer>{colour}</answer>"
        return ChatReply(text, "stop", 10, 2)


async def test_copies_play_at_once_and_their_answers_and_searches_come_back(library):
    model = Script()
    played = await play(Episode(QUESTION, library, RULES), model)
    assert played.result.answer == "Togo"
    first = played.result.turns[0]
    shown = first.observation
    assert "red" in shown
    assert "blue" in shown
    assert "Capital" not in shown  # what the copies found is theirs
    assert (first.is_round, first.searches) == (True, 2)
    assert played.result.rounds == 1
    assert model.most == 2
    assert played.completion_tokens == 2 * (2 + 2 * 2)
    assert sum("delegate" in system for system in model.systems) == 2  # the orchestrator's two turns: one level deep


async def test_what_can_not_be_handed_over_is_told(library):
    async def nobody(episode):
        raise AssertionError

    for arguments, why in [
        ({}, "must be the text"),
        ({"question": "?", "image_id": "img_7"}, "there is no image img_7"),
        ({"question": "?", "image_id": "img_0", "area": [[1, 1, 1, 1]]}, "empty or outside"),
    ]:
        episode = Episode(QUESTION, library, RULES)
        episode.copies = nobody
        await episode.step(delegate(**arguments))
        assert why in episode.last_turn.observation
    alone = Episode(QUESTION, library, RULES)
    await alone.step(delegate(question="?"))
    assert "no copy can be asked" in alone.last_turn.observation


async def test_an_outage_of_all_copies_is_one_of_the_episode(library):
    async def outage(episode):
        episode.fail_infrastructure("HTTP 503")
        return episode.result()

    episode = Episode(QUESTION, library, RULES)
    episode.copies = outage
    assert await episode.step(delegate(question="?")) is None
    assert episode.stop_reason is StopReason.INFRASTRUCTURE


def test_it_is_off_by_default(library):
    assert "delegate" not in Episode(QUESTION, library).system
    with pytest.raises(ValueError, match="delegate_rounds"):
        EpisodeConfig(delegate_rounds=-1)
