"""The policy that a run began with, where a KL penalty holds the trained one near it."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.training import LearnerConfig
from hypereyes_jax.learner.learner import Learner
from hypereyes_jax.learner.step_batch import StepBatch
from hypereyes_jax.models.qwen3_vl import Params


@dataclass(frozen=True)
class KlReference:
    """A copy of the first weights, in the places of the policy's, and how it scores a batch."""

    learner: Learner
    params: Params
    temperature: float

    @classmethod
    def of(cls, learn: LearnerConfig, learner: Learner, params: Params) -> KlReference | None:
        """The reference of a run; None where no penalty asks for one, or the model without adapters serves as it.

        Args:
          params: the policy's as the run began, also where it goes on from a checkpoint. They are copied: training uses
            up their buffers.
        """
        if learn.kl == "none" or learn.train == "lora":
            return None
        return cls(learner, jax.tree.map(jnp.copy, params), learn.temperature)

    def score(self, batch: StepBatch) -> StepBatch:
        """The batch with the reference's log-probs."""
        return batch.with_reference(self.learner.score_logprobs(self.params, batch, temperature=self.temperature))
