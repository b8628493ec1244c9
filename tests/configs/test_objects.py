import functools
import hashlib
import sys

import pytest

from hypereyes_jax.configs.objects import instance, labels, load_object, named_object
from hypereyes_jax.errors import UserError

SOURCE = "class Judge:\n    name = 'mine'\n\nclass Outer:\n    inner = 5\n"


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(SOURCE)
    return path


def test_an_object_of_a_file_comes_with_its_file_and_hash(source):
    loaded = load_object(f"{source}:Judge", "judge")
    assert instance(loaded).name == "mine"
    assert loaded.record() == {
        "name": f"{source}:Judge",
        "file": str(source),
        "sha256": hashlib.sha256(SOURCE.encode()).hexdigest(),
    }


def test_two_objects_of_one_file_are_of_one_module(source):
    assert load_object(f"{source}:Outer", "x").value is load_object(f"{source}:Outer", "x").value
    assert load_object(f"{source}:Outer.inner", "x").value == 5


def test_a_module_is_found_where_the_command_was_started(source, monkeypatch):
    monkeypatch.chdir(source.parent)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert load_object("own:Judge", "judge").value.name == "mine"
    monkeypatch.delitem(sys.modules, "own")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("judge", "name one as module:object"),
        (":x", "name one as module:object"),
        ("nowhere_at_all:x", "no module nowhere_at_all"),
        ("nowhere_at_all.inside:x", "no module nowhere_at_all.inside"),
        ("json:nothing", "json has no nothing"),
        ("missing.py:x", "no file missing.py"),
    ],
)
def test_what_is_not_there_is_told(name, why):
    with pytest.raises(UserError, match=why):
        load_object(name, "judge")


def test_a_defect_of_the_file_comes_through(tmp_path):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            load_object(f"{path}:x", "reward")


def weighted(group, weight):
    return weight


def test_a_function_with_some_arguments_given_is_recorded_as_itself_with_these():
    plain, half, whole = (
        named_object(each, "reward")
        for each in (weighted, functools.partial(weighted, weight=0.5), functools.partial(weighted, weight=1))
    )
    assert half.name == plain.name
    assert half.file == __file__
    assert len({plain.sha256, half.sha256, whole.sha256}) == 3
    assert labels([plain, half, whole]) == ["weighted", "weighted_2", "weighted_3"]
