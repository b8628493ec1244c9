"""What an `adapter_config.json` of PEFT says, read by an allow-list.

A field is honoured, or known to change nothing once training is over, or it may only hold a value that switches it off.
A field of tomorrow is of the last kind: an adapter that is silently read as a plain LoRA computes something else.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

# Those read below, and those that change nothing. Settings of a way to start the factors (CorDA, EVA, LoftQ, LoRA-GA)
# play no part unless `init_lora_weights`, which is looked at, names it.
_INERT = frozenset(
    "alpha_pattern auto_mapping base_model_name_or_path corda_config ensure_weight_tying eva_config exclude_modules "
    "inference_mode layers_pattern layers_to_transform loftq_config lora_alpha lora_dropout lora_ga_config "
    "megatron_core peft_type peft_version qalora_group_size r rank_pattern revision runtime_config target_modules "
    "target_parameters task_type use_rslora".split()
)
# Those that only start the factors; the others change the base model when the adapter is loaded.
_INITS = (True, False, None, "gaussian", "orthogonal", "eva")
_ALL_LINEAR = "all-linear"
_MAX_RANK = 1 << 16
MERGE = "Merge it into its base in PEFT (merge_and_unload), save that model and give it without an adapter"
_MAX_REPEATS = 3  # of one pattern; PEFT puts one more in front


class AdapterError(ValueError):
    """An adapter that this project does not load. The message names the field or tensor and why."""


@dataclass(frozen=True)
class PeftConfig:
    """Rank and scale of each adapted map."""

    rank: int
    alpha: float
    dropout: float
    root: bool  # rank-stabilised (arXiv 2312.03732): alpha / sqrt(rank)
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    target_parameters: tuple[str, ...]
    target_modules: tuple[str, ...] | str | None
    exclude_modules: tuple[str, ...] | str | None
    layers_to_transform: tuple[int, ...]
    layers_pattern: tuple[str, ...]

    def rank_of(self, target: str) -> tuple[int, str]:
        """(rank of a map, what in the config gives it).

        Args:
          target: name of the module, or of the parameter where that is what is targeted.
        """
        pattern = _pattern(self.rank_pattern, target)
        return (self.rank, "r") if pattern is None else (self.rank_pattern[pattern], f"rank_pattern {pattern!r}")

    def alpha_of(self, target: str, rank: int) -> float:
        """The alpha of a map whose scale is alpha / rank."""
        pattern = _pattern(self.alpha_pattern, target)
        alpha = self.alpha if pattern is None else self.alpha_pattern[pattern]
        return alpha * math.sqrt(rank) if self.root else alpha

    def pattern_of_none(self, targets: Collection[str]) -> str | None:
        """The first pattern of rank or alpha that matches none of the targets; None if each matches one."""
        patterns = (*self.rank_pattern, *self.alpha_pattern)
        return next(
            (pattern for pattern in patterns if not any(re.match(_whole(pattern), each) for each in targets)), None
        )

    def targets(self, parameter: str) -> bool:
        """Whether a parameter (not a module) is adapted."""
        return _ends_with_one_of(self.target_parameters, parameter)

    def leaves_out(self, module: str) -> str | None:
        """The field by which PEFT leaves a module out, whatever tensors there are for it; None if it adapts it."""
        if self.exclude_modules and _chosen(self.exclude_modules, module):
            return "exclude_modules"
        if self.target_modules is None:
            return "target_modules" if self.target_parameters else None
        if not _chosen(self.target_modules, module, unknown=True):
            return "target_modules"
        if isinstance(self.target_modules, str) or not self.layers_to_transform:
            return None
        if module in self.target_modules:  # its whole name, which holds in any layer
            return None
        patterns = [_numbered(pattern) for pattern in self.layers_pattern] or [r".*?\.[^.]*\.(?P<idx>\d+)\."]
        match = next(filter(None, (re.match(pattern, module) for pattern in patterns)), None)
        if match is None or int(match["idx"]) not in self.layers_to_transform:
            return "layers_to_transform"
        return None


def read_adapter_config(data: bytes) -> PeftConfig:
    """Parse an `adapter_config.json`. Raises AdapterError naming the field that can't be honoured."""
    try:
        raw = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"it is damaged ({error})") from error
    if not isinstance(raw, dict):
        raise AdapterError("it is damaged (it holds no JSON object)")
    if raw.get("peft_type") != "LORA":
        raise AdapterError(f"peft_type={raw.get('peft_type')!r} is not supported (expected 'LORA'). {MERGE}")
    for name, value in raw.items():
        if name == "init_lora_weights":
            if value not in _INITS:
                raise AdapterError(
                    f"init_lora_weights={value!r} is not supported: loading such an adapter changes the base. Save "
                    "it with path_initial_model_for_weight_conversion, which makes a plain LoRA of it"
                )
        elif name == "bias":
            if value not in ("none", None):
                raise AdapterError(f"bias={value!r} is not supported (expected 'none'). {MERGE}")
        # PEFT reads an empty object as a variant's settings with their defaults, not as none
        elif name not in _INERT and (value or value == {}):
            # what is adapted from some token on is no change of weights
            cure = "" if name == "alora_invocation_tokens" else f". {MERGE}"
            raise AdapterError(f"{name}={value!r} is not supported{cure}")
    layers = raw.get("layers_to_transform")
    layers = [layers] if type(layers) is int else layers or []
    if not isinstance(layers, list) or any(type(layer) is not int for layer in layers):
        raise AdapterError(f"layers_to_transform={layers!r} is not a list of numbers")
    layers_pattern = raw.get("layers_pattern") or []
    layers_pattern = _names("layers_pattern", [layers_pattern] if isinstance(layers_pattern, str) else layers_pattern)
    for pattern in layers_pattern:
        _check_pattern("layers_pattern", pattern, _numbered(pattern))
    root = raw.get("use_rslora") or False
    if not isinstance(root, bool):
        raise AdapterError(f"use_rslora={root!r} is not a valid bool")
    dropout = _number("lora_dropout", raw.get("lora_dropout", 0.0))
    if not 0 <= dropout < 1:
        raise AdapterError(f"lora_dropout={dropout!r} is not in [0, 1)")
    return PeftConfig(
        rank=_rank("r", raw.get("r")),
        alpha=_alpha("lora_alpha", raw.get("lora_alpha")),
        dropout=dropout,
        root=root,
        rank_pattern={key: _rank(f"rank_pattern {key!r}", value) for key, value in _patterns(raw, "rank_pattern")},
        alpha_pattern={key: _alpha(f"alpha_pattern {key!r}", value) for key, value in _patterns(raw, "alpha_pattern")},
        target_parameters=_names("target_parameters", raw.get("target_parameters") or []),
        target_modules=_modules("target_modules", raw.get("target_modules")),
        exclude_modules=_modules("exclude_modules", raw.get("exclude_modules")),
        layers_to_transform=tuple(layers),
        layers_pattern=layers_pattern,
    )


def _names(field: str, names: Any) -> tuple[str, ...]:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise AdapterError(f"{field}={names!r} is not a list of names")
    return tuple(names)


def _modules(field: str, value: Any) -> tuple[str, ...] | str | None:
    """A choice of modules: the ends of their names, or one expression for the whole name."""
    if value is None:
        return None
    if not isinstance(value, str):
        return _names(field, value)
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise AdapterError(f"{field} {value[:200]!r} is not a valid pattern ({error})") from error
    return value


def _chosen(choice: tuple[str, ...] | str, module: str, *, unknown: bool = False) -> bool:
    """Whether a choice has a module in it; `unknown` for an expression that might take for ever on a name."""
    if not isinstance(choice, str):
        return _ends_with_one_of(choice, module)
    if choice == _ALL_LINEAR:
        return True
    if _repeats_too_much(choice):
        return unknown
    return re.fullmatch(choice, module) is not None


def _ends_with_one_of(names: tuple[str, ...], name: str) -> bool:
    return any(name == each or name.endswith(f".{each}") for each in names)


def _pattern(patterns: Mapping[str, Any], module: str) -> str | None:
    """The first pattern that PEFT would match to a module's name."""
    return next((pattern for pattern in patterns if re.match(_whole(pattern), module)), None)


def _whole(pattern: str) -> str:
    """The expression that PEFT makes of a pattern."""
    return rf"(.*\.)?({pattern})$"


def _numbered(pattern: str) -> str:
    """The expression that PEFT makes of a pattern of what layers lie in, to read a layer's number."""
    return rf"(?:^|.*?\.){pattern}\.(?P<idx>\d+)\."


def _patterns(raw: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    patterns = raw.get(name) or {}
    if not isinstance(patterns, dict):
        raise AdapterError(f"{name}={patterns!r} is not an object")
    for pattern in patterns:
        _check_pattern(name, pattern, _whole(pattern))
    return list(patterns.items())


def _check_pattern(field: str, pattern: str, expression: str) -> None:
    """Raises AdapterError for a pattern of which PEFT can't make an `expression`, or that might take for ever."""
    try:
        re.compile(expression)
    except (re.error, RecursionError, OverflowError) as error:
        raise AdapterError(f"{field} {pattern[:200]!r} is not a valid pattern ({error})") from error
    if _repeats_too_much(pattern):
        raise AdapterError(
            f"{field} {pattern[:200]!r} repeats too much: give names, or a pattern with at most {_MAX_REPEATS} "
            "repeats and none of a group"
        )


def _repeats_too_much(pattern: str) -> bool:
    """Whether a stranger's pattern might take for ever: repeats of repeats take exponential time, many nearly so."""
    return bool(
        len(pattern) > 500 or re.search(r"\)[*+{]", pattern) or len(re.findall(r"[*+{]", pattern)) > _MAX_REPEATS
    )


def _number(name: str, value: Any) -> float:
    number = math.inf
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # an integer beyond float64, which may be too long to print
            number = float(value)
    if not math.isfinite(number):
        text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "an integer beyond any size"
        raise AdapterError(f"{name}={text} is not a valid number")
    return number


def _rank(name: str, value: Any) -> int:
    rank = _number(name, value)
    if rank != int(rank) or not 1 <= rank <= _MAX_RANK:
        raise AdapterError(f"{name}={value!r} is not a whole number in 1..{_MAX_RANK}")
    return int(rank)


def _alpha(name: str, value: Any) -> float:
    alpha = _number(name, value)
    if alpha <= 0:
        raise AdapterError(f"{name}={value!r} is not positive")
    return alpha
