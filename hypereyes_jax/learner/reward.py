"""A reward of one's own: a function of a group of rollouts, named by `module:object`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image

from hypereyes_jax.configs.objects import (
    NamedObject,
    call_with_metrics,
    in_words,
    instance,
    labels,
    named_object,
)
from hypereyes_jax.configs.trace import NO_ANSWER
from hypereyes_jax.env.types import EpisodeResult, Invocation, Question, SearchHit, StopReason, TurnRecord
from hypereyes_jax.errors import UserError


@dataclass(frozen=True)
class RewardGroup:
    """What a reward is told of the rollouts of one question. Arrays have one entry a rollout.

    Rollouts that are not valid (the world or the judge failed) are there, too; their rewards count nowhere.
    """

    question: Question
    accuracy_G: np.ndarray  # float32: 1 right, 0 wrong, -0.5 no readable answer
    rounds_G: np.ndarray  # int32, t_c
    invocations_G: np.ndarray  # int32, t_s
    valid_G: np.ndarray  # bool
    results: tuple[EpisodeResult, ...]  # all that happened: turns, searches, hits, answers
    reference: tuple[int, int]  # (rounds, invocations) in force; (-1, -1) = none is known


Rewards = Any  # [G] real
GroupReward = Callable[[RewardGroup], Rewards | tuple[Rewards, Mapping[str, float]]]


@dataclass(frozen=True)
class WeightedRewards:
    """The weighted sum of several rewards."""

    parts: tuple[tuple[NamedObject, float], ...]

    def __call__(self, group: RewardGroup) -> tuple[np.ndarray, dict[str, float]]:
        """([G] float32, metrics under the names of the functions that gave them).

        Raises ValueError for rewards that are not one finite number a rollout, naming the function.
        """
        total = np.zeros(len(group.results), np.float32)
        metrics: dict[str, float] = {}
        names = labels([source for source, _ in self.parts])
        for label, (source, weight) in zip(names, self.parts, strict=True):
            rewards, figures = _called(source, group)
            total += np.float32(weight) * rewards
            metrics[f"reward_{label}"] = float(rewards[group.valid_G].mean()) if group.valid_G.any() else 0.0
            metrics |= {f"reward_{label}_{name}": float(value) for name, value in figures.items()}
        return total, metrics

    def record(self) -> list[dict[str, Any]]:
        """Names, files, hashes and weights, for a run's record."""
        return [{**source.record(), "weight": weight} for source, weight in self.parts]


def read_only(array: Any) -> np.ndarray:
    """A view of an array that can't be written to; the array itself still can."""
    view = np.asarray(array).view()
    view.flags.writeable = False
    return view


def numbers(result: Any) -> np.ndarray:
    """What a function gave, as float32. Raises TypeError for texts and complex numbers, which are no rewards."""
    array = np.asarray(result)
    if array.dtype.kind in "cSUM":
        raise TypeError(f"real numbers are needed, not {array.dtype}")
    return array.astype(np.float32)


def load_rewards(own: Sequence[str | GroupReward]) -> WeightedRewards | None:
    """Rewards, each a function, `module:object` or `module:object*weight`; None for none.

    Each is called once on a made-up group, so that a wrong signature or result is told before anything is spent.

    Raises:
      UserError: a name that can't be loaded, or a function that does not give one finite number a rollout.
    """
    parts = []
    for reward in own:
        place, star, weight = reward.rpartition("*") if isinstance(reward, str) else ("", "", "")
        try:
            factor = float(weight) if star else 1.0
        except ValueError:
            factor = math.nan
        if not math.isfinite(factor):
            raise UserError(f"{reward!r}: the weight behind * must be a finite number")
        source = named_object(place if star else reward, "reward")
        parts.append((replace(source, value=instance(source)), factor))
    if not parts:
        return None
    rewards = WeightedRewards(tuple(parts))
    try:
        rewards(made_up_group())
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"a reward failed on a made-up group of four rollouts: {in_words(error)}. It must take one RewardGroup "
            "(hypereyes_jax.learner.reward) and return an array of one number a rollout, or that and a dict of metrics"
        ) from error
    return rewards


def made_up_group() -> RewardGroup:
    """Four rollouts of one question: right and wide, right and slow, wrong, and one without an answer."""
    question = Question("made-up", "Which city is the capital?", (Image.new("RGB", (8, 8)),), ("Paris",))
    hit = SearchHit("Paris", "Paris is the capital of France.", 0.9, "https://example.org")

    def turn(searches: int) -> TurnRecord:
        calls = tuple(Invocation("text_search", f"capital {n}", hits=(hit,)) for n in range(searches))
        return TurnRecord("<reason>I search.</reason>", "I search.", calls, is_round=bool(searches))

    results = (
        EpisodeResult(question, (turn(2), turn(0)), StopReason.ANSWERED, "Paris"),
        EpisodeResult(question, (turn(1), turn(1), turn(1), turn(0)), StopReason.ANSWERED, "Paris"),
        EpisodeResult(question, (turn(1), turn(0)), StopReason.ANSWERED, "Lyon"),
        EpisodeResult(question, (turn(0),), StopReason.NO_ACTION, None),
    )
    return RewardGroup(
        question,
        np.array([1, 1, 0, NO_ANSWER], np.float32),
        np.array([result.rounds for result in results], np.int32),
        np.array([result.invocations for result in results], np.int32),
        np.ones(4, bool),
        results,
        (2, 3),
    )


def _called(loaded: NamedObject, group: RewardGroup) -> tuple[np.ndarray, Mapping[str, float]]:
    # Statistics, references and further rewards read the same arrays after a reward that would change them.
    arrays: dict[str, Any] = {
        name: read_only(getattr(group, name)) for name in ("accuracy_G", "rounds_G", "invocations_G", "valid_G")
    }
    rewards, metrics = call_with_metrics(loaded, replace(group, **arrays))
    rewards = numbers(rewards)
    if rewards.shape != (len(group.results),):
        raise ValueError(f"{loaded.name} gave shape {rewards.shape} for {len(group.results)} rollouts")
    if not np.all(np.isfinite(rewards[group.valid_G])):
        raise ValueError(f"{loaded.name} gave a reward that is not finite: {rewards.tolist()}")
    if not isinstance(metrics, Mapping):
        raise ValueError(f"{loaded.name} gave metrics that are not a dict: {metrics!r}")
    return np.where(group.valid_G, rewards, np.float32(0)), metrics
