"""A user's own parts of a run (its reward, tools, judge, ...), kept with it and compared when it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json, write_json
from hypereyes_jax.runs.run_directory import OBJECTS, work_was_done


def keep_own_objects(directory: Path, records: Sequence[dict[str, Any]]) -> None:
    """Notes the objects in the run's `objects.json`; one process does so, before any work.

    Args:
      directory: of the run.
      records: of each object its role, name, file and the sha256 of its source.

    Raises:
      UserError: the run was begun with others, so that it can't go on with these.
    """
    path = directory / OBJECTS
    if path.exists() and work_was_done(directory):
        _compare(directory, read_objects(path), records)
    write_json(path, list(records))


def read_objects(path: Path) -> list[dict[str, Any]]:
    """What `keep_own_objects` noted; nothing where there is no such file. Raises UserError for a damaged one."""
    records = read_json(path) if path.exists() else []
    if not isinstance(records, list) or not all(isinstance(each, dict) for each in records):
        raise UserError(f"{path} is damaged: it must be a list of objects. Choose another directory.")
    return records


def _compare(directory: Path, before: Sequence[dict[str, Any]], now: Sequence[dict[str, Any]]) -> None:
    def known(records: Sequence[dict[str, Any]]) -> dict[tuple[str, str], str]:
        return {(str(each.get("role")), str(each.get("name"))): str(each.get("sha256")) for each in records}

    old, new = known(before), known(now)
    for role, name in sorted({*old, *new}):
        if (role, name) not in new:
            raise UserError(f"{directory} was started with the {role} {name}, and can continue only with it.")
        if (role, name) not in old:
            raise UserError(f"{directory} was started without the {role} {name}. Use another directory for it.")
        if old[role, name] != new[role, name]:
            raise UserError(
                f"the source of the {role} {name} has changed since {directory} was started. Put it "
                "back to continue, or use another directory to start over."
            )
