"""What the learner does, as settings: optimiser, losses, precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS


@dataclass(frozen=True)
class OptimizerConfig:
    """Defaults are the paper's SFT (see `configs.recipes` for RL)."""

    learning_rate: float = 1e-4
    # Muon's, for the layers' matrices, which alone decay then; the rest is trained by Adam. None = Adam for all.
    muon_learning_rate: float | None = None
    final_learning_rate: float = 1e-5  # of the cosine; unused when constant
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: int = 0
    total_steps: int = 1000  # where the cosine ends
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    first_moment_dtype: str = "float32"  # "bfloat16" halves it; the second moment stays float32
    # Moments rest in the host's pinned memory and are on the device for the update alone, when activations are gone.
    # On a mesh only.
    moments_on_host: bool = False


@dataclass(frozen=True)
class LearnerConfig:
    """What is trained, and how. The defaults of the RL loss are the paper's."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: Literal["full", "language", "lora"] = "full"  # all; all but the vision tower; adapters only
    remat: Literal["none", "dots", "attention", "full"] = "none"  # what the backward pass keeps of a layer
    compute_dtype: str = "float32"  # weights are cast to it for each pass; gradients accumulate in float32
    # SFT of a mixture of experts: what the router's load-balancing loss is taken over. "micro-batch": each in itself,
    # so the gradient depends a little on how a step is split. "step": all of them together, as in arXiv 2501.11873, and
    # the split does not matter; with several micro-batches it costs one more forward pass, which counts the loads.
    router_balance: Literal["micro-batch", "step"] = "micro-batch"
    temperature: float = 0.8  # RL: logits are divided by it, as in sampling; the teacher's too
    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 3.0
    tis_cap: float = 2.0  # bound on the importance weight of the sampler against the trainer; 0 = no weight
    # "full": the weight corrects the sampler's numerics only. "truncated": also the mass that top-p cut off.
    tis_against: Literal["full", "truncated"] = "full"
    opd: Literal["advantage", "reverse-kl"] = "advantage"  # reverse-kl: a vocabulary-wide loss, needs teacher weights
    opd_coef: float = 0.05


Weighting = Literal["sequence-mean", "token-mean"]


@dataclass(frozen=True)
class PackConfig:
    """Shapes. Each distinct (row tokens, micro-batches, vision) triple compiles one program."""

    # Of those that hold the longest sample, the one with which a step computes the fewest positions is used.
    row_tokens: tuple[int, ...] = (1024,)
    rows: int = 2  # B: rows a micro-batch, over all devices
    micro_batches: int | None = None  # M: capacity; None = what is needed, rounded up to a bucket
    vision: tuple[int, int] | None = None  # (rows, patches a row) of a micro-batch; None = buckets
    # (micro-batches, rows, patches a row): no bucket is smaller, so that batches of about a size share one program.
    # Micro-batches that are not in use cost memory only.
    at_least: tuple[int, int, int] = (1, 0, 0)
    shards: int = 1  # parts of a micro-batch that devices take: the images of a part's rows are in the same part
    # Over the whole step, all micro-batches and processes: each sample weighs alike, however many tokens it trains on,
    # or each trained token does.
    weighting: Weighting = "sequence-mean"
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS  # the paper's 1,200 visual tokens an image
    # Of patches, the bulk of a batch. "bfloat16" changes nothing where the learner computes in it, and halves them.
    patch_dtype: Literal["float32", "bfloat16"] = "float32"
