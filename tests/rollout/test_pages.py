"""Caches in pages: the table of who holds what, the programs that read and write pages, engines with few of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hypereyes_jax.configs.rollout import EngineConfig, SchedulerConfig
from hypereyes_jax.errors import SettingError
from hypereyes_jax.rollout import Engine, Scheduler, run_episodes
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.pages import PageTable, pages_of_part
from hypereyes_jax.rollout.cache.slot_layout import SlotLayout
from tests.rollout.paced import SAMPLING, SETTINGS, PacedEpisode, question, tokens

PAGE = 16


def test_a_slot_takes_pages_as_it_grows_and_gives_them_all_back():
    table = PageTable(SlotLayout(4, 2), pages=6, page_tokens=PAGE)
    table.grow(1, 1)
    table.grow(1, PAGE)
    assert len(table.of(1)) == 1
    table.grow(1, 5 * PAGE)
    assert (table.free(0), table.free(1)) == (6, 1)  # slot 1 is the second part's
    with pytest.raises(MemoryError, match="2 pages are needed for a slot, and 1 are free"):
        table.grow(3, 2 * PAGE)
    table.release(1)
    assert table.free(1) == 6
    assert table.of(1) == []


def test_two_slots_hold_the_same_whole_pages_and_one_has_a_copy_of_the_rest():
    table = PageTable(SlotLayout(4, 2), pages=8, page_tokens=PAGE)
    table.grow(0, 3 * PAGE)
    first = table.first(0, 2 * PAGE + 5)
    ((source, target),) = table.begin_with(2, first, 2 * PAGE + 5)
    assert table.of(2)[:2] == table.of(0)[:2]
    assert (source, target) == (table.of(0)[2], table.of(2)[2])
    assert table.free(0) == 8 - 4
    assert table.begin_with(1, first, 2 * PAGE) == list(zip(table.of(0)[:2], table.of(1), strict=True))  # another part
    kept = [table.first(0, 2 * PAGE), table.first(0, 3 * PAGE)]
    for each in kept:
        table.hold(each)
    assert table.held_by_sequences(0, kept) == {*table.of(0), *table.of(2)}
    table.release(0)
    assert table.held_by_sequences(0, kept) == set(table.of(2))  # a page that only those two keep is none of them
    for each in kept:
        table.drop(each)
    assert table.free(0) == 8 - 3  # the two are the other slot's still
    table.release(2)
    assert table.free(0) == 8


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 4 * PAGE)), max_size=60))
def test_a_page_is_free_exactly_when_nobody_holds_it(moves):
    """Slots grow, begin with what others have, and give back, while some beginnings are kept besides."""
    table, pages, kept = PageTable(SlotLayout(6, 2), pages=16, page_tokens=PAGE), 16, []
    for slot, other, count in moves:
        if count == 0:
            table.release(slot)
        elif slot == other and count % 2:
            kept.append(table.first(slot, min(count, PAGE * len(table.of(slot)))))
            table.hold(kept[-1])
        elif slot != other and count <= PAGE * len(table.of(other)) and table.free(slot % 2) >= 4:
            copies = table.begin_with(slot, table.first(other, count), count)
            assert len(copies) == (table.count(count) if slot % 2 != other % 2 else bool(count % PAGE))
            assert not {(slot % 2, target) for _, target in copies} & holders(table, kept, slot)
        elif table.free(slot % 2) >= 4:
            table.grow(slot, count)
        for part in range(2):
            assert table.free(part) == pages - len({page for at, page in holders(table, kept) if at == part})
    for slot in range(6):
        table.release(slot)
    for each in kept:
        table.drop(each)
    assert (table.free(0), table.free(1)) == (pages, pages)


def holders(table, kept, but=None):
    """(part, page) of all that is held."""
    of_slots = {(slot % 2, page) for slot in range(6) if slot != but for page in table.of(slot)}
    return of_slots | {(each.part, page) for each in kept for page in each.pages}


def test_the_cache_has_room_for_all_slots_unless_told_otherwise():
    plain = EngineConfig(slots=4, context=100, page_tokens=PAGE)
    assert pages_of_part(plain, 1) == 5 * 7  # a slot more, for the echo check
    assert pages_of_part(plain, 2) == 3 * 7
    assert pages_of_part(replace(plain, cache_tokens=240), 2) == 7
    with pytest.raises(SettingError, match=r"6 pages of 16 tokens.*may take 7: choose --sizes.cache-tokens 224"):
        pages_of_part(replace(plain, cache_tokens=223), 2)
    with pytest.raises(SettingError, match="cache_tokens=111 does not hold one sequence of context=100: choose 112"):
        replace(plain, cache_tokens=111)
    with pytest.raises(SettingError, match="page_tokens=48 is not a power of two"):
        EngineConfig(page_tokens=48)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_columns_go_to_their_pages_and_nowhere_else_and_a_view_shows_them(data):
    """Against numpy: rows that begin anywhere in a page, end anywhere, and write nothing."""
    layers, heads, size, pages, rows = 2, 2, 4, 9, 2
    width = data.draw(st.sampled_from([1, 3, PAGE, 40]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    table_RP = rng.permutation(pages)[: rows * 4].reshape(rows, 4).astype(np.int32)
    shape = (heads, layers, pages, PAGE, size)
    before = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
    new = [rng.normal(size=(layers, rows, heads, width, size)).astype(np.float32) for _ in range(2)]
    count_R = np.array([data.draw(st.integers(0, width)) for _ in range(rows)], np.int32)
    start_R = np.array([data.draw(st.integers(0, 4 * PAGE - count)) for count in count_R.tolist()], np.int32)
    store = kv.PageStore(*map(jnp.asarray, before), None, None)
    after = _put(store, kv.Columns(*map(jnp.asarray, new)), table_RP, start_R, count_R)

    for leaf, whole, fresh in zip((after.k, after.v), before, new, strict=True):
        for row in range(rows):
            for step in range(count_R[row]):
                page, place = divmod(start_R[row] + step, PAGE)
                whole[:, :, table_RP[row, page], place] = fresh[:, row, :, step].swapaxes(0, 1)
        np.testing.assert_array_equal(leaf, whole)
    wanted = [
        whole[:, :, table_RP].transpose(1, 2, 0, 3, 4, 5).reshape(layers, rows, heads, -1, size) for whole in before
    ]
    for view in (_take(after, table_RP), kv.View(*map(jnp.stack, zip(*_take_apart(after, table_RP), strict=True)))):
        np.testing.assert_array_equal(view.k, wanted[0].swapaxes(3, 4))
        np.testing.assert_array_equal(view.v, wanted[1])
    np.testing.assert_array_equal(
        kv._row_by_row(after.k, jnp.asarray(table_RP), layer=None, turned=True), wanted[0].swapaxes(3, 4)
    )


_put = jax.jit(kv.put_columns)
_take = jax.jit(lambda store, pages_RP: kv.take_rows(store, pages_RP, jnp.float32))


@jax.jit
def _take_apart(store, pages_RP):
    return [(view.k, view.v) for view in kv.take_layers(store, pages_RP, jnp.float32)]


@pytest.mark.parametrize("memory", [1.0, 0.0])
@pytest.mark.parametrize("cache_tokens", [192, 320])
async def test_rollouts_for_which_there_is_no_room_wait_and_go_on_as_if_nothing_had_happened(
    make_engine, chat, alone, memory, cache_tokens
):
    """192 is the room of one rollout of the greatest length, for four slots."""
    engine = make_engine(cache_tokens=cache_tokens, offload_gib=memory)
    episodes = [PacedEpisode(question(n), seconds=0.02 * (n % 2)) for n in range(10)]
    async with Scheduler(engine) as scheduler:
        out = await run_episodes(scheduler, episodes, chat, SAMPLING, list(range(10)))
    assert [tokens(t) for t in out] == alone
    counts = scheduler.counts
    assert counts.preemptions + counts.evictions > 0
    assert (counts.restored > 0) == (memory > 0)
    assert (counts.reread_tokens > 0) == (memory == 0)
    assert engine.free_pages(0) == cache_tokens // SETTINGS.page_tokens  # nothing is held any more


async def test_samples_of_a_prompt_hold_its_whole_pages_together(make_engine, chat):
    engine = make_engine()
    prompt = chat.prompt("search with care " * 12, ["what is number 1?"])
    positions = len(prompt.tokens) - 1
    assert positions > 4 * SETTINGS.page_tokens
    before = engine.free_pages(0)
    async with Scheduler(engine) as scheduler:
        sessions = [await scheduler.open(seed, SAMPLING, ()) for seed in range(4)]
        turns = await asyncio.gather(*(session.turn(prompt) for session in sessions))
        used = before - engine.free_pages(0)
    ends = [engine_pages(positions + len(turn.sampled.tokens)) for turn in turns]
    whole = positions // SETTINGS.page_tokens
    assert used <= whole + sum(end - whole for end in ends) + 1  # and the page that the kept prompt ends in
    assert used < sum(ends) / 2
    assert engine.free_pages(0) == before


def engine_pages(positions):
    return -(-positions // SETTINGS.page_tokens)


async def preempted(scheduler):
    """Returns when a turn has to wait."""
    while not scheduler.counts.preemptions:  # noqa: ASYNC110 - the scheduler tells nobody
        await asyncio.sleep(0.001)


async def test_a_turn_that_had_to_wait_in_its_midst_ends_as_it_would_have_and_can_be_withdrawn(make_engine, chat):
    """Four long turns in a cache for one and a half: those opened last wait; one of them is given up meanwhile."""
    sampling = replace(SAMPLING, max_new_tokens=90)
    prompts = [chat.prompt("search", [f"what is number {n}?"]) for n in range(4)]

    async def turns(engine, give_up):
        async with Scheduler(engine, SchedulerConfig(share_prompts=False)) as scheduler:
            sessions = [await scheduler.open(seed, sampling, ()) for seed in range(4)]
            tasks = [asyncio.ensure_future(s.turn(p)) for s, p in zip(sessions, prompts, strict=True)]
            if give_up:
                await preempted(scheduler)
                tasks[3].cancel()
            out = await asyncio.gather(*tasks, return_exceptions=True)
        return [None if isinstance(turn, BaseException) else turn.sampled for turn in out], scheduler.counts

    one_shape = {"decode_rows": (4,), "view_lengths": (192,)}  # of a decode call
    ample, none = await turns(make_engine(**one_shape), give_up=False)
    assert none.preemptions == 0
    tight = make_engine(cache_tokens=288, **one_shape)
    out, counts = await turns(tight, give_up=True)
    assert counts.preemptions > 0
    assert out[3] is None
    for ours, theirs in zip(out[:3], ample[:3], strict=True):
        assert ours.tokens.tolist() == theirs.tokens.tolist()
        np.testing.assert_array_equal(ours.logp_full, theirs.logp_full)  # its cache came back bit for bit
    assert tight.free_pages(0) == 288 // SETTINGS.page_tokens


async def test_the_turn_of_the_session_opened_first_never_waits(make_engine, chat):
    """However much later ones take: so that there is always one that comes to its end."""
    sampling = replace(SAMPLING, max_new_tokens=100)
    engine = make_engine(cache_tokens=192)
    async with Scheduler(engine) as scheduler:
        sessions = [await scheduler.open(seed, sampling, ()) for seed in range(4)]
        ended = []

        async def turn(number):
            await sessions[number].turn(chat.prompt("search", [f"what is number {number}?"]))
            ended.append(number)

        await asyncio.gather(*map(turn, range(4)))
    assert scheduler.counts.preemptions > 0
    assert ended == [0, 1, 2, 3]


async def test_new_weights_find_turns_that_wait_in_their_midst(make_engine, chat):
    """They are sampled anew from their start, as those are that run."""
    sampling = replace(SAMPLING, max_new_tokens=90)
    engine = make_engine(cache_tokens=288)
    async with Scheduler(engine) as scheduler:
        sessions = [await scheduler.open(seed, sampling, ()) for seed in range(3)]
        prompts = [chat.prompt("search", [f"what is number {n}?"]) for n in range(3)]
        tasks = [asyncio.ensure_future(s.turn(p)) for s, p in zip(sessions, prompts, strict=True)]
        await preempted(scheduler)
        await scheduler.swap(engine.params, None, 5, mode="abort")
        out = await asyncio.gather(*tasks)
    assert all((turn.sampled.version == 5).all() for turn in out if turn.sampled.version[-1] == 5)
    assert sum((turn.sampled.version == 5).all() for turn in out) >= 2
    assert engine.free_pages(0) == 288 // SETTINGS.page_tokens


def test_an_engine_of_int8_pages_has_the_scales_beside_them(config, params):
    engine = Engine(config, params, replace(SETTINGS, kv="int8"))
    assert engine.device.store.k_scale.shape == (*engine.device.store.k.shape[:-1], 1)
    assert engine.device.store.k.shape[2] == pages_of_part(SETTINGS, 1)
