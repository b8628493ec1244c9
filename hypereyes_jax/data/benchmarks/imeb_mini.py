"""IMEB-mini: 300 questions over flags in the spirit of IMEB, so that accuracy and cost can be compared offline.

As in IMEB a picture shows several entities (4.6 on average) and all of them have to be searched: each question passes
the drop-one check. An answer is kept only if a second derivation, which reads the question's text and the unrounded
facts instead of the plan and the cards, arrives at it, too. The world is flags and countries, so four of IMEB's seven
domains occur.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hypereyes_jax.data import aggregation
from hypereyes_jax.data.questions import SynthesisConfig, draw_question
from hypereyes_jax.data.types import SynthQuestion
from hypereyes_jax.env.judging.judges import ExactJudge, read_number
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import Country, World
from hypereyes_jax.files import draft_of, writing

SEED = 7
# Entities a picture -> questions of 300: 3 to 8 entities, 4.6 on average, as IMEB has 3 to 9 and 4.6.
ENTITIES = {3: 120, 4: 90, 6: 30, 8: 60}
DOMAINS = {  # what is asked for -> the domain of IMEB that it belongs to
    "population": "Daily Life",
    "capital": "Humanities and History",
    "independence": "Humanities and History",
    "area": "Science",
    "region": "Science",
    "currency": "Finance",
}
_SUBJECTS = {  # what the words of a question ask for; the first that occur count
    r"populat|populous|people": "population",
    r"\barea\b|\blarge": "area",
    r"independen": "independence",
    r"capital": "capital",
    r"currency": "currency",
    r"region": "region",
}
_DESCENDING = re.compile(r"most to the least|largest to the smallest|latest first")
_ROUNDING = 0.005  # three digits of each number on a card


def imeb_mini(world: World | None = None, seed: int = SEED, share: float = 1.0) -> list[SynthQuestion]:
    """The questions, the same for the same arguments; a country held out from training takes part in each.

    Args:
      share: of the 300; for trials.
    """
    world = world or World.load()
    held_out = world.split()[1]
    rng = np.random.default_rng(seed)
    items: list[SynthQuestion] = []
    identities: set[tuple[str, tuple[str, ...]]] = set()
    kinds = tuple(aggregation.TEMPLATES)
    for count, questions in ENTITIES.items():
        rules = SynthesisConfig(min_entities=count, max_entities=count, kinds=kinds, textual_share=0.0, drop_one=True)
        goal = len(items) + max(1, round(share * questions))
        while len(items) < goal:
            candidate = draw_question(world, rng, rules, held_out)
            identity = (candidate.question.text, candidate.oracle.entities)
            if identity in identities or not agrees(candidate):
                continue
            identities.add(identity)
            items.append(_named(candidate, len(items)))
    return items


def agrees(synth: SynthQuestion) -> bool:
    """Whether the second derivation arrives at the accepted answer."""
    countries = [synth.oracle.world.country(key) for key in synth.oracle.entities]
    other, answer = derive(synth.question.text, countries), synth.question.answers[0]
    if other is None:
        return False
    claim, exact = read_number(answer), read_number(other)
    if claim is not None and exact is not None:
        return abs(claim.value - exact.value) <= _ROUNDING * exact.value
    return ExactJudge().matches(other, answer)


def derive(text: str, countries: Sequence[Country]) -> str | None:
    """The answer to a question from its words and the unrounded facts of the countries in reading order."""
    attribute = next((name for words, name in _SUBJECTS.items() if re.search(words, text)), None)
    if attribute is None:
        return None
    if attribute in ("capital", "currency", "region"):
        return ", ".join(getattr(country, attribute) for country in countries)
    amounts = [_raw(country, attribute) for country in countries]
    if any(amount is None for amount in amounts):
        return None
    if re.search(r"all taken together|combined", text):
        return f"{sum(amount or 0 for amount in amounts):.4f}"
    ranking = [
        country.name for _, country in sorted(zip(amounts, countries, strict=True), key=lambda pair: pair[0] or 0)
    ]
    if "middle" in text:
        return ranking[len(ranking) // 2] if len(ranking) % 2 else None
    return ", ".join(reversed(ranking) if _DESCENDING.search(text) else ranking)


def _raw(country: Country, attribute: str) -> float | None:
    values = {
        "population": country.population,
        "area": country.area,
        "independence": country.independence_year,
    }
    return values[attribute]


def _named(synth: SynthQuestion, number: int) -> SynthQuestion:
    q = synth.question
    meta = q.meta | {"domain": DOMAINS[synth.oracle.attribute]}
    question = Question(f"imeb-mini-{number:03d}", q.text, q.images, q.answers, meta["domain"], meta)
    return SynthQuestion(question, synth.oracle)


def write_imeb(path: Path, questions: Iterable[Question]) -> None:
    """Questions in the columns in which IMEB is expected: those of the authors' RL data, with domain and entities.

    A parquet file with `prompt`, `images`, `reward_model`, `extra_info`, `domain` and `num_entities`, which
    `open_benchmark("imeb", ...)` reads. Raises UserError where it can't be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [_row(question) for question in questions]
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [
            ("prompt", pa.list_(pa.struct([("content", pa.string()), ("role", pa.string())]))),
            ("images", pa.list_(picture)),
            ("reward_model", pa.struct([("ground_truth", pa.string()), ("candidate_answers", pa.string())])),
            ("extra_info", pa.struct([("question", pa.string()), ("type", pa.string()), ("index", pa.string())])),
            ("domain", pa.string()),
            ("num_entities", pa.int64()),
        ]
    )
    draft = draft_of(path)
    with writing(path):
        try:
            pq.write_table(pa.Table.from_pylist(rows, schema), draft, row_group_size=64)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _row(question: Question) -> dict[str, Any]:
    images = []
    for image in question.images:
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    return {
        "prompt": [{"role": "user", "content": question.text}],
        "images": images,
        "reward_model": {
            "ground_truth": question.answers[0],
            "candidate_answers": json.dumps(list(question.answers[1:]), ensure_ascii=False),
        },
        "extra_info": {"question": question.text, "type": "only_acc", "index": question.id},
        "domain": question.kind,
        "num_entities": question.meta.get("num_entities"),
    }
