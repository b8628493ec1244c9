"""The Dockerfile's stages install what pyproject.toml offers, from files that are in the repository."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_there_is_a_stage_for_each_kind_of_machine():
    assert re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.M) == ["base", "cpu", "cuda", "tpu"]


def test_extras_and_copied_files_exist():
    assert set(re.findall(r"pip install '\.\[(\w+)\]'", DOCKERFILE)) <= set(EXTRAS)
    copied = [name for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M) for name in line.split()]
    assert copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_base_satisfies_requires_python():
    (minor,) = re.findall(r"^FROM python:3\.(\d+)-slim", DOCKERFILE, re.M)
    assert int(minor) >= 11
