"""Synthesis of questions with oracles from a world: deterministic given the world and the seed.

Two kinds, as in the paper (arXiv 2605.07177): visual multi-entity questions over mosaics of 2 to 8 flags, and textual
questions with several constraints that leave one country. Yes/no questions are left out: half of them are answered by
guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hypereyes_jax.data import aggregation, chains, textual, visual
from hypereyes_jax.data.mosaics import LAYOUTS, draw_mosaic, places
from hypereyes_jax.data.necessity import all_needed
from hypereyes_jax.data.priors import blind, drop_majorities
from hypereyes_jax.data.question_kinds import value
from hypereyes_jax.data.types import Oracle, QuestionPlan, SynthQuestion
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import Country, World
from hypereyes_jax.env.world.world import held_out_keys
from hypereyes_jax.errors import SettingError

_DISTRACTORS = 3
_PICTURED = {**visual.TEMPLATES, **aggregation.TEMPLATES, **chains.PICTURED}
_WORDED = {**textual.TEMPLATES, **chains.WORDED}


@dataclass(frozen=True)
class SynthesisConfig:
    """Which questions of the miniature world are made."""

    canvas: tuple[int, int] = (256, 192)  # width and height of a mosaic in px; multiples of 32, a visual token's side
    min_entities: int = 2
    max_entities: int = 8
    crowding: float = 0.0  # a mosaic of n flags is drawn with weight n**crowding; below 0, small ones are more frequent
    textual_share: float = 0.25
    kinds: tuple[str, ...] = (*visual.TEMPLATES, *textual.TEMPLATES)
    depths: tuple[int, ...] = ()  # rounds that a question needs however wide one searches; () = any
    drop_one: bool = False  # leave out a visual question of which some picture is superfluous: see necessity.py

    def __post_init__(self) -> None:
        if any(side % 32 or side <= 0 for side in self.canvas):
            raise SettingError(f"canvas {self.canvas}: both sides must be positive multiples of 32 px")
        unknown = set(self.kinds) - set(_PICTURED) - set(_WORDED)
        if unknown or not self.kinds:
            raise SettingError(f"kinds {sorted(unknown)} unknown; choose from {[*_PICTURED, *_WORDED]}")
        if self.drop_one and set(self.kinds) & set(_PICTURED) and not set(self.kinds) & set(aggregation.TEMPLATES):
            some = [*aggregation.TEMPLATES]
            raise SettingError(f"drop_one leaves no visual kind of {self.kinds}; add some of {some}")
        if not 2 <= self.min_entities <= self.max_entities:
            raise SettingError(f"entities from {self.min_entities} to {self.max_entities}: need 2 <= min <= max")


def _accepted(country: Country, answer_is: str) -> tuple[str, ...]:
    """The reference answer and its aliases."""
    if answer_is == "name":
        return country.names
    text = value(country, answer_is)
    if answer_is == "capital":
        return (text, *country.capital_aliases)
    if answer_is == "population":
        return (text, f"{country.population:,}")
    if answer_is == "area":
        figure = text.removesuffix(" sq km")
        return (text, figure, f"{figure} square kilometers", f"{figure} km2")
    return (text,)


def _wrong(
    world: World, answer_is: str, accepted: Collection[str], near: Collection[str], rng: np.random.Generator
) -> tuple[str, ...]:
    """Answers of the same type that are not accepted: those at hand first, then any of the world."""
    far = [str(key) for key in rng.choice(world.keys, min(12, len(world.keys)), replace=False)]
    texts = []
    for key in (*near, *far):
        country = world.country(key)
        texts.append(country.name if answer_is == "name" else value(country, answer_is))
    return tuple(t for t in dict.fromkeys(texts) if t and t not in accepted)[:_DISTRACTORS]


def _misread(
    world: World, plan: QuestionPlan, names: Sequence[str], accepted: Collection[str], rng: np.random.Generator
) -> tuple[str, ...]:
    """What the plan answers when one of the pictures is taken for another country."""
    texts = []
    for key in rng.choice(world.visual_keys, min(12, len(world.visual_keys)), replace=False):
        place = int(rng.integers(len(names)))
        other = world.country(str(key)).name
        texts.append(plan.answer(world, [*names[:place], other, *names[place + 1 :]]) or "")
    return tuple(t for t in dict.fromkeys(texts) if t and t not in accepted)[:_DISTRACTORS]


def _draw_count(counts: Sequence[int], crowding: float, rng: np.random.Generator) -> int:
    if crowding == 0:
        return counts[int(rng.integers(len(counts)))]
    weights = np.array(counts, float) ** crowding
    return int(rng.choice(counts, p=weights / weights.sum()))


def _draw_visual(
    world: World, rng: np.random.Generator, kind: str, config: SynthesisConfig, focus: Collection[str] | None
) -> SynthQuestion | None:
    make, whole, fewest = _PICTURED[kind]
    low = max(config.min_entities, fewest)
    layouts = [shape for shape in LAYOUTS if low <= shape[0] * shape[1] <= config.max_entities]
    if not layouts:
        return None
    counts = sorted({rows * columns for rows, columns in layouts})
    count = _draw_count(counts, config.crowding, rng)
    fitting = [shape for shape in layouts if shape[0] * shape[1] == count]
    layout = fitting[int(rng.integers(len(fitting)))]
    draft = make(visual.CountryPool.of(world, rng, focus), count)
    if draft is None or len(draft.matter) > count:
        return None
    keys_shown = list(draft.matter)
    if not whole:
        free = [key for key in world.visual_keys if key not in keys_shown]
        keys_shown += [str(key) for key in rng.choice(free, count - len(keys_shown), replace=False)]
    order = rng.permutation(len(keys_shown))
    entities = tuple(keys_shown[i] for i in order)
    matter = tuple(entities.index(key) for key in draft.matter)
    spoken = draft.text.count("{")  # the text says where these are; the plan takes the others in any order
    matter = (*matter[:spoken], *sorted(matter[spoken:]))
    mosaic = draw_mosaic([world.flag(key) for key in entities], layout, config.canvas, rng)
    phrases = []
    for place in matter[:spoken]:
        options = places(layout, place)
        phrases.append(options[int(rng.integers(len(options)))])
    names = [world.country(entities[i]).name for i in matter]
    if draft.answer_is == aggregation.FROM_PLAN:
        answers: tuple[str, ...] = (draft.plan.answer(world, names) or "",)
        wrong = _misread(world, draft.plan, names, answers, rng)
    else:
        answers = _accepted(world.country(draft.deciding), draft.answer_is)
        wrong = _wrong(world, draft.answer_is, answers, [k for k in entities if k != draft.deciding], rng)
    oracle = Oracle(
        world=world,
        boxes=mosaic.boxes,
        entities=entities,
        matter=matter,
        attribute=draft.attribute,
        plan=draft.plan,
        distractors=wrong,
    )
    meta = {"template": draft.kind, "layout": list(layout), "deciding": draft.deciding}
    return _finish(draft.text.format(*phrases), (mosaic.image,), answers, draft.kind, meta, oracle)


def _draw_textual(
    world: World, rng: np.random.Generator, kind: str, focus: Collection[str] | None
) -> SynthQuestion | None:
    draft = _WORDED[kind](textual.Walk(world, rng, focus))
    if draft is None:
        return None
    country = world.country(draft.deciding)
    answers = _accepted(country, draft.answer_is)
    oracle = Oracle(
        world=world,
        boxes=(),
        entities=draft.named,
        matter=tuple(range(len(draft.named))),
        attribute=draft.attribute,
        plan=draft.plan,
        distractors=_wrong(world, draft.answer_is, answers, draft.rivals, rng),
    )
    return _finish(draft.text, (), answers, draft.kind, {"template": draft.kind, "deciding": draft.deciding}, oracle)


def _finish(
    text: str, images: tuple, accepted: tuple[str, ...], kind: str, meta: dict, oracle: Oracle
) -> SynthQuestion | None:
    """The question; None if the plan, given the true names, doesn't arrive at the answer: a condition did not hold."""
    if oracle.answer_from(oracle.true_names) != accepted[0]:
        return None
    held_out = set(held_out_keys())
    meta |= {
        "modality": "visual" if images else "textual",
        "attribute": oracle.attribute,
        "entities": list(oracle.entities),
        "matter": list(oracle.matter),
        "num_entities": len(oracle.entities),
        "depth": bool(oracle.boxes) + len(oracle.rounds_from(oracle.true_names)),
        "held_out": [key for key in oracle.entities if key in held_out],
        "deciding_held_out": meta["deciding"] in held_out,
    }
    return SynthQuestion(Question("", text, images, accepted, kind, meta), oracle)


def draw_question(
    world: World,
    rng: np.random.Generator,
    config: SynthesisConfig = SynthesisConfig(),
    focus: Collection[str] | None = None,
    question_id: str = "",
) -> SynthQuestion:
    """One question of a random kind; for worlds that serve a single question each, as in base training.

    Raises ValueError if the world is too small for any of the kinds.
    """
    pictured = [kind for kind in config.kinds if kind in _PICTURED]
    worded = [kind for kind in config.kinds if kind in _WORDED]
    for _ in range(200):
        use_text = bool(worded) and (not pictured or rng.random() < config.textual_share)
        kinds = worded if use_text else pictured
        kind = kinds[int(rng.integers(len(kinds)))]
        for _ in range(10):  # the same kind again, or those easily drawn would crowd out the others
            synth = (
                _draw_textual(world, rng, kind, focus) if use_text else _draw_visual(world, rng, kind, config, focus)
            )
            if synth is None or blind(synth) or (config.drop_one and not all_needed(synth)):
                continue
            if config.depths and chains.depth(synth) not in config.depths:
                continue
            return _named(synth, question_id)
    raise ValueError(f"no question of the kinds {config.kinds} found in a world of {len(world.keys)} countries")


def _named(synth: SynthQuestion, question_id: str) -> SynthQuestion:
    return replace(synth, question=replace(synth.question, id=question_id))


def synthesize(
    world: World,
    count: int,
    seed: int,
    config: SynthesisConfig = SynthesisConfig(),
    focus: Collection[str] | None = None,
    prefix: str = "q",
    advance: Callable[[], None] | None = None,
) -> list[SynthQuestion]:
    """`count` distinct questions, the same for the same arguments, with no answer a blind guesser would do well on.

    Args:
      focus: keys that the answers are about: the country that decides is always one of them, most others that matter
        are, and the rest of a mosaic may be anything. Evaluation passes the held-out countries; training passes a world
        from `restrict(seen)` and no focus.
      advance: called after each question.
    """
    rng = np.random.default_rng(seed)

    def stream() -> Iterator[SynthQuestion]:
        identities: set[tuple[str, tuple[str, ...]]] = set()
        for _ in range(12 * count + 400):
            candidate = draw_question(world, rng, config, focus)
            # A textual question in other words is the same question; over another mosaic it is not.
            wording = candidate.question.text if candidate.question.images else repr(candidate.oracle.plan)
            identity = (wording, candidate.oracle.entities)
            if identity not in identities:
                identities.add(identity)
                yield candidate

    result: list[SynthQuestion] = []
    for synth in drop_majorities(stream()):
        if len(result) == count:
            break
        result.append(_named(synth, f"{prefix}-{seed}-{len(result)}"))
        if advance is not None:
            advance()
    if len(result) == count:
        return result
    raise ValueError(f"only {len(result)} of {count} questions found; widen the kinds, the focus or the world")
