"""Questions and demonstrations as sequences over whatever holds them: in memory is an index, a row when asked for."""

from __future__ import annotations

import abc
import contextlib
import hashlib
import posixpath
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar, overload

import numpy as np

from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.sources.columns import SHAPED, Fields, Layout, names_picture_ids
from hypereyes_jax.data.sources.compressed import without_suffix
from hypereyes_jax.data.sources.example_rows import ExampleRow, example_row
from hypereyes_jax.data.sources.fields import is_blank, looks_like_picture, nested_too_deep
from hypereyes_jax.data.sources.formats import open_rows
from hypereyes_jax.data.sources.locate import is_object, locate, second_copies
from hypereyes_jax.data.sources.media import Media, picture_of_name
from hypereyes_jax.data.sources.objects import ObjectRows, object_rows
from hypereyes_jax.data.sources.question_rows import REFERENCE, QuestionRow, question_rows
from hypereyes_jax.data.sources.splits import incomplete_shards
from hypereyes_jax.data.sources.types import BadRow, Place, Row, RowError, Rows, SourceOptions, SourceReport
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import UserError

Item = TypeVar("Item", Question, Example)
ItemRow = TypeVar("ItemRow", QuestionRow, ExampleRow)
_NOTED_ROWS = 100  # of each file, whose columns the report tells of


class _File:
    """Rows of one file, and how their pictures are opened."""

    def __init__(self, rows: Rows, name: str, stem: str, media: Media):
        self.rows, self.name, self.stem, self.media = rows, name, stem, media

    def place(self, index: int) -> Place:
        return Place(self.name, self.rows.number(index), self.rows.unit)

    def refuse_unnamed_picture(self, items: Sequence[QuestionRow] | Sequence[ExampleRow]) -> None:
        """Raises BadRow where the only row of the file shows nothing, and a picture of the file's name lies beside it,
        as in unpacked shards of WebDataset: it would be asked about what is not shown."""
        if any(item.pictures or item.clips for item in items):
            return
        picture = picture_of_name(Path(self.name))
        if picture is not None:
            raise BadRow(
                "image not named",
                f'{picture} lies beside it, and the row names no image: write it into the row, as "image": "{picture}"',
            )


class Source(Sequence[Item], Generic[Item, ItemRow]):
    """A sequence of questions or demonstrations: `len`, `[index]` reads and decodes one, `close` (or `with`) ends it.

    In memory are only where each row stands and, for questions, their ids. It may be read from several threads at a
    time and sent to other processes; each opens the files it reads.
    """

    def __init__(self, files: Sequence[_File], options: SourceOptions, report: SourceReport):
        self._files, self.options, self.report = list(files), options, report
        self._fields = Fields(options.columns)
        counts = [len(file.rows) for file in files]
        self._file = np.repeat(np.arange(len(files), dtype=np.int32), counts)
        self._row = np.concatenate([np.arange(count, dtype=np.int64) for count in counts] or [np.zeros(0, np.int64)])
        self._part = np.zeros(len(self._row), np.int16)  # which of a row's questions
        self._owner = True

    def __len__(self) -> int:
        return len(self._row)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> Item | Self:
        """Raises RowError for a row that cannot be used, which only its pictures may be found to be so late."""
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        number = self._at(index)
        file = self._files[self._file[number]]
        try:
            return self._decode(self._read(number), file.media)
        except BadRow as error:
            raise self.error(number, error) from None

    def row(self, index: int) -> ItemRow:
        """An item whose pictures are not opened. Raises RowError."""
        number = self._at(index)
        try:
            return self._read(number)
        except BadRow as error:
            raise self.error(number, error) from None

    def place(self, index: int) -> Place:
        """Where an item stands."""
        number = self._at(index)
        return self._files[self._file[number]].place(int(self._row[number]))

    def error(self, index: int, bad: BadRow) -> RowError:
        """What is wrong with an item, with its place and the cure."""
        return bad.at(self.place(index), can_skip=self.options.bad_rows == "refuse")

    def media(self, index: int) -> Media:
        """What opens the pictures of an item."""
        return self._files[self._file[self._at(index)]].media

    def select(self, indices: Sequence[int] | np.ndarray) -> Self:
        """The same source with these items only, in this order. Closing it leaves the whole one open."""
        numbers = np.asarray(indices, np.int64)
        part = object.__new__(type(self))
        part.__dict__ |= self.__dict__
        part._file, part._row, part._part = self._file[numbers], self._row[numbers], self._part[numbers]
        part._owner = False
        return part

    def fingerprint(self) -> str:
        """A digest of which rows there are, by their files' sizes and numbers: a run that goes on must find the
        same."""
        digest = hashlib.sha256()
        for file in self._files:
            digest.update(f"{Path(file.name).name}\0{len(file.rows)}\0".encode())
        for numbers in (self._file, self._row, self._part):
            digest.update(np.ascontiguousarray(numbers).tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Closes the files. Reading afterwards raises ValueError."""
        if self._owner:
            for file in self._files:
                file.rows.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _at(self, index: int) -> int:
        number = int(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"item {number} of a source that has {len(self)}")
        return number % len(self)

    def _read(self, number: int) -> ItemRow:
        file = self._files[self._file[number]]
        index = int(self._row[number])
        items = self._items_of(file.rows.read(index), file, index, SourceReport())
        return items[int(self._part[number])]

    def _items_of(self, row: Row, file: _File, index: int, report: SourceReport) -> list[ItemRow]:
        try:
            return self._items(row, file, index, report)
        except RecursionError:
            raise nested_too_deep() from None

    _read_fields: tuple[str, ...]  # that columns of any name may hold
    _shaped_columns: frozenset[str]  # that are read under these names alone

    @staticmethod
    def _in_our_columns(layout: Layout, row: Row) -> bool:
        """Whether it is a row as this project writes them, whose columns have one meaning."""
        return layout.ours or "turns" in row or "observations" in row

    def _default_id(self, file: _File, index: int) -> str:
        return f"{file.stem}-{file.rows.number(index)}"

    @abc.abstractmethod
    def _items(self, row: Row, file: _File, index: int, report: SourceReport) -> list[ItemRow]:
        """The items of a row. Raises BadRow."""

    @abc.abstractmethod
    def _decode(self, row: ItemRow, media: Media) -> Item:
        """The item that a row holds, with its pictures. Raises BadRow."""

    def _scanned(self) -> Iterator[tuple[int, int, list[ItemRow]]]:
        """File, row and items of every row, in order. What is bad ends it, or is counted, as the options say."""
        kinds, report, items_of = self.report.kinds, self.report, self._items
        for number, file in enumerate(self._files):
            media = file.media
            for index, row in file.rows.scan():  # a million rows: what costs a microsecond in here costs a second
                try:
                    if type(row) is BadRow:
                        raise row
                    if index < _NOTED_ROWS:
                        self._note_columns(row)  # type: ignore[arg-type]
                    items = items_of(row, file, index, report)  # type: ignore[arg-type]
                    for item in items:
                        item.check(media)
                    if len(file.rows) == 1:
                        file.refuse_unnamed_picture(items)
                except BadRow as error:
                    self._refuse(error, file.place(index))
                    continue
                except RecursionError:
                    self._refuse(nested_too_deep(), file.place(index))
                    continue
                if items:
                    kinds[items[0].shape] += len(items)
                yield number, index, items

    def _note_columns(self, row: Row) -> None:
        """Counts what the row's columns are taken for, and those of pictures that are not."""
        report = self.report
        layout: Layout = self._fields.layout(row)
        if self._in_our_columns(layout, row):
            return
        for name in self._read_fields:
            noted, columns = report.columns.setdefault(name, []), layout.columns(name)
            if columns is layout.numbered and columns:  # which are read together
                columns = (", ".join(columns),)
            noted += [column for column in columns if column not in noted]
        others = [name for name in (*layout.rest, *layout.unread) if name not in self._shaped_columns]
        report.other_columns |= dict.fromkeys(name for name in others if name not in report.columns.get("kind", ()))
        of_pictures = (*layout.columns("images"), *layout.columns("videos"))
        if "images" not in layout.named and all(is_blank(row.get(column)) for column in of_pictures):
            report.pictures_unread |= {name: None for name in others if looks_like_picture(row[name])}
            if not report.pictures_unread:
                ids = (name for name in others if names_picture_ids(name) and not is_blank(row[name]))
                report.picture_ids |= dict.fromkeys(ids)
        elif "images" not in layout.named:
            report.pictures_unread |= dict.fromkeys(_others_with_pictures(row, layout))

    def _refuse(self, bad: BadRow, place: Place) -> None:
        if self.options.bad_rows == "refuse":
            raise bad.at(place, can_skip=True) from None
        self.report.add_bad(bad.at(place))

    def _keep(self, files: Sequence[int], rows: Sequence[int], parts: Sequence[int], allow_empty: bool) -> None:
        """Keeps the items of these files, rows of theirs, and parts of the rows. Raises UserError if there is none."""
        if not len(rows) and not allow_empty:
            problem = self.report.bad_in_words() or "it is empty"
            first = next(iter(self.report.first_bad.values()), None)
            name = self._files[0].name if self._files else "the source, which has no files,"
            raise UserError(f"no row of {name} can be used: {problem}." + (f" {first}" if first else ""))
        self._file, self._row = np.array(files, np.int32), np.array(rows, np.int64)
        self._part = np.array(parts, np.int16)


def _others_with_pictures(row: Row, layout: Layout) -> list[str]:
    """Columns with pictures that the one that is read does not have; the same in another form is not one of these."""
    filled = [name for name in layout.columns("images") if not is_blank(row.get(name))]
    if not filled or filled[0] in layout.numbered:
        return []
    others = [
        name for name in (*filled[1:], *layout.numbered) if isinstance(row.get(name), str | list | tuple | Mapping)
    ]
    read = _names_in(row[filled[0]])
    return [name for name in others if read and looks_like_picture(row[name]) and not _names_in(row[name]) <= read]


def _names_in(value: Any) -> set[str]:
    """The names of files that a column of pictures holds."""
    parts = value if isinstance(value, list | tuple) else [value]
    paths = [part.get("path") if isinstance(part, Mapping) else part for part in parts]
    return {Path(path).name for path in paths if isinstance(path, str)}


class Questions(Source[Question, QuestionRow]):
    """A sequence of questions. Their texts have been checked, and no two have the same id."""

    ids: tuple[str, ...]  # in the order of the questions
    references: dict[str, tuple[int, int]]  # id -> (rounds, searches), where the data state them
    _read_fields = ("text", "messages", "answers", "more_answers", "images", "videos", "id", "kind", "searches")
    _shaped_columns = SHAPED

    def check(self, allow_empty: bool = False) -> None:
        """Looks through all rows but their pictures. Raises RowError, or counts, as the options say.

        Raises UserError if no row is left, unless `allow_empty`.
        """
        # Arrays of numbers, since a million tuples would be a third of the memory, and gone through at each collection.
        files, rows, parts = array("i"), array("q"), array("h")
        ids: dict[str, int] = {}
        self.references = {}
        count = 0
        for number, index, items in self._scanned():
            for part, item in enumerate(items):
                before = ids.setdefault(item.id, count)
                if before != count:
                    where, place = self._files[files[before]].place(rows[before]), self._files[number].place(index)
                    same = f"{where.unit} {where.number}" if where.file == place.file else str(where)
                    self._refuse(BadRow("id used twice", f"the id {item.id!r} is that of {same} too"), place)
                    continue
                if REFERENCE in item.meta:
                    reference = _stated(item.meta)
                    if reference is not None:
                        self.references[item.id] = reference
                files.append(number)
                rows.append(index)
                parts.append(part)
                count += 1
        self.ids = tuple(ids)
        self._keep(files, rows, parts, allow_empty)

    def select(self, indices: Sequence[int] | np.ndarray) -> Questions:
        part = super().select(indices)
        part.ids = tuple(self.ids[int(index)] for index in indices)
        return part

    def _items(self, row: Row, file: _File, index: int, report: SourceReport) -> list[QuestionRow]:
        return question_rows(row, self._fields, self._default_id(file, index))

    def _decode(self, row: QuestionRow, media: Media) -> Question:
        return row.decode(media)


class Examples(Source[Example, ExampleRow]):
    """A sequence of demonstrations."""

    _read_fields = ("messages", "system", "images", "videos", "id")
    _shaped_columns = frozenset(("input", "completion", "history"))

    def check(self, allow_empty: bool = False) -> None:
        """Looks through all rows but their pictures. Raises RowError, or counts, as the options say.

        Raises UserError if no row is left, unless `allow_empty`.
        """
        files, rows = array("i"), array("q")
        for number, index, _ in self._scanned():
            files.append(number)
            rows.append(index)
        self._keep(files, rows, array("h", bytes(2 * len(rows))), allow_empty)

    def _items(self, row: Row, file: _File, index: int, report: SourceReport) -> list[ExampleRow]:
        row_id = self._default_id(file, index)
        return [example_row(row, self._fields, row_id, file.media, self.options, report)]

    def _decode(self, row: ExampleRow, media: Media) -> Example:
        return row.decode(media)


def open_questions(
    source: str | Path | Sequence[Any],
    columns: dict[str, str] | None = None,
    *,
    allow_empty: bool = False,
    **options: Any,
) -> Questions:
    """Questions of a source, whatever its format.

    Args:
      source: a path, a folder, a glob, a hub id (org/name[:split]), a URL that fsspec opens (gs://, s3://, hf://), an
        object (module:object, file.py:object), or a sequence of rows.
      columns: our field -> column of the source, where names differ from all that are known: {"text": "q"}.
      allow_empty: having no usable row is not an error.
      options: fields of `SourceOptions`, or one as `options`.

    Raises:
      RowError: the first row that cannot be used, unless bad_rows="skip".
      UserError: a source that is not there, broken, or of no known format.
    """
    questions = _open(Questions, source, _options(columns, options))
    return _check_rows(questions, allow_empty)


def open_examples(
    source: str | Path | Sequence[Any],
    columns: dict[str, str] | None = None,
    *,
    check: bool = True,
    allow_empty: bool = False,
    **options: Any,
) -> Examples:
    """Demonstrations of a source, whatever its format: as `open_questions`.

    Args:
      check: look through all rows now; False leaves it to whoever reads them, and `len` counts every row.
    """
    examples = _open(Examples, source, _options(columns, options))
    return _check_rows(examples, allow_empty) if check else examples


def question_ids(questions: Sequence[Question]) -> list[str]:
    """Ids of questions, without opening the pictures of those of a source."""
    return list(questions.ids) if isinstance(questions, Questions) else [question.id for question in questions]


def stated_references(questions: Sequence[Question]) -> dict[str, tuple[int, int]]:
    """Id -> (rounds, searches) that the data state, of the questions where they do: see `reference_of`."""
    if isinstance(questions, Questions):
        return {key: questions.references[key] for key in questions.ids if key in questions.references}
    pairs = ((question.id, _stated(question.meta)) for question in questions)
    return {key: reference for key, reference in pairs if reference is not None}


def _stated(meta: Mapping[str, Any]) -> tuple[int, int] | None:
    """What `meta` states, where it can be a reference: at least one round, and a search in each."""
    reference = meta.get(REFERENCE)
    if not (isinstance(reference, list | tuple) and len(reference) == 2 and all(isinstance(n, int) for n in reference)):
        return None
    rounds, searches = reference
    return (rounds, searches) if 1 <= rounds <= searches else None


AnySource = TypeVar("AnySource", Questions, Examples)


def _check_rows(rows: AnySource, allow_empty: bool) -> AnySource:
    with contextlib.ExitStack() as stack:
        stack.callback(rows.close)
        rows.check(allow_empty)
        stack.pop_all()
    return rows


def _options(columns: dict[str, str] | None, options: dict[str, Any]) -> SourceOptions:
    result = options.pop("options", None) or SourceOptions()
    result = replace(result, **options)
    return result if columns is None else replace(result, columns=columns)


def _open(kind: type[AnySource], source: str | Path | Sequence[Any], options: SourceOptions) -> AnySource:
    try:
        Fields(options.columns)
    except ValueError as error:
        raise UserError(f"--columns: {error}") from None
    if options.bad_rows not in ("refuse", "skip"):
        raise UserError(f"bad_rows must be refuse or skip, not {options.bad_rows!r}")
    report = SourceReport()
    files: list[_File] = []
    with contextlib.ExitStack() as stack:
        for file in _files(source, options, report):
            stack.callback(file.rows.close)
            report.formats[file.rows.format] += 1
            files.append(file)
        rows = kind(files, options, report)
        stack.pop_all()
    return rows


def _files(source: str | Path | Sequence[Any], options: SourceOptions, report: SourceReport) -> Iterator[_File]:
    if not isinstance(source, str | Path) or is_object(str(source)):
        rows = object_rows(str(source)) if isinstance(source, str | Path) else ObjectRows(source)
        name = str(source) if isinstance(source, str | Path) else f"a {type(source).__name__}"
        yield _File(rows, name, "row", _media(options.image_root, options))
        return
    location = locate(str(source), options)
    if [file.name for file in location.files] != [str(source)]:  # one that is named is meant alone
        report.incomplete = tuple(incomplete_shards(file.name for file in location.files))
        report.copies = tuple(second_copies(location.files))
    report.split, report.other_splits, report.unread_files = location.split, location.others, location.unread
    for file, stem in zip(location.files, _stems([file.name for file in location.files]), strict=True):
        media = _media(options.image_root or file.root, options, None if options.image_root else file.fetch)
        yield _File(open_rows(file.path, file.name, options), file.name, stem, media)


def _stems(names: Sequence[str]) -> list[str]:
    """How the ids of rows without one begin: a file's name, with its folders where several files have this name."""
    names = [without_suffix(name) for name in names]
    stems = [Path(name).stem for name in names]
    counts = Counter(stems)
    if len(counts) == len(stems):
        return stems
    above = posixpath.commonpath([posixpath.dirname(name) for name in names])

    def with_folders(name: str) -> str:
        return posixpath.splitext(posixpath.relpath(name, above or "."))[0].replace("/", "-")

    return [stem if counts[stem] == 1 else with_folders(name) for name, stem in zip(names, stems, strict=True)]


def _media(root: Path | None, options: SourceOptions, fetch: Callable[[str], Path] | None = None) -> Media:
    return Media(
        root,
        outside=options.outside_images,
        private_urls=options.private_urls,
        cache=options.cache,
        fetch=fetch,
    )
