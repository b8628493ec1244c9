import time

import jax
import jax.numpy as jnp

from hypereyes_jax.eval.compile_time import CompileClock


def test_compiling_is_timed_and_running_is_not():
    with CompileClock() as clock:
        start = time.perf_counter()
        program = jax.jit(lambda x: jnp.sin(x) @ x + 17.25)
        program(jnp.ones((8, 8))).block_until_ready()
        compiled = time.perf_counter()
        time.sleep(0.05)
        program(jnp.ones((8, 8))).block_until_ready()
        end = time.perf_counter()
    spent = clock.seconds_between(start, compiled)
    assert 0 < spent <= compiled - start
    assert clock.seconds_between(compiled, end) == 0


def test_spans_within_spans_count_once_and_only_their_part():
    clock = CompileClock()
    clock._spans = [(0.0, 4.0), (1.0, 2.0), (3.0, 6.0), (8.0, 9.0)]
    assert clock.seconds_between(0.0, 10.0) == 7.0
    assert clock.seconds_between(1.5, 8.25) == 4.75
    assert clock.seconds_between(6.0, 8.0) == 0.0


def test_after_the_block_nothing_is_noted():
    with CompileClock() as clock:
        pass
    before = len(clock._spans)
    jax.jit(lambda x: x * 3.125)(jnp.ones(3)).block_until_ready()
    assert len(clock._spans) == before
