"""Trajectories of any length become packed, padded arrays of a few fixed shapes. Host work, numpy only.

Several trajectories share a row (attention stays inside each, see `ModelInputs.segment_BT`), rows make micro-batches,
and the micro-batches of one optimiser step are stacked on a leading axis: M micro-batches, B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.processing import MAX_PIXELS, MIN_PIXELS, PatchedImage, bucket, expand, patchify, vision_inputs
from hypereyes_jax.processing.types import Chunk, ContextChunk, ModelInputs, SampledChunk, VisionInputs
from hypereyes_jax.processing.vision import place


@dataclass(frozen=True)
class TrainingSample:
    """A trajectory and what the learner is to make of it. SFT uses the defaults."""

    chunks: tuple[Chunk, ...]
    advantage: float = 0.0
    failed: bool = False  # wrong answer or format failure: distillation applies
    weight: float = 1.0  # its share of the loss beside the others; 0 masks it (the world failed, not the policy)
    teacher_logp: np.ndarray | None = None  # float32 [sampled tokens], from a teacher outside this mesh


@dataclass(frozen=True)
class PackConfig:
    """Shapes. Each distinct (row tokens, micro-batches, vision) triple compiles one program."""

    row_tokens: tuple[int, ...] = (1024,)  # the smallest that holds the longest sample is used
    rows: int = 2  # B: rows a micro-batch, over all devices
    micro_batches: int | None = None  # M: capacity; None = what is needed, rounded up to a bucket
    vision: tuple[int, int] | None = None  # (rows, patches a row) of a micro-batch; None = buckets
    weighting: Literal["sequence-mean", "token-mean"] = "sequence-mean"
    min_pixels: int = MIN_PIXELS
    max_pixels: int = MAX_PIXELS  # the paper's 1,200 visual tokens an image


class PackedBatch(NamedTuple):
    """One optimiser step's data. Position t holds what concerns the prediction of the token at t + 1.

    Weights are relative: the learner divides by their sum over all micro-batches and processes. Sequence mean gives
    each token 1 / (trained tokens of its sample), so that each sample counts the same however it is packed.
    """

    inputs: ModelInputs  # every leaf with a leading M
    targets_MBT: np.ndarray  # int32
    weight_MBT: np.ndarray  # float32; 0 = not trained on
    advantage_MBT: np.ndarray  # float32
    failed_MBT: np.ndarray  # float32, 1 on the trained tokens of failed samples
    behaviour_logp_MBT: np.ndarray  # float32, the sampler's log-prob over the full vocabulary at its temperature
    sampled_logp_MBT: np.ndarray  # float32, the sampler's log-prob under the truncated distribution it drew from
    sample_MBT: np.ndarray  # int32, which sample a token is of; -1 = padding
    count: np.ndarray  # int32 scalar, micro-batches in use; the rest is padding and is never computed
    old_logp_MBT: np.ndarray | None = None  # float32, under the weights before the first update on this data
    teacher_logp_MBT: np.ndarray | None = None  # float32

    @property
    def mask_MBT(self) -> np.ndarray:
        return self.weight_MBT > 0


class _Row(NamedTuple):
    """A sample laid out as one run of tokens, before it has a place."""

    tokens: np.ndarray  # int32 [n]
    positions: np.ndarray  # int32 [3, n]
    visual: np.ndarray  # int32 [n], index within `images`; -1 = text
    sampled: np.ndarray  # bool [n], the model wrote this token
    behaviour: np.ndarray  # float32 [n]
    truncated: np.ndarray  # float32 [n]
    images: tuple[PatchedImage, ...]


def first_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Bins of indices, each with a total of at most `capacity`. Deterministic: ties keep their order."""
    bins: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if lengths[index] > capacity:
            raise ValueError(
                f"sample {index} has {lengths[index]} tokens, more than a row of {capacity}: use longer rows"
            )
        place = next((b for b, room in enumerate(free) if room >= lengths[index]), None)
        if place is None:
            bins.append([index])
            free.append(capacity - lengths[index])
        else:
            bins[place].append(index)
            free[place] -= lengths[index]
    return bins


def _lay_out(config: Qwen3VLConfig, chunks: Sequence[Chunk], patched: dict[int, PatchedImage]) -> _Row:
    # Chunk by chunk, as the engine placed them: an image token that the model itself sampled stays a text token.
    start, seen = 0, 0
    images: list[PatchedImage] = []
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in chunks:
        if isinstance(chunk, ContextChunk):
            own = [patched[id(image)] for image in chunk.images]
            placed = expand(config, chunk.tokens, own, start=start)
            n = len(placed.tokens_T)
            visual = np.where(placed.visual_index_T >= 0, placed.visual_index_T + seen, -1)
            zeros = np.zeros(n, np.float32)
            parts.append((placed.tokens_T, placed.positions_3T, visual, np.zeros(n, bool), zeros, zeros))
            start = placed.next_position
            seen += int((placed.visual_index_T >= 0).sum())
            images += own
        else:
            n = len(chunk.tokens)
            positions = np.broadcast_to(np.arange(start, start + n), (3, n))
            parts.append(
                (chunk.tokens, positions, np.full(n, -1), np.ones(n, bool), chunk.logp_full, chunk.logp_behaviour)
            )
            start += n
    columns = [np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)]
    return _Row(*columns, images=tuple(images))


def _spread(rows: list[list[int]], patches: list[int], per_batch: int) -> list[list[list[int]]]:
    """Rows to micro-batches of `per_batch` rows, evening out the patches: the fullest row goes where fewest are."""
    count = -(-len(rows) // per_batch)
    groups: list[list[list[int]]] = [[] for _ in range(count)]
    load = [0] * count
    for row in sorted(rows, key=lambda r: -sum(patches[i] for i in r)):
        target = min((g for g in range(count) if len(groups[g]) < per_batch), key=lambda g: load[g])
        groups[target].append(row)
        load[target] += sum(patches[i] for i in row)
    return groups


def pack(config: Qwen3VLConfig, samples: Sequence[TrainingSample], pack_config: PackConfig) -> PackedBatch:
    """Lay out samples for one optimiser step.

    Raises ValueError when a sample is longer than the longest row, has no image for an image token (or the reverse), or
    when a fixed capacity (`micro_batches`, `vision`) is too small; the message names the sample or the size needed.
    """
    if not samples:
        raise ValueError("no samples to pack")
    patched = _patchify_once(config, samples, pack_config)
    laid = [_lay_out(config, sample.chunks, patched) for sample in samples]
    lengths = [len(row.tokens) for row in laid]
    longest = max(lengths)
    length = next((t for t in sorted(pack_config.row_tokens) if t >= longest), None)
    if length is None:
        raise ValueError(
            f"sample {lengths.index(longest)} has {longest} tokens, but the longest row of PackConfig.row_tokens="
            f"{pack_config.row_tokens} is {max(pack_config.row_tokens)}: add a longer row or drop the sample"
        )
    patch_counts = [sum(len(image.patches) for image in row.images) for row in laid]
    groups = _spread(first_fit_decreasing(lengths, length), patch_counts, pack_config.rows)
    capacity = pack_config.micro_batches or bucket(len(groups))
    if len(groups) > capacity:
        raise ValueError(f"these samples need {len(groups)} micro-batches, but PackConfig.micro_batches is {capacity}")

    shape = (capacity, pack_config.rows, length)
    out = {
        name: np.zeros(shape, dtype)
        for name, dtype in dict(
            tokens=np.int32, segment=np.int32, targets=np.int32, weight=np.float32, advantage=np.float32,
            failed=np.float32, behaviour=np.float32, truncated=np.float32, teacher=np.float32,
        ).items()
    }  # fmt: skip
    out["teacher"].fill(np.nan)  # a token without a teacher's log-prob: `opd_advantage` leaves its advantage alone
    positions = np.zeros((capacity, 3, pack_config.rows, length), np.int32)
    visual = np.full(shape, -1, np.int32)
    owner = np.full(shape, -1, np.int32)
    images: list[list[PatchedImage]] = [[] for _ in range(capacity)]
    merge = config.vision.merge_unit

    for m, group in enumerate(groups):
        first_token: dict[int, int] = {}  # an image that several samples share is encoded once a micro-batch
        tokens_so_far = 0
        for b, members in enumerate(group):
            offset = 0
            for segment, index in enumerate(members, start=1):
                row, sample, n = laid[index], samples[index], lengths[index]
                remap: list[np.ndarray] = [np.zeros(0, np.int32)]
                for image in row.images:
                    if id(image) not in first_token:
                        first_token[id(image)] = tokens_so_far
                        images[m].append(image)
                        tokens_so_far += len(image.patches) // merge
                    remap.append(first_token[id(image)] + np.arange(len(image.patches) // merge))
                where = np.concatenate([*remap, np.array([-1])])  # index -1 (text) picks the last entry

                here = (m, b, slice(offset, offset + n))
                before = (m, b, slice(offset, offset + n - 1))  # predictions: one before the token predicted
                trained = row.sampled[1:]
                out["tokens"][here] = row.tokens
                out["segment"][here] = segment
                owner[here] = index
                visual[here] = where[row.visual]
                positions[m, :, b, offset : offset + n] = row.positions
                out["targets"][before] = row.tokens[1:]
                share = 1.0 / max(int(trained.sum()), 1) if pack_config.weighting == "sequence-mean" else 1.0
                out["weight"][before] = trained * (share * sample.weight)
                out["advantage"][before] = trained * sample.advantage
                out["failed"][before] = trained * float(sample.failed)
                out["behaviour"][before] = row.behaviour[1:]
                out["truncated"][before] = row.truncated[1:]
                if sample.teacher_logp is not None:
                    out["teacher"][before][trained] = _checked_teacher(index, sample.teacher_logp, int(trained.sum()))
                offset += n

    vision = [vision_inputs(config.vision, each, _vision_shape(config, images, pack_config)) for each in images]
    teacher_given = any(sample.teacher_logp is not None for sample in samples)
    return PackedBatch(
        inputs=ModelInputs(
            tokens_BT=out["tokens"],
            positions_3BT=positions,
            segment_BT=out["segment"],
            visual_index_BT=visual,
            vision=VisionInputs(*(np.stack(leaves) for leaves in zip(*vision, strict=True))),
        ),
        targets_MBT=out["targets"],
        weight_MBT=out["weight"],
        advantage_MBT=out["advantage"],
        failed_MBT=out["failed"],
        behaviour_logp_MBT=out["behaviour"],
        sampled_logp_MBT=out["truncated"],
        sample_MBT=owner,
        count=np.int32(len(groups)),
        teacher_logp_MBT=out["teacher"] if teacher_given else None,
    )


def _patchify_once(
    config: Qwen3VLConfig, samples: Sequence[TrainingSample], pack_config: PackConfig
) -> dict[int, PatchedImage]:
    """id(image) -> its patches: the rollouts of a group share their question's images."""
    found: dict[int, Image.Image] = {}
    for sample in samples:
        for chunk in sample.chunks:
            if isinstance(chunk, ContextChunk):
                found.update((id(image), image) for image in chunk.images)
    return {
        key: patchify(image, config.vision, pack_config.min_pixels, pack_config.max_pixels)
        for key, image in found.items()
    }


def _vision_shape(
    config: Qwen3VLConfig, images: Sequence[Sequence[PatchedImage]], pack_config: PackConfig
) -> tuple[int, int]:
    """(rows, patches a row) that hold the images of every micro-batch."""
    if pack_config.vision is not None:
        return pack_config.vision
    sizes = [[len(image.patches) for image in each] for each in images]
    length = bucket(max((max(each, default=0) for each in sizes), default=0), 4 * config.vision.merge_unit)
    rows = max(place(each, length)[1] for each in sizes)
    return (bucket(rows) if rows else 0), length


def _checked_teacher(index: int, logp: np.ndarray, trained: int) -> np.ndarray:
    if len(logp) != trained:
        raise ValueError(f"sample {index} has {trained} sampled tokens, but its teacher gave {len(logp)} log-probs")
    return logp


def unpack(batch: PackedBatch, values_MBT: np.ndarray) -> dict[int, np.ndarray]:
    """Per-token values of a packed batch, back to samples: index -> float32 [sampled tokens], in their order."""
    out: dict[int, np.ndarray] = {}
    sampled = np.asarray(batch.weight_MBT) > 0
    owner, values = np.asarray(batch.sample_MBT)[sampled], np.asarray(values_MBT)[sampled]
    for index in np.unique(owner):
        out[int(index)] = values[owner == index]
    return out


def sft_sample(chunks: Sequence[Chunk]) -> TrainingSample:
    """A demonstration. Raises ValueError when it holds no model tokens: there would be nothing to learn from it."""
    if not any(isinstance(chunk, SampledChunk) and len(chunk.tokens) for chunk in chunks):
        raise ValueError("a demonstration without model tokens has nothing to train on")
    return TrainingSample(chunks=tuple(chunks))
