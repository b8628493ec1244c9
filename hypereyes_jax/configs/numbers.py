"""Numbers that no setting can have, refused by the setting's name before anything is read or written.

The commands check all their settings, and so does each function that a program of one's own hands settings to.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from numbers import Integral, Real
from typing import Any

from hypereyes_jax.errors import SettingError

# Counts of which there must be some. Others may be 0, which mostly leaves something out.
_AT_LEAST_ONE = frozenset(
    "attempts batch checkpoint_every group in_flight jobs lora_rank max_new_tokens max_steps max_turns prompts "
    "rl_candidates samples sft_questions shard_mib shard_rows shuffles slots steps test_questions turn_tokens".split()
)
_SHARES = frozenset(("min_p",))  # of a whole
_SHARES_BELOW_ONE = frozenset(("b1", "b2", "dropout"))  # what is left of the whole is divided by
_SHARES_ABOVE_ZERO = frozenset(("eval_top_p", "share", "top_p"))
_PORTS = frozenset(("port", "image_port"))
_ANY_SIGN = frozenset(("text_min_score",))
_OF_ANY_SIGN = "reward."  # penalties are negative
_UNNAMED = ("action.", "options.", "reading.")  # groups whose name is not part of their options'
_VARIABLE = re.compile(r"[A-Za-z_]\w*")
_MOST = 1 << 63  # what an array holds


def check_numbers(settings: Any, prefix: str = "", options: bool = False) -> None:
    """Raises SettingError for the first number of the settings that is not finite, or negative, or no number of things,
    and for a key that stands where the name of its environment variable belongs.

    Args:
      settings: a dataclass, other dataclasses in it included. A text of the kind NAME=NUMBER is such a number, too.
      prefix: what stands in front of the fields' names, like "settings.".
      options: the settings are named as the command line has them, like --settings.learning-rate.
    """
    for field in fields(settings):
        name = prefix + field.name
        default = field.default if field.default is not MISSING else None
        place = _option(name) if options else name
        any_sign = name.startswith(_OF_ANY_SIGN) or field.name in _ANY_SIGN
        for key, value in _parts(getattr(settings, field.name)):
            inside = f"{place} {key}".rstrip()
            if is_dataclass(value):
                check_numbers(value, f"{name}.", options)
            elif isinstance(value, str):
                if field.name == "key_env" and value and not _VARIABLE.fullmatch(value):  # it may be a key: not shown
                    raise SettingError(
                        f"{inside} must be the name of an environment variable that holds the key, and not the key "
                        "itself, which would be written down with the run."
                    )
                if (number := _number_of(value)) is not None and not math.isfinite(number):
                    raise SettingError(f"{inside} {value} must be a finite number.")
            elif _is_number(value) and (why := _wrong(field.name, value, default, any_sign)):
                raise SettingError(f"{inside} {why}, not {value}.")


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """(key, value) of each thing that a setting holds; a key is "" outside of a mapping."""
    if isinstance(value, Mapping):
        yield from ((str(key), part) for key, part in value.items())
    else:
        yield from (("", part) for part in (value if isinstance(value, tuple | list) else (value,)))


def _number_of(text: str) -> float | None:
    """The number of a text NAME=NUMBER; None for other texts."""
    name, _, number = text.partition("=")
    try:
        return float(number) if name.isidentifier() else None
    except ValueError:
        return None


def _option(name: str) -> str:
    bare = next((name.removeprefix(group) for group in _UNNAMED if name.startswith(group)), name)
    return f"--{bare.replace('_', '-')}"


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)  # numpy's numbers are such, too


def _wrong(name: str, value: Any, default: Any, any_sign: bool) -> str:
    """What is wrong with a number; "" where nothing is."""
    if not -_MOST <= value < _MOST:  # neither is NaN
        return "must be below 2^63" if isinstance(value, Integral) else "must be a finite number"
    if name in _AT_LEAST_ONE:
        return "" if value >= 1 else "must be at least 1"
    if name in _SHARES:
        return "" if 0 <= value <= 1 else "must be from 0 to 1"
    if name in _SHARES_BELOW_ONE:
        return "" if 0 <= value < 1 else "must be at least 0 and below 1"
    if name in _SHARES_ABOVE_ZERO:
        return "" if 0 < value <= 1 else "must lie above 0 and be at most 1"
    if name in _PORTS:
        return "" if 0 <= value < 1 << 16 else "must be from 0 to 65535"
    if name == "context":  # a token that is read, and one that is sampled
        return "" if value >= 2 else "must be at least 2"
    if any_sign or (_is_number(default) and default < 0):
        return ""
    return "" if value >= 0 else "must be at least 0"
