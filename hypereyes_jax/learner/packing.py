"""Trajectories of any length become packed, padded arrays of a few fixed shapes. Host work, numpy only.

Several trajectories share a row (attention stays inside each, see `ModelInputs.segment_BT`), rows make micro-batches,
and the micro-batches of one optimiser step are stacked on a leading axis: M micro-batches, B rows, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from flax import struct

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.learner.batch_images import patches_by_image, stack_images
from hypereyes_jax.models.qwen3_vl.moe import UNKNOWN_EXPERT
from hypereyes_jax.processing import PatchedImage, expand
from hypereyes_jax.processing.lengths import visual_tokens
from hypereyes_jax.processing.types import Chunk, ContextChunk, ModelInputs, SampledChunk


@dataclass(frozen=True)
class TrainingSample:
    """A trajectory and what the learner is to make of it. SFT uses the defaults."""

    chunks: tuple[Chunk, ...]
    advantage: float = 0.0
    failed: bool = False  # wrong answer or format failure: distillation applies
    weight: float = 1.0  # its share of the loss beside the others; 0 masks it (the world failed, not the policy)
    teacher_logp: np.ndarray | None = None  # float32 [sampled tokens], of a `teacher.Teacher`
    routes: np.ndarray | None = None  # as `Trajectory.routes`


Array = Any  # numpy on the host, jax inside a program


class PackedBatch(struct.PyTreeNode):
    """One optimiser step's data. Position t holds what concerns the prediction of the token at t + 1.

    Weights are relative: the learner divides by their sum over all micro-batches and processes, `left_out` included.
    Sequence mean gives each token 1 / (trained tokens of its sample), so that each sample counts the same however it is
    packed.
    """

    inputs: Any  # ModelInputs, every leaf with a leading M
    targets_MBT: Array  # int32
    weight_MBT: Array  # float32; 0 = not trained on
    advantage_MBT: Array  # float32
    failed_MBT: Array  # float32, 1 on the trained tokens of failed samples
    logp_full_MBT: Array  # float32, the sampler's log-prob over the full vocabulary at its temperature
    logp_truncated_MBT: Array  # float32, the sampler's log-prob under the truncated distribution it drew from
    sample_MBT: Array  # int32, which sample a token is of; -1 = padding
    count: Array  # int32 scalar, micro-batches in use; the rest is padding and is never computed
    old_logp_MBT: Array = None  # float32 or None, under the weights before the first update on this data
    teacher_logp_MBT: Array = None  # float32 or None
    reference_logp_MBT: Array = None  # float32 or None, under the policy that the run began with
    left_out: Array = np.float32(0)  # float32 scalar, weight of the step's samples that are not here
    # uint8 or None, the experts that the sampler sent a token to, C = layers x experts a token; `moe.UNKNOWN_EXPERT`
    # where they are not known. Tokens come last: accelerators lay out the last two axes in tiles.
    experts_MBCT: Array = None


class _Row(NamedTuple):
    """A sample laid out as one run of tokens, before it has a place."""

    tokens: np.ndarray  # int32 [n]
    positions: np.ndarray  # int32 [3, n]
    visual: np.ndarray  # int32 [n], index within `images`; -1 = text
    sampled: np.ndarray  # bool [n], the model wrote this token
    full: np.ndarray  # float32 [n]
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


def micro_batches(lengths: Sequence[int], choices: Sequence[int], rows: int) -> dict[int, int]:
    """The micro-batches that samples fill with rows of each length that holds the longest of them.

    Args:
      rows: of a micro-batch.
    """
    fitting = [length for length in sorted(choices) if length >= max(lengths)]
    return {length: -(-len(first_fit_decreasing(lengths, length)) // rows) for length in fitting}


def fewest_positions(needs: Sequence[Mapping[int, int]]) -> int:
    """The row length with which a step computes the fewest positions; the shorter one of two as good.

    A step computes whole micro-batches, as many as the process that needs most. So a row longer than the longest sample
    may be better: a few rows more than one micro-batch holds would cost a second one.

    Args:
      needs: `micro_batches` of each process, of which all have a length in common.
    """
    common = sorted(set[int].intersection(*(set(each) for each in needs)))
    return min(common, key=lambda length: max(each[length] for each in needs) * length)


def sample_tokens(config: Qwen3VLConfig, sample: TrainingSample, pack_config: PackConfig) -> int:
    """Tokens that a sample takes of a row, told without patching its images."""
    limits = (pack_config.min_pixels, pack_config.max_pixels, config.vision.pixel_multiple)
    tokens = 0
    for chunk in sample.chunks:
        images = chunk.images if isinstance(chunk, ContextChunk) else ()
        tokens += len(chunk.tokens) - len(images)  # an image is one token, in place of its own
        for image in images:
            if isinstance(image, PatchedImage):
                tokens += len(image.patches) // config.vision.merge_unit
            else:
                tokens += visual_tokens(image, *limits)
    return tokens


def _lay_out(config: Qwen3VLConfig, chunks: Sequence[Chunk], patched: dict[int, PatchedImage]) -> _Row:
    # Chunk by chunk, as the engine placed them: an image token that the model itself sampled stays a text token.
    start, visual_before = 0, 0
    images: list[PatchedImage] = []
    parts: list[tuple[np.ndarray, ...]] = []
    for chunk in chunks:
        if isinstance(chunk, ContextChunk):
            own = [patched[id(image)] for image in chunk.images]
            piece = expand(config, chunk.tokens, own, start=start)
            n = len(piece.tokens_T)
            visual = np.where(piece.visual_index_T >= 0, piece.visual_index_T + visual_before, -1)
            zeros = np.zeros(n, np.float32)
            parts.append((piece.tokens_T, piece.positions_3T, visual, np.zeros(n, bool), zeros, zeros))
            start = piece.next_position
            visual_before += int((piece.visual_index_T >= 0).sum())
            images += own
        else:
            n = len(chunk.tokens)
            positions = np.broadcast_to(np.arange(start, start + n), (3, n))
            parts.append(
                (chunk.tokens, positions, np.full(n, -1), np.ones(n, bool), chunk.logp_full, chunk.logp_truncated)
            )
            start += n
    columns = (np.concatenate(column, axis=-1) for column in zip(*parts, strict=True))
    tokens, positions, visual, sampled, full, truncated = columns
    return _Row(tokens, positions, visual, sampled, full, truncated, tuple(images))


def _spread(rows: list[list[int]], patches: list[int], per_part: int) -> list[list[list[int]]]:
    """Rows to parts of `per_part` rows, evening out the patches: the fullest row goes where fewest are."""
    count = -(-len(rows) // per_part)
    groups: list[list[list[int]]] = [[] for _ in range(count)]
    load = [0] * count
    for row in sorted(rows, key=lambda r: -sum(patches[i] for i in r)):
        target = min((g for g in range(count) if len(groups[g]) < per_part), key=lambda g: load[g])
        groups[target].append(row)
        load[target] += sum(patches[i] for i in row)
    return groups


def pack(
    config: Qwen3VLConfig,
    samples: Sequence[TrainingSample],
    pack_config: PackConfig,
    left_out: Sequence[TrainingSample] = (),
) -> PackedBatch:
    """Lay out samples for one optimiser step.

    Args:
      left_out: samples of the step whose gradient is zero whatever the weights. They count in the mean over samples,
        and cost nothing.

    Raises ValueError when a sample is longer than the longest row, has no image for an image token (or the reverse), or
    when a fixed capacity (`micro_batches`, `vision`) is too small; the message names the sample or the size needed.
    """
    if not samples:
        raise ValueError("no samples to pack")
    chunks = [chunk for sample in samples for chunk in sample.chunks if isinstance(chunk, ContextChunk)]
    patched = patches_by_image(config, (image for chunk in chunks for image in chunk.images), pack_config)
    sample_rows = [_lay_out(config, sample.chunks, patched) for sample in samples]
    lengths = [len(row.tokens) for row in sample_rows]
    longest = max(lengths)
    if longest > max(pack_config.row_lengths):
        raise ValueError(
            f"sample {lengths.index(longest)} has {longest} tokens, but the longest row of PackConfig.row_lengths="
            f"{pack_config.row_lengths} is {max(pack_config.row_lengths)}: add a longer row or drop the sample"
        )
    length = pack_config.row_length
    if length is None:
        length = fewest_positions([micro_batches(lengths, pack_config.row_lengths, pack_config.rows)])
    rows = first_fit_decreasing(lengths, length)
    patch_counts = [sum(len(image.patches) for image in row.images) for row in sample_rows]
    if pack_config.rows % pack_config.shards:
        raise ValueError(f"PackConfig.rows={pack_config.rows} must be a multiple of shards={pack_config.shards}")
    # A part is what one data shard of devices takes of a micro-batch: some rows, and their images.
    parts = _spread(rows, patch_counts, pack_config.rows // pack_config.shards)
    needed = -(-len(parts) // pack_config.shards)
    count = pack_config.micro_batches or max(needed, pack_config.at_least[0])
    if needed > count:
        raise ValueError(f"these samples need {needed} micro-batches, but PackConfig.micro_batches is {count}")

    arrays = _empty((count, pack_config.rows, length), pack_config.routes)
    images: list[list[PatchedImage]] = []
    for number, part in enumerate(parts):
        m, first_row = divmod(number * (pack_config.rows // pack_config.shards), pack_config.rows)
        first_token: dict[int, int] = {}  # an image that several samples share is encoded once a part
        images.append([])
        for b, members in enumerate(part, start=first_row):
            offset = 0
            for segment, index in enumerate(members, start=1):
                where = _visual_tokens(config, sample_rows[index], first_token, images[-1])
                share = _token_share(pack_config)
                _write(arrays, (m, b, offset), segment, index, samples[index], sample_rows[index], where, share)
                offset += lengths[index]
    vision, tokens_a_part = stack_images(config, images, count * pack_config.shards, pack_config)
    visual = arrays["visual"].reshape(count, pack_config.shards, -1)
    visual += np.where(visual >= 0, np.arange(pack_config.shards)[:, None] * tokens_a_part, 0).astype(np.int32)
    teacher_given = any(sample.teacher_logp is not None for sample in samples)
    return PackedBatch(
        inputs=ModelInputs(
            tokens_BT=arrays["tokens"],
            positions_3BT=np.ascontiguousarray(arrays["positions"].transpose(0, 3, 1, 2)),
            segment_BT=arrays["segment"],
            visual_index_BT=arrays["visual"],
            vision=vision,
        ),
        targets_MBT=arrays["targets"],
        weight_MBT=arrays["weight"],
        advantage_MBT=arrays["advantage"],
        failed_MBT=arrays["failed"],
        logp_full_MBT=arrays["full"],
        logp_truncated_MBT=arrays["truncated"],
        sample_MBT=arrays["sample"],
        count=np.int32(needed),
        teacher_logp_MBT=arrays["teacher"] if teacher_given else None,
        left_out=np.float32(_absent(samples, left_out, arrays["weight"], pack_config)),
        experts_MBCT=arrays.get("experts"),
    )


def _token_share(pack_config: PackConfig) -> float | None:
    """What a token of a sample weighs; None = 1 / the sample's trained tokens."""
    shares = {"token-mean": 1.0, "constant-length": 1.0 / pack_config.row_lengths[0]}
    return shares.get(pack_config.weighting)


def _absent(
    samples: Sequence[TrainingSample], left_out: Sequence[TrainingSample], weight_MBT: np.ndarray, packs: PackConfig
) -> float:
    """What belongs into the step's sum of weights, the loss's denominator, beside the packed tokens."""
    if packs.weighting != "constant-length":
        return sum(_weight(sample, packs) for sample in left_out)
    # The denominator is the number of samples, whatever their tokens weigh.
    return sum(_weight(sample, packs) for sample in (*samples, *left_out)) - float(weight_MBT.sum())


def _weight(sample: TrainingSample, pack_config: PackConfig) -> float:
    """What all tokens of a sample weigh together."""
    sampled = [len(chunk.tokens) for chunk in sample.chunks if isinstance(chunk, SampledChunk)]
    return sample.weight * (sum(sampled) if pack_config.weighting == "token-mean" else float(any(sampled)))


def _empty(shape: tuple[int, int, int], routes: tuple[int, int] | None) -> dict[str, np.ndarray]:
    integers = {name: np.zeros(shape, np.int32) for name in ("tokens", "segment", "targets")}
    m, b, t = shape
    experts = {} if routes is None else {"experts": np.full((m, b, routes[0] * routes[1], t), UNKNOWN_EXPERT, np.uint8)}
    floats = ("weight", "advantage", "failed", "full", "truncated")
    return {
        **integers,
        **experts,
        **{name: np.zeros(shape, np.float32) for name in floats},
        "positions": np.zeros((*shape, 3), np.int32),
        "visual": np.full(shape, -1, np.int32),
        "sample": np.full(shape, -1, np.int32),
        # A token without a teacher's log-prob is NaN: `opd_advantage` leaves its advantage alone.
        "teacher": np.full(shape, np.nan, np.float32),
    }


def _write(
    arrays: dict[str, np.ndarray],
    place: tuple[int, int, int],
    segment: int,
    index: int,
    sample: TrainingSample,
    row: _Row,
    visual: np.ndarray,
    share: float | None,
) -> None:
    """Put a sample at (micro-batch, row, offset). `share`: weight of a token; None = 1 / trained tokens."""
    m, b, start = place
    here = (m, b, slice(start, start + len(row.tokens)))
    before = (m, b, slice(start, start + len(row.tokens) - 1))  # predictions: one before the token predicted
    is_trained = row.sampled[1:]
    count = int(is_trained.sum())
    arrays["tokens"][here] = row.tokens
    arrays["segment"][here] = segment
    arrays["sample"][here] = index
    arrays["visual"][here] = visual
    arrays["positions"][here] = row.positions.T
    arrays["targets"][before] = row.tokens[1:]
    arrays["weight"][before] = is_trained * sample.weight * (1.0 / max(count, 1) if share is None else share)
    arrays["advantage"][before] = is_trained * sample.advantage
    arrays["failed"][before] = is_trained * float(sample.failed)
    arrays["full"][before] = row.full[1:]
    arrays["truncated"][before] = row.truncated[1:]
    if "experts" in arrays and sample.routes is not None:
        _write_routes(arrays["experts"][m, b], start, index, sample.routes, len(row.tokens))
    if sample.teacher_logp is not None:
        if len(sample.teacher_logp) != count:
            raise ValueError(
                f"sample {index} has {count} sampled tokens, but its teacher gave {len(sample.teacher_logp)} log-probs"
            )
        arrays["teacher"][before][is_trained] = sample.teacher_logp


def _write_routes(experts_CT: np.ndarray, start: int, index: int, routes: np.ndarray, tokens: int) -> None:
    """Puts a sample's routes into its row. Raises ValueError if they are of another trajectory or model."""
    width = int(np.prod(routes.shape[1:]))
    if len(routes) != tokens - 1 or width != len(experts_CT):
        raise ValueError(
            f"sample {index} has {tokens} tokens and needs the routes of all but the last, {len(experts_CT)} experts "
            f"each; it has {len(routes)} of {width}"
        )
    experts_CT[:, start : start + len(routes)] = routes.reshape(len(routes), width).T


def _visual_tokens(
    config: Qwen3VLConfig, row: _Row, first_token: dict[int, int], images: list[PatchedImage]
) -> np.ndarray:
    """int32 [n]: the part's visual token of each token, -1 = text. Adds the sample's new images to the part's."""
    tokens: list[np.ndarray] = []
    for image in row.images:
        size = len(image.patches) // config.vision.merge_unit
        if id(image) not in first_token:
            first_token[id(image)] = sum(len(each.patches) for each in images) // config.vision.merge_unit
            images.append(image)
        tokens.append(first_token[id(image)] + np.arange(size))
    return np.concatenate([*tokens, np.array([-1])])[row.visual]  # index -1 (text) picks the last entry


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
