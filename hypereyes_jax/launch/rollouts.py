"""The rollout engines of one process: they play episodes together, and take the learner's weights."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from hypereyes_jax.launch.scale import Scale

if TYPE_CHECKING:  # help must answer without jax
    from jax.sharding import Mesh

    from hypereyes_jax.configs.model import Qwen3VLConfig
    from hypereyes_jax.env.types import Question, SearchBackend
    from hypereyes_jax.processing import ChatFormat
    from hypereyes_jax.rollout import Timeline, Trajectory
    from hypereyes_jax.rollout.engines import Engines
    from hypereyes_jax.rollout.replica_weights import ReplicaWeights


class Played(NamedTuple):
    trajectories: list[Trajectory]
    waiting_seconds: float  # an engine stood still because every rollout was searching; the mean of the engines


class Rollouts:
    """Engines with the same weights.

    Args:
      engines: those of this process's devices.
      chat: renders messages to tokens.
      scale: the rules of episodes and sampling.
      copies: makes the engines' weights from the learner's on its mesh; None = they are the same arrays.
    """

    def __init__(self, engines: Engines, chat: ChatFormat, scale: Scale, copies: ReplicaWeights | None = None):
        self.engines = engines
        self.chat = chat
        self.scale = scale
        self._copies = copies

    @classmethod
    def on_mesh(
        cls, model: Qwen3VLConfig, params: Any, chat: ChatFormat, scale: Scale, mesh: Mesh, at_once: int
    ) -> Rollouts:
        """Engines on this process's own devices, with copies of weights that lie on the learner's mesh.

        Args:
          at_once: rollouts that this process plays at a time; no engine gets more slots than its share of them.
        """
        from hypereyes_jax.rollout import Engine
        from hypereyes_jax.rollout.engines import Engines
        from hypereyes_jax.rollout.replica_weights import ReplicaWeights

        copies = ReplicaWeights(model, mesh, scale.learner.compute_dtype, scale.replica_devices)
        slots = min(scale.slots, -(-at_once // len(copies.meshes)))
        settings = replace(scale, slots=slots).engine()
        engines = [
            Engine(model, own, settings, mesh=replica)
            for own, replica in zip(copies(params), copies.meshes, strict=True)
        ]
        return cls(Engines(engines), chat, scale, copies)

    def prompt_tokens(self, question: Question, backend: SearchBackend) -> int:
        """Of a question as an episode begins, visual tokens counted one by one."""
        from hypereyes_jax.env.episode import Episode

        episode = Episode(question, backend, self.scale.episode)
        return self.scale.tokens([self.chat.prompt(episode.system, episode.prompt())])

    def suspend(self) -> None:
        """Before a training step: on a mesh, the engines' weights and slots leave the devices to it."""
        if self._copies is not None:
            self.engines.suspend()

    def publish(self, params: Any, version: int) -> dict[str, float]:
        """The engines sample from the learner's present weights from now on.

        Returns seconds_sync, and on a mesh sync_gib: what this process's devices received.
        """
        began = time.perf_counter()
        if self._copies is None:
            self.engines.set_weights(params, None, version)
            return {"seconds_sync": time.perf_counter() - began}
        self.suspend()  # there may be no room for old and new
        for engine, own in zip(self.engines.all, self._copies(params), strict=True):
            engine.set_weights(own, None, version)
        seconds = time.perf_counter() - began
        return {"seconds_sync": seconds, "sync_gib": self._copies.received_bytes(params) / 2**30}

    async def play(
        self,
        questions: Sequence[Question],
        backend: SearchBackend,
        seeds: Sequence[int],
        *,
        group: int = 1,
        evaluation: bool = False,
        advance: Callable[[], None] | None = None,
        timeline: Timeline | None = None,
    ) -> Played:
        """One episode a question.

        Args:
          seeds: one a question.
          group: so many questions in a row are the same one; they go to one engine, which reads their prompt once.
          evaluation: sample as in evaluation.
          advance: called as each ends.
        """
        from hypereyes_jax.env.episode import Episode
        from hypereyes_jax.rollout import run_episodes

        episodes = [Episode(question, backend, self.scale.episode) for question in questions]
        on_end = None if advance is None else lambda *_: advance()
        sampling = self.scale.sampling(evaluation)
        async with self.engines.running(group, timeline) as generator:
            trajectories = await run_episodes(
                generator, episodes, self.chat, sampling, seeds, on_end=on_end, timeline=timeline
            )
        waited = sum(counts.waiting_seconds for counts in generator.counts) / len(generator.counts)
        return Played(trajectories, waited)
