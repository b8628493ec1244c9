"""One name a currency, in the singular, so that two countries that share it say so in the same words."""

from __future__ import annotations

import re

# By currency code: names that the Factbook spells in several ways, or in full French.
_BY_CODE = {
    "BAM": "convertible mark",
    "XOF": "West African CFA franc",
    "XAF": "Central African CFA franc",
    "XCD": "East Caribbean dollar",
    "AUD": "Australian dollar",
    "EUR": "euro",
}

# Members to which the Factbook gives no exchange rate, because they use the dollar it is measured in.
_DOLLAR_USERS = frozenset({"us", "ec", "sv", "fm", "mh", "pw", "tl", "pa", "zw"})

_SINGULAR = {
    "colones": "colon",
    "cordobas": "cordoba",
    "emalangeni": "lilangeni",
    "guaranies": "guarani",
    "koruny": "koruna",
    "kroner": "krone",
    "kronor": "krona",
    "kronur": "krona",
    "lei": "leu",
    "leke": "lek",
    "leva": "lev",
    "maloti": "loti",
    "meticais": "metical",
    "quetzales": "quetzal",
    "zlotych": "zloty",
}


def currency_name(iso: str, source: str) -> str:
    """ "Algerian dinars (DZD) per US dollar -" -> "Algerian dinar"; "" if the source names no currency."""
    if not source:
        return "US dollar" if iso in _DOLLAR_USERS else ""
    code = re.search(r"\(([A-Z]{3})\b", source)
    if code and code[1] in _BY_CODE:
        return _BY_CODE[code[1]]
    name = re.split(r" \(| per US dollar", source)[0].split("/")[-1].strip()
    *front, last = name.split()
    if last in _SINGULAR:
        last = _SINGULAR[last]
    elif last.endswith("s"):
        last = last[:-1]
    return " ".join([*front, last])
