"""A model's parameters and adapters on a mesh, by the table of `models.partition`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.rollout import WeightsKind
from hypereyes_jax.models.lora import Lora
from hypereyes_jax.models.partition import RULES, ShardingError, spec
from hypereyes_jax.models.quantized import Quantized
from hypereyes_jax.models.qwen3_vl.weights import Weight, is_kept_in_int8, map_weights, weights


def make_mesh(config: MeshConfig, devices: Any = None) -> Mesh:
    """The mesh of a preset over `devices` (default: all of this run's). Every axis is Auto.

    Devices of a host stay together, so that each host holds whole, consecutive data shards, and the inner axes lie on
    neighbours: see `neighbours`.

    Raises ShardingError if there are not exactly as many devices as the preset has.
    """
    devices = list(jax.devices() if devices is None else devices)
    if len(devices) != config.size:
        raise ShardingError(f"mesh {config.name} needs {config.size} devices, but there are {len(devices)}")
    grid = np.array(neighbours(devices)).reshape(config.shape)
    return Mesh(grid, config.axes, axis_types=(AxisType.Auto,) * len(config.axes))


def neighbours(devices: Any) -> list[Any]:
    """Devices in an order in which any 2, 4, 8, ... from a multiple of that number on lie close together.

    TPUs are ordered by their place in the slice: first a host's own, then blocks of hosts that double along one side
    after the other, as slices themselves do (2x2x1, 2x2x2, 2x2x4, 2x4x4, 4x4x4, ...). Slices come one after the other.
    Other devices keep their order, which is that of hosts.
    """
    devices = list(devices)
    if devices[0].platform != "tpu":
        return devices
    places = np.array([device.coords for device in devices])
    host = np.array([device.coords for device in devices if device.process_index == devices[0].process_index])
    own = host.max(0) - host.min(0) + 1
    block, doublings = own.copy(), []
    while (block < places.max(0) + 1).any():
        # the shortest side that the slice still exceeds, the last of equals
        axis = max(
            (axis for axis in range(len(block)) if block[axis] <= places[:, axis].max()),
            key=lambda axis: (-block[axis], axis),
        )
        doublings.append((axis, int(block[axis])))
        block[axis] *= 2

    def place(device: Any) -> tuple[int, ...]:
        coords = device.coords
        halves = [coords[axis] // size % 2 for axis, size in reversed(doublings)]
        within = [coords[axis] % own[axis] for axis in reversed(range(len(own)))]
        return (getattr(device, "slice_index", None) or 0, *halves, *within, device.core_on_chip)

    return sorted(devices, key=place)


def check(config: Qwen3VLConfig, mesh: Mesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> None:
    """Raises ShardingError, naming parameter and sizes, if the mesh does not divide the model evenly.

    Heads are counted whole: a head split over devices would move scores between them.
    """
    text, vision = config.text, config.vision
    whole = {"heads": text.head_dim, "kv_heads": text.head_dim, "vision_heads": vision.head_dim}

    def leaf(path: str, weight: Weight) -> None:
        for size, axis, place in zip(weight.shape, weight.axes, spec(path, weight.axes, mesh, rules), strict=True):
            names = (place,) if isinstance(place, str) else tuple(place or ())
            parts = int(np.prod([mesh.shape[name] for name in names]))
            units = size // whole.get(axis or "", 1)
            if units % parts:
                what = "heads" if axis in whole else "values"
                raise ShardingError(
                    f"{path}: its axis {axis!r} of {units} {what} does not divide into {parts} parts "
                    f"(mesh axis {' x '.join(names)} = {parts}): use a smaller one"
                )

    map_weights(leaf, weights(config))


def param_shardings(config: Qwen3VLConfig, mesh: Mesh, rules: Mapping[str, tuple[str, ...]] = RULES) -> dict[str, Any]:
    """A NamedSharding for each parameter, shaped like the parameter tree."""
    check(config, mesh, rules)
    return map_weights(lambda path, weight: NamedSharding(mesh, spec(path, weight.axes, mesh, rules)), weights(config))


def sampler_shardings(config: Qwen3VLConfig, mesh: Mesh, kind: WeightsKind) -> dict[str, Any]:
    """`param_shardings` of weights as a rollout engine keeps them: a scale lies where its output does."""
    if kind == "given":
        return param_shardings(config, mesh)
    check(config, mesh)

    def place(path: str, weight: Weight) -> Any:
        whole = NamedSharding(mesh, spec(path, weight.axes, mesh))
        if not is_kept_in_int8(path, weight):
            return whole
        axes = (*weight.axes[: weight.lead], None, *weight.axes[weight.lead + 1 :])
        return Quantized(whole, NamedSharding(mesh, spec(path, axes, mesh)))

    return map_weights(place, weights(config))


def lora_shardings(config: Qwen3VLConfig, lora: Lora, mesh: Mesh) -> Lora:
    """Shardings like those of the maps that adapters change: a [..., in, rank] by its input axis, b [..., rank, out]
    by its output axis."""
    table = weights(config)

    def walk(weight: Any, adapter: Any, path: str) -> Any:
        if not isinstance(weight, Weight):
            return {key: walk(weight[key], child, f"{path}/{key}".strip("/")) for key, child in adapter.items()}
        lead = weight.lead
        # expert_gate_up's output is two runs of `mlp` end to end: cutting it would not cut each of them
        out = weight.axes[-1] if len(weight.axes) == lead + 2 else None
        a, b = (*weight.axes[: lead + 1], "rank"), (*weight.axes[:lead], "rank", out)
        return {"a": NamedSharding(mesh, spec(path, a, mesh)), "b": NamedSharding(mesh, spec(path, b, mesh))}

    return Lora(walk(table, lora.weights, ""), lora.config)
