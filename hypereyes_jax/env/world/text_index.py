"""Text search: BM25 over key-facts cards and, in the real world, passages.

A hit's score is its BM25 score over the best that a card could reach for the query, so it lies in [0, 1] and says how
much of the query is answered; words of the query that occur nowhere count against it. That gives a fixed threshold (the
paper keeps text results of at least 0.6, arXiv 2605.07177) a meaning. What a hit shows is the part of the document that
the query is about, not the whole of it.
"""

from __future__ import annotations

import builtins
import importlib.util
import logging
import re
import sys
import threading
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

import numpy as np

from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.world.cards import card
from hypereyes_jax.env.world.types import Country, Passage
from hypereyes_jax.errors import UserError

SNIPPET_WORDS = 25

# Saturation and length weight of BM25. Documents here are two kinds of known length: length says little of relevance.
_K1, _B = 1.5, 0.3
# How often a term is written into a card's index text. The subject outweighs a value, and a value outweighs a mention
# in a list of borders; with _K1 = 1.5 a lone mention reaches 0.55 of a subject's weight, just below the threshold.
_SUBJECT, _VALUE, _MENTION = 4, 3, 1
# A word that occurs in no document counts as rare, but not as rare as a name: questions are full of idle words.
_UNKNOWN = 0.5

# What a card tells, the card should answer: for such a query passages stay below the threshold.
_CARD_FIRST = 0.7

# What people call each attribute. Indexed with every card, so asking in other words costs nothing.
SYNONYMS = {
    "capital": "capital capitals city seat government",
    "region": "region regions continent located location where part world",
    "population": "population populous people inhabitants many live size demographics residents",
    "area": "area size large big land surface square kilometers km territory",
    "currency": "currency currencies money legal tender used uses use pay",
    "language": "official language languages spoken speak speaks tongue",
    "borders": "borders border bordering bordered neighbours neighbors neighbouring neighboring neighbour neighbor "
    "adjacent next countries share land boundary boundaries",
    "independence": "independence independent year date gained become became when from since",
}
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at by do does for has have how in is it its me much of on or tell that the their there this "
        "to total "
        "was what whats which who with country nation state facts key number name current latest about list all",
    )
)


_IMPORTING = threading.Lock()


@lru_cache(maxsize=1)
def _bm25s() -> ModuleType:
    """bm25s, kept from importing jax: it would start jax's default backend in a process that has no use for it.

    Only one module of it tries, and falls back on numpy. That one is run first, with an `import` of its own that has
    never heard of jax; `sys.modules` is left alone, because another thread may just be importing jax in earnest.

    Raises UserError if the package is not installed.
    """

    def no_jax(name: str, *rest: Any) -> ModuleType:
        if name.partition(".")[0] == "jax":
            raise ImportError("bm25s is to select with numpy")
        return builtins.__import__(name, *rest)

    name = "bm25s.selection"
    try:
        with _IMPORTING:
            if name not in sys.modules and (package := importlib.util.find_spec("bm25s")) is not None:
                spec = PathFinder.find_spec(name, package.submodule_search_locations)
                assert spec is not None
                assert spec.loader is not None
                selection = importlib.util.module_from_spec(spec)
                selection.__dict__["__builtins__"] = vars(builtins) | {"__import__": no_jax}
                spec.loader.exec_module(selection)
                sys.modules[name] = selection
            import bm25s
    except ModuleNotFoundError as error:
        raise UserError(
            f"the package {error.name} is missing, which text search needs. Install it: pip install {error.name}"
        ) from error
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
    return bm25s


def words(text: str) -> list[str]:
    """Lower-case words and numbers, letters folded to ASCII, possessives dropped."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).encode("ascii", "ignore").decode()
    return re.findall(r"[a-z0-9]+", re.sub(r"'s\b|'", "", text.lower()))


def terms(text: str) -> list[str]:
    """The words of a text that are searched by, in their order."""
    return [word for word in words(text) if word not in _STOP]


_ATTRIBUTE_OF_WORD: Mapping[str, tuple[str, ...]] = {
    word: tuple(name for name, text in SYNONYMS.items() if word in text.split())
    for word in set(" ".join(SYNONYMS.values()).split())
}


class TextIndex:
    """An index over one world's cards and passages. Thread-safe: a search only reads."""

    def __init__(self, countries: Sequence[Country], passages: Sequence[Passage] = ()):
        self._cards = tuple(countries)
        self._passages = tuple(passages)
        self._phrases = {
            tuple(words(name)): country for country in reversed(countries) for name in reversed(country.names)
        }
        self._longest = max((len(phrase) for phrase in self._phrases), default=1)
        # On cards alone the words for attributes stand everywhere and weigh nothing; without them a world is cheap.
        self._silent = frozenset() if passages else frozenset(_ATTRIBUTE_OF_WORD)
        self._names = {country.key: country.name for country in countries}
        documents = [self._card_terms(country) for country in countries]
        documents += [self._passage_terms(passage) for passage in passages]
        self._vocabulary: dict[str, int] = {}
        ids = [[self._vocabulary.setdefault(t, len(self._vocabulary)) for t in document] for document in documents]
        frequency = np.zeros(len(self._vocabulary))
        for document in ids:
            frequency[list(set(document))] += 1
        self._idf = np.log1p((len(ids) - frequency + 0.5) / (frequency + 0.5))
        self._unknown_idf = _UNKNOWN * float(np.log1p((len(ids) + 0.5) / 0.5))
        bm25s = _bm25s()
        self._index = bm25s.BM25(k1=_K1, b=_B, method="lucene", backend="numpy")
        self._index.index((ids, self._vocabulary), show_progress=False)

    def _card_terms(self, country: Country) -> list[str]:
        out = [f"={country.key}", *(t for name in country.names[:1] for t in terms(name))] * _SUBJECT
        for attribute, fact in country.facts.items():
            out += terms(fact) * (_MENTION if attribute == "borders" else _VALUE)
        if self._silent:
            return [term for term in out if term not in self._silent]
        return out + _SYNONYM_TERMS * _SUBJECT

    def _passage_terms(self, passage: Passage) -> list[str]:
        return [f"={passage.key}", *terms(passage.section), *terms(passage.text)]

    def _query_terms(self, query: str) -> list[str]:
        """The query's words, once each; a country's name, in any of its spellings, becomes the name on its card."""
        query_words, out, at = words(query), [], 0
        while at < len(query_words):
            for length in range(min(self._longest, len(query_words) - at), 0, -1):
                country = self._phrases.get(tuple(query_words[at : at + length]))
                if country is not None:
                    out += [f"={country.key}", *terms(country.name)]
                    at += length
                    break
            else:
                if query_words[at] not in _STOP:
                    out.append(query_words[at])
                at += 1
        return list(dict.fromkeys(out))

    def search(self, query: str, k: int) -> list[SearchHit]:
        """The k best documents with a positive score, best first."""
        terms = self._query_terms(query)
        weighed = [term for term in terms if term not in self._silent]
        term_ids = [self._vocabulary[term] for term in weighed if term in self._vocabulary]
        if not term_ids or k <= 0:
            return []
        scores = self._index.get_scores_from_ids(term_ids)
        if any(term in _ATTRIBUTE_OF_WORD for term in terms):
            scores[len(self._cards) :] *= _CARD_FIRST
        best = float(self._idf[term_ids].sum()) * _SUBJECT / (_SUBJECT + _K1)
        best += (len(weighed) - len(term_ids)) * self._unknown_idf * _SUBJECT / (_SUBJECT + _K1)
        top = np.argsort(-scores, kind="stable")[:k]
        return [self._hit(int(i), terms, min(1.0, float(scores[i]) / best)) for i in top if scores[i] > 0]

    def _hit(self, number: int, terms: Sequence[str], score: float) -> SearchHit:
        if number < len(self._cards):
            country = self._cards[number]
            return SearchHit(country.name, card_snippet(country, terms), round(score, 4), f"world://{country.key}")
        passage = self._passages[number - len(self._cards)]
        title = f"{self._names[passage.key]}: {passage.section}"
        return SearchHit(title, passage_snippet(passage.text, terms), round(score, 4), f"world://{passage.key}#text")


_SYNONYM_TERMS = sorted({term for text in SYNONYMS.values() for term in terms(text)})


def card_snippet(country: Country, terms: Iterable[str]) -> str:
    """The one or two sentences of the card that the query is about; its first two if the query names no fact."""
    terms = set(terms)
    subject = set(words(country.name))
    ranking = []
    for place, (attribute, text) in enumerate(card(country)):
        matches = sum(1 / len(_ATTRIBUTE_OF_WORD[w]) for w in terms if attribute in _ATTRIBUTE_OF_WORD.get(w, ()))
        score = len((terms - subject).intersection(words(country.facts[attribute])))
        ranking.append((-(matches + 0.5 * score), place, text))
    ranking.sort()
    best = -ranking[0][0]
    # A second sentence only if the query asks for it as clearly as for the first.
    entries = [entry for entry in ranking[:2] if best > 0 and -entry[0] >= max(0.8 * best, 0.5)] or ranking[:2]
    return " ".join(text for _, _, text in sorted(entries, key=lambda entry: entry[1]))


def passage_snippet(text: str, terms: Iterable[str]) -> str:
    """The sentence of the passage with the most words of the query, cut to SNIPPET_WORDS."""
    terms = set(terms)
    sentences = re.split(r"(?<=[.;])\s+", text)
    best = max(sentences, key=lambda sentence: len(terms.intersection(words(sentence))))
    snippet = best.split()
    return " ".join(snippet[:SNIPPET_WORDS]) + (" ..." if len(snippet) > SNIPPET_WORDS else "")
