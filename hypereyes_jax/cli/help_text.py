"""The docstrings of settings as help texts."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Any, get_args, get_type_hints


def join_help_lines(settings: type) -> None:
    """Gives each field of these settings, and of those within them, its docstring as one line, for tyro to wrap.

    tyro joins a docstring's lines only where they begin with a letter, and in a class they begin with its indentation:
    help would break where the source does, and again where the terminal ends.
    """
    for each in _dataclasses(settings, set()):
        docstrings = _docstrings(each)
        for field in fields(each):
            if field.name in docstrings:
                field.metadata = MappingProxyType({**field.metadata, "help": docstrings[field.name]})


def _dataclasses(hint: Any, seen: set[type]) -> Iterator[type]:
    """The dataclasses of a type hint, and those of their fields."""
    if isinstance(hint, type) and is_dataclass(hint) and hint not in seen:
        seen.add(hint)
        yield hint
        for inner in get_type_hints(hint).values():
            yield from _dataclasses(inner, seen)
    for inner in get_args(hint):
        yield from _dataclasses(inner, seen)


def _docstrings(settings: type) -> dict[str, str]:
    """The docstring of each field, its own class's before a parent's."""
    docstrings = {}
    for each in reversed(settings.__mro__[:-1]):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
        for statement, after in itertools.pairwise(getattr(tree, "body", ())):
            match statement, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docstrings[name] = " ".join(text.split())
    return docstrings
