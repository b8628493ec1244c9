from pathlib import Path

import pytest

from hypereyes_jax.errors import UserError
from hypereyes_jax.study.execution import call_command, execute, shell_line
from hypereyes_jax.study.types import Step


def step(folder, name, make=True):
    return Step(name, folder / name, ("do", name)) if make else Step(name, folder / name, make=(folder / name).touch)


def doing(folder, called):
    def call(words, log):
        called.append(words[1])
        (folder / words[1]).touch()
        return 0

    return call


def test_what_is_done_is_not_done_again_and_the_order_is_kept(tmp_path):
    called = []
    steps = [step(tmp_path, "a"), step(tmp_path, "b", make=False), step(tmp_path, "c")]
    (tmp_path / "a").touch()
    assert execute(steps, tmp_path, lambda _: None, call=doing(tmp_path, called))
    assert called == ["c"]
    assert (tmp_path / "b").exists()
    assert execute(steps, tmp_path, lambda _: None, call=doing(tmp_path, called))
    assert called == ["c"]


def test_a_sitting_that_is_over_begins_nothing_more(tmp_path):
    called = []
    assert not execute([step(tmp_path, "a")], tmp_path, lambda _: None, minutes=0, call=doing(tmp_path, called))
    assert called == []


def test_a_command_that_fails_is_named_with_its_log(tmp_path):
    log = tmp_path / "logs"
    with pytest.raises(UserError, match=r"train it failed with exit code 2.*there is no command"):
        execute([Step("train it", tmp_path / "x", ("no-such-command",))], log, lambda _: None, call=call_command)
    assert "$ hypereyes no-such-command" in (log / "train-it.log").read_text()


def test_a_step_that_makes_nothing_is_an_error(tmp_path):
    with pytest.raises(UserError, match="ended without"):
        execute([Step("s", tmp_path / "x", ("w",))], tmp_path, lambda _: None, call=lambda words, log: 0)


def test_a_line_can_be_pasted():
    assert shell_line(["ask", "x.png", "What is this?"]) == "hypereyes ask x.png 'What is this?'"


def test_a_step_is_a_command_or_a_function():
    with pytest.raises(ValueError, match="either"):
        Step("s", Path("x"))
