from decimal import Decimal

import pytest

from hypereyes_jax.configs.recipes import RECIPES


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_has_several_checkpoints_in_its_run(recipe):
    assert recipe.steps // recipe.checkpoint_every >= 4
    assert recipe.keep_checkpoints >= 2  # one may be damaged


@pytest.mark.parametrize("model", ["2b", "4b", "8b", "32b"])
def test_every_published_dense_size_has_both_stages_with_all_weights_and_with_adapters(model):
    modes = {
        f"hypereyes_{model}_sft": "lora",
        f"hypereyes_{model}_sft_full": "full",
        f"hypereyes_{model}_rl": "full",
        f"hypereyes_{model}_rl_lora": "lora",
    }
    for name, train in modes.items():
        recipe = RECIPES[name]
        assert (recipe.model, recipe.learner.train, recipe.lora is not None) == (model, train, train == "lora")
        assert name.removeprefix(f"hypereyes_{model}_").startswith(recipe.stage)


def test_adapters_learn_ten_times_as_fast_as_all_weights_and_are_not_dropped_in_rl():
    rates = {
        name: RECIPES[name].learner.optimizer.learning_rate for name in RECIPES if name.startswith("hypereyes_8b_")
    }
    assert rates["hypereyes_8b_rl"] == pytest.approx(1e-6)
    assert rates["hypereyes_8b_rl_lora"] == pytest.approx(1e-5)
    assert rates["hypereyes_8b_sft"] == pytest.approx(1e-4)
    assert rates["hypereyes_8b_sft_full"] == pytest.approx(1e-5)
    assert RECIPES["hypereyes_8b_rl_lora"].lora.dropout == 0


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_learning_rates_are_as_one_would_write_them(recipe):
    optimizer = recipe.learner.optimizer
    for rate in (optimizer.learning_rate, optimizer.final_learning_rate):
        assert len(Decimal(repr(rate)).as_tuple().digits) <= 3
