"""LoRA (arXiv 2106.09685) as a pytree of its own: the base weights stay as they are and never see a gradient.

`forward(params, config, inputs, lora)` adds `alpha / rank * dropout(x) @ a @ b` to the linear maps a rule names; `None`
is the base model, which is also the reference policy. Leaves of a `Lora` are trainable adapters and nothing else, so
`jax.grad` and optax work on it as it is.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.adapters import Adapter, Lora, LoraConfig, LoraRule
from hypereyes_jax.models.qwen3_vl.weights import Params, Weight, flat_weights

__all__ = [
    "Adapter",
    "Lora",
    "LoraConfig",
    "LoraRule",
    "adapted_weights",
    "init_lora",
    "merge",
    "trainable_count",
]


def adapted_weights(config: Qwen3VLConfig, lora_config: LoraConfig) -> dict[str, tuple[Weight, LoraRule]]:
    """What the rules adapt, by path. Raises ValueError for a rule that adapts nothing, listing what there is."""
    linear = {path: weight for path, weight in flat_weights(config) if weight.adaptable}
    adapted = {path: (weight, rule) for path, weight in linear.items() if (rule := lora_config.rule_for(path))}
    rules_in_use = {rule for _, rule in adapted.values()}
    for rule in lora_config.rules:
        if rule not in rules_in_use:
            raise ValueError(
                f"LoRA rule {rule.pattern!r} adapts nothing that an earlier rule does not; linear maps: "
                + ", ".join(linear)
            )
        if rule.rank < 1:
            raise ValueError(f"LoRA rule {rule.pattern!r} has rank {rule.rank}")
    return adapted


def trainable_count(config: Qwen3VLConfig, lora_config: LoraConfig) -> int:
    """How many numbers `init_lora` makes: rank * (in + out) for each map, layer and expert."""
    return sum(
        math.prod(a) + math.prod(b)
        for weight, rule in adapted_weights(config, lora_config).values()
        for a, b in [_shapes(weight, rule)]
    )


def init_lora(
    key: jax.Array,
    params: Params,
    config: Qwen3VLConfig,
    lora_config: LoraConfig = LoraConfig(),
    dtype: Any = jnp.float32,
) -> Lora:
    """Fresh adapters: a uniform within 1 / sqrt(in) as PEFT makes it, b zero, so the model is unchanged at first.

    Raises ValueError for a rule that adapts nothing, or parameters that are not those of `config`.
    """
    tree: dict[str, Any] = {}
    count = 0
    for path, (weight, rule) in adapted_weights(config, lora_config).items():
        *parents, name = path.split("/")
        base, node = params, tree
        for parent in parents:
            base, node = base[parent], node.setdefault(parent, {})
        if base[name].shape != weight.shape:
            raise ValueError(f"params[{path!r}] has shape {base[name].shape}, but the config makes it {weight.shape}")
        a, b = _shapes(weight, rule)
        bound = 1 / math.sqrt(a[-2])
        mine = jax.random.fold_in(key, zlib.crc32(path.encode()))
        node[name] = {"a": jax.random.uniform(mine, a, dtype, -bound, bound), "b": jnp.zeros(b, dtype)}
        count += math.prod(a) + math.prod(b)
    # An adapter that silently goes missing (experts often do) trains a different model without a sign.
    assert count == trainable_count(config, lora_config)
    return Lora(tree, lora_config)


def merge(params: Params, lora: Lora | None) -> Params:
    """Parameters with the adapters added in: W + alpha / rank * a @ b, summed in float32, in W's dtype.

    Without adapters they are what they were.
    """
    if lora is None:
        return params
    rules = lora.config

    def walk(prefix: str, base: Any, adapter: Any) -> Any:
        if not isinstance(base, dict):
            rule = rules.rule_for(prefix)
            assert rule is not None, prefix
            delta = jnp.matmul(adapter["a"].astype(jnp.float32), adapter["b"].astype(jnp.float32)) * rule.scale
            return (base.astype(jnp.float32) + delta.reshape(base.shape)).astype(base.dtype)
        path = f"{prefix}/" if prefix else ""
        return {key: walk(path + key, child, adapter[key]) if key in adapter else child for key, child in base.items()}

    return walk("", params, lora.weights)


def _shapes(weight: Weight, rule: LoraRule) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes of a [(layers,) (experts,) in, rank] and b [(layers,) (experts,) rank, out]."""
    lead = weight.lead
    fan_in, fan_out = weight.shape[lead], math.prod(weight.shape[lead + 1 :])
    return (*weight.shape[:lead], fan_in, rule.rank), (*weight.shape[:lead], rule.rank, fan_out)
