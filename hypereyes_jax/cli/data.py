"""Check or show data before training on it, or convert it to shards of this project's own.

    hypereyes data check SOURCE                # what it is, how many, how long, what is wrong
    hypereyes data show SOURCE                 # a page of its rows
    hypereyes data convert SOURCE OUT          # parquet or ArrayRecord shards, pictures inside

SOURCE is a file, a folder, a glob, a hub id (org/name or org/name:split), a URL (gs://, s3://, hf://, https://) or an
object (module:object, file.py:object). The format is detected from the content: JSON lines and arrays, CSV and TSV,
parquet (veRL's columns, those of benchmarks), Arrow and `datasets` folders, ArrayRecord; OpenAI messages, ms-swift,
LLaMA-Factory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, subcommand

from hypereyes_jax.cli.source_settings import SourceSettings
from hypereyes_jax.configs.images import MAX_PIXELS, MIN_PIXELS
from hypereyes_jax.logins import without_login

if TYPE_CHECKING:
    from hypereyes_jax.data.inspection import SourceSummary
    from hypereyes_jax.data.sources.types import SourceReport
    from hypereyes_jax.runs.terminal import Terminal

_BAR = 40  # characters of the longest bar of a histogram
_PROMPT = 6_000  # characters of a prompt that are printed


@dataclass(frozen=True)
class Check:
    """Say what a source is, how many rows it has, how long they are, and what is wrong with them."""

    source: Positional[str]
    """The data to look at, as described above."""
    hold: Literal["auto", "questions", "demonstrations"] = "auto"
    """What the rows are read as; auto takes demonstrations if they have turns of a model."""
    checkpoint: str | None = None
    """Model whose tokenizer counts: a directory, a hub id (org/name[@revision]) or a URL; without one the miniature's
    does, which needs more tokens for a text."""
    rows: int = 1000
    """Number of rows, spread evenly, whose images are opened and whose lengths are counted; 0 takes all."""
    min_pixels: int = MIN_PIXELS
    """Smallest area of an image as the model sees it."""
    max_pixels: int = MAX_PIXELS
    """Largest area of an image as the model sees it."""
    reading: Annotated[SourceSettings, tyro.conf.arg(name="")] = field(default_factory=SourceSettings)


@dataclass(frozen=True)
class Convert:
    """Write a source as shards with its pictures inside, for access row by row."""

    source: Positional[str]
    """The data to read, as described above."""
    out: Positional[Path]
    """The folder to write, which must be new."""
    format: Literal["parquet", "array_record"] = "parquet"
    """Kind of the shards that are written."""
    hold: Literal["auto", "questions", "demonstrations"] = "auto"
    """What the rows are read as; auto takes demonstrations if they have turns of a model."""
    shard_mib: int = 256
    """Approximate size of one shard in MiB."""
    reading: Annotated[SourceSettings, tyro.conf.arg(name="")] = field(default_factory=SourceSettings)


@dataclass(frozen=True)
class Show:
    """Write a page with some rows of a source: images, boxes, turns."""

    source: Positional[str]
    """The data to look at, as described above."""
    out: Path = Path("data.html")
    """The HTML page to write."""
    rows: int = 20
    """Number of rows that are shown, spread evenly over the source."""
    hold: Literal["auto", "questions", "demonstrations"] = "auto"
    """What the rows are read as; auto takes demonstrations if they have turns of a model."""
    reading: Annotated[SourceSettings, tyro.conf.arg(name="")] = field(default_factory=SourceSettings)


Action = (
    Annotated[Check, subcommand("check", prefix_name=False)]
    | Annotated[Convert, subcommand("convert", prefix_name=False)]
    | Annotated[Show, subcommand("show", prefix_name=False)]
)


@dataclass(frozen=True)
class DataConfig:
    action: OmitArgPrefixes[Action]


def run(config: DataConfig) -> None:
    from hypereyes_jax.data.convert import convert
    from hypereyes_jax.data.inspection import open_source
    from hypereyes_jax.runs.terminal import Terminal

    action = config.action
    kind = None if action.hold == "auto" else action.hold
    options = action.reading.options()
    if isinstance(action, Check):
        _check(action, Terminal())
        return
    with open_source(action.source, options, kind) as source:
        if isinstance(action, Convert):
            summary = convert(source, action.out, action.format, action.shard_mib << 20)
            print(f"wrote {summary.rows} rows to {len(summary.shards)} shards in {action.out}")
        else:
            from hypereyes_jax.eval.data_page import write_data_page

            print(write_data_page(source, without_login(action.source), action.out, action.rows))
        for sentence in source.report.left_out():
            print(sentence)


def _check(action: Check, console: Terminal) -> None:
    from importlib import resources

    from hypereyes_jax.data.inspection import inspect_source
    from hypereyes_jax.data.trajectories import RowLimits
    from hypereyes_jax.models.pretrained import load_chat_format_of

    chat = load_chat_format_of(action.checkpoint or str(resources.files("hypereyes_jax.assets") / "base"))
    limits = RowLimits(0, action.min_pixels, action.max_pixels)
    options = action.reading.options(bad_rows="skip")  # all that is wrong is to be told
    kind = None if action.hold == "auto" else action.hold
    summary = inspect_source(action.source, options, chat, limits, kind=kind, most=action.rows)
    _print(summary, action, console)


def columns_in_words(report: SourceReport) -> list[str]:
    """What columns were taken for, and which were not; nothing of rows that this project wrote."""
    read = {name: columns for name, columns in report.columns.items() if columns}
    parts = [f"{name} from {', else '.join(columns)}" for name, columns in read.items()]
    sentences = [f"columns: {'; '.join(parts)}"] if parts else []
    if report.other_columns:
        sentences.append(f"  of no field: {', '.join(report.other_columns)}")
    return sentences


def _print(summary: SourceSummary, action: Check, console: Terminal) -> None:
    def say(text: str = "") -> None:
        console.print(text, soft_wrap=True)

    report = summary.report
    formats = ", ".join(f"{count} x {name}" for name, count in report.formats.items())
    shapes = ", ".join(f"{count} x {name}" for name, count in report.kinds.most_common())
    say(f"{without_login(action.source)}: {summary.rows} {summary.kind}")
    say(f"  files: {formats}")
    if report.split:
        others = ", ".join(report.other_splits)
        say(f"  split: {report.split}{f' (not read: {others})' if others else ''}")
    if report.unread_files:
        say(f"  not read, as they have another format or are compressed: {', '.join(report.unread_files)}")
    for clause in (*report.incomplete, *report.copies):
        say(f"  {clause}")
    say(f"  rows: {shapes or 'none that can be used'}")
    for sentence in columns_in_words(report):
        say(f"  {sentence}")
    if summary.looked_at:
        tokenizer = "" if action.checkpoint else " (by the miniature's tokenizer; --checkpoint names another)"
        say(f"\nOf {summary.looked_at} rows{tokenizer}:")
        say(f"  images: {summary.pictures.mean():.1f} a row, at most {summary.pictures.max()}")
        if summary.kind == "demonstrations":
            say(f"  turns: {summary.turns.mean():.1f} a row, at most {summary.turns.max()}")
        lengths = summary.lengths
        say(f"  tokens: {lengths.sum():,} in all, {lengths.mean():,.0f} a row, at most {lengths.max():,}")
        most = max(count for _, _, count in summary.histogram())
        for low, high, count in summary.histogram():
            say(f"  {low:>9,} - {high:>9,}  {'█' * round(_BAR * count / most):<{_BAR}} {count}")
    if report.mapped or report.unmapped:
        say("\nTool calls and tags, theirs -> ours:")
        for (theirs, ours), count in report.mapped.most_common():
            say(f"  {count:>7} x {theirs} -> {ours}")
        for theirs, count in report.unmapped.most_common():
            say(f"  {count:>7} x {theirs}: not mapped")
    for sentence in report.boxes_in_words(action.reading.box_units):
        say(f"  {sentence}")
    if summary.prompt:
        ellipsis = "\n[...]" if len(summary.prompt) > _PROMPT else ""
        say(f"\nThe first prompt as the model is given it:\n{summary.prompt[:_PROMPT]}{ellipsis}")
    if summary.answers:
        say(f"Its accepted answers: {' | '.join(summary.answers)}")
    for name in report.pictures_unread:
        say(f"\nThe column {name!r} seems to hold images, and is not read: --columns images={name} reads it.")
    for sentence in report.ids_in_words():
        say(f"\n{sentence[0].upper()}{sentence[1:]}.")
    say(f"\nWhat is wrong: {report.bad.total() or 'nothing'}" + (" rows" if report.bad else ""))
    for kind, count in report.bad.most_common():
        say(f"  {count:>7} x {kind}; the first: {report.first_bad[kind].place}: {report.first_bad[kind].why}")
