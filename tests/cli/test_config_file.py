"""Settings as files: printed, read back, laid over a recipe, and refused by name."""

import importlib
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest

from hypereyes_jax.cli import eval as eval_command
from hypereyes_jax.cli import main as cli
from hypereyes_jax.cli import plan as plan_command
from hypereyes_jax.cli import rl, sft
from hypereyes_jax.cli.config_file import config_text, defaults, printable
from hypereyes_jax.cli.rl import RlConfig
from hypereyes_jax.cli.sft import SftConfig
from hypereyes_jax.configs.recipes import RECIPES
from hypereyes_jax.env.search.config import StoreMode
from hypereyes_jax.errors import UserError
from hypereyes_jax.launch.processes import Processes
from hypereyes_jax.launch.run_output import open_run
from hypereyes_jax.plan.settings import PlanConfig
from hypereyes_jax.runs.run_directory import to_jsonable

COMMANDS = {"rl": rl, "sft": sft, "plan": plan_command, "eval": eval_command}


@pytest.fixture
def ran(monkeypatch):
    """Settings that a command was run with, which is not run."""
    seen = []
    for module in COMMANDS.values():
        monkeypatch.setattr(module, "run", lambda config: seen.append(config))

    def run(*words):
        assert cli.main(["--compile-cache", "off", *map(str, words)]) == 0
        return seen[-1]

    return run


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_printed_of_every_recipe_reads_back_as_the_same_settings(recipe, ran, tmp_path, capsys):
    stage = RECIPES[recipe].stage
    given = {"rl": "--checkpoint c --questions q", "sft": "--checkpoint c --demonstrations d"}[stage].split()
    assert cli.main([stage, recipe, *given, "--print-config"]) == 0
    file = tmp_path / "mine.yaml"
    file.write_text(capsys.readouterr().out)
    assert ran(stage, "--config", file) == ran(stage, recipe, *given)


def test_values_of_every_kind_come_back_as_they_were(ran, tmp_path):
    words = (
        "rl hypereyes_8b_rl_lora --checkpoint c --questions q --mesh fsdp=8 --references refs.json --eval-questions e "
        "--settings.learning-rate 1.5e-7 --search.mode replay-strict --sizes.extend-rows 1 2 --sizes.replica-"
        "devices 2 --reward.functions a.py:f*0.5 --sizes.learner.dual-clip None --search.service retriever --exact"
    ).split()
    config = ran(*words)
    assert config.search.mode is StoreMode.REPLAY
    assert config.sizes.learner.dual_clip is None
    (tmp_path / "all.yaml").write_text(config_text("rl", config))
    assert ran("rl", "--config", tmp_path / "all.yaml") == config


def test_a_run_is_repeated_by_the_config_json_that_it_left(ran, tmp_path, monkeypatch):
    config = ran("sft", "--checkpoint", "c", "--demonstrations", "d", "--out", tmp_path / "run", "--settings.batch", 5)
    open_run(Processes(), config.out, "sft", config)
    saved = tmp_path / "run" / "config.json"
    assert json.loads(saved.read_text())["versions"]
    assert ran("sft", "--config", saved) == config
    assert ran("sft", f"--config={saved}", "--out", "b") == replace(config, out=Path("b"))  # options go before


def test_a_recipe_of_one_s_own_is_a_file_over_another(ran, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "recipe: hypereyes_2b_rl_lora\ncheckpoint: there\nsettings: {steps: 7, learning_rate: 2e-5}\n"
        "sizes:\n  learner: {clip_high: 0.3}\n"
    )
    config = ran("rl", "--config", file, "--questions", "q")
    default = RlConfig.of("hypereyes_2b_rl_lora")
    assert (config.checkpoint, config.questions, config.settings.learning_rate) == ("there", "q", 2e-5)
    learner = replace(default.sizes.learner, clip_high=0.3)
    assert config.sizes == replace(default.sizes, learner=learner)
    assert config.settings == replace(default.settings, steps=7, learning_rate=2e-5)


def test_what_has_no_default_is_left_open(capsys, tmp_path, ran):
    assert cli.main(["sft", "hypereyes_4b_sft", "--print-config"]) == 0
    shown = capsys.readouterr().out
    assert "# checkpoint: to be given" in shown
    (tmp_path / "open.yaml").write_text(shown)
    given = ["--checkpoint", "c", "--demonstrations", "d"]
    wanted = replace(SftConfig.of("hypereyes_4b_sft"), checkpoint="c", demonstrations="d")
    assert ran("sft", "--config", tmp_path / "open.yaml", *given) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "settings: {lerning_rate: 1}",
            "settings.lerning_rate is not a setting of `hypereyes rl`. Did you mean",
        ),
        ("setings: {}", "setings is not a setting of `hypereyes rl`. Did you mean settings?"),
        ("settings: {steps: many}", "settings.steps must be a whole number, not the text 'many'"),
        ("settings: {steps: 1.5}", "settings.steps must be a whole number, not 1.5"),
        ("tighten: weekly", "tighten must be one of epoch, step"),
        ("search: {mode: x}", "search.mode must be one of live"),
        ("out: 3", "out must be a path, not a number"),
        ("recipe: hypereyes_9b_rl", "no recipe 'hypereyes_9b_rl'"),
        ("command: sft\nconfig: {}", "settings of `hypereyes sft`, not of `hypereyes rl`"),
        ("[1, 2]", "must hold an object"),
        ("a: [", "is not YAML or JSON"),
        ("!!python/object/apply:os.system [ls]", "is not YAML or JSON"),
        ("settings: 3", "settings must be an object"),
    ],
)
def test_what_is_no_setting_is_refused_by_name(text, message, tmp_path, capsys):
    (tmp_path / "f.yaml").write_text(text)
    words = ["rl", "--config", str(tmp_path / "f.yaml"), "--checkpoint", "c", "--questions", "q"]
    assert cli.main(words) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--config gone.yaml", "gone.yaml"),
        ("--config", "--config needs a file"),
        ("--config a --config b", "--config is given twice"),
    ],
)
def test_a_file_that_is_not_there_is_named(words, message, capsys):
    assert cli.main(["rl", *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_two_recipes_at_once_are_refused(tmp_path, capsys):
    (tmp_path / "f.yaml").write_text("recipe: hypereyes_2b_rl")
    assert cli.main(["rl", "hypereyes_4b_rl", "--config", str(tmp_path / "f.yaml")]) == 2
    assert "name one of them" in " ".join(capsys.readouterr().err.split())


def test_a_plan_of_a_model_alone_is_of_its_rl(ran):
    assert ran("plan", "--model", "8b", "--mesh", "gpu") == replace(
        PlanConfig.of("hypereyes_8b_rl"), mesh="gpu", model="8b"
    )
    assert ran("plan", "hypereyes_2b_sft", "--model=4b", "--mesh", "gpu").recipe == "hypereyes_2b_sft"


def test_a_plan_of_a_model_without_a_recipe_asks_for_one(capsys):
    assert cli.main(["plan", "--model", "9b", "--mesh", "gpu"]) == 2
    assert "name a recipe, too" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name, command in cli.COMMANDS.items() if command.config])
def test_the_defaults_of_every_command_read_back_as_they_were_printed(name, tmp_path):
    command = cli.COMMANDS[name]
    settings = getattr(importlib.import_module(f"hypereyes_jax.cli.{command.module}"), command.config)
    before = defaults(settings, name, None, None)
    file = tmp_path / "printed.yaml"
    file.write_text(config_text(name, printable(before)))
    after = defaults(settings, name, None, str(file))
    differ = {field.name for field in fields(before) if getattr(before, field.name) != getattr(after, field.name)}
    assert differ <= {"recipe"}  # which the file names where the command line need not


@pytest.mark.parametrize("name", [name for name, command in cli.COMMANDS.items() if command.config])
def test_no_default_of_a_command_is_a_number_that_json_lacks(name):
    """Such a command could not keep its settings with its run."""
    command = cli.COMMANDS[name]
    settings = getattr(importlib.import_module(f"hypereyes_jax.cli.{command.module}"), command.config)
    json.dumps(to_jsonable(printable(defaults(settings, name, None, None))), allow_nan=False)


@pytest.mark.parametrize("text", ["1e5", "010", "1:30", "2026-11-29", "no", "0x10", ".inf", "5", "1_000"])
def test_texts_that_look_like_numbers_come_back_as_texts(text, tmp_path):
    file = tmp_path / "printed.yaml"
    file.write_text(config_text("rl", printable(replace(RlConfig.of("miniature"), questions=text))))
    assert defaults(RlConfig, "rl", None, str(file)).questions == text


@pytest.mark.parametrize(
    ("text", "steps"), [("12", 12), ("1_000", 1000), ("0x10", 16), ("+5", 5), ("!!int '7'", 7), ("0", 0)]
)
def test_whole_numbers_are_what_they_look_like(text, steps, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"settings: {{steps: {text}}}\n")
    assert defaults(RlConfig, "rl", None, str(file)).settings.steps == steps


@pytest.mark.parametrize("text", ["1e-5", "1.e-5", "0.00001", "1E-5", "10e-6", ".00001"])
def test_numbers_are_read_however_they_are_written(text, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(f"settings: {{learning_rate: {text}}}\n")
    assert defaults(RlConfig, "rl", None, str(file)).settings.learning_rate == pytest.approx(1e-5)


_BOMB = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}' if n else 'x'] * 9)}]\n" for n in range(12))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("settings: {steps: 010}", "settings.steps must be a whole number, not the text '010'"),  # 8 in YAML 1.1
        ("settings: {steps: 1:30}", "settings.steps must be a whole number, not the text '1:30'"),  # 90
        ("settings: {learning_rate: 1:30.5}", "settings.learning_rate must be a number, not the text '1:30.5'"),
        ("settings: {learning_rate: .inf}", "settings.learning_rate must be a number, not inf"),
        (f"settings: {{learning_rate: {'9' * 400}}}", "settings.learning_rate must be a number, not 9999"),
        ("settings: {steps: 5, steps: 6}", "steps is given twice"),
        ("settings: {steps: 5}\nsettings: {seed: 1}", "settings is given twice"),
        ('{"settings": {"steps": 5, "steps": 6}}', "steps is given twice"),
        (_BOMB + "recipe: *a11", "recipe must be a string, not a list"),
        (_BOMB + "command: *a11", "command must be a string, not a list"),
    ],
)
def test_numbers_and_names_that_would_be_read_otherwise_are_refused(text, message, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text + "\n")
    with pytest.raises(UserError, match=re.escape(message)):
        defaults(RlConfig, "rl", None, str(file))
