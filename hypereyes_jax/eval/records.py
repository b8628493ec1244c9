"""What a run leaves behind on disk, and how to read it back.

    metrics.json                {"stages": {STAGE: {SPLIT: StageSummary + judge, search, engine}}, ...}
    trajectories-*.jsonl        one `TrajectoryRecord` a line, images included
    timeline*.json              what the engine's slots did and when, a Chrome trace

STAGE is `base`, `sft`, `rl`, ...; SPLIT is `heldout`, `seen`, or `heldout_serial` for a policy forced to one search a
turn. Beside a summary stand the judge's name, what became of the searches (`SearchMetrics.summary`) and what the
engine's time went to (`Timeline.utilisation`).
A record stands alone: it opens in the report without the questions, the images' files or the backend it came from.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from hypereyes_jax.env.media.images import embedded, read_base64_image
from hypereyes_jax.env.types import EpisodeResult, Question, StopReason, TurnRecord
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.metrics import Judged
from hypereyes_jax.files import append_line, read_json_lines, write_atomic
from hypereyes_jax.runs.typed_json import from_json

_MAX_SIDE = 1280  # px; boxes are fractions, so the viewer loses sharpness only
_IMAGE_PREFIX = "data:image/"


@dataclass(frozen=True)
class TrajectoryRecord:
    """One judged trajectory as text and numbers."""

    stage: str
    split: str
    question_id: str
    question: str
    answers: tuple[str, ...]  # reference answer first, then its aliases
    images: tuple[str, ...]  # data URIs of img_0, img_1, ...
    turns: tuple[TurnRecord, ...]
    stop: StopReason
    answer: str | None
    correct: bool | None  # None = not judged, or masked
    kind: str = ""
    masked: str = ""  # "" | "infrastructure" | "judge"
    judge: str = ""
    tokens: int = 0  # read and written, image tokens included
    sampled_tokens: int = 0
    seconds: float = 0.0
    why: str = ""  # in words, where `stop` alone does not tell (an outage)
    extra: dict[str, Any] = field(default_factory=dict)  # JSON-able: cost of the searches, reward, ...

    @property
    def rounds(self) -> int:
        return sum(turn.is_round for turn in self.turns)

    @property
    def invocations(self) -> int:
        return sum(turn.searches for turn in self.turns)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def record_episode(result: EpisodeResult, *, stage: str, split: str, **outcome: Any) -> TrajectoryRecord:
    """The record of an episode; `outcome` holds what only its caller knows (`correct`, `judge`, `tokens`, ...)."""
    question = result.question
    return TrajectoryRecord(
        stage=stage,
        split=split,
        question_id=question.id,
        question=question.text,
        answers=question.answers,
        images=tuple(webp_data_uri(image) for image in question.images),
        turns=result.turns,
        stop=result.stop,
        answer=result.answer,
        kind=question.kind,
        why=result.why,
        **outcome,
    )


def record_judged(judged: Judged, *, stage: str, split: str, judge: str, **extra: Any) -> TrajectoryRecord:
    """The record of a trajectory that `evaluate` judged."""
    trajectory = judged.trajectory
    return record_episode(
        trajectory.result,
        stage=stage,
        split=split,
        correct=judged.correct,
        masked=judged.masked,
        judge=judge,
        tokens=judged.tokens,
        sampled_tokens=trajectory.sampled_tokens,
        seconds=trajectory.seconds,
        extra=extra,
    )


def episode_result(record: TrajectoryRecord) -> EpisodeResult:
    """The episode that a record is of, its images decoded. Raises ValueError for an image that is broken."""
    images = tuple(read_base64_image(image) for image in record.images)
    question = Question(record.question_id, record.question, images, record.answers, record.kind)
    return EpisodeResult(question, record.turns, record.stop, record.answer, record.why)


def webp_data_uri(image: Image.Image) -> str:
    """The image as a WebP data URI, at most 1280 px on a side."""
    small = image.convert("RGB")
    small.thumbnail((_MAX_SIDE, _MAX_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=90)
    return embedded(buffer.getvalue(), "WEBP")


def write_records(path: Path, records: Iterable[TrajectoryRecord]) -> None:
    """Write a trajectory file, whole or not at all. Raises `UserError` when it can't be written."""
    write_atomic(path, "".join(record_line(record) for record in records))


def append_record(path: Path, record: TrajectoryRecord) -> None:
    """Add one record at the end of a trajectory file, which is made if there is none.

    A last line that a kill has torn is cut off first.
    """
    append_line(path, record_line(record))


def read_records(path: Path) -> Iterator[TrajectoryRecord]:
    """Read a trajectory file, a line at a time; a last line that a kill has torn is left out.

    Raises:
      UserError: the file is missing, or a line is not a record; names the file and the line.
    """
    if not path.exists():
        raise UserError(f"there is no trajectory file {path}.")
    for number, value in read_json_lines(path):
        yield parse_record(value, path, number)


def parse_record(value: Any, path: Path, number: int) -> TrajectoryRecord:
    """The record of a line of a file. Raises UserError that names both if it is none."""
    try:
        return record_from_json(value)
    except ValueError as error:
        raise UserError(
            f"{path}, line {number} is not a trajectory record ({error}). Remove the line, or make the file again."
        ) from error


def record_from_json(value: Any) -> TrajectoryRecord:
    """The inverse of `to_json`. Raises ValueError on anything else."""
    record = from_json(TrajectoryRecord, value)
    if not all(image.startswith(_IMAGE_PREFIX) for image in record.images):
        raise ValueError("images must be data URIs")  # a viewer must never be made to fetch from elsewhere
    return record


def record_line(record: TrajectoryRecord) -> str:
    """A record as a line of a trajectory file."""
    return json.dumps(record.to_json(), allow_nan=False) + "\n"
