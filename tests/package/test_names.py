"""Names are the field's: the words that were given up for them, and participles as nouns, do not come back."""

import ast
from pathlib import Path

import pytest

import hypereyes_jax

PACKAGE = Path(hypereyes_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PARTICIPLES = set(
    "asked checked cited fenced forced found handed held merged ordered reached taught told tried".split()
)
GIVEN_UP = set("announcer desk follower handing leader leftovers listener seat team teams trips watching".split())


def names(path):
    """(line, name) of what a file defines or assigns to."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_named_by_a_participle_or_a_private_word(path):
    wrong = [(line, name) for line, name in names(path) if name.strip("_").lower() in PARTICIPLES | GIVEN_UP]
    assert not wrong
