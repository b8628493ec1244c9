"""`hypereyes plan RECIPE --mesh PRESET`: will it fit, how fast could it be, and what bounds it, before paying for it.

The real training step, and the rollout engine's programs on one replica, are compiled ahead of time for the real
target. Memory is what that compiler reports; the split of it into kinds is exact for weights, moments and gradients
(their shapes on the mesh are known), and what remains is activations. Times are lower bounds: each resource alone, at
the published peak of the device.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import tyro

from hypereyes_jax.configs.mesh import DEVICES, MESHES, MeshConfig
from hypereyes_jax.configs.model import PRESETS, Qwen3VLConfig
from hypereyes_jax.configs.recipes import RECIPES, Recipe
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch import target
from hypereyes_jax.launch.compiled import GIB, ProgramPlan, compile_program
from hypereyes_jax.launch.roofline import roofline_seconds, useful_flops
from hypereyes_jax.launch.scale import scale_of

# Left to the runtime: XLA's own reserve on GPUs, the system's on TPUs.
_USABLE = 0.94


@dataclass(frozen=True)
class PlanConfig:
    """Compile a recipe for a mesh that is not there, and say whether it fits."""

    recipe: Annotated[str, tyro.conf.Positional]
    mesh: str
    rows: int | None = None
    """Rows of a micro-batch over all devices; default: the recipe's for each data shard."""
    row_tokens: int | None = None
    """Tokens of a row; default: the recipe's longest trajectory."""
    slots: int | None = None
    """Of the rollout engine on one replica; default: as many as a step's rollouts need, or as fit."""
    moments_on_host: bool = False
    """The optimiser's moments rest in the hosts' memory."""
    search: bool = False
    """Also look for the longest row and the most rows that fit, by compiling again and again."""
    rollout: bool = True
    """Also compile the rollout engine's programs, for RL."""
    out: Path | None = None
    """Where to write the plan as JSON."""


@dataclass(frozen=True)
class TrainPlan:
    """The training step of one device."""

    program: ProgramPlan
    rows: int  # of a micro-batch, over all devices
    row_tokens: int
    micro_batches: int  # a step, if every trajectory fills its row
    weights_gib: float
    optimizer_gib: float
    gradients_gib: float
    batch_gib: float
    activations_gib: float
    host_gib: float  # of the host's memory, for this device's moments
    useful_tflops: float  # a step: forward and backward of the active weights, nothing computed twice
    roofline_seconds: dict[str, float]  # of a step: compute, memory, links, network
    bound: str
    step_seconds: float  # at the roofline
    useful_share: float  # of the FLOPs that are computed
    peak_share: float  # useful FLOPs of the device's peak, at the roofline
    fits: bool


@dataclass(frozen=True)
class EnginePlan:
    """The rollout engine of one device, on one of the replicas that share the mesh."""

    replicas: int  # 0: no replica of this mesh holds the weights
    devices: int  # a replica
    slots: int  # a replica
    slot_tokens: int
    extend_rows: tuple[int, ...]  # slots that a call may read given tokens into
    weights_gib: float  # the sampler's copy
    kv_gib: float
    programs: list[ProgramPlan]
    decode_seconds: float  # of one token in every slot, at the roofline
    fits: bool  # beside the learner's weights and moments, which stay


@dataclass(frozen=True)
class Plan:
    recipe: str
    mesh: str
    devices: int
    capacity_gib: float | None  # of a device, usable; None on a CPU, which is not limited here
    fits: bool
    train: TrainPlan
    engine: EnginePlan | None
    refused: str = ""  # why `hypereyes sft` or `hypereyes rl` would not run it on this mesh's hosts
    largest: dict[str, int] = field(default_factory=dict)  # `search`


def run(config: PlanConfig) -> int:
    """Print the plan, write it as JSON if asked to; the exit code is 0 if it fits and can be run, and 1 if not."""
    mesh = _known(config.mesh, MESHES, "mesh")
    _known(config.recipe, RECIPES, "recipe")
    target.prepare(mesh)
    found = plan(config)
    print(render(found))
    if config.out is not None:
        from hypereyes_jax.files import write_json

        write_json(config.out, dataclasses.asdict(found))
    return 0 if found.fits else 1


def plan(config: PlanConfig) -> Plan:
    """Compile and measure. `target.prepare` must have run, before jax was imported.

    Raises UserError for an unknown recipe or mesh, a mesh that does not divide the model, or a missing compiler.
    """
    recipe, mesh_config = _known(config.recipe, RECIPES, "recipe"), _known(config.mesh, MESHES, "mesh")
    from hypereyes_jax.launch.plan_programs import train_step
    from hypereyes_jax.models.sharding import ShardingError, make_mesh

    if config.moments_on_host:
        optimizer = replace(recipe.learner.optimizer, moments_on_host=True)
        recipe = replace(recipe, learner=replace(recipe.learner, optimizer=optimizer))
    model = _model(recipe)
    try:
        mesh = make_mesh(mesh_config, target.devices(mesh_config)[: mesh_config.size])
        step = train_step(recipe, model, mesh)
    except ShardingError as error:
        raise UserError(f"{recipe.name} can't run on mesh {mesh_config.name}: {error}") from error
    shards = mesh_config.data_shards
    rows, row_tokens = config.rows or shards * recipe.shard_rows, config.row_tokens or recipe.row_tokens
    if rows % shards:
        raise UserError(f"--rows {rows} must be a multiple of the mesh's {shards} data shards")
    capacity = _capacity(mesh_config)

    def trained(rows: int, row_tokens: int) -> TrainPlan:
        return _train_plan(recipe, model, mesh_config, step, rows, row_tokens, capacity)

    train = trained(rows, row_tokens)
    engine = None
    if config.rollout and recipe.rollout is not None:
        engine = _engine_plan(recipe, model, mesh_config, config.slots, capacity, train)
    refused = _refusal(recipe, model, mesh_config, mesh, engine.devices if engine is not None else 0)
    largest = {}
    if config.search:
        largest = {
            "row_tokens": _largest(lambda n: trained(rows, n).fits, row_tokens, unit=1024),
            "rows": _largest(lambda n: trained(n, row_tokens).fits, rows, unit=shards),
        }
    return Plan(
        recipe=recipe.name,
        mesh=mesh_config.name,
        devices=mesh_config.size,
        capacity_gib=capacity if mesh_config.device else None,
        fits=train.fits and (engine is None or engine.fits) and not refused,
        train=train,
        engine=engine,
        refused=refused,
        largest=largest,
    )


def _train_plan(
    recipe: Recipe, model: Qwen3VLConfig, mesh: MeshConfig, step: Any, rows: int, row_tokens: int, capacity: float
) -> TrainPlan:
    from hypereyes_jax.launch.plan_programs import abstract_batch

    micro_batches = math.ceil(recipe.batch / rows)
    batch = abstract_batch(recipe, model, micro_batches, rows, row_tokens)
    program = compile_program("training step", lambda: step.trace(batch), mesh)
    patches = rows * recipe.row_images * recipe.image_tokens * model.vision.merge_unit
    useful = useful_flops(model, rows * row_tokens, row_tokens, patches, recipe.learner.train)
    useful *= micro_batches / mesh.size
    seconds = roofline_seconds(mesh, program)
    bound = max(seconds, key=lambda name: seconds[name])
    peak = DEVICES[mesh.device].bf16_tflops if mesh.device else math.inf
    resident = (step.weights + step.optimizer) / GIB
    return TrainPlan(
        program=program,
        rows=rows,
        row_tokens=row_tokens,
        micro_batches=micro_batches,
        weights_gib=step.weights / GIB,
        optimizer_gib=step.optimizer / GIB,
        gradients_gib=step.gradients / GIB,
        batch_gib=max(program.arguments_gib - resident, 0.0),
        activations_gib=max(program.temporaries_gib - step.gradients / GIB, 0.0),
        host_gib=step.host / GIB,
        useful_tflops=useful / 1e12,
        roofline_seconds=seconds,
        bound=bound,
        step_seconds=seconds[bound],
        useful_share=useful / 1e12 / program.tflops if program.tflops else 0.0,
        peak_share=useful / 1e12 / peak / seconds[bound] if seconds[bound] else 0.0,
        fits=not program.error and program.peak_gib <= capacity,
    )


def _engine_plan(
    recipe: Recipe, model: Qwen3VLConfig, mesh: MeshConfig, wanted: int | None, capacity: float, train: TrainPlan
) -> EnginePlan | None:
    from hypereyes_jax.launch.plan_programs import engine_programs, replica_config, slot_bytes, weight_bytes
    from hypereyes_jax.rollout.layout import replica_grid, replica_mesh

    assert recipe.rollout is not None
    resident = train.weights_gib + train.optimizer_gib
    room = capacity - resident if mesh.device else 2.0**20
    replica = replica_config(mesh, recipe, model, room * GIB)
    if replica is None:
        return EnginePlan(0, 0, 0, train.row_tokens, (), 0.0, 0.0, [], 0.0, fits=False)
    replicas = mesh.size // replica.size
    weights = weight_bytes(recipe, model) / replica.size / GIB
    slot = slot_bytes(recipe, model, train.row_tokens) / replica.tensor / GIB
    needed = wanted or min(recipe.rollout.slots, math.ceil(recipe.batch / replicas))
    # A slot is held once at rest and once in the view that a call attends to.
    most = needed if wanted else max(1, min(needed, int((room - weights) / (2 * slot))))
    grid = replica_mesh(replica_grid(model.text, target.devices(replica)[: replica.size], replica.size))
    scale = replace(scale_of(recipe), row_tokens=train.row_tokens)

    done: dict[str, ProgramPlan] = {}

    def compiled(slots: int, rows: tuple[int, ...]) -> EnginePlan:
        settings = replace(scale, slots=slots, extend_rows=rows).engine()
        programs = []
        for each in engine_programs(recipe, model, grid, settings):
            if each.name not in done:
                done[each.name] = compile_program(each.name, each.trace, replica)
            programs.append(done[each.name])
        return EnginePlan(
            replicas=replicas,
            devices=replica.size,
            slots=slots,
            slot_tokens=train.row_tokens,
            extend_rows=rows,
            weights_gib=weights,
            kv_gib=slot * (slots + 1),
            programs=programs,
            decode_seconds=max(roofline_seconds(replica, programs[-1]).values()) / settings.max_steps,
            fits=all(not each.error and each.peak_gib <= room for each in programs),
        )

    def with_most_slots(rows: tuple[int, ...], more_than: int) -> EnginePlan:
        found, slots = compiled(most, rows), most
        while not found.fits and wanted is None and slots // 2 > more_than:
            slots //= 2
            found = compiled(slots, rows)
        return found

    best = with_most_slots(scale.extend_rows, more_than=0)
    if best.fits and best.slots == most:
        return best
    # The scores of what is read are the engine's largest temporaries: a row at a time may leave room for more slots.
    other = with_most_slots(scale.extend_rows[:1], more_than=best.slots if best.fits else 0)
    return other if other.fits else best


def _refusal(recipe: Recipe, model: Qwen3VLConfig, config: MeshConfig, mesh: Any, replica: int) -> str:
    """What the training command would say on this mesh's hosts, one process each; empty if it runs.

    Args:
      replica: devices of a rollout replica; 0 = no rollouts.
    """
    from hypereyes_jax.rl.feed import shards_by_process
    from hypereyes_jax.rollout.layout import replica_size

    try:
        if config.platform == "tpu":  # compile-only GPUs do not tell which host they are on
            shards_by_process(mesh)
        elif config.size // config.hosts % config.tensor:
            return f"a data shard of {config.tensor} devices is not within a host of {config.size // config.hosts}"
        if replica:
            replica_size(model.text, config.size // config.hosts, config.hosts, replica)
    except (ValueError, UserError) as error:
        return str(error)
    if recipe.rollout is None:
        what, count, players = "trajectories", recipe.batch, config.hosts
    else:
        what, count = "questions", recipe.rollout.prompts
        players = config.hosts // max(1, replica * config.hosts // config.size)
    if count % players:
        return f"{count} {what} a step do not divide among {players} processes that play: choose a multiple of them"
    return ""


def render(found: Plan) -> str:
    """The plan as text."""
    train = found.train
    limit = f" of {found.capacity_gib:.1f} GiB usable" if found.capacity_gib else ""
    parts = {
        "weights": train.weights_gib,
        "optimiser": train.optimizer_gib,
        "gradients": train.gradients_gib,
        "batch": train.batch_gib,
        "activations": train.activations_gib,
    }
    lines = [
        f"{found.recipe} on {found.mesh}: {_count(found.devices, 'device')}{limit}",
        f"a step: {train.micro_batches} micro-batches of {_count(train.rows, 'row')} of {train.row_tokens:,} tokens",
        "  GiB a device: "
        + ", ".join(f"{name} {_short(size)}" for name, size in parts.items())
        + (f"; on the host {_short(train.host_gib)}" if train.host_gib else ""),
        _program_line(train.program),
        f"  TFLOPs a device: {_short(train.program.tflops)}, of which useful {100 * train.useful_share:.0f} %",
    ]
    if train.step_seconds:
        times = ", ".join(f"{name} {seconds:.2f}" for name, seconds in train.roofline_seconds.items())
        lines.append(
            f"  seconds at the roofline: {times}; bound by {train.bound}: useful FLOPs at {100 * train.peak_share:.0f} "
            "% of peak at best"
        )
    engine = found.engine
    if engine is not None and engine.replicas:
        lines += [
            f"rollout: {_count(engine.replicas, 'replica')} of {_count(engine.devices, 'device')}, "
            f"{_count(engine.slots, 'slot')} of {engine.slot_tokens:,} tokens each",
            f"  GiB a device: weights {_short(engine.weights_gib)}, keys and values {_short(engine.kv_gib)}",
            *(_program_line(each) for each in engine.programs),
        ]
        rows = " ".join(map(str, engine.extend_rows))
        lines.append(
            f"  as settings of `hypereyes rl`: --scale.replica-devices {engine.devices} --scale.slots {engine.slots} "
            f"--scale.extend-rows {rows}"
        )
        if engine.decode_seconds:
            lines.append(f"  a token in every slot: {1000 * engine.decode_seconds:.1f} ms at the roofline")
    elif engine is not None:
        lines.append("rollout: no replica of this mesh holds the weights")
    if found.largest:
        lines.append("largest that fits: " + json.dumps(found.largest))
    if found.refused:
        lines.append(f"`hypereyes {RECIPES[found.recipe].stage}` refuses it: {found.refused}")
    lines.append("FITS" if found.fits else "REFUSED" if found.refused else "DOES NOT FIT")
    return "\n".join(lines)


def _short(number: float) -> str:
    return f"{number:,.1f}" if number >= 10 else f"{number:.3g}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + "s" * (number != 1)


def _program_line(each: ProgramPlan) -> str:
    took = f"[compiled in {each.compile_seconds:.0f} s]"
    if each.error:
        return f"  {each.name}: {each.error} {took}"
    sent = ", ".join(f"{axes} {_short(sum(kinds.values()))}" for axes, kinds in each.sent_gib.items()) or "nothing"
    return f"  {each.name}: peak {_short(each.peak_gib)} GiB, sends GiB by axis: {sent} {took}"


def _known(name: str, table: dict[str, Any], what: str) -> Any:
    if name not in table:
        raise UserError(f"there is no {what} {name!r}. Known: {', '.join(table)}")
    return table[name]


def _model(recipe: Recipe) -> Qwen3VLConfig:
    if recipe.model in PRESETS:
        return PRESETS[recipe.model]
    return Qwen3VLConfig.from_hf(Path(str(resources.files("hypereyes_jax.assets") / recipe.model)))


def _capacity(mesh: MeshConfig) -> float:
    return DEVICES[mesh.device].memory_gib * _USABLE if mesh.device else math.inf


def _largest(fits: Any, start: int, unit: int) -> int:
    """The largest size that fits, to `unit`, or 0: doubling, then halving the gap."""
    low, high = 0, start
    while fits(high):
        low, high = high, high * 2
    while high - low > max(unit, low // 8):
        middle = (low + high) // 2 // unit * unit
        if middle in (low, high):
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
