"""A sample at a time, with plain logits, no packing and no accumulation: what the learner is compared with."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig
from hypereyes_jax.models.qwen3_vl import forward, init_params
from hypereyes_jax.processing import pack_inputs
from hypereyes_jax.processing.types import ContextChunk, SampledChunk
from tests.learner.small import CONFIG
from tests.learner.small import PACK as ANY_SHAPE

# b1 = 0.9 and no clipping: the first moment after one step is 0.1 x the gradient, so gradients can be read from it.
PLAIN = OptimizerConfig(learning_rate=1e-3, schedule="constant", clip_norm=1e9, weight_decay=0.0)
LEARN = LearnerConfig(optimizer=PLAIN)
# One shape for all tests: one program for each kind of step.
PACK = dataclasses.replace(ANY_SHAPE, micro_batches=4, vision=(6, 144))
# Same numbers in another order: float32 rounding, relative to the largest gradient.
TOLERANCE = 2e-6


def spread_params():
    """Weights larger than the usual init, so that log-probs are not all the same."""
    return jax.tree.map(lambda x: x * 3 if x.ndim > 2 else x, init_params(jax.random.key(0), CONFIG))


def copy(tree):
    return jax.tree.map(jnp.array, tree)  # steps donate their state


def gradient(state):
    return jax.tree.map(lambda mu: mu / 0.1, state.opt_state[1].mu)


def assert_close(tree, wanted, tolerance=TOLERANCE):
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(wanted))
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
def logp_alone(params, case, temperature=1.0):
    """[1, T - 1] log-probs of the next tokens."""
    inputs, targets, _, _ = case
    logp = jax.nn.log_softmax(forward(params, CONFIG, inputs)[:, :-1] / temperature)
    return jnp.take_along_axis(logp, targets[..., None], -1)[..., 0]


def mean_gradient(loss, params, *per_sample):
    """(mean loss, its gradient), sample by sample."""
    each = jax.jit(jax.value_and_grad(loss))
    parts = [each(params, *arguments) for arguments in zip(*per_sample, strict=True)]
    return jax.tree.map(lambda *x: sum(x) / len(x), *parts)


def step(learner, kind, params, batch, *more, lora=None):
    state, metrics = getattr(learner, kind)(learner.init(jax.random.key(1), copy(params), lora), batch, *more)
    return state, metrics
