"""Questions and demonstrations: sources in everybody's formats, synthesis, rejection sampling, filters, selection."""

from hypereyes_jax.data.sources import (
    Examples,
    Place,
    Questions,
    RowError,
    SourceOptions,
    open_examples,
    open_questions,
)

__all__ = ["Examples", "Place", "Questions", "RowError", "SourceOptions", "open_examples", "open_questions"]
