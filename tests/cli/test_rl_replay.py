"""A whole RL run recorded over HTTP, then replayed strictly with no server: the same trajectories, rewards, weights."""

import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest

from hypereyes_jax.cli.rl import RlConfig
from hypereyes_jax.env.search import services
from hypereyes_jax.env.search.config import SearchConfig, StoreMode
from hypereyes_jax.env.search.store import SearchStore
from hypereyes_jax.env.search.store_tools import inspect_store, prune_store
from hypereyes_jax.env.types import FatalSearchError
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.files import write_json
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.processing import SampledChunk
from hypereyes_jax.rollout import Engine
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train import rl_run
from hypereyes_jax.train.question_selection import SELECTION
from hypereyes_jax.train.rl_loop import RlLoop
from hypereyes_jax.train.rollout_source import TIMELINE
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.types import RlQuestions, RlServices, TrainingRun

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
SMALL = {"extend_rows": (4,), "extend_tokens": (128,), "image_shapes": ((1, 64), (1, 256))}


def contents(played):
    """All that a learner or a reader sees of trajectories, but the seconds."""

    def chunk(c):
        if isinstance(c, SampledChunk):
            return c.tokens.tolist(), c.logp_full.tobytes(), c.logp_truncated.tobytes()
        return c.tokens.tolist(), [image.tobytes() for image in c.images]

    return [
        (
            [chunk(c) for c in t.chunks],
            [
                replace(turn, seconds=0, invocations=tuple(replace(i, seconds=0) for i in turn.invocations))
                for turn in t.result.turns
            ],
            (t.result.stop, t.result.answer),
        )
        for t in played
    ]


def run(path, monkeypatch, settings, engine, search):
    """(contents of the rollouts of each step, logged values of each step, final weights)"""
    steps = []
    play = RolloutEngines.play

    async def playing(*arguments, **options):
        played = await play(*arguments, **options)
        steps.append(contents(played.trajectories))
        return played

    config = RlConfig(BASE, Path("-"), out=path, settings=settings)
    directory = RunDirectory.open(path, "rl", config)
    questions = world_questions(World.load(), "seen", settings.prompts, 5)
    write_json(directory.file(SELECTION), {question.id: [2, 4] for question in questions})
    model, params, chat = load_model(BASE)
    rollouts = RolloutEngines(Engines([Engine(model, params, engine.exact())]), chat, MINIATURE_RL)
    with monkeypatch.context() as patched, Stages() as stages:
        patched.setattr(RolloutEngines, "play", playing)
        params, _ = rl_run.train(
            TrainingRun(directory, stages),
            rollouts,
            model,
            params,
            RlQuestions(questions),
            settings,
            RlServices(search),
        )
    rows = [json.loads(line) for line in directory.file("metrics.jsonl").read_text().splitlines()]
    assert (path / TIMELINE).exists()
    return steps, rows, params


def no_server(*_):
    raise AssertionError("a strict replay starts no server")


def untimed(row):
    return {
        name: value
        for name, value in row.items()
        if name != "time" and not any(word in name for word in ("second", "search_", "engine_", "tflops", "peak"))
    }


def recorded_and_replayed(path, monkeypatch, settings, engine):
    recording = SearchConfig(transport="http", latency=0.01, store=path / "searches.sqlite", mode=StoreMode.RECORD)
    replaying = replace(recording, mode=StoreMode.REPLAY)
    first = run(path / "recorded", monkeypatch, settings, engine, recording)
    searches = sum(len(turn.invocations) for step in first[0] for _, turns, _ in step for turn in turns)
    assert searches > 3
    (summary,) = inspect_store(recording.store)["runs"]
    assert summary["success_rate"] == 1.0
    last = first[1][-1]
    assert last["rl/search_searches"] == summary["searches"] == searches
    assert {"rl/search_success_rate", "rl/search_latency_p99", "rl/search_cache_hits", "rl/search_cost"} <= last.keys()
    assert sum(last[f"rl/engine_{kind}"] for kind in ("decode", "extend", "waiting", "idle")) == pytest.approx(1)

    with monkeypatch.context() as patched:
        patched.setattr(services, "world_service", no_server)
        again = run(path / "replayed", monkeypatch, settings, engine, replaying)
    assert again[0] == first[0]
    assert [untimed(row) for row in again[1]] == [untimed(row) for row in first[1]]
    assert again[1][-1]["rl/search_cache_hits"] == searches
    for old, new in zip(jax.tree.leaves(first[2]), jax.tree.leaves(again[2]), strict=True):
        np.testing.assert_array_equal(old, new)
    return replaying


@pytest.mark.slow
def test_a_run_that_records_goes_on_where_it_was_killed_with_the_same_results_and_counts(tmp_path, monkeypatch):
    engine = replace(replace(MINIATURE_RL, slots=4, context=512).engine(), **SMALL)
    settings = RlSettings(steps=2, prompts=2, group=2, checkpoint_every=1)

    def recorded(name):
        search = SearchConfig(store=tmp_path / f"{name}.sqlite", mode=StoreMode.RECORD)
        return run(tmp_path / name, monkeypatch, settings, engine, search)

    _, wanted, whole = recorded("whole")
    publish = RlLoop._publish

    def killed(loop, version):  # the second step has searched and trained, and is not saved
        if version == 2:
            raise RuntimeError("killed")
        return publish(loop, version)

    with monkeypatch.context() as patched:
        patched.setattr(RlLoop, "_publish", killed)
        with pytest.raises(RuntimeError, match="killed"):
            recorded("killed")
    _, found, again = recorded("killed")
    assert [untimed(row) for row in found] == [untimed(row) for row in wanted]
    # those of the second step once, although they were made twice
    counts, wanted_counts = ([row["rl/search_searches"] for row in rows] for rows in (found, wanted))
    assert counts == wanted_counts
    assert counts[1] > counts[0] > 0
    for old, new in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(old, new)
    stored = [
        {search.key: search.hits for search in SearchStore(tmp_path / f"{name}.sqlite").searches()}
        for name in ("whole", "killed")
    ]
    assert stored[0] == stored[1] != {}


@pytest.mark.slow
def test_a_replayed_run_gives_the_same_trajectories_rewards_and_weights(tmp_path, monkeypatch):
    settings = RlSettings(steps=2, prompts=2, group=2, checkpoint_every=9)
    engine = replace(replace(MINIATURE_RL, slots=4, context=512).engine(), **SMALL)
    replaying = recorded_and_replayed(tmp_path, monkeypatch, settings, engine)

    prune_store(replaying.store, older_than_days=0)
    with pytest.raises(FatalSearchError, match="was not recorded"):
        run(tmp_path / "pruned", monkeypatch, settings, engine, replaying)
    gone = replace(replaying, store=tmp_path / "gone.sqlite")
    with pytest.raises(UserError, match="there is no"):
        run(tmp_path / "gone", monkeypatch, settings, engine, gone)
