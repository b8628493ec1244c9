"""Questions are checked against an independent reading of their text, by brute force over the whole world."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from hypereyes_jax.data.mosaics import places
from hypereyes_jax.data.priors import blind, drop_majorities, leaks
from hypereyes_jax.data.question_kinds import FITS, LESS, MORE
from hypereyes_jax.data.questions import SynthesisConfig, draw_question, synthesize
from hypereyes_jax.env.world import World


@pytest.fixture(scope="module")
def world():
    return World.load()


@pytest.fixture(scope="module")
def seen_world(world):
    return world.restrict(world.split()[0])


@pytest.fixture(scope="module")
def training(seen_world):
    return synthesize(seen_world, 300, seed=0)


@pytest.fixture(scope="module")
def held_out(world):
    return synthesize(world, 250, seed=1, focus=world.split()[1])


def size(country, attribute):
    return country.population if attribute == "population" else country.area


def referred(synth, text):
    """Keys of the entities whose place the text says, in the order of the text."""
    rows, columns = synth.question.meta["layout"]
    spots = []
    for index, key in enumerate(synth.oracle.entities):
        for phrase in places((rows, columns), index):
            for match in re.finditer(rf"flag(?: is)? {re.escape(phrase)}", text):
                spots.append((match.start(), -len(phrase), key))
    starts = sorted({start for start, _, _ in spots})
    return [min(s for s in spots if s[0] == start)[2] for start in starts]  # the longest phrase that fits


def mentioned(world, text):
    """Keys of the countries named in the text, longest names first, each stretch once."""
    found = []
    for country in sorted(world.countries, key=lambda c: -len(c.name)):
        if re.search(rf"(?<!\w){re.escape(country.name)}(?!\w)", text):
            found.append(country.key)
            text = re.sub(rf"(?<!\w){re.escape(country.name)}(?!\w)", "#", text)
    return found


def solutions(synth):
    """Every answer that fits the question as its text reads, found without the plan."""
    world, text, attribute = synth.oracle.world, synth.question.text, synth.oracle.attribute
    shown = [world.country(key) for key in synth.oracle.entities]
    kind = synth.question.kind
    wants_least = re.search(r"smallest|least|fewest|fewer|smaller", text) is not None
    if kind == "attribute":
        (key,) = referred(synth, text)
        country = world.country(key)
        return {str(country.independence_year) if attribute == "independence" else country.facts[attribute]}
    if kind in ("extreme", "extreme_then", "compare"):
        field = [world.country(k) for k in referred(synth, text)] if kind == "compare" else shown
        assert len(field) >= 2
        ordered = sorted(field, key=lambda c: size(c, attribute), reverse=not wants_least)
        if kind == "extreme_then":
            return {ordered[0].capital if "capital" in text else ordered[0].currency}
        return {ordered[0].name}
    if kind == "shared":
        counts = Counter(", ".join(c.languages) if attribute == "language" else c.facts[attribute] for c in shown)
        return {value for value, times in counts.items() if times == 2}
    if kind == "same_as":
        (key,) = referred(synth, text)
        anchor = world.country(key)
        return {c.name for c in shown if c is not anchor and c.facts.get(attribute) == anchor.facts[attribute]}
    if kind == "only_one":
        values = {
            "currency": r"the currency (.*?)[?.]",
            "language": r"has (.*?) as an",
            "region": r"the region (.*?)[?.]",
        }
        wanted = re.search(values[attribute], text)[1]
        has = lambda c: wanted in c.languages if attribute == "language" else c.facts.get(attribute) == wanted  # noqa: E731
        return {c.name for c in shown if has(c)}
    if kind == "border":
        (anchor,) = referred(synth, text)
        return {c.name for c in shown if anchor in c.borders}
    if kind == "border_named":
        (anchor,) = mentioned(world, text)
        return {c.name for c in shown if anchor in c.borders}
    stated = synth.oracle.plan.wanted if kind == "neighbour_with" else ()
    bare = text
    for _, value in stated:  # "uses the currency Jordanian dinar" names no country
        bare = bare.replace(value, "#")
    named = mentioned(world, bare)
    near = [c for c in world.countries if all(key in c.borders for key in named)]
    if kind == "common_neighbour":
        if "capital" in text or "currency" in text:
            return {c.capital if "capital" in text else c.currency for c in near}
        return {c.name for c in near}
    if kind == "neighbour_extreme":
        return {sorted(near, key=lambda c: size(c, attribute), reverse=not wants_least)[0].name}
    assert kind == "neighbour_with"
    for _, value in stated:
        assert value in text
        near = [c for c in near if value in (c.currency, c.region, *c.languages)]
    return {c.name for c in near}


def test_each_question_has_exactly_one_answer_found_by_brute_force(training, held_out):
    for synth in training + held_out:
        assert solutions(synth) == {synth.question.answers[0]}, synth.question.text


def test_every_kind_occurs_in_both_sets(training, held_out):
    kinds = set(SynthesisConfig().kinds) | {"border_named"}
    assert {s.question.kind for s in training} == kinds
    assert {s.question.kind for s in held_out} == kinds
    assert {s.question.meta["num_entities"] for s in training if s.question.images} == {2, 3, 4, 6, 8}


def test_synthesis_is_deterministic_and_seeds_differ(seen_world):
    one, two, other = (synthesize(seen_world, 25, seed=s) for s in (5, 5, 6))
    for a, b in zip(one, two, strict=True):
        assert (a.question.id, a.question.text, a.question.answers, a.question.meta) == (
            *(b.question.id, b.question.text, b.question.answers, b.question.meta),
        )
        assert all(x.tobytes() == y.tobytes() for x, y in zip(a.question.images, b.question.images, strict=True))
        assert (a.oracle.boxes, a.oracle.distractors) == (b.oracle.boxes, b.oracle.distractors)
    assert [s.question.text for s in one] != [s.question.text for s in other]


def test_training_questions_know_nothing_of_the_held_out(world, training):
    names = [name for key in world.split()[1] for name in world.country(key).names]
    mention = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for synth in training:
        said = (synth.question.text, *synth.question.answers, *synth.oracle.distractors, *synth.oracle.true_names)
        assert not any(mention.search(text) for text in said)
        assert synth.question.meta["held_out"] == []


def test_held_out_questions_are_decided_by_held_out_countries(held_out):
    assert all(synth.question.meta["deciding_held_out"] for synth in held_out)
    mixed = [s for s in held_out if s.question.images and len(s.question.meta["held_out"]) < len(s.oracle.entities)]
    assert len(mixed) > 50


def test_distractors_are_wrong_and_of_the_same_type(training):
    for synth in training:
        assert synth.oracle.distractors
        assert not set(synth.oracle.distractors) & set(synth.question.answers)


def test_true_names_lead_to_the_answer_and_say_why(training):
    for synth in training:
        oracle = synth.oracle
        assert oracle.answer_from(oracle.true_names) == synth.question.answers[0]
        assert oracle.reasoning_from(oracle.true_names).endswith(f"So the answer is {synth.question.answers[0]}.")


def test_the_planned_queries_return_every_fact_needed(training):
    """What the plan reads stands in the first hit of some planned query."""
    for synth in training:
        oracle = synth.oracle
        rounds = oracle.rounds_from(oracle.true_names)
        assert 1 <= len(rounds) <= 2
        assert all(round_ for round_ in rounds)
        told = [oracle.world.text_search(query, 3)[0] for round_ in rounds for query in round_]
        for line in oracle.plan.read(oracle.world, oracle.true_names):
            name, facts = line.replace(FITS, "").removesuffix(MORE).removesuffix(LESS).split(": ", 1)
            for fact in facts.split(", "):
                assert fact == "unknown" or any(
                    hit.title == name and fact in hit.content and hit.score >= 0.6 for hit in told
                ), (name, fact)


def test_what_fits_as_one_reads_is_what_the_answer_says(training):
    for synth in training:
        oracle, answer = synth.oracle, synth.question.answers[0]
        lines = oracle.plan.read(oracle.world, oracle.true_names)
        fitting = [line.removesuffix(FITS) for line in lines if line.endswith(FITS)]
        match synth.question.kind:
            case "extreme" | "compare" | "neighbour_extreme":
                assert fitting[-1].startswith(f"{answer}: ")
                assert_compared(lines, oracle.plan.largest)
            case "extreme_then":
                assert lines[-1] == f"{fitting[-1].split(': ')[0]}: {answer}"
                assert_compared(lines[:-1], oracle.plan.largest)
            case "same_as" | "only_one" | "neighbour_with":
                assert [line.split(": ")[0] for line in fitting] == [answer]
            case "shared":
                assert [line.split(": ", 1)[1] for line in fitting] == [answer]
            case "border" | "border_named":
                marked = [name for name in lines[0].split(": ", 1)[1].split(", ") if name.endswith(FITS)]
                assert marked == [answer + FITS]
            case "common_neighbour":
                solution, last = oracle.plan.solutions(oracle.world)[0].name, lines[len(oracle.plan.of) - 1]
                assert f"{solution}{FITS}" in last
                assert last.count(FITS) == 1
            case kind:
                assert kind == "attribute"
                assert not fitting


def assert_compared(lines, largest):
    """The first line fits, every later one says more or less, and fits if that is what was asked for."""
    known = [line for line in lines if not line.endswith(": unknown")]
    assert known[0].endswith(FITS)
    assert not known[0].removesuffix(FITS).endswith((MORE, LESS))
    figures = [line.split(": ", 1)[1].removesuffix(FITS).removesuffix(MORE).removesuffix(LESS) for line in known]
    for place, line in enumerate(known[1:], 1):
        if not line.removesuffix(FITS).endswith((MORE, LESS)):
            assert figures[place] in figures[:place]  # as much as the best so far
            assert not line.endswith(FITS)
            continue
        assert line.endswith(FITS) == line.removesuffix(FITS).endswith(MORE if largest else LESS)


def test_wrong_names_give_what_their_pages_say(seen_world):
    rng = np.random.default_rng(0)
    config = SynthesisConfig(kinds=("attribute",))
    for _ in range(20):
        synth = draw_question(seen_world, rng, config)
        wrong = seen_world.country(seen_world.visual_keys[3])
        told = synth.oracle.answer_from([wrong.name])
        attribute = synth.oracle.attribute
        facts = str(wrong.independence_year or "") if attribute == "independence" else wrong.facts.get(attribute, "")
        assert (told or "") == facts
    assert synth.oracle.answer_from([None]) is None
    assert synth.oracle.answer_from(["Atlantis"]) is None
    assert synth.oracle.reasoning_from([None]) == ""


def test_missing_names_never_raise(training):
    for synth in training:
        for names in ([None] * len(synth.oracle.matter), ["Atlantis"] * len(synth.oracle.matter), []):
            synth.oracle.answer_from(names)
            synth.oracle.rounds_from(names)
            synth.oracle.reasoning_from(names)


def test_no_blind_guess_pays(training):
    assert not any(blind(synth) for synth in training)
    groups = {}
    for synth in training:
        groups.setdefault((synth.question.kind, synth.oracle.attribute), Counter())[synth.question.answers[0]] += 1
    for counts in groups.values():
        assert max(counts.values()) <= max(2, 0.2 * counts.total() + 1)


def test_textual_questions_are_not_repeated_in_other_words(training, held_out):
    for questions in (training, held_out):
        plans = [synth.oracle.plan for synth in questions if not synth.question.images]
        assert len(plans) == len(set(plans)) > 30


def test_a_question_that_names_its_answer_is_blind(world, training):
    one = next(synth for synth in training if synth.question.kind == "attribute")
    telling = replace(one.question, text="Which country has Swedish as an official language?", answers=("Sweden",))
    assert leaks(replace(one, question=telling))
    assert not leaks(replace(one, question=replace(telling, answers=("Finland",))))


def test_majority_answers_are_thinned_out(training):
    one = training[0]
    assert len(list(drop_majorities([one] * 50))) == 2


def test_questions_can_be_drawn_in_varied_worlds(seen_world):
    rng = np.random.default_rng(2)
    for _ in range(10):
        varied = seen_world.varied(rng)
        synth = draw_question(varied, rng, question_id="x")
        assert synth.oracle.world is varied
        assert solutions(synth) == {synth.question.answers[0]}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"canvas": (250, 192)}, "multiples of 32"), ({"kinds": ("riddle",)}, "riddle"), ({"min_entities": 1}, "min")],
)
def test_bad_settings_say_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        SynthesisConfig(**change)


def test_more_questions_than_a_world_holds_is_an_error(world):
    tiny = world.restrict(["fr", "de", "es"])
    with pytest.raises(ValueError, match="widen"):
        synthesize(tiny, 40, seed=0, config=SynthesisConfig(kinds=("attribute",), max_entities=2))
