"""How many kernels a GPU program launches, and how often it stops for the host, read from its optimised HLO.

XLA's GPU runtime launches kernels one by one from the host. A loop whose trip count the compiler does not know copies
its predicate to the host at every iteration and waits for it (`xla/backends/gpu/runtime/while_thunk.cc`), and so does
a conditional for the branch to take. Command buffers (CUDA graphs) may join launches at run time; the text of a program
does not say which, so each kernel counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypereyes_jax.plan.hlo import branches, called, loop, opcode, parse

# What a launch of a small kernel and a round trip to the host take, about: no card measured them here.
LAUNCH_SECONDS = 2e-6
SYNC_SECONDS = 10e-6

# Instructions without a kernel: they name values, or end what a `-start` has begun.
_FREE = frozenset(
    "parameter constant get-tuple-element tuple bitcast after-all partition-id replica-id opt-barrier iota".split()
)


@dataclass(frozen=True)
class Launches:
    """What one run of a program launches on one device. Loops of unknown length run as often as `models.trip_counts`
    expects."""

    kernels: float = 0.0
    host_synced_loops: float = 0.0  # iterations that wait for the host to read the loop's predicate
    host_synced_branches: float = 0.0  # conditionals, which wait for the host to read which branch to take

    def __add__(self, other: Launches) -> Launches:
        return Launches(
            self.kernels + other.kernels,
            self.host_synced_loops + other.host_synced_loops,
            self.host_synced_branches + other.host_synced_branches,
        )

    def __mul__(self, times: float) -> Launches:
        return Launches(self.kernels * times, self.host_synced_loops * times, self.host_synced_branches * times)

    @property
    def seconds(self) -> float:
        """Seconds that launches and waits alone take, at the stated cost of each."""
        waits = self.host_synced_loops + self.host_synced_branches
        return self.kernels * LAUNCH_SECONDS + waits * SYNC_SECONDS


def count_launches(hlo: str) -> Launches:
    """Counts what a program of `compiled.as_text()` launches.

    A `while` counts its body and condition as often as it runs, a conditional as its costliest branch, a call as what
    it calls. A fusion, custom call, copy, sort or collective is one kernel.
    """
    module = parse(hlo)
    counts: dict[str, Launches] = {}

    def of(name: str) -> Launches:
        if name not in counts:
            counts[name] = sum((instruction(line) for line in module.computations.get(name, ())), Launches())
        return counts[name]

    def instruction(line: str) -> Launches:
        kind = opcode(line)
        if kind is None or kind in _FREE or kind.endswith("-done"):
            return Launches()
        if kind == "while":
            repeated = loop(line, module)
            iteration = of(repeated.body) + of(repeated.condition)
            waits = Launches() if repeated.known else Launches(host_synced_loops=1.0)
            return (iteration + waits) * repeated.trip_count
        if kind == "conditional":
            costliest = max((of(branch) for branch in branches(line)), key=lambda each: each.kernels)
            return costliest + Launches(host_synced_branches=1.0)
        if kind == "call":
            return sum((of(name) for name in called(line)), Launches())
        return Launches(kernels=1.0)

    return of(module.entry)
