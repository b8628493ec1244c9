"""What the vision tower must know of each patch, computed on the host, so that image grids never enter jit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hypereyes_jax.configs.model import VisionConfig
from hypereyes_jax.processing.images import PatchedImage, normalised
from hypereyes_jax.processing.types import VisionInputs


def bucket(size: int, smallest: int = 1) -> int:
    """The first of smallest * (1, 2, 3, 4, 6, 8, 12, 16, ...) that holds `size`: at most half as much again."""
    units = max(1, -(-size // smallest))
    power = 1 << (units - 1).bit_length()
    return smallest * (power * 3 // 4 if power >= 4 and units <= power * 3 // 4 else power)


def place(sizes: Sequence[int], row_length: int) -> tuple[list[tuple[int, int]], int]:
    """Pack images of `sizes` patches into rows of `row_length`: ((row, offset) of each, number of rows).

    First fit, largest first. Vision attention costs rows x row_length^2, so many small images share a row while
    none pays for another row.
    """
    lengths: list[int] = []
    places = [(0, 0)] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        row = next((r for r, length in enumerate(lengths) if length + sizes[i] <= row_length), len(lengths))
        if row == len(lengths):
            lengths.append(0)
        places[i] = (row, lengths[row])
        lengths[row] += sizes[i]
    return places, len(lengths)


def vision_inputs(
    config: VisionConfig,
    images: Sequence[PatchedImage],
    pad_to: tuple[int, int] | None = None,
    patches: np.ndarray | None = None,
) -> VisionInputs:
    """Lay out images for the vision tower.

    Args:
      images: in the order of their image tokens; visual token j counts through them in this order.
      pad_to: (rows, patches a row) of the result; default: the smallest bucket that holds them. With no images and no
        `pad_to` the arrays have no rows, and the model skips its vision tower.
      patches: zeros [rows * patches a row, P] to write the patches to, with `pad_to`: they are the bulk of a batch, and
        a copy of them would double it. Of any float type; or uint8, for images that are. What is padding is not
        touched, so that it takes no memory in an array that the system gave as zeros.

    Raises ValueError if the images do not fit `pad_to`, hold a NaN, or are not uint8 where `patches` is.
    """
    sizes = [len(image.patches) for image in images]
    for number, image in enumerate(images):
        if image.patches.dtype != np.uint8 and not np.isfinite(image.patches).all():
            raise ValueError(f"image {number} has NaN or infinite pixels")
    longest = max(sizes, default=0)
    unit = config.merge_unit
    row_length = pad_to[1] if pad_to else bucket(longest, 4 * unit)
    if longest > row_length or row_length % unit:
        raise ValueError(
            f"an image of {longest} patches does not fit rows of {row_length} (a multiple of {unit} is needed)"
        )
    places, rows_used = place(sizes, row_length)
    rows = pad_to[0] if pad_to else (bucket(rows_used) if rows_used else 0)
    if rows_used > rows:
        raise ValueError(
            f"{len(images)} images need {rows_used} rows of {row_length} patches, but only {rows} are given"
        )
    shape = (rows, row_length)
    if patches is None:
        patches = np.zeros((rows * row_length, config.patch_values), np.float32)
    here_NP = patches.reshape(*shape, config.patch_values)
    pos_index, pos_weight = np.zeros((*shape, 4), np.int32), np.zeros((*shape, 4), np.float32)
    row_of, col_of, segment = np.zeros(shape, np.int32), np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    token_place = np.zeros(rows * row_length // unit, np.int32)
    token = 0
    for number, (image, (row, start)) in enumerate(zip(images, places, strict=True)):
        _, grid_rows, grid_cols = image.grid_thw
        here = (row, slice(start, start + len(image.patches)))
        _write_patches(here_NP[here], _values(image.patches, patches.dtype), config)
        row_of[here], col_of[here] = _merge_order(grid_rows, grid_cols, config.spatial_merge_size)
        pos_index[here], pos_weight[here] = _interpolation(row_of[here], col_of[here], grid_rows, grid_cols, config)
        segment[here] = number + 1
        tokens = len(image.patches) // unit
        first = (row * row_length + start) // unit
        token_place[token : token + tokens] = np.arange(first, first + tokens)
        token += tokens
    flat = rows * row_length
    return VisionInputs(
        patches_NP=patches,
        pos_index_N4=pos_index.reshape(flat, 4),
        pos_weight_N4=pos_weight.reshape(flat, 4),
        row_N=row_of.reshape(flat),
        col_N=col_of.reshape(flat),
        segment_RL=segment,
        token_place_M=token_place,
    )


def _write_patches(here_nP: np.ndarray, values: np.ndarray, config: VisionConfig) -> None:
    """Writes patches of all their frames, or those of one frame to each."""
    if values.shape[1] == config.patch_values:
        here_nP[...] = values
        return
    channels = config.patch_values // (config.temporal_patch_size * config.patch_size**2)
    frames = here_nP.reshape(len(values), channels, config.temporal_patch_size, -1)
    frames[...] = values.reshape(len(values), channels, 1, -1)


def _values(patches: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Patches as an array of this type takes them: as they are, or normalised."""
    if patches.dtype != np.uint8 and dtype == np.uint8:
        raise ValueError("patches that are normalised already can't be laid out as uint8")
    return normalised(patches) if patches.dtype == np.uint8 and dtype != np.uint8 else patches


def _merge_order(rows: int, cols: int, merge: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each patch, when patches go block by block of merge x merge."""
    grid = np.indices((rows, cols)).reshape(2, rows // merge, merge, cols // merge, merge)
    row, col = grid.swapaxes(2, 3).reshape(2, -1)
    return row, col


def _interpolation(
    row_n: np.ndarray, col_n: np.ndarray, rows: int, cols: int, config: VisionConfig
) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear taps into the square table of learned positions, corners aligned: index [n, 4], weight [n, 4]."""
    side = round(config.num_position_embeddings**0.5)

    def taps(index: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        source = index.astype(np.float32) * np.float32(side - 1) / np.float32(max(size - 1, 1))
        low = np.floor(source).astype(np.int32)
        high_weight = source - low
        return np.stack([low, np.minimum(low + 1, side - 1)], 1), np.stack([1 - high_weight, high_weight], 1)

    row_tap, row_weight = taps(row_n, rows)
    col_tap, col_weight = taps(col_n, cols)
    index = row_tap[:, :, None] * side + col_tap[:, None, :]
    weight = row_weight[:, :, None] * col_weight[:, None, :]
    return index.reshape(-1, 4), weight.reshape(-1, 4)
