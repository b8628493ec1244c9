"""Numbers that no setting can have, refused by the option's name before anything is read or written."""

from __future__ import annotations

import math
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any

from hypereyes_jax.errors import UserError

# Counts of which there must be some. Others may be 0, which mostly leaves something out.
_AT_LEAST_ONE = frozenset(
    "attempts batch checkpoint_every context group in_flight lora_rank max_new_tokens max_turns prompts samples "
    "shard_rows slots steps turn_tokens".split()
)
_SHARES = frozenset(("b1", "b2", "dropout", "eval_top_p", "share", "top_p"))  # of a whole
_ANY_SIGN = frozenset(("seed", "seeds", "sampling_seed", "text_min_score"))
_OF_ANY_SIGN = "reward."  # penalties are negative
_UNNAMED = ("action.", "reading.")  # groups whose name is no part of their options'


def check_numbers(config: Any, prefix: str = "") -> None:
    """Raises UserError for the first number of the settings that is not finite, or negative, or no number of things."""
    for field in fields(config):
        value, name = getattr(config, field.name), prefix + field.name
        if is_dataclass(value):
            check_numbers(value, f"{name}.")
            continue
        for part in value if isinstance(value, tuple) else (value,):
            if isinstance(part, bool) or not isinstance(part, int | float):
                continue
            why = _wrong(field, part, name.startswith(_OF_ANY_SIGN))
            if why:
                option = next((name.removeprefix(group) for group in _UNNAMED if name.startswith(group)), name)
                raise UserError(f"--{option.replace('_', '-')} {why}, not {part}.")


def _wrong(field: Field[Any], value: int | float, any_sign: bool) -> str:
    """What is wrong with a number; "" where nothing is."""
    default = field.default if field.default is not MISSING else None
    if not math.isfinite(value):
        return "" if value == default else "must be a finite number"
    if field.name in _AT_LEAST_ONE:
        return "" if value >= 1 else "must be at least 1"
    if field.name in _SHARES:
        return "" if 0 <= value <= 1 else "must be from 0 to 1"
    if any_sign or field.name in _ANY_SIGN or (isinstance(default, int | float) and default < 0):
        return ""
    return "" if value >= 0 else "must be at least 0"
