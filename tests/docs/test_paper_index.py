"""The index names what there is: its functions are in a room of their table, its tests in their file."""

import re
from pathlib import Path

import pytest

from hypereyes_jax import rl

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "docs" / "paper_index.md").read_text().split("## Where this differs")[0]
TESTS = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}


def rows():
    """(rooms, cell of functions, cell of tests) of each row."""
    for section in RULES.split("\n## ")[1:]:
        room = " ".join(re.findall(r"`(\w+)/`", section.splitlines()[0]))
        for line in re.findall(r"^\| (.*) \|$", section, re.M)[1:]:
            rule, functions, tests = re.split(r"(?<!\\) \| ", line)
            yield pytest.param(room, functions, tests, id=rule[:60])


@pytest.mark.parametrize(("room", "functions", "tests"), list(rows()))
def test_a_row_names_functions_and_tests_that_exist(room, functions, tests):
    files = [path for name in room.split() for path in (ROOT / "hypereyes_jax" / name).rglob("*.py")]
    assert set(re.findall(r"\((\w+\.py)\)", functions)) <= {path.name for path in files}
    code = "\n".join(path.read_text() for path in files)
    named = re.findall(r"`(\w+)(?:\([^`]*\))?`", functions)
    assert named
    for name in named:
        assert re.search(rf"^(async )?(def|class) {name}\b", code, re.M), name
    places = TESTS
    for name in re.findall(r"\btest_\w+(?:\.py)?", tests):
        if name.endswith(".py"):
            places = {name: TESTS[name]}
        else:
            assert any(re.search(rf"^(async )?def {name}\(", text, re.M) for text in places.values()), name
    assert "test_" in tests


def test_every_function_of_the_training_room_has_its_place():
    functions = {name for name in rl.__all__ if callable(getattr(rl, name)) and name[0].islower()}
    assert {name for name in functions if f"`{name}" not in RULES} == set()
