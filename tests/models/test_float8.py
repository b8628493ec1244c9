"""Matmuls in 8-bit floating point, against numpy's with the same rounding, and against exact ones."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.models.float8 import float8_matmul, in_float8
from hypereyes_jax.plan.compile import ProgramPlan
from hypereyes_jax.plan.flops import device_cost
from hypereyes_jax.plan.roofline import roofline_seconds


def rounded(x, dtype, limit):
    """numpy: the values that stand for x, in float32."""
    scale = np.abs(x).max() / np.float32(limit)
    return np.clip(x / scale, -limit, limit).astype(dtype).astype(np.float32) * scale


def arrays(dtype=np.float32):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3, 7, 48)) * 30).astype(dtype)
    return x, rng.normal(size=(48, 20)).astype(dtype), rng.normal(size=(3, 7, 20)).astype(dtype) * 1e-5


def test_values_and_gradients_are_those_of_the_rounded_factors():
    x, w, d = arrays()
    y, back = jax.vjp(float8_matmul, x, w)
    x8, w8 = (rounded(each, ml_dtypes.float8_e4m3fn, 448) for each in (x, w))
    d8 = rounded(d, ml_dtypes.float8_e5m2, 57344)
    np.testing.assert_allclose(y, x8 @ w8, rtol=1e-5, atol=1e-4)
    d_x, d_w = back(jnp.asarray(d))
    np.testing.assert_allclose(d_x, d8 @ w8.T, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(d_w, np.einsum("bti,bto->io", x8, d8), rtol=1e-4, atol=1e-8)


def test_rounding_changes_little_and_something():
    """E4M3 has 3 bits after the first: a value is off by 1/16 at most, a sum of many by far less."""
    x, w, _ = arrays()
    error = np.linalg.norm(float8_matmul(x, w) - x @ w) / np.linalg.norm(x @ w)
    assert 1e-3 < error < 1 / 16


def test_zeros_stay_zeros_and_the_largest_is_the_largest_of_the_type():
    assert not float8_matmul(jnp.zeros((2, 3)), jnp.zeros((3, 4))).any()
    for largest in (1e-30, 0.3, 7.7, 1e30):
        values, scale = in_float8(jnp.array([largest, -largest, 0.0]))
        assert values.astype(jnp.float32).tolist() == [448.0, -448.0, 0.0]
        assert float(448 * scale) == pytest.approx(largest, rel=1e-6)


def test_what_is_not_finite_is_not_hidden():
    for value in (np.nan, np.inf):
        x, w, d = arrays()
        x[0, 0, 0] = value
        y, back = jax.vjp(float8_matmul, x, w)
        assert not np.isfinite(y[0, 0]).any()
        assert not np.isfinite(back(jnp.asarray(d))[1][0]).any()  # such a step is refused


def test_a_plan_counts_them_at_the_rate_that_a_device_has():
    x, w, _ = arrays()
    traced = jax.jit(jax.grad(lambda x, w: (float8_matmul(x, w) ** 2).sum(), (0, 1))).trace(x, w)
    cost = device_cost(traced.jaxpr, 1)
    assert cost.float8_flops == cost.flops == 2 * 3 * (21 * 48 * 20)
    plain = ProgramPlan("step", tflops=989 * 3)
    for mesh, seconds in (("h100_8x8", 2.0), ("v5p_64", 989 * 3 / 459)):
        mixed = replace(plain, float8_tflops=989 * 2)
        wanted = seconds if mesh == "v5p_64" else 1 + 2 * 989 / 1979
        assert roofline_seconds(MESHES[mesh], mixed)["compute"] == pytest.approx(wanted)
