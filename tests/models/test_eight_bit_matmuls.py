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
from tests.learner.by_hand import LEARN, PACK, copy, spread_params
from tests.learner.small import CONFIG, samples


@pytest.mark.parametrize("matmul", [float8_matmul, int8_matmul])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_types_are_those_of_the_arguments(matmul, dtype):
    rng = np.random.default_rng(0)
    x, w, d = (jnp.asarray(rng.normal(size=shape), dtype) for shape in ((3, 7, 48), (48, 20), (3, 7, 20)))
    y, back = jax.vjp(matmul, x, w)
    assert {each.dtype for each in (y, *back(d))} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("matmuls", ["float8", "int8"])
def test_a_decoder_learns_with_them(matmuls):
    params, batch = spread_params(), pack(CONFIG, samples(3), PACK)
    rough, exact = (make_learner(CONFIG, replace(LEARN, matmuls=each)) for each in (matmuls, "plain"))
    logp = [np.asarray(each.score_logprobs(params, batch)) for each in (rough, exact)]
    trained = np.asarray(batch.weight_MBT) > 0
    difference = np.abs(logp[0] - logp[1])[trained]
    assert 1e-4 < difference.mean() < 0.1
    state, losses = rough.init(jax.random.key(1), copy(params)), []
    for _ in range(40):
        state, metrics = rough.sft_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.3 < 3.0 < losses[0]
