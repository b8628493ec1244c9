"""Reads the World Factbook (factbook.json.gz, made by tools/make_factbook.py) into `Country` records and passages.

Pages are joined to the flags by the Factbook's own internet country code. Each fact is parsed once, and the words it
was parsed from are kept in `Country.sources`.
"""

from __future__ import annotations

import gzip
import html
import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from typing import Any

from hypereyes_jax.env.world.cards import display_facts
from hypereyes_jax.env.world.currencies import currency_name
from hypereyes_jax.env.world.members import MEMBERS, NO_FLAG
from hypereyes_jax.env.world.types import Country, Passage

REGIONS = {
    "africa": "Africa",
    "australia-oceania": "Oceania",
    "central-america-n-caribbean": "Central America and the Caribbean",
    "central-asia": "Central Asia",
    "east-n-southeast-asia": "East and Southeast Asia",
    "europe": "Europe",
    "middle-east": "Middle East",
    "north-america": "North America",
    "south-america": "South America",
    "south-asia": "South Asia",
}

# The short form is an abbreviation, cut off, or not what people say.
_NAMES = {
    "cg": ("Republic of the Congo", "Congo (Brazzaville)", "Congo-Brazzaville"),
    "cd": ("Democratic Republic of the Congo", "DRC", "DR Congo"),
    "do": ("Dominican Republic", "The Dominican Republic"),
    "fm": ("Micronesia", "Federated States of Micronesia"),
    "gm": ("Gambia", "The Gambia"),
    "bs": ("Bahamas", "The Bahamas"),
    "ci": ("Cote d'Ivoire", "Ivory Coast"),
    "gb": ("United Kingdom", "UK", "Great Britain", "Britain"),
    "us": ("United States", "US", "USA"),
    "ae": ("United Arab Emirates", "UAE"),
    "cz": ("Czechia", "Czech Republic"),
    "mm": ("Burma", "Myanmar"),
    "sz": ("Eswatini", "Swaziland"),
    "mk": ("North Macedonia", "Macedonia"),
    "cv": ("Cabo Verde", "Cape Verde"),
    "tl": ("Timor-Leste", "East Timor"),
    "tr": ("Turkey", "Turkiye"),
}

# A slip of the pages; a name that two members share.
_NOT_NAMES = frozenset({"The Dominican", "Congo"})

# The page says the first is the seat of some of the government only, or gives no bare name.
_CAPITALS = {
    "md": ("Chisinau", "Kishinev"),
    "mm": ("Rangoon", "Yangon", "Nay Pyi Taw", "Naypyidaw"),
    "nr": ("Yaren", "Yaren District"),
    "us": ("Washington, D.C.", "Washington", "Washington DC"),
    "sm": ("San Marino", "City of San Marino"),
}

# One name a language, so that two countries that share it say so in the same words.
_LANGUAGES = {
    "Afghan Persian": "Dari",
    "Bokmal Norwegian": "Norwegian",
    "Castilian Spanish": "Spanish",
    "Kiswahili": "Swahili",
    "Nynorsk Norwegian": "Norwegian",
    "Persian Farsi": "Persian",
    "Standard Chinese": "Mandarin",
}

_PAGES = resources.files("hypereyes_jax.env.world") / "factbook.json.gz"

# Fields that say what the flag looks like: left in, a text search would answer the visual question.
_FLAG_FIELDS = frozenset(
    {"Flag", "Flag description", "National color(s)", "National symbol(s)", "National coat of arms"}
)
_PASSAGE_WORDS = 150
_MAX_LANGUAGES = 4  # Zimbabwe has 16 official ones; a card that lists them all teaches nothing


def plain(text: str) -> str:
    """HTML stripped, white space single, letters folded to ASCII."""
    text = re.sub(r"<[^>]+>", " ", html.unescape(text))
    text = text.replace("’", "'").replace("‘", "'").replace("“", '"').replace("”", '"').replace("–", "-")
    folded = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(folded.split())


def _text(page: dict[str, Any], *path: str) -> str:
    """The raw text at a path of the page, or ""."""
    node: Any = page
    for step in path:
        if not isinstance(node, dict) or step not in node:
            return ""
        node = node[step]
    if isinstance(node, dict):
        node = node.get("text", "")
    return node if isinstance(node, str) else ""


def _pages() -> dict[str, dict[str, Any]]:
    """{ISO code: {"region": folder, "page": page}} of each member state."""
    pages: dict[str, dict[str, Any]] = json.loads(gzip.decompress(_PAGES.read_bytes()))
    assert set(pages) == set(MEMBERS)  # the file is the package's own
    return pages


def _names(iso: str, page: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    raw_short = _text(page, "Government", "Country name", "conventional short form")
    raw_long = _text(page, "Government", "Country name", "conventional long form")
    short, long = (re.sub(r"\s*[(;].*", "", plain(raw)) for raw in (raw_short, raw_long))
    forms = [*_NAMES.get(iso, ()), *(form for form in (short, long) if form and form != "none")]
    accented = html.unescape(raw_short).strip()
    if accented != plain(raw_short):
        forms.append(accented)
    unique = list(dict.fromkeys(form for form in forms if form not in _NOT_NAMES))
    return unique[0], tuple(unique[1:])


def _capitals(iso: str, raw: str) -> tuple[str, ...]:
    if iso in _CAPITALS:
        return _CAPITALS[iso]
    text = re.sub(r";\s*note.*", "", plain(raw))
    names = []
    for part in re.split(r";|,(?![^(]*\))", text):
        name = re.sub(r"\s*\(.*", "", part).strip()
        if name:
            names.append(name)
    accented = re.sub(r"\s*[(;,].*", "", html.unescape(raw)).strip()
    return tuple(dict.fromkeys([*names, accented])) if names else ()


def _number(text: str) -> float | None:
    match = re.match(r"\D{0,3}([\d,]+(?:\.\d+)?)\s*(million)?", plain(text))
    return float(match[1].replace(",", "")) * (1e6 if match[2] else 1) if match else None


def _languages(text: str) -> tuple[str, ...]:
    """Names marked "(official ...)" for the whole country."""
    names = []
    pattern = (
        r"((?:\b[a-z]{1,3})?[A-Z][A-Za-z'/ -]*?)"  # isiZulu, Fiji Hindi
        r"(?: (?:or|languages) [A-Za-z' -]+?)?(?: only)?(?: [\d.<]+%)?\s*\(([^()]*)\)"
    )
    for name, note in re.findall(pattern, re.sub(r"\([^()]*\) (?=\(official)", "", plain(text))):
        says_official = re.search(r"\bofficial\b|state language", note)
        if says_official and not re.search(
            r"official (?:in|on|regional|minority)|not official|municipal|locally", note
        ):
            name = re.sub(r"/.*", "", name.strip())
            names.append(_LANGUAGES.get(name, name))
    return tuple(dict.fromkeys(names))[:_MAX_LANGUAGES]


def _independence(text: str) -> tuple[int | None, str]:
    """(year, former ruler) of "... 1960 (from France)"; nothing where the source tells a longer story."""
    match = re.search(r"\b(1\d{3}|20\d{2}) \((?:declared )?(?:independence )?from (?:the )?([^();]*)\)", plain(text))
    if not match:
        return None, ""
    ruler = {"UK": "United Kingdom", "US": "United States", "Great Britain": "United Kingdom"}.get(match[2], match[2])
    return int(match[1]), ruler if re.fullmatch(r"[A-Z][A-Za-z]+(?: [A-Z][A-Za-z]+)*", ruler) else ""


def _border_names(text: str) -> list[str]:
    """Country names of "Libya 989 km; Spain (Ceuta) 8 km and Spain (Melilla) 10.5 km"."""
    parts = re.split(r";| km(?: \([^)]*\))?,? |, (?=[A-Z])", plain(text))
    return [re.sub(r"\s*\(.*|^and\s+|\s+[\d.,]+\s*(?:km.*)?$", "", part.strip()).strip() for part in parts if part]


@lru_cache(maxsize=1)
def read() -> tuple[tuple[Country, ...], tuple[Passage, ...]]:
    """All member states, sorted by key, and all passages."""
    pages = _pages()
    countries: list[Country] = []
    neighbours: dict[str, list[str]] = {}
    passages: list[Passage] = []
    for iso in sorted(pages):
        region, page = pages[iso]["region"], pages[iso]["page"]
        sources = {
            "capital": _text(page, "Government", "Capital", "name"),
            "region": region,
            "population": _text(page, "People and Society", "Population", "total"),
            "area": _text(page, "Geography", "Area", "total "),  # the key does end in a space
            "currency": _text(page, "Economy", "Exchange rates", "Currency"),
            "language": _text(page, "People and Society", "Languages", "Languages")
            or _text(page, "People and Society", "Languages"),
            "borders": _text(page, "Geography", "Land boundaries", "border countries"),
            "independence": _text(page, "Government", "Independence"),
        }
        name, aliases = _names(iso, page)
        capitals = _capitals(iso, sources["capital"])
        population = _number(sources["population"])
        year, ruler = _independence(sources["independence"])
        countries.append(
            Country(
                key=iso,
                name=name,
                aliases=aliases,
                capital=capitals[0],
                capital_aliases=capitals[1:],
                region=REGIONS[region],
                population=int(population) if population else None,
                area=_number(sources["area"]),
                currency=currency_name(iso, plain(sources["currency"])),
                languages=_languages(sources["language"]),
                borders=(),
                independence_year=year,
                independence_from=ruler,
                sources=sources,
                flag=iso not in NO_FLAG,
            )
        )
        neighbours[iso] = _border_names(sources["borders"])
        passages.extend(_passages(iso, page))
    by_name = {plain(form): country.key for country in countries for form in country.names}
    edges: dict[str, set[str]] = {country.key: set() for country in countries}
    for key, names in neighbours.items():
        for other in (by_name[name] for name in names if name in by_name and by_name[name] != key):
            edges[key].add(other)  # a few borders stand on one side's page only; a border has two sides
            edges[other].add(key)
    with_borders = [replace(country, borders=tuple(sorted(edges[country.key]))) for country in countries]
    display = {country.key: country.name for country in with_borders}
    return tuple(replace(country, facts=display_facts(country, display)) for country in with_borders), tuple(passages)


def _leaves(node: Any) -> Iterator[str]:
    """The texts below a field, each with the name of its sub-field."""
    for name, child in node.items():
        if isinstance(child, str):
            yield plain(child) if name in ("text", "note") else f"{name}: {plain(child)}"
        elif isinstance(child, dict):
            inner = " ".join(_leaves(child))
            if inner:
                yield f"{name.strip()}: {inner}"


def _passages(key: str, page: dict[str, Any]) -> Iterator[Passage]:
    for section, fields in page.items():
        words: list[str] = []
        for name, node in fields.items():
            if name in _FLAG_FIELDS or not isinstance(node, dict):
                continue
            sentences = re.split(r"(?<=[.;])\s+", f"{name}: {' '.join(_leaves(node))}.")
            for sentence in sentences:
                words.extend(sentence.split())
                if len(words) >= _PASSAGE_WORDS:
                    yield Passage(key, section, " ".join(words))
                    words = []
        if words:
            yield Passage(key, section, " ".join(words))
