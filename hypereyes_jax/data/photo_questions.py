"""Questions over mosaics of real photos, from templates: what writes them where there is no language model.

A question never names what is shown; it says where it is. Its answer follows from the knowledge base by a plan.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hypereyes_jax.data.knowledge import NUMBER, TEXT, KnowledgeEntry
from hypereyes_jax.data.mosaics import places
from hypereyes_jax.data.photo_mosaics import PhotoMosaic, draw_photo_mosaic, layout_of
from hypereyes_jax.data.photo_plans import (
    EachInTurn,
    Extreme,
    FactPlan,
    OnlyOne,
    Ranking,
    Shared,
    Total,
    superfluous,
)
from hypereyes_jax.data.photos import Photo, PhotoSet
from hypereyes_jax.env.judging.judges import normalise
from hypereyes_jax.env.types import Question
from hypereyes_jax.errors import SettingError, UserError

COUNTS = (2, 3, 4, 6, 8)  # photos a mosaic, as the paper's layouts hold
_MARGIN = 1.1  # between numbers that are compared: pages differ by some percent
_YEARS = ("described", "introduced", "recognised", "first_flight", "year")  # compared exactly
_TRIES = 60  # drawings of classes for one question


@dataclass(frozen=True)
class PhotoConfig:
    """Which questions over photos are made."""

    min_entities: int = 2
    max_entities: int = 8
    drop_one: bool = True
    """Only questions of which every photo is needed (arXiv 2605.07177); else comparisons and the like, too."""
    distractor_share: float = 0.5
    """Share of the mosaics whose classes are of one coarser class where the set has such: they are harder to tell."""
    splits: tuple[str, ...] = ()
    """Splits whose photos are used; () = all."""
    max_side: int = 8192
    """Longest side of a mosaic in pixels."""

    def __post_init__(self) -> None:
        if not 2 <= self.min_entities <= self.max_entities:
            raise SettingError(f"entities from {self.min_entities} to {self.max_entities}: need 2 <= min <= max")
        if not any(self.min_entities <= count <= self.max_entities for count in COUNTS):
            raise SettingError(f"no layout has {self.min_entities} to {self.max_entities} photos; there are {COUNTS}")


@dataclass(frozen=True)
class Shown:
    """Classes in a mosaic, before anything is asked of them."""

    photos: tuple[Photo, ...]
    entries: tuple[KnowledgeEntry, ...]
    layout: tuple[int, int]

    def place(self, index: int) -> str:
        """Where an entity is: "in the top left"."""
        return places(self.layout, index)[0]


@dataclass(frozen=True)
class PhotoDraft:
    """A question before its mosaic is drawn."""

    kind: str
    text: str
    answer: str
    aliases: tuple[str, ...]
    plan: FactPlan


def draw_shown(
    photos: PhotoSet, knowledge: Mapping[str, KnowledgeEntry], rng: np.random.Generator, config: PhotoConfig
) -> Shown:
    """Classes that the knowledge base has, each once, and a photo of each. Raises UserError for too few of them."""
    usable: dict[str, list[Photo]] = {}
    for label, photos_of_class in photos.by_class.items():
        fitting = [photo for photo in photos_of_class if not config.splits or photo.split in config.splits]
        if fitting and label in knowledge and knowledge[label].facts:
            usable[label] = fitting
    counts = [n for n in COUNTS if config.min_entities <= n <= min(config.max_entities, len(usable))]
    if not counts:
        raise UserError(
            f"{len(usable)} classes of {photos.name} have photos and knowledge, and a mosaic needs "
            f"{config.min_entities} or more. Build the knowledge base of more classes."
        )
    count = counts[int(rng.integers(len(counts)))]
    labels = list(usable)
    if photos.parents and rng.random() < config.distractor_share:
        parent = photos.parents.get(labels[int(rng.integers(len(labels)))])
        alike = [label for label in labels if photos.parents.get(label) == parent]
        labels = alike if len(alike) >= count else labels
    names = [labels[int(i)] for i in rng.choice(len(labels), count, replace=False)]
    choice = tuple(usable[label][int(rng.integers(len(usable[label])))] for label in names)
    return Shown(choice, tuple(knowledge[label] for label in names), layout_of(count, rng))


def draw_photo_question(
    photos: PhotoSet,
    knowledge: Mapping[str, KnowledgeEntry],
    fields: Mapping[str, tuple[str, str]],
    rng: np.random.Generator,
    config: PhotoConfig,
    question_id: str = "",
) -> Question:
    """One question from a template. Raises UserError if the knowledge base holds too few facts for any."""
    kinds = NEEDS_ALL if config.drop_one else {**NEEDS_ALL, **NEEDS_SOME}
    for _ in range(_TRIES):
        draw = draw_shown(photos, knowledge, rng, config)
        makers = list(kinds.values())
        draft = makers[int(rng.integers(len(makers)))](draw, fields, photos.subject, rng)
        if draft is None or (config.drop_one and superfluous(draft.plan, draw.entries, draft.answer)):
            continue
        if draft.plan.answer(draw.entries) != draft.answer or tells(draft.text, draft.answer, draw.entries):
            continue
        return photo_question(photos, draw, draft, config, question_id, writer="template")
    raise UserError(
        f"the knowledge base of {photos.name} has too few comparable facts for a question. Build more of it."
    )


def photo_question(
    photos: PhotoSet, shown: Shown, draft: PhotoDraft, config: PhotoConfig, question_id: str, writer: str
) -> Question:
    """The question with its mosaic, and in `meta` where everything is, what it rests on and under what licence."""
    mosaic: PhotoMosaic = draw_photo_mosaic([(photos.open(p), p) for p in shown.photos], shown.layout, config.max_side)
    facts = [
        {"entity": place, "name": name, "value": fact.value, "source": fact.source}
        for place, entry in enumerate(shown.entries)
        for name in draft.plan.fields
        if (fact := entry.fact(name)) is not None
    ]
    meta = {
        "set": photos.name,
        "licence": photos.licence,
        "writer": writer,
        "layout": list(shown.layout),
        "entities": [entry.label for entry in shown.entries],
        "num_entities": len(shown.entries),
        "boxes": [list(box) for box in mosaic.boxes],
        "subjects": [None if box is None else list(box) for box in mosaic.subjects],
        "photos": [str(getattr(photo.source, "name", photo.source)) for photo in shown.photos],
        "facts": facts,
    }
    return Question(question_id, draft.text, (mosaic.image,), (draft.answer, *draft.aliases), draft.kind, meta)


def tells(text: str, answer: str, entries: Sequence[KnowledgeEntry]) -> bool:
    """Whether a question names what is shown, or gives its answer away."""
    words_of_text = f" {normalise(text)} "
    names = [name for entry in entries for name in (entry.label, *entry.aliases)]
    return any(f" {normalise(name)} " in words_of_text for name in (*names, answer) if normalise(name))


def _comparable(shown: Shown, fields: Mapping[str, tuple[str, str]], kind: str) -> list[str]:
    """Fields of a kind that every entity has."""
    names = [name for name, (_, is_a) in fields.items() if is_a == kind]
    facts = {name: [entry.fact(name) for entry in shown.entries] for name in names}
    return [
        name
        for name, row in facts.items()
        if all(f is not None and (kind == TEXT or f.number is not None) for f in row)
    ]


def _pick(options: Sequence[str], rng: np.random.Generator) -> str | None:
    return options[int(rng.integers(len(options)))] if options else None


def _apart(shown: Shown, field: str) -> bool:
    """Whether the numbers can be put in order without doubt."""
    numbers = sorted(
        f.number for entry in shown.entries if (f := entry.fact(field)) is not None and f.number is not None
    )
    pairs = itertools.pairwise(numbers)
    return all(b > a if field in _YEARS else b > 0 and b >= _MARGIN * a for a, b in pairs)


def _ranking(
    shown: Shown, fields: Mapping[str, tuple[str, str]], subject: str, rng: np.random.Generator
) -> PhotoDraft | None:
    field = _pick([name for name in _comparable(shown, fields, NUMBER) if _apart(shown, name)], rng)
    if field is None:
        return None
    plan = Ranking(field, bool(rng.random() < 0.5))
    order = "from the highest to the lowest" if plan.largest_first else "from the lowest to the highest"
    text = f"Name every {subject} in the picture in the order of this figure, {order}: {fields[field][0]}."
    return _draft("ranking", text, plan, shown)


def _total(
    shown: Shown, fields: Mapping[str, tuple[str, str]], subject: str, rng: np.random.Generator
) -> PhotoDraft | None:
    field = _pick([name for name in _comparable(shown, fields, NUMBER) if name not in _YEARS], rng)
    if field is None:
        return None
    text = f"Take this figure of every {subject} in the picture: {fields[field][0]}. What do they add up to?"
    return _draft("total", text, Total(field), shown)


def _each(
    shown: Shown, fields: Mapping[str, tuple[str, str]], subject: str, rng: np.random.Generator
) -> PhotoDraft | None:
    field = _pick(_comparable(shown, fields, TEXT), rng)
    if field is None:
        return None
    text = f"In reading order, say of each {subject} in the picture: {fields[field][0]}."
    return _draft("each_in_turn", text, EachInTurn(field), shown)


def _extreme(
    shown: Shown, fields: Mapping[str, tuple[str, str]], subject: str, rng: np.random.Generator
) -> PhotoDraft | None:
    field = _pick([name for name in _comparable(shown, fields, NUMBER) if _apart(shown, name)], rng)
    if field is None:
        return None
    largest = bool(rng.random() < 0.5)
    end = "highest" if largest else "lowest"
    then = _pick(["", *_comparable(shown, fields, TEXT)], rng) or ""
    text = f"Which {subject} in the picture has the {end} figure of this kind: {fields[field][0]}?"
    if then:
        first, second = fields[field][0], fields[then][0]
        text = f"Take the {subject} in the picture with the {end} figure ({first}). What is this of it: {second}?"
    return _draft("two_hop" if then else "comparison", text, Extreme(field, largest, then), shown)


def _shared(
    shown: Shown, fields: Mapping[str, tuple[str, str]], subject: str, rng: np.random.Generator
) -> PhotoDraft | None:
    fitting = [name for name in _comparable(shown, fields, TEXT) if Shared(name).answer(shown.entries) is not None]
    field = _pick(fitting, rng) if len(shown.entries) > 2 else None
    if field is None:
        return None
    text = f"Exactly two in the picture have this in common: {fields[field][0]}. What is it?"
    return _draft("shared", text, Shared(field), shown)


def _only_one(
    shown: Shown, fields: Mapping[str, tuple[str, str]], subject: str, rng: np.random.Generator
) -> PhotoDraft | None:
    field = _pick(_comparable(shown, fields, TEXT), rng)
    if field is None:
        return None
    fact = shown.entries[int(rng.integers(len(shown.entries)))].fact(field)
    plan = OnlyOne(field, "" if fact is None else fact.value)
    text = f"Of which single {subject} in the picture is this true: {fields[field][0]} - {plan.wanted}?"
    return _draft("only_one", text, plan, shown)


def _draft(kind: str, text: str, plan: FactPlan, shown: Shown) -> PhotoDraft | None:
    answer = plan.answer(shown.entries)
    if answer is None:
        return None
    aliases = next((entry.aliases for entry in shown.entries if entry.label == answer), ())
    return PhotoDraft(kind, text, answer, aliases, plan)


Maker = Callable[[Shown, Mapping[str, tuple[str, str]], str, np.random.Generator], "PhotoDraft | None"]
NEEDS_ALL: dict[str, Maker] = {"ranking": _ranking, "total": _total, "each_in_turn": _each}
NEEDS_SOME: dict[str, Maker] = {"extreme": _extreme, "shared": _shared, "only_one": _only_one}
