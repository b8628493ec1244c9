"""Qwen3-VL as pure functions on a nested dict of arrays: whole batches."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.adapters import Lora
from hypereyes_jax.models.qwen3_vl.attention import segment_attention_for
from hypereyes_jax.models.qwen3_vl.kernels import Kernels
from hypereyes_jax.models.qwen3_vl.moe import RouterLoad, Routing
from hypereyes_jax.models.qwen3_vl.text import DecoderInputs, ForwardOptions, decode_layers, embed_tokens
from hypereyes_jax.models.qwen3_vl.vision import VisualFeatures, encode_images
from hypereyes_jax.models.qwen3_vl.weights import Params
from hypereyes_jax.processing.types import ModelInputs


def lm_head(params: Params, config: Qwen3VLConfig) -> jax.Array:
    """[D, V], of the parameters' dtype; the embedding itself where they are tied."""
    return params["embed"].T if config.text.tie_word_embeddings else params["head"]


def hidden_states(
    params: Params,
    config: Qwen3VLConfig,
    inputs: ModelInputs,
    lora: Lora | None = None,
    *,
    remat: str = "none",
    dropout_key: jax.Array | None = None,
    kernels: Kernels = Kernels(),
) -> jax.Array:
    """[B, T, D] after the final norm. Tokens attend to earlier ones of their own segment; padding rows are meaningless.

    Args:
      inputs: see `hypereyes_jax.processing.pack_inputs`.
      lora: adapters added to the linear maps they name.
      remat: what the backward pass keeps: "none" (everything), "dots", "attention", "full" (least).
      dropout_key: turns the adapters' dropout on.
      kernels: implementations for the platform; static.
    """
    x, _ = hidden_states_and_load(params, config, inputs, lora, remat=remat, dropout_key=dropout_key, kernels=kernels)
    return x


def hidden_states_and_load(
    params: Params,
    config: Qwen3VLConfig,
    inputs: ModelInputs,
    lora: Lora | None = None,
    *,
    remat: str = "none",
    dropout_key: jax.Array | None = None,
    kernels: Kernels = Kernels(),
    routing: Routing = Routing(),  # noqa: B008 - holds nothing that changes
) -> tuple[jax.Array, RouterLoad | None]:
    """The result of `hidden_states`, with what `moe.load_balancing_loss` takes (None for a dense model).

    Args:
      routing: which experts the tokens are sent to, where that is not the router's choice.
    """
    visual = None
    if inputs.vision.segment_RL.shape[0]:
        visual = encode_images(
            params, config, inputs.vision, lora, remat=remat, dropout_key=dropout_key, kernels=kernels
        )
    return decode(
        params, config, inputs, visual, lora, remat=remat, dropout_key=dropout_key, kernels=kernels, routing=routing
    )


def decode(
    params: Params,
    config: Qwen3VLConfig,
    inputs: ModelInputs,
    visual: VisualFeatures | None,
    lora: Lora | None = None,
    *,
    remat: str = "none",
    dropout_key: jax.Array | None = None,
    kernels: Kernels = Kernels(),
    routing: Routing = Routing(),  # noqa: B008 - holds nothing that changes
) -> tuple[jax.Array, RouterLoad | None]:
    """The decoder's part of `hidden_states_and_load`.

    Args:
      visual: what `encode_images` made of the inputs' images; None without images.
    """
    segment, index = jnp.asarray(inputs.segment_BT), jnp.asarray(inputs.visual_index_BT)
    x = embed_tokens(params, jnp.asarray(inputs.tokens_BT), index, visual)
    attend = segment_attention_for(kernels)
    x, _, routed = decode_layers(
        params,
        config,
        DecoderInputs(x, jnp.asarray(inputs.positions_3BT), index, visual, segment > 0),
        lambda q, k, v, _: (attend(q, k, v, segment, causal=True), None),
        # Who computes again what the backward pass needs is short of memory, of which a scan takes least.
        [None] * config.text.num_hidden_layers if kernels.unrolled and remat == "none" else None,
        ForwardOptions(kernels, lora, remat, dropout_key, routing),
    )
    return x, None if routed is None else routed.load


def forward(
    params: Params,
    config: Qwen3VLConfig,
    inputs: ModelInputs,
    lora: Lora | None = None,
    *,
    kernels: Kernels = Kernels(),
) -> jax.Array:
    """Logits [B, T, V]."""
    return hidden_states(params, config, inputs, lora, kernels=kernels) @ lm_head(params, config)
