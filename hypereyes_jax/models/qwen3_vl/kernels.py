"""Which implementation runs the parts that differ by platform. Chosen by an argument, never by the default backend."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hypereyes_jax.models.qwen3_vl.moe import MoeImpl

LinearImpl = Literal["plain", "float8", "int8"]
AttentionImpl = Literal["xla", "flash", "triton", "splash", "cudnn"]
SlotsImpl = Literal["view", "in_place", "paged"]


# Layers that a CPU takes one after another rather than in a scan, which costs compilation: of a decode step, whose
# copies by layer are small, and of a training pass, which is the larger program.
_FEW_SAMPLED = 16
_FEW_TRAINED = 8


@dataclass(frozen=True)
class Kernels:
    """A static argument of every program.

    attention: "xla" runs anywhere (and is tuned for a CPU when lowered for one) in memory that grows with the square of
    the length, "flash" anywhere in memory linear in it, "triton" are kernels for GPUs, "splash" is the Pallas kernel
    for TPUs, "cudnn" NVIDIA's fused attention (16-bit types only; its mask takes the square of the length).
    moe: see `moe.mixture`.
    unrolled: layers come one after another instead of in a scan, see `text.decode_layers`; each is then compiled for
    itself.
    slots: how those programs reach keys and values, see `rollout.cache.access`; "in_place" are Triton
    kernels, "paged" are kernels for TPUs (a view where a head is not a multiple of 128 values).
    known_trip_count: no loop ends when the device finds that it may, and nothing is left out by a branch: XLA's GPU
    runtime stops for the host at each.
    linear: the decoder's linear maps outside of experts; "float8" and "int8" round their factors to 8 bits
      (`models.float8`, `models.int8`).
    record_experts: the engine's programs give back the experts of a mixture that they sent tokens to.
    """

    attention: AttentionImpl = "xla"
    moe: MoeImpl = "ragged"
    unrolled: bool = False
    slots: SlotsImpl = "view"
    known_trip_count: bool = False
    linear: LinearImpl = "plain"
    record_experts: bool = False

    @classmethod
    def for_platform(cls, platform: str) -> Kernels:
        """The best known for a platform as `mesh.devices.flat[0].platform` names it.

        Raises ValueError for a platform other than cpu, tpu, gpu, cuda and rocm.
        """
        match platform:
            case "cpu":
                return cls()
            case "tpu":
                return cls(attention="splash", moe="blocks")
            case "gpu" | "cuda" | "rocm":
                # cuDNN takes more memory for packed rows (docs/model.md). jax.lax.ragged_dot lowers to a dense, masked
                # form on GPUs since jax 0.9.
                return cls(attention="triton", moe="grouped", known_trip_count=True)
        raise ValueError(f"no kernels are known for platform {platform!r} (expected cpu, tpu, gpu, cuda or rocm)")

    @classmethod
    def for_training(cls, platform: str, layers: int) -> Kernels:
        """The best known for whole rows, forward and backward, through that many decoder layers.

        Raises as `for_platform`.
        """
        # On a CPU a scan fills the stacks of what its backward pass needs with zeros first, writes them, and reads
        # them (`benchmarks/training_pass.py`).
        return replace(cls.for_platform(platform), unrolled=platform == "cpu" and layers <= _FEW_TRAINED)

    @classmethod
    def for_sampling(cls, platform: str, layers: int) -> Kernels:
        """The best known for a few tokens a step through that many decoder layers. Raises as `for_platform`."""
        best = cls.for_platform(platform)
        # A decode step gives an expert a handful of tokens: one grouped matmul instead of a loop over experts.
        if platform == "tpu":
            return replace(best, moe="ragged", slots="paged")
        if platform == "cpu":
            return replace(best, unrolled=layers <= _FEW_SAMPLED)
        return replace(best, unrolled=True, slots="in_place")
