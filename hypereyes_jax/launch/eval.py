"""Evaluate a checkpoint on the miniature world: accuracy with its interval, rounds, searches, tokens, CAS."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from hypereyes_jax.env.types import Question
from hypereyes_jax.eval.benchmark import evaluate
from hypereyes_jax.launch import miniature
from hypereyes_jax.launch.policy import Policy, load_policy, runner
from hypereyes_jax.launch.progress import Stages
from hypereyes_jax.launch.results import evaluated, results_table, save_evaluation
from hypereyes_jax.launch.run_dir import RunDirectory
from hypereyes_jax.launch.searching import Transport, searching

if TYPE_CHECKING:
    from hypereyes_jax.env.world import World

Split = Literal["heldout", "seen", "heldout_serial"]


@dataclass(frozen=True)
class EvalConfig:
    checkpoint: tyro.conf.Positional[Path]
    """Directory of a checkpoint in Hugging Face layout, with its tokenizer."""
    out: Path = Path("runs/eval")
    """Run directory. The same command again continues; results of other checkpoints belong in other directories."""
    name: str = "model"
    """Stage under which the results are filed."""
    splits: tuple[Split, ...] = ("heldout", "seen", "heldout_serial")
    """Questions about held-out countries, about seen ones, and held-out ones with one search a turn."""
    questions: int = 200
    """A split."""
    search: Transport = "http"
    """Over a real server on loopback, or in process."""
    latency: float = 0.0
    """Seconds a search takes; real ones take 0.2 to 2."""
    temperature: float = 0.8
    """As in training; 0 = greedy."""
    max_new_tokens: int = 256
    """A turn."""
    context: int = miniature.CONTEXT
    """Tokens of an episode."""
    slots: int = 32
    """Episodes the engine generates for at a time."""
    seed: int = 1000
    """Of questions and sampling."""
    timeline: bool = False
    """Also write timeline-SPLIT.json, what each slot did and when; the report and ui.perfetto.dev draw it."""


def run(config: EvalConfig) -> None:
    from rich.console import Console

    from hypereyes_jax.files import read_json

    directory = RunDirectory.open(config.out, "eval", config, may_differ=frozenset({"out"}))
    engine = replace(miniature.engine_config(config.slots), length=config.context)
    policy = load_policy(config.checkpoint, engine)
    with Stages() as stages:
        for split in config.splits:
            if not evaluated(directory, config.name, split):
                asyncio.run(_evaluate_split(directory, policy, config, split, stages))
    Console().print(results_table(read_json(directory.file("metrics.json"))["stages"]))


async def _evaluate_split(
    directory: RunDirectory, policy: Policy, config: EvalConfig, split: Split, stages: Stages
) -> None:
    from hypereyes_jax.env.judges import ExactJudge
    from hypereyes_jax.env.world import World
    from hypereyes_jax.rollout import Timeline

    world, judge = World.load(), ExactJudge()
    questions = world_questions(world, split, config.questions, config.seed)
    sampling = replace(
        miniature.sampling_config(), temperature=config.temperature, max_new_tokens=config.max_new_tokens
    )
    episode = replace(miniature.EPISODE, serial=split.endswith("_serial"))
    timeline = Timeline() if config.timeline else None
    async with searching(world, config.search, config.latency) as backend:
        with stages.stage(split, len(questions)) as stage:
            play = runner(
                policy,
                backend,
                episode,
                sampling,
                seed=config.seed,
                on_end=lambda *_: stage.advance(),
                timeline=timeline,
            )
            done = await evaluate(play, questions, judge, visual_tokens=miniature.visual_tokens)
    if timeline is not None:
        timeline.write(directory.file(f"timeline-{split}.json"))
    save_evaluation(directory, config.name, split, done, judge=judge.name)


def world_questions(world: World, split: Split, count: int, seed: int) -> list[Question]:
    """Evaluation questions: about held-out countries (mixed with seen ones), or in the seen part of the world."""
    from hypereyes_jax.data.questions import synthesize

    seen, held_out = world.split()
    if split == "seen":
        return [synth.question for synth in synthesize(world.restrict(seen), count, seed, prefix="seen")]
    return [synth.question for synth in synthesize(world, count, seed, focus=held_out, prefix="heldout")]
