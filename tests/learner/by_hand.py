"""A sample at a time, with plain logits, no packing and no accumulation: what the learner is compared with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig
from hypereyes_jax.models.qwen3_vl import forward
from hypereyes_jax.processing import pack_inputs
from hypereyes_jax.processing.types import ContextChunk, SampledChunk
from tests.learner.small import CONFIG
from tests.learner.small import PACK as ANY_SHAPE
from tests.random_weights import random_params

# b1 = 0.9 and no clipping: the first moment after one step is 0.1 x the gradient, so gradients can be read from it.
PLAIN = OptimizerConfig(learning_rate=1e-2, schedule="constant", clip_norm=1e9, weight_decay=0.0)
LEARN = LearnerConfig(optimizer=PLAIN)
# One shape for all tests: one program for each kind of step.
PACK = dataclasses.replace(ANY_SHAPE, micro_batches=4, vision=(6, 144))
# Same numbers in another order: float32 rounding, relative to the largest gradient.
TOLERANCE = 2e-6


def spread_params():
    """Weights larger than the usual init, so that log-probs are not all the same."""
    return random_params(CONFIG, scale=3)


def copy(tree):
    """Arrays of its own, which a step may consume. Through numpy, here and below: nothing is compiled."""
    return jax.tree.map(lambda x: jnp.asarray(np.array(x)), tree)


def gradient(state):
    return jax.tree.map(lambda mu: np.asarray(mu) / np.float32(0.1), state.opt_state[1].mu)


def norm(tree):
    return np.sqrt(sum(np.sum(np.square(x)) for x in jax.tree.leaves(tree)))


def assert_close(tree, wanted, tolerance=TOLERANCE):
    scale = max(float(np.abs(x).max()) for x in jax.tree.leaves(wanted))
    assert scale > 0
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(tree), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, err_msg=jax.tree_util.keystr(path))


def alone(sample):
    """(inputs, targets, trained, truncated log-probs) of one sample in a batch of its own."""
    tokens = np.concatenate([chunk.tokens for chunk in sample.chunks])
    images = [image for chunk in sample.chunks if isinstance(chunk, ContextChunk) for image in chunk.images]
    limits = PACK.min_pixels, PACK.max_pixels
    inputs = pack_inputs(CONFIG, [(tokens, images)], *limits, length=64, vision_pad_to=(2, 144))
    trained, full = np.zeros(64, bool), np.zeros(64, np.float32)
    end = int((inputs.segment_BT > 0).sum())
    for chunk in reversed(sample.chunks):
        if isinstance(chunk, SampledChunk):
            trained[end - len(chunk.tokens) : end] = True
            full[end - len(chunk.tokens) : end] = chunk.logp_full
            end -= len(chunk.tokens)
        else:
            sizes = [pack_inputs(CONFIG, [([90], [image])], *limits) for image in chunk.images]
            end -= len(chunk.tokens) + sum(int((size.segment_BT > 0).sum()) - 1 for size in sizes)
    assert end == 0
    return inputs, inputs.tokens_BT[:, 1:], trained[None, 1:], full[None, 1:]


@jax.jit
def logits_alone(params, case):
    """[1, T - 1, V] of the next tokens."""
    return forward(params, CONFIG, case[0])[:, :-1]


@jax.jit
def logp_of(logits, case, temperature=1.0):
    """[1, T - 1] log-probs of the next tokens."""
    logp = jax.nn.log_softmax(logits / temperature)
    return jnp.take_along_axis(logp, case[1][..., None], -1)[..., 0]


def logp_alone(params, case, temperature=1.0):
    return logp_of(logits_alone(params, case), case, temperature)


@jax.jit
def _pulled_back(params, case, to_logits):
    """The gradient of weights from that of logits."""
    return jax.vjp(lambda w: logits_alone(w, case), params)[1](to_logits)[0]


def mean_gradient(loss, params, *per_sample):
    """(mean of `loss(logits, case, ...)`, its gradient), sample by sample; the model is one program for all losses."""
    each = jax.jit(jax.value_and_grad(loss))
    values, gradients = [], []
    for case, *more in zip(*per_sample, strict=True):
        value, to_logits = each(logits_alone(params, case), case, *more)
        values.append(float(value))
        gradients.append(_pulled_back(params, case, to_logits))
    return np.mean(values), jax.tree.map(lambda *x: sum(map(np.asarray, x)) / np.float32(len(x)), *gradients)


def in_float64(tree):
    """A tree whose float32 leaves are float64, within `jax.enable_x64`: for sums whose rounding would tell."""
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)) if x.dtype == np.float32 else x, tree)


def step(learner, kind, params, batch, *more, lora=None):
    state, metrics = getattr(learner, kind)(learner.init(jax.random.key(1), copy(params), lora), batch, *more)
    return state, metrics
