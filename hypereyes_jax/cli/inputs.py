"""What a command reads on this machine is looked for before jax is imported and before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import tyro

from hypereyes_jax.errors import UserError

CHECKPOINTS = ("checkpoint", "teacher")
SOURCES = ("questions", "eval_questions", "demonstrations")
_POSITIONAL = get_args(tyro.conf.Positional[int])[1]


def refuse_empty_paths(config: Any, words: Sequence[str]) -> None:
    """Raises UserError for a path that was typed as "", which would be the present directory: `--out "$UNSET"`."""
    if any(not word or (word.startswith("-") and word.endswith("=")) for word in words) and _has_present(config):
        raise UserError(
            "a path is empty. Is a variable of the shell not set? Give . if the present directory is meant."
        )


def _has_present(settings: Any) -> bool:
    if is_dataclass(settings):
        return any(_has_present(getattr(settings, field.name)) for field in fields(settings))
    if isinstance(settings, tuple):
        return any(map(_has_present, settings))
    return isinstance(settings, Path) and settings == Path()


def typed_names(config: Any, prefix: str = "--") -> dict[str, str]:
    """What each setting is called where it is typed: --questions, or CHECKPOINT in `hypereyes eval CHECKPOINT`."""
    hints = get_type_hints(type(config), include_extras=True)
    names = {}
    for field in fields(config):
        marks = get_args(hints[field.name])[1:]
        name = next((mark.metavar for mark in marks if getattr(mark, "metavar", None)), field.name.upper())
        names[field.name] = name if _POSITIONAL in marks else prefix + field.name.replace("_", "-")
    return names


def refuse_missing_inputs(config: Any, of_one_process: bool = False) -> None:
    """Raises UserError for a checkpoint or a source of data that should be on this machine and is not.

    What is behind a URL or on the hub is left to the command. So is everything where several processes make one run,
    unless it is `of_one_process`: a process that ended before it joined the others would keep them waiting.
    """
    distributed = getattr(config, "distributed", None)
    if distributed is not None and distributed.join and not of_one_process:
        return
    options = typed_names(config)
    for name in CHECKPOINTS:
        place = getattr(config, name, None)
        if place is not None and str(place):
            refuse_missing_checkpoint(options[name], str(place))
    for name in SOURCES:
        source = getattr(config, name, None)
        if isinstance(source, str | Path) and str(source):
            from hypereyes_jax.data.sources.locate import refuse_missing

            refuse_missing(str(source))


def refuse_missing_checkpoint(option: str, place: str) -> None:
    """Raises UserError for a directory that is missing or holds no `config.json`, unless it is a URL or a hub id."""
    from hypereyes_jax.models.hub import hub_id
    from hypereyes_jax.models.storage import is_url

    path = Path(place)
    if is_url(place) or (hub_id(place) is not None and not path.exists()):
        return
    if not path.exists():
        raise UserError(f"{option} {place}: there is no such directory.")
    if not (path / "config.json").exists():
        from hypereyes_jax.models.foreign_directories import cure_of_place

        raise UserError(f"{option} {place} holds no config.json. {cure_of_place(path)}")
