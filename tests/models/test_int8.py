"""Matmuls of training in int8, against numpy's with the same rounding, and against exact ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.models.int8 import int8_matmul
from hypereyes_jax.plan.compile import ProgramPlan
from hypereyes_jax.plan.flops import device_cost
from hypereyes_jax.plan.roofline import roofline_seconds


def rounded(x, axis):
    """numpy: the values that stand for x, in float32."""
    scale = np.abs(x).max(axis, keepdims=True) / np.float32(127)
    return np.round(x / scale) * scale


def arrays(dtype=np.float32):
    """Columns of w and rows of x of very different sizes, as in models."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3, 7, 48)) * 10.0 ** rng.integers(-3, 3, (3, 7, 1))).astype(dtype)
    w = (rng.normal(size=(48, 20)) * 10.0 ** rng.integers(-2, 2, 20)).astype(dtype)
    return x, w, rng.normal(size=(3, 7, 20)).astype(dtype) * 1e-5


def test_values_are_those_of_rows_and_columns_rounded_apart():
    x, w, _ = arrays()
    np.testing.assert_allclose(int8_matmul(x, w), rounded(x, -1) @ rounded(w, 0), rtol=1e-4, atol=1e-5)


def test_gradients_are_rounded_along_the_sum_and_those_of_weights_are_exact():
    x, w, d = arrays()
    d_x, d_w = jax.vjp(int8_matmul, x, w)[1](jnp.asarray(d))
    np.testing.assert_allclose(d_x, rounded(d, -1) @ rounded(w, 1).T, rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(d_w, np.einsum("bti,bto->io", x, d), rtol=1e-4, atol=1e-6)


def test_each_row_and_each_column_keeps_its_precision():
    """Rounding is off by 1/254 of a row's largest at most, so a row's error is small beside the row."""
    x, w, _ = arrays()
    error = np.linalg.norm(int8_matmul(x, w) - x @ w, axis=-1) / np.linalg.norm(x @ w, axis=-1)
    assert 1e-4 < error.max() < 2e-2


def test_zeros_stay_zeros_and_what_is_not_finite_is_not_hidden():
    assert not int8_matmul(jnp.zeros((2, 3)), jnp.zeros((3, 4))).any()
    for value in (np.nan, np.inf):
        x, w, d = arrays()
        x[0, 0, 0] = value
        y, back = jax.vjp(int8_matmul, x, w)
        assert not np.isfinite(y[0, 0]).any()
        assert np.isfinite(y[0, 1:]).all()
        assert not np.isfinite(back(jnp.asarray(d))[1][0]).any()  # such a step is refused


def test_a_plan_counts_them_at_the_rate_that_a_device_has():
    x, w, _ = arrays()
    traced = jax.jit(jax.grad(lambda x, w: (int8_matmul(x, w) ** 2).sum(), (0, 1))).trace(x, w)
    cost = device_cost(traced.jaxpr, 1)
    assert (cost.int8_flops, cost.flops) == (
        2 * 2 * (21 * 48 * 20),
        3 * 2 * (21 * 48 * 20),
    )  # not the weights' gradient
    mixed = ProgramPlan("step", tflops=918 * 3, int8_tflops=918 * 2)
    assert roofline_seconds(MESHES["v6e_64"], mixed)["compute"] == pytest.approx(1 + 2 * 918 / 1836)
