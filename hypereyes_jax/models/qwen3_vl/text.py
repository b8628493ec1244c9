"""The decoder: one scan over layer-stacked weights."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.float8 import float8_matmul
from hypereyes_jax.models.int8 import int8_matmul
from hypereyes_jax.models.partition import constrain, take_local
from hypereyes_jax.models.qwen3_vl.kernels import Kernels
from hypereyes_jax.models.qwen3_vl.layers import Linear, adapted, mrope, rematerialised, rms_norm, rotate
from hypereyes_jax.models.qwen3_vl.moe import Routed, Routing, mixture
from hypereyes_jax.models.qwen3_vl.vision import VisualFeatures
from hypereyes_jax.models.qwen3_vl.weights import Params

# attend(q_BTHD, k_BTKD, v_BTKD, layer's xs) -> (attended [B, T, H * D], what the scan stacks over layers), or with
# what goes from layer to layer: attend(q, k, v, xs, carried) -> (attended, carried)
Attend = Callable[..., tuple[jax.Array, Any]]
LayersApart = list[tuple[Any, Any, int]]  # of each layer: weights, adapters, its number
_MATMULS = {"plain": None, "float8": float8_matmul, "int8": int8_matmul}


def embed_tokens(
    params: Params, tokens_BT: jax.Array, visual_index_BT: jax.Array, visual: VisualFeatures | None
) -> jax.Array:
    """[B, T, D]: token embeddings, with visual tokens in the place of image tokens."""
    # The table is gathered over its width first: a lookup in a table cut both ways would replicate the whole batch.
    x = constrain(constrain(params["embed"], "vocab", None)[tokens_BT], "batch", "length", None)
    if visual is None:
        return x
    features = take_local(visual.embeds, visual_index_BT).astype(x.dtype)
    return jnp.where((visual_index_BT >= 0)[..., None], features, x)


class DecoderInputs(NamedTuple):
    """What the decoder reads."""

    x_BTD: jax.Array  # embedded tokens: `embed_tokens`
    positions_3BT: jax.Array
    visual_index_BT: jax.Array
    visual: VisualFeatures | None
    valid_BT: jax.Array  # False on padding, which does not count in the router loads


class ForwardOptions(NamedTuple):
    """How the layers are computed."""

    kernels: Kernels
    lora: Lora | None = None
    remat: str = "none"  # "none", "dots", "attention" or "full" (keep each layer's input only): `layers.rematerialised`
    dropout_key: jax.Array | None = None
    routing: Routing = Routing()  # what is done about experts, of all layers


def decode_layers(
    params: Params,
    config: Qwen3VLConfig,
    inputs: DecoderInputs,
    attend: Attend,
    attend_xs: Any,
    options: ForwardOptions,
    apart: LayersApart | None = None,
    carried: Any = None,
) -> tuple[jax.Array, Any, Routed | None]:
    """All decoder layers and the final norm: ([B, T, D], what `attend` gave and what routers did, stacked over layers).

    Args:
      attend: attention of one layer; `attend_xs` has leaves with a leading layer axis, of which it gets its slice. A
        list with a tree for each layer unrolls the layers: a scan copies its slices out of the stack on a CPU
        (`benchmarks/decode.py`). What `attend` gave then is such a list as well.
      apart: what `layers_apart` gave, for unrolled layers in a loop.
      carried: what goes from layer to layer, where there is such a thing: `attend` then takes it as its last argument,
        and what it gives beside its result is what the next layer takes, and in the end what is returned.
    """
    x_BTD, positions_3BT, visual_index_BT, visual, valid_BT = inputs
    kernels, lora, remat, dropout_key, routing = options
    text = config.text
    cos, sin = mrope(positions_3BT, text.head_dim, text.rope_theta, text.mrope_section)

    def layer(carry: tuple[jax.Array, Any], xs: Any) -> tuple[tuple[jax.Array, Any], Any]:
        (x, state), (w, adapter, index, own, experts) = carry, xs
        state_given = () if state is None else (state,)
        key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)

        matmul = _MATMULS[kernels.linear]
        linear = adapted(lora, "layers", w, adapter, key, matmul)
        x, out = _attend(w, text, linear, x, cos, sin, lambda q, k, v: attend(q, k, v, own, *state_given))
        h = rms_norm(x, w["mlp_norm"], text.rms_norm_eps)
        routed = None
        if text.moe:
            own_routing = routing._replace(experts=experts)
            y, routed = mixture(w, text, h, valid_BT, kernels.moe, lora, adapter, key, own_routing)
            x = x + y
        else:
            x = x + linear("down", jax.nn.silu(linear("gate", h)) * linear("up", h))
        if visual is not None and visual.deepstack.shape[0]:
            x = _add_deepstack(x, index, visual_index_BT, visual.deepstack, kernels.known_trip_count)
        x = constrain(x, "batch", "length", None)
        return ((x, None), (out, routed)) if state is None else ((x, out), (None, routed))

    step = rematerialised(layer, remat)
    if isinstance(attend_xs, list) or isinstance(params["layers"], tuple):
        carry, outs = (x_BTD, carried), []
        for w, adapter, index in apart or layers_apart(params, config, lora):
            own = attend_xs[index] if isinstance(attend_xs, list) else jax.tree.map(itemgetter(index), attend_xs)
            experts = None if routing.experts is None else routing.experts[index]
            carry, each = step(carry, (w, adapter, index, own, experts))
            outs.append(each)
        out = [each for each, _ in outs]
        if not isinstance(attend_xs, list):
            out = jax.tree.map(lambda *layers: jnp.stack(layers), *out)
        routed = jax.tree.map(lambda *layers: jnp.stack(layers), *(each for _, each in outs))
    else:
        xs = (*_stacked_layers(params, config, lora), attend_xs, routing.experts)
        carry, (out, routed) = jax.lax.scan(step, (x_BTD, carried), xs)
    x, state = carry
    return rms_norm(x, params["norm"], text.rms_norm_eps), out if carried is None else state, routed


def layers_apart(params: Params, config: Qwen3VLConfig, lora: Lora | None = None) -> LayersApart:
    """Weights, adapters and number of each layer, cut out of their stacks.

    To be called outside of a loop whose steps unroll the layers: inside of it, XLA's CPU backend copies every layer's
    weights at every step (an eighth of the time of a decode step of 32 rows).
    """
    weights, adapters, _ = _stacked_layers(params, config, lora)
    return [
        (
            weights[index] if isinstance(weights, tuple) else jax.tree.map(itemgetter(index), weights),
            jax.tree.map(itemgetter(index), adapters),
            index,
        )
        for index in range(config.text.num_hidden_layers)
    ]


def unstacked(params: Params) -> Params:
    """The same weights with a tuple of one tree a layer, which every function here takes as it takes stacked layers.

    A scan's body slices each of its weights out of the stack, which on a GPU is a kernel each and a copy of the weights
    at every step. So an engine there keeps its layers apart from the beginning.
    """
    layers = params["layers"]
    count = jax.tree.leaves(layers)[0].shape[0]
    return params | {"layers": tuple(jax.tree.map(itemgetter(index), layers) for index in range(count))}


def _stacked_layers(params: Params, config: Qwen3VLConfig, lora: Lora | None) -> tuple[Any, Any, jax.Array]:
    adapters = lora.weights.get("layers", {}) if lora is not None else {}
    return params["layers"], adapters, jnp.arange(config.text.num_hidden_layers)


def _attend(
    w: Params,
    text: TextConfig,
    linear: Linear,
    x: jax.Array,
    cos: jax.Array,
    sin: jax.Array,
    attend: Callable[..., Any],
) -> tuple[jax.Array, Any]:
    heads = (*x.shape[:-1], -1, text.head_dim)
    h = rms_norm(x, w["attn_norm"], text.rms_norm_eps)
    q = rms_norm(linear("q", h).reshape(heads), w["q_norm"], text.rms_norm_eps)
    k = rms_norm(linear("k", h).reshape(heads), w["k_norm"], text.rms_norm_eps)
    v = linear("v", h).reshape(heads)
    attended, out = attend(rotate(q, cos, sin), rotate(k, cos, sin), v)
    return x + linear("o", attended), out


def _add_deepstack(
    x: jax.Array, index: jax.Array | int, visual_index_BT: jax.Array, deepstack: jax.Array, branchless: bool
) -> jax.Array:
    """DeepStack (arXiv 2406.04334): feature i joins the visual tokens after decoder layer i."""

    def add(x: jax.Array) -> jax.Array:
        feature = take_local(deepstack[index].astype(x.dtype), visual_index_BT)
        return x + jnp.where((visual_index_BT >= 0)[..., None], feature, 0)

    if isinstance(index, int):
        return add(x) if index < deepstack.shape[0] else x
    # One scan serves all layers, so which of them add a feature is decided at run time.
    if branchless:
        last = deepstack.shape[0] - 1
        feature = take_local(deepstack[jnp.minimum(index, last)].astype(x.dtype), visual_index_BT)
        return x + jnp.where(((visual_index_BT >= 0) & (index <= last))[..., None], feature, 0)
    return jax.lax.cond(index < deepstack.shape[0], add, lambda x: x, x)
