"""The nouns that every room above shares: arrays a model eats, and the chunks a trajectory is made of.

Everything here is numpy. A NamedTuple is a pytree without importing jax, so these go through `jax.jit` as they are.
Axis letters: B sequences, T tokens, R rows of L image patches, N = R * L, P values in a patch, M visual tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image


class VisionInputs(NamedTuple):
    """All images of a batch as R rows of L patches (N = R * L), each row holding whole images in merge-block order.

    Vision attention stays within a row, so many small images cost rows x L^2, not N^2. Visual token j (counted through
    the images in the order of their image tokens) is the merged token at `token_place_M[j]` of the flat rows, where
    merged token k is made of patches `merge**2 * k` ... `merge**2 * (k + 1) - 1`. Image grids never enter jit: what a
    patch needs to know of its image is in the arrays below. R = 0 means no images.
    """

    # normalised pixels, (channel, temporal, row, column) flattened: float; or uint8, which the tower normalises itself
    patches_NP: np.ndarray
    pos_index_N4: np.ndarray  # int32, rows of the learned position table that a patch interpolates between
    pos_weight_N4: np.ndarray  # float32, their bilinear weights (zeros on padding)
    row_N: np.ndarray  # int32, for 2-D rotary
    col_N: np.ndarray  # int32
    segment_RL: np.ndarray  # int32, 1-based number of the image (or video frame) a patch attends within; 0 = padding
    token_place_M: np.ndarray  # int32, M = N / merge**2; zeros past the last visual token


class ModelInputs(NamedTuple):
    """One padded batch. Both are NamedTuples, which jax takes as pytrees: this room imports neither jax nor flax."""

    tokens_BT: np.ndarray  # int32, image tokens expanded (one a visual token); 0 on padding
    positions_3BT: np.ndarray  # int32, M-RoPE positions (temporal, height, width)
    segment_BT: np.ndarray  # int32, 1-based number of the packed sample; attention stays within it; 0 = padding
    visual_index_BT: np.ndarray  # int32, which visual token replaces this embedding; -1 = a text token
    vision: VisionInputs


@dataclass(frozen=True)
class ContextChunk:
    """Tokens the model is given: a prompt or an observation. Never trained on."""

    tokens: np.ndarray  # int32 [n], one image token an image (not expanded)
    images: tuple[Image.Image, ...] = ()  # in the order of their image tokens


@dataclass(frozen=True)
class SampledChunk:
    """Tokens the model wrote, as sampled; never re-tokenised."""

    tokens: np.ndarray  # int32 [n], includes the stop token if one was sampled
    logp_truncated: np.ndarray  # float32 [n], under the distribution really sampled (temperature, top-p, ...)
    logp_full: np.ndarray  # float32 [n], at the sampling temperature over the full vocabulary
    version: np.ndarray  # int32 [n], version of the weights that sampled each token


Chunk = ContextChunk | SampledChunk
