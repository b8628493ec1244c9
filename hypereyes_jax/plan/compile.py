"""One program compiled for devices that need not be there: its memory, its cost, and what it sends."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax

from hypereyes_jax.configs.mesh import MeshConfig
from hypereyes_jax.plan import topology as target
from hypereyes_jax.plan.collectives import collective_bytes
from hypereyes_jax.plan.figures import figures_key, read_figures, write_figures
from hypereyes_jax.plan.flops import ProgramCost, device_cost
from hypereyes_jax.plan.launches import Launches, count_launches
from hypereyes_jax.runs.terminal import visible

GIB = 2**30


@dataclass(frozen=True)
class ProgramPlan:
    """One compiled program, per device."""

    name: str
    compile_seconds: float = 0.0
    arguments_gib: float = 0.0
    outputs_gib: float = 0.0  # not counting those that take over a donated argument's place
    temporaries_gib: float = 0.0
    tflops: float = 0.0  # of matmuls, loops counted as often as they run, recomputation included
    float8_tflops: float = 0.0  # those of them whose factors are both in 8-bit floating point
    int8_tflops: float = 0.0  # those of them whose factors are both in int8
    traffic_gib: float = 0.0  # if each matmul reads its operands and writes its result once
    sent_gib: dict[str, dict[str, float]] = field(default_factory=dict)  # mesh axes -> kind of collective -> sent
    launches: Launches = field(default_factory=Launches)  # of a GPU; other devices run a program by themselves
    error: str = ""  # the compiler's own, where it refused

    @property
    def peak_gib(self) -> float:
        return self.arguments_gib + self.outputs_gib + self.temporaries_gib


def in_turn(name: str, parts: Sequence[tuple[ProgramPlan, int, float]]) -> ProgramPlan:
    """Programs that run one after the other, as one: what they do adds up, and they need the memory of the largest.

    Args:
      parts: of each, its plan, how often it runs, and the GiB that lie on the device beside its own.
    """
    largest, _, beside = max(parts, key=lambda part: part[0].peak_gib + part[2])
    sums: dict[str, dict[str, float]] = {}
    for plan, times, _ in parts:
        for axes, kinds in plan.sent_gib.items():
            for kind, size in kinds.items():
                sums.setdefault(axes, {}).setdefault(kind, 0.0)
                sums[axes][kind] += times * size
    return ProgramPlan(
        name,
        compile_seconds=sum(plan.compile_seconds for plan, _, _ in parts),
        arguments_gib=largest.arguments_gib + beside,
        outputs_gib=largest.outputs_gib,
        temporaries_gib=largest.temporaries_gib,
        tflops=sum(times * plan.tflops for plan, times, _ in parts),
        float8_tflops=sum(times * plan.float8_tflops for plan, times, _ in parts),
        int8_tflops=sum(times * plan.int8_tflops for plan, times, _ in parts),
        traffic_gib=sum(times * plan.traffic_gib for plan, times, _ in parts),
        sent_gib=sums,
        launches=sum((plan.launches * times for plan, times, _ in parts), Launches()),
        error=next((plan.error for plan, _, _ in parts if plan.error), ""),
    )


def compile_program(name: str, trace: Callable[[], Any], mesh: MeshConfig, folder: Path | None = None) -> ProgramPlan:
    """Compile what `trace` gives (`jax.jit(f).trace(...)`) for the mesh's devices. A refusal for memory is a result.

    Args:
      folder: where figures of programs are kept and looked for (`plan.figures`); None = compile without.
    """
    start = time.perf_counter()
    stage = trace()
    cost = device_cost(stage.jaxpr, mesh.size)
    lowered = stage.lower()
    if folder is None:
        return _compiled(name, cost, lowered, mesh, start)
    key = figures_key(lowered.as_text(), mesh, asdict(cost))
    figures = read_figures(folder, key)
    if figures is not None:
        figures["launches"] = Launches(**figures["launches"])
        return ProgramPlan(**{**figures, "name": name})
    print(visible(f"compiling for {mesh.name}: {name} ..."), file=sys.stderr, flush=True)
    program = _compiled(name, cost, lowered, mesh, start)
    write_figures(folder, key, asdict(program))
    print(visible(f"  {program.compile_seconds:.0f} s"), file=sys.stderr, flush=True)
    return program


def _compiled(name: str, cost: ProgramCost, lowered: Any, mesh: MeshConfig, started: float) -> ProgramPlan:
    done: dict[str, Any] = {
        "name": name,
        "tflops": cost.flops / 1e12,
        "float8_tflops": cost.float8_flops / 1e12,
        "int8_tflops": cost.int8_flops / 1e12,
        "traffic_gib": cost.traffic / GIB,
    }
    try:
        program = lowered.compile(compiler_options=target.compiler_options(mesh))
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return ProgramPlan(**done, compile_seconds=time.perf_counter() - started, error=str(error).splitlines()[0])
    memory = program.memory_analysis()
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes - memory.alias_size_in_bytes
    temporaries = memory.temp_size_in_bytes
    if mesh.platform == "tpu":
        # Its sum of temporaries is 40 % above what its own buffer assignment takes, and it accepts programs whose sum
        # no device would hold; its peak is what lives at once.
        temporaries = memory.peak_memory_in_bytes - arguments - outputs
    hlo = program.as_text()
    traffic = collective_bytes(hlo, dict(zip(mesh.axes, mesh.shape, strict=True)))
    return ProgramPlan(
        **done,
        compile_seconds=time.perf_counter() - started,
        arguments_gib=arguments / GIB,
        outputs_gib=outputs / GIB,
        temporaries_gib=temporaries / GIB,
        launches=count_launches(hlo) if mesh.platform == "gpu" else Launches(),
        sent_gib={axes: {kind: size / GIB for kind, size in kinds.items()} for axes, kinds in traffic.items()},
    )
