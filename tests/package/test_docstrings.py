"""Public docstrings begin as sentences, as far as that can be told without reading them."""

import ast
from pathlib import Path

import pytest

import hypereyes_jax

PACKAGE = Path(hypereyes_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAGMENTS = ("Of ", "As ", "With ", "From ", "On ", "That ", "By ", "For ", "None ", "At ", "To ", "Its ", "In ")
KINDS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_docstrings_begin_with_a_noun_or_a_verb(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, KINDS) and not node.name.startswith("_"):
            told = ast.get_docstring(node) or ""
            assert not told.startswith(FRAGMENTS), f"line {node.lineno}, {node.name}: {told.splitlines()[0]}"
