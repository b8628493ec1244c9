import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hypereyes_jax.rl import aggregate, policy_loss

ONE = jnp.ones((1, 1))


def single(ratio, advantage, **options):
    """The loss of one token, and its gradient with respect to the log-prob."""
    old = jnp.full((1, 1), -1.0)
    run = lambda logp: policy_loss(logp, old, advantage * ONE, ONE, **options)[0].sum()  # noqa: E731
    return jax.jit(jax.value_and_grad(run))(old + np.log(ratio, dtype=np.float32))


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),  # slope: d loss / d logp = -A r where not clipped
    [
        (1.0, 2.0, -2.0, -2.0),
        (1.2, 1.0, -1.2, -1.2),
        (1.5, 1.0, -1.28, 0.0),  # above 1 + 0.28
        (0.5, 1.0, -0.5, -0.5),  # a good token grown rare is pulled up, unclipped
        (0.5, -1.0, 0.8, 0.0),  # below 1 - 0.2
        (1.5, -1.0, 1.5, 1.5),  # a bad token grown likely is pushed down ...
        (4.0, -1.0, 3.0, 0.0),  # ... up to the dual clip
        (4.0, -0.5, 1.5, 0.0),
    ],
)
def test_one_token_by_hand(ratio, advantage, loss, slope):
    value, gradient = single(ratio, advantage)
    assert value == pytest.approx(loss, abs=1e-5)
    assert gradient[0, 0] == pytest.approx(slope, abs=1e-5)


def test_without_dual_clip_the_loss_of_a_bad_token_is_unbounded():
    assert single(4.0, -1.0, dual_clip=None)[0] == pytest.approx(4.0, abs=1e-5)


@pytest.mark.parametrize(
    ("gap", "weight"), [(0.0, 1.0), (np.log(1.5), 1.5), (5.0, 2.0), (-1.0, np.exp(-1.0)), (-60, 0)]
)
def test_importance_weight_is_truncated_at_two_and_has_no_gradient(gap, weight):
    old = -ONE
    run = lambda logp, b: policy_loss(logp, old, ONE, ONE, sampler_logp_BT=b)[0].sum()  # noqa: E731
    loss, (d_logp, d_sampler) = jax.jit(jax.value_and_grad(run, (0, 1)))(old, old - gap)
    assert loss == pytest.approx(-weight, abs=1e-5)
    assert d_logp[0, 0] == pytest.approx(-weight, abs=1e-5)
    assert d_sampler[0, 0] == 0


def test_only_the_present_log_prob_has_a_gradient():
    run = lambda old, advantage: policy_loss(-ONE, old, advantage, ONE)[0].sum()  # noqa: E731
    assert [g[0, 0] for g in jax.grad(run, (0, 1))(-1.1 * ONE, ONE)] == [0, 0]


def random_batch(seed=0):
    rng = np.random.default_rng(seed)
    old = -np.abs(rng.normal(1, 1, (3, 6))).astype(np.float32)
    logp = old + rng.uniform(-0.15, 0.15, old.shape).astype(np.float32)  # off the kinks
    advantage = np.repeat(rng.normal(size=(3, 1)), 6, 1).astype(np.float32)
    return logp, old, advantage, (rng.random(old.shape) < 0.6).astype(np.float32)


def test_gradient_agrees_with_finite_differences():
    logp, old, advantage, mask = random_batch()
    run = lambda x: aggregate(policy_loss(x, old, advantage, mask, sampler_logp_BT=old - 0.1)[0], mask)  # noqa: E731
    check_grads(jax.jit(run), (logp,), order=1, modes=["rev"], atol=2e-3, rtol=2e-3, eps=1e-2)


def test_what_is_masked_reaches_neither_loss_nor_metrics_nor_gradient():
    logp, old, advantage, mask = random_batch()

    def run(x, garbage):
        hide = lambda y: jnp.where(mask > 0, y, garbage)  # noqa: E731
        loss, metrics = policy_loss(hide(x), hide(old), hide(advantage), mask, sampler_logp_BT=hide(old))
        return aggregate(loss, mask), (loss, metrics)

    run = jax.jit(jax.value_and_grad(run, has_aux=True))
    clean = run(logp, 0.0)
    for garbage in (np.nan, np.inf, -1e9):
        jax.tree.map(np.testing.assert_array_equal, run(logp, garbage), clean)
    assert not np.any(np.asarray(clean[0][1][0])[mask == 0])


def test_huge_log_ratios_stay_finite():
    for gap in (-200.0, 200.0):
        for advantage in (-1.0, 1.0):
            run = lambda x, a=advantage: policy_loss(x, -ONE, a * ONE, ONE, dual_clip=None)[0].sum()  # noqa: E731
            loss, gradient = jax.jit(jax.value_and_grad(run))(-ONE + gap)
            assert np.isfinite(loss)
            assert np.isfinite(gradient[0, 0])


def test_metrics_of_an_all_masked_batch_are_zero():
    _, metrics = policy_loss(ONE, ONE, ONE, 0 * ONE, sampler_logp_BT=ONE)
    assert all(value == 0 for value in metrics.values())


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"old_logp_BT": jnp.ones((1, 2))}, ValueError, "axis T of old_logp_BT"),
        ({"advantage_BT": jnp.ones(1)}, ValueError, r"advantage_BT must have axes \[B, T\]"),
        ({"logp_BT": jnp.ones((1, 1), int)}, TypeError, "logp_BT must have a floating dtype"),
        ({"dual_clip": 1.0}, ValueError, "dual_clip must be > 1"),
        ({"sampler_logp_BT": ONE, "tis_cap": 0.0}, ValueError, "cap must be positive"),
    ],
)
def test_misfits_are_named(change, error, message):
    arguments = {"logp_BT": ONE, "old_logp_BT": ONE, "advantage_BT": ONE, "mask_BT": ONE} | change
    with pytest.raises(error, match=message):
        policy_loss(**arguments)


def test_a_sampler_log_prob_that_is_not_told_means_no_correction():
    logp = jnp.array([[-1.0, -2.0, -0.5]])
    advantage, mask = jnp.ones((1, 3)), jnp.ones((1, 3))
    told = jnp.array([[-1.5, jnp.nan, jnp.nan]])
    loss, metrics = policy_loss(logp, logp, advantage, mask, sampler_logp_BT=told)
    # exp(-1.0 - -1.5) = 1.6487 where it is told, 1 elsewhere
    np.testing.assert_allclose(loss, [[-1.6487, -1.0, -1.0]], atol=1e-4)
    assert float(metrics["tis_weight"]) == pytest.approx((1.6487 + 2) / 3, abs=1e-4)
    gradient = jax.grad(lambda x: policy_loss(x, logp, advantage, mask, sampler_logp_BT=told)[0].sum())(logp)
    assert np.isfinite(gradient).all()
