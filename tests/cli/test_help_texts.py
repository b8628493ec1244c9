"""Every option's help is a sentence: what can be told of that without reading it."""

import ast
import dataclasses
import importlib
import inspect
import textwrap
import typing
from functools import cache

import pytest
import tyro

from hypereyes_jax.cli.main import COMMANDS

FRAGMENTS = ("Of ", "On ", "That ", "With ", "As ", "From ", "Like ", "Beside ")


def settings_of_commands():
    """The dataclasses whose fields are options of any command, in the order in which they are met."""
    found = []
    for command in COMMANDS.values():
        if command.config:
            collect(getattr(importlib.import_module(f"hypereyes_jax.cli.{command.module}"), command.config), found)
    return found


def collect(kind, found):
    if typing.get_origin(kind) is typing.Annotated:
        if tyro.conf.Suppress not in kind.__metadata__:
            collect(kind.__origin__, found)
        return
    for part in typing.get_args(kind):
        collect(part, found)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind not in found:
        found.append(kind)
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            if field.init:
                collect(hints[field.name], found)


@cache
def documented(kind):
    """The string under each field of a dataclass, as tyro reads it."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    out = {}
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            out[field.target.id] = " ".join(after.value.value.split())
    return out


def options():
    for kind in settings_of_commands():
        owners = [base for base in kind.__mro__ if dataclasses.is_dataclass(base)]
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            owner = next(base for base in owners if field.name in inspect.get_annotations(base))
            groups = []
            collect(hints[field.name], groups)
            if field.init and not groups:
                yield pytest.param(owner, field.name, id=f"{owner.__name__}.{field.name}")


def test_every_group_of_options_says_what_it_is():
    commands = {command.config for command in COMMANDS.values()}  # their text is the module's
    for kind in settings_of_commands():
        generated = (kind.__doc__ or "").startswith(f"{kind.__name__}(")  # by the decorator
        assert kind.__name__ in commands or not generated, kind


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_keeps_its_line(command):
    text = importlib.import_module(f"hypereyes_jax.cli.{COMMANDS[command].module}").__doc__
    for line in inspect.cleandoc(text).splitlines():  # as tyro does
        assert not line.startswith("hypereyes "), f"the help joins lines that are not indented: {line}"
    assert text[0].isupper(), text


@pytest.mark.parametrize(("kind", "name"), list(options()))
def test_every_option_is_told_in_a_sentence(kind, name):
    told = documented(kind).get(name)
    assert told, f"{kind.__module__}.{kind.__name__}.{name} has no docstring under it"
    assert told[0].isupper() or not told[0].isalpha(), told
    assert told.endswith((".", ".)")), told
    assert len(told.split()) > 3, told
    assert not told.startswith(FRAGMENTS), f"without a noun: {told}"
