import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from hypereyes_jax.rl import token_logprobs

B, T, D, V = 2, 5, 16, 206

compiled = jax.jit(token_logprobs, static_argnames=("chunk", "vocab_shards"))


def naive(hidden, head, targets, temperature=1.0):
    """Independent of the chunks: all logits at once, in float64."""
    logits = np.asarray(hidden, np.float64) @ np.asarray(head, np.float64) / temperature
    logp = (
        logits
        - np.log(np.sum(np.exp(logits - logits.max(-1, keepdims=True)), -1, keepdims=True))
        - logits.max(-1, keepdims=True)
    )
    return np.take_along_axis(logp, np.asarray(targets)[..., None], -1)[..., 0], -np.sum(np.exp(logp) * logp, -1)


def naive_jax(hidden, head, targets, temperature=1.0):
    logp = jax.nn.log_softmax(hidden @ head / temperature)
    return jnp.take_along_axis(logp, targets[..., None], -1)[..., 0], -jnp.sum(jnp.exp(logp) * logp, -1)


@pytest.fixture(scope="module")
def arrays():
    keys = jax.random.split(jax.random.key(0), 4)
    hidden, head = jax.random.normal(keys[0], (B, T, D)), jax.random.normal(keys[1], (D, V))
    return hidden, head, jax.random.randint(keys[2], (B, T), 0, V), jax.random.normal(keys[3], (2, B, T))


def objective(function, targets, weights, temperature, **options):
    def loss(hidden, head):
        logp, entropy = function(hidden, head, targets, temperature, **options)
        return jnp.sum(weights[0] * logp + weights[1] * entropy)

    return jax.jit(jax.grad(loss, (0, 1)))


chunks = pytest.mark.parametrize(
    ("chunk", "shards"), [(4096, 1), (V, 1), (64, 1), (7, 1), (64, 2), (1, 2)], ids=lambda x: str(x)
)


@chunks
def test_values_agree_with_all_logits_at_once(arrays, chunk, shards):
    hidden, head, targets, _ = arrays
    found = compiled(hidden, head, targets, 0.8, chunk=chunk, vocab_shards=shards)
    for ours, expected in zip(found, naive(hidden, head, targets, 0.8), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-5)  # float32 against float64, logits up to ~20


@chunks
def test_gradients_agree_with_all_logits_at_once(arrays, chunk, shards):
    hidden, head, targets, weights = arrays
    ours = objective(token_logprobs, targets, weights, 0.8, chunk=chunk, vocab_shards=shards)(hidden, head)
    for found, expected in zip(ours, objective(naive_jax, targets, weights, 0.8)(hidden, head), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5)


def test_gradients_agree_with_finite_differences(arrays):
    hidden, head, targets, _ = arrays
    run = lambda h, w: token_logprobs(h, w, targets, 2.0, chunk=60)  # noqa: E731
    check_grads(jax.jit(run), (0.3 * hidden, 0.3 * head), order=1, modes=["rev"], atol=2e-2, rtol=2e-2, eps=1e-2)


def test_uniform_logits_by_hand():
    logp, entropy = token_logprobs(jnp.zeros((1, 1, 3)), jnp.ones((3, 10)), jnp.zeros((1, 1), int), chunk=4)
    assert float(logp[0, 0]) == pytest.approx(-np.log(10), abs=1e-6)
    assert float(entropy[0, 0]) == pytest.approx(np.log(10), abs=1e-6)


def test_extreme_logits_stay_finite():
    head = jnp.array([[-1e4, 0.0, 1e4, 3.0, -5.0]])
    targets = jnp.array([[0, 2]])
    run = lambda h: jnp.sum(jnp.stack(token_logprobs(h, head, targets, chunk=2)))  # noqa: E731
    logp, entropy = compiled(jnp.ones((1, 2, 1)), head, targets, chunk=2)
    np.testing.assert_allclose(logp, [[-2e4, 0.0]])
    np.testing.assert_allclose(entropy, [[0.0, 0.0]])
    assert np.all(np.isfinite(jax.jit(jax.grad(run))(jnp.ones((1, 2, 1)))))


def test_temperature_may_be_traced_and_has_no_gradient(arrays):
    hidden, head, targets, _ = arrays
    run = lambda t: token_logprobs(hidden, head, targets, t)[0]  # noqa: E731
    np.testing.assert_allclose(jax.jit(run)(0.8), run(0.8), rtol=1e-6)
    assert jax.grad(lambda t: run(t).sum())(0.8) == 0


def test_bfloat16_inputs_accumulate_in_float32(arrays):
    hidden, head, targets, weights = arrays
    hidden, head = hidden.astype(jnp.bfloat16), head.astype(jnp.bfloat16)
    logp, entropy = compiled(hidden, head, targets, chunk=50)
    assert logp.dtype == entropy.dtype == jnp.float32
    np.testing.assert_allclose(logp, naive(hidden, head, targets)[0], atol=2e-5)
    gradients = objective(token_logprobs, targets, weights, 1.0, chunk=50)(hidden, head)
    assert [g.dtype for g in gradients] == [jnp.bfloat16] * 2
    wide = objective(naive_jax, targets, weights, 1.0)(hidden.astype(jnp.float32), head.astype(jnp.float32))
    for found, expected in zip(gradients, wide, strict=True):
        np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.03 * float(jnp.abs(expected).max()))


def memory(function, argnums, tokens=512, width=32, vocab=20_000):
    """Temporaries in bytes of value and gradient, by XLA's own analysis; nothing is run."""
    shapes = [(1, tokens, width), (width, vocab), (1, tokens)]
    arguments = [jax.ShapeDtypeStruct(s, t) for s, t in zip(shapes, (jnp.float32, jnp.float32, jnp.int32), strict=True)]

    def loss(hidden, head, targets):
        logp, entropy = function(hidden, head, targets)
        return jnp.sum(logp) + jnp.sum(entropy)

    program = jax.jit(jax.value_and_grad(loss, argnums)).lower(*arguments).compile()
    return program.memory_analysis().temp_size_in_bytes, program.as_text()


def test_all_logits_never_exist_and_temporaries_are_a_small_part_of_the_naive_ones():
    small, program = memory(lambda *x: token_logprobs(*x, chunk=1024), (0, 1))
    large, _ = memory(naive_jax, (0, 1))
    assert small <= large / 6
    assert "512,20000]" not in program
    assert "512,1,20000]" not in program


def test_a_frozen_head_costs_no_gradient_buffer():
    """With adapters only, the head's gradient is not asked for: XLA must drop its [D, V] buffer from the loop."""
    _, program = memory(lambda *x: token_logprobs(*x, chunk=1024), 0)
    head = "f32[32,1,20000]"
    loops = [line for line in program.splitlines() if " while(" in line]
    assert loops
    assert max(line.split(" while(")[0].count(head) for line in loops) <= 1  # the head itself


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from hypereyes_jax.rl.logprobs import token_logprobs

mesh = jax.make_mesh((2, 2), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2)
keys = jax.random.split(jax.random.key(0), 3)
hidden, head = jax.random.normal(keys[0], (4, 6, 16)), jax.random.normal(keys[1], (16, 208))
targets = jax.random.randint(keys[2], (4, 6), 0, 208)

def loss(hidden, head, targets):
    logp, entropy = token_logprobs(hidden, head, targets, 0.8, chunk=32, vocab_shards=2)
    return jnp.sum(logp) + 0.1 * jnp.sum(entropy)

run = jax.jit(jax.value_and_grad(loss, (0, 1)))
expected = run(hidden, head, targets)
specs = P("fsdp"), P(None, "tensor"), P("fsdp")
placed = [jax.device_put(x, NamedSharding(mesh, s)) for x, s in zip((hidden, head, targets), specs)]
compiled = run.lower(*placed).compile()
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), compiled(*placed), expected)
assert "all-gather" not in compiled.as_text(), "a shard of the head or of the tokens was moved"
print("agrees on", jax.device_count(), "devices")
"""


def test_on_a_mesh_with_the_vocabulary_sharded_nothing_is_gathered():
    environment = os.environ | {
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    process = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, cwd=Path(__file__).parents[2], capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert "agrees on 4 devices" in process.stdout, process.stderr[-2000:]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"hidden_BTD": jnp.ones((2, 3))}, ValueError, r"hidden_BTD must have axes \[B, T, D\]"),
        ({"head_DV": jnp.ones((5, 7))}, ValueError, "axis D of head_DV"),
        ({"targets_BT": jnp.ones((1, 2))}, TypeError, "targets_BT must have an integer dtype"),
        ({"chunk": 0}, ValueError, "chunk must be positive"),
        ({"vocab_shards": 2}, ValueError, "vocab_shards must divide V = 7"),
    ],
)
def test_misfits_are_named(change, error, message):
    arguments = {"hidden_BTD": jnp.ones((1, 2, 4)), "head_DV": jnp.ones((4, 7)), "targets_BT": jnp.ones((1, 2), int)}
    with pytest.raises(error, match=message):
        token_logprobs(**(arguments | change))


def test_importing_the_room_stays_cheap():
    code = "import sys, hypereyes_jax.rl; sys.exit(bool({'torch', 'transformers', 'flax'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], timeout=300).returncode == 0
