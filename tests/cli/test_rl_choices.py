"""What `hypereyes rl` lets one choose of the method: the reward, when references tighten, the form of distillation."""

import json
import os
import signal
import sys
import threading
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax.cli.main import main
from hypereyes_jax.cli.rl import RlConfig
from hypereyes_jax.configs.reward import RewardConfig
from hypereyes_jax.env.search.config import SearchConfig
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.rollout_files import read_rollouts
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.files import write_json
from hypereyes_jax.models.pretrained import load_model, save_model
from hypereyes_jax.models.qwen3_vl import init_params
from hypereyes_jax.rollout import Engine
from hypereyes_jax.rollout.engines import Engines
from hypereyes_jax.runs.progress import Stages
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.runs.stop import STOPPED, RunStopped, StopRequest
from hypereyes_jax.train import rl_loop, rl_run
from hypereyes_jax.train.method import RlMethod
from hypereyes_jax.train.question_selection import SELECTION
from hypereyes_jax.train.samplers import RolloutEngines
from hypereyes_jax.train.settings import RlSettings
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.types import RlQuestions, RlServices, TrainingRun

ASSETS = Path(str(resources.files("hypereyes_jax.assets")))
SETTINGS = RlSettings(steps=9, prompts=1, group=4, checkpoint_every=9)
SIZES = replace(MINIATURE_RL, slots=4, context=512)  # programs are as in tests/examples, and compile once for both
ENGINE = {"extend_rows": (4,), "extend_tokens": (128,), "image_shapes": ((1, 64), (1, 256))}
GENEROUS = [9, 99]  # a reference that any right answer betters


@cache
def engines():
    """One for all runs of this file, which each publish their weights to it before they play."""
    model, params, _ = load_model(ASSETS / "base")
    settings = replace(SIZES.engine(), **ENGINE).exact()
    return Engines([Engine(model, params, settings)])


same_learner = cache(rl_loop.make_learner)


def first_step(path, monkeypatch, right, teacher=None, learner=MINIATURE_RL.learner, **method):
    """Logged values of the first step of an epoch of two, with every answer judged as told. Then the run stops."""
    stop = StopRequest()

    async def verdicts(judge, played):
        stop.request("one step is enough")
        return [None if trajectory.result.answer is None else right for trajectory in played]

    monkeypatch.setattr(rl_loop, "verdicts", verdicts)
    monkeypatch.setattr(rl_loop, "make_learner", same_learner)
    config = RlConfig(ASSETS / "base", Path("-"), out=path, settings=SETTINGS)
    directory = RunDirectory.open(path, "rl", config, stop=stop)
    questions = world_questions(World.load(), "seen", 2, 5)
    write_json(directory.file(SELECTION), {question.id: GENEROUS for question in questions})
    model, params, chat = load_model(ASSETS / "base")
    sizes = replace(SIZES, learner=learner)
    with directory, Stages() as stages:
        rollouts = RolloutEngines(engines(), chat, sizes)
        run, services = TrainingRun(directory, stages), RlServices(SearchConfig(), teacher=teacher)
        with pytest.raises(RunStopped, match=r"stopped after step 1 of 9 .*; it is saved"):
            rl_run.train(run, rollouts, model, params, RlQuestions(questions), SETTINGS, services, RlMethod(**method))
    return {
        name.removeprefix("rl/"): value
        for name, value in json.loads(directory.file("metrics.jsonl").read_text()).items()
    }


@pytest.mark.slow
def test_the_reward_and_tightening_that_were_chosen_are_those_of_the_run(tmp_path, monkeypatch):
    reward = RewardConfig("cost-weighted", alpha=2.0, beta=0.25, malformed_call=0.0)
    values = first_step(tmp_path, monkeypatch, True, reward=reward, tighten="step")
    accuracy = values["accuracy"] - 0.5 * values["format_failures"]
    assert values["rounds"] > 0 < values["accuracy"]
    assert values["reward"] == pytest.approx(2 * accuracy - 0.25 * values["rounds"], abs=1e-6)
    assert values["references_tightened"] == 1  # in the middle of the epoch


def test_by_default_references_wait_for_the_end_of_the_epoch_and_rollouts_are_paid_by_trace(tmp_path, monkeypatch):
    values = first_step(tmp_path, monkeypatch, True)
    assert values["references_tightened"] == 0
    assert values["accuracy"] > 0
    assert values["reward_tool"] > 0  # all right answers are within this reference
    assert "1" in os.listdir(tmp_path / "rl-checkpoints")  # the step before the stop
    records = list(read_rollouts(tmp_path / "rollouts" / "step-000000.jsonl.gz"))
    assert len(records) == SETTINGS.group
    assert all({"reward", "advantage"} <= set(record.extra) for record in records)


def test_a_reward_of_one_s_own_ranks_the_rollouts_and_is_kept_with_the_run(tmp_path, monkeypatch):
    own = tmp_path / "own.py"
    own.write_text("def few_rounds(group):\n    return -group.rounds_G, {'groups': 1.0}\n")
    values = first_step(tmp_path / "run", monkeypatch, True, reward=RewardConfig(functions=(f"{own}:few_rounds*0.5",)))
    assert values["rounds"] > 0
    assert values["reward"] == pytest.approx(-0.5 * values["rounds"], abs=1e-6)
    assert values["reward_few_rounds_groups"] == 1.0
    (kept,) = json.loads((tmp_path / "run" / "objects.json").read_text())
    assert (kept["role"], kept["name"], kept["weight"]) == ("reward", f"{own}:few_rounds", 0.5)
    assert len(kept["sha256"]) == 64


@pytest.mark.slow
def test_distillation_as_a_loss_takes_the_weights_of_a_wider_teacher(tmp_path, monkeypatch):
    learner = replace(MINIATURE_RL.learner, opd="reverse-kl")
    nothing = RewardConfig("cost-weighted", alpha=1e-12, beta=0.0)  # so that only the teacher has a say
    values = first_step(tmp_path, monkeypatch, False, ASSETS / "teacher", learner, reward=nothing)
    assert values["distilled"] == 4
    assert values["loss"] > 1e-4  # the reverse KL, which is never negative
    assert values["grad_norm"] > 1e-3


def test_a_teacher_that_cuts_images_in_another_way_is_refused_as_a_loss(tmp_path, monkeypatch):
    import jax

    model, _, _ = load_model(ASSETS / "base")
    other = replace(model, vision=replace(model.vision, num_position_embeddings=4))
    save_model(tmp_path / "teacher", other, init_params(jax.random.key(0), other), ASSETS / "base")
    learner = replace(MINIATURE_RL.learner, opd="reverse-kl")
    with pytest.raises(UserError, match="can't read one batch"):
        first_step(tmp_path / "run", monkeypatch, False, tmp_path / "teacher", learner)


def test_the_command_hands_its_choices_on_and_a_signal_stops_it(tmp_path, monkeypatch, capsys):
    given = []

    def train(*arguments):
        given.extend(arguments)
        asked = threading.Event()
        with given[0].directory.stop.calling(asked.set):
            os.kill(os.getpid(), signal.SIGTERM)
            assert asked.wait(60)
        raise RunStopped(given[0].directory.stop.reason)

    monkeypatch.setattr(rl_run, "train", train)
    (tmp_path / "questions.jsonl").write_text(json.dumps({"question": "Which?", "answer": "This"}) + "\n")
    words = f"rl --checkpoint {ASSETS / 'base'} --questions {tmp_path / 'questions.jsonl'} --out {tmp_path / 'run'}"
    chosen = "--tighten step --reward.kind cost-weighted --reward.alpha 2 --reward.beta 0.1"
    assert main(f"{words} {chosen}".split()) == STOPPED == 75
    assert "hypereyes: SIGTERM" in capsys.readouterr().err
    assert given[-1] == RlMethod(RewardConfig("cost-weighted", alpha=2.0, beta=0.1), "step")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--reward.beta 0.1", "add --reward.kind cost-weighted"),
        ("--search.url http://h", "--search.url needs --search.service serve-world or retriever or serpapi"),
        ("--search.service retriever --search.url http://h --search.mapping brave", "--search.mapping needs"),
        (
            "--search.service serve-world --search.url http://h --search.latency 0.5",
            "--search.latency applies to offline",
        ),
        ("--search.budget shared --search.store s.sqlite", "--search.store postgresql://"),
        ("--reward.kind cost-weighted --reward.trace.band 2", "leave out --reward.kind cost-weighted"),
        ("--reward.kind cost-weighted --reward.alpha 0", "--reward.alpha must be positive"),
        ("--reward.kind cost-weighted --reward.beta -1", "--reward.beta at least 0"),
        ("--reward.trace.wrong-penalty inf", "--reward.trace.wrong-penalty must be a finite number"),
        ("--reward.trace.band 0.5", "--reward.trace.band must be at least 1"),
        ("--reward.trace.efficient-high 0", "each high must be at least its low"),
        ("--reward.trace.format-failure -1", "a rollout without an answer gets -0.5"),
        ("--sizes.learner.opd reverse-kl", "give --teacher DIR"),
        ("--turn-format native", "--turn-format says how demonstrations are read, and rl reads questions only"),
        (
            "--sizes.learner.opd reverse-kl --teacher-server.url http://h:1 --teacher-server.temperature 0.8",
            "and no --teacher-server.url",
        ),
    ],
)
def test_choices_that_can_not_be_meant_are_refused_before_anything_is_loaded(words, message, capsys):
    assert main(f"rl --checkpoint org/gone --questions org/gone {words}".split()) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ("", ("a search service (--search.service", "a judge (--judge.url", "a teacher (--teacher")),
        ("--search.service retriever --search.url http://h:1", ("a judge", "a teacher")),
        ("--search.service retriever --search.url http://h:1 --judge.url none", ("a teacher",)),
        ("--settings.opd-coef 0 --judge.url http://h:1", ("a search service",)),
    ],
)
def test_a_recipe_of_the_paper_is_not_trained_with_the_miniatures_services(words, missing, capsys):
    assert main(f"rl hypereyes_30b_rl --checkpoint org/gone --questions org/gone {words}".split()) == 2
    said = capsys.readouterr().err
    for part in ("a search service", "a judge (", "a teacher ("):
        assert (part in said) == any(each.startswith(part.rstrip(" (")) for each in missing)


@pytest.mark.parametrize(
    "words",
    [
        "--accept-miniature",
        "--search.service retriever --search.url http://h:1 --judge.url none --settings.opd-coef 0",
    ],
)
def test_a_recipe_that_was_told_so_is_trained_without_them(words, capsys):
    assert main(f"rl hypereyes_30b_rl --checkpoint gone --questions gone {words}".split()) == 2
    assert "gone" in capsys.readouterr().err


@pytest.mark.slow
def test_a_step_may_play_more_questions_than_it_trains_on(tmp_path, monkeypatch):
    settings = replace(SETTINGS, oversampling=2.0)
    monkeypatch.setattr(sys.modules[__name__], "SETTINGS", settings)
    values = first_step(tmp_path, monkeypatch, True)
    assert values["groups_left_out"] == 1
    assert settings.questions_played == 2
