from __future__ import annotations

import json

import pytest
import yaml

from hypereyes_jax.errors import UserError
from hypereyes_jax.runs.model_card import model_card


@pytest.fixture
def run(tmp_path):
    path = tmp_path / "eyes"
    path.mkdir()
    config = {"checkpoint": "Qwen/Qwen3-VL-2B-Instruct@main", "settings": {"steps": 4}}
    (path / "config.json").write_text(
        json.dumps({"command": "rl", "config": config, "versions": {"hypereyes-jax": "0.1.0"}})
    )
    row = {
        "n": 200,
        "accuracy": 0.625,
        "rounds": 2.0,
        "invocations": 7.5,
        "kilo_tokens": 0.75,
        "cas": 0.25,
        "judge": "exact",
    }
    (path / "metrics.json").write_text(json.dumps({"stages": {"rl": {"heldout": row}}}))
    lines = [{"phase": "rl", "step": step, "rl/accuracy": 0.1 * step, "rl/loss": None} for step in range(1, 5)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_card_says_where_the_model_is_from_and_what_it_was_measured_at(run):
    card = model_card(run)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front)["base_model"] == "Qwen/Qwen3-VL-2B-Instruct"
    assert yaml.safe_load(front)["pipeline_tag"] == "image-text-to-text"
    assert "Trained from Qwen/Qwen3-VL-2B-Instruct@main with `hypereyes rl` of hypereyes-jax 0.1.0" in body
    assert "| rl | heldout | 200 | 0.625 | 2.000 | 7.500 | 0.750 | 0.250 | exact |" in body
    assert "| rl/accuracy | 0.25 |" in body  # (0.1 + 0.2 + 0.3 + 0.4) / 4
    assert "rl/loss" not in body
    assert '"steps": 4' in body


def test_at_a_step_only_what_led_to_it_counts(run):
    card = model_card(run, 2)
    assert "the weights are those after step 2" in card
    assert "| rl/accuracy | 0.15 |" in card


def test_a_local_base_is_no_base_of_the_hub(run):
    saved = json.loads((run / "config.json").read_text())
    saved["config"]["checkpoint"] = "/data/models/base"
    (run / "config.json").write_text(json.dumps(saved))
    assert "base_model" not in model_card(run)


def test_a_run_that_was_not_measured_has_a_card_all_the_same(run):
    (run / "metrics.json").unlink()
    (run / "metrics.jsonl").unlink()
    card = model_card(run)
    assert "## Evaluation" not in card
    assert "## Training" not in card


def test_a_directory_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        model_card(tmp_path)
