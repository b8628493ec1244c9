"""Whether a recipe fits a mesh, how fast it could be, and what bounds it: compiled for hardware that is not there."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hypereyes_jax.configs.images import PIXELS_A_TOKEN
from hypereyes_jax.configs.mesh import DEVICES, MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.recipes import RECIPES, AdapterConfig, Recipe
from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.global_batch import shards_by_process
from hypereyes_jax.models.flops import useful_flops
from hypereyes_jax.models.partition import ShardingError
from hypereyes_jax.models.sharding import make_mesh
from hypereyes_jax.plan import topology
from hypereyes_jax.plan.compile import GIB, compile_program, in_turn
from hypereyes_jax.plan.engine import plan_engine
from hypereyes_jax.plan.figures import default_figures_folder
from hypereyes_jax.plan.loader import plan_loader
from hypereyes_jax.plan.programs import (
    abstract_batch,
    extended_rows,
    teacher_scoring,
    train_step,
)
from hypereyes_jax.plan.report import EnginePlan, Plan, TeacherPlan, TrainPlan
from hypereyes_jax.plan.roofline import roofline_seconds
from hypereyes_jax.plan.settings import PlanConfig, default_sizes, known, planned_meshes, planned_model
from hypereyes_jax.plan.step import EnginePace, plan_step
from hypereyes_jax.rollout.replicas.layout import replica_size
from hypereyes_jax.train.sizes import MINIATURE_RL, TrainingSizes, with_longer_rows, with_moments_that_fit

# Left to the runtime: XLA's own reserve on GPUs, the system's on TPUs.
_USABLE = 0.94


def plan(config: PlanConfig) -> Plan:
    """Compile and measure. `plan.platform.prepare` must have run, before jax was imported.

    Raises UserError for an unknown recipe, mesh or teacher, settings that training would refuse, a mesh that does not
    divide a model, a search without a limit of memory, or a missing compiler.
    """
    recipe = known(config.recipe, RECIPES, "recipe")
    model = planned_model(config.model or recipe.model)
    mesh_config, samplers = planned_meshes(config.mesh, model)
    sizes = with_moments_that_fit(_sizes(config, recipe), recipe.name, config.mesh)
    sizes = with_longer_rows(sizes, recipe.name, config.mesh)
    _check(config, recipe, mesh_config, samplers)
    recipe = _with_sizes(recipe, sizes, distils=recipe.distill or bool(config.teacher))
    teacher_model = planned_model(config.teacher) if config.teacher else None
    try:
        mesh = make_mesh(mesh_config, topology.devices(mesh_config)[: mesh_config.size])
        steps = {
            remat: train_step(_keeping(recipe, remat), model, mesh) for remat in _remat_choices(recipe, mesh_config)
        }
    except ShardingError as error:
        raise UserError(f"{recipe.name} can't run on mesh {mesh_config.name}: {error}") from error
    try:
        scoring = None if teacher_model is None else teacher_scoring(teacher_model, sizes.learner.compute_dtype, mesh)
    except ShardingError as error:
        raise UserError(f"teacher {config.teacher} can't run on mesh {mesh_config.name}: {error}") from error
    shards = mesh_config.data_shards
    rows, context = shards * recipe.shard_rows, recipe.context
    capacity = _capacity(mesh_config)
    room = capacity - (scoring.weights / GIB if scoring is not None else 0.0)

    def trained(rows: int, context: int, beside: float = 0.0) -> TrainPlan:
        """`beside`: GiB of a device that an engine keeps during the step."""
        result = None
        for remat, step in steps.items():
            left = room - beside
            own_sizes = replace(sizes, context=context)
            result = _train_plan(_keeping(recipe, remat), model, mesh_config, step, own_sizes, rows, left)
            if result.fits:
                break
        assert result is not None
        return replace(result, beside_gib=beside)

    def sampled(train: TrainPlan) -> EnginePlan | None:
        if not config.rollout or recipe.rollout is None:
            return None
        free = capacity if samplers is not None else room - train.weights_gib - train.optimizer_gib
        on = samplers or mesh_config
        result = plan_engine(recipe, model, on, sizes, config.workload, free, train.context)
        result = replace(result, decode_seconds=result.decode_seconds / config.workload.tokens_a_step)
        if config.ahead and recipe.lora is None:  # new weights come before the old ones go
            swapping = 2 * result.weights_gib + result.kv_gib
            result = replace(result, fits=result.fits and swapping <= free)
        return result

    def scored(train: TrainPlan) -> TeacherPlan | None:
        if scoring is None or teacher_model is None:
            return None
        return _teacher_plan(config.teacher, recipe, teacher_model, mesh_config, scoring, sizes, capacity, train)

    def all_fit(rows: int, context: int) -> bool:
        train = trained(rows, context, beside)
        if not train.fits:
            return False
        teacher = scored(train)
        if teacher is not None and not teacher.fits:
            return False
        slots = engine if context == recipe.context else sampled(train)
        return slots is None or slots.fits

    train = trained(rows, context)
    engine = sampled(train)
    if beside := _kept_gib(engine, recipe, mesh_config.size, config.ahead) if samplers is None else 0.0:
        train = trained(rows, context, beside)
    teacher = scored(train)
    refusal = _refusal(recipe, model, mesh_config, mesh, engine.devices if engine is not None else 0, samplers)
    pace = _pace(engine, mesh_config, samplers, model, sizes, config.ahead)
    largest = {}
    if config.largest:
        largest = {
            "context": _largest(lambda n: all_fit(rows, n), context, unit=1024),
            "rows": _largest(lambda n: all_fit(n, context), rows, unit=shards),
        }
    return Plan(
        recipe=recipe.name,
        mesh=config.mesh,
        devices=mesh_config.size + (samplers.size if samplers is not None else 0),
        samplers=samplers.size if samplers is not None else 0,
        capacity_gib=capacity if mesh_config.device else None,
        fits=all(part is None or part.fits for part in (train, teacher, engine)) and not refusal,
        train=train,
        engine=engine,
        refused=refusal,
        teacher=teacher,
        step=plan_step(recipe, model, mesh_config, config.workload, train, teacher, pace, sizes),
        largest=largest,
        loader=plan_loader(recipe, model, mesh_config, train.step_seconds) if recipe.stage == "sft" else None,
    )


def _kept_gib(engine: EnginePlan | None, recipe: Recipe, devices: int, ahead: bool) -> float:
    """GiB of a device that an engine keeps during the training step."""
    if engine is None:
        return 0.0
    if ahead:
        return engine.weights_gib + engine.kv_gib
    # Where adapters train, engines of several devices keep their copy of the base, which is not sent again.
    keeps_base = recipe.stage == "rl" and recipe.lora is not None and devices > 1
    return engine.weights_gib if keeps_base else 0.0


def _sizes(config: PlanConfig, recipe: Recipe) -> TrainingSizes:
    """The sizes to plan. Raises UserError for those that the training command would refuse."""
    default = default_sizes(recipe)
    if config.sizes == MINIATURE_RL:  # nothing was given, and the recipe not named first
        return default
    for name in ("schedule", "learning_rate", "final_learning_rate", "warmup_steps", "total_steps"):
        if getattr(config.sizes.learner.optimizer, name) != getattr(default.learner.optimizer, name):
            raise UserError(
                f"these settings are not {recipe.name}'s: name the recipe first (hypereyes plan {recipe.name} ...), it "
                "decides the others' defaults; and leave learning rates out, they change no plan"
            )
    return config.sizes


def _check(config: PlanConfig, recipe: Recipe, mesh: MeshConfig, samplers: MeshConfig | None) -> None:
    """Raises UserError for options that do not go with the recipe or the mesh."""
    if samplers is not None and recipe.stage == "sft":
        raise UserError(f"--mesh {config.mesh}: {recipe.name} plays no rollouts; give it one mesh")
    if config.teacher and recipe.stage == "sft":
        raise UserError(f"--teacher is for RL; {recipe.name} learns from demonstrations")
    if config.ahead and recipe.stage == "sft":
        raise UserError(f"--ahead is for RL; {recipe.name} plays no rollouts")
    if config.largest and not mesh.device:
        raise UserError(f"--largest needs a mesh whose devices' memory is known; {mesh.name} is a CPU's")
    tokens, drafts = config.workload.tokens_a_step, config.sizes.draft_tokens
    if not 1 <= tokens <= drafts + 1:
        raise UserError(
            f"--workload.tokens-a-step {tokens:g} must be 1 to {drafts + 1}: a decode step gives a rollout one token "
            f"and at most {drafts} more (--sizes.draft-tokens)"
        )


def _with_sizes(recipe: Recipe, sizes: TrainingSizes, distils: bool) -> Recipe:
    """The recipe as it is with these sizes."""
    return replace(
        recipe,
        learner=sizes.learner,
        context=sizes.context,
        shard_rows=sizes.shard_rows,
        row_images=sizes.row_images,
        image_tokens=sizes.max_pixels // PIXELS_A_TOKEN,
        distill=distils,
        lora=(recipe.lora or AdapterConfig(dropout=0.0)) if sizes.learner.train == "lora" else None,
    )


def _keeping(recipe: Recipe, remat: Any) -> Recipe:
    return replace(recipe, learner=replace(recipe.learner, remat=remat))


def _remat_choices(recipe: Recipe, mesh: MeshConfig) -> tuple[str, ...]:
    """What the backward pass may keep, best first: what was asked for, or what the memory of the devices allows."""
    remat = recipe.learner.remat
    default = default_sizes(RECIPES[recipe.name]).learner.remat
    return ("attention", "full") if remat == default != "none" and mesh.device else (remat,)


def _train_plan(
    recipe: Recipe,
    model: Qwen3VLConfig,
    mesh: MeshConfig,
    step: Any,
    sizes: TrainingSizes,
    rows: int,
    room: float,
) -> TrainPlan:
    """The plan of a step with the longest of the rows that it may have."""
    micro_batches = math.ceil(recipe.batch / (rows * sizes.row_samples))
    tokens = max(sizes.row_lengths)
    batch = abstract_batch(recipe, model, micro_batches, rows, tokens)
    # While a micro-batch is computed, the next one is on its way.
    micro_gib, moments_gib = step.micro_batch(batch) / GIB, step.optimizer / GIB
    several = micro_batches > 1
    programs = [
        (
            compile_program(part.name, part.trace, mesh, default_figures_folder()),
            part.times,
            0.0 if part.name == "update" else moments_gib + (micro_gib if several else 0.0),
        )
        for part in step.parts(batch)
    ]
    program = in_turn("training step", programs)
    patches = rows * recipe.row_images * recipe.image_tokens * model.vision.merge_unit
    useful = useful_flops(model, rows * tokens, tokens, patches, recipe.learner.train)
    useful *= micro_batches / mesh.size
    seconds = roofline_seconds(mesh, program)
    bound = max(seconds, key=lambda name: seconds[name])
    peak = DEVICES[mesh.device].bf16_tflops if mesh.device else math.inf
    batch_gib = micro_gib * (2 if several else 1)
    resident = (step.weights + step.optimizer + step.gradients) / GIB + batch_gib
    return TrainPlan(
        program=program,
        programs=[plan for plan, _, _ in programs],
        remat=recipe.learner.remat,
        rows=rows,
        row_length=tokens,
        context=sizes.context,
        micro_batches=micro_batches,
        weights_gib=step.weights / GIB,
        optimizer_gib=step.optimizer / GIB,
        gradients_gib=step.gradients / GIB,
        batch_gib=batch_gib,
        activations_gib=max(program.peak_gib - resident, 0.0),
        host_gib=step.host / GIB,
        useful_tflops=useful / 1e12,
        roofline_seconds=seconds,
        bound=bound,
        step_seconds=seconds[bound],
        useful_share=useful / 1e12 / program.tflops if program.tflops else 0.0,
        peak_share=useful / 1e12 / peak / seconds[bound] if seconds[bound] else 0.0,
        fits=not program.error and program.peak_gib <= room,
    )


def _teacher_plan(
    name: str,
    recipe: Recipe,
    model: Qwen3VLConfig,
    mesh: MeshConfig,
    scoring: Any,
    sizes: TrainingSizes,
    capacity: float,
    train: TrainPlan,
) -> TeacherPlan:
    """Scoring a step's failed rollouts, about half of them; the engines have left but for what they keep."""
    micro_batches = math.ceil(recipe.batch / 2 / (train.rows * sizes.row_samples))
    batch = abstract_batch(replace(recipe, distill=False), model, micro_batches, train.rows, train.row_length)
    scoring_program = compile_program(
        "teacher's scoring of a micro-batch", lambda: scoring.trace(batch), mesh, default_figures_folder()
    )
    beside = scoring.micro_batch(batch) / GIB if micro_batches > 1 else 0.0
    program = in_turn("teacher's scoring", [(scoring_program, micro_batches, beside)])
    peak = program.peak_gib + train.weights_gib + train.optimizer_gib + train.beside_gib
    return TeacherPlan(
        model=name,
        weights_gib=scoring.weights / GIB,
        program=program,
        micro_batches=micro_batches,
        fits=not program.error and peak <= capacity,
    )


def _pace(
    engine: EnginePlan | None,
    learner: MeshConfig,
    samplers: MeshConfig | None,
    model: Qwen3VLConfig,
    sizes: TrainingSizes,
    ahead: bool,
) -> EnginePace | None:
    """The pace of an engine whose programs were all compiled."""
    if engine is None or not engine.fits:
        return None
    mesh = samplers or learner
    replica = mesh.sampler_replica(*replica_size(model.text, mesh.size // mesh.hosts, mesh.hosts, engine.devices))
    settings = replace(
        sizes, slots=engine.slots, cache_tokens=engine.cache_tokens, extend_rows=engine.extend_rows
    ).engine()
    tokens = extended_rows(settings, replica.expert) * settings.extend_tokens[-1]
    return EnginePace(engine, replica, tokens, samplers.size if samplers is not None else 0, ahead)


def _refusal(
    recipe: Recipe,
    model: Qwen3VLConfig,
    config: MeshConfig,
    mesh: Any,
    replica: int,
    samplers: MeshConfig | None = None,
) -> str:
    """What the training command would say on this mesh's hosts, one process each; empty if it runs.

    Args:
      replica: devices of a rollout replica; 0 = no rollouts.
      samplers: devices of their own, of each host; a replica is on those of one.
    """
    try:
        if config.platform == "tpu":  # compile-only GPUs do not tell which host they are on
            shards_by_process(mesh)
        elif config.size // config.hosts % config.tensor:
            return f"a data shard of {config.tensor} devices is not within a host of {config.size // config.hosts}"
        sampling = samplers or config
        a_host = sampling.size // sampling.hosts
        if samplers is not None and replica > a_host:
            return f"a rollout replica of {replica} devices is not within a host, which samples with {a_host}"
        if replica:
            replica_size(model.text, a_host, sampling.hosts, replica)
    except (ValueError, UserError) as error:
        return str(error)
    if recipe.rollout is None:
        what, count, players = "trajectories", recipe.batch, config.hosts
    else:
        what, count = "questions", recipe.rollout.prompts
        players = config.hosts // max(1, replica // a_host)
    if count % players:
        return f"{count} {what} a step do not divide among {players} processes that play: choose a multiple of them"
    return ""


def _capacity(mesh: MeshConfig) -> float:
    return DEVICES[mesh.device].memory_gib * _USABLE if mesh.device else math.inf


def _largest(fits: Callable[[int], bool], start: int, unit: int) -> dict[str, int]:
    """The largest size found that "fits" (0: none) and the smallest that "fails": an eighth apart, or a `unit`.

    Each try compiles for minutes, so the gap is left.
    """
    low, high = 0, start
    while fits(high):
        low, high = high, high * 2
    while high - low > max(unit, low // 8):
        middle = (low + high) // 2 // unit * unit
        if middle in (low, high):
            break
        low, high = (middle, high) if fits(middle) else (low, middle)
    return {"fits": low, "fails": high}
