"""Floating-point operations that a model's passes ask for, by formula."""

from __future__ import annotations

from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig


def active_parameters(text: TextConfig) -> int:
    """Weights that multiply one token in the decoder, without the head."""
    attention = text.hidden_size * text.head_dim * 2 * (text.num_attention_heads + text.num_key_value_heads)
    if text.moe:
        inner = text.num_experts_per_tok * text.moe_intermediate_size
        feed_forward = 3 * text.hidden_size * inner + text.hidden_size * text.num_experts
    else:
        feed_forward = 3 * text.hidden_size * text.intermediate_size
    return text.num_hidden_layers * (attention + feed_forward)


def useful_flops(config: Qwen3VLConfig, tokens: int, row_length: int, patches: int, train: str) -> float:
    """FLOPs of one training pass over `tokens`: 2 a weight and token forward, as much again for each gradient.

    Adapters need no weight gradients of the base: 4 a weight instead of 6. Attention counts half the score matrix. A
    vision tower that does not train (`train` other than "full") runs forward only.
    """
    text, vision = config.text, config.vision
    weights = active_parameters(text) + text.hidden_size * text.vocab_size
    attention = text.num_hidden_layers * text.num_attention_heads * text.head_dim * row_length  # 2 * 2 / 2 a token
    tower = vision.depth * (4 * vision.hidden_size**2 + 2 * vision.hidden_size * vision.intermediate_size)
    forward_vision = 2 * tower * patches
    decoder = (2 if train == "lora" else 3) * 2 * weights + 3 * 2 * attention
    return tokens * decoder + forward_vision * (3 if train == "full" else 1)
