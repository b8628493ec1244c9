"""Experts of the sampler in the learner: the gap between their log-probs in bfloat16, with and without replay."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.configs.training import LearnerConfig, PackConfig
from hypereyes_jax.learner.forward import Forward
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import TrainingSample, pack
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.models.qwen3_vl.moe import UNKNOWN_EXPERT
from hypereyes_jax.processing import ContextChunk, SampledChunk
from hypereyes_jax.rollout import DecodeRequest, Engine
from hypereyes_jax.rollout.engine import join
from tests import small_models
from tests.random_weights import random_params

TEXT = replace(small_models.TEXT, num_hidden_layers=4, num_experts=16, num_experts_per_tok=4, moe_intermediate_size=16)
CONFIG = Qwen3VLConfig(TEXT, small_models.VISION, 1, 2, 3, 4)
ROWS, PROMPT, SAMPLED = 8, 12, 84


@pytest.fixture(scope="module")
def sampled():
    """(float32 weights, samples that an engine in bfloat16 drew, with its experts)"""
    params = random_params(CONFIG)
    low = jax.tree.map(lambda x: x.astype("bfloat16"), params)
    settings = EngineConfig(
        slots=ROWS, context=128, kv="bfloat16", decode_rows=(ROWS,), extend_rows=(ROWS,), extend_tokens=(16,),
        view_lengths=(128,), image_shapes=((1, 64),), record_routes=True,
    )  # fmt: skip
    engine = Engine(CONFIG, low, settings)
    prompts = np.random.default_rng(0).integers(20, 120, (ROWS, PROMPT)).astype(np.int32)
    sequences = []
    for seed, prompt in enumerate(prompts):
        sequence = engine.new_sequence(seed)
        sequence.append_context(engine.prepare(ContextChunk(prompt)))
        engine.acquire(sequence)
        sequences.append(sequence)
    while unread := [sequence for sequence in sequences if sequence.unread]:
        engine.extend(unread)
    sampling = SamplingConfig(temperature=0.8, top_p=1.0)
    parts = [[] for _ in sequences]
    for left in range(SAMPLED, 0, -settings.max_steps):
        requests = [DecodeRequest(each, sampling, (), min(left, settings.max_steps)) for each in sequences]
        for part, drawn in zip(parts, engine.decode(requests), strict=True):
            part.append(drawn)
    samples = []
    for prompt, part, sequence in zip(prompts, parts, sequences, strict=True):
        whole = join(part)
        version = np.zeros(len(whole.tokens), np.int32)
        chunk = SampledChunk(whole.tokens, whole.logp_truncated, whole.logp_full, version)
        routes = sequence.routes.array()
        samples.append(TrainingSample((ContextChunk(prompt), chunk), advantage=1.0, routes=routes))
    return params, samples


def packing(replay):
    return PackConfig((128,), rows=ROWS, routes=(4, 4) if replay == "sampler" else None)


def gap(sampled, replay):
    """Mean distance of the learner's and the sampler's log-probs, of a pass in bfloat16."""
    params, samples = sampled
    batch = pack(CONFIG, samples, packing(replay))
    micro = jax.tree.map(lambda x: x[0], batch.replace(count=np.zeros(1), left_out=np.zeros(1)))
    forward = Forward(CONFIG, Kernels(), "bfloat16")

    @jax.jit
    def logprobs(params, micro):
        hidden_BTD, _ = forward.hidden(params, None, micro.inputs, routing=forward.routing(replay, micro.experts_MBCT))
        return forward.logprobs(hidden_BTD, forward.head(params), micro.targets_MBT, 0.8)[0]

    trained = micro.weight_MBT > 0
    return float(np.abs(np.asarray(logprobs(params, micro)) - micro.logp_full_MBT)[trained].mean())


@pytest.mark.slow
def test_replay_closes_most_of_the_gap_between_sampler_and_learner(sampled):
    gaps = {replay: gap(sampled, replay) for replay in ("off", "sampler")}
    print(gaps)
    assert gaps["sampler"] < 0.7 * gaps["off"]


@pytest.mark.slow
@pytest.mark.parametrize("replay", ["off", "trainer", "sampler"])
def test_a_training_step_takes_the_experts_that_its_setting_names(sampled, replay):
    params, samples = sampled
    learner = make_learner(CONFIG, LearnerConfig(routing_replay=replay, compute_dtype="bfloat16", remat="full"))
    state = learner.init(jax.random.key(0), jax.tree.map(np.array, params))
    _, figures = learner.rl_step(state, pack(CONFIG, samples, packing(replay)))
    # the learner's own experts are those of its forward pass; other programs round the last bits otherwise
    wanted = gap(sampled, "sampler" if replay == "sampler" else "off")
    assert float(figures["sampler_gap"]) == pytest.approx(wanted, rel=0.15)


def made(seed):
    """A sample with any tokens and routes."""
    rng = np.random.default_rng(seed)
    tokens, logp = rng.integers(20, 120, 9 + seed).astype(np.int32), np.zeros(9 + seed, np.float32)
    chunk = SampledChunk(tokens, logp, logp, np.zeros(9 + seed, np.int32))
    routes = rng.integers(0, 16, (PROMPT + 8 + seed, 4, 4)).astype(np.uint8)
    return TrainingSample((ContextChunk(np.arange(20, 20 + PROMPT, dtype=np.int32)), chunk), 1.0, routes=routes)


def test_routes_lie_where_their_tokens_do():
    samples = [made(seed) for seed in range(3)]
    batch = pack(CONFIG, samples[:3], PackConfig((512,), rows=1, routes=(4, 4)))
    for number, sample in enumerate(samples[:3]):
        own = batch.experts_MBCT[0][:, :, batch.sample_MBT[0, 0] == number][0]
        np.testing.assert_array_equal(own[:, :-1].T.reshape(-1, 4, 4), sample.routes)
        assert (own[:, -1] == UNKNOWN_EXPERT).all()  # nobody has read the last token
    assert (batch.experts_MBCT[0, 0][:, batch.sample_MBT[0, 0] < 0] == UNKNOWN_EXPERT).all()


def test_routes_of_another_trajectory_are_refused():
    sample = made(0)
    wrong = replace(sample, routes=sample.routes[1:])
    with pytest.raises(ValueError, match="needs the routes of all but the last, 16 experts each; it has 19 of 16"):
        pack(CONFIG, [wrong], PackConfig((128,), rows=1, routes=(4, 4)))
