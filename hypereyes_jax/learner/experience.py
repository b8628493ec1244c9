"""Judged rollouts become training samples: accuracy, reward, group advantages, and what the references learn of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.reward import RewardConfig
from hypereyes_jax.configs.trace import NO_ANSWER
from hypereyes_jax.env.types import StopReason
from hypereyes_jax.learner.advantage import Advantage
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.learner.reward import RewardGroup, WeightedRewards
from hypereyes_jax.learner.spending import Spending, cost, spending
from hypereyes_jax.rl.advantages import group_relative_advantage
from hypereyes_jax.rl.cost_weighted import cost_weighted_reward
from hypereyes_jax.rl.overlong import overlong_penalty
from hypereyes_jax.rl.references import ReferenceStore
from hypereyes_jax.rl.trace import trace_reward
from hypereyes_jax.rollout.types import Trajectory


@dataclass(frozen=True)
class Experience:
    """One group of rollouts of a question, scored. Arrays have one entry a rollout."""

    trajectories: tuple[Trajectory, ...]
    accuracy_G: np.ndarray  # float32: 1 right, 0 wrong, -0.5 no readable answer
    valid_G: np.ndarray  # bool: False where world or judge failed, or the context was full; it counts nowhere then
    rounds_G: np.ndarray  # int32, t_c: turns in which a search was really sent
    invocations_G: np.ndarray  # int32, t_s: searches really sent
    format_G: np.ndarray  # float32, R_fmt of tool calls that could not be read, 0 or negative
    tool_G: np.ndarray  # float32, the tool part of the reward
    reward_G: np.ndarray  # float32
    advantage_G: np.ndarray  # float32
    outgrown_G: np.ndarray  # bool: it needed a longer context than there is, and was masked
    metrics: Mapping[str, float] = field(default_factory=dict)  # of a user's own rewards
    spent: tuple[Spending, ...] = ()  # by each rollout

    @property
    def failed_G(self) -> np.ndarray:
        """Where on-policy distillation applies: wrong answers and format failures (arXiv 2605.07177)."""
        return self.valid_G & (self.accuracy_G <= 0)

    @property
    def is_dead(self) -> bool:
        """All advantages are 0: the group says nothing about which rollout was better."""
        return not np.any(self.advantage_G)

    def samples(self) -> list[TrainingSample]:
        """What the learner packs. Rollouts that are not valid are left out."""
        rows = zip(self.trajectories, self.advantage_G, self.failed_G, self.valid_G, strict=True)
        return [
            TrainingSample(trajectory.chunks, advantage=float(advantage), failed=bool(failed), routes=trajectory.routes)
            for trajectory, advantage, failed, valid in rows
            if valid and trajectory.sampled_tokens
        ]

    def record(self) -> dict[str, Any]:
        """The numbers without the trajectories, for JSON."""
        arrays = [each.name for each in fields(self) if each.name not in ("trajectories", "metrics", "spent")]
        extras = {"metrics": dict(self.metrics), "spent": [dict(each) for each in self.spent]}
        return {name: getattr(self, name).tolist() for name in arrays} | extras

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> Experience:
        """What `record` gave, exactly, without trajectories."""
        kinds = {"valid_G": bool, "outgrown_G": bool, "rounds_G": np.int32, "invocations_G": np.int32}
        arrays = {name: values for name, values in record.items() if name not in ("metrics", "spent")}
        columns = {name: np.array(values, kinds.get(name, np.float32)) for name, values in arrays.items()}
        return cls((), **columns, metrics=record["metrics"], spent=tuple(record["spent"]))


def score_group(
    trajectories: Sequence[Trajectory],
    correct: Sequence[bool | None],
    reference: tuple[int, int],
    config: RewardConfig = RewardConfig(),
    own: WeightedRewards | None = None,
    advantage: Advantage = group_relative_advantage,
    prices: Mapping[str, float] | None = None,
) -> Experience:
    """Scores the rollouts of one question.

    Args:
      trajectories: the group.
      correct: the judge's verdicts; None = it gave no verdict (or there was no answer to judge).
      reference: (rounds, invocations) in force for the question.
      config: which reward, with its constants.
      own: a user's rewards, which take the place of it, or of the accuracy in a cost-weighted one.
      advantage: what makes advantages of the rewards [G] of the valid rollouts.
      prices: of a budget, in reward units a unit of each resource; taken from whatever the reward is.
    """
    results = [trajectory.result for trajectory in trajectories]
    accuracy = np.array(
        [NO_ANSWER if r.answer is None else float(bool(c)) for r, c in zip(results, correct, strict=True)], np.float32
    )
    # A rollout that outgrew its slot broke no rule, since the slot's size is ours: it is masked, not a format failure.
    outgrown = np.array([r.stop is StopReason.CONTEXT_LIMIT for r in results])
    valid = np.array(
        [
            r.stop not in (StopReason.INFRASTRUCTURE, StopReason.CONTEXT_LIMIT) and (r.answer is None or c is not None)
            for r, c in zip(results, correct, strict=True)
        ]
    )
    rounds = np.array([r.rounds for r in results], np.int32)
    invocations = np.array([r.invocations for r in results], np.int32)
    group = RewardGroup(
        results[0].question, accuracy, rounds, invocations, valid, tuple(results), (reference[0], reference[1])
    )
    spent = tuple(spending(trajectory) for trajectory in trajectories)
    tool, total, metrics = _base_reward(group, spent, config, own)
    schema = np.array([config.malformed_call * r.schema_failures for r in results], np.float32)
    # A rollout without an answer has its R_fmt in the accuracy already.
    failure = np.where(accuracy <= config.trace.format_failure, accuracy, np.float32(0))
    floor = np.minimum(np.float32(config.format_floor) - failure, np.float32(0))
    formatted = np.where(valid, np.maximum(schema, floor), np.float32(0))
    if own is None:  # a user's reward is told of malformed calls, and says itself what they cost
        total = total + jnp.asarray(formatted)
    if config.overlong.limit:
        lengths = jnp.asarray([trajectory.sampled_tokens for trajectory in trajectories], jnp.float32)
        total = total + overlong_penalty(lengths, config.overlong.limit, config.overlong.buffer, config.overlong.scale)
    if prices:
        total = total - jnp.asarray(cost(spent, prices))
    ranked = np.asarray(advantage(total, jnp.asarray(valid)), np.float32)
    return Experience(
        tuple(trajectories),
        accuracy,
        valid,
        rounds,
        invocations,
        formatted,
        np.asarray(tool, np.float32),
        np.asarray(total, np.float32),
        ranked,
        outgrown,
        metrics,
        spent,
    )


def _base_reward(
    group: RewardGroup, spent: Sequence[Spending], config: RewardConfig, own: WeightedRewards | None
) -> tuple[jax.Array, jax.Array, Mapping[str, float]]:
    """(tool part of the reward, the reward, metrics of a user's own), before R_fmt, length and a budget's prices."""
    effectiveness, metrics = (group.accuracy_G, {}) if own is None else own(group)
    if config.kind == "cost-weighted":
        prices = config.price_list()
        costs = cost(spent, prices) if prices else group.rounds_G.astype(np.float32)
        total = cost_weighted_reward(jnp.asarray(effectiveness), jnp.asarray(costs), config.alpha, config.beta)
        return total - config.alpha * effectiveness, total, metrics
    if own is not None:
        return jnp.zeros(len(effectiveness)), jnp.asarray(effectiveness), metrics
    tool, total = trace_reward(
        jnp.asarray(group.accuracy_G),
        jnp.asarray(group.rounds_G),
        jnp.asarray(group.invocations_G),
        group.reference[0],
        group.reference[1],
        config.trace,
        jnp.asarray(group.valid_G),
    )
    return tool, total, metrics


def observe(references: ReferenceStore, key: str, experience: Experience) -> None:
    """Tells the references of every right rollout of a group that searched."""
    right = experience.valid_G & (experience.accuracy_G > 0) & (experience.rounds_G > 0)
    for index in np.flatnonzero(right):
        references.observe(key, int(experience.rounds_G[index]), int(experience.invocations_G[index]))


def trained_groups(groups: Sequence[Experience], count: int, distils: bool) -> set[int]:
    """Dynamic sampling (DAPO): the numbers of the groups that a step trains on, at most so many.

    The first that teach something are taken, then, where there are too few, the first of the others: a step has its
    size in any case.

    Args:
      count: groups of a step.
      distils: failed rollouts are scored by a teacher, so that a group with one teaches something even if it is dead.
    """
    if len(groups) <= count:
        return set(range(len(groups)))
    teaches = [not each.is_dead or (distils and bool(each.failed_G.any())) for each in groups]
    order = sorted(range(len(groups)), key=lambda number: not teaches[number])  # stable
    return set(order[:count])


def summary(groups: Sequence[Experience]) -> dict[str, float]:
    """Means over the valid rollouts of a step, as the training curves show them."""
    valid = np.concatenate([group.valid_G for group in groups])

    def mean(name: str) -> float:
        values = np.concatenate([getattr(group, name) for group in groups])[valid]
        return float(values.mean()) if len(values) else 0.0

    accuracy = np.concatenate([group.accuracy_G for group in groups])[valid]
    return {
        "accuracy": float((accuracy > 0).mean()) if len(accuracy) else 0.0,
        "format_failures": float((accuracy <= NO_ANSWER).mean()) if len(accuracy) else 0.0,
        "malformed_calls": float((np.concatenate([group.format_G for group in groups])[valid] < 0).mean())
        if len(accuracy)
        else 0.0,
        "rounds": mean("rounds_G"),
        "invocations": mean("invocations_G"),
        "reward": mean("reward_G"),
        "reward_tool": mean("tool_G"),
        "dead_groups": float(np.mean([group.is_dead for group in groups])),
        "masked": float(np.mean(~valid)),
        "outgrown": float(np.mean(np.concatenate([group.outgrown_G for group in groups]))),
        **{name: float(np.mean([group.metrics[name] for group in groups])) for name in groups[0].metrics},
    }
