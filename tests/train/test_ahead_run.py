"""A whole RL run whose rollouts run ahead of the learner: on one device, killed and continued, and on split devices."""

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax.cli.rl import RlConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.rollout_files import read_rollouts, rollout_steps
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.files import write_json
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.rollout.replicas.weights import ReplicaWeights
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train import rl_run
from hypereyes_jax.train.question_selection import SELECTION
from hypereyes_jax.train.rollout_source import RunsAhead
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.types import RlQuestions, RlServices, TrainingRun, Validation

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
SIZES = replace(MINIATURE_RL, slots=8, context=512)
SMALL = {"extend_rows": (4,), "extend_tokens": (128,), "image_shapes": ((1, 64), (1, 256))}
SETTINGS = RlSettings(steps=4, prompts=2, group=2, checkpoint_every=1, ahead=1, max_staleness=2)


def run(path, settings=SETTINGS, processes=None):
    """(logged values of each step, records of each step)"""
    directory = RunDirectory.open(path, "rl", RlConfig(BASE, Path("-"), out=path, settings=settings))
    questions = world_questions(World.load(), "seen", 4, 5)  # an epoch is two steps
    write_json(directory.file(SELECTION), {question.id: [2, 4] for question in questions})
    processes = processes or Processes()
    model, params, chat = load_model(BASE, mesh=processes.mesh)
    if processes.mesh is None:
        engine = replace(SIZES.engine(), **SMALL)
        rollouts = RolloutEngines(Engines.on_one_device(model, params, engine, count=2), chat, SIZES)
    else:
        copies = ReplicaWeights(model, processes.mesh, "float32", 1, processes.samplers)
        rollouts = RolloutEngines.on_mesh(model, params, chat, SIZES, copies, processes, 8)
        assert rollouts.apart(processes.mesh)
    with Stages() as stages:
        training = TrainingRun(directory, stages, processes)
        asked = RlQuestions(questions, validation=Validation(questions[:2], 2))
        services = RlServices(SearchConfig(latency=0.05))
        rl_run.train(training, rollouts, model, params, asked, settings, services)
    rows = [json.loads(line) for line in directory.file("metrics.jsonl").read_text().splitlines()]
    assert {engine.version for engine in rollouts.engines.all} == {settings.steps}
    return rows, {step: list(read_rollouts(file)) for step, file in rollout_steps(path)}


def check(rows, records):
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    played = Counter(record.question_id for each in records.values() for record in each)
    assert set(played.values()) == {2 * SETTINGS.group}  # each question once an epoch
    assert len(played) == 4
    for step, each in records.items():
        assert len(each) == SETTINGS.prompts * SETTINGS.group
        for record in each:
            versions = [version for version, _ in record.extra["versions"]]
            assert versions == sorted(set(versions))
            assert versions[0] >= step - SETTINGS.max_staleness
            assert versions[-1] <= step
            assert sum(tokens for _, tokens in record.extra["versions"]) == record.sampled_tokens
    for row in rows:
        assert 0 <= row["rl/staleness"] <= row["rl/staleness_max"] <= SETTINGS.max_staleness
        assert row["rl/carried_rollouts"] <= SETTINGS.group * row["rl/carried_groups"]
    assert rows[0]["rl/staleness_max"] == 0  # there are no older weights
    assert max(row["rl/staleness_max"] for row in rows) >= 1
    assert {"rl/eval_accuracy" in row for row in rows[1::2]} == {True}


@pytest.mark.slow
def test_a_run_that_was_killed_trains_on_every_group_once_and_on_none_too_stale(tmp_path, monkeypatch):
    publish = RunsAhead.publish

    async def killed(source, params, lora, version):
        if version == 3:  # the third step has trained, and is not saved; rollouts are under way
            raise RuntimeError("killed")
        return await publish(source, params, lora, version)

    with monkeypatch.context() as patched:
        patched.setattr(RunsAhead, "publish", killed)
        with pytest.raises(RuntimeError, match="killed"):
            run(tmp_path)
    check(*run(tmp_path))


@pytest.mark.slow
def test_learner_and_samplers_have_devices_of_their_own(tmp_path):
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    script = (
        "from pathlib import Path; import sys; from tests.train import test_ahead_run as it;"
        "from hypereyes_jax.configs.distributed import DistributedConfig;"
        "it.check(*it.run(Path(sys.argv[1]), processes=it.Processes.start(DistributedConfig(), 'learner=2,sampler=1')))"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], env=environment, check=True, timeout=600)
