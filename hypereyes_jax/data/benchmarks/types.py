"""The nouns of benchmarks: what one is, and its questions as a sequence that is read as it is indexed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, overload

from hypereyes_jax.data.benchmarks.archives import BenchmarkMedia
from hypereyes_jax.data.sources.question_rows import QuestionRow
from hypereyes_jax.data.sources.types import BadRow, Place, Row, Rows, SourceReport
from hypereyes_jax.env.types import Question

Published = Literal["f1", "exact", "letter", "grade", "json", "judge"]


@dataclass(frozen=True)
class ReadOptions:
    """What a reader may be told."""

    choices: bool = False
    """Ask with the options in the question, where the benchmark has some."""
    columns: dict[str, str] = field(default_factory=dict)
    """Our field -> the file's column (text, answers, images, id, kind), for a set of no known shape."""


Convert = Callable[[Row, str, ReadOptions], list[QuestionRow]]  # a row, its id by default -> its questions


@dataclass(frozen=True)
class BenchmarkSpec:
    """How a benchmark is found, read and scored."""

    name: str
    title: str
    files: tuple[str, ...]
    """Patterns below the data folder; of the first that fits any file, all files are read."""
    convert: Convert
    published: Published = "judge"
    """Score of its own program; "judge" = a judge's verdict is all there is."""
    rule: str = "general"
    """Rule that a judge is told (a name in `llm_judge.RULES`)."""
    size: str = ""
    """Size of the published set, in words."""
    paper_n: int = 0
    """Questions that the paper's printed percentages imply: it evaluates on subsets that it does not list."""
    levels: tuple[str, ...] = ()
    """Ends of ids, such as level1, whose questions are summed up by themselves, too."""


class File(NamedTuple):
    """A benchmark's file that is open for reading."""

    path: Path
    rows: Rows
    media: BenchmarkMedia


class BenchmarkEntry(NamedTuple):
    """Where a question stands."""

    id: str
    kind: str
    file: int
    row: int
    part: int  # which of the row's questions


class Benchmark(Sequence[Question]):
    """A benchmark's questions in their order; each is read, and its pictures opened, when it is indexed."""

    def __init__(
        self,
        spec: BenchmarkSpec,
        files: Sequence[File],
        entries: Sequence[BenchmarkEntry],
        options: ReadOptions,
        report: SourceReport,
    ):
        self.spec, self._files, self.entries, self._options = spec, list(files), tuple(entries), options
        self.report = report  # of the rows that were left out

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(entry.id for entry in self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, index: int) -> Question: ...
    @overload
    def __getitem__(self, index: slice) -> Benchmark: ...
    def __getitem__(self, index: int | slice) -> Question | Benchmark:
        """Raises RowError, which names file and row, for a row or a picture that cannot be read."""
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        entry = self.entries[index]
        file = self._files[entry.file]
        try:
            row = file.rows.read(entry.row)
            question = self.spec.convert(row, default_id(file, entry.row), self._options)[entry.part]
            return file.media.question(question)
        except BadRow as error:
            place = Place(str(file.path), file.rows.number(entry.row), file.rows.unit)
            raise error.at(place) from None

    def select(self, indices: Sequence[int]) -> Benchmark:
        """The same benchmark with these questions only, in this order."""
        entries = [self.entries[index] for index in indices]
        return Benchmark(self.spec, self._files, entries, self._options, self.report)

    def close(self) -> None:
        for file in self._files:
            file.rows.close()
            file.media.close()


def default_id(file: File, row: int) -> str:
    """The id of a row that carries none: the file's name and the row's number."""
    return f"{file.path.stem}-{file.rows.number(row)}"
