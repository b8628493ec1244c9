"""Models that a run writes for its own later stages, known again by their content.

A model is written under its name when it is complete, but carries no run's id: others load it, too. So the run keeps
its digest in `models.json`, and goes on only with a model of that content.
"""

from __future__ import annotations

import os
from typing import Any

from hypereyes_jax.errors import UserError
from hypereyes_jax.files import read_json_object, write_json
from hypereyes_jax.runs.content import content_digest
from hypereyes_jax.runs.run_directory import RunDirectory

MODELS = "models.json"  # {"run": its id, "models": {name: digest}}


def model_is_written(directory: RunDirectory, name: str) -> bool:
    """Whether the run has written the model of that name. One that a kill kept from being noted is written again.

    Raises UserError if another model lies in its place, or the record is damaged or another run's.
    """
    digest = _digests(directory).get(name)
    folder = directory.file(name)
    if digest is None or not os.path.lexists(folder):
        return False
    if content_digest(folder) != digest:
        raise UserError(
            f"{folder} is not the model that {directory.file(MODELS)} says was written. Remove it, and the same "
            "command makes it again, or choose another directory."
        )
    return True


def note_model(directory: RunDirectory, name: str) -> None:
    """Notes that the model of that name is the run's."""
    models = _digests(directory) | {name: content_digest(directory.file(name))}
    write_json(directory.file(MODELS), {"run": directory.run, "models": models})


def _digests(directory: RunDirectory) -> dict[str, Any]:
    path = directory.file(MODELS)
    if not os.path.lexists(path):
        return {}
    document = read_json_object(path)
    directory.refuse_other_run(path, document.get("run", ""))
    models = document.get("models")
    if not isinstance(models, dict) or not all(isinstance(digest, str) for digest in models.values()):
        raise UserError(
            f"{path} is damaged ('models' must hold digests by name). Remove it, and the models are made again."
        )
    return models
