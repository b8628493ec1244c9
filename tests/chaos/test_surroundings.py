"""Every command in every surrounding: a full disk, a directory that can't be written, 64 file descriptors, closed
streams, LANG=C, no HOME, SIGINT ignored. Each works, or says what is wrong in one sentence.

`python -m tests.chaos.test_surroundings [COMMAND ...]` prints the counts.
"""

import os
import subprocess
import sys
import tempfile
from collections import Counter
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

from hypereyes_jax.env.search.store import SearchStore, StoredSearch
from hypereyes_jax.env.search.store_tools import export_store
from hypereyes_jax.files import write_json
from tests.cli.test_synth_photos import FACTS
from tests.data import photo_folders
from tests.data.wikidata_dump import entities, write_dump
from tests.eval.sample_run import write_run

BASE = Path(str(resources.files("hypereyes_jax.assets") / "base"))
MAIN = f"{sys.executable} -c 'import sys; from hypereyes_jax.cli.main import main; sys.exit(main())'"
COMMANDS = {
    "help": "--help",
    "version": "--version",
    "completion": "completion bash",
    "launch": "launch slurm --dry-run -- rl --out {out}/x",
    "dry run": f"eval {BASE} --out {{out}}/dry --splits heldout --dry-run",
    "report": "report {run} --out {out}/report.html",
    "synth": "synth --out {out}/synth --sft-questions 2 --rl-candidates 2 --eval-questions 2",
    "data check": "data check {data}/demonstrations.jsonl",
    "data show": "data show {data}/demonstrations.jsonl --out {out}/page.html",
    "data convert": "data convert {data}/demonstrations.jsonl {out}/converted",
    "store inspect": "search-store inspect {data}/s.sqlite",
    "store export": "search-store export {data}/s.sqlite {out}/s.jsonl",
    "store merge": "search-store merge {out}/new.sqlite {data}/s.sqlite",
    "store import": "search-store import {out}/new.sqlite {data}/s.jsonl",
    "store prune": "search-store prune {data}/s.sqlite --engine none",
    "export": f"export --checkpoint {BASE} --out {{out}}/model --temperature 0.8",
    "eval": f"eval {BASE} --out {{out}}/eval --splits heldout --questions 1 --slots 1 --search.transport in-process",
    "ask": "ask {data}/picture.png Which? --model-url http://127.0.0.1:9/v1 --model m --out {out}/ask.jsonl",
    "sft": f"sft --checkpoint {BASE} --demonstrations {{data}}/demonstrations.jsonl --out {{out}}/sft "
    "--settings.batch 1 --settings.epochs 1 --sizes.shard-rows 1",
    "rl": f"rl --checkpoint {BASE} --questions {{data}}/rl.jsonl --select no --out {{out}}/rl --settings.steps 1 "
    "--settings.prompts 1 --settings.group 2 --search.transport in-process --search.latency 0 --sizes.slots 2",
    "quickstart": "quickstart --smoke --out {out}/quickstart",
    "curate": "curate {data}/curation.yaml --out {out}/curated",
    "study": "study budget --out {out}/study --list",
    "serve": f"serve {BASE} --port 0 --slots 2 --context 512",
    "serve-world": "serve-world --port 0",
    "mcp": "mcp {data}/picture.png --search.service world",
    "mcp http": "mcp {data}/picture.png --search.service world --transport http --port 0",
    "reproduce": "reproduce",
    "synth photos": "synth-photos cub {data}/cub --facts {data}/facts.json --count 3 --out {out}/photos",
    "synth wikidata": "synth-wikidata {data}/dump.json.bz2 --classes Q5 --count 3 --out {out}/wikidata",
    "collect recorded": "collect {data}/rl.jsonl --trajectories {run}/trajectories-rl-heldout_serial.jsonl "
    "--out {out}/recorded",
    "push": "push {run} org/name",
    "collect": "collect {data}/rl.jsonl --out {out}/collect --model-url http://127.0.0.1:9/v1 --model m",
}
# Servers run until they are told to end, which is no failure.
ENDING = {
    "serve": "timeout --foreground --preserve-status -s INT 60 ",
    "serve-world": "timeout --foreground --preserve-status -s INT 30 ",
    "mcp http": "timeout --foreground --preserve-status -s INT 30 ",
}
AROUND = {
    "SIGINT ignored": "trap '' INT; {}",
    "output on a full disk": "{} > /dev/full",
    "closed stdout": "{} >&-",
    "closed streams": "{} < /dev/null >&- 2>&- <&-",
    "reader left": "{} | true",
    "LANG=C": "env LANG=C LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 {}",
    "no HOME": "env -u HOME -u XDG_CACHE_HOME {}",
    "HOME not there": "env HOME=/nonexistent XDG_CACHE_HOME=/nonexistent/cache {}",
    "64 descriptors": "ulimit -n 64; {}",
    "files of 8 KB": "trap '' XFSZ; ulimit -f 8; {}",
    "full disk": "{}",
    "unwritable": "{}",
}
UNWRITABLE = "/sys/kernel"  # also for root, whom permissions do not stop


def prepare(folder: Path) -> None:
    write_run(folder / "run-旗", questions=1, steps=2)
    words = COMMANDS["synth"].format(out=folder)
    subprocess.run(["bash", "-c", f"{MAIN} {words}"], check=True, capture_output=True)
    (folder / "synth").rename(folder / "data")
    store = SearchStore(folder / "data" / "s.sqlite")
    for number in range(50):
        store.put(StoredSearch("e", "text_search", f"query {number}" * 20, 3, ()))
    store.close()
    Image.new("RGB", (64, 64), "red").save(folder / "data" / "picture.png")
    nobody = {"url": "http://127.0.0.1:9/v1", "name": "m"}
    curation = {"pools": [{"name": "flags", "source": str(folder / "data" / "rl.jsonl")}], "policy": nobody}
    write_json(folder / "data" / "curation.yaml", curation | {"sampler": nobody, "filter_model": nobody})
    photo_folders.cub(folder / "data" / "cub")
    write_json(folder / "data" / "facts.json", FACTS)
    write_dump(folder / "data" / "dump.json.bz2", entities(300))
    export_store(folder / "data" / "s.sqlite", folder / "data" / "s.jsonl")
    questions = next((folder / "data").glob("rl*.jsonl"))
    if questions.name != "rl.jsonl":
        questions.rename(folder / "data" / "rl.jsonl")


def small_disk(folder: Path) -> Path | None:
    """A file system of 64 KiB; None where this process may not mount one."""
    place = folder / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], capture_output=True, check=False
    )
    return place if mounted.returncode == 0 else None


def try_one(command: str, around: str, folder: Path, disk: Path | None) -> str:
    """What became of it: "works", "told", or the fault in words."""
    out = folder / "out" / f"{command}-{around}".replace(" ", "-").replace("=", "-")
    if around == "unwritable":
        out = Path(UNWRITABLE)
    elif around == "full disk":
        if disk is None:
            return "not tried"
        out = disk
    else:
        out.mkdir(parents=True)
    words = COMMANDS[command].format(out=out, run=folder / "run-旗", data=folder / "data")
    log = folder / "stderr"
    shell = AROUND[around].format(f"{ENDING.get(command, '')}{MAIN} {words}")
    redirected = shell if "2>&-" in shell else f"{{ {shell}; }} 2> {log}"
    log.write_text("")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    try:
        done = subprocess.run(
            ["bash", "-c", redirected], capture_output=True, timeout=400, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    finally:
        if around == "full disk" and disk is not None:
            subprocess.run(["bash", "-c", f"rm -rf {disk}/*"], check=False)
    said = log.read_text(errors="replace")
    if "Traceback" in said or "Exception ignored" in said:
        return f"traceback: {said[-600:]}"
    if done.returncode == 0 or (command in ENDING and done.returncode == 130):  # 130: it ended before it was ready
        return "works"
    if done.returncode != 2:
        return f"code {done.returncode}: {said[-400:]}"
    if "2>&-" in shell:
        return "told"
    last = [line for line in said.splitlines() if line.startswith("hypereyes: ")]
    return "told" if len(last) == 1 else f"no one sentence: {said[-400:]}"


def run(commands: list[str], arounds: list[str]) -> tuple[Counter[str], list[str]]:
    counts, faults = Counter[str](), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        disk = small_disk(folder)
        try:
            for command in commands:
                for around in arounds:
                    outcome = try_one(command, around, folder, disk)
                    counts[outcome.partition(":")[0]] += 1
                    if outcome not in ("works", "told", "not tried"):
                        faults.append(f"{command}, {around}: {outcome}")
                        print(faults[-1], flush=True)
        finally:
            if disk is not None:
                subprocess.run(["umount", disk], check=False)
    return counts, faults


@pytest.mark.chaos
def test_every_command_in_every_surrounding_works_or_says_one_sentence():
    counts, faults = run(list(COMMANDS), list(AROUND))
    print(dict(counts))
    assert faults == []


if __name__ == "__main__":
    total, wrong = run(sys.argv[1:] or list(COMMANDS), list(AROUND))
    print(f"{total.total()} commands in their surroundings: {dict(total)}")
