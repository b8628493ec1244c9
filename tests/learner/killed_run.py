"""A run that writes a checkpoint after each step, and may be killed: what `test_checkpoint.py` runs in forks."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import optax

from hypereyes_jax.learner.checkpoint import Checkpoints
from hypereyes_jax.learner.state import TrainState


def state(step=0, seed=0):
    key = jax.random.key(seed)
    weights = {"a": jax.random.normal(key, (300, 40)), "b": {"c": jnp.ones(5, jnp.bfloat16)}}
    optimizer = optax.chain(
        optax.scale_by_adam(), optax.masked(optax.add_decayed_weights(0.1), {"a": True, "b": False})
    )
    base = {"base": jnp.arange(3.0)}
    return TrainState(jnp.int32(step), weights, base, optimizer.init(weights), jax.random.key_data(key))


@jax.jit
def _step(s):
    noise = jax.random.normal(jax.random.fold_in(jax.random.wrap_key_data(s.key), s.step), s.trainable["a"].shape)
    return s.replace(step=s.step + 1, trainable={**s.trainable, "a": s.trainable["a"] * 0.9 + noise})


def last_step(directory: str) -> int:
    """Of a run's checkpoints."""
    with Checkpoints(Path(directory)) as checkpoints:
        return max(checkpoints.steps, default=0)


def train(directory: str, steps: int, kill_after: float | None = None) -> None:
    """Goes on to so many steps.

    Args:
      kill_after: seconds after the first step that it takes until another process kills this one.
    """
    trained, told = os.pipe()
    own = os.getpid()
    if kill_after is not None and os.fork() == 0:
        os.close(told)
        if os.read(trained, 1):  # nothing, if it ends before
            time.sleep(kill_after)
            if os.getppid() == own:
                os.kill(own, signal.SIGKILL)
        os._exit(0)
    with Checkpoints(Path(directory)) as checkpoints:
        s, cursor = checkpoints.restore(state()) or (state(), {"seen": []})
        while int(s.step) < steps:
            cursor = {"seen": [*cursor["seen"], int(s.step)]}
            s = _step(s)
            checkpoints.save(s, cursor)
            os.write(told, b"!")
