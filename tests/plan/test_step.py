"""The time of a whole step, by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.models.flops import active_parameters
from hypereyes_jax.plan.compile import ProgramPlan
from hypereyes_jax.plan.launches import Launches
from hypereyes_jax.plan.report import EnginePlan, Plan, TeacherPlan, TrainPlan, as_json, render
from hypereyes_jax.plan.step import (
    EFFICIENCY,
    FAILED_SHARE,
    IMAGE_SECONDS,
    EnginePace,
    makespan,
    packed,
    plan_step,
)
from hypereyes_jax.plan.workload import Workload, log_normal_lengths
from hypereyes_jax.train.sizes import sizes_of

MESH, RECIPE = MESHES["h20_8x8"], RECIPES["hypereyes_30b_rl"]
SIZES, MODEL = sizes_of(RECIPE), PRESETS[RECIPE.model]
ROWS, CONTEXT, MICRO_BATCHES = 64, 38_912, 4
TRAIN = TrainPlan(
    ProgramPlan("training step", launches=Launches(1000, 3, 2)), "full", ROWS, CONTEXT, CONTEXT, MICRO_BATCHES,
    *[1.0] * 7, {}, "compute", 80.0, 0.7, 0.6, fits=True,
)  # fmt: skip


def engine(decode_seconds=0.01, slots=16):
    programs = [
        ProgramPlan("encode an image of 1200 tokens", tflops=148 * 0.001),
        ProgramPlan("extend 4 x 256 tokens", tflops=148 * 0.05),
        ProgramPlan("decode 16 tokens in 16 slots", launches=Launches(16_000, 32, 0)),
    ]
    return EnginePlan(16, 4, slots, CONTEXT, 0, (1, 4), 50e9 / 2**30, 1.0, programs, decode_seconds, 16, fits=True)


def test_lengths_are_log_normal_with_the_mean_asked_for():
    lengths = log_normal_lengths(1001, 10_000, 0.6)
    assert lengths.mean() == pytest.approx(10_000)
    assert np.log(np.median(lengths)) == pytest.approx(np.log(10_000) - 0.6**2 / 2, abs=0.01)
    assert np.log(lengths).std() == pytest.approx(0.6, rel=0.02)
    assert not (np.diff(lengths) > 0).all()  # not in order


def test_waves_and_the_tail_of_rollouts_are_counted():
    assert makespan([3.0, 1.0, 2.0], at_once=3) == 3.0
    assert makespan([3.0, 1.0, 2.0], at_once=2) == 3.0  # the third begins where the second ends
    assert makespan([1.0] * 8, at_once=4) == 2.0  # two waves
    assert makespan([1.0] * 4 + [9.0], at_once=4) == 10.0  # one long rollout holds all


def test_a_step_of_equal_rollouts_is_the_sum_of_its_parts():
    workload = Workload(1_000, 2_000, 5_000, turns=3, images=5, spread=1e-9, search_seconds=4.0)
    pace = EnginePace(engine(), MESH.sampler_replica(1, 4), extend_tokens=1024)
    found = plan_step(RECIPE, MODEL, MESH, workload, TRAIN, None, pace, SIZES)
    assert found.seconds["generation"] == pytest.approx(2_000 * 0.01)  # 256 at once: one wave
    assert found.seconds["search"] == pytest.approx(2 * 4.0)  # after all turns but the last
    read = (32 * 1_000 + 256 * 5_000) / 16  # a replica's; prompts once a group
    assert found.seconds["prefill"] == pytest.approx(read / 1024 * 0.05 + 256 * 5 / 16 * 0.001)
    computed = 64 * 32_768  # four in a row of the second of the lengths to choose from
    assert found.packed_share == 256 * 8_000 / computed
    # 6 FLOPs a weight and position; and 6 x 2 / 2 a position looked at, head and dimension of a head, of the tokens of
    # a trajectory alone, where the planned step has rows full of one
    text = MODEL.text
    weights = active_parameters(text) + text.hidden_size * text.vocab_size
    attention = 6 * text.num_hidden_layers * text.num_attention_heads * text.head_dim
    planned = ROWS * CONTEXT * MICRO_BATCHES * (6 * weights + attention * CONTEXT)
    real = computed * 6 * weights + 256 * 8_000 * attention * 8_000
    assert found.seconds["training"] == pytest.approx(80 * real / planned)
    assert found.seconds["sync"] == pytest.approx(1.0)  # 50 GB over 50 GB/s
    assert found.seconds["host"] == pytest.approx(256 * 5 * IMAGE_SECONDS / 8)
    assert found.seconds["teacher"] == 0
    parts = [value for name, value in found.seconds.items() if name != "total"]
    assert found.seconds["total"] == pytest.approx(sum(parts))
    assert found.device_hours == pytest.approx(found.seconds["total"] * 64 / 3600)


def test_the_forecast_divides_by_the_efficiency_that_it_states():
    pace = EnginePace(engine(), MESH.sampler_replica(1, 4), extend_tokens=1024)
    found = plan_step(RECIPE, MODEL, MESH, Workload(), TRAIN, None, pace, SIZES)
    for part, share in found.efficiency.items():
        assert found.forecast_seconds[part] == pytest.approx(found.seconds[part] / share)
    assert found.efficiency["training"] == EFFICIENCY["h20"].matmuls
    assert found.efficiency["search"] == found.efficiency["host"] == 1.0
    assert found.forecast_seconds["total"] > found.seconds["total"]
    assert found.steps_a_day == pytest.approx(86_400 / found.forecast_seconds["total"])


def test_fewer_slots_take_waves():
    replica = MESH.sampler_replica(1, 4)
    workload = Workload(spread=1e-9)
    paces = [EnginePace(engine(slots=n), replica, 1024) for n in (16, 4)]
    many, few = (plan_step(RECIPE, MODEL, MESH, workload, TRAIN, None, pace, SIZES) for pace in paces)
    assert few.seconds["generation"] == pytest.approx(4 * many.seconds["generation"])


def test_the_teacher_scores_the_failed_rollouts():
    scoring = ProgramPlan("teacher's scoring", tflops=148 * 30.0)
    teacher = TeacherPlan("235b-a22b", 7.0, scoring, 2, fits=True)
    found = plan_step(RECIPE, MODEL, MESH, Workload(), TRAIN, teacher, None, SIZES)
    of_planned = found.seconds["training"] / 80 * MICRO_BATCHES
    assert found.seconds["teacher"] == pytest.approx(30 * FAILED_SHARE * of_planned / 2)


def test_a_step_that_is_not_bound_by_compute_takes_its_share_of_positions():
    train = replace(TRAIN, bound="memory")
    found = plan_step(RECIPE, MODEL, MESH, Workload(), train, None, None, SIZES)
    computed = packed(256, MESH, Workload(), train, SIZES).positions
    assert found.seconds["training"] == pytest.approx(80 * computed / (ROWS * CONTEXT * MICRO_BATCHES))


def _positions(*arguments):
    return packed(*arguments).positions


def test_positions_are_those_of_rows_that_the_trajectories_are_packed_into():
    equal = Workload(1_000, 2_000, 5_000, spread=1e-9)
    one = replace(SIZES, row_choices=())
    assert _positions(256, MESH, equal, TRAIN, one) == 64 * CONTEXT  # four in a row, one row a shard
    assert _positions(257 * 8, MESH, equal, TRAIN, one) == 9 * 64 * CONTEXT  # each of eight hosts has 257
    longer = replace(SIZES, row_choices=(24_576, 32_768, 45_056, 57_344))
    # Log-normal lengths of 10,000 tokens on average: two rows a shard, or one that is longer than a trajectory may be.
    workload = Workload(2_000, 1_800, 6_200)
    share = {sizes: 256 * 10_000 / _positions(256, MESH, workload, TRAIN, sizes) for sizes in (SIZES, longer)}
    assert share[longer] >= 0.88
    assert share[SIZES] < 0.7
    apart, together = (
        _positions(256, MESH, workload, TRAIN, replace(longer, balance=balance)) for balance in (False, True)
    )
    assert apart > together


def test_sft_is_training_and_the_hosts_work():
    found = plan_step(RECIPES["hypereyes_30b_sft"], MODEL, MESH, Workload(), TRAIN, None, None, SIZES)
    assert {name for name, seconds in found.seconds.items() if seconds} == {"training", "host", "total"}


def test_short_rows_hold_shorter_trajectories_in_proportion():
    short = Workload().within(1_024)
    assert short.tokens == pytest.approx(512)
    assert short.sampled_tokens / short.tokens == pytest.approx(Workload().sampled_tokens / Workload().tokens)
    assert Workload().within(38_912) == Workload()


def test_a_cpu_has_no_published_figures():
    assert plan_step(RECIPE, MODEL, MESHES["cpu"], Workload(), TRAIN, None, None, SIZES) is None


def test_the_json_says_what_is_launched_a_step_and_a_token():
    pace = EnginePace(engine(), MESH.sampler_replica(1, 4), extend_tokens=1024)
    step = plan_step(RECIPE, MODEL, MESH, Workload(), TRAIN, None, pace, SIZES)
    plan = Plan(RECIPE.name, MESH.name, 64, 131.0, True, TRAIN, engine(), step=step)
    found = as_json(plan)
    assert (found["train"]["kernels"], found["train"]["host_synced_loops"]) == (1000, 3)
    assert found["train"]["useful_flop_share"] == TRAIN.useful_share
    decode, extend = found["rollout"]["decode"], found["rollout"]["extend"]
    assert (decode["kernels"], decode["host_synced_loops"]) == (1000, 2)  # of 16 tokens
    assert extend["kernels"] == 0
    assert found["rollout"]["rollouts_at_once"] == 256
    assert found["rollout"]["tokens_per_second"] == pytest.approx(256 / 0.01)
    assert set(found["step"]["seconds"]) == {
        "prefill", "generation", "search", "teacher", "training", "sync", "host", "total",
    }  # fmt: skip
    text = render(plan)
    assert "launches 1,000 kernels and waits 5 times for the host" in text
    assert "256 rollouts at once: 25,600 tokens a second at most" in text
    assert "a whole step, seconds at least" in text
    assert "a whole step" not in render(replace(plan, step=None))
