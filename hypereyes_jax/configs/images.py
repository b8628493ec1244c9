"""Sizes that images are brought to, in pixels."""

from __future__ import annotations

PIXELS_A_TOKEN = 32 * 32  # a visual token of Qwen3-VL stands for a square of 32 pixels
MIN_PIXELS = 65536
MAX_PIXELS = 1200 * 32 * 32  # the paper's cap: 1,200 visual tokens of 32 x 32 pixels
