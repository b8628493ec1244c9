"""The weights that a run had trained at one of its checkpoints, as a model that can be written or played."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json_object
from hypereyes_jax.learner.checkpoint import read_trainable
from hypereyes_jax.models.companions import Pixels
from hypereyes_jax.models.lora import Lora, LoraConfig, LoraRule, merge
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.models.qwen3_vl.weights import map_weights, weights

_CHECKPOINTS = {"sft": "sft-checkpoints", "rl": "rl-checkpoints"}


@dataclass(frozen=True)
class RunWeights:
    """A run's model at one of its checkpoints."""

    step: int
    base: str  # the checkpoint that the run started from
    config: Qwen3VLConfig
    params: Params  # adapters merged
    dtype: str  # that the run computed in, and writes its model in
    pixels: Pixels


def run_weights(run: Path, step: int | None = None) -> RunWeights:
    """The model of a run of `hypereyes sft` or `rl` at the checkpoint of `step`; by default at the newest.

    The run is only read, and may go on meanwhile.

    Raises UserError if there is no such run or checkpoint, or if it is damaged.
    """
    record = read_json_object(run / "config.json")
    command, settings = record.get("command"), record.get("config")
    if command not in _CHECKPOINTS or not isinstance(settings, dict):
        models = " or ".join(f"--checkpoint {model.parent}" for model in sorted(run.glob("*-model/config.json")))
        cure = f" It holds models, though: give {models}." if models else ""
        raise UserError(
            f"{run} is not a run of `hypereyes sft` or `hypereyes rl`: its config.json says {command!r}.{cure}"
        )
    base = _setting(run, settings, "checkpoint", str)
    train = _setting(run, settings, "sizes.learner.train", str)
    dtype = _setting(run, settings, "sizes.learner.compute_dtype", str)
    pixels = tuple(_setting(run, settings, f"sizes.{name}", int) for name in ("min_pixels", "max_pixels"))
    number, trainable = read_trainable(run / _CHECKPOINTS[command], step)
    config, params, _ = load_model(base, dtype)
    if train == "lora":
        alpha = float(_setting(run, settings, "settings.lora_alpha", (int, float)))
        params = merge(params, _adapters(trainable["weights"], alpha))
    else:
        whole = {**params, **trainable}
        params = map_weights(
            lambda path, weight, leaf: _check_leaf(run, path, weight.shape, leaf, dtype), weights(config), whole
        )
    return RunWeights(number, base, config, params, dtype, (pixels[0], pixels[1]))


def _adapters(tree: dict[str, Any], alpha: float) -> Lora:
    """Factors as they were saved, with the rank that each has."""
    rules: list[LoraRule] = []

    def walk(node: dict[str, Any], path: str) -> dict[str, Any]:
        if set(node) == {"a", "b"}:
            rules.append(LoraRule(re.escape(path), node["a"].shape[-1], alpha))
            return {name: jnp.asarray(factor) for name, factor in node.items()}
        return {name: walk(child, f"{path}/{name}".strip("/")) for name, child in node.items()}

    return Lora(walk(tree, ""), LoraConfig(tuple(rules)))


def _check_leaf(run: Path, path: str, shape: tuple[int, ...], leaf: Any, dtype: str) -> jax.Array:
    if leaf.shape != shape:
        raise UserError(
            f"{run} trained {path} of shape {leaf.shape}, but its base model has {shape} now. Put the model that the "
            "run started from back in its place."
        )
    return jnp.asarray(leaf, dtype)


def _setting(run: Path, settings: dict[str, Any], name: str, kind: Any) -> Any:
    """A setting by its dotted name. Raises UserError if the run's file does not hold it."""
    value: Any = settings
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if not isinstance(value, kind):
        raise UserError(f"{run / 'config.json'} does not say {name}. Is this the directory of a finished run?")
    return value
