"""Damaged files of every kind that a run, a data set, a store or a model has: each is read, or refused by name.

`python -m tests.chaos.test_damaged_files 10000` prints the counts.
"""

import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hypereyes_jax.data import open_examples, open_questions
from hypereyes_jax.data.demonstration import Example
from hypereyes_jax.data.files import write_examples, write_questions
from hypereyes_jax.data.selection import Try
from hypereyes_jax.env.search.backends.mapping import read_mapping
from hypereyes_jax.env.search.store import SearchStore, StoredSearch
from hypereyes_jax.env.search.store_tools import export_store, import_store
from hypereyes_jax.env.types import SearchHit
from hypereyes_jax.env.world import World
from hypereyes_jax.errors import UserError
from hypereyes_jax.eval.agent import read_picture
from hypereyes_jax.eval.records import read_records
from hypereyes_jax.eval.report import collect, render
from hypereyes_jax.eval.rollout_files import read_rollouts, rollout_steps, write_rollouts
from hypereyes_jax.eval.run_files import read_cost, read_stages
from hypereyes_jax.eval.split import world_questions
from hypereyes_jax.eval.tables import costs_table, results_table
from hypereyes_jax.files import write_json
from hypereyes_jax.models.pretrained import load_model
from hypereyes_jax.rl.references import ReferenceFileError, ReferenceStore
from hypereyes_jax.runs.run_directory import RunDirectory
from hypereyes_jax.train.question_selection import SELECTION, TRIES, read_selection
from hypereyes_jax.train.try_log import TryLog
from tests.chaos.damage import damage
from tests.eval.sample_run import write_run

SECONDS = 120.0  # for one file, on a machine that is very busy; what waits for ever is found by any bound
MAPPING = Path(str(resources.files("hypereyes_jax.env.search.backends") / "mappings" / "serper.yaml"))
MODEL = Path(str(resources.files("hypereyes_jax.assets") / "base"))


@dataclass(frozen=True)
class Subject:
    """A kind of file: where it is, what it holds, who reads it."""

    name: str
    read: Any  # given the folder
    lines: bool = False
    text: bool = True
    weight: float = 1.0  # how often it is drawn


def report(folder: Path) -> None:
    render(collect(folder))


def tables(folder: Path) -> None:
    stages = read_stages(folder / "metrics.json")
    Console(quiet=True).print(results_table(stages), costs_table(stages))


def opened(folder: Path) -> None:
    RunDirectory.open(folder, "quickstart", {"seed": 0, "groups": 16, "group_size": 8}).close()


def questions(folder: Path) -> None:
    with open_questions(folder / "questions.jsonl") as rows:
        for number in range(len(rows)):
            _ = rows[number]


def examples(folder: Path) -> None:
    with open_examples(folder / "demonstrations.jsonl") as rows:
        for number in range(len(rows)):
            _ = rows[number]


def tries(folder: Path) -> None:
    TryLog("policy", folder / TRIES, [folder / TRIES])


def stored(folder: Path) -> None:
    store = SearchStore(folder / "searches.sqlite")
    try:
        list(store.searches())
        store.runs()
    finally:
        store.close()
        for name in ("searches.sqlite-wal", "searches.sqlite-shm"):
            (folder / name).unlink(missing_ok=True)


def imported(folder: Path) -> None:
    try:
        import_store(folder / "imported.sqlite", folder / "searches.jsonl")
    finally:
        (folder / "imported.sqlite").unlink(missing_ok=True)


SUBJECTS = [
    Subject("config.json", report),
    Subject("config.json", opened),
    Subject("starts.jsonl", opened, lines=True),
    Subject("metrics.json", report),
    Subject("metrics.json", tables),
    Subject("metrics.jsonl", report, lines=True),
    Subject("timeline-rl.json", report),
    Subject("trajectories-rl-heldout.jsonl", report, lines=True, weight=2.0),
    Subject("rollouts/step-000001.jsonl.gz", report, text=False),
    Subject(SELECTION, lambda folder: read_selection(folder / SELECTION)),
    Subject(TRIES, tries, lines=True),
    Subject("references.json", lambda folder: ReferenceStore.load(folder / "references.json")),
    Subject("cost.json", lambda folder: read_cost(folder / "cost.json")),
    Subject("questions.jsonl", questions, lines=True),
    Subject("demonstrations.jsonl", examples, lines=True),
    Subject("searches.sqlite", stored, text=False),
    Subject("searches.jsonl", imported, lines=True),
    Subject("search.yaml", lambda folder: read_mapping(str(folder / "search.yaml")), text=False),
    Subject("picture.png", lambda folder: read_picture(folder / "picture.png"), text=False),
    Subject("model/config.json", lambda folder: load_model(folder / "model"), weight=0.03),
    Subject("model/model.safetensors", lambda folder: load_model(folder / "model"), text=False, weight=0.03),
    Subject("model/tokenizer.json", lambda folder: load_model(folder / "model"), weight=0.03),
]


def whole(folder: Path) -> Path:
    """A folder with one small whole file of each kind."""
    write_run(folder, questions=1, steps=2)
    (folder / "timeline-base-heldout.json").unlink()
    for path in folder.glob("trajectories-*.jsonl"):
        if path.name != "trajectories-rl-heldout.jsonl":
            path.unlink()
    shutil.rmtree(folder / "tensorboard")
    write_rollouts(folder, 1, list(read_records(folder / "trajectories-rl-heldout.jsonl")), 2**20)
    write_json(folder / SELECTION, {"references": {"a": [2, 4]}, "left_out": {"b": "no try is right"}})
    write_json(folder / "cost.json", {"seconds": 3.5, "peak_gib": 1.0})
    log = TryLog("policy", folder / TRIES, [])
    for attempt in range(3):
        log.add("question", attempt, Try(1, 2, attempt == 2), "a")
    ReferenceStore({"a": (2, 4)}).save(folder / "references.json")
    asked = world_questions(World.load(), "seen", 2, 0)
    write_questions(folder / "questions.jsonl", asked)
    write_examples(folder / "demonstrations.jsonl", [Example("e", "system", (("look", *asked[0].images),), ("done",))])
    store = SearchStore(folder / "searches.sqlite")
    for query in ("Oslo", "Lima"):
        store.put(StoredSearch("engine", "text_search", query, 3, (SearchHit("Title", "text", 0.5, "https://x"),)))
    store.end_run("run", "record", {"sent": 2})
    store.close()
    export_store(folder / "searches.sqlite", folder / "searches.jsonl")
    shutil.copyfile(MAPPING, folder / "search.yaml")
    asked[0].images[0].save(folder / "picture.png")
    shutil.copytree(MODEL, folder / "model")
    return folder


class Hang(Exception):
    """A file that is read for too long."""


def _hang(*_: object) -> None:
    raise Hang


def try_one(draw: random.Random, source: Path, folder: Path) -> tuple[str, str]:
    """Damage one file and read it. Returns what came of it, and what was done."""
    subject = draw.choices(SUBJECTS, [each.weight for each in SUBJECTS])[0]
    target = folder / subject.name
    way = damage(draw, target, subject.lines, subject.text)
    what = f"{subject.name} ({way})"
    signal.signal(signal.SIGALRM, _hang)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        subject.read(folder)
    except Hang:
        return "hang", what
    except (UserError, ReferenceFileError, FileNotFoundError) as error:
        if isinstance(error, FileNotFoundError) and subject.name != "references.json":
            return f"traceback: {type(error).__name__}: {error}", what
        named = target.name in str(error) or target.parent.name in str(error)
        return ("refused" if named else f"unnamed: {error}"), what
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"[:300], what
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        if target.is_dir() and not target.is_symlink():
            target.rmdir()
        else:
            target.unlink(missing_ok=True)
        shutil.copyfile(source / subject.name, target)
    return "read", what


def run(count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """Counts of what came of so many damaged files, and the faults in words."""
    draw, counts, faults = random.Random(seed), Counter(), []
    with tempfile.TemporaryDirectory() as name:
        source = whole(Path(name) / "whole")
        folder = Path(name) / "folder"
        shutil.copytree(source, folder)
        for number in range(count):
            outcome, what = try_one(draw, source, folder)
            kind = outcome.partition(":")[0]
            counts[kind] += 1
            if kind not in ("read", "refused"):
                faults.append(f"{number}: {what}: {outcome}")
    return counts, faults


def test_a_few_damaged_files_are_read_or_refused_by_name():
    _, faults = run(150)
    assert faults == []


@pytest.mark.chaos
def test_ten_thousand_damaged_files_are_read_or_refused_by_name():
    counts, faults = run(10_000, seed=1)
    print(dict(counts))
    assert faults == []


def test_whole_files_are_read(tmp_path):
    folder = whole(tmp_path / "whole")
    for subject in SUBJECTS:
        subject.read(folder)
    assert len(list(read_rollouts(rollout_steps(folder)[0][1]))) == 1


if __name__ == "__main__":
    began = time.monotonic()
    total, wrong = run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    print("\n".join(wrong[:100]))
    print(f"{total.total()} damaged files in {time.monotonic() - began:.0f} s: {dict(total)}")
