"""Token sequences with one image token an image, to what the decoder eats: one token a visual token, and positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.processing.images import PatchedImage


class Expanded(NamedTuple):
    """A sequence with its images at their places."""

    tokens_T: np.ndarray  # int32
    positions_3T: np.ndarray  # int32, M-RoPE positions (temporal, height, width)
    visual_index_T: np.ndarray  # int32, visual token counted through these images; -1 = text
    next_position: int  # where what follows continues


def expand(
    config: Qwen3VLConfig, tokens: Sequence[int] | np.ndarray, images: Sequence[PatchedImage], start: int = 0
) -> Expanded:
    """Expand the image (and video) tokens of one sequence and place everything.

    Text advances all three positions by one. An image takes the temporal position it starts at and counts rows and
    columns of visual tokens from there; what follows starts after the longer of its sides.

    Args:
      tokens: ids with exactly one image or video token for each of `images`, in order.
      images: patched images, or temporal patches of videos.
      start: the next free position of the sequence that this continues.

    Raises ValueError if tokens and images do not match in number.
    """
    ids_T = np.asarray(tokens, np.int32)
    holders = np.flatnonzero((ids_T == config.image_token_id) | (ids_T == config.video_token_id)).tolist()
    if len(holders) != len(images):
        raise ValueError(f"the sequence has {len(holders)} image token(s) but {len(images)} image(s) were given")
    merge = config.vision.spatial_merge_size
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    visual: list[np.ndarray] = []
    position, visual_tokens, begin = start, 0, 0

    def text(upto: int) -> None:
        nonlocal position
        count = upto - begin
        ids.append(ids_T[begin:upto])
        positions.append(np.broadcast_to(np.arange(position, position + count), (3, count)))
        visual.append(np.full(count, -1))
        position += count

    for holder, image in zip(holders, images, strict=True):
        text(holder)
        _, grid_rows, grid_cols = image.grid_thw
        rows, cols = grid_rows // merge, grid_cols // merge
        count = rows * cols
        ids.append(np.full(count, ids_T[holder]))
        row, col = np.indices((rows, cols)).reshape(2, count)
        positions.append(position + np.stack([np.zeros(count, int), row, col]))
        visual.append(np.arange(visual_tokens, visual_tokens + count))
        position += max(rows, cols)
        visual_tokens += count
        begin = holder + 1
    text(len(ids_T))
    return Expanded(
        np.concatenate(ids).astype(np.int32),
        np.concatenate(positions, axis=1).astype(np.int32),
        np.concatenate(visual).astype(np.int32),
        int(position),
    )
