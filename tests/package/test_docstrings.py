"""Docstrings, of fields too, begin as sentences, as far as that can be told without reading them."""

import ast
import itertools
from pathlib import Path

import pytest

import hypereyes_jax

PACKAGE = Path(hypereyes_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
FRAGMENTS = (
    "Of ", "As ", "With ", "From ", "On ", "That ", "By ", "For ", "None ", "At ", "To ", "Its ", "In ", "Like ",
    "Until ", "Before ", "After ", "Around ", "Under ", "Not ",
)  # fmt: skip
KINDS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_begin_with_a_noun_or_a_verb(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, KINDS):
            text = ast.get_docstring(node) or ""
            place = f"line {getattr(node, 'lineno', 1)}, {getattr(node, 'name', 'the module')}"
            assert not text.startswith(FRAGMENTS), f"{place}: {text.splitlines()[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_docstring_of_a_field_begins_with_a_noun_or_a_verb(path):
    for kind in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(kind, ast.ClassDef):
            for field, after in itertools.pairwise(kind.body):
                if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                    text = getattr(after.value, "value", "")
                    assert not text.startswith(FRAGMENTS), f"{kind.name}.{ast.unparse(field.target)}: {text}"
