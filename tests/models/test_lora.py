from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from hypereyes_jax.models.adapters import Lora, dropped_by_halves, dropped_one_by_one
from hypereyes_jax.models.lora import LoraConfig, LoraRule, init_lora, load_peft, merge, save_peft, trainable_count
from hypereyes_jax.models.qwen3_vl import forward, hidden_states, load_hf
from hypereyes_jax.processing import pack_inputs
from tests.models.test_parity import FAST_COMPILE
from tests.models.torch_reference import CONFIGS, hf_inputs, hf_model, one_image_sample, saved
from tests.random_weights import random_lora, random_params

RULES = {
    "dense": LoraConfig((LoraRule("layers/(q|k|v|o)", rank=3, alpha=6.0), LoraRule("layers/.*", rank=2, alpha=8.0))),
    "moe": LoraConfig((LoraRule("layers/expert_.*", rank=2, alpha=6.0), LoraRule("layers/.*", rank=3, alpha=8.0))),
    "with vision": LoraConfig((LoraRule("layers/q", rank=2), LoraRule("vision/blocks/(qkv_w|fc1_w)", rank=2))),
}


def family(name: str) -> str:
    return "moe" if name == "moe" else "dense"


def jit(function):
    return jax.jit(function, static_argnums=1, compiler_options=FAST_COMPILE)


@functools.cache
def sample(name: str):
    config = CONFIGS[family(name)]
    tokens, image = one_image_sample(config)
    return config, tokens, image, pack_inputs(config, [(tokens, [image])])


def test_fresh_adapters_change_nothing_bit_for_bit():
    config, _, _, inputs = sample("moe")
    params = random_params(config)
    lora = init_lora(jax.random.key(1), params, config)
    np.testing.assert_array_equal(jit(forward)(params, config, inputs, lora), jit(forward)(params, config, inputs))


@pytest.mark.parametrize("name", RULES)
def test_merged_equals_unmerged(name):
    config, _, _, inputs = sample(name)
    params = random_params(config, seed=2)  # no token of this draw is nearly zero before a norm
    lora = random_lora(config, RULES[name], seed=3, scale=0.3)
    apart = jit(forward)(params, config, inputs, lora)
    merged = jit(forward)(merge(params, lora), config, inputs)
    plain = jit(forward)(params, config, inputs)
    # float32 in another order: 1e-6 to 2e-6 of the largest value in the decoder. A patch is a sum of a thousand pixels
    # and passes more layers: 9e-6 or 26e-6, as LLVM makes those sums.
    bound = 1e-4 if name == "with vision" else 1e-5
    assert np.abs(apart - merged).max() <= bound * np.abs(merged).max()
    assert np.abs(apart - plain).max() > 1e-2 * np.abs(merged).max(), "the adapters do nothing"


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_peft_on_the_transformers_model_gives_the_same_logits(name, tmp_path):
    from peft import PeftModel

    config, tokens, image, inputs = sample(name)
    reference = hf_model(config)
    _, params = load_hf(saved(reference, tmp_path / "base"))
    lora = random_lora(config, RULES[name], scale=0.09)
    save_peft(tmp_path / "adapter", config, lora, base_model=str(tmp_path / "base"))

    adapted = PeftModel.from_pretrained(reference, tmp_path / "adapter").eval()
    with torch.no_grad():
        expected = adapted(**hf_inputs(config, tokens, [image])).logits[0].numpy()
    ours = np.asarray(jit(forward)(params, config, inputs, lora))[0, : len(expected)]
    plain = np.asarray(jit(forward)(params, config, inputs))[0, : len(expected)]
    assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max()
    assert np.abs(plain - expected).max() > 1e-2 * np.abs(expected).max(), "PEFT ignored the adapter"


@pytest.mark.parametrize("name", RULES)
def test_peft_directory_round_trips(name, tmp_path):
    config = CONFIGS[family(name)]
    params = random_params(config)
    lora = random_lora(config, RULES[name], scale=0.3)
    save_peft(tmp_path, config, lora)
    again = load_peft(tmp_path, config)
    jax.tree.map(np.testing.assert_array_equal, again.weights, lora.weights)
    merged, expected = merge(params, again), merge(params, lora)
    jax.tree.map(np.testing.assert_array_equal, merged, expected)


def test_only_adapters_get_gradients_and_optimiser_state():
    config, _, _, inputs = sample("moe")
    params = random_params(config)
    lora = random_lora(config, LoraConfig(), scale=0.3)

    def loss(lora):
        return (hidden_states(params, config, inputs, lora) ** 2).sum()

    gradient = jax.jit(jax.grad(loss), compiler_options=FAST_COMPILE)(lora)
    assert jax.tree.structure(gradient) == jax.tree.structure(lora)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))
    state = optax.adam(1e-3).init(lora)
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * trainable_count(config, LoraConfig()) + 1


def test_the_paper_adapts_every_linear_map_of_the_decoder_and_no_vision():
    config = CONFIGS["moe"]
    text, rank = config.text, 8
    attention = 2 * (text.hidden_size + 64) + 2 * (text.hidden_size + 32)  # q, o and k, v: in + out
    inner = text.moe_intermediate_size
    experts = text.num_experts * ((text.hidden_size + 2 * inner) + (inner + text.hidden_size))
    assert trainable_count(config, LoraConfig()) == text.num_hidden_layers * rank * (attention + experts)
    lora = init_lora(jax.random.key(0), random_params(config), config)
    assert set(lora.weights) == {"layers"}
    assert "router" not in lora.weights["layers"]


def test_dropout_differs_by_key_and_is_off_without_one():
    config, _, _, inputs = sample("dense")
    params = random_params(config)
    lora = random_lora(config, LoraConfig(dropout=0.5), scale=0.3)
    run = jax.jit(functools.partial(hidden_states, params, config, inputs, lora), compiler_options=FAST_COMPILE)
    one, two, off = run(dropout_key=jax.random.key(1)), run(dropout_key=jax.random.key(2)), run()
    assert np.abs(one - two).max() > 1e-3
    assert np.abs(one - off).max() > 1e-3
    np.testing.assert_array_equal(one, run(dropout_key=jax.random.key(1)))


@pytest.mark.parametrize("rules", [(LoraRule("layers/qq"),), (LoraRule("layers/.*"), LoraRule("layers/q"))])
def test_a_rule_that_adapts_nothing_is_refused_by_name(rules):
    config = CONFIGS["dense"]
    with pytest.raises(ValueError, match=rules[-1].pattern.replace("*", r"\*")) as caught:
        trainable_count(config, LoraConfig(rules))
    assert "layers/gate" in str(caught.value)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    config = CONFIGS["dense"]
    save_peft(tmp_path, config, random_lora(config))
    with pytest.raises(ValueError, match=r"surplus|expected"):
        load_peft(tmp_path, CONFIGS["tied, merge 3"])


def test_dropout_keeps_the_mean_and_has_a_mask_of_its_own_for_every_map_and_key():
    size, drop = 400, 0.25
    lora = Lora({}, LoraConfig((LoraRule("layers/.*", rank=size, alpha=2 * size),), dropout=drop))
    adapter = {"a": jnp.eye(size), "b": jnp.eye(size)}
    x = jnp.ones((50, size))

    def delta(path, key):
        return np.asarray(lora.delta(path, adapter, x, key, jnp.matmul))

    one = delta("layers/q", jax.random.key(0))
    assert set(np.unique(one).round(5)) == {
        0.0,
        np.float32(2 / (1 - drop)).round(5),
    }  # alpha / rank = 2, over what is kept
    assert np.mean(one == 0) == pytest.approx(drop, abs=0.02)  # 20,000 draws: six standard deviations
    assert np.mean(one) == pytest.approx(2.0, abs=0.06)
    for other in (delta("layers/k", jax.random.key(0)), delta("layers/q", jax.random.key(1))):
        assert np.mean((one == 0) & (other == 0)) == pytest.approx(drop**2, abs=0.02)  # independent masks
    np.testing.assert_array_equal(one, delta("layers/q", jax.random.key(0)))
    np.testing.assert_array_equal(delta("layers/q", None), 2.0)  # none without a key


@pytest.mark.parametrize("drop", [dropped_one_by_one, dropped_by_halves])
@pytest.mark.parametrize("width", [64, 65, 1])
def test_both_forms_of_dropout_drop_at_the_rate_independently_and_keep_the_mean(drop, width):
    rate, rows = 0.05, 400_000 // width
    out = np.asarray(drop(jax.random.key(5), jnp.ones((rows, width)), rate))
    zero, deviation = out == 0, np.sqrt(rate * (1 - rate) / out.size)
    assert np.unique(out[~zero]) == pytest.approx([1 / (1 - rate)], rel=1e-4)
    assert zero.mean() == pytest.approx(rate, abs=5 * deviation)
    assert out.mean() == pytest.approx(1.0, abs=6 * deviation)
    # neighbours, which may share a word, and the same column of the next row
    for one, other in ((zero.ravel()[:-1], zero.ravel()[1:]), (zero[:-1], zero[1:])):
        assert np.mean(one & other) == pytest.approx(rate**2, abs=5 * rate / np.sqrt(out.size))
    gradient = jax.grad(lambda x: drop(jax.random.key(5), x, rate).sum())(jnp.ones((rows, width)))
    np.testing.assert_array_equal(gradient, out)  # the same mask


def test_fresh_adapters_are_drawn_within_one_over_the_root_of_their_inputs():
    config = CONFIGS["moe"]
    shapes = jax.eval_shape(lambda: random_params(config))
    lora = init_lora(jax.random.key(3), shapes, config)
    for name, adapter in lora.weights["layers"].items():
        bound = 1 / np.sqrt(adapter["a"].shape[-2])
        # of some hundred uniform numbers the largest is close to the bound
        assert 0.9 * bound < np.abs(adapter["a"]).max() <= bound, name
        assert not np.any(adapter["b"])
    assert not np.array_equal(*(lora.weights["layers"][name]["a"].ravel()[:64] for name in ("q", "k")))
