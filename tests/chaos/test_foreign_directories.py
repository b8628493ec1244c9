"""Commands given again over directories that are damaged, incomplete, mixed, or another run's.

Each command first leaves a small directory, finished or half finished. Then one thing in it is damaged, and the same
command is given again. It ends as undisturbed, or with one sentence that names what is wrong.

`python -m tests.chaos.test_foreign_directories 500 SEED [NAME ...]` prints the counts.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from hypereyes_jax.cli import quickstart
from hypereyes_jax.files import read_json_object, write_json
from hypereyes_jax.runs.run_directory import RunDirectory, to_jsonable
from hypereyes_jax.runs.written_models import note_model
from hypereyes_jax.study.registry import STUDIES
from hypereyes_jax.study.types import StudyOptions
from tests.chaos.damage import damaged_bytes, damaged_value
from tests.chaos.forked_commands import ForkedCommands
from tests.cli.test_collect import LOOK, READ, RIGHT, parquet
from tests.cli.test_curate import WRONG
from tests.cli.test_synth_photos import FACTS
from tests.data import photo_folders
from tests.data.wikidata_dump import entities, write_dump
from tests.eval.sample_run import write_run
from tests.serving import served
from tests.study.made_results import result, write_results

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
SECONDS = 900.0  # of a command, on a machine that is very busy; what waits for ever is found by any bound
QUESTIONS = 4
# What says when and how long, and not what came of it.
_TIMES = re.compile(r"seconds|time|started|latency|engine|search|cost|^run$")


@dataclass(frozen=True)
class Command:
    """A command that continues in `{out}`."""

    name: str
    words: str
    """With {out}; {data}, what it reads; {url}, an endpoint."""
    results: tuple[str, ...]
    """Patterns of the files that it is run for."""
    other: tuple[str, str] = ("", "")
    """What in its words makes another run, and what that is replaced by."""
    halve: Callable[[Path], None] = field(default=lambda out: None)
    """Makes of a finished directory what a kill leaves."""
    make: Callable[[Path, Path, random.Random], None] | None = None
    """Makes a finished directory (out, data, seed) where the command itself would take minutes."""


def _removed(*patterns: str) -> Callable[[Path], None]:
    def halve(out: Path) -> None:
        for pattern in patterns:
            for path in list(out.glob(pattern)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return halve


def _half_lines(name: str, *patterns: str) -> Callable[[Path], None]:
    """A file of lines loses those of its second half, and what comes after it is gone."""

    def halve(out: Path) -> None:
        lines = (out / name).read_bytes().splitlines(keepends=True)
        (out / name).write_bytes(b"".join(lines[: len(lines) // 2]))
        _removed(*patterns)(out)

    return halve


def _half_training(out: Path) -> None:
    (steps,) = out.glob("*-checkpoints")
    newest = max((path for path in steps.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    shutil.rmtree(newest)
    _removed("model", "adapter")(out)


def _study(out: Path, data: Path, draw: random.Random) -> None:
    """A study whose steps are all done, by results that are made up."""
    for step in STUDIES["seeds"](StudyOptions(out=out, seeds=(0, 1))).steps:
        step.done.parent.mkdir(parents=True, exist_ok=True)
        rows = [result(number, draw.random() < 0.5, draw.randint(1, 3)) for number in range(6)]
        write_results(step.done.parent / "benchmark-model-questions.jsonl", rows)
        if not step.done.exists():
            step.done.write_text("{}")


def _quickstart(out: Path, data: Path, draw: random.Random) -> None:
    """A quickstart that has come to its end, with models and results that are made up."""
    seed = int(out.name.endswith("-other"))
    write_run(out, questions=1, steps=2)
    for path in [*data.glob("*.jsonl"), data / "synth.json"]:
        shutil.copyfile(path, out / path.name)
    settings = quickstart.smoke_settings(quickstart.QuickstartConfig(out, smoke=True, seed=seed))
    write_json(out / "config.json", read_json_object(out / "config.json") | {"config": to_jsonable(settings)})
    with RunDirectory.open(out, "quickstart", settings) as run:
        for name in ("sft-model", "rl-model"):
            shutil.copytree(BASE, out / name)
            (out / name / "notes").write_text(str(seed))
            note_model(run, name)


_TRAINING = "--settings.batch 1 --settings.epochs 1 --settings.checkpoint-every 2 --sizes.shard-rows 1"
COMMANDS = [
    Command(
        "synth",
        "synth --out {out} --sft-questions 4 --rl-candidates 2 --eval-questions 2 --seed 0",
        ("demonstrations.jsonl", "rl_candidates.jsonl", "heldout.jsonl", "seen.jsonl", "synth.json"),
        ("--seed 0", "--seed 1"),
        _removed("synth.json", "seen.jsonl"),
    ),
    Command(
        "collect",
        "collect {data}/questions.parquet --out {out} --model-url {url}/v1 --model good --settings.budgets 1 2 "
        "--settings.selection 2 --settings.in-flight 2 --settings.episode.text-min-score 0",
        ("demonstrations.jsonl", "rl_questions.jsonl", "funnel.json"),
        ("--model good", "--model bad"),
        _half_lines("attempts.jsonl", "demonstrations.jsonl", "rl_questions.jsonl", "funnel.json"),
    ),
    Command(
        "curate",
        "curate {data}/curation-good.yaml --out {out}",
        ("sft/demonstrations.jsonl", "funnel.json", "funnel.html", "authors/*"),
        ("curation-good", "curation-bad"),
        _half_lines("sft/attempts.jsonl", "sft/demonstrations.jsonl", "funnel.*"),
    ),
    Command(
        "benchmark",
        "eval {url}/v1 --model good --questions {data}/questions.parquet --out {out} --recipe miniature",
        ("benchmark-*.jsonl", "benchmarks.*"),
        ("--model good", "--model bad"),
        _half_lines("benchmark-model-questions.jsonl", "benchmarks.*"),
    ),
    Command(
        "photos",
        "synth-photos cub {data}/cub --facts {data}/facts.json --count 3 --out {out} --seed 0",
        ("questions.jsonl",),
        ("--seed 0", "--seed 1"),
        _removed("questions.jsonl", "synth_photos.json"),
    ),
    Command(
        "wikidata",
        "synth-wikidata {data}/dump.json.bz2 --classes Q5 --count 3 --out {out} --seed 0",
        ("questions.jsonl",),
        ("--seed 0", "--seed 1"),
        _removed("questions.jsonl", "synth_wikidata.json"),
    ),
    Command("study", "study seeds --out {out} --seeds 0 1 --minutes 0", ("seeds/table.csv",), make=_study),
    Command("report", "report {out}", ("report.html",), make=lambda out, data, draw: void(write_run(out, 1, 2))),
    Command("reproduce", "reproduce --small --minutes 0 --out {out}", ("inputs/*",)),
    Command(
        "eval",
        f"eval {BASE} --out {{out}} --splits heldout --questions 1 --slots 2 --search.transport in-process --seed 0",
        ("metrics.json",),
        ("--seed 0", "--seed 1"),
        _removed("metrics.json"),
    ),
    Command(
        "sft",
        f"sft --checkpoint {BASE} --demonstrations {{data}}/demonstrations.jsonl --out {{out}} {_TRAINING} "
        "--settings.seed 0",
        ("model/*", "adapter/*"),
        ("--settings.seed 0", "--settings.seed 1"),
        _half_training,
    ),
    Command(
        "rl",
        f"rl --exact --checkpoint {BASE} --questions {{data}}/rl_candidates.jsonl --select no --out {{out}} "
        "--settings.steps 2 --settings.prompts 1 --settings.group 2 --settings.checkpoint-every 1 "
        "--search.transport in-process --search.latency 0 --sizes.slots 2 --settings.seed 0",
        ("model/*",),
        ("--settings.seed 0", "--settings.seed 1"),
        _half_training,
    ),
    Command(
        "quickstart",
        "quickstart --smoke --out {out} --seed 0",
        ("metrics.json", "*-model/*"),
        ("--seed 0", "--seed 1"),
        make=_quickstart,
    ),
]
CHEAP = ("synth", "collect", "curate", "benchmark", "photos", "wikidata", "study", "report")


def void(_: object) -> None:
    pass


async def reply(request: web.Request) -> web.Response:
    """A model that knows the way, or (as "bad") never finds it."""
    body = await request.json()
    turns = sum(message["role"] == "assistant" for message in body["messages"])
    if "nothing else" in str(body["messages"][0]["content"]):
        text = "I do not know"
    else:
        text = WRONG if body["model"] == "bad" else (LOOK, READ, RIGHT)[min(turns, 2)]
    usage = {"prompt_tokens": 100, "completion_tokens": 20}
    message = {"role": "assistant", "content": text}
    return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage})


class Stage:
    """Where everything lies while commands are tried: data, whole directories, and the process that runs commands."""

    def __init__(self, folder: Path, url: str, forked: ForkedCommands):
        self.folder, self.url, self.forked = folder, url, forked
        self.data = folder / "data"
        self.wholes: dict[tuple[str, str], Path] = {}

    def words(self, command: Command, out: Path, other: bool = False) -> list[str]:
        words = command.words.replace(*command.other) if other else command.words
        return words.format(out=out, data=self.data, url=self.url).split()

    def finish(self, words: list[str]) -> None:
        ended = self.forked.call(words)
        assert ended.code == 0, f"{words}: {ended.said[-3000:]}"

    def prepare(self, names: Sequence[str]) -> None:
        if {"sft", "rl", "quickstart"} & set(names):
            self.finish(self.words(COMMANDS[0], self.data))
        self.data.mkdir(exist_ok=True)
        parquet(self.data / "questions.parquet", QUESTIONS)
        photo_folders.cub(self.data / "cub")
        write_json(self.data / "facts.json", FACTS)
        write_dump(self.data / "dump.json.bz2", entities(300))
        for name in ("good", "bad"):
            model = {"url": f"{self.url}/v1", "name": name}
            plan = {
                "pools": [{"name": "flags", "source": str(self.data / "questions.parquet")}],
                "sampler": model, "filter_model": {**model, "name": "bad"}, "policy": model,
                "budgets": [1, 2], "in_flight": 2, "layout": "authors",
            }  # fmt: skip
            (self.data / f"curation-{name}.yaml").write_text(json.dumps(plan))

    def whole(self, command: Command, other: bool = False) -> Path:
        """A finished directory of a command, which lies where it was made, so that paths in it stay true."""
        key = command.name, "other" if other else "finished"
        if key not in self.wholes:
            out = self.folder / f"{command.name}-{key[1]}"
            if command.make is not None:
                command.make(out, self.data, random.Random(int(other)))
            self.finish(self.words(command, out, other))
            self.wholes[key] = out
        return self.wholes[key]


def plain(value: Any) -> Any:
    """A JSON value without what says when and how long."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items() if not _TIMES.search(key)}
    return [plain(each) for each in value] if isinstance(value, list) else value


def results(command: Command, out: Path) -> dict[str, str]:
    """Digests of what a command is run for, by name."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = str(path.relative_to(out))
        if not path.is_file() or not any(fnmatch(name, pattern) for pattern in command.results):
            continue
        data = path.read_bytes()
        if path.suffix in (".json", ".jsonl"):
            with contextlib.suppress(ValueError):
                rows = [json.dumps(plain(json.loads(line))) for line in _texts(path)]
                # a benchmark's rows are in the order in which episodes ended
                data = "\n".join(sorted(rows) if command.name == "benchmark" else rows).encode()
        elif path.suffix in (".html", ".csv", ".tex"):  # they hold times and the name of the directory
            text = re.sub(rb"\d+(\.\d+)?", b"0", data.replace(str(out).encode(), b""))
            data = text if command.name != "report" else b""
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _texts(path: Path) -> list[str]:
    text = path.read_text()
    return text.splitlines() if path.suffix == ".jsonl" else [text]


def parts(out: Path) -> list[Path]:
    """The files and folders of a directory, a folder of many files no more often than a file beside it."""
    return sorted(path for path in out.rglob("*") if path.name != ".lock" and "tensorboard" not in path.parts)


def draw_part(draw: random.Random, out: Path) -> Path:
    top = draw.choice(sorted(path for path in out.iterdir() if path.name not in (".lock", "tensorboard")))
    below = [top, *parts(top)] if top.is_dir() else [top]
    return draw.choice(below)


def damage(draw: random.Random, path: Path, other: Path | None, others: list[Path]) -> str:
    """Damages one file or folder. Returns how, in words.

    Args:
      other: what lies at its place in another run of the command.
      others: other files of the same directory.
    """
    how = draw.choice(
        ["removed", "emptied", "cut", "bytes", "bytes", "shape", "shape", "another run's", "another run's",
         "another file", "a folder", "a loop", "a dead link", "a FIFO", "unreadable", "longer"]
    )  # fmt: skip
    is_folder = path.is_dir()
    data = b"" if is_folder else path.read_bytes()
    if how == "another run's" and other is not None and other.exists():
        _remove(path)
        shutil.copytree(other, path) if other.is_dir() else shutil.copyfile(other, path)
        return how
    if how == "unreadable":
        path.chmod(0)
        return how
    if how == "another file" and others:
        _remove(path)
        chosen = draw.choice(others)
        shutil.copytree(chosen, path) if chosen.is_dir() else shutil.copyfile(chosen, path)
        return f"{chosen.name} in its place"
    if how == "shape" and path.suffix in (".json", ".jsonl"):
        rows = _texts(path) or ["{}"]
        number = draw.randrange(len(rows))
        rows[number] = json.dumps(damaged_value(draw, json.loads(rows[number])))
        path.write_text("\n".join(rows) + "\n")
        return f"a value of line {number + 1}"
    if how == "emptied" and is_folder:
        _remove(path)
        path.mkdir()
        return how
    if how in ("cut", "bytes", "emptied", "longer", "shape") and not is_folder:
        path.write_bytes({
            "cut": data[: draw.randrange(len(data) + 1)], "emptied": b"", "longer": data + data[-50:],
        }.get(how, damaged_bytes(draw, data)))  # fmt: skip
        return how
    _remove(path)
    if how == "a folder":
        if is_folder:
            path.write_text("x\n")
            return "a file"
        path.mkdir()
        (path / "x").write_text("x\n")
    elif how == "a loop":
        path.symlink_to(path)
    elif how == "a dead link":
        path.symlink_to(path.with_name("nothing"))
    elif how == "a FIFO":
        os.mkfifo(path)
    else:
        return "removed"
    return how


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def disturb_place(draw: random.Random, out: Path) -> tuple[str, str]:
    """Changes what a directory is, and nothing that lies in it but its lock. Returns what was changed, and how."""
    how = draw.choice(
        ["a link to it", "a dead process's lock", "read-only", "a link for a lock", "a file in its place"]
    )
    moved = out.with_name(f"{out.name}-moved")
    _remove(moved)
    if how == "a link to it":
        out.rename(moved)
        out.symlink_to(moved)
    elif how == "a dead process's lock":
        (out / ".lock").write_text('{"process": 4194303, "host": "gone", "command": "rl", "token": "x"}')
    elif how == "read-only":
        out.chmod(0o555)
    elif how == "a link for a lock":
        _remove(out / ".lock")
        (out / ".lock").symlink_to(moved)
    else:
        shutil.rmtree(out)
        out.write_text("x\n")
    return out.name, how


def disturb(draw: random.Random, stage: Stage, command: Command, out: Path) -> tuple[str, str]:
    """Damages a directory in one way. Returns what was damaged, and how."""
    how = draw.random()
    other = stage.whole(command, other=True) if command.other[0] else None
    if how < 0.04:
        strangers = [each for each in stage.wholes if each[0] != command.name]
        if strangers:
            stranger = draw.choice(strangers)
            shutil.rmtree(out)
            shutil.copytree(stage.wholes[stranger], out, symlinks=True)
            return out.name, f"all of it {stranger[0]}'s"
    if how < 0.14 and other is not None:
        names = [path.name for path in sorted(other.iterdir()) if path.name != ".lock"]
        taken = [name for name in names if draw.random() < 0.5]
        for name in taken:
            _remove(out / name)
            source = other / name
            shutil.copytree(source, out / name) if source.is_dir() else shutil.copyfile(source, out / name)
        return ", ".join(taken), "another run's"
    if how < 0.2 and (out / "config.json").exists():
        value = json.loads((out / "config.json").read_text())
        act = draw.choice(["a setting more", "a setting less", "other versions", "no settings", "another command"])
        if act == "a setting more":
            value["config"]["from_a_newer_version"] = 1
        elif act == "a setting less":
            del value["config"][draw.choice(sorted(value["config"]))]
        elif act == "other versions":
            value["versions"] = {name: "99.0" for name in value["versions"]}
        elif act == "no settings":
            value = {"command": value["command"]}
        else:
            value["command"] = "another"
        (out / "config.json").write_text(json.dumps(value))
        return "config.json", act
    if how < 0.3:
        return disturb_place(draw, out)
    path = draw_part(draw, out)
    name = path.relative_to(out)
    beside = [each for each in out.iterdir() if each != path and each.is_file() and each.name != ".lock"]
    return str(name), damage(draw, path, None if other is None else other / name, beside)


def try_one(draw: random.Random, stage: Stage, command: Command, out: Path) -> tuple[str, str]:
    """What became of one directory (a kind, with a colon and words if it is a fault), and what was done to it."""
    whole = stage.whole(command)
    _remove(out)
    # It stands where it was made: results name their directory.
    shutil.copytree(whole, out, symlinks=True)
    half = draw.random() < 0.5
    if half:
        command.halve(out)
    name, how = disturb(draw, stage, command, out)
    what = f"{command.name}, {'half' if half else 'finished'}: {name}: {how}"
    before = {path for path in out.rglob("*") if path.is_file()}
    ended = stage.forked.call(stage.words(command, out), SECONDS, without_rights=how in ("unreadable", "read-only"))
    said = ended.said
    if ended.code is None:
        return "hang: " + said[-300:], what
    if "Traceback" in said or "Exception ignored" in said:
        return "traceback: " + said[-700:], what
    gone = [path for path in before if not os.path.lexists(path)]
    # checkpoints make room for others, and a model takes the place of the one before whole
    kept = [path for path in gone if not re.search(r"\.part|-checkpoints|/(model|adapter)/", str(path))]
    if any(path.relative_to(out).name != name for path in kept):
        return f"deleted: {gone[:3]}", what
    if ended.code == 0:
        same = results(command, out) == results(command, whole)
        if same or "are left" in said:
            return "same", what
        if how.startswith("a value") or how == "bytes":
            return "edited", what  # a file that is whole, and says something else: nobody can tell
        now, then = results(command, out), results(command, whole)
        return f"different: {sorted(n for n in {*now, *then} if now.get(n) != then.get(n))}: {said[-200:]}", what
    last = [line for line in said.splitlines() if line.startswith("hypereyes: ")]
    if ended.code != 2 or len(last) != 1:
        return f"code {ended.code}: {said[-400:]}", what
    words = [out.name, *Path(name.partition(",")[0]).parts]
    return ("refused" if any(word in last[0] for word in words) else f"unnamed: {last[0]}"), what


@contextlib.contextmanager
def staged(names: Sequence[str]) -> Iterator[Stage]:
    with (
        tempfile.TemporaryDirectory() as name,
        served("/v1/chat/completions", reply) as url,
        ForkedCommands() as forked,
    ):
        stage = Stage(Path(name), url, forked)
        stage.prepare(names)
        yield stage


def run(count: int, seed: int = 0, names: tuple[str, ...] = CHEAP) -> tuple[Counter[str], list[str]]:
    """Counts of what came of so many directories, and the faults in words."""
    draw, counts, faults = random.Random(seed), Counter[str](), []
    chosen = [command for command in COMMANDS if command.name in names]
    with staged(names) as stage:
        for number in range(count):
            command = chosen[number % len(chosen)]
            outcome, what = try_one(draw, stage, command, stage.folder / f"{command.name}-tried")
            kind = outcome.partition(":")[0]
            counts[kind] += 1
            if __name__ == "__main__" and number % 10 == 9:
                print(f"{number + 1}: {dict(counts)}", flush=True)
            if kind not in ("same", "refused", "edited"):
                faults.append(f"{number}: {what}: {outcome}")
                if __name__ == "__main__":
                    print(faults[-1], flush=True)
    return counts, faults


def test_a_few_damaged_directories_end_as_undisturbed_or_with_a_sentence():
    _, faults = run(6, 5, ("collect",))
    assert faults == []


@pytest.mark.chaos
def test_hundreds_of_damaged_directories_end_as_undisturbed_or_with_a_sentence():
    counts, faults = run(600)
    print(dict(counts))
    assert faults == []


if __name__ == "__main__":
    began = time.monotonic()
    total, wrong = run(int(sys.argv[1]), int(sys.argv[2]), tuple(sys.argv[3:]) or CHEAP)
    print(f"{total.total()} directories in {time.monotonic() - began:.0f} s: {dict(total)}")
