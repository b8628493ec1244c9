"""A run's weights at any of its checkpoints."""

from __future__ import annotations

import json
import re
import shutil
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.errors import UserError
from hypereyes_jax.learner.checkpoint import CheckpointDamaged, Checkpoints, read_trainable
from hypereyes_jax.learner.run_weights import run_weights
from hypereyes_jax.learner.state import TrainState, split
from hypereyes_jax.models.lora import LoraConfig, LoraRule, merge
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.runs.mirror import RunMirror
from tests.gcs_server import served_bucket
from tests.random_weights import random_lora

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))


def run_of(path, command, train, trainables):
    """A run directory as the commands leave it, with a checkpoint for each of `trainables` by step."""
    sizes = {"learner": {"train": train, "compute_dtype": "float32"}, "min_pixels": 1024, "max_pixels": 49152}
    settings = {"lora_rank": 2, "lora_alpha": 8.0}
    config = {"checkpoint": str(BASE), "sizes": sizes, "settings": settings}
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"command": command, "config": config}))
    _, params, _ = load_model(BASE)
    with Checkpoints(path / f"{command}-checkpoints") as checkpoints:
        for step, trainable in trainables(params).items():
            state = TrainState(jnp.int32(step), trainable, {}, {"m": trainable}, jax.random.key_data(jax.random.key(0)))
            checkpoints.save(state, {"place": step})
    return params


def language(params, factor):
    trainable, _ = split(params, "language")
    return jax.tree.map(lambda x: x * factor, trainable)


@pytest.fixture(scope="module")
def rl(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "rl"
    params = run_of(path, "rl", "language", lambda params: {3: language(params, 2.0), 7: language(params, 3.0)})
    return path, params


@pytest.mark.parametrize(("step", "factor"), [(3, 2.0), (7, 3.0), (None, 3.0)])
def test_the_weights_of_a_step_are_written_beside_what_did_not_train(rl, tmp_path, step, factor):
    path, params = rl
    words = ["export", "--run", str(path), "--out", str(tmp_path / "model")]
    assert cli.main([*words, *(["--step", str(step)] if step else [])]) == 0
    _, written, _ = load_model(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, written["vision"], params["vision"])
    expected = jax.tree.map(lambda x: x * factor, params["layers"])
    jax.tree.map(np.testing.assert_array_equal, written["layers"], expected)
    size = json.loads((tmp_path / "model" / "preprocessor_config.json").read_text())["size"]
    assert size == {"shortest_edge": 1024, "longest_edge": 49152}


def test_adapters_of_a_step_are_merged(tmp_path):
    config, base, _ = load_model(BASE)
    rules = LoraConfig((LoraRule("layers/.*", 2, 8.0),))
    lora = random_lora(config, rules, scale=1.0)
    run_of(tmp_path / "sft", "sft", "lora", lambda params: {5: lora})
    found = run_weights(tmp_path / "sft")
    assert (found.step, found.base, found.pixels) == (5, str(BASE), (1024, 49152))
    jax.tree.map(np.testing.assert_array_equal, found.params, merge(base, lora))


def test_reading_leaves_every_checkpoint_where_it_is(rl):
    path, _ = rl
    run_weights(path, 3)
    with Checkpoints(path / "rl-checkpoints") as checkpoints:
        assert checkpoints.steps == [3, 7]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "RUN", "--step", "4"], r"the checkpoint of step 4; it has those of steps \[3, 7\]"),
        (["--run", "RUN/rl-checkpoints"], "config.json"),
        (["--run", "RUN", "--checkpoint", str(BASE)], "give either --checkpoint"),
        (["--run", "RUN", "--adapter", str(BASE)], "--adapter belongs to --checkpoint"),
        (["--checkpoint", str(BASE), "--step", "3"], "--step belongs to --run"),
        ([], "give either --checkpoint"),
    ],
)
def test_what_is_not_there_is_named(rl, tmp_path, capsys, words, message):
    words = [word.replace("RUN", str(rl[0])) for word in words]
    assert cli.main(["export", "--out", str(tmp_path / "model"), *words]) == 2
    error = capsys.readouterr().err.replace("\n", " ")
    assert re.search(message, error), error


@pytest.fixture
def bucket():
    with served_bucket() as bucket:
        yield bucket


def upload(bucket, local, place):
    for path in local.rglob("*"):
        if path.is_file():
            bucket.write(f"{place}/{path.relative_to(local)}", path.read_bytes())


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_in_a_bucket_is_exported_from_there(rl, bucket, tmp_path, processes):
    """Of one process its copy, of which the index tells; of several the checkpoints that Orbax left there."""
    path, params = rl
    mirror = RunMirror("gs://bucket/run", tmp_path / "run", 0, processes)
    mirror.fetch()
    shutil.copy(path / "config.json", mirror.local)
    if processes == 1:
        shutil.copytree(path / "rl-checkpoints", mirror.local / "rl-checkpoints")
    mirror.push()
    upload(bucket, path / "rl-checkpoints" / "3", "run/rl-checkpoints/11")  # unfinished
    bucket.objects.pop("run/rl-checkpoints/11/commit_success.txt", None)
    if processes == 2:
        upload(bucket, path / "rl-checkpoints", "run/rl-checkpoints")
        for step in (3, 7):
            bucket.write(f"run/rl-checkpoints/{step}/commit_success.txt", b"")
    export = ["export", "--run", "gs://bucket/run", "--out", str(tmp_path / "model")]
    assert cli.main([*export, "--step", "11"]) == 2
    for words, factor in (([], 3.0), (["--step", "3"], 2.0)):
        assert cli.main([*export, *words]) == 0
        _, written, _ = load_model(tmp_path / "model")
        expected = jax.tree.map(lambda x, factor=factor: x * factor, params["layers"])
        jax.tree.map(np.testing.assert_array_equal, written["layers"], expected)


def test_a_bucket_without_a_run_is_refused(bucket, tmp_path, capsys):
    bucket.write("other/readme", b"")
    assert cli.main(["export", "--run", "gs://bucket/other", "--out", str(tmp_path / "model")]) == 2
    assert "gs://bucket/other holds no run of `hypereyes sft` or `hypereyes rl`" in capsys.readouterr().err


def test_a_run_of_another_command_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"command": "eval", "config": {}}))
    with pytest.raises(
        UserError, match=r"not a run of `hypereyes sft` or `hypereyes rl`: its config\.json says 'eval'"
    ):
        run_weights(tmp_path)


def test_of_a_quickstart_the_models_that_it_wrote_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"command": "quickstart", "config": {}}))
    for model in ("sft-model", "rl-model"):
        (tmp_path / model).mkdir()
        (tmp_path / model / "config.json").write_text("{}")
    with pytest.raises(UserError) as refusal:
        run_weights(tmp_path)
    assert f"give --checkpoint {tmp_path}/rl-model or --checkpoint {tmp_path}/sft-model." in str(refusal.value)


def test_a_checkpoint_that_changed_is_refused(tmp_path):
    run_of(tmp_path / "rl", "rl", "language", lambda params: {3: language(params, 2.0)})
    file = tmp_path / "rl" / "rl-checkpoints" / "3" / "cursor" / "metadata"
    meta = json.loads(file.read_text())
    name = next(name for name in meta["checksums"]["saved"] if "trainable" in name)
    meta["checksums"]["saved"][name] ^= 1
    file.write_text(json.dumps(meta))
    with pytest.raises(CheckpointDamaged, match="changed after it was written"):
        read_trainable(tmp_path / "rl" / "rl-checkpoints", 3)
    file.unlink()
    with pytest.raises(CheckpointDamaged, match="is damaged"):
        read_trainable(tmp_path / "rl" / "rl-checkpoints", 3)
