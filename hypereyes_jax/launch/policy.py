"""A policy that can be asked: the weights, engine and chat format of a checkpoint, playing episodes with a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hypereyes_jax.env.episode import Episode, EpisodeConfig
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.benchmark import Runner

if TYPE_CHECKING:  # help must answer without jax
    from hypereyes_jax.processing import ChatFormat
    from hypereyes_jax.rollout import Engine, EngineConfig, SamplingConfig, Timeline, Trajectory


class Policy(NamedTuple):
    engine: Engine
    chat: ChatFormat


def load_policy(checkpoint: Path, settings: EngineConfig, *, dtype: Any = "float32") -> Policy:
    """Load a checkpoint in HF layout (config.json, safetensors, tokenizer) into an engine.

    Raises:
      UserError: it is not such a directory, or it is damaged.
    """
    from transformers import AutoTokenizer

    from hypereyes_jax.models.qwen3_vl import load_hf
    from hypereyes_jax.processing import ChatFormat
    from hypereyes_jax.rollout import Engine

    for name in ("config.json", "tokenizer.json"):
        if not (checkpoint / name).exists():
            raise UserError(f"{checkpoint} holds no {name}. Give the directory of a checkpoint in Hugging Face layout.")
    config, params = load_hf(checkpoint, dtype)
    chat = ChatFormat(AutoTokenizer.from_pretrained(checkpoint))
    return Policy(Engine(config, params, settings), chat)


def runner(
    policy: Policy,
    backend: SearchBackend,
    episode: EpisodeConfig,
    sampling: SamplingConfig,
    *,
    seed: int = 0,
    on_end: Callable[[int, Trajectory], None] | None = None,
    timeline: Timeline | None = None,
) -> Runner:
    """What `evaluate` runs: one episode a question, each with a seed of its own (`seed` + its number)."""
    from hypereyes_jax.rollout import run_episodes

    async def run(questions: Sequence[Question]) -> list[Trajectory]:
        episodes = [Episode(question, backend, episode) for question in questions]
        seeds = [seed + number for number in range(len(episodes))]
        return await run_episodes(
            policy.engine, episodes, policy.chat, sampling, seeds, on_end=on_end, timeline=timeline
        )

    return run
