"""`hypereyes eval` on a checkpoint with random weights: the whole path, with no claim on what it scores."""

import contextlib
import io
import json
import random
import re
import shutil
from dataclasses import replace

import pytest
from aiohttp import web
from PIL import Image

from hypereyes_jax import miniature
from hypereyes_jax.cli import main as cli
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.records import read_records
from hypereyes_jax.eval.report import collect
from hypereyes_jax.files import read_json
from hypereyes_jax.models.pretrained import load_model
from tests.serving import served


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


@pytest.fixture(scope="module")
def played(checkpoint, tmp_path_factory):
    """The run of a checkpoint on both splits, and what it printed."""
    out, said = tmp_path_factory.mktemp("run"), io.StringIO()
    with contextlib.redirect_stdout(said):
        assert cli.main(words(checkpoint, out)) == 0
    return out, said.getvalue()


def test_a_checkpoint_gets_a_row_a_split_and_its_trajectories(checkpoint, played):
    tmp_path, shown = played
    stages = read_json(tmp_path / "metrics.json")["stages"]
    assert [row["n"] for row in stages["model"].values()] == [3, 3]
    for row in stages["model"].values():
        assert {"success_rate", "latency_p50", "latency_p99", "cache_hits", "cost"} <= row["search"].keys()
        assert sum(row["engine"].values()) == pytest.approx(1)
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


def test_splits_are_played_by_the_rules_that_are_given(checkpoint, played, tmp_path):
    longer = miniature.EPISODE.system + " Answer." * 40
    rules = ("--episode.max-turns", "1", "--episode.system", longer, "--splits", "heldout")
    assert cli.main(words(checkpoint, tmp_path, *rules)) == 0
    before, now = (next(read_records(out / "trajectories-model-heldout.jsonl")) for out in (played[0], tmp_path))
    assert now.tokens >= before.tokens + 40


def test_mosaics_are_crowded_as_in_the_quickstart_unless_told():
    from hypereyes_jax.cli.eval import EvalConfig
    from hypereyes_jax.cli.synth import SynthConfig
    from hypereyes_jax.data.questions import SynthesisConfig, synthesize
    from hypereyes_jax.env.world import World
    from hypereyes_jax.eval.split import world_questions

    assert EvalConfig.crowding == SynthConfig.crowding
    world = World.load()
    rules = SynthesisConfig(crowding=SynthConfig.crowding)
    asked = synthesize(world, 9, 1, rules, focus=world.split()[1], prefix="heldout")
    assert world_questions(world, "heldout", 9, 1) == [synth.question for synth in asked]
    assert world_questions(world, "heldout", 9, 1, crowding=0.0) != [synth.question for synth in asked]


def test_a_directory_without_a_checkpoint_is_named(tmp_path, capsys):
    assert cli.main(words(tmp_path, tmp_path / "out")) == 2
    assert f"{tmp_path} holds no config.json" in capsys.readouterr().err


DAMAGES = {
    "truncated": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "random bytes": lambda data: random.Random(0).randbytes(len(data)),
    "null": lambda data: b"null",
    "another document": lambda data: b'{"model_type": "llama", "weight_map": null}',
}
FILES = (
    "config.json",
    "model.safetensors.index.json",
    "model-00002-of-00002.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.fixture(scope="module")
def sharded(checkpoint, tmp_path_factory):
    """The same model in two files and an index."""
    from hypereyes_jax.models.qwen3_vl import load_hf, save_hf

    path = tmp_path_factory.mktemp("sharded")
    shutil.copytree(checkpoint, path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.safetensors"))
    save_hf(path, *load_hf(checkpoint), shard_bytes=(checkpoint / "model.safetensors").stat().st_size - 2**17)
    assert set(FILES) <= {file.name for file in path.iterdir()}
    load_model(path)
    return path


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_checkpoint_is_named_by_its_file(sharded, tmp_path, name, damage):
    shutil.copytree(sharded, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).write_bytes(DAMAGES[damage]((tmp_path / name).read_bytes()))
    if (name, damage) == ("tokenizer_config.json", "another document"):
        load_model(tmp_path)  # no field of it is needed
        return
    with pytest.raises(UserError, match=re.escape(str(tmp_path))) as caught:
        load_model(tmp_path)
    assert name in str(caught.value)
    assert re.search("again|another checkpoint", str(caught.value))


@pytest.mark.parametrize("name", FILES[:-1])
def test_a_missing_file_of_a_checkpoint_is_named(sharded, tmp_path, name):
    shutil.copytree(sharded, tmp_path, dirs_exist_ok=True)
    (tmp_path / name).unlink()
    # without its index a checkpoint is one of a single file
    with pytest.raises(UserError, match="model.safetensors" if "index" in name else re.escape(name)):
        load_model(tmp_path)


def test_a_checkpoint_of_another_family_has_a_message_and_no_traceback(checkpoint, tmp_path, capsys):
    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert cli.main(words(tmp_path, tmp_path / "out")) == 2
    assert "model_type='llama' is not a Qwen3-VL model" in capsys.readouterr().err


def test_a_judging_model_is_named_with_the_result(checkpoint, tmp_path, capsys):
    judge = ("--judge.url", "http://127.0.0.1:9/v1")
    assert cli.main(words(checkpoint, tmp_path / "no", *judge)) == 2
    assert "--judge.model" in capsys.readouterr().err
    more = ("--judge.model", "m", "--judge.rule", "short-fact", "--splits", "seen")
    assert cli.main(words(checkpoint, tmp_path / "out", *judge, *more)) == 2
    assert "the judge can't be used" in capsys.readouterr().err  # before anything is spent

    async def reply(request):
        return web.json_response({"choices": [{"message": {"content": "correct"}, "finish_reason": "stop"}]})

    with served("/v1/chat/completions", reply) as url:
        assert cli.main(words(checkpoint, tmp_path, "--judge.url", f"{url}/v1", *more)) == 0
    row = read_json(tmp_path / "metrics.json")["stages"]["model"]["seen"]
    assert (row["judge"], row["masked_judge"]) == ("llm:m:short-fact", 0)


def test_benchmarks_are_asked_once_and_tabled_beside_the_papers_rows(checkpoint, tmp_path, capsys):
    ids = tmp_path / "ids.txt"
    ids.write_text("imeb-mini-000\nimeb-mini-299\n")
    out = tmp_path / "run"
    command = words(checkpoint, out, "--benchmark", "imeb-mini", "--subset", str(ids), "--manner", "direct")
    assert cli.main(command) == 0
    shown = capsys.readouterr().out
    assert re.search(r"HyperEyes-30B RL†.*46.7 / 3.1", shown)
    assert read_json(out / "benchmarks.json")["model"]["imeb-mini"]["n"] == 2
    assert (out / "benchmarks.tex").read_text().startswith("\\begin{tabular}")
    assert "imeb-mini" in (out / "benchmarks.csv").read_text()
    assert len(list(read_records(out / "trajectories-model-imeb-mini.jsonl"))) == 2
    before = (out / "benchmark-model-imeb-mini.jsonl").read_bytes()
    assert cli.main(command) == 0  # nothing is asked again
    assert (out / "benchmark-model-imeb-mini.jsonl").read_bytes() == before


def test_a_benchmark_without_its_files_is_refused(checkpoint, tmp_path, capsys):
    assert cli.main(words(checkpoint, tmp_path / "run", "--benchmark", "fvqa")) == 2
    assert "--search.service serpapi" in capsys.readouterr().err  # a toy under a real benchmark
    assert cli.main(words(checkpoint, tmp_path / "run", "--benchmark", "fvqa", "--search.service", "retriever")) == 2
    assert not (tmp_path / "run").exists()
    assert "needs --data" in capsys.readouterr().err


def test_questions_of_any_source_are_asked_and_unreadable_ones_left_out(checkpoint, tmp_path, capsys):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    rows = [
        {"q": f"Which is {i}?", "gt": "red", "pics": name}
        for i, name in enumerate(("red.png", "broken.png", "red.png"))
    ]
    (tmp_path / "mine.json").write_text(json.dumps(rows))
    columns = ("--columns", "text=q", "answers=gt", "images=pics")
    given = words(checkpoint, tmp_path / "out", "--questions", str(tmp_path / "mine.json"), *columns)
    assert cli.main(given) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "1 rows are left out: 1 x broken image" in said
    results = (tmp_path / "out" / "benchmark-model-questions.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in results] == ["mine-1", "mine-3"]
    assert cli.main([*given, "--bad-rows", "refuse", "--out", str(tmp_path / "other")]) == 2
    assert "mine.json, row 2: an image can't be read" in capsys.readouterr().err
