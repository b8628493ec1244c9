"""Say whether a recipe fits a mesh, how fast it could be and what bounds it, before you pay for the hardware.

    hypereyes plan hypereyes_30b_rl --mesh h20_8x8 --teacher 235b-a22b --sizes.row-images 64

The real training step, the scoring of a teacher on the same mesh, and the rollout engine's programs on one replica, are
compiled ahead of time for the real target. The recipe is named first: it decides the defaults of `--sizes.*`, which are
those of `hypereyes sft` and `hypereyes rl`.

Memory is what that compiler reports; the split of it into kinds is exact for weights, moments and gradients (their
shapes on the mesh are known), and what remains is activations. Times are lower bounds: each resource alone, at the
published peak of the device.
"""

from __future__ import annotations

from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.files import write_json
from hypereyes_jax.plan.platform import prepare
from hypereyes_jax.plan.settings import PlanConfig, known, planned_meshes, planned_model
from hypereyes_jax.runs.outputs import check_outputs, refuse_no_lines

_BEGIN = b'{\n  "recipe":'  # of the file of a plan


def run(config: PlanConfig) -> int:
    """Print the plan, write it as JSON if asked to; the exit code is 0 if it fits and can be run, and 1 if not."""
    recipe = known(config.recipe, RECIPES, "recipe")
    if config.out is not None:  # before the minutes that a plan takes
        check_outputs([config.out])
        refuse_no_lines(config.out, _BEGIN, "a plan")
    mesh, _ = planned_meshes(config.mesh, planned_model(config.model or recipe.model))
    prepare(mesh)
    from hypereyes_jax.plan.plan import plan
    from hypereyes_jax.plan.report import as_json, render

    outcome = plan(config)
    print(render(outcome))
    if config.out is not None:
        write_json(config.out, as_json(outcome))
    return 0 if outcome.fits else 1
