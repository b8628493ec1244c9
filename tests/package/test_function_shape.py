"""Functions that can be read at once: at most 9 parameters, at most 100 lines. What travels together is a type."""

import ast
from pathlib import Path

import pytest

import hypereyes_jax

PACKAGE = Path(hypereyes_jax.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
MOST_PARAMETERS = 9  # all but self and cls
MOST_LINES = 100


def functions(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def parameters(function):
    given = function.args
    named = [argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in named if name not in ("self", "cls")] + [
        argument.arg for argument in (given.vararg, given.kwarg) if argument is not None
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_functions_have_few_parameters_and_lines(path):
    for function in functions(path):
        names = parameters(function)
        assert len(names) <= MOST_PARAMETERS, f"line {function.lineno}, {function.name} takes {len(names)}: {names}"
        lines = function.end_lineno - function.lineno + 1
        assert lines <= MOST_LINES, f"line {function.lineno}, {function.name} has {lines} lines"
