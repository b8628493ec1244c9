"""A run of RL as a Python call, with the user's own reward, loss, tools, search or judge as the objects themselves."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from hypereyes_jax.configs.reward import RewardConfig
from hypereyes_jax.data.question_digest import try_key
from hypereyes_jax.data.sources import open_questions
from hypereyes_jax.env.judging.own import check_own_judge
from hypereyes_jax.env.search.services import check_search
from hypereyes_jax.env.types import Question
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.run_output import open_run, open_stages
from hypereyes_jax.learner.optimizer import make_optimizer
from hypereyes_jax.runs.metrics_file import read_metrics
from hypereyes_jax.train.adapters import save_trained
from hypereyes_jax.train.method import OwnObjects, RlMethod, load_method
from hypereyes_jax.train.rl_policy import load_rl_policy
from hypereyes_jax.train.rl_run import train
from hypereyes_jax.train.rollout_source import check_ahead
from hypereyes_jax.train.settings import RlSettings, SelectionRule
from hypereyes_jax.train.sizes import MINIATURE_RL, TrainingSizes
from hypereyes_jax.train.types import RlQuestions, RlServices, TrainingRun

T = TypeVar("T")


@dataclass(frozen=True)
class TrainedPolicy:
    """What came of a run."""

    model: Path  # directory in Hugging Face layout: give it to `hypereyes_jax.load` or `hypereyes eval`
    steps: list[dict[str, Any]]  # the figures of each step, as `metrics.jsonl` has them


@dataclass(frozen=True)
class _Call:
    """What `config.json` says of a call; the objects are in `objects.json`."""

    checkpoint: str
    questions: str
    settings: RlSettings
    reward: RewardConfig
    services: RlServices
    sizes: TrainingSizes
    rule: SelectionRule = field(default_factory=SelectionRule)


def rl(
    checkpoint: str | os.PathLike,
    questions: str | os.PathLike | Sequence[Question],
    out: str | os.PathLike,
    *,
    own: OwnObjects = OwnObjects(),  # noqa: B008 - frozen
    settings: RlSettings = RlSettings(),  # noqa: B008 - frozen
    reward: RewardConfig = RewardConfig(),
    services: RlServices = RlServices(),  # noqa: B008 - frozen
    sizes: TrainingSizes = MINIATURE_RL,
    rule: SelectionRule = SelectionRule(),  # noqa: B008 - frozen
) -> TrainedPolicy:
    """Trains a policy as `hypereyes rl` does, on the default device; for meshes and hosts there is the command.

    The same call goes on where an earlier one was stopped, if its objects have the same source.

    Args:
      checkpoint: the policy after SFT: a directory in Hugging Face layout, a hub id or a URL.
      questions: candidates: questions, or a source as `hypereyes_jax.data.open_questions` takes it.
      out: the run's directory; the trained model goes to `model/` in it.
      own: a user's own parts of the method, each called once on made-up rollouts before anything is spent.
      settings: what is tuned from run to run; the defaults are the miniature's.
      reward: what ranks the rollouts of a question, where `own.rewards` do not.
      services: settings of searches, judge and teacher; by default the miniature's world and exact comparison.
      sizes: lengths, images, precision, slots, and the rules of episodes; the default is the miniature's.
      rule: which candidates are trained on.

    Raises:
      UserError: what the command would tell, in the same words.
    """
    pool: Sequence[Question]
    if isinstance(questions, str | os.PathLike):
        sources: tuple[str, ...] = (os.fspath(questions),)
        pool = open_questions(sources[0])
    else:
        sources, pool = (), list(questions)
    call = _Call(os.fspath(checkpoint), _named(questions), settings, reward, services, sizes, rule)
    out = Path(out)
    processes = Processes()
    check_ahead(settings, sizes.learner)
    _outside_of_loops(lambda: _check(own, settings, reward, services, sizes))
    with open_run(processes, out, "train.rl", call, {"checkpoint": Path(checkpoint)}) as directory:
        model, params, rollouts, processes = load_rl_policy(checkpoint, sizes, settings, processes, directory=directory)
        with rollouts, open_stages(processes) as stages:
            run = TrainingRun(directory, stages, processes)
            method = RlMethod(reward, own=own)
            rl_questions = RlQuestions(pool, rule, sources=sources)
            weights, adapters = _outside_of_loops(
                lambda: train(run, rollouts, model, params, rl_questions, settings, services, method)
            )
        save_trained(directory, model, weights, adapters, os.fspath(checkpoint), sizes, processes)
        steps = [row for row in read_metrics(directory.file("metrics.jsonl")) if row["phase"] == "rl"]
    return TrainedPolicy(out / "model", steps)


def _check(
    own: OwnObjects, settings: RlSettings, reward: RewardConfig, services: RlServices, sizes: TrainingSizes
) -> None:
    """Raises UserError for an object or a setting that can't be used, before anything is loaded or written."""
    check_search(services.search)
    make_optimizer(sizes.learner.optimizer)
    load_method(RlMethod(reward, own=own), sizes.learner, sizes.episode, settings.metrics)
    judge = own.judge or services.judge.object
    if judge:
        check_own_judge(judge)


def _named(questions: str | os.PathLike | Sequence[Question]) -> str:
    """A source by its name, questions by a hash of their content."""
    if isinstance(questions, str | os.PathLike):
        return os.fspath(questions)
    digest = hashlib.sha256("".join(f"{question.id} {try_key(question)}\n" for question in questions).encode())
    return f"{len(questions)} questions, sha256 {digest.hexdigest()}"


def _outside_of_loops(work: Callable[[], T]) -> T:
    """What `work` returns. Where an event loop runs already, as in a notebook, it runs in a thread of its own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return work()
    with ThreadPoolExecutor(1, "hypereyes-rl") as threads:
        return threads.submit(work).result()
