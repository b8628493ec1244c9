"""Which columns mean what: the names that data sets use for the same thing, in whatever case and spelling."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hypereyes_jax.data.sources.types import BadRow, Row

NAMES: dict[str, tuple[str, ...]] = {  # our field -> columns, the first that holds something counts
    "id": tuple("id data_id sample_id question_id qid uid uuid task_id example_id index idx".split()),
    "text": tuple("question query problem text prompt instruction user_prompt question_text user_query".split()),
    "answers": (
        "multiple_choice_answer",  # of VQA v2: what most of its ten `answers` say
        "answers",
        "golden_answers",
        "gold_answers",
        "answer",
        "gt_answer",
        "gold_answer",
        "reference_answer",
        "correct_answer",
        "expected_answer",
        "final_answer",
        "best_answer",
        "short_answer",
        "answer_text",
        "direct_answers",
        "possible_answers",
        "answer_key",
        "correct_answers",
        "ground_truth",
        "ground_truths",
        "gt",
        "gold",
        "reference",
        "solution",
        "label",
        "target",
        "response",
        "output",
        "completion",
    ),
    "more_answers": (
        "alternative_gt_answers",
        "candidate_answers",
        "answer_aliases",
        "answer_alias",
        "aliases",
        "alternative_answers",
        "alternate_answers",
        "alt_answers",
        "accepted_answers",
        "acceptable_answers",
        "answer_eval",  # of InfoSeek
    ),
    "images": (
        "images",
        "image",
        "query_image",
        "image_path",
        "image_paths",
        "img_path",
        "img_paths",
        "file_name",
        "file_path",
        "image_file",
        "image_files",
        "image_name",
        "image_filename",
        "image_bytes",
        "image_base64",
        "image_url",
        "image_urls",
        "img_url",
        "img",
        "imgs",
        "pics",
        "picture",
        "pictures",
        "photo",
        "photos",
    ),
    "videos": ("videos", "video", "video_path"),
    "kind": ("kind", "category", "domain", "question_type", "task_type", "type", "area"),
    "system": ("system", "system_prompt", "system_instruction"),
    "messages": tuple("messages conversations conversation dialog dialogue chat message contents texts".split()),
    "tools": ("tools",),
    "tool_calls": ("tool_call", "tool_calls", "ref_rounds"),
    "searches": ("parallel", "searches", "ref_invocations"),
}
BY_ID = "to_entries[] | {id: .key} + .value"  # what jq calls the rows of an object that has them by their ids
# Columns of a multiple choice by their plain names: of all options, and of one.
OPTIONS = ("options", "choices", "answerchoices", "answeroptions", "multiplechoices", "multiplechoiceoptions")
OPTION_COLUMN = re.compile(r"(?:options?|choices?|op)([a-j]|\d{1,2})")
_SHORT = ("text", "answers", "id", "kind")  # fields of the commonest rows, which have a short way to be read
SHAPED = frozenset(("level1_qa", "level2_qa", "reward_model", "extra_info"))  # columns that tell a shape of rows
_OURS = frozenset(("id", "text", "answers"))  # columns that are there in what this project writes
_KNOWN_LAYOUTS = 1024  # of rows whose columns differ, kept
_NUMBERED = re.compile(r"(?:img|image|picture|pic|photo)[_ ]?(\d+)", re.IGNORECASE)
_PICTURE_IDS = re.compile(r"(?:image|img|picture|photo)s?ids?$")
_OF_PICTURES = re.compile(r"(?:img|image)_")


def plain_name(name: str) -> str:
    """A name as it is compared: "Ground Truth", "GroundTruth" and "ground_truth" are the same."""
    return re.sub(r"[\W_]+", "", name).lower()


_RANKS = {  # plain name -> (field, its place among the field's names)
    plain_name(name): (field, rank) for field, names in NAMES.items() for rank, name in enumerate(names)
}


def names_picture_ids(column: str) -> bool:
    """Whether a column's name says that it holds ids of pictures: image_id, imageId, dataset_image_ids."""
    return _PICTURE_IDS.search(plain_name(column)) is not None


def field_of(column: str) -> str | None:
    """The field that a column of this name is read as; None if it is of none."""
    return _RANKS.get(plain_name(column), (None,))[0]


class Fields:
    """Columns by meaning, as `--columns` names them or as data sets are wont to."""

    def __init__(self, columns: Mapping[str, str]):
        """Raises ValueError for a field that there is none of."""
        unknown = sorted(set(columns) - set(NAMES))
        if unknown:
            raise ValueError(f"there is no field {', '.join(unknown)}; there are {', '.join(NAMES)}")
        self.columns = dict(columns)
        self._layouts: dict[tuple[str, ...], Layout] = {}

    def layout(self, row: Row) -> Layout:
        """What the columns of a row mean, which is found once for all rows that have the same ones."""
        columns = tuple(row)
        layout = self._layouts.get(columns)
        if layout is None:
            if len(self._layouts) >= _KNOWN_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[columns] = Layout(columns, self.columns)
        return layout


class Layout:
    """What columns mean, of rows that have the same columns.

    named: our field -> column, as `--columns` has it.
    fields: those that the columns may give a value, with those that were named.
    numbered: columns of pictures that are counted (img_1, image_2, ...), in that order.
    rest: columns that no field takes, but those of pictures.
    unread: columns of pictures that nothing takes, by their names.
    ours: whether the columns are those of this project's own rows.
    options: whether there may be options of a multiple choice.
    short: columns of text, answers, id and kind, each one or None, where the rows have no other field; else None.
    """

    def __init__(self, columns: Sequence[str], named: Mapping[str, str]):
        self.named = named
        self._columns = _by_field(columns)
        self.fields = frozenset(named) | {field for field, names in self._columns.items() if names}
        matches = [(match, name) for name in columns if (match := _NUMBERED.fullmatch(name))]
        self.numbered = tuple(name for match, name in sorted(matches, key=lambda pair: int(pair[0][1])))
        columns_in_use = {name for field, names in self._columns.items() if field != "kind" for name in names}
        columns_in_use |= columns_of(named) | set(self.numbered)
        self.rest = tuple(name for name in columns if name not in columns_in_use and not _OF_PICTURES.match(name))
        self.unread = tuple(name for name in columns if name not in columns_in_use and _OF_PICTURES.match(name))
        # Of rows with a question the text is another one, such as a passage.
        self.ours = not named and set(columns) >= _OURS and self._columns["text"][0] == "text"
        plain = {plain_name(name) for name in columns}
        self.options = {"A", "B"} <= set(columns) or any(
            name in OPTIONS or OPTION_COLUMN.fullmatch(name) for name in plain
        )
        self.short: tuple[str | None, ...] | None = None
        if (
            not (named or self.numbered or self.ours)
            and {"text", "answers"} <= self.fields <= frozenset(_SHORT)
            and SHAPED.isdisjoint(columns)
            and not self.options
            and {"input", "history"}.isdisjoint(columns)  # Alpaca's rest of the question, and turns before it
            and all(len(self._columns[field]) <= 1 for field in _SHORT)
        ):
            self.short = tuple(next(iter(self._columns[field]), None) for field in _SHORT)

    def columns(self, name: str) -> tuple[str, ...]:
        """The columns that a field is read from, the next where the one before holds nothing."""
        if name in self.named:
            return (self.named[name],)
        return self._columns[name] or (self.numbered if name == "images" else ())

    def get(self, row: Row, name: str) -> Any:
        """The value of a field, of the first of its columns that holds something; None where the row has none.

        A column that was named must be there (BadRow).
        """
        if name in self.named:
            return self._named(row, name)
        empty = None
        for column in self._columns[name]:  # not by `values`, which costs more
            value = row.get(column)
            if value is None or _is_empty(value):
                empty = value if empty is None else empty
            else:
                return value
        return empty

    def values(self, row: Row, name: str) -> Iterator[Any]:
        """The values of a field's columns that hold something. Raises BadRow as `get` does."""
        if name in self.named:
            value = self._named(row, name)
            if value is not None:
                yield value
            return
        for column in self._columns[name]:
            value = row.get(column)
            if value is not None and not _is_empty(value):
                yield value

    def _named(self, row: Row, name: str) -> Any:
        if self.named[name] in row:  # a column may have a dot in its name
            return row[self.named[name]]
        value: Any = row
        for part in self.named[name].split("."):  # "extra_info.question"
            if not isinstance(value, Mapping) or part not in value:
                raise BadRow(
                    f"no column {self.named[name]}",
                    f"it has no column {self.named[name]!r}, which {name} was said to be in; it has "
                    f"{', '.join(map(repr, row))[:300]}",
                )
            value = value[part]
        return value


def columns_of(named: Mapping[str, str]) -> set[str]:
    """Columns that `--columns` may mean: "a.b" is the part b of a, or a column of that name."""
    return {part for name in named.values() for part in (name, name.partition(".")[0])}


def no_column(row: Row, field: str, what: str) -> BadRow:
    """What to say of a row that has no column for a field, with the option that names the right one."""
    inside = (f"{name}.{part}" for name, value in row.items() for part in _parts(value) if field_of(part) == field)
    names = ", ".join(map(repr, row))[:300]
    cure = f"name the right one by --columns {field}={next(inside, 'COLUMN')}"
    if len(row) > 1 and all(isinstance(value, Mapping) for value in row.values()):
        cure = f"if these are ids of rows, make each a line: jq -c '{BY_ID}' FILE > FILE.jsonl"
    if {"columns", "data"} <= set(row) <= {"columns", "index", "data"} or (
        len(row) > 1 and all(isinstance(value, Mapping) and "0" in value for value in row.values())
    ):
        cure = 'if pandas wrote it, write it again by to_json(FILE, orient="records", lines=True)'
    return BadRow(f"no {what}", f"it has no {what}; its columns are {names or 'none'}: {cure}")


def _is_empty(value: Any) -> bool:
    return isinstance(value, str | list | tuple | Mapping) and not value  # arrays are neither true nor false


def _parts(value: Any) -> Collection[str]:
    return [part for part in value if isinstance(part, str)] if isinstance(value, Mapping) else ()


def _by_field(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Field -> its columns in the order of `NAMES`; of two spellings of one name, the one that is there comes first."""
    candidates: dict[str, list[tuple[int, bool, str]]] = {field: [] for field in NAMES}
    for column in columns:
        field, rank = _RANKS.get(plain_name(column), ("", 0))
        if field:
            candidates[field].append((rank, column not in NAMES[field], column))
    return {field: tuple(column for *_, column in sorted(matches)) for field, matches in candidates.items()}
