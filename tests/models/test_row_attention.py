"""Attention of one row in blocks, both ways, against jax's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl.row_attention import row_attention

LENGTH = 700  # five blocks of 128 queries and a shorter one; from 384 on, blocks may leave out their first keys
SEGMENTS = {
    "one": [1] * LENGTH,
    "two, and padding": [1] * 300 + [2] * 250 + [0] * 150,
    "ends at a block's edge": [1] * 256 + [2] * (LENGTH - 256),
    "no runs": [1, 2, 3, 2] * (LENGTH // 4),
}


def arrays(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [rng.normal(size=(LENGTH, *shape)).astype(dtype) for shape in ((4, 8), (2, 8), (2, 8), (32,))]


@jax.jit
def wanted(q, k, v, direction, mask):
    def loss(q, k, v):
        out = jax.nn.dot_product_attention(q[None], k[None], v[None], mask=mask[None, None])[0].reshape(LENGTH, -1)
        return jnp.sum(out.astype(jnp.float32) * direction), out

    return jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)


@functools.partial(jax.jit, static_argnames="causal")
def found(q, k, v, direction, segment, causal):
    def loss(q, k, v):
        out = row_attention(q, k, v, segment, causal)
        return jnp.sum(out.astype(jnp.float32) * direction), out

    return jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("segments", SEGMENTS.values(), ids=SEGMENTS)
def test_it_and_its_gradients_are_those_of_attention(segments, causal):
    segment = np.array(segments)
    mask = segment[:, None] == segment
    if causal:
        mask &= np.tri(LENGTH, dtype=bool)
    for ours, theirs in zip(
        jax.tree.leaves(found(*arrays(), segment, causal)), jax.tree.leaves(wanted(*arrays(), mask)), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5 * max(1.0, float(np.abs(theirs).max())))


def test_scores_are_not_computed_with_keys_that_no_query_of_a_block_sees():
    """What is left out is read by nothing: values that are not finite would show."""
    q, k, v, direction = arrays()
    segment = np.array([1] * 256 + [2] * (LENGTH - 256))
    k[:256] = np.nan
    (d_q, _, _), out = found(q, k, v, direction, segment, True)
    assert np.isfinite(out[512:]).all()
    assert np.isfinite(d_q[512:]).all()
    assert np.isnan(out[:256]).all()  # the first document meets them


def test_bfloat16_keeps_its_type_and_sums_in_float32():
    segment, mask = np.ones(LENGTH, int), np.tri(LENGTH, dtype=bool)
    ours = found(*arrays(jnp.bfloat16), segment, True)
    exact = wanted(*(x.astype(jnp.float32) for x in arrays(jnp.bfloat16)), mask)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert one.dtype == jnp.bfloat16
        # bfloat16 keeps 8 bits: half a step of the value itself, and those of weights that were rounded on the way
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=2**-7 * float(jnp.abs(other).max()))
