"""The benchmarks that can be opened by name, and subsets of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from hypereyes_jax.configs.objects import load_object
from hypereyes_jax.data.benchmarks import formats
from hypereyes_jax.data.benchmarks.archives import BenchmarkMedia
from hypereyes_jax.data.benchmarks.own import checked_spec
from hypereyes_jax.data.benchmarks.types import (
    Benchmark,
    BenchmarkEntry,
    BenchmarkSpec,
    File,
    Published,
    ReadOptions,
    default_id,
)
from hypereyes_jax.data.sources.formats import open_rows
from hypereyes_jax.data.sources.question_rows import QuestionRow
from hypereyes_jax.data.sources.splits import incomplete_shards
from hypereyes_jax.data.sources.types import BadRow, Place, SourceOptions, SourceReport
from hypereyes_jax.env.judging.llm_judge import RULES
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import parse_file_json, refuse_irregular

_FILES = 256  # data files of one benchmark at most
_NAME = re.compile(r"[\w-]+")

BENCHMARKS: dict[str, BenchmarkSpec] = {
    spec.name: spec
    for spec in (
        BenchmarkSpec(
            name="mmsearch",
            title="MMSearch",
            files=("**/end2end*.parquet", "**/end2end/*.parquet", "**/mmsearch.jsonl"),
            convert=formats.mmsearch,
            published="f1",
            rule="visual-entity",
            size="300 end-to-end questions, 171 of them with an image",
            paper_n=122,
        ),
        BenchmarkSpec(
            name="fvqa",
            title="FVQA",
            files=("**/fvqa_test*.parquet", "**/test-*.parquet|**/test/*.parquet"),  # or the shards the hub makes
            convert=formats.fvqa,
            published="exact",
            rule="short-fact",
            size="1,800 test questions",
            paper_n=188,
        ),
        BenchmarkSpec(
            name="livevqa",
            title="LiveVQA",
            # Not News_imgs/benchmark.json, a larger file that strayed there.
            files=(
                "**/[Nn]ews/benchmark.json|**/[Vv]ideo/benchmark.json|**/[Pp]aper/benchmark.json",
                "**/livevqa.jsonl",
                "benchmark.json",  # one of these folders by itself
            ),
            convert=formats.livevqa,
            published="grade",
            rule="visual-entity",
            size="1,192 items with a question at each of two levels",
            paper_n=239,
            levels=("level1", "level2"),
        ),
        BenchmarkSpec(
            name="browsecomp-vl",
            title="BrowseComp-VL",
            files=("**/bc_vl_level*.jsonl",),
            convert=formats.browsecomp_vl,
            published="json",
            rule="browse",
            size="199 questions of level 1 and 200 of level 2",
            paper_n=145,
        ),
        BenchmarkSpec(
            name="mmsearch-plus",
            title="MMSearch-Plus",
            files=("**/*.arrow", "**/*.parquet"),
            convert=formats.mmsearch_plus,
            published="judge",
            rule="browse",
            size="311 questions",
            paper_n=144,
        ),
        BenchmarkSpec(
            name="imeb",
            title="IMEB",
            files=("**/*.parquet", "**/*.jsonl"),
            convert=formats.imeb,
            published="judge",
            rule="multi-entity",
            size="300 questions, not released; any file by a mapping of columns",
            paper_n=300,
        ),
    )
}


def known_benchmark(name: str) -> BenchmarkSpec:
    """One of BENCHMARKS, or a user's own by `module:object`. Raises UserError if there is none of this name."""
    if ":" not in name:
        if name not in BENCHMARKS:
            names = ", ".join(BENCHMARKS)
            raise UserError(
                f"there is no benchmark {name!r}. Choose one of {names}, or name your own as module:object."
            )
        return BENCHMARKS[name]
    spec = load_object(name, "benchmark").value
    if not isinstance(spec, BenchmarkSpec):
        raise UserError(f"{name} is a {type(spec).__name__}, where a benchmark is a BenchmarkSpec")
    if not _NAME.fullmatch(spec.name) or spec.name in BENCHMARKS:
        raise UserError(
            f"{name}: the name {spec.name!r} is part of file names: use letters, digits, - and _, and no name of "
            f"{', '.join(BENCHMARKS)}"
        )
    if spec.rule not in RULES or spec.published not in get_args(Published):
        rules, scores = ", ".join(RULES), ", ".join(get_args(Published))
        raise UserError(f"{name}: rule must be one of {rules}, and published one of {scores}")
    return checked_spec(spec, name)


def holds_benchmark(name: str, folder: Path) -> bool:
    """Whether a folder holds files of a benchmark. Raises UserError if there is none of this name."""
    patterns = (one for pattern in known_benchmark(name).files for one in pattern.split("|"))
    return folder.is_dir() and any(_is_data(path, folder) for one in patterns for path in folder.glob(one))


def open_benchmark(
    name: str,
    data: Path,
    *,
    subset: Path | None = None,
    options: ReadOptions | None = None,
    reading: SourceOptions | None = None,
) -> Benchmark:
    """A benchmark's questions from the files its authors published, in the folders or archives they come in.

    Args:
      name: one of BENCHMARKS, or a user's own by `module:object`.
      data: its folder, or one file of it.
      subset: see `read_subset`; the questions then are those, in that order.
      reading: where pictures may come from, and whether rows that can't be used are left out, which the benchmark's
        `report` then counts.

    Raises:
      UserError: there is no such benchmark or file, or no usable row in it; a row is none of the benchmark or has the
        id of another, unless such rows are left out; the subset names an unknown id.
    """
    options, reading = options or ReadOptions(), reading or SourceOptions()
    spec = known_benchmark(name)
    paths = _files(spec, data)
    files = [File(path, open_rows(path, str(path), reading), _media(path, reading)) for path in paths]
    entries: list[BenchmarkEntry] = []
    places: dict[str, Place] = {}
    copies = _Copies()
    report = SourceReport(incomplete=tuple(incomplete_shards(map(str, paths))) if data.is_dir() else ())

    def refuse(place: Place, bad: BadRow, cure: str) -> None:
        if reading.bad_rows == "refuse":
            raise UserError(f"{place} is not a question of {spec.title}: {bad.why}. {cure}") from None
        report.add_bad(bad.at(place))

    for number, file in enumerate(files):
        for index, row in file.rows.scan():
            place = Place(str(file.path), file.rows.number(index), file.rows.unit)
            try:
                if isinstance(row, BadRow):
                    raise row
                questions = spec.convert(row, default_id(file, index), options)
            except BadRow as error:
                refuse(place, error, "Give the published file.")
                continue
            for part, question in enumerate(questions):
                if question.id in places:
                    why = f"the id {question.id!r} stands at {places[question.id]}, too"
                    refuse(place, BadRow("id used twice", why), "Remove one of them.")
                    continue
                # of a set without ids, as a cache that holds two versions of it has each row
                if question.id == default_id(file, index) and (other := copies.of(question, place)) is not None:
                    why = f"the same question stands at {other}, too"
                    refuse(place, BadRow("question in two files", why), "Give one copy of the files.")
                    continue
                places[question.id] = place
                entries.append(BenchmarkEntry(question.id, question.kind, number, index, part))
    if not entries:
        first = next(iter(report.first_bad.values()), None)
        why = f": {first.place}: {first.why}" if first else ""
        raise UserError(f"{data} holds no question of {spec.title}{why}. Give the folder of its published files.")
    benchmark = Benchmark(spec, files, entries, options, report)
    return benchmark if subset is None else _selected(benchmark, read_subset(subset), subset)


class _Copies:
    """Where each question stands, by its content."""

    def __init__(self) -> None:
        self._places: dict[tuple[object, ...], Place] = {}

    def of(self, question: QuestionRow, place: Place) -> Place | None:
        """Where the same question stands in another file; None if it stands there for the first time."""
        paths = (picture.value for picture in question.pictures if isinstance(picture.value, str))
        other = self._places.setdefault((question.text, question.answers, *paths), place)
        return other if other.file != place.file else None


def read_subset(path: Path) -> tuple[str, ...]:
    """Ids of questions: one a line, or a JSON list of texts or numbers. Raises UserError."""
    refuse_irregular(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"can't read the subset {path} ({error}). Give a text file with an id a line.") from None
    if text.lstrip().startswith("["):
        try:
            value = parse_file_json(text)
        except ValueError as error:
            raise UserError(f"the subset {path} is not JSON ({error}). Give a list of ids, or an id a line.") from None
        if not all(isinstance(item, str | int) and not isinstance(item, bool) for item in value):
            raise UserError(f"the subset {path} must list ids: texts or whole numbers.")
        ids = [str(item) for item in value]
    else:
        ids = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    twice = sorted(name for name, times in Counter(ids).items() if times > 1)
    if twice or not ids:
        why = f"names {', '.join(twice[:5])} twice" if twice else "names no id"
        raise UserError(f"the subset {path} {why}. Give each id of a question once.")
    return tuple(ids)


def _selected(benchmark: Benchmark, ids: Sequence[str], path: Path) -> Benchmark:
    by_id = {entry.id: number for number, entry in enumerate(benchmark.entries)}
    unknown = [name for name in ids if name not in by_id]
    if unknown:
        few = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise UserError(
            f"{path} names {len(unknown)} ids that {benchmark.spec.title} does not have here ({few}). "
            f"Its ids look like {benchmark.ids[0]!r}."
        )
    return benchmark.select([by_id[name] for name in ids])


def _is_data(path: Path, below: Path) -> bool:
    """Whether a file is one of the set, and not what programs leave beside it: a cache of `datasets`, hidden files."""
    parts = path.relative_to(below).parts
    left = path.name.startswith("cache-") or any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return path.is_file() and not left


def _media(path: Path, reading: SourceOptions) -> BenchmarkMedia:
    return BenchmarkMedia(
        reading.image_root or path.parent,
        outside=reading.outside_images,
        private_urls=reading.private_urls,
        cache=reading.cache,
    )


def _files(spec: BenchmarkSpec, data: Path) -> list[Path]:
    if data.is_file():
        return [data]
    if not data.is_dir():
        raise UserError(f"there is no {data}. Give the folder of {spec.title}'s published files with --data.")
    for pattern in spec.files:
        files = sorted({path for one in pattern.split("|") for path in data.glob(one) if _is_data(path, data)})
        if len(files) > _FILES:
            raise UserError(f"{data} holds {len(files)} files of the form {pattern}. Give the benchmark's own folder.")
        if files:
            return files
    raise UserError(
        f"{data} holds none of {', '.join(spec.files).replace('|', ', ')}, the files of {spec.title}. "
        "Download them, and give their folder with --data."
    )
