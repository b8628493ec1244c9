"""Random tiny Qwen3-VL models in transformers, and what they compute, to compare with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from hypereyes_jax.configs.model import Qwen3VLConfig, VisionConfig
from hypereyes_jax.processing import PatchedImage, expand, patchify
from tests import small_models
from tests.small_models import IDS

WORDS = 80  # ids below this are plain text

_TEXT = dataclasses.replace(
    small_models.TEXT,
    vocab_size=96,
    num_hidden_layers=3,
    head_dim=16,
    rope_theta=10_000.0,
    mrope_section=(4, 2, 2),
    max_position_embeddings=4096,
    initializer_range=0.02,
)
_VISION = dataclasses.replace(
    small_models.VISION,
    depth=3,
    hidden_size=24,
    intermediate_size=40,
    patch_size=4,
    num_position_embeddings=36,
    deepstack_visual_indexes=(0, 2),
    initializer_range=0.02,
)
_MOE = {"num_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24}


def _config(text: dict[str, Any], vision: dict[str, Any]) -> Qwen3VLConfig:
    text_config = dataclasses.replace(_TEXT, **text)
    vision_config = dataclasses.replace(_VISION, out_hidden_size=text_config.hidden_size, **vision)
    return Qwen3VLConfig(text_config, vision_config, **IDS)


# Each is a program to compile, so that variants which have nothing to do with each other share one.
CONFIGS: dict[str, Qwen3VLConfig] = {
    "dense": _config({}, {}),
    "tied, merge 3": _config(
        {"tie_word_embeddings": True, "num_key_value_heads": 4},
        {"spatial_merge_size": 3, "patch_size": 2, "deepstack_visual_indexes": (1,)},
    ),
    "wide heads, deepstack out of order": _config(
        {"head_dim": 24, "mrope_section": (6, 3, 3), "num_key_value_heads": 1, "num_hidden_layers": 4},
        {"patch_size": 6, "depth": 4, "deepstack_visual_indexes": (3, 0, 1)},
    ),
    "one temporal, no deepstack": _config(
        {"num_attention_heads": 6, "num_key_value_heads": 3, "num_hidden_layers": 2},
        {"temporal_patch_size": 1, "num_position_embeddings": 16, "deepstack_visual_indexes": ()},
    ),
    "moe": _config(_MOE, {}),
    "moe tied, square experts": _config(
        _MOE
        | {"num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
        | {"num_key_value_heads": 1, "tie_word_embeddings": True},
        {"num_heads": 3},
    ),
}


def hf_model(config: Qwen3VLConfig, seed: int = 0) -> torch.nn.Module:
    """A transformers model with large random weights, so that no part of the network is near the identity."""
    family = "Qwen3VLMoe" if config.text.moe else "Qwen3VL"
    raw = config.to_hf()
    del raw["architectures"]
    hf_config = getattr(transformers, f"{family}Config")(**raw)
    hf_config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForConditionalGeneration")(hf_config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            norm = name.endswith("norm.weight") or (".norm" in name and name.endswith("weight"))
            parameter.copy_(1 + 0.3 * noise if norm else (0.2 if parameter.ndim > 1 else 0.3) * noise)
    return model


def saved(model: torch.nn.Module, path: Path) -> Path:
    model.save_pretrained(path)
    return path


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Smooth noise, so that resizing keeps some of it."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def one_image_sample(config: Qwen3VLConfig, columns: int = 5, rows: int = 3) -> tuple[list[int], PatchedImage]:
    """Tokens of a few words around one image of so many merged patches, and the image."""
    unit = config.vision.pixel_multiple
    image = patchify(photo(columns * unit, rows * unit, 0), config.vision, unit**2, 40 * unit**2)
    return words(4, 0) + image_tokens(config) + words(6, 1), image


def temporal_patches(frames: Sequence[Image.Image], vision: VisionConfig) -> list[PatchedImage]:
    """A video's temporal patches: each takes its frames in order, and the last frame fills up the last one."""
    depth = vision.temporal_patch_size
    stills = [patchify(frame, vision, *[frame.width * frame.height] * 2) for frame in frames]
    stills += [stills[-1]] * (-len(stills) % depth)
    shape = stills[0].patches.shape
    pixels = [still.patches.reshape(-1, 3, depth, vision.patch_size**2) for still in stills]
    return [
        PatchedImage(
            np.stack([pixels[first + n][:, :, n] for n in range(depth)], axis=2).reshape(shape), stills[0].grid_thw
        )
        for first in range(0, len(stills), depth)
    ]


def words(count: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, WORDS, count).tolist()


def image_tokens(config: Qwen3VLConfig) -> list[int]:
    return [config.vision_start_token_id, config.image_token_id, config.vision_end_token_id]


def frame_tokens(config: Qwen3VLConfig) -> list[int]:
    return [config.vision_start_token_id, config.video_token_id, config.vision_end_token_id]


def hf_inputs(
    config: Qwen3VLConfig, tokens: Sequence[int], images: Sequence[PatchedImage], *, video_frames: int = 0
) -> dict[str, torch.Tensor]:
    """Keyword arguments of the transformers model for one sample; the last `video_frames` images are one video."""
    row = expand(config, tokens, images)
    ids = torch.tensor(row.tokens_T.astype(np.int64))[None]
    kinds = torch.zeros_like(ids)
    kinds[ids == config.image_token_id], kinds[ids == config.video_token_id] = 1, 2
    inputs = {"input_ids": ids, "mm_token_type_ids": kinds}
    stills, frames = images[: len(images) - video_frames], images[len(images) - video_frames :]
    if stills:
        inputs["pixel_values"] = torch.tensor(np.concatenate([image.patches for image in stills]))
        inputs["image_grid_thw"] = torch.tensor([image.grid_thw for image in stills])
    if frames:
        inputs["pixel_values_videos"] = torch.tensor(np.concatenate([image.patches for image in frames]))
        inputs["video_grid_thw"] = torch.tensor([(len(frames), *frames[0].grid_thw[1:])])
    return inputs
