import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from hypereyes_jax.cli import main as cli
from hypereyes_jax.cli.bucket import refuse_urls
from hypereyes_jax.cli.report import run as run_report
from hypereyes_jax.errors import UserError
from tests.forked import run_forked

BASE = resources.files("hypereyes_jax.assets") / "base"
# A second on the machine that was measured, where Python with the imports of `USUAL` takes a fifth of one. In CPU time,
# the best of three and relative to those imports at the same moment: a busy or slow machine must not fail the test.
USUAL = "import numpy, rich.console, tyro"
HELP_RATIO = 5
PROBE = """
import sys
from hypereyes_jax.cli.main import main
try:
    code = main(sys.argv[1:])
except SystemExit as stop:
    code = stop.code
heavy = [name for name in ("jax", "torch", "transformers", "flax", "grain", "scipy") if name in sys.modules]
print("HEAVY", heavy)
sys.exit(code)
"""


def test_help_is_fast_and_light():
    slow = {command: [] for command in (None, *cli.COMMANDS)}
    tries = 0
    while slow and tries < 3:
        tries += 1
        pieces = [f"import sys; sys.argv[1:] = {[*filter(None, [command]), '--help']}\n{PROBE}" for command in slow]
        for command, ran in zip(list(slow), run_forked(USUAL, pieces), strict=True):
            assert ran.code == 0, ran.said
            assert "HEAVY []" in ran.said
            assert (command or "COMMAND") in ran.said
            slow[command].append((ran.imports + ran.seconds) / ran.imports)
        slow = {command: ratios for command, ratios in slow.items() if min(ratios) >= HELP_RATIO}
    assert not slow, slow


def test_help_piped_into_a_reader_that_leaves_is_no_error():
    help_ = subprocess.Popen(
        [sys.executable, "-u", "-c", PROBE, "report", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    help_.stdout.close()
    _, trouble = help_.communicate(timeout=60)
    assert b"BrokenPipe" not in trouble


def test_every_command_has_a_config_and_a_run():
    for command in cli.COMMANDS.values():
        module = __import__(f"hypereyes_jax.cli.{command.module}", fromlist=["run"])
        assert module.__doc__
        if hasattr(module, "run_words"):  # its words are another program's
            continue
        assert callable(module.run)
        assert getattr(module, command.config).__dataclass_params__.frozen


def test_help_lists_every_command(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in cli.COMMANDS)


def test_an_unknown_command_is_named(capsys):
    assert cli.main(["trian"]) == 2
    assert "no command `trian`" in capsys.readouterr().err


def test_a_users_mistake_has_a_message_and_no_traceback(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path / "gone")]) == 2
    shown = capsys.readouterr().err
    assert "there is no" in shown
    assert "Traceback" not in shown


def test_a_bad_setting_exits_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", "x", "--questions", "many"])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("words", "package", "cure"),
    [
        ("synth", "bm25s", "pip install bm25s"),
        ("serve-world --port 0", "aiohttp", "pip install hypereyes-jax"),
        pytest.param(f"eval {BASE}", "transformers", "pip install hypereyes-jax", marks=pytest.mark.slow),
    ],
)
def test_a_missing_package_is_named_with_its_cure(tmp_path, words, package, cure):
    code = f"import sys; sys.modules[{package!r}] = None; {PROBE}"
    words = [sys.executable, "-c", code, *words.split()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert package in done.stderr
    assert cure in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["hypereyes_jax.no_such", "PIL.no_such"])
def test_a_module_missing_from_a_package_that_is_there_is_a_defect(monkeypatch, name):
    monkeypatch.setattr(f"{run_report.__module__}.run", lambda config: __import__(name))
    with pytest.raises(ModuleNotFoundError):
        cli.main(["report", "x"])


BUSY = UserError("port 80 is busy")


@pytest.mark.parametrize(
    ("error", "code"),
    [(BUSY, 2), (ExceptionGroup("tasks", [ExceptionGroup("tasks", [BUSY])]), 2), (KeyboardInterrupt(), 130)],
)
def test_exit_codes(monkeypatch, error, code):
    def fails(config):
        raise error

    monkeypatch.setattr(f"{run_report.__module__}.run", fails)
    assert cli.main(["report", "x"]) == code


@pytest.mark.parametrize("error", [RuntimeError("a defect"), ExceptionGroup("tasks", [BUSY, RuntimeError("a defect")])])
def test_a_defect_keeps_its_traceback(monkeypatch, error):
    def fails(config):
        raise error

    monkeypatch.setattr(f"{run_report.__module__}.run", fails)
    with pytest.raises(type(error)):
        cli.main(["report", "x"])


@pytest.mark.parametrize(
    ("words", "url"),
    [
        ("sft --checkpoint c --demonstrations d --out https://host/run", "https://host/run"),
        ("rl --checkpoint s3://b/model --questions q --references s3://b/r", "s3://b/r"),
        ("search-store import gs://b/s f", "gs://b/s"),
        ("search-store merge a gs://b/c", "gs://b/c"),
    ],
)
def test_a_url_for_a_path_is_refused_and_makes_no_directory(words, url, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(words.split()) == 2
    error = capsys.readouterr().err
    assert f"{url} is a URL" in error
    assert not list(tmp_path.iterdir())


def test_paths_with_colons_are_no_urls(tmp_path):
    refuse_urls((tmp_path / "a:b", Path("a:b/c"), Path("C:/x")), "sft")
