"""The parameter tree as a HF checkpoint (sharded safetensors), written one tensor at a time."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.qwen3_vl.checkpoint_match import INDEX, SINGLE
from hypereyes_jax.models.qwen3_vl.weights import Params, Weight, map_weights, weights
from hypereyes_jax.models.tensor_files import DTYPE_NAMES

_SHARD_BYTES = 5 << 30


def save_hf(
    path: str | os.PathLike[str],
    config: Qwen3VLConfig,
    params: Params,
    *,
    shard_bytes: int = _SHARD_BYTES,
    write: bool = True,
) -> None:
    """Write `config.json` and safetensors that transformers, vLLM and SGLang load, in shards of at most `shard_bytes`.

    Tensors go to disk one at a time; each file appears under its name only when it is whole, the index last. Expert
    weights are written as published, except where one is square: transformers then takes it for its own layout.

    Args:
      write: weights may lie on the devices of several processes. All must then call this, and one writes.
    """
    path = Path(path)
    table = weights(config)
    layers = table["layers"]
    out_in = config.text.moe and any(leaf.hf_shape[1] == leaf.hf_shape[2] for leaf in layers.values() if leaf.experts)
    shards: list[list[_Outgoing]] = [[]]
    room = shard_bytes

    def add(_: str, weight: Weight, array: jax.Array) -> None:
        nonlocal room
        if array.shape != weight.shape:
            raise ValueError(f"{weight.hf} has shape {array.shape}, but the config makes it {weight.shape}")
        for i, name in enumerate(weight.hf_names()):
            tensor = _Outgoing(name, weight, array, i, out_in and weight.experts)
            if tensor.size > room and shards[-1]:
                shards.append([])
                room = shard_bytes
            room -= tensor.size
            shards[-1].append(tensor)

    map_weights(add, table, params)
    if not write:
        for tensor in (tensor for shard in shards for tensor in shard):
            tensor.fetch()
        return
    path.mkdir(parents=True, exist_ok=True)
    count = len(shards)
    names = [SINGLE if count == 1 else f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(path / name, shard)
    _replace_file(path / "config.json", json.dumps(config.to_hf(_dtype(params)), indent=2) + "\n")
    if count > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.size for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _replace_file(path / INDEX, json.dumps(index, indent=2) + "\n")
    else:
        (path / INDEX).unlink(missing_ok=True)  # an older, sharded checkpoint would be read in this one's place


def _dtype(params: Params) -> str:
    """What the config says of all tensors: the dtype that most numbers have."""
    numbers: dict[str, int] = {}
    for leaf in jax.tree.leaves(params):
        numbers[str(leaf.dtype)] = numbers.get(str(leaf.dtype), 0) + leaf.size
    return max(numbers, key=numbers.__getitem__)


@dataclass(frozen=True)
class _Outgoing:
    """One tensor to write: layer `layer` of a stacked leaf, or a whole one."""

    name: str
    weight: Weight
    array: jax.Array
    layer: int
    out_in: bool

    @property
    def size(self) -> int:
        return math.prod(self.weight.hf_shape) * self.array.dtype.itemsize

    @property
    def shape(self) -> tuple[int, ...]:
        shape = self.weight.hf_shape
        return (*shape[:-2], shape[-1], shape[-2]) if self.out_in else shape

    def fetch(self) -> np.ndarray:
        """The whole array on the host; where processes share it out, each must ask for it."""
        tensor = self.weight.to_hf(_whole(self.array[self.layer] if self.weight.stacked else self.array))
        return np.ascontiguousarray(tensor.swapaxes(1, 2) if self.out_in else tensor)


def _whole(array: jax.Array) -> np.ndarray:
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def _write_shard(file: Path, tensors: list[_Outgoing]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": DTYPE_NAMES[np.dtype(tensor.array.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + tensor.size],
        }
        position += tensor.size
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    partial = file.with_name(file.name + ".partial")
    with partial.open("wb") as stream:
        stream.write(len(raw).to_bytes(8, "little") + raw)
        for tensor in tensors:
            # not `tofile`, whose error on a full disk does not say so
            stream.write(tensor.fetch().reshape(-1).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(file)


def _replace_file(file: Path, text: str) -> None:
    partial = file.with_name(file.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
