"""One table from logical axes to mesh axes, and what activations do with it.

A parameter names its logical axes once, in `models.qwen3_vl.weights`; activations name theirs in `constrain`, `local`.
Under `jax.set_mesh(mesh)` these follow the table; without a mesh they do nothing: the program is that of one device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from hypereyes_jax.errors import UserError

DATA = ("replica", "fsdp", "expert")  # the mesh axes that share out a batch
EXPERT = ("expert", "expert_only")  # those that share out experts; a mesh has one of them, see `configs.mesh`

RULES: dict[str, tuple[str, ...]] = {
    # parameters
    "layer": (),
    "embed": ("fsdp", "expert"),
    "expert_embed": ("fsdp",),  # of experts, which `expert` shares out whole
    "vocab": ("tensor",),
    "heads": ("tensor",),
    "kv_heads": ("tensor",),
    "head_dim": (),
    "mlp": ("tensor",),
    "expert": EXPERT,
    "router": (),
    "rank": (),
    "vision_layer": (),
    "vision_embed": ("fsdp",),
    "vision_heads": ("tensor",),
    "vision_mlp": ("tensor",),
    # activations
    # Sequences, rows of patches, tokens, visual tokens: each shard of data is whole in itself. A sampler's rows are cut
    # as its experts are, so that no two devices keep the same keys and values.
    "batch": (*DATA, "expert_only"),
    # Between the matmuls that `tensor` cuts, what passes on from layer to layer would be held by each of its devices:
    # sequence parallelism (arXiv 2205.05198) cuts it along the row instead.
    "length": ("tensor",),
}


class ShardingError(UserError):
    """A mesh that does not fit a model, naming the parameter, the axis and the sizes."""


def spec(
    name: str, axes: tuple[str | None, ...], mesh: Any, rules: Mapping[str, tuple[str, ...]] = RULES
) -> PartitionSpec:
    """Logical axes to those mesh axes that the mesh has.

    Raises ShardingError for an axis without a rule, or two that take the same mesh axis.
    """
    axis_of_mesh: dict[str, str] = {}
    out: list[Any] = []
    for axis in axes:
        if axis is not None and axis not in rules:
            raise ShardingError(f"{name}: logical axis {axis!r} has no rule (known: {', '.join(rules)})")
        mesh_axes = tuple(name for name in rules[axis] if name in mesh.axis_names) if axis is not None else ()
        for mesh_axis in mesh_axes:
            if mesh_axis in axis_of_mesh:
                raise ShardingError(
                    f"{name}: logical axes {axis_of_mesh[mesh_axis]!r} and {axis!r} both want mesh axis {mesh_axis!r}"
                )
            axis_of_mesh[mesh_axis] = str(axis)
        out.append(mesh_axes if len(mesh_axes) > 1 else (mesh_axes[0] if mesh_axes else None))
    return PartitionSpec(*out)


def cutting(axis: str, mesh: Any) -> tuple[str, ...]:
    """Those axes of a mesh that cut a logical axis into several parts."""
    return tuple(name for name in RULES[axis] if mesh.shape.get(name, 1) > 1)


def ambient() -> Any:
    """The mesh of the surrounding `jax.set_mesh`; None outside of one, or inside `local`."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.are_all_axes_manual else mesh


def axis_size(*names: str) -> int:
    """How many parts the ambient mesh cuts these axes into; 1 without a mesh."""
    mesh = ambient()
    return 1 if mesh is None else int(np.prod([mesh.shape.get(name, 1) for name in names]))


def dividing(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
    """The axes, without those that the ambient mesh would cut into more parts than divide their size.

    A decode step has rows of one token, and may have fewer rows than the mesh has devices.
    """
    return tuple(
        axis if axis is not None and size % axis_size(*RULES[axis]) == 0 else None
        for size, axis in zip(shape, axes, strict=True)
    )


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pin an activation's sharding. Without it XLA may follow the weights' and gather the batch."""
    mesh = ambient()
    if mesh is None:
        return x
    return jax.lax.with_sharding_constraint(x, spec("activation", dividing(x.shape, axes), mesh))


def everywhere(tree: Any) -> Any:
    """Gives every device of a mesh all of it, so that each process of a replica can read it."""
    return jax.tree.map(lambda leaf: constrain(leaf, *[None] * leaf.ndim), tree)


def local(function: Callable[..., Any], in_axes: Any, out_axes: Any) -> Callable[..., Any]:
    """`function` on each device's own part (`jax.shard_map`), or as it is without a mesh.

    Args:
      in_axes, out_axes: for each argument and result, a tuple of logical axes.
    """
    mesh = ambient()
    if mesh is None:
        return function

    def is_axes(x: Any) -> bool:
        return isinstance(x, tuple) and all(axis is None or isinstance(axis, str) for axis in x)

    def specs(tree: Any) -> Any:
        return jax.tree.map(lambda axes: spec("activation", axes, mesh), tree, is_leaf=is_axes)

    return jax.shard_map(function, mesh=mesh, in_specs=specs(in_axes), out_specs=specs(out_axes), check_vma=False)


def take_local(table_MD: jax.Array, index: jax.Array) -> jax.Array:
    """`table_MD[index]` where each data shard's indices lie in its own part of the table, as `learner.packing` does it.

    Negative indices give some row: mask them. Both first axes are sharded over data; no row moves between devices.
    """
    mesh = ambient()
    data = () if mesh is None else tuple(name for name in DATA if name in mesh.axis_names)
    if axis_size(*data) == 1:
        return table_MD[index]

    def take(table: jax.Array, index: jax.Array) -> jax.Array:
        return table[jnp.clip(index - jax.lax.axis_index(data) * table.shape[0], 0, table.shape[0] - 1)]

    axes = ("batch", *(None,) * (index.ndim - 1))
    return local(take, (("batch", None), axes), (*axes, None))(table_MD, index)
