"""The Triton kernels over the pages, interpreted: against numpy, and an engine on them against one on views."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.rollout import Engine, SamplingConfig
from hypereyes_jax.rollout.cache.kv import Columns, PageStore, put_columns
from hypereyes_jax.rollout.cache.page_attention import put_and_attend
from tests.random_weights import random_params
from tests.rollout.paced import SETTINGS, TWO_TURNS_BUDGETS, two_turns

pytestmark = pytest.mark.gpu

LAYERS, PAGES, KV_HEADS, PAGE, SIZE, HEADS = 2, 12, 2, 64, 16, 8
TABLE = np.array([[7, 2, 9], [4, 11, 3], [7, 5, 0]])  # the first and the last row begin with one page
LENGTH = TABLE.shape[1] * PAGE


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


@pytest.mark.parametrize("steps", [1, 5, 70])
def test_new_tokens_are_written_and_attend_to_themselves_and_all_before(steps):
    rng = np.random.default_rng(0)
    rows = len(TABLE)
    store = [rng.normal(size=(KV_HEADS, LAYERS, PAGES, PAGE, SIZE)).astype(np.float32) for _ in range(2)]
    q = rng.normal(size=(rows, steps, HEADS, SIZE)).astype(np.float32)
    new = [rng.normal(size=(rows, steps, KV_HEADS, SIZE)).astype(np.float32) for _ in range(2)]
    # up to the end of the last page; fewer tokens than others, over a page's end; none at all
    offset, count = np.array([LENGTH - steps, PAGE - 1, 7]), np.array([steps, min(steps, 3), 0])
    out, written = jax.jit(put_and_attend, static_argnums=4)(
        q, *new, PageStore(*store, None, None), 1, TABLE, offset, count
    )

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
            np.testing.assert_allclose(out[row, step], wanted, atol=1e-5)  # float32 sums of up to 200 terms
    np.testing.assert_array_equal(out[2], 0)


def test_what_other_pages_and_later_positions_hold_is_not_read():
    store = np.full((KV_HEADS, 1, PAGES, PAGE, SIZE), np.nan, np.float32)
    store[:, 0, 4, :10] = 1.0
    ones = jnp.ones((1, 1, KV_HEADS, SIZE))
    arguments = (ones, ones, PageStore(store, store, None, None), 0, TABLE[1:2], np.array([10]), np.array([1]))
    out, _ = jax.jit(put_and_attend, static_argnums=4)(jnp.ones((1, 1, HEADS, SIZE)), *arguments)
    np.testing.assert_allclose(out, 1.0, atol=1e-6)


def test_int8_pages_are_written_and_read_with_their_scales():
    """The whole numbers and scales of `kv.put_columns`, to the bit, halves and rows of zeros among them."""
    rng = np.random.default_rng(1)
    steps, rows = 20, len(TABLE)
    shape = (KV_HEADS, LAYERS, PAGES, PAGE)
    whole = [rng.integers(-127, 128, (*shape, SIZE)).astype(np.int8) for _ in range(2)]
    scales = [rng.uniform(0.001, 0.1, (*shape, 1)).astype(np.float32) for _ in range(2)]
    store = PageStore(*map(jnp.asarray, (*whole, *scales)))
    q = rng.normal(size=(rows, steps, HEADS, SIZE)).astype(np.float32)
    new = [rng.normal(size=(rows, steps, KV_HEADS, SIZE)).astype(np.float32) for _ in range(2)]
    new[0][0, 0] = np.linspace(-63.5, 63.5, SIZE)  # in steps whose quotients lie between two whole numbers
    new[0][0, 0, :, :4] = 127.0, 62.5, -63.5, 61.5
    new[1][0, 1] = 0.0
    offset, count = np.array([PAGE - 7, 130, 7]), np.array([steps, 3, 0])
    out, written = jax.jit(put_and_attend, static_argnums=4)(q, *new, store, 1, TABLE, offset, count)

    columns = Columns(*(jnp.asarray(x.swapaxes(1, 2)[None]) for x in new))
    one_layer = jax.tree.map(lambda leaf: leaf[:, 1:], store)
    wanted = jax.jit(put_columns)(one_layer, columns, TABLE, offset, count)
    for ours, theirs, before in zip(*map(jax.tree.leaves, (written, wanted, store)), strict=True):
        np.testing.assert_array_equal(ours[:, 1:], theirs)
        np.testing.assert_array_equal(ours[:, 0], before[:, 0])
    keys = np.asarray(wanted.k[:, 0], np.float32) * np.asarray(wanted.k_scale[:, 0])
    values = np.asarray(wanted.v[:, 0], np.float32) * np.asarray(wanted.v_scale[:, 0])
    for row in range(rows):
        for step in range(count[row]):
            theirs = reference(q[row, step], of_row(keys, row), of_row(values, row), offset[row] + step + 1)
            np.testing.assert_allclose(out[row, step], theirs, atol=1e-4)  # of values up to 12
    np.testing.assert_array_equal(out[2], 0)


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_an_engine_in_place_gives_what_one_on_views_gives(config, kind):
    """Prompts of different lengths, two turns, rows whose budgets end at different steps."""
    config = replace(config, text=replace(config.text, head_dim=16, mrope_section=(4, 2, 2)))
    params = random_params(config)
    on_gpu = Kernels(unrolled=True, slots="in_place", known_trip_count=True)
    sampling = SamplingConfig(temperature=0.8, top_p=0.9, top_k=40)

    def turns(kernels):
        return two_turns(Engine(config, params, replace(SETTINGS, kv=kind), kernels=kernels), sampling)

    plain, in_place = turns(Kernels(unrolled=True)), turns(on_gpu)
    assert [len(part.tokens) for part in plain] == list(TWO_TURNS_BUDGETS) * 2
    for one, other in zip(plain, in_place, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)
        np.testing.assert_allclose(one.logp_truncated, other.logp_truncated, atol=2e-5)
        np.testing.assert_allclose(one.logp_full, other.logp_full, atol=2e-5)
