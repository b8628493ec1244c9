"""What a place holds that is no checkpoint in Hugging Face layout, told by its files, and how to make one of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

LAYOUT = "Give the directory of a checkpoint in Hugging Face layout."
_MOST_NAMES = 3
# What the names of files or folders match -> what wrote them, the cure.
_WRITERS: tuple[tuple[str, str, str], ...] = (
    (
        r"model_world_size_\d+_rank_\d+\.pt",
        "the shards of a checkpoint of verl",
        "Merge them: python -m verl.model_merger merge --backend fsdp --local_dir {place} --target_dir OUT, and give "
        "OUT.",
    ),
    (
        r"zero_to_fp32\.py|global_step\d+|(bf16_)?zero_pp_rank_.*\.pt|mp_rank_\d+_model_states\.pt",
        "a checkpoint of DeepSpeed",
        "Convert it: python zero_to_fp32.py {place} OUT --safe_serialization, put config.json and the tokenizer of its "
        "base there, and give OUT.",
    ),
    (
        r"pytorch_model_fsdp_\d+|.*\.distcp",
        "the shards of a checkpoint of PyTorch's FSDP",
        "Merge them: accelerate merge-weights {place} OUT, put config.json and the tokenizer of its base there, and "
        "give OUT.",
    ),
    (
        r"latest_checkpointed_iteration\.txt|iter_\d{7}",
        "a checkpoint of Megatron",
        "Convert it to Hugging Face layout with the trainer that wrote it.",
    ),
    (
        r".*\.gguf",
        "weights in GGUF, for llama.cpp",
        "Give the checkpoint that they were made of, in Hugging Face layout.",
    ),
    (
        r"(?!training_args|optimizer|scheduler|rng_state).*\.(pth|pt|bin)",
        "weights in pickles, which are never read",
        "Load it in transformers and save it again by save_pretrained, which writes safetensors.",
    ),
)


def cure_of_place(place: Path | str) -> str:
    """A sentence or two on a place without `config.json`: what it is, and what to give in its place."""
    path = Path(place)
    if not path.exists():
        return f"There is nothing at that place: check the name. {LAYOUT}"
    if path.is_file():
        cure = what_wrote([path.name], path.parent) if path.suffix == ".gguf" else None
        return cure or f"It is a file: give the directory it lies in, if that holds a whole checkpoint. {LAYOUT}"
    names = sorted(each.name for each in path.iterdir())
    below = [*path.glob("*/config.json"), *path.glob("snapshots/*/config.json")]  # the latter in the hub's cache
    inner = sorted(each.parent.relative_to(path).as_posix() for each in below)
    inner = [name for name in inner if _has_weights(path / name)]
    if inner:
        given = ", ".join(str(path / name) for name in inner[:_MOST_NAMES])
        return f"It holds {'checkpoints' if len(inner) > 1 else 'a checkpoint'} in folders: give {given}."
    if cure := what_wrote(names, path):
        return cure
    for name in names:
        if (path / name).is_dir() and (cure := what_wrote(_names_of(path / name), path / name)):
            return cure
    return LAYOUT


def what_wrote(names: Sequence[str], place: Path) -> str | None:
    """What other tools left at a place, by the names there, and the cure; None where none of them is known."""
    for pattern, what, cure in _WRITERS:
        if any(re.fullmatch(pattern, name) for name in names):
            return f"{place} holds {what}. {cure.format(place=place)}"
    return None


def _has_weights(folder: Path) -> bool:
    return any(name.endswith(".safetensors") for name in _names_of(folder))


def _names_of(folder: Path) -> list[str]:
    try:
        return sorted(each.name for each in folder.iterdir())
    except OSError:  # a folder that may not be read
        return []
