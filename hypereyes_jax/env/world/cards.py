"""The key-facts card of a country: short, regular sentences with rounded numbers."""

from __future__ import annotations

from collections.abc import Mapping

from hypereyes_jax.env.world.types import ATTRIBUTES, Country

LABELS = {
    "capital": "Capital",
    "region": "Region",
    "population": "Population",
    "area": "Area",
    "currency": "Currency",
    "language": "Official language",
    "borders": "Borders",
    "independence": "Independence",
}


def rounded(value: float) -> str:
    """Three significant digits: 19,674,004 -> "19.7 million"; 5,765 -> "5,770"."""
    if value < 1:
        return f"{value:.2g}"
    exponent = len(str(int(value))) - 3
    value = int(value / 10**exponent + 0.5) * 10**exponent  # half up, as people round
    for size, word in ((1e9, " billion"), (1e6, " million")):
        if value >= size:
            return f"{value / size:.3g}{word}"
    return f"{value:,.0f}" if value >= 100 else f"{value:g}"


def display_facts(country: Country, names: Mapping[str, str]) -> dict[str, str]:
    """Attribute -> text, without the unknown ones. `names` gives the display name of each bordering key."""
    independence = "" if country.independence_year is None else str(country.independence_year)
    if independence and country.independence_from:
        independence += f" from {country.independence_from}"
    facts = {
        "capital": country.capital,
        "region": country.region,
        "population": rounded(country.population) if country.population else "",
        "area": f"{rounded(country.area)} sq km" if country.area else "",
        "currency": country.currency,
        "language": ", ".join(country.languages),
        "borders": ", ".join(sorted(names[key] for key in country.borders)) or "none",
        "independence": independence,
    }
    return {attribute: facts[attribute] for attribute in ATTRIBUTES if facts[attribute]}


def sentence(attribute: str, fact: str) -> str:
    """ "Capital: N'Djamena." """
    return f"{LABELS[attribute]}: {fact}" + ("" if fact.endswith(".") else ".")


def card(country: Country) -> list[tuple[str, str]]:
    """(attribute, sentence) in card order."""
    return [(attribute, sentence(attribute, fact)) for attribute, fact in country.facts.items()]
