"""Attention and experts in blocks against the forms that hold everything at once."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

from hypereyes_jax.configs.model import TextConfig, VisionConfig
from hypereyes_jax.models.lora import Lora, LoraConfig, LoraRule
from hypereyes_jax.models.qwen3_vl import moe, vision
from hypereyes_jax.models.qwen3_vl.attention import cudnn_attention, segment_attention, splash_attention
from hypereyes_jax.models.qwen3_vl.flash import flash_attention
from hypereyes_jax.models.qwen3_vl.layers import dense
from hypereyes_jax.models.qwen3_vl.moe import mixture
from hypereyes_jax.models.qwen3_vl.moe_blocks import ExpertWeights, blocked_experts


def close(found, wanted):
    """The same float32 sums in another order."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(np.abs(b).max())))


def normal(*shapes, seed=0):
    """Arrays drawn by numpy: jax would compile a program for each shape."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [10, 50])  # one block that is not full; several, the last not full
def test_flash_attention_and_its_gradients_are_those_of_attention(causal, length):
    q, k, v, direction = normal((2, length, 4, 8), (2, length, 2, 8), (2, length, 2, 8), (2, length, 32))
    third = length // 3
    segment = jnp.array([[1] * third + [2] * third + [0] * (length - 2 * third), [1] * length])

    def loss(attend, q, k, v):
        return jnp.sum(attend(q, k, v, segment, causal=causal) * direction)

    blocks = partial(flash_attention, block=16)
    found, wanted = (
        jax.jit(jax.value_and_grad(partial(loss, attend), (0, 1, 2)))(q, k, v) for attend in (blocks, segment_attention)
    )
    close(found, wanted)


@pytest.fixture
def kernels_here(monkeypatch):
    """Splash in Pallas' interpreter, and cuDNN's arguments given to the plain form of the same function."""
    make = splash_attention_kernel.make_splash_mha
    monkeypatch.setattr(splash_attention_kernel, "make_splash_mha", partial(make, interpret=True))
    plain = jax.nn.dot_product_attention

    def without_a_card(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        return plain(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", without_a_card)


@pytest.mark.usefixtures("kernels_here")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("attend", [splash_attention, cudnn_attention])
def test_a_kernel_gets_arguments_that_give_attention_and_its_gradients(attend, causal):
    """Heads of 72 values, as the vision tower's, in a length that no block divides; two documents and padding."""
    length, size = 150, 72
    q, k, v = normal((2, length, 4, size), (2, length, 2, size), (2, length, 2, size))
    (direction,) = normal((2, length, 4 * size), seed=1)
    segment = jnp.array([[1] * 70 + [2] * 60 + [0] * 20, [1] * length])

    def loss(attend, q, k, v):
        return jnp.sum(attend(q, k, v, segment, causal=causal) * direction)

    found, wanted = (
        jax.jit(jax.value_and_grad(partial(loss, form), (0, 1, 2)))(q, k, v) for form in (attend, segment_attention)
    )
    close(found, wanted)


@pytest.mark.usefixtures("kernels_here")
def test_splash_leaves_out_blocks_without_a_segment_in_common():
    """What is left out is read by nothing: values that are not finite would show. A last block is padding alone."""
    length, size = 1100, 32
    q, k, v = normal((1, length, 2, size), (1, length, 1, size), (1, length, 1, size))
    (direction,) = normal((1, length, 2 * size), seed=1)
    segment = jnp.array([[1] * 512 + [2] * 300 + [0] * 288])

    def loss(attend, q, k, v):
        out = attend(q, k, v, segment, causal=True)
        return jnp.sum(out[:, 512:812] * direction[:, 512:812]), out

    grad = jax.jit(jax.grad(partial(loss, splash_attention), (0, 1, 2), has_aux=True))
    broken = [np.where(np.arange(length)[:, None, None] < 512, np.float32(np.nan), x) for x in (k, v)]
    (d_q, d_k, d_v), out = grad(q, *broken)
    (wanted_q, wanted_k, wanted_v), wanted = jax.jit(
        jax.grad(partial(loss, segment_attention), (0, 1, 2), has_aux=True)
    )(q, k, v)
    assert np.isfinite(out[:, 512:]).all()
    for ours, theirs in ((out, wanted), (d_q, wanted_q), (d_k, wanted_k), (d_v, wanted_v)):
        np.testing.assert_allclose(ours[:, 512:812], theirs[:, 512:812], atol=2e-5)


CONFIG = TextConfig(vocab_size=64, hidden_size=16, num_experts=8, num_experts_per_tok=2, moe_intermediate_size=12)


def layer():
    gate_up, down, router, x = normal((8, 16, 2, 12), (8, 12, 16), (16, 8), (2, 25, 16))
    router[:, 3] = 0
    router[0, 5] += 3
    x[:, :, 0] = 2.0
    return {"expert_gate_up": gate_up, "expert_down": down, "router": router}, x


def loss(impl, lora, w, adapter, x):
    lora = lora and dataclasses.replace(lora, weights={"layers": adapter})
    out, _ = mixture(w, CONFIG, x, jnp.ones(x.shape[:2], bool), impl, lora, adapter, None)
    return jnp.sum(jnp.sin(out))


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(moe, "blocked_experts", partial(blocked_experts, block=7))


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("other", ["ragged", "dense"])
def test_blocks_of_experts_give_what_the_other_forms_give(other):
    w, x = layer()
    found, wanted = (
        jax.jit(jax.value_and_grad(partial(loss, impl, None), (0, 2)))(w, {}, x) for impl in ("blocks", other)
    )
    close(found, wanted)


@pytest.mark.usefixtures("small_blocks")
def test_adapters_of_experts_in_blocks_have_the_gradients_of_the_other_forms():
    w, x = layer()
    sizes = {"expert_gate_up": (16, 24), "expert_down": (12, 16)}
    adapter = {
        name: {factor: np.float32(0.1) * x for factor, x in zip("ab", normal((8, into, 3), (8, 3, out)), strict=True)}
        for name, (into, out) in sizes.items()
    }
    lora = Lora({}, LoraConfig((LoraRule("layers/.*", 3, alpha=3.0),)))
    found, wanted = (
        jax.jit(jax.value_and_grad(partial(loss, impl, lora), (1, 2)))(w, adapter, x) for impl in ("blocks", "ragged")
    )
    close(found, wanted)


def test_nothing_is_dropped_however_uneven_the_router_is():
    # every token chooses expert 5, which makes it 25 times the even share of 2 of 8
    x, gate = jnp.ones((50, 4)), jnp.full((50, 2), 0.5)
    expert = jnp.stack([jnp.full(50, 5), jnp.arange(50) % 3], axis=1)
    weights = jnp.arange(8.0)
    out = blocked_experts(
        lambda frozen, w, x, key: w * x, ExpertWeights((), weights), x, gate, expert, 8, None, block=8
    )
    np.testing.assert_allclose(out[:, 0], 0.5 * (5 + np.arange(50) % 3))


def test_a_bias_of_the_vision_tower_is_not_lost_beside_large_activations():
    """In bfloat16 256 + 1 is 256: the map's output and its bias, 1 each, must meet before they meet 256."""
    config = VisionConfig(depth=1, hidden_size=8, intermediate_size=4, num_heads=2, deepstack_visual_indexes=())
    wide, inner = config.hidden_size, config.intermediate_size
    shapes = {"qkv_w": (wide, 3, wide), "qkv_b": (3, wide), "proj_w": (wide, wide), "proj_b": (wide,)}
    shapes |= {"fc1_w": (wide, inner), "fc1_b": (inner,), "fc2_w": (inner, wide), "fc2_b": (wide,)}
    w = {name: jnp.zeros(shape, jnp.bfloat16) for name, shape in shapes.items()}
    norm = {"scale": jnp.zeros(wide, jnp.bfloat16), "bias": jnp.zeros(wide, jnp.bfloat16)}
    w |= {"norm1": norm, "norm2": norm}
    x = jnp.full((1, 4, wide), 256, jnp.bfloat16)

    def attend(q, k, v, segment, causal):
        return jnp.ones((1, 4, wide), jnp.bfloat16)

    def block(**changed):
        def linear(name, h):
            return dense(h, (w | changed)[name].reshape(h.shape[-1], -1))

        turn = jnp.ones((1, 4, 2)), jnp.zeros((1, 4, 2))
        return vision._block(w | changed, config, linear, attend, x, *turn, jnp.ones((1, 4), jnp.int32))

    one = jnp.ones(wide, jnp.bfloat16)
    np.testing.assert_array_equal(block(proj_w=jnp.eye(wide, dtype=jnp.bfloat16), proj_b=one).astype(jnp.float32), 258)
    # gelu(16) is 16
    first = jnp.zeros((inner, wide), jnp.bfloat16).at[0].set(1 / 16)
    mlp = block(fc1_b=jnp.full(inner, 16, jnp.bfloat16), fc2_w=first, fc2_b=one)
    np.testing.assert_array_equal(mlp.astype(jnp.float32), 258)
