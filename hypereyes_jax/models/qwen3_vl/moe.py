"""Mixture-of-experts feed-forward, and how evenly its router spreads the tokens.

Axis letters: N tokens, D model width, E experts, F expert width, A = N * experts a token (token, expert) assignments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import TextConfig

if TYPE_CHECKING:
    from hypereyes_jax.models.lora import Lora

MoeImpl = Literal["ragged", "dense"]
Matmul = Callable[[jax.Array, jax.Array], jax.Array]


class RouterLoad(NamedTuple):
    """What the load-balancing loss needs of a layer; stacked over layers where a whole model returns it."""

    assigned_E: jax.Array  # float32, how many valid tokens chose each expert
    probability_E: jax.Array  # float32, sum of the router's probabilities over valid tokens
    tokens: jax.Array  # float32, number of valid tokens


def mixture(
    w: Mapping[str, jax.Array],
    config: TextConfig,
    x_ND: jax.Array,
    valid_N: jax.Array,
    impl: MoeImpl,
    lora: Lora | None,
    adapter: Mapping[str, Any],
    dropout_key: jax.Array | None,
) -> tuple[jax.Array, RouterLoad]:
    """Send each token to its `num_experts_per_tok` best experts: ([N, D], load).

    Gates are the chosen experts' probabilities, normalised to sum to one. No token is dropped.

    Args:
      valid_N: False on padding, which is computed but does not count in the load.
      impl: "ragged" sorts the assignments by expert and multiplies groups (`jax.lax.ragged_dot`: fast on TPU); "dense"
        runs every expert on every token, which is E / k times the work in plain matmuls, for platforms where
        ragged_dot is worse than that.
    """
    probability = jax.nn.softmax((x_ND @ w["router"]).astype(jnp.float32), axis=-1)
    gate_NK, expert_NK = jax.lax.top_k(probability, config.num_experts_per_tok)
    gate_NK = (gate_NK / jnp.sum(gate_NK, axis=-1, keepdims=True)).astype(x_ND.dtype)

    def experts(name: str, x: jax.Array, matmul: Matmul) -> jax.Array:
        weight = w[name].reshape(*w[name].shape[:2], -1)
        y = matmul(x, weight)
        if lora is None or name not in adapter:
            return y
        return y + lora.delta(f"layers/{name}", adapter[name], x, dropout_key, matmul)

    def feed_forward(x: jax.Array, matmul: Matmul) -> jax.Array:
        gate, up = jnp.split(experts("expert_gate_up", x, matmul), 2, axis=-1)
        return experts("expert_down", jax.nn.silu(gate) * up, matmul)

    if impl == "ragged":
        out = _ragged(feed_forward, x_ND, gate_NK, expert_NK, config.num_experts)
    elif impl == "dense":
        out = _dense(feed_forward, x_ND, gate_NK, expert_NK, config.num_experts)
    else:
        raise ValueError(f"moe={impl!r} is not one of ragged, dense")
    valid = valid_N.astype(jnp.float32)
    chosen = jnp.sum(jax.nn.one_hot(expert_NK, config.num_experts, dtype=jnp.float32), axis=1)
    return out, RouterLoad(valid @ chosen, valid @ probability, jnp.sum(valid))


def _ragged(feed_forward: Callable, x_ND: jax.Array, gate_NK: jax.Array, expert_NK: jax.Array, count: int) -> jax.Array:
    each = expert_NK.shape[1]
    expert_A = expert_NK.reshape(-1)
    order_A = jnp.argsort(expert_A, stable=True)
    sizes_E = jnp.bincount(expert_A, length=count)
    y = feed_forward(x_ND[order_A // each], lambda x, weight: jax.lax.ragged_dot(x, weight, sizes_E))
    back_A = jnp.argsort(order_A)
    return jnp.einsum("nkd,nk->nd", y[back_A].reshape(*expert_NK.shape, -1), gate_NK)


def _dense(feed_forward: Callable, x_ND: jax.Array, gate_NK: jax.Array, expert_NK: jax.Array, count: int) -> jax.Array:
    gate_NE = jnp.einsum("nk,nke->ne", gate_NK, jax.nn.one_hot(expert_NK, count, dtype=gate_NK.dtype))
    x_END = jnp.broadcast_to(x_ND, (count, *x_ND.shape))
    return jnp.einsum("end,ne->nd", feed_forward(x_END, jnp.matmul), gate_NE)


def load_balancing_loss(load: RouterLoad) -> jax.Array:
    """Switch Transformer loss (arXiv 2101.03961, equations 4-6), 0-d float32; k (experts a token) when perfectly even.

    Args:
      load: of all layers, each field with a leading layer axis. Multiply the loss by `router_aux_loss_coef`.
    """
    total = jnp.maximum(jnp.sum(load.tokens), 1.0)
    assigned = jnp.sum(load.assigned_E, axis=0) / total
    probability = jnp.sum(load.probability_E, axis=0) / total
    return load.assigned_E.shape[-1] * jnp.sum(assigned * probability)
