from __future__ import annotations

import copy
import json

import pytest

from hypereyes_jax.configs.model import PRESETS, ConfigError, Qwen3VLConfig

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


ROPE = HUB["text_config"]["rope_scaling"]


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
        (changed("text_config", model_type="llama"), "text_config.model_type='llama'"),
        (changed("vision_config", model_type=7), "vision_config.model_type=7"),
        (changed("", quantization_config={}), "quantization_config"),
        (changed("", quantization_config={"quant_method": "awq"}), "'awq'.* as it was before it was quantised"),
        (changed("", quantization={"bits": 4}), r"^quantization=\{'bits': 4\} .* as it was before it was quantised"),
        (changed("", compression_config={"format": "x"}), "^compression_config=.*before it was quantised"),
        (changed("", rope_scaling={"mrope_section": [8, 28, 28]}), "^rope_scaling=.*contradicts text_config, where"),
        (changed("", rope_parameters={"rope_theta": 1e4}), "^rope_parameters=.*contradicts text_config, where"),
        (changed("", rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rope_type='yarn'"),
        (changed("vision_config", attention_dropout=0.1), r"vision_config\.attention_dropout=0\.1"),
        (changed("", use_sliding_window=True), "use_sliding_window=True"),
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


@pytest.mark.parametrize(
    "raw",
    [
        changed("", unsloth_fixed=True, unsloth_version="2026.1", tokenizer_class="Qwen2Tokenizer", sep_token_id=None),
        changed("", _attn_implementation="sdpa", is_decoder=False, quantization_config=None, pruned_heads={}),
        changed(
            "", do_sample=False, num_beams=1, temperature=1.0, max_length=20, bad_words_ids=None, torchscript=False
        ),
        changed("text_config", top_k=50, is_decoder=False, add_cross_attention=False, tie_encoder_decoder=False),
        changed("text_config", layer_types=["full_attention"] * 36, use_sliding_window=False, sliding_window=None),
        changed("", vocab_size=151936, hidden_size=4096, rope_theta=5000000, hidden_act="silu"),
        changed("text_config", rope_scaling={"rope_theta": 5e6, "rope_type": "default", "mrope_section": [24, 20, 20]}),
        changed("", quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}),
        changed("", model_name="unsloth/Qwen3-VL-8B-Instruct", unsloth_version="2026.1", use_sliding_window=False),
        changed("", rope_scaling={"type": "default", "rope_type": "default", "mrope_section": [24, 20, 20]}),
        changed("", rope_parameters={"rope_theta": 5e6, "mrope_interleaved": True}),
        changed("vision_config", attention_dropout=0.0, dtype="bfloat16", _attn_implementation_autoset=True),
        changed("text_config", num_hidden_layers=36.0),
        changed("text_config", sliding_window=4096, use_sliding_window=False, max_window_layers=36),
        changed("text_config", attention_bias=None, image_token_id=None, partial_rotary_factor=1.0, hidden_act="swish"),
        changed("", a_field_of_tomorrow=None, hidden_size=None, rope_scaling=None, max_new_tokens=5, min_p=0.1),
        changed("", num_labels=2, processor_class="Qwen3VLProcessor", gradient_checkpointing=True, pretraining_tp=1),
        changed("vision_config", tie_word_embeddings=True, hidden_act="gelu_new", a_field_of_tomorrow=None),
        changed("text_config", rope_scaling=ROPE | {"factor": 1.0, "original_max_position_embeddings": 262144}),
        changed(
            "text_config", num_experts=None, num_experts_per_tok=None, moe_intermediate_size=None, padding_idx=151643
        ),
        changed("", vision_token_id=151654, talker_config=None, quantization=None, auto_map={"AutoModel": "m.X"}),
        changed("", rms_norm_eps=1e-6, num_key_value_heads=8, initializer_range=0.02, head_dim=128),
    ],
)
def test_what_is_inert_or_agrees_changes_nothing(raw):
    assert Qwen3VLConfig.from_hf(raw) == PRESETS["8b"]


def test_an_empty_list_of_ids_that_end_a_sequence_names_none():
    assert HUB["text_config"]["eos_token_id"] == Qwen3VLConfig.from_hf(changed("", eos_token_id=[])).eos_token_id
    assert Qwen3VLConfig.from_hf(changed("text_config", eos_token_id=[])).eos_token_id is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (changed("text_config", rope_scaling=ROPE | {"factor": 4.0}), r"rope_scaling\.factor=4\.0"),
        ({k: v for k, v in (HUB | HUB["text_config"]).items() if k != "text_config"}, "model_type='qwen3_vl_text'"),
        ({k: v for k, v in (HUB["text_config"] | HUB).items() if k != "text_config"}, "it has no text_config"),
        ({k: v for k, v in HUB.items() if k != "vision_config"}, "it has no vision_config"),
        (changed("", vocab_size=151937), "vocab_size=151937 contradicts text_config, where it is 151936"),
        (changed("", rope_theta=1e4), "rope_theta=10000.0 contradicts"),
        (changed("", is_decoder=True), "is_decoder=True"),
        (changed("", quantization_config={"quant_method": "awq"}), "quant_method='awq'"),
        (changed("", quantization_config={"quant_method": "fp8", "activation_scheme": "static"}), "activation_scheme"),
        (changed("", quantization_config={"quant_method": "fp8", "weight_block_size": [0, 8]}), "weight_block_size=0"),
        (changed("text_config", layer_types=["full_attention"] * 35), "layer_types"),
        (changed("text_config", layer_types=["sliding_attention"] * 36), "layer_types"),
        (changed("text_config", rope_scaling={"rope_theta": 1e4}), "contradictory values of rope_theta"),
        (
            changed("text_config", rope_theta=None, rope_parameters={"rope_theta": 5e6}),
            "rope_theta=5000000.0, which is not",
        ),
        (
            changed(
                "text_config",
                rope_scaling={"rope_type": "default"},
                rope_parameters={"rope_type": "default", "mrope_section": [24, 20, 20]},
            ),
            r"mrope_section=\[24, 20, 20\], which is not read beside text_config.rope_scaling",
        ),
        (changed("text_config", partial_rotary_factor=0.5), "partial_rotary_factor=0.5"),
        (changed("", compression_config={"a": 1}), "compression_config"),
        (changed("text_config", pretraining_tp=2), "pretraining_tp=2"),
        (changed("text_config", attention_dropout=0.1), "attention_dropout=0.1"),
        (changed("", image_token_id=-1), "image_token_id=-1 is not in 0"),
        (changed("", image_token_id=None), "image_token_id=None is not a valid number"),
        (changed("", video_token_id=float("nan")), "video_token_id=nan is not finite"),
        (changed("", vision_start_token_id="151652"), "vision_start_token_id='151652'"),
        (changed("", vision_end_token_id=True), "vision_end_token_id=True"),
        (changed("", pad_token_id=-1), "pad_token_id=-1"),
        (changed("text_config", eos_token_id=[151645, -3]), "eos_token_id=-3"),
        (changed("text_config", num_hidden_layers=1e9), r"num_hidden_layers=1000000000.0 is not in 1\.\.4096"),
        (changed("text_config", num_hidden_layers=None), "num_hidden_layers=None"),
        (changed("text_config", num_attention_heads=0), "num_attention_heads=0"),
        (changed("text_config", hidden_size=-4096), "hidden_size=-4096"),
        (changed("text_config", head_dim=float("inf")), "head_dim=inf is not finite"),
        (changed("text_config", rms_norm_eps=float("nan")), "rms_norm_eps=nan"),
        (changed("text_config", rope_theta=-1), "rope_theta=-1 is not positive"),
        (changed("text_config", rope_scaling={"mrope_section": [24, "20", 20]}), "mrope_section='20'"),
        (changed("text_config", rope_scaling={"mrope_section": [-24, 44, 44]}), "mrope_section=-24"),
        (changed("text_config", rope_scaling=7), "rope_scaling=7 is not an object"),
        (changed("vision_config", deepstack_visual_indexes="8"), "deepstack_visual_indexes='8'"),
        (changed("vision_config", depth=10**30), "depth"),
        (changed("vision_config", depth=10**400), "vision_config.depth is a number of 333 hexadecimal digits"),
        (changed("text_config", rms_norm_eps=10**5000), "rms_norm_eps is a number of"),
        (changed("text_config", use_sliding_window=True, sliding_window=4096), "use_sliding_window=True"),
        (changed("", rms_norm_eps=1e-5), "rms_norm_eps=1e-05 contradicts"),
        (changed("", text_config=None), "text_config=None is not an object"),
        (changed("", tie_word_embeddings=None), "tie_word_embeddings=None"),
        (changed("", dtype="auto"), "^dtype='auto' is no type that weights have"),
        (changed("text_config", torch_dtype="torch.bfloat16"), "^text_config.torch_dtype='torch.bfloat16' is no type"),
        (changed("vision_config", dtype={"": "bfloat16"}), "^vision_config.dtype=.* is no type"),
    ],
)
def test_numbers_and_claims_that_cannot_be_are_refused_by_name(raw, message):
    with pytest.raises(ValueError, match=message):
        Qwen3VLConfig.from_hf(raw)


@pytest.mark.parametrize("fields", [{}, {"rope_theta": 7.0}, {"rope_scaling": None}, {"rope_parameters": None}])
def test_theta_is_the_one_that_transformers_reads(fields):
    """Of each config that is read; others are refused."""
    from transformers import AutoConfig

    rope = {"rope_type": "default", "mrope_interleaved": True, "mrope_section": [24, 20, 20]}
    for scaling in (rope, rope | {"rope_theta": 7.0}):
        for parameters in (rope, rope | {"rope_theta": 7.0}, {}):
            text = HUB["text_config"] | {"rope_scaling": scaling, "rope_parameters": parameters} | fields
            if "rope_theta" not in fields:
                del text["rope_theta"]
            raw = HUB | {"text_config": text}
            try:
                ours = Qwen3VLConfig.from_hf(copy.deepcopy(raw)).text.rope_theta
            except ValueError:
                continue
            theirs = AutoConfig.for_model(**copy.deepcopy({k: v for k, v in raw.items() if k != "architectures"}))
            assert ours == theirs.text_config.rope_parameters["rope_theta"]


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_file_with_a_number_that_is_none_is_refused_by_its_name(number, tmp_path):
    text = json.dumps(changed("text_config", initializer_range="here")).replace('"here"', number)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        Qwen3VLConfig.from_hf(tmp_path)


def test_what_is_written_names_dtype_and_the_ids_of_generation_at_both_levels():
    config = Qwen3VLConfig.from_hf(changed("text_config", eos_token_id=[151645, 151643], pad_token_id=151643))
    raw = config.to_hf("bfloat16")
    for part in (raw, raw["text_config"]):
        assert part["dtype"] == "bfloat16"
        assert (part["bos_token_id"], part["eos_token_id"], part["pad_token_id"]) == (151643, [151645, 151643], 151643)
    again = Qwen3VLConfig.from_hf(raw)
    assert (again.bos_token_id, again.eos_token_id, again.pad_token_id) == (151643, (151645, 151643), 151643)
