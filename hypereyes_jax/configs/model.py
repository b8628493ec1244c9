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

from hypereyes_jax.configs.hf_fields import GENERATION_IDS, read_fields
from hypereyes_jax.errors import UserError


class ConfigError(UserError, ValueError):
    """A `config.json` that is damaged or of a model this project does not run. The message names the file and why."""

    @classmethod
    def of_another_model(cls, where: str, why: object) -> ConfigError:
        return cls(
            f"{where} does not describe a Qwen3-VL model that this project runs: {why}. Give another checkpoint."
        )


def parse_config(data: bytes, where: str) -> dict[str, Any]:
    """The JSON object in a `config.json`, unread beyond that.

    Args:
      where: the file's place, for messages.

    Raises ConfigError if it is damaged, or holds a NaN or an infinity.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not a JSON number")

    try:
        raw = json.loads(data.decode("utf-8"), parse_constant=refuse)
        if not isinstance(raw, dict):
            raise ValueError("it is not a JSON object")
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is damaged ({error}). Download or make that checkpoint again.") from error
    return raw


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
    # What generation elsewhere starts, ends and pads with. The network is the same whatever they are.
    bos_token_id: int | None = field(default=None, compare=False)
    eos_token_id: int | tuple[int, ...] | None = field(default=None, compare=False)
    pad_token_id: int | None = field(default=None, compare=False)
    # Ids that no token of the tokenizer has: rows that fill the embedding up. They are never sampled.
    unused_token_ids: tuple[int, ...] = field(default=(), compare=False)

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
            text, vision, whole = read_fields(source)
            return cls(TextConfig(**text), VisionConfig(**vision), **whole)
        path = Path(source)
        file = path / "config.json" if path.is_dir() else path
        raw = parse_config(file.read_bytes(), str(file))
        try:
            return cls.from_hf(raw)
        except ValueError as error:
            raise ConfigError.of_another_model(str(file), error) from error

    def to_hf(self, dtype: str | None = None) -> dict[str, Any]:
        """The `config.json` of this model, in a form that both hub-era and current transformers read alike.

        Args:
          dtype: of the weights beside it, like "bfloat16"; transformers loads them in it.
        """
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
        dtype_field = {} if dtype is None else {"dtype": dtype}
        ids = {name: value for name in GENERATION_IDS if (value := getattr(self, name)) is not None}
        ids = {name: list(value) if isinstance(value, tuple) else value for name, value in ids.items()}
        text |= dtype_field | ids
        vision |= dtype_field
        return {
            "architectures": ["Qwen3VLMoeForConditionalGeneration" if moe else "Qwen3VLForConditionalGeneration"],
            "model_type": kind,
            **dtype_field,
            **ids,
            "tie_word_embeddings": self.text.tie_word_embeddings,
            "image_token_id": self.image_token_id,
            "video_token_id": self.video_token_id,
            "vision_start_token_id": self.vision_start_token_id,
            "vision_end_token_id": self.vision_end_token_id,
            "text_config": text,
            "vision_config": vision,
        }


_SMALL_TOWER = VisionConfig(depth=24, hidden_size=1024, intermediate_size=4096, deepstack_visual_indexes=(5, 11, 17))
_DENSE = TextConfig()


def _preset(text: TextConfig, tower: VisionConfig = VisionConfig()) -> Qwen3VLConfig:
    return Qwen3VLConfig(
        text=text,
        vision=replace(tower, out_hidden_size=text.hidden_size),
        bos_token_id=151643,
        eos_token_id=151645,
    )


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
