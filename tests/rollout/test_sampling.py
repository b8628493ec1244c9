"""Threshold sampling against a plain sort."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.rollout.programs.sampling import _largest_threshold, _largest_threshold_by_digits, sample, uniforms

ROWS, VOCAB = 64, 50
_sample = jax.jit(sample, static_argnames=("forbidden", "branchless"))


def logits(seed=0, rows=ROWS):
    return np.random.default_rng(seed).normal(size=(rows, VOCAB)).astype(np.float32) * 2


def draw(logits_RV, uniform_R, temperature=1.0, top_p=1.0, top_k=0, min_p=0.0, forbidden=()):
    rows = len(logits_RV)
    f = lambda x: np.full(rows, x, np.float32)  # noqa: E731
    return _sample(
        logits_RV, uniform_R, f(temperature), f(top_p), np.full(rows, top_k, np.int32), f(min_p), forbidden=forbidden
    )


def reference(logits_V, temperature, top_p, top_k, min_p):
    """Log-probs of the truncated distribution by sorting, in float64; -inf where nothing can be drawn."""
    p = np.exp(logits_V.astype(np.float64) / temperature)
    p /= p.sum()
    order = np.argsort(-p)
    if top_k:
        p[order[top_k:]] = 0
        p /= p.sum()
    if top_p < 1:
        keep = np.searchsorted(np.cumsum(p[order]), top_p) + 1
        p[order[keep:]] = 0
    p[p < min_p * p.max()] = 0
    with np.errstate(divide="ignore"):
        return np.log(p / p.sum())


@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k", "min_p"),
    [
        (1.0, 1.0, 0, 0.0),
        (0.8, 0.95, 0, 0.0),
        (0.8, 0.3, 0, 0.0),
        (1.3, 1.0, 7, 0.0),
        (1.0, 0.7, 10, 0.0),
        (1.0, 0.9, 20, 0.2),
    ],
)
def test_every_token_of_the_truncated_distribution_and_no_other_is_drawn_with_its_log_prob(
    temperature, top_p, top_k, min_p
):
    row = logits()[0]
    count = 4096
    uniform = ((np.arange(count) + 0.5) / count).astype(np.float32)
    out = draw(np.tile(row, (count, 1)), uniform, temperature, top_p, top_k, min_p)
    tokens = np.asarray(out.tokens_R)
    expected = reference(row, temperature, top_p, top_k, min_p)
    np.testing.assert_allclose(out.logp_truncated_R, expected[tokens], atol=2e-6)
    # evenly spaced numbers hit each token as often as its share
    share = np.bincount(tokens, minlength=VOCAB) / count
    np.testing.assert_allclose(share, np.exp(expected), atol=1.5 / count)
    full = reference(row, temperature, 1.0, 0, 0.0)
    np.testing.assert_allclose(out.logp_full_R, full[tokens], atol=2e-6)


def test_temperature_zero_is_argmax_with_truncated_log_prob_zero():
    values = logits(1)
    out = draw(values, np.linspace(0, 0.999, ROWS, dtype=np.float32), temperature=0.0, top_p=0.5)
    np.testing.assert_array_equal(out.tokens_R, values.argmax(-1))
    np.testing.assert_array_equal(out.logp_truncated_R, 0)
    np.testing.assert_allclose(out.logp_full_R, np.asarray(jax.nn.log_softmax(values)).max(-1), atol=1e-6)


def test_rows_with_their_own_settings_do_not_touch_each_other():
    values, uniform = logits(2, 4), np.full(4, 0.7, np.float32)
    settings = [(0.0, 1.0, 0, 0.0), (0.8, 0.95, 0, 0.0), (1.0, 1.0, 3, 0.0), (1.2, 0.5, 9, 0.1)]
    temperature, top_p, top_k, min_p = (np.array(x) for x in zip(*settings, strict=True))
    f = np.float32
    out = _sample(values, uniform, f(temperature), f(top_p), top_k.astype(np.int32), f(min_p))
    for row, setting in enumerate(settings):
        alone = draw(values[row : row + 1], uniform[:1], *setting)
        assert [int(x[0]) for x in alone[:1]] == [int(out.tokens_R[row])]
        np.testing.assert_allclose(alone.logp_truncated_R[0], out.logp_truncated_R[row], atol=1e-6)


def test_forbidden_tokens_are_never_drawn_but_count_in_the_full_log_prob():
    values = logits(3)
    best = int(values[0].argmax())
    tiled = np.tile(values[0], (ROWS, 1))
    out = draw(tiled, np.linspace(0, 0.999, ROWS, dtype=np.float32), forbidden=(best,))
    assert best not in np.asarray(out.tokens_R)
    full = np.asarray(jax.nn.log_softmax(tiled))
    np.testing.assert_allclose(out.logp_full_R, full[np.arange(ROWS), out.tokens_R], atol=1e-6)


def test_the_largest_uniform_number_still_draws_a_kept_token():
    last = np.full(ROWS, np.nextafter(np.float32(1), np.float32(0)))
    out = draw(logits(4), last, top_p=0.9)
    assert (np.asarray(out.logp_truncated_R) > -20).all()


def test_a_requests_stream_depends_on_its_key_and_place_only():
    keys = np.array([[1, 2], [3, 4], [1, 2]], np.uint32)
    a = uniforms(keys, np.array([0, 0, 1], np.int32))
    b = uniforms(keys[:1], np.array([0], np.int32))
    assert a[0] == b[0]
    assert len({float(x) for x in a}) == 3
    assert jnp.all((a >= 0) & (a < 1))


@pytest.mark.parametrize(("top_p", "top_k"), [(1.0, 0), (0.95, 0), (0.3, 0), (1.0, 7), (0.7, 10)])
def test_without_branches_the_same_tokens_are_drawn(top_p, top_k):
    rows = logits(5)
    uniform = np.random.default_rng(6).random(ROWS).astype(np.float32)
    f = lambda x: np.full(ROWS, x, np.float32)  # noqa: E731
    temperature = f(0.8)
    temperature[::4] = 0  # greedy among them
    limits = (temperature, f(top_p), np.full(ROWS, top_k, np.int32), f(0.0))
    one, other = (_sample(rows, uniform, *limits, forbidden=(3,), branchless=b) for b in (False, True))
    np.testing.assert_array_equal(one.tokens_R, other.tokens_R)
    np.testing.assert_allclose(one.logp_truncated_R, other.logp_truncated_R, atol=1e-6)
    np.testing.assert_array_equal(one.logp_full_R, other.logp_full_R)


def test_thresholds_are_found_by_digits_as_by_bits():
    weights = jnp.asarray(np.random.default_rng(7).random((ROWS, VOCAB)).astype(np.float32))
    limit_R = jnp.arange(1, ROWS + 1) % VOCAB + 1
    holds = lambda t_R: (weights >= t_R[:, None]).sum(-1) >= limit_R  # noqa: E731
    by_bits = _largest_threshold(holds, weights[:, 0])
    np.testing.assert_array_equal(_largest_threshold_by_digits(holds, weights[:, 0]), by_bits)
    wanted = np.sort(np.asarray(weights), axis=1)[:, ::-1][np.arange(ROWS), np.asarray(limit_R) - 1]
    np.testing.assert_array_equal(by_bits, wanted)  # the k-th largest weight
