"""Batches of SFT trajectories: shuffled, sharded over processes, packed ahead in threads, resumable to the sample."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import grain

from hypereyes_jax.processing.types import Chunk

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class PipelineConfig:
    """How trajectories become batches of SFT."""

    batch: int = 64  # trajectories a step, over all processes
    epochs: int | None = 1  # None = for ever
    seed: int = 42  # the paper's
    prefetch: int = 1  # batches packed ahead of the one in use, beside the one that is being packed
    workers: int = 1  # threads that read the trajectories of a batch


class Batches:
    """An iterator over batches whose place can be saved and restored.

    Each epoch is a new permutation, decided by the seed alone. The last, incomplete batch of the run is dropped, so
    that every step has the same size, and every process has as many steps as the others. A trajectory is read only when
    its batch is packed, and only by the process whose share it is in.
    """

    def __init__(
        self,
        trajectories: Sequence[Sequence[Chunk]],
        pack: Callable[[list[Sequence[Chunk]]], Batch],
        config: PipelineConfig,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """`pack` turns the trajectories of this process's share of a batch into arrays; it runs in another thread.

        Raises ValueError if the batch does not divide among the processes, or is larger than the data.
        """
        if config.batch % process_count:
            raise ValueError(f"a batch of {config.batch} trajectories does not divide among {process_count} processes")
        count = len(trajectories)
        if config.epochs is not None and count * config.epochs < config.batch:
            raise ValueError(
                f"{count} trajectories x {config.epochs} epochs make no batch of {config.batch}: "
                "lower the batch or add data"
            )
        self._threads = ThreadPoolExecutor(config.workers, thread_name_prefix="loader")
        threads = self._threads

        def read_and_pack(numbers: Sequence[int]) -> Batch:
            return pack(list(threads.map(trajectories.__getitem__, map(int, numbers))))

        data = grain.MapDataset.range(count).seed(config.seed).shuffle().repeat(config.epochs)
        if config.epochs is not None:
            data = data[: count * config.epochs // config.batch * config.batch]
        mine = data[process_index::process_count]
        local = config.batch // process_count
        batches = mine.batch(local, drop_remainder=True, batch_fn=read_and_pack)
        self._iterator = iter(
            batches.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=config.prefetch))
        )

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        return next(self._iterator)

    def close(self) -> None:
        """Stops reading ahead."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def state(self) -> dict[str, Any]:
        """JSON-able; the place after the last batch returned, whatever is packed ahead."""
        return json.loads(json.dumps(self._iterator.get_state()))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a place that `state` gave, with the same data, seed, batch and number of processes."""
        self._iterator.set_state(state)
