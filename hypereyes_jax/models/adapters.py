"""Adapters as a pytree beside the weights: which maps have one, and what it adds to them."""

from __future__ import annotations

import functools
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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


@functools.partial(jax.tree_util.register_dataclass, data_fields=["weights"], meta_fields=["config"])
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
            key = jax.random.fold_in(dropout_key, zlib.crc32(path.encode()))
            mask = jax.random.bernoulli(key, 1 - self.config.dropout, x.shape)
            x = jnp.where(mask, x / (1 - self.config.dropout), 0)
        low = matmul(x, adapter["a"].astype(x.dtype))
        return matmul(low, adapter["b"].astype(x.dtype)) * rule.scale
