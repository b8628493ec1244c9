"""Sizes of a model that compiles in seconds, for tests that ask how something runs and not what it computes."""

from typing import Any

from hypereyes_jax.configs.model import TextConfig, VisionConfig

TEXT = TextConfig(
    vocab_size=128,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=12,
    mrope_section=(2, 2, 2),
    initializer_range=0.3,
)
VISION = VisionConfig(
    depth=1,
    hidden_size=16,
    intermediate_size=24,
    num_heads=2,
    patch_size=8,
    num_position_embeddings=16,
    deepstack_visual_indexes=(0,),
    out_hidden_size=32,
    initializer_range=0.3,
)
IDS: dict[str, Any] = {
    "image_token_id": 90, "video_token_id": 91, "vision_start_token_id": 92, "vision_end_token_id": 93,
}  # fmt: skip
