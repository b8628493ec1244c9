"""Docstrings begin as sentences, as far as that can be told without reading them."""

import ast
from pathlib import Path

import pytest

import hypereyes_jax

PACKAGE = Path(hypereyes_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAGMENTS = (
    "Of ", "As ", "With ", "From ", "On ", "That ", "By ", "For ", "None ", "At ", "To ", "Its ", "In ", "Like ",
    "Until ",
)  # fmt: skip
KINDS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_begin_with_a_noun_or_a_verb(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, KINDS):
            text = ast.get_docstring(node) or ""
            place = f"line {getattr(node, 'lineno', 1)}, {getattr(node, 'name', 'the module')}"
            assert not text.startswith(FRAGMENTS), f"{place}: {text.splitlines()[0]}"
