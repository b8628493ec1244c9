"""Saved results of SPARQL queries as a graph, a row a statement: W3C's JSON, or the two that Wikidata's page saves.

The query selects `?s ?p ?o` (item, direct property, value) and their labels `?sLabel ?pLabel ?oLabel`, as Wikidata's
label service gives them; other names by `columns`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypereyes_jax.data.wikidata.graph import Graph, Named
from hypereyes_jax.data.wikidata.statements import WikidataEntity, year_of
from hypereyes_jax.env.web.untrusted import parse_json
from hypereyes_jax.errors import UserError
from hypereyes_jax.files import refuse_irregular

_ITEM = re.compile(r"https?://www\.wikidata\.org/entity/Q(\d{1,10})")
_PROPERTY = re.compile(r"https?://www\.wikidata\.org/(?:prop/direct|entity)/P(\d{1,10})")
_TIME = re.compile(r"[+-]?\d{4,12}-\d\d-\d\dT[\d:.]+Z?")
_LITERALS = ("literal", "typed-literal")  # the second in results of older servers
_READ = "sparql "  # before the name of a file, in the graph's progress
_NAMES = ("s", "p", "o", "sLabel", "pLabel", "oLabel", "sAlias")


def refuse_other_files(paths: Sequence[Path], graph: Graph) -> None:
    """Raises UserError where the graph was made of a dump, of further files, or of one that has changed since."""
    before = graph.progress()
    sizes = {f"{_READ}{path.name}": str(path.stat().st_size) for path in paths}
    other = [name for name in before if name == "dump" or (name.startswith(_READ) and name not in sizes)]
    other += [name for name, size in sizes.items() if before.get(name, size) not in (size, "done")]
    if other:
        raise UserError(
            f"{graph.path} was made of {other[0].removeprefix(_READ)}, now it is not. Choose another --out."
        )


def read_sparql(path: Path, graph: Graph, columns: Mapping[str, str] | None = None) -> dict[str, int]:
    """Adds a file of results to the graph; returns the rows of each table.

    Args:
      columns: our name (s, p, o, sLabel, pLabel, oLabel, sAlias) -> the query's variable.

    Raises:
      UserError: the file is not a table of results, or has no variable of these names.
    """
    names = {name: (columns or {}).get(name, name) for name in _NAMES}
    refuse_irregular(path)
    try:
        rows, variables = _bindings(parse_json(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = (
            repr(error)[:200] if isinstance(error, KeyError) else str(error)[:200]
        )  # a repr of bytes holds all of them
        raise UserError(f"{path} is not a table of SPARQL results in JSON ({why}). Save a SELECT query's.") from None
    missing = [names[name] for name in ("s", "p", "o") if names[name] not in variables]
    if missing or not isinstance(rows, list):
        raise UserError(
            f"{path} has no variable {', '.join(missing)}; it has {', '.join(sorted(map(str, variables)))}."
        )
    items: dict[int, dict[str, Any]] = {}
    properties: dict[int, str] = {}
    labels: dict[int, str] = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{path}: result {number} is not an object. Save the query's results again.")
        subject, prop = _number(row, names["s"], _ITEM), _number(row, names["p"], _PROPERTY)
        if subject is None or prop is None:
            continue  # a value that is not an item, such as an unknown one
        item = items.setdefault(subject, {"edges": [], "values": [], "aliases": []})
        label = _label(row, names["sLabel"], subject)
        item["label"] = label or item.get("label", "")
        properties[prop] = _literal(row, names["pLabel"]) or properties.get(prop, f"P{prop}")
        alias = _literal(row, names["sAlias"])
        if alias:
            item["aliases"].append(alias)
        target = _number(row, names["o"], _ITEM)
        amount = None if target is not None else _amount(row.get(names["o"]))
        if target is not None:
            item["edges"].append((prop, target))
            if name := _label(row, names["oLabel"], target):
                labels[target] = name
        elif amount is not None:
            item["values"].append((prop, amount))
    if rows and not any(item["label"] for item in items.values()):
        raise UserError(
            f"{path}: none of its {len(rows):,} results has an item as ?{names['s']}, a direct property (wdt:) as "
            f"?{names['p']} and a label as ?{names['sLabel']}. Select these, with Wikidata's label service."
        )
    entities = [WikidataEntity(number, True, text, "", (), 0, (), ()) for number, text in properties.items()]
    for number, item in items.items():
        if item["label"]:
            parts = (tuple(dict.fromkeys(item[name])) for name in ("aliases", "edges", "values"))
            aliases, edges, values = parts
            entities.append(WikidataEntity(number, False, item["label"], "", aliases, 0, edges, values))
    graph.add(entities, {f"{_READ}{path.name}": str(path.stat().st_size)})
    graph.add_labels((Named(number, text, "") for number, text in labels.items()), {})
    graph.finish()
    return graph.counts()


def _bindings(value: Any) -> tuple[Any, set[Any]]:
    """(rows of cells by variable, variables). Raises KeyError or TypeError for what is no table.

    The query page of Wikidata saves a list of the rows alone, of cells ("JSON file (verbose)") or texts ("JSON file").
    """
    if not isinstance(value, list):
        return value["results"]["bindings"], set(value["head"]["vars"])
    rows = [{name: _cell(cell) for name, cell in row.items()} if isinstance(row, dict) else row for row in value]
    return rows, {name for row in rows if isinstance(row, dict) for name in row}


def _cell(value: Any) -> Any:
    """A text as the cell it was. A text that is a number may have been one or not, so it is none."""
    if not isinstance(value, str):
        return value
    if re.match(r"https?://", value):
        return {"type": "uri", "value": value}
    kind = {"datatype": "#dateTime"} if _TIME.fullmatch(value) else {}
    return {"type": "literal", "value": value} | kind


def _number(row: Mapping[str, Any], name: str, form: re.Pattern[str]) -> int | None:
    cell = row.get(name)
    if not isinstance(cell, dict) or cell.get("type") != "uri" or not isinstance(cell.get("value"), str):
        return None
    match = form.fullmatch(cell["value"])
    return int(match[1]) if match else None


def _literal(row: Mapping[str, Any], name: str) -> str:
    cell = row.get(name)
    if not isinstance(cell, dict) or cell.get("type") not in _LITERALS or not isinstance(cell.get("value"), str):
        return ""
    return str(cell["value"]).strip()[:400]


def _label(row: Mapping[str, Any], name: str, item: int) -> str:
    """A label; "" where there is none, in place of which the label service gives the item's id."""
    label = _literal(row, name)
    return "" if label == f"Q{item}" else label


def _amount(cell: Any) -> float | None:
    """The year of a time, or a number, by the literal's datatype."""
    if not isinstance(cell, dict) or cell.get("type") not in _LITERALS:
        return None
    kind, value = str(cell.get("datatype", "")).rpartition("#")[2], cell.get("value")
    if kind in ("dateTime", "date"):
        text = str(value)
        year = year_of(text if text.startswith(("+", "-")) else f"+{text}")
        # RDF counts as astronomers do, with a year 0; a dump has none, and -44 is 44 BC.
        return year - 1 if year is not None and year <= 0 else year
    if kind in ("decimal", "integer", "double", "float", "int", "nonNegativeInteger"):
        try:
            number = float(str(value))
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    return None
