"""The miniature: every setting of the small model and its world in one place, so that all commands agree on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig, VisionConfig
from hypereyes_jax.configs.recipes import MINIATURE
from hypereyes_jax.data.filters import FilterConfig
from hypereyes_jax.env.config import EpisodeConfig, Paradigm
from hypereyes_jax.env.search.config import SearchConfig

VOCABULARY = 1024  # of the tokenizer, control tokens included
CONTEXT = MINIATURE.context  # tokens of an episode, visual tokens included
VIEW_LENGTHS = (256, 512, 640, 768)  # attention costs what the longest episode is long, and most are near 500 tokens
CROWDING = -1.5  # of mosaics in training and evaluation: n flags have weight n**CROWDING, which is 3.2 on average
PIXELS = MIN_PIXELS, MAX_PIXELS = MINIATURE.min_pixels, MINIATURE.max_pixels  # of an image: 1 to 48 visual tokens

# Departures from the paper's episode, each to save tokens of a 1,024-token context: one result a search, small crops, a
# short system prompt, and the question is not repeated after each response.
EPISODE = EpisodeConfig(
    text_k=1,
    image_k=1,
    crop_max_side=64,
    repeat_question=False,
    system="Answer by searching. image_search takes boxes, text_search takes queries: many at once.",
)

# Over real sockets, and as slow as a fast service, so that what hides the wait is measured.
SEARCH = SearchConfig(transport="http", latency=0.2)

# What the system prompt of another grounding paradigm says of its tools.
_CROPS_APART = {
    "llm-crop": "Answer by searching. crop takes boxes, image_search ids, text_search queries: many at once.",
    "code-crop": "Answer by searching. python crops, image_search takes ids, text_search queries: many at once.",
}


def episode(paradigm: Paradigm = "ugs") -> EpisodeConfig:
    """The miniature's rules with regions grounded in the search (the paper's), or by a tool before it."""
    return EPISODE if paradigm == "ugs" else replace(EPISODE, paradigm=paradigm, system=_CROPS_APART[paradigm])


# Laxer on waste than the filters' defaults: demonstrations keep some, for RL to unlearn.
FILTERS = FilterConfig(superfluous_rounds=None, narrow_rounds=3, new_rounds=1.0)


def model_config(tokenizer: Any) -> Qwen3VLConfig:
    """A Qwen3-VL in all its parts: DeepStack, interpolated positions, interleaved M-RoPE, QK-norm, grouped queries."""
    return Qwen3VLConfig(
        text=TextConfig(
            vocab_size=VOCABULARY,
            hidden_size=128,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            mrope_section=(12, 10, 10),
            rope_theta=5_000_000.0,
            tie_word_embeddings=True,
            max_position_embeddings=CONTEXT,
            initializer_range=0.05,
        ),
        vision=VisionConfig(
            depth=2,
            hidden_size=64,
            intermediate_size=128,
            num_heads=2,
            patch_size=16,
            num_position_embeddings=256,
            deepstack_visual_indexes=(0,),
            out_hidden_size=128,
            initializer_range=0.05,
        ),
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
    )
