"""How long a whole step takes: the lower bound of each part, and a forecast at a stated efficiency beside it.

A synchronous step: rollouts, with searches they wait for, then the teacher, the optimiser step, and the new weights.
Where rollouts run ahead on devices of their own, it takes as long as the slower of the two sides.
Programs are those that were compiled; how long each takes at least is its roofline. No card measured any of this.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypereyes_jax.configs.mesh import DEVICES, MeshConfig
from hypereyes_jax.configs.model import Qwen3VLConfig
from hypereyes_jax.configs.recipes import Recipe
from hypereyes_jax.learner.balance import balance, stay
from hypereyes_jax.models.flops import useful_flops
from hypereyes_jax.plan.compile import GIB
from hypereyes_jax.plan.report import EnginePlan, StepPlan, TeacherPlan, TrainPlan
from hypereyes_jax.plan.roofline import roofline_seconds
from hypereyes_jax.plan.workload import Workload, log_normal_lengths
from hypereyes_jax.train.sizes import TrainingSizes

_DRAWS = 8  # of a step's lengths, in other orders: which process has which decides what it packs
FAILED_SHARE = 0.5  # of rollouts, which the teacher scores
# Cutting an image into patches, on one core of a host: 20 ms for 1,200 tokens, about.
IMAGE_SECONDS = 0.02


@dataclass(frozen=True)
class Efficiency:
    """What programs reach of their lower bound."""

    matmuls: float  # training, scoring, prefill
    decode: float
    transfers: float = 0.5


# A forecast's assumptions. H100 and H200: Megatron-Bridge's 121 TFLOP/s of 989 in pre-training the same model, where
# our lower bound says 65 to 70 % of the peak. An H20 has a seventh of that peak and as much memory bandwidth: the same
# overheads cost it less. TPUs: MFU of dense models in public reports, lowered for experts. Decode: what public engines
# reach of their devices' memory bandwidth.
EFFICIENCY = {
    "h100": Efficiency(0.18, 0.5),
    "h200": Efficiency(0.18, 0.5),
    "h20": Efficiency(0.6, 0.5),
    "v5e": Efficiency(0.5, 0.5),
    "v5p": Efficiency(0.5, 0.5),
    "v6e": Efficiency(0.4, 0.5),
    "rtx4090": Efficiency(0.4, 0.5),  # as v6e: nothing public for such a model
}
PARTS = ("prefill", "generation", "search", "teacher", "training", "sync", "host")


@dataclass(frozen=True)
class _Rollouts:
    """Seconds of a step's rollouts."""

    prefill: float = 0.0
    generation: float = 0.0
    search: float = 0.0
    sync: float = 0.0


@dataclass(frozen=True)
class EnginePace:
    """What one replica's programs do at a time."""

    engine: EnginePlan
    replica: MeshConfig
    extend_tokens: int  # that an extend call reads
    own_devices: int = 0  # that only sample, of all replicas; 0: the learner's
    ahead: bool = False  # whether they sample while the learner trains

    def seconds(self, name: str) -> float:
        """Seconds of the program whose name begins so, at the roofline."""
        program = next(each for each in self.engine.programs if each.name.startswith(name))
        return max(roofline_seconds(self.replica, program).values())


class Packed(NamedTuple):
    """The rows of a step, over all devices."""

    positions: float
    tokens: int
    length: float  # of the trajectory that a token is of, on average over tokens


def plan_step(
    recipe: Recipe,
    model: Qwen3VLConfig,
    mesh: MeshConfig,
    workload: Workload,
    train: TrainPlan,
    teacher: TeacherPlan | None,
    pace: EnginePace | None,
    sizes: TrainingSizes,
) -> StepPlan | None:
    """The plan of a step of `recipe.batch` trajectories; None on a CPU, which has no published figures.

    Without an engine (SFT, or an engine that does not fit) a step is training and what the host prepares for it.
    """
    if not mesh.device:
        return None
    workload = workload.within(train.context)
    tokens = recipe.batch * workload.tokens
    step = packed(recipe.batch, mesh, workload, train, sizes)
    share = _share_of_planned(model, train, step, recipe.learner.train)
    rollouts = _rollouts(recipe, mesh, workload, pace) if pace is not None else _Rollouts()
    scoring = 0.0
    if teacher is not None:
        of_teacher = share * train.micro_batches / teacher.micro_batches
        scoring = max(roofline_seconds(mesh, teacher.program).values()) * FAILED_SHARE * of_teacher
    seconds = {
        "prefill": rollouts.prefill,
        "generation": rollouts.generation,
        "search": rollouts.search,
        "teacher": scoring,
        "training": train.step_seconds * share,
        "sync": rollouts.sync,
        "host": recipe.batch * workload.images * IMAGE_SECONDS / mesh.hosts,
    }
    efficiency = EFFICIENCY[mesh.device]
    shares = {"prefill": efficiency.matmuls, "training": efficiency.matmuls, "teacher": efficiency.matmuls,
              "generation": efficiency.decode, "sync": efficiency.transfers}  # fmt: skip
    forecast = {part: seconds[part] / shares.get(part, 1.0) for part in PARTS}
    devices = mesh.size + (pace.own_devices if pace is not None else 0)
    at_once = pace is not None and pace.own_devices > 0 and pace.ahead
    total, expected = _total(seconds, at_once), _total(forecast, at_once)
    return StepPlan(
        seconds=seconds | {"total": total},
        forecast_seconds=forecast | {"total": expected},
        efficiency={part: shares.get(part, 1.0) for part in PARTS},
        device_hours=total * devices / 3600,
        forecast_device_hours=expected * devices / 3600,
        tokens=tokens,
        packed_share=step.tokens / step.positions,
        tokens_per_second=tokens / total if total else 0.0,
        steps_a_day=86_400 / expected if expected else 0.0,
        sampled_tokens=recipe.batch * workload.sampled_tokens if pace is not None else 0.0,
    )


def _total(seconds: dict[str, float], at_once: bool) -> float:
    """Seconds of a step whose parts follow each other, or whose rollouts are played while the learner trains."""
    sampling = seconds["prefill"] + seconds["generation"] + seconds["search"]
    if not at_once:
        return sum(seconds.values())
    return max(sampling, sum(seconds.values()) - sampling - seconds["sync"]) + seconds["sync"]


def packed(batch: int, mesh: MeshConfig, workload: Workload, train: TrainPlan, sizes: TrainingSizes) -> Packed:
    """What a step's trajectories are packed into, on average over orders of them.

    Trajectories are dealt out to the hosts, each of which packs for its data shards; with `TrainingSizes.balance` they
    then go where there is room, as `learner.balance` plans it.
    """
    processes = min(mesh.hosts, train.rows)
    rows = train.rows // processes
    positions = []
    for seed in range(_DRAWS):
        drawn = log_normal_lengths(batch, workload.tokens, workload.spread, seed)
        lengths = [max(1, min(round(n), train.context)) for n in drawn]
        parts = [lengths[process::processes] for process in range(processes)]
        plan = (balance if sizes.balance else stay)(parts, sizes.row_lengths, rows)
        positions.append(plan.micro_batches * train.rows * plan.row_length)
    return Packed(sum(positions) / len(positions), sum(lengths), sum(n * n for n in lengths) / sum(lengths))


def _share_of_planned(model: Qwen3VLConfig, train: TrainPlan, step: Packed, mode: str) -> float:
    """What a step computes of the planned one, in which every row is full of one trajectory.

    Attention meets the tokens of a trajectory alone, whatever else is in its row, and no padding.
    """
    planned = train.micro_batches * train.rows * train.row_length
    if train.bound != "compute":
        return step.positions / planned

    def flops(tokens: float, length: float) -> float:
        return useful_flops(model, round(tokens), round(length), 0, mode)

    attention = flops(step.tokens, step.length) - flops(step.tokens, 0)
    return (flops(step.positions, 0) + attention) / flops(planned, train.row_length)


def _rollouts(recipe: Recipe, mesh: MeshConfig, workload: Workload, pace: EnginePace) -> _Rollouts:
    assert recipe.rollout is not None
    engine, device = pace.engine, DEVICES[mesh.device]
    tokens_read = recipe.rollout.prompts * workload.prompt_tokens + recipe.batch * workload.observation_tokens
    calls = tokens_read / engine.replicas / pace.extend_tokens
    images = recipe.batch * workload.images / engine.replicas
    lengths = log_normal_lengths(recipe.batch, workload.sampled_tokens, workload.spread)
    sampling = [length * engine.decode_seconds for length in lengths]
    waits = (workload.turns - 1) * workload.search_seconds
    at_once = engine.replicas * engine.slots
    generation = makespan(sampling, at_once)
    bandwidth = device.network_gbps if mesh.hosts > 1 else device.link_gbps
    return _Rollouts(
        prefill=calls * pace.seconds("extend") + images * pace.seconds("encode"),
        generation=generation,
        search=makespan([each + waits for each in sampling], at_once) - generation,
        sync=engine.weights_gib * GIB / (bandwidth * 1e9),
    )


def makespan(seconds: Sequence[float], at_once: int) -> float:
    """When the last is done, if so many run at once and the next one begins where one ends: waves, and a tail."""
    free = [0.0] * min(at_once, len(seconds))
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)
