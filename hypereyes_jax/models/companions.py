"""The files beside a model's weights that others read with them: tokenizer, chat template, processor, generation."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.storage import Directory
from hypereyes_jax.models.tensor_files import CheckpointError

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "vocab.json",
    "chat_template.jinja",
    "chat_template.json",
)
_IMAGES, _VIDEOS, _GENERATION = "preprocessor_config.json", "video_preprocessor_config.json", "generation_config.json"
COMPANION_FILES = (*TOKENIZER_FILES, _IMAGES, _VIDEOS, _GENERATION, "processor_config.json")
"""All that is copied from a base model to what is trained from it."""

Pixels = tuple[int, int]
"""The smallest and the largest area in pixels that an image is resized to."""


def write_companions(base: Directory, out: Path, config: Qwen3VLConfig, pixels: Pixels | None) -> None:
    """Copies `base`'s companion files to `out`, and writes those that transformers needs and `base` lacks.

    Args:
      pixels: that the model was trained with; the processor is made to say so. None leaves what `base` says.

    Raises CheckpointError naming a damaged file of `base`.
    """
    for name in COMPANION_FILES:
        if base.exists(name):
            (out / name).write_bytes(base.read_bytes(name))
    if not _has_template(base):
        template = resources.files("hypereyes_jax.processing").joinpath("chat_template.jinja").read_bytes()
        (out / "chat_template.jinja").write_bytes(template)
    patches = {
        "processor_class": "Qwen3VLProcessor",
        "patch_size": config.vision.patch_size,
        "temporal_patch_size": config.vision.temporal_patch_size,
        "merge_size": config.vision.spatial_merge_size,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    images = _read(base, _IMAGES) or patches | {"image_processor_type": "Qwen2VLImageProcessorFast"}
    if pixels is not None:
        images |= {"size": {"shortest_edge": pixels[0], "longest_edge": pixels[1]}}
        # the older spelling, which transformers takes before `size` where it is there
        images |= {
            name: value for name, value in zip(("min_pixels", "max_pixels"), pixels, strict=True) if name in images
        }
    _write(out / _IMAGES, images)
    if not base.exists(_VIDEOS):
        _write(out / _VIDEOS, patches | {"video_processor_type": "Qwen3VLVideoProcessor"})
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    if not base.exists(_GENERATION):
        _write(out / _GENERATION, {name: value for name, value in ids.items() if value is not None})


def _has_template(base: Directory) -> bool:
    if any(base.exists(name) for name in ("chat_template.jinja", "chat_template.json")):
        return True
    return bool((_read(base, "tokenizer_config.json") or {}).get("chat_template"))


def _read(base: Directory, name: str) -> dict[str, Any] | None:
    if not base.exists(name):
        return None
    try:
        content = json.loads(base.read_bytes(name).decode("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{base}/{name} is damaged ({error}). Fetch or make that checkpoint anew.") from error
    return content


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
