"""The settings of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from hypereyes_jax.configs.recipes import RECIPES, Recipe
from hypereyes_jax.errors import UserError
from hypereyes_jax.plan.workload import Workload
from hypereyes_jax.train.sizes import MINIATURE_RL, Scale, scale_of


@dataclass(frozen=True)
class PlanConfig:
    """Compile a recipe for a mesh that is not there, and say whether it fits."""

    recipe: Annotated[str, tyro.conf.Positional]
    """Recipe that sets the defaults of `scale`."""
    mesh: str
    """Name of the mesh preset in `configs.mesh`."""
    scale: Scale = MINIATURE_RL
    """Sizes as the training command takes them. The engine's (replica devices, slots, extend rows) are looked for
    unless one of them is given."""
    teacher: str = ""
    """Frozen teacher of RL on the same mesh, as in `hypereyes rl --teacher`: a preset like 235b-a22b, or a directory
    with a config.json. Without one there is no teacher, or one behind a server."""
    workload: Workload = field(default_factory=Workload)
    """What a step's rollouts are taken to be like, for the time of a whole step."""
    search: bool = False
    """Also look for the longest rows and the most rows at a time that fit, by compiling again and again."""
    rollout: bool = True
    """Also compile the rollout engine's programs, for RL."""
    out: Path | None = None
    """The JSON file that the plan is written to."""

    @classmethod
    def of(cls, name: str) -> PlanConfig:
        """The defaults of a recipe; the mesh is missing. Raises UserError if there is no such recipe."""
        return cls(name, tyro.MISSING, default_scale(known(name, RECIPES, "recipe")))


def known(name: str, table: dict[str, Any], what: str) -> Any:
    """The entry of that name. Raises UserError, which lists the names there are, if there is none."""
    if name not in table:
        raise UserError(f"there is no {what} {name!r}. Known: {', '.join(table)}")
    return table[name]


def default_scale(recipe: Recipe) -> Scale:
    """The sizes that a recipe's training command has by default."""
    return MINIATURE_RL if recipe.name == "miniature" else scale_of(recipe)
