"""The training commands over several processes, as the cluster scripts start them, against one process."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from hypereyes_jax.data.files import read_questions, write_questions
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.models.pretrained import load_model, save_model
from hypereyes_jax.models.qwen3_vl import init_params
from hypereyes_jax.train.question_selection import SELECTION
from tests.launch.ports import free_port
from tests.launch.small_model import small_model

ROOT = Path(__file__).parents[2]


def hypereyes(*arguments, devices=1):
    script = "import sys; from hypereyes_jax.cli.main import main; sys.exit(main())"
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(*processes):
    for process in processes:
        _, errors = process.communicate(timeout=1200)
        assert process.returncode == 0, errors[-3000:]


def together(*arguments, devices=2):
    """One command in two processes of some devices each, as the cluster scripts start it."""
    told = (
        "--distributed.join",
        "--distributed.coordinator",
        f"127.0.0.1:{free_port()}",
        "--distributed.processes",
        2,
        "--distributed.heartbeat-timeout",
        600,
    )  # fmt: skip - a busy machine may stop a process for minutes
    finish(*(hypereyes(*arguments, *told, "--distributed.process", process, devices=devices) for process in range(2)))


def steps(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_commands_run_in_two_processes_and_sft_gives_the_model_of_one(tmp_path):
    base = ROOT / "hypereyes_jax" / "assets" / "base"
    data = tmp_path / "data"
    finish(hypereyes("synth", "--out", data, "--sft-questions", 24, "--rl-candidates", 24, "--eval-questions", 4))
    # Adam's first steps are as large as the learning rate even where a gradient is rounding alone.
    tuned = ("sft", "--checkpoint", base, "--demonstrations", data / "demonstrations.jsonl", "--settings.batch", 8,
             "--settings.epochs", 1, "--settings.dropout", 0.0, "--settings.learning-rate", 1e-3)  # fmt: skip
    together(*tuned, "--out", tmp_path / "pair")
    finish(hypereyes(*tuned, "--out", tmp_path / "alone"))
    weights = [load_file(tmp_path / name / "model" / "model.safetensors") for name in ("pair", "alone")]
    before = load_file(base / "model.safetensors")
    assert any(np.abs(weights[1][name] - before[name]).max() > 1e-4 for name in before)
    for name, wanted in weights[1].items():
        np.testing.assert_allclose(weights[0][name], wanted, atol=1e-5, err_msg=name)
    for pair, alone in zip(steps(tmp_path / "pair"), steps(tmp_path / "alone"), strict=True):
        assert pair["sft/loss"] == pytest.approx(alone["sft/loss"], rel=1e-4)

    # One replica over both processes, each of one device: the first one plays, the second follows.
    together("rl", "--checkpoint", tmp_path / "pair" / "model", "--questions", data / "rl_candidates.jsonl",
             "--teacher", base.with_name("teacher"), "--out", tmp_path / "rl", "--settings.steps", 2,
             "--settings.prompts", 2, "--settings.group", 4, "--search.transport", "in-process",
             "--search.latency", 0, "--settings.checkpoint-every", 1, "--sizes.replica-devices", 2,
             devices=1)  # fmt: skip
    assert (tmp_path / "rl" / "model" / "model.safetensors").exists()
    assert [row["step"] for row in steps(tmp_path / "rl")] == [0, 1]
    assert all(0 <= row["rl/accuracy"] <= 1 and np.isfinite(row["rl/grad_norm"]) for row in steps(tmp_path / "rl"))


def small_moe(path, base, seed=0):
    """A random model with experts, in the layout and with the tokenizer of the miniature's."""
    config, _, _ = load_model(base)
    # The router's balance is that of a micro-batch, and two processes fill other ones than one: it may not weigh here.
    text = replace(
        config.text, hidden_size=64, intermediate_size=96, num_hidden_layers=2, head_dim=32, mrope_section=(6, 5, 5),
        num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, router_aux_loss_coef=0.0,
    )  # fmt: skip
    vision = replace(config.vision, hidden_size=32, intermediate_size=64, out_hidden_size=64)
    model = replace(config, text=text, vision=vision)
    save_model(path, model, init_params(jax.random.key(seed), model), base)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "devices"),
    [((), 2), (("--mesh", "learner=4,sampler=4"), 4)],
    ids=["on the learner's devices", "on devices of their own"],
)
def test_rollouts_run_ahead_in_two_processes(tmp_path, mesh, devices):
    data, out = tmp_path / "data", tmp_path / "rl"
    finish(hypereyes("synth", "--out", data, "--sft-questions", 6, "--rl-candidates", 8, "--eval-questions", 4))
    base = small_model(tmp_path / "base")
    rl = ("rl", *mesh, "--checkpoint", base, "--questions", data / "rl_candidates.jsonl", "--out", out,
          "--settings.prompts", 4, "--settings.group", 2, "--settings.ahead", 1, "--select", "no",
          "--sizes.turn-tokens", 16, "--sizes.slots", 4, "--sizes.replica-devices", 2, "--search.latency", 0.05,
          "--search.transport", "in-process", "--eval-questions", data / "seen.jsonl", "--eval-every", 2,
          "--settings.checkpoint-every", 1, "--sizes.row-choices", 256)  # fmt: skip
    for count in (2, 4):  # the second goes on with the first
        together(*rl, "--settings.steps", count, devices=devices)
    rows = steps(out)
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert max(row["rl/staleness_max"] for row in rows) == 1
    for row in rows:
        assert row["rl/sampler_gap"] < 1e-3  # the learning rate is all that lies between the versions
        assert row["rl/rollouts_under_way"] <= 16
    assert "rl/eval_accuracy" in rows[1]
    assert {path.name for path in out.glob("timeline*")} == {"timeline-rl.json", "timeline-rl-1.json"}


@pytest.mark.slow
def test_recipes_of_the_paper_run_over_two_processes_of_four_devices(tmp_path):
    base, data = ROOT / "hypereyes_jax" / "assets" / "base", tmp_path / "data"
    small_moe(tmp_path / "moe", base)
    finish(hypereyes("synth", "--out", data, "--sft-questions", 24, "--rl-candidates", 24, "--eval-questions", 4))
    sizes = ("--mesh", "cpu_8", "--sizes.context", 768, "--sizes.row-images", 2, "--sizes.min-pixels", 1024,
             "--sizes.max-pixels", 48 * 1024, "--sizes.learner.compute-dtype", "float32")  # fmt: skip
    tuned = ("sft", "hypereyes_30b_sft", *sizes, "--checkpoint", tmp_path / "moe", "--demonstrations",
             data / "demonstrations.jsonl", "--settings.batch", 8, "--settings.dropout", 0.0,
             "--settings.learning-rate", 1e-3)  # fmt: skip
    together(*tuned, "--out", tmp_path / "pair", devices=4)
    finish(hypereyes(*tuned, "--out", tmp_path / "alone", devices=8))
    pair, alone = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("pair", "alone"))
    adapters = load_file(tmp_path / "pair" / "adapter" / "adapter_model.safetensors")
    assert any(np.abs(value).max() > 0 for name, value in adapters.items() if "lora_B" in name)
    for name, wanted in alone.items():
        np.testing.assert_allclose(pair[name], wanted, atol=1e-5, err_msg=name)

    out = tmp_path / "rl"
    out.mkdir()
    chosen = [question.id for question in read_questions(data / "rl_candidates.jsonl")[:4]]
    (out / SELECTION).write_text(json.dumps({name: [2, 4] for name in chosen}))
    rl = ("rl", "hypereyes_30b_rl", "--accept-miniature", *sizes, "--checkpoint", tmp_path / "pair" / "model",
          "--questions", data / "rl_candidates.jsonl", "--teacher", tmp_path / "moe", "--settings.steps", 2,
          "--settings.prompts", 2, "--settings.group", 4, "--settings.checkpoint-every", 1, "--sizes.slots", 4,
          "--sizes.turn-tokens", 24, "--settings.learning-rate", 1e-3)  # fmt: skip
    together(*rl, "--out", out, devices=4)
    # A random model answers nothing: every rollout fails, and distillation is the only signal.
    trained = load_file(out / "model" / "model.safetensors")
    assert any(np.abs(trained[name] - pair[name]).max() > 1e-4 for name in pair)
    for row in steps(out):
        assert row["rl/distilled"] == 8
        assert row["rl/sampler_gap"] < 1e-4  # replicas of two devices have the learner's weights, of eight
        assert row["rl/sync_gib"] > 0
    assert {path.name for path in out.glob("timeline*")} == {"timeline-rl.json", "timeline-rl-1.json"}

    # One replica over both processes: its first one plays all, and what it played is trained on by both.
    spanning = (*rl, "--sizes.replica-devices", 8, "--eval-questions", data / "seen.jsonl", "--eval-every", 2,
                # where a gradient is rounding alone, Adam would step as far as where it is not
                "--sizes.learner.optimizer.eps", 1e-4)  # fmt: skip
    for name in ("spanning", "spanning_alone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / SELECTION).write_text((out / SELECTION).read_text())
    together(*spanning, "--out", tmp_path / "spanning", devices=4)
    finish(hypereyes(*spanning, "--out", tmp_path / "spanning_alone", devices=8))
    found, wanted = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("spanning", "spanning_alone")
    )
    assert any(np.abs(wanted[name] - pair[name]).max() > 2e-5 for name in pair)
    for name, value in wanted.items():
        # Under a twentieth of what moved: Adam divides a gradient near zero by its own size, so its rounding shows.
        np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=name)
    for ours, theirs in zip(steps(tmp_path / "spanning"), steps(tmp_path / "spanning_alone"), strict=True):
        assert ours["rl/distilled"] == theirs["rl/distilled"] == 8
        assert ours["rl/loss"] == pytest.approx(theirs["rl/loss"], rel=1e-4)
        assert ours["rl/grad_norm"] == pytest.approx(theirs["rl/grad_norm"], rel=1e-4)
        assert ours.get("rl/eval_accuracy") == theirs.get("rl/eval_accuracy")
    assert [path.name for path in (tmp_path / "spanning").glob("timeline*")] == ["timeline-rl.json"]


@pytest.mark.slow
def test_rl_trains_the_adapters_over_two_processes_that_it_trains_in_one_of_as_many_devices(tmp_path):
    base, questions = ROOT / "hypereyes_jax" / "assets" / "base", tmp_path / "questions.jsonl"
    for seed, name in enumerate(("moe", "teacher")):
        small_moe(tmp_path / name, base, seed)
    write_questions(questions, world_questions(World.load(), "seen", 4, 5))
    words = ("rl", "hypereyes_30b_rl", "--accept-miniature", "--mesh", "fsdp=2,expert=2", "--checkpoint",
             tmp_path / "moe", "--teacher", tmp_path / "teacher", "--questions", questions, "--select", "no",
             "--settings.steps", 2, "--settings.prompts", 2, "--settings.group", 4, "--settings.checkpoint-every", 1,
             "--settings.learning-rate", 1e-3, "--settings.lora-rank", 4, "--settings.lora-alpha", 8,
             "--sizes.learner.train", "lora", "--sizes.learner.compute-dtype", "float32",
             # where a gradient is rounding alone, Adam would step as far as where it is not
             "--sizes.learner.optimizer.eps", 1e-4, "--sizes.context", 768, "--sizes.row-images", 2,
             "--sizes.min-pixels", 1024, "--sizes.max-pixels", 48 * 1024, "--sizes.slots", 4,
             "--sizes.turn-tokens", 24)  # fmt: skip
    together(*words, "--out", tmp_path / "pair", devices=2)
    finish(hypereyes(*words, "--out", tmp_path / "alone", devices=4))
    pair, alone = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("pair", "alone"))
    assert max(np.abs(value).max() for name, value in alone.items() if "lora_B" in name) > 1e-4
    for name, value in alone.items():
        np.testing.assert_allclose(pair[name], value, atol=5e-6, err_msg=name)
    for ours, theirs in zip(steps(tmp_path / "pair"), steps(tmp_path / "alone"), strict=True):
        # A random model answers nothing: every rollout fails, and distillation is the only signal.
        assert ours["rl/distilled"] == theirs["rl/distilled"] == 8
        assert ours["rl/sampler_gap"] < 1e-4  # the engines compute with the adapters that the learner has
        assert ours["rl/loss"] == pytest.approx(theirs["rl/loss"], rel=1e-4)
