"""Every weight of a Qwen3-VL model, declared once: shape, logical axes, init, and its place in a HF checkpoint.

Initialisation, sharding, loading, saving and LoRA all derive from `weights(config)`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.quantized import quantize

Params = dict[str, Any]  # nested dicts of arrays, shaped like `weights(config)`


@dataclass(frozen=True)
class Weight:
    """One leaf of the parameter tree."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]  # logical axis of each dimension; the sharding table maps these to mesh axes
    init: float  # standard deviation of a normal; or, with `constant`, the value
    hf: str  # name in a HF checkpoint; "{i}" counts the leading dimension of a stacked leaf
    hf_shape: tuple[int, ...]  # of one tensor there
    constant: bool = False
    adaptable: bool = False  # a linear map that LoRA may adapt
    transposed: bool = False  # HF keeps linear maps as [out, in], this project as [in, out]
    experts: bool = False  # HF has two layouts of these, see `checkpoint`

    def __post_init__(self) -> None:
        assert len(self.shape) == len(self.axes), self
        assert math.prod(self.hf_shape) == math.prod(self.shape[1:] if self.stacked else self.shape), self

    @property
    def stacked(self) -> bool:
        return "{i}" in self.hf

    @property
    def lead(self) -> int:
        """How many dimensions of a linear map's leaf come before the map's own: its layer, its expert."""
        return int(self.stacked) + self.axes.count("expert")

    def hf_names(self) -> list[str]:
        return [self.hf.format(i=i) for i in range(self.shape[0])] if self.stacked else [self.hf]

    def from_hf(self, tensor: np.ndarray) -> np.ndarray:
        """One HF tensor as this leaf, or as one layer of it."""
        if self.transposed:
            tensor = tensor.reshape(tensor.shape[0], -1).T
        return tensor.reshape(self.shape[1:] if self.stacked else self.shape)

    def to_hf(self, array: np.ndarray) -> np.ndarray:
        """The inverse of `from_hf`."""
        if self.transposed:
            array = array.reshape(-1, self.hf_shape[0]).T
        return array.reshape(self.hf_shape)


def weights(config: Qwen3VLConfig) -> dict[str, Any]:
    """The parameter tree of a model, each leaf a `Weight`.

    Axis names: layer, embed (model width), vocab, heads / kv_heads (all heads' values, flattened), mlp, expert,
    expert_embed, head_dim; vision_* for the tower. None is never sharded.
    """
    text = config.text
    wide, layers = text.hidden_size, text.num_hidden_layers
    queries, keys = text.num_attention_heads * text.head_dim, text.num_key_value_heads * text.head_dim
    std = text.initializer_range
    prefix = "model.language_model.layers.{i}."

    def linear(name: str, fan_in: int, fan_out: int, axis_in: str, axis_out: str) -> Weight:
        axes = ("layer", axis_in, axis_out)
        return Weight(
            (layers, fan_in, fan_out),
            axes,
            std,
            f"{prefix}{name}.weight",
            (fan_out, fan_in),
            # all-linear LoRA means the maps tokens pass through, not the one that routes them
            adaptable=axis_out != "router",
            transposed=True,
        )

    def norm(name: str, size: int, axis: str) -> Weight:
        return Weight((layers, size), ("layer", axis), 1.0, f"{prefix}{name}.weight", (size,), constant=True)

    stack = {
        "attn_norm": norm("input_layernorm", wide, "embed"),
        "q": linear("self_attn.q_proj", wide, queries, "embed", "heads"),
        "k": linear("self_attn.k_proj", wide, keys, "embed", "kv_heads"),
        "v": linear("self_attn.v_proj", wide, keys, "embed", "kv_heads"),
        "q_norm": norm("self_attn.q_norm", text.head_dim, "head_dim"),
        "k_norm": norm("self_attn.k_norm", text.head_dim, "head_dim"),
        "o": linear("self_attn.o_proj", queries, wide, "heads", "embed"),
        "mlp_norm": norm("post_attention_layernorm", wide, "embed"),
    }
    if text.moe:
        experts, inner = text.num_experts, text.moe_intermediate_size
        # gate and up lie side by side in one tensor of the checkpoint; their own dimension keeps `mlp` divisible
        stack |= {
            "router": linear("mlp.gate", wide, experts, "embed", "router"),
            "expert_gate_up": Weight(
                (layers, experts, wide, 2, inner),
                ("layer", "expert", "expert_embed", None, "mlp"),
                std,
                f"{prefix}mlp.experts.gate_up_proj",
                (experts, wide, 2 * inner),
                adaptable=True,
                experts=True,
            ),
            "expert_down": Weight(
                (layers, experts, inner, wide),
                ("layer", "expert", "mlp", "expert_embed"),
                std,
                f"{prefix}mlp.experts.down_proj",
                (experts, inner, wide),
                adaptable=True,
                experts=True,
            ),
        }
    else:
        inner = text.intermediate_size
        stack |= {
            "gate": linear("mlp.gate_proj", wide, inner, "embed", "mlp"),
            "up": linear("mlp.up_proj", wide, inner, "embed", "mlp"),
            "down": linear("mlp.down_proj", inner, wide, "mlp", "embed"),
        }
    table: dict[str, Any] = {
        "embed": Weight(
            (text.vocab_size, wide),
            ("vocab", "embed"),
            std,
            "model.language_model.embed_tokens.weight",
            (text.vocab_size, wide),
        ),
        "layers": stack,
        "norm": Weight((wide,), ("embed",), 1.0, "model.language_model.norm.weight", (wide,), constant=True),
        "vision": _vision_weights(config),
    }
    if not text.tie_word_embeddings:
        table["head"] = Weight(
            (wide, text.vocab_size),
            ("embed", "vocab"),
            std,
            "lm_head.weight",
            (text.vocab_size, wide),
            transposed=True,
        )
    return table


def _vision_weights(config: Qwen3VLConfig) -> dict[str, Any]:
    vision = config.vision
    wide, std = vision.hidden_size, vision.initializer_range
    merge_width = wide * vision.merge_unit

    def linear(
        name: str, count: int | None, fan_in: int, out: tuple[int, ...], axis_in: str | None, axis_out: str | None
    ) -> tuple[Weight, Weight]:
        lead, lead_axis = ((), ()) if count is None else ((count,), ("vision_layer",))
        fan_out = math.prod(out)
        out_axes = (*(None,) * (len(out) - 1), axis_out)
        return (
            Weight(
                (*lead, fan_in, *out),
                (*lead_axis, axis_in, *out_axes),
                std,
                f"{name}.weight",
                (fan_out, fan_in),
                adaptable=True,
                transposed=True,
            ),
            Weight((*lead, *out), (*lead_axis, *out_axes), 0.0, f"{name}.bias", (fan_out,), constant=True),
        )

    def norm(name: str, count: int | None, size: int) -> dict[str, Weight]:
        lead, lead_axis = ((), ()) if count is None else ((count,), ("vision_layer",))
        return {
            key: Weight((*lead, size), (*lead_axis, None), value, f"{name}.{hf}", (size,), constant=True)
            for key, value, hf in (("scale", 1.0, "weight"), ("bias", 0.0, "bias"))
        }

    def merger(name: str, count: int | None, norm_size: int) -> dict[str, Any]:
        fc1_w, fc1_b = linear(f"{name}.linear_fc1", count, merge_width, (merge_width,), "vision_embed", "vision_mlp")
        fc2_w, fc2_b = linear(
            f"{name}.linear_fc2", count, merge_width, (vision.out_hidden_size,), "vision_mlp", "embed"
        )
        norm_w = norm(f"{name}.norm", count, norm_size)
        return {"norm": norm_w, "fc1_w": fc1_w, "fc1_b": fc1_b, "fc2_w": fc2_w, "fc2_b": fc2_b}

    prefix = "model.visual.blocks.{i}."
    qkv_w, qkv_b = linear(f"{prefix}attn.qkv", vision.depth, wide, (3, wide), "vision_embed", "vision_heads")
    proj_w, proj_b = linear(f"{prefix}attn.proj", vision.depth, wide, (wide,), "vision_heads", "vision_embed")
    inner = vision.intermediate_size
    fc1_w, fc1_b = linear(f"{prefix}mlp.linear_fc1", vision.depth, wide, (inner,), "vision_embed", "vision_mlp")
    fc2_w, fc2_b = linear(f"{prefix}mlp.linear_fc2", vision.depth, inner, (wide,), "vision_mlp", "vision_embed")
    table: dict[str, Any] = {
        "patch_w": Weight(
            (vision.patch_values, wide),
            (None, "vision_embed"),
            std,
            "model.visual.patch_embed.proj.weight",
            (wide, vision.in_channels, vision.temporal_patch_size, vision.patch_size, vision.patch_size),
            transposed=True,
        ),
        "patch_b": Weight(
            (wide,), ("vision_embed",), 0.0, "model.visual.patch_embed.proj.bias", (wide,), constant=True
        ),
        "pos": Weight(
            (vision.num_position_embeddings, wide),
            (None, "vision_embed"),
            std,
            "model.visual.pos_embed.weight",
            (vision.num_position_embeddings, wide),
        ),
        "blocks": {
            "norm1": norm(f"{prefix}norm1", vision.depth, wide),
            "qkv_w": qkv_w,
            "qkv_b": qkv_b,
            "proj_w": proj_w,
            "proj_b": proj_b,
            "norm2": norm(f"{prefix}norm2", vision.depth, wide),
            "fc1_w": fc1_w,
            "fc1_b": fc1_b,
            "fc2_w": fc2_w,
            "fc2_b": fc2_b,
        },
        # the final merger normalises each patch, the DeepStack mergers the merged block
        "merger": merger("model.visual.merger", None, wide),
    }
    if taps := len(vision.deepstack_visual_indexes):
        table["deepstack"] = merger("model.visual.deepstack_merger_list.{i}", taps, merge_width)
    return table


def map_weights(function: Callable[..., Any], table: Mapping[str, Any], *trees: Mapping[str, Any]) -> dict[str, Any]:
    """`function(path, weight, *leaves)` on each leaf of a weight table; path is like "layers/q"."""

    def walk(prefix: str, node: Any, others: tuple[Any, ...]) -> Any:
        if isinstance(node, Weight):
            return function(prefix, node, *others)
        return {
            key: walk(f"{prefix}/{key}" if prefix else key, child, tuple(other[key] for other in others))
            for key, child in node.items()
        }

    return walk("", table, trees)


def flat_weights(config: Qwen3VLConfig) -> Iterator[tuple[str, Weight]]:
    """(path, weight) of each leaf."""
    pairs: list[tuple[str, Weight]] = []
    map_weights(lambda path, weight: pairs.append((path, weight)), weights(config))
    return iter(pairs)


def init_params(key: jax.Array, config: Qwen3VLConfig, dtype: Any = jnp.float32) -> Params:
    """Random parameters: normal with the config's `initializer_range`, norms one, biases zero."""
    table = weights(config)
    count = sum(1 for _ in flat_weights(config))
    keys = iter(jax.random.split(key, count))

    return map_weights(lambda _, weight: initial(next(keys), weight, dtype), table)


def initial(key: jax.Array, weight: Weight, dtype: Any) -> jax.Array:
    """One leaf of random parameters."""
    if weight.constant:
        return jnp.full(weight.shape, weight.init, dtype)
    return (jax.random.normal(key, weight.shape, jnp.float32) * weight.init).astype(dtype)


def is_kept_in_int8(path: str, weight: Weight) -> bool:
    """The decoder's linear maps, those of all experts included. Not embeddings, the head, norms, routers and the vision
    tower: they are few, or read rarely."""
    return path.startswith("layers/") and weight.adaptable


def in_int8(params: Params, config: Qwen3VLConfig) -> Params:
    """The same weights, with those that `is_kept_in_int8` names as `Quantized`s."""
    return map_weights(
        lambda path, weight, leaf: quantize(leaf, axis=weight.lead) if is_kept_in_int8(path, weight) else leaf,
        weights(config),
        params,
    )
