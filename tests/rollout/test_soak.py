"""Ten thousand rollouts through one scheduler: nothing is left behind. Minutes long."""

from __future__ import annotations

import gc
import resource
import sys

import jax
import pytest

from hypereyes_jax.configs.rollout import SamplingConfig, SchedulerConfig
from hypereyes_jax.rollout import Scheduler, run_episodes
from tests.rollout.paced import PacedEpisode, question

SHORT = SamplingConfig(max_new_tokens=2)


def _resident_kib() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_memory_does_not_grow_and_every_slot_comes_back(make_engine, chat):
    engine = make_engine(slots=16, decode_rows=(16,), extend_rows=(8,))  # few calls: what is long here is the run
    sizes, arrays = [], []
    async with Scheduler(engine, SchedulerConfig(evict_after=0.0)) as scheduler:
        for batch in range(50):
            episodes = [PacedEpisode(question(n % 40), turns=2) for n in range(200)]
            seeds = [200 * batch + n for n in range(200)]
            out = await run_episodes(scheduler, episodes, chat, SHORT, seeds)
            assert len(out) == 200
            del out, episodes
            gc.collect()
            sizes.append(_resident_kib())
            arrays.append(len(jax.live_arrays()))
            assert engine.free_slots == engine.settings.slots
            if batch % 10 == 9:
                print(
                    f"{200 * (batch + 1)} rollouts: {sizes[-1] // 1024} MiB resident, {arrays[-1]} arrays", flush=True
                )
    assert arrays[-1] <= arrays[1]
    assert len(set(arrays[1:])) == 1
    assert sizes[-1] - sizes[9] < 20 * 1024, sizes  # the first batches fill caches; 40 later ones may not add 20 MiB
