"""Shape and dtype checks for the first line of a public function."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

Kind = Literal["float", "int", "mask", "real"]

_KINDS: dict[str, tuple[tuple[Any, ...], str]] = {
    "float": ((jnp.floating,), "a floating dtype"),
    "int": ((jnp.integer,), "an integer dtype"),
    "mask": ((jnp.bool_, jnp.integer, jnp.floating), "a boolean (or 0/1) dtype"),
    "real": ((jnp.bool_, jnp.integer, jnp.floating), "a real dtype"),
}


def check_arrays(function: str, /, **arguments: tuple[Any, str, Kind]) -> list[Any]:
    """Checks arrays against axis letters and returns them:
    `(logp,) = check_arrays("f", logp_BT=(logp_BT, "BT", "float"))`.

    Each letter is one axis, and a letter has one size over all arguments. A leading `*` stands for any number of batch
    axes, the same in every argument that has it. None (an optional argument left out) passes unchecked. Works on
    concrete and traced arrays; nothing of the check remains in the compiled program.

    Returns:
      The arguments in order as jax arrays: masks as bool, floating and real ones in at least float32, integers as they
        are.

    Raises:
      ValueError: a rank or size is wrong.
      TypeError: a dtype is wrong.
    """
    sizes: dict[str, tuple[str, Any]] = {}
    result: list[Any] = []
    for name, (value, axes, kind) in arguments.items():
        if value is None:
            result.append(None)
            continue
        array = np.asarray(value) if isinstance(value, list | tuple) else value
        dtype, shape = jnp.result_type(array), jnp.shape(array)
        kinds, description = _KINDS[kind]
        if not any(jnp.issubdtype(dtype, base) for base in kinds):
            raise TypeError(f"{function}: {name} must have {description}, got {dtype}.")
        _check_shape(function, name, shape, axes, sizes)
        if kind == "mask":
            dtype = jnp.dtype(bool)
        elif kind in ("float", "real"):
            dtype = jnp.promote_types(dtype, jnp.float32)
        result.append(jnp.asarray(array, dtype))
    return result


def _check_shape(
    function: str, name: str, shape: tuple[int, ...], axes: str, first_sizes: dict[str, tuple[str, Any]]
) -> None:
    batched = axes.startswith("*")
    letters = axes.removeprefix("*")
    lead = len(shape) - len(letters)
    if lead < 0 or (lead > 0 and not batched):
        form = ", ".join(["..."] * batched + list(letters))
        raise ValueError(f"{function}: {name} must have axes [{form}], got shape {tuple(shape)}.")
    sizes: dict[str, Any] = dict(zip(letters, shape[lead:], strict=True))
    if batched:
        sizes["*"] = tuple(shape[:lead])
    for letter, size in sizes.items():
        other, expected = first_sizes.setdefault(letter, (name, size))
        if size != expected:
            axis = "leading axes" if letter == "*" else f"axis {letter}"
            raise ValueError(
                f"{function}: {axis} of {name} {tuple(shape)} must be {expected} as in {other}, got {size}."
            )
