"""Figures of compiled programs kept on disk, so that a plan does not compile again what it has compiled before.

A program for absent hardware takes minutes of a core, and all that is kept of it is a page of numbers. They are found
by everything that they follow from: the text of the program, the mesh, the versions of jax and of the compiler, and the
code that reads the figures off.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.files import write_json
from hypereyes_jax.runs.compile_cache import default_folder

_COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin")
_READERS = ("compile", "hlo", "launches", "collectives", "topology")


def default_figures_folder() -> Path:
    """The folder beside the compiled programs of other commands, in the user's cache folder."""
    return default_folder().with_name("plans")


def figures_key(text: str, mesh: MeshConfig, cost: Mapping[str, float]) -> str:
    """Names a program.

    Args:
      text: of the lowered program.
      cost: what was counted on the traced program, which the text does not tell: how often a loop is expected to run.
    """
    whole = hashlib.sha256(text.encode())
    versions = {name: _version(name) for name in _COMPILERS}
    code = [Path(__file__).with_name(f"{name}.py").read_text() for name in _READERS]
    flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    # Names say nothing about what the compiler does.
    device = asdict(mesh) | {"name": "", "hosts": 0}
    whole.update(json.dumps([device, dict(cost), versions, code, flags], sort_keys=True).encode())
    return whole.hexdigest()[:40]


def read_figures(folder: Path, key: str) -> dict[str, Any] | None:
    """What `write_figures` wrote; None if it is not there, or not whole."""
    try:
        figures = json.loads((folder / f"{key}.json").read_text())
    except (OSError, ValueError):
        return None
    return figures if isinstance(figures, dict) else None


def write_figures(folder: Path, key: str, figures: Mapping[str, Any]) -> None:
    """Keeps the figures, where the folder can be written; a plan does not fail for want of a cache."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{key}.json", dict(figures))


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
