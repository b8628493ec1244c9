"""Questions of a stated depth: chains whose every link needs what the one before it found, however wide one searches.

A flag has to be recognised, its country's neighbours read, the facts of all of them, and those of the neighbours of the
one that fits. Nothing of that can be asked earlier, so the rounds can't fall below the depth: 1 to 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypereyes_jax.data.question_kinds import (
    AttributeOf,
    countries_named,
    extreme,
    fact_line,
    matches,
    neighbours,
    number,
    query,
    value,
)
from hypereyes_jax.data.textual import MAX_NEIGHBOURS, TextDraft, Walk
from hypereyes_jax.data.types import Names, SynthQuestion
from hypereyes_jax.data.visual import MARGIN, CountryPool, Draft, known
from hypereyes_jax.env.world import Country, World


@dataclass(frozen=True)
class Hop:
    """A step to one neighbour: that with the most (least) of `attribute`, or the only one that has the value
    `wanted`."""

    attribute: str
    largest: bool = True
    wanted: str = ""

    def choose(self, near: list[Country]) -> Country | None:
        """The neighbour that the hop leads to; None if there is none, or several have the value."""
        if not self.wanted:
            return extreme(near, self.attribute, self.largest)
        fitting = [country for country in near if matches(country, self.attribute, self.wanted)]
        return fitting[0] if len(fitting) == 1 else None

    @property
    def words(self) -> str:
        """ "neighbor with the largest population"."""
        if self.wanted:
            has = {
                "currency": f"uses the currency {self.wanted}",
                "language": f"has {self.wanted} as an official language",
                "region": f"lies in the region {self.wanted}",
            }[self.attribute]
            return f"only neighbor that {has}"
        return f"neighbor with the {'largest' if self.largest else 'smallest'} {self.attribute}"


@dataclass(frozen=True)
class Chain:
    """A way from a country (of the flag that matters, or with `of` one that is named) over hops to a country, or its
    fact."""

    hops: tuple[Hop, ...]
    then: str = ""  # a fact of the last one; "" = its name
    of: str = ""  # key

    def path(self, world: World, names: Names) -> list[Country]:
        """The countries that are come by, as far as the chain holds."""
        if self.of:
            here: Country | None = world.country(self.of)
        else:
            here = next(iter(countries_named(world, names[:1])), None)
        out = []
        for hop in (*self.hops, None):
            if here is None:
                break
            out.append(here)
            here = None if hop is None else hop.choose(neighbours(world, here))
        return out

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        path = self.path(world, names)
        if not path:
            return ()
        queries: list[tuple[str, ...]] = [(query(path[0].name, "borders"),)]
        for place, hop in enumerate(self.hops[: len(path)]):
            last = place == len(self.hops) - 1
            further = self.then if last else "borders"  # what comes next is asked of all, before one is chosen
            near = neighbours(world, path[place])
            queries.append(tuple(q for c in near for q in _queries(c.name, hop.attribute, further)))
        return tuple(round_ for round_ in queries if round_)

    def answer(self, world: World, names: Names) -> str | None:
        path = self.path(world, names)
        if len(path) <= len(self.hops):
            return None
        return (value(path[-1], self.then) or None) if self.then else path[-1].name

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        path = self.path(world, names)
        lines = [fact_line(path[0], "borders")] if path else []
        for place, hop in enumerate(self.hops[: len(path)]):
            lines += [fact_line(c, hop.attribute) for c in neighbours(world, path[place])]
            if place + 1 < len(path):
                last = place == len(self.hops) - 1
                lines.append(fact_line(path[place + 1], self.then if last and self.then else hop.attribute))
        return tuple(lines)


def depth(synth: SynthQuestion) -> int:
    """Rounds that a question needs however wide one searches: one for its pictures, and those of its plan."""
    return bool(synth.oracle.boxes) + len(synth.oracle.rounds_from(synth.oracle.true_names))


def _queries(name: str, attribute: str, further: str) -> tuple[str, ...]:
    """One query for two facts; but one that holds the two words "official language" is answered with that alone."""
    if not further:
        return (query(name, attribute),)
    return (
        (query(name, attribute), query(name, further))
        if attribute == "language"
        else (query(name, attribute, further),)
    )


def _hop(walk: Walk, here: Country) -> tuple[Hop, Country] | None:
    """A hop from a country that leads to one neighbour without doubt."""
    near = neighbours(walk.world, here)
    if not 2 <= len(near) <= MAX_NEIGHBOURS:
        return None
    attribute = walk.pick(("population", "area", "currency", "language", "region"))
    if attribute in ("population", "area"):
        hop = Hop(attribute, bool(walk.rng.random() < 0.5))
        best = hop.choose(near)
        sizes = [number(country, attribute) for country in near]
        mine = number(best, attribute) if best is not None else None
        if best is None or mine is None or any(size is None for size in sizes):
            return None
        rest = [size for country, size in zip(near, sizes, strict=True) if country is not best and size is not None]
        if any(size * MARGIN > mine if hop.largest else size < mine * MARGIN for size in rest):
            return None
        return hop, best
    target = near[int(walk.rng.integers(len(near)))]
    fact = value(target, attribute)
    if attribute == "language" and target.languages:
        fact = walk.pick(target.languages)
    hop = Hop(attribute, wanted=fact)
    if not fact or hop.choose(near) is not target:
        return None
    return hop, target


def _chain(walk: Walk, start: Country, count: int) -> tuple[tuple[Hop, ...], Country] | None:
    """Hops from a country, none of which comes back to where the chain was."""
    here, keys, hops = start, {start.key}, []
    for _ in range(count):
        step = _hop(walk, here)
        if step is None or step[1].key in keys:
            return None
        hops.append(step[0])
        here = step[1]
        keys.add(here.key)
    return tuple(hops), here


_FACTS = ("capital", "currency", "")


def _worded(hops: tuple[Hop, ...], start: str, then: str) -> str:
    """Step by step, since "the neighbor of the neighbor of ... with ..." would leave open whose condition it is."""
    steps = " and from there to its ".join(hop.words for hop in hops)
    end = f"What is the {then} of that country?" if then else "Which country is that?"
    return f"Start from {start} and go to its {steps}. {end}"


def _answer_of(walk: Walk, end: Country) -> str:
    then = walk.pick(_FACTS)
    return then if not then or known(walk.world, then, end.key) else ""


def named_fact(walk: Walk) -> TextDraft | None:
    """Depth 1: a fact of a country that the question names."""
    answer = walk.answer()
    attribute = walk.pick(("capital", "currency", "population", "area", "independence"))
    if not known(walk.world, attribute, answer.key):
        return None
    noun = "year of independence" if attribute == "independence" else attribute
    rivals = tuple(answer.borders)
    text = f"What is the {noun} of {answer.name}?"
    plan = _NamedFact(attribute, answer.key)
    return TextDraft("named_fact", attribute, (answer.key,), text, plan, answer.key, attribute, rivals)


@dataclass(frozen=True)
class _NamedFact(AttributeOf):
    """A fact of a country that the question names, whatever was found in pictures."""

    of: str = ""

    def _named(self, world: World) -> Names:
        return (world.country(self.of).name,)

    def rounds(self, world: World, names: Names) -> tuple[tuple[str, ...], ...]:
        return super().rounds(world, self._named(world))

    def answer(self, world: World, names: Names) -> str | None:
        return super().answer(world, self._named(world))

    def read(self, world: World, names: Names) -> tuple[str, ...]:
        return super().read(world, self._named(world))


def _named_chain(kind: str, count: int) -> Callable[[Walk], TextDraft | None]:
    def draw(walk: Walk) -> TextDraft | None:
        keys = [key for key in walk.world.keys if walk.world.country(key).borders]
        start = walk.world.country(walk.pick(keys)) if keys else None
        chain = _chain(walk, start, count) if start is not None else None
        if start is None or chain is None or not _in_focus(walk, chain[1]):
            return None
        hops, end = chain
        then = _answer_of(walk, end)
        text = _worded(hops, start.name, then)
        plan = Chain(hops, then, start.key)
        rivals = tuple(key for key in plan.path(walk.world, ())[-2].borders if key != end.key)
        return TextDraft(kind, hops[-1].attribute, (start.key,), text, plan, end.key, then or "name", rivals)

    return draw


def _flag_chain(kind: str, count: int) -> Callable[[CountryPool, int], Draft | None]:
    def draw(pool: CountryPool, shown: int) -> Draft | None:
        walk = Walk(pool.world, pool.rng, set(pool.focus) or None)
        key = pool.one([key for key in pool.world.visual_keys if pool.world.country(key).borders])
        chain = _chain(walk, pool.world.country(key), count) if key is not None else None
        if key is None or chain is None or not _in_focus(walk, chain[1]):
            return None
        hops, end = chain
        then = _answer_of(walk, end)
        text = _worded(hops, "the country whose flag is {0}", then)
        return Draft(kind, hops[-1].attribute, (key,), text, Chain(hops, then), end.key, then or "name")

    return draw


def _in_focus(walk: Walk, country: Country) -> bool:
    return walk.focus is None or country.key in walk.focus


# Depth in the name of none, since it follows from the plan: 3 and 4 with a flag, 1 to 3 without.
PICTURED: dict[str, tuple[Callable[[CountryPool, int], Draft | None], bool, int]] = {
    "flag_hop": (_flag_chain("flag_hop", 1), False, 2),
    "flag_two_hops": (_flag_chain("flag_two_hops", 2), False, 2),
}
WORDED: dict[str, Callable[[Walk], TextDraft | None]] = {
    "named_fact": named_fact,
    "named_hop": _named_chain("named_hop", 1),
    "named_two_hops": _named_chain("named_two_hops", 2),
}
# Beside them, "attribute" of visual.py: the flag, then a fact of its country, which is depth 2.
KINDS = ("attribute", *PICTURED, *WORDED)
