"""What the learner does, as settings: optimiser, losses, precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS

Weighting = Literal["sequence-mean", "token-mean", "constant-length"]


@dataclass(frozen=True)
class OptimizerConfig:
    """Defaults are the paper's SFT (see `configs.recipes` for RL)."""

    learning_rate: float = 1e-4
    """Peak learning rate of Adam."""
    muon_learning_rate: float | None = None
    """Learning rate of Muon for the layers' matrices; weight decay then applies to them alone, and Adam trains the
    rest. Without one, Adam trains everything."""
    final_learning_rate: float = 1e-5
    """Learning rate at the end of a cosine; a constant schedule does not use it."""
    schedule: str = "cosine"
    """Course of the learning rate after the warm-up: cosine, constant, the name of an optax schedule like
    linear_schedule, or your own as module:object."""
    schedule_options: tuple[str, ...] = ()
    """Options of an optax schedule, like power=2; they take precedence over the settings."""
    name: str = "adamw"
    """The optimiser: adamw as the paper trains, the name of an optax optimiser like lion, or your own as module:object.
    Gradients are clipped before any of them; an optax optimiser gets those of these settings that it has a parameter
    for."""
    options: tuple[str, ...] = ()
    """Options of an optax optimiser, like b2=0.99; they take precedence over the settings."""
    warmup_steps: int = 0
    """Number of steps over which the learning rate rises to its peak."""
    total_steps: int = 1000
    """Number of the step at which the schedule ends."""
    b1: float = 0.9
    """Decay of Adam's first moment."""
    b2: float = 0.95
    """Decay of Adam's second moment."""
    eps: float = 1e-8
    """Number that Adam adds to the root of the second moment."""
    weight_decay: float = 0.1
    """Decoupled weight decay of matrices; vectors do not decay."""
    clip_norm: float = 1.0
    """Global norm that gradients are clipped to."""
    first_moment_dtype: str = "float32"
    """Type of the first moment: bfloat16 halves its memory. The second moment stays float32."""
    moments_on_host: bool = False
    """Keep the moments in the host's pinned memory, and on the device only for the update, when activations are gone.
    It needs a mesh."""

    @property
    def is_papers(self) -> bool:
        """Whether optimiser and schedule are those of the paper, and neither optax's by name nor a user's own."""
        return self.name == "adamw" and self.schedule in ("cosine", "constant")


RoutingReplay = Literal["off", "sampler", "trainer"]


@dataclass(frozen=True)
class LearnerConfig:
    """What is trained, and how. The defaults of the RL loss are the paper's."""

    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: Literal["full", "language", "lora"] = "full"
    """What is trained: all weights, all but the vision tower (`language`), or adapters only (`lora`)."""
    remat: Literal["none", "dots", "attention", "full"] = "none"
    """What the backward pass keeps of a layer; `full` keeps least and recomputes most."""
    compute_dtype: str = "float32"
    """Type that weights are cast to for each pass; gradients accumulate in float32."""
    matmuls: Literal["plain", "float8", "int8"] = "plain"
    """Precision of the decoder's matmuls with weights, outside of experts, vision tower and head: that of
    `compute_dtype` (`plain`), 8-bit floating point with a scale for each tensor (`float8`), which an H100, H200 or H20
    computes at twice the rate, or whole numbers of 8 bits with a scale for each token and each output (`int8`), which
    a v5e, v5p or v6e computes at twice the rate; the gradients of weights then stay in `compute_dtype`. Adapters keep
    their precision. Other devices compute the rounded values no faster."""
    router_balance: Literal["micro-batch", "step"] = "micro-batch"
    """What the router's load-balancing loss is taken over in SFT of a mixture of experts. With `micro-batch`, the
    gradient depends a little on how a step is split. With `step`, the loss is taken over the whole step, as in arXiv
    2501.11873, and the split does not matter; with several micro-batches this costs one more forward pass to count the
    loads."""
    temperature: float = 0.8
    """Temperature that logits are divided by in RL: that of sampling, and of the teacher."""
    loss: str = "clipped"
    """Policy loss of RL: clipped (the paper's: PPO's clip, clip-higher, dual clip), gspo, cispo, or module:object or
    file.py:object, a function of `learner.token_loss.LossTokens`."""
    clip_low: float = 0.2
    """The clipped loss clips the probability ratio below 1 minus this."""
    clip_high: float = 0.28
    """The clipped loss clips the probability ratio above 1 plus this."""
    dual_clip: float | None = 3.0
    """Bound on the loss of a token with a negative advantage, as a multiple of the advantage; none sets no bound."""
    gspo_clip: tuple[float, float] = (3e-4, 4e-4)
    """The gspo loss clips a sequence's ratio below 1 minus the first number and above 1 plus the second."""
    cispo_clip: tuple[float, float] = (1.0, 4.0)
    """The cispo loss clips a token's weight below 1 minus the first number and above 1 plus the second."""
    reduction: Weighting = "sequence-mean"
    """How the RL loss is summed up: each rollout weighs the same (`sequence-mean`, the paper's), each token weighs the
    same (`token-mean`), or each token weighs 1 / longest row, so that a long answer pays for its length
    (`constant-length`, Dr. GRPO's)."""
    kl: Literal["none", "k1", "k2", "k3"] = "none"
    """Estimator of an RL penalty on the distance from the policy that the run began with, on the sampled tokens. With
    adapters that policy is the model without them, so no second model is kept; otherwise its weights are kept twice."""
    kl_coef: float = 0.001
    """Weight of the KL penalty per nat."""
    tis_cap: float = 2.0
    """Upper bound of the truncated importance weight between the learner's and the sampler's log-probs; 0 leaves the
    weight out."""
    tis_against: Literal["full", "truncated"] = "full"
    """What the importance weight corrects: the sampler's numerics only (`full`), or also the mass that top-p cut off
    (`truncated`)."""
    routing_replay: RoutingReplay = "off"
    """Whose choice of experts a training pass takes. It follows from --settings.routing-replay."""
    opd: Literal["advantage", "reverse-kl"] = "advantage"
    """Form of distillation: a term of the advantage, or a loss over the whole vocabulary (`reverse-kl`), which needs
    the teacher's weights here."""
    opd_coef: float = 0.05
    """Weight of distillation on failed rollouts."""


@dataclass(frozen=True)
class PackConfig:
    """Shapes. Each distinct (row length, vision) pair compiles one program, and a single micro-batch another one."""

    # Tokens of a row. Of those lengths that hold the longest sample, the one with which a step computes the fewest
    # positions is used. The first is the longest that a sample may be.
    row_lengths: tuple[int, ...] = (1024,)
    row_length: int | None = None  # the one of them that is taken; None = chosen for each batch
    rows: int = 2  # B: rows a micro-batch, over all devices
    micro_batches: int | None = None  # M: capacity; None = what is needed
    vision: tuple[int, int] | None = None  # (rows, patches a row) of a micro-batch; None = buckets
    # (micro-batches, rows, patches a row): no capacity is smaller, so that batches of about a size share one program.
    # Of micro-batches two are enough for that. Those that are not in use take a little of the host's memory.
    at_least: tuple[int, int, int] = (1, 0, 0)
    shards: int = 1  # parts of a micro-batch that devices take: the images of a part's rows are in the same part
    # Over the whole step, all micro-batches and processes: each sample weighs alike, however many tokens it trains on,
    # or each trained token does; "constant-length": a token weighs 1 / (first of `row_lengths`), summed over a sample
    # and averaged over samples.
    weighting: Weighting = "sequence-mean"
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS  # the paper's 1,200 visual tokens an image
    # Layers and experts a token of the choices that a batch brings along to be replayed; None = none.
    routes: tuple[int, int] | None = None
    # Of patches, the bulk of a batch. "bfloat16" changes nothing where the learner computes in it, and halves them;
    # "uint8" is half of that again: they are normalised on the device.
    patch_dtype: Literal["float32", "bfloat16", "uint8"] = "float32"
