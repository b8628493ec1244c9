"""Figures of compiled programs are kept, and found by what they follow from."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from hypereyes_jax.configs.mesh import MESHES
from hypereyes_jax.plan.compile import GIB, compile_program
from hypereyes_jax.plan.figures import figures_key, read_figures

MESH = MESHES["v5p_64"]


class Program:
    """A traced, lowered and compiled program that counts how often it was compiled."""

    compiled = 0

    def __init__(self, text):
        self.jaxpr = SimpleNamespace(eqns=[], outvars=[])
        self._text = text

    def lower(self):
        return self

    def compile(self, **_):
        Program.compiled += 1
        return self

    def as_text(self):
        return self._text

    def memory_analysis(self):
        return SimpleNamespace(
            argument_size_in_bytes=4 * GIB, output_size_in_bytes=3 * GIB, alias_size_in_bytes=2 * GIB,
            temp_size_in_bytes=9 * GIB, peak_memory_in_bytes=11 * GIB,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def _count(monkeypatch):
    monkeypatch.setattr(Program, "compiled", 0)


def test_a_program_is_compiled_once_and_read_afterwards(tmp_path, capsys):
    first = compile_program("step", lambda: Program("a"), MESH, tmp_path)
    assert "compiling for v5p_64: step" in capsys.readouterr().err
    again = compile_program("the same by another name", lambda: Program("a"), MESH, tmp_path)
    assert Program.compiled == 1
    assert again == replace(first, name="the same by another name")
    assert not capsys.readouterr().err
    compile_program("step", lambda: Program("b"), MESH, tmp_path)
    assert Program.compiled == 2


def test_without_a_folder_nothing_is_kept(tmp_path):
    for _ in range(2):
        compile_program("step", lambda: Program("a"), MESH)
    assert Program.compiled == 2
    assert not list(tmp_path.iterdir())


def test_what_figures_follow_from_names_them(monkeypatch):
    cost = {"flops": 1.0, "traffic": 2.0}
    key = figures_key("a", MESH, cost)
    assert figures_key("a", replace(MESH, name="another name"), cost) == key
    others = [
        figures_key("b", MESH, cost),
        figures_key("a", replace(MESH, fsdp=4, expert=16), cost),
        figures_key("a", MESHES["v6e_64"], cost),
        figures_key("a", MESH, cost | {"flops": 3.0}),
    ]
    monkeypatch.setattr("importlib.metadata.version", lambda name: "another")
    others.append(figures_key("a", MESH, cost))
    assert len({key, *others}) == len(others) + 1


def test_a_file_cut_short_is_compiled_again(tmp_path):
    compile_program("step", lambda: Program("a"), MESH, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_text(path.read_text()[:20])
    assert read_figures(tmp_path, path.stem) is None
    compile_program("step", lambda: Program("a"), MESH, tmp_path)
    assert Program.compiled == 2


def test_a_folder_that_can_not_be_written_does_not_stop_a_plan(tmp_path):
    (tmp_path / "file").write_text("")
    assert compile_program("step", lambda: Program("a"), MESH, tmp_path / "file" / "x").peak_gib > 0
