"""One evaluation of a policy on one set of questions: play, judge, file the results."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from hypereyes_jax import miniature
from hypereyes_jax.data.questions import SynthesisConfig, synthesize
from hypereyes_jax.env.judging.service import judging
from hypereyes_jax.env.search.config import SearchKeys
from hypereyes_jax.env.search.services import connected
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.benchmark import evaluate
from hypereyes_jax.eval.conditions import EvaluationConditions
from hypereyes_jax.eval.own_metrics import OwnMetrics
from hypereyes_jax.eval.policy import EvaluationRun, Policy, runner
from hypereyes_jax.eval.tables import save_evaluation
from hypereyes_jax.processing.lengths import visual_tokens
from hypereyes_jax.rollout import Timeline

SEEN = "seen"
SERIAL = "_serial"  # a split of this ending is played with one search a turn


async def evaluate_split(
    run: EvaluationRun,
    policy: Policy,
    split: str,
    questions: Sequence[Question],
    conditions: EvaluationConditions,
    metrics: OwnMetrics = OwnMetrics(),  # noqa: B008 - frozen
) -> None:
    """Files the results under the run's name and `split`, with how the searches went and how engine time was used.

    What each slot did and when goes to `timeline-NAME-SPLIT.json`.

    Args:
      conditions: a split of serial questions is played with one search a turn whatever they say; to the seed each
        question adds its number.
      metrics: a user's, whose means over the scored episodes are filed, too.
    """
    search, pixels = conditions.search, conditions.pixels
    rules = conditions.episode
    episode = replace(rules, serial=rules.serial or split.endswith(SERIAL))
    timeline = Timeline()
    async with judging(conditions.judge) as verdicts, connected(search, SearchKeys.of(os.environ)) as (backend, _):
        with run.stages.stage(f"evaluation of {run.name}, {split}", len(questions)) as stage:
            play = runner(
                policy,
                backend,
                episode,
                conditions.sampling,
                seed=conditions.seed,
                on_end=lambda *_: stage.advance(),
                timeline=timeline,
            )
            visual = partial(visual_tokens, min_pixels=pixels[0], max_pixels=pixels[1])
            evaluation = await evaluate(play, questions, verdicts, visual_tokens=visual)
    timeline.write(run.directory.file(f"timeline-{run.name}-{split}.json"))
    costs = {"search": backend.metrics.summary(), "engine": timeline.utilisation()}
    own = metrics.means([(each.trajectory.result, each.correct) for each in evaluation.judged if not each.masked])
    save_evaluation(run.directory, run.name, split, evaluation, judge=verdicts.name, costs=costs, own=own)


def world_questions(
    world: World, split: str, count: int, seed: int, crowding: float = miniature.CROWDING
) -> list[Question]:
    """Evaluation questions: about held-out countries (mixed with seen ones), or in the seen part of the world.

    They are drawn as `hypereyes synth` and the quickstart draw theirs, unless `crowding` says otherwise.
    """
    training_keys, held_out = world.split()
    rules = SynthesisConfig(crowding=crowding)
    if split == SEEN:
        return [
            synth.question for synth in synthesize(world.restrict(training_keys), count, seed, rules, prefix="seen")
        ]
    return [synth.question for synth in synthesize(world, count, seed, rules, focus=held_out, prefix="heldout")]
