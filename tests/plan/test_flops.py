"""The count of a traced program's cost, against numbers worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from hypereyes_jax.models.qwen3_vl.attention import _key_block, splash_attention
from hypereyes_jax.models.qwen3_vl.layers import rematerialised
from hypereyes_jax.models.trip_counts import ON_CHIP, expected_trip_count, read_trip_count, usual_positions
from hypereyes_jax.plan.flops import device_cost
from hypereyes_jax.rollout.cache.kv import PageStore
from hypereyes_jax.rollout.cache.page_attention import put_and_attend

A, B = jnp.zeros((8, 16)), jnp.zeros((16, 4))
ONE = 2 * 8 * 16 * 4
READ = 4 * (8 * 16 + 16 * 4 + 8 * 4)


def cost(function, *arguments, devices=1):
    return device_cost(jax.jit(function).trace(*arguments).jaxpr, devices)


def test_a_matmul_counts_two_flops_a_multiply_add_and_its_arrays_once():
    found = cost(jnp.matmul, A, B)
    assert (found.flops, found.traffic) == (ONE, READ)
    assert cost(jnp.matmul, A, B, devices=4).flops == ONE / 4


def test_what_is_widened_for_a_matmul_is_read_as_it_lies():
    small = jnp.zeros((4, 16), jnp.int8)

    def widened(x, w):
        return x @ w.T.reshape(16, 4).astype(x.dtype)

    assert cost(widened, A, small).traffic == READ - 3 * 16 * 4  # through the call that jnp.matmul is
    assert cost(lambda x, w: jnp.einsum("ab,cb->ac", x, w.astype(x.dtype)), A, small).traffic == READ - 3 * 16 * 4
    assert (
        cost(lambda x, w: x @ w.T.astype(jnp.float16).astype(x.dtype), A, small.astype(float)).traffic == READ - 2 * 64
    )


def test_a_scan_counts_its_length_and_a_rematerialised_gradient_what_it_computes_again():
    def layers(x, w):
        body = jax.checkpoint(lambda x, w: (jnp.sin(x @ w), None))
        return jax.lax.scan(body, x, w)[0].sum()

    x, w = jnp.zeros((8, 16)), jnp.zeros((5, 16, 16))
    once = 2 * 8 * 16 * 16
    assert cost(layers, x, w).flops == 5 * once
    assert cost(jax.grad(layers, (0, 1)), x, w).flops == 5 * 4 * once  # forward, again, and two gradients


def test_what_leads_to_no_result_is_not_counted():
    def layers(a, b):
        jax.jit(jnp.matmul)(a, b)  # a call whose result nothing takes
        return a + 1.0

    assert cost(layers, A, B).flops == 0


@pytest.mark.parametrize(("remat", "matmuls"), [("full", 2 * 2 + 5), ("attention", 2 + 5)])
def test_splash_attention_that_is_kept_is_not_computed_again(remat, matmuls):
    """A forward kernel has two matmuls of a block, the backward one five, and a few small ones besides."""
    length, size = 512, 128
    segment = jnp.ones((1, length), jnp.int32)

    def loss(x):
        def layer(x, _):
            q = x.reshape(1, length, 1, size)
            return splash_attention(q, q, q, segment, causal=True), None

        return jax.lax.scan(rematerialised(layer, remat), x, jnp.zeros(3))[0].sum()

    found = cost(jax.grad(loss), jnp.zeros((1, length, size)))
    assert found.flops == pytest.approx(3 * matmuls * 2 * length * length * size, rel=0.01)


def test_splash_takes_the_block_of_keys_that_wastes_least():
    """Causal, a block of 512 queries meets whole blocks of keys; a row is padded to whole ones."""
    assert _key_block(38_912) == 2048  # 19 of them, without padding
    assert _key_block(39_936) == 3072  # 13 of them; 2,048 would need 20, and compute 880 million scores, not 859

    def scores(keys, padded):
        return sum(-(-end // keys) * keys * 512 for end in range(512, padded + 1, 512))

    assert scores(2048, 38_912) == 796_917_760 < scores(3072, 39_936) == 858_783_744


def test_a_loop_bounded_by_data_counts_what_it_expects():
    def loop(n, a, b):
        with expected_trip_count(2.5):
            return jax.lax.fori_loop(0, n, lambda _, total: total + a @ b, jnp.zeros((8, 4)))

    assert cost(loop, 7, A, B).flops == 2.5 * ONE
    assert cost(lambda n: loop(n, A, B) @ jnp.zeros((4, 2)), 7).flops == 2.5 * ONE + 2 * 8 * 4 * 2


def test_blocks_that_stay_in_a_cache_cost_what_is_read_for_them():
    rows = jnp.zeros((6, 8, 16))

    def loop(n, rows, b):
        with expected_trip_count(3), jax.named_scope(ON_CHIP):
            return jax.lax.fori_loop(0, n, lambda i, total: total + jnp.sum(rows[i] @ b), 0.0)

    found = cost(loop, 3, rows, B)
    assert found.flops == 3 * ONE
    assert found.traffic == 3 * 4 * 8 * 16


def test_the_innermost_expectation_is_read():
    assert read_trip_count("jit(f)/expected_trips_4.00/while/body/transpose(jvp(expected_trips_38.50))/while") == 38.5
    assert read_trip_count("jit(f)/while") is None


def test_a_conditional_counts_its_costliest_branch():
    def either(flag, a, b):
        return jax.lax.cond(flag, lambda: a @ b, lambda: jnp.zeros((8, 4)))

    assert cost(either, True, A, B).flops == ONE


def test_what_each_device_runs_by_itself_is_not_shared_out():
    mesh = AbstractMesh((4,), ("x",), axis_types=(AxisType.Auto,))

    def apart(a, b):
        whole = PartitionSpec()
        return jax.shard_map(jnp.matmul, mesh=mesh, in_specs=(whole, whole), out_specs=whole, check_vma=False)(a, b)

    jaxpr = jax.make_jaxpr(apart)(A, B)
    assert device_cost(jaxpr, 4).flops == ONE


def test_a_grouped_matmul_counts_each_row_once():
    x, w, sizes = jnp.zeros((8, 16)), jnp.zeros((3, 16, 4)), np.array([2, 5, 1], np.int32)
    assert cost(jax.lax.ragged_dot, x, w, sizes).flops == ONE


@pytest.mark.parametrize("length", [4, 9])
def test_the_count_agrees_with_the_compilers_on_a_program_without_loops(length):
    def program(x, w, v):
        return jnp.tanh(x @ w) @ v

    shapes = [jnp.zeros(s) for s in ((length, 32), (32, 64), (64, 8))]
    compiled = jax.jit(program).lower(*shapes).compile().cost_analysis()["flops"]
    assert cost(program, *shapes).flops == pytest.approx(compiled, rel=0.01)  # the compiler counts tanh, too


def test_the_splash_kernel_counts_the_blocks_that_a_causal_row_meets():
    shapes = [jax.ShapeDtypeStruct((1, 2048, heads, 128), jnp.bfloat16) for heads in (4, 2, 2)]
    segment = jax.ShapeDtypeStruct((1, 2048), jnp.int32)

    def loss(q, k, v, segment):
        return splash_attention(q, k, v, segment, causal=True).astype(jnp.float32).sum()

    met = 4 * 10 * 2 * 512 * 512 * 128  # 4 heads, 10 of 16 pairs of blocks, a matmul
    assert cost(loss, *shapes, segment).flops == 2 * met
    # the forward's 2, then 5: scores, their gradient, and those of queries, keys and values
    assert cost(jax.grad(loss, (0, 1, 2)), *shapes, segment).flops == pytest.approx(7 * met, rel=0.01)


def test_pages_read_in_place_are_counted_as_far_as_sequences_usually_go():
    rows, page, pages, heads, size = 3, 64, 10, 2, 16
    store = jnp.zeros((heads, 1, rows * pages, page, size))
    new, count_R = jnp.zeros((rows, 1, heads, size)), jnp.ones(rows, jnp.int32)

    def read(usual):
        # a function of its own each time, since a trace is kept
        def attend(q, k, v, store_k, store_v):
            table_RP = jnp.arange(rows * pages).reshape(rows, pages)
            cache = PageStore(store_k, store_v, None, None)
            return put_and_attend(q, k, v, cache, 0, table_RP, count_R, count_R)[0]

        with usual_positions(usual):
            return cost(attend, new, new, new, store, store).traffic

    position = 2 * rows * heads * size * 4
    assert read(128) - read(64) == 64 * position
    assert read(10_000) - read(64) == (pages - 1) * page * position  # no more than there are
