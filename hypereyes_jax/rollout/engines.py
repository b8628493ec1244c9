"""Engines with the same weights that play together: replicas on devices of their own, or side by side on one."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from collections.abc import Sequence as Items
from dataclasses import replace
from typing import Any

import jax

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import EngineConfig, SchedulerConfig
from hypereyes_jax.rollout.engine import Engine
from hypereyes_jax.rollout.replicas.placement import Replicas
from hypereyes_jax.rollout.scheduler import Scheduler
from hypereyes_jax.rollout.timeline import Timeline
from hypereyes_jax.rollout.types import SchedulerCounts

_FEWEST_SLOTS = 8  # of one of several engines on a device: weights are read once a step, for however many rows


class Engines:
    """One engine or several, as one.

    Args:
      engines: with the same weights. May be none where nothing is played.
      processes: of this run on this host that have engines.
    """

    def __init__(self, engines: Items[Engine], processes: int = 1):
        self.all = list(engines)
        self._processes = processes

    @classmethod
    def on_one_device(
        cls, config: Qwen3VLConfig, params: Any, settings: EngineConfig, count: int = 0, lora: Any = None
    ) -> Engines:
        """Engines that divide slots and cache among them, and share the device and the arrays of the weights.

        On a CPU a decode step of a small model is hundreds of operations too short to be worth dividing among cores:
        two engines whose calls overlap keep two cores busy, where one keeps one and a half. An accelerator works on
        one call at a time, so one engine with all the slots serves it best.

        Args:
          count: of engines; 0 = two on a CPU of at least two cores where each has eight slots or more, else one.
          lora: adapters, which later ones must be shaped like; None = there are never any.
        """
        if count == 0:
            pays = jax.default_backend() == "cpu" and (os.cpu_count() or 1) > 1 and settings.slots >= 2 * _FEWEST_SLOTS
            count = 2 if pays else 1
        shares = [settings.slots // count + (number < settings.slots % count) for number in range(count)]
        return cls([Engine(config, params, _with_slots(settings, slots), lora=lora) for slots in shares if slots])

    @property
    def params(self) -> Any:
        """The weights in use, where the engines share them."""
        return self.all[0].params

    def set_weights(self, params: Any, lora: Any, version: int) -> None:
        """`Engine.set_weights` of each. For engines that share a device."""
        for engine in self.all:
            engine.set_weights(params, lora, version)

    def suspend(self, weights: bool = True) -> None:
        """`Engine.suspend` of each."""
        for engine in self.all:
            engine.suspend(weights)

    @contextlib.asynccontextmanager
    async def running(self, group: int = 1, timeline: Timeline | None = None) -> AsyncIterator[RunningEngines]:
        """Schedulers for all of them, until the end of the block.

        Args:
          group: so many rollouts opened in a row go to one engine, which reads their common prompt once.
          timeline: of several engines, each has tracks of its own.
        """
        settings = SchedulerConfig(engines=len(self.all), processes=self._processes)
        async with contextlib.AsyncExitStack() as stack:
            schedulers = []
            for number, engine in enumerate(self.all):
                own = timeline.replica(number) if timeline is not None and len(self.all) > 1 else timeline
                scheduler = Scheduler(engine, settings, own)
                schedulers.append(await stack.enter_async_context(scheduler))
            yield RunningEngines(schedulers, group)


class RunningEngines(Replicas):
    """The generator that `Engines.running` gives."""

    def __init__(self, schedulers: Items[Scheduler], group: int):
        super().__init__(schedulers, group)
        self._schedulers = list(schedulers)

    @property
    def counts(self) -> list[SchedulerCounts]:
        """The counts of each engine's scheduler."""
        return [scheduler.counts for scheduler in self._schedulers]

    async def swap(self, weights: Items[tuple[Any, Any]], version: int) -> None:
        """New weights for each engine, between two of its device steps; turns under way go on with them.

        Args:
          weights: weights and adapters for each engine; they must stay as they are while the engines use them.
          version: stamped on what they sample.
        """
        swaps = [
            scheduler.swap(params, lora, version)
            for scheduler, (params, lora) in zip(self._schedulers, weights, strict=True)
        ]
        await asyncio.gather(*swaps)

    @contextlib.asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """No engine's device works within the block."""
        async with contextlib.AsyncExitStack() as stack:
            for scheduler in self._schedulers:
                await stack.enter_async_context(scheduler.paused())
            yield


def _with_slots(settings: EngineConfig, slots: int) -> EngineConfig:
    # Capped, not left out: without any, an engine would choose its own, and an exact one would have several shapes.
    rows = sorted({min(rows, slots) for rows in settings.decode_rows})
    cache = settings.cache_tokens * slots // settings.slots
    return replace(settings, slots=slots, cache_tokens=cache, decode_rows=tuple(rows))
