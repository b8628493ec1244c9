"""Adapters as a pytree beside the weights: which maps have one, and what it adds to them."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

Adapter = Mapping[str, jax.Array]  # {"a": [..., in, rank], "b": [..., rank, out]}


@dataclass(frozen=True)
class LoraRule:
    """Adapts every linear map whose path (like "layers/q" or "vision/blocks/qkv_w") the pattern matches in full."""

    pattern: str
    rank: int = 8
    alpha: float = 32.0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class LoraConfig:
    """The first rule that matches a linear map decides. The default is the paper's: all of the decoder, no vision."""

    rules: tuple[LoraRule, ...] = (LoraRule("layers/.*"),)
    dropout: float = 0.0

    def rule_for(self, path: str) -> LoraRule | None:
        return next((rule for rule in self.rules if re.fullmatch(rule.pattern, path)), None)


@partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["config"])
@dataclass(frozen=True)
class Lora:
    """Adapters, shaped like the part of the parameter tree they adapt, each leaf an `Adapter`."""

    weights: dict[str, Any]
    config: LoraConfig = field(default_factory=LoraConfig)

    def delta(
        self,
        path: str,
        adapter: Adapter,
        x: jax.Array,
        dropout_key: jax.Array | None,
        matmul: Callable[[jax.Array, jax.Array], jax.Array],
    ) -> jax.Array:
        """What the adapter at `path` adds to its map of x [..., in]; `matmul` knows which expert a row belongs to."""
        rule = self.config.rule_for(path)
        assert rule is not None, path
        if dropout_key is not None and self.config.dropout > 0:
            x = _dropped(jax.random.fold_in(dropout_key, zlib.crc32(path.encode())), x, self.config.dropout)
        low = matmul(x, adapter["a"].astype(x.dtype))
        return matmul(low, adapter["b"].astype(x.dtype)) * rule.scale


def _dropped(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """x [..., D] with each value 0 at the given rate, and the others scaled so that the mean stays."""
    return jax.lax.platform_dependent(
        key, x, cpu=partial(dropped_by_halves, rate=rate), default=partial(dropped_one_by_one, rate=rate)
    )


def dropped_one_by_one(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """`_dropped` with a random word for each value."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, x.shape), x / (1 - rate), 0)


def dropped_by_halves(key: jax.Array, x: jax.Array, rate: float) -> jax.Array:
    """`_dropped` with a random word for two values, and a rate that is rounded to a multiple of 2^-16.

    XLA's CPU backend draws in a loop on one core, which took a sixth of the miniature's SFT. On other devices drawing
    is a part of the kernel that drops, and the halves of a word would have to be laid out anew.
    """
    words = jax.random.bits(key, (*x.shape[:-1], -(-x.shape[-1] // 2)))
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16).reshape(*x.shape[:-1], -1)[..., : x.shape[-1]]
    least = min(round(rate * 2**16), 2**16 - 1)
    return jnp.where(halves >= least, x / (1 - least / 2**16), 0)
