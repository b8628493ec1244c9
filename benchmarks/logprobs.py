"""Memory and time of `token_logprobs` beside the naive log-softmax, at Qwen3-VL's vocabulary.

    python benchmarks/logprobs.py                   # [2, 2048, 512] x [512, 151936]; needs 16 GiB for the naive form
    python benchmarks/logprobs.py --vocab 20000     # a quick look

Value and gradient with respect to hidden states and head, through log-probs and entropies. Memory is the temporaries of
XLA's own analysis of the compiled program; time is the median of the calls after a first one, the two forms taking
turns. The last line is
JSON: `temp_ratio` and `time_ratio` are chunked / naive, smaller is better.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from machine_speed import Machine

from hypereyes_jax.rl import token_logprobs


def naive(hidden: jax.Array, head: jax.Array, targets: jax.Array, temperature: float) -> tuple[jax.Array, jax.Array]:
    logp = jax.nn.log_softmax(hidden @ head / temperature)
    chosen = jnp.take_along_axis(logp, targets[..., None], axis=-1)[..., 0]
    return chosen, -jnp.sum(jnp.exp(logp) * logp, axis=-1)


def compiled(function: Callable[..., Any], arrays: tuple[jax.Array, ...], temperature: float) -> Any:
    def loss(hidden: jax.Array, head: jax.Array, targets: jax.Array) -> jax.Array:
        logp, entropy = function(hidden, head, targets, temperature)
        return -jnp.mean(logp) - 0.01 * jnp.mean(entropy)

    return jax.jit(jax.value_and_grad(loss, (0, 1))).lower(*arrays).compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--vocab", type=int, default=151_936)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    machine = Machine()

    keys = jax.random.split(jax.random.key(0), 3)
    hidden = jax.random.normal(keys[0], (args.batch, args.length, args.width))
    head = jax.random.normal(keys[1], (args.width, args.vocab)) * args.width**-0.5
    arrays = hidden, head, jax.random.randint(keys[2], (args.batch, args.length), 0, args.vocab)

    programs = {name: compiled(f, arrays, 0.8) for name, f in (("naive", naive), ("chunked", token_logprobs))}
    temp = {name: program.memory_analysis().temp_size_in_bytes for name, program in programs.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    losses = {}
    for repeat in range(args.repeats + 1):
        for name, program in programs.items():
            start = time.perf_counter()
            losses[name] = float(jax.block_until_ready(program(*arrays))[0])
            if repeat:  # the first call touches its memory for the first time
                seconds[name].append(time.perf_counter() - start)
                print(f"{name:8} {seconds[name][-1]:6.2f} s  {temp[name] / 2**20:8.0f} MiB", flush=True)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        json.dumps(
            {
                "shape": [args.batch, args.length, args.width, args.vocab],
                "temp_bytes": temp,
                "seconds": {name: round(value, 3) for name, value in median.items()},
                "temp_ratio": round(temp["chunked"] / temp["naive"], 4),
                "time_ratio": round(median["chunked"] / median["naive"], 3),
                "loss_difference": abs(losses["chunked"] - losses["naive"]),
                "repeats": args.repeats,
                "device": jax.devices()[0].device_kind,
                "jax": jax.__version__,
                "machine": machine.figures(),
            }
        )
    )


if __name__ == "__main__":
    main()
