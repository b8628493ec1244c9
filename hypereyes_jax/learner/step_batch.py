"""A step's data as the learner takes it: in the hosts' memory, of which the devices get a micro-batch at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from hypereyes_jax.learner.packing import PackedBatch


@dataclass(frozen=True)
class StepBatch:
    """One optimiser step's data, of which each process holds its own rows."""

    local: PackedBatch  # this process's rows; `count` is that of the process with most, visual tokens are all devices'
    weight: np.float32  # of all samples of the step
    rows: int  # of a micro-batch, over all processes, as what follows
    tokens: int  # without padding
    samples: int
    patches: int

    @property
    def count(self) -> int:
        """Micro-batches in use. The rest is padding and is never computed."""
        return int(self.local.count)

    @property
    def several(self) -> bool:
        """Whether it has room for more than one micro-batch, so that gradients are summed."""
        return len(self.local.targets_MBT) > 1

    @property
    def positions(self) -> int:
        """What a step computes, padding included."""
        return self.count * self.rows * int(self.local.targets_MBT.shape[-1])

    def micro(self, m: int) -> PackedBatch:
        """Micro-batch m: the same fields without their leading axis."""
        return jax.tree.map(lambda x: x[m], self.local.replace(count=None, left_out=None))

    def with_reference(self, logp_MBT: np.ndarray) -> StepBatch:
        """The same with log-probs of this process's tokens, float32 [M, B, T], under a reference policy."""
        return replace(self, local=self.local.replace(reference_logp_MBT=logp_MBT))


def step_batch(batch: PackedBatch | StepBatch) -> StepBatch:
    """The step of a process that trains alone. What is one already stays as it is."""
    if isinstance(batch, StepBatch):
        return batch
    weight, *counts = measures(batch)
    return StepBatch(batch, np.float32(weight), batch.targets_MBT.shape[1], *counts)


def measures(batch: PackedBatch) -> tuple[float, int, int, int]:
    """(weight, tokens, samples, patches) of a process's part of a step."""
    weight = np.sum(np.asarray(batch.weight_MBT), dtype=np.float64) + float(batch.left_out)
    segments, vision = np.asarray(batch.inputs.segment_BT), batch.inputs.vision
    patches = 0 if vision is None else int((np.asarray(vision.segment_RL) > 0).sum())
    return float(weight), int((segments > 0).sum()), int(segments.max(-1).sum()), patches


def abstract_micro(batch: PackedBatch) -> PackedBatch:
    """A micro-batch as shapes, of a batch as shapes."""

    def one(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)

    return jax.tree.map(one, batch.replace(count=None, left_out=None))
