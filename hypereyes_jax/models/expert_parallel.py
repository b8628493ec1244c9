"""Experts shared out over a mesh: each device holds some, and computes them for the tokens of its expert group.

Tokens are gathered over the `expert` axis, each device adds what its own experts give, and the sums are scattered back.
The weights' `embed` axis is gathered over `fsdp` for the layer, as for every other matmul.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from hypereyes_jax.models.partition import EXPERT, ambient, axis_size, dividing, local
from hypereyes_jax.models.quantized import Quantized

Experts = Callable[..., jax.Array]


def sharded_experts(
    run: Experts,
    w: Mapping[str, jax.Array | Quantized],
    adapter: Mapping[str, Any],
    x_BTD: jax.Array,
    gate_BTK: jax.Array,
    expert_BTK: jax.Array,
) -> jax.Array:
    """`run(w, adapter, x, gate, expert, share of the experts)`, each device with its experts. Without a mesh: all.

    No token is dropped: a device computes what its experts were chosen for, be it more than its share.

    Args:
      w: expert_gate_up [E, D, 2, F] and expert_down [E, F, D], either of them in int8 or not.
      adapter: {"a": [E, in, rank], "b": [E, rank, out]} of those that have one.
    """
    parts, mesh = axis_size(*EXPERT), ambient()
    on_mesh = mesh is not None
    owners = next(axis for axis in EXPERT if mesh is None or axis in mesh.axis_names)
    tokens = (*dividing(x_BTD.shape[:2], ("batch", "length")), None) if on_mesh else (None, None, None)
    # the mesh axes that tokens are cut by, and experts or their matmuls too
    axes_of_tokens = [axis for axis, by in zip((owners, "tensor"), tokens, strict=False) if by is not None]
    axes_w: dict[str, Any] = {"expert_gate_up": ("expert", None, None, "mlp"), "expert_down": ("expert", "mlp", None)}
    for name, axes in axes_w.items():
        if isinstance(w[name], Quantized):  # no scale belongs to one input
            axes_w[name] = Quantized(axes, (axes[0], None, *axes[2:]))
    axes_adapter = {
        "expert_gate_up": {"a": ("expert", None, None), "b": ("expert", None, None, "mlp")},
        "expert_down": {"a": ("expert", "mlp", None), "b": ("expert", None, None)},
    }
    adapter = {name: dict(adapter[name]) for name in axes_w if name in adapter}
    if "expert_gate_up" in adapter:
        # gate and up lie end to end; apart, each can be cut over `mlp` as their weight is
        b = adapter["expert_gate_up"]["b"]
        adapter["expert_gate_up"]["b"] = b.reshape(*b.shape[:2], 2, -1)

    def on_device(w: Any, adapter: Any, x: jax.Array, gate: jax.Array, expert: jax.Array) -> jax.Array:
        if "expert_gate_up" in adapter:
            b = adapter["expert_gate_up"]["b"]
            adapter = adapter | {"expert_gate_up": adapter["expert_gate_up"] | {"b": b.reshape(*b.shape[:2], -1)}}
        shape = x.shape
        x, gate, expert = (each.reshape(-1, each.shape[-1]) for each in (x, gate, expert))
        if not on_mesh:
            return run(w, adapter, x, gate, expert, 1.0).reshape(shape)
        for axis in reversed(axes_of_tokens):
            x, gate, expert = (jax.lax.all_gather(each, axis, axis=0, tiled=True) for each in (x, gate, expert))
        here = w["expert_down"].shape[0]
        expert = expert - jax.lax.axis_index(owners) * here
        y = run(w, adapter, x, gate, expert, 1.0 / parts)
        for axis in (owners, "tensor"):
            y = (
                jax.lax.psum_scatter(y, axis, scatter_dimension=0, tiled=True)
                if axis in axes_of_tokens
                else jax.lax.psum(y, axis)
            )
        return y.reshape(shape)

    in_axes = (axes_w, {name: axes_adapter[name] for name in adapter}, tokens, tokens, tokens)
    return local(on_device, in_axes, tokens)(w, adapter, x_BTD, gate_BTK, expert_BTK)
