"""Demonstrations that a command wrote, as a reader of the package opens them."""

from __future__ import annotations

from pathlib import Path

from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.sources import open_examples


def read_examples(path: Path) -> list[Example]:
    with open_examples(path) as examples:
        return list(examples)
