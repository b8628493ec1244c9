import re
from pathlib import Path

from hypereyes_jax import rl

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "paper_index.md").read_text()
RULES = PAGE.split("## Where this differs")[0]


def test_every_test_it_names_exists():
    named = set(re.findall(r"`(test_\w+)`", RULES))
    written = set(
        re.findall(r"^def (test_\w+)", "\n".join(p.read_text() for p in (ROOT / "tests/rl").glob("*.py")), re.M)
    )
    assert len(named) > 15
    assert named <= written


def test_every_function_of_the_room_has_its_place():
    functions = {name for name in rl.__all__ if callable(getattr(rl, name)) and name[0].islower()}
    assert {name for name in functions if f"`{name}" not in RULES} == set()
