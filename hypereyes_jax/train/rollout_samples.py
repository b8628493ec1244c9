"""Scored rollouts of training as records for the report, and as samples for trackers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hypereyes_jax.env.types import StopReason
from hypereyes_jax.eval.records import TrajectoryRecord, record_episode
from hypereyes_jax.eval.rollout_files import TRAINING
from hypereyes_jax.learner.experience import Experience
from hypereyes_jax.rollout import Trajectory
from hypereyes_jax.rollout.versions import version_spans
from hypereyes_jax.runs.tracking import Sample


def rollout_records(group: Experience, step: int, judge: str) -> list[TrajectoryRecord]:
    """A group's rollouts with what each earned: `extra` has step, reward, reward_tool, advantage, and what was counted.

    Args:
      judge: the judge's name.
    """
    records = []
    for n, trajectory in enumerate(group.trajectories):
        outage = trajectory.result.stop is StopReason.INFRASTRUCTURE
        valid = bool(group.valid_G[n])
        records.append(
            record_episode(
                trajectory.result,
                stage=TRAINING,
                split=f"step {step}",
                correct=bool(group.accuracy_G[n] > 0) if valid else None,
                masked="" if valid else "infrastructure" if outage else "judge",
                judge=judge,
                tokens=trajectory.context_tokens + trajectory.sampled_tokens,
                sampled_tokens=trajectory.sampled_tokens,
                seconds=trajectory.seconds,
                extra={
                    "step": step,
                    "reward": float(group.reward_G[n]),
                    "reward_tool": float(group.tool_G[n]),
                    "advantage": float(group.advantage_G[n]),
                    "rounds": int(group.rounds_G[n]),
                    "invocations": int(group.invocations_G[n]),
                    "versions": version_spans(trajectory),  # of the weights, and tokens that each sampled
                },
            )
        )
    return records


def validation_records(
    trajectories: Sequence[Trajectory], verdicts: Sequence[bool | None], step: int, judge: str
) -> list[TrajectoryRecord]:
    """Rollouts of the questions that the policy answers while it trains.

    Args:
      verdicts: whether each answer is right; None where the judge did not say.
      step: after which they were played, counted from 0.
      judge: the judge's name.
    """
    records = []
    for trajectory, verdict in zip(trajectories, verdicts, strict=True):
        result = trajectory.result
        outage = result.stop is StopReason.INFRASTRUCTURE
        silent = verdict is None and result.answer is not None
        records.append(
            record_episode(
                result,
                stage="validation",
                split=f"step {step}",
                correct=None if outage or silent else bool(verdict),
                masked="infrastructure" if outage else "judge" if silent else "",
                judge=judge,
                tokens=trajectory.context_tokens + trajectory.sampled_tokens,
                sampled_tokens=trajectory.sampled_tokens,
                seconds=trajectory.seconds,
                extra={"step": step},
            )
        )
    return records


def rollout_sample(group: Experience) -> Sample:
    """The best rollout of a group, word for word, with its question's pictures."""
    best = int(np.argmax(np.where(group.valid_G, group.reward_G, -np.inf)))
    result = group.trajectories[best].result
    turns = [part for turn in result.turns for part in (turn.text, turn.observation) if part]
    text = "\n\n".join([result.question.text, *turns])
    title = f"{result.question.id}: reward {group.reward_G[best]:+.3f}, advantage {group.advantage_G[best]:+.3f}"
    return Sample(title, text, tuple(result.question.images))
