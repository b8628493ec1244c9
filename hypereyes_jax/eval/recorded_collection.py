"""Recorded trajectories through the quality filters to a file of demonstrations, for `hypereyes collect`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.data.collection.recorded import OriginalQuestions, RecordedAnswers
from hypereyes_jax.data.files import example_json, json_line
from hypereyes_jax.env.types import Question
from hypereyes_jax.eval.records import episode_result, read_records
from hypereyes_jax.files import writing_atomic


async def collect_recorded(
    trajectories: Sequence[Path], questions: Sequence[Question], answers: RecordedAnswers, out: Path
) -> tuple[int, Counter[str]]:
    """Writes the demonstrations that right answers make. Those that nobody judged yet are judged.

    Args:
      trajectories: files of records.
      questions: that they answer.
      out: the file to write.

    Returns:
      (demonstrations, how many trajectories were left out for which reason).
    """
    dropped: Counter[str] = Counter()
    kept = 0
    originals = OriginalQuestions(questions)
    with writing_atomic(out) as file:
        for source in trajectories:
            for record in read_records(source):
                question = originals.find(record.question, record.question_id)
                if isinstance(question, str):
                    dropped[question] += 1
                    continue
                verdict = False if record.masked else record.correct
                example = await answers.demonstration(question, episode_result(record), verdict)
                if isinstance(example, str):
                    dropped[example] += 1
                    continue
                kept += 1
                row: dict[str, Any] = example_json(example)
                file.write(json_line(out, kept, row).encode())
    return kept, dropped
