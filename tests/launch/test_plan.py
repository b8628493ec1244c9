import sys

import pytest

from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch import target
from hypereyes_jax.launch.compiled import ProgramPlan
from hypereyes_jax.launch.plan import PlanConfig, _largest, plan
from hypereyes_jax.launch.roofline import active_parameters, roofline_seconds, useful_flops


def test_the_30b_has_three_billion_active_parameters_and_the_235b_twenty_two():
    for name, low, high in (("30b-a3b", 2.5e9, 3.5e9), ("235b-a22b", 20e9, 23e9)):
        text = PRESETS[name].text
        head_and_embedding = 2 * text.hidden_size * text.vocab_size
        assert low < active_parameters(text) + head_and_embedding < high


def test_a_training_token_costs_six_flops_a_weight_and_an_adapter_token_four():
    model = PRESETS["30b-a3b"]
    weights = active_parameters(model.text) + model.text.hidden_size * model.text.vocab_size
    full = useful_flops(model, 1000, 1, 0, "full")
    assert full == pytest.approx(6000 * weights, rel=1e-3)
    assert useful_flops(model, 1000, 1, 0, "lora") == pytest.approx(full * 2 / 3, rel=1e-3)
    longer = useful_flops(model, 1000, 32_000, 0, "full")
    assert longer - full == pytest.approx(6000 * 48 * 32 * 128 * 31_999)  # scores and values, half of them masked


@pytest.mark.parametrize("limit", [900, 5_000, 33_000])
def test_the_search_finds_the_largest_that_fits(limit):
    found = _largest(lambda n: n <= limit, start=1024, unit=64)
    assert found <= limit
    assert limit - found <= max(64, limit // 8) + 64


def test_traffic_that_leaves_a_node_counts_against_the_network():
    program = ProgramPlan("step", sent_gib={"fsdp": {"all-gather": 2.0}, "expert": {"all-gather": 4.0}})
    times = roofline_seconds(MESHES["h20_8x8"], program)
    assert times["network"] == pytest.approx(2 * 2**30 / 50e9)
    assert times["links"] == pytest.approx(4 * 2**30 / 450e9)
    assert roofline_seconds(MESHES["v5p_64"], program)["network"] == 0.0


def test_compute_and_memory_are_bound_by_the_published_peaks():
    times = roofline_seconds(MESHES["h100_8x8"], ProgramPlan("step", tflops=989 * 3, traffic_gib=3350e9 / 2**30))
    assert (times["compute"], times["memory"]) == (pytest.approx(3.0), pytest.approx(1.0))


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"no recipe 'x'. Known: hypereyes_30b_sft"):
        plan(PlanConfig("x", "cpu"))
    with pytest.raises(UserError, match=r"no mesh 'x'. Known: cpu"):
        plan(PlanConfig("hypereyes_30b_sft", "x"))


def test_preparing_after_jax_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", object())
    with pytest.raises(RuntimeError, match="before jax is imported"):
        target.prepare(MESHES["v5p_64"])


def test_recipes_hold_the_papers_values():
    rl, sft = RECIPES["hypereyes_30b_rl"], RECIPES["hypereyes_30b_sft"]
    assert (rl.rollout.prompts, rl.rollout.group, rl.batch) == (32, 8, 256)
    assert (rl.learner.optimizer.learning_rate, rl.learner.optimizer.b2) == (1e-6, 0.98)
    assert (rl.learner.clip_low, rl.learner.clip_high, rl.learner.dual_clip, rl.learner.tis_cap) == (
        0.2,
        0.28,
        3.0,
        2.0,
    )
    assert rl.row_tokens >= rl.rollout.prompt_tokens + rl.rollout.turns * rl.rollout.turn_tokens
    assert (sft.lora.rank, sft.lora.alpha, sft.lora.dropout) == (8, 32.0, 0.05)
    assert sft.learner.optimizer.warmup_steps == round(0.05 * sft.steps)
    assert sft.steps == -(-sft.samples // sft.batch)
    assert not RECIPES["hypereyes_235b_rl"].distill
    assert RECIPES["hypereyes_235b_rl"].model == RECIPES["hypereyes_235b_sft"].model == "235b-a22b"
