"""Searches overlap with generation. The device's time is a sleep here, so that the scheduler alone is measured."""

from __future__ import annotations

import time

import numpy as np

from hypereyes_jax.rollout import Engine, Sampled, Scheduler, run_episodes
from tests.rollout.paced import SAMPLING, SETTINGS, PacedEpisode, question

EXTEND_SECONDS, DECODE_SECONDS = 0.02, 0.08  # a call
TURNS, SEARCH_SECONDS = 3, 0.8


class SleepingEngine(Engine):
    """Samples tokens 30, 31, ... in no time but that of its naps."""

    def extend(self, sequences):
        time.sleep(EXTEND_SECONDS)
        batch = list(sequences)[: self.settings.extend_rows[-1]]
        for sequence in batch:
            sequence.filled = sequence.length - 1
        return batch

    def decode(self, requests, steps=None):
        time.sleep(DECODE_SECONDS)
        results = []
        for request in requests:
            tokens = np.arange(30, 30 + min(self.settings.max_steps, request.budget), dtype=np.int32)
            request.sequence.append_sampled(tokens)
            logp = np.zeros(len(tokens), np.float32)
            results.append(Sampled(tokens, logp, logp, False))
        self.counts.decode_tokens += sum(len(result.tokens) for result in results)
        return results


async def seconds(engine, chat, latency):
    episodes = [PacedEpisode(question(n, image=False), TURNS, latency, with_image=False) for n in range(24)]
    async with Scheduler(engine) as scheduler:
        started = time.perf_counter()
        await run_episodes(scheduler, episodes, chat, SAMPLING, list(range(24)))
        return time.perf_counter() - started, scheduler.counts


async def test_searches_cost_little_with_three_times_as_many_episodes_as_slots(config, params, chat, make_engine):
    engine = SleepingEngine(config, params, make_engine(slots=8).settings)
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
