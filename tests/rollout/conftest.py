"""One tiny model, tokenizer and engine for all tests of rollouts, so that programs compile once."""

from __future__ import annotations

from dataclasses import replace

import jax
import pytest

from hypereyes_jax.configs.model import Qwen3VLConfig, TextConfig, VisionConfig
from hypereyes_jax.models.qwen3_vl import init_params
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.processing.tokenizer import train_tokenizer
from hypereyes_jax.rollout import Engine
from tests.rollout.paced import SETTINGS


@pytest.fixture(scope="session")
def chat(tmp_path_factory) -> ChatFormat:
    from transformers import AutoTokenizer

    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["what is number found it search system user assistant"] * 3, 300, out)
    return ChatFormat(AutoTokenizer.from_pretrained(out))


@pytest.fixture(scope="session")
def config(chat) -> Qwen3VLConfig:
    vocabulary = chat.tokenizer.get_vocab()
    text = TextConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        mrope_section=(2, 2, 2),
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    vision = VisionConfig(
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
    return Qwen3VLConfig(
        text,
        vision,
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
    )


@pytest.fixture(scope="session")
def params(config):
    return init_params(jax.random.key(0), config)


@pytest.fixture(scope="session")
def make_engine(config, params):
    """Engines of one shape share their programs; each has its own state."""

    def make(**changes) -> Engine:
        return Engine(config, params, replace(SETTINGS, **changes))

    return make
