"""The learner's programs: where their arguments lie, and steps that run them a micro-batch at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from hypereyes_jax.learner.metrics import Metrics
from hypereyes_jax.learner.packing import PackedBatch
from hypereyes_jax.learner.state import Params, TrainState
from hypereyes_jax.learner.step_batch import StepBatch, abstract_micro, step_batch
from hypereyes_jax.models.partition import DATA

Figures = dict[str, jax.Array]  # float32 scalars


class Program:
    """A jitted function. On a mesh its arguments have stated places, and it is built for each structure of them.

    Args:
      mesh: None = the default device.
      function: pure.
      places: arguments -> (shardings of the arguments, of the results); not asked without a mesh.
      donate: numbers of the arguments whose buffers are used up.
    """

    def __init__(
        self,
        mesh: Mesh | None,
        function: Callable[..., Any],
        places: Callable[..., tuple[Any, Any]],
        donate: tuple[int, ...] = (),
    ):
        self._mesh, self._function, self._places, self._donate = mesh, function, places, donate
        self._by_structure: dict[Any, Any] = {}

    def _built(self, arguments: tuple[Any, ...]) -> Any:
        structure = None if self._mesh is None else jax.tree.structure(arguments)
        if structure not in self._by_structure:
            where: dict[str, Any] = {}
            if self._mesh is not None:
                taken, given = self._places(*arguments)
                where = {"in_shardings": taken, "out_shardings": given}
            self._by_structure[structure] = jax.jit(self._function, donate_argnums=self._donate, **where)
        return self._by_structure[structure]

    def __call__(self, *arguments: Any) -> Any:
        """Runs it."""
        program = self._built(arguments)
        with self._context():
            return program(*arguments)

    def trace(self, *arguments: Any) -> Any:
        """Traces it as `jax.jit(...).trace` does, with ShapeDtypeStructs. The devices need not exist."""
        program = self._built(arguments)
        with self._context():
            return program.trace(*arguments)

    def _context(self) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh)


class StepPart(NamedTuple):
    """One of the programs that a step runs."""

    name: str
    times: int  # in a step
    trace: Callable[[], Any]  # as `Program.trace`


class Step:
    """An optimiser step: (state, batch, *more) -> (state, figures). The state's buffers are used up.

    Gradients are summed over the micro-batches in use, one after the other. The devices hold two of them: the one that
    is computed, and the next, which is on its way meanwhile.

    Args:
      put: a micro-batch of the host to its place.
      zeros: trainable weights -> their gradients' sums before the first micro-batch.
      gradients: (sums or None, state, micro-batch, its number, weight of the step, router's load or None, *more) ->
        (sums with this one's, metrics). The sums are donated.
      update: (state, gradients, metrics) -> (state, figures). The state is donated.
      load: (state, micro-batch, its number) -> the router's load, where a step of several micro-batches balances the
        experts over all of them: then these are gone through twice.
    """

    def __init__(
        self,
        put: Callable[[PackedBatch], PackedBatch],
        zeros: Program,
        gradients: Program,
        update: Program,
        load: Program | None = None,
    ):
        self._put, self._zeros, self._gradients, self._update, self._load = put, zeros, gradients, update, load

    def __call__(self, state: TrainState, batch: PackedBatch | StepBatch, *more: Any) -> tuple[TrainState, Figures]:
        """One step."""
        batch = step_batch(batch)
        weights = state.replace(opt_state=None)
        load = self._loads(weights, batch) if self._load is not None and batch.several else None
        sums = self._zeros(state.trainable) if batch.several else None
        metrics: Metrics | None = None
        last: Metrics | None = None
        for m in range(batch.count):
            sums, own = self._gradients(
                sums, weights, self._put(batch.micro(m)), np.int32(m), batch.weight, load, *more
            )
            metrics = own if metrics is None else _add(metrics, own)
            last = _wait_for(last, own)
        return self._update(state, sums, metrics)

    def _loads(self, weights: TrainState, batch: StepBatch) -> Any:
        load, last = None, None
        for m in range(batch.count):
            own = self._load(weights, self._put(batch.micro(m)), np.int32(m))  # type: ignore[misc]
            load = own if load is None else _add(load, own)
            last = _wait_for(last, own)
        return load

    def parts(self, state: TrainState, batch: PackedBatch, *more: Any) -> tuple[StepPart, ...]:
        """What a step runs, of arguments as shapes. The devices need not exist."""
        times, several = len(batch.targets_MBT), len(batch.targets_MBT) > 1
        weights, micro = state.replace(opt_state=None), abstract_micro(batch)
        number, weight = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((), np.float32)
        gradients = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, np.float32), state.trainable)
        parts: tuple[StepPart, ...] = ()
        load = None
        if self._load is not None and several:
            counted = self._load.trace(weights, micro, number)
            load = counted.out_info
            parts += (StepPart("router's load of a micro-batch", times, lambda: counted),)
        summed = self._gradients.trace(gradients if several else None, weights, micro, number, weight, load, *more)
        metrics = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), summed.out_info[1])
        return (
            *parts,
            StepPart("gradients of a micro-batch", times, lambda: summed),
            StepPart("update", 1, lambda: self._update.trace(state, gradients, metrics)),
        )


class Scoring:
    """Log-probs of a batch's targets: (params, batch, lora=None, temperature=1.0) -> float32 [M, B, T], in nats, of
    this process's rows; 0 on micro-batches that are padding. The devices hold two micro-batches, as in `Step`.

    Args:
      put: a micro-batch of the host to its place.
      program: (params, lora, micro-batch, temperature) -> [B, T].
    """

    def __init__(self, put: Callable[[PackedBatch], PackedBatch], program: Program):
        self._put, self._program = put, program

    def __call__(
        self,
        params: Params,
        batch: PackedBatch | StepBatch,
        lora: Params | None = None,
        temperature: float | jax.Array = 1.0,
    ) -> np.ndarray:
        """Scores a batch."""
        batch = step_batch(batch)
        logp_MBT = np.zeros(batch.local.targets_MBT.shape, np.float32)
        scored: jax.Array | None = None
        for m in range(batch.count):
            before, scored = scored, self._program(params, lora, self._put(batch.micro(m)), np.float32(temperature))
            if before is not None:
                logp_MBT[m - 1] = own_rows(before)
        if scored is not None:
            logp_MBT[batch.count - 1] = own_rows(scored)
        return logp_MBT

    def trace(self, params: Params, batch: PackedBatch) -> Any:
        """Traces the scoring of a micro-batch, with ShapeDtypeStructs. The devices need not exist."""
        return self._program.trace(params, None, abstract_micro(batch), jax.ShapeDtypeStruct((), np.float32))


def micro_shardings(micro: PackedBatch, mesh: Mesh) -> PackedBatch:
    """Rows, patches and visual tokens over the mesh's data axes; tokens of a row are not cut."""
    rows = NamedSharding(mesh, PartitionSpec(DATA))
    leaves = jax.tree.map(lambda _: rows, micro)
    positions = NamedSharding(mesh, PartitionSpec(None, DATA))
    return leaves.replace(inputs=leaves.inputs._replace(positions_3BT=positions))


def put_on(mesh: Mesh | None) -> Callable[[PackedBatch], PackedBatch]:
    """Puts a micro-batch of this process's rows to its place, as part of that of all processes."""
    if mesh is None:
        return jax.device_put

    def put(micro: PackedBatch) -> PackedBatch:
        return jax.tree.map(
            lambda own, where: jax.make_array_from_process_local_data(where, np.asarray(own)),
            micro,
            micro_shardings(micro, mesh),
        )

    return put


def own_rows(rows_B: jax.Array) -> np.ndarray:
    """The rows of this process, in their order, of an array whose rows are shared out over the mesh."""
    if rows_B.is_fully_addressable:
        return np.asarray(rows_B)
    parts = {shard.index[0].start: shard.data for shard in rows_B.addressable_shards}
    return np.concatenate([np.asarray(parts[start]) for start in sorted(parts)])


@jax.jit
def _add(sums: Any, more: Any) -> Any:
    return jax.tree.map(jnp.add, sums, more)


def _wait_for(last: Any, own: Any) -> Any:
    """Waits for the micro-batch before this one, whose room the next one takes. Returns what to wait for next."""
    if last is not None:
        jax.block_until_ready(last)
    return own
