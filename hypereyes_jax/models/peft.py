"""LoRA adapters as PEFT directories (`adapter_config.json` + `adapter_model.safetensors`), in and out.

PEFT, vLLM and SGLang load what is written here onto the HF model. A linear map's factors are `lora_A` [rank, in] and
`lora_B` [out, rank]. Experts are parameters, not modules, and PEFT stacks theirs: `lora_A` [experts * rank, in] counts
experts first, `lora_B` [out, rank * experts] ranks first.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.files import read_json
from hypereyes_jax.models.lora import Lora, LoraConfig, LoraRule, adapted_weights
from hypereyes_jax.models.qwen3_vl.weights import Weight

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def save_peft(path: str | os.PathLike, config: Qwen3VLConfig, lora: Lora, *, base_model: str | None = None) -> None:
    """Write adapters as a PEFT directory.

    Args:
      base_model: name or path of the weights they belong to, for loaders that look it up.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    found = adapted_weights(config, lora.config)
    tensors = {}
    for name, weight, _, layer in _places(found):
        adapter = _leaf(lora, name)
        a, b = (np.asarray(adapter[key][layer], np.float32) for key in ("a", "b"))
        prefix = _prefix(name, weight, layer, found)
        # contiguous: safetensors writes an array's buffer as it lies
        tensors[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(_swap(a).reshape(-1, a.shape[-2]))
        tensors[f"{prefix}.lora_B.weight"] = np.ascontiguousarray(_b_to_peft(b))
    partial = path / f"{_WEIGHTS}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(path / _WEIGHTS)
    (path / _CONFIG).write_text(json.dumps(_peft_config(found, lora.config, base_model), indent=2) + "\n")


def load_peft(path: str | os.PathLike, config: Qwen3VLConfig) -> Lora:
    """Read a PEFT directory that `save_peft` or PEFT wrote for this model.

    Raises ValueError for a variant of LoRA this does not implement, and for missing, surplus or misshapen tensors.
    """
    path = Path(path)
    raw = read_json(path / _CONFIG)
    for name in ("use_dora", "use_rslora", "lora_bias", "fan_in_fan_out", "modules_to_save", "layers_to_transform"):
        if raw.get(name):
            raise ValueError(f"{path / _CONFIG}: {name}={raw[name]!r} is not supported")
    if raw.get("peft_type") != "LORA" or raw.get("bias", "none") != "none":
        raise ValueError(f"{path / _CONFIG} is not a plain LoRA adapter")
    try:
        tensors = load_file(path / _WEIGHTS)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path / _WEIGHTS} can't be read ({error}). Fetch or make the adapter anew.") from error
    lora_config = LoraConfig(tuple(_rules(config, raw, set(tensors), path)), raw.get("lora_dropout", 0.0))
    found = adapted_weights(config, lora_config)
    tree: dict = {}
    for name, weight, rule, layer in _places(found):
        *parents, key = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        experts = weight.shape[1] if weight.axes[1] == "expert" else 1
        prefix = _prefix(name, weight, layer, found)
        try:
            a, b = (np.asarray(tensors.pop(f"{prefix}.lora_{factor}.weight"), np.float32) for factor in "AB")
        except KeyError as error:
            raise ValueError(f"{path / _WEIGHTS} lacks {error.args[0]}") from None
        lead = 2 if experts > 1 else 1
        fan_in, fan_out = weight.shape[lead], math.prod(weight.shape[lead + 1 :])
        if a.shape != (experts * rule.rank, fan_in) or b.shape != (fan_out, experts * rule.rank):
            raise ValueError(
                f"{prefix}: factors of shapes {a.shape} and {b.shape}, expected {(experts * rule.rank, fan_in)} "
                f"and {(fan_out, experts * rule.rank)}"
            )
        a = _swap(a.reshape(experts, rule.rank, fan_in))
        b = b.reshape(fan_out, rule.rank, experts).transpose(2, 1, 0)
        leaf = node.setdefault(key, {"a": [], "b": []})
        leaf["a"].append(a if experts > 1 else a[0])
        leaf["b"].append(b if experts > 1 else b[0])
    if tensors:
        raise ValueError(f"{path / _WEIGHTS} has surplus tensors: {', '.join(sorted(tensors))}")

    def stack(node: dict) -> dict:
        if isinstance(node.get("a"), list):
            return {factor: jnp.asarray(np.stack(layers)) for factor, layers in node.items()}
        return {key: stack(child) for key, child in node.items()}

    return Lora(stack(tree), lora_config)


Found = dict[str, tuple[Weight, LoraRule]]


def _places(found: Found) -> Iterator[tuple[str, Weight, LoraRule, int]]:
    for name, (weight, rule) in found.items():
        for layer in range(weight.shape[0]):
            yield name, weight, rule, layer


def _leaf(lora: Lora, name: str) -> dict:
    node = lora.weights
    for key in name.split("/"):
        node = node[key]
    return node


def _swap(a: np.ndarray) -> np.ndarray:
    return a.swapaxes(-1, -2)


def _b_to_peft(b: np.ndarray) -> np.ndarray:
    """[rank, out] or [experts, rank, out] to [out, rank * experts], the rank counting slower."""
    return b.T if b.ndim == 2 else b.transpose(2, 1, 0).reshape(b.shape[2], -1)


def _prefix(name: str, weight: Weight, layer: int, found: Found) -> str:
    module = weight.hf.format(i=layer)
    if weight.axes[1] != "expert":
        return f"base_model.model.{module.removesuffix('.weight')}"
    # PEFT wraps the module once for each adapted parameter, in the order the module defines them: the wrapper of the
    # first ends up inside the second's.
    inner = name == "layers/expert_gate_up" and "layers/expert_down" in found
    return f"base_model.model.{module.rsplit('.', 1)[0]}{'.base_layer' if inner else ''}"


def _module_names(found: Found, *, experts: bool) -> list[str]:
    """Suffixes that pick the adapted modules (or, of experts, parameters) and no others."""
    names = []
    for weight, _ in found.values():
        if (weight.axes[1] == "expert") != experts:
            continue
        if weight.hf.startswith("model.visual"):  # its names are not unique as suffixes: the mergers share some
            names += [hf.removesuffix(".weight") for hf in weight.hf_names()]
        else:
            names.append(weight.hf.split("{i}.")[1].removesuffix(".weight"))
    return sorted(names)


def _peft_config(found: Found, lora_config: LoraConfig, base_model: str | None) -> dict:
    first = next(iter(found.values()))[1]
    modules, parameters = _module_names(found, experts=False), _module_names(found, experts=True)
    ranks, alphas = {}, {}
    for weight, rule in found.values():
        pattern = re.escape(weight.hf.removesuffix(".weight")).replace(r"\{i\}", r"\d+")
        if rule.rank != first.rank:
            ranks[pattern] = rule.rank
        if rule.alpha != first.alpha:
            alphas[pattern] = rule.alpha
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_model,
        "r": first.rank,
        "lora_alpha": first.alpha,
        # PEFT refuses dropout on parameters; it plays no part once training is over
        "lora_dropout": 0.0 if parameters else lora_config.dropout,
        "bias": "none",
        "inference_mode": True,
        "target_modules": modules or None,
        "target_parameters": parameters or None,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
    }


def _rules(config: Qwen3VLConfig, raw: dict, names: set[str], path: Path) -> Iterator[LoraRule]:
    """One rule for each weight that the file has factors for, with the rank and alpha its config gives it."""
    everything = adapted_weights(config, LoraConfig((LoraRule("layers/.*"), LoraRule("vision/.*"))))
    experts = {name for name, (weight, _) in everything.items() if weight.axes[1] == "expert"}
    parameters = raw.get("target_parameters") or []
    chosen = {
        name: weight
        for name, (weight, _) in everything.items()
        if (
            any(weight.hf.endswith(parameter) for parameter in parameters)
            if name in experts
            else f"{_prefix(name, weight, 0, {})}.lora_A.weight" in names
        )
    }
    if not chosen:
        raise ValueError(f"{path / _WEIGHTS} has no adapter for any linear map of this model")

    def of(pattern_field: str, weight: Weight, default: float) -> float:
        module = weight.hf.format(i=0).removesuffix(".weight")
        for pattern, value in (raw.get(pattern_field) or {}).items():
            if re.search(rf"(.*\.)?({pattern})$", module):
                return value
        return default

    for name, weight in chosen.items():
        yield LoraRule(
            re.escape(name), int(of("rank_pattern", weight, raw["r"])), of("alpha_pattern", weight, raw["lora_alpha"])
        )
