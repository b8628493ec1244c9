"""Adapters that PEFT wrote, with PEFT on the transformers model as the reference."""

from __future__ import annotations

import functools
import itertools
import json

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hypereyes_jax.models.lora import AdapterError, LoraConfig, LoraRule, load_peft, merge, save_peft
from hypereyes_jax.models.lora.peft_config import read_adapter_config
from hypereyes_jax.models.qwen3_vl import forward, load_hf
from hypereyes_jax.models.tensor_files import CheckpointError
from hypereyes_jax.processing import pack_inputs
from tests.models.test_parity import FAST_COMPILE
from tests.models.torch_reference import CONFIGS, hf_inputs, hf_model, one_image_sample, saved
from tests.random_weights import random_lora, random_params

run = jax.jit(forward, static_argnums=1, compiler_options=FAST_COMPILE)


@functools.cache
def sample(name):
    config = CONFIGS[name]
    tokens, image = one_image_sample(config)
    return config, tokens, image, pack_inputs(config, [(tokens, [image])])


def adapt(name, path, **options):
    """Makes an adapter with PEFT on a random model: (base directory, logits of PEFT's model, plain logits)."""
    import peft

    config, tokens, image, _ = sample(name)
    model = hf_model(config)
    base = saved(model, path / "base")
    inputs = hf_inputs(config, tokens, [image])
    with torch.no_grad():
        plain = model(**inputs).logits[0].numpy()
        adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, **options)).eval()
        generator = torch.Generator().manual_seed(1)
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
        logits = adapted(**inputs).logits[0].numpy()
    adapted.save_pretrained(path / "adapter")
    return base, logits, plain


LAYER_2 = r"model\.language_model\.layers\.2\.self_attn\.v_proj"
EXPERTS = [
    f"model.language_model.layers.{layer}.mlp.experts.{name}"
    for layer in range(3)
    for name in ("gate_up_proj", "down_proj")
]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dense", {"target_modules": ["q_proj", "v_proj", "down_proj"], "alpha_pattern": {LAYER_2: 32}}),
        (
            "dense",
            {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {LAYER_2: 7}, "alpha_pattern": {"q_proj": 3}},
        ),
        (
            "dense",
            {"target_modules": ["q_proj", "o_proj"], "use_rslora": True, "rank_pattern": {"layers.0.*.o_proj": 2}},
        ),
        ("dense", {"target_modules": "all-linear"}),
        ("dense", {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}),
        ("dense", {"target_modules": r".*language_model\.layers\.[02]\.mlp\.gate_proj"}),
        ("moe", {"target_modules": [], "target_parameters": EXPERTS}),
        ("moe", {"target_modules": ["q_proj"], "target_parameters": EXPERTS[2:5]}),
        (
            "dense",
            {
                "target_modules": [],
                "target_parameters": ["q_proj.weight", "v_proj.weight"],
                "rank_pattern": {"q_proj.weight": 2},
                "alpha_pattern": {"v_proj.weight": 32, "q_proj": 3},
            },
        ),
    ],
)
def test_logits_are_those_of_peft(name, options, tmp_path):
    base, expected, plain = adapt(name, tmp_path, **options)
    config, params = load_hf(base)
    lora = load_peft(tmp_path / "adapter", config)
    merged = merge(params, lora)  # with adapters beside the weights it would be a program for each adapter
    ours = np.asarray(run(merged, config, sample(name)[3]))[0, : len(expected)]
    assert np.abs(ours - expected).max() <= 2e-5 * np.abs(expected).max()
    assert np.abs(plain - expected).max() > 1e-2 * np.abs(expected).max(), "PEFT ignored the adapter"
    # what is written again computes the same
    save_peft(tmp_path / "again", config, lora)
    again = load_peft(tmp_path / "again", config)
    jax.tree.map(np.testing.assert_array_equal, again.weights, lora.weights)
    assert again.config.rules == lora.config.rules


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapter")
    config = CONFIGS["dense"]
    save_peft(path, config, random_lora(config))
    return path


def edited(adapter, path, **fields):
    raw = json.loads((adapter / "adapter_config.json").read_text()) | fields
    (path / "adapter_config.json").write_text(json.dumps(raw))
    (path / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    return path


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights='loftq'"),
        ({"init_lora_weights": "corda"}, "init_lora_weights='corda'"),
        ({"use_qalora": True}, "use_qalora=True"),
        ({"use_dora": True}, r"use_dora=True is not supported\. Merge it into its base in PEFT \(merge_and_unload\)"),
        ({"lora_bias": True}, "lora_bias=True"),
        ({"bias": "all"}, "bias='all'.* Merge it into its base"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"a_field_of_tomorrow": 0.5}, r"a_field_of_tomorrow=0\.5"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA'.* Merge it into its base"),
        ({"r": 0}, "r=0"),
        ({"r": -4}, "r=-4"),
        ({"r": None}, "r=None"),
        ({"r": 1e9}, "r=1000000000"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan"),
        ({"lora_alpha": "8"}, "lora_alpha='8'"),
        ({"lora_dropout": 1.5}, r"lora_dropout=1\.5"),
        ({"rank_pattern": {"q_proj": 2}}, r"for the rank 2 that rank_pattern 'q_proj' gives it"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern 'q_proj'=0"),
        ({"alpha_pattern": {"q_(": 2}}, r"alpha_pattern 'q_\(' is not a valid pattern"),
        ({"alpha_pattern": {"(?i)Q_PROJ": 2}}, r"alpha_pattern '\(\?i\)Q_PROJ' is not a valid pattern"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern=.*is not an object"),
        ({"alpha_pattern": {"(a+)+$": 2}}, r"alpha_pattern '\(a\+\)\+\$' repeats too much"),
        ({"rank_pattern": {".*.*.*.*.*q_proj": 4}}, "repeats too much"),
        ({"lora_alpha": 10**400}, "lora_alpha=an integer beyond"),
        ({"use_bdlora": True}, "use_bdlora=True"),
        ({"alora_invocation_tokens": [3]}, r"alora_invocation_tokens=\[3\] is not supported\.$"),
        ({"velora_config": {"rank": 2}}, "velora_config"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"init_lora_weights": ["eva"]}, "init_lora_weights="),
        ({"target_parameters": "experts"}, "target_parameters='experts'"),
        ({"kasa_config": {}}, "kasa_config={}"),
        ({"use_bdlora": {}}, "use_bdlora={}"),
        ({"layers_to_transform": "0"}, "layers_to_transform='0'"),
        ({"layers_to_transform": [0], "layers_pattern": "(?P<idx>a)"}, r"layers_pattern '\(\?P<idx>a\)'"),
        ({"target_modules": 3}, "target_modules=3"),
        ({"exclude_modules": "("}, r"exclude_modules '\(' is not a valid pattern"),
    ],
)
def test_what_is_not_a_plain_lora_is_refused_by_name(adapter, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        load_peft(edited(adapter, tmp_path, **fields), CONFIGS["dense"])


NAMES = [
    f"model.language_model.layers.{layer}.{name}"
    for layer in (0, 1, 2, 12)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj")
] + [
    "model.visual.blocks.1.attn.qkv",
    "model.visual.merger.linear_fc1",
    "model.visual.deepstack_merger_list.1.linear_fc1",
]


def parsed(**fields):
    return read_adapter_config(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | fields).encode())


@pytest.mark.parametrize(
    "keys", itertools.permutations(("v_proj", r".*layers\.[12]\..*", NAMES[7], "proj", "^q_proj"), 3)
)
def test_of_overlapping_patterns_the_one_counts_that_peft_takes(keys):
    from peft.utils.other import get_pattern_key

    config = parsed(rank_pattern=dict(zip(keys, (5, 6, 7), strict=True)), alpha_pattern=dict.fromkeys(keys[:2], 3))
    for name in NAMES:
        rank, alpha = ({**config.rank_pattern}, {**config.alpha_pattern})
        assert config.rank_of(name)[0] == rank.get(get_pattern_key(keys, name), 4)
        assert config.alpha_of(name, 4) == alpha.get(get_pattern_key(keys[:2], name), 8)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj", "linear_fc1"]},
        {"target_modules": NAMES[2:5]},
        {"target_modules": [*NAMES[1:2], "q_proj"], "layers_to_transform": [2], "layers_pattern": ["layers"]},
        {"target_modules": ["v_proj", "qkv", "linear_fc1"], "layers_to_transform": 1},
        {"target_modules": ["v_proj", "qkv"], "layers_to_transform": [1, 12], "layers_pattern": ["blocks", "layers"]},
        {"target_modules": ["v_proj", "qkv"], "layers_to_transform": [1], "layers_pattern": ""},
        {"target_modules": ["v_proj"], "layers_to_transform": [], "exclude_modules": NAMES[1:2]},
        {"target_modules": r".*(q|v)_proj"},
        {"target_modules": r"^(model\.language_model(?=\.).*\.(q_proj|down_proj))$", "exclude_modules": r".*\.1\..*"},
        {"target_modules": ["proj", "layers.1.mlp.down_proj", "merger.linear_fc1"]},
    ],
)
def test_the_maps_that_are_adapted_are_those_of_peft(fields):
    import peft
    from peft.tuners.tuners_utils import check_target_module_exists

    config, theirs = parsed(**fields), peft.LoraConfig(**fields)
    ours = [name for name in NAMES if config.leaves_out(name) is None]
    assert ours == [name for name in NAMES if check_target_module_exists(theirs, name)]
    assert 0 < len(ours) < len(NAMES)


@pytest.mark.parametrize(
    "fields",
    [
        {"init_lora_weights": "gaussian", "loftq_config": {}, "qalora_group_size": 16, "use_qalora": False},
        {"megatron_core": "megatron.core", "peft_version": "9", "revision": None, "auto_mapping": {"a": "b"}},
        {"a_field_of_tomorrow": None, "another": False, "one_more": []},
        {"corda_config": {"cache_file": None}, "lora_ga_config": {"direction": "ArB2r"}, "init_lora_weights": True},
        {"target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:_proj).*?)|(?:\bmodel\..*)"},
    ],
)
def test_what_changes_nothing_is_not_looked_at(adapter, tmp_path, fields):
    same = load_peft(edited(adapter, tmp_path, **fields), CONFIGS["dense"])
    jax.tree.map(np.testing.assert_array_equal, same.weights, load_peft(adapter, CONFIGS["dense"]).weights)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"target_modules": ["q_proj"]}, "target_modules"),
        ({"target_modules": r".*\.q_proj"}, "target_modules"),
        ({"target_modules": None, "target_parameters": ["q_proj.weight"]}, "target_modules"),
        ({"exclude_modules": ["up_proj"]}, "exclude_modules"),
        ({"exclude_modules": r".*up_proj"}, "exclude_modules"),
        ({"layers_to_transform": [0]}, "layers_to_transform"),
        ({"layers_to_transform": 1, "layers_pattern": ["blocks", "layers"]}, "layers_to_transform"),
    ],
)
def test_factors_that_peft_would_leave_out_are_refused_by_the_field_that_does(adapter, tmp_path, fields, field):
    with pytest.raises(
        ValueError, match=rf"has base_model.*lora_A\.weight, but {field} in adapter_config\.json leaves"
    ):
        load_peft(edited(adapter, tmp_path, **fields), CONFIGS["dense"])


def test_an_adapter_of_another_architecture_is_refused_with_its_names_by_kind(adapter, tmp_path):
    tensors = load_file(adapter / "adapter_model.safetensors")
    edited(adapter, tmp_path)
    other = {key.replace("language_model.layers", "decoder.blocks"): value for key, value in tensors.items()}
    save_file(other, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"has no adapter for this model:\n.*decoder\.blocks\.\*\.mlp") as caught:
        load_peft(tmp_path, CONFIGS["dense"])
    assert len(str(caught.value).splitlines()) <= 14


def test_factors_of_the_head_beside_those_of_linear_maps_are_refused_with_the_cure(adapter, tmp_path):
    tensors = load_file(adapter / "adapter_model.safetensors")
    edited(adapter, tmp_path)
    tensors["base_model.model.lm_head.lora_A.weight"] = np.zeros((2, 2), np.float32)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"no linear map of this model\. Merge it into its base .*:\n  base_model"):
        load_peft(tmp_path, CONFIGS["dense"])


def test_half_an_adapter_is_refused_by_the_missing_half(adapter, tmp_path):
    tensors = load_file(adapter / "adapter_model.safetensors")
    edited(adapter, tmp_path)
    gone = "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_B.weight"
    save_file({key: value for key, value in tensors.items() if key != gone}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"lacks {gone}"):
        load_peft(tmp_path, CONFIGS["dense"])


def test_an_adapter_in_a_pickle_is_told_with_its_cure(adapter, tmp_path):
    edited(adapter, tmp_path)
    (tmp_path / "adapter_model.safetensors").rename(tmp_path / "adapter_model.bin")
    with pytest.raises(ValueError, match=r"adapter_model\.bin is a pickle, which is never read: load it in PEFT"):
        load_peft(tmp_path, CONFIGS["dense"])


def test_factors_whose_names_hold_the_adapter_s_are_read(adapter, tmp_path):
    edited(adapter, tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    long = {name.replace(".weight", ".default.weight"): value for name, value in tensors.items()}
    save_file(long, tmp_path / "adapter_model.safetensors")
    same = load_peft(tmp_path, CONFIGS["dense"])
    jax.tree.map(np.testing.assert_array_equal, same.weights, load_peft(adapter, CONFIGS["dense"]).weights)


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace(".weight", ".policy.weight"),
        lambda name: name.removeprefix("base_model.model."),
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: name.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda name: name.replace("base_model.model.model.", "base_model.model."),  # of the class without a head
        lambda name: "module." + name.replace(".self_attn.", "._fsdp_wrapped_module.self_attn."),
        lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
        lambda name: name.replace("model.model.language_model.", "model.language_model.model."),
    ],
)
def test_names_of_factors_that_can_be_meant_in_one_way_are_read(adapter, tmp_path, rename):
    edited(adapter, tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    renamed = {rename(name): value for name, value in tensors.items()}
    assert renamed.keys() != tensors.keys()
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    same = load_peft(tmp_path, CONFIGS["dense"])
    jax.tree.map(np.testing.assert_array_equal, same.weights, load_peft(adapter, CONFIGS["dense"]).weights)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (  # an adapter for a language model, whose maps may have the same shapes
            lambda tensors: {name.replace("language_model.", ""): value for name, value in tensors.items()},
            "has no adapter for this model",
        ),
        (
            lambda tensors: {
                name.replace(".weight", f".{adapter}.weight"): value
                for adapter in ("one", "two")
                for name, value in tensors.items()
            },
            "holds 2 adapters, one, two: save the one that is meant alone",
        ),
        (
            lambda tensors: tensors | {f"module.{name}": value for name, value in tensors.items()},
            "which are one tensor: save the adapter again",
        ),
    ],
)
def test_names_of_factors_that_can_be_meant_in_several_ways_are_refused(adapter, tmp_path, change, message):
    edited(adapter, tmp_path)
    save_file(change(load_file(adapter / "adapter_model.safetensors")), tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=message):
        load_peft(tmp_path, CONFIGS["dense"])


def test_a_pattern_for_names_of_a_wrapper_is_refused_by_it(adapter, tmp_path):
    pattern = {"_orig_mod.model.language_model.layers.2.self_attn.v_proj": 7}
    edited(adapter, tmp_path, alpha_pattern=pattern)
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({f"_orig_mod.{name}": value for name, value in tensors.items()}, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=r"has the pattern '_orig_mod.* matches none of the maps .* such as model\."):
        load_peft(tmp_path, CONFIGS["dense"])


def test_factors_of_64_bits_are_read_as_far_as_float32_goes(adapter, tmp_path):
    edited(adapter, tmp_path)
    tensors = load_file(adapter / "adapter_model.safetensors")
    wide = {name: value.astype(np.float64) for name, value in tensors.items()}
    save_file(wide, tmp_path / "adapter_model.safetensors")
    same = load_peft(tmp_path, CONFIGS["dense"])
    jax.tree.map(np.testing.assert_array_equal, same.weights, load_peft(adapter, CONFIGS["dense"]).weights)
    wide[next(iter(wide))][:] = 1e300
    save_file(wide, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match="has numbers that float32 has not"):
        load_peft(tmp_path, CONFIGS["dense"])


def test_adapters_in_folders_are_named(adapter, tmp_path):
    (tmp_path / "mine").mkdir()
    edited(adapter, tmp_path / "mine")
    with pytest.raises(ValueError, match=r"holds no adapter_config\.json\. It holds adapters in folders: give .*/mine"):
        load_peft(tmp_path, CONFIGS["dense"])


def test_a_damaged_adapter_is_named(adapter, tmp_path):
    edited(adapter, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors is truncated"):
        load_peft(tmp_path, CONFIGS["dense"])
    file.unlink()
    with pytest.raises(ValueError, match=r"holds no adapter_model\.safetensors"):
        load_peft(tmp_path, CONFIGS["dense"])


def test_a_config_of_an_adapter_that_is_no_object_is_damaged():
    with pytest.raises(AdapterError, match=r"it is damaged \(it holds no JSON object\)"):
        read_adapter_config(b"[]")


def test_the_mergers_are_adapted_with_a_dropout_mask_of_each_tap():
    config = CONFIGS["dense"]
    _, _, _, inputs = sample("dense")
    params = random_params(config)
    rules = LoraConfig((LoraRule("vision/(merger|deepstack)/fc1_w", rank=2),), dropout=0.5)
    lora = random_lora(config, rules, scale=1.0)
    assert set(lora.weights["vision"]) == {"merger", "deepstack"}
    from hypereyes_jax.models.qwen3_vl import encode_images

    encode = jax.jit(functools.partial(encode_images, params, config, inputs.vision), compiler_options=FAST_COMPILE)
    plain, adapted = encode(), encode(lora)
    one, two = (encode(lora, dropout_key=jax.random.key(seed)) for seed in (1, 2))
    for features in (adapted, one):
        assert np.abs(features.embeds - plain.embeds).max() > 1e-3
        assert np.abs(features.deepstack - plain.deepstack).max(axis=(1, 2)).min() > 1e-3
    assert np.abs(one.deepstack - two.deepstack).max(axis=(1, 2)).min() > 1e-4


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_an_adapter_that_is_not_finite_is_refused_by_name(tmp_path, value):
    config = CONFIGS["dense"]
    save_peft(tmp_path, config, random_lora(config))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    name = next(name for name in tensors if name.endswith("layers.1.mlp.up_proj.lora_B.weight"))
    tensors[name][0, 0] = value
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(AdapterError, match=f"{name} holds NaN or infinity"):
        load_peft(tmp_path, config)
