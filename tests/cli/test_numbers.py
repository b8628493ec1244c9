"""Numbers that no setting can have are refused before anything is read, also by --dry-run."""

from importlib import resources

import pytest

from hypereyes_jax.cli.main import main

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
        ((*SFT, "--settings.dropout", "1.5"), "--settings.dropout must be from 0 to 1, not 1.5."),
        ((*SFT, "--settings.epochs", "-1"), "--settings.epochs must be at least 0, not -1."),
        ((*RL, "--settings.group", "0"), "--settings.group must be at least 1, not 0."),
        ((*RL, "--settings.steps", "-3"), "--settings.steps must be at least 1, not -3."),
        ((*RL, "--reward.trace.band", "nan"), "--reward.trace.band must be a finite number, not nan."),
        ((*RL, "--search.policy.rate", "-1"), "--search.policy.rate must be at least 0, not -1.0."),
        ((*RL, "--search.policy.backoff", "0.5", "nan"), "--search.policy.backoff must be a finite number, not nan."),
        ((*EVAL, "--temperature", "-1"), "--temperature must be at least 0, not -1.0."),
        (("data", "check", "none.jsonl", "--rows", "-1"), "--rows must be at least 0, not -1."),
    ],
)
def test_a_number_that_can_not_be_is_refused_by_its_option(words, why, capsys):
    assert main(list(words)) == 2
    assert capsys.readouterr().err == f"hypereyes: {why}\n"


@pytest.mark.parametrize(
    "words",
    [
        ("--settings.seed", "-1"),
        ("--reward.trace.wrong-penalty", "-0.3"),
        ("--settings.checkpoint-minutes", "0"),
        ("--sizes.episode.text-min-score", "-1"),
        ("--stop.minutes", "0"),
    ],
)
def test_other_numbers_are_left_to_the_command(words, capsys):
    assert main([*RL, *words]) == 2
    assert "none.jsonl" in capsys.readouterr().err
