"""A checkpoint that plays one question at a time and shows each turn as it is written, for `hypereyes ask`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Part, Question, SearchBackend
from hypereyes_jax.eval.policy import load_policy
from hypereyes_jax.rollout import Trajectory, run_episodes


class _ShownEpisode(Episode):
    """An episode that tells what is written and what comes back."""

    on_text: Callable[[str], None]
    on_observation: Callable[[tuple[Part, ...]], None]

    async def step(self, text: str, truncated: bool = False) -> tuple[Part, ...] | None:
        self.on_text(text)
        parts = await super().step(text, truncated)
        if parts is not None:
            self.on_observation(parts)
        return parts


@contextlib.asynccontextmanager
async def checkpoint_player(
    checkpoint: str,
    engine: EngineConfig,
    sampling: SamplingConfig,
    backend: SearchBackend,
    rules: EpisodeConfig,
    *,
    on_text: Callable[[str], None],
    on_observation: Callable[[tuple[Part, ...]], None],
) -> AsyncIterator[Callable[[Question], Awaitable[Trajectory]]]:
    """Plays questions with a checkpoint that is loaded once.

    Args:
      on_text: called with each turn of the model.
      on_observation: called with what the model is shown after each turn.

    Raises:
      UserError: as `load_policy`.
    """
    policy = load_policy(checkpoint, engine)
    async with policy.engines.running() as generator:

        async def ask(question: Question) -> Trajectory:
            episode = _ShownEpisode(question, backend, rules)
            episode.on_text, episode.on_observation = on_text, on_observation
            (trajectory,) = await run_episodes(generator, [episode], policy.chat, sampling, [0])
            return trajectory

        yield ask
