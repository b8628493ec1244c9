from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.test_util import check_grads

from hypereyes_jax.rl import aggregate, opd_advantage, policy_loss, reverse_kl, reverse_kl_topk


def test_opd_advantage_by_hand():
    advantage = jnp.array([[-0.879, -0.879], [0.5, 0.5]])
    student, teacher = jnp.array([[-0.2, -2.0]] * 2), jnp.array([[-3.2, -0.1]] * 2)
    corrected = opd_advantage(advantage, student, teacher, jnp.array([1, 0]))
    np.testing.assert_allclose(corrected, [[-1.029, -0.784], [0.5, 0.5]], atol=1e-6)


def test_failed_may_be_given_by_token():
    zeros, student = jnp.zeros((1, 3)), -jnp.ones((1, 3))
    corrected = opd_advantage(zeros, student, zeros, jnp.array([[0, 1, 0]]), coef=0.5)
    np.testing.assert_allclose(corrected, [[0, 0.5, 0]])


def test_a_teacher_equal_to_the_student_changes_nothing():
    advantage = jnp.array([[0.3, -1.0]])
    np.testing.assert_array_equal(opd_advantage(advantage, -advantage, -advantage, jnp.ones(1)), advantage)


@pytest.mark.parametrize("missing", [np.nan, -np.inf])
def test_tokens_without_a_teacher_score_keep_their_advantage(missing):
    teacher = jnp.array([[missing, -1.0]])
    corrected = opd_advantage(jnp.zeros((1, 2)), -2 * jnp.ones((1, 2)), teacher, jnp.ones(1))
    np.testing.assert_allclose(corrected, [[0.0, 0.05]], atol=1e-7)


def test_opd_advantage_is_a_constant():
    total = lambda s, t: opd_advantage(s, s, t, jnp.ones(2)).sum()  # noqa: E731
    for gradient in jax.grad(total, (0, 1))(-jnp.ones((2, 2)), -jnp.ones((2, 2))):
        assert not np.any(gradient)


def test_the_advantage_form_is_on_average_the_gradient_of_the_reverse_kl():
    """E_{y ~ student} of the policy gradient with A = -(log p_s - log p_t) is -d/dtheta KL(s || t), at one prefix."""
    k1, k2 = jax.random.split(jax.random.key(0))
    logits, teacher = jax.random.normal(k1, (1, 5)), jax.nn.log_softmax(jax.random.normal(k2, (1, 5)))

    def surrogate(x):
        logp = jax.nn.log_softmax(x)  # one row for each token that could be drawn, weighted by its probability
        advantage = opd_advantage(jnp.zeros((1, 5)), logp, teacher, jnp.ones(1), coef=1.0)
        loss, _ = policy_loss(logp, jax.lax.stop_gradient(logp), advantage, jnp.ones((1, 5)))
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(logp)) * loss)

    exact = jax.jit(jax.grad(lambda x: reverse_kl(x, teacher, jnp.ones(1)).sum()))(logits)
    np.testing.assert_allclose(jax.jit(jax.grad(surrogate))(logits), exact, atol=1e-6)


def test_reverse_kl_by_hand_is_not_the_forward_one():
    student, teacher = jnp.log(jnp.array([[0.5, 0.5]])), jnp.log(jnp.array([[0.9, 0.1]]))
    assert reverse_kl(student, teacher, jnp.ones(1))[0] == pytest.approx(
        0.5 * np.log(0.5 / 0.9) + 0.5 * np.log(5), abs=1e-6
    )
    assert reverse_kl(teacher, student, jnp.ones(1))[0] == pytest.approx(
        0.9 * np.log(1.8) + 0.1 * np.log(0.2), abs=1e-6
    )


def kl_cases():
    forms = {"full": reverse_kl, "top-3": partial(reverse_kl_topk, k=3), "top-all": partial(reverse_kl_topk, k=99)}
    return pytest.mark.parametrize("kl", [pytest.param(jax.jit(form), id=name) for name, form in forms.items()])


@kl_cases()
def test_kl_gradients_agree_with_finite_differences_and_leave_the_teacher_alone(kl):
    student, teacher = jax.random.normal(jax.random.key(1), (2, 2, 3, 7))
    mask = jnp.array([[1, 0, 1], [1, 1, 0]])
    run = lambda s: aggregate(kl(s, teacher, mask), mask, "token-mean")  # noqa: E731
    check_grads(jax.jit(run), (student,), order=1, modes=["rev"], atol=2e-3, rtol=2e-3, eps=1e-2)
    assert not np.any(jax.jit(jax.grad(lambda t: kl(student, t, mask).sum()))(teacher))


@kl_cases()
def test_masked_tokens_give_zero_and_no_gradient_whatever_they_hold(kl):
    logits = jnp.full((2, 5), jnp.nan)
    value, gradient = jax.jit(jax.value_and_grad(lambda s: kl(s, logits, jnp.zeros(2)).sum()))(logits)
    assert value == 0
    assert not np.any(gradient)


@kl_cases()
def test_forbidden_tokens_cost_nothing(kl):
    student = jnp.array([[0.0, 1.0, -jnp.inf, 2.0]])
    value, gradient = jax.jit(jax.value_and_grad(lambda s: kl(s, student, jnp.ones(1)).sum()))(student)
    assert value == pytest.approx(0, abs=1e-6)
    assert np.all(np.isfinite(gradient))


@jax.jit
def by_k(student, teacher):
    mask = jnp.ones(student.shape[:-1])
    return jnp.stack([reverse_kl_topk(student, teacher, mask, k) for k in (1, 2, 4, 7, 8)]), reverse_kl(
        student, teacher, mask
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.floats(0.1, 9.0))
def test_top_k_grows_with_k_from_above_zero_to_the_full_reverse_kl(seed, spread):
    student, teacher = spread * np.random.default_rng(seed).normal(size=(2, 16, 8)).astype(np.float32)
    parts, full = map(np.asarray, by_k(student, teacher))
    assert np.all(parts[0] >= -1e-5)
    assert np.all(np.diff(parts, axis=0) >= -1e-5 * (1 + full))
    np.testing.assert_allclose(parts[-1], full, rtol=1e-6)


def test_misfits_are_named():
    with pytest.raises(ValueError, match="axis V of teacher_logits"):
        reverse_kl(jnp.ones((2, 5)), jnp.ones((2, 4)), jnp.ones(2))
    with pytest.raises(ValueError, match="k must be >= 1"):
        reverse_kl_topk(jnp.ones((2, 5)), jnp.ones((2, 5)), jnp.ones(2), k=0)
    with pytest.raises(ValueError, match="axis B of failed_B"):
        opd_advantage(jnp.ones((2, 5)), jnp.ones((2, 5)), jnp.ones((2, 5)), jnp.ones(5))
