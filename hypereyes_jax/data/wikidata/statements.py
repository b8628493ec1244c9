"""One entity of Wikidata's JSON as what the graph keeps of it: labels, truthy statements, types."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TYPE = 31  # P31, instance of
SUBCLASS = 279  # P279, subclass of
_ID = re.compile(r"[QP](\d{1,10})")
_YEAR = re.compile(r"([+-]\d{1,12})-\d\d-\d\d")
_BY_YEAR = 9  # precision of a time that is known to the year or better
_LONGEST = 400  # characters of a label
_ALIASES = 20
_ALL_LANGUAGES = "mul"  # what Wikidata calls the labels that hold where a language has none of its own
_STATEMENTS = 2_000  # of one entity: some have tens of thousands


@dataclass(frozen=True)
class WikidataEntity:
    """What is kept of an item or property; numbers are those of its id, so Q42 is 42."""

    number: int
    is_property: bool
    label: str
    description: str
    aliases: tuple[str, ...]
    sitelinks: int
    edges: tuple[tuple[int, int], ...]  # (property, item)
    values: tuple[tuple[int, float], ...]  # (property, number): the year of a time, the amount of a quantity

    @property
    def types(self) -> tuple[int, ...]:
        return tuple(item for prop, item in self.edges if prop == TYPE)


def read_entity(value: Any, language: str) -> WikidataEntity | None:
    """An entity of a dump; None for what is none, and for one without a label in the language or for all of them."""
    if not isinstance(value, dict):
        return None
    name = value.get("id")
    number = number_of(name)
    label = _text(value.get("labels"), language)
    if number is None or not label:
        return None
    edges: list[tuple[int, int]] = []
    values: list[tuple[int, float]] = []
    for prop, statement in _truthy(value.get("claims")):
        content = _value(statement)
        if isinstance(content, int):
            edges.append((prop, content))
        elif content is not None:
            values.append((prop, content))
    sitelinks = value.get("sitelinks")
    return WikidataEntity(
        number,
        str(name).startswith("P"),
        label,
        _text(value.get("descriptions"), language),
        tuple(_aliases(value.get("aliases"), language)),
        len(sitelinks) if isinstance(sitelinks, dict) else 0,
        tuple(dict.fromkeys(edges)),
        tuple(dict.fromkeys(values)),
    )


def is_simplified(value: Any) -> bool:
    """Whether an entity is as tools that shorten dumps write it: labels are texts, and claims are values."""
    labels = value.get("labels") if isinstance(value, dict) else None
    return isinstance(labels, dict) and any(isinstance(text, str) for text in labels.values())


def read_subclasses(value: Any) -> list[tuple[int, int]]:
    """(class, the class above it) of an item of a dump, be it without a label."""
    number = number_of(value.get("id")) if isinstance(value, dict) else None
    if number is None:
        return []
    above = value.get("claims")
    statements = {f"P{SUBCLASS}": above.get(f"P{SUBCLASS}")} if isinstance(above, dict) else {}
    items = (_value(statement) for _, statement in _truthy(statements))
    return [(number, item) for item in items if isinstance(item, int)]


def number_of(name: Any) -> int | None:
    """42 of "Q42" or "P42"; None for anything else."""
    match = _ID.fullmatch(name) if isinstance(name, str) else None
    return int(match[1]) if match else None


def year_of(time: Any) -> float | None:
    """1952 of "+1952-03-11T00:00:00Z"; None for what is not a time."""
    match = _YEAR.match(time) if isinstance(time, str) else None
    return float(match[1]) if match else None


def _truthy(claims: Any) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """The preferred statements of each property or, without any, the normal ones; never deprecated ones."""
    count = 0
    for name, statements in claims.items() if isinstance(claims, dict) else ():
        prop = number_of(name)
        if prop is None or not isinstance(statements, list):
            continue
        valid = [s for s in statements if isinstance(s, dict)]
        best = [s for s in valid if s.get("rank") == "preferred"] or [s for s in valid if s.get("rank") == "normal"]
        for statement in best:
            count += 1
            if count > _STATEMENTS:
                return
            yield prop, statement


def _value(statement: Mapping[str, Any]) -> int | float | None:
    """An item's number, or the number of a time or quantity as a float; None for any other value, and for no value."""
    snak = statement.get("mainsnak")
    if not isinstance(snak, dict) or snak.get("snaktype") != "value":
        return None
    data = snak.get("datavalue")
    value = data.get("value") if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(value, dict):
        return None
    if data.get("type") == "wikibase-entityid":
        name = value.get("id") or (f"Q{value['numeric-id']}" if isinstance(value.get("numeric-id"), int) else None)
        return number_of(name) if isinstance(name, str) and name.startswith("Q") else None
    if data.get("type") == "time":
        precision = value.get("precision", _BY_YEAR)
        return year_of(value.get("time")) if isinstance(precision, int) and precision >= _BY_YEAR else None
    if data.get("type") == "quantity":
        try:
            amount = float(value.get("amount"))  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            return None
        return amount if math.isfinite(amount) else None
    return None


def _languages(language: str) -> tuple[str, ...]:
    """Where a text in a language may stand: itself, what it is a variant of, and what holds for all languages."""
    language = language.lower()  # as Wikidata writes its codes
    return tuple(dict.fromkeys((language, language.partition("-")[0], _ALL_LANGUAGES)))


def _text(texts: Any, language: str) -> str:
    for name in _languages(language) if isinstance(texts, dict) else ():
        entry = texts.get(name)
        value = entry.get("value") if isinstance(entry, dict) else None
        if isinstance(value, str) and value.strip():
            return value.strip()[:_LONGEST]
    return ""


def _aliases(aliases: Any, language: str) -> list[str]:
    texts: dict[str, None] = {}
    for name in _languages(language) if isinstance(aliases, dict) else ():
        rows = aliases.get(name)
        for row in rows[:_ALIASES] if isinstance(rows, list) else ():
            value = row.get("value") if isinstance(row, dict) else None
            if isinstance(value, str) and value.strip():
                texts[value.strip()[:_LONGEST]] = None
    return list(texts)[:_ALIASES]
