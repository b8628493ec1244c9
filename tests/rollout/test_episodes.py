"""Episodes through the scheduler: nothing lost, results independent of company."""

from __future__ import annotations

import jax
import numpy as np

from hypereyes_jax.models.qwen3_vl import forward
from hypereyes_jax.processing import SampledChunk, pack_inputs
from hypereyes_jax.rollout import run_episodes
from tests.rollout.paced import SAMPLING, SETTINGS, PacedEpisode, question


def record(trajectory):
    """(token ids, images) of a whole trajectory, as a learner would pack them."""
    tokens = np.concatenate([chunk.tokens for chunk in trajectory.chunks])
    return tokens, [image for chunk in trajectory.chunks for image in getattr(chunk, "images", ())]


def same(a, b):
    return len(a.chunks) == len(b.chunks) and all(
        np.array_equal(x.tokens, y.tokens) for x, y in zip(a.chunks, b.chunks, strict=True)
    )


async def one_at_a_time(engine, numbers, chat, turns=3):
    alone = []
    for number in numbers:
        alone += await run_episodes(engine, [PacedEpisode(question(number), turns)], chat, SAMPLING, [number])
    return alone


async def test_more_episodes_than_slots_give_the_tokens_of_one_at_a_time(make_engine, chat):
    engine, numbers = make_engine(), range(10)
    episodes = [PacedEpisode(question(n), seconds=0.01 * (n % 3)) for n in numbers]
    together = await run_episodes(engine, episodes, chat, SAMPLING, list(numbers))
    assert [t.result.question.id for t in together] == [str(n) for n in numbers]
    alone = await one_at_a_time(make_engine(), numbers, chat)
    for a, b in zip(together, alone, strict=True):
        assert same(a, b)
        assert len([c for c in a.chunks if isinstance(c, SampledChunk)]) == 3
    assert engine.free_slots == SETTINGS.slots


async def test_log_probs_are_those_of_forward_with_images_in_observations(make_engine, chat, config, params):
    (trajectory,) = await run_episodes(make_engine(), [PacedEpisode(question(3))], chat, SAMPLING, [5])
    tokens, images = record(trajectory)
    assert len(images) == 3
    inputs = pack_inputs(config, [(tokens, images)], SETTINGS.min_pixels, SETTINGS.max_pixels)
    logits_TV = jax.jit(forward, static_argnames="config")(params, config, inputs)[0]
    logp_TV = np.asarray(jax.nn.log_softmax(logits_TV / SAMPLING.temperature))
    # place of each record token among the expanded ones
    first_of_image = np.diff(inputs.visual_index_BT[0], prepend=-1)
    expanded = [t for t in range(inputs.tokens_BT.shape[1]) if inputs.segment_BT[0, t]]
    starts, seen = [], 0
    sizes = {int(j) for j in np.flatnonzero(first_of_image)}
    assert sizes
    counts = iter(_image_sizes(inputs, config))
    for token in tokens:
        starts.append(seen)
        seen += next(counts) if token == config.image_token_id else 1
    assert seen == len(expanded)
    at = 0
    for chunk in trajectory.chunks:
        if isinstance(chunk, SampledChunk):
            places = np.array(starts[at : at + len(chunk.tokens)]) - 1
            np.testing.assert_allclose(chunk.logp_full, logp_TV[places, chunk.tokens], atol=1e-4)
            assert (chunk.logp_truncated >= chunk.logp_full - 1e-5).all()
        at += len(chunk.tokens)


def _image_sizes(inputs, config):
    """Visual tokens of each image, in order."""
    segments = inputs.vision.segment_RL.reshape(-1)
    return [int((segments == n).sum()) // config.vision.merge_unit for n in range(1, segments.max() + 1)]


async def test_a_copy_plays_on_the_same_engine_while_its_episode_waits(make_engine, chat):
    class Asking(PacedEpisode):
        copied = None

        async def step(self, text, truncated=False):
            if self.copied is None:
                self.copied = await self.copies(PacedEpisode(question(7), turns=2))
            return await super().step(text, truncated)

    asking = [Asking(question(n)) for n in range(5)]  # more than the engine has slots
    together = await run_episodes(make_engine(), asking, chat, SAMPLING, list(range(5)))
    alone = await one_at_a_time(make_engine(), range(5), chat)
    assert all(same(a, b) for a, b in zip(together, alone, strict=True))
    assert all(len(each.copied.turns) == 0 and each.copied.stop == "answered" for each in asking)
