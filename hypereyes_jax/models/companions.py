"""The files beside a model's weights that others read with them: tokenizer, chat template, processor, generation."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
_PROCESSOR, _NESTED = "processor_config.json", "image_processor"  # transformers 5 writes all processors into one file
COMPANION_FILES = (*TOKENIZER_FILES, _IMAGES, _VIDEOS, _GENERATION, _PROCESSOR)
"""All that is copied from a base model to what is trained from it."""

Pixels = tuple[int, int]
"""The smallest and the largest area in pixels that an image is resized to."""


def processor_pixels(directory: Directory) -> tuple[int | None, int | None]:
    """The areas that a checkpoint's image processor resizes to; None where it does not say.

    Raises CheckpointError naming a damaged file, or two that contradict each other.
    """
    areas: dict[str, tuple[int | None, int | None]] = {}
    for name, images in _image_processors(directory).items():
        size = images.get("size") or {}
        if not isinstance(size, dict):
            raise _damaged(directory, name, f"size={size!r:.80} is not an object")
        # the older spelling is taken before `size`, as transformers does
        smallest, largest = (
            images.get(old) or size.get(new)
            for old, new in (("min_pixels", "shortest_edge"), ("max_pixels", "longest_edge"))
        )
        if not all(area is None or (type(area) is int and area > 0) for area in (smallest, largest)) or (
            smallest is not None and largest is not None and smallest > largest
        ):
            raise _damaged(directory, name, f"it gives areas of {smallest!r:.40} to {largest!r:.40} pixels")
        areas[name] = smallest, largest
    if len(set(areas.values())) > 1:
        raise CheckpointError(
            f"{directory} says in {' and in '.join(areas)} that images are resized to different areas: "
            f"{', '.join(map(str, areas.values()))}. Remove the one that is out of date."
        )
    return next(iter(areas.values()), (None, None))


def check_image_processor(directory: Directory, config: Qwen3VLConfig) -> None:
    """Raises CheckpointError naming the field by which a checkpoint's image processor prepares images otherwise."""
    vision = config.vision
    expected: dict[str, Any] = {
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
        "rescale_factor": 1 / 255,
        "resample": 3,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
    }
    for name, images in _image_processors(directory).items():
        for field, value in expected.items():
            said = images.get(field)
            if said is not None and said not in (value, value[0] if isinstance(value, list) else value):
                raise CheckpointError(
                    f"{directory}/{name} has {field}={said!r:.80}, expected {value!r}: this project prepares "
                    "images in that way alone. Give another checkpoint."
                )


def check_companions(directory: Directory, names: Iterable[str] = (_IMAGES, _VIDEOS, _GENERATION, _PROCESSOR)) -> None:
    """Raises CheckpointError naming a damaged file among those that are copied to what is trained from a checkpoint,
    which transformers could not open for its sake; by default of those that are not the tokenizer's."""
    for name in names:
        if name.endswith(".json"):
            _read(directory, name)
        elif directory.exists(name):
            try:
                directory.read_bytes(name).decode("utf-8")
            except UnicodeDecodeError as error:
                raise _damaged(directory, name, error) from error


def write_companions(base: Directory, out: Path, config: Qwen3VLConfig, pixels: Pixels | None) -> None:
    """Copies `base`'s companion files to `out`, and writes those that transformers needs and `base` lacks.

    Args:
      pixels: that the model was trained with; the processor is made to say so. None leaves what `base` says.

    Raises CheckpointError naming a damaged file of `base`.
    """
    check_companions(base, COMPANION_FILES)
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
    processors = _image_processors(base)
    image_processor = processors.get(_PROCESSOR)
    images = (
        processors.get(_IMAGES) or image_processor or patches | {"image_processor_type": "Qwen2VLImageProcessorFast"}
    )
    _write(out / _IMAGES, _resizing_to(images, pixels))
    if image_processor is not None:  # transformers 5 takes it before the other
        _write(out / _PROCESSOR, (_read(base, _PROCESSOR) or {}) | {_NESTED: _resizing_to(image_processor, pixels)})
    if not base.exists(_VIDEOS):
        _write(out / _VIDEOS, patches | {"video_processor_type": "Qwen3VLVideoProcessor"})
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    if not base.exists(_GENERATION):
        _write(out / _GENERATION, {name: value for name, value in ids.items() if value is not None})


def processor_template(directory: Directory) -> str | None:
    """The chat template that a checkpoint's processor applies where its tokenizer may have none: of the older
    `chat_template.json`, which tokenizers do not read.

    Raises CheckpointError naming a damaged file.
    """
    name = "chat_template.json"
    content = _read(directory, name)
    if content is None:
        return None
    template = content.get("chat_template")
    if not isinstance(template, str):
        raise _damaged(directory, name, f"chat_template={template!r:.80} is not a string")
    return template


def _resizing_to(images: dict[str, Any], pixels: Pixels | None) -> dict[str, Any]:
    if pixels is None:
        return images
    images = images | {"size": {"shortest_edge": pixels[0], "longest_edge": pixels[1]}}
    # the older spelling, which transformers takes before `size` where it is there
    return images | {
        name: value for name, value in zip(("min_pixels", "max_pixels"), pixels, strict=True) if name in images
    }


def _image_processors(directory: Directory) -> dict[str, dict[str, Any]]:
    """The settings of a checkpoint's image processor, by the file that gives them: transformers 4 reads the one,
    transformers 5 the other before it."""
    processors = {}
    if (images := _read(directory, _IMAGES)) is not None:
        processors[_IMAGES] = images
    image_processor = (_read(directory, _PROCESSOR) or {}).get(_NESTED)
    if image_processor is not None:
        if not isinstance(image_processor, dict):
            raise _damaged(directory, _PROCESSOR, f"{_NESTED}={image_processor!r:.80} is not an object")
        processors[_PROCESSOR] = image_processor
    return processors


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
        raise _damaged(base, name, error) from error
    return content


def _damaged(directory: Directory, name: str, why: object) -> CheckpointError:
    return CheckpointError(f"{directory}/{name} is damaged ({why}). Download or make that checkpoint again.")


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")
