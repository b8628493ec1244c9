"""The whole method on one page: rollouts are sampled, rewarded by TRACE, distilled where they failed, and trained on.

    python examples/rl_loop.py --steps 3

Each step plays a group of episodes of every question, judges them, ranks each group by accuracy and by what the search
cost (TRACE), gives failed rollouts the teacher's log-probs (on-policy distillation), and makes one update. The weights
then go back to the engine. What `hypereyes rl` adds to this is selection of questions, checkpoints and resuming,
meshes, several processes, and figures of each step.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import jax
import numpy as np

from hypereyes_jax import miniature
from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig, PackConfig
from hypereyes_jax.data.questions import synthesize
from hypereyes_jax.env import Episode, ExactJudge, Question
from hypereyes_jax.env.world import World, WorldBackend
from hypereyes_jax.learner.experience import Experience, observe, score_group, summary
from hypereyes_jax.learner.learner import Learner, make_learner
from hypereyes_jax.learner.packing import TrainingSample, pack
from hypereyes_jax.learner.state import TrainState, weights
from hypereyes_jax.learner.teacher import LocalTeacher
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rl import ReferenceStore
from hypereyes_jax.rollout import Engine, Trajectory, run_episodes
from hypereyes_jax.rollout.servers.weight_check import echo_check

ASSETS = Path(str(resources.files("hypereyes_jax.assets")))
PIXELS = {"min_pixels": miniature.MIN_PIXELS, "max_pixels": miniature.MAX_PIXELS}
TEMPERATURE = 0.8  # of rollouts, of the loss and of the teacher: log-probs compare at one temperature only
SAMPLING = SamplingConfig(TEMPERATURE, top_p=0.95, max_new_tokens=256)
PACKING = PackConfig(row_lengths=(miniature.CONTEXT,), rows=4, **PIXELS)
LEARN = LearnerConfig(
    # The vision tower stays as it is. The paper's learning rate is 1e-6; a model this small takes larger steps.
    OptimizerConfig(learning_rate=3e-4, schedule="constant", b2=0.98),
    train="language",
    temperature=TEMPERATURE,
    opd_coef=0.05,
)


@dataclass
class Run:
    """What one training holds."""

    engine: Engine
    chat: ChatFormat
    backend: WorldBackend
    learner: Learner
    state: TrainState
    teacher: LocalTeacher
    references: ReferenceStore
    group: int


def start(questions: Sequence[Question], world: World, group: int) -> Run:
    """The miniature's base model as the policy, and its larger teacher."""
    model, params, chat = load_model(ASSETS / "base")
    teacher_model, teacher_params, _ = load_model(ASSETS / "teacher")
    engine = Engine(model, params, EngineConfig(slots=16, context=miniature.CONTEXT, **PIXELS))
    learner = make_learner(model, LEARN)
    return Run(
        engine=engine,
        chat=chat,
        backend=WorldBackend(world),
        learner=learner,
        # A step uses up its state's arrays, so the learner gets its own.
        state=learner.init(jax.random.key(0), jax.tree.map(lambda x: x.copy(), params)),
        teacher=LocalTeacher(teacher_model, teacher_params, PACKING, TEMPERATURE),
        # What a question takes, as far as is known: rounds and searches of the best rollout so far.
        references=ReferenceStore({question.id: (4, 8) for question in questions}),
        group=group,
    )


async def play(run: Run, questions: Sequence[Question], step: int) -> list[Trajectory]:
    """`run.group` rollouts of each question, side by side; every rollout has a random stream of its own."""
    episodes = [Episode(question, run.backend, miniature.EPISODE) for question in questions for _ in range(run.group)]
    seeds = np.random.SeedSequence([0, step]).generate_state(len(episodes))
    return await run_episodes(run.engine, episodes, run.chat, SAMPLING, [int(seed) for seed in seeds])


async def score(run: Run, questions: Sequence[Question], played: Sequence[Trajectory]) -> list[Experience]:
    """Judges every rollout and ranks it within its group. What right ones took becomes the reference of later steps."""
    groups = []
    for number, question in enumerate(questions):
        own = played[number * run.group : (number + 1) * run.group]
        correct = [await ExactJudge().judge(question, trajectory.result.answer) for trajectory in own]
        groups.append(score_group(own, correct, run.references.get(question.id)))
        observe(run.references, question.id, groups[-1])
    return groups


async def distil(run: Run, samples: Sequence[TrainingSample]) -> list[TrainingSample]:
    """Gives failed rollouts the teacher's log-probs of the tokens that the policy sampled."""
    failed = [number for number, sample in enumerate(samples) if sample.failed]
    scored = await run.teacher.score([samples[number] for number in failed])
    logp = dict(zip(failed, scored, strict=True))
    return [replace(sample, teacher_logp=logp.get(number)) for number, sample in enumerate(samples)]


def update(run: Run, samples: Sequence[TrainingSample]) -> dict[str, float]:
    """One optimiser step over all rollouts, whose figures it returns."""
    batch = pack(run.engine.config, samples, PACKING)
    run.state, figures = run.learner.rl_step(run.state, batch)
    return {name: float(value) for name, value in figures.items()}


def publish(run: Run, version: int) -> None:
    """The engine samples from the new weights, and proves it: of a short text it gives the log-probs that they give.

    The state keeps its arrays until the next update, so a copy goes over.
    """
    params, _ = weights(run.state, LEARN.train)
    run.engine.set_weights(jax.tree.map(lambda x: x.copy(), params), None, version)
    echo_check(run.engine, params, None, run.chat.prompt("", ["Which city is the capital?"]).tokens)


async def train(steps: int, prompts: int, group: int) -> list[dict[str, float]]:
    """The figures of each step."""
    world = World.load()
    seen = world.restrict(world.split()[0], passages=True)
    questions = [each.question for each in synthesize(seen, steps * prompts, seed=0)]
    run, history = start(questions, seen, group), []
    for step in range(steps):
        asked = questions[step * prompts : (step + 1) * prompts]
        groups = await score(run, asked, await play(run, asked, step))
        samples = await distil(run, [sample for each in groups for sample in each.samples()])
        figures = {**summary(groups), **update(run, samples)}
        publish(run, step + 1)
        run.references.commit()  # the paper tightens once an epoch; here each question is asked in one step only
        history.append(figures)
        print(f"step {step}: " + "  ".join(f"{name} {figures[name]:.3f}" for name in ("accuracy", "rounds", "reward")))
    return history


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--steps", type=int, default=3, help="Number of optimiser steps.")
    options.add_argument("--prompts", type=int, default=4, help="Number of questions in one step.")
    options.add_argument("--group", type=int, default=8, help="Number of rollouts of each question.")
    given = options.parse_args()
    asyncio.run(train(given.steps, given.prompts, given.group))
