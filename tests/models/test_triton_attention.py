"""The Triton kernels, interpreted, against jax's own attention: values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl.layers import rematerialised
from hypereyes_jax.models.qwen3_vl.triton_attention import _visible, triton_attention

pytestmark = pytest.mark.gpu

LENGTH = 300  # two blocks of 128 queries and a shorter one
SEGMENTS = {
    "one": [1] * LENGTH,
    "two, and padding": [1] * 140 + [2] * 110 + [0] * 50,
    "ends at a block's edge": [1] * 128 + [2] * (LENGTH - 128),
    "many, and a block of padding": [1] * 20 + [2] * 50 + [3] * 6 + [4] * 40 + [0] * (LENGTH - 116),
}


def arrays(dtype=jnp.float32, size=16, rows=1):
    keys = jax.random.split(jax.random.key(0), 4)
    q = jax.random.normal(keys[0], (rows, LENGTH, 4, size), dtype)
    k, v = (jax.random.normal(key, (rows, LENGTH, 2, size), dtype) for key in keys[1:3])
    return q, k, v, jax.random.normal(keys[3], (rows, LENGTH, 4 * size), dtype)


def with_gradients(attend, q, k, v, direction):
    def loss(q, k, v):
        out = attend(q, k, v)
        return jnp.sum(out.astype(jnp.float32) * direction), out

    return jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)


def wanted(segment_BT, causal, q, k, v, direction):
    """By jax's attention, with nothing at padding."""
    mask = (segment_BT[:, :, None] == segment_BT[:, None]) & (segment_BT > 0)[:, :, None]
    if causal:
        mask &= jnp.tri(LENGTH, dtype=bool)
    real = (segment_BT > 0)[..., None]

    def attend(q, k, v):
        out = jax.nn.dot_product_attention(q, k, v, mask=mask[:, None]).reshape(*q.shape[:2], -1)
        return jnp.where(real, out, 0)

    return with_gradients(attend, q, k, v, direction)


def found(segment_BT, causal, q, k, v, direction):
    return with_gradients(lambda q, k, v: triton_attention(q, k, v, segment_BT, causal=causal), q, k, v, direction)


@pytest.mark.parametrize(("causal", "size"), [(True, 16), (False, 12)])
def test_it_and_its_gradients_are_those_of_attention(causal, size):
    """Rows have segments of their own, and heads need be no power of two."""
    segment = jnp.array(list(SEGMENTS.values()))
    given = arrays(size=size, rows=len(segment))
    for of_ours, of_theirs in zip(
        jax.tree.leaves(found(segment, causal, *given)), jax.tree.leaves(wanted(segment, causal, *given)), strict=True
    ):
        for name, one, other in zip(SEGMENTS, of_ours, of_theirs, strict=True):
            limit = 2e-5 * max(1.0, float(jnp.abs(other).max()))
            np.testing.assert_allclose(one, other, atol=limit, err_msg=name)


def test_bfloat16_keeps_its_type_and_sums_in_float32():
    segment = jnp.array([SEGMENTS["two, and padding"]])
    given = arrays(jnp.bfloat16)
    ours = found(segment, True, *given)
    exact = wanted(segment, True, *(x.astype(jnp.float32) for x in given))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert one.dtype == jnp.bfloat16
        # bfloat16 keeps 8 bits: half a step of the value itself, and those of weights that were rounded on the way
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=2**-7 * float(jnp.abs(other).max()))


def test_blocks_without_a_segment_in_common_never_meet():
    """What is not met is read by nothing: values that are not finite would show."""
    q, k, v, direction = arrays()
    segment = jnp.array([[1] * 128 + [2] * (LENGTH - 128)])
    (d_q, _, _), out = found(segment, True, q, k.at[:, :128].set(jnp.nan), v, direction)
    assert np.isfinite(out[:, 128:]).all()
    assert np.isfinite(d_q[:, 128:]).all()
    assert np.isnan(out[:, :128]).all()


def test_four_trajectories_in_a_row_meet_a_quarter_of_the_blocks():
    def met(segments, queries=True):
        ranges = np.asarray(_visible(jnp.array([segments]), 64, 64, True, queries))
        return int((ranges[..., 1] - ranges[..., 0]).sum())

    alone = met([1] * 256 + [0] * 768)
    assert alone == 4 * 5 // 2  # four blocks, each with itself and those before
    packed = [1] * 256 + [2] * 256 + [3] * 256 + [4] * 256
    assert met(packed) == met(packed, queries=False) == 4 * alone
    assert met([1] * 1024) == 16 * 17 // 2
    assert met([0] * 1024) == 0


@pytest.mark.parametrize(("remat", "times"), [("none", 1), ("attention", 1), ("full", 2)])
def test_what_attention_gave_is_kept_over_recomputation_where_asked(remat, times):
    q, k, v, direction = arrays()
    segment = jnp.ones((1, LENGTH), jnp.int32)

    def layer(q):
        return triton_attention(jnp.sin(q), k, v, segment, causal=True)

    step = rematerialised(layer, remat)
    jaxpr = str(jax.make_jaxpr(jax.grad(lambda q: jnp.sum(step(q) * direction)))(q))
    platforms = 2  # interpreted, and compiled
    assert jaxpr.count("name=attention_forward") == times * platforms
