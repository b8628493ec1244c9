"""What a training step did to the machine: useful work, its share of the peak, memory; a profile on request."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import jax

from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.learner.step_batch import StepBatch
from hypereyes_jax.runs.memory import host_peak_gib
from hypereyes_jax.train.mfu import published, step_flops, utilisation

_LOG = logging.getLogger(__name__)


class StepMonitor:
    """Figures of each step of a training.

    Args:
      model: what is trained.
      train: what of it, as in `LearnerConfig.train`.
    """

    def __init__(self, model: Qwen3VLConfig, train: str):
        self._model, self._train = model, train
        self._devices = jax.local_devices()
        self._count = jax.device_count()
        self._index = jax.process_index()
        self._peak = published(self._devices[0].device_kind)
        self._outgrown: set[tuple[int, ...]] = set()

    def check(self, batch: StepBatch, packing: PackConfig) -> None:
        """Warns of micro-batches larger than planned, before a step, in the first process and once for each shape.

        Such a step compiles larger programs, which `hypereyes plan` has not looked at and which may not fit. On a CPU
        it is logged as information only. The number of micro-batches makes no difference to what is compiled.

        Args:
          packing: of this process's part of the batch.
        """
        rows = batch.local.targets_MBT.shape[1]
        vision = batch.local.inputs.vision
        images, patches = (0, 0) if vision is None else vision.segment_RL.shape[1:]
        _, least_images, least_patches = packing.at_least
        least_images = -(-least_images // packing.shards) * packing.shards
        plan = (rows, least_images, least_patches)
        shape = (rows, images, patches)
        larger = any(size > room for size, room in zip(shape, plan, strict=True))
        if not larger or shape in self._outgrown or self._index:
            return
        self._outgrown.add(shape)
        form = "%d rows with %d rows of %d patches"
        # A CPU's memory is not planned for, and compiling once more costs it seconds.
        _LOG.log(
            logging.INFO if self._devices[0].platform == "cpu" else logging.WARNING,
            f"micro-batches are larger than planned and compile another program: {form}, planned {form}. Plan them "
            "with `hypereyes plan --sizes.row-images %d`, and give the same here to compile one program for all steps.",
            *shape, *plan, -(-images // rows),
        )  # fmt: skip

    def figures(self, batch: StepBatch, seconds: float) -> dict[str, float]:
        """Figures of a step that took so long, from the batch to the finished update.

        useful_tflops: TFLOP/s a device, of the passes that the method asks for (`models.flops`): padding and
        rematerialisation do not count. mfu: its share of the published bf16 peak; only of devices whose peak is known.
        packed_share: tokens among the positions that are computed. host_peak_gib and, where the platform tells it,
        device_peak_gib: most memory used so far.
        """
        rate = utilisation(step_flops(self._model, batch, self._train), seconds, self._count, self._peak)
        out = {**rate, "packed_share": batch.tokens / batch.positions, "host_peak_gib": host_peak_gib()}
        peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in self._devices]
        device_peaks = [peak for peak in peaks if peak is not None]
        return out | ({"device_peak_gib": max(device_peaks) / 2**30} if device_peaks else {})


@contextlib.contextmanager
def profiled(folder: Path, wanted: bool) -> Iterator[None]:
    """Writes, with `wanted`, a profile of what runs inside to `folder`, for XProf or Perfetto."""
    if not wanted:
        yield
        return
    with jax.profiler.trace(str(folder)):
        yield
