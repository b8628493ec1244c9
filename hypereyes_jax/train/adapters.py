"""The adapters of a training: their rules from the settings, fresh ones, and what comes of trained ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.launch.global_arrays import fetch_whole
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.logins import without_login
from hypereyes_jax.models.lora import Lora, LoraConfig, LoraRule, init_lora, merge, save_peft
from hypereyes_jax.models.pretrained import save_model
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.models.sharding import lora_shardings, param_shardings
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.sizes import TrainingSizes


def adapter_rules(rank: int, alpha: float, dropout: float = 0.0) -> LoraConfig:
    """Adapters on every linear map of the decoder, experts included, as the paper's SFT has them."""
    return LoraConfig((LoraRule("layers/.*", rank, alpha),), dropout)


def fresh_adapters(model: Qwen3VLConfig, params: Params, rules: LoraConfig, processes: Processes) -> Lora:
    """Adapters that change nothing yet, in their places on the mesh: what an engine holds before the first step."""

    def make(params: Params) -> Lora:
        return init_lora(jax.random.key(0), params, model, rules)

    if processes.mesh is None:
        return make(params)
    where = lora_shardings(model, jax.eval_shape(make, params), processes.mesh)
    return jax.jit(make, out_shardings=where)(params)


def model_writer(
    model: Qwen3VLConfig, base: str, sizes: TrainingSizes, processes: Processes
) -> Callable[[Path, Params, Lora | None], None]:
    """Writes weights to a place as a model, with adapters merged into them. Every process must call what it returns.

    Args:
      base: the checkpoint that the training began with, whose companion files go along.
    """

    def write(out: Path, params: Params, adapters: Lora | None) -> None:
        if adapters is not None:
            where: Any = None if processes.mesh is None else param_shardings(model, processes.mesh)
            params = merge(params, adapters) if where is None else jax.jit(merge, out_shardings=where)(params, adapters)
        dtype, pixels = sizes.learner.compute_dtype, (sizes.min_pixels, sizes.max_pixels)
        save_model(out, model, params, base, dtype, pixels=pixels, write=processes.first)

    return write


def save_trained(
    directory: RunDirectory,
    model: Qwen3VLConfig,
    params: Params,
    adapters: Lora | None,
    base: str,
    sizes: TrainingSizes,
    processes: Processes,
) -> None:
    """Writes a training's weights to `model/`, and its adapters, which are merged there, to `adapter/`, too.

    Every process must call it.

    Args:
      params: as they were trained, or frozen beside the adapters.
      base: the checkpoint that the training began with, whose companion files go along.
    """
    out = directory.file("model")
    model_writer(model, base, sizes, processes)(out, params, adapters)
    paths: list[Path] = [out]
    if adapters is not None:
        whole = fetch_whole(processes.mesh, adapters)
        if processes.first:
            save_peft(directory.file("adapter"), model, whole, base_model=without_login(base))
            paths.append(directory.file("adapter"))
    if processes.first:
        print(f"wrote {' and '.join(map(str, paths))}")
