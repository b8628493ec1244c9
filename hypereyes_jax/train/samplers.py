"""The rollout engines of one process: they play episodes together, and take the learner's weights.

A process that only holds a part of another one's engine follows that one.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.env.episode import Episode
from hypereyes_jax.env.own_prompt import PromptFunction
from hypereyes_jax.env.tools.types import Tool
from hypereyes_jax.env.types import Question, SearchBackend
from hypereyes_jax.launch.links.samples import from_message, spread, to_message
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.replica_group.calls import GroupDriver, GroupWorker
from hypereyes_jax.launch.replica_group.connect import connect
from hypereyes_jax.learner.packing import TrainingSample
from hypereyes_jax.models.lora import Lora
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.rollout import Engine, Timeline, Trajectory, run_episodes
from hypereyes_jax.rollout.device import Device
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.episodes import Generator
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from hypereyes_jax.runs.terminal import visible
from hypereyes_jax.train.server_engines import ServerEngines
from hypereyes_jax.train.sizes import TrainingSizes


class RolloutBatch(NamedTuple):
    """The rollouts that were played together."""

    trajectories: list[Trajectory]
    waiting_seconds: float  # an engine stood still because every rollout was searching; the mean of the engines


class RolloutEngines:
    """Engines with the same weights. A `with` statement around their use tells the others of a group how it ended.

    Args:
      engines: those of this process's devices, or a server; none in a process that follows.
      chat: renders messages to tokens.
      sizes: the rules of episodes and sampling.
      copies: makes the engines' weights from the learner's on its mesh; None = they are the same arrays.
      workers: of this process's only engine, which lies on the devices of several processes.
      driver: this process's part of another one's engine, and that one.
    """

    def __init__(
        self,
        engines: Engines | ServerEngines,
        chat: ChatFormat,
        sizes: TrainingSizes,
        copies: ReplicaWeights | None = None,
        workers: GroupDriver | None = None,
        driver: tuple[Device, GroupWorker] | None = None,
    ):
        self.engines = engines
        self.chat = chat
        self.sizes = sizes
        self._copies = copies
        self._workers, self._driver = workers, driver
        self._kept_base: list[Any] | None = None  # copies of weights that do not train, beside a learner that does
        self._keeps_base = False  # engines keep weights that do not train, while a step is computed
        self._tools: tuple[Tool, ...] = ()
        self._prompt: PromptFunction | None = None

    @classmethod
    def on_mesh(
        cls,
        model: Qwen3VLConfig,
        params: Any,
        chat: ChatFormat,
        sizes: TrainingSizes,
        copies: ReplicaWeights,
        processes: Processes,
        at_once: int,
        lora: Lora | None = None,
        record_routes: bool = False,
    ) -> RolloutEngines:
        """Engines on replicas' devices, with copies of weights that lie on the learner's mesh.

        Args:
          copies: makes them.
          processes: in the groups of the replicas.
          at_once: rollouts that all processes play at a time; no engine gets more slots than its share of them.
          lora: adapters on the learner's mesh, where adapters train. Engines then keep the weights beside them, if
            they have a copy of their own, and `publish` sends adapters alone.
          record_routes: rollouts tell which experts their tokens were sent to.

        Raises UserError if the processes of a replica group can't reach each other.
        """
        link = connect(processes, _end)
        slots = min(sizes.slots, -(-at_once // len(copies.grid)))
        settings = replace(replace(sizes, slots=slots).engine(), record_routes=record_routes)
        adapters = [None] * len(copies.meshes) if lora is None else copies.adapters(lora)
        keeps_base = lora is not None and not copies.shares(params)
        base = copies.kept(params) if keeps_base else copies(params)
        copies_by_replica = list(zip(base, adapters, copies.meshes, strict=True))
        if isinstance(link, GroupWorker):
            (own, own_lora, replica), *_ = copies_by_replica
            device = Device(model, own, settings, lora=own_lora, mesh=replica)
            rollouts = cls(Engines([]), chat, sizes, copies, driver=(device, link))
        else:
            shared_calls = None if link is None else link.shared_calls
            engines = [
                Engine(model, own, settings, lora=own_lora, mesh=replica, shared_calls=shared_calls)
                for own, own_lora, replica in copies_by_replica
            ]
            rollouts = cls(Engines(engines, processes.on_host), chat, sizes, copies, link)
        rollouts._keeps_base = keeps_base
        return rollouts

    def __enter__(self) -> RolloutEngines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        why = "" if error is None else f"{type(error).__name__}: {error}"
        for end in (self._workers, None if self._driver is None else self._driver[1]):
            if end is not None:
                end.close(why)

    def equip(self, tools: Sequence[Tool], prompt: PromptFunction | None) -> None:
        """Gives the episodes tools and a system prompt beside those that the rules of the sizes name."""
        self._tools, self._prompt = tuple(tools), prompt

    def episode(self, question: Question, backend: SearchBackend) -> Episode:
        """A question as it is played."""
        return Episode(question, backend, self.sizes.episode, self._tools, self._prompt)

    def prompt_tokens(self, question: Question, backend: SearchBackend) -> int:
        """The length of a question as an episode begins, visual tokens counted one by one."""
        episode = self.episode(question, backend)
        return self.sizes.tokens([self.chat.prompt(episode.system, episode.prompt())])

    def suspend(self) -> None:
        """Makes room for a training step: on a mesh, the engines' weights and slots leave the devices to it."""
        if self._copies is None:
            return
        self.engines.suspend(weights=not self._keeps_base)
        if self._driver is not None:
            self._driver[0].suspend(weights=not self._keeps_base)

    def publish(self, params: Any, version: int, lora: Lora | None = None) -> dict[str, float]:
        """The engines sample from the learner's present weights from now on.

        Args:
          lora: where adapters train; then `params` are the weights beside them, which never change.

        Returns, on a mesh, sync_gib: what this process's devices received.
        """
        if self._copies is None:
            self.engines.set_weights(params, lora, version)
            return {}
        self.suspend()  # there may be no room for old and new
        adapters = [None] * len(self._copies.meshes) if lora is None else self._copies.adapters(lora)
        if self._keeps_base:
            self._set_adapters(adapters, version)
            return {"sync_gib": self._copies.received_bytes(lora) / 2**30}
        copies = self._copies(params)
        if self._driver is not None:
            self._driver[0].set_weights(copies[0], adapters[0])
        else:
            for engine, own, own_lora in zip(self.engines.all, copies, adapters, strict=True):
                engine.set_weights(own, own_lora, version)
        return {"sync_gib": self._copies.received_bytes(params if lora is None else lora) / 2**30}

    def _set_adapters(self, adapters: Sequence[Any], version: int) -> None:
        if self._driver is not None:
            self._driver[0].set_adapters(adapters[0])
            return
        for engine, own in zip(self.engines.all, adapters, strict=True):
            engine.set_adapters(own, version)

    async def finish_plays(self) -> None:
        """Every process calls it after its plays: those that follow have worked for their driver until then."""
        if self._workers is not None:
            self._workers.release()
        if self._driver is not None:
            device, driver = self._driver
            try:
                await asyncio.to_thread(driver.serve, device)
            except asyncio.CancelledError:
                driver.stop()
                raise

    async def scatter(self, samples: Sequence[TrainingSample]) -> list[TrainingSample]:
        """This process's part of what its replica group's driver has to train on; every process calls it.

        Args:
          samples: the driver's, at least one; of a process that follows none.
        """
        if self._driver is not None:
            return from_message(await asyncio.to_thread(self._driver[1].receive))
        if self._workers is None:
            return list(samples)
        own, *others = spread(samples, 1 + len(self._workers))
        self._workers.scatter([to_message(part) for part in others])
        return own

    def apart(self, mesh: Mesh) -> bool:
        """Whether the engines lie on other devices than this mesh."""
        return self._copies is not None and set(self._copies.grid.flat).isdisjoint(mesh.devices.flat)

    def copies(self, params: Any, lora: Lora | None = None) -> tuple[list[tuple[Any, Any]], dict[str, float]]:
        """(weights and adapters for each engine, which stay as they are while the learner trains on; as `publish`).

        Weights that do not train are copied once. The next training step takes the buffers of the learner's own.
        """
        if self._copies is None:
            base = self._kept_base or [_copied(params)] * len(self.engines.all)
            adapters: list[Any] = [None if lora is None else _copied(lora)] * len(self.engines.all)
            figures = {}
        else:
            base = self._kept_base or self._copies(_copied(params))
            adapters = [None] * len(base) if lora is None else self._copies.adapters(_copied(lora))
            figures = {"sync_gib": self._copies.received_bytes(params if lora is None else lora) / 2**30}
        self._kept_base = None if lora is None else base
        return list(zip(base, adapters, strict=True)), figures

    async def episodes(
        self,
        generator: Generator,
        questions: Sequence[Question],
        backend: SearchBackend,
        seeds: Sequence[int],
        *,
        evaluation: bool = False,
        on_end: Callable[[int, Trajectory], None] | None = None,
        timeline: Timeline | None = None,
    ) -> list[Trajectory]:
        """One episode a question, as `play`, with a generator that is running."""
        episodes = [self.episode(question, backend) for question in questions]
        sampling = self.sizes.sampling(evaluation)
        return await run_episodes(generator, episodes, self.chat, sampling, seeds, on_end=on_end, timeline=timeline)

    async def play(
        self,
        questions: Sequence[Question],
        backend: SearchBackend,
        seeds: Sequence[int],
        *,
        group: int = 1,
        evaluation: bool = False,
        on_end: Callable[[int, Trajectory], None] | None = None,
        timeline: Timeline | None = None,
    ) -> RolloutBatch:
        """One episode a question.

        Args:
          seeds: one a question.
          group: so many questions in a row are the same one; they go to one engine, which reads their prompt once.
          evaluation: sample as in evaluation.
          on_end: called as each ends, with its place among the questions.
        """
        if not questions:
            return RolloutBatch([], 0.0)
        async with self.engines.running(group, timeline) as generator:
            trajectories = await self.episodes(
                generator, questions, backend, seeds, evaluation=evaluation, on_end=on_end, timeline=timeline
            )
        waited = sum(counts.waiting_seconds for counts in generator.counts) / len(generator.counts)
        return RolloutBatch(trajectories, waited)


def _copied(tree: Any) -> Any:
    """The arrays once more, where they are."""
    return jax.tree.map(jnp.copy, tree)


def _end(why: str) -> None:
    """Ends this process: its main thread may wait inside of a device program for one that is gone, for ever."""
    print(f"hypereyes: {visible(why)}", file=sys.stderr, flush=True)
    os._exit(1)
