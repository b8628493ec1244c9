"""Running Pallas kernels of the Triton dialect: compiled on a GPU, interpreted on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

LEAST = 16  # rows and columns of a Triton matmul


def on_platform(run: Callable[..., Any], *arrays: Any) -> Any:
    """`run(*arrays, interpret=...)` for the platform it is lowered for.

    Interpreting is slow, and for tests: it runs the same kernel in XLA's operations, a program of the grid at a time.
    """
    return jax.lax.platform_dependent(*arrays, cpu=partial(run, interpret=True), default=partial(run, interpret=False))


def launch(
    kernel: Callable[..., None],
    grid: tuple[int, ...],
    out_shape: Any,
    *arrays: Any,
    interpret: bool,
    name: str,
    warps: int = 4,
    stages: int = 2,
    aliases: dict[int, int] | None = None,
) -> Any:
    """One kernel over a grid. Every reference is to a whole array: the kernel finds its own part.

    Args:
      out_shape: `jax.ShapeDtypeStruct`s, in a list if there are several.
      aliases: argument -> result that takes over its memory.
    """
    return pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[pl.no_block_spec] * len(arrays),
        out_specs=jax.tree.map(lambda _: pl.no_block_spec, out_shape),
        out_shape=out_shape,
        input_output_aliases=aliases or {},
        compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
        interpret=interpret,
        name=name,
    )(*arrays)


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """a @ b of two blocks, added up in float32. Products of float32 values are not rounded to 19 bits."""
    return triton.dot(a, b, allow_tf32=False) if a.dtype == jax.numpy.float32 else triton.dot(a, b)
