"""Losses by name and of a user's own, against the pure functions composed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.token_loss import chosen_loss, load_loss, made_up_tokens

LOGP = made_up_tokens().logp_BT
SOURCE = """
import jax.numpy as jnp

def reinforce(tokens):
    return -tokens.advantage_BT * tokens.logp_BT, {"longest": tokens.mask_BT.sum(1).max()}

def summed(tokens):
    return tokens.logp_BT.sum()

def branching(tokens):
    return tokens.logp_BT if tokens.logp_BT.sum() > 0 else -tokens.logp_BT

def two(logp, old_logp):
    return logp

def endless(tokens):
    return jnp.sqrt(tokens.logp_BT)

def bad_metrics(tokens):
    return tokens.logp_BT, {"each": tokens.logp_BT}
"""


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "losses.py"
    path.write_text(SOURCE)
    return path


def test_the_paper_s_loss_is_the_default_by_hand():
    loss, stats = chosen_loss(LearnerConfig())(made_up_tokens())
    # token (0, 1): ratio e^0.1 = 1.1052, A = 1.2, sampler weight e^(old - sampler) = e^(-0.1 + 0.2) = e^0.1
    assert loss[0, 1] == pytest.approx(-1.2 * np.exp(0.1) * np.exp(0.1), rel=1e-5)
    # token (0, 4): A = -0.8, ratio e^0.3 = 1.35 grows the loss unclipped, sampler weight e^0.3
    assert loss[0, 4] == pytest.approx(0.8 * np.exp(0.3) * np.exp(0.3), rel=1e-5)
    assert loss[0, 0] == 0
    assert set(stats) >= {"ratio", "tis_weight", "dual_clip_fraction"}


def test_gspo_takes_the_ratio_of_each_sequence_of_a_packed_row():
    learn = LearnerConfig(loss="gspo", gspo_clip=(0.9, 9.0), tis_cap=0.0)
    loss, _ = chosen_loss(learn)(made_up_tokens().replace(sampler_logp_BT=None))
    first, second, third = (np.exp(np.mean(shift)) for shift in ([0.1, -0.1], [0.3, 0.0], [-0.2, 0.05, 0.0]))
    wanted = [[0, -1.2 * first, -1.2 * first, 0, 0.8 * second, 0.8 * second]]
    wanted += [[0, 0, -0.4 * third, -0.4 * third, -0.4 * third, 0]]
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)


def test_cispo_bounds_the_weight_and_is_corrected_for_the_sampler():
    learn = LearnerConfig(loss="cispo", cispo_clip=(1.0, 0.2), tis_cap=1.1)
    loss, stats = chosen_loss(learn)(made_up_tokens())
    # token (0, 4): weight min(e^0.3, 1.2) = 1.2, loss 1.2 * 0.8 * logp (-2), sampler weight min(e^0.3, 1.1) = 1.1
    assert loss[0, 4] == pytest.approx(1.2 * 0.8 * -2 * 1.1, rel=1e-5)
    assert 0 < stats["tis_capped_fraction"] < 1


def test_a_loss_of_one_s_own_is_masked_corrected_and_its_metrics_told(own):
    loss, loaded = load_loss(f"{own}:reinforce", LearnerConfig(tis_cap=1.05))
    value, stats = jax.jit(loss)(made_up_tokens())
    assert value[0, 1] == pytest.approx(1.2 * 1.0 * 1.05, rel=1e-5)  # -A logp, the sampler's weight e^0.1 is capped
    assert value[0, 3] == 0
    assert stats["loss_longest"] == 4
    assert len(loaded.sha256) == 64
    by_name = chosen_loss(LearnerConfig(loss=f"{own}:reinforce", tis_cap=1.05))
    np.testing.assert_array_equal(by_name(made_up_tokens())[0], value)


def test_a_function_is_a_loss_and_known_by_its_source():
    def half(tokens):
        return -0.5 * tokens.advantage_BT * tokens.logp_BT

    loss, loaded = load_loss(half, LearnerConfig(tis_cap=0.0))
    value, _ = loss(made_up_tokens().replace(sampler_logp_BT=None))
    assert value[1, 2] == pytest.approx(-0.5 * 0.4 * -0.7, rel=1e-5)
    assert loaded.name.endswith("half")
    assert loaded.file == __file__


@pytest.mark.parametrize(
    ("function", "why"),
    [
        ("summed", r"gave shape \(\)"),
        ("branching", "failed on two made-up rows"),
        ("two", "positional argument"),
        ("endless", "not finite"),
        ("bad_metrics", "dict of scalars"),
        ("missing", "has no missing"),
    ],
)
def test_what_is_no_loss_is_told_before_anything_is_spent(own, function, why):
    with pytest.raises(UserError, match=why):
        load_loss(f"{own}:{function}", LearnerConfig())


def test_an_unknown_loss_is_told_what_there_is():
    with pytest.raises(UserError, match="clipped, gspo or cispo"):
        chosen_loss(LearnerConfig(loss="reinforce"))


def test_masked_positions_may_hold_anything():
    tokens = made_up_tokens()
    spoilt = tokens.replace(logp_BT=jnp.where(tokens.mask_BT, tokens.logp_BT, jnp.nan))
    for name in ("clipped", "gspo", "cispo"):
        loss = chosen_loss(LearnerConfig(loss=name))
        np.testing.assert_array_equal(loss(spoilt)[0], loss(tokens)[0])
