"""Searches overlap with generation. The device's time is a sleep here, so that the scheduler alone is measured."""

from __future__ import annotations

import time

import numpy as np

from hypereyes_jax.rollout import Engine, Scheduler, run_episodes
from hypereyes_jax.rollout.programs.decode import Decoded
from tests.rollout.paced import SAMPLING, SETTINGS, PacedEpisode, question

EXTEND_SECONDS, DECODE_SECONDS = 0.02, 0.08  # a call
TURNS, SEARCH_SECONDS = 3, 0.8


class SleepingCalls:
    """A device that samples token 30 in no time but that of its naps."""

    def extend(self, batch, view_length):
        time.sleep(EXTEND_SECONDS)

    def decode(self, batch, view_length):
        time.sleep(DECODE_SECONDS)
        rows = batch.unpacked()
        count_R = np.minimum(np.asarray(rows.budget_R), int(rows.steps))
        most = (int(rows.steps), len(count_R))
        logp_2KR = np.zeros((2, *most), np.float32)
        return Decoded(np.full(most, 30, np.int32), logp_2KR, count_R, count_R, np.zeros(len(count_R), bool))

    def copy(self, source_part, sources_N, target_part, targets_N):
        pass

    def read(self, part, pages_P):
        pass

    def write(self, kept, part, pages_P):
        pass


async def seconds(engine, chat, latency):
    episodes = [PacedEpisode(question(n, image=False), TURNS, latency, with_image=False) for n in range(24)]
    async with Scheduler(engine) as scheduler:
        started = time.perf_counter()
        await run_episodes(scheduler, episodes, chat, SAMPLING, list(range(24)))
        return time.perf_counter() - started, scheduler.counts


async def test_searches_cost_little_with_three_times_as_many_episodes_as_slots(config, params, chat, make_engine):
    engine = Engine(config, params, make_engine(slots=8).settings, shared_calls=lambda device: SleepingCalls())
    instant, _ = await seconds(engine, chat, 0.0)
    searching, counts = await seconds(engine, chat, SEARCH_SECONDS)
    # the searches of the last episodes have nothing left to overlap with, and a busy machine adds to both
    assert instant / searching > 0.5
    assert counts.evictions > 0

    # a lock-step loop of the same device: three waves, each of them stopping for every search
    decode_calls = -(-SAMPLING.max_new_tokens // SETTINGS.max_steps)
    extend_calls = 8 // SETTINGS.extend_rows[-1]
    turn = extend_calls * EXTEND_SECONDS + decode_calls * DECODE_SECONDS
    lockstep = 3 * (TURNS * turn + (TURNS - 1) * SEARCH_SECONDS)
    assert lockstep / searching > 1.2
