"""A made dump in the form of Wikidata's: people, towns and countries, for tests and for the benchmark."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

HUMAN, TOWN, COUNTRY = 5, 3957, 6256
PROPERTIES = {
    31: "instance of",
    19: "place of birth",
    27: "country of citizenship",
    106: "occupation",
    69: "educated at",
    17: "country",
    569: "date of birth",
    108: "employer",
}
_FIRST_COUNTRY, _FIRST_TOWN, _FIRST_JOB, _FIRST_HUMAN = 1_000, 2_000, 10_000, 20_000


def text(value):
    return {"en": {"language": "en", "value": value}, "de": {"language": "de", "value": f"{value} (de)"}}


def statement(prop, item=None, time=None, amount=None, rank="normal", snaktype="value"):
    snak = {"snaktype": snaktype, "property": f"P{prop}", "datatype": "wikibase-item"}
    if snaktype == "value" and item is not None:
        value = {"entity-type": "item", "numeric-id": item, "id": f"Q{item}"}
        snak["datavalue"] = {"type": "wikibase-entityid", "value": value}
    elif snaktype == "value" and time is not None:
        value = {"time": f"+{time:04d}-03-11T00:00:00Z", "precision": 11, "calendarmodel": "http://x/Q1985727"}
        snak["datavalue"] = {"type": "time", "value": value}
    elif snaktype == "value":
        snak["datavalue"] = {"type": "quantity", "value": {"amount": f"{amount:+g}", "unit": "1"}}
    return {"mainsnak": snak, "type": "statement", "id": f"Q1$%s-{prop}" % item, "rank": rank, "references": []}


def entity(number, label, claims=(), aliases=(), sitelinks=3, kind="item"):
    found: dict = {}
    for prop, row in claims:
        found.setdefault(f"P{prop}", []).append(row)
    prefix = "P" if kind == "property" else "Q"
    return {
        "type": kind,
        "id": f"{prefix}{number}",
        "labels": text(label),
        "descriptions": text(f"what {label} is"),
        "aliases": {"en": [{"language": "en", "value": alias} for alias in aliases]},
        "claims": found,
        "sitelinks": {f"w{n}wiki": {"site": f"w{n}wiki", "title": label, "badges": []} for n in range(sitelinks)},
    }


def entities(people: int, seed: int = 0, filler: int = 0) -> Iterator[dict]:
    """`people` humans in towns of countries, after the properties and before what they point to.

    filler: characters of further text an entity, as real ones have in other languages.
    """
    rng = np.random.default_rng(seed)
    countries, towns, jobs = max(3, people // 2000), max(8, people // 200), max(4, people // 500)
    more = {"filler": "x" * filler} if filler else {}
    for number, label in PROPERTIES.items():
        yield entity(number, label, kind="property")
    for place in range(people):
        town, job = int(rng.integers(towns)), int(rng.integers(jobs))
        claims = [
            (31, statement(31, HUMAN)),
            (19, statement(19, _FIRST_TOWN + town)),
            (27, statement(27, _FIRST_COUNTRY + int(rng.integers(countries)))),
            (106, statement(106, _FIRST_JOB + job)),
            (569, statement(569, time=1800 + int(rng.integers(200)))),
        ]
        if place % 3:
            claims.append((108, statement(108, _FIRST_TOWN + int(rng.integers(towns)))))
        number = _FIRST_HUMAN + place
        yield entity(number, f"Person {place}", claims, [f"P. {place}"], sitelinks=1 + place % 5) | more
    for town in range(towns):
        claims = [(31, statement(31, TOWN)), (17, statement(17, _FIRST_COUNTRY + town % countries))]
        yield entity(_FIRST_TOWN + town, f"Town {town}", claims)
    for country in range(countries):
        yield entity(_FIRST_COUNTRY + country, f"Country {country}", [(31, statement(31, COUNTRY))])
    for job in range(jobs):
        yield entity(_FIRST_JOB + job, f"job {job}")
    for number, label in ((HUMAN, "human"), (TOWN, "town"), (COUNTRY, "country")):
        yield entity(number, label)


def write_dump(path: Path, rows: Iterator[dict]) -> int:
    """A JSON array with an entity a line, as .json, .json.gz or .json.bz2; returns the number of entities."""
    openers: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open}
    opened = openers.get(path.suffix, open)
    count = 0
    with opened(path, "wt", encoding="utf-8", **({"compresslevel": 1} if path.suffix == ".gz" else {})) as file:
        file.write("[\n")
        for count, row in enumerate(rows, start=1):
            file.write(("" if count == 1 else ",\n") + json.dumps(row, separators=(",", ":")))
        file.write("\n]\n")
    return count
