"""Every hyper-parameter of the paper's four trainings, and of the miniature.

Source: arXiv 2605.07177 and the authors' published launch scripts, where they differ the paper; a comment marks values
that neither states. The 235B policy is trained with TRACE alone and then serves as the frozen teacher of the 30B.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from hypereyes_jax.configs.images import MIN_PIXELS, PIXELS_A_TOKEN
from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA on every linear map of the decoder, experts included; the vision tower stays frozen."""

    rank: int = 8
    alpha: float = 32.0
    dropout: float = 0.05


@dataclass(frozen=True)
class RolloutConfig:
    """How episodes are sampled."""

    prompts: int = 32  # questions a step
    group: int = 8  # rollouts a question
    temperature: float = 0.8
    top_p: float = 0.95
    eval_top_p: float = 0.7  # with the training temperature
    prompt_tokens: int = 15_000  # longer prompts are filtered out
    turn_tokens: int = 1_524
    turns: int = 9
    rounds: int = 8  # the last turn is for the answer
    slots: int = 64  # requests running at once
    # That share one sampler's weights, of one host or of several; 0 = as many of a host's as KV heads divide among.
    replica_devices: int = 0


@dataclass(frozen=True)
class Recipe:
    """One training run. Lengths are in tokens after image tokens are expanded."""

    name: str
    stage: Literal["sft", "rl"]
    model: str  # key of `configs.model.PRESETS`, or a folder of `assets`
    learner: LearnerConfig
    samples: int  # size of the data set
    batch: int  # trajectories an optimiser step
    steps: int
    context: int  # longest trajectory that is trained on
    # Weights that train are kept in float32 (at 1e-6, bfloat16 would round every update away), frozen ones in bfloat16.
    lora: AdapterConfig | None = None
    rollout: RolloutConfig | None = None
    distill: bool = False  # OPD from the teacher on failed rollouts
    image_tokens: int = 1_200  # cap of one image
    min_pixels: int = MIN_PIXELS  # an image is resized to an area between this and its cap
    shard_rows: int = 1  # rows of a micro-batch that a data shard takes
    row_samples: int = 1  # trajectories that share a row, about
    row_images: int = 12  # images a row is planned for; the paper allows 50 a rollout, most of them small crops
    checkpoint_every: int = 100  # steps, beside one every ten minutes; the authors' 1,000 are more than a run has
    keep_checkpoints: int = 8
    eval_every: int = 1_000  # steps
    seed: int = 42

    @property
    def max_pixels(self) -> int:
        """Area that a larger image is resized to: a visual token stands for 32 x 32 pixels."""
        return self.image_tokens * PIXELS_A_TOKEN


_SFT = LearnerConfig(
    optimizer=OptimizerConfig(
        learning_rate=1e-4, final_learning_rate=1e-5, schedule="cosine", warmup_steps=23, total_steps=469,
        b1=0.9, b2=0.95, eps=1e-8, weight_decay=0.1, clip_norm=1.0,
    ),
    train="lora",
    remat="full",
    compute_dtype="bfloat16",
)  # fmt: skip

_RL = LearnerConfig(
    optimizer=OptimizerConfig(
        learning_rate=1e-6, schedule="constant", warmup_steps=0, total_steps=400,
        b1=0.9, b2=0.98, eps=1e-8, weight_decay=0.1, clip_norm=1.0, 
    ),
    train="full",  # the published script leaves the line that would freeze the vision tower commented out
    remat="attention",  # where it fits, see `FULL_REMAT`
    compute_dtype="bfloat16",
)  # fmt: skip

HYPEREYES_30B_SFT = Recipe(
    name="hypereyes_30b_sft",
    stage="sft",
    model="30b-a3b",
    learner=_SFT,
    samples=30_000,
    batch=64,
    steps=469,  # one epoch; the warm-up is 5 % of it
    context=32_000,
    lora=AdapterConfig(),
)
HYPEREYES_30B_RL = Recipe(
    name="hypereyes_30b_rl",
    stage="rl",
    model="30b-a3b",
    learner=_RL,
    samples=6_056,
    batch=256,
    steps=400,  # 2.11 epochs of 6,056 questions, 32 a step
    context=38_912,  # 15,000 + 9 x 1,524, and as much again for observations as the evaluation's 38 K leaves
    rollout=RolloutConfig(),
    distill=True,
    checkpoint_every=20,
    eval_every=20,
)
# RL of the miniature, which `hypereyes rl` takes its defaults from; the rules of its episodes are in `miniature`.
MINIATURE_ROLLOUT = RolloutConfig(prompts=16, prompt_tokens=1_024, turn_tokens=256)
MINIATURE = Recipe(
    name="miniature",
    stage="rl",
    model="base",
    learner=LearnerConfig(
        optimizer=OptimizerConfig(learning_rate=3e-4, schedule="constant", b1=0.9, b2=0.98), train="language"
    ),
    samples=600,
    batch=128,
    steps=12,
    context=1_024,
    rollout=MINIATURE_ROLLOUT,
    distill=True,
    image_tokens=48,
    min_pixels=32 * 32,
    shard_rows=2,  # a step's last micro-batch is padding in part, of which two rows are little
    row_samples=2,  # an episode takes up to half a row
    row_images=3,
    checkpoint_every=3,
    keep_checkpoints=2,
    seed=0,
)


def _sized(model: str) -> tuple[Recipe, ...]:
    """The paper's method on a dense model that the paper does not train; a comment marks what is not the paper's.

    SFT trains adapters and RL all weights, as in the paper; `_full` and `_lora` are the other way round.
    """
    sft = replace(HYPEREYES_30B_SFT, name=f"hypereyes_{model}_sft", model=model)
    rl = replace(
        HYPEREYES_30B_RL,
        name=f"hypereyes_{model}_rl",
        model=model,
        learner=replace(_RL, remat="full"),  # what fits one card; `hypereyes plan` tells where more may be kept
        distill=False,  # the teacher is one's own
    )
    return sft, full_weights(sft), rl, adapters_only(rl)


def _decimal(rate: float) -> float:
    """The rate as one would write it: 10 * 1e-6 is 9.999999999999999e-06, which settings files would show."""
    return float(f"{rate:.12g}")


def full_weights(recipe: Recipe) -> Recipe:
    """A recipe of SFT that trains all weights, at a tenth of the learning rate of adapters."""
    optimizer = recipe.learner.optimizer
    slower = replace(
        optimizer,
        learning_rate=_decimal(optimizer.learning_rate / 10),
        final_learning_rate=_decimal(optimizer.final_learning_rate / 10),
    )
    learner = replace(recipe.learner, train="full", optimizer=slower)
    return replace(recipe, name=f"{recipe.name}_full", learner=learner, lora=None)


def adapters_only(recipe: Recipe) -> Recipe:
    """A recipe of RL that trains adapters, at ten times the learning rate of all weights, without decay of them."""
    optimizer = recipe.learner.optimizer
    faster = replace(optimizer, learning_rate=_decimal(10 * optimizer.learning_rate), weight_decay=0.0)
    learner = replace(recipe.learner, train="lora", optimizer=faster, remat="full")
    # no dropout: it would make the trainer's policy another one than the sampler's
    return replace(recipe, name=f"{recipe.name}_lora", learner=learner, lora=AdapterConfig(dropout=0.0))


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        MINIATURE,
        *(recipe for model in ("2b", "4b", "8b", "32b") for recipe in _sized(model)),
        full_weights(HYPEREYES_30B_SFT),
        adapters_only(HYPEREYES_30B_RL),
        HYPEREYES_30B_SFT,
        HYPEREYES_30B_RL,
        replace(HYPEREYES_30B_SFT, name="hypereyes_235b_sft", model="235b-a22b", eval_every=600),
        # The 235B's batch, learning rate and trained part are not stated: those of the 30B.
        replace(
            HYPEREYES_30B_RL,
            name="hypereyes_235b_rl",
            model="235b-a22b",
            samples=9_337,
            distill=False,
            rollout=RolloutConfig(replica_devices=8),  # 55 GiB of bfloat16 weights each
        ),
    )
}


# Recipe and mesh: where what attention gives does not fit beside the rest (a value for each token, layer, head and
# dimension of it), so that the backward pass computes it again. By `hypereyes plan`.
FULL_REMAT = frozenset(
    {
        ("hypereyes_30b_rl", "v6e_64"),
        ("hypereyes_235b_rl", "v5p_256"),
        ("hypereyes_235b_rl", "v6e_256"),
    }
)

# Recipe and mesh: where the optimiser's moments do not fit beside the rest, and wait in the hosts' memory.
MOMENTS_ON_HOST = frozenset({("hypereyes_235b_rl", "v6e_256")})

# Recipe and mesh: further lengths of rows, longer than a trajectory may be, that fit there. Trajectories of 10,000
# tokens on average fill one such row a data shard, or two half empty ones of the usual length. By `hypereyes plan`.
LONGER_ROWS = {("hypereyes_30b_rl", mesh): (45_056, 57_344) for mesh in ("h20_8x8", "h100_8x8", "h200_8x8")}


@dataclass(frozen=True)
class EngineSizes:
    """Sizes of rollout engines, where those of the recipe do not fit: fields of `train.sizes.TrainingSizes`."""

    replica_devices: int
    slots: int
    extend_rows: tuple[int, ...] = (1, 4)
    cache_tokens: int = 0


# By recipe and mesh: see docs/plan.md. A replica shares out its slots over the parts that its experts are cut into: the
# 235B's here have 2, 4 and 16.
ENGINE_SIZES = {
    ("hypereyes_2b_rl", "gpu_141g"): EngineSizes(1, 64, (1, 4), 640_000),
    ("hypereyes_2b_rl_lora", "gpu"): EngineSizes(1, 62, (1,), 620_032),
    ("hypereyes_2b_rl_lora", "gpu_24g"): EngineSizes(1, 13, (1,), 130_048),
    ("hypereyes_2b_rl_lora", "v5e_8"): EngineSizes(4, 25, (1, 4), 250_048),
    ("hypereyes_4b_rl_lora", "gpu"): EngineSizes(1, 41, (1,), 410_048),
    ("hypereyes_8b_rl_lora", "gpu"): EngineSizes(1, 30, (1,), 300_032),
    ("hypereyes_8b_rl_lora", "gpu_141g"): EngineSizes(1, 64, (1, 4), 640_000),
    ("hypereyes_8b_rl_lora", "v6e_8"): EngineSizes(4, 32, (1, 4), 320_000),
    ("hypereyes_8b_rl", "v5p_8"): EngineSizes(4, 64, (1, 4), 640_000),
    ("hypereyes_30b_rl", "v6e_64"): EngineSizes(4, 16, (1, 4), 160_000),
    ("hypereyes_235b_rl", "h20_8x8_paper"): EngineSizes(8, 16, (1,)),
    ("hypereyes_235b_rl", "v5p_256"): EngineSizes(16, 16),
    ("hypereyes_235b_rl", "v6e_256"): EngineSizes(32, 32, (1, 4), 320_000),
}
