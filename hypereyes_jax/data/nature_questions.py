"""Questions over pictures of animals, plants and food: the forms of those over flags, about another domain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hypereyes_jax.data.mosaics import LAYOUTS, draw_mosaic, places
from hypereyes_jax.env.nature import Entity, Nature
from hypereyes_jax.env.types import Question

_CANVAS = (256, 192)  # px, as the miniature's mosaics of flags
_MARGIN = 1.5  # between the most kinds and the next, so that one count decides
_TRIES = 200  # mosaics drawn for one question


@dataclass(frozen=True)
class _Draft:
    text: str
    accepted: tuple[str, ...]
    matter: tuple[int, ...]
    attribute: str


Write = Callable[[Sequence[Entity], tuple[int, int], np.random.Generator], _Draft | None]


def _place(layout: tuple[int, int], index: int, rng: np.random.Generator) -> str:
    options = places(layout, index)
    return options[int(rng.integers(len(options)))]


def _attribute(entities: Sequence[Entity], layout: tuple[int, int], rng: np.random.Generator) -> _Draft:
    attribute = ("group", "kind")[int(rng.integers(2))]
    place = int(rng.integers(len(entities)))
    text = f"What is the {attribute} of the one in the picture {_place(layout, place, rng)}?"
    return _Draft(text, (entities[place].fact(attribute),), (place,), attribute)


def _compare(entities: Sequence[Entity], layout: tuple[int, int], rng: np.random.Generator) -> _Draft | None:
    one, other = (int(i) for i in rng.choice(len(entities), 2, replace=False))
    best, rest = sorted((entities[one], entities[other]), key=lambda entity: -entity.kinds)
    if best.kinds <= _MARGIN * rest.kinds:
        return None
    where = _place(layout, one, rng), _place(layout, other, rng)
    text = f"Compare the one {where[0]} and the one {where[1]}: which has more kinds?"
    return _Draft(text, best.names, (one, other), "kinds")


def _extreme(entities: Sequence[Entity], layout: tuple[int, int], rng: np.random.Generator) -> _Draft | None:
    best, second, *_ = sorted(entities, key=lambda entity: -entity.kinds)
    if best.kinds <= _MARGIN * second.kinds:
        return None
    text = "The picture shows several things. Which of these has the most kinds?"
    return _Draft(text, best.names, tuple(range(len(entities))), "kinds")


def _only_one(entities: Sequence[Entity], layout: tuple[int, int], rng: np.random.Generator) -> _Draft | None:
    counts = Counter(entity.group for entity in entities)
    alone = [entity for entity in entities if counts[entity.group] == 1]
    if not alone:
        return None
    one = alone[int(rng.integers(len(alone)))]
    text = f"Only one of those in the picture has the group {one.group}. Which one?"
    return _Draft(text, one.names, tuple(range(len(entities))), "group")


def _shared(entities: Sequence[Entity], layout: tuple[int, int], rng: np.random.Generator) -> _Draft | None:
    counts = Counter(entity.group for entity in entities)
    twice = [group for group, count in counts.items() if count == 2]
    if len(twice) != 1 or max(counts.values()) > 2:
        return None
    text = "Exactly two of those shown have the same group. Which group is it?"
    return _Draft(text, (twice[0],), tuple(range(len(entities))), "group")


_KINDS: dict[str, Write] = {
    "attribute": _attribute,
    "compare": _compare,
    "extreme": _extreme,
    "only_one": _only_one,
    "shared": _shared,
}


def nature_questions(
    world: Nature, keys: Sequence[str], count: int, seed: int, *, crowding: float, prefix: str
) -> list[Question]:
    """`count` questions over mosaics of some entities, the same for the same arguments; each has one answer.

    Args:
      keys: the entities that may be shown.
      crowding: mosaics of n entities are drawn with weight n**crowding.

    Raises:
      ValueError: the entities are too few or too alike for one of the kinds.
    """
    rng = np.random.default_rng([seed, 7])
    sizes = sorted({rows * columns for rows, columns in LAYOUTS})
    weights = np.array(sizes, float) ** crowding
    kinds = list(_KINDS)
    questions: list[Question] = []
    while len(questions) < count:
        kind = kinds[int(rng.integers(len(kinds)))]
        questions.append(_drawn(world, keys, kind, rng, (sizes, weights), f"{prefix}-{seed}-{len(questions)}"))
    return questions


def _drawn(
    world: Nature,
    keys: Sequence[str],
    kind: str,
    rng: np.random.Generator,
    crowd: tuple[Sequence[int], np.ndarray],
    name: str,
) -> Question:
    sizes, weights = crowd
    for _ in range(_TRIES):
        size = int(rng.choice(sizes, p=weights / weights.sum()))
        fitting = [shape for shape in LAYOUTS if shape[0] * shape[1] == size]
        layout = fitting[int(rng.integers(len(fitting)))]
        entities = [world.entity(str(key)) for key in rng.choice(list(keys), size, replace=False)]
        draft = _KINDS[kind](entities, layout, rng)
        if draft is None or any(word in draft.text.lower().split() for word in draft.accepted):
            continue
        mosaic = draw_mosaic([world.picture(entity.key) for entity in entities], layout, _CANVAS, rng)
        meta = {
            "template": kind,
            "layout": list(layout),
            "attribute": draft.attribute,
            "entities": [entity.key for entity in entities],
            "matter": list(draft.matter),
            "num_entities": size,
            "depth": 2,
        }
        return Question(name, draft.text, (mosaic.image,), draft.accepted, kind, meta)
    raise ValueError(f"no question of the kind {kind} over {len(keys)} entities")
