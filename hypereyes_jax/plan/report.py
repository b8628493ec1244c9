"""What a plan found, and its text: memory, FLOPs and times of the programs of one device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.plan.compile import ProgramPlan
from hypereyes_jax.plan.loader import LoaderPlan, loader_line


@dataclass(frozen=True)
class TrainPlan:
    """The training step of one device."""

    program: ProgramPlan  # all that a step runs, as one
    remat: str  # what the backward pass keeps: `LearnerConfig.remat`
    rows: int  # of a micro-batch, over all devices
    row_length: int  # of the longest rows that a step may have; a trajectory has `context` at most
    context: int
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
    fits: bool  # beside the teacher's weights, if it has one on its mesh, and what engines keep
    beside_gib: float = 0.0  # that engines keep meanwhile: the base of adapters, or all where rollouts run ahead
    programs: list[ProgramPlan] = field(default_factory=list)  # what a step runs: a micro-batch's gradients, the update


@dataclass(frozen=True)
class TeacherPlan:
    """A frozen teacher on the training's mesh, of one device."""

    model: str
    weights_gib: float  # stay during the training step and the rollouts
    program: ProgramPlan  # scores a step's failed rollouts, its weights included
    micro_batches: int
    fits: bool  # beside the learner's weights and moments, which stay


@dataclass(frozen=True)
class EnginePlan:
    """The rollout engine of one device, on one of the replicas that share the mesh."""

    replicas: int  # 0: no replica of this mesh holds the weights
    devices: int  # a replica
    slots: int  # a replica
    context: int
    cache_tokens: int  # of all slots of a replica together; 0: each has room for the longest trajectory
    extend_rows: tuple[int, ...]  # slots that a call may read given tokens into
    weights_gib: float  # the sampler's copy
    kv_gib: float
    programs: list[ProgramPlan]
    # Of one token in every slot, at the roofline; with drafts by the workload's tokens a step. Kernels that read pages
    # where they lie read those of the workload's rollouts half-way; a view is as long as the longest trajectory.
    decode_seconds: float
    decode_steps: int  # of a decode call
    fits: bool  # beside the learner's weights and moments and the teacher's weights, which stay


@dataclass(frozen=True)
class StepPlan:
    """A whole step on the mesh. Parts: prefill, generation, search, teacher, training, sync, host, total."""

    seconds: dict[str, float]  # lower bounds: what each part takes at the roofline
    forecast_seconds: dict[str, float]  # the same at the stated efficiency
    efficiency: dict[str, float]  # part -> what share of its lower bound's speed the forecast assumes
    device_hours: float  # at least
    forecast_device_hours: float
    tokens: float  # of the step's trajectories
    packed_share: float  # tokens among the positions that the training step computes
    tokens_per_second: float  # of trajectories, over all devices, at most
    steps_a_day: float  # by the forecast
    sampled_tokens: float


@dataclass(frozen=True)
class Plan:
    """All that a plan found out."""

    recipe: str
    mesh: str
    devices: int
    capacity_gib: float | None  # of a device, usable; None on a CPU, which is not limited here
    fits: bool
    train: TrainPlan
    engine: EnginePlan | None
    samplers: int = 0  # of the devices, those that only sample; 0: the same that train
    refused: str = ""  # why `hypereyes sft` or `hypereyes rl` would not run it on this mesh's hosts
    teacher: TeacherPlan | None = None
    step: StepPlan | None = None
    loader: LoaderPlan | None = None  # of SFT, whose batches are read from data
    # of `--largest`: what -> the largest size that "fits", the next one tried that "fails"
    largest: dict[str, dict[str, int]] = field(default_factory=dict)


def render(plan: Plan) -> str:
    """The plan as text."""
    train = plan.train
    limit = f" of {plan.capacity_gib:.1f} GiB usable" if plan.capacity_gib else ""
    share = f"; {plan.devices - plan.samplers} train, {plan.samplers} sample" if plan.samplers else ""
    parts = {
        "weights": train.weights_gib,
        "optimiser": train.optimizer_gib,
        "gradients": train.gradients_gib,
        "batch": train.batch_gib,
        "activations": train.activations_gib,
    }
    lines = [
        f"{plan.recipe} on {plan.mesh}: {_count(plan.devices, 'device')}{limit}{share}",
        f"a step: {_count(train.micro_batches, 'micro-batch', 'es')} of {_count(train.rows, 'row')} of "
        f"{train.row_length:,} tokens",
        "  GiB a device: "
        + ", ".join(f"{name} {_short(size)}" for name, size in parts.items())
        + (f"; on the host {_short(train.host_gib)}" if train.host_gib else ""),
        _program_line(train.program),
        *(_program_line(each) for each in train.programs),
        f"  TFLOPs a device: {_short(train.program.tflops)}, of which useful {100 * train.useful_share:.0f} %",
    ]
    if train.beside_gib:
        whole = train.program.peak_gib + train.beside_gib
        lines.append(f"  engines keep {_short(train.beside_gib)} GiB meanwhile: {_short(whole)} GiB a device in all")
    if train.remat != RECIPES[plan.recipe].learner.remat:
        stage = RECIPES[plan.recipe].stage
        lines.append(f"  as settings of `hypereyes {stage}`: --sizes.learner.remat {train.remat}")
    if train.step_seconds:
        times = ", ".join(f"{name} {_short(seconds)}" for name, seconds in train.roofline_seconds.items())
        lines.append(
            f"  seconds at the roofline: {times}; bound by {train.bound}: useful FLOPs at {100 * train.peak_share:.0f} "
            "% of peak at best"
        )
    teacher = plan.teacher
    if teacher is not None:
        peak = teacher.program.peak_gib + train.weights_gib + train.optimizer_gib + train.beside_gib
        with_teacher = train.program.peak_gib + teacher.weights_gib + train.beside_gib
        lines += [
            f"teacher {teacher.model}: {_short(teacher.weights_gib)} GiB of weights a device, which stay: the training "
            f"step takes {_short(with_teacher)} GiB with them",
            _program_line(teacher.program),
            f"  a step scores {_count(teacher.micro_batches, 'micro-batch', 'es')}; {_short(peak)} GiB a device with "
            "what stays beside it",
        ]
    elif RECIPES[plan.recipe].distill:
        lines.append("teacher: not on this mesh (behind a server, or none); `--teacher MODEL` plans one that is")
    engine = plan.engine
    if engine is not None and engine.replicas:
        at_once = engine.replicas * engine.slots
        lines += [
            f"rollout: {_count(engine.replicas, 'replica')} of {_count(engine.devices, 'device')}, "
            + f"{_count(engine.slots, 'slot')} of "
            + (
                f"{engine.cache_tokens:,} tokens together, at most {engine.context:,} each"
                if engine.cache_tokens
                else f"{engine.context:,} tokens each"
            ),
            f"  GiB a device: weights {_short(engine.weights_gib)}, keys and values {_short(engine.kv_gib)}",
            *(_program_line(each) for each in engine.programs),
        ]
        rows = " ".join(map(str, engine.extend_rows))
        lines.append(
            f"  as settings of `hypereyes rl`: --sizes.replica-devices {engine.devices} --sizes.slots {engine.slots} "
            + (f"--sizes.cache-tokens {engine.cache_tokens} " if engine.cache_tokens else "")
            + f"--sizes.extend-rows {rows}"
        )
        if engine.decode_seconds:
            lines.append(
                f"  a token in every slot: {1000 * engine.decode_seconds:.1f} ms at the roofline, {at_once:,} rollouts "
                f"at once: {at_once / engine.decode_seconds:,.0f} tokens a second at most"
            )
    elif engine is not None:
        lines.append("rollout: no replica of this mesh holds the weights")
    if plan.step is not None:
        lines += _step_lines(plan.step)
    if plan.loader is not None:
        lines.append(loader_line(plan.loader))
    for what, ends in plan.largest.items():
        name = {"context": "tokens a row", "rows": "rows of a micro-batch"}[what]
        lines.append(f"largest that fits: {ends['fits']:,} {name} ({ends['fails']:,} do not)")
    if not plan.largest and plan.capacity_gib:
        lines.append("`--largest` looks for the longest rows and the most rows that fit")
    if plan.refused:
        lines.append(f"`hypereyes {RECIPES[plan.recipe].stage}` refuses it: {plan.refused}")
    lines.append("FITS" if plan.fits else "REFUSED" if plan.refused else "DOES NOT FIT")
    return "\n".join(lines)


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain values; `train` and `rollout` say of their programs what one reads first."""
    out = asdict(plan)
    train, engine = plan.train, plan.engine
    out["train"] |= {
        "kernels": train.program.launches.kernels,
        "host_synced_loops": train.program.launches.host_synced_loops,
        "host_synced_branches": train.program.launches.host_synced_branches,
        "launch_seconds": train.program.launches.seconds,
        "useful_flop_share": train.useful_share,
    }
    if engine is not None and engine.replicas:
        at_once = engine.replicas * engine.slots
        out["rollout"] = {
            **{each.name.split()[0]: _launched(each, engine) for each in engine.programs},
            "rollouts_at_once": at_once,
            "tokens_per_second": at_once / engine.decode_seconds if engine.decode_seconds else 0.0,
        }
    return out


def _launched(program: ProgramPlan, engine: EnginePlan) -> dict[str, float]:
    """Launches of one run of a program; of decode, of one step of every slot: a token, or with drafts a few."""
    tokens = engine.decode_steps if program.name.startswith("decode") else 1
    launches = program.launches * (1 / tokens)
    return {
        "kernels": launches.kernels,
        "host_synced_loops": launches.host_synced_loops,
        "host_synced_branches": launches.host_synced_branches,
        "launch_seconds": launches.seconds,
    }


def _step_lines(step: StepPlan) -> list[str]:
    def parts(seconds: dict[str, float]) -> str:
        return ", ".join(f"{name} {_short(each)}" for name, each in seconds.items() if each)

    assumed = ", ".join(f"{name} {100 * share:.0f} %" for name, share in step.efficiency.items() if share != 1)
    return [
        f"a whole step, seconds at least: {parts(step.seconds)}; {_short(step.device_hours)} device-hours",
        f"  {100 * step.packed_share:.0f} % of the positions that train are tokens of the workload's trajectories",
        f"  forecast at an assumed share of that speed ({assumed}): {parts(step.forecast_seconds)}; "
        f"{_short(step.forecast_device_hours)} device-hours, {_short(step.steps_a_day)} steps a day",
    ]


def _short(number: float) -> str:
    return f"{number:,.1f}" if number >= 10 else f"{number:.3g}"


def _count(number: int, what: str, plural: str = "s") -> str:
    return f"{number} {what}{plural if number != 1 else ''}"


def _program_line(each: ProgramPlan) -> str:
    took = f"[compiled in {each.compile_seconds:.0f} s]"
    if each.error:
        return f"  {each.name}: {each.error} {took}"
    transfers = ", ".join(f"{axes} {_short(sum(kinds.values()))}" for axes, kinds in each.sent_gib.items()) or "nothing"
    launches = ""
    if each.launches.kernels:
        waits = each.launches.host_synced_loops + each.launches.host_synced_branches
        launches = (
            f", launches {each.launches.kernels:,.0f} kernels and waits {waits:,.0f} times for the host "
            f"({_short(each.launches.seconds)} s)"
        )
    return f"  {each.name}: peak {_short(each.peak_gib)} GiB, sends GiB by axis: {transfers}{launches} {took}"
