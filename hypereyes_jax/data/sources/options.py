"""Multiple choice: questions whose answer is the letter or number of an option that stands in columns of its own."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from hypereyes_jax.data.sources.columns import OPTION_COLUMN, OPTIONS, plain_name
from hypereyes_jax.data.sources.fields import listed_in
from hypereyes_jax.data.sources.types import BadRow, Row

_LETTERED = re.compile(r"\s*\(?([A-Za-z])[.):]\s*(.*\S)", re.DOTALL)  # "A. red", "(B) blue", "c) lime"
_BEFORE = r"(?:(?:the )?(?:(?:correct|right|final) )?(?:answer|option|choice)(?: is|:)? +)?"  # "The answer is B"
_LETTER = re.compile(rf"(?i:{_BEFORE})\(?([A-Za-z])(?:\)|\.|:|\.?\))?")  # "A", "(A)", "A.", "a)"
_NUMBERED = re.compile(r"\s*\(?(\d{1,2})[.):]\s+(.*\S)", re.DOTALL)  # "1. red", "(2) blue"
_AT_LETTERS = re.compile(r"(?:^|(?<=[\s;,|]))(?=\(?[A-Z][.):]\s*\S)")  # where options begin in "A. red B. blue"
_LABELS = ("label", "key", "id", "letter", "option", "index")  # of an option that is an object, and its text
_TEXTS = ("text", "value", "content", "option_text", "option", "answer")
_LETTERS = re.compile(r"[A-Z](?:[,; ]*[A-Z])+")  # of several options: "AC", "A, C"


def with_options(row: Row, text: str, answers: tuple[str, ...], value: object = None) -> tuple[str, tuple[str, ...]]:
    """The question with its options shown, and the right option's text beside its letter among the accepted answers.

    A question whose answer is the text of an option, or other words, stays as it is; so does a text that shows the
    options already.

    Args:
      value: the answer as the row has it. A whole number, not one as text, counts the options from 0.

    Raises BadRow for the number of an option that is the text of another one, for several letters at once, and for a
    letter or number of no option.
    """
    number = value if isinstance(value, int) and not isinstance(value, bool) else None
    options = options_of(row)
    letter = _letter(options, answers[0]) if number is None else _letter_of_number(options, number)
    if letter is None:
        if _names_none(answers[0], options, given=bool(options) or any(map(_is_filled, _columns(row).values()))):
            raise BadRow(
                "no such option",
                f"its answer {answers[0]!r} names none of its {len(options)} options as they are read"
                ": write the letter or the text of the right one, and options as a list",
            )
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
    if answer in options and answer.isdigit():
        if answer in options.values() and options[answer] != answer:
            raise _number_or_text(answer, options[answer])
        return answer
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
    if str(number) in options:
        return _letter(options, str(number))
    texts = list(options.values())
    if not 0 <= number < len(texts) or texts[number] == str(number):
        return None
    if str(number) in texts:
        raise _number_or_text(str(number), texts[number])
    return list(options)[number]


def _number_or_text(number: str, text: str) -> BadRow:
    why = f"its answer {number} is one of its options, and the number of another one, {text!r}"
    return BadRow("option or number", f"{why}: write the letter or the text of the right one")


def _names_none(answer: str, options: Mapping[str, str], *, given: bool) -> bool:
    """Whether an answer can only be the letter or the number of an option, of which there is none such."""
    if not given or answer in options.values():
        return False
    # 1 may be the first option or the second; -1 is how the answers of a test set are withheld.
    return _LETTER.fullmatch(answer) is not None or answer in {str(i) for i in range(-1, max(len(options), 9) + 1)}


def _is_filled(value: object) -> bool:
    return isinstance(value, list | tuple | Mapping | str) and len(value) > 0 and value != "[]"


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
    """Letter, or number, -> option: of a list, a text or an object in `options` or `choices`, of columns A, B, C, ...
    or of numbered ones (option_a, choice2)."""
    for value in _columns(row).values():
        value = listed_in(value)
        if isinstance(value, str):
            value = _divided(value)
        if isinstance(value, Mapping) and isinstance(value.get("label"), list) and isinstance(value.get("text"), list):
            return _texts(dict(zip(map(str, value["label"]), value["text"], strict=False)))  # as ARC has them
        if isinstance(value, Mapping):
            return _texts(value)
        if isinstance(value, list | tuple) and len(value) <= len(string.ascii_uppercase):
            return _of_list(value)
    lettered = {match[1].upper(): row[name] for name in row if (match := OPTION_COLUMN.fullmatch(plain_name(name)))}
    return _texts(lettered or {name: row[name] for name in string.ascii_uppercase if name in row})


def _columns(row: Row) -> dict[str, object]:
    """The columns that hold all options."""
    return {name: row[name] for name in row if plain_name(name) in OPTIONS}


def _divided(text: str) -> list[str]:
    """The options of a text: one a line, or in one line behind their letters, or between bars or semicolons."""
    lines = text.strip().splitlines()
    if len(lines) != 1:
        return lines
    at_letters = [part.strip(" ;,|\t") for part in _AT_LETTERS.split(lines[0]) if part.strip()]
    if len(at_letters) > 1:
        return at_letters
    mark = next((mark for mark in ("|", ";") if mark in lines[0]), None)
    return [part.strip() for part in lines[0].split(mark)] if mark else lines


def _of_list(value: list[object] | tuple[object, ...]) -> dict[str, str]:
    objects = [option for option in value if isinstance(option, Mapping)]
    if objects and len(objects) == len(value):
        has = [name for name in objects[0] if all(name in option for option in objects)]
        text = next((name for name in _TEXTS if name in has), None)
        label = next((name for name in _LABELS if name in has and name != text), None)
        if text is not None and label is not None:
            return _texts({str(option[label]): option[text] for option in objects})
        return _texts({name: option.get(text) for name, option in zip(string.ascii_uppercase, objects, strict=False)})
    texts = [option for option in value if isinstance(option, str)]
    for mark in (_LETTERED, _NUMBERED):
        marked = [match for option in texts if (match := mark.fullmatch(option))]
        if marked and len(marked) == len(value) and (options := _in_order(marked)):
            return options
    return _texts(dict(zip(string.ascii_uppercase, value, strict=False)))


def _in_order(lettered: Sequence[re.Match[str]]) -> dict[str, str]:
    """The options behind letters that are the first of the alphabet, or numbers from 0 or 1 on; {} for others, as
    initials of names are."""
    options = {match[1].upper(): match[2] for match in lettered}
    count = len(lettered)
    rows = (string.ascii_uppercase[:count], *([str(i) for i in range(first, first + count)] for first in (0, 1)))
    return options if any(list(options) == list(row) or sorted(options) == list(row) for row in rows) else {}


def _texts(options: Mapping[str, object]) -> dict[str, str]:
    """The options that are texts; numbers are written out, and gaps left out."""
    options = {name.upper() if len(name) == 1 else name: value for name, value in options.items()}
    texts = {name: str(value).strip() for name, value in options.items() if isinstance(value, str | int | float)}
    return {name: text for name, text in texts.items() if text and text != "nan"}
