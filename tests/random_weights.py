"""Random weights and adapters drawn by numpy, for jax would compile a program for each of their shapes.

Where the drawing itself is tested, use `init_params` and `init_lora`.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.lora import LoraConfig, init_lora
from hypereyes_jax.models.qwen3_vl import init_params
from hypereyes_jax.models.qwen3_vl.weights import Params, Weight, map_weights, weights

EVERY_MAP = LoraConfig()


def random_params(config: Qwen3VLConfig, seed: int = 0, dtype: Any = jnp.float32, scale: float = 1.0) -> Params:
    """Distributed as `init_params` draws them, but the layers' matrices `scale` times as large."""
    rng = np.random.default_rng(seed)

    def draw(_: str, weight: Weight) -> jax.Array:
        if weight.constant:
            return jnp.asarray(np.full(weight.shape, weight.init).astype(dtype))
        size = weight.init * (scale if len(weight.shape) > 2 else 1.0)
        return jnp.asarray((rng.normal(size=weight.shape) * size).astype(dtype))

    return map_weights(draw, weights(config))


def random_lora(config: Qwen3VLConfig, rules: LoraConfig = EVERY_MAP, seed: int = 1, scale: float = 0.1) -> Lora:
    """Adapters with both factors normal, of standard deviation `scale`, as after training."""
    rng = np.random.default_rng(seed)

    def draw(shape: jax.ShapeDtypeStruct) -> jax.Array:
        return jnp.asarray((rng.normal(size=shape.shape) * scale).astype(np.float32))

    return jax.tree.map(draw, _shapes(config, rules))


@functools.cache
def _shapes(config: Qwen3VLConfig, rules: LoraConfig) -> Lora:
    key = jax.random.key(0)
    return jax.eval_shape(lambda: init_lora(key, init_params(key, config), config, rules))
