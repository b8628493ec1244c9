"""Small inputs in the real formats, for trying the ten commands offline."""

from __future__ import annotations

import base64
import bz2
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image, ImageDraw

from hypereyes_jax import miniature
from hypereyes_jax.data.benchmarks.imeb_mini import write_imeb
from hypereyes_jax.data.files import write_questions
from hypereyes_jax.data.questions import SynthesisConfig, synthesize
from hypereyes_jax.env.media.images import png_bytes
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World
from hypereyes_jax.files import write_atomic, write_json

BIRDS = ("Aron", "Bela", "Cato", "Dora", "Egon", "Fara")  # of made-up classes: "Made Bird Aron"
_COPIES = 2  # photos a class
_PEOPLE = 1500  # of the dump
_QUESTIONS_EACH = 6  # questions of each benchmark
_QUESTIONS = 60  # of the pool that the miniature's model can answer


def write_inputs(folder: Path, models_url: str) -> None:
    """All inputs; a later call writes the curation file anew, since the services' address may differ.

    Raises UserError if the folder can't be written.
    """
    if not (folder / "done").exists():
        write_cub(folder / "cub")
        write_dump(folder / "wikidata.json.bz2")
        world = World.load()
        rules = SynthesisConfig(crowding=miniature.CROWDING)
        pool = [synth.question for synth in synthesize(world.training_world, _QUESTIONS, 11, rules, prefix="public")]
        write_questions(folder / "public.jsonl", pool)
        questions = [
            s.question for s in synthesize(world, 6 * _QUESTIONS_EACH, 12, rules, world.split()[1], prefix="asked")
        ]
        write_benchmarks(folder / "benchmarks", [question for question in questions if question.images])
        write_atomic(folder / "done", "")
    write_curation(folder / "curation.yaml", folder, models_url)


def write_cub(root: Path) -> None:
    """A photo set in CUB-200-2011's layout: a drawn bird of its own colours for each class."""
    base = root / "CUB_200_2011"
    lists: dict[str, list[str]] = {
        name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes")
    }
    number = 0
    for index, name in enumerate(BIRDS, start=1):
        label = f"{index:03d}.Made_Bird_{name}"
        lists["classes"].append(f"{index} {label}")
        for copy in range(_COPIES):
            number += 1
            path = base / "images" / label / f"{label[4:]}_{copy:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            _bird(index, copy).save(path)
            lists["images"].append(f"{number} {label}/{path.name}")
            lists["image_class_labels"].append(f"{number} {index}")
            lists["train_test_split"].append(f"{number} {1 - copy}")
            lists["bounding_boxes"].append(f"{number} 20.0 20.0 120.0 90.0")
    for name, lines in lists.items():
        write_atomic(base / f"{name}.txt", "\n".join(lines) + "\n")


def _bird(index: int, copy: int) -> Image.Image:
    rng = np.random.default_rng([index, copy])
    image = Image.new("RGB", (160, 130), tuple(int(c) for c in rng.integers(180, 250, 3)))
    draw, colour = ImageDraw.Draw(image), tuple(int(c) for c in np.random.default_rng(index).integers(0, 200, 3))
    draw.ellipse((30, 45, 120, 105), fill=colour)
    draw.ellipse((100, 25, 140, 65), fill=colour)
    draw.polygon([(136, 40), (158, 46), (136, 52)], fill=(230, 150, 20))
    return image


def write_dump(path: Path) -> None:
    """A Wikidata dump in the real format: people with towns, countries, occupations and employers."""

    def lines() -> Iterator[str]:
        for number, row in enumerate(_entities()):
            yield ("[\n" if number == 0 else ",\n") + json.dumps(row, separators=(",", ":"))
        yield "\n]\n"

    write_atomic(path, bz2.compress("".join(lines()).encode(), 1))


def _entities() -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(0)
    names = {31: "instance of", 19: "place of birth", 27: "country of citizenship", 106: "occupation"}
    names |= {108: "employer", 17: "country"}
    for number, label in names.items():
        yield _entity(number, label, {}, "property")
    for place in range(_PEOPLE):
        claims = {31: 5, 19: 2000 + int(rng.integers(12)), 27: 1000 + int(rng.integers(4))}
        claims |= {106: 10_000 + int(rng.integers(6)), 108: 2000 + int(rng.integers(12))}
        yield _entity(20_000 + place, f"Person {place}", claims)
    for town in range(12):
        yield _entity(2000 + town, f"Town {town}", {31: 3957, 17: 1000 + town % 4})
    for number, label in [(1000 + n, f"Country {n}") for n in range(4)] + [(10_000 + n, f"job {n}") for n in range(6)]:
        yield _entity(number, label, {31: 6256} if number < 10_000 else {})
    for number, label in ((5, "human"), (3957, "town"), (6256, "country")):
        yield _entity(number, label, {})


def _entity(number: int, label: str, claims: dict[int, int], kind: str = "item") -> dict[str, Any]:
    def statement(prop: int, item: int) -> dict[str, Any]:
        value = {"entity-type": "item", "numeric-id": item, "id": f"Q{item}"}
        snak: dict[str, Any] = {"snaktype": "value", "property": f"P{prop}", "datatype": "wikibase-item"}
        snak |= {"datavalue": {"type": "wikibase-entityid", "value": value}}
        return {"mainsnak": snak, "type": "statement", "rank": "normal"}

    return {
        "type": kind,
        "id": f"{'P' if kind == 'property' else 'Q'}{number}",
        "labels": {"en": {"language": "en", "value": label}},
        "descriptions": {},
        "aliases": {},
        "claims": {f"P{prop}": [statement(prop, item)] for prop, item in claims.items()},
        "sitelinks": {f"w{n}wiki": {"site": f"w{n}wiki", "title": label} for n in range(3)},
    }


def write_benchmarks(root: Path, questions: Sequence[Question]) -> None:
    """The six benchmarks' files, each in its published format, of other questions each."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def part(number: int) -> Sequence[Question]:
        return questions[number::6][:_QUESTIONS_EACH]

    folders = {name: root / name for name in ("mmsearch", "fvqa", "livevqa", "browsecomp-vl", "mmsearch-plus", "imeb")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = [
        {
            "sample_id": q.id,
            "query": q.text,
            "query_image": {"bytes": png_bytes(q.images[0]), "path": None},
            "gt_answer": q.answers[0],
            "alternative_gt_answers": list(q.answers[1:]),
            "area": "knowledge",
            "subfield": "geography",
        }
        for q in part(0)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folders["mmsearch"] / "end2end.parquet")
    rows = [
        {
            "data_id": f"fvqa_test_{number}",
            "prompt": [{"content": q.text, "role": "user"}],
            "images": [{"bytes": png_bytes(q.images[0]), "path": None}],
            "reward_model": {"ground_truth": q.answers[0], "candidate_answers": json.dumps(list(q.answers[1:]))},
        }
        for number, q in enumerate(part(1))
    ]
    pq.write_table(pa.Table.from_pylist(rows), folders["fvqa"] / "fvqa_test.parquet")
    _write_livevqa(folders["livevqa"] / "News", part(2))
    lines = []
    for number, q in enumerate(part(3), start=1):
        path = folders["browsecomp-vl"] / "images" / "level1" / f"level1_{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png_bytes(q.images[0]))
        where = f"browsecomp-vl/images/level1/{path.name}"
        lines.append({"question": q.text, "image_path": where, "answers": [q.answers[0]], "domain": "Geography"})
    write_atomic(folders["browsecomp-vl"] / "bc_vl_level1.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    _write_mmsearch_plus(folders["mmsearch-plus"], part(4))
    write_imeb(folders["imeb"] / "imeb.parquet", part(5))


def _write_livevqa(folder: Path, questions: Sequence[Question]) -> None:
    """Two levels an item, as published: of each item the second question is the next one's."""
    items = []
    (folder / "News_imgs").mkdir(parents=True, exist_ok=True)
    for number, (one, other) in enumerate(zip(questions[0::2], questions[1::2], strict=False)):
        levels = {}
        for level, q in ((1, one), (2, other)):
            name = f"{number}-{level}.png"
            (folder / "News_imgs" / name).write_bytes(png_bytes(q.images[0]))
            levels[f"level{level}_qa"] = {
                "question": q.text,
                "question_type": "location",
                "options": [f"A. {q.answers[0]}", "B. none of these"],
                "Ground_Truth": "A",
                "Ground_Truth_List": list(q.answers),
                "img_path": name,
                "img_url": "",
            }
        items.append({"id": str(number), "img_path": f"{number}-1.png", "source": "made", "time": None, **levels})
    write_json(folder / "benchmark.json", items)


def _write_mmsearch_plus(folder: Path, questions: Sequence[Question]) -> None:
    import pyarrow as pa

    key = hashlib.sha256(b"MMSearch-Plus").digest()

    def secret(text: str) -> str:
        return base64.b64encode(bytes(byte ^ key[n % 32] for n, byte in enumerate(text.encode()))).decode()

    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [(name, pa.string()) for name in ("arxiv_id", "video_url", "category", "difficulty", "subtask")]
    images = [(f"img_{number}", picture) for number in range(1, 6)]
    fields = [("question", pa.string()), ("answer", pa.list_(pa.string())), ("num_images", pa.int64())]
    schema = pa.schema([*fields, *texts, *images])
    rows = [
        {
            "question": secret(q.text),
            "answer": [secret(answer) for answer in q.answers],
            "num_images": 1,
            "category": "Geography",
            "img_1": {"bytes": png_bytes(q.images[0]), "path": None},
        }
        for q in questions
    ]
    path = str(folder / "data-00000-of-00001.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema))


def write_curation(path: Path, folder: Path, models_url: str) -> None:
    """Three pools; the miniature's base model is sampled, and the rule-following model asked in the filters."""
    from importlib import resources

    out = folder.parent
    base = str(resources.files("hypereyes_jax.assets") / "base")
    curation = {
        "pools": [
            {"name": "visual", "source": str(out / "photos" / "questions.jsonl"), "most": 3},
            {"name": "textual", "source": str(out / "wikidata" / "questions.jsonl"), "most": 3},
            {"name": "public", "source": str(folder / "public.jsonl")},
        ],
        "sampler": {"checkpoint": base, "max_tokens": 256},
        "filter_model": {"url": f"{models_url}/v1", "name": "offline"},
        "miniature": True,
        "budgets": [2, 4],
        "trials": 2,
        "filters": {"superfluous_rounds": None, "new_rounds": 0.0, "unsupported_claims": 1.0},
        "in_flight": 16,
        "layout": "authors",
    }
    write_atomic(path, yaml.safe_dump(curation, sort_keys=False))
