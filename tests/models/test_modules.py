"""The Linen modules: one tree with the pure functions, and what Flax makes of it."""

from __future__ import annotations

import functools
import re

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from jax.sharding import NamedSharding

from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.models.qwen3_vl import (
    Decoder,
    Qwen3VL,
    VisionTower,
    encode_images,
    forward,
    hidden_states,
    init_params,
    load_hf,
    save_hf,
    weights,
)
from hypereyes_jax.models.qwen3_vl.modules import logical_rules
from hypereyes_jax.models.qwen3_vl.weights import flat_weights
from hypereyes_jax.models.sharding import param_shardings
from hypereyes_jax.processing import pack_inputs
from tests.learner.by_hand import assert_close
from tests.models.test_presets import PUBLISHED
from tests.models.torch_reference import CONFIGS, one_image_sample, words
from tests.random_weights import random_lora, random_params


@functools.cache
def inputs_of(name):
    config = CONFIGS[name]
    tokens, image = one_image_sample(config)
    return pack_inputs(config, [(tokens, [image])])


@pytest.mark.parametrize("name", ["tied, merge 3", "moe", "one temporal, no deepstack"])
def test_init_has_the_tree_of_init_params(name):
    config = CONFIGS[name]
    made = nn.unbox(jax.eval_shape(Qwen3VL(config).init, jax.random.key(0), inputs_of(name)))["params"]
    expected = jax.eval_shape(lambda key: init_params(key, config), jax.random.key(0))
    assert jax.tree.structure(made) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: (a.shape == b.shape and a.dtype == b.dtype) or pytest.fail(f"{a} {b}"), made, expected)


def test_init_draws_what_the_table_says():
    config = CONFIGS["dense"]
    init = jax.jit(Qwen3VL(config, dtype=jnp.bfloat16).init)
    params = nn.unbox(init(jax.random.key(0), inputs_of("dense")))["params"]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    np.testing.assert_array_equal(params["layers"]["attn_norm"], 1)
    np.testing.assert_array_equal(params["vision"]["patch_b"], 0)
    assert abs(np.asarray(params["layers"]["gate"], np.float32).std() / config.text.initializer_range - 1) < 0.1


def slow(*case):
    return pytest.param(*case, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "adapted"),
    [
        ("dense", False),
        ("moe", True),
        slow("dense", True),
        slow("moe", False),
        slow("tied, merge 3", True),
        slow("one temporal, no deepstack", True),
    ],
)
def test_apply_is_forward_to_the_bit_on_what_load_hf_returns(name, adapted, tmp_path):
    config = CONFIGS[name]
    save_hf(tmp_path, config, random_params(config))
    config, params = load_hf(tmp_path)
    lora = random_lora(config, scale=1.0) if adapted else None
    model, inputs = Qwen3VL(config), inputs_of(name)
    applied = jax.jit(model.apply)({"params": params}, inputs, lora)
    np.testing.assert_array_equal(applied, jax.jit(forward, static_argnums=1)(params, config, inputs, lora))


def test_a_method_of_the_model_is_the_function_of_its_name():
    config, inputs = CONFIGS["dense"], inputs_of("dense")
    params = random_params(config)
    hidden = jax.jit(functools.partial(Qwen3VL(config).apply, method="hidden_states"))({"params": params}, inputs)
    np.testing.assert_array_equal(hidden, jax.jit(hidden_states, static_argnums=1)(params, config, inputs))


def test_tower_and_decoder_alone_are_the_whole():
    config, inputs = CONFIGS["dense"], inputs_of("dense")
    params = random_params(config)
    visual = jax.jit(VisionTower(config).apply)({"params": params["vision"]}, inputs.vision)
    expected = jax.jit(encode_images, static_argnums=1)(params, config, inputs.vision)
    jax.tree.map(np.testing.assert_array_equal, visual, expected)
    rest = {name: leaf for name, leaf in params.items() if name != "vision"}
    x = jax.jit(Decoder(config).apply)({"params": rest}, inputs, visual)
    whole = jax.jit(hidden_states, static_argnums=1)(params, config, inputs)
    np.testing.assert_allclose(x, whole, atol=1e-5)  # two programs in place of one


def test_a_model_without_images_has_the_tower_all_the_same():
    config = CONFIGS["dense"]
    text = pack_inputs(config, [(words(6, 0), [])])
    assert "vision" in jax.eval_shape(Qwen3VL(config).init, jax.random.key(0), text)["params"]


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_partition_specs_are_those_of_the_sharding_table(name):
    config = CONFIGS[name]
    mesh = jax.make_mesh(
        (1, 1, 1, 1), ("replica", "fsdp", "expert", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 4
    )
    table = param_shardings(config, mesh)

    def specs(model):
        return nn.get_partition_spec(jax.eval_shape(model.init, jax.random.key(0), inputs_of(name)))

    with_mesh = specs(Qwen3VL(config, mesh=mesh))
    assert jax.tree.map(lambda spec: NamedSharding(mesh, spec), with_mesh["params"]) == table
    logical = specs(Qwen3VL(config))
    assert tuple(logical["params"]["layers"]["q"]) == ("layer", "embed", "heads")
    by_rules = nn.logical_to_mesh_sharding(logical["params"], mesh, logical_rules(mesh))
    same = jax.tree.map(lambda a, b, leaf: a.is_equivalent_to(b, len(leaf.axes)), by_rules, table, weights(config))
    assert all(jax.tree.leaves(same))
    assert table["layers"]["q"].spec == jax.sharding.PartitionSpec(None, ("fsdp", "expert"), "tensor")


@pytest.mark.parametrize("name", ["2b", "30b-a3b"])
def test_tabulate_counts_what_is_published(name):
    config = PRESETS[name]
    text = pack_inputs(config, [(words(6, 0), [])])
    table = Qwen3VL(config).tabulate(jax.random.key(0), text, depth=0, console_kwargs={"width": 200})
    total = re.search(r"Total Parameters: ([\d,]+)", table)
    assert int(total[1].replace(",", "")) == PUBLISHED[name]


def test_traverse_util_names_leaves_as_the_weight_table_does():
    config = CONFIGS["moe"]
    params = random_params(config)
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    assert set(flat) == {path for path, _ in flat_weights(config)}
    jax.tree.map(np.testing.assert_array_equal, flax.traverse_util.unflatten_dict(flat, sep="/"), params)


def test_nnx_bridges_the_model():
    config, inputs = CONFIGS["dense"], inputs_of("dense")
    make = nnx.jit(lambda inputs: nnx.bridge.ToNNX(Qwen3VL(config), rngs=nnx.Rngs(0)).lazy_init(inputs))
    bridged = make(inputs)
    params = nnx.to_pure_dict(nnx.state(bridged, nnx.Param))
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    assert set(flat) == {path for path, _ in flat_weights(config)}
    assert bridged.layers["q"].logical_axes == ("layer", "embed", "heads")
    called = nnx.jit(lambda model, inputs: model(inputs))(bridged, inputs)
    np.testing.assert_array_equal(called, jax.jit(forward, static_argnums=1)(params, config, inputs))


class Classifier(nn.Module):
    """A user's own module around the tower."""

    tower: VisionTower
    classes: int

    @nn.compact
    def __call__(self, vision):
        return nn.Dense(self.classes)(self.tower(vision).embeds.mean(0))


def test_the_tower_trains_inside_a_module_of_ones_own_with_and_without_remat():
    config, vision = CONFIGS["dense"], inputs_of("dense").vision
    model = Classifier(VisionTower(config), 3)
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), vision))["params"]
    assert set(shapes) == {"tower", "Dense_0"}
    rng = np.random.default_rng(0)
    head = jax.tree.map(lambda x: 0.2 * rng.normal(size=x.shape).astype(x.dtype), shapes["Dense_0"])
    params = {"tower": random_params(config)["vision"], "Dense_0": head}

    def loss(model, params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply({"params": params}, vision), 1)

    step = jax.jit(jax.value_and_grad(functools.partial(loss, model)))
    before, gradient = step(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient["tower"]["blocks"]["qkv_w"]))
    after, _ = step(jax.tree.map(lambda x, g: np.asarray(x) - 0.1 * np.asarray(g), params, gradient))
    assert after < before
    again = jax.jit(jax.grad(functools.partial(loss, Classifier(VisionTower(config, remat="dots"), 3))))(params)
    assert_close(again, gradient)
