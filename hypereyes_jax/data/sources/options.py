"""Multiple choice: questions whose answer is the letter or number of an option that stands in columns of its own."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from hypereyes_jax.data.sources.columns import OPTIONS, plain_name
from hypereyes_jax.data.sources.fields import listed_in
from hypereyes_jax.data.sources.types import BadRow, Row

_LETTERED = re.compile(r"\s*\(?([A-Za-z])[.):]\s*(.*\S)", re.DOTALL)  # "A. red", "(B) blue", "c) lime"
_LETTER = re.compile(r"\(?([A-Za-z])(?:\)|\.|:|\.?\))?")  # "A", "(A)", "A.", "a)"
_LETTERS = re.compile(r"[A-Z](?:[,; ]*[A-Z])+")  # of several options: "AC", "A, C"


def with_options(row: Row, text: str, answers: tuple[str, ...], value: object = None) -> tuple[str, tuple[str, ...]]:
    """The question with its options shown, and the right option's text beside its letter among the accepted answers.

    A question whose answer is no letter or number of an option stays as it is; so does a text that shows the options
    already.

    Args:
      value: the answer as the row has it. A whole number, not one as text, counts the options from 0.

    Raises BadRow for the number of an option that is the text of another one, and for several letters at once.
    """
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    options = options_of(row)
    letter = _letter(options, answers[0]) if number is None else _letter_of_number(options, number)
    if letter is None:
        return text, answers
    if len(answers) > 1 and all(each in options for each in answers):
        raise _several(", ".join(answers))
    if not all(option in text for option in options.values()):
        text = "\n".join((text, *(f"{name}. {option}" for name, option in options.items())))
    return text, (options[letter], letter, *(each for each in answers[1:] if each not in (letter, options[letter])))


def _letter(options: Mapping[str, str], answer: str) -> str | None:
    """The letter of the option that an answer names by its letter; None for one that is an option's text, or none.

    Raises BadRow for several letters.
    """
    if answer in options.values() and answer not in options:
        return None
    if (match := _LETTER.fullmatch(answer)) and (letter := match[1].upper()) in options:
        return letter
    if (match := _LETTERED.fullmatch(answer)) and options.get(match[1].upper()) == match[2]:
        return match[1].upper()
    letters = re.findall("[A-Z]", answer)
    if options and _LETTERS.fullmatch(answer) and len(set(letters)) == len(letters) and set(letters) <= set(options):
        raise _several(answer)
    return None


def _letter_of_number(options: Mapping[str, str], number: int) -> str | None:
    """The letter of the option that a number counts to; None where it counts to none. Raises BadRow."""
    texts = list(options.values())
    if not 0 <= number < len(texts) or texts[number] == str(number):
        return None
    if str(number) in texts:
        raise BadRow(
            "option or number",
            f"its answer {number} is one of its options, and the number of another one, {texts[number]!r}: write the "
            "letter or the text of the right one",
        )
    return list(options)[number]


def _several(answer: str) -> BadRow:
    return BadRow(
        "several options",
        f"its answer {answer!r} is several options at once, of which each would be taken for right: write one answer",
    )


def right_option(options: Mapping[str, str], answer: str) -> str:
    """The letter of the option that an answer names by its letter or its text; "" if it names none, or several."""
    by_text = [letter for letter, text in options.items() if text.casefold() == answer.strip().casefold()]
    if by_text:
        return by_text[0] if len(by_text) == 1 else ""
    try:
        return _letter(options, answer.strip()) or ""
    except BadRow:
        return ""


def lettered_lines(text: str) -> dict[str, str]:
    """Letter -> option of the options that a text shows, one a line from A on; {} if it shows fewer than two."""
    matches = [match for line in text.splitlines() if (match := _LETTERED.fullmatch(line))]
    return _in_order(matches) if len(matches) > 1 else {}


def options_of(row: Row) -> dict[str, str]:
    """Letter -> option: of a list, a text or an object in `options` or `choices`, or of columns A, B, C, ..."""
    for name in row:
        if plain_name(name) not in OPTIONS:
            continue
        value = listed_in(row[name])
        if isinstance(value, str):
            value = value.strip().splitlines()
        if isinstance(value, Mapping) and isinstance(value.get("label"), list) and isinstance(value.get("text"), list):
            return _texts(dict(zip(map(str, value["label"]), value["text"], strict=False)))  # as ARC has them
        if isinstance(value, Mapping):
            return _texts(value)
        if isinstance(value, list | tuple) and len(value) <= len(string.ascii_uppercase):
            return _of_list(value)
    return _texts({name: row[name] for name in string.ascii_uppercase if name in row})


def _of_list(value: list[object] | tuple[object, ...]) -> dict[str, str]:
    for label, text in (("label", "text"), ("key", "value")):
        if value and all(isinstance(option, Mapping) and label in option and text in option for option in value):
            return _texts({str(option[label]): option[text] for option in value})  # type: ignore[index]
    texts = [option for option in value if isinstance(option, str)]
    lettered = [match for option in texts if (match := _LETTERED.fullmatch(option))]
    if lettered and len(lettered) == len(value) and (options := _in_order(lettered)):
        return options
    return _texts(dict(zip(string.ascii_uppercase, value, strict=False)))


def _in_order(lettered: Sequence[re.Match[str]]) -> dict[str, str]:
    """The options behind letters that are the first of the alphabet; {} for others, as initials of names are."""
    options = {match[1].upper(): match[2] for match in lettered}
    return options if sorted(options) == list(string.ascii_uppercase[: len(lettered)]) else {}


def _texts(options: Mapping[str, object]) -> dict[str, str]:
    """The options that are texts; numbers are written out, and gaps left out."""
    options = {name.upper() if len(name) == 1 else name: value for name, value in options.items()}
    texts = {name: str(value).strip() for name, value in options.items() if isinstance(value, str | int | float)}
    return {name: text for name, text in texts.items() if text and text != "nan"}
