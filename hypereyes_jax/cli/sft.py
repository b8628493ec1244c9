"""Supervised fine-tuning on demonstrations: LoRA on the decoder, as in the paper; the result is merged.

    hypereyes sft --checkpoint BASE --demonstrations FILE                                      # the miniature
    hypereyes sft hypereyes_30b_sft --mesh h20_8x8 --checkpoint BASE --demonstrations FILE     # a recipe of the paper

Loss on the model's own tokens only. Killed at any moment, the same command continues from its last checkpoint. With
several devices, or several processes (`--distributed.join` in each), weights and batch are shared out over all of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.initialize import DistributedConfig
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.trackers import TrackingConfig
from hypereyes_jax.train.sizes import MINIATURE_SFT, Scale, known_recipe, refuse_settings, scale_of
from hypereyes_jax.train.step_monitor import Watch, profiled

if TYPE_CHECKING:
    from hypereyes_jax.configs.model import Qwen3VLConfig
    from hypereyes_jax.models.lora import Lora
    from hypereyes_jax.models.qwen3_vl import Params
    from hypereyes_jax.processing import ChatFormat
    from hypereyes_jax.processing.types import Chunk


@dataclass(frozen=True)
class SftSettings:
    """What is tuned from run to run. Defaults are the miniature's."""

    epochs: int = 4
    batch: int = 32
    """Demonstrations a step."""
    learning_rate: float = 3e-3
    """Falls to a tenth by a cosine, as the paper's 1e-4 does; a model this small takes larger steps."""
    lora_rank: int = 8
    lora_alpha: float = 32.0
    dropout: float = 0.05
    checkpoint_every: int = 5
    """Steps."""
    seed: int = 42


@dataclass(frozen=True)
class SftConfig:
    checkpoint: Path
    """Base model in HF layout, with its tokenizer."""
    demonstrations: Path
    """JSON lines, as `hypereyes synth` writes them."""
    recipe: tyro.conf.Positional[str] = "miniature"
    """What the defaults of settings and scale are of: miniature, hypereyes_30b_sft or hypereyes_235b_sft."""
    mesh: str = ""
    """Preset that shares weights and batch out over the devices, as in `hypereyes plan`; none = FSDP over all."""
    out: Path = Path("runs/sft")
    """Run directory; the adapter goes to `adapter/` in it, the model it is merged into to `model/`."""
    profile_step: int | None = None
    """Number of a step whose profile is written to `profile/`, for XProf or Perfetto."""
    resume_step: int | None = None
    """Go back to the checkpoint of this step, and remove those after it; none = go on from the newest."""
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    settings: SftSettings = field(default_factory=SftSettings)
    scale: Scale = MINIATURE_SFT
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    @classmethod
    def of(cls, name: str) -> SftConfig:
        """The defaults of a recipe; checkpoint and data are missing. Raises UserError if there is no such one."""
        if name == "miniature":
            return cls(tyro.MISSING, tyro.MISSING)
        recipe = known_recipe(name, "sft")
        assert recipe.lora is not None
        settings = SftSettings(
            epochs=1,
            batch=recipe.batch,
            learning_rate=recipe.learner.optimizer.learning_rate,
            lora_rank=recipe.lora.rank,
            lora_alpha=recipe.lora.alpha,
            dropout=recipe.lora.dropout,
            checkpoint_every=recipe.checkpoint_every,
            seed=recipe.seed,
        )
        return cls(tyro.MISSING, tyro.MISSING, name, settings=settings, scale=scale_of(recipe))


def run(config: SftConfig) -> None:
    import jax

    from hypereyes_jax.models.lora import merge
    from hypereyes_jax.models.peft import save_peft
    from hypereyes_jax.models.pretrained import save_model
    from hypereyes_jax.models.sharding import param_shardings

    scale = config.scale
    refuse_settings(scale, SftConfig.of(config.recipe).scale)
    processes = Processes.start(config.distributed, config.mesh)
    inputs = {"checkpoint": config.checkpoint, "demonstrations": config.demonstrations}
    directory = processes.open(config.out, "sft", config, inputs, config.tracking)
    # frozen: kept as it is computed with
    model, params, chat = processes.load(config.checkpoint, scale.learner.compute_dtype)
    with processes.stages() as stages:
        params, adapters = train(
            directory,
            model,
            params,
            chat,
            config.demonstrations,
            config.settings,
            stages,
            processes,
            scale,
            profile_step=config.profile_step,
            resume_step=config.resume_step,
        )
    where = None if processes.mesh is None else param_shardings(model, processes.mesh)
    merged = merge(params, adapters) if where is None else jax.jit(merge, out_shardings=where)(params, adapters)
    dtype = scale.learner.compute_dtype
    pixels = scale.min_pixels, scale.max_pixels
    save_model(directory.file("model"), model, merged, config.checkpoint, dtype, pixels=pixels, write=processes.first)
    adapters = processes.whole(adapters)
    if processes.first:
        save_peft(directory.file("adapter"), model, adapters, base_model=str(config.checkpoint))
        print(f"wrote {directory.file('model')} and {directory.file('adapter')}")


def train(
    directory: RunDirectory,
    model: Qwen3VLConfig,
    params: Params,
    chat: ChatFormat,
    demonstrations: Path,
    settings: SftSettings,
    stages: Stages,
    processes: Processes = Processes(),  # noqa: B008 - holds nothing that changes
    scale: Scale = MINIATURE_SFT,
    *,
    profile_step: int | None = None,
    resume_step: int | None = None,
) -> tuple[Params, Lora]:
    """The base weights as they were, and the trained adapters.

    Raises UserError for a scale that does not train adapters, and for too few demonstrations.
    """
    from hypereyes_jax.data.files import read_examples
    from hypereyes_jax.data.pipeline import Batches, PipelineConfig
    from hypereyes_jax.learner.checkpoint import Checkpoints, KeepPolicy
    from hypereyes_jax.learner.learner import make_learner
    from hypereyes_jax.learner.packing import pack, sft_sample
    from hypereyes_jax.learner.state import weights
    from hypereyes_jax.models.lora import LoraConfig, LoraRule, init_lora

    if scale.learner.train != "lora":
        raise UserError(f"SFT trains adapters: --scale.learner.train must be lora, not {scale.learner.train}")
    everything = [example.chunks(chat) for example in read_examples(demonstrations)]
    trajectories = [chunks for chunks in everything if scale.tokens(chunks) <= scale.row_tokens]
    if len(trajectories) < len(everything):
        longer = len(everything) - len(trajectories)
        stages.console.print(f"{longer} demonstrations are longer than {scale.row_tokens} tokens and left out")
    steps = len(trajectories) * settings.epochs // settings.batch
    if not steps:
        raise UserError(
            f"{len(trajectories)} demonstrations x {settings.epochs} epochs make no batch of {settings.batch}: give "
            "more of them, or a lower --settings.batch"
        )
    optimizer = replace(
        scale.learner.optimizer,
        learning_rate=settings.learning_rate,
        final_learning_rate=settings.learning_rate / 10,
        warmup_steps=max(1, steps // 20),
        total_steps=steps,
    )
    learner = make_learner(model, replace(scale.learner, optimizer=optimizer), processes.mesh)
    rules = LoraConfig((LoraRule("layers/.*", settings.lora_rank, settings.lora_alpha),), settings.dropout)
    state = processes.state(
        learner, settings.seed, params, adapters=lambda key, params: init_lora(key, params, model, rules)
    )
    watch = Watch(model, "lora")
    pipeline = PipelineConfig(batch=settings.batch, epochs=settings.epochs, seed=settings.seed)
    packing = scale.pack(settings.batch // processes.count, processes.shards)

    def prepare(group: list[Sequence[Chunk]]) -> Any:
        samples = [sft_sample(chunks) for chunks in group]
        # ahead of time in a thread; several processes must first agree on shapes
        return pack(model, samples, packing) if processes.mesh is None else samples

    batches = Batches(trajectories, prepare, pipeline, processes.index, processes.count)
    with Checkpoints(directory.file("sft-checkpoints"), KeepPolicy(latest=scale.keep_checkpoints)) as checkpoints:
        restored = checkpoints.restore(state, resume_step)
        if restored is not None:
            state, cursor = restored
            batches.restore(cursor["data"])
        done = int(state.step)
        with stages.stage("SFT", steps) as stage, processes.metrics(directory, "sft", done) as log:
            stage.skip_to(done)
            for step in range(done, steps):
                batch = next(batches)
                began = time.perf_counter()
                with profiled(directory.file("profile"), step == profile_step):
                    if processes.mesh is not None:
                        batch = processes.batch(model, batch, packing)
                    watch.check(batch, packing)
                    state, metrics = learner.sft_step(state, batch)
                    values = {name: float(value) for name, value in metrics.items()}
                seconds = time.perf_counter() - began
                log.log(step, {**values, "seconds": seconds, **watch.figures(batch, seconds)})
                stage.advance(loss=values["loss"])
                if (step + 1) % settings.checkpoint_every == 0 or step + 1 == steps:
                    checkpoints.save(state, {"data": batches.state()})
    base, adapters = weights(state, "lora")
    assert adapters is not None
    return base, adapters
