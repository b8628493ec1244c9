"""The processes of one run: each plays and packs its share, the training step is one program over all their devices.

A process alone with one device needs no mesh, and everything here gives back what it got.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental.multihost_utils import process_allgather
from jax.sharding import Mesh
from rich.console import Console

from hypereyes_jax.configs.distributed import DistributedConfig
from hypereyes_jax.configs.mesh import MESHES, MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.training import PackConfig
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.initialize import join
from hypereyes_jax.learner.global_batch import global_batch, local_shards
from hypereyes_jax.learner.learner import Learner
from hypereyes_jax.learner.packing import PackedBatch, TrainingSample, pack
from hypereyes_jax.learner.state import TrainState
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.models.qwen3_vl import Params
from hypereyes_jax.models.sharding import make_mesh
from hypereyes_jax.processing import ChatFormat
from hypereyes_jax.runs.metrics_file import MetricsWriter
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory, settings_text
from hypereyes_jax.runs.stop import StopRequest
from hypereyes_jax.runs.trackers import Sample, TrackingConfig, check_trackers

# What a run may be continued with another value of: where it is, what it runs on, whom it asks and how patiently, how
# long it goes on and how often it looks at itself. None of it changes a number that was made so far. (SFT's length is
# another matter: its learning rate falls towards the end.)
_MAY_DIFFER = frozenset(
    "out mesh distributed profile_step resume_step tracking stop teacher_server judge.url judge.model search.url "
    "search.image_url search.image_port search.bucket search.bucket_endpoint search.bucket_public_url search.policy "
    "search.store search.mode search.budget settings.search_store settings.search_mode settings.latency settings.steps "
    "settings.checkpoint_every settings.checkpoint_minutes eval_questions eval_every scale.replica_devices "
    "scale.slots scale.extend_rows scale.keep_checkpoints scale.learner.optimizer.moments_on_host".split()
)


class NoMetrics:
    """What a process that writes no metrics has in place of a `MetricsWriter`."""

    def __enter__(self) -> NoMetrics:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def log(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def log_samples(self, step: int, samples: Sequence[Sample]) -> None:
        pass


class Processes:
    """This process's place among all. Every process must call the methods in the same order.

    Processes that share a rollout replica are a team. Its first leads it: it plays, the others follow.
    """

    def __init__(
        self, index: int = 0, count: int = 1, mesh: Mesh | None = None, teams: Sequence[tuple[int, ...]] | None = None
    ):
        self.index = index
        self.count = count
        self.mesh = mesh  # None: one device
        self.waited_seconds = 0.0  # in `gather`, for the slowest, since this process began
        self._teams = [(number,) for number in range(count)] if teams is None else list(teams)

    def in_teams(self, teams: Sequence[tuple[int, ...]]) -> Processes:
        """The same process, with those that play named: `rollout.layout.teams`."""
        own = Processes(self.index, self.count, self.mesh, teams)
        own.waited_seconds = self.waited_seconds
        return own

    @classmethod
    def start(cls, config: DistributedConfig, preset: str = "") -> Processes:
        """Join the others if told to, and lay the mesh over all devices there are.

        Args:
          preset: a mesh of `configs.mesh`; none = FSDP over all devices.

        Call before anything asks jax for devices. Raises UserError as `distributed.join`, and for a preset that there
        isn't or that has another number of devices.
        """
        if preset and preset not in MESHES:
            raise UserError(f"there is no mesh {preset!r}. Known: {', '.join(MESHES)}")
        join(config)
        devices = jax.devices()
        mesh = None
        if preset:
            mesh = make_mesh(MESHES[preset], devices)
        elif len(devices) > 1:
            mesh = make_mesh(MeshConfig("all devices", devices[0].platform, fsdp=len(devices)), devices)
        return cls(jax.process_index(), jax.process_count(), mesh)

    @property
    def first(self) -> bool:
        """Whether this process writes what only one may write."""
        return self.index == 0

    def open(
        self,
        out: Path,
        command: str,
        config: Any,
        inputs: Mapping[str, Path | None] | None = None,
        tracking: TrackingConfig = TrackingConfig(),  # noqa: B008 - frozen
        stop: StopRequest | None = None,
    ) -> RunDirectory:
        """The run's directory, on a file system that all processes share; the first prints the settings and versions.

        `inputs` as `RunDirectory.open`. UserError in all if one can't.
        """
        problem, opened = None, None
        if self.first:
            try:
                check_trackers(tracking)  # missing, it would be missed when the metrics are opened: after the selection
                opened = RunDirectory.open(
                    out,
                    command,
                    config,
                    may_differ=_MAY_DIFFER,
                    inputs=inputs,
                    devices=self._devices(),
                    tracking=tracking,
                    stop=stop,
                )
                print(settings_text(config))
                print(settings_text(opened.start))
            except UserError as error:
                problem = str(error)
        problem = self.gather(problem)[0]
        if problem is not None:
            raise UserError(problem)
        return opened or RunDirectory(out, tracking, stop=stop)

    def first_reason(self, own: str) -> str:
        """The first reason that any process gives, in all of them; empty if none does. Waits for all."""
        return next((reason for reason in self.gather(own) if reason), "")

    def _devices(self) -> str:
        devices = jax.devices()
        return f"{len(devices)} x {devices[0].device_kind}, {self.count} process{'es' if self.count > 1 else ''}"

    def stages(self) -> Stages:
        """Progress, shown by the first process."""
        return Stages() if self.first else Stages(Console(quiet=True))

    def metrics(self, directory: RunDirectory, phase: str, first_step: int) -> MetricsWriter | NoMetrics:
        """Written by the first process."""
        return MetricsWriter(directory, phase, first_step) if self.first else NoMetrics()

    @property
    def team(self) -> tuple[int, ...]:
        """The processes that share a rollout replica with this one, this one included; the first leads."""
        return next(team for team in self._teams if self.index in team)

    @property
    def leads(self) -> bool:
        """Whether this process plays episodes, and does not follow another one that does."""
        return self.team[0] == self.index

    @property
    def players(self) -> list[int]:
        """The processes that play."""
        return [team[0] for team in self._teams]

    def share(self, items: Sequence[Any]) -> list[Any]:
        """This process's part of what is to be played, as `part`. Raises UserError if it does not divide evenly."""
        players = len(self.players)
        if len(items) % players:
            followed = "" if players == self.count else f" that play (of {self.count})"
            raise UserError(
                f"{len(items)} items a step do not divide among {players} processes{followed}: choose a multiple of "
                "them"
            )
        return list(self.part(items))

    def part(self, items: Any) -> Any:
        """This process's part of a sequence or an array; empty if it does not play."""
        if not self.leads:
            return items[:0]
        return items[self.players.index(self.index) :: len(self.players)]

    def gather(self, own: Any) -> list[Any]:
        """Every process's JSON-able value, in the order of the processes. Waits for all."""
        if self.count == 1:
            return [own]
        began = time.perf_counter()
        text = np.frombuffer(json.dumps(own).encode(), np.uint8)
        sizes = np.asarray(process_allgather(np.array([text.size], np.int32))).reshape(-1)
        padded = np.zeros(sizes.max(), np.uint8)
        padded[: text.size] = text
        rows = np.asarray(process_allgather(padded)).reshape(self.count, -1)
        self.waited_seconds += time.perf_counter() - began
        return [json.loads(bytes(row[:size])) for row, size in zip(rows, sizes, strict=True)]

    def merged(self, shares: list[list[Any]]) -> list[Any]:
        """Undoes `share`: what each process made of its items (`gather`), in the order of all items."""
        played = [shares[player] for player in self.players]
        return [share[place] for place in range(len(played[0])) for share in played]

    @property
    def shards(self) -> int:
        """Data shards that this process feeds."""
        if self.mesh is None:
            return 1
        return local_shards(self.mesh)[1]

    def own_name(self, file: str) -> str:
        """Name of a file that each process writes for itself: "NAME.json", "NAME-1.json", ..."""
        stem, dot, ending = file.rpartition(".")
        return file if self.first else f"{stem}-{self.index}{dot}{ending}"

    def batch(
        self,
        model: Qwen3VLConfig,
        samples: Sequence[TrainingSample],
        config: PackConfig,
        left_out: Sequence[TrainingSample] = (),
    ) -> PackedBatch:
        """One step's data: this process's samples, packed for its shards, as its part of all devices' batch."""
        packed = pack(model, samples, config, left_out)
        if self.mesh is None:
            return packed
        # All must have the same arrays: of the largest size that any of them needs.
        rows, length = packed.inputs.vision.segment_RL.shape[1:]
        own = [packed.targets_MBT.shape[0], packed.targets_MBT.shape[2], rows, length]
        taught = packed.teacher_logp_MBT is not None
        *most, any_taught = np.max(self.gather([*own, int(taught)]), axis=0).tolist()
        fixed = replace(config, micro_batches=most[0], row_tokens=(most[1],), vision=(most[2], most[3]))
        if most != own:
            packed = pack(model, samples, fixed, left_out)
        if any_taught and not taught:
            packed = packed._replace(teacher_logp_MBT=np.full(packed.weight_MBT.shape, np.nan, np.float32))
        return global_batch(self.mesh, packed, fixed)

    def load(self, path: str | Path, dtype: str = "float32") -> tuple[Qwen3VLConfig, Params, ChatFormat]:
        """A model from disk; on a mesh each piece goes straight to the devices that hold it."""
        return load_model(path, dtype, self.mesh)

    def state(
        self, learner: Learner, seed: int, params: Params, adapters: Callable[[jax.Array, Params], Any] | None = None
    ) -> TrainState:
        """The state before the first step, in its place on the mesh. `params` are used up there.

        Args:
          adapters: makes those to train from a key and the weights.
        """

        def make(params: Params) -> TrainState:
            key, adapters_key = jax.random.split(jax.random.key(seed))
            if adapters is None:
                return learner.init(jax.random.key(seed), params)
            return learner.init(key, params, adapters(adapters_key, params))

        if self.mesh is None:
            return make(params)
        assert learner.shardings is not None
        where = learner.shardings(jax.eval_shape(make, params))
        return jax.jit(make, out_shardings=where, donate_argnums=0)(params)

    def whole(self, tree: Any) -> Any:
        """Arrays of the mesh, small ones, as arrays of this process's first device alone."""
        if self.mesh is None:
            return tree
        device = jax.local_devices()[0]

        def fetch(x: jax.Array) -> jax.Array:
            whole = x if x.is_fully_addressable else process_allgather(x, tiled=True)
            return jax.device_put(np.asarray(whole), device)

        return jax.tree.map(fetch, tree)
