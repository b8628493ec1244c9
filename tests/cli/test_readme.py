"""What the README says is true: its Python runs, and it names every command that there is and no other."""

import re
from pathlib import Path

import pytest

from hypereyes_jax.cli.main import COMMANDS

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.mark.parametrize("code", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_an_example_prints_what_it_says(code, capsys):
    exec(compile(code, "README.md", "exec"), {})
    said = re.findall(r"print\(.*?\)  # ([^:\n]*)", code)
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert said
    for text in said:
        assert re.sub(r"\s+", " ", text).strip() in shown


def test_every_command_is_listed():
    listed = re.findall(r"^\| `hypereyes ([a-z-]+)", README, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_told_by_the_same_verb_in_the_readme_and_the_help(command):
    told = re.search(rf"^\| `hypereyes {command}\b[^|]*\| (\w+)", README, re.MULTILINE)[1]
    verb = COMMANDS[command].summary.split()[0].rstrip(",")
    assert told in (f"{verb}s", f"{verb}es")
