"""A page of rows of a data source, in the report's viewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.sources import Examples, Questions, RowError
from hypereyes_jax.env.actions import IMAGE_SEARCH, TEXT_SEARCH, Answer, ImageSearch, ParsedTurn, TextSearch, parse_turn
from hypereyes_jax.env.types import Invocation, Part, Question, StopReason, TurnRecord
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.records import TrajectoryRecord, webp_data_uri
from hypereyes_jax.eval.report import records_report, render
from hypereyes_jax.files import write_atomic
from hypereyes_jax.runs.outputs import check_outputs, refuse_no_page


def write_data_page(source: Questions | Examples, name: str, out: Path, rows: int = 20) -> Path:
    """Writes so many rows, spread evenly over the source, as one page. Returns its path.

    Rows that can't be read are counted in the source's report.

    Raises UserError if none can be read, or the page can't be written.
    """
    check_outputs([out])
    refuse_no_page(out)
    records = []
    for index in np.unique(np.linspace(0, len(source) - 1, min(rows, len(source))).astype(int)).tolist():
        try:
            row = source[index]
        except RowError as error:
            source.report.add_bad(error)
            continue
        records.append(example_record(row) if isinstance(row, Example) else question_record(row))
    if not records:
        raise UserError(f"no row of {name} can be shown. {source.report.bad_in_words()}")
    write_atomic(out, render(records_report(records, name, len(records))).encode("utf-8", "replace"))
    return out


def question_record(question: Question) -> TrajectoryRecord:
    """A question nobody has tried yet."""
    return TrajectoryRecord(
        stage="data",
        split="questions",
        question_id=question.id,
        question=question.text,
        answers=question.answers,
        images=tuple(webp_data_uri(image) for image in question.images),
        turns=(),
        stop=StopReason.NO_ACTION,
        answer=None,
        correct=None,
        kind=question.kind,
        why="a question, not yet tried",
        extra={"meta": question.meta},
    )


def example_record(example: Example) -> TrajectoryRecord:
    """A demonstration as the trajectory that it shows."""
    prompt, *observations = example.observations
    parses = [parse_turn(turn) for turn in example.turns]
    texts = [_text(parts) for parts in observations] + [""]
    turns = tuple(
        TurnRecord(text, turn.reason, _invocations(turn), turn.is_round, observation=observation)
        for text, turn, observation in zip(example.turns, parses, texts, strict=True)
    )
    last = parses[-1].action
    answer = last.text if isinstance(last, Answer) else None
    return TrajectoryRecord(
        stage="data",
        split="demonstrations",
        question_id=example.id,
        question=_text(prompt),
        answers=(),
        images=tuple(webp_data_uri(p) for parts in example.observations for p in parts if not isinstance(p, str)),
        turns=turns,
        stop=StopReason.ANSWERED if answer is not None else StopReason.NO_ACTION,
        answer=answer,
        correct=None,
    )


def _text(parts: tuple[Part, ...]) -> str:
    return "\n".join(part if isinstance(part, str) else "[image]" for part in parts)


def _invocations(turn: ParsedTurn) -> tuple[Invocation, ...]:
    """The searches that a turn asks for; what they found is in the observation only."""
    out = []
    for call in turn.calls:
        if isinstance(call, TextSearch):
            out += [Invocation(TEXT_SEARCH, query) for query in call.queries]
        elif isinstance(call, ImageSearch):
            for image in call.image_ids:
                out += [Invocation(IMAGE_SEARCH, image, source=image, box=box) for box in call.boxes or (None,)]
    return tuple(out)
