"""Which tensor of a checkpoint's files each weight is, once the files are known to match the config."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.foreign_directories import what_wrote
from hypereyes_jax.models.qwen3_vl.weights import flat_weights
from hypereyes_jax.models.storage import Directory, LocalDirectory, RangeFile
from hypereyes_jax.models.tensor_files import (
    BlockScaledTensor,
    CheckpointError,
    StoredTensor,
    SwappedTensor,
    Tensor,
    by_kind,
    read_header,
)
from hypereyes_jax.models.tensor_names import usual_name

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
_HEAD, _EMBED = "lm_head.weight", "model.language_model.embed_tokens.weight"
_SCALE = "_scale_inv"
_COMPUTED = (".rotary_emb.inv_freq", ".rotary_pos_emb.inv_freq")  # from the config, here and in transformers
_FP8 = "float8_e4m3fn"
# What a name has that is no part of the model -> what put it there, the cure.
_WRAPPERS = (
    (
        r"\.lora_[AB]\.|\.base_layer\.|^base_model\.model\.",
        "PEFT",
        "Merge the adapter by merge_and_unload() and save the model that gives",
    ),
    (
        r"^(vision_tower|thinker|model\.vision_tower|vision_model)\.",
        "another program, or another model,",
        "Load it there, and save it as transformers' Qwen3VLForConditionalGeneration does",
    ),
)
_COMPARED_BYTES = 64 << 20  # held at once of each of two tensors that must be equal


def match(directory: Directory, config: Qwen3VLConfig, fp8_block: tuple[int, int] | None) -> dict[str, Tensor]:
    """The tensors that the config asks for, by their names in the checkpoint. Only headers are read.

    A tensor may have the name that a wrapper or another program gives it, see `usual_name`, and may stand there twice
    if it is the same. An output projection that the config ties to the embedding may lie in the file as well: the two
    are then compared. Frequencies of rotary positions, which some tools save, are left alone.

    Raises CheckpointError naming, by kind, what is missing, surplus, misshapen, quantised in an unknown way or unequal.
    """
    tensors_by_name: dict[str, StoredTensor] = {}
    faults: list[tuple[str, str]] = []
    for file in _files(directory):
        for written, tensor in read_header(file, str(directory)):
            name = usual_name(written, whole=True)
            if name.endswith(_COMPUTED):
                continue
            first = tensors_by_name.setdefault(name, tensor)
            if first is not tensor and (first.dtype != tensor.dtype or not _equal(first, tensor)):
                where = f"in {first.file.name} and in {file.name}" if first.file.name != file.name else f"as {written}"
                faults.append((name, f"stands {where} with other numbers"))
    tensors = _dequantised(tensors_by_name, fp8_block, faults)
    tied = tensors.pop(_HEAD, None) if config.text.tie_word_embeddings else None
    if tied is not None and _EMBED not in tensors:  # some tools keep one name of a tensor that has two
        tensors[_EMBED] = tied
    expected = {name: weight.hf_shape for _, weight in flat_weights(config) for name in weight.hf_names()}
    experts = {name for _, weight in flat_weights(config) if weight.experts for name in weight.hf_names()}
    if _out_in({name: tensors[name].shape for name in experts if name in tensors}, expected):
        for name in experts & tensors.keys():
            tensors[name] = SwappedTensor(tensors[name])
    faults += [(name, "missing") for name in expected if name not in tensors]
    faults += [(name, "surplus, the config has no place for it") for name in tensors if name not in expected]
    for name, shape in expected.items():
        if name in tensors and tensors[name].shape != shape:
            faults.append((name, f"has shape {tensors[name].shape}, expected {shape}"))
    if tied is not None and not faults and not _equal(tied, tensors[_EMBED]):
        faults.append((_HEAD, f"differs from {_EMBED}, to which config.json ties it (tie_word_embeddings)"))
    if faults:
        raise CheckpointError(
            f"{directory} does not match its config.json.{_cure(faults)}\n  " + "\n  ".join(by_kind(faults))
        )
    return tensors


def _dequantised(
    tensors_by_name: Mapping[str, StoredTensor], fp8_block: tuple[int, int] | None, faults: list[tuple[str, str]]
) -> dict[str, Tensor]:
    """All tensors, FP8 ones joined with their scales."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in tensors_by_name.items():
        owner = tensors_by_name.get(name.removesuffix(_SCALE))
        if name.endswith(_SCALE) and owner is not None and str(owner.dtype) == _FP8:
            continue
        if str(tensor.dtype) != _FP8:
            tensors[name] = tensor
            continue
        scales = tensors_by_name.get(name + _SCALE)
        if fp8_block is None or scales is None or len(tensor.shape) not in (2, 3):
            lacks = (
                "config.json has no quantization_config for it" if fp8_block is None else f"{name}{_SCALE} is missing"
            )
            faults.append((name, f"is stored in FP8, but {lacks}"))
            tensors[name] = tensor
            continue
        scaled = BlockScaledTensor(tensor, scales, fp8_block)
        if scales.shape != scaled.scale_shape() or str(scales.dtype) == _FP8:
            faults.append(
                (name + _SCALE, f"has shape {scales.shape} of {scales.dtype}, expected {scaled.scale_shape()}")
            )
        tensors[name] = scaled
    return tensors


def _out_in(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether expert weights are stored [experts, out, in]; a square one does not tell, but the others do."""
    telling = [(shape, expected[name]) for name, shape in shapes.items() if expected[name][1] != expected[name][2]]
    return bool(telling) and all(shape == (*want[:-2], want[-1], want[-2]) for shape, want in telling)


def _cure(faults: Sequence[tuple[str, str]]) -> str:
    names = [name for name, fault in faults if fault.startswith("surplus")]
    for mark, what, cure in _WRAPPERS:
        if any(re.search(mark, name) for name in names):
            return f" Its tensors have names that {what} gives them. {cure}:"
    if any(re.search(r"\.experts\.\d+\.", name) for name, _ in faults):
        return (
            " Its experts lie in tensors of their own. Load it in transformers and save it again, "
            "which joins the experts of a layer:"
        )
    if list(faults) == [(_HEAD, "missing")]:
        return (
            " If its output is its embedding, set tie_word_embeddings in config.json; else download or make it again:"
        )
    return " Download or make it again:"


def _equal(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    rows = one.shape[0] if one.shape else 1
    step = max(1, _COMPARED_BYTES // max(1, math.prod(one.shape[1:]) * 4))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        mine, its = (tensor.rows(first, last).astype(np.float32) for tensor in (one, other))
        if not np.array_equal(mine, its, equal_nan=True):
            return False
    return True


def _files(directory: Directory) -> list[RangeFile]:
    """The safetensors files that transformers would read: the single one before those of an index."""
    shards = _indexed(directory) if directory.exists(INDEX) else []
    present = [name for name in shards if directory.exists(name)]
    if directory.exists(SINGLE):
        others = [name for name in present if name != SINGLE]
        if others and not _same_tensors(directory, [SINGLE], shards if present == shards else None):
            raise CheckpointError(
                f"{directory} holds both {SINGLE} and the shards of {INDEX}, and they differ. Remove the one that is "
                "out of date."
            )
        return [directory.file(SINGLE)]
    names = shards or [SINGLE]
    if absent := [name for name in names if name not in present]:
        raise CheckpointError(
            f"{directory} lacks {', '.join(absent)} (only safetensors files are read, never pickles). "
            f"{_cure_of_absence(directory, shards)}"
        )
    return [directory.file(name) for name in names]


def _cure_of_absence(directory: Directory, shards: list[str]) -> str:
    """What to do about weights that are not there, by what there is instead."""
    if shards:
        return "Download the checkpoint again."
    if directory.exists("pytorch_model.bin") or directory.exists("pytorch_model.bin.index.json"):
        return "Load it in transformers and save it again by save_pretrained, which writes safetensors."
    others = directory.names() if isinstance(directory, LocalDirectory) else []
    if links := [name for name in others if not directory.exists(name)]:
        return f"{', '.join(links[:3])} is a link to a file that is not there. Download the checkpoint again."
    if isinstance(directory, LocalDirectory) and (cure := what_wrote(others, directory.path)):
        return cure
    if any(re.fullmatch(r"model-\d+-of-\d+\.safetensors", name) for name in others):
        return f"Its shards lie there without {INDEX}: fetch that, too."
    if weights := [name for name in others if name.endswith(".safetensors")]:
        return f"It holds {', '.join(weights[:3])}: give the checkpoint in Hugging Face layout."
    return "Download the checkpoint again."


def _indexed(directory: Directory) -> list[str]:
    """Names of the files of an index."""
    try:
        weight_map = json.loads(directory.read_bytes(INDEX).decode())["weight_map"]
        names = sorted({PurePosixPath(name).as_posix() for name in weight_map.values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{directory}/{INDEX} is damaged ({type(error).__name__}: {error}). Download or make that checkpoint again."
        ) from error
    paths = [PurePosixPath(name) for name in names]
    if strange := [str(path) for path in paths if path.is_absolute() or ".." in path.parts or "\\" in str(path)]:
        raise CheckpointError(f"{directory}/{INDEX} points outside its directory: {', '.join(strange)}")
    return names


def _same_tensors(directory: Directory, one: list[str], other: list[str] | None) -> bool:
    """Whether two sets of files hold the same tensors, to the bit; an incomplete set (None) does not."""
    if other is None:
        return False
    sides = [
        {name: tensor for file in files for name, tensor in read_header(directory.file(file), str(directory))}
        for files in (one, other)
    ]
    kinds = [{name: (tensor.dtype, tensor.shape) for name, tensor in side.items()} for side in sides]
    return kinds[0] == kinds[1] and all(_equal(tensor, sides[1][name]) for name, tensor in sides[0].items())
