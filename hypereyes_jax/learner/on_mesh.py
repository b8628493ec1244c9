"""The learner's functions on a mesh: where their arguments lie, and programs built when their structure is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.state import Params, TrainState
from hypereyes_jax.models.partition import DATA


@dataclass(frozen=True)
class StepOnMesh:
    """A jitted step with explicit shardings, which need the structure of its arguments: built when that is known.

    With `known_trips` there is a program for each number of micro-batches in use: a loop of that known length.
    """

    mesh: Mesh
    build: Callable[[tuple[Any, ...], int | None], Any]
    programs: dict[Any, Any]
    known_trips: bool

    def _program(self, arguments: tuple[Any, ...]) -> tuple[Any, tuple[Any, ...]]:
        """The program, and the arguments as it takes them."""
        count = None
        if self.known_trips:
            state, batch, *more = arguments
            batch, count = _uncounted(batch)
            arguments = (state, batch, *more)
        key = (jax.tree.structure(arguments), count)
        if key not in self.programs:
            self.programs[key] = self.build(arguments, count)
        return self.programs[key], arguments

    def __call__(self, *arguments: Any) -> Any:
        program, arguments = self._program(arguments)
        with jax.set_mesh(self.mesh):
            return program(*arguments)

    def trace(self, *arguments: Any) -> Any:
        """Traces the step as `jax.jit(...).trace` does, with ShapeDtypeStructs. The devices need not exist."""
        program, arguments = self._program(arguments)
        with jax.set_mesh(self.mesh):
            return program.trace(*arguments)


def _uncounted(batch: PackedBatch) -> tuple[PackedBatch, int]:
    """The batch without its number of micro-batches in use, and that number; all of them, for a batch of shapes."""
    has_count = not isinstance(batch.count, jax.ShapeDtypeStruct)
    return batch.replace(count=None), int(batch.count) if has_count else batch.targets_MBT.shape[0]


def counted(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """`function` of a batch that `_uncounted` gave."""

    def known(state: TrainState, batch: PackedBatch, *more: Any) -> Any:
        return function(state, batch.replace(count=count), *more)

    return known


@dataclass(frozen=True)
class ScoreOnMesh:
    """`Learner.score_logprobs` on a mesh. Takes its arguments where they are; a host's batch is put in its place."""

    mesh: Mesh
    by_weight: Params
    scored: Any  # jitted
    known_trips: bool

    def __call__(
        self, params: Params, batch: PackedBatch, lora: Params | None = None, temperature: float | jax.Array = 1.0
    ) -> jax.Array:
        batch, count = _uncounted(batch) if self.known_trips else (batch, None)
        with jax.set_mesh(self.mesh):
            batch_on_mesh = jax.device_put(batch, batch_shardings(batch, self.mesh))
            return self.scored(params, batch_on_mesh, lora, temperature, count)

    def trace(self, params: Params, batch: PackedBatch) -> Any:
        """Traces the scoring as `jax.jit(...).trace` does, with ShapeDtypeStructs that need no shardings. The
        devices need not exist."""

        def put(x: Any, where: Any) -> Any:
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)

        batch, count = _uncounted(batch) if self.known_trips else (batch, None)
        with jax.set_mesh(self.mesh):
            return self.scored.trace(
                jax.tree.map(put, params, self.by_weight),
                jax.tree.map(put, batch, batch_shardings(batch, self.mesh)),
                None,
                1.0,
                count,
            )


def batch_shardings(batch: PackedBatch, mesh: Mesh) -> PackedBatch:
    """Rows, patches and visual tokens over the mesh's data axes; micro-batches and tokens of a row are not cut."""
    rows = NamedSharding(mesh, PartitionSpec(None, DATA))
    inputs = jax.tree.map(lambda _: rows, batch.inputs)
    inputs = inputs._replace(positions_3BT=NamedSharding(mesh, PartitionSpec(None, None, DATA)))
    whole = NamedSharding(mesh, PartitionSpec())
    leaves = jax.tree.map(lambda _: rows, batch.replace(inputs=None))
    return leaves.replace(inputs=inputs, count=None if batch.count is None else whole, left_out=whole)
