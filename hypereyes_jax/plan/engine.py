"""The rollout engine's part of a plan: which sizes fit beside the learner, by compiling its programs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace

from jax.sharding import Mesh

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.recipes import RECIPES, EngineSizes, Recipe
from hypereyes_jax.errors import UserError
from hypereyes_jax.models.qwen3_vl import Kernels
from hypereyes_jax.models.trip_counts import usual_positions
from hypereyes_jax.plan import topology
from hypereyes_jax.plan.compile import GIB, ProgramPlan, compile_program
from hypereyes_jax.plan.figures import default_figures_folder
from hypereyes_jax.plan.programs import engine_programs, replica_config, replica_weight_bytes
from hypereyes_jax.plan.report import EnginePlan
from hypereyes_jax.plan.roofline import roofline_seconds
from hypereyes_jax.plan.settings import default_sizes
from hypereyes_jax.plan.workload import Workload
from hypereyes_jax.rollout.cache import kv
from hypereyes_jax.rollout.cache.access import views_cache
from hypereyes_jax.rollout.cache.pages import pages_of_part
from hypereyes_jax.rollout.replicas.layout import replica_grid, replica_mesh, replica_size
from hypereyes_jax.train.sizes import TrainingSizes


def plan_engine(
    recipe: Recipe,
    model: Qwen3VLConfig,
    mesh: MeshConfig,
    sizes: TrainingSizes,
    workload: Workload,
    room: float,
    context: int,
) -> EnginePlan:
    """The plan of the sizes that were given, as `hypereyes rl` takes them, or else of the largest that fit.

    Where not all slots fit that the batch needs, each with a cache for the longest trajectory, their caches together
    hold as many tokens as the workload's mean of each (`EngineConfig.cache_tokens`).

    Args:
      room: GiB of a device for the engine; of a CPU's there is no end.
      context: tokens of the longest trajectory.
    """
    default = default_sizes(RECIPES[recipe.name])
    given = any(getattr(sizes, each.name) != getattr(default, each.name) for each in fields(EngineSizes))
    room = min(room, 2.0**20)
    replica = _replica(recipe, model, mesh, sizes, room, given)
    if replica is None:
        return EnginePlan(0, 0, 0, context, 0, (), 0.0, 0.0, [], 0.0, 1, fits=False)
    sizes = replace(sizes, context=context)
    engines = _Engines(recipe, model, replica, mesh.size // replica.size, sizes, room, workload.within(context))
    if given:
        return engines.compiled(sizes.slots, sizes.cache_tokens, sizes.extend_rows)
    parts = replica.expert
    enough = parts * math.ceil(min(sizes.slots, math.ceil(recipe.batch / engines.replicas)) / parts)
    if enough / parts * engines.slot_gib(context) + engines.weights_gib <= room:  # else there is no need to try
        best = engines.compiled(enough, 0, sizes.extend_rows)
        if best.fits:
            return best
    best = engines.with_most_slots(enough, sizes.extend_rows, more_than=0)
    if best.fits and best.slots == enough:
        return best
    # The scores of what is read are the engine's largest temporaries: a row at a time may leave room for more slots.
    other = engines.with_most_slots(enough, sizes.extend_rows[:1], more_than=best.slots if best.fits else 0)
    return other if other.fits else best


def _replica(
    recipe: Recipe, model: Qwen3VLConfig, mesh: MeshConfig, sizes: TrainingSizes, room: float, given: bool
) -> MeshConfig | None:
    """The mesh of a replica; None if no replica of this mesh holds the weights.

    Raises UserError for a number of devices that was given and is none of a replica.
    """
    if not given:
        return replica_config(mesh, recipe, model, room * GIB, sizes.engine().weights)
    try:
        return mesh.sampler_replica(
            *replica_size(model.text, mesh.size // mesh.hosts, mesh.hosts, sizes.replica_devices)
        )
    except ValueError as error:
        raise UserError(f"no rollout engine of these sizes on mesh {mesh.name}: {error}") from error


@dataclass
class _Engines:
    """Engines of different sizes on one kind of replica.

    Args:
      replicas: that share the mesh.
      room: GiB of a device for an engine.
    """

    recipe: Recipe
    model: Qwen3VLConfig
    replica: MeshConfig
    replicas: int
    sizes: TrainingSizes
    room: float
    workload: Workload
    weights_gib: float = field(init=False)
    _grid: Mesh = field(init=False)
    _token_gib: float = field(init=False)  # of a position in the cache, on the devices that hold it
    _viewed: int = field(init=False)  # positions of a slot that a call holds once more
    _programs: dict[tuple[str, int], ProgramPlan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        replica, text, engine = self.replica, self.model.text, self.sizes.engine()
        self._grid = replica_mesh(replica_grid(text, topology.devices(replica)[: replica.size], replica.size))
        self.weights_gib = replica_weight_bytes(self.recipe, self.model, self._grid, engine.weights) / GIB
        self._token_gib = kv.bytes_per_token(self.model, engine.kv) / replica.tensor / GIB
        kernels = Kernels.for_sampling(replica.platform, text.num_hidden_layers)
        self._viewed = self.sizes.context if views_cache(kernels, text) else 0

    @property
    def _mean(self) -> float:
        return min(self.workload.tokens, self.sizes.context)

    def slot_gib(self, tokens: float) -> float:
        """What a slot takes on its devices, if its cache holds so many tokens."""
        return self._token_gib * (tokens + self._viewed)

    def compiled(self, slots: int, cache_tokens: int, rows: tuple[int, ...]) -> EnginePlan:
        """The plan of an engine of these sizes."""
        settings = replace(self.sizes, slots=slots, cache_tokens=cache_tokens, extend_rows=rows).engine()
        programs = []
        for each in engine_programs(self.recipe, self.model, self._grid, settings):
            key = each.name, cache_tokens
            if key not in self._programs:
                with usual_positions(self.workload.cached_tokens):
                    self._programs[key] = compile_program(each.name, each.trace, self.replica, default_figures_folder())
            programs.append(self._programs[key])
        cached = pages_of_part(settings, self.replica.expert) * settings.page_tokens
        return EnginePlan(
            replicas=self.replicas,
            devices=self.replica.size,
            slots=slots,
            context=self.sizes.context,
            cache_tokens=cache_tokens,
            extend_rows=rows,
            weights_gib=self.weights_gib,
            kv_gib=self._token_gib * cached,
            programs=programs,
            decode_seconds=max(roofline_seconds(self.replica, programs[-1]).values()) / settings.max_steps,
            decode_steps=settings.max_steps,
            fits=all(not each.error and each.peak_gib <= self.room for each in programs),
        )

    def with_most_slots(self, needed: int, rows: tuple[int, ...], more_than: int) -> EnginePlan:
        """An engine of at most `needed` slots whose caches have room for trajectories of the mean length."""
        parts, size = self.replica.expert, self.slot_gib(self._mean)
        slots = parts * max(1, min(needed // parts, int((self.room - self.weights_gib) / size)))
        engine = self.compiled(slots, self._cache(slots), rows)
        while not engine.fits:
            # What is too much tells how many slots too many there are; a program that was refused does not.
            over = max(each.peak_gib for each in engine.programs) - self.room
            fewer = math.ceil(over / size) if over > 0 else engine.slots // parts // 2
            slots = engine.slots - parts * max(1, fewer)
            if slots <= more_than:
                break
            engine = self.compiled(slots, self._cache(slots), rows)
        return engine

    def _cache(self, slots: int) -> int:
        """Tokens of the mean length for each slot, and of the longest trajectory in each part, in whole pages."""
        parts, page = self.replica.expert, self.sizes.engine().page_tokens
        return parts * page * math.ceil(max(self.sizes.context, slots / parts * self._mean) / page)
