"""What is known of each class of a photo set: facts with their sources, a JSON file a class.

A person can read and correct the files. They are built from searches by `knowledge_build.py`; offline, a dictionary or
the miniature's world stands in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hypereyes_jax.env.judging.judges import normalise
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import parse_file_json, read_file, write_json

NUMBER, TEXT = "number", "text"

# Per set: field -> (what it is, number or text). Equal fields make classes comparable.
FIELDS: dict[str, dict[str, tuple[str, str]]] = {
    "cub": {
        "order": ("taxonomic order", TEXT),
        "family": ("taxonomic family", TEXT),
        "length": ("typical body length in centimetres", NUMBER),
        "wingspan": ("typical wingspan in centimetres", NUMBER),
        "diet": ("main food", TEXT),
        "nest": ("where it nests", TEXT),
        "described": ("year in which the species was first described", NUMBER),
        "look": ("the trait of plumage it is told by", TEXT),
    },
    "flowers": {
        "family": ("botanical family", TEXT),
        "origin": ("region that it is native to", TEXT),
        "height": ("typical height in centimetres", NUMBER),
        "season": ("season in which it flowers", TEXT),
        "described": ("year in which it was first described", NUMBER),
        "look": ("the trait of the flower it is told by", TEXT),
    },
    "cars": {
        "country": ("country of the maker", TEXT),
        "power": ("power of the engine in horsepower", NUMBER),
        "introduced": ("year in which the model was introduced", NUMBER),
        "assembled": ("place of assembly", TEXT),
        "designer": ("designer", TEXT),
    },
    "aircraft": {
        "manufacturer": ("manufacturer", TEXT),
        "first_flight": ("year of the first flight", NUMBER),
        "wingspan": ("wingspan in metres", NUMBER),
        "seats": ("typical number of passengers", NUMBER),
        "engines": ("number of engines", NUMBER),
        "role": ("role", TEXT),
    },
    "pets": {
        "origin": ("country of origin", TEXT),
        "weight": ("typical weight of an adult in kilograms", NUMBER),
        "bred_for": ("what it was bred for", TEXT),
        "recognised": ("year in which a kennel club or cat association first recognised the breed", NUMBER),
        "coat": ("kind of coat", TEXT),
    },
}
_DIGITS = re.compile(r"[+-]?\d{1,15}(?:\.\d{1,15})?")
_LONGEST_NAME = 200  # bytes of a file's name
GENERAL = {
    "origin": ("where it comes from", TEXT),
    "size": ("its typical size as a number", NUMBER),
    "year": ("the year in which it was first described, made or introduced", NUMBER),
    "look": ("the visible trait it is told by", TEXT),
}


@dataclass(frozen=True)
class Fact:
    """A field of an entry, with the page that states it."""

    name: str  # of a field: "wingspan"
    value: str
    source: str  # URL or title of the page
    quote: str = ""  # the page's words
    number: float | None = None  # of a field that is a number


@dataclass(frozen=True)
class KnowledgeEntry:
    """All that is known of one class."""

    label: str
    aliases: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    searches: int = 0
    model: str = ""

    def fact(self, name: str) -> Fact | None:
        return next((fact for fact in self.facts if fact.name == name), None)


def fields_of(photo_set: str) -> dict[str, tuple[str, str]]:
    """The fields of a set's classes; a set of no known name has general ones."""
    return FIELDS.get(photo_set, GENERAL)


def entry_path(folder: Path, label: str) -> Path:
    """The file of a class, called as this is in whatever script; a name that no file can have is cut, or a digest."""
    name = re.sub(r"\W+", "-", normalise(label)).strip("-")
    if not name or len(name.encode()) > _LONGEST_NAME:
        name = f"{name[:40]}-{hashlib.sha256(label.encode()).hexdigest()[:12]}".lstrip("-")
    return folder / f"{name}.json"


def write_entry(path: Path, entry: KnowledgeEntry) -> None:
    """A class as JSON that a person can read and correct."""
    facts = [{key: part for key, part in asdict(fact).items() if part not in ("", None)} for fact in entry.facts]
    about = {"label": entry.label, "aliases": list(entry.aliases), "facts": facts}
    write_json(path, about | {"searches": entry.searches, "model": entry.model})


def read_entry(path: Path) -> KnowledgeEntry:
    """A class from its file, also one that a person has edited. Raises UserError, which names file and fault."""
    try:
        value = parse_file_json(read_file(path))
        if not isinstance(value, dict) or not isinstance(value.get("label"), str):
            raise ValueError("it needs a 'label', a string")
        facts = tuple(_read_fact(row) for row in value.get("facts", []))
        aliases = value.get("aliases", [])
        if not isinstance(aliases, list) or not all(isinstance(name, str) for name in aliases):
            raise ValueError("'aliases' must be a list of strings")
        searches = value.get("searches", 0)
        return KnowledgeEntry(
            value["label"],
            tuple(aliases),
            facts,
            searches if isinstance(searches, int) else 0,
            str(value.get("model", "")),
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(
            f"{path} is not an entry of a knowledge base ({error}). Correct it, or remove it, and it is built again."
        ) from None


def _read_fact(row: Any) -> Fact:
    if (
        not isinstance(row, dict)
        or not isinstance(row.get("name"), str)
        or not isinstance(row.get("value"), str | int | float)
    ):
        raise ValueError("each of 'facts' needs a 'name' and a 'value'")
    number = row.get("number")
    if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
        raise ValueError(f"the number of {row['name']!r} is not a number")
    source, quote = row.get("source", ""), row.get("quote", "")
    if not isinstance(source, str) or not isinstance(quote, str):
        raise ValueError(f"source and quote of {row['name']!r} must be strings")
    return Fact(row["name"], str(row["value"]), source, quote, None if number is None else float(number))


def read_knowledge(folder: Path) -> dict[str, KnowledgeEntry]:
    """All classes of a folder by label. Raises UserError."""
    entries = [read_entry(path) for path in sorted(folder.glob("*.json"))]
    if not entries:
        raise UserError(f"{folder} holds no knowledge of any class. Build it first, or give another folder.")
    return {entry.label: entry for entry in entries}


def dictionary_knowledge(
    facts: Mapping[str, Mapping[str, Any]], source: str = "dictionary"
) -> dict[str, KnowledgeEntry]:
    """A knowledge base from {label: {field: value}}, for work offline. A value that is a number is one, also as
    a text of digits alone."""
    entries = {}
    for label, values in facts.items():
        entry_facts = []
        for name, value in values.items():
            if isinstance(value, str) and _DIGITS.fullmatch(value.strip()):  # as tables of texts have it
                value = float(value) if "." in value else int(value)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            entry_facts.append(
                Fact(
                    name,
                    f"{value:g}" if isinstance(value, float) else str(value),
                    source,
                    "",
                    float(value) if is_number else None,
                )
            )
        entries[label] = KnowledgeEntry(label, (), tuple(entry_facts))
    return entries
