"""Engines that share a device play as one engine does."""

from __future__ import annotations

import os
from dataclasses import replace

import jax
import pytest

from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout import Timeline, run_episodes
from hypereyes_jax.rollout.cache import manager
from hypereyes_jax.rollout.engines import Engines
from tests.rollout.paced import SAMPLING, PacedEpisode, question


@pytest.fixture
def parts(make_engine):
    engine = make_engine()
    return engine.config, engine.params, engine.settings


async def play(engines: Engines, chat, timeline=None):
    episodes = [PacedEpisode(question(n)) for n in range(9)]
    async with engines.running(timeline=timeline) as generator:
        return await run_episodes(generator, episodes, chat, SAMPLING, list(range(9)), timeline=timeline)


def tokens(trajectories):
    return [[chunk.tokens.tolist() for chunk in trajectory.chunks] for trajectory in trajectories]


async def test_two_engines_sample_what_one_samples(parts, chat):
    one, two = Engines.on_one_device(*parts, 1), Engines.on_one_device(*parts, 2)
    assert tokens(await play(two, chat)) == tokens(await play(one, chat))
    assert all(engine.counts.decode_tokens for engine in two.all)
    two.set_weights(jax.tree.map(lambda x: x * 1.1, two.params), None, 1)
    changed = await play(two, chat)
    assert tokens(changed) != tokens(await play(one, chat))
    stamps = {int(v) for t in changed for c in t.chunks if isinstance(c, SampledChunk) for v in c.version}
    assert stamps == {1}
    for engine in two.all:
        assert engine.free_slots == engine.settings.slots
    two.suspend()
    assert all(engine.params is None for engine in two.all)


@pytest.mark.parametrize(
    ("given", "count", "processes", "limit"),
    [(None, 1, 1, 3.0), (None, 2, 1, 1.5), (None, 2, 8, 0.1875), (2.0, 2, 8, 1.0), (0.0, 1, 1, 0.0)],
)
async def test_engines_share_the_host_memory_for_what_they_evict(parts, monkeypatch, given, count, processes, limit):
    """A quarter of what is free, if nothing is said; what is said is each process's."""
    monkeypatch.setattr(manager, "host_free_gib", lambda: 12.0)
    config, params, settings = parts
    engines = Engines.on_one_device(config, params, replace(settings, offload_gib=given), count)
    async with Engines(engines.all, processes).running() as running:
        assert [each._cache.offload_limit for each in running._schedulers] == [limit * 2**30] * count


async def test_each_of_several_engines_has_tracks_of_its_own(parts, chat):
    timeline = Timeline()
    await play(Engines.on_one_device(*parts, 2), chat, timeline)
    assert {track for track, *_ in timeline._spans if track.startswith("device")} == {"device 0", "device 1"}
    alone = Timeline()
    await play(Engines.on_one_device(*parts, 1), chat, alone)
    assert {track for track, *_ in alone._spans if track.startswith("device")} == {"device"}


@pytest.mark.parametrize(
    ("slots", "cores", "count", "shares"),
    [
        (32, 2, 0, [16, 16]),
        (32, 16, 0, [16, 16]),
        (17, 2, 0, [9, 8]),
        (15, 2, 0, [15]),  # weights are read once a step, for however many rows
        (32, 1, 0, [32]),
        (32, 2, 1, [32]),
        (1, 2, 2, [1]),
    ],
)
def test_slots_are_shared_out(parts, monkeypatch, slots, cores, count, shares):
    config, params, settings = parts
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    settings = replace(settings, slots=slots, decode_rows=(slots,))
    engines = Engines.on_one_device(config, params, settings, count)
    assert [engine.settings.slots for engine in engines.all] == shares
    assert all(engine.params["embed"] is params["embed"] for engine in engines.all)  # one copy of the weights
    # one shape was asked for, and each engine has one: another program's sums have other last bits
    assert [engine.settings.decode_row_buckets for engine in engines.all] == [(share,) for share in shares]


def test_an_accelerator_gets_one_engine(parts, monkeypatch):
    config, params, settings = parts
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert len(Engines.on_one_device(config, params, settings).all) == 1
