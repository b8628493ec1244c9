"""Experts shared out over a mesh: each device holds some, and computes them for the tokens of its expert group.

Tokens are gathered over the `expert` axis, each device adds what its own experts give, and the sums are scattered back.
The weights' `embed` axis is gathered over `fsdp` for the layer, as for every other matmul.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax

from hypereyes_jax.models.partition import ambient, axis_size, local

# Room for assignments on a device, relative to an even spread over the expert axis. At axis size 2 nothing is ever
# dropped; beyond that a device that would get more than twice its share drops the surplus.
CAPACITY_FACTOR = 2.0

Experts = Callable[..., jax.Array]


def sharded_experts(
    run: Experts,
    w: Mapping[str, jax.Array],
    adapter: Mapping[str, Any],
    x_ND: jax.Array,
    gate_NK: jax.Array,
    expert_NK: jax.Array,
) -> jax.Array:
    """`run(w, adapter, x, gate, expert)`, each device with its experts. Without a mesh: all of them.

    Args:
      w: expert_gate_up [E, D, 2, F] and expert_down [E, F, D].
      adapter: {"a": [E, in, rank], "b": [E, rank, out]} of those that have one.
    """
    parts, on_mesh = axis_size("expert"), ambient() is not None
    axes_w = {"expert_gate_up": ("expert", None, None, "mlp"), "expert_down": ("expert", "mlp", None)}
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
        if not on_mesh:
            return run(w, adapter, x, gate, expert)
        x, gate, expert = (jax.lax.all_gather(each, "expert", axis=0, tiled=True) for each in (x, gate, expert))
        here = w["expert_down"].shape[0]
        capacity = int(expert.size / parts * CAPACITY_FACTOR) if parts > CAPACITY_FACTOR else None
        expert = expert - jax.lax.axis_index("expert") * here
        y = run(w, adapter, x, gate, expert, capacity=capacity)
        return jax.lax.psum_scatter(jax.lax.psum(y, "tensor"), "expert", scatter_dimension=0, tiled=True)

    tokens = ("batch", None)
    in_axes = (axes_w, {name: axes_adapter[name] for name in adapter}, tokens, tokens, tokens)
    return local(on_device, in_axes, tokens)(w, adapter, x_ND, gate_NK, expert_NK)
