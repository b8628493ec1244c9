"""Demonstrations of the paradigms that cut regions out before they search them."""

import numpy as np
import pytest

from hypereyes_jax import miniature
from hypereyes_jax.data.questions import SynthesisConfig, synthesize
from hypereyes_jax.data.searcher import Habits, demonstrate
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.env.world import World, WorldBackend


@pytest.mark.parametrize(("paradigm", "tool"), [("llm-crop", "crop"), ("code-crop", "python")])
async def test_a_searcher_that_crops_apart_takes_one_round_more_and_is_as_right(paradigm, tool):
    world = World.load()
    (asked,) = synthesize(world, 1, 3, SynthesisConfig(kinds=("attribute",), textual_share=0.0))
    backend, judge = WorldBackend(world), ExactJudge()
    rounds = {}
    for each in ("ugs", paradigm):
        rng = np.random.default_rng(0)
        done = await demonstrate(asked, backend, Habits(), rng, miniature.episode(each))
        assert await judge.judge(asked.question, done.result.answer)
        rounds[each] = done.result.rounds
    assert rounds[paradigm] == rounds["ugs"] + 1
    assert f'"name": "{tool}"' in done.example.turns[0]
    assert done.example.system == miniature.episode(paradigm).system
