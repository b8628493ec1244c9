"""Qwen3-VL (arXiv 2511.21631), dense and mixture of experts, as pure functions on nested dicts."""

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.qwen3_vl.checkpoint import load_hf
from hypereyes_jax.models.qwen3_vl.checkpoint_writer import save_hf
from hypereyes_jax.models.qwen3_vl.kernels import Kernels
from hypereyes_jax.models.qwen3_vl.model import (
    decode,
    forward,
    hidden_states,
    hidden_states_and_load,
    lm_head,
)
from hypereyes_jax.models.qwen3_vl.modules import Decoder, Qwen3VL, VisionTower
from hypereyes_jax.models.qwen3_vl.moe import RouterLoad, load_balancing_loss
from hypereyes_jax.models.qwen3_vl.vision import VisualFeatures, encode_images
from hypereyes_jax.models.qwen3_vl.weights import Params, init_params, weights

__all__ = [
    "Decoder",
    "Kernels",
    "Params",
    "Qwen3VL",
    "Qwen3VLConfig",
    "RouterLoad",
    "VisionTower",
    "VisualFeatures",
    "decode",
    "encode_images",
    "forward",
    "hidden_states",
    "hidden_states_and_load",
    "init_params",
    "lm_head",
    "load_balancing_loss",
    "load_hf",
    "save_hf",
    "weights",
]
