"""Numbers, units and dates as people write them, read so that two ways to write one are equal."""

from __future__ import annotations

import math
import re
import unicodedata
from dataclasses import dataclass, replace

Date = tuple[int | None, int, int | None]  # year, month, day

_ROUNDING = 1e-14  # relative; that of "19.1 million" to binary
_ARTICLES = {"a", "an", "the"}
_HEDGES = {"about", "approximately", "approx", "around", "circa", "ca", "roughly"}
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12, "mn": 1e6, "bn": 1e9}
_SUFFIX = re.compile(r"k(?!\w)|\s?[MB](?!\w)")  # 2k, 2M, 2 B
_SUFFIXES = {"k": 1e3, "M": 1e6, "B": 1e9}
_ERAS = {"bc": "bc", "bce": "bc", "ad": "", "ce": ""}

_GAP = "[\u00a0\u2009\u202f ]"  # between thousands: space, thin space, and those that break no line
_COMMAS = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?"  # 19,100,000.5
_QUOTES = r"\d{1,3}(?:['\u2019]\d{3})+(?![\d'\u2019\"])(?:\.\d+)?"  # 19'100'000.5, of Switzerland
_LAKHS = r"\d{1,2}(?:,\d{2})+,\d{3}(?![,\d])(?:\.\d+)?"  # 1,91,00,000.5, of India
_GAPS = rf"\d{{1,3}}(?:{_GAP}\d{{3}})+(?![.,]?\d)"  # 19 100 000
_DOTS = r"\d{1,3}(?:\.\d{3})+,\d+|\d{1,3}(?:\.\d{3}){2,}"  # 1.234,5 and 19.100.000
_NUMBER = re.compile(
    rf"[-+]?(?:{_LAKHS}|{_QUOTES}|{_COMMAS}|{_GAPS}|{_DOTS}|\d+(?:\.\d+)?)(?:e[-+]?\d{{1,3}})?", re.IGNORECASE
)
_MIXED = re.compile(r"\s*([-+]?)(\d{1,9}) (\d{1,9})\s*/\s*(\d{1,9})\s*")  # 3 1/2
_FRACTION = re.compile(r"\s*([-+]?\d{1,9})\s*/\s*(\d{1,9})\s*")
_POWER = re.compile(r"(?<=\d)\s*[×x*]\s*10\s*\^?\s*(?=[-+]?\d)")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")

_BOUNDS = {"<": "less than ", ">": "more than "}
_BOUNDS |= dict.fromkeys(("≤", "<=", "≤="), "at most ") | dict.fromkeys(("≥", ">=", "≥="), "at least ")

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
_ONES += "seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: number for number, word in enumerate(_ONES.split())}
_WORDS |= dict(zip(_TENS.split(), range(20, 100, 10), strict=True)) | {"hundred": 100}
_ANY_WORD = "|".join(_WORDS)
_SPELT = re.compile(rf"\b(?:{_ANY_WORD})(?:(?:-| | and )(?:{_ANY_WORD}))*\b", re.IGNORECASE)
_ORDINAL_WORDS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
_ORDINALS = [*_ORDINAL_WORDS.split(), *(f"{word}th" for word in _ONES.split()[14:]), "twentieth"]
_ORDINAL = re.compile(rf"^\W*(?:the )?({'|'.join(_ORDINALS)})\b", re.IGNORECASE)

_MONTHS = "january february march april may june july august september october november december".split()
_MONTH = {name[:length]: number for number, name in enumerate(_MONTHS, 1) for length in (3, 4, len(name))}
_OF_EAST_ASIA = re.compile(r"\s*([0-9]{4})\s?[年년]\s?([0-9]{1,2})\s?[月월](?:\s?([0-9]{1,2})\s?[日일])?\W*")
_MIDNIGHT = re.compile(r"(?<=\d)[T ]00:00(?::00(?:\.0+)?)?(?:Z|\+00:00)?\s*$")  # of a day that a table holds as a time
_WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday".split()

# The names of a unit, and how much of the first unit of its kind one of it is, where that is exact.
_UNITS: dict[str, tuple[str, float]] = {
    name: (kind, factor)
    for kind, factor, names in (
        ("metre", 1.0, "m metre metres meter meters"),
        ("metre", 1e3, "km kilometre kilometres kilometer kilometers"),
        ("metre", 1e-2, "cm centimetre centimetres centimeter centimeters"),
        ("metre", 1e-3, "mm millimetre millimetres millimeter millimeters"),
        ("foot", 1.0, "ft foot feet"),
        ("mile", 1.0, "mi mile miles"),
        ("square metre", 1.0, "squaremetre"),
        ("square metre", 1e6, "squarekilometre"),
        ("square mile", 1.0, "squaremile"),
        ("cubic metre", 1.0, "cubicmetre"),
        ("hectare", 1.0, "ha hectare hectares"),
        ("gram", 1.0, "g gram grams gramme grammes"),
        ("gram", 1e3, "kg kilogram kilograms kilogramme kilogrammes"),
        ("gram", 1e6, "tonne tonnes"),
        ("litre", 1.0, "l litre litres liter liters"),
        ("second", 1.0, "s sec secs second seconds"),
        ("second", 60.0, "min mins minute minutes"),
        ("second", 3600.0, "h hr hrs hour hours"),
        ("kilometre per hour", 1.0, "kilometrehour"),
        ("mile per hour", 1.0, "mph"),
        ("celsius", 1.0, "celsius"),
        ("fahrenheit", 1.0, "fahrenheit"),
        ("percent", 1.0, "percent"),
        ("dollar", 1.0, "dollar dollars usd"),
        ("euro", 1.0, "euro euros eur"),
        ("pound", 1.0, "pound pounds gbp"),
        ("yen", 1.0, "yen jpy"),
    )
    for name in names.split()
}
_CURRENCIES = {"dollar", "euro", "pound", "yen"}
# Signs, and units in several words, as one of the names above.
_SPELLINGS = [
    (re.compile(pattern, re.IGNORECASE), f" {name} ")
    for pattern, name in (
        (r"%|\bper cent\b", "percent"),
        (r"\b(?:sq\.?|square) ?(?:km|kilomet(?:re|er)s?)\b|\bkm ?\^?[2²](?!\w)", "squarekilometre"),
        (r"\b(?:sq\.?|square) ?(?:m|met(?:re|er)s?)\b|\bm ?\^?[2²](?!\w)", "squaremetre"),
        (r"\b(?:sq\.?|square) ?(?:mi|miles?)\b|\bmi ?\^?[2²](?!\w)", "squaremile"),
        (r"\bcubic met(?:re|er)s?\b|\bm ?\^?[3³](?!\w)", "cubicmetre"),
        (r"(?:°|\bdegrees?) ?c(?:elsius)?\b|℃", "celsius"),
        (r"(?:°|\bdegrees?) ?f(?:ahrenheit)?\b|℉", "fahrenheit"),
        (r"\bkm ?/ ?h\b|\bkmh\b|\bkph\b|\bkilomet(?:re|er)s? (?:per|an) hour\b", "kilometrehour"),
        (r"\bmiles? (?:per|an) hour\b", "mph"),
        (r"\bus ?\$|\bu\.s\. ?\$|(?<!\w)\$|\bus dollars?\b", "dollar"),
        ("€", "euro"),
        ("£|\\bpounds? sterling\\b", "pound"),
        ("¥", "yen"),
    )
]


@dataclass(frozen=True)
class Number:
    """A number of a text with the words around it."""

    value: float
    before: str  # normalised words in front, hedges such as "about" removed
    unit: str  # normalised words behind, the scale word removed; a unit that is known by its one name
    factor: float = 1.0  # how much of the first unit of its kind one of the unit is: 1000 for kilometres
    may_lack_unit: bool = True  # whether the number without its unit means the same
    digits: int | None = None  # a whole number as it is written, of which a float holds 15 or 16 digits


def normalise(text: str) -> str:
    """Case, accents, punctuation, articles and spacing removed."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    letters = "".join(c if c.isalnum() else " " for c in decomposed if not unicodedata.combining(c))
    words = letters.split()
    return " ".join(word for word in words if word not in _ARTICLES) or " ".join(words)


def read_number(text: str) -> Number | None:
    """A text with exactly one number in it; None for any other. "19.1 million people" -> 19100000.0, "", "people".

    The number may be in words ("twenty-one"), a fraction ("½", "1/2") or a power of ten, in digits of any script, and
    with any of the usual marks between its thousands.
    """
    text = re.sub(r"^\s*(?:minus|negative) (?=\d)", "-", _in_digits(plain_signs(text)), flags=re.IGNORECASE)
    text = re.sub(r"^\s*c\.\s?(?=\d)", "", text)  # circa
    mixed = _MIXED.fullmatch(text)
    if mixed is not None and int(mixed[4]):
        return Number(float(f"{mixed[1]}1") * (int(mixed[2]) + int(mixed[3]) / int(mixed[4])), "", "")
    fraction = _FRACTION.fullmatch(text)
    if fraction is not None and int(fraction[2]):
        return Number(int(fraction[1]) / int(fraction[2]), "", "")
    for pattern, name in _SPELLINGS:
        text = pattern.sub(name, text)
    numbers = list(_NUMBER.finditer(text))
    if len(numbers) != 1:
        return None
    value = _value(numbers[0].group())
    if not math.isfinite(value):  # beyond float64: only the same digits are equal
        return None
    number = _with_unit(value, text[: numbers[0].start()], text[numbers[0].end() :])
    plain = _plain(numbers[0].group())
    return (
        replace(number, digits=int(plain))
        if re.fullmatch(r"[-+]?\d{1,400}", plain) and number.value == value
        else number
    )


def _with_unit(value: float, before: str, after: str) -> Number:
    after = re.sub(r"^(?:st|nd|rd|th)\b", "", after)
    suffix = _SUFFIX.match(after)
    if suffix is not None:
        value, after = value * _SUFFIXES[suffix.group().strip()], after[suffix.end() :]
    words = normalise(after).split()
    if words and words[0] in _SCALES:
        value *= _SCALES[words.pop(0)]
    front = " ".join(word for word in normalise(before).split() if word not in _HEDGES | _ARTICLES)
    if not words and front in _UNITS and _UNITS[front][0] in _CURRENCIES:
        return Number(value, "", _UNITS[front][0])
    if words == ["s"] and after[:1] == "s" and value >= 1000:  # the 1960s are not seconds
        return Number(value, front, "decade", may_lack_unit=False)
    if not words and front in _ERAS:
        return Number(value, "", _ERAS[front], may_lack_unit=False)
    if len(words) == 1 and words[0] in _ERAS:
        return Number(value, front, _ERAS[words[0]], may_lack_unit=False)
    if len(words) == 1 and words[0] in _UNITS:
        unit, factor = _UNITS[words[0]]
        return Number(value, front, unit, factor, may_lack_unit=not front)  # "iPhone 5s" is a name
    # "45 countries" may be 45; "2001: A Space Odyssey", "5 of hearts", "747 Jumbo" and "iPhone 6 Plus" are names.
    usual = not words or (
        not front and len(words) == 1 and re.search(r"^[\s-]*[a-z]+\W*$", after.removeprefix(" ")) is not None
    )
    scaled = bool(words) and any(scale in after.split()[:1] for scale in _SCALES)
    return Number(value, front, " ".join(words), may_lack_unit=usual or (scaled and len(words) == 1))


def same_number(a: Number, b: Number, tolerance: float) -> bool:
    """Whether two numbers mean the same, to a relative `tolerance`; a unit may be left out where it is usual."""
    if a.before != b.before:
        return False
    one, other = a.value, b.value
    if a.unit == b.unit:
        one, other = one * a.factor, other * b.factor
    elif not (not a.unit and b.may_lack_unit) and not (not b.unit and a.may_lack_unit):
        return False
    if not tolerance and a.factor == b.factor and a.digits is not None and b.digits is not None:
        return a.digits == b.digits  # of numbers of books and telephones each digit counts
    return abs(one - other) <= max(tolerance, _ROUNDING) * abs(other)


def read_date(text: str) -> Date | None:
    """A text that is one date in any order that leaves no doubt; None for any other, as 5/6/2020 may be two.

    "12 March 2020", "March 12th, 2020", "2020-03-12", "12.03.2020" (with dots the day is first) and "2020年3月12日" ->
    (2020, 3, 12); so are 13/3/2020 and 3/13/2020, as no month has the number 13. "March 2020" -> (2020, 3, None).
    """
    text = _MIDNIGHT.sub("", text)
    numeric = re.fullmatch(r"\s*([0-9]{4})([-/.])([0-9]{1,2})\2([0-9]{1,2})\W*", text) or _OF_EAST_ASIA.fullmatch(text)
    if numeric is not None:
        year, month, *day = (int(part) for part in numeric.groups() if part is not None and part.isdigit())
        return _date(year, month, day[0] if day else None)
    numeric = re.fullmatch(r"\s*([0-9]{1,2})([-/.])([0-9]{1,2})\2([0-9]{4})\W*", text)
    if numeric is not None:
        first, second, year = int(numeric[1]), int(numeric[3]), int(numeric[4])
        dates = {_date(year, second, first)} | ({_date(year, first, second)} if numeric[2] != "." else set())
        dates.discard(None)
        return dates.pop() if len(dates) == 1 else None
    words = normalise(re.sub(r"(?<=[0-9])(?:st|nd|rd|th)\b", "", text)).split()
    words = [word for word in words if word not in (*_WEEKDAYS, "of", "on", "in")]
    months = [word for word in words if word in _MONTH]
    numbers = [word for word in words if re.fullmatch(r"[0-9]{1,2}|[0-9]{4}", word)]
    years = [int(number) for number in numbers if len(number) == 4]
    days = [int(number) for number in numbers if len(number) < 4]
    if len(months) != 1 or len(words) != 1 + len(numbers) or not numbers or len(years) > 1 or len(days) > 1:
        return None
    return _date(years[0] if years else None, _MONTH[months[0]], days[0] if days else None)


def _date(year: int | None, month: int, day: int | None) -> Date | None:
    return (year, month, day) if 1 <= month <= 12 and (day is None or 1 <= day <= 31) else None


def plain_signs(text: str) -> str:
    """Minus signs, ranges, digits of any script, fractions and powers of ten in ASCII."""
    text = re.sub(r"(?<=10)[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda match: "^" + match.group().translate(_SUPERSCRIPTS), text)
    text = re.sub(r"(?<![\w.])[\u2212\u2010-\u2014\ufe63\uff0d]\s?(?=\d)", "-", text)
    text = re.sub(r"(?<=\d)\s?[-\u2010-\u2015\u2212]\s?(?=\d)", " to ", text)  # "5–10" is a range
    text = re.sub(r"[~≈∼]\s?(?=[-$€£¥]?\d)", "", text).replace("\u2044", "/")
    text = re.sub(r"([<>≤≥]=?)\s?(?=[-$€£¥]?\d)", lambda match: _BOUNDS[match[1]], text)
    characters: list[str] = []
    for char in text:
        digit = None if char.isascii() else unicodedata.decimal(char, None)
        part = unicodedata.numeric(char, 0.0) if not char.isascii() and digit is None else 0.0
        if digit is not None:
            char = str(digit)
        elif 0 < part < 1:
            char = f"{part:.12g}"[characters[-1:] != [] and characters[-1].isdigit() :]  # 3½ is 3.5
        characters.append(char)
    return _POWER.sub("e", "".join(characters))


def _in_digits(text: str) -> str:
    """A text without digits with its numbers in words as digits, and the ordinal that it begins with."""
    if any(char.isdigit() for char in text):
        return text
    text = re.sub(r"\b(?:a|one) (?=(?:thousand|[mbtr]+illion)\b)", "1 ", text, flags=re.IGNORECASE)
    text = _ORDINAL.sub(lambda match: str(_ORDINALS.index(match[1].lower()) + 1), text)
    return _SPELT.sub(_spelt, text)


def _spelt(match: re.Match[str]) -> str:
    value = 0
    for word in re.findall(r"[a-z]+", match.group().lower()):
        number = _WORDS.get(word, -1)
        if word == "hundred" and value < 10:
            value = (value or 1) * 100
        elif word != "and" and (
            (value % 100 == 0 and word != "hundred") or (value % 10 == 0 and value % 100 >= 20 and 0 < number < 10)
        ):
            value += number
        elif word != "and":
            return match.group()  # "one two" is not a number
    return str(value)


def _value(written: str) -> float:
    return float(_plain(written))


def _plain(written: str) -> str:
    """A number without the marks between its thousands, and with a dot for the decimals."""
    if re.fullmatch(rf"[-+]?(?:{_DOTS})", written):
        written = written.replace(".", "").replace(",", ".")
    return re.sub(rf"{_GAP}|[,'\u2019]", "", written)
