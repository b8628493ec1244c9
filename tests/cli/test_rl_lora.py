"""`hypereyes rl` of adapters: what is written, and that it goes on where it was killed."""

import json
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest

from hypereyes_jax.cli.main import main
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.learner.run_weights import run_weights
from hypereyes_jax.models.lora import load_peft, merge
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.train.rl_loop import RlLoop

BASE = str(resources.files("hypereyes_jax.assets") / "base")
SIZES = (
    "--settings.steps 2 --settings.prompts 1 --settings.group 4 --settings.checkpoint-every 1 --search.latency 0 "
    "--search.transport in-process --sizes.slots 4 --sizes.shard-rows 2 --sizes.context 512 --exact "
    "--sizes.learner.train lora --settings.lora-rank 4 --settings.lora-alpha 8 --settings.opd-coef 0.5"
)


def trained(out, questions, teacher=BASE):
    words = f"rl --checkpoint {BASE} --questions {questions} --select no --teacher {teacher} --out {out} {SIZES}"
    assert main(words.split()) == 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    model, adapter = load_model(out / "model"), load_peft(out / "adapter", load_model(BASE)[0])
    return rows, model[1], adapter


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow
def test_adapters_are_trained_sampled_from_merged_and_gone_on_with(tmp_path, monkeypatch):
    questions = tmp_path / "questions.jsonl"
    write_questions(questions, world_questions(World.load(), "seen", 2, 5))
    rows, model, adapter = trained(tmp_path / "whole", questions)
    base = load_model(BASE)[1]
    same(model, merge(base, adapter))
    assert max(float(abs(x).max()) for x in jax.tree.leaves(adapter.weights["layers"]["q"])) > 0
    # the engine computes with the adapters that the learner has: float32 sums in another order
    assert rows[1]["rl/sampler_gap"] < 1e-3
    assert rows[0]["rl/distilled"] > 0  # by the base itself, whose weights are held once
    # before the first step the policy is its teacher
    assert rows[0]["rl/kl_to_teacher"] == pytest.approx(0, abs=1e-4)
    same(run_weights(tmp_path / "whole", 2).params, model)

    publish = RlLoop._publish

    def killed(loop, version):  # the second step has trained, and is not saved
        if version == 2:
            raise RuntimeError("killed")
        return publish(loop, version)

    with monkeypatch.context() as patched:
        patched.setattr(RlLoop, "_publish", killed)
        with pytest.raises(RuntimeError, match="killed"):
            trained(tmp_path / "killed", questions)
    again, other_model, other_adapter = trained(tmp_path / "killed", questions)
    assert Path(tmp_path / "killed" / "rl-checkpoints").is_dir()
    same(other_adapter.weights, adapter.weights)
    same(other_model, model)
    assert again[1]["rl/loss"] == rows[1]["rl/loss"]


def test_settings_of_adapters_without_adapters_are_refused(capsys):
    words = "rl --checkpoint c --questions q --settings.lora-rank 3"
    assert main(words.split()) == 2
    assert "--settings.lora-rank applies to adapters" in capsys.readouterr().err
    assert main("sft --checkpoint c --demonstrations d --sizes.learner.train full --settings.dropout 0.5".split()) == 2
    assert "--settings.dropout applies to adapters" in capsys.readouterr().err
