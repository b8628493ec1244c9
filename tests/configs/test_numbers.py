"""Numbers that no setting can have are refused before anything is read, by commands and in programs alike."""

import asyncio
import dataclasses
from importlib import resources

import numpy as np
import pytest
import yaml

from hypereyes_jax import train
from hypereyes_jax.cli.main import main
from hypereyes_jax.configs.model import PRESETS
from hypereyes_jax.configs.numbers import check_numbers
from hypereyes_jax.configs.reward import BudgetConfig, RewardConfig
from hypereyes_jax.configs.rollout import EngineConfig, SamplingConfig
from hypereyes_jax.configs.trace import TraceConfig
from hypereyes_jax.configs.training import LearnerConfig, OptimizerConfig
from hypereyes_jax.data.curation.types import read_curation
from hypereyes_jax.env.judging.config import JudgeConfig
from hypereyes_jax.env.judging.judges import ExactJudge
from hypereyes_jax.errors import SettingError, UserError
from hypereyes_jax.eval import evaluate
from hypereyes_jax.learner.learner import make_learner
from hypereyes_jax.train import sft
from hypereyes_jax.train.settings import RlSettings, SftSettings
from hypereyes_jax.train.sizes import MINIATURE_RL
from hypereyes_jax.train.types import RlServices

BASE = str(resources.files("hypereyes_jax.assets") / "base")
SFT = ("sft", "--checkpoint", BASE, "--demonstrations", "none.jsonl", "--out", "none", "--dry-run")
RL = ("rl", "--checkpoint", BASE, "--questions", "none.jsonl", "--out", "none", "--dry-run")
EVAL = ("eval", BASE, "--out", "none", "--splits", "heldout", "--dry-run")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((*SFT, "--settings.learning-rate", "nan"), "--settings.learning-rate must be a finite number, not nan."),
        (
            (*SFT, "--settings.checkpoint-minutes", "inf"),
            "--settings.checkpoint-minutes must be a finite number, not inf.",
        ),
        ((*SFT, "--settings.batch", "0"), "--settings.batch must be at least 1, not 0."),
        ((*SFT, "--settings.dropout", "1.5"), "--settings.dropout must be at least 0 and below 1, not 1.5."),
        ((*SFT, "--settings.dropout", "1"), "--settings.dropout must be at least 0 and below 1, not 1.0."),
        (
            (*SFT, "--sizes.learner.optimizer.b1", "1"),
            "--sizes.learner.optimizer.b1 must be at least 0 and below 1, not 1.0.",
        ),
        ((*SFT, "--settings.epochs", "-1"), "--settings.epochs must be at least 0, not -1."),
        ((*RL, "--settings.group", "0"), "--settings.group must be at least 1, not 0."),
        (("data", "convert", "q.jsonl", "out", "--shard-mib", "0"), "--shard-mib must be at least 1, not 0."),
        ((*RL, "--settings.steps", "-3"), "--settings.steps must be at least 1, not -3."),
        ((*RL, "--reward.trace.band", "nan"), "--reward.trace.band must be a finite number, not nan."),
        ((*RL, "--search.policy.rate", "-1"), "--search.policy.rate must be at least 0, not -1.0."),
        ((*RL, "--search.policy.backoff", "0.5", "nan"), "--search.policy.backoff must be a finite number, not nan."),
        ((*EVAL, "--temperature", "-1"), "--temperature must be at least 0, not -1.0."),
        ((*EVAL, "--search.image-port", "70000"), "--search.image-port must be from 0 to 65535, not 70000."),
        ((*EVAL, "--top-p", "0"), "--top-p must lie above 0 and be at most 1, not 0.0."),
        ((*EVAL, "--context", "1"), "--context must be at least 2, not 1."),
        ((*SFT, "--settings.seed", "-1"), "--settings.seed must be at least 0, not -1."),
        ((*SFT, "--settings.seed", "1" * 30), f"--settings.seed must be below 2^63, not {'1' * 30}."),
        (
            (*RL, "--reward.prices", "rounds=nan"),
            "'rounds=nan' is not a price: give NAME=NUMBER, each name once, of at least 0",
        ),
        (
            (*RL, "--reward.budget.targets", "rounds=-1"),
            "'rounds=-1' is not a target: give NAME=NUMBER, each name once, of at least 1e-09",
        ),
        (
            (*RL, "--sizes.learner.optimizer.options", "b2=nan"),
            "--sizes.learner.optimizer.options b2=nan must be a finite number.",
        ),
        (("serve-world", "--faults", "hang", "nan"), "--faults hang must be a finite number, not nan."),
        (("serve-world", "--port", "70000"), "--port must be from 0 to 65535, not 70000."),
        (("data", "check", "none.jsonl", "--rows", "-1"), "--rows must be at least 0, not -1."),
        (("study", "ablations", "--list", "--jobs", "0"), "--jobs must be at least 1, not 0."),
        (("study", "ablations", "--list", "--seeds", "-1"), "--seeds must be at least 0, not -1."),
        (("study", "ablations", "--list", "--test-questions", "0"), "--test-questions must be at least 1, not 0."),
        (("study", "ablations", "--list", "--seeds"), "--seeds needs at least one seed."),
    ],
)
def test_a_number_that_can_not_be_is_refused_by_its_option(words, why, capsys):
    assert main(list(words)) == 2
    assert capsys.readouterr().err == f"hypereyes: {why}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--reward.trace.wrong-penalty", "-0.3"),
        ("--settings.checkpoint-minutes", "0"),
        ("--sizes.episode.text-min-score", "-1"),
        ("--stop.minutes", "0"),
    ],
)
def test_other_numbers_are_left_to_the_command(words, capsys):
    assert main([*RL, *words]) == 2
    assert "none.jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"settings": {"oversampling": 0}}, "RlSettings.oversampling must be from 1 to 16, got 0.0"),
        ({"settings": {"group": 0}}, None),
        ({"reward": {"prices": ["rounds=nan"]}}, "'rounds=nan' is not a price"),
    ],
)
def test_a_file_of_settings_is_refused_in_the_same_words(settings, why, tmp_path, capsys):
    file = tmp_path / "rl.yaml"
    file.write_text(yaml.safe_dump({"command": "rl", "config": settings}))
    assert main([*RL, "--config", str(file)]) == 2
    assert (why or "--settings.group must be at least 1, not 0.") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"settings": RlSettings(group=0)}, "settings.group must be at least 1, not 0."),
        (
            {"settings": RlSettings(learning_rate=float("nan"))},
            "settings.learning_rate must be a finite number, not nan.",
        ),
        (
            {"settings": dataclasses.replace(RlSettings(), learning_rate=np.float32("-inf"))},
            "settings.learning_rate must be a finite number, not -inf.",
        ),
        ({"reward": RewardConfig(trace=TraceConfig(band=float("nan")))}, "reward.trace.band must be a finite number"),
        ({"sizes": dataclasses.replace(MINIATURE_RL, slots=0)}, "sizes.slots must be at least 1, not 0."),
        (
            {"services": RlServices(dataclasses.replace(RlServices().search, latency=-1.0))},
            "services.search.latency must be at least 0, not -1.0.",
        ),
    ],
)
def test_a_program_that_trains_is_refused_them_before_anything_is_written(changes, why, tmp_path):
    with pytest.raises(UserError) as refusal:
        train.rl(BASE, [], tmp_path / "run", **changes)
    assert why in str(refusal.value)
    assert not (tmp_path / "run").exists()


def test_sft_of_a_program_is_refused_them_before_its_data_are_read():
    with pytest.raises(UserError, match=r"^settings\.batch must be at least 1, not -4\.$"):
        sft.train(None, PRESETS["2b"], {}, None, "none.jsonl", SftSettings(batch=-4))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: SamplingConfig(temperature=float("nan")), "temperature must be a finite number"),
        (lambda: SamplingConfig(top_p=0.0), "top_p must lie above 0"),
        (lambda: EngineConfig(slots=0), "slots must be at least 1"),
        (lambda: RlSettings(oversampling=float("nan")), "oversampling must be from 1 to 16"),
        (
            lambda: make_learner(PRESETS["2b"], LearnerConfig(optimizer=OptimizerConfig(learning_rate=float("nan")))),
            "optimizer.learning_rate must be a finite number",
        ),
    ],
)
def test_parts_of_a_program_refuse_them_as_mistakes_of_who_calls(make, why):
    with pytest.raises(SettingError, match=why) as refusal:
        make()
    assert isinstance(refusal.value, ValueError)


def test_lists_of_prices_and_targets_refuse_them_when_they_are_made():
    with pytest.raises(UserError, match="is not a price"):
        RewardConfig(prices=("searches=inf",))
    with pytest.raises(UserError, match="is not a target"):
        BudgetConfig(targets=("searches=nan",))


def test_an_evaluation_that_may_judge_nothing_at_a_time_does_not_wait_for_ever():
    async def none(questions, on_end=None):
        return []

    with pytest.raises(ValueError, match="judge_concurrency must be at least 1"):
        asyncio.run(evaluate(none, [], ExactJudge(), visual_tokens=lambda image: 0, judge_concurrency=0))


def test_numbers_in_mappings_and_lists_are_named_by_their_place():
    @dataclasses.dataclass
    class Settings:
        shares: dict[str, float]
        inner: tuple[RlSettings, ...] = ()

    check_numbers(Settings({"a": 0.5}, (RlSettings(),)))
    with pytest.raises(SettingError, match=r"^shares b must be at least 0, not -1\.$"):
        check_numbers(Settings({"a": 0.5, "b": -1}))
    with pytest.raises(SettingError, match=r"^inner\.steps must be at least 1, not 0\.$"):
        check_numbers(Settings({}, (RlSettings(steps=0),)))


def test_a_curation_file_is_refused_them(tmp_path):
    file = tmp_path / "curation.yaml"
    model = {"url": "http://127.0.0.1:9/v1", "name": "m", "temperature": -1.0}
    file.write_text(yaml.safe_dump({"pools": [{"name": "a", "source": "a.jsonl"}], "sampler": model}))
    with pytest.raises(UserError, match=r"sampler\.temperature must be at least 0, not -1\.0"):
        read_curation(file)


def test_a_key_in_place_of_its_variable_s_name_is_refused_and_not_shown():
    check_numbers(JudgeConfig(key_env="OPENAI_API_KEY"))
    with pytest.raises(SettingError, match="must be the name of an environment variable") as refusal:
        check_numbers(JudgeConfig(key_env="sk-proj-1234"), "judge.", options=True)
    assert "1234" not in str(refusal.value)
    assert "--judge.key-env" in str(refusal.value)
