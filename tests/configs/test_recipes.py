import pytest

from hypereyes_jax.configs.recipes import RECIPES


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_every_recipe_has_several_checkpoints_in_its_run(recipe):
    assert recipe.steps // recipe.checkpoint_every >= 4
    assert recipe.keep_checkpoints >= 2  # one may be damaged
