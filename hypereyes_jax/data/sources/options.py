"""Multiple choice: questions whose answer is the letter of an option that stands in columns of its own."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from hypereyes_jax.data.sources.fields import unpacked
from hypereyes_jax.data.sources.types import Row

_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*\S)", re.DOTALL)  # "A. red", "(B) blue"


def with_options(row: Row, text: str, answers: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The question with its options shown, and the right option's text beside its letter among the accepted answers.

    A question whose answer is no letter of an option stays as it is; so does a text that shows the options already.
    """
    letter = answers[0]
    if len(letter) != 1 or letter not in string.ascii_uppercase:
        return text, answers
    options = _options(row)
    if letter not in options:
        return text, answers
    if not all(option in text for option in options.values()):
        text = "\n".join((text, *(f"{name}. {option}" for name, option in options.items())))
    return text, (options[letter], *answers)


def _options(row: Row) -> dict[str, str]:
    """Letter -> option: of a list or an object in `options` or `choices`, or of columns A, B, C, ..."""
    for name in ("options", "choices"):
        value = unpacked(row.get(name))
        if isinstance(value, Mapping):
            return _texts(value)
        if isinstance(value, list | tuple) and len(value) <= len(string.ascii_uppercase):
            texts = [option for option in value if isinstance(option, str)]
            lettered = [match for option in texts if (match := _LETTERED.fullmatch(option))]
            if len(lettered) == len(value) == len({match[1] for match in lettered}):
                return {match[1]: match[2] for match in lettered}
            return _texts(dict(zip(string.ascii_uppercase, value, strict=False)))
    return _texts({name: row[name] for name in string.ascii_uppercase if name in row})


def _texts(options: Mapping[str, object]) -> dict[str, str]:
    """The options that are texts; numbers are written out, and gaps left out."""
    written = {name: str(value).strip() for name, value in options.items() if isinstance(value, str | int | float)}
    return {name: text for name, text in written.items() if text and text != "nan"}
