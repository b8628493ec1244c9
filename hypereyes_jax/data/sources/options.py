"""Multiple choice: questions whose answer is the letter or number of an option that stands in columns of its own."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping

from hypereyes_jax.data.sources.columns import plain_name
from hypereyes_jax.data.sources.fields import listed_in
from hypereyes_jax.data.sources.types import BadRow, Row

_LETTERED = re.compile(r"\s*\(?([A-Z])[.):]\s*(.*\S)", re.DOTALL)  # "A. red", "(B) blue"


def with_options(row: Row, text: str, answers: tuple[str, ...], value: object = None) -> tuple[str, tuple[str, ...]]:
    """The question with its options shown, and the right option's text beside its letter among the accepted answers.

    A question whose answer is no letter or number of an option stays as it is; so does a text that shows the options
    already.

    Args:
      value: the answer as the row has it. A whole number, not one as text, counts the options from 0.

    Raises BadRow for a number of an option that is the text of another one.
    """
    letter = answers[0]
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    if number is None and (len(letter) != 1 or letter not in string.ascii_uppercase):
        return text, answers
    options = _options(row)
    if number is not None:
        letter = _letter(options, number)
        answers = (letter, *answers[1:])
    if letter not in options:
        return text, answers
    if not all(option in text for option in options.values()):
        text = "\n".join((text, *(f"{name}. {option}" for name, option in options.items())))
    return text, (options[letter], *answers)


def _letter(options: Mapping[str, str], number: int) -> str:
    """The letter of the option that a number means, or the number as text where it means none. Raises BadRow."""
    texts = list(options.values())
    if not 0 <= number < len(texts) or texts[number] == str(number):
        return str(number)
    if str(number) in texts:
        raise BadRow(
            "option or number",
            f"its answer {number} is one of its options, and the number of another one, {texts[number]!r}: write the "
            "letter or the text of the right one",
        )
    return list(options)[number]


def _options(row: Row) -> dict[str, str]:
    """Letter -> option: of a list or an object in `options` or `choices`, or of columns A, B, C, ..."""
    for name in row:
        if plain_name(name) not in ("options", "choices"):
            continue
        value = listed_in(row[name])
        if isinstance(value, Mapping) and isinstance(value.get("label"), list) and isinstance(value.get("text"), list):
            return _texts(dict(zip(map(str, value["label"]), value["text"], strict=False)))  # as ARC has them
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
