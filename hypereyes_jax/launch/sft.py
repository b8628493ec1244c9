"""Supervised fine-tuning on demonstrations: LoRA on the decoder, as in the paper; the result is merged.

Loss on the model's own tokens only. Killed at any moment, the same command continues from its last checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hypereyes_jax.launch import miniature
from hypereyes_jax.launch.progress import Stages
from hypereyes_jax.launch.run_dir import MetricsWriter, RunDirectory

if TYPE_CHECKING:
    from hypereyes_jax.configs.model import Qwen3VLConfig
    from hypereyes_jax.models.lora import Lora
    from hypereyes_jax.models.qwen3_vl import Params
    from hypereyes_jax.processing import ChatFormat


@dataclass(frozen=True)
class SftSettings:
    """How the miniature is fine-tuned."""

    epochs: int = 2
    batch: int = 32
    """Demonstrations a step."""
    learning_rate: float = 1e-3
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
    out: Path = Path("runs/sft")
    """Run directory; the adapter goes to `adapter/` in it, the model it is merged into to `model/`."""
    settings: SftSettings = field(default_factory=SftSettings)


def run(config: SftConfig) -> None:
    from hypereyes_jax.launch.checkpoint_files import load_model, save_model
    from hypereyes_jax.models.lora import merge
    from hypereyes_jax.models.peft import save_peft

    directory = RunDirectory.open(config.out, "sft", config, may_differ=frozenset({"out"}))
    model, params, chat = load_model(config.checkpoint)
    with Stages() as stages:
        params, adapters = train(directory, model, params, chat, config.demonstrations, config.settings, stages)
    save_peft(directory.file("adapter"), model, adapters, base_model=str(config.checkpoint))
    save_model(directory.file("model"), model, merge(params, adapters), config.checkpoint)
    print(f"wrote {directory.file('model')} and {directory.file('adapter')}")


def train(
    directory: RunDirectory,
    model: Qwen3VLConfig,
    params: Params,
    chat: ChatFormat,
    demonstrations: Path,
    settings: SftSettings,
    stages: Stages,
) -> tuple[Params, Lora]:
    """The base weights as they were, and the trained adapters."""
    import jax

    from hypereyes_jax.data.files import read_examples
    from hypereyes_jax.data.pipeline import Batches, PipelineConfig
    from hypereyes_jax.models.lora import LoraConfig, LoraRule, init_lora
    from hypereyes_jax.rl.checkpoint import Checkpoints, KeepPolicy
    from hypereyes_jax.rl.learner import LearnerConfig, make_learner
    from hypereyes_jax.rl.optimizer import OptimizerConfig
    from hypereyes_jax.rl.pack import pack, sft_sample
    from hypereyes_jax.rl.state import weights

    everything = [example.chunks(chat) for example in read_examples(demonstrations)]
    trajectories = [chunks for chunks in everything if miniature.episode_tokens(chunks) <= miniature.CONTEXT]
    if len(trajectories) < len(everything):
        longer = len(everything) - len(trajectories)
        stages.console.print(f"{longer} demonstrations are longer than the context of {miniature.CONTEXT} and left out")
    steps = len(trajectories) * settings.epochs // settings.batch
    optimizer = OptimizerConfig(
        learning_rate=settings.learning_rate,
        final_learning_rate=settings.learning_rate / 10,
        warmup_steps=max(1, steps // 20),
        total_steps=steps,
    )
    learner = make_learner(model, LearnerConfig(optimizer=optimizer, train="lora"))
    rules = LoraConfig((LoraRule("layers/.*", settings.lora_rank, settings.lora_alpha),), settings.dropout)
    key, adapters_key = jax.random.split(jax.random.key(settings.seed))
    state = learner.init(key, params, init_lora(adapters_key, params, model, rules))
    pipeline = PipelineConfig(batch=settings.batch, epochs=settings.epochs, seed=settings.seed)
    packing = miniature.pack_config()
    batches = Batches(
        trajectories,
        lambda group: pack(model, [sft_sample(chunks) for chunks in group], packing),
        pipeline,
    )
    with Checkpoints(directory.file("sft-checkpoints"), KeepPolicy(latest=2)) as checkpoints:
        restored = checkpoints.restore(state)
        if restored is not None:
            state, cursor = restored
            batches.restore(cursor["data"])
        done = int(state.step)
        with stages.stage("SFT", steps) as stage, MetricsWriter(directory, "sft", first_step=done) as log:
            stage.skip_to(done)
            for step in range(done, steps):
                state, metrics = learner.sft_step(state, next(batches))
                values = {name: float(value) for name, value in metrics.items()}
                log.log(step, values)
                stage.advance(loss=values["loss"])
                if (step + 1) % settings.checkpoint_every == 0 or step + 1 == steps:
                    checkpoints.save(state, {"data": batches.state()})
    base, adapters = weights(state, "lora")
    assert adapters is not None
    return base, adapters
