"""Reading a Wikidata JSON dump: streamed, filtered, in bounded memory, going on where it was stopped.

A dump is a JSON array with an entity a line, in gz, bz2, xz or plain. It is read twice: for the statements of the
entities that are kept, then for the labels of the items that these point to; and once before, where subclasses are
asked for.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from hypereyes_jax.data.wikidata.graph import Graph, Named
from hypereyes_jax.data.wikidata.statements import SUBCLASS, WikidataEntity, is_simplified, read_entity, read_subclasses
from hypereyes_jax.env.web.untrusted import parse_json
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular

_BATCH = 5_000  # entities a transaction
_NOTED = 200_000  # lines after which progress is noted even if nothing was kept
_LONGEST_LINE = 64 << 20  # bytes; the largest entities have a few megabytes
# The id of an entity, in front of which plain fields stand alone: an id further in may be one that it points to.
_HEAD = re.compile(rb'\{\s*(?:"\w+"\s*:\s*(?:"[^"\\]*"|\d+)\s*,\s*)*"id"\s*:\s*"([QP])(\d{1,10})"')
_TYPED = b'"P31"'
_HAS_PARENT = b'"P%d"' % SUBCLASS
_CLASS = re.compile(r"(?:.*[/:])?[Qq](\d{1,10})")  # Q5, wd:Q5, the address of its page
_NUMBER = re.compile(rb'"(?:Q|numeric-id":)(\d{1,10})')
_FEW = 20  # classes that are looked for one by one
_ITEMS = 1 << 28  # item numbers that a mark can be kept for: 32 MiB


@dataclass(frozen=True)
class DumpConfig:
    """What is kept of a dump."""

    classes: tuple[str, ...] = ()
    """Items that are an instance (P31) of one of these, such as Q5; () = of anything."""
    subclasses: bool = False
    """Instances of subclasses (P279) of these, too."""
    language: str = "en"
    """Language of labels and aliases; what has no label in it is left out."""
    min_sitelinks: int = 0
    """Wikipedias and the like that have a page on it: a measure of how well known it is."""
    max_entities: int | None = None
    """Stop after so many; None = read all."""


def read_dump(
    path: Path, graph: Graph, config: DumpConfig = DumpConfig(), advance: Callable[[int], None] = lambda lines: None
) -> dict[str, int]:
    """Reads a dump into the graph. Called again with the same file and settings, it goes on where it was stopped.

    Args:
      advance: called with the number of lines read since the last call.

    Returns:
      Rows of each table.

    Raises:
      UserError: no such dump, a damaged one, or a graph that was made of another dump or with other settings.
    """
    class_numbers = {_class_number(name) for name in config.classes}
    settings = (config.language, config.min_sitelinks, config.max_entities)
    below = ["with subclasses"] if config.subclasses else []
    made_of = json.dumps([path.name, _size(path), sorted(class_numbers), *settings, *below])
    before = graph.progress()
    if before.get("dump", made_of) != made_of:
        raise UserError(f"{graph.path} was made of {before['dump']}, now it is {made_of}. Choose another directory.")
    if config.subclasses and class_numbers:
        if before.get("classes") != "done":
            _read_classes(path, graph, made_of, int(before.get("classes", 0)), advance)
        class_numbers = {number for kind in class_numbers for number in graph.classes_below(kind)}
    if before.get("statements") != "done":
        _read_statements(path, graph, config, class_numbers, made_of, int(before.get("statements", 0)), advance)
    if graph.progress().get("labels") != "done":
        _read_labels(path, graph, config, int(before.get("labels", 0)), advance)
    graph.finish()
    counts = graph.counts()
    if not counts["entity"]:
        kept = [f"has a label in {config.language!r}"]
        kept += [f"is an instance of {' or '.join(config.classes)}"] if config.classes else []
        kept += [f"has {config.min_sitelinks} pages on Wikipedias or more"] if config.min_sitelinks else []
        raise UserError(
            f"{path} has no item that {' and '.join(kept)}. Its lines must be items as Wikidata's JSON dumps have "
            "them, with labels, claims and sitelinks. Give another one, or other settings, and another --out."
        )
    return counts


def _class_number(name: str) -> int:
    match = _CLASS.fullmatch(name.strip())
    if match is None:
        raise UserError(
            f"classes are given by the ids of items such as Q5 (human), not {name!r}. Search for it on wikidata.org: "
            "its page's title ends with the id."
        )
    return int(match[1])


def _read_classes(path: Path, graph: Graph, made_of: str, start: int, advance: Callable[[int], None]) -> None:
    """Which class is below which, of all items."""
    batch: list[tuple[int, int]] = []
    last_note = number = start
    for number, line in _lines(path, start):
        if number - last_note > _NOTED or len(batch) >= _BATCH:
            before = number - 1  # this line is not read yet
            graph.add_subclasses(batch, {"dump": made_of, "classes": str(before)})
            advance(before - last_note)
            batch, last_note = [], before
        if _HAS_PARENT in line:
            batch += read_subclasses(_parsed(path, number, line))
    graph.add_subclasses(batch, {"dump": made_of, "classes": "done"})
    advance(max(0, number - last_note))


def _read_statements(
    path: Path,
    graph: Graph,
    config: DumpConfig,
    class_numbers: set[int],
    made_of: str,
    start: int,
    advance: Callable[[int], None],
) -> None:
    batch: list[WikidataEntity] = []
    parents: list[tuple[int, int]] = []
    marks = [b'"Q%d"' % number for number in class_numbers] + [b'"numeric-id":%d' % number for number in class_numbers]

    def may_be_kept(line: bytes) -> bool:
        """Whether an item may be of one of the classes: most of a filtered dump is dropped before JSON is parsed."""
        if not class_numbers:
            return True
        if _TYPED not in line:
            return False
        if len(class_numbers) <= _FEW:
            return any(mark in line for mark in marks)
        return any(int(digits) in class_numbers for digits in _NUMBER.findall(line))

    count = graph.counts()["entity"]
    last_note = number = start
    for number, line in _lines(path, start):
        if number - last_note > _NOTED or len(batch) + len(parents) >= _BATCH:
            before = number - 1  # this line is not read yet
            graph.add_subclasses(parents, {})
            graph.add(batch, {"dump": made_of, "statements": str(before)})
            advance(before - last_note)
            count += sum(not entity.is_property for entity in batch)
            batch, parents, last_note = [], [], before
            if config.max_entities is not None and count >= config.max_entities:
                break
        head = _HEAD.match(line)
        is_item = head is not None and head[1] == b"Q"
        has_parent = _HAS_PARENT in line and not config.subclasses  # which were read before
        if is_item and not has_parent and not may_be_kept(line):
            continue
        value = _parsed(path, number, line)
        parents += read_subclasses(value) if has_parent else []
        entity = read_entity(value, config.language)
        if entity is None or (not entity.is_property and class_numbers and not class_numbers & set(entity.types)):
            continue
        if entity.is_property or entity.sitelinks >= config.min_sitelinks:
            batch.append(entity)
    graph.add_subclasses(parents, {})
    graph.add(batch, {"dump": made_of, "statements": "done"})
    advance(max(0, number - last_note))


def _read_labels(path: Path, graph: Graph, config: DumpConfig, start: int, advance: Callable[[int], None]) -> None:
    marks = bytearray(_ITEMS // 8)
    missing = 0
    for item in graph.unlabelled():
        if item < _ITEMS:
            marks[item >> 3] |= 1 << (item & 7)
            missing += 1
    batch: list[Named] = []
    last_note = number = start
    for number, line in _lines(path, start) if missing else ():
        if number - last_note > _NOTED or len(batch) >= _BATCH:
            before = number - 1  # this line is not read yet
            graph.add_labels(batch, {"labels": str(before)})
            advance(before - last_note)
            batch, last_note = [], before
        head = _HEAD.match(line)
        if head is not None and not (head[1] == b"Q" and _is_marked(marks, int(head[2]))):
            continue
        entity = read_entity(_parsed(path, number, line), config.language)
        if entity is not None and not entity.is_property and _is_marked(marks, entity.number):
            batch.append(Named(entity.number, entity.label, entity.description))
    graph.add_labels(batch, {"labels": "done"})
    advance(max(0, number - last_note))


def _is_marked(marks: bytearray, item: int) -> bool:
    return item < _ITEMS and bool(marks[item >> 3] >> (item & 7) & 1)


def _lines(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """(number of the line, from 1; its JSON) of each entity behind line `start`. Raises UserError."""
    try:
        with closing(_opened(path)) as file:
            number, is_open = 0, False
            while line := file.readline(_LONGEST_LINE):
                number += 1
                if line.strip() in (b"[", b"]"):
                    is_open = line.strip() == b"["
                if len(line) >= _LONGEST_LINE:
                    raise UserError(f"{path}, line {number} has no end: a dump has an entity a line.")
                if number <= start:
                    continue
                text = line.removeprefix(BOM_UTF8).strip().removesuffix(b",")
                if number <= 2 and text in (b"{", b"[{"):
                    cure = "Write it again: jq -c '.[]' FILE > FILE.jsonl"
                    raise UserError(f"{path} has its entities over several lines, where a dump has one a line. {cure}.")
                if text.startswith(b"{"):
                    yield number, text
                elif text not in (b"[", b"]", b""):
                    raise UserError(
                        f"{path}, line {number} is not an entity. Give a JSON dump, an array with one a line."
                    )
            if is_open:  # as if it ended where one of several compressed streams, or a line, does
                raise EOFError("its last line is not ]")
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(
            f"{path} is cut short or damaged ({error}). Download it again; what was read is kept."
        ) from None


def _opened(path: Path) -> IO[bytes]:
    refuse_irregular(path)
    with open(path, "rb") as file:
        head = file.read(6)
    if head.startswith(b"\x1f\x8b"):
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        return bz2.open(path, "rb")
    if head == b"\xfd7zXZ\0":
        return lzma.open(path, "rb")
    if head.startswith((b"PK\x03\x04", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")):
        raise UserError(f"{path} is compressed by zip, 7z or zstd. Give a dump in gz, bz2 or xz, or unpack it.")
    return open(path, "rb")


def _parsed(path: Path, number: int, line: bytes) -> object:
    try:
        value = parse_json(line.decode("utf-8"))
    except ValueError as error:
        raise UserError(f"{path}, line {number} is not JSON ({error}). Download the dump again.") from None
    if is_simplified(value):  # nothing of which would be kept
        raise UserError(
            f"{path}, line {number} is an entity that a tool has simplified. Give the dump as Wikidata has it."
        )
    return value


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise UserError(
            f"there is no dump {path} ({error.strerror}). Give a latest-all.json.gz, .bz2 or .json."
        ) from None
