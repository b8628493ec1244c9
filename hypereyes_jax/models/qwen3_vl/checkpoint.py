"""HF checkpoints (sharded safetensors) in and out, one piece at a time. No pickle is ever read.

The safetensors format is a length, a JSON header and raw little-endian data; reading it here, not through the library,
is what lets a piece of a tensor be read without mapping or copying the rest.

Expert weights come in two layouts: [experts, in, out] in the published checkpoints, [experts, out, in] where
transformers 5 saved a model it had not loaded from one. Both are read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.qwen3_vl.weights import Params, Weight, flat_weights, map_weights, weights

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_DTYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(jnp.bfloat16)}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
# Leaves above this are moved to the device in pieces of this size, so that the host never holds a whole one.
_PIECE_BYTES = 64 << 20
_SHARD_BYTES = 5 << 30
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit


class CheckpointError(UserError, ValueError):
    """A checkpoint that does not hold exactly the tensors its config asks for. The message names every one."""


@dataclass(frozen=True)
class _Stored:
    """One tensor of a file, described by the file's header."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int  # byte in the file
    stop: int
    out_in: bool = False  # expert weights with their last two dimensions the other way round

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows first..last-1 of the leading dimension."""
        stored = _swap(self.shape) if self.out_in else self.shape
        size = math.prod(stored[1:])
        count = (last - first) * size
        offset = self.start + first * size * self.dtype.itemsize
        tensor = np.fromfile(self.file, self.dtype, count, offset=offset).reshape(last - first, *stored[1:])
        return tensor.swapaxes(1, 2) if self.out_in else tensor


def load_hf(path: str | os.PathLike, dtype: Any = None, sharding: Any = None) -> tuple[Qwen3VLConfig, Params]:
    """Load a HF Qwen3-VL directory (`config.json` and one or more safetensors files).

    All headers are checked against the config before anything is allocated; then tensors stream through in pieces.
    Processes that share a mesh must all call this, and each reads only its part of every large tensor.

    Args:
      dtype: of the parameters; default: as stored.
      sharding: a tree of shardings shaped like the parameters, or one sharding for all; default: the default device.

    Raises CheckpointError naming missing, surplus, misshapen and truncated tensors, ConfigError for a config it can't
    use, FileNotFoundError without one.
    """
    path = Path(path)
    config = Qwen3VLConfig.from_hf(path)
    stored = _check(path, config)
    table = weights(config)
    shardings = sharding if isinstance(sharding, dict) else map_weights(lambda *_: sharding, table)

    def leaf(_: str, weight: Weight, sharding: Any) -> jax.Array:
        tensors = [stored[name] for name in weight.hf_names()]
        kind = np.dtype(dtype) if dtype is not None else tensors[0].dtype
        if math.prod(weight.shape) * kind.itemsize <= _PIECE_BYTES:
            whole = np.empty(weight.shape, kind)
            for i, tensor in enumerate(tensors):
                whole[i if weight.stacked else ...] = weight.from_hf(tensor.rows(0, tensor.shape[0]))
            return jax.device_put(whole, sharding)
        return _stream(weight, tensors, kind, sharding)

    return config, map_weights(leaf, table, shardings)


def _stream(weight: Weight, tensors: list[_Stored], dtype: np.dtype, sharding: Any) -> jax.Array:
    """Fill an array on the device, in place, with pieces of its tensors.

    On a mesh each device is handed its share of a piece's rows, and the devices exchange them: a process reads what its
    own devices are handed, in long runs, whichever way the array itself is cut.
    """
    array = jax.jit(lambda: jnp.zeros(weight.shape, dtype), out_shardings=sharding)()
    write = jax.jit(jax.lax.dynamic_update_slice, donate_argnums=0, out_shardings=sharding)
    shape = weight.shape[1:] if weight.stacked else weight.shape
    rows = weight.hf_shape[0]
    # HF's leading dimension is this leaf's last one where it is transposed
    axis = len(shape) - 1 if weight.transposed else 0
    step, parts, handed = rows, 1, None
    if shape[axis] == rows:  # otherwise several dimensions come from HF's first: never a large tensor
        handed, parts = _shared_rows(sharding, rows, axis)
        fitting = _PIECE_BYTES * rows // max(1, math.prod(shape) * tensors[0].dtype.itemsize)
        step = max(parts, min(rows, fitting) // parts * parts)

    def read(tensor: _Stored, first: int, last: int) -> np.ndarray:
        piece = tensor.rows(first, last)
        if weight.transposed:
            piece = piece.reshape(last - first, -1).T
        part = list(shape)
        if last - first < rows:
            part[axis] = last - first
        return piece.reshape(part).astype(dtype, copy=False)

    for i, tensor in enumerate(tensors):
        for first in range(0, rows, step):
            last = min(first + step, rows)
            piece: Any
            if handed is None:
                piece = read(tensor, first, last)
            else:
                span = last - first

                def share(index: Any, tensor: _Stored = tensor, first: int = first, span: int = span) -> np.ndarray:
                    begin, end, _ = index[axis].indices(span)
                    return read(tensor, first + begin, first + end)

                size = (*shape[:axis], span, *shape[axis + 1 :])
                piece = jax.make_array_from_callback(size, handed, share)
            start = [0] * len(shape)
            start[axis] = first
            if weight.stacked:
                piece, start = piece[None], [i, *start]
            # Wait: pieces queued for the device would pile up on the host.
            array = write(array, piece, [np.int32(s) for s in start]).block_until_ready()
    return array


def _shared_rows(sharding: Any, rows: int, axis: int) -> tuple[NamedSharding | None, int]:
    """(a sharding of `axis` over as many of a mesh's devices as divide the rows, how many that are)."""
    if not isinstance(sharding, NamedSharding):
        return None, 1
    names: list[str] = []
    parts = 1
    for name, size in sharding.mesh.shape.items():
        if rows % (parts * size) == 0:
            names.append(name)
            parts *= size
    return NamedSharding(sharding.mesh, PartitionSpec(*[None] * axis, tuple(names))), parts


def _check(path: Path, config: Qwen3VLConfig) -> dict[str, _Stored]:
    """Headers of all files, by tensor name, once they are known to match the config."""
    stored: dict[str, _Stored] = {}
    wrong: list[str] = []
    for file in _files(path):
        for name, tensor in _header(file):
            if name in stored:
                wrong.append(f"{name}: in both {stored[name].file.name} and {file.name}")
            if tensor.stop > file.stat().st_size:
                wrong.append(f"{name}: truncated, {file.name} ends before it does")
            stored[name] = tensor
    expected = {name: weight.hf_shape for _, weight in flat_weights(config) for name in weight.hf_names()}
    experts = {name for _, weight in flat_weights(config) if weight.experts for name in weight.hf_names()}
    if _out_in({name: stored[name].shape for name in experts if name in stored}, expected):
        for name in experts & stored.keys():
            one, out, into = stored[name].shape
            stored[name] = replace(stored[name], shape=(one, into, out), out_in=True)
    wrong += [f"{name}: missing" for name in expected if name not in stored]
    wrong += [f"{name}: surplus, the config has no place for it" for name in stored if name not in expected]
    for name, shape in expected.items():
        if name in stored and stored[name].shape != shape:
            wrong.append(f"{name}: has shape {stored[name].shape}, expected {shape}")
    if wrong:
        listed = "\n  ".join(sorted(wrong))
        raise CheckpointError(f"{path} does not match its config.json. Fetch or make it anew:\n  {listed}")
    return stored


def _swap(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], shape[-1], shape[-2])


def _out_in(shapes: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether expert weights are stored [experts, out, in]; a square one does not tell, but the others do."""
    telling = [(shape, expected[name]) for name, shape in shapes.items() if expected[name][1] != expected[name][2]]
    return bool(telling) and all(shape == _swap(want) for shape, want in telling)


def _files(path: Path) -> list[Path]:
    if (path / _INDEX).exists():
        try:
            weight_map = json.loads((path / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            names = sorted({Path(name).as_posix() for name in weight_map.values()})
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointError(
                f"{path / _INDEX} is damaged ({type(error).__name__}: {error}). Fetch or make that checkpoint anew."
            ) from error
        if strange := [name for name in names if Path(name).name != name]:
            raise CheckpointError(f"{path / _INDEX} points outside its directory: {', '.join(strange)}")
        files = [path / name for name in names]
    else:
        files = [path / _SINGLE]
    if absent := [file.name for file in files if not file.exists()]:
        raise CheckpointError(f"{path} lacks {', '.join(absent)} (only safetensors files are read, never pickles)")
    return files


def _header(file: Path) -> Iterator[tuple[str, _Stored]]:
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        raw = stream.read(length) if length <= _MAX_HEADER_BYTES else b""
    try:
        if len(raw) != length:
            raise ValueError("the header is cut off")
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        for name, entry in entries.items():
            dtype, shape = _DTYPES.get(entry["dtype"]), tuple(entry["shape"])
            if dtype is None:
                raise ValueError(f"{name} has dtype {entry['dtype']}, expected one of {', '.join(_DTYPES)}")
            start, stop = entry["data_offsets"]
            if stop - start != math.prod(shape) * dtype.itemsize:
                raise ValueError(f"{name} has {stop - start} bytes for shape {shape}")
            yield name, _Stored(file, dtype, shape, 8 + length + start, 8 + length + stop)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} is not a readable safetensors file: {error}. Fetch or make it anew.") from error


def save_hf(
    path: str | os.PathLike,
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
    names = [_SINGLE if count == 1 else f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(path / name, shard)
    _replace_file(path / "config.json", json.dumps(config.to_hf(), indent=2) + "\n")
    if count > 1:
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.size for shard in shards for tensor in shard)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        _replace_file(path / _INDEX, json.dumps(index, indent=2) + "\n")
    else:
        (path / _INDEX).unlink(missing_ok=True)  # an older, sharded checkpoint would be read in this one's place


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
        return _swap(self.weight.hf_shape) if self.out_in else self.weight.hf_shape

    def fetch(self) -> np.ndarray:
        """On the host, whole; where processes share it out, each must ask for it."""
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
            "dtype": _NAMES[np.dtype(tensor.array.dtype)],
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
    partial.write_text(text)
    partial.replace(file)
