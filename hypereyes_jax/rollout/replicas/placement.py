"""Several generators as one: each rollout stays with the one it began at."""

from __future__ import annotations

from collections.abc import Sequence as Items

from hypereyes_jax.configs.rollout import SamplingConfig
from hypereyes_jax.processing import ContextChunk
from hypereyes_jax.rollout.episodes import Generator, GeneratorSession, OnSampled
from hypereyes_jax.rollout.types import Turn


class Replicas:
    """A `Generator` that opens each rollout at the replica with the fewest.

    Args:
      generators: replicas with the same weights.
      group: this many rollouts in a row go to one replica, so that samples of one prompt can share its prefill.
    """

    def __init__(self, generators: Items[Generator], group: int = 1):
        if not generators or group < 1:
            raise ValueError("Replicas needs at least one generator, and group >= 1")
        self._generators = list(generators)
        self._seated = [0] * len(generators)
        self._group = group
        self._current, self._left = 0, 0

    async def open(self, seed: int, sampling: SamplingConfig, stop_ids: tuple[int, ...]) -> GeneratorSession:
        if not self._left:
            self._current = min(range(len(self._seated)), key=self._seated.__getitem__)
            self._left = self._group
        number = self._current
        self._left -= 1
        self._seated[number] += 1
        return _ReplicaSession(self, number, await self._generators[number].open(seed, sampling, stop_ids))

    def leave(self, number: int) -> None:
        """Called by a session that is closed."""
        self._seated[number] -= 1


class _ReplicaSession:
    def __init__(self, replicas: Replicas, number: int, session: GeneratorSession):
        self._replicas, self._number, self._session = replicas, number, session
        self._closed = False

    async def turn(self, context: ContextChunk, on_sampled: OnSampled | None = None) -> Turn:
        return await self._session.turn(context, on_sampled)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._replicas.leave(self._number)
            await self._session.close()
