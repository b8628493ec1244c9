"""Who loses its slot when slots are scarce, whose cache is of use to whom, and when a rollout is too old."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from hypereyes_jax.configs.rollout import SamplingConfig, SchedulerConfig
from hypereyes_jax.rollout import Scheduler, TurnEnd
from hypereyes_jax.rollout.cache.pages import CachedPositions
from hypereyes_jax.rollout.cache.prefix import PrefixCache
from hypereyes_jax.rollout.engine import KeptPrefix
from hypereyes_jax.rollout.routes import RouteRecord
from hypereyes_jax.rollout.sequence import Prompt
from tests.rollout.paced import SAMPLING


def prompt_of(key, *tokens, positions=None):
    return Prompt(key, len(tokens) - 1 if positions is None else positions, np.array(tokens, np.int32))


async def test_the_session_parked_longest_loses_its_slot_first(make_engine, chat):
    prompt = chat.prompt("", ["a"])
    async with Scheduler(make_engine(slots=3), SchedulerConfig(evict_after=0.0)) as scheduler:

        async def turn_of(session):
            await session.turn(prompt if session.sequence.length == 0 else chat.observation(["found it"]))

        def with_slot():
            return [number for number, session in enumerate(sessions) if session.sequence.slot is not None]

        sessions = [await scheduler.open(seed, SAMPLING, ()) for seed in range(5)]
        for session in sessions[:3]:
            await turn_of(session)
        await turn_of(sessions[0])  # ran again: now 1 is parked longest
        assert with_slot() == [0, 1, 2]
        await turn_of(sessions[3])
        assert with_slot() == [0, 2, 3]
        await turn_of(sessions[4])
        assert with_slot() == [0, 3, 4]
        await turn_of(sessions[1])  # comes back
        assert with_slot() == [1, 3, 4]
        assert scheduler.counts.evictions == 3
        assert scheduler.counts.restored == 1


async def test_while_others_run_a_session_keeps_its_slot_for_as_long_as_it_was_promised(make_engine, chat):
    prompt = chat.prompt("", ["a"])
    async with Scheduler(make_engine(slots=2), SchedulerConfig(evict_after=3600.0)) as scheduler:
        parked, running, late = [await scheduler.open(seed, SAMPLING, ()) for seed in range(3)]
        await parked.turn(prompt)
        running.sampling = SamplingConfig(max_new_tokens=60)
        kept, second = [], []

        def while_running(_):
            if not second:
                second.append(asyncio.create_task(late.turn(prompt)))
            kept.append(parked.sequence.slot is not None)

        await running.turn(prompt, while_running)
        await second[0]  # nobody runs any more: it need not wait for the hour to pass
        assert len(kept) > 10
        assert all(kept)
        assert parked.sequence.slot is None
        assert scheduler.counts.evictions == 1


@pytest.mark.parametrize(("limit", "ends"), [(1, TurnEnd.STALE), (2, TurnEnd.LENGTH)])
async def test_a_rollout_is_stale_beyond_the_lag_of_its_first_sampled_token(make_engine, chat, params, limit, ends):
    prompt, more = chat.prompt("", ["a"]), chat.observation(["found it"])
    engine = make_engine()
    engine.set_weights(params, None, 5)
    async with Scheduler(engine, SchedulerConfig(max_staleness=limit)) as scheduler:
        session, late = [await scheduler.open(seed, SAMPLING, ()) for seed in range(2)]
        for version in (5, 6, 7):
            if version > 5:
                await scheduler.swap(params, None, version)
            turn = await session.turn(prompt if version == 5 else more)
            assert turn.end is (ends if version == 7 else TurnEnd.LENGTH)
        assert (turn.sampled is None) == (ends is TurnEnd.STALE)
        # opened under the old weights, but all that it sampled is of the new ones
        assert (await late.turn(prompt)).end is TurnEnd.LENGTH
        await scheduler.swap(params, None, 8)
        assert (await late.turn(more)).end is TurnEnd.LENGTH
        assert scheduler.counts.stale == (ends is TurnEnd.STALE)


def kept_in(part):
    return KeptPrefix(CachedPositions(part, (), 0), RouteRecord())


def test_a_prompt_in_the_cache_is_of_use_as_far_as_it_is_the_same():
    cache = PrefixCache(limit=2)
    first, second = kept_in(0), kept_in(1)
    assert cache.note(prompt_of(b"x", 1, 2, 3, 4, 5), first) == []
    assert cache.note(prompt_of(b"y", 1, 2, 3, 9, 9), second) == []
    asked = prompt_of(b"w", 1, 2, 3, 4, 8, 8)
    assert cache.find(asked) == (first, 4)
    assert cache.find(asked, whole=True) is None
    assert cache.find(prompt_of(b"x", 1, 2, 3, 4, 5), whole=True) == (first, 4)
    assert cache.find(prompt_of(b"v", 7, 7)) is None
    assert cache.holds(0, prompt_of(b"x", 1, 2, 3, 4, 5))
    assert not cache.holds(1, prompt_of(b"x", 1, 2, 3, 4, 5))  # another part of the devices has it


def test_the_prompt_used_longest_ago_makes_room():
    cache = PrefixCache(limit=2)
    kept = [kept_in(0), kept_in(0), kept_in(1)]
    cache.note(prompt_of(b"x", 1, 2), kept[0])
    cache.note(prompt_of(b"y", 3, 4), kept[1])
    cache.find(prompt_of(b"x", 1, 2))  # used: the other one goes
    assert cache.note(prompt_of(b"z", 5, 6), kept[2])[0] is kept[1]
    cache.note(prompt_of(b"v", 7, 8), kept_in(1))  # and then the one used longest ago of the rest
    assert cache.of_part(0) == []
    (of_other, last) = cache.of_part(1)
    assert of_other is kept[2]
    cache.drop(kept[2])
    assert [each is last for each in cache.clear()] == [True]
    assert cache.find(prompt_of(b"z", 5, 6)) is None


def test_a_prompt_shares_no_position_that_it_does_not_keep():
    """The last token of a prompt is not in the cache; behind an image nothing is alike unless all is."""
    assert prompt_of(b"a", 1, 2, 3).shared(prompt_of(b"b", 1, 2, 3)) == 2
    assert prompt_of(b"a", 1, 2, positions=9).shared(prompt_of(b"b", 1, 2, 3, positions=7)) == 2
    assert prompt_of(b"a", 1, 2, positions=9).shared(prompt_of(b"a", 1, 2, positions=9)) == 9
    assert prompt_of(b"a", 1, 2, 3, 4).shared(prompt_of(b"b", 5, 2, 3, 4)) == 0
