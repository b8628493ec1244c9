"""`--config FILE` and `--print-config`: the settings of a command as YAML or JSON, out and in again.

A file holds all settings or a few of them, by the names of the options (`settings: {learning_rate: 1e-5}`); what it
leaves out is as the recipe that it names has it, so that a recipe of one's own is a file. A run's `config.json` is such
a file, too. Options beside `--config` go before what stands in it.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tyro
import yaml

from hypereyes_jax.configs.yaml_text import YamlDumper, YamlLoader
from hypereyes_jax.errors import SettingError, UserError
from hypereyes_jax.files import json_kind, read_file
from hypereyes_jax.runs.run_directory import to_jsonable
from hypereyes_jax.runs.typed_json import ShapeError, from_json

_MISSING = "?"  # of what has no default, while settings are printed
_MOST_BYTES = 1 << 20


def take_option(words: Sequence[str], name: str) -> tuple[list[str], str | None]:
    """(the words without `--name VALUE` or `--name=VALUE`, the value; None without it).

    Raises UserError if the option is given twice, or without a value.
    """
    rest_of_words, value = [], None
    rest = iter(words)
    for word in rest:
        option, equals, after = word.partition("=")
        if option != f"--{name}":
            rest_of_words.append(word)
            continue
        file = after if equals else next(rest, None)
        if not file or value is not None:
            raise UserError(f"--{name} {'is given twice' if value is not None else 'needs a file'}")
        value = file
    return rest_of_words, value


def defaults(settings: type, command: str, recipe: str | None, file: str | None) -> Any:
    """The settings that options of the command line are laid over.

    Args:
      settings: the command's dataclass.
      recipe: named on the command line.
      file: of `--config`.

    Raises UserError for a file that can't be read, or holds what is not a setting of the command.
    """
    values = {} if file is None else _read(Path(file), command)
    name = values.get("recipe", recipe)
    if name is not None and not isinstance(name, str):  # which may be too large to be shown
        raise UserError(f"--config {file}: recipe must be a string, not {json_kind(name)}")
    if recipe is not None and name != recipe:
        raise UserError(f"{file} holds settings of the recipe {name}, but the command names {recipe}: name one of them")
    if hasattr(settings, "of") and (name is not None or file is not None):
        base = typing.cast(Any, settings).of("miniature" if name is None else name)
    else:
        base = _without_values(settings)
    return _laid_over(base, values, "", command, str(file))


def printable(settings: Any) -> Any:
    """The settings with a mark for each value that is missing, so that they can be printed without it."""
    fields = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    absent = {name: _MISSING for name, value in fields.items() if value is tyro.MISSING}
    return dataclasses.replace(settings, **absent)


def config_text(command: str, settings: Any) -> str:
    """Settings as YAML that `--config` reads. What is missing stands in a comment."""
    values = json.loads(json.dumps(to_jsonable(settings)))  # enums as plain texts
    missing = [name for name, value in values.items() if value == _MISSING]
    fields = {name: value for name, value in values.items() if name not in missing}
    document = {"command": command, "config": fields}
    text = yaml.dump(document, Dumper=YamlDumper, sort_keys=False, allow_unicode=True, width=120)
    return text + "".join(f"  # {name}: to be given\n" for name in missing)


def _read(path: Path, command: str) -> dict[str, Any]:
    try:
        document = yaml.load(read_file(path, _MOST_BYTES).decode("utf-8"), YamlLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"--config {path} is not YAML or JSON: {' '.join(str(error).split())[:300]}") from error
    if not isinstance(document, Mapping):
        raise UserError(f"--config {path} must hold an object of settings, like `settings: {{steps: 100}}`")
    of = document.get("command", command)
    if not isinstance(of, str):
        raise UserError(f"--config {path}: command must be a string, not {json_kind(of)}")
    if of != command:
        raise UserError(f"--config {path} holds settings of `hypereyes {of}`, not of `hypereyes {command}`")
    values = document.get("config", document)
    if not isinstance(values, Mapping):
        raise UserError(f"--config {path}: `config` must hold an object of settings")
    return {str(name): value for name, value in values.items() if values is not document or name != "command"}


def _without_values(settings: type) -> Any:
    """The command's defaults, with tyro's mark for what has none."""
    required = {
        field.name: tyro.MISSING
        for field in dataclasses.fields(settings)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    }
    return settings(**required)


def _laid_over(base: Any, given: Mapping[str, Any], place: str, command: str, file: str) -> Any:
    """`base` with the values that are given in it, at any depth."""
    hints = typing.get_type_hints(type(base))
    names = [field.name for field in dataclasses.fields(base)]
    values = {}
    for name, value in given.items():
        where = f"{place}{name}"
        if name not in names:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f" Did you mean {place}{close[0]}?" if close else f" There are: {', '.join(names)}."
            raise UserError(f"--config {file}: {where} is not a setting of `hypereyes {command}`.{hint}")
        now = getattr(base, name)
        if dataclasses.is_dataclass(now) and isinstance(value, Mapping):
            values[name] = _laid_over(now, value, f"{where}.", command, file)
            continue
        try:
            values[name] = from_json(hints[name], value, where)
        except ShapeError as error:
            raise UserError(f"--config {file}: {error}") from error
    try:
        return dataclasses.replace(base, **values)
    except SettingError as error:  # of several fields together
        raise UserError(f"--config {file}: {error}") from error
