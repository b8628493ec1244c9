"""How long a made Wikidata dump of 200,000 entities takes to read, in what memory, and how fast walks are then.

    python benchmarks/wikidata.py [--entities 200000] [--filler 2000] [--suffix gz]

The dump is made in the real format (tests/data/wikidata_dump.py); `filler` adds characters to each entity, since real
ones carry labels in many languages. The peak memory is that of a process of its own that only reads.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from hypereyes_jax.data.wikidata import Graph, read_dump
from hypereyes_jax.data.wikidata.questions import make_questions
from hypereyes_jax.data.wikidata.walks import WalkConfig
from tests.data.wikidata_dump import entities, write_dump


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entities", type=int, default=200_000)
    parser.add_argument("--filler", type=int, default=2_000)
    parser.add_argument("--suffix", choices=("json", "gz", "bz2"), default="gz")
    parser.add_argument("--read", nargs=2, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        read(*options.read)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"dump.{options.suffix}"
        made = write_dump(path, entities(options.entities, filler=options.filler))
        print(f"dump: {made:,} entities, {path.stat().st_size / 2**20:,.0f} MiB as {options.suffix}")
        graph = Path(folder) / "graph.sqlite"
        subprocess.run([sys.executable, __file__, "--read", str(path), str(graph)], check=True)
        with Graph(graph) as opened:
            start = time.perf_counter()
            questions = asyncio.run(make_questions(opened, np.random.default_rng(0), WalkConfig(), 100))
            print(
                f"questions: {len(questions)} in {time.perf_counter() - start:.1f} s; for example: {questions[0].text}"
            )


def read(path: Path, graph: Path) -> None:
    start = time.perf_counter()
    with Graph(graph) as opened:
        counts = read_dump(path, opened)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(f"read: {seconds:.1f} s, peak memory {peak:,.0f} MiB, graph {graph.stat().st_size / 2**20:,.0f} MiB")
    print("rows: " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
