"""Failed rollouts get a teacher's log-probs, whoever the teacher is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hypereyes_jax.errors import UserError
from hypereyes_jax.launch import miniature
from hypereyes_jax.launch.processes import Processes

if TYPE_CHECKING:
    from hypereyes_jax.launch.policy import Policy
    from hypereyes_jax.rl.pack import PackConfig, TrainingSample
    from hypereyes_jax.rl.teacher import Teacher


class Teaching:
    """The distillation part of a training step. Every process must call it at every step.

    Args:
      teacher: None = no distillation.
    """

    def __init__(self, teacher: Teacher | None, processes: Processes):
        self._teacher, self._processes = teacher, processes

    async def __call__(self, samples: Sequence[TrainingSample]) -> tuple[list[TrainingSample], dict[str, float]]:
        """Gives failed samples the teacher's log-probs of their tokens, where it has any.

        Returns:
          (the samples in their order, counts of the step over all processes: `distilled` samples with a score, and
          `teacher_failures` and `teacher_mismatches` without one; and this process's `seconds_teacher`).
        """
        began = time.perf_counter()
        out = list(samples)
        counts = [0, 0, 0]
        if self._teacher is not None:
            failed = [number for number, sample in enumerate(out) if sample.failed]
            scored = await self._teacher.score([out[number] for number in failed])
            for number, logp in zip(failed, scored, strict=True):
                out[number] = replace(out[number], teacher_logp=logp)
            unscored = self._teacher.unscored
            counts = [sum(logp is not None for logp in scored), unscored.failures, unscored.mismatches]
        seconds = time.perf_counter() - began
        totals = np.sum(self._processes.gather(counts), axis=0)
        names = ("distilled", "teacher_failures", "teacher_mismatches")
        return out, {**dict(zip(names, map(float, totals), strict=True)), "seconds_teacher": seconds}


def local_teacher(path: Path, policy: Policy, packing: PackConfig, processes: Processes) -> Teacher:
    """Raises UserError if `path` holds no model, or one with another vocabulary than the policy's."""
    from hypereyes_jax.launch.checkpoint_files import load_model
    from hypereyes_jax.rl.teacher import LocalTeacher

    model, params, chat = load_model(path)
    if chat.tokenizer.get_vocab() != policy.chat.tokenizer.get_vocab():
        raise UserError(f"{path} has another vocabulary than the policy: it can't score the policy's tokens.")
    temperature = miniature.sampling_config().temperature
    return LocalTeacher(model, params, packing, temperature, processes.mesh, processes.batch)
