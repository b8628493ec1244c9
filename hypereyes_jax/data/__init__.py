"""Questions and demonstrations: sources in everybody's formats, synthesis, rejection sampling, filters, selection."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["Examples", "Place", "Questions", "RowError", "SourceOptions", "open_examples", "open_questions"]


def __getattr__(name: str) -> Any:
    # Opened when first asked for: readers of all formats take a second to import, which a command's help must not cost.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("hypereyes_jax.data.sources"), name)
