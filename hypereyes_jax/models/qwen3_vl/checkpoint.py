"""HF checkpoints into the parameter tree, one piece of a tensor at a time.

Expert weights come in two layouts: [experts, in, out] in the published checkpoints, [experts, out, in] where
transformers 5 saved a model it had not loaded from one. Both are read. So are the FP8 checkpoints that Qwen publishes:
their blocks are multiplied by their scales on the way in.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from hypereyes_jax.configs.hf_fields import fp8_block
from hypereyes_jax.configs.model import ConfigError, Qwen3VLConfig, parse_config
from hypereyes_jax.models.hub import locate
from hypereyes_jax.models.qwen3_vl.checkpoint_match import match
from hypereyes_jax.models.qwen3_vl.weights import Params, Weight, map_weights, weights
from hypereyes_jax.models.storage import Directory, open_directory
from hypereyes_jax.models.tensor_files import BlockScaledTensor, CheckpointError, FiniteTensor, Tensor, by_kind

# Leaves above this are moved to the device in pieces of this size, so that the host never holds a whole one.
_PIECE_BYTES = 64 << 20
_FLOATS = ("float32", "bfloat16", "float16")


def load_hf(path: str | os.PathLike[str], dtype: Any = None, sharding: Any = None) -> tuple[Qwen3VLConfig, Params]:
    """Load a HF Qwen3-VL checkpoint (`config.json` and one or more safetensors files).

    All headers are checked against the config before anything is allocated; then tensors stream through in pieces.
    Processes that share a mesh must all call this, and each reads only its part of every large tensor.

    Args:
      path: a local directory, a hub id like "org/name@revision", or the URL of a remote directory (gs://, s3://, ...),
        of which only the wanted bytes are read.
      dtype: of the parameters. By default as stored; of several, and of FP8, the one that `config.json` names, or else
        the one that most numbers have.
      sharding: a tree of shardings shaped like the parameters, or one sharding for all; default: the default device.

    Raises CheckpointError naming missing, surplus, misshapen and truncated tensors, and those that hold NaN or
    infinity (of what this process reads), ConfigError for a config it can't
    use, FileNotFoundError without one, StorageError for a remote file that can't be read,
    HubError for a hub id that can't be had.
    """
    directory = open_directory(locate(path))
    raw, config = read_model_config(directory)
    tensors = match(directory, config, fp8_block(raw.get("quantization_config")))
    kind = np.dtype(dtype) if dtype is not None else _one_dtype(raw, tensors.values())
    faults: dict[str, str] = {}
    table = weights(config)
    shardings = sharding if isinstance(sharding, dict) else map_weights(lambda *_: sharding, table)

    def leaf(_: str, weight: Weight, sharding: Any) -> jax.Array:
        parts = [FiniteTensor(tensors[name], name, faults, kind) for name in weight.hf_names()]
        if math.prod(weight.shape) * kind.itemsize <= _PIECE_BYTES:
            whole = np.empty(weight.shape, kind)
            for i, tensor in enumerate(parts):
                whole[i if weight.stacked else ...] = weight.from_hf(tensor.rows(0, tensor.shape[0]))
            return jax.device_put(whole, sharding)
        return _stream(weight, parts, kind, sharding)

    params = map_weights(leaf, table, shardings)
    if faults:
        lines = "\n  ".join(by_kind(faults.items()))
        raise CheckpointError(
            f"{directory} holds weights that are not finite. The file is damaged, or the run that wrote it diverged: "
            f"give another checkpoint, or an earlier step.\n  {lines}"
        )
    return config, params


def read_model_config(directory: Directory) -> tuple[dict[str, Any], Qwen3VLConfig]:
    """(`config.json` as it is, what it describes). Raises ConfigError naming it, FileNotFoundError."""
    where = f"{directory}/config.json"
    raw = parse_config(directory.read_bytes("config.json"), where)
    try:
        return raw, Qwen3VLConfig.from_hf(raw)
    except ValueError as error:
        raise ConfigError.of_another_model(where, error) from error


def _one_dtype(raw: Mapping[str, Any], tensors: Iterable[Tensor]) -> np.dtype[Any]:
    """One dtype for all parameters: a scan over layers carries one, and transformers, too, computes in one."""
    numbers: Counter[np.dtype[Any]] = Counter()
    scaled = False
    for tensor in tensors:
        if isinstance(tensor, BlockScaledTensor):
            scaled = True  # what it was before is not stored with it
        else:
            stored = tensor.dtype if tensor.dtype != np.float64 else np.dtype(np.float32)  # jax has none of 64 bits
            numbers[stored] += math.prod(tensor.shape)
    if len(numbers) == 1 and not scaled:
        return next(iter(numbers))
    text = raw.get("text_config") or {}
    name_of_dtype = next((name for name in (raw.get("dtype"), raw.get("torch_dtype"), text.get("dtype")) if name), None)
    if name_of_dtype in _FLOATS:
        return np.dtype(jnp.bfloat16 if name_of_dtype == "bfloat16" else name_of_dtype)
    return numbers.most_common(1)[0][0]


def _stream(weight: Weight, tensors: Sequence[Tensor], dtype: np.dtype, sharding: Any) -> jax.Array:
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
    step, parts, writes = rows, 1, None
    if shape[axis] == rows:  # otherwise several dimensions come from HF's first: never a large tensor
        writes, parts = _shared_rows(sharding, rows, axis)
        fitting = _PIECE_BYTES * rows // max(1, math.prod(shape) * tensors[0].dtype.itemsize)
        step = max(parts, min(rows, fitting) // parts * parts)

    def read(tensor: Tensor, first: int, last: int) -> np.ndarray:
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
            if writes is None:
                piece = read(tensor, first, last)
            else:
                span = last - first

                def share(index: Any, tensor: Tensor = tensor, first: int = first, span: int = span) -> np.ndarray:
                    begin, end, _ = index[axis].indices(span)
                    return read(tensor, first + begin, first + end)

                size = (*shape[:axis], span, *shape[axis + 1 :])
                piece = jax.make_array_from_callback(size, writes, share)
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
