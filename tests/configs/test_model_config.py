from __future__ import annotations

import copy

import pytest

from hypereyes_jax.configs.model import PRESETS, Qwen3VLConfig

HUB = {  # the form of the published config.json files
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "image_token_id": 151655,
    "model_type": "qwen3_vl",
    "text_config": {
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 151643,
        "dtype": "bfloat16",
        "eos_token_id": 151645,
        "head_dim": 128,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 12288,
        "max_position_embeddings": 262144,
        "model_type": "qwen3_vl_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 36,
        "num_key_value_heads": 8,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
        "rope_theta": 5000000,
        "use_cache": True,
        "vocab_size": 151936,
    },
    "tie_word_embeddings": False,
    "transformers_version": "4.57.0.dev0",
    "video_token_id": 151656,
    "vision_config": {
        "deepstack_visual_indexes": [8, 16, 24],
        "depth": 27,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1152,
        "in_channels": 3,
        "initializer_range": 0.02,
        "intermediate_size": 4304,
        "model_type": "qwen3_vl",
        "num_heads": 16,
        "num_position_embeddings": 2304,
        "out_hidden_size": 4096,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
    "vision_end_token_id": 151653,
    "vision_start_token_id": 151652,
}


def changed(section: str, **fields):
    raw = copy.deepcopy(HUB)
    (raw[section] if section else raw).update(fields)
    return raw


def test_the_hub_form_gives_the_preset():
    assert Qwen3VLConfig.from_hf(HUB) == PRESETS["8b"]


def test_the_form_of_transformers_5_gives_the_same():
    raw = copy.deepcopy(HUB)
    scaling, theta = raw["text_config"].pop("rope_scaling"), raw["text_config"].pop("rope_theta")
    raw["text_config"]["rope_parameters"] = scaling | {"rope_theta": theta}
    assert Qwen3VLConfig.from_hf(raw) == PRESETS["8b"]


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_survives_the_round_trip_through_hf(name):
    from transformers import AutoConfig

    raw = PRESETS[name].to_hf()
    assert Qwen3VLConfig.from_hf(raw) == PRESETS[name]
    through = AutoConfig.for_model(**{k: v for k, v in raw.items() if k != "architectures"})
    assert Qwen3VLConfig.from_hf(through.to_dict()) == PRESETS[name]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed("", model_type="qwen2_vl"), "model_type='qwen2_vl'"),
        (changed("", quantization_config={}), "quantization_config"),
        (changed("text_config", rope_interleave=True), "rope_interleave"),
        (changed("text_config", hidden_act="gelu"), "hidden_act='gelu'"),
        (changed("text_config", attention_bias=True), "attention_bias=True"),
        (changed("text_config", rope_parameters={"rope_theta": 1e4}), "contradictory values of rope_theta"),
        (changed("text_config", rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rope_type='yarn'"),
        (changed("text_config", rope_scaling={"mrope_interleaved": False}), "mrope_interleaved=False"),
        (changed("text_config", num_experts=8), "num_experts=8 contradicts"),
        (changed("text_config", hidden_size="4096"), "hidden_size='4096'"),
        (changed("text_config", num_key_value_heads=5), "num_key_value_heads=5"),
        (changed("vision_config", window_size=8), "window_size"),
        (changed("vision_config", out_hidden_size=8), "out_hidden_size=8"),
        (changed("vision_config", deepstack_visual_indexes=[8, 30]), "deepstack_visual_indexes"),
        (changed("vision_config", num_position_embeddings=2300), "num_position_embeddings=2300"),
    ],
)
def test_what_it_cannot_honour_is_refused_by_name(raw, message):
    with pytest.raises(ValueError, match=message):
        Qwen3VLConfig.from_hf(raw)
