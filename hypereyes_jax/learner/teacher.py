"""Who scores failed rollouts for on-policy distillation: the seam, and a frozen teacher whose weights are here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jax.sharding import Mesh

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import LearnerConfig, PackConfig
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.learner.packing import PackedBatch, TrainingSample, pack, unpack
from hypereyes_jax.learner.step_batch import StepBatch, step_batch
from hypereyes_jax.processing import ContextChunk, SampledChunk


class Unscored(NamedTuple):
    """Samples that a call of `Teacher.score` gave no log-probs of."""

    failures: int = 0  # the teacher did not answer, or not in time, or with what no log-prob can be
    mismatches: int = 0  # it read other tokens than the sample's
    why: str = ""  # of the first one


class Teacher(Protocol):
    """A frozen model that tells how likely it finds tokens that the student sampled."""

    unscored: Unscored
    """What the latest call of `score` left out."""

    async def score(self, samples: Sequence[TrainingSample]) -> list[np.ndarray | None]:
        """Scores the tokens that the student sampled, each given all before it, images included.

        Returns:
          A list as long as `samples`: float32 [sampled tokens], nats, at the student's temperature over the whole
          vocabulary, in the order of the tokens and in the form of `TrainingSample.teacher_logp`; None where the
          teacher gave no score, so that the sample's distillation term is masked.

        Never raises for what a teacher elsewhere does: that is None, and counted in `unscored`.
        """
        ...


class LocalTeacher:
    """A teacher whose weights are on this process's device, or shared out over a mesh. It scores every sample.

    On a mesh that several processes share, all must call `score` together, also those that have no samples.

    Args:
      params: as `load_hf` gives them; on a mesh in the places of `models.sharding.param_shardings`.
      packing: shapes of a batch; on a mesh as `batch` takes it.
      temperature: the student's sampling temperature.
      batch: makes a batch of (model, samples, packing); on a mesh, this process's part of all processes' batch, with
        the rows of a process side by side (`launch.processes.Processes.batch`).

    Raises ShardingError if the mesh does not divide the model.
    """

    def __init__(
        self,
        model: Qwen3VLConfig,
        params: Any,
        packing: PackConfig,
        temperature: float,
        mesh: Mesh | None = None,
        batch: Callable[[Qwen3VLConfig, Sequence[TrainingSample], PackConfig], PackedBatch | StepBatch] = pack,
        compute_dtype: str = "float32",
    ):
        self.unscored = Unscored()
        self.model, self.params = model, params
        self._packing, self._temperature = packing, temperature
        self._mesh, self._batch = mesh, batch
        self._learner = make_learner(model, LearnerConfig(compute_dtype=compute_dtype), mesh)

    async def score(self, samples: Sequence[TrainingSample]) -> list[np.ndarray | None]:
        """Scores as `Teacher.score` says. Raises ValueError where `pack` does."""
        return await asyncio.to_thread(self._score, samples)  # rollouts may go on meanwhile

    def _score(self, samples: Sequence[TrainingSample]) -> list[np.ndarray | None]:
        if self._mesh is None and not samples:
            return []
        # a process without samples takes its part in the others' program with one that nobody reads
        batch = step_batch(self._batch(self.model, samples or [_nothing()], self._packing))
        logps = unpack(batch.local, self._learner.score_logprobs(self.params, batch, temperature=self._temperature))
        return [logps.get(number) for number in range(len(samples))]


def _nothing() -> TrainingSample:
    token, logp = np.zeros(1, np.int32), np.zeros(1, np.float32)
    return TrainingSample((ContextChunk(token), SampledChunk(token, logp, logp, token)))
