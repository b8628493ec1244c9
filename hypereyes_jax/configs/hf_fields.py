"""The fields of a HF `config.json`, sorted into those that are inert, those that must agree, and those refused by name.

A field falls into one of three classes. *Inert* ones do not change what the network computes, whatever they say.
Ones that *agree* repeat or confirm what is computed, and are refused where they say something else. Everything else
that is not a size of the model is refused: a field silently ignored is a model silently wrong.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Fields = dict[str, Any]

# The network is the same for any value of these.
_INERT = frozenset(
    # what transformers writes about itself and about how a model is run
    "_attn_implementation _attn_implementation_autoset _attn_implementation_internal _commit_hash "
    "_experts_implementation _name_or_path architectures attn_implementation auto_map chunk_size_feed_forward dtype "
    "finetuning_task id2label keys_to_ignore_at_inference label2id max_window_layers model_type output_attentions "
    "output_hidden_states output_router_logits problem_type return_dict task_specific_params tf_legacy_loss "
    "tokenizer_class torch_dtype torchscript transformers_version use_bfloat16 use_cache use_return_dict "
    "gradient_checkpointing ignore_index model_max_length model_name num_labels processor_class "
    # what generation takes: transformers 4 kept it in a model's config
    "bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size "
    "epsilon_cutoff eta_cutoff exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id "
    "generation_config guidance_scale length_penalty max_length max_new_tokens max_time min_length min_new_tokens "
    "min_p no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores penalty_alpha prefix "
    "remove_invalid_values renormalize_logits repetition_penalty return_dict_in_generate stop_strings suppress_tokens "
    "temperature top_k top_p typical_p".split()
)
_DTYPES = (
    *("bfloat16", "float16", "float32", "float64", "half", "float", "double", "float8_e4m3fn", "float8_e5m2"),
    *("uint8", "int8"),
)
_INERT_PREFIXES = ("unsloth_",)  # a tool's own marks

# Fields of any section that may only say what is computed anyway.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "is_encoder_decoder": (False, None),
    "attention_dropout": (0.0, None),
    "mlp_bias": (False, None),
    "pretraining_tp": (1, None),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "use_sliding_window": (False, None),
    "tie_encoder_decoder": (False, None),
}
# Ids of tokens that the network itself never looks at.
_UNSEEN_IDS = (
    *("sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id", "decoder_start_token_id"),
    *("padding_idx", "vision_token_id"),
)
GENERATION_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
IMAGE_IDS = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")

# Largest values that are taken for a size. Far above any model, and low enough that a mistyped or hostile config is
# refused before anything of that size is built.
_LARGEST_INT = 1 << 256  # far within float64 and within what Python prints
_MAX_LAYERS, _MAX_SIZE, _MAX_COUNT = 4096, 1 << 24, 1 << 16
_TEXT_SIZES = {
    "vocab_size": (1, _MAX_SIZE),
    "hidden_size": (1, _MAX_SIZE),
    "intermediate_size": (1, _MAX_SIZE),
    "num_hidden_layers": (1, _MAX_LAYERS),
    "num_attention_heads": (1, _MAX_COUNT),
    "num_key_value_heads": (1, _MAX_COUNT),
    "head_dim": (1, _MAX_COUNT),
    "max_position_embeddings": (1, 1 << 40),
    "num_experts": (0, _MAX_COUNT),
    "num_experts_per_tok": (0, _MAX_COUNT),
    "moe_intermediate_size": (0, _MAX_SIZE),
}
_VISION_SIZES = {
    "depth": (1, _MAX_LAYERS),
    "hidden_size": (1, _MAX_SIZE),
    "intermediate_size": (1, _MAX_SIZE),
    "num_heads": (1, _MAX_COUNT),
    "in_channels": (1, 1024),
    "patch_size": (1, 1024),
    "temporal_patch_size": (1, 1024),
    "spatial_merge_size": (1, 1024),
    "num_position_embeddings": (1, _MAX_SIZE),
    "out_hidden_size": (1, _MAX_SIZE),
}
_ROPES = ("rope_scaling", "rope_parameters")
_BEFORE = "It must be the checkpoint as it was before it was quantised"
_OF_EXPERTS = ("num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef")
_MAY_BE_NULL = ("num_key_value_heads", "head_dim")  # transformers then derives them


def read_fields(raw: Mapping[str, Any]) -> tuple[Fields, Fields, Fields]:
    """(of the decoder, of the vision tower, of the whole): keyword arguments for the dataclasses of `configs.model`.

    Raises ValueError naming the field that is unknown, contradictory, of a wrong type, or that asks for something not
    implemented.
    """
    left = dict(raw)
    model_type = left.pop("model_type", "qwen3_vl")
    if model_type not in ("qwen3_vl", "qwen3_vl_moe"):
        raise ValueError(f"model_type={model_type!r} is not a Qwen3-VL model (expected qwen3_vl or qwen3_vl_moe)")
    for name in ("text_config", "vision_config"):
        if name not in left:
            raise ValueError(f"it has no {name}, in which Qwen3-VL has what describes that part of the model")
    text_raw, vision_raw = (_section(left, name) for name in ("text_config", "vision_config"))
    for section, part in (("", left), ("text_config.", text_raw), ("vision_config.", vision_raw)):
        for name in ("dtype", "torch_dtype"):
            if part.get(name) not in (None, *_DTYPES):  # at which transformers fails, even for the tokenizer alone
                raise ValueError(f"{section}{name}={part[name]!r} is no type that weights have, such as 'bfloat16'")
    for name, part in (("text_config", text_raw), ("vision_config", vision_raw)):
        inner = part.get("model_type", model_type)
        if inner is not None and not str(inner).startswith("qwen3_vl"):
            raise ValueError(f"{name}.model_type={inner!r} is not that of a Qwen3-VL model")
    # transformers ties by the outer flag alone; the inner one only matters where the outer is absent
    inner_tie = text_raw.pop("tie_word_embeddings", False)
    tie = left.pop("tie_word_embeddings", inner_tie)
    if not isinstance(tie, bool):
        raise ValueError(f"tie_word_embeddings={tie!r} is not a valid bool")
    whole: Fields = {name: _token_id("", name, left.pop(name)) for name in IMAGE_IDS if name in left}
    for name in IMAGE_IDS:
        if (value := text_raw.pop(name, None)) is not None and value != whole.get(name):
            raise ValueError(f"text_config.{name}={value!r} contradicts {name}={whole.get(name)!r}")
    for name in GENERATION_IDS:
        values = [
            _generation_id(where, name, part.pop(name, None)) for where, part in (("text_config", text_raw), ("", left))
        ]
        if (value := next((value for value in values if value is not None), None)) is not None:
            whole[name] = value
    for name in ("quantization", "compression_config"):  # of MLX, and of older versions of compressed-tensors
        if left.get(name) is not None:
            raise ValueError(f"{name}={str(left[name])[:80]} is not supported: the weights are quantised. {_BEFORE}")
    fp8_block(left.pop("quantization_config", None))
    text = _text(dict(text_raw), model_type == "qwen3_vl_moe")
    for name in _ROPES:  # which transformers does not read outside of text_config
        if isinstance(left.get(name), Mapping):
            _agree_on_rope(name, left.pop(name), text)
    doubles = {name: value for name, value in left.items() if name in text_raw or name in text}
    text["tie_word_embeddings"] = tie
    for name, value in doubles.items():
        computed = text_raw[name] if name in text_raw else text.get(name)
        if name not in _INERT and value is not None and value != computed:
            raise ValueError(f"{name}={value!r} contradicts text_config, where it is {computed!r}")
        del left[name]
    _refuse_unknown("", left)
    return text, _vision(vision_raw), whole


def fp8_block(quantization: Any) -> tuple[int, int] | None:
    """Rows and columns of one block that shares a scale, of a `quantization_config`; None if there is none.

    Raises ValueError for any scheme but weights in FP8 (e4m3) with one scale a block, which is how Qwen publishes them.
    """
    if quantization is None:
        return None
    if not isinstance(quantization, dict) or quantization.get("quant_method") != "fp8":
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ValueError(
            f"quantization_config with quant_method={method!r} is not supported "
            f"(expected none, or fp8 with a weight_block_size). {_BEFORE}"
        )
    left = dict(quantization)
    for name in ("quant_method", "modules_to_not_convert", "ignored_layers", "dequantize", "modules_to_convert"):
        left.pop(name, None)  # which maps are quantised is told by their tensors
    where = "quantization_config"
    _expect(where, left, "fmt", "e4m3")
    _expect(where, left, "activation_scheme", "dynamic")
    _expect(where, left, "scale_fmt", "float", None)
    _expect(where, left, "expert_dtype", "fp8", None)
    block = left.pop("weight_block_size", [128, 128])
    if not isinstance(block, list | tuple) or len(block) != 2:
        raise ValueError(f"{where}.weight_block_size={block!r} is not a pair of sizes")
    rows, columns = (_whole_number(where, "weight_block_size", size, 1, _MAX_SIZE) for size in block)
    _refuse_unknown(where, left)
    return rows, columns


def _section(raw: Fields, name: str) -> Fields:
    section = raw.pop(name, {})
    if not isinstance(section, Mapping):
        raise ValueError(f"{name}={section!r} is not an object")
    return dict(section)


def _refuse_unknown(section: str, left: Mapping[str, Any]) -> None:
    unknown = []
    for name, value in left.items():
        if name in _INERT or name.startswith(_INERT_PREFIXES) or value is None:  # null asks for nothing
            continue
        where = f"{section}.{name}" if section else name
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise ValueError(f"{where}={value!r} is not supported (expected {_any_of(_NEUTRAL[name])})")
        elif name in _UNSEEN_IDS or name in GENERATION_IDS:
            _generation_id(section, name, value)
        else:
            unknown.append(str(name))
    if unknown:
        raise ValueError(f"unknown field(s) in {section or 'config'}: {', '.join(sorted(unknown))}")


def _any_of(values: tuple[Any, ...]) -> str:
    return " or ".join(map(repr, values))


def _expect(section: str, raw: Fields, name: str, *allowed: Any) -> None:
    """Pop a field that may only hold values this implementation honours."""
    if name in raw and (value := raw.pop(name)) not in allowed:
        raise ValueError(f"{section}.{name}={value!r} is not supported (expected {_any_of(allowed)})")


def _number(section: str, name: str, value: Any) -> float:
    where = f"{section}.{name}" if section else name
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}={value!r} is not a valid number")
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        raise ValueError(f"{where} is a number of {len(hex(value)) - 2} hexadecimal digits, too large for any size")
    if not math.isfinite(value):
        raise ValueError(f"{where}={value!r} is not finite")
    return value


def _whole_number(section: str, name: str, value: Any, low: int, high: int) -> int:
    number = _number(section, name, value)
    where = f"{section}.{name}" if section else name
    if number != int(number):
        raise ValueError(f"{where}={value!r} is not a valid int")
    if not low <= number <= high:
        raise ValueError(f"{where}={value!r} is not in {low}..{high}")
    return int(number)


def _positive(section: str, name: str, value: Any) -> float:
    number = float(_number(section, name, value))
    if number <= 0:
        raise ValueError(f"{section}.{name}={value!r} is not positive")
    return number


def _not_negative(section: str, name: str, value: Any) -> float:
    number = float(_number(section, name, value))
    if number < 0:
        raise ValueError(f"{section}.{name}={value!r} is negative")
    return number


def _token_id(section: str, name: str, value: Any) -> int:
    return _whole_number(section, name, value, 0, (1 << 31) - 1)


def _generation_id(section: str, name: str, value: Any) -> int | tuple[int, ...] | None:
    if value is None:
        return None
    if isinstance(value, list | tuple):  # an empty one names none
        return tuple(_token_id(section, name, each) for each in value) or None
    return _token_id(section, name, value)


def _sizes(section: str, raw: Fields, bounds: Mapping[str, tuple[int, int]]) -> Fields:
    numbers = {}
    for name, (low, high) in bounds.items():
        if name not in raw:
            continue
        value = raw.pop(name)
        if value is not None or name not in _MAY_BE_NULL:
            numbers[name] = _whole_number(section, name, value, low, high)
    return numbers


def _reals(section: str, raw: Fields, kinds: Mapping[str, Callable[[str, str, Any], float]]) -> Fields:
    return {name: kind(section, name, raw.pop(name)) for name, kind in kinds.items() if name in raw}


def _agree(section: str, name: str, values: list[Any]) -> Any:
    """The one value that several spellings of a field give, or None if none is given."""
    present = [value for value in values if value is not None]
    if any(value != present[0] for value in present[1:]):
        raise ValueError(f"{section} gives contradictory values of {name}: {present}")
    return present[0] if present else None


def _indexes(section: str, name: str, value: Any, high: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{section}.{name}={value!r} is not a list of numbers")
    return tuple(_whole_number(section, name, each, 0, high) for each in value)


def _text(raw: Fields, moe: bool) -> Fields:
    section = "text_config"
    theta, mrope = _rope(section, raw)
    _expect(section, raw, "hidden_act", "silu", "swish")
    _expect(section, raw, "attention_bias", False, None)
    _expect(section, raw, "attention_dropout", 0.0, None)
    _expect(section, raw, "partial_rotary_factor", 1.0, None)
    _expect(section, raw, "use_sliding_window", False, None)
    raw.pop("sliding_window", None)  # the size of a window that is not used
    _expect(section, raw, "decoder_sparse_step", 1)
    _expect(section, raw, "mlp_only_layers", [], None)
    _expect(section, raw, "norm_topk_prob", True)
    experts = _agree(section, "num_experts", [raw.pop("num_experts", None), raw.pop("num_local_experts", None)])
    if not moe:  # what a dense model has no use for
        raw = {name: value for name, value in raw.items() if value is not None or name not in _OF_EXPERTS}
    if not moe and experts:
        raise ValueError(f"{section}.num_experts={experts} contradicts model_type qwen3_vl, which is dense")
    if experts is not None:
        raw["num_experts"] = experts
    layer_types = raw.pop("layer_types", None)
    real = {
        "rms_norm_eps": _positive,
        "initializer_range": _not_negative,
        "router_aux_loss_coef": _not_negative,
    }
    values = _sizes(section, raw, _TEXT_SIZES) | _reals(section, raw, real)
    _refuse_unknown(section, raw)
    # transformers' own defaults of each family, for what a config.json leaves out
    defaults: Fields = (
        dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=24, num_attention_heads=16)
        | dict(num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408)
        if moe
        else dict(hidden_size=4096, intermediate_size=22016, num_hidden_layers=32, num_attention_heads=32, head_dim=128)
    )
    values = defaults | {"max_position_embeddings": 128000} | values
    values.setdefault("num_key_value_heads", values["num_attention_heads"] if not moe else 16)
    values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    if layer_types is not None and layer_types != ["full_attention"] * values["num_hidden_layers"]:
        raise ValueError(
            f"{section}.layer_types is not supported (expected full_attention for each of the "
            f"{values['num_hidden_layers']} layers)"
        )
    return values | {"rope_theta": theta, "mrope_section": mrope}


def _agree_on_rope(name: str, value: Mapping[str, Any], text: Fields) -> None:
    """Raises ValueError for rotary positions, said beside `text_config`, that are not those that are computed."""
    computed = text["rope_theta"], tuple(text["mrope_section"])
    if _rope("config", {name: {"rope_theta": computed[0], "mrope_section": computed[1], **value}}) != computed:
        raise ValueError(f"{name}={dict(value)!r} contradicts text_config, where theta and sections are {computed}")


def _rope(section: str, raw: Fields) -> tuple[float, tuple[int, ...]]:
    """(theta, section of M-RoPE) of all the places that may give them."""
    places = {name: _nullable_section(section, raw, name) for name in _ROPES}
    _refuse_unread(section, raw, places)
    theta = _agree(section, "rope_theta", [part.pop("rope_theta", None) for part in (raw, *places.values())])
    mrope = _agree(section, "mrope_section", [part.pop("mrope_section", None) for part in places.values()])
    for name, rope in places.items():
        where = f"{section}.{name}"
        _expect(where, rope, "type", "default", "mrope")
        _expect(where, rope, "rope_type", "default")
        _expect(where, rope, "mrope_interleaved", True)
        _expect(where, rope, "partial_rotary_factor", 1.0, None)
        _expect(where, rope, "factor", 1.0, None)  # of a scaling that the default has not
        rope.pop("original_max_position_embeddings", None)
        _refuse_unknown(where, rope)
    parts = (24, 20, 20) if mrope is None else _indexes(section, "mrope_section", mrope, _MAX_COUNT)
    if len(parts) != 3:
        raise ValueError(f"{section} mrope_section={list(parts)} does not have three parts")
    return 500_000.0 if theta is None else _positive(section, "rope_theta", theta), parts


def _refuse_unread(section: str, raw: Fields, places: Mapping[str, Fields]) -> None:
    """Raises ValueError for a field that stands only where transformers does not look: beside a `rope_scaling` that
    holds anything it does not read `rope_parameters`, and takes its own default."""
    if not places["rope_scaling"]:
        return
    for name in ("rope_theta", "mrope_section"):
        value = places["rope_parameters"].get(name)
        if value is not None and places["rope_scaling"].get(name) is None and raw.get(name) is None:
            raise ValueError(
                f"{section}.rope_parameters gives {name}={value!r}, which is not read beside {section}.rope_scaling, "
                "where it is not"
            )


def _nullable_section(section: str, raw: Fields, name: str) -> Fields:
    value = raw.pop(name, None)
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{section}.{name}={value!r} is not an object")
    return dict(value)


def _vision(raw: Fields) -> Fields:
    section = "vision_config"
    rope = _nullable_section(section, raw, "rope_parameters")
    theta = _positive(f"{section}.rope_parameters", "rope_theta", rope.pop("rope_theta", 10_000.0))
    _expect(f"{section}.rope_parameters", rope, "rope_type", "axial")
    raw.pop("tie_word_embeddings", None)  # a tower has none
    _refuse_unknown(f"{section}.rope_parameters", rope)
    _expect(section, raw, "hidden_act", "gelu_pytorch_tanh", "gelu_new")
    for ours, theirs in (("num_heads", "num_attention_heads"), ("depth", "num_hidden_layers")):
        if (value := raw.pop(theirs, None)) is not None:
            raw[ours] = _agree(section, ours, [raw.get(ours), value])
    deepstack = _indexes(
        section, "deepstack_visual_indexes", raw.pop("deepstack_visual_indexes", (8, 16, 24)), _MAX_LAYERS
    )
    values = _sizes(section, raw, _VISION_SIZES) | _reals(section, raw, {"initializer_range": _not_negative})
    _refuse_unknown(section, raw)
    values.setdefault("out_hidden_size", 3584)
    return values | {"deepstack_visual_indexes": deepstack, "rope_theta": theta}
