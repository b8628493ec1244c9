"""How long a made Wikidata dump of 200,000 entities takes to read, in what memory, and how fast walks are then.

    python benchmarks/wikidata.py [--entities 200000] [--filler 2000] [--suffix gz]

The dump is made in the real format (tests/data/wikidata_dump.py); `filler` adds characters to each entity, since real
ones carry labels in many languages. The peak memory is that of a process of its own that only reads.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from machine_speed import Machine

from hypereyes_jax.data.wikidata import Graph, read_dump
from hypereyes_jax.data.wikidata.questions import make_questions
from hypereyes_jax.data.wikidata.walks import WalkConfig
from tests.data.wikidata_dump import entities, write_dump


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=200_000)
    parser.add_argument("--filler", type=int, default=2_000)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--suffix", choices=("json", "gz", "bz2"), default="gz")
    parser.add_argument("--read", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read(*options.read)))
        return
    machine = Machine()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"dump.{options.suffix}"
        made = write_dump(path, entities(options.entities, filler=options.filler))
        size = path.stat().st_size / 2**20
        print(f"dump: {made:,} entities, {size:,.0f} MiB as {options.suffix}", flush=True)
        graph = Path(folder) / "graph.sqlite"
        words = [sys.executable, __file__, "--read", str(path), str(graph)]
        figures = json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
        for name in ("read_seconds", "peak_mib", "graph_mib"):
            print(f"{name}: {figures[name]:,.1f}")
        print("rows: " + ", ".join(f"{name} {count:,}" for name, count in figures["rows"].items()), flush=True)
        with Graph(graph) as opened:
            start = time.perf_counter()
            questions = asyncio.run(make_questions(opened, np.random.default_rng(0), WalkConfig(), options.questions))
            seconds = time.perf_counter() - start
        print(f"questions: {len(questions)} in {seconds:.1f} s; for example: {questions[0].text}")
    figures |= {"entities": made, "dump_mib": size, "questions": len(questions), "questions_seconds": seconds}
    print(json.dumps(figures | {"machine": machine.figures()}))


def read(path: Path, graph: Path) -> dict[str, Any]:
    """Seconds, the peak memory of this process, and what the graph holds."""
    start = time.perf_counter()
    with Graph(graph) as opened:
        counts = read_dump(path, opened)
    return {
        "read_seconds": time.perf_counter() - start,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10,
        "graph_mib": graph.stat().st_size / 2**20,
        "rows": counts,
    }


if __name__ == "__main__":
    main()
