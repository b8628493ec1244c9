"""Make a data set of the miniature world: training questions with demonstrations, RL candidates, evaluation questions.

Demonstrations come from a scripted searcher by progressive rejection sampling: the shortest success of each question is
kept, unless it would teach a bad habit. Training data are about seen countries only.
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hypereyes_jax import miniature
from hypereyes_jax.configs.recipes import MINIATURE
from hypereyes_jax.env.config import Paradigm
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json_object, write_json
from hypereyes_jax.runs.content import content_digest
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory

if TYPE_CHECKING:
    from hypereyes_jax.data.demonstration import Demonstration
    from hypereyes_jax.data.questions import SynthesisConfig
    from hypereyes_jax.data.types import SynthQuestion

DEMONSTRATIONS, CANDIDATES = "demonstrations.jsonl", "rl_candidates.jsonl"
HELD_OUT, SEEN = "heldout.jsonl", "seen.jsonl"
SUMMARY = "synth.json"  # written last: its presence says that the others are whole, and what they hold
FILES = (DEMONSTRATIONS, CANDIDATES, HELD_OUT, SEEN, SUMMARY)


@dataclass(frozen=True)
class SynthConfig:
    out: Path = Path("runs/data")
    """The directory that the files are written to."""
    sft_questions: int = 800
    """Number of questions that demonstrations are sought for."""
    rl_candidates: int = MINIATURE.samples
    """Number of questions that RL may select from."""
    eval_questions: int = 200
    """Number of questions about held-out countries, and as many about seen ones."""
    crowding: float = miniature.CROWDING
    """Exponent of the number of flags in a mosaic: one of n flags, 2 to 8, is drawn with weight n**crowding, which
    makes 3.2 flags on average by default."""
    drop_one: bool = False
    """Make visual questions that need every picture shown (rankings, totals, lists, medians) instead of the usual
    kinds, which the shipped base model has learnt."""
    depths: tuple[Literal[1, 2, 3, 4], ...] = ()
    """Numbers of rounds that questions need however wide one searches: chains from a flag or a named country over
    neighbors that are found by a constraint. Without any, the usual kinds are made, which need one or two rounds and
    which the shipped base model knows."""
    domain: Literal["flags", "nature"] = "flags"
    """What the questions are about. nature is animals, plants and food, a domain that is held out entirely: it has no
    demonstrations, only candidates for RL and evaluation questions, which are about different entities."""
    sampling: Literal["progressive", "whole-budget", "first-try"] = "progressive"
    """Which episode becomes a demonstration: the success under the smallest budget (progressive rejection sampling, the
    paper's), the first success of eight tries under the whole budget, or the first try whatever its outcome. The latter
    two are for comparison."""
    filters: bool = True
    """Drop demonstrations that teach a bad habit, by the quality filters."""
    paradigm: Paradigm = "ugs"
    """How demonstrations ground regions: in the search itself (the paper's), by a crop tool before it, or by code."""
    seed: int = 0
    """Seed of all random draws."""


def run(config: SynthConfig) -> None:
    _rules(config)  # refuses what contradicts itself, before anything is written
    directory = RunDirectory.open(config.out, "synth", config, may_differ=frozenset({"out"}), writes=FILES)
    with Stages() as stages:
        make_data(directory, config, stages)
    summary = read_json_object(directory.file(SUMMARY))
    print(f"{config.out}: { {name: value for name, value in summary.items() if name != 'files'} }")


def make_data(directory: RunDirectory, config: SynthConfig, stages: Stages) -> None:
    """Writes the files; does nothing if they are there.

    One that is missing is made again, with the others. Raises UserError for one that is not what was written.
    """
    from hypereyes_jax.data.files import write_examples, write_questions
    from hypereyes_jax.data.questions import synthesize
    from hypereyes_jax.env.world import World

    if _is_whole(directory):
        return
    if config.domain == "nature":
        _make_nature(directory, config, stages)
        return
    world = World.load()
    held_out = world.split()[1]
    training_world = world.training_world
    training_world.prepare()
    seeds = _seeds(config)
    rules = _rules(config)
    with stages.stage("questions for SFT", config.sft_questions) as stage:
        sft_questions = synthesize(
            training_world, config.sft_questions, seeds["sft"], rules, prefix="sft", advance=stage.advance
        )
    with stages.stage("rejection sampling", len(sft_questions)) as stage:
        demonstrations, dropped = asyncio.run(_demonstrations(sft_questions, config, stage.advance))
    write_examples(directory.file(DEMONSTRATIONS), [demonstration.example for demonstration in demonstrations])
    plan = {
        CANDIDATES: (training_world, config.rl_candidates, "rl", None),
        HELD_OUT: (world, config.eval_questions, "heldout", held_out),
        SEEN: (training_world, config.eval_questions, "seen", None),
    }
    with stages.stage("questions for RL and evaluation", sum(count for _, count, _, _ in plan.values())) as stage:
        others = {
            file: synthesize(where, count, seeds[name], rules, focus, prefix=name, advance=stage.advance)
            for file, (where, count, name, focus) in plan.items()
        }
    for name, questions in others.items():
        write_questions(directory.file(name), [synth.question for synth in questions])
    rounds = Counter(demonstration.result.rounds for demonstration in demonstrations)
    summary = {
        "demonstrations": len(demonstrations),
        "dropped": dict(dropped),
        "rounds": {str(n): rounds[n] for n in sorted(rounds)},
        **{name: len(questions) for name, questions in others.items()},
    }
    _write_summary(directory, summary, [DEMONSTRATIONS, *plan])


def _make_nature(directory: RunDirectory, config: SynthConfig, stages: Stages) -> None:
    """Candidates and questions of evaluation over the second domain."""
    from hypereyes_jax.data.files import write_questions
    from hypereyes_jax.data.nature_questions import nature_questions
    from hypereyes_jax.env.nature import Nature

    world = Nature.load()
    training_keys, held_out = world.split()
    seeds = _seeds(config)
    plan = {
        CANDIDATES: (training_keys, config.rl_candidates, "rl"),
        HELD_OUT: (held_out, config.eval_questions, "heldout"),
        SEEN: (training_keys, config.eval_questions, "seen"),
    }
    with stages.stage("questions about nature", len(plan)) as stage:
        for file, (keys, count, name) in plan.items():
            questions = nature_questions(
                world, keys, count, seeds[name], crowding=config.crowding, prefix=f"nature-{name}"
            )
            write_questions(directory.file(file), questions)
            stage.advance()
    _write_summary(directory, {file: count for file, (_, count, _) in plan.items()}, list(plan))


def _write_summary(directory: RunDirectory, summary: dict[str, Any], files: list[str]) -> None:
    digests = {name: content_digest(directory.file(name)) for name in files}
    write_json(directory.file(SUMMARY), summary | {"files": digests})


def _is_whole(directory: RunDirectory) -> bool:
    """Whether all files are there that the summary tells of. Raises UserError for one that holds something else."""
    path = directory.file(SUMMARY)
    if not os.path.lexists(path):
        return False
    summary = read_json_object(path)
    if "files" not in summary and HELD_OUT in summary:  # of a version that wrote no digests
        files = (CANDIDATES, HELD_OUT, SEEN, *([DEMONSTRATIONS] if "demonstrations" in summary else []))
        return all(directory.file(name).exists() for name in files)
    digests = summary.get("files")
    if not isinstance(digests, dict) or not {DEMONSTRATIONS, CANDIDATES, HELD_OUT, SEEN}.issuperset(digests):
        raise UserError(f"{path} is damaged ('files' must hold digests by name). Remove it, and all is made again.")
    there = [name for name in digests if os.path.lexists(directory.file(name))]
    for name in there:
        if content_digest(directory.file(name)) != digests[name]:
            raise UserError(
                f"{directory.file(name)} is not what {path} says was written. Remove both, and they are made again, or "
                "choose another directory."
            )
    return len(there) == len(digests) > 0


def _rules(config: SynthConfig) -> SynthesisConfig:
    from hypereyes_jax.data import aggregation, chains, textual
    from hypereyes_jax.data.questions import SynthesisConfig

    if config.domain == "nature" and (config.drop_one or config.depths or config.paradigm != "ugs"):
        raise UserError("--domain nature has questions of its own: leave out --drop-one, --depths and --paradigm.")
    if config.drop_one and config.depths:
        raise UserError("--drop-one and --depths ask for different kinds of questions: give one of them.")
    if config.depths:
        return SynthesisConfig(crowding=config.crowding, kinds=chains.KINDS, depths=config.depths)
    if config.drop_one:
        kinds = (*aggregation.TEMPLATES, *textual.TEMPLATES)
        return SynthesisConfig(crowding=config.crowding, kinds=kinds, drop_one=True)
    return SynthesisConfig(crowding=config.crowding)


def _seeds(config: SynthConfig) -> dict[str, int]:
    """One stream of seeds a purpose, so that a larger data set of one kind leaves the others as they were."""
    return {name: 10 * config.seed + i for i, name in enumerate(("sft", "rl", "heldout", "seen"), start=1)}


def demonstrations_hash(config: SynthConfig, questions: int = 40) -> str:
    """sha256 over the demonstrations of the first questions: whether the code still makes those of a record."""
    from hypereyes_jax.data.demonstration import examples_hash
    from hypereyes_jax.data.questions import synthesize
    from hypereyes_jax.env.world import World

    rules = _rules(config)
    sample = synthesize(
        World.load().training_world, min(questions, config.sft_questions), _seeds(config)["sft"], rules, prefix="sft"
    )
    demonstrations, _ = asyncio.run(_demonstrations(sample, config, lambda: None))
    return examples_hash(demonstration.example for demonstration in demonstrations)


async def _demonstrations(
    questions: list[SynthQuestion], config: SynthConfig, advance: Callable[[], None]
) -> tuple[list[Demonstration], Counter[str]]:
    """Rejection sampling and filters over all questions: (what is kept, why the rest is not)."""
    import numpy as np

    from hypereyes_jax.data.filters import fault
    from hypereyes_jax.data.rejection import progressive_rejection_sampling
    from hypereyes_jax.data.searcher import CAREFUL, demonstrate
    from hypereyes_jax.env.judging.judges import ExactJudge
    from hypereyes_jax.env.types import Question
    from hypereyes_jax.env.world import WorldBackend

    judge, rules = ExactJudge(), miniature.episode(config.paradigm)
    budgets, trials = (range(1, 9), 1) if config.sampling == "progressive" else ((8,), 8)
    demonstrations: list[Demonstration] = []
    dropped: Counter[str] = Counter()
    for number, synth in enumerate(questions):
        backend = WorldBackend(synth.oracle.world)

        async def attempt(
            question: Question, budget: int, trial: int, synth: SynthQuestion = synth, backend: WorldBackend = backend,
            number: int = number,
        ) -> Demonstration:  # fmt: skip
            rng = np.random.default_rng([config.seed, number, budget, trial])
            return await demonstrate(synth, backend, CAREFUL, rng, rules, budget)

        if config.sampling == "first-try":
            demonstration: Demonstration | None = await attempt(synth.question, 8, 0)
        else:
            demonstration = await progressive_rejection_sampling(synth.question, attempt, judge, budgets, trials)
        why = (
            "unsolved"
            if demonstration is None
            else fault(demonstration.result, miniature.FILTERS)
            if config.filters
            else None
        )
        if demonstration is not None and why is None:
            demonstrations.append(demonstration)
        else:
            dropped[str(why)] += 1
        advance()
    return demonstrations, dropped
