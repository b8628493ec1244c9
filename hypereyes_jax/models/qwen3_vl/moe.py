"""Mixture-of-experts feed-forward, and how evenly its router spreads the tokens.

Axis letters: B rows, T tokens of a row, N tokens, D model width, E experts, F expert width, A = N * experts a token
(token, expert) assignments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax.ad_checkpoint import checkpoint_name

from hypereyes_jax.configs.model import TextConfig
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.expert_parallel import sharded_experts
from hypereyes_jax.models.quantized import Quantized, flat, product, scaled
from hypereyes_jax.models.qwen3_vl.checkpoint_names import CHOSEN_EXPERTS
from hypereyes_jax.models.qwen3_vl.moe_blocks import ExpertWeights, blocked_experts
from hypereyes_jax.models.qwen3_vl.triton_adapted import adapted_experts
from hypereyes_jax.models.qwen3_vl.triton_experts import grouped_experts

MoeImpl = Literal["ragged", "blocks", "dense", "grouped"]
# They choose most experts, whose weights are read once, and sorting them would take more kernels than it saves.
_FEW_TOKENS = 32
UNKNOWN_EXPERT = 255  # in place of an expert's number, of which there are 255 at most: the router chooses
Matmul = Callable[[jax.Array, Any], jax.Array]  # of a weight that may be in int8


class Routing(NamedTuple):
    """What a pass does about its tokens' experts beside letting the router choose.

    The router's probabilities weigh the experts in every case, so that it learns as it does without replay.
    """

    experts: jax.Array | None = None
    """uint8 [layers, B, T, K], those to take: the choice that another pass made. UNKNOWN_EXPERT: the router chooses."""
    keep: bool = False
    """The backward pass takes the experts that the forward pass chose, also where it computes the layer again."""
    record: bool = False
    """Give back the experts that were taken."""


class Routed(struct.PyTreeNode):
    """What a pass says of its experts, stacked over layers."""

    load: RouterLoad
    experts: jax.Array | None  # uint8 [layers, B, T, K] where they are recorded


class RouterLoad(struct.PyTreeNode):
    """What the load-balancing loss needs of a layer; stacked over layers where a whole model returns it."""

    assigned_E: jax.Array  # float32, how many valid tokens chose each expert
    probability_E: jax.Array  # float32, sum of the router's probabilities over valid tokens
    tokens: jax.Array  # float32, number of valid tokens


def mixture(
    w: Mapping[str, jax.Array],
    config: TextConfig,
    x_BTD: jax.Array,
    valid_BT: jax.Array,
    impl: MoeImpl,
    lora: Lora | None,
    adapter: Mapping[str, Any],
    dropout_key: jax.Array | None,
    routing: Routing = Routing(),  # noqa: B008 - holds nothing that changes
) -> tuple[jax.Array, Routed]:
    """Send each token to its `num_experts_per_tok` best experts: ([B, T, D], what is told of them).

    Gates are the chosen experts' probabilities, normalised to sum to one. No token is dropped.

    Args:
      valid_BT: False on padding, which is computed but does not count in the load.
      routing: `experts` of this layer, [B, T, K].
      impl: "ragged" sorts the assignments by expert and multiplies groups (`jax.lax.ragged_dot`), which holds a copy of
        all assignments; "blocks" does the same block by block in plain matmuls, in memory that does not grow with them
        (`moe_blocks`); "dense" runs every expert on every token, E / k times the work; "grouped" are Triton kernels for
        GPUs (`triton_experts`, with adapters `triton_adapted`), but for few tokens, which are as quickly done densely.
    """
    probability = jax.nn.softmax((x_BTD @ w["router"]).astype(jnp.float32), axis=-1)
    gate_BTK, expert_BTK = _chosen(probability, config.num_experts_per_tok, routing)
    gate_BTK = (gate_BTK / jnp.sum(gate_BTK, axis=-1, keepdims=True)).astype(x_BTD.dtype)

    if impl not in ("ragged", "blocks", "dense", "grouped"):
        raise ValueError(f"moe={impl!r} is not one of ragged, blocks, dense, grouped")
    own = {name: w[name] for name in ("expert_gate_up", "expert_down")}
    run = partial(_experts, impl, lora, dropout_key)
    out = sharded_experts(run, own, adapter, x_BTD, gate_BTK, expert_BTK)
    valid = valid_BT.astype(jnp.float32)
    choices = jnp.sum(jax.nn.one_hot(expert_BTK, config.num_experts, dtype=jnp.float32), axis=2)
    assigned_E, probability_E = (jnp.einsum("bt,bte->e", valid, share) for share in (choices, probability))
    experts = expert_BTK.astype(jnp.uint8) if routing.record else None
    return out, Routed(RouterLoad(assigned_E, probability_E, jnp.sum(valid)), experts)


def _chosen(probability_BTE: jax.Array, each: int, routing: Routing) -> tuple[jax.Array, jax.Array]:
    """(probabilities, numbers) of each token's experts, both [B, T, K]."""
    gate_BTK, expert_BTK = jax.lax.top_k(probability_BTE, each)
    if routing.experts is None and not routing.keep:
        return gate_BTK, expert_BTK
    if routing.experts is not None:
        replayed_BTK = jnp.asarray(routing.experts).astype(expert_BTK.dtype)
        expert_BTK = jnp.where(replayed_BTK[..., :1] == UNKNOWN_EXPERT, expert_BTK, replayed_BTK)
    if routing.keep:
        # What the forward pass chose is a residual: computed again in few bits, a close decision may fall otherwise.
        expert_BTK = checkpoint_name(expert_BTK, CHOSEN_EXPERTS)
    return jnp.take_along_axis(probability_BTE, expert_BTK, axis=-1), expert_BTK


def _experts(
    impl: MoeImpl,
    lora: Lora | None,
    dropout_key: jax.Array | None,
    w: Mapping[str, jax.Array],
    adapter: Mapping[str, Any],
    x_ND: jax.Array,
    gate_NK: jax.Array,
    expert_NK: jax.Array,
    share: float,
) -> jax.Array:
    """[N, D]: what the experts in `w` add to each token. Ids outside of 0 .. E - 1 are not here: they add nothing.

    `share` is what part of all experts these are.
    """
    w = {name: flat(weight, 1) for name, weight in w.items()}
    count = w["expert_down"].shape[0]
    if impl == "grouped" and x_ND.shape[0] <= _FEW_TOKENS:
        impl = "dense"
    if impl == "grouped" and lora is None:
        return grouped_experts(w["expert_gate_up"], w["expert_down"], x_ND, gate_NK, expert_NK, share)
    if impl == "grouped":

        def rows(x_AD: jax.Array, key: Any, matmul: Matmul) -> jax.Array:
            return _feed_forward(lora, w, adapter, key, x_AD, matmul)

        frozen = tuple(w.values())  # under LoRA the base weights never see a gradient
        return adapted_experts(rows, frozen, x_ND, gate_NK, expert_NK, count, dropout_key, share)
    if impl == "blocks":
        expert = partial(_expert, lora)
        weights = ExpertWeights((), (w, adapter)) if lora is None else ExpertWeights(w, adapter)
        return blocked_experts(expert, weights, x_ND, gate_NK, expert_NK, count, dropout_key, share)
    feed_forward = partial(_feed_forward, lora, w, adapter, dropout_key)
    if impl == "ragged":
        return _ragged(feed_forward, x_ND, gate_NK, expert_NK, count)
    return _dense(feed_forward, x_ND, gate_NK, expert_NK, count)


def _feed_forward(
    lora: Lora | None, w: Mapping[str, Any], adapter: Mapping[str, Any], key: Any, x: jax.Array, matmul: Matmul
) -> jax.Array:
    def linear(name: str, x: jax.Array) -> jax.Array:
        y = matmul(x, w[name])
        if lora is None or name not in adapter:
            return y
        return y + lora.delta(f"layers/{name}", adapter[name], x, key, matmul)

    gate, up = jnp.split(linear("expert_gate_up", x), 2, axis=-1)
    return linear("expert_down", jax.nn.silu(gate) * up)


def _expert(lora: Lora | None, frozen: Any, trained: Any, x: jax.Array, key: Any) -> jax.Array:
    """One expert, as `blocked_experts` wants it."""
    w, adapter = trained if lora is None else (frozen, trained)
    return _feed_forward(lora, w, adapter, key, x, product)


def _ragged(
    feed_forward: Callable[..., Any],
    x_ND: jax.Array,
    gate_NK: jax.Array,
    expert_NK: jax.Array,
    count: int,
) -> jax.Array:
    each = expert_NK.shape[1]
    expert_A = expert_NK.reshape(-1)
    expert_A = jnp.where(
        (expert_A >= 0) & (expert_A < count), expert_A, count
    )  # sorts behind the experts that are here
    order_A = jnp.argsort(expert_A, stable=True)
    sizes_E = jnp.bincount(expert_A, length=count)
    used_A = jnp.arange(order_A.size) < jnp.sum(sizes_E)

    def matmul(x: jax.Array, weight: Any) -> jax.Array:
        if isinstance(weight, Quantized):
            y_A = jax.lax.ragged_dot(x, weight.values.astype(x.dtype), sizes_E)
            return scaled(y_A, weight.scale[jnp.minimum(expert_A[order_A], count - 1), 0])
        return jax.lax.ragged_dot(x, weight, sizes_E)

    y_AD = feed_forward(x_ND[order_A // each], matmul)
    y_AD = jnp.where(used_A[:, None], y_AD * gate_NK.reshape(-1)[order_A][:, None], 0)
    return jnp.zeros_like(x_ND).at[order_A // each].add(y_AD)


def _dense(
    feed_forward: Callable[..., Any], x_ND: jax.Array, gate_NK: jax.Array, expert_NK: jax.Array, count: int
) -> jax.Array:
    gate_NE = jnp.einsum("nk,nke->ne", gate_NK, jax.nn.one_hot(expert_NK, count, dtype=gate_NK.dtype))
    x_END = jnp.broadcast_to(x_ND, (count, *x_ND.shape))
    return jnp.einsum("end,ne->nd", feed_forward(x_END, product), gate_NE)


def load_balancing_loss(load: RouterLoad) -> jax.Array:
    """How unevenly the routers spread tokens, 0-d float32: summed over layers, 1 a layer that is perfectly even.

    A layer's is `E / k * sum_e share_e * probability_e` (Switch Transformer, arXiv 2101.03961, equations 4-6, for k
    experts a token). Layers are judged one by one, as Megatron-LM does: one that overloads an expert is not excused by
    another that spares it.

    Args:
      load: fields with a leading layer axis. Multiply the loss by `router_aux_loss_coef`.
    """
    tokens_L1 = jnp.maximum(load.tokens, 1.0)[:, None]
    each = jnp.maximum(jnp.sum(load.assigned_E, axis=-1), 1.0) / tokens_L1[:, 0]  # k: experts a token
    products = (load.assigned_E / tokens_L1) * (load.probability_E / tokens_L1)
    return jnp.sum(load.assigned_E.shape[-1] / each * jnp.sum(products, axis=-1))
