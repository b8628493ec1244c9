"""Tests run on the CPU and keep compiled programs in .cache/, so that a second run is fast.

Properties are tried with the same examples at each run, so that a change is judged by what it changes. New ones are
drawn with `pytest --hypothesis-profile=random`.
"""

import gc
import os
from importlib.metadata import version
from pathlib import Path

import pytest
from hypothesis import settings

# read by jax when it is first imported, which no test file does before this one
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# Most of the time goes into compiling tiny programs, which takes a quarter of it without LLVM's costly passes, without
# MLIR for each fusion, and in one module instead of many. Commands that tests start inherit this. `XLA_FLAGS= pytest`
# for programs as users run them.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    # jaxlib 0.12 does not know it, and ends the process without a word
    *(["--xla_cpu_use_fusion_emitters=false"] if version("jaxlib").startswith("0.10.") else []),
)
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK_TO_COMPILE))

settings.register_profile("random", deadline=None)  # how long an example takes says nothing on a busy machine
settings.register_profile("repeated", derandomize=True, deadline=None)
settings.load_profile("repeated")


def pytest_collection_finish(session):
    """Keeps what was imported out of every garbage collection: the code asks for one after each stage, which takes a
    second or more among the objects of all test files and of jax, and milliseconds without them. Others come seldom:
    they are a tenth of the time of tracing, whose many objects live on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    """After a file, does so with what its tests have left: programs, and modules that are imported when first used."""
    done = yield
    if (nextitem is None or nextitem.path != item.path) and len(gc.get_objects()) > 100_000:
        gc.collect()
        gc.freeze()
    return done
