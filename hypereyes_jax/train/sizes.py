"""How large a training is: lengths, images, precision, slots. The miniature has its own, and so has each paper recipe.

What a person tunes from run to run (steps, batch, learning rate) is in the settings of `sft` and `rl`; what follows
from the model and the paper's episodes is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from hypereyes_jax import miniature
from hypereyes_jax.configs.images import PIXELS_A_TOKEN
from hypereyes_jax.configs.recipes import (
    ENGINE_SIZES,
    FULL_REMAT,
    LONGER_ROWS,
    MINIATURE,
    MOMENTS_ON_HOST,
    RECIPES,
    Recipe,
)
from hypereyes_jax.configs.rollout import EngineConfig, KVKind, SamplingConfig
from hypereyes_jax.configs.training import LearnerConfig, PackConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.processing.lengths import episode_tokens
from hypereyes_jax.processing.types import Chunk

# Rows of such lengths are worth programs of their own, which take minutes to compile at the paper's size.
_LONG = 8_192
_SHORTER = (5 / 8, 27 / 32)  # of the longest trajectory's length


@dataclass(frozen=True)
class TrainingSizes:
    """Sizes that a training's programs are compiled for, and the rules of its episodes."""

    learner: LearnerConfig
    """What trains, how, and in which precision. The learning rate, the ends of the schedule and `opd_coef` follow from
    the settings."""
    context: int
    """Number of tokens of the longest trajectory, and of a slot; visual tokens count one by one."""
    shard_rows: int
    """Number of rows of a micro-batch that one data shard takes."""
    row_samples: int
    """Approximate number of trajectories that share a row; it decides how many micro-batches a step is compiled for."""
    row_images: int
    """Number of images of the largest size that a row has room for; a step with more needs a larger program."""
    min_pixels: int
    """Smallest area that an image is resized to."""
    max_pixels: int
    """Largest area that an image is resized to."""
    slots: int
    """Number of slots in one rollout engine: rollouts that it works on at once."""
    prompt_tokens: int
    """Number of tokens of the longest prompt; questions with longer ones are left out."""
    turn_tokens: int
    """Largest number of tokens sampled in one turn."""
    top_p: float = 0.95
    """Top-p (nucleus) of sampling in rollouts; the temperature is the learner's."""
    eval_top_p: float = 0.7
    """Top-p (nucleus) of sampling in evaluation, at the same temperature."""
    row_choices: tuple[int, ...] | None = None
    """Lengths that a training row may have beside that of the longest trajectory. Each step takes the one with which
    it computes the fewest positions over all processes, and each length in use compiles a program. None: two shorter
    ones where rows are long (8,192 tokens and more), and two longer ones on meshes that are known to hold them."""
    balance: bool = True
    """Whether processes pack each other's samples where that makes a step shorter. They send these to each other over
    TCP, at ports of the system's choice."""
    cache_tokens: int = 0
    """Number of tokens that the caches of an engine's rollouts hold together; 0 lets each slot grow to the longest
    trajectory. With fewer, more slots fit a device, since few rollouts are that long; one for which there is no room
    waits until others end, and goes on where it was."""
    offload_gib: float | None = None
    """GiB of each process's host memory for the caches of rollouts that had to make room for others; beyond it they are
    read again. Without it, a quarter of what is free when the engines begin, shared with the run's other processes on
    that host."""
    view_lengths: tuple[int, ...] = ()
    """Lengths of the cache views that a decode call may attend to; without any, a quarter of a slot, a half, and all of
    it."""
    replica_devices: int = 0
    """Number of devices that share one rollout engine's weights, on one host or on several whole hosts; 0 takes as many
    of a host's devices as the KV heads divide among. `hypereyes plan` says how many are needed."""
    extend_rows: tuple[int, ...] = (1, 4)
    """Allowed numbers of slots into which one call reads given tokens; smaller ones take less memory."""
    kv: Literal["compute", "int8"] = "compute"
    """How rollouts keep keys and values: in the learner's precision, or as int8 with a scale for each vector, which
    takes about half of bfloat16's memory. The gap that int8 makes between sampler and learner is part of the metric
    `sampler_gap`, and --sizes.learner.tis-cap bounds its weight."""
    sampler_weights: Literal["compute", "int8"] = "compute"
    """How rollout engines keep the decoder's linear maps: in the learner's precision, or as int8 with a scale for each
    output, which halves the bytes read for a token. Its gap is part of `sampler_gap`, too."""
    draft_tokens: int = 0
    """Number of guesses (up to 7) that a decode step verifies behind each rollout's last token, copied from what was
    written before. Tokens stay the same; a step of few rollouts takes about as long and samples more of them."""
    keep_checkpoints: int = 2
    """Number of checkpoints that are kept, counted from the newest."""
    episode: EpisodeConfig = field(default_factory=EpisodeConfig)

    def engine(self) -> EngineConfig:
        return EngineConfig(
            slots=self.slots,
            context=self.context,
            cache_tokens=self.cache_tokens,
            offload_gib=self.offload_gib,
            kv=self._kept_as(),
            weights="int8" if self.sampler_weights == "int8" else "given",
            draft_tokens=self.draft_tokens,
            extend_rows=self.extend_rows,
            view_lengths=tuple(length for length in self.view_lengths if length < self.context),
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            max_prompt_tokens=self.prompt_tokens,
            max_images=self.episode.max_images,
        )

    def _kept_as(self) -> KVKind:
        if self.kv == "int8":
            return "int8"
        return "bfloat16" if self.learner.compute_dtype == "bfloat16" else "float32"

    def sampling(self, evaluation: bool = False) -> SamplingConfig:
        return SamplingConfig(
            temperature=self.learner.temperature,
            top_p=self.eval_top_p if evaluation else self.top_p,
            max_new_tokens=self.turn_tokens,
        )

    @property
    def row_lengths(self) -> tuple[int, ...]:
        """Lengths that a training row may have; the first is that of the longest trajectory."""
        choices = self.row_choices
        if choices is None:
            shorter = tuple(1024 * round(share * self.context / 1024) for share in _SHORTER)
            choices = shorter if self.context >= _LONG else ()
        return (self.context, *choices)

    def pack(self, samples: int, shards: int = 1) -> PackConfig:
        """Rows for about so many samples of a process that feeds so many data shards: most steps have one shape."""
        rows = self.shard_rows * shards
        patches = 4 * self.max_pixels // PIXELS_A_TOKEN
        several = samples // (rows * self.row_samples) > 1
        room = (2 if several else 1, rows * self.row_images, patches)
        return PackConfig(
            row_lengths=self.row_lengths,
            rows=rows,
            shards=shards,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            at_least=room,
            patch_dtype="uint8" if self.learner.compute_dtype == "bfloat16" else "float32",
        )

    def weights_dtype(self) -> str:
        """The type that a checkpoint's weights are held in.

        Those that train are kept in float32, since a small step would be rounded away; frozen ones as they are computed
        with.
        """
        return self.learner.compute_dtype if self.learner.train == "lora" else "float32"

    def tokens(self, chunks: Sequence[Chunk]) -> int:
        """Length of a trajectory or a part of one, visual tokens counted one by one."""
        return episode_tokens(chunks, self.min_pixels, self.max_pixels)


def sizes_of(recipe: Recipe) -> TrainingSizes:
    """What a recipe asks for."""
    rollout = recipe.rollout
    return TrainingSizes(
        learner=recipe.learner,
        context=recipe.context,
        shard_rows=recipe.shard_rows,
        row_samples=recipe.row_samples,
        row_images=recipe.row_images,
        min_pixels=recipe.min_pixels,
        max_pixels=recipe.max_pixels,
        slots=rollout.slots if rollout else 1,
        prompt_tokens=rollout.prompt_tokens if rollout else recipe.context,
        turn_tokens=rollout.turn_tokens if rollout else recipe.context,
        top_p=rollout.top_p if rollout else 1.0,
        eval_top_p=rollout.eval_top_p if rollout else 1.0,
        replica_devices=rollout.replica_devices if rollout else 0,
        keep_checkpoints=recipe.keep_checkpoints,
        episode=EpisodeConfig(max_turns=rollout.turns, max_rounds=rollout.rounds) if rollout else EpisodeConfig(),
    )


MINIATURE_RL = replace(
    sizes_of(MINIATURE),
    view_lengths=miniature.VIEW_LENGTHS,
    episode=miniature.EPISODE,
)
MINIATURE_SFT = replace(MINIATURE_RL, learner=LearnerConfig(train="lora"))


def sized_for(sizes: TrainingSizes, recipe: str, mesh: str) -> TrainingSizes:
    """These sizes with the engines and the recomputation known to fit on a mesh, unless others were chosen."""
    if recipe not in RECIPES:
        return sizes
    default = sizes_of(RECIPES[recipe])
    sizes = with_longer_rows(with_moments_that_fit(sizes, recipe, mesh), recipe, mesh)
    if (recipe, mesh) in FULL_REMAT and sizes.learner.remat == default.learner.remat:
        sizes = replace(sizes, learner=replace(sizes.learner, remat="full"))
    if (recipe, mesh) not in ENGINE_SIZES:
        return sizes
    preset = asdict(ENGINE_SIZES[recipe, mesh])
    differs = any(getattr(sizes, name) != getattr(default, name) for name in preset)
    return sizes if differs else replace(sizes, **preset)


def with_moments_that_fit(sizes: TrainingSizes, recipe: str, mesh: str) -> TrainingSizes:
    """These sizes with the moments in the hosts' memory, on a mesh whose devices are known to have no room for them."""
    if (recipe, mesh) not in MOMENTS_ON_HOST:
        return sizes
    optimizer = replace(sizes.learner.optimizer, moments_on_host=True)
    return replace(sizes, learner=replace(sizes.learner, optimizer=optimizer))


def with_longer_rows(sizes: TrainingSizes, recipe: str, mesh: str) -> TrainingSizes:
    """These sizes with the longer rows that are known to fit on a mesh, unless other lengths were chosen."""
    if (recipe, mesh) not in LONGER_ROWS or sizes.row_choices is not None or sizes.context != RECIPES[recipe].context:
        return sizes
    return replace(sizes, row_choices=(*sizes.row_lengths[1:], *LONGER_ROWS[recipe, mesh]))


def known_recipe(name: str, stage: str) -> Recipe:
    """Raises UserError if there is no recipe of this name for the stage, "sft" or "rl"."""
    names = ["miniature", *(each.name for each in RECIPES.values() if each.stage == stage and each is not MINIATURE)]
    if name not in names:
        raise UserError(f"there is no recipe {name!r} for {stage}. Known: {', '.join(names)}")
    return RECIPES[name]
