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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.models.adapters import Lora, LoraConfig, LoraRule
from hypereyes_jax.models.hub import locate
from hypereyes_jax.models.lora.peft_config import MERGE, AdapterError, PeftConfig, read_adapter_config
from hypereyes_jax.models.lora.weights import adapted_weights
from hypereyes_jax.models.qwen3_vl.weights import Weight
from hypereyes_jax.models.storage import LocalDirectory, open_directory
from hypereyes_jax.models.tensor_files import StoredTensor, all_finite, by_kind, read_header
from hypereyes_jax.models.tensor_names import usual_name

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_PREFIXES = re.compile(r"(?:module\.)*(?:_orig_mod\.)?(?:base_model\.model\.)+")
_ADAPTER_NAME = re.compile(r"(?<=\.lora_[AB])\.([^.]+)\.weight$")


def save_peft(
    path: str | os.PathLike[str], config: Qwen3VLConfig, lora: Lora, *, base_model: str | None = None
) -> None:
    """Write adapters as a PEFT directory.

    Args:
      base_model: name or path of the weights they belong to, for loaders that look it up.
    """
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    weights_by_path = adapted_weights(config, lora.config)
    tensors = {}
    for name, weight, _, layer in _places(weights_by_path):
        adapter = _leaf(lora, name)
        place = layer if weight.stacked else ...
        a, b = (np.asarray(adapter[key][place], np.float32) for key in ("a", "b"))
        inner = name == "layers/expert_gate_up" and "layers/expert_down" in weights_by_path
        prefix = _prefix(name, weight, layer, inner=inner)
        # contiguous: safetensors writes an array's buffer as it lies
        tensors[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(_swap(a).reshape(-1, a.shape[-2]))
        tensors[f"{prefix}.lora_B.weight"] = np.ascontiguousarray(_b_to_peft(b))
    partial = path / f"{_WEIGHTS}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(path / _WEIGHTS)
    (path / _CONFIG).write_text(json.dumps(_peft_config(weights_by_path, lora.config, base_model), indent=2) + "\n")


def load_peft(path: str | os.PathLike[str], config: Qwen3VLConfig) -> Lora:
    """Read a PEFT directory that `save_peft` or PEFT wrote for this model.

    Rank and alpha may differ by layer: a `Lora` has one of each for a map's layers, so a smaller rank is filled up with
    zeros, which no gradient reaches, and another scale is multiplied into `b`. A layer without factors gets zeros.

    Args:
      path: a local directory, a hub id or a URL.

    Raises AdapterError for a variant of LoRA this does not implement, and for missing, surplus or misshapen tensors;
    CheckpointError for a damaged file.
    """
    directory = open_directory(locate(path))
    for name in (_CONFIG, _WEIGHTS):
        if not directory.exists(name):
            cure = "Give the directory of an adapter that PEFT wrote"
            if directory.exists("adapter_model.bin"):
                cure = "Its adapter_model.bin is a pickle, which is never read: load it in PEFT and save it again"
            elif isinstance(directory, LocalDirectory) and (inner := sorted(directory.path.glob(f"*/{_CONFIG}"))):
                cure = f"It holds adapters in folders: give {', '.join(str(each.parent) for each in inner[:3])}"
            raise AdapterError(f"{directory} holds no {name}. {cure}.")
    try:
        adapter_config = read_adapter_config(directory.read_bytes(_CONFIG))
    except AdapterError as error:
        raise AdapterError(f"{directory}/{_CONFIG}: {error}.") from error
    written = dict(read_header(directory.file(_WEIGHTS), str(directory)))
    tensors = _usual(written, f"{directory}/{_WEIGHTS}")
    other_names = tensors.keys() != written.keys()
    targets = list[str]()
    factors: dict[str, dict[int, _Factors]] = {}
    everything = adapted_weights(config, LoraConfig((LoraRule(".*"),)))
    for name, (weight, _) in everything.items():
        for layer in range(_layers(weight)):
            layer_factors = _factors(tensors, adapter_config, name, weight, layer, f"{directory}/{_WEIGHTS}")
            if layer_factors is not None:
                factors.setdefault(name, {})[layer] = layer_factors
                parameter = weight.hf.format(i=layer)
                targets += [parameter, parameter.removesuffix(".weight")]
    if tensors:
        names_in_lines = "\n  ".join(by_kind((name, "surplus") for name in tensors))
        has = "has tensors that belong to no linear map of this model" if factors else "has no adapter for this model"
        cure = f". {MERGE}" if factors else ""  # those of another model belong to another base
        raise AdapterError(f"{directory}/{_WEIGHTS} {has}{cure}:\n  {names_in_lines}")
    if not factors:
        raise AdapterError(f"{directory}/{_WEIGHTS} holds no tensors.")
    if other_names and (pattern := adapter_config.pattern_of_none(targets)):
        raise AdapterError(
            f"{directory}/{_CONFIG} has the pattern {pattern[:200]!r}, which matches none of the maps as they are "
            f"named here, such as {targets[-1]}: write it for these names."
        )
    rules: list[LoraRule] = []
    tree: dict[str, Any] = {}
    for name, by_layer in factors.items():
        weight = everything[name][0]
        rule = _rule(name, by_layer)
        rules.append(rule)
        *parents, key = name.split("/")
        node: dict[str, Any] = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[key] = _stacked(weight, by_layer, rule)
    return Lora(tree, LoraConfig(tuple(rules), adapter_config.dropout))


def _usual(tensors: dict[str, StoredTensor], where: str) -> dict[str, StoredTensor]:
    """The tensors by the names that PEFT's `save_pretrained` gives them.

    A state dict that was saved as it is holds the adapter's name, and what wraps modules; some programs leave PEFT's
    own prefix out. Raises AdapterError for those of several adapters, and for two that come to one name.
    """
    adapters = sorted({match[1] for name in tensors if (match := _ADAPTER_NAME.search(name))})
    if len(adapters) > 1:
        raise AdapterError(
            f"{where} holds {len(adapters)} adapters, {', '.join(adapters)[:200]}: save the one that is meant alone "
            "(save_pretrained with selected_adapters)."
        )
    out, names = dict[str, StoredTensor](), dict[str, str]()
    for name, tensor in tensors.items():
        plain = _PREFIX + usual_name(_PREFIXES.sub("", _ADAPTER_NAME.sub(".weight", name)), whole=False)
        plain = plain if ".lora_" in plain else name
        if plain in out:
            both = f"{names[plain]} and {name}"
            raise AdapterError(f"{where} holds {both}, which are one tensor: save the adapter again.")
        out[plain], names[plain] = tensor, name
    return out


@dataclass(frozen=True)
class _Factors:
    """The adapter of one layer of a map."""

    a: np.ndarray  # float32 [(experts,) in, rank]
    b: np.ndarray  # float32 [(experts,) rank, out]
    alpha: float

    @property
    def rank(self) -> int:
        return self.a.shape[-1]

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


def _factors(
    tensors: dict[str, StoredTensor], adapter_config: PeftConfig, name: str, weight: Weight, layer: int, where: str
) -> _Factors | None:
    """The factors of one layer of a map, taken out of `stored`; None if it has none."""
    parameter = weight.hf.format(i=layer)
    module = parameter.removesuffix(".weight")
    experts = "expert" in weight.axes
    as_parameter = adapter_config.targets(parameter)  # patterns then see the parameter's name
    target = parameter if as_parameter else module
    if experts and not as_parameter:
        return None
    prefix = _prefix(name, weight, layer, inner=experts and _wrapped_by_another(name, weight, layer, adapter_config))
    names = [f"{prefix}.lora_{factor}.weight" for factor in "AB"]
    present = [name for name in names if name in tensors]
    if not present:
        return None
    if len(present) == 1:
        raise AdapterError(f"{where} has {present[0]}, but lacks {(set(names) - set(present)).pop()}.")
    if not as_parameter and (field := adapter_config.leaves_out(module)):
        raise AdapterError(
            f"{where} has {present[0]}, but {field} in {_CONFIG} leaves {module} out, so that PEFT would not use it. "
            "Correct the one that is wrong."
        )
    a, b = (tensors.pop(name) for name in names)
    rank, why = adapter_config.rank_of(target)
    count = weight.shape[weight.lead - 1] if experts else 1
    fan_in, fan_out = weight.shape[weight.lead], math.prod(weight.shape[weight.lead + 1 :])
    if a.shape != (count * rank, fan_in) or b.shape != (fan_out, count * rank):
        raise AdapterError(
            f"{where}: {prefix} has factors of shapes {a.shape} and {b.shape}, expected {(count * rank, fan_in)} and "
            f"{(fan_out, count * rank)} for the rank {rank} that {why} gives it."
        )
    values = [tensor.rows(0, tensor.shape[0]) for tensor in (a, b)]
    for key, each in zip(names, values, strict=True):
        if not all_finite(each):
            raise AdapterError(
                f"{where}: {key} holds NaN or infinity. The file is damaged, or the run that wrote it diverged: "
                "give another adapter, or an earlier step."
            )
    with np.errstate(over="ignore"):
        a_full, b_full = (each.astype(np.float32) for each in values)
    if not (all_finite(a_full) and all_finite(b_full)):
        raise AdapterError(f"{where}: {prefix} has numbers that float32 has not: give another adapter.")
    a_full = _swap(a_full.reshape(count, rank, fan_in))
    b_full = b_full.reshape(fan_out, rank, count).transpose(2, 1, 0)
    if not experts:
        a_full, b_full = a_full[0], b_full[0]
    return _Factors(a_full, b_full, adapter_config.alpha_of(target, rank))


def _wrapped_by_another(name: str, weight: Weight, layer: int, adapter_config: PeftConfig) -> bool:
    """Whether PEFT wrapped another parameter of the module after this one, see `_prefix`."""
    module = weight.hf.format(i=layer).rsplit(".", 1)[0]
    return name == "layers/expert_gate_up" and adapter_config.targets(f"{module}.down_proj")


def _rule(name: str, by_layer: dict[int, _Factors]) -> LoraRule:
    """One rank and alpha for all layers of a map: the largest rank, the scale of the first layer."""
    first = next(iter(by_layer.values()))
    rank = max(factors.rank for factors in by_layer.values())
    alpha = first.alpha if rank == first.rank else first.scale * rank
    return LoraRule(re.escape(name), rank, alpha)


def _stacked(weight: Weight, by_layer: dict[int, _Factors], rule: LoraRule) -> dict[str, jax.Array]:
    """All layers' factors as one leaf, in the rank and scale of the rule."""
    lead = weight.shape[: weight.lead]
    a = np.zeros((*lead, weight.shape[weight.lead], rule.rank), np.float32)
    b = np.zeros((*lead, rule.rank, math.prod(weight.shape[weight.lead + 1 :])), np.float32)
    for layer, factors in by_layer.items():
        place = layer if weight.stacked else ...
        ratio = factors.scale / rule.scale
        a[place][..., : factors.rank] = factors.a
        b[place][..., : factors.rank, :] = factors.b if ratio == 1 else factors.b * np.float32(ratio)
    return {"a": jnp.asarray(a), "b": jnp.asarray(b)}


AdaptedWeights = dict[str, tuple[Weight, LoraRule]]


def _places(weights_by_path: AdaptedWeights) -> Iterator[tuple[str, Weight, LoraRule, int]]:
    for name, (weight, rule) in weights_by_path.items():
        for layer in range(_layers(weight)):
            yield name, weight, rule, layer


def _layers(weight: Weight) -> int:
    return weight.shape[0] if weight.stacked else 1


def _leaf(lora: Lora, name: str) -> dict[str, Any]:
    node = lora.weights
    for key in name.split("/"):
        node = node[key]
    return node


def _swap(a: np.ndarray) -> np.ndarray:
    return a.swapaxes(-1, -2)


def _b_to_peft(b: np.ndarray) -> np.ndarray:
    """[rank, out] or [experts, rank, out] to [out, rank * experts], the rank counting slower."""
    return b.T if b.ndim == 2 else b.transpose(2, 1, 0).reshape(b.shape[2], -1)


def _prefix(name: str, weight: Weight, layer: int, *, inner: bool) -> str:
    """What the names of a map's factors begin with.

    PEFT wraps a module once for each adapted parameter, in the order the module defines them: the wrapper of the first
    ends up inside the second's, and is `inner`.
    """
    module = weight.hf.format(i=layer)
    if "expert" not in weight.axes:
        return f"{_PREFIX}{module.removesuffix('.weight')}"
    return f"{_PREFIX}{module.rsplit('.', 1)[0]}{'.base_layer' if inner else ''}"


def _module_names(weights_by_path: AdaptedWeights, *, experts: bool) -> list[str]:
    """Suffixes that pick the adapted modules (or, of experts, parameters) and no others."""
    names = []
    for weight, _ in weights_by_path.values():
        if ("expert" in weight.axes) != experts:
            continue
        if weight.hf.startswith("model.visual"):  # its names are not unique as suffixes: the mergers share some
            names += [hf.removesuffix(".weight") for hf in weight.hf_names()]
        else:
            names.append(weight.hf.split("{i}.")[1].removesuffix(".weight"))
    return sorted(names)


def _peft_config(weights_by_path: AdaptedWeights, lora_config: LoraConfig, base_model: str | None) -> dict[str, Any]:
    first = next(iter(weights_by_path.values()))[1]
    modules, parameters = _module_names(weights_by_path, experts=False), _module_names(weights_by_path, experts=True)
    ranks, alphas = {}, {}
    for weight, rule in weights_by_path.values():
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
