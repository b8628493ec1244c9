"""`hypereyes eval` on a checkpoint with random weights: the whole path, with no claim on what it scores."""

from dataclasses import replace

import pytest

from hypereyes_jax.eval.records import read_records
from hypereyes_jax.eval.report import collect
from hypereyes_jax.files import read_json
from hypereyes_jax.launch import cli, miniature


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    import jax
    from transformers import AutoTokenizer

    from hypereyes_jax.models.qwen3_vl import init_params, save_hf
    from hypereyes_jax.processing.tokenizer import train_tokenizer

    path = tmp_path_factory.mktemp("checkpoint")
    train_tokenizer(["<reason>Look at the flags, then answer.</reason> Norway Oslo 12"], 300, path)
    model = miniature.model_config(AutoTokenizer.from_pretrained(path))
    model = replace(model, text=replace(model.text, num_hidden_layers=1))
    save_hf(path, model, init_params(jax.random.key(0), model))
    return path


def words(checkpoint, out, *more):
    sizes = ("--questions", "3", "--slots", "2", "--max-new-tokens", "4", "--splits", "heldout", "seen")
    return ["eval", str(checkpoint), "--out", str(out), *sizes, *more]


def test_a_checkpoint_gets_a_row_a_split_and_its_trajectories(checkpoint, tmp_path, capsys):
    assert cli.main(words(checkpoint, tmp_path)) == 0
    stages = read_json(tmp_path / "metrics.json")["stages"]
    assert [row["n"] for row in stages["model"].values()] == [3, 3]
    for row in stages["model"].values():
        assert {"success_rate", "latency_p50", "latency_p99", "cache_hits", "cost"} <= row["search"].keys()
        assert sum(row["engine"].values()) == pytest.approx(1)
    shown = capsys.readouterr().out
    assert "held-out" in shown
    assert "busy" in shown
    assert cli.main(["report", str(tmp_path)]) == 0
    report = collect(tmp_path)
    assert [timeline["title"] for timeline in report.timelines] == ["timeline-model-heldout", "timeline-model-seen"]
    assert len(report.costs) == 2
    (first, *_) = read_records(tmp_path / "trajectories-model-heldout.jsonl")
    assert first.sampled_tokens == 4
    assert first.tokens > first.sampled_tokens

    written = (tmp_path / "trajectories-model-seen.jsonl").stat().st_mtime_ns
    assert cli.main(words(checkpoint, tmp_path)) == 0  # again: all is there, nothing is done
    assert (tmp_path / "trajectories-model-seen.jsonl").stat().st_mtime_ns == written
    assert cli.main(words(checkpoint, tmp_path, "--temperature", "0")) == 2  # other settings do not mix


def test_a_directory_without_a_checkpoint_is_named(tmp_path, capsys):
    assert cli.main(words(tmp_path, tmp_path / "out")) == 2
    assert f"{tmp_path} holds no config.json" in capsys.readouterr().err


def test_a_damaged_checkpoint_has_a_message(checkpoint, tmp_path, capsys):
    for file in checkpoint.iterdir():
        data = file.read_bytes()
        (tmp_path / file.name).write_bytes(data[: len(data) // 2] if file.suffix == ".safetensors" else data)
    assert cli.main(words(tmp_path, tmp_path / "out")) == 2
    assert "safetensors" in capsys.readouterr().err


def test_a_judging_model_is_named_with_the_result(checkpoint, tmp_path, capsys):
    judge = ("--judge.url", "http://127.0.0.1:9/v1")
    assert cli.main(words(checkpoint, tmp_path / "no", *judge)) == 2
    assert "--judge.model" in capsys.readouterr().err
    # a model with random weights gives no answer, so nobody needs to be asked
    more = ("--judge.model", "m", "--judge.rule", "short-fact", "--splits", "seen")
    assert cli.main(words(checkpoint, tmp_path, *judge, *more)) == 0
    row = read_json(tmp_path / "metrics.json")["stages"]["model"]["seen"]
    assert (row["judge"], row["masked_judge"]) == ("llm:m:short-fact", 0)
