"""The kernels for TPUs over the pages, interpreted: against numpy, and an engine on them against one on views."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas import tpu

from hypereyes_jax.models.qwen3_vl import Kernels, init_params
from hypereyes_jax.rollout import Engine, SamplingConfig
from hypereyes_jax.rollout.cache import tpu_attention
from hypereyes_jax.rollout.cache.access import views_cache
from hypereyes_jax.rollout.cache.kv import Columns, PageStore, put_columns
from hypereyes_jax.rollout.cache.tpu_attention import put_and_attend
from tests.rollout.paced import SETTINGS, TWO_TURNS_BUDGETS, two_turns

KV_HEADS, LAYERS, PAGES, PAGE, SIZE, HEADS = 2, 3, 40, 16, 128, 4
# Of more pages than a step of the kernel reads; the first and the last row begin with one page.
TABLE = np.random.default_rng(2).permutation(PAGES)[:36].reshape(3, 12).astype(np.int32)
TABLE[2, 0] = TABLE[0, 0]
LENGTH = TABLE.shape[1] * PAGE
run = jax.jit(put_and_attend)


def of_row(whole, row):
    """[kv heads, positions, head dim] of a row, of what one layer's pages hold."""
    return np.concatenate([whole[:, page] for page in TABLE[row]], axis=1)


def reference(q, keys, values, positions):
    """[H * D] of one query over the first `positions` of a row."""
    out = []
    for head in range(HEADS):
        own = head // (HEADS // KV_HEADS)
        score = keys[own, :positions] @ q[head] * SIZE**-0.5
        weight = np.exp(score - score.max())
        out.append(weight @ values[own, :positions] / weight.sum())
    return np.concatenate(out)


@pytest.mark.parametrize(("steps", "tolerance"), [(1, 0.02), (5, 1e-5), (40, 1e-5)])  # jax's multiplies in bfloat16
def test_new_tokens_are_written_and_attend_to_themselves_and_all_before(steps, tolerance):
    rng = np.random.default_rng(0)
    rows = len(TABLE)
    store = [rng.normal(size=(KV_HEADS, LAYERS, PAGES, PAGE, SIZE)).astype(np.float32) for _ in range(2)]
    q = rng.normal(size=(rows, steps, HEADS, SIZE)).astype(np.float32)
    new = [rng.normal(size=(rows, steps, KV_HEADS, SIZE)).astype(np.float32) for _ in range(2)]
    # up to the end of the last page; fewer tokens than others, over a page's end; none at all
    offset, count = np.array([LENGTH - steps, PAGE - 1, 7]), np.array([steps, min(steps, 3), 0])
    with tpu.force_tpu_interpret_mode():
        pages = PageStore(*map(jnp.asarray, store), None, None)
        out, written = run(q, *new, pages, jnp.int32(1), TABLE, offset, count)

    for whole, fresh in zip(store, new, strict=True):
        for row in range(rows):
            for step in range(count[row]):
                page, place = divmod(offset[row] + step, PAGE)
                whole[:, 1, TABLE[row, page], place] = fresh[row, step]
    for ours, theirs in zip((written.k, written.v), store, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for row in range(rows):
        for step in range(count[row]):
            wanted = reference(q[row, step], *(of_row(s[:, 1], row) for s in store), offset[row] + step + 1)
            np.testing.assert_allclose(out[row, step], wanted, atol=tolerance)
    assert np.isfinite(out).all()  # a mixture of experts is given all of them


def test_blocks_of_queries_see_as_far_as_their_own_last_one(monkeypatch):
    """More queries than a step multiplies: 40 tokens of 2 heads in blocks of 32, the last of them partly padding."""
    monkeypatch.setattr(tpu_attention, "_BLOCK_QUERIES", 32)
    rng = np.random.default_rng(4)
    shape = (KV_HEADS, 1, PAGES, PAGE, SIZE)
    store = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
    q = rng.normal(size=(1, 40, HEADS, SIZE)).astype(np.float32)
    new = [rng.normal(size=(1, 40, KV_HEADS, SIZE)).astype(np.float32) for _ in range(2)]
    with tpu.force_tpu_interpret_mode():
        pages = PageStore(*map(jnp.asarray, store), None, None)
        out, written = jax.jit(lambda *given: put_and_attend(*given))(
            q, *new, pages, jnp.int32(0), TABLE[:1], np.array([101]), np.array([40])
        )
    keys, values = (of_row(np.asarray(leaf[:, 0]), 0) for leaf in (written.k, written.v))
    for step in range(40):
        np.testing.assert_allclose(out[0, step], reference(q[0, step], keys, values, 102 + step), atol=1e-5)


def test_what_other_pages_and_later_positions_hold_is_not_read():
    store = np.full((KV_HEADS, 1, PAGES, PAGE, SIZE), np.nan, np.float32)
    store[:, 0, TABLE[1, 0], :10] = 1.0
    new = jnp.ones((1, 2, KV_HEADS, SIZE))
    with tpu.force_tpu_interpret_mode():
        pages = PageStore(jnp.asarray(store), jnp.asarray(store), None, None)
        out, _ = run(
            jnp.ones((1, 2, HEADS, SIZE)), new, new, pages, jnp.int32(0), TABLE[1:2], np.array([10]), np.array([2])
        )
    np.testing.assert_allclose(out, 1.0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 20])
def test_int8_pages_are_written_and_read_with_their_scales(steps):
    rng = np.random.default_rng(1)
    rows = len(TABLE)
    shape = (KV_HEADS, LAYERS, PAGES, PAGE)
    whole = [rng.integers(-127, 128, (*shape, SIZE)).astype(np.int8) for _ in range(2)]
    scales = [rng.uniform(0.001, 0.1, (*shape, 1)).astype(np.float32) for _ in range(2)]
    store = PageStore(*map(jnp.asarray, (*whole, *scales)))
    q = rng.normal(size=(rows, steps, HEADS, SIZE)).astype(np.float32)
    new = [rng.normal(size=(rows, steps, KV_HEADS, SIZE)).astype(np.float32) for _ in range(2)]
    offset, count = np.array([PAGE - 7, 130, 7]), np.array([steps, min(3, steps), 0])
    with tpu.force_tpu_interpret_mode():
        out, written = run(q, *new, store, jnp.int32(1), TABLE, offset, count)

    columns = Columns(*(jnp.asarray(x.swapaxes(1, 2)[None]) for x in new))
    wanted = jax.jit(put_columns)(jax.tree.map(lambda leaf: leaf[:, 1:2], store), columns, TABLE, offset, count)
    for ours, theirs, before in zip(*map(jax.tree.leaves, (written, wanted, store)), strict=True):
        np.testing.assert_array_equal(ours[:, 1:2], theirs)
        np.testing.assert_array_equal(ours[:, ::2], before[:, ::2])
    keys = np.asarray(wanted.k[:, 0], np.float32) * np.asarray(wanted.k_scale[:, 0])
    values = np.asarray(wanted.v[:, 0], np.float32) * np.asarray(wanted.v_scale[:, 0])
    for row in range(rows):
        for step in range(count[row]):
            theirs = reference(q[row, step], of_row(keys, row), of_row(values, row), offset[row] + step + 1)
            np.testing.assert_allclose(out[row, step], theirs, atol=1e-4)  # of values up to 12


def turns_of(config, dtype, **settings):
    """Two turns of rows of different lengths, whose budgets end at different steps: of views, and of the pages."""
    config = replace(config, text=replace(config.text, head_dim=SIZE, mrope_section=(24, 20, 20)))
    params = init_params(jax.random.key(0), config, dtype)
    settings = replace(SETTINGS, context=96, view_lengths=(), **settings)

    def turns(kernels):
        return two_turns(Engine(config, params, settings, kernels=kernels), SamplingConfig(temperature=0.8))

    plain = turns(Kernels())
    with tpu.force_tpu_interpret_mode():
        return plain, turns(Kernels(slots="paged"))


def test_an_engine_on_the_pages_gives_what_one_on_views_gives(config):
    plain, paged = turns_of(config, jnp.bfloat16, kv="bfloat16")  # as on a TPU
    assert [len(part.tokens) for part in paged] == list(TWO_TURNS_BUDGETS) * 2
    # Draws with the same random numbers: in bfloat16 a token may differ where two were close, and then all behind it.
    same = 0
    for one, other in zip(plain, paged, strict=True):
        alike = int(np.argmax([*(one.tokens != other.tokens), True]))
        same += alike
        np.testing.assert_allclose(one.logp_full[:alike], other.logp_full[:alike], atol=0.1)
    assert same >= 0.7 * sum(TWO_TURNS_BUDGETS) * 2


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 2e-5), ("int8", 1e-3)])
def test_with_drafts_an_engine_on_the_pages_gives_what_one_on_views_gives(config, kind, tolerance):
    # A value that lies within float32's rounding between two whole numbers may become either of them in int8.
    for one, other in zip(*turns_of(config, jnp.float32, kv=kind, draft_tokens=3), strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logp_full, other.logp_full, atol=tolerance)


def test_what_the_kernels_do_not_take_is_viewed(config):
    text, paged = replace(config.text, head_dim=SIZE, mrope_section=(24, 20, 20)), Kernels(slots="paged")
    assert not views_cache(paged, text)
    assert views_cache(paged, config.text)  # heads of fewer values
    assert not views_cache(Kernels(slots="in_place"), config.text)
    assert Kernels.for_sampling("tpu", 48).slots == "paged"
