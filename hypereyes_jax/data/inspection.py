"""What a source is, before a run is paid for: formats, counts, lengths, the first prompt, and what is wrong with it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from hypereyes_jax.data.sources import Examples, Questions, SourceOptions, open_examples, open_questions
from hypereyes_jax.data.sources.example_rows import ExampleRow
from hypereyes_jax.data.sources.media import Clip, Media, Picture
from hypereyes_jax.data.sources.question_rows import QuestionRow
from hypereyes_jax.data.sources.turn_checks import OF_TURNS, UNKNOWN_TOOL
from hypereyes_jax.data.sources.types import BadRow, RowError, SourceReport
from hypereyes_jax.data.trajectories import RowLimits, clip_tokens, picture_tokens, text_tokens
from hypereyes_jax.env.config import EpisodeConfig
from hypereyes_jax.env.prompts import system_prompt
from hypereyes_jax.processing.chat import ChatFormat

Kind = Literal["questions", "demonstrations"]
_BINS = 12


@dataclass
class SourceSummary:
    """What `inspect_source` found. Lengths are of the rows looked at, in tokens with one a visual token."""

    kind: Kind
    rows: int  # that can be used, as far as their texts and headers tell
    looked_at: int  # of these, how many were opened
    report: SourceReport
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    pictures: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # of each row looked at
    turns: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    prompt: str = ""  # the first, as the model is given it
    answers: tuple[str, ...] = ()  # of the first question

    def histogram(self) -> list[tuple[int, int, int]]:
        """(from, to, rows) of `lengths`, in bins of one width."""
        if not len(self.lengths):
            return []
        low, high = int(self.lengths.min()), int(self.lengths.max())
        edges = np.linspace(low, high + 1, min(_BINS, high - low + 1) + 1).astype(int)
        counts, _ = np.histogram(self.lengths, edges)
        return [(int(a), int(b) - 1, int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]


def kind_of(source: str, options: SourceOptions) -> Kind:
    """Demonstrations, if one of the first rows has turns of a model, which may be faulty; else questions."""
    examples = open_examples(source, check=False, options=options)
    with examples:
        for index in range(min(20, len(examples))):
            try:
                examples.row(index)
            except RowError as error:
                if error.kind not in OF_TURNS and not error.kind.startswith(UNKNOWN_TOOL):
                    continue
            return "demonstrations"
    return "questions"


def open_source(
    source: str, options: SourceOptions, kind: Kind | None = None, *, allow_empty: bool = False
) -> Questions | Examples:
    """A source as what it holds, told by its rows unless it is given. Raises UserError."""
    kind = kind or kind_of(source, options)
    if kind == "questions":
        return open_questions(source, options=options, allow_empty=allow_empty)
    return open_examples(source, options=options, allow_empty=allow_empty)


def inspect_source(
    source: str,
    options: SourceOptions,
    chat: ChatFormat,
    limits: RowLimits,
    *,
    kind: Kind | None = None,
    most: int = 1000,
) -> SourceSummary:
    """Looks through all rows' texts, and into the pictures of at most so many rows, spread evenly (0 = of all).

    Raises UserError for a source that can't be read at all.
    """
    rows = open_source(source, options, kind, allow_empty=True)
    with rows:
        count = len(rows)
        indices = range(count) if not most or count <= most else np.linspace(0, count - 1, most).astype(int).tolist()
        summary = SourceSummary("questions" if isinstance(rows, Questions) else "demonstrations", count, 0, rows.report)
        lengths, pictures, turns = [], [], []
        for index in indices:
            try:
                row = rows.row(index)
                try:
                    visual = [_tokens(rows.media(index), part, limits) for part in _shown(row)]
                    rows[index]  # its pixels, too
                except BadRow as error:
                    raise rows.error(index, error) from None
            except RowError as error:
                rows.report.add_bad(error)
                continue
            text = text_tokens(row, chat) if isinstance(row, ExampleRow) else question_tokens(row, chat)
            lengths.append(text + sum(visual))
            pictures.append(len(visual))
            turns.append(len(row.turns) if isinstance(row, ExampleRow) else 0)
            if not summary.prompt:
                summary.prompt = _prompt(row, chat, visual)
                summary.answers = row.answers if isinstance(row, QuestionRow) else ()
        summary.looked_at = len(lengths)
        summary.lengths, summary.pictures, summary.turns = (np.array(v, np.int64) for v in (lengths, pictures, turns))
        return summary


def question_tokens(row: QuestionRow, chat: ChatFormat) -> int:
    """Tokens of a question's prompt without its pictures', under the system prompt of the paper's episodes."""
    chunk = chat.prompt(_system(), (*_shown(row), row.text))  # type: ignore[arg-type]  # only places of pictures count
    return len(chunk.tokens) - len(chunk.images)


def _shown(row: QuestionRow | ExampleRow) -> list[Picture | Clip]:
    """Pictures and videos in the order in which they are shown."""
    if isinstance(row, QuestionRow):
        return [*row.pictures, *row.clips]
    return [part for parts in row.observations for part in parts if not isinstance(part, str)]


def _tokens(media: Media, part: Picture | Clip, limits: RowLimits) -> int:
    return clip_tokens(media, part, limits) if isinstance(part, Clip) else picture_tokens(media, part, limits)


def _system() -> str:
    config = EpisodeConfig()
    return system_prompt(config.prompt_style, config.box_units, config.max_rounds)


def _prompt(row: QuestionRow | ExampleRow, chat: ChatFormat, visual: list[int]) -> str:
    """The first prompt's tokens as text; for the tokens of a picture, how many there are."""
    if isinstance(row, ExampleRow):
        chunk = chat.prompt(row.system, row.observations[0])  # type: ignore[arg-type]
    else:
        chunk = chat.prompt(_system(), (*_shown(row), row.text))  # type: ignore[arg-type]
    counts = iter(visual)
    return re.sub(r"<\|image_pad\|>", lambda _: f"[{next(counts):,} tokens of an image]", chat.decode(chunk.tokens))
