"""Safetensors files, read one run of rows at a time. No pickle is ever read.

The format is a length, a JSON header and raw little-endian data. Reading it here, not through the library, is what lets
a piece of a tensor be read without mapping or copying the rest, from a disk or from a bucket. A header is not trusted:
what it says is bounded by what the file holds before anything is allocated.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np

from hypereyes_jax.errors import UserError
from hypereyes_jax.models.storage import LocalFile, RangeFile

DTYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
}
_OTHER_DTYPES = frozenset("BOOL U8 I8 F8_E5M2 F8_E8M0 F4 I16 U16 I32 U32 I64 U64".split())  # of the format
LFS_POINTER = b"version https://git-lfs"  # how a file begins that `git clone` left in place of a large one
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MOST_AXES = 32
_LISTED = 12  # kinds of fault that a message names; the rest are counted


class CheckpointError(UserError, ValueError):
    """A checkpoint that does not hold exactly the tensors its config asks for, or that can't be read."""


class _UnknownDtype(ValueError):
    """A tensor of a type that the format has, and this project does not read."""


def refuse_lfs_pointer(head: bytes, where: str) -> None:
    """Raises CheckpointError for a file that stands for the one that it names, which was never fetched."""
    if head.startswith(LFS_POINTER):
        raise CheckpointError(f"{where} is a pointer of Git LFS, not the file itself. Fetch the file: git lfs pull.")


class Tensor(Protocol):
    """A tensor that lies elsewhere."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of what `rows` gives."""

    def rows(self, first: int, last: int) -> np.ndarray:
        """Rows first..last-1 of the leading dimension."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, described by the file's header."""

    file: RangeFile
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int  # byte in the file
    stop: int

    def rows(self, first: int, last: int) -> np.ndarray:
        row = math.prod(self.shape[1:])
        count, offset = (last - first) * row, self.start + first * row * self.dtype.itemsize
        shape = (last - first, *self.shape[1:])
        if isinstance(self.file, LocalFile):
            return np.fromfile(self.file.path, self.dtype, count, offset=offset).reshape(shape)
        data = self.file.read(offset, offset + count * self.dtype.itemsize)
        return np.frombuffer(data, self.dtype).reshape(shape)


@dataclass(frozen=True)
class SwappedTensor:
    """A tensor of three dimensions, the last two the other way round."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        first, second, third = self.tensor.shape
        return first, third, second

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        return self.tensor.rows(first, last).swapaxes(1, 2)


@dataclass(frozen=True)
class BlockScaledTensor:
    """FP8 values with one scale for each block of the last two dimensions: `value * scale`, in float32."""

    values: StoredTensor
    scales: StoredTensor  # [..., ceil(rows / block rows), ceil(columns / block columns)]
    block: tuple[int, int]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32)

    def scale_shape(self) -> tuple[int, ...]:
        """The shape that the scales must have."""
        rows, columns = (-(-size // block) for size, block in zip(self.shape[-2:], self.block, strict=True))
        return (*self.shape[:-2], rows, columns)

    def rows(self, first: int, last: int) -> np.ndarray:
        values = self.values.rows(first, last).astype(np.float32)
        tall, wide = self.block
        if values.ndim == 2:  # the leading dimension is the one that is cut into blocks
            scales = self.scales.rows(first // tall, -(-last // tall)).astype(np.float32)
            row_scales = scales[np.arange(first, last) // tall - first // tall]
        else:
            scales = self.scales.rows(first, last).astype(np.float32)
            row_scales = np.repeat(scales, tall, axis=-2)[..., : values.shape[-2], :]
        for column in range(row_scales.shape[-1]):  # a block of columns at a time: no second array of this size
            values[..., column * wide : (column + 1) * wide] *= row_scales[..., column : column + 1]
        return values


@dataclass(frozen=True)
class FiniteTensor:
    """A tensor whose numbers are looked at as they are read: what is not finite, or would not be, is noted.

    faults: tensor -> what is wrong with it, added to.
    target: the type that its numbers are to have.
    """

    tensor: Tensor
    name: str
    faults: dict[str, str]
    target: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        values = self.tensor.rows(first, last)
        if not all_finite(values):
            self.faults[self.name] = "holds NaN or infinity"
        elif _is_narrow(self.target, values.dtype) and not all_finite(narrowed := _cast(values, self.target)):
            self.faults.setdefault(self.name, f"holds numbers that {narrowed.dtype} has not")
        return values


def all_finite(values: np.ndarray) -> bool:
    """Whether no number is NaN or infinite, of any of `DTYPES`.

    These have the largest bit patterns of either sign, so that the maximum of the bits tells: no second array.
    """
    if not values.size:
        return True
    bits = values.dtype.itemsize * 8
    limit = np.dtype(values.dtype).type(np.inf)  # NaN in a type that has no infinity
    least = int(np.array(limit).view(f"u{values.dtype.itemsize}")) & ~(1 << bits - 1)
    signed, unsigned = values.view(f"i{values.dtype.itemsize}"), values.view(f"u{values.dtype.itemsize}")
    return int(signed.max()) < least and int(unsigned.max()) < least | 1 << bits - 1


def _is_narrow(target: np.dtype[Any], stored: np.dtype[Any]) -> bool:
    """Whether a type lacks a part of the range that numbers stored as another may well be in."""
    return target == np.float16 or (stored == np.float64 and target != np.float64)


def _cast(values: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def read_header(file: RangeFile, where: str) -> Iterator[tuple[str, StoredTensor]]:
    """(name, tensor) of each tensor in a safetensors file.

    Args:
      where: directory of the file, for messages.

    Raises CheckpointError if the file is not a safetensors file, is cut off, or describes tensors that it can't hold.
    """
    refuse_lfs_pointer(file.read(0, len(LFS_POINTER)), f"{where}/{file.name}")
    prefix = file.read(0, 8)
    length = int.from_bytes(prefix, "little")
    raw = file.read(8, 8 + length) if len(prefix) == 8 and length <= _MAX_HEADER_BYTES else b""
    try:
        if len(prefix) != 8 or len(raw) != length:
            raise ValueError("the header is cut off")
        entries = json.loads(raw.decode("utf-8"), object_pairs_hook=_without_repeats)
        if not isinstance(entries, dict):
            raise ValueError("the header is not a JSON object")
        entries.pop("__metadata__", None)
        position = 0
        tensors = [(name, _entry(name, entry)) for name, entry in entries.items()]
        for name, (_, _, start, stop) in sorted(tensors, key=lambda item: item[1][2:]):
            # The format leaves no holes and no overlaps, so that no byte is read as two tensors.
            if start != position:
                raise ValueError(f"{name:.200} begins at byte {start} of the data, expected {position}")
            position = stop
    except _UnknownDtype as error:
        raise CheckpointError(
            f"{where}/{file.name}: {error}. Give the checkpoint as it was before it was quantised or converted, or "
            "save it in one of these."
        ) from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{where}/{file.name} is not a readable safetensors file: {error}. Download or make it again."
        ) from error
    if not file.holds(8 + length + position):
        whole = f"{8 + length + position:,} bytes"
        raise CheckpointError(f"{where}/{file.name} is truncated: it should have {whole}. Download or make it again.")
    if isinstance(file, LocalFile) and file.holds(8 + length + position + 1):
        raise CheckpointError(f"{where}/{file.name} has data after its last tensor. Download or make it again.")
    for name, (dtype, shape, start, stop) in tensors:
        yield name, StoredTensor(file, dtype, shape, 8 + length + start, 8 + length + stop)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a header. Raises ValueError for a name that stands in it twice, of which readers differ."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice, _ = Counter(name for name, _ in pairs).most_common(1)[0]
        raise ValueError(f"{twice:.200} stands in it more than once")
    return fields


def _entry(name: str, entry: Any) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    """(dtype, shape, first byte, end) that a header gives a tensor. Raises ValueError naming it."""
    name = name[:200]
    if not isinstance(entry, dict):
        raise ValueError(f"{name} is described by {repr(entry)[:200]}, not by an object")
    dtype = DTYPES.get(kind) if isinstance(kind := entry.get("dtype"), str) else None
    if dtype is None:
        if isinstance(kind, str) and kind in _OTHER_DTYPES:
            raise _UnknownDtype(f"{name} is stored as {kind}, and weights are read as {', '.join(DTYPES)}")
        raise ValueError(f"{name} has dtype {repr(kind)[:200]}, expected one of {', '.join(DTYPES)}")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or any(
            type(number) is not int or not 0 <= number < 1 << 63 for number in numbers
        ):
            raise ValueError(f"{name} has {what}={repr(numbers)[:200]}, expected a list of numbers of at least 0")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"{name} has {len(shape):,} dimensions")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has data_offsets={str(offsets)[:100]} for shape {str(shape)[:200]} of {kind}")
    return dtype, tuple(shape), offsets[0], offsets[1]


def by_kind(faults: Iterable[tuple[str, str]]) -> list[str]:
    """One line for each kind: names that differ in numbers only (layers, experts) with the same fault are one."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for name, fault in sorted(faults):
        kinds.setdefault((re.sub(r"\d+", "*", name[:200]), fault), []).append(name[:200])
    lines = [
        f"{names[0]}: {fault}" if len(names) == 1 else f"{kind}: {fault} ({len(names):,} tensors, first {names[0]})"
        for (kind, fault), names in kinds.items()
    ]
    if len(lines) > _LISTED:
        lines[_LISTED:] = [f"and {len(lines) - _LISTED:,} more kinds"]
    return lines
