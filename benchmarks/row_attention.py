"""Attention of packed rows on a CPU: row by row in blocks, beside XLA's of whole rows.

    python benchmarks/row_attention.py [--repeats 15]

The miniature's training rows: 8 of 1,024 tokens, of which two trajectories of about 400 fill four fifths; 4 heads of 64
values, 2 of keys; float32. Forward, and forward with backward, medians of the repeats in turns. Ends with one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
from machine_speed import Machine

from hypereyes_jax.models.qwen3_vl.attention import masked_attention, segment_attention

ROWS, TOKENS, HEADS, KV_HEADS, SIZE = 8, 1024, 4, 2, 64


def whole_rows(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array) -> jax.Array:
    mask = (segment[:, :, None] == segment[:, None, :]) & jnp.tri(TOKENS, dtype=bool)
    return masked_attention(q, k, v, mask)


def in_blocks(q: jax.Array, k: jax.Array, v: jax.Array, segment: jax.Array) -> jax.Array:
    return segment_attention(q, k, v, segment, causal=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    machine, rng = Machine(), np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(ROWS, TOKENS, h, SIZE)), jnp.float32) for h in (HEADS, KV_HEADS, KV_HEADS))
    lengths = rng.integers(340, 460, (ROWS, 2))
    segment = jnp.asarray(np.stack([np.repeat([1, 2, 0], [a, b, TOKENS - a - b]) for a, b in lengths]), jnp.int32)
    programs = {
        f"{form.__name__}_{name}": jax.jit(run)
        for form in (in_blocks, whole_rows)
        for name, run in (
            ("forward", form),
            ("gradient", jax.grad(lambda q, k, v, s, form=form: jnp.sum(jnp.sin(form(q, k, v, s))), (0, 1, 2))),
        )
    }
    took: dict[str, list[float]] = {name: [] for name in programs}
    for run in programs.values():
        jax.block_until_ready(run(q, k, v, segment))
    for _ in range(repeats):
        for name, run in programs.items():
            began = time.perf_counter()
            jax.block_until_ready(run(q, k, v, segment))
            took[name].append(time.perf_counter() - began)
    result = {f"{name}_ms": round(1000 * float(np.median(each)), 1) for name, each in took.items()}
    for name, milliseconds in result.items():
        print(f"{name:24} {milliseconds}")
    print(json.dumps(result | {"machine": machine.figures()}))


if __name__ == "__main__":
    main()
