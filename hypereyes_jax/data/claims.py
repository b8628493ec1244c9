"""What a text claims: the names and the numbers in it, and whether a body of evidence holds them.

Names are runs of capitalised words, numbers are compared by value. This is a heuristic for English and other languages
of the Latin, Greek and Cyrillic scripts, whose names are capitalised; of a script without capitals only the numbers
are read.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(r"[^\W_]+(?:['’.&-][^\W_]+)*")
_SENTENCE_END = re.compile(r"[.!?:;\n\r•|]\s*[\"'“«(]*\s*$")
# A letter in front makes it part of a name ("img_0"), but not a Chinese one: "高604米".
_NUMBER = re.compile(r"(?<![A-Za-z0-9_.,])(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?\s*(%|[A-Za-z]+)?")
# Not "m": 154 m are metres.
_SCALES = {
    "hundred": 1e2,
    "thousand": 1e3,
    "k": 1e3,
    "million": 1e6,
    "mn": 1e6,
    "billion": 1e9,
    "bn": 1e9,
    "trillion": 1e12,
}
# Within a name, between two capitalised words: "University of Oslo", "Ludwig van Beethoven".
_PARTICLES = frozenset("of the de da di du del la le van von der den al bin ibn".split())
# Words that say nothing of what a text is about; capitalised, they begin a sentence or are a pronoun.
STOPWORDS = frozenset(
    """a about above according across after again all also although am among an and any are as at be because been before
    being between both but by can could did do does each either else end enough even every few final finally find first
    for from further gave get give given gives had has have having he hence her here hers him his how however i if
    image images in indeed information into is it its itself just last least let lies like look looking looks may me
    might more most much must my need needed neither next no none nor not nothing now of off on once one only or other
    others our out over per photo picture pictures please question read reads result results same says search searched
    searching see seen shall she should show shown shows since so some still such than that the their them then there
    therefore these they this those three through thus to too top two under until up us use used was we were what when
    where whereas whether which while who whom whose why will with within without would yes yet you your
    answer know left right bottom middle row column corner second third fourth""".split()
)
_CALENDAR = frozenset(
    """january february march april may june july august september october november december jan feb mar apr jun jul
    aug sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday""".split()
)
# A sentence with one of these proposes; it does not claim.
_HEDGE = re.compile(
    r"\b(?:might|maybe|perhaps|possibly|probably|presumably|could be|may be|looks? like|appears?|seems?|guess|suspect|"
    r"likely|unsure|not sure|let me|let's|i(?:'| wi)ll|i (?:need|want|should|will|plan)|we (?:need|should)|if)\b|\?",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"“'])|\n+")
_BRACKETED = re.compile(r"\[[^\]]*\]")  # boxes: coordinates are not facts
_SMALLEST_CLAIM = 10  # smaller whole numbers count the things in the picture
_TOLERANCE = 0.005  # relative, of numbers that are rounded in running text
_MOST_COMBINED = 12  # numbers that a sum may be made of
_YEARS = range(1000, 2101)
# Feet, miles, inches, pounds, seconds to years: factors between units that a number may be multiplied or divided by.
_CONVERSIONS = (3.28084, 1.60934, 2.54, 2.20462, 1.8, 60.0, 3600.0, 24.0, 7.0, 12.0, 365.0, 1000.0)
_PREFIX = 5  # letters that two forms of a word share: "Iceland", "Icelandic"


@dataclass(frozen=True)
class Figure:
    """A number in a text."""

    value: float
    rounded: bool  # has decimals or a scale word, so that it may stand for a longer number


@dataclass(frozen=True)
class Claims:
    """The names and figures that a text states."""

    names: tuple[str, ...]
    figures: tuple[Figure, ...]


def fold(text: str) -> str:
    """Lower case without accents."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(char for char in decomposed if not unicodedata.combining(char))


def content_words(text: str) -> list[str]:
    """The words that say what a text is about: folded, without stopwords and possessive endings."""
    words = (_bare(token) for token in _TOKEN.findall(text))
    return [word for word in words if word not in STOPWORDS and (len(word) > 1 or word.isdigit())]


def names(text: str) -> list[str]:
    """Runs of capitalised words, as they are written, without leading stopwords.

    A single capitalised word at the start of a sentence is left out: nothing tells a name from a common word there.
    """
    result: list[str] = []
    run: list[str] = []
    starts = False  # whether the run began where a sentence begins
    end = 0
    for match in _TOKEN.finditer(text):
        token, gap = match.group(), text[end : match.start()]
        joined = bool(run) and not gap.strip(" -")
        if not joined:
            _close(run, starts, result)
            run = []
        if token[0].isupper():
            if not run:
                starts = match.start() == 0 or bool(_SENTENCE_END.search(text[: match.start()]))
            run.append(token)
        elif not (run and token in _PARTICLES):
            _close(run, starts, result)
            run = []
        else:
            run.append(token)
        end = match.end()
    _close(run, starts, result)
    return result


def figures(text: str) -> list[Figure]:
    """The numbers in a text: "19.1 million" is 19,100,000. Coordinates in square brackets are left out."""
    result = []
    for match in _NUMBER.finditer(_BRACKETED.sub(" ", text)):
        whole, decimals, unit = match.groups()
        scale = _SCALES.get((unit or "").lower(), 1.0)
        result.append(Figure(float(whole.replace(",", "") + (decimals or "")) * scale, bool(decimals) or scale > 1))
    return result


def claims(text: str, *, hedged: bool = True) -> Claims:
    """The names and numbers that a text asserts.

    Args:
      hedged: leave out the sentences that propose, ask or plan ("it might be a heron", "let me search for Oslo").
    """
    sentences = [s for s in _SENTENCE.split(text) if s.strip() and not (hedged and _HEDGE.search(s))]
    whole_text = " ".join(sentences)
    proper_names = [name for name in names(whole_text) if not set(fold(name).split()) <= _CALENDAR]
    numbers = [f for f in figures(whole_text) if f.rounded or f.value >= _SMALLEST_CLAIM]
    return Claims(tuple(dict.fromkeys(proper_names)), tuple(dict.fromkeys(numbers)))


@dataclass
class Evidence:
    """Texts that claims are compared with."""

    words: set[str] = field(default_factory=set)
    stems: set[str] = field(default_factory=set)
    figures: list[Figure] = field(default_factory=list)

    @classmethod
    def of(cls, texts: Iterable[str]) -> Evidence:
        evidence = cls()
        for text in texts:
            words = {_bare(token) for token in _TOKEN.findall(text)}
            words |= {part for word in words for part in re.split(r"[.&'’-]", word) if part}
            evidence.words |= words
            evidence.stems |= {word[:_PREFIX] for word in words if len(word) >= _PREFIX}
            evidence.figures += figures(text)
        return evidence

    def has_word(self, word: str) -> bool:
        """Whether the word stands in the evidence, in this form or another one of the same stem."""
        return word in self.words or (len(word) >= _PREFIX and word[:_PREFIX] in self.stems)

    def has_name(self, name: str) -> bool:
        """Whether most words of a name stand in the evidence; of two words, the last one decides."""
        words = [part for word in _name_words(name) for part in re.split(r"[.&'’-]", word) if part]
        if not words:
            return True
        present = [self.has_word(word) for word in words]
        return 2 * sum(present) > len(present) or (2 * sum(present) == len(present) and present[-1])

    def has_figure(self, figure: Figure) -> bool:
        return any(same_figure(figure, other) for other in self.figures)


def same_figure(one: Figure, other: Figure) -> bool:
    """Whether two numbers can stand for the same: equal, or one of them rounded within half a percent of the other."""
    if one.value == other.value:
        return True
    large = min(one.value, other.value) >= 10_000  # "19,100,000" may be said as "19,123,456"; a year may not
    close = abs(one.value - other.value) <= _TOLERANCE * max(one.value, other.value)
    return close and (one.rounded or other.rounded or large)


def derivable(figure: Figure, others: Sequence[Figure]) -> bool:
    """Whether a number follows from the numbers given: a sum of some, a count, a mean, or of two the difference,
    product, ratio or percentage."""
    values = list(dict.fromkeys(each.value for each in others))[:_MOST_COMBINED]
    first_values = [each.value for each in others][:_MOST_COMBINED]
    targets = itertools.chain(_sums(first_values), _of_two(values), _converted(values), (float(len(first_values)),))
    # A quotient is written with a few digits: half a percent, or half of the last digit of a whole number.
    slack = max(_TOLERANCE * abs(figure.value), 0.0 if figure.rounded else 1e-9)
    return any(abs(target - figure.value) <= slack for target in targets)


def _sums(values: Sequence[float]) -> Iterable[float]:
    for count in range(2, len(values) + 1):
        for group in itertools.combinations(values, count):
            yield sum(group)
            if count == len(values):
                yield sum(group) / count


def _of_two(values: Sequence[float]) -> Iterable[float]:
    for a, b in itertools.permutations(values, 2):
        yield a - b
        if a in _YEARS and b in _YEARS:
            yield a - b - 1  # an age before the birthday
        yield a * b
        if b:
            yield a / b
            yield 100 * a / b
            yield 100 * (a - b) / b
        yield (a + b) / 2


def _converted(values: Sequence[float]) -> Iterable[float]:
    for value in values:
        for factor in _CONVERSIONS:
            yield value * factor
            yield value / factor


def is_conversion(figure: Figure) -> bool:
    """Whether a number is a factor between two units, as it is usually rounded: 3.28 feet a metre."""
    factors = [factor for each in _CONVERSIONS for factor in (each, 1 / each)]
    return figure.rounded and any(abs(figure.value - factor) <= _TOLERANCE * factor for factor in factors)


def _bare(token: str) -> str:
    return re.sub(r"['’]s?$", "", fold(token))


def _name_words(name: str) -> list[str]:
    return [word for word in (_bare(token) for token in _TOKEN.findall(name)) if word not in _PARTICLES | STOPWORDS]


def _close(run: list[str], starts: bool, result: list[str]) -> None:
    """Files a finished run of words as a name, if it is one."""
    words = list(run)
    while words and words[-1] in _PARTICLES:
        words.pop()
    while words and _bare(words[0]) in STOPWORDS | _PARTICLES:
        words.pop(0)
        starts = False
    if not words or (len(words) == 1 and (starts or len(words[0]) < 2)):
        return
    result.append(" ".join(words))
