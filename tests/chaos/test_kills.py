"""kill -9 and SIGTERM at random moments, over every command that writes: the same command again ends as undisturbed.

`python -m tests.chaos.test_kills 100 20 [NAME ...]` does so many of each and prints the counts. Commands of minutes are
killed several times in one directory, one after another: `python -m tests.chaos.test_kills in-a-row 4 [NAME ...]`.
Kills of one run of `rl` or `sft` again and again, with weights compared, are in tests/cli/test_rl_killed.py and
test_stopped.py, those of quickstart in tests/cli/test_quickstart.py.
"""

import contextlib
import csv
import gzip
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from aiohttp import web
from PIL import Image

from hypereyes_jax.data.files import write_questions
from hypereyes_jax.env.search.store import SearchStore, StoredSearch
from hypereyes_jax.env.types import Question
from hypereyes_jax.env.world import World
from hypereyes_jax.eval.records import read_records
from hypereyes_jax.eval.run_files import REFERENCES_LOG
from hypereyes_jax.files import write_json
from hypereyes_jax.study.results import read_references
from tests.chaos.forked_commands import Ended, ForkedCommands
from tests.cli.test_collect import LOOK, READ, RIGHT, parquet
from tests.cli.test_synth_photos import FACTS
from tests.data import photo_folders
from tests.data.wikidata_dump import entities, write_dump
from tests.eval.sample_run import write_run
from tests.serving import served

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
# What says when and how it ran, and not what came of it.
_NOT_COMPARED = {"config.json", "starts.jsonl", ".lock", "cost.json", "services.json"}
_OF_THE_WAY = re.compile(r"checkpoints|tensorboard|(^|/)logs/")
_BY_REPLIES = (
    "ask",
    "attempts",
    "conversations",
    "benchmark-",
    "rl_tries",
    "trajectories",
)  # rows in the order of replies
_PORT = re.compile(r"127\.0\.0\.1:\d+")
_KEYED = re.compile(r"parts/[0-9a-f]{12}-")  # a key of the settings, of which `out` is one
_OF_A_RUN = re.compile(r"(compile_)?seconds|minutes|latency_p\d+|run")  # keys of rows
# Of Adam's 3e-4: where a gradient is all but zero, dividing by its size makes much of its rounding.
_PART_OF_A_STEP = 1e-5
_TIMED = ("timeline", "metrics")  # hold seconds: compared by their presence


@dataclass(frozen=True)
class Target:
    """A command that writes to `{out}`."""

    name: str
    words: str
    copies: tuple[str, ...] = ()
    """Files of the inputs that it changes: `{out}` begins with a copy of each."""
    alone: bool = False
    """In a process of its own: `plan` chooses its devices before jax is imported."""


TARGETS = [
    Target("synth", "synth --out {out} --sft-questions 6 --rl-candidates 4 --eval-questions 4"),
    Target("export", f"export --checkpoint {BASE} --out {{out}}/model --temperature 0.8"),
    Target("report", "report {run} --out {out}/report.html"),
    Target("eval", f"eval {BASE} --out {{out}} --splits heldout --questions 2 --slots 2 --search.transport in-process"),
    Target(
        "sft",
        f"sft --checkpoint {BASE} --demonstrations {{data}}/demonstrations.jsonl --out {{out}} --settings.batch 1 "
        "--settings.epochs 1 --settings.checkpoint-every 2 --sizes.shard-rows 1",
    ),
    Target(
        "rl",
        f"rl --exact --checkpoint {BASE} --questions {{data}}/rl.jsonl --select no --out {{out}} --settings.steps 2 "
        "--settings.prompts 1 --settings.group 2 --settings.checkpoint-every 1 --search.transport in-process "
        "--search.latency 0 --sizes.slots 2",
    ),
    Target("convert", "data convert {data}/demonstrations.jsonl {out}/converted"),
    Target("show", "data show {data}/demonstrations.jsonl --out {out}/page.html"),
    Target("collect", "collect {data}/recorded.jsonl --trajectories {data}/recorded-run.jsonl --out {out}"),
    Target("ask", "ask {data}/picture.png Which? --model-url {model}/v1 --model m --out {out}/ask.jsonl"),
    Target(
        "collect-served",
        "collect {data}/questions.parquet --model-url {model}/v1 --model m --settings.budgets 1 2 "
        "--settings.selection 2 --out {out}",
    ),
    Target("curate", "curate {data}/curation.yaml --out {out}"),
    Target("store-export", "search-store export {data}/s.sqlite {out}/s.jsonl"),
    Target("store-import", "search-store import {out}/s.sqlite {data}/s.jsonl"),
    Target("store-merge", "search-store merge {out}/s.sqlite {data}/s.sqlite"),
    Target("photos", "synth-photos cub {data}/cub --facts {data}/facts.json --count 3 --out {out}/photos"),
    Target("wikidata", "synth-wikidata {data}/dump.json.bz2 --classes Q5 --count 3 --out {out}/wikidata"),
    Target("store-prune", "search-store prune {out}/s.sqlite --engine e", ("s.sqlite",)),
]
LONG = [
    Target(
        "pretrain-world",
        "pretrain-world --out {out} --reading-steps 2 --looking-steps 1 --clean-steps 1 --steps 1 "
        "--again-clean-steps 1 --again-steps 1 --rows-of-512 2",
    ),
    Target(
        "make-teacher",
        "make-teacher --out {out} --base-steps 1 --sft-questions 8 --rl-candidates 4 --sft.epochs 1 --sft.batch 4 "
        "--rl.steps 1 --rl.prompts 1 --rl.group 4",
    ),
    Target("study", f"study budget --policy {BASE} --test-questions 4 --out {{out}}"),
    Target("plan", "plan miniature --mesh cpu --out {out}/plan.json", alone=True),
    Target("reproduce", "reproduce --small --out {out}"),
]


async def answer_chat(request: web.Request) -> web.Response:
    """A model that says the same to the same conversation: it looks, reads and answers, and (0) it knows unaided."""
    body = await request.json()
    turns = sum(message["role"] == "assistant" for message in body["messages"])
    if "nothing else" in str(body["messages"][0]["content"]):
        text = "Niamey" if "(0)" in str(body["messages"]) else "I do not know"
    else:
        text = (LOOK, READ, RIGHT)[min(turns, 2)]
    message = {"role": "assistant", "content": text}
    return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})


def call(
    forked: ForkedCommands, target: Target, folder: Path, out: Path, ending: tuple[signal.Signals, float] | None = None
) -> Ended:
    if not out.exists():
        out.mkdir()
        for name in target.copies:
            shutil.copy(folder / "data" / name, out)
    places = {"out": out, "run": folder / "run", "data": folder / "data"}
    words = target.words.format(**places, model=(folder / "model-url").read_text()).split()
    return call_alone(words, out, ending) if target.alone else forked.call(words, 1800, ending=ending)


def call_alone(words: list[str], out: Path, ending: tuple[signal.Signals, float] | None) -> Ended:
    """As `ForkedCommands.call`, with caches that only the calls to one `out` share."""
    environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
    environment["XDG_CACHE_HOME"] = str(out.with_name(f"cache-{out.name}"))
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        command = [sys.executable, "-m", "hypereyes_jax", *words]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            process.wait(1800 if ending is None else ending[1])
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL if ending is None else ending[0])
        code = process.wait()
        output.seek(0)
        return Ended(code, output.read())


def finish(forked: ForkedCommands, target: Target, folder: Path, out: Path) -> float:
    """Run to the end. Returns the seconds it took."""
    began = time.monotonic()
    ended = call(forked, target, folder, out)
    assert ended.code == 0, ended.said[-3000:]
    return time.monotonic() - began


def content(out: Path) -> dict[str, bytes]:
    """What a command left, by name. What is half-written has a name that no whole file has."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if path.name in _NOT_COMPARED or not path.is_file() or _OF_THE_WAY.search(name):
            continue
        if path.name.endswith(("-wal", "-shm")):  # SQLite's own, beside a database that is open
            continue
        found[_KEYED.sub("parts/", name)] = _told(path, out)
    return found


def _told(path: Path, out: Path) -> bytes:
    """What a file tells of a result: without seconds and places, and of a step that was made twice the later row."""
    if path.name.startswith(_TIMED):
        return b""
    if path.suffix == ".sqlite":
        return _rows(path)
    if path.name == REFERENCES_LOG:
        return repr(read_references(path.parent)).encode()
    if path.suffix not in (".json", ".jsonl", ".gz", ".yaml", ".csv"):
        return path.read_bytes()
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as text:
        said = _PORT.sub("127.0.0.1", text.read().replace(str(out), ""))
    if path.suffix == ".csv":
        table = list(csv.DictReader(said.splitlines()))
        return repr([{key: row[key] for key in row if key != "seconds"} for row in table]).encode()
    if path.name == "search_budget.json":
        return json.dumps(json.loads(said) | {"name": ""}).encode()  # drawn at random for a run
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(said))).encode()
    if path.suffix == ".yaml":
        return said.encode()
    rows = [json.dumps(_timeless(json.loads(row))) for row in said.splitlines()]
    if path.name == "ask.jsonl":
        rows = list(set(rows))  # what is asked again stands twice
    return repr(sorted(rows) if path.name.startswith(_BY_REPLIES) else rows).encode()


def differing(one: dict[str, bytes], other: dict[str, bytes], rounding: bool = False) -> list[str]:
    """Names of what differs.

    Args:
      rounding: weights of RL without --exact may differ by float32's rounding, which depends on who is played beside.
    """
    names = sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
    return [n for n in names if not (rounding and n.endswith(".safetensors") and _close(one.get(n), other.get(n)))]


def _close(one: bytes | None, other: bytes | None) -> bool:
    if one is None or other is None:
        return False
    ours, theirs = (safetensors.numpy.load(weights) for weights in (one, other))
    return ours.keys() == theirs.keys() and all(
        np.allclose(ours[n], theirs[n], rtol=0, atol=_PART_OF_A_STEP) for n in ours
    )


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(each) for key, each in value.items() if not _OF_A_RUN.fullmatch(key)}
    return [_timeless(each) for each in value] if isinstance(value, list) else value


def _rows(path: Path) -> bytes:
    """What a database holds, whatever the order of its pages."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
        return repr([(n, sorted(database.execute(f'select * from "{n}"'), key=repr)) for n in sorted(tables)]).encode()


def prepare(forked: ForkedCommands, folder: Path, model: str) -> None:
    data = folder / "data"
    (folder / "model-url").write_text(model)
    write_run(folder / "run", questions=2, steps=2)
    finish(
        forked, Target("data", "synth --out {out} --sft-questions 6 --rl-candidates 2 --eval-questions 2"), folder, data
    )
    next(data.glob("rl*.jsonl")).rename(data / "rl.jsonl")
    store = SearchStore(data / "s.sqlite")
    for number in range(2000):
        store.put(StoredSearch("e", "text_search", f"query {number}" * 20, 3, ()))
    store.close()
    finish(forked, Target("export", "search-store export {data}/s.sqlite {out}/s.jsonl"), folder, folder / "store")
    (folder / "store" / "s.jsonl").rename(data / "s.jsonl")
    shutil.copy(next((folder / "run").glob("trajectories*.jsonl")), data / "recorded-run.jsonl")
    photo_folders.cub(data / "cub")
    write_json(data / "facts.json", FACTS)
    write_dump(data / "dump.json.bz2", entities(3000))
    texts = {record.question for record in read_records(data / "recorded-run.jsonl")}
    rows = [{"id": str(number), "question": text, "answer": "a"} for number, text in enumerate(sorted(texts))]
    (data / "recorded.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (64, 64), "red").save(data / "picture.png")
    parquet(data / "questions.parquet", 6)
    flag = World.load().flag("ne").convert("RGB")
    asked = [Question(f"q{n}", f"What is the capital of this country ({n})?", (flag,), ("Niamey",)) for n in range(6)]
    write_questions(data / "pool.jsonl", asked)
    served_model = {"url": f"{model}/v1", "name": "m"}
    roles = {"sampler": served_model, "policy": served_model}
    pools = [{"name": "flags", "source": str(data / "pool.jsonl")}]
    write_json(data / "curation.yaml", {"pools": pools, **roles, "budgets": [1, 2], "in_flight": 2})


def run(kills: int, terms: int, seed: int = 0, targets: list[Target] = TARGETS) -> tuple[Counter[str], list[str]]:
    """Counts of what came of the kills and SIGTERMs, and the faults in words."""
    draw, counts, faults = random.Random(seed), Counter[str](), []
    with (
        tempfile.TemporaryDirectory() as name,
        ForkedCommands() as forked,
        served("/v1/chat/completions", answer_chat) as model,
    ):
        folder = Path(name)
        prepare(forked, folder, model)
        wholes, seconds = {}, {}
        for target in targets:
            # Twice into one folder: an existing result is left or replaced, and a warm start takes its usual time.
            finish(forked, target, folder, folder / f"whole-{target.name}")
            wholes[target.name] = content(folder / f"whole-{target.name}")
            seconds[target.name] = finish(forked, target, folder, folder / f"timed-{target.name}")
        for number in range(kills + terms):
            target = targets[number % len(targets)]
            ending = signal.SIGKILL if number < kills else signal.SIGTERM
            out = folder / f"out-{number}"
            moment = draw.uniform(0, seconds[target.name])
            ended = call(forked, target, folder, out, (ending, moment))
            what = f"{target.name}, {ending.name} after {moment:.2f} s of {seconds[target.name]:.2f}"
            if ending is signal.SIGTERM and ended.code not in (0, 75, -signal.SIGTERM):
                faults.append(f"{what}: code {ended.code}: {ended.said[-300:]}")
            if "Traceback" in ended.said:
                faults.append(f"{what}: {ended.said[-300:]}")
            try:
                finish(forked, target, folder, out)
            except AssertionError as error:
                if "is not empty" in str(error) and content(out) == wholes[target.name]:
                    counts["same"] += 1  # it was done, and no command writes over that
                    continue
                faults.append(f"{what}: the same command failed: {str(error)[-500:]}")
                counts["failed"] += 1
                continue
            names = differing(content(out), wholes[target.name])
            counts["different" if names else "same"] += 1
            counts["ended before the signal"] += ended.code == 0
            faults += [f"{what}: {names} differ"] if names else []
            shutil.rmtree(out)
            if __name__ == "__main__":
                print(f"{number + 1}: {what}: {ended.code}", flush=True)
    return counts, faults


def run_in_a_row(kills: int, seed: int = 0, targets: list[Target] = LONG) -> tuple[Counter[str], list[str]]:
    """As `run`, with all kills of a command in one directory, spread over about its time."""
    draw, counts, faults = random.Random(seed), Counter[str](), []
    with tempfile.TemporaryDirectory() as name, ForkedCommands() as forked:
        folder = Path(name)
        (folder / "model-url").write_text("")
        for target in targets:
            whole, killed = folder / f"whole-{target.name}", folder / f"killed-{target.name}"
            seconds = finish(forked, target, folder, whole)
            for number in range(kills):
                moment = draw.uniform(0, 1.5 * seconds / kills)
                ended = call(forked, target, folder, killed, (signal.SIGKILL, moment))
                if ended.code != -signal.SIGKILL:
                    counts["ended before the signal"] += ended.code == 0
                    faults += [] if ended.code == 0 else [f"{target.name}, start {number}: {ended.said[-500:]}"]
            finish(forked, target, folder, killed)
            names = differing(content(whole), content(killed), rounding=True)
            counts["different" if names else "same"] += 1
            faults += [f"{target.name} after {kills} kills: {names} differ"] if names else []
    return counts, faults


@pytest.mark.chaos
def test_a_hundred_kills_and_twenty_terms_change_nothing():
    counts, faults = run(100, 20)
    print(dict(counts))
    assert faults == []


@pytest.mark.chaos
def test_long_commands_killed_again_and_again_end_as_undisturbed():
    counts, faults = run_in_a_row(4)
    print(dict(counts))
    assert faults == []


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if sys.argv[1] == "in-a-row":
        chosen = [target for target in LONG if not sys.argv[3:] or target.name in sys.argv[3:]]
        total, wrong = run_in_a_row(int(sys.argv[2]), targets=chosen)
        counted = f"{sys.argv[2]} kills of each in a row"
    else:
        chosen = [target for target in TARGETS if not sys.argv[3:] or target.name in sys.argv[3:]]
        total, wrong = run(int(sys.argv[1]), int(sys.argv[2]), targets=chosen)
        counted = f"{sys.argv[1]} kills and {sys.argv[2]} SIGTERMs"
    print("\n".join(wrong))
    print(f"{counted}: {dict(total)}")
