"""Reading a verdict out of a model's reply: one word of two, bare, in a sentence, in a field or in JSON."""

from __future__ import annotations

import contextlib
import re
import unicodedata
from dataclasses import dataclass
from typing import Any

from hypereyes_jax.env.web.untrusted import json_objects, json_or_none, parse_json, without_thinking


@dataclass(frozen=True)
class VerdictWords:
    """The two words that a model is to choose from."""

    yes: str
    no: str

    @property
    def values(self) -> dict[str, bool]:
        return {self.yes: True, self.no: False}


CORRECT = VerdictWords("correct", "incorrect")
GROUNDED = VerdictWords("grounded", "ungrounded")

_YES_OR_NO = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}
_LEAD = re.compile(r"\W*(yes|no)\s*[,.;:!—–-]+\s*(?=\w)")  # what it says must agree with the verdict behind it
_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"[.:;!?\n—–→]|->|\b(?:so|therefore|hence|thus)\b")
# Who or what is judged, and how a sentence says so: what may stand in front of a verdict without changing it.
_NEUTRAL = {
    "the", "this", "that", "given", "submitted", "provided", "proposed", "candidate", "model", "final", "response",
    "answer", "reasoning", "it", "s", "is", "was", "verdict", "judgement", "judgment", "grade", "my", "i", "to", "be",
    "judge", "as", "here", "overall", "hence", "therefore", "thus", "so",
}  # fmt: skip
_ASSURED = {  # what may stand besides in front of the word that says yes: of anything else it may be true in part
    "a", "also", "and", "are", "all", "believe", "both", "but", "call", "called", "clearly", "completely", "conclude",
    "consider", "considered", "counts", "deem", "deemed", "definitely", "entirely", "essentially", "every", "exactly",
    "factually", "find", "fully", "generated", "grading", "has", "hereby", "in", "indeed", "judged", "label", "m",
    "mark",
    "must", "obviously", "of", "output", "overall", "part", "parts", "predicted", "prediction", "rate", "re", "result",
    "rule", "rules", "say", "semantically", "should", "still", "student", "substance", "substantively", "substantially",
    "therefore", "they", "think", "totally", "under", "user", "very", "we", "which", "yet",
}  # fmt: skip
_REASON = {"because", "since", "as", "for", "given"}  # what may follow one in its clause
_SUBJECT = {"it", "this", "that", "answer", "response"}
_WEAKENED = {  # "t": of "isn't"; "in", "un", "non": of "in correct"
    "not", "t", "isnt", "wasnt", "aint", "no", "nor", "or", "never", "neither", "none", "nothing", "false", "cannot",
    "hardly", "barely", "partially", "partly", "mostly", "largely", "almost", "nearly", "half", "semi", "quasi",
    "somewhat", "if", "unless", "whether", "would", "could", "might", "may", "perhaps", "maybe", "possibly", "probably",
    "unlikely", "unclear", "unsure", "from", "than", "fails", "fail", "failed", "lacks", "lacking", "anything",
    "without", "zero", "few", "opposite", "likely", "presumably", "arguably", "seemingly", "apparently", "supposedly",
    # the same in languages that a model may fall into
    "nicht", "kein", "keine", "pas", "ne", "non", "não", "nao", "ni", "niet", "geen", "ikke", "inte", "ej", "ei", "nie",
    "nu", "tidak", "bukan", "không", "değil",
}  # fmt: skip
_UNSURE = {"if", "perhaps", "maybe", "possibly", "probably", "unclear", "unsure", "likely", "unlikely", "or"}
_BEFORE = {"in", "un", "non", "semi", "quasi", "pseudo"}  # directly before a verdict they are a part of it
_OPINION = re.compile(r"\bi(?:[’']d| would) (?=say\b|judge\b|grade\b|call\b|consider\b|mark\b|rate\b|deem\b|label\b)")
_TAKEN_BACK = {"however", "wait", "actually", "unless", "although", "though", "except", "but", "partially", "partly"}
# Tags, and marks with which models' templates end a turn where a server does not take them off.
# What is struck out, and what is not ticked of a list: "~~correct~~ incorrect", "[ ] correct [x] incorrect".
_STRIKES = re.compile(
    r"~~[^~\n]{0,200}~~|<(s|del|strike)>[^<]{0,200}</\1>|(?:\[ ?\]|☐|□|⬜)[^\w\n]{0,8}\w+|\[x\]", re.IGNORECASE
)
_EMPHASIS = re.compile(r"</?(?:b|i|em|strong|u|mark|code|span)>", re.IGNORECASE)
_LABELS = "verdict|judge?ment|grade|label|result|decision|rating|conclusion|evaluation|assessment|arguments"
_LABEL = re.compile(rf"(?:final_?)?(?:{_LABELS})", re.IGNORECASE)
_LABEL_WORDS = 5
_ELEMENT = re.compile(rf"<((?:final_?)?(?:{_LABELS}))>([^<]{{1,400}})</\1>", re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z_]{1,32}>|<\|[^<>|\n]{1,40}\|>|\[/?(?:INST|EOS|SEP|PAD)\]|\\(?:boxed|text(?:bf)?)\{")


def read_verdict(text: str, words: VerdictWords = CORRECT) -> bool | None:
    """ "Correct." -> True, "incorrect" -> False, {"correct": false} -> False; None where the reply does not choose.

    Reasoning in <think> is dropped. Where the reply ends with one of the words, that decides, whatever was weighed
    before it ("It is not spelt alike, but means the same. Correct"), unless its own sentence denies or weakens it ("not
    quite correct", "correct or incorrect"), or says yes of something else ("the name is correct"). Where it begins with
    one ("Incorrect", "The answer is incorrect"), nothing after it may speak against it; but behind one that ends its
    sentence, reasons may stand ("Incorrect. The correct answer is Chad, not Niger"). A field decides, too ("correct:
    no").
    """
    plain_text = unicodedata.normalize("NFKC", without_thinking(text))
    plain_text = "".join(char for char in plain_text if unicodedata.category(char) != "Cf")
    start, end = plain_text.find("{"), plain_text.rfind("}")
    for json_text in (re.sub(r"^\s*```\w*|```\s*$", "", plain_text), plain_text[start : end + 1]):
        with contextlib.suppress(ValueError):
            return _json_verdict(parse_json(json_text), words)
    answers = {_json_verdict(value, words) for value in json_objects(plain_text)} - {None}
    if answers:
        return answers.pop() if len(answers) == 1 else None
    if len(elements := _ELEMENT.findall(plain_text)) == 1:
        plain_text = elements[0][1]
    plain_text = _EMPHASIS.sub("", _STRIKES.sub(" ", plain_text))
    field = rf"<((?:is_|was_)?(?:{words.yes}|{words.no}))>\s*(\w{{1,16}})\s*</\1>"
    plain_text = re.sub(field, r"\n\1: \2\n", plain_text, flags=re.IGNORECASE)
    plain_text = _TAG.sub("\n", plain_text).casefold()
    fields = _fields(plain_text, words)
    if fields:
        return fields.pop() if len(fields) == 1 else None
    if _disagree(plain_text, words):
        return None
    plain_text = re.sub(r"\bin (?:large |good )?part\b", "partly", plain_text)
    lead = _LEAD.match(plain_text)
    plain_text = plain_text[lead.end() :] if lead else plain_text
    verdict = _last_word(plain_text, words)
    verdict = _beginning(plain_text, words) if verdict is None else verdict
    return verdict if lead is None or verdict is _YES_OR_NO[lead[1]] else None


def _fields(text: str, words: VerdictWords) -> set[bool]:
    """What lines like "correct: yes" say."""
    values = {**_YES_OR_NO, **words.values}
    line = re.compile(
        rf"^[^\w\n]*(?:is[_ ]|was[_ ])?({words.yes}|{words.no})[^\w\n]*[:=][^\w\n]*({'|'.join(values)})[^\w\n]*$",
        re.MULTILINE,
    )
    return {
        values[value] if value in words.values else values[value] == words.values[name]
        for name, value in line.findall(text)
    }


def _disagree(text: str, words: VerdictWords) -> bool:
    """Whether lines judge several things differently, and none all of them: "name: correct", "year: incorrect"."""
    line = re.compile(rf"^(.{{0,200}}?)\b({words.yes}|{words.no})[^\w\n]*$", re.MULTILINE)
    labels = [
        (label, verdict)
        for label, verdict in line.findall(text)
        if re.search(r"^\W*$|[:|=]\W*$", label) and len(label.split()) <= _LABEL_WORDS
    ]
    of_all = bool(labels) and set(_WORD.findall(labels[-1][0])) <= _NEUTRAL and _WORD.search(labels[-1][0]) is not None
    return len({verdict for _, verdict in labels}) > 1 and not of_all


def _last_word(text: str, words: VerdictWords) -> bool | None:
    """The verdict that a reply ends with."""
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if _WORD.search(sentence)]
    said = _WORD.findall(sentences[-1]) if sentences else []
    if not said or said[-1] not in words.values or re.search(r"\?\W*$", text[-100:]):
        return None
    clause = _WORD.findall(_OPINION.sub("", sentences[-1].rpartition(",")[2]))
    # "It is not, I think, correct": a clause that names nothing belongs to the one before.
    about = clause if _SUBJECT & set(clause) else said
    if _WEAKENED & set(about) or len(words.values.keys() & set(about)) > 1 or not all(map(_is_latin, about)):
        return None
    verdict = words.values[said[-1]]
    if verdict and not set(about[:-1]) <= _NEUTRAL | _ASSURED | {"100"}:
        return None
    before = about[-2] if len(about) > 1 else ""
    counted = re.search(r"\d\s*(?:of|/)\s*\d", sentences[-1]) or (before.isdigit() and before != "100")
    return None if before in _BEFORE or counted else verdict


def _beginning(text: str, words: VerdictWords) -> bool | None:
    """The verdict that a reply begins with, if nothing after it speaks against it."""
    text = re.sub(r"\s-+\s", " – ", text)
    match = re.match(rf"(.*?)\b({words.yes}|{words.no})\b[^\w\n.!?,:;—–→(]*([.!?,:;—–→(\n]?)", text, re.DOTALL)
    if match is None or not set(_WORD.findall(match[1])) <= _NEUTRAL or re.match(r"[^\w\n]*\?", text[match.end(2) :]):
        return None
    verdict, rest = words.values[match[2]], text[match.end() :]
    following = _WORD.search(rest)
    with_reason = following is not None and following.group() in _REASON
    if not match[3] and following is not None and not with_reason:
        return None
    # "but the correct answer is" denies nothing, and "is not correct" says the same as "incorrect".
    rest = re.sub(rf"\b(?:but\s+)?(?:the|a) {words.yes}(?=\s+[a-z])", "", rest)
    rest = re.sub(rf"\b{words.yes}(?=\s+(?:answers?|one|responses?|values?|names?)\b)", "", rest)
    denied = rf"\b(?:not|isn\W?t|wasn\W?t|would (?:only )?be|would have been)(?:\s+\w+)?\s+{words.yes}\b"
    rest = re.sub(denied, words.no, rest)
    against = _TAKEN_BACK | {words.no if verdict else words.yes}
    if match[3] not in (".", "!", "\n") and not with_reason:
        against |= _WEAKENED if verdict else _UNSURE
    return None if against & set(_WORD.findall(rest)) else verdict


def is_weakened(text: str) -> bool:
    """Whether a word of a text denies or weakens what it says."""
    return bool(_WEAKENED & set(_WORD.findall(text.casefold())))


def _is_latin(word: str) -> bool:
    """Whether a word could be of a language whose denials are known here."""
    return all(char.isdigit() or unicodedata.name(char, "").startswith("LATIN") for char in word)


def _json_verdict(value: Any, words: VerdictWords, depth: int = 4) -> bool | None:
    """The verdict of a reply that is JSON: the one that its fields agree on, the names of fields being no verdict."""
    if not depth:
        return None
    if isinstance(value, str):
        return read_verdict(value, words)
    if isinstance(value, list) and len(value) == 1:
        return _json_verdict(value[0], words, depth - 1)
    if not isinstance(value, dict):
        return None
    verdicts = set()
    for name, field_value in value.items():
        about = words.values.get(re.sub(r"^(is|was)_?", "", str(name).lower()))
        if about is not None:
            said = int(field_value) if field_value in (0, 1) else field_value  # also true, false, 1.0
            text = str(said).strip().lower().rstrip(".")
            yes = _YES_OR_NO.get(text, words.values.get(text))
            verdicts.add(None if yes is None else yes == about if text in _YES_OR_NO else yes)
        elif isinstance(field_value, str) and field_value.strip().lower().rstrip(".") in words.values:
            verdicts.add(words.values[field_value.strip().lower().rstrip(".")])
        elif isinstance(field_value, str) and _LABEL.fullmatch(str(name)):  # it may give its reason, or be JSON
            inner = json_or_none(field_value)
            said = field_value if inner is None else inner
            verdicts.add(_json_verdict(said, words, depth - 1))
        elif isinstance(field_value, dict) and (nested := _json_verdict(field_value, words, depth - 1)) is not None:
            verdicts.add(nested)
    return verdicts.pop() if len(verdicts) == 1 else None
