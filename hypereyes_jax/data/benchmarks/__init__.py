"""Benchmarks in the files that their authors published, as sequences of questions."""

from __future__ import annotations

from hypereyes_jax.data.benchmarks.formats import any_row
from hypereyes_jax.data.benchmarks.opening import (
    BENCHMARKS,
    holds_benchmark,
    known_benchmark,
    open_benchmark,
    read_subset,
)
from hypereyes_jax.data.benchmarks.types import Benchmark, BenchmarkSpec, ReadOptions

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "BenchmarkSpec",
    "ReadOptions",
    "any_row",
    "holds_benchmark",
    "known_benchmark",
    "open_benchmark",
    "read_subset",
]
