"""One tiny model, tokenizer and engine for all tests of rollouts, so that programs compile once."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.processing.tokenizer import train_tokenizer
from hypereyes_jax.rollout import Engine, run_episodes
from tests import small_models
from tests.random_weights import random_params
from tests.rollout.paced import SAMPLING, SETTINGS, PacedEpisode, question, tokens


@pytest.fixture(scope="session")
def chat(tmp_path_factory) -> ChatFormat:
    from transformers import AutoTokenizer

    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["what is number found it search system user assistant"] * 3, 300, out)
    return ChatFormat(AutoTokenizer.from_pretrained(out))


@pytest.fixture(scope="session")
def config(chat) -> Qwen3VLConfig:
    vocabulary = chat.tokenizer.get_vocab()
    text = replace(small_models.TEXT, vocab_size=320, tie_word_embeddings=True)
    return Qwen3VLConfig(
        text,
        small_models.VISION,
        image_token_id=vocabulary["<|image_pad|>"],
        video_token_id=vocabulary["<|video_pad|>"],
        vision_start_token_id=vocabulary["<|vision_start|>"],
        vision_end_token_id=vocabulary["<|vision_end|>"],
    )


@pytest.fixture(scope="session")
def params(config):
    return random_params(config)


@pytest.fixture(scope="session")
def make_engine(config, params):
    """Engines of one shape share their programs; each has its own state."""

    def make(**changes) -> Engine:
        return Engine(config, params, replace(SETTINGS, **changes))

    return make


@pytest.fixture(scope="session")
def alone(make_engine, chat):
    """Sampled tokens of episodes 0 .. 9, each played by itself."""

    async def play():
        played = []
        for n in range(10):
            played += await run_episodes(make_engine(), [PacedEpisode(question(n))], chat, SAMPLING, [n])
        return [tokens(each) for each in played]

    return asyncio.run(play())
