"""Supervised fine-tuning on demonstrations: LoRA on the decoder, as in the paper, merged in the end; or all weights.

    hypereyes sft --checkpoint BASE --demonstrations FILE                                      # the miniature
    hypereyes sft hypereyes_30b_sft --mesh h20_8x8 --checkpoint BASE --demonstrations FILE     # a recipe of the paper
    hypereyes sft hypereyes_2b_sft_full --mesh gpu --checkpoint BASE --demonstrations FILE     # all weights

Loss on the model's own tokens only. Killed at any moment, the same command continues from its last checkpoint. With
several devices, or several processes (`--distributed.join` in each), weights and batch are shared out over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hypereyes_jax.cli.inputs import refuse_missing_inputs
from hypereyes_jax.cli.source_settings import SourceSettings
from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh_text import refuse_unknown_mesh
from hypereyes_jax.configs.recipes import AdapterConfig
from hypereyes_jax.runs.outputs import check_replaced_directories
from hypereyes_jax.runs.stop import StopConfig, StopRequest
from hypereyes_jax.runs.tracking import TrackingConfig
from hypereyes_jax.train.setting_checks import refuse_adapter_settings, refuse_settings
from hypereyes_jax.train.settings import SftSettings
from hypereyes_jax.train.sizes import MINIATURE_SFT, TrainingSizes, known_recipe, sizes_of


@dataclass(frozen=True)
class SftConfig:
    checkpoint: str
    """Base model with its tokenizer: a directory in Hugging Face layout, a hub id (org/name[@revision]) or a URL."""
    demonstrations: str
    """The conversations to learn from: a file, folder, glob, hub id, URL or module:object; see `hypereyes data check`.
    """
    recipe: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[RECIPE]")] = "miniature"
    """Recipe that sets the defaults of settings and sizes: miniature, hypereyes_SIZE_sft (adapters) or
    hypereyes_SIZE_sft_full (all weights), like hypereyes_8b_sft."""
    mesh: str = ""
    """How weights and batch are distributed over the devices: a preset as in `hypereyes plan`, axes like
    fsdp=8,expert=2, or auto. Without one, FSDP runs over all devices."""
    out: Path = Path("runs/sft")
    """The run directory; the trained model goes to `model/` in it, adapters also by themselves to `adapter/`."""
    profile_step: int | None = None
    """Step whose profile is written to `profile/`, for XProf or Perfetto."""
    resume_step: int | None = None
    """Go back to the checkpoint of this step and remove those after it; without one, go on from the newest."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    settings: SftSettings = field(default_factory=SftSettings)
    data: Annotated[SourceSettings, tyro.conf.arg(name="")] = field(default_factory=SourceSettings)
    sizes: TrainingSizes = MINIATURE_SFT
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    @classmethod
    def of(cls, name: str) -> SftConfig:
        """The defaults of a recipe; checkpoint and data are missing. Raises UserError if there is no such one."""
        if name == "miniature":
            return cls(tyro.MISSING, tyro.MISSING)
        recipe = known_recipe(name, "sft")
        adapters = recipe.lora or AdapterConfig()
        settings = SftSettings(
            epochs=1,
            batch=recipe.batch,
            learning_rate=recipe.learner.optimizer.learning_rate,
            lora_rank=adapters.rank,
            lora_alpha=adapters.alpha,
            dropout=adapters.dropout,
            checkpoint_every=recipe.checkpoint_every,
            seed=recipe.seed,
        )
        return cls(tyro.MISSING, tyro.MISSING, name, settings=settings, sizes=sizes_of(recipe))


def run(config: SftConfig) -> None:
    with StopRequest(config.stop) as stop:
        _run(config, stop)


def _run(config: SftConfig, stop: StopRequest) -> None:
    sizes = config.sizes
    check(config)

    from hypereyes_jax.launch.processes import Processes
    from hypereyes_jax.launch.run_output import open_run, open_stages
    from hypereyes_jax.models.pretrained import load_model
    from hypereyes_jax.train.adapters import model_writer, save_trained
    from hypereyes_jax.train.sft import train
    from hypereyes_jax.train.types import TrainingRun

    processes = Processes.start(config.distributed, config.mesh, config.checkpoint)
    inputs = {"checkpoint": Path(config.checkpoint), "demonstrations": Path(config.demonstrations)}
    check_replaced_directories([config.out / "model", config.out / "adapter"], inputs.values())
    directory = open_run(processes, config.out, "sft", config, inputs, config.tracking, stop)
    model, params, chat = load_model(config.checkpoint, sizes.weights_dtype(), processes.mesh)
    with open_stages(processes) as stages:
        training = TrainingRun(
            directory,
            stages,
            processes,
            config.profile_step,
            config.resume_step,
            model_writer(model, config.checkpoint, sizes, processes),
        )
        params, adapters = train(
            training, model, params, chat, config.demonstrations, config.settings, sizes, config.data.options()
        )
    save_trained(directory, model, params, adapters, config.checkpoint, sizes, processes)


def check(config: SftConfig) -> None:
    """Raises UserError for what a run would refuse before it begins."""
    default = SftConfig.of(config.recipe)
    refuse_settings(config.sizes, default.sizes)
    refuse_adapter_settings(config.sizes, config.settings, default.settings)
    refuse_unknown_mesh(config.mesh)
    refuse_missing_inputs(config)

    from hypereyes_jax.learner.optimizer import make_optimizer

    make_optimizer(config.sizes.learner.optimizer)
