"""Sources of questions and demonstrations in everybody's formats, indexed and streamed."""

from hypereyes_jax.data.sources.objects import source_objects
from hypereyes_jax.data.sources.source import (
    Examples,
    Questions,
    open_examples,
    open_questions,
    question_ids,
    stated_references,
)
from hypereyes_jax.data.sources.subset import subset
from hypereyes_jax.data.sources.types import Place, RowError, SourceOptions, SourceReport

__all__ = [
    "Examples",
    "Place",
    "Questions",
    "RowError",
    "SourceOptions",
    "SourceReport",
    "open_examples",
    "open_questions",
    "question_ids",
    "source_objects",
    "stated_references",
    "subset",
]
