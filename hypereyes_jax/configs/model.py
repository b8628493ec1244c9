"""Sizes of a Qwen3-VL model: what a HF `config.json` says, and nothing else.

Reads both forms in use (the hub's `rope_theta` + `rope_scaling`, and the `rope_parameters` that transformers 5 writes)
and refuses by name every field it does not know or cannot honour: a field silently ignored is a model silently wrong.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError


class ConfigError(UserError, ValueError):
    """A `config.json` that is damaged or of a model this project does not run. The message names the file and why."""


# Fields that do not change what the network computes, so their values are not looked at.
_INERT = frozenset(
    [
        "_name_or_path",
        "architectures",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "dtype",
        "eos_token_id",
        "id2label",
        "is_encoder_decoder",
        "label2id",
        "max_window_layers",
        "model_type",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "pad_token_id",
        "problem_type",
        "return_dict",
        "torch_dtype",
        "transformers_version",
        "use_cache",
    ]
)


@dataclass(frozen=True)
class TextConfig:
    """The decoder. `num_experts = 0` is the dense family."""

    vocab_size: int = 151936
    hidden_size: int = 4096
    intermediate_size: int = 12288
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float = 5_000_000.0
    mrope_section: tuple[int, int, int] = (24, 20, 20)
    tie_word_embeddings: bool = False
    num_experts: int = 0
    num_experts_per_tok: int = 0
    moe_intermediate_size: int = 0
    norm_topk_prob: bool = True
    router_aux_loss_coef: float = 0.001
    initializer_range: float = 0.02
    max_position_embeddings: int = 262144

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"text num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={self.num_key_value_heads}"
            )
        if self.head_dim % 2 or sum(self.mrope_section) != self.head_dim // 2:
            raise ValueError(
                f"text mrope_section={list(self.mrope_section)} must sum to head_dim / 2 = {self.head_dim / 2:g}"
            )
        if max(self.mrope_section[1:]) * 3 > self.head_dim // 2 + 2:
            raise ValueError(
                f"text mrope_section={list(self.mrope_section)} does not fit interleaved "
                f"into {self.head_dim // 2} frequencies"
            )
        if self.num_experts and not 0 < self.num_experts_per_tok <= self.num_experts:
            raise ValueError(
                f"text num_experts_per_tok={self.num_experts_per_tok} must be in 1..num_experts={self.num_experts}"
            )
        if self.num_experts and self.moe_intermediate_size <= 0:
            raise ValueError("text moe_intermediate_size must be positive for a mixture of experts")

    @property
    def moe(self) -> bool:
        return self.num_experts > 0


@dataclass(frozen=True)
class VisionConfig:
    """The vision tower."""

    depth: int = 27
    hidden_size: int = 1152
    intermediate_size: int = 4304
    num_heads: int = 16
    in_channels: int = 3
    patch_size: int = 16
    temporal_patch_size: int = 2
    spatial_merge_size: int = 2
    num_position_embeddings: int = 2304
    deepstack_visual_indexes: tuple[int, ...] = (8, 16, 24)
    out_hidden_size: int = 4096
    rope_theta: float = 10_000.0
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"vision hidden_size={self.hidden_size} / num_heads={self.num_heads} must be whole and a multiple of 4 "
                "(2-D rotary halves it twice)"
            )
        if round(self.num_position_embeddings**0.5) ** 2 != self.num_position_embeddings:
            raise ValueError(f"vision num_position_embeddings={self.num_position_embeddings} is not a square")
        indexes = self.deepstack_visual_indexes
        if len(set(indexes)) != len(indexes) or any(not 0 <= i < self.depth for i in indexes):
            raise ValueError(
                f"vision deepstack_visual_indexes={list(indexes)} must be distinct and below depth={self.depth}"
            )

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def patch_values(self) -> int:
        """P: numbers in one flattened patch."""
        return self.in_channels * self.temporal_patch_size * self.patch_size**2

    @property
    def merge_unit(self) -> int:
        """Patches that make one visual token."""
        return self.spatial_merge_size**2

    @property
    def pixel_multiple(self) -> int:
        """Sides of a resized image are multiples of this many pixels."""
        return self.patch_size * self.spatial_merge_size


@dataclass(frozen=True)
class Qwen3VLConfig:
    """A whole model. Frozen and hashable, so it can be a static argument of `jax.jit`."""

    text: TextConfig = field(default_factory=TextConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    image_token_id: int = 151655
    video_token_id: int = 151656
    vision_start_token_id: int = 151652
    vision_end_token_id: int = 151653

    def __post_init__(self) -> None:
        if self.vision.out_hidden_size != self.text.hidden_size:
            raise ValueError(
                f"vision out_hidden_size={self.vision.out_hidden_size} must equal "
                f"text hidden_size={self.text.hidden_size}"
            )
        if len(self.vision.deepstack_visual_indexes) > self.text.num_hidden_layers:
            raise ValueError(
                f"{len(self.vision.deepstack_visual_indexes)} DeepStack features need as many decoder layers, "
                f"but num_hidden_layers={self.text.num_hidden_layers}"
            )

    @classmethod
    def from_hf(cls, source: str | os.PathLike | Mapping[str, Any]) -> Qwen3VLConfig:
        """Read a HF configuration: a directory with `config.json`, the file itself, or its content.

        Raises ValueError naming the field that is unknown, contradictory, or asks for something not implemented; of a
        file a ConfigError, which also names the file. FileNotFoundError if there is none.
        """
        if isinstance(source, Mapping):
            return cls._from_fields(dict(source))
        path = Path(source)
        file = path / "config.json" if path.is_dir() else path
        try:
            raw = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(raw, dict):
                raise ValueError("it is no JSON object")
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{file} is damaged ({error}). Fetch or make that checkpoint anew.") from error
        try:
            return cls._from_fields(raw)
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:  # values of a wrong type, too
            raise ConfigError(
                f"{file} does not describe a Qwen3-VL model that this project runs: {error}. Give another checkpoint."
            ) from error

    @classmethod
    def _from_fields(cls, raw: dict[str, Any]) -> Qwen3VLConfig:
        model_type = raw.get("model_type", "qwen3_vl")
        if model_type not in ("qwen3_vl", "qwen3_vl_moe"):
            raise ValueError(f"model_type={model_type!r} is not a Qwen3-VL model (expected qwen3_vl or qwen3_vl_moe)")
        moe = model_type == "qwen3_vl_moe"
        text_raw, vision_raw = dict(raw.pop("text_config", {})), dict(raw.pop("vision_config", {}))
        # transformers ties by the outer flag alone; the inner one only matters where the outer is absent
        tie = raw.pop("tie_word_embeddings", text_raw.get("tie_word_embeddings", False))
        text_raw["tie_word_embeddings"] = tie
        ids = {
            name: raw.pop(name)
            for name in ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
            if name in raw
        }
        _refuse_unknown("", raw)
        return cls(text=_text_from_hf(text_raw, moe), vision=_vision_from_hf(vision_raw), **ids)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` of this model, in a form that both hub-era and current transformers read alike."""
        moe = self.text.moe
        kind = "qwen3_vl_moe" if moe else "qwen3_vl"
        text = asdict(self.text)
        del text["norm_topk_prob"]  # always on in this family, and no field of its HF config
        if not moe:
            for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "router_aux_loss_coef"):
                del text[name]
        else:
            text |= {"decoder_sparse_step": 1, "mlp_only_layers": []}
        rope = {
            "rope_type": "default",
            "mrope_interleaved": True,
            "mrope_section": list(text.pop("mrope_section")),
            "rope_theta": text["rope_theta"],
        }
        text |= {
            "model_type": f"{kind}_text",
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rope_scaling": {key: value for key, value in rope.items() if key != "rope_theta"},
            "rope_parameters": rope,
        }
        vision = asdict(self.vision)
        del vision["rope_theta"]
        vision |= {
            "model_type": kind,
            "hidden_act": "gelu_pytorch_tanh",
            "deepstack_visual_indexes": list(self.vision.deepstack_visual_indexes),
        }
        if self.vision.rope_theta != 10_000.0:
            vision["rope_parameters"] = {"rope_type": "axial", "rope_theta": self.vision.rope_theta}
        return {
            "architectures": ["Qwen3VLMoeForConditionalGeneration" if moe else "Qwen3VLForConditionalGeneration"],
            "model_type": kind,
            "tie_word_embeddings": self.text.tie_word_embeddings,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "text_config": text,
            "vision_config": vision,
        }


def _refuse_unknown(section: str, left: Mapping[str, Any]) -> None:
    unknown = sorted(name for name in left if name not in _INERT)
    if unknown:
        raise ValueError(f"unknown field(s) in {section or 'config'}: {', '.join(unknown)}")


def _expect(section: str, raw: dict[str, Any], name: str, *allowed: Any) -> None:
    """Pop a field that may only hold values this implementation honours."""
    if name in raw and (value := raw.pop(name)) not in allowed:
        raise ValueError(f"{section}.{name}={value!r} is not supported (expected {' or '.join(map(repr, allowed))})")


def _take(section: str, raw: dict[str, Any], names: Mapping[str, type]) -> dict[str, Any]:
    taken = {}
    for name, kind in names.items():
        if (value := raw.pop(name, None)) is None:
            continue
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if (kind is bool) != isinstance(value, bool) or (kind is not bool and not number) or kind(value) != value:
            raise ValueError(f"{section}.{name}={value!r} is not a valid {kind.__name__}")
        taken[name] = kind(value)
    return taken


def _agree(section: str, field_name: str, values: list[Any]) -> Any:
    """The one value several spellings of a field give, or None if none is given."""
    given = [value for value in values if value is not None]
    if any(value != given[0] for value in given[1:]):
        raise ValueError(f"{section} gives contradictory values of {field_name}: {given}")
    return given[0] if given else None


def _text_from_hf(raw: dict[str, Any], moe: bool) -> TextConfig:
    section = "text_config"
    scaling, parameters = dict(raw.pop("rope_scaling", None) or {}), dict(raw.pop("rope_parameters", None) or {})
    theta = _agree(section, "rope_theta", [raw.pop("rope_theta", None), parameters.pop("rope_theta", None)])
    mrope = _agree(
        section, "mrope_section", [scaling.pop("mrope_section", None), parameters.pop("mrope_section", None)]
    )
    for name, rope in (("rope_scaling", scaling), ("rope_parameters", parameters)):
        where = f"{section}.{name}"
        _expect(where, rope, "type", "default", "mrope")
        _expect(where, rope, "rope_type", "default")
        _expect(where, rope, "mrope_interleaved", True)
        _expect(where, rope, "partial_rotary_factor", 1.0, None)
        _refuse_unknown(where, rope)
    _expect(section, raw, "hidden_act", "silu")
    _expect(section, raw, "attention_bias", False)
    _expect(section, raw, "attention_dropout", 0.0)
    _expect(section, raw, "use_sliding_window", False)
    _expect(section, raw, "sliding_window", None)
    _expect(section, raw, "decoder_sparse_step", 1)
    _expect(section, raw, "mlp_only_layers", [], None)
    _expect(section, raw, "norm_topk_prob", True)
    experts = _agree(section, "num_experts", [raw.pop("num_experts", None), raw.pop("num_local_experts", None)])
    if not moe and experts:
        raise ValueError(f"{section}.num_experts={experts} contradicts model_type qwen3_vl, which is dense")
    if experts is not None:
        raw["num_experts"] = experts
    layers = {name: int for name in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")}
    heads = {
        name: int for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings")
    }
    other = {"rms_norm_eps": float, "initializer_range": float, "tie_word_embeddings": bool}
    mixture = {name: int for name in ("num_experts", "num_experts_per_tok", "moe_intermediate_size")}
    values = _take(section, raw, layers | heads | other | mixture | {"router_aux_loss_coef": float})
    _refuse_unknown(section, raw)
    # transformers' own defaults of each family, for what a config.json leaves out
    defaults: dict[str, Any] = (
        dict(hidden_size=2048, intermediate_size=5632, num_hidden_layers=24, num_attention_heads=16)
        | dict(num_experts=60, num_experts_per_tok=4, moe_intermediate_size=1408)
        if moe
        else dict(hidden_size=4096, intermediate_size=22016, num_hidden_layers=32, num_attention_heads=32, head_dim=128)
    )
    values = defaults | {"max_position_embeddings": 128000} | values
    values.setdefault("num_key_value_heads", values["num_attention_heads"] if not moe else 16)
    values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    values["rope_theta"] = float(500_000.0 if theta is None else theta)
    values["mrope_section"] = tuple((24, 20, 20) if mrope is None else mrope)
    return TextConfig(**values)


def _vision_from_hf(raw: dict[str, Any]) -> VisionConfig:
    section = "vision_config"
    rope = dict(raw.pop("rope_parameters", None) or {})
    theta = rope.pop("rope_theta", 10_000.0)
    _expect(f"{section}.rope_parameters", rope, "rope_type", "axial")
    _refuse_unknown(f"{section}.rope_parameters", rope)
    _expect(section, raw, "hidden_act", "gelu_pytorch_tanh")
    if (heads := raw.pop("num_attention_heads", None)) is not None:
        raw["num_heads"] = _agree(section, "num_heads", [raw.get("num_heads"), heads])
    if (depth := raw.pop("num_hidden_layers", None)) is not None:
        raw["depth"] = _agree(section, "depth", [raw.get("depth"), depth])
    deepstack = tuple(raw.pop("deepstack_visual_indexes", (8, 16, 24)))
    names = [
        "depth",
        "hidden_size",
        "intermediate_size",
        "num_heads",
        "in_channels",
        "patch_size",
        "temporal_patch_size",
        "spatial_merge_size",
        "num_position_embeddings",
        "out_hidden_size",
    ]
    values = _take(section, raw, dict.fromkeys(names, int) | {"initializer_range": float})
    _refuse_unknown(section, raw)
    values.setdefault("out_hidden_size", 3584)
    return VisionConfig(deepstack_visual_indexes=deepstack, rope_theta=float(theta), **values)


_SMALL_TOWER = VisionConfig(depth=24, hidden_size=1024, intermediate_size=4096, deepstack_visual_indexes=(5, 11, 17))
_DENSE = TextConfig()


def _preset(text: TextConfig, tower: VisionConfig = VisionConfig()) -> Qwen3VLConfig:
    return Qwen3VLConfig(text=text, vision=replace(tower, out_hidden_size=text.hidden_size))


PRESETS: dict[str, Qwen3VLConfig] = {
    "2b": _preset(
        replace(
            _DENSE,
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=28,
            num_attention_heads=16,
            tie_word_embeddings=True,
        ),
        _SMALL_TOWER,
    ),
    "4b": _preset(replace(_DENSE, hidden_size=2560, intermediate_size=9728, tie_word_embeddings=True), _SMALL_TOWER),
    "8b": _preset(_DENSE),
    "32b": _preset(
        replace(_DENSE, hidden_size=5120, intermediate_size=25600, num_hidden_layers=64, num_attention_heads=64)
    ),
    "30b-a3b": _preset(
        replace(
            _DENSE,
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=48,
            num_key_value_heads=4,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=768,
        )
    ),
    "235b-a22b": _preset(
        replace(
            _DENSE,
            num_hidden_layers=94,
            num_attention_heads=64,
            num_key_value_heads=4,
            num_experts=128,
            num_experts_per_tok=8,
            moe_intermediate_size=1536,
        )
    ),
}
"""The published sizes, by the short name of their repository (Qwen/Qwen3-VL-<SIZE>-Instruct).

Their counts of parameters are the published ones to the last digit (`tests/models/test_presets.py`).
"""
