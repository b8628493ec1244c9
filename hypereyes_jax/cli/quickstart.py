"""The whole method on a laptop: a small Qwen3-VL learns to search wider instead of longer, on real flags and facts.

Questions and demonstrations, SFT, GRPO with TRACE and on-policy distillation, an evaluation before and after each
stage, and a report. Killed at any moment, the same command continues where it was.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import tyro

from hypereyes_jax import miniature
from hypereyes_jax.cli import synth
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.files import write_json
from hypereyes_jax.runs.memory import host_peak_gib
from hypereyes_jax.runs.progress import Stages, duration
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.stop import RunStopped, StopRequest
from hypereyes_jax.runs.written_models import model_is_written, note_model
from hypereyes_jax.train.settings import RlSettings, SftSettings
from hypereyes_jax.train.sizes import MINIATURE_RL, TrainingSizes

if TYPE_CHECKING:
    from hypereyes_jax.eval.policy import Policy

ASSETS = "hypereyes_jax.assets"
# Each view, and each number of rows read at once, compiles programs of its own, which saves time in long runs only.
_SMOKE_SIZES = replace(MINIATURE_RL, view_lengths=(512,), extend_rows=(4,))
_WRITES = (*synth.FILES, "sft-model", "rl-model", "trajectories-*.jsonl", "report.html")
S = TypeVar("S", "QuickstartConfig", SftSettings, RlSettings)


@dataclass(frozen=True)
class QuickstartConfig:
    out: Path = Path("runs/quickstart")
    """The run directory; the report is `report.html` in it."""
    smoke: bool = False
    """Run the same path with few questions and steps, in minutes: it shows that everything works, not that it learns.
    Settings that are given beside it are kept."""
    seed: int = 0
    """Seed of the data, and added to the seeds of both trainings."""
    sft: SftSettings = field(default_factory=SftSettings)
    rl: RlSettings = field(default_factory=RlSettings)
    search: Annotated[SearchConfig, tyro.conf.EnumChoicesFromValues] = miniature.SEARCH
    """How RL and the evaluations search the miniature's world."""
    sft_questions: int = synth.SynthConfig.sft_questions
    """Number of questions that demonstrations are made for."""
    rl_candidates: int = synth.SynthConfig.rl_candidates
    """Number of questions that RL may select from."""
    eval_questions: int = synth.SynthConfig.eval_questions
    """Number of questions about held-out countries, and as many about seen ones."""


def run(config: QuickstartConfig) -> None:
    with StopRequest() as stop:
        _run(config, stop)


def _run(config: QuickstartConfig, stop: StopRequest) -> None:
    from hypereyes_jax.eval.report import write_report
    from hypereyes_jax.eval.run_files import METRICS, read_stages
    from hypereyes_jax.eval.tables import costs_table, results_table
    from hypereyes_jax.runs.terminal import Terminal

    started = time.time()
    settings = smoke_settings(config) if config.smoke else config
    directory = RunDirectory.open(
        config.out, "quickstart", settings, may_differ=frozenset({"out"}), stop=stop, writes=_WRITES
    )
    try:
        with Stages() as stages:
            _run_stages(directory, settings, stages)
    except RunStopped:
        _cost(directory, time.time() - started)
        raise
    cost = _cost(directory, time.time() - started)
    report = write_report(directory.path)
    console = Terminal()
    results = read_stages(directory.file(METRICS))
    console.print(results_table(results, config.smoke), costs_table(results))
    console.print(f"{duration(cost['seconds'])} in all, peak memory {cost['peak_gib']:.1f} GiB. Report: {report}")


def _cost(directory: RunDirectory, seconds: float) -> dict[str, float]:
    """The cost of this call and of those before it that came to their end; a call that was killed leaves no figures."""
    from hypereyes_jax.eval.run_files import Cost, read_cost

    path = directory.file("cost.json")
    before = read_cost(path) if path.exists() else Cost()
    cost = {"seconds": before.seconds + seconds, "peak_gib": max(before.peak_gib, host_peak_gib())}
    write_json(path, cost)
    return cost


def smoke_settings(config: QuickstartConfig) -> QuickstartConfig:
    """Small sizes in place of the defaults; a setting that was given is kept."""
    default = QuickstartConfig()
    sft = _smaller(config.sft, default.sft, epochs=1, batch=16)
    rl = _smaller(config.rl, default.rl, steps=2, prompts=2, group=4, checkpoint_every=1)
    small = _smaller(config, default, sft_questions=48, rl_candidates=24, eval_questions=12)
    return replace(small, sft=sft, rl=rl)


def _sizes(config: QuickstartConfig) -> TrainingSizes:
    return _SMOKE_SIZES if config.smoke else MINIATURE_RL


def _smaller(settings: S, default: S, **sizes: Any) -> S:
    return replace(
        settings, **{name: n for name, n in sizes.items() if getattr(settings, name) == getattr(default, name)}
    )


def _run_stages(directory: RunDirectory, config: QuickstartConfig, stages: Stages) -> None:
    from hypereyes_jax.data.files import read_questions
    from hypereyes_jax.eval.policy import Policy
    from hypereyes_jax.models.lora import merge
    from hypereyes_jax.models.pretrained import load_model, save_model
    from hypereyes_jax.rollout.engines import Engines
    from hypereyes_jax.train import rl_run, sft
    from hypereyes_jax.train.samplers import RolloutEngines
    from hypereyes_jax.train.types import RlQuestions, RlServices, TrainingRun

    base = Path(str(resources.files(ASSETS) / "base"))
    teacher = Path(str(resources.files(ASSETS) / "teacher"))
    data = synth.SynthConfig(
        sft_questions=config.sft_questions,
        rl_candidates=config.rl_candidates,
        eval_questions=config.eval_questions,
        seed=config.seed,
    )
    synth.make_data(directory, data, stages)
    run = TrainingRun(directory, stages)
    model, params, chat = load_model(base)
    sizes = _sizes(config)
    policy = Policy(Engines.on_one_device(model, params, sizes.engine()), chat)
    _evaluate(directory, policy, "base", config, stages)

    tuned = directory.file("sft-model")
    if not model_is_written(directory, tuned.name):
        demonstrations = directory.file(synth.DEMONSTRATIONS)
        seeded = replace(config.sft, seed=config.sft.seed + config.seed)
        params = merge(*sft.train(run, model, params, chat, demonstrations, seeded))
        save_model(tuned, model, params, base, pixels=miniature.PIXELS)
        note_model(directory, tuned.name)
    policy.engines.set_weights(load_model(tuned)[1], None, 1)
    _evaluate(directory, policy, "sft", config, stages)

    folder = directory.file("rl-model")
    if not model_is_written(directory, folder.name):
        questions = RlQuestions(read_questions(directory.file(synth.CANDIDATES)))
        seeded_rl = replace(config.rl, seed=config.rl.seed + config.seed)
        rollouts = RolloutEngines(policy.engines, chat, sizes)
        services = RlServices(config.search, teacher=teacher)
        params, _ = rl_run.train(run, rollouts, model, policy.engines.params, questions, seeded_rl, services)
        save_model(folder, model, params, base, pixels=miniature.PIXELS)
        note_model(directory, folder.name)
    policy.engines.set_weights(load_model(folder)[1], None, 2)
    _evaluate(directory, policy, "rl", config, stages)


def _evaluate(
    directory: RunDirectory, policy: Policy, stage_name: str, config: QuickstartConfig, stages: Stages
) -> None:
    """Held-out questions; after RL also seen ones, to show what training knows by heart, and held-out ones with one
    search a turn, to show what parallel search buys."""
    from hypereyes_jax.data.files import read_questions
    from hypereyes_jax.env.judging.config import JudgeConfig
    from hypereyes_jax.eval.conditions import EvaluationConditions
    from hypereyes_jax.eval.policy import EvaluationRun
    from hypereyes_jax.eval.split import SERIAL, evaluate_split
    from hypereyes_jax.eval.tables import evaluated

    splits = {"heldout": synth.HELD_OUT}
    if stage_name == "rl":
        splits |= {"seen": synth.SEEN, "heldout" + SERIAL: synth.HELD_OUT}
    for split, file in splits.items():
        if evaluated(directory, stage_name, split):
            continue
        if reason := directory.stop.reason:  # an evaluation is done in one go
            raise RunStopped(f"stopped before an evaluation ({reason}); the same command continues from there.")
        asyncio.run(
            evaluate_split(
                EvaluationRun(directory, stages, stage_name),
                policy,
                split,
                read_questions(directory.file(file)),
                EvaluationConditions(
                    config.search,
                    JudgeConfig(),
                    miniature.EPISODE,
                    _sizes(config).sampling(evaluation=True),
                    miniature.PIXELS,
                    seed=1000,
                ),
            )
        )
