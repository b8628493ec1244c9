"""Optimisers and schedules by name: of optax, and one's own."""

import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from hypereyes_jax.cli.main import main
from hypereyes_jax.configs.training import OptimizerConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.optax_pieces import own_pieces
from hypereyes_jax.learner.optimizer import learning_rate, make_optimizer

CONFIG = OptimizerConfig(learning_rate=1.0, final_learning_rate=0.2, warmup_steps=4, total_steps=12, clip_norm=1e9)
PARAMS = {"layers": {"q": jnp.array([[2.0, -4.0]]), "attn_norm": jnp.array([3.0])}}
GRADS = {"layers": {"q": jnp.array([[0.5, 0.25]]), "attn_norm": jnp.array([-0.1])}}


def updates(config, params=PARAMS, grads=GRADS):
    optimizer = make_optimizer(config)
    return optimizer.update(grads, optimizer.init(params), params)[0]["layers"]


def test_a_schedule_of_optax_follows_our_warm_up_and_ends_where_the_run_ends():
    rate = learning_rate(replace(CONFIG, schedule="linear_schedule"))
    found = [float(rate(jnp.int32(step))) for step in (0, 3, 4, 8, 12, 20)]
    np.testing.assert_allclose(found, [0.25, 1.0, 1.0, 0.6, 0.2, 0.2], rtol=1e-6)  # by hand


def test_an_option_goes_before_what_the_settings_say():
    config = replace(CONFIG, schedule="polynomial_schedule", schedule_options=("power=2", "end_value=0.0"))
    rate = learning_rate(config)
    np.testing.assert_allclose(rate(jnp.int32(8)), (1 - 4 / 8) ** 2, rtol=1e-6)


def test_a_schedule_with_a_warm_up_of_its_own_keeps_it():
    rate = learning_rate(replace(CONFIG, schedule="warmup_cosine_decay_schedule"))
    found = [float(rate(jnp.int32(step))) for step in (0, 2, 4, 8, 12)]
    np.testing.assert_allclose(found, [0.0, 0.5, 1.0, 0.6, 0.2], atol=1e-6)  # optax warms up from 0, not 1/4


def test_an_optimiser_of_optax_takes_decay_and_rate_from_the_settings():
    config = replace(CONFIG, schedule="constant", warmup_steps=0, name="lion", weight_decay=0.5)
    found = updates(config)
    # Lion steps by the sign; norms do not decay
    np.testing.assert_allclose(found["q"], [[-1 - 0.5 * 2, -1 + 0.5 * 4]], rtol=1e-6)
    np.testing.assert_allclose(found["attn_norm"], [1.0], rtol=1e-6)


def test_gradients_are_clipped_in_front_of_a_named_optimiser():
    config = replace(CONFIG, schedule="constant", warmup_steps=0, name="sgd", clip_norm=0.1)
    norm = float(optax.tree.norm(GRADS))
    np.testing.assert_allclose(updates(config)["q"], -np.array([[0.5, 0.25]]) * 0.1 / norm, rtol=1e-6)


def test_pieces_of_one_s_own_are_called_with_the_settings_and_kept_with_their_source(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import optax\n"
        "def halves(config):\n    return lambda step: config.learning_rate / 2\n"
        "def plain(rate, config):\n    return optax.sgd(rate)\n"
    )
    config = replace(CONFIG, schedule=f"{file}:halves", name=f"{file}:plain")
    np.testing.assert_allclose(updates(config)["q"], -0.5 * np.array([[0.5, 0.25]]), rtol=1e-6)
    kept = {role: piece.record() for role, piece in own_pieces(config)}
    assert kept["schedule"]["name"] == f"{file}:halves"
    assert len(kept["optimizer"]["sha256"]) == 64
    assert own_pieces(CONFIG) == []


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        ("optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(rate))", "goes up the gradient"),
        ("optax.scale(float('nan'))", "not finite"),
        ("optax.GradientTransformation(lambda p: (), lambda g, s, p: ({'w': g['w'][:1]}, s))", "in a step on made-up"),
        ("optax.GradientTransformation(lambda p: (), lambda g, s, p: 1 / 0)", "ZeroDivisionError"),
    ],
)
def test_an_optimiser_that_could_not_train_is_told_before_anything_is_loaded(tmp_path, optimizer, why):
    file = tmp_path / "mine.py"
    file.write_text(f"import optax\ndef mine(rate, config):\n    return {optimizer}\n")
    with pytest.raises(UserError, match=why):
        make_optimizer(replace(CONFIG, name=f"{file}:mine"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "lions"}, "optax has no optimizer 'lions'. Did you mean lion?"),
        ({"schedule": "linear_shedule"}, "optax has no schedule 'linear_shedule'. Did you mean linear_schedule?"),
        ({"schedule": "exponential_decay"}, "needs decay_rate: add"),
        ({"name": "lion", "options": ("b3=1",)}, "lion takes no 'b3=1'"),
        ({"name": "lion", "options": ("b2=os",)}, "'os' is not a value for b2"),
        ({"options": ("b2=1",)}, "adamw takes its options from the settings"),
        ({"schedule_options": ("power=1",)}, "the schedule cosine takes no"),
        ({"name": "lion", "muon_learning_rate": 0.1}, "leave --sizes.learner.optimizer.muon-learning-rate out"),
        ({"schedule": "hypereyes_jax.configs.training:PackConfig"}, "a schedule is a function of the step"),
        ({"name": "builtins:print"}, "an optimizer is an optax.GradientTransformation"),
    ],
)
def test_what_there_is_none_of_is_refused_with_what_to_write(changes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        make_optimizer(replace(CONFIG, **changes))


def test_a_wrong_name_is_told_before_anything_is_loaded(capsys):
    words = "rl --checkpoint org/gone --questions org/gone --sizes.learner.optimizer.name lions"
    assert main(words.split()) == 2
    assert "Did you mean lion?" in capsys.readouterr().err
