"""Constraints from random walks on the graph whose intersection is one entity, or a small set.

A walk of a few hops collects candidates; one of them becomes the answer, and constraints are drawn from what is stated
of it until only it meets them all. Each constraint is needed: without it, more entities would fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hypereyes_jax.data.wikidata.graph import Graph
from hypereyes_jax.data.wikidata.statements import TYPE
from hypereyes_jax.errors import SettingError

_Option = TypeVar("_Option")

_FAN = 200  # neighbours looked at in a step of a walk
_YEARS = frozenset((569, 570, 571, 576, 577, 580, 1619, 575, 606))  # properties whose numbers are years


@dataclass(frozen=True)
class Constraint:
    """What an entity must meet: `path` leads from it to the item or, of one property, to the number."""

    path: tuple[int, ...]  # one property, or two: whose first is something whose second is the item
    item: int | None
    value: float | None = None

    @property
    def hops(self) -> int:
        return len(self.path)


@dataclass(frozen=True)
class WalkConfig:
    """Which constraints a question may have."""

    hops: int = 3
    """Steps of the walk that collects candidates."""
    min_constraints: int = 2
    max_constraints: int = 4
    chain_share: float = 0.4
    """Share of the constraints that lead over a second entity."""
    largest_set: int = 20_000
    """A constraint that more entities meet is left out: it says little and costs much."""
    answers: int = 1
    """Entities that may meet all constraints; the answer names them all."""
    closed: bool = False
    """Refuse a question that another entity might meet of which the graph lacks a statement."""
    tries: int = 200
    """Walks for one question."""

    def __post_init__(self) -> None:
        if not 2 <= self.min_constraints <= self.max_constraints:
            raise SettingError("a question needs two constraints or more: 2 <= min_constraints <= max_constraints")
        if self.hops < 1 or self.answers < 1 or self.tries < 1 or not 0 <= self.chain_share <= 1:
            raise SettingError("hops, answers and tries must be 1 or more, chain_share between 0 and 1")


@dataclass(frozen=True)
class ConstraintWalk:
    """Entities and the constraints that single them out."""

    answers: tuple[int, ...]
    kind: int  # the class (P31) that the question speaks of
    constraints: tuple[Constraint, ...]
    sizes: tuple[int, ...]  # entities of the graph that meet each
    open_rivals: tuple[int, ...]  # others that would meet all if statements that the graph lacks were there

    @property
    def hops(self) -> int:
        """Statements that have to be looked up."""
        return sum(constraint.hops for constraint in self.constraints)

    @property
    def rarity(self) -> float:
        """Mean log10 of how many entities meet a constraint: the more, the less each one tells."""
        return float(np.mean([math.log10(max(1, size)) for size in self.sizes]))


def find(graph: Graph, rng: np.random.Generator, config: WalkConfig) -> ConstraintWalk | None:
    """An intersection by one of `config.tries` walks; None if the graph gave none."""
    for _ in range(config.tries):
        candidates = _walk(graph, rng, config.hops)
        if not candidates:
            continue
        answer = candidates[int(rng.integers(len(candidates)))]
        walk = _single_out(graph, rng, answer, config)
        if walk is not None and not (config.closed and walk.open_rivals):
            return walk
    return None


def matching(graph: Graph, constraint: Constraint, limit: int) -> set[int]:
    """Entities that meet a constraint, at most `limit`. A question says labels, so items of the same label are one."""
    if constraint.item is None:
        return graph.with_number(constraint.path[0], constraint.value or 0.0, limit)
    fitting: set[int] = set()
    for item in graph.namesakes(constraint.item):
        if len(constraint.path) == 1:
            fitting |= graph.with_edge(constraint.path[0], item, limit - len(fitting))
        else:
            fitting |= graph.with_chain(constraint.path[0], constraint.path[1], item, limit - len(fitting))
        if len(fitting) >= limit:
            break
    return fitting


def _walk(graph: Graph, rng: np.random.Generator, hops: int) -> list[int]:
    """Kept entities that a random walk comes by, with its start, which have a class."""
    place = graph.entity_at(float(rng.random()))
    places: list[int] = []
    for _ in range(hops + 1):
        if place is None:
            break
        if place not in places and graph.types(place):
            places.append(place)
        onward = [item for prop, item in graph.edges(place) if prop != TYPE]
        back = [subject for prop, subject in graph.pointing(place, _FAN) if prop != TYPE]
        options = [*onward, *back]
        place = options[int(rng.integers(len(options)))] if options else None
    return places


def _single_out(graph: Graph, rng: np.random.Generator, answer: int, config: WalkConfig) -> ConstraintWalk | None:
    kind = _pick(graph.types(answer), rng)
    if kind is None or not graph.label(kind) or not graph.label(answer):
        return None
    constraints: list[Constraint] = []
    sets: list[set[int]] = []
    common: set[int] = set()
    names: set[int] = set()
    for constraint in _constraints(graph, rng, answer, config.chain_share):
        fitting = matching(graph, constraint, config.largest_set + 1)
        if not 1 < len(fitting) <= config.largest_set:
            continue  # alone it names the answer, or it says too little
        narrowed = common & fitting if constraints else fitting
        if constraints and len(narrowed) == len(common):
            continue
        constraints.append(constraint)
        sets.append(fitting)
        common = narrowed
        names = graph.of_type(kind, common)
        if len(names) <= config.answers and len(constraints) >= config.min_constraints:
            break
        if len(constraints) == config.max_constraints:
            break
    if not names or len(names) > config.answers or len(constraints) < config.min_constraints:
        return None
    for left_out in range(len(constraints)):
        rest = set.intersection(*(fitting for place, fitting in enumerate(sets) if place != left_out))
        if len(graph.of_type(kind, rest, config.answers + 1)) <= config.answers:
            return None  # one of the constraints is not needed
    rivals = graph.of_type(kind, _open_rivals(graph, constraints, sets)) - names
    return ConstraintWalk(tuple(sorted(names)), kind, tuple(constraints), tuple(map(len, sets)), tuple(sorted(rivals)))


def _constraints(graph: Graph, rng: np.random.Generator, answer: int, chain_share: float) -> list[Constraint]:
    """What is stated of an entity, as constraints in random order, each property once; some lead a step further."""
    direct = [Constraint((prop,), item) for prop, item in graph.edges(answer) if prop != TYPE]
    years = [Constraint((prop,), None, value) for prop, value in graph.numbers(answer) if prop in _YEARS]
    candidates = [*direct, *years]
    options: list[Constraint] = []
    properties: set[int] = set()
    for place in rng.permutation(len(candidates)):
        constraint = candidates[int(place)]
        if constraint.path[0] in properties:
            continue
        if constraint.item is not None and rng.random() < chain_share:
            further = [(prop, item) for prop, item in graph.edges(constraint.item) if graph.label(item)]
            step = _pick(further, rng)
            if step is not None:
                constraint = Constraint((constraint.path[0], step[0]), step[1])
        if not all(graph.property_label(prop) for prop in constraint.path):
            continue
        if constraint.item is not None and not graph.label(constraint.item):
            continue
        properties.add(constraint.path[0])
        options.append(constraint)
    return options


def _open_rivals(graph: Graph, constraints: Sequence[Constraint], sets: Sequence[set[int]]) -> set[int]:
    """Entities that meet some constraint, and of which nothing is stated that would break the others."""
    rivals = set.union(*sets)
    for constraint, fitting in zip(constraints, sets, strict=True):
        rivals = (rivals & fitting) | graph.without(constraint.path[0], sorted(rivals - fitting))
    return rivals


def _pick(options: Sequence[_Option], rng: np.random.Generator) -> _Option | None:
    return options[int(rng.integers(len(options)))] if options else None
