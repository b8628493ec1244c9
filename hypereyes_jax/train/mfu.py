"""MFU: model FLOPs utilisation, the share of a device's published peak that a step's useful work reaches."""

from __future__ import annotations

from hypereyes_jax.configs.mesh import DEVICES, DeviceKind
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.learner.step_batch import StepBatch
from hypereyes_jax.models.flops import useful_flops

_TPUS = {"TPU v5 lite": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}  # as jax names them


def step_flops(model: Qwen3VLConfig, batch: StepBatch, train: str) -> float:
    """FLOPs that the method asks for in an optimiser step, of all processes: of tokens and patches, not of padding.

    `train`: what trains, as in `LearnerConfig.train`.
    """
    return useful_flops(model, batch.tokens, batch.tokens // max(1, batch.samples), batch.patches, train)


def utilisation(flops: float, seconds: float, devices: int, peak: DeviceKind | None) -> dict[str, float]:
    """useful_tflops: TFLOP/s a device. mfu: its share of the published bfloat16 peak, of devices that have one."""
    tflops = flops / seconds / devices / 1e12
    return {"useful_tflops": tflops} | ({} if peak is None else {"mfu": tflops / peak.bf16_tflops})


def published(device_kind: str) -> DeviceKind | None:
    """Figures of a device by the name that jax gives its kind; None if they are not known."""
    words = device_kind.lower().replace("-", " ").split()
    names = [_TPUS[device_kind]] if device_kind in _TPUS else [word for word in words if word in DEVICES]
    return DEVICES[names[0]] if names else None
