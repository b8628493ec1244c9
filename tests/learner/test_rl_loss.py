"""The loss against numbers worked out chunk by chunk, with a table in the model's place: no model, no compile."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import TrainingSample, pack
from hypereyes_jax.learner.rl_loss import rl_loss
from hypereyes_jax.learner.token_loss import chosen_loss
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.processing.types import ContextChunk, SampledChunk
from tests.learner.small import CONFIG, PACK


class TableForward:
    """The log-prob of a token is its place in a table, so that its gradient tells which token got which weight."""

    def routing(self, mode, experts_BCT):
        return None

    def hidden(self, params, lora, inputs, dropout_key=None, routing=None):
        return inputs.tokens_BT, None

    def head(self, params):
        return params

    def logprobs(self, hidden_BTD, head_DV, targets_BT, temperature=1.0):
        logp_BT = head_DV[targets_BT]
        return logp_BT, jnp.zeros_like(logp_BT)


def turn(tokens, full, truncated):
    logp_full, logp_truncated = (np.array(x, np.float32) for x in (full, truncated))
    return SampledChunk(np.array(tokens, np.int32), logp_truncated, logp_full, np.zeros(len(tokens), np.int32))


def given(*tokens):
    return ContextChunk(np.array(tokens, np.int32))


# No token occurs twice, and no two have the same gap to the sampler: a weight at another position shows.
SAMPLES = [
    TrainingSample(
        (
            given(1, 2),
            turn([10, 11, 12], [-1.0, -1.2, -0.4], [-0.9, -1.0, -0.1]),
            given(3),
            turn([13], [-2.0], [-1.5]),
        ),
        advantage=1.5,
    ),
    TrainingSample((given(4, 5, 6), turn([20, 21], [-0.5, -0.8], [-0.2, -0.6])), advantage=-0.5),
]
TABLE = np.full(CONFIG.text.vocab_size, -7.0, np.float32)
SAMPLED = [10, 11, 12, 13, 20, 21]
TABLE[SAMPLED] = [-1.1, -0.7, -0.55, -0.3, -0.56, -1.0]


def gradient(learn, samples=SAMPLES):
    micro = jax.tree.map(lambda x: x[0] if np.ndim(x) else x, pack(CONFIG, samples, dataclasses.replace(PACK, rows=1)))

    def loss(table):
        return rl_loss(table, None, micro, jnp.float32(len(samples)), TableForward(), learn, chosen_loss(learn))

    grads, metrics = jax.grad(loss, has_aux=True)(jnp.asarray(TABLE))
    return np.asarray(grads), {name: float(each.value) for name, each in metrics.items()}


@pytest.mark.parametrize("against", ["full", "truncated"])
@pytest.mark.parametrize("cap", [2.0, 0.0])
def test_each_token_is_weighed_against_the_sampler_s_own_log_prob_of_it(against, cap):
    """d loss / d logp = -advantage * min(exp(logp - sampler's), cap) / (tokens of the sample) / samples."""
    grads, metrics = gradient(LearnerConfig(tis_against=against, tis_cap=cap))
    wanted, weights, gaps = np.zeros_like(TABLE), [], []
    for sample in SAMPLES:
        turns = [chunk for chunk in sample.chunks if isinstance(chunk, SampledChunk)]
        count = sum(len(chunk.tokens) for chunk in turns)
        for chunk in turns:
            told = {"full": chunk.logp_full, "truncated": chunk.logp_truncated}[against]
            for token, sampler, full in zip(chunk.tokens, told, chunk.logp_full, strict=True):
                weight = min(np.exp(TABLE[token] - sampler), cap) if cap else 1.0
                wanted[token] = -sample.advantage * weight / count / len(SAMPLES)
                weights.append(weight)
                gaps.append(abs(TABLE[token] - full))
    assert len(set(np.round(weights, 4))) == (6 if cap else 1)
    assert 2.0 in weights or not cap  # one is capped
    np.testing.assert_allclose(grads, wanted, rtol=1e-5, atol=1e-8)
    assert metrics["sampler_gap"] == pytest.approx(np.mean(gaps), rel=1e-5)
    assert metrics["tokens"] == 6


def test_a_teacher_moves_the_advantage_of_the_tokens_it_scored():
    """advantage + coef * (teacher's - student's log-prob), on failed samples and at the token that was scored."""
    teacher = np.array([-0.1, -3.0, np.nan, -0.6], np.float32)
    failed = dataclasses.replace(SAMPLES[0], failed=True, teacher_logp=teacher)
    grads, metrics = gradient(LearnerConfig(tis_cap=0.0, opd_coef=0.5), [failed, SAMPLES[1]])
    student = TABLE[[10, 11, 12, 13]]
    gap = np.where(np.isnan(teacher), 0.0, teacher - student)
    np.testing.assert_allclose(grads[[10, 11, 12, 13]], -(1.5 + 0.5 * gap) / 4 / 2, rtol=1e-5)
    np.testing.assert_allclose(grads[[20, 21]], 0.5 / 2 / 2, rtol=1e-5)
    assert metrics["kl_to_teacher"] == pytest.approx(-np.mean(gap[[0, 1, 3]]), rel=1e-5)


def test_old_log_probs_are_taken_where_they_are_given():
    """A ratio of exp(0.2) is within 1.28 above; exp(0.3) is clipped for a positive advantage, and has no gradient."""
    sample = dataclasses.replace(SAMPLES[0], chunks=SAMPLES[0].chunks[:2], advantage=1.0)
    batch = pack(CONFIG, [sample], dataclasses.replace(PACK, rows=1))
    old = np.zeros(batch.targets_MBT.shape, np.float32)
    for token, gap in ((10, 0.2), (11, 0.3), (12, -0.5)):
        old[(batch.targets_MBT == token) & (batch.weight_MBT > 0)] = TABLE[token] - gap
    micro = jax.tree.map(lambda x: x[0] if np.ndim(x) else x, batch.replace(old_logp_MBT=old))
    learn = LearnerConfig(tis_cap=0.0)

    def loss(table):
        return rl_loss(table, None, micro, jnp.float32(1), TableForward(), learn, chosen_loss(learn))[0]

    grads = jax.grad(loss)(jnp.asarray(TABLE))
    np.testing.assert_allclose(grads[np.array([10, 11, 12])], [-np.exp(0.2) / 3, 0, -np.exp(-0.5) / 3], rtol=1e-5)


def test_every_step_and_every_micro_batch_has_dropout_of_its_own(monkeypatch):
    """Log-probs are what the dropout's key draws here, so that the figures of a step tell the keys it used."""

    class DroppingForward(TableForward):
        def __init__(self, config, *_, **__):
            self.config = config

        def hidden(self, params, lora, inputs, dropout_key=None, routing=None):
            shape = inputs.tokens_BT.shape
            return jnp.zeros(shape) if dropout_key is None else jax.random.normal(dropout_key, shape), None

        def head(self, params):
            return params["w"]

        def logprobs(self, hidden_BTD, head_DV, targets_BT, temperature=1.0):
            return hidden_BTD * head_DV, hidden_BTD * hidden_BTD

    monkeypatch.setattr("hypereyes_jax.learner.learner.Forward", DroppingForward)
    optimizer = OptimizerConfig(learning_rate=0.0, schedule="constant")
    batch = pack(CONFIG, SAMPLES * 4, dataclasses.replace(PACK, rows=1, row_lengths=(32,)))
    assert batch.count > 1
    twins = batch.replace(**{  # the same micro-batch twice
        name: jax.tree.map(lambda x: np.stack([x[0], x[0]]), getattr(batch, name))
        for name in (field.name for field in dataclasses.fields(batch))
        if name not in ("count", "left_out") and getattr(batch, name) is not None
    }, count=np.int32(2))  # fmt: skip

    def figures(train, *, step=0, given=batch):
        learner = make_learner(CONFIG, LearnerConfig(optimizer=optimizer, train=train))
        state = learner.init(jax.random.key(0), {"w": jnp.ones(())}, Lora({"w": jnp.ones(())}))
        return float(learner.sft_step(state.replace(step=jnp.int32(step)), given)[1]["entropy"])

    assert figures("lora") == figures("lora") != figures("lora", step=1)
    assert figures("lora", given=twins) != figures("lora", given=twins.replace(count=np.int32(1)))
    assert figures("full") == 0.0  # no adapters, no dropout
