import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from hypereyes_jax.cli import main
from hypereyes_jax.runs import compile_cache
from hypereyes_jax.runs.compile_cache import use_compile_cache

COMPILE = """
import sys
from pathlib import Path
from hypereyes_jax.runs.compile_cache import use_compile_cache
import os
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
print(use_compile_cache(Path(sys.argv[1])))
import jax, jax.numpy as jnp
jax.config.update("jax_log_compiles", False)
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T)(jnp.ones((8, 8))).block_until_ready()
print("hits", hits.count("/jax/compilation_cache/cache_hits"))
"""


def compiled(folder) -> tuple[Path, int]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, str(folder)], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Error reading" not in done.stderr
    own, hits = done.stdout.splitlines()
    return Path(own), int(hits.removeprefix("hits "))


def test_the_second_process_reads_what_the_first_compiled_and_a_torn_program_is_made_anew(tmp_path):
    own, hits = compiled(tmp_path)
    assert hits == 0
    again, hits = compiled(tmp_path)
    assert again == own
    assert hits > 0
    programs = [path for path in own.iterdir() if not path.name.startswith(".")]
    assert programs
    for path in programs:  # as kill -9 leaves them
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert compiled(tmp_path)[1] == 0
    assert compiled(tmp_path)[1] == hits


def test_a_cache_that_the_user_has_set_is_left_alone(tmp_path):
    environment = {"JAX_COMPILATION_CACHE_DIR": "mine"}
    assert use_compile_cache(tmp_path, environment) is None
    assert environment == {"JAX_COMPILATION_CACHE_DIR": "mine"}


def test_a_folder_that_can_not_be_written_is_told_and_ends_nothing(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    environment = {}
    assert use_compile_cache(tmp_path / "file", environment) is None
    assert environment == {}
    assert "compiled programs are not kept" in capsys.readouterr().err


def test_each_kind_of_processor_has_a_folder_of_its_own(tmp_path, monkeypatch):
    one = use_compile_cache(tmp_path, {})
    monkeypatch.setattr(compile_cache, "_processor", lambda: "another")
    assert use_compile_cache(tmp_path, {}) != one


@pytest.mark.parametrize("largest", [250, 50])
def test_the_oldest_programs_go_when_all_are_too_large(tmp_path, monkeypatch, largest):
    own = use_compile_cache(tmp_path, {})
    whole = zlib.compress(os.urandom(80))
    for age in range(4):
        path = own / f"program-{age}"
        path.write_bytes(whole)
        os.utime(path, (1000 - age, 1000 - age))
    monkeypatch.setattr(compile_cache, "_LARGEST", largest)
    use_compile_cache(tmp_path, {})
    left = sorted(path.name for path in own.iterdir() if not path.name.startswith("."))
    assert left == ["program-0", "program-1"][: largest // len(whole)]


@pytest.mark.parametrize(
    ("words", "kept"),
    [(("plan", "miniature", "--mesh", "cpu"), False), (("search-store", "inspect", "store.sqlite"), True)],
)
def test_a_plan_keeps_no_programs_since_those_for_absent_devices_can_not_be_read_back(monkeypatch, words, kept):
    folders: list[Path] = []
    monkeypatch.setattr(main, "use_compile_cache", folders.append)
    monkeypatch.setattr(f"hypereyes_jax.cli.{words[0].replace('-', '_')}.run", lambda _: 0)
    assert main.main(list(words)) == 0
    assert bool(folders) == kept
