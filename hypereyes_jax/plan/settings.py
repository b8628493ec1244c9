"""The settings of a plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import tyro

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.mesh_text import is_split, planned_split, read_mesh
from hypereyes_jax.configs.model import PRESETS, Qwen3VLConfig
from hypereyes_jax.configs.recipes import RECIPES, Recipe
from hypereyes_jax.errors import UserError
from hypereyes_jax.plan.workload import Workload
from hypereyes_jax.train.sizes import MINIATURE_RL, TrainingSizes, sizes_of


@dataclass(frozen=True)
class PlanConfig:
    """Compile a recipe for a mesh that is not there, and say whether it fits."""

    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RECIPE")]
    """Recipe that sets the defaults of --sizes.*. It may be left out if --model is given; that model's RL is then
    planned."""
    mesh: str
    """A mesh preset, or axes and a device like fsdp=8,device=h100, or auto,device=h100,devices=8. With
    learner=MESH,sampler=COUNT, such as learner=4,device=h200,sampler=4, learner and samplers have devices of their
    own."""
    model: str = ""
    """Model in place of the recipe's: a preset like 8b, or a directory with a config.json."""
    sizes: TrainingSizes = MINIATURE_RL
    """Sizes as the training command takes them. The plan looks for the engine's sizes (replica devices, slots, cache
    tokens, extend rows) unless one of them is given."""
    teacher: str = ""
    """Frozen teacher of RL on the same mesh, as in `hypereyes rl --teacher`: a preset like 235b-a22b, or a directory
    with a config.json. Without one there is no teacher, or one behind a server."""
    ahead: bool = False
    """Plan for rollouts that run ahead of the learner, as with `hypereyes rl --settings.ahead 1`: engines keep their
    weights and slots during the training step, and hold new weights beside the old ones at a swap."""
    workload: Workload = field(default_factory=Workload)
    """Assumptions about a step's rollouts, for the time of a whole step."""
    largest: bool = False
    """Also find the longest rows and the most rows at a time that fit, by compiling again and again."""
    rollout: bool = True
    """Also compile the rollout engine's programs, for RL."""
    out: Path | None = None
    """The JSON file that the plan is written to."""

    @staticmethod
    def with_recipe(words: list[str]) -> list[str]:
        """The words of a command, with the recipe in front that is meant where only a model is named.

        Raises UserError for a model that no recipe trains.
        """
        model_words = [word for word in words if word == "--model" or word.startswith("--model=")]
        if not model_words or not words[0].startswith("-"):
            return words
        place = words.index(model_words[0])
        _, equals, model = model_words[0].partition("=")
        if not equals:
            model = words[place + 1] if place + 1 < len(words) else ""
        return [recipe_of_model(model), *words]

    @classmethod
    def of(cls, name: str) -> PlanConfig:
        """The defaults of a recipe; the mesh is missing. Raises UserError if there is no such recipe."""
        return cls(name, tyro.MISSING, sizes=default_sizes(known(name, RECIPES, "recipe")))


def recipe_of_model(model: str) -> str:
    """The recipe that is meant where only a model is named. Raises UserError for a model that no recipe trains."""
    name = f"hypereyes_{model.split('-')[0]}_rl"
    if model not in PRESETS or name not in RECIPES:
        raise UserError(f"name a recipe, too: there is none for the model {model!r} alone. Known: {', '.join(RECIPES)}")
    return name


def planned_model(name: str) -> Qwen3VLConfig:
    """The configuration of a preset, a folder of `assets`, or a directory with a config.json.

    Raises UserError if it is none of them.
    """
    if name in PRESETS:
        return PRESETS[name]
    shipped = Path(str(resources.files("hypereyes_jax.assets") / name))
    path = shipped if (shipped / "config.json").exists() else Path(name)
    try:
        return Qwen3VLConfig.from_hf(path)
    except OSError as error:
        raise UserError(
            f"{name} is not a model: give {', '.join(PRESETS)}, or a directory with a config.json"
        ) from error


def planned_meshes(text: str, model: Qwen3VLConfig) -> tuple[MeshConfig, MeshConfig | None]:
    """The mesh, or that of the learner and that of samplers with devices of their own. Raises UserError for no mesh."""
    return planned_split(text, model) if is_split(text) else (read_mesh(text, model), None)


def known(name: str, table: dict[str, Any], what: str) -> Any:
    """The entry of that name. Raises UserError, which lists the names there are, if there is none."""
    if name not in table:
        raise UserError(f"there is no {what} {name!r}. Known: {', '.join(table)}")
    return table[name]


def default_sizes(recipe: Recipe) -> TrainingSizes:
    """The sizes that a recipe's training command has by default."""
    return MINIATURE_RL if recipe.name == "miniature" else sizes_of(recipe)
