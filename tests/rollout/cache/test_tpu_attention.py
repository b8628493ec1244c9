"""jax's kernel for TPUs over the pages, interpreted: against numpy, and an engine on it against one on views."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas import tpu

from hypereyes_jax.models.qwen3_vl import Kernels, init_params
from hypereyes_jax.rollout import Engine, SamplingConfig
from hypereyes_jax.rollout.cache.access import views_cache
from hypereyes_jax.rollout.cache.kv import PageStore
from hypereyes_jax.rollout.cache.tpu_attention import put_and_attend_to_one
from tests.rollout.paced import SETTINGS, TWO_TURNS_BUDGETS, two_turns

KV_HEADS, LAYERS, PAGES, PAGE, SIZE, HEADS = 2, 3, 12, 16, 128, 4
TABLE = np.array([[7, 2, 9], [4, 11, 3], [7, 5, 0]], np.int32)


def test_a_token_a_row_is_written_and_attends_to_itself_and_all_before():
    rng = np.random.default_rng(0)
    rows = len(TABLE)
    store = [rng.normal(size=(KV_HEADS, LAYERS, PAGES, PAGE, SIZE)).astype(np.float32) for _ in range(2)]
    q = rng.normal(size=(rows, 1, HEADS, SIZE)).astype(np.float32)
    new = [rng.normal(size=(rows, 1, KV_HEADS, SIZE)).astype(np.float32) for _ in range(2)]
    offset, count = np.array([3 * PAGE - 1, PAGE, 5], np.int32), np.array([1, 1, 0], np.int32)
    with tpu.force_tpu_interpret_mode():
        pages = PageStore(*map(jnp.asarray, store), None, None)
        out, written = jax.jit(put_and_attend_to_one)(q, *new, pages, jnp.int32(1), TABLE, offset, count)

    for whole, fresh in zip(store, new, strict=True):
        for row in np.flatnonzero(count):
            page, place = divmod(offset[row], PAGE)
            whole[:, 1, TABLE[row, page], place] = fresh[row, 0]
    for ours, theirs in zip((written.k, written.v), store, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for row in np.flatnonzero(count):
        keys, values = (np.concatenate([s[:, 1, page] for page in TABLE[row]], axis=1) for s in store)
        for head in range(HEADS):
            own = head // (HEADS // KV_HEADS)
            score = keys[own, : offset[row] + 1] @ q[row, 0, head] * SIZE**-0.5
            weight = np.exp(score - score.max())
            wanted = weight @ values[own, : offset[row] + 1] / weight.sum()
            ours = out[row, 0, head * SIZE : (head + 1) * SIZE]
            np.testing.assert_allclose(ours, wanted, atol=0.02)  # the kernel multiplies in bfloat16


def test_an_engine_on_the_pages_gives_what_one_on_views_gives(config):
    """Two turns of rows of different lengths, whose budgets end at different steps; bfloat16, as on a TPU."""
    text = replace(config.text, head_dim=SIZE, mrope_section=(24, 20, 20))
    config = replace(config, text=text)
    params = init_params(jax.random.key(0), config, jnp.bfloat16)
    settings = replace(SETTINGS, kv="bfloat16", context=96, view_lengths=())

    def turns(kernels):
        return two_turns(Engine(config, params, settings, kernels=kernels), SamplingConfig(temperature=0.8))

    plain = turns(Kernels())
    with tpu.force_tpu_interpret_mode():
        paged = turns(Kernels(slots="paged"))
    assert [len(part.tokens) for part in paged] == list(TWO_TURNS_BUDGETS) * 2
    # Draws with the same random numbers: in bfloat16 a token may differ where two were close, and then all behind it.
    same = 0
    for one, other in zip(plain, paged, strict=True):
        alike = int(np.argmax([*(one.tokens != other.tokens), True]))
        same += alike
        np.testing.assert_allclose(one.logp_full[:alike], other.logp_full[:alike], atol=0.1)
    assert same >= 0.7 * sum(TWO_TURNS_BUDGETS) * 2


def test_what_the_kernel_does_not_take_is_viewed(config):
    text, paged = replace(config.text, head_dim=SIZE, mrope_section=(24, 20, 20)), Kernels(slots="paged")
    narrow = config.text  # heads of fewer values
    assert not views_cache(paged, text, 0, int8=False)
    assert views_cache(paged, text, 0, int8=True)
    assert views_cache(paged, text, 3, int8=False)  # drafts
    assert views_cache(paged, narrow, 0, int8=False)
    assert not views_cache(Kernels(slots="in_place"), narrow, 3, int8=True)
    assert Kernels.for_sampling("tpu", 48).slots == "paged"
