"""The nouns of data sources: where a row stands, what is wrong with one, how a source is to be read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from hypereyes_jax.env.media.crops import BoxUnits
from hypereyes_jax.errors import UserError

BadRows = Literal["refuse", "skip"]
Row = Mapping[str, Any]
KEY_TWICE = "key given twice"  # a kind of bad rows


class Place(NamedTuple):
    """Where a row stands: its file, and its number there, counted from 1, with the word for it."""

    file: str
    number: int
    unit: str = "row"  # "line" in a file of JSON lines

    def __str__(self) -> str:
        return f"{self.file}, {self.unit} {self.number}"


class BadRow(Exception):
    """What is wrong with a row, before it is known where the row stands.

    kind: a few words that group such rows ("no answer"); they hold nothing of the row itself.
    why: a clause in words, which may quote the row.
    """

    def __init__(self, kind: str, why: str):
        super().__init__(why)
        self.kind, self.why = kind, why

    def at(self, place: Place, can_skip: bool = False) -> RowError:
        """Arguments as of `RowError`."""
        return RowError(place, self.kind, self.why, can_skip)


class RowError(UserError):
    """A row that cannot be used. The message names file, row and cure.

    can_skip: reading it with bad_rows="skip" would leave it out, which is not done yet.
    """

    def __init__(self, place: Place, kind: str, why: str, can_skip: bool = False):
        skip = ', or leave such rows out with bad_rows="skip" (--bad-rows skip)' if can_skip else ""
        super().__init__(f"{place}: {why}. Mend or remove that {place.unit}, or make the file again{skip}.")
        self.place, self.kind, self.why = place, kind, why


class Rows(Protocol):
    """The rows of one file, of which only an index is in memory. May be read from several threads at a time."""

    format: str  # in words: "JSON lines"
    unit: str  # what a row is called: "line", "row", "record"

    def __len__(self) -> int: ...

    def number(self, index: int) -> int:
        """The row's number in its file, counted from 1."""
        ...

    def read(self, index: int) -> Row:
        """One row. Raises BadRow for a row that is none, UserError for a file that changed or broke."""
        ...

    def scan(self) -> Iterator[tuple[int, Row | BadRow]]:
        """Every row once, in order, without the bytes of pictures where the format can leave them unread."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class SourceOptions:
    """How rows are read. Defaults read what each format's own tools write."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Our field -> the source's column: text, answers, images, id, kind, system, messages, tool_calls, searches."""
    bad_rows: BadRows = "refuse"
    """What a row that cannot be used does: ends the reading with its place and cure, or is left out and counted."""
    image_root: Path | None = None
    """Folder that paths of pictures are relative to; None = that of the file they stand in."""
    outside_images: bool = False
    """Allow paths of pictures that lead out of that folder. Only for files whose author is trusted."""
    private_urls: bool = False
    """Allow pictures from loopback and private networks, on any port."""
    cache: Path | None = None
    """Where downloads are kept; None = hypereyes below $XDG_CACHE_HOME or ~/.cache."""
    box_units: BoxUnits = "auto"
    """Units of the boxes in foreign tool calls; auto = told by each conversation's largest coordinates."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Foreign tool -> image_search or text_search, beside the names that are known."""
    system: str | None = None
    """System prompt of demonstrations; None = the row's own where its tool calls are ours, else the built-in one."""
    turn_format: Literal["tags", "native"] = "tags"
    """How the turns of demonstrations are written: in the paper's tags, or as Qwen's own models call functions. With
    the latter goes the system prompt of that style, unless `system` names one."""
    max_row_bytes: int = 64 << 20
    """A longer row is refused before it is read."""


THOUSANDTHS, PIXELS = "boxes in thousandths", "boxes in pixels"  # as `SourceReport.mapped` counts them
_UNITS = {  # of boxes -> in words, and how they are told by the coordinates of a conversation
    "unit": ("fractions", "none of its coordinates is above 1.05"),
    "permille": ("thousandths", "all its coordinates are whole numbers up to 1000"),
    "pixel": ("pixels", "one of its coordinates is above 1000, or is no whole number"),
}


@dataclass
class SourceReport:
    """What reading a source came to."""

    formats: Counter[str] = field(default_factory=Counter)  # files by format, in words
    kinds: Counter[str] = field(default_factory=Counter)  # rows by the shape they have ("verl", "ShareGPT", ...)
    mapped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (theirs, ours) of tool calls and tags
    unmapped: Counter[str] = field(default_factory=Counter)  # what of foreign tool calls has no counterpart
    boxes: dict[str, tuple[int, float]] = field(default_factory=dict)  # units -> conversations, largest coordinate
    columns: dict[str, list[str]] = field(default_factory=dict)  # our field -> the source's columns it is read from
    other_columns: dict[str, None] = field(default_factory=dict)  # that no field is read from, in order
    pictures_unread: dict[str, None] = field(default_factory=dict)  # of these, those that seem to hold pictures
    picture_ids: dict[str, None] = field(default_factory=dict)  # and of rows that show none, those with ids of pictures
    bad: Counter[str] = field(default_factory=Counter)  # rows left out, by kind
    first_bad: dict[str, RowError] = field(default_factory=dict)  # of each kind

    split: str = ""  # that the rows are of, where the names of files tell
    other_splits: tuple[str, ...] = ()  # files or splits that are not read, since none was named and these are not it

    unread_files: tuple[str, ...] = ()  # of other formats, or compressed, beside those that are read

    incomplete: tuple[str, ...] = ()  # clauses on files that count themselves and are not all there
    copies: tuple[str, ...] = ()  # and on those that hold the same as another one

    def of_files(self) -> SourceReport:
        """What it says of files, and nothing of the rows in them."""
        return SourceReport(
            split=self.split,
            other_splits=self.other_splits,
            unread_files=self.unread_files,
            incomplete=self.incomplete,
            copies=self.copies,
        )

    def add_bad(self, error: RowError) -> None:
        self.bad[error.kind] += 1
        self.first_bad.setdefault(error.kind, error)

    def add_boxes(self, units: BoxUnits, largest: float) -> None:
        """Counts a conversation whose boxes were read in these units."""
        count, most = self.boxes.get(units, (0, 0.0))
        self.boxes[units] = (count + 1, max(most, largest))

    def boxes_in_words(self, stated: BoxUnits) -> list[str]:
        """A sentence on each of the units that boxes were read in, and why; `stated` are those of the options."""
        sentences = []
        for units, (count, most) in sorted(self.boxes.items()):
            name, sign = _UNITS[units]
            why = f"since {sign}; --box-units names another one" if stated == "auto" else "as --box-units says"
            sentences.append(f"boxes of {count} conversations are read as {name}, {why} (the largest is {most:g})")
        return sentences

    def left_out(self) -> list[str]:
        """Sentences on files that are not read, on rows that can't be used, on pictures in columns of no known name,
        and on boxes that are read in two ways; none where all was read."""
        sentences = [self.bad_in_words()] if self.bad else []
        units = {theirs for theirs, _ in self.mapped}
        if {THOUSANDTHS, PIXELS} <= units:
            sentences.append(
                f"{THOUSANDTHS} and {PIXELS} are both found, told by the largest coordinate of each conversation: if "
                "all are in one unit, say in which by box_units (--box-units)"
            )
        sentences += [
            f"the column {name!r} seems to hold images, and is not read: --columns images={name} reads it"
            for name in self.pictures_unread
        ]
        sentences += self.ids_in_words()
        sentences += [f"{clause}: fetch the others, unless a part is meant" for clause in self.incomplete]
        sentences += [f"{clause}: remove one of them" for clause in self.copies]
        if self.unread_files:
            sentences.insert(0, f"not read, as they have another format or are compressed: {_few(self.unread_files)}")
        if self.other_splits:
            others = _few(self.other_splits)
            sentences.insert(0, f"the split {self.split} is read, and not {others}: SOURCE:SPLIT names another one")
        return sentences

    def ids_in_words(self) -> list[str]:
        """A sentence on each column whose name says that it holds ids of pictures, of rows that show none."""
        return [
            f"the column {name!r} seems to name images by ids, and rows that have it show none: give their files, as "
            "paths in a column 'image'"
            for name in self.picture_ids
        ]

    def refuse_default_split(self, source: str) -> None:
        """Raises UserError where the training split was taken by default, for questions that a policy is tried on."""
        if self.other_splits:
            whole = source.removesuffix(f":{self.split.partition('/')[0]}").rstrip("/")
            raise UserError(
                f"{source} holds several splits ({self.split}, and {', '.join(self.other_splits[:5])}). Say which is "
                f"asked, like {whole}:{self.split}."
            )

    def bad_in_words(self) -> str:
        """A sentence that counts the rows left out by kind and names the first of each; "" if there is none."""
        parts = [f"{count} x {kind} (first: {self.first_bad[kind].place})" for kind, count in self.bad.most_common()]
        return f"{self.bad.total()} rows are left out: {'; '.join(parts)}" if parts else ""


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
