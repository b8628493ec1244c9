"""What training may ask of matmuls in 8 bits of either kind; how each rounds is in test_float8.py and test_int8.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import pack
from hypereyes_jax.models.float8 import float8_matmul
from hypereyes_jax.models.int8 import int8_matmul
from tests.learner.by_hand import LEARN, PACK, copy
from tests.learner.small import CONFIG, samples
from tests.random_weights import random_params


@pytest.mark.parametrize("matmul", [float8_matmul, int8_matmul])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_types_are_those_of_the_arguments(matmul, dtype):
    rng = np.random.default_rng(0)
    x, w, d = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((3, 7, 48), (48, 20), (3, 7, 20)))

    def with_gradients(x, w, d):
        y, back = jax.vjp(matmul, x, w)
        return y, *back(d)

    assert {each.dtype for each in jax.eval_shape(with_gradients, x, w, d)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("matmuls", ["float8", "int8"])
def test_a_decoder_learns_with_them(matmuls):
    config = replace(
        CONFIG,
        text=replace(CONFIG.text, num_hidden_layers=1),
        vision=replace(CONFIG.vision, depth=1, deepstack_visual_indexes=(0,)),
    )  # programs of one layer
    params, batch = random_params(config, scale=3), pack(config, samples(3), PACK)
    rough, exact = (make_learner(config, replace(LEARN, matmuls=each)) for each in (matmuls, "plain"))
    logp = [np.asarray(each.score_logprobs(params, batch)) for each in (rough, exact)]
    trained = np.asarray(batch.weight_MBT) > 0
    difference = np.abs(logp[0] - logp[1])[trained]
    assert 1e-4 < difference.mean() < 0.1
    state, losses = rough.init(jax.random.key(1), copy(params)), []
    for _ in range(40):
        state, metrics = rough.sft_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.3 < 3.0 < losses[0]
