"""A checkpoint that runs here, as a player of `data.collection`."""

from __future__ import annotations

from dataclasses import replace

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.data.collection.endpoint import DIRECT
from hypereyes_jax.data.collection.types import DirectAnswer, PlayerError, Spent
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.types import Question
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rollout import Generator, run_episodes


class CheckpointPlayer:
    """Plays with a generator that is running.

    Args:
      name: for the record.
      sampling: of episodes; direct answers are greedy.
    """

    def __init__(self, name: str, generator: Generator, chat: ChatFormat, sampling: SamplingConfig):
        self._name, self._generator, self._chat, self._sampling = name, generator, chat, sampling

    @property
    def name(self) -> str:
        return self._name

    async def play(self, episode: Episode, seed: int) -> Spent:
        (trajectory,) = await run_episodes(self._generator, [episode], self._chat, self._sampling, [seed])
        return Spent(trajectory.context_tokens, trajectory.sampled_tokens)

    async def answer(self, question: Question, seed: int) -> DirectAnswer:
        context = self._chat.prompt(DIRECT, question.parts)
        greedy = replace(self._sampling, temperature=0.0, top_p=1.0)
        session = await self._generator.open(seed, greedy, self._chat.stop_ids)
        try:
            turn = await session.turn(context)
        finally:
            await session.close()
        if turn.sampled is None:
            raise PlayerError(turn.why or "the question does not fit the context")
        text = self._chat.decode(turn.sampled.tokens).strip()
        return DirectAnswer(text or None, Spent(len(context.tokens), len(turn.sampled.tokens)))
